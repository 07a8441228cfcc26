//! Logins and sessions: blocks, resuming, logging out, and a storm of them.

use std::time::Duration;

use bluetrace_authority::Policy;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::{
    ALICE, ALICES_PASSWORD, BLOCKED, BLOCKED_NOW, BOB, BOBS_PASSWORD, Device, Kind, LOGOUT, PASSWORD_REQUIRED,
    TestServer, WELCOME, WRONG, on_each_store, on_each_store_with_each_scheme,
};
use crate::support::LineClient;

#[tokio::test]
async fn the_third_failure_blocks_whether_or_not_there_is_such_an_account() {
    on_each_store(async |server| {
        for username in [ALICE, "nobody"] {
            let mut client = server.connect().await;
            client.send(format!("{username}\n")).await;
            client.expect(PASSWORD_REQUIRED).await;
            for code in [WRONG, WRONG, BLOCKED_NOW] {
                client.send("guess\n").await;
                client.expect(code).await;
            }
            assert_eq!(client.line().await, None);

            let mut client = server.connect().await;
            client.send(format!("{username}\n{ALICES_PASSWORD}\n")).await;
            client.expect(PASSWORD_REQUIRED).await;
            client.expect(BLOCKED).await;
            assert_eq!(client.line().await, None, "{username}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_block_ends_to_the_millisecond_block_duration_after_the_third_failure() {
    on_each_store(async |server| {
        for code in [WRONG, WRONG, BLOCKED_NOW] {
            server.clock.advance_ms(300);
            server.attempt(ALICE, "guess", code).await;
        }
        let block_ms = 1_000 * i64::from(Policy::default().lockout.block_duration_s);
        server.clock.advance_ms(block_ms - 1_001);
        server.attempt(ALICE, ALICES_PASSWORD, &format!("{BLOCKED} (2 s)")).await;
        server.clock.advance_ms(1);
        server.attempt(ALICE, ALICES_PASSWORD, &format!("{BLOCKED} (1 s)")).await;
        server.clock.advance_ms(999);
        server.attempt(ALICE, ALICES_PASSWORD, &format!("{BLOCKED} (1 s)")).await;
        server.clock.advance_ms(1);
        server.login(ALICE, ALICES_PASSWORD).await;
    })
    .await;
}

#[tokio::test]
async fn failures_on_several_connections_count_together_and_a_success_forgets_them() {
    on_each_store(async |server| {
        for code in [WRONG, WRONG] {
            server.attempt(BOB, "guess", code).await;
        }
        server.attempt(BOB, BOBS_PASSWORD, WELCOME).await;
        for code in [WRONG, WRONG, BLOCKED_NOW, BLOCKED] {
            server.attempt(BOB, "guess", code).await;
        }
        server.attempt(ALICE, ALICES_PASSWORD, WELCOME).await;
    })
    .await;
}

#[tokio::test]
async fn a_block_ends_no_session_and_refuses_no_resume() {
    on_each_store(async |server| {
        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        let token = client.token().await;
        for code in [WRONG, WRONG, BLOCKED_NOW] {
            server.attempt(ALICE, "guess", code).await;
        }
        client.token().await;
        let mut resumed = server.connect().await;
        resumed.send(format!("RESUME {token}\n")).await;
        resumed.expect(WELCOME).await;
    })
    .await;
}

#[tokio::test]
async fn a_session_is_resumed_after_a_restart_until_it_logs_out() {
    on_each_store_with_each_scheme(async |server| {
        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        let token = client.token().await;
        let server = server.restart().await;
        client.expect("421 ").await;
        assert_eq!(client.line().await, None, "the old server told the session and closed it");

        let mut resumed = server.connect().await;
        resumed.send(format!("RESUME {token}\n{LOGOUT}")).await;
        resumed.expect(WELCOME).await;
        assert_eq!(resumed.rest().await, [LOGOUT.trim_end()]);

        let mut refused = server.connect().await;
        refused.send(format!("RESUME {token}\nRESUME garbage\n{ALICE}\n{ALICES_PASSWORD}\n")).await;
        for line in ["433 Session expired. Please log in", "433 ", PASSWORD_REQUIRED, WELCOME] {
            refused.expect(line).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_logout_ends_its_own_connection_and_no_other() {
    on_each_store(async |server| {
        let mut first = server.login(ALICE, ALICES_PASSWORD).await;
        let mut second = server.login(ALICE, ALICES_PASSWORD).await;
        first.send(LOGOUT).await;
        assert_eq!(first.rest().await, [LOGOUT.trim_end()]);
        second.token().await;
    })
    .await;
}

#[tokio::test]
async fn a_login_storm_queues_and_other_sessions_are_answered_meanwhile() {
    let server = TestServer::start_with(Kind::Sqlite, Policy::default()).await;
    let mut other = server.login(BOB, BOBS_PASSWORD).await;
    let mut storm = JoinSet::new();
    for _ in 0..200 {
        let address = server.address;
        storm.spawn(async move {
            let mut client = LineClient::connect(address).await;
            client.log_in(ALICE, ALICES_PASSWORD).await;
        });
    }
    let mut waits = Vec::new();
    while !storm.is_empty() {
        let asked = Instant::now();
        other.token().await;
        waits.push(asked.elapsed());
        sleep(Duration::from_millis(1)).await;
        while let Some(ended) = storm.try_join_next() {
            ended.unwrap();
        }
    }
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    println!("200 logins; meanwhile {} answers to another session, p99 {p99:?}", waits.len());
    // a machine that does much else at the time is slow, but a session that waited for the storm would wait longer
    assert!(p99 < Duration::from_secs(2), "{p99:?}");
}

//! What comes as lines: in pieces, all at once, too long, over TLS, or as garbage.

use std::time::Duration;

use bluetrace_protocol::limits::{MAX_BAD_LINES, MAX_LINE};
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{
    ALICE, ALICES_PASSWORD, BOB, BOBS_PASSWORD, Device, LOGOUT, PASSWORD_REQUIRED, TOKEN, WELCOME, WRONG,
    on_each_store, on_each_store_with_each_scheme,
};
use crate::support::LineClient;
use crate::support::tls::trust;

#[tokio::test]
async fn a_session_may_come_byte_by_byte() {
    on_each_store_with_each_scheme(async |server| {
        let mut client = server.connect().await;
        for byte in format!("{ALICE}\r\n{ALICES_PASSWORD}\r\n{{\"commandType\":\"DT\"}}\r\n{LOGOUT}").bytes() {
            client.send([byte]).await;
        }
        for line in [PASSWORD_REQUIRED, WELCOME, "{\"commandType\":\"DT\",\"numOfSend\":0,", LOGOUT.trim_end()] {
            client.expect(line).await;
        }
        assert_eq!(client.line().await, None);
    })
    .await;
}

#[tokio::test]
async fn a_whole_session_may_come_in_one_segment_and_is_answered_in_order() {
    on_each_store_with_each_scheme(async |server| {
        let mut client = server.connect().await;
        let command = |id: u32| {
            let command = if id.is_multiple_of(2) { "DT" } else { "RT" };
            format!("{{\"commandType\":\"{command}\",\"id\":{id}}}\n")
        };
        let commands = (0..50).map(command).collect::<Vec<_>>().concat();
        client.send(format!("{ALICE}\n{ALICES_PASSWORD}\n{commands}{LOGOUT}")).await;
        client.expect(PASSWORD_REQUIRED).await;
        client.expect(WELCOME).await;
        for id in 0..50 {
            let answer = client.line().await.unwrap();
            assert!(answer.contains(&format!("\"id\":{id},")), "{answer}");
        }
        assert_eq!(client.rest().await, [LOGOUT.trim_end()]);
    })
    .await;
}

#[tokio::test]
async fn a_line_of_16_kib_is_taken_and_a_longer_one_ends_the_connection_with_one_error() {
    on_each_store(async |server| {
        let padded = |length: usize| {
            let around = "{\"commandType\":\"RT\",\"x\":\"\"}".len();
            format!("{{\"commandType\":\"RT\",\"x\":\"{}\"}}\n", "x".repeat(length - around))
        };
        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        client.send(padded(MAX_LINE)).await;
        client.expect("{\"commandType\":\"RT\",").await;
        client.send(padded(MAX_LINE + 1)).await;
        let rest = client.rest().await;
        assert!(rest.len() == 1 && rest[0].contains("\"code\":\"too_large\""), "{rest:?}");

        let mut client = server.connect().await;
        client.send("x".repeat(MAX_LINE + 2)).await;
        let rest = client.rest().await;
        assert!(rest.len() == 1 && rest[0].starts_with("500 "), "{rest:?}");
    })
    .await;
}

#[tokio::test]
async fn garbage_gets_one_error_and_a_close_and_nobody_else_notices() {
    on_each_store(async |server| {
        let mut other = server.login(BOB, BOBS_PASSWORD).await;
        for seed in 1..50 {
            let mut client = server.connect().await;
            // 0x16 would begin TLS, where garbage is answered by an alert
            let garbage: Vec<_> = [0xff].into_iter().chain(garbage(seed)).chain(*b"\n").collect();
            client.send(&garbage).await;
            let rest = client.rest().await;
            assert!(rest.len() == 1 && rest[0].starts_with("500 "), "{rest:?}");
        }
        for seed in 50..60 {
            let mut client = server.login(ALICE, ALICES_PASSWORD).await;
            let garbage: Vec<_> = [0xff].into_iter().chain(garbage(seed)).chain(*b"\n").collect();
            client.send(&garbage).await;
            let rest = client.rest().await;
            assert!(rest.len() == 1 && rest[0].contains("\"code\":\"bad_json\""), "{rest:?}");
        }
        for seed in 60..70 {
            let mut client = server.connect().await;
            let _ = client.stream.write_all(&[0x16]).await;
            let _ = client.stream.write_all(&garbage(seed)).await;
            // an alert is no line; the end is what counts
            let _ = client.stream.shutdown().await;
        }
        for vanishes in 0..50 {
            let mut client = server.connect().await;
            client.send(format!("{ALICE}\nhalf a pass")).await;
            if vanishes % 2 == 0 {
                // without a good-bye: the close is a reset
                SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        other.token().await;
        server.login(ALICE, ALICES_PASSWORD).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_not_a_command_is_answered_and_the_tenth_line_in_a_row_that_is_not_json_closes() {
    on_each_store(async |server| {
        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        for _ in 1..MAX_BAD_LINES {
            client.send("Download_tempID\n").await;
            client.expect("{\"commandType\":\"ER\",\"data\":{\"code\":\"bad_json\"").await;
        }
        client.send("{\"commandType\":\"XY\"}\n").await;
        client.expect("{\"commandType\":\"ER\",\"data\":{\"code\":\"unknown_command\"").await;
        client.send("[]\n".repeat(usize::try_from(MAX_BAD_LINES).unwrap())).await;
        assert_eq!(client.rest().await.len(), usize::try_from(MAX_BAD_LINES).unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_username_and_a_password_have_their_limits() {
    on_each_store(async |server| {
        for username in ["", " ", "two words", &"x".repeat(65), "caf\u{e9}"] {
            let mut client = server.connect().await;
            client.send(format!("{username}\n")).await;
            let rest = client.rest().await;
            assert!(rest.len() == 1 && rest[0].starts_with("500 "), "{username:?}: {rest:?}");
        }
        let mut client = server.connect().await;
        client.send(format!("{ALICE}\n{}\n", "x".repeat(257))).await;
        client.expect(PASSWORD_REQUIRED).await;
        client.expect("500 ").await;
        assert_eq!(client.line().await, None);
        server.attempt(ALICE, "", WRONG).await;
        server.attempt("nobody", "None", WRONG).await;
    })
    .await;
}

#[tokio::test]
async fn a_session_over_tls_is_the_same() {
    on_each_store(async |server| {
        let mut client = LineClient::connect_tls(server.address, trust(server.folder.path())).await;
        client.log_in(ALICE, ALICES_PASSWORD).await;
        client.send(format!("{TOKEN}{LOGOUT}")).await;
        client.expect("{\"commandType\":\"RT\",").await;
        assert_eq!(client.rest().await, [LOGOUT.trim_end()]);
    })
    .await;
}

/// Bytes that mean nothing, the same for each seed, without a line end.
fn garbage(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    };
    (0..300).map(next).filter(|byte| *byte != b'\n').collect()
}

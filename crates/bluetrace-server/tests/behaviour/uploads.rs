//! Uploads, notices and `TempIDs`, across restarts, and with a store or an account that is gone.

use bluetrace_authority::{Policy, Scheme};
use bluetrace_protocol::limits::MAX_RECORD_BATCH;
use bluetrace_protocol::{Clock, Password, Username};

use crate::harness::{
    ALICE, ALICES_PASSWORD, BOB, BOBS_PASSWORD, Device, Kind, LOGOUT, TOKEN, TestServer, begin, cheap, on_each_store,
    on_each_store_with_each_scheme, records,
};

#[tokio::test]
async fn two_uploads_back_to_back_never_mix() {
    on_each_store(async |server| {
        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        let both = begin(3, "first") + &records(3, 0..3) + &begin(2, "second") + &records(2, 0..2) + LOGOUT;
        client.send(both).await;
        let answers: Vec<_> = client.rest().await;
        let ends: Vec<_> = answers.iter().filter(|answer| answer.contains("\"records\"")).collect();
        assert_eq!(
            ends,
            [
                "{\"commandType\":\"UC\",\"numOfRecv\":0,\"data\":{\"records\":3,\"resolved\":0,\"unknown\":3,\"invalid\":0}}",
                "{\"commandType\":\"UC\",\"numOfRecv\":0,\"data\":{\"records\":2,\"resolved\":0,\"unknown\":2,\"invalid\":0}}",
            ],
            "{answers:?}"
        );
        assert!(answers.iter().all(|answer| !answer.contains("\"ER\"")), "{answers:?}");
    })
    .await;
}

#[tokio::test]
async fn what_was_acknowledged_is_durable_and_an_upload_goes_on_after_a_restart() {
    on_each_store(async |server| {
        const RECORDS: u32 = 1_000;
        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        client.send(begin(RECORDS, "u-1")).await;
        client.expect(&format!("{{\"commandType\":\"UC\",\"numOfRecv\":{RECORDS},\"upload\":\"u-1\"}}")).await;
        client.send(records(RECORDS, 0..600)).await;
        let mut expected = expected_by(&client.line().await.unwrap());
        let server = server.restart().await;
        for line in client.rest().await {
            if line.starts_with('{') {
                expected = expected_by(&line);
            }
        }
        assert!(expected < RECORDS);

        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        client.send(begin(RECORDS, "u-1")).await;
        let still = expected_by(&client.line().await.unwrap());
        assert!(
            (RECORDS - 600..=expected).contains(&still),
            "{expected} after the last answer, {still} after the restart"
        );
        // from the beginning, and so again what is durable already
        client.send(records(RECORDS, 0..RECORDS) + LOGOUT).await;
        let answers = client.rest().await;
        assert!(
            answers
                .iter()
                .any(|answer| answer
                    .contains("\"data\":{\"records\":1000,\"resolved\":0,\"unknown\":1000,\"invalid\":0}")),
            "{answers:?}"
        );
        let rows = server.authority.store().uploads(None, 10, server.clock.now()).await.unwrap();
        assert_eq!((rows.len(), rows[0].durable), (1, RECORDS));
    })
    .await;
}

#[tokio::test]
async fn a_wrong_record_never_costs_a_right_one() {
    on_each_store(async |server| {
        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        let wrong = "{\"commandType\":\"UC\",\"numOfSend\":1,\"data\":\"no record\"}\n";
        client.send(begin(3, "u-1") + &records(3, 0..1) + wrong + &records(3, 2..3) + LOGOUT).await;
        let answers = client.rest().await;
        let errors: Vec<_> = answers.iter().filter(|answer| answer.contains("\"ER\"")).collect();
        assert!(errors.len() == 1 && errors[0].contains("\"code\":\"bad_record\""), "{answers:?}");
        assert!(
            answers.iter().any(|answer| answer.contains("{\"records\":3,\"resolved\":0,\"unknown\":2,\"invalid\":1}")),
            "{answers:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn who_was_met_is_shown_to_the_operator_and_given_notice() {
    on_each_store_with_each_scheme(async |server| {
        let mut bob = server.login(BOB, BOBS_PASSWORD).await;
        bob.send("{\"commandType\":\"DT\"}\n").await;
        let answer = bob.line().await.unwrap();
        let record = answer.rsplit('"').nth(1).unwrap().to_owned();
        let (temp_id, start) = (record.split(", ").next().unwrap(), record.split(", ").nth(1).unwrap());
        let mut alice = server.login(ALICE, ALICES_PASSWORD).await;
        alice.send(begin(1, "u-1")).await;
        alice.send(format!("{{\"commandType\":\"UC\",\"numOfSend\":0,\"data\":\"{record}\"}}\n{LOGOUT}")).await;
        let answers = alice.rest().await;
        assert!(answers[1].ends_with("{\"records\":1,\"resolved\":1,\"unknown\":0,\"invalid\":0}}"), "{answers:?}");
        bob.send(format!("{{\"commandType\":\"NT\"}}\n{LOGOUT}")).await;
        let notices = bob.rest().await;
        assert!(notices[0].starts_with("{\"commandType\":\"NT\",") && notices[0].contains(start), "{notices:?}");

        let shown = server.stop_and_read_console().await;
        assert_eq!(
            shown,
            format!(
                "{BOB} login\nuser: {BOB}\nTempID:\n{temp_id}\n{ALICE} login\n\
                 received contact log from {ALICE}\n{record}\nContact log checking\n{BOB}, {start}, {temp_id};\n\
                 {ALICE} logout\n{BOB} logout\n"
            )
        );
    })
    .await;
}

#[tokio::test]
async fn the_console_shows_twenty_records_of_a_long_upload() {
    on_each_store(async |server| {
        let mut client = server.login(ALICE, ALICES_PASSWORD).await;
        client.send(begin(5_000, "u-1") + &records(5_000, 0..5_000) + LOGOUT).await;
        client.rest().await;
        let shown = server.stop_and_read_console().await;
        assert_eq!(shown.lines().filter(|line| line.starts_with(|digit: char| digit.is_ascii_digit())).count(), 20);
        assert!(shown.contains("\n... and 4980 more\nContact log checking\n"), "{shown}");
    })
    .await;
}

#[tokio::test]
async fn a_store_that_is_gone_is_an_answer_and_the_session_goes_on() {
    let server = TestServer::start(Kind::Sqlite).await;
    let mut client = server.login(ALICE, ALICES_PASSWORD).await;
    server.sqlite.as_ref().unwrap().close();
    client.send("{\"commandType\":\"DT\",\"id\":1}\n").await;
    let answer = client.line().await.unwrap();
    assert!(answer.starts_with("{\"commandType\":\"ER\",\"id\":1,\"data\":{\"code\":\""), "{answer}");
    client.token().await;
    server.attempt(ALICE, ALICES_PASSWORD, "421 ").await;
}

#[tokio::test]
async fn a_sealed_temp_id_is_issued_without_the_store() {
    let policy = Policy { temp_id_scheme: Scheme::Sealed, ..cheap() };
    let server = TestServer::start_with(Kind::Sqlite, policy).await;
    let mut client = server.login(ALICE, ALICES_PASSWORD).await;
    let download = "{\"commandType\":\"DT\"}\n";
    client.send(download).await;
    client.expect("{\"commandType\":\"DT\",\"numOfSend\":0,\"data\":\"").await;
    server.sqlite.as_ref().unwrap().close();
    client.send(download).await;
    client.expect("{\"commandType\":\"DT\",\"numOfSend\":0,\"data\":\"").await;
}

#[tokio::test]
async fn a_session_of_a_removed_account_is_told_so_once_and_closed() {
    on_each_store(async |server| {
        let whole_batch = u32::try_from(MAX_RECORD_BATCH).unwrap();
        let download = "{\"commandType\":\"DT\",\"id\":1}\n".to_owned();
        let notices = "{\"commandType\":\"NT\",\"id\":1}\n".to_owned();
        for request in [
            download.clone() + &download,
            notices + TOKEN,
            begin(1, "new"),
            records(2 * whole_batch, 0..1),
            // on its way to the disk while what follows is read
            records(2 * whole_batch, 0..whole_batch + 1) + &download,
        ] {
            let mut client = server.login(BOB, BOBS_PASSWORD).await;
            client.send(begin(2 * whole_batch, "u-1")).await;
            client.expect("{\"commandType\":\"UC\"").await;
            let bob = Username::parse(BOB).unwrap();
            assert!(server.authority.store().remove_account(bob.clone()).await.unwrap());
            client.send(&request).await;
            let answers = client.rest().await;
            assert_eq!(answers.len(), 1, "{answers:?}");
            assert!(
                answers[0].starts_with("{\"commandType\":\"ER\"") && answers[0].contains("\"code\":\"no_account\""),
                "{answers:?}"
            );
            let password = Password::parse(BOBS_PASSWORD).unwrap();
            assert!(server.authority.open_account(bob, password, server.clock.now()).await.unwrap());
        }
        server.login(ALICE, ALICES_PASSWORD).await.token().await;
    })
    .await;
}

/// `numOfRecv` of an answer to an upload.
fn expected_by(answer: &str) -> u32 {
    let (_, rest) = answer.split_once("\"numOfRecv\":").unwrap_or_else(|| panic!("{answer}"));
    rest.split(|character: char| !character.is_ascii_digit()).next().unwrap().parse().unwrap()
}

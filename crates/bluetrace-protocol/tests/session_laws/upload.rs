//! Uploads (section 4.4).

use bluetrace_protocol::limits::MAX_RECORD_BATCH;
use bluetrace_protocol::session::server::{Failure, Question, UploadHandle};
use bluetrace_protocol::{HandshakePin, UploadId, Uploaded};

use crate::talk::{Answer, COMPLETE, PROGRESS, RECORD, TOKEN, Talk, now};

#[test]
fn a_client_that_waits_gets_an_acknowledgement_of_each_record() {
    let mut talk = Talk::upload(3, 0);
    for (first, following) in [(0, 2), (1, 1)] {
        talk.record(following);
        talk.hears(&[]);
        talk.pause();
        talk.stores(first, 1);
        talk.hears(&[PROGRESS[usize::try_from(following).unwrap()]]);
    }
    // the last one is not waited for
    talk.record(0);
    talk.stores(2, 1);
    talk.finishes();
    talk.hears(&[COMPLETE]);
    talk.record(0);
    talk.hears(&["ER no_upload"]);
}

#[test]
fn a_client_that_streams_gets_one_acknowledgement() {
    let mut talk = Talk::upload(4, 0);
    for following in [3, 2, 1] {
        talk.record(following);
    }
    talk.pause();
    talk.stores(0, 3);
    talk.hears(&[PROGRESS[1]]);
    // nothing has come since
    talk.pause();
    talk.hears(&[]);
    assert!(talk.waits());
}

#[test]
fn an_upload_goes_on_behind_what_is_durable() {
    let mut talk = Talk::upload(10, 8);
    talk.record(1);
    talk.pause();
    talk.stores(8, 1);
    talk.hears(&[PROGRESS[1]]);
    talk.record(0);
    talk.stores(9, 1);
}

#[test]
fn a_record_that_another_connection_has_brought_is_acknowledged_with_those_behind_it() {
    let mut talk = Talk::upload(3, 0);
    talk.record(2);
    talk.pause();
    talk.answer(|question, out| match question {
        Question::Append { then, .. } => then.stored(2, out),
        other => panic!("{other:?}"),
    });
    talk.hears(&[PROGRESS[1]]);
    talk.record(0);
    talk.stores(2, 1);
}

#[test]
fn a_malformed_record_in_the_middle_is_refused_alone_and_the_acknowledgement_covers_it() {
    let mut talk = Talk::upload(4, 0);
    talk.record(3);
    talk.line(r#"{"commandType":"UC","numOfSend":2,"data":"nonsense","id":2}"#);
    talk.line(&format!(r#"{{"commandType":"UC","numOfSend":1,"data":"{RECORD}","id":3}}"#));
    talk.pause();
    talk.answer(|question, out| match question {
        Question::Append { first: 0, records, then, .. } => {
            let kinds: Vec<_> = records.iter().map(|record| *record == Uploaded::Malformed).collect();
            assert_eq!(kinds, [false, true, false], "it keeps its place");
            then.stored(3, out)
        }
        other => panic!("{other:?}"),
    });
    talk.hears(&[r#"ER bad_record "id":2"#, r#"{"commandType":"UC","id":3,"numOfRecv":1}"#]);
}

#[test]
fn a_malformed_record_at_the_end_is_refused_and_the_final_acknowledgement_follows() {
    let mut talk = Talk::upload(2, 0);
    talk.record(1);
    talk.malformed(0);
    talk.stores(0, 2);
    talk.finishes();
    talk.hears(&["ER bad_record", COMPLETE]);
}

#[test]
fn a_malformed_record_alone_is_answered_by_its_error_and_nothing_else() {
    let mut talk = Talk::upload(3, 0);
    talk.malformed(2);
    talk.pause();
    talk.stores(0, 1);
    talk.hears(&["ER bad_record"]);
    talk.record(1);
    talk.pause();
    talk.stores(1, 1);
    talk.hears(&[PROGRESS[1]]);
}

#[test]
fn a_record_repeated_adds_nothing_and_is_acknowledged() {
    let mut talk = Talk::upload(4, 2);
    for repeated in [3, 2, 3] {
        talk.record(repeated);
        talk.pause();
        talk.stores(2, 0);
        talk.hears(&[PROGRESS[2]]);
    }
    // one that differs, or is malformed, does not take its place
    talk.malformed(3);
    talk.record(1);
    talk.pause();
    talk.stores(2, 1);
    talk.hears(&[PROGRESS[1]]);
}

#[test]
fn a_record_behind_a_gap_is_refused_and_the_one_expected_is_still_taken() {
    let mut talk = Talk::upload(4, 0);
    for following in [2, 1, 4, 5, u32::MAX] {
        talk.record(following);
        talk.hears(&["ER bad_count"]);
    }
    talk.record(3);
    talk.pause();
    talk.stores(0, 1);
    talk.hears(&[PROGRESS[3]]);
}

#[test]
fn a_record_that_is_refused_is_answered_behind_those_before_it() {
    let mut talk = Talk::upload(4, 0);
    talk.record(3);
    talk.record(1);
    talk.stores(0, 1);
    talk.hears(&[PROGRESS[3], "ER bad_count"]);
    assert!(talk.waits());
}

#[test]
fn a_client_that_does_not_count_has_its_records_taken_in_order() {
    let mut talk = Talk::upload(3, 0);
    talk.line(&format!(r#"{{"commandType":"UC","data":"{RECORD}"}}"#));
    talk.record(0);
    talk.pause();
    talk.stores(0, 2);
    talk.hears(&[PROGRESS[1]]);
}

#[test]
fn a_command_between_records_is_answered_behind_them() {
    let mut talk = Talk::upload(4, 0);
    talk.record(3);
    talk.malformed(2);
    talk.line(r#"{"commandType":"RT"}"#);
    talk.stores(0, 2);
    talk.hears(&["ER bad_record", PROGRESS[2]]);
    talk.takes_token();
    talk.hears(&[TOKEN]);
    // the upload goes on
    talk.record(1);
    talk.line("what?");
    talk.stores(2, 1);
    talk.hears(&[PROGRESS[1], "ER bad_json"]);
    talk.record(0);
    talk.stores(3, 1);
}

#[test]
fn two_uploads_sent_back_to_back_do_not_mix() {
    let mut talk = Talk::upload(2, 0);
    talk.record(1);
    talk.line(r#"{"commandType":"UC","numOfSend":3,"upload":"u-2"}"#);
    talk.stores(0, 1);
    talk.answer(|question, out| match question {
        Question::BeginUpload { begin, then } => {
            assert_eq!((begin.records, begin.upload), (3, UploadId::parse("u-2").ok()));
            then.begun(UploadHandle(2), 0, out)
        }
        other => panic!("{other:?}"),
    });
    talk.hears(&[PROGRESS[1], r#"{"commandType":"UC","numOfRecv":3,"upload":"u-2"}"#]);
    talk.record(2);
    talk.pause();
    talk.answer(|question, out| match question {
        Question::Append { upload: UploadHandle(2), first: 0, then, .. } => then.stored(1, out),
        other => panic!("{other:?}"),
    });
    talk.hears(&[PROGRESS[2]]);
}

#[test]
fn a_begin_that_is_refused_leaves_no_upload_to_continue() {
    let refusals: [(Answer, &str); 4] = [
        (
            |question, out| match question {
                Question::BeginUpload { then, .. } => then.conflict(5, out),
                other => panic!("{other:?}"),
            },
            "ER bad_count",
        ),
        (
            |question, out| match question {
                Question::BeginUpload { then, .. } => then.not_authorised(out),
                other => panic!("{other:?}"),
            },
            "ER upload_not_authorised",
        ),
        (
            |question, out| match question {
                Question::BeginUpload { then, .. } => then.code_refused(4, out),
                other => panic!("{other:?}"),
            },
            "ER upload_not_authorised",
        ),
        (
            |question, out| match question {
                Question::BeginUpload { then, .. } => then.too_many_codes(3_540, out),
                other => panic!("{other:?}"),
            },
            "ER rate_limited",
        ),
    ];
    for (answer, code) in refusals {
        let mut talk = Talk::upload(3, 0);
        talk.line(r#"{"commandType":"UC","numOfSend":4,"upload":"u-2"}"#);
        talk.answer(answer);
        talk.record(2);
        talk.hears(&[code, "ER no_upload"]);
    }
}

#[test]
fn the_code_of_a_begin_reaches_the_authority_and_no_answer() {
    let mut talk = Talk::member();
    talk.line(r#"{"commandType":"UC","numOfSend":3,"upload":"u-1","code":"h7qx-4cdf"}"#);
    talk.answer(|question, out| match question {
        Question::BeginUpload { begin, then } => {
            assert_eq!(begin.code.unwrap().reveal(), "h7qx-4cdf");
            then.code_refused(1, out)
        }
        other => panic!("{other:?}"),
    });
    let told = String::from_utf8_lossy(&talk.out).into_owned();
    assert!(told.contains("1 try left") && !told.contains("h7qx"), "{told}");
    talk.hears(&["ER upload_not_authorised"]);
}

#[test]
fn a_pin_is_shown_under_the_id_of_its_request_or_its_failure_is() {
    let mut talk = Talk::member();
    talk.line(r#"{"commandType":"PN","id":7}"#);
    talk.answer(|question, out| match question {
        Question::HandshakePin { then } => {
            assert_eq!(then.who(), &"alice");
            then.shown(HandshakePin::parse("H7QX4C").unwrap(), now(), out)
        }
        other => panic!("{other:?}"),
    });
    talk.hears(&[r#"{"commandType":"PN","id":7,"data":{"pin":"H7QX4C","expires":"13/05/2020 17:54:06"}}"#]);
    talk.line(r#"{"commandType":"PN","id":8}"#);
    talk.answer(|question, out| match question {
        Question::HandshakePin { then } => then.failed(Failure::Unavailable, out),
        other => panic!("{other:?}"),
    });
    talk.hears(&[r#"ER unavailable "id":8"#]);
    assert!(talk.waits());
}

#[test]
fn a_begin_of_a_complete_upload_and_one_of_nothing_are_answered_with_the_summary() {
    for records in [3, 0] {
        let mut talk = Talk::member();
        talk.line(&format!(r#"{{"commandType":"UC","numOfSend":{records},"upload":"u-1","id":4}}"#));
        talk.begun(records);
        talk.finishes();
        talk.hears(&[
            r#"{"commandType":"UC","id":4,"numOfRecv":0,"upload":"u-1","data":{"records":3,"resolved":1,"unknown":1,"invalid":1}}"#,
        ]);
        talk.record(0);
        talk.hears(&["ER no_upload"]);
    }
}

#[test]
fn a_batch_is_stored_when_it_is_full_also_when_lines_never_stop() {
    let batch = u32::try_from(MAX_RECORD_BATCH).unwrap();
    let mut talk = Talk::upload(2 * batch + 2, 0);
    for first in [0, batch] {
        for place in first..first + batch {
            assert!(talk.waits(), "asked after {} records", place - first);
            talk.record(2 * batch + 1 - place);
        }
        talk.stores(first, batch);
    }
    talk.out.clear();
    assert!(talk.waits());
}

#[test]
fn records_that_cannot_be_stored_end_the_upload_so_that_none_is_taken_behind_the_gap() {
    let mut talk = Talk::upload(3, 0);
    talk.record(2);
    talk.line(r#"{"commandType":"RT"}"#);
    talk.answer(|question, out| match question {
        Question::Append { then, .. } => then.failed(Failure::Unavailable, out),
        other => panic!("{other:?}"),
    });
    talk.takes_token();
    talk.record(1);
    talk.hears(&["ER unavailable", TOKEN, "ER no_upload"]);
    talk.begins(3, 0);
    talk.record(2);
    talk.pause();
    talk.stores(0, 1);
}

#[test]
fn an_upload_that_cannot_be_traced_yet_is_asked_for_again_with_its_begin() {
    let mut talk = Talk::upload(1, 0);
    talk.record(0);
    talk.stores(0, 1);
    talk.answer(|question, out| match question {
        Question::Finish { then, .. } => then.failed(Failure::Unavailable, out),
        other => panic!("{other:?}"),
    });
    talk.hears(&["ER unavailable"]);
    talk.line(r#"{"commandType":"UC","numOfSend":1,"upload":"u-1"}"#);
    talk.begun(1);
    talk.finishes();
}

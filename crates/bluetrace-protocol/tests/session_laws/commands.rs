//! Commands (section 4.3).

use bluetrace_protocol::limits::MAX_BAD_LINES;
use bluetrace_protocol::session::server::{Failure, Question};

use crate::talk::{Answer, TOKEN, Talk, record};

#[test]
fn answers_carry_the_id_of_their_request() {
    let mut talk = Talk::member();
    talk.line(r#"{"commandType":"DT","numOfRecv":2,"id":"a b"}"#);
    talk.answer(|question, out| match question {
        Question::TempIds { count: 2, then } => then.issued(vec![record(1), record(2)], out),
        other => panic!("{other:?}"),
    });
    let [first, second] = [record(1).reveal(), record(2).reveal()];
    talk.hears(&[
        &format!(r#"{{"commandType":"DT","id":"a b","numOfSend":1,"data":"{first}"}}"#),
        &format!(r#"{{"commandType":"DT","id":"a b","numOfSend":0,"data":"{second}"}}"#),
    ]);
    talk.line(r#"{"commandType":"DT","numOfRecv":101,"id":7.50}"#);
    talk.line(r#"{"commandType":"no","id":"x"}"#);
    talk.line(r#"{"commandType":"UC","data":"","id":8}"#);
    talk.hears(&[r#"ER bad_count "id":7.50"#, r#"ER unknown_command "id":"x""#, r#"ER no_upload "id":8"#]);
}

#[test]
fn what_the_authority_cannot_do_is_said_under_its_id_and_the_session_goes_on() {
    for (failure, code) in [
        (Failure::Unavailable, r#"ER unavailable "id":1"#),
        (Failure::RateLimited, r#"ER rate_limited "id":1"#),
        (Failure::Internal, r#"ER internal "id":1"#),
    ] {
        for kind in ["DT", "NT", "LO", "UC"] {
            let mut talk = Talk::member();
            talk.line(&format!(r#"{{"commandType":"{kind}","id":1}}"#));
            talk.answer(|question, out| match question {
                Question::TempIds { then, .. } => then.failed(failure, out),
                Question::Notices { then, .. } => then.failed(failure, out),
                Question::Logout { then, .. } => then.failed(failure, out),
                Question::BeginUpload { then, .. } => then.failed(failure, out),
                other => panic!("{other:?}"),
            });
            talk.hears(&[code]);
            assert!(talk.waits(), "{kind}");
        }
    }
}

#[test]
fn a_removed_account_is_told_so_under_the_id_of_its_request_and_its_session_closes() {
    let requests: [(&str, Answer); 4] = [
        (r#"{"commandType":"PN","id":1}"#, |question, out| match question {
            Question::HandshakePin { then } => then.no_account(out),
            other => panic!("{other:?}"),
        }),
        (r#"{"commandType":"DT","id":1}"#, |question, out| match question {
            Question::TempIds { then, .. } => then.no_account(out),
            other => panic!("{other:?}"),
        }),
        (r#"{"commandType":"NT","id":1}"#, |question, out| match question {
            Question::Notices { then, .. } => then.no_account(out),
            other => panic!("{other:?}"),
        }),
        (r#"{"commandType":"UC","numOfSend":3,"id":1}"#, |question, out| match question {
            Question::BeginUpload { then, .. } => then.no_account(out),
            other => panic!("{other:?}"),
        }),
    ];
    for (request, answer) in requests {
        let mut talk = Talk::member();
        talk.line(request);
        talk.answer(answer);
        talk.hears(&[r#"ER no_account "id":1"#]);
        assert!(talk.is_closed(), "{request}");
    }
    // the line behind the records has no answer either
    let mut talk = Talk::upload(3, 0);
    talk.record(2);
    talk.line(r#"{"commandType":"RT"}"#);
    talk.answer(|question, out| match question {
        Question::Append { then, .. } => then.no_account(out),
        other => panic!("{other:?}"),
    });
    talk.hears(&["ER no_account"]);
    assert!(talk.is_closed());

    let mut talk = Talk::upload(3, 2);
    talk.record(0);
    talk.stores(2, 1);
    talk.answer(|question, out| match question {
        Question::Finish { then, .. } => then.no_account(out),
        other => panic!("{other:?}"),
    });
    talk.hears(&["ER no_account"]);
    assert!(talk.is_closed());
}

#[test]
fn an_upload_that_the_authority_has_forgotten_is_let_go_and_the_session_goes_on() {
    let mut talk = Talk::upload(3, 0);
    talk.record(2);
    talk.line(r#"{"commandType":"RT"}"#);
    talk.answer(|question, out| match question {
        Question::Append { then, .. } => then.no_upload(out),
        other => panic!("{other:?}"),
    });
    talk.takes_token();
    talk.record(1);
    talk.hears(&["ER no_upload", TOKEN, "ER no_upload"]);

    let mut talk = Talk::upload(3, 2);
    talk.record(0);
    talk.stores(2, 1);
    talk.answer(|question, out| match question {
        Question::Finish { then, .. } => then.no_upload(out),
        other => panic!("{other:?}"),
    });
    talk.hears(&["ER no_upload"]);
    assert!(talk.waits());
}

#[test]
fn nine_lines_that_are_not_json_are_survived_and_the_tenth_closes() {
    let mut talk = Talk::member();
    for last in ["{}", r#"{"commandType":"UC","data":""}"#, "RT"] {
        for _ in 1..MAX_BAD_LINES {
            talk.line("what?");
        }
        talk.hears(&["ER bad_json"; 9]);
        if last == "RT" {
            talk.line("what?");
            talk.hears(&["ER bad_json"]);
            assert!(talk.is_closed());
            return;
        }
        // any JSON object begins the count anew, good or not
        talk.line(last);
        talk.out.clear();
    }
}

#[test]
fn a_logout_is_answered_and_closes() {
    let mut talk = Talk::member();
    talk.line(r#"{"commandType":"LO"}"#);
    talk.answer(|question, out| match question {
        Question::Logout { seen: None, then } => then.done(out),
        other => panic!("{other:?}"),
    });
    talk.hears(&[r#"{"commandType":"LO"}"#]);
    assert!(talk.is_closed());
}

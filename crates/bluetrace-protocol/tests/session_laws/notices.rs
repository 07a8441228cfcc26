//! Notices (section 4.5).

use bluetrace_protocol::session::server::{NoticeHandle, Question, Step};

use crate::talk::{Talk, now};

#[test]
fn notices_count_as_seen_once_their_session_says_anything_behind_them() {
    let mut talk = Talk::member();
    talk.line(r#"{"commandType":"NT"}"#);
    talk.takes_notices(None, &[3, 5]);
    let text = |id: i64, following| {
        format!(
            r#"{{"commandType":"NT","numOfSend":{following},"data":{{"from":"{}","to":"{}","advice":"advice {id}"}}}}"#,
            now(),
            now().plus(id)
        )
    };
    talk.hears(&[&text(3, 1), &text(5, 0)]);
    talk.line(r#"{"commandType":"NT"}"#);
    talk.takes_notices(Some(5), &[]);
    talk.hears(&[r#"{"commandType":"NT","numOfSend":0,"data":null}"#]);
    // what was seen is told once
    talk.line(r#"{"commandType":"NT"}"#);
    talk.takes_notices(None, &[6]);
    talk.line(r#"{"commandType":"LO"}"#);
    match talk.step {
        Some(Step::Ask(Question::Logout { seen, .. })) => assert_eq!(seen, Some(NoticeHandle(6))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn notices_delivered_to_a_session_that_ends_in_good_order_are_seen() {
    let mut talk = Talk::member();
    assert!(talk.waiting().ended().is_none());
    let mut talk = Talk::member();
    talk.line(r#"{"commandType":"NT"}"#);
    talk.takes_notices(None, &[3]);
    assert_eq!(talk.waiting().ended(), Some(("alice", NoticeHandle(3))));
}

//! How the authority's side of a session behaves (PROTOCOL section 4), with the authority's answers given by hand.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test may give up, and what it does not expect is wrong, whatever it is"
)]

use bluetrace_protocol::frame::FrameError;
use bluetrace_protocol::limits::{MAX_BAD_LINES, MAX_RECORD_BATCH};
use bluetrace_protocol::message::Reply;
use bluetrace_protocol::session::server::{Failure, NoticeHandle, Question, ServerSession, Step, UploadHandle};
use bluetrace_protocol::{
    ExposureNotice, HandshakePin, Record, ResumeToken, Timestamp, UploadId, UploadSummary, Uploaded,
};

const RECORD: &str = "12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05";
const SUMMARY: UploadSummary = UploadSummary { records: 3, resolved: 1, unknown: 1, invalid: 1 };

fn now() -> Timestamp {
    Timestamp::parse("13/05/2020 17:54:06").unwrap()
}

fn record(id: u64) -> Record {
    Record::parse(&RECORD.replacen("12345678901234567891", &format!("{id:020}"), 1)).unwrap()
}

fn notice(day: u32) -> ExposureNotice {
    ExposureNotice { from: now(), to: now().plus(i64::from(day)), advice: format!("advice {day}") }
}

/// An answer of the authority.
type Answer = fn(Question<&'static str>, &mut Vec<u8>) -> Step<&'static str>;

/// A session of the authority whose questions the test answers.
struct Talk {
    step: Option<Step<&'static str>>,
    out: Vec<u8>,
}

impl Talk {
    fn new() -> Self {
        Self { step: Some(Step::Wait(ServerSession::default())), out: Vec::new() }
    }

    /// Past its login.
    fn member() -> Self {
        let mut talk = Self::new();
        talk.line("RESUME token");
        talk.answer(|question, out| match question {
            Question::Resume { then, .. } => then.welcome("alice", out),
            other => panic!("{other:?}"),
        });
        talk.hears(&["230 Welcome to the BlueTrace Simulator!"]);
        talk
    }

    /// Past its login and the begin of an upload of which `durable` records are stored.
    fn upload(records: u32, durable: u32) -> Self {
        let mut talk = Self::member();
        talk.begins(records, durable);
        talk
    }

    fn begins(&mut self, records: u32, durable: u32) {
        self.line(&format!(r#"{{"commandType":"UC","numOfSend":{records},"upload":"u-1"}}"#));
        self.begun(durable);
        self.hears(&[&format!(r#"{{"commandType":"UC","numOfRecv":{},"upload":"u-1"}}"#, records - durable)]);
    }

    fn begun(&mut self, durable: u32) {
        self.answer(|question, out| match question {
            Question::BeginUpload { then, .. } => then.begun(UploadHandle(1), durable, out),
            other => panic!("{other:?}"),
        });
    }

    fn waiting(&mut self) -> ServerSession<&'static str> {
        match self.step.take() {
            Some(Step::Wait(session)) => session,
            other => panic!("not waiting: {other:?}"),
        }
    }

    fn line(&mut self, line: &str) {
        self.step = Some(self.waiting().line(line, &mut self.out));
    }

    fn lines(&mut self, lines: &[&str]) {
        for line in lines {
            self.line(line);
        }
    }

    /// A record that `following` others follow.
    fn record(&mut self, following: u32) {
        self.line(&format!(r#"{{"commandType":"UC","numOfSend":{following},"data":"{RECORD}"}}"#));
    }

    fn malformed(&mut self, following: u32) {
        self.line(&format!(r#"{{"commandType":"UC","numOfSend":{following},"data":"nonsense"}}"#));
    }

    fn pause(&mut self) {
        self.step = Some(self.waiting().pause());
    }

    fn answer(&mut self, answer: impl FnOnce(Question<&'static str>, &mut Vec<u8>) -> Step<&'static str>) {
        match self.step.take() {
            Some(Step::Ask(question)) => self.step = Some(answer(question, &mut self.out)),
            other => panic!("nothing is asked: {other:?}"),
        }
    }

    /// The session asks to store `count` records from place `first` on: they are.
    fn stores(&mut self, first: u32, count: u32) {
        self.answer(|question, out| match question {
            Question::Append { first: at, records, then, .. } => {
                assert_eq!((at, records.len()), (first, usize::try_from(count).unwrap()));
                assert_eq!(then.who(), &"alice");
                then.stored(first + count, out)
            }
            other => panic!("{other:?}"),
        });
    }

    /// The session asks what came of the upload.
    fn finishes(&mut self) {
        self.answer(|question, out| match question {
            Question::Finish { then, .. } => then.finished(SUMMARY, out),
            other => panic!("{other:?}"),
        });
    }

    fn takes_token(&mut self) {
        self.answer(|question, out| match question {
            Question::Token { then } => then.made(ResumeToken::parse("t").unwrap(), now(), now(), out),
            other => panic!("{other:?}"),
        });
    }

    fn takes_notices(&mut self, expected_seen: Option<i64>, notices: &[i64]) {
        self.answer(|question, out| match question {
            Question::Notices { seen, then } => {
                assert_eq!(seen.map(|seen| seen.0), expected_seen);
                let notices = notices.iter().map(|id| (NoticeHandle(*id), notice(u32::try_from(*id).unwrap())));
                then.unread(notices.collect(), out)
            }
            other => panic!("{other:?}"),
        });
    }

    /// What was sent since this was last asked. Of an error only its code and id, for its text is not promised.
    fn hears(&mut self, expected: &[&str]) {
        let text = String::from_utf8(std::mem::take(&mut self.out)).unwrap();
        let heard: Vec<_> = text
            .lines()
            .map(|line| match Reply::parse(line) {
                Some((_, Reply::Error { code, .. })) => {
                    let id = line.find(r#""id":"#).map(|at| line[at..].split(',').next().unwrap().to_owned());
                    format!("ER {code}{}", id.map(|id| format!(" {id}")).unwrap_or_default())
                }
                _ => line.to_owned(),
            })
            .collect();
        assert_eq!(heard, expected);
    }

    fn is_closed(&self) -> bool {
        matches!(self.step, Some(Step::Close))
    }

    fn waits(&self) -> bool {
        matches!(self.step, Some(Step::Wait(_)))
    }
}

const PROGRESS: [&str; 4] = [
    r#"{"commandType":"UC","numOfRecv":0}"#,
    r#"{"commandType":"UC","numOfRecv":1}"#,
    r#"{"commandType":"UC","numOfRecv":2}"#,
    r#"{"commandType":"UC","numOfRecv":3}"#,
];
const COMPLETE: &str =
    r#"{"commandType":"UC","numOfRecv":0,"data":{"records":3,"resolved":1,"unknown":1,"invalid":1}}"#;
const TOKEN: &str =
    r#"{"commandType":"RT","data":{"token":"t","expires":"13/05/2020 17:54:06","now":"13/05/2020 17:54:06"}}"#;

// ---- Login (section 4.2)

#[test]
fn a_login_has_these_codes_and_texts() {
    let mut talk = Talk::new();
    talk.line("+61410999999");
    talk.hears(&["331 Password required"]);
    for (left, text) in [
        (2, "430 Invalid Password. Please try again (2 tries left)"),
        (1, "430 Invalid Password. Please try again (1 try left)"),
    ] {
        talk.line("guess");
        talk.answer(|question, out| match question {
            Question::Login { username, password, then } => {
                assert_eq!((username.reveal(), password.reveal()), ("+61410999999", "guess"));
                then.wrong(left, out)
            }
            other => panic!("{other:?}"),
        });
        talk.hears(&[text]);
    }
    talk.line("secret ");
    talk.answer(|question, out| match question {
        Question::Login { then, password, .. } => {
            assert_eq!(password.reveal(), "secret ", "a password keeps its spaces");
            then.welcome("alice", out)
        }
        other => panic!("{other:?}"),
    });
    talk.hears(&["230 Welcome to the BlueTrace Simulator!"]);
    assert!(talk.waiting().is_member());
}

#[test]
fn a_login_that_is_refused_for_good_closes_with_a_text() {
    fn then(question: Question<&'static str>) -> bluetrace_protocol::session::server::Authenticating {
        match question {
            Question::Login { then, .. } => then,
            other => panic!("{other:?}"),
        }
    }
    let answers: [(Answer, &str); 4] = [
        (
            |question, out| then(question).blocked_now(60, out),
            "431 Invalid Password. Your account has been blocked. Please try again later (60 s)",
        ),
        (
            |question, out| then(question).blocked(7, out),
            "432 Your account is blocked due to multiple login failures. Please try again later (7 s)",
        ),
        (
            |question, out| then(question).failed(Failure::Unavailable, out),
            "421 The authority cannot log you in now. Please try again later",
        ),
        (
            |question, out| then(question).failed(Failure::RateLimited, out),
            "421 Too many logins. Please try again later",
        ),
    ];
    for (answer, text) in answers {
        let mut talk = Talk::new();
        talk.lines(&["alice", "secret"]);
        talk.answer(answer);
        talk.hears(&["331 Password required", text]);
        assert!(talk.is_closed(), "{text}");
    }
}

#[test]
fn a_name_or_password_that_cannot_be_one_closes_with_500() {
    for line in ["", " ", "a b", "é", "resume token", &"x".repeat(65)] {
        let mut talk = Talk::new();
        talk.line(line);
        talk.hears(&["500 a username is 1 to 64 printable ASCII characters without spaces"]);
        assert!(talk.is_closed(), "{line:?}");
    }
    let mut talk = Talk::new();
    talk.lines(&["alice", &"x".repeat(257)]);
    talk.hears(&["331 Password required", "500 a password is at most 256 bytes"]);
    assert!(talk.is_closed());
    // an empty one is only wrong
    let mut talk = Talk::new();
    talk.lines(&["alice", ""]);
    assert!(matches!(talk.step, Some(Step::Ask(Question::Login { .. }))));
}

#[test]
fn resume_takes_a_token_and_whatever_else_it_takes_leads_to_a_login() {
    for token in ["t", &"t".repeat(256)] {
        let mut talk = Talk::new();
        talk.line(&format!("RESUME {token}"));
        match talk.step {
            Some(Step::Ask(Question::Resume { token: asked, .. })) => assert_eq!(asked.reveal(), token),
            other => panic!("{other:?}"),
        }
    }
    for line in ["RESUME ", "RESUME  t", "RESUME a b", "RESUME é", &format!("RESUME {}", "t".repeat(257))] {
        let mut talk = Talk::new();
        talk.line(line);
        talk.hears(&["433 Session expired. Please log in"]);
        talk.line("alice");
        talk.hears(&["331 Password required"]);
    }
    // without a token it is a name like any other
    let mut talk = Talk::new();
    talk.line("RESUME");
    talk.hears(&["331 Password required"]);
}

#[test]
fn a_token_that_is_refused_can_be_followed_by_another_or_by_a_name() {
    let mut talk = Talk::new();
    for _ in 0..3 {
        talk.line("RESUME old");
        talk.answer(|question, out| match question {
            Question::Resume { then, .. } => then.refused(out),
            other => panic!("{other:?}"),
        });
        talk.hears(&["433 Session expired. Please log in"]);
    }
    talk.line("alice");
    talk.hears(&["331 Password required"]);
}

#[test]
fn a_session_says_nothing_before_it_has_heard_something() {
    let mut talk = Talk::new();
    talk.pause();
    talk.hears(&[]);
    assert!(talk.waits() && talk.waiting().ended().is_none());
}

#[test]
fn a_stream_that_is_no_lines_gets_one_error_in_the_form_of_its_phase() {
    let mut talk = Talk::new();
    talk.waiting().broken(FrameError::TooLong, &mut talk.out);
    talk.hears(&["500 a line is longer than 16384 bytes"]);
    for (error, code) in [(FrameError::TooLong, "ER too_large"), (FrameError::NotText, "ER bad_json")] {
        let mut talk = Talk::member();
        talk.waiting().broken(error, &mut talk.out);
        talk.hears(&[code]);
    }
}

// ---- Commands (section 4.3)

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

// ---- Notices (section 4.5)

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

// ---- Upload (section 4.4)

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

//! A session of the authority whose questions the test answers, and what is said in it.

use bluetrace_protocol::message::Reply;
use bluetrace_protocol::session::server::{NoticeHandle, Question, ServerSession, Step, UploadHandle};
use bluetrace_protocol::{ExposureNotice, Record, ResumeToken, Timestamp, UploadSummary};

pub(crate) const RECORD: &str = "12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05";
pub(crate) const SUMMARY: UploadSummary = UploadSummary { records: 3, resolved: 1, unknown: 1, invalid: 1 };

pub(crate) fn now() -> Timestamp {
    Timestamp::parse("13/05/2020 17:54:06").unwrap()
}

pub(crate) fn record(id: u64) -> Record {
    Record::parse(&RECORD.replacen("12345678901234567891", &format!("{id:020}"), 1)).unwrap()
}

pub(crate) fn notice(day: u32) -> ExposureNotice {
    ExposureNotice { from: now(), to: now().plus(i64::from(day)), advice: format!("advice {day}") }
}

/// An answer of the authority.
pub(crate) type Answer = fn(Question<&'static str>, &mut Vec<u8>) -> Step<&'static str>;

/// A session of the authority whose questions the test answers.
pub(crate) struct Talk {
    pub(crate) step: Option<Step<&'static str>>,
    pub(crate) out: Vec<u8>,
}

impl Talk {
    pub(crate) fn new() -> Self {
        Self { step: Some(Step::Wait(ServerSession::default())), out: Vec::new() }
    }

    /// Past its login.
    pub(crate) fn member() -> Self {
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
    pub(crate) fn upload(records: u32, durable: u32) -> Self {
        let mut talk = Self::member();
        talk.begins(records, durable);
        talk
    }

    pub(crate) fn begins(&mut self, records: u32, durable: u32) {
        self.line(&format!(r#"{{"commandType":"UC","numOfSend":{records},"upload":"u-1"}}"#));
        self.begun(durable);
        self.hears(&[&format!(r#"{{"commandType":"UC","numOfRecv":{},"upload":"u-1"}}"#, records - durable)]);
    }

    pub(crate) fn begun(&mut self, durable: u32) {
        self.answer(|question, out| match question {
            Question::BeginUpload { then, .. } => then.begun(UploadHandle(1), durable, out),
            other => panic!("{other:?}"),
        });
    }

    pub(crate) fn waiting(&mut self) -> ServerSession<&'static str> {
        match self.step.take() {
            Some(Step::Wait(session)) => session,
            other => panic!("not waiting: {other:?}"),
        }
    }

    pub(crate) fn line(&mut self, line: &str) {
        self.step = Some(self.waiting().line(line, &mut self.out));
    }

    pub(crate) fn lines(&mut self, lines: &[&str]) {
        for line in lines {
            self.line(line);
        }
    }

    /// A record that `following` others follow.
    pub(crate) fn record(&mut self, following: u32) {
        self.line(&format!(r#"{{"commandType":"UC","numOfSend":{following},"data":"{RECORD}"}}"#));
    }

    pub(crate) fn malformed(&mut self, following: u32) {
        self.line(&format!(r#"{{"commandType":"UC","numOfSend":{following},"data":"nonsense"}}"#));
    }

    pub(crate) fn pause(&mut self) {
        self.step = Some(self.waiting().pause());
    }

    pub(crate) fn answer(&mut self, answer: impl FnOnce(Question<&'static str>, &mut Vec<u8>) -> Step<&'static str>) {
        match self.step.take() {
            Some(Step::Ask(question)) => self.step = Some(answer(question, &mut self.out)),
            other => panic!("nothing is asked: {other:?}"),
        }
    }

    /// The session asks to store `count` records from place `first` on: they are.
    pub(crate) fn stores(&mut self, first: u32, count: u32) {
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
    pub(crate) fn finishes(&mut self) {
        self.answer(|question, out| match question {
            Question::Finish { then, .. } => then.finished(SUMMARY, out),
            other => panic!("{other:?}"),
        });
    }

    pub(crate) fn takes_token(&mut self) {
        self.answer(|question, out| match question {
            Question::Token { then } => then.made(ResumeToken::parse("t").unwrap(), now(), now(), out),
            other => panic!("{other:?}"),
        });
    }

    pub(crate) fn takes_notices(&mut self, expected_seen: Option<i64>, notices: &[i64]) {
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
    pub(crate) fn hears(&mut self, expected: &[&str]) {
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

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.step, Some(Step::Close))
    }

    pub(crate) fn waits(&self) -> bool {
        matches!(self.step, Some(Step::Wait(_)))
    }
}

pub(crate) const PROGRESS: [&str; 4] = [
    r#"{"commandType":"UC","numOfRecv":0}"#,
    r#"{"commandType":"UC","numOfRecv":1}"#,
    r#"{"commandType":"UC","numOfRecv":2}"#,
    r#"{"commandType":"UC","numOfRecv":3}"#,
];
pub(crate) const COMPLETE: &str =
    r#"{"commandType":"UC","numOfRecv":0,"data":{"records":3,"resolved":1,"unknown":1,"invalid":1}}"#;
pub(crate) const TOKEN: &str =
    r#"{"commandType":"RT","data":{"token":"t","expires":"13/05/2020 17:54:06","now":"13/05/2020 17:54:06"}}"#;

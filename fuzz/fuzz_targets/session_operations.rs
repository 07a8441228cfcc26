//! Any sequence of a client's lines, pauses and an authority's answers. The session asks nothing before the login, and of
//! an upload it stores each record once, in order, and no more than were announced.
//!
//! The input is read three bytes at a time: what happens, a number for it, and how the authority answers.
#![no_main]

use std::borrow::Cow;

use bluetrace_protocol::limits::{MAX_RECORD_BATCH, MAX_TEMP_IDS};
use bluetrace_protocol::session::server::{Failure, NoticeHandle, Question, ServerSession, Step, UploadHandle};
use bluetrace_protocol::{ExposureNotice, HandshakePin, Record, ResumeToken, Timestamp, UploadSummary};
use libfuzzer_sys::fuzz_target;

enum Operation<'a> {
    /// Any line, in whatever state.
    Line(Cow<'a, str>),
    Username,
    Resume,
    Download(u8),
    Begin {
        records: u8,
        is_named: bool,
    },
    Record {
        following: u8,
    },
    Malformed {
        following: u8,
    },
    Notices,
    Token,
    Logout,
    Pause,
}

/// How the authority answers: it has the answer, or another, or none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    Fail,
}

#[derive(Default)]
struct Upload {
    records: u32,
    durable: u32,
}

#[derive(Default)]
struct Authority {
    uploads: Vec<Upload>,
    let_in: bool,
}

impl Authority {
    fn answer(&mut self, question: Question<()>, answer: Answer, out: &mut Vec<u8>) -> Step<()> {
        let failure = Failure::Unavailable;
        let is_login = matches!(question, Question::Login { .. } | Question::Resume { .. });
        assert_ne!(is_login, self.let_in, "{question:?}");
        self.let_in |= is_login && answer == Answer::Yes;
        match (question, answer) {
            (Question::Login { then, .. }, Answer::Yes) => then.welcome((), out),
            (Question::Login { then, .. }, Answer::No) => then.wrong(2, out),
            (Question::Login { then, .. }, Answer::Fail) => then.failed(failure, out),
            (Question::Resume { then, .. }, Answer::Yes) => then.welcome((), out),
            (Question::Resume { then, .. }, Answer::No) => then.refused(out),
            (Question::Resume { then, .. }, Answer::Fail) => then.failed(failure, out),
            (Question::TempIds { count, then }, Answer::Yes | Answer::No) => {
                assert!((1..=MAX_TEMP_IDS).contains(&count));
                then.issued(vec![record(); usize::try_from(count).expect("a small count")], out)
            }
            (Question::TempIds { then, .. }, Answer::Fail) => then.failed(failure, out),
            (Question::BeginUpload { begin, then }, Answer::Yes) => {
                self.uploads.push(Upload { records: begin.records, durable: 0 });
                then.begun(handle(self.uploads.len() - 1), 0, out)
            }
            (Question::BeginUpload { begin, then }, Answer::No) => {
                match self.uploads.iter().rposition(|upload| upload.records == begin.records) {
                    Some(found) => then.begun(handle(found), self.uploads[found].durable, out),
                    None => then.conflict(1, out),
                }
            }
            (Question::BeginUpload { then, .. }, Answer::Fail) => then.not_authorised(out),
            (Question::Append { upload, first, records, then }, Answer::Yes | Answer::No) => {
                let upload = self.upload(upload);
                let count = u32::try_from(records.len()).expect("a bounded batch");
                // none, where a repeated record asks for nothing but its acknowledgement
                assert!(records.len() <= MAX_RECORD_BATCH);
                assert_eq!(first, upload.durable, "a gap, or a record twice");
                upload.durable += count;
                assert!(upload.durable <= upload.records, "more than announced");
                then.stored(upload.durable, out)
            }
            (Question::Append { then, .. }, Answer::Fail) => then.failed(failure, out),
            (Question::Finish { upload, then }, Answer::Yes | Answer::No) => {
                let upload = self.upload(upload);
                assert_eq!(upload.durable, upload.records, "finished too early");
                then.finished(
                    UploadSummary { records: upload.records, unknown: upload.records, ..Default::default() },
                    out,
                )
            }
            (Question::Finish { then, .. }, Answer::Fail) => then.failed(failure, out),
            (Question::Notices { then, .. }, Answer::Yes) => {
                let notice = ExposureNotice { from: now(), to: now(), advice: "Stay at home".into() };
                then.unread(vec![(NoticeHandle(1), notice)], out)
            }
            (Question::Notices { then, .. }, Answer::No) => then.unread(Vec::new(), out),
            (Question::Notices { then, .. }, Answer::Fail) => then.failed(failure, out),
            (Question::Token { then }, _) => then.made(token(), now(), now(), out),
            (Question::HandshakePin { then }, Answer::Yes | Answer::No) => then.shown(pin(), now(), out),
            (Question::HandshakePin { then }, Answer::Fail) => then.failed(failure, out),
            (Question::Logout { then, .. }, Answer::Yes | Answer::No) => then.done(out),
            (Question::Logout { then, .. }, Answer::Fail) => then.failed(failure, out),
        }
    }

    fn upload(&mut self, handle: UploadHandle) -> &mut Upload {
        let place = usize::try_from(handle.0).expect("a handle given out");
        self.uploads.get_mut(place).expect("a handle given out")
    }
}

fn handle(place: usize) -> UploadHandle {
    UploadHandle(i64::try_from(place).expect("few uploads"))
}

fn now() -> Timestamp {
    Timestamp::from_unix(1_589_392_446).expect("a moment in 2020")
}

fn record() -> Record {
    Record::parse(RECORD).expect("a record")
}

fn pin() -> HandshakePin {
    HandshakePin::parse("H7QX4C").expect("a PIN")
}

fn token() -> ResumeToken {
    ResumeToken::parse("token").expect("a token")
}

const RECORD: &str = "12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05";

impl<'a> Operation<'a> {
    /// Takes the next operation from the input, with the answers it meets.
    fn take(input: &mut &'a [u8]) -> Option<(Self, [Answer; 3])> {
        let [kind, number, answers, rest @ ..] = *input else { return None };
        *input = rest;
        let operation = match kind % 12 {
            0 => Self::Username,
            1 => Self::Resume,
            2 => Self::Download(*number),
            3 => Self::Begin { records: *number, is_named: false },
            4 => Self::Begin { records: *number, is_named: true },
            5 | 6 => Self::Record { following: *number },
            7 => Self::Malformed { following: *number },
            8 => match kind / 12 % 3 {
                0 => Self::Notices,
                1 => Self::Token,
                _ => Self::Logout,
            },
            9 => {
                let (line, rest) = rest.split_at(usize::from(*number).min(rest.len()));
                *input = rest;
                Self::Line(String::from_utf8_lossy(line))
            }
            _ => Self::Pause,
        };
        let answer = |place: u8| match answers >> (2 * place) & 3 {
            0 | 1 => Answer::Yes,
            2 => Answer::No,
            _ => Answer::Fail,
        };
        Some((operation, [answer(0), answer(1), answer(2)]))
    }

    /// The line it stands for; `None` for a pause.
    fn line(&self) -> Option<String> {
        let frame = |rest: String| Some(format!("{{\"commandType\":{rest}}}"));
        match self {
            Self::Line(text) => Some(text.replace('\n', " ")),
            Self::Username => Some("+61410999999".into()),
            Self::Resume => Some("RESUME token".into()),
            Self::Download(count) => frame(format!("\"DT\",\"numOfRecv\":{count}")),
            Self::Begin { records, is_named: false } => frame(format!("\"UC\",\"numOfSend\":{records}")),
            Self::Begin { records, is_named: true } => {
                frame(format!("\"UC\",\"numOfSend\":{records},\"upload\":\"u\""))
            }
            Self::Record { following } => frame(format!("\"UC\",\"numOfSend\":{following},\"data\":\"{RECORD}\"")),
            Self::Malformed { following } => frame(format!("\"UC\",\"numOfSend\":{following},\"data\":\"12345\"")),
            Self::Notices => frame("\"NT\"".into()),
            Self::Token => frame("\"RT\"".into()),
            Self::Logout => frame("\"LO\"".into()),
            Self::Pause => None,
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (mut authority, mut session, mut out) = (Authority::default(), ServerSession::default(), Vec::new());
    let mut input = input;
    while let Some((operation, answers)) = Operation::take(&mut input) {
        let mut step = match operation.line() {
            Some(line) => session.line(&line, &mut out),
            None => session.pause(),
        };
        let mut answers = answers.into_iter();
        session = loop {
            match step {
                Step::Wait(session) => break session,
                Step::Close => return,
                // an authority that always fails could be asked for ever; one that answers could not
                Step::Ask(question) => {
                    step = authority.answer(question, answers.next().unwrap_or(Answer::Yes), &mut out);
                }
            }
        };
        assert_eq!(session.is_member(), authority.let_in);
        assert!(out.is_empty() || out.ends_with(b"\n"));
        out.clear();
    }
});

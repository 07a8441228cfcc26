//! How a device's session behaves against an authority's (PROTOCOL section 4), through pipes that cut bytes anywhere.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may give up, and what it does not expect is wrong, whatever it is"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bluetrace_protocol::frame::LineDecoder;
use bluetrace_protocol::message::RequestId;
use bluetrace_protocol::session::client::{ClientError, ClientSession, Event};
use bluetrace_protocol::session::server::{Failure, NoticeHandle, Question, ServerSession, Step, UploadHandle};
use bluetrace_protocol::{
    ContactLogEntry, ExposureNotice, HandshakePin, Password, Record, ResumeToken, Timestamp, UploadId, UploadSummary,
    Uploaded, Username,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn now() -> Timestamp {
    Timestamp::parse("13/05/2020 17:54:06").unwrap()
}

fn record(id: u64) -> Record {
    Record::parse(&format!("{id:020}, 13/05/2020 17:54:06, 13/05/2020 18:09:05")).unwrap()
}

fn notice(day: u32) -> ExposureNotice {
    ExposureNotice { from: now(), to: now().plus(i64::from(day)), advice: format!("advice {day}") }
}

const TOKEN: &str = r#"{"commandType":"RT","data":{"token":"t","expires":"13/05/2020 17:54:06"}}"#;

/// An authority that answers everything, and fails where it is told to.
#[derive(Default)]
struct Desk {
    /// Records in all, and those that are stored.
    uploads: BTreeMap<String, (u32, Vec<Uploaded>)>,
    order: Vec<String>,
    failing_appends: u32,
}

impl Desk {
    fn ask(&mut self, question: Question<()>, out: &mut Vec<u8>) -> Step<()> {
        match question {
            Question::Login { password, then, .. } => match password.reveal() {
                "secret" => then.welcome((), out),
                "blocked" => then.blocked_now(60, out),
                _ => then.wrong(1, out),
            },
            Question::Resume { token, then } => match token.reveal() {
                "good" => then.welcome((), out),
                _ => then.refused(out),
            },
            Question::TempIds { count, then } => then.issued((0..count).map(|id| record(id.into())).collect(), out),
            Question::BeginUpload { begin, then } => {
                let name = begin.upload.unwrap().reveal().to_owned();
                if !self.order.contains(&name) {
                    self.order.push(name.clone());
                }
                let handle = self.order.iter().position(|known| *known == name).unwrap();
                let (records, stored) = self.uploads.entry(name).or_insert((begin.records, Vec::new()));
                if *records != begin.records {
                    return then.conflict(*records, out);
                }
                let durable = u32::try_from(stored.len()).unwrap();
                then.begun(UploadHandle(i64::try_from(handle).unwrap()), durable, out)
            }
            Question::Append { upload, first, records, then } => {
                if self.failing_appends > 0 {
                    self.failing_appends -= 1;
                    return then.failed(Failure::Unavailable, out);
                }
                let stored = &mut self.stored(upload).1;
                assert_eq!(stored.len(), usize::try_from(first).unwrap());
                stored.extend(records);
                then.stored(u32::try_from(stored.len()).unwrap(), out)
            }
            Question::Finish { upload, then } => {
                let records = self.stored(upload).0;
                then.finished(UploadSummary { records, unknown: records, ..UploadSummary::default() }, out)
            }
            Question::Notices { seen: None, then } => {
                then.unread(vec![(NoticeHandle(1), notice(1)), (NoticeHandle(2), notice(2))], out)
            }
            Question::Notices { seen: Some(_), then } => then.unread(Vec::new(), out),
            Question::Token { then } => then.made(ResumeToken::parse("good").unwrap(), now().plus(9), now(), out),
            Question::HandshakePin { then } => then.shown(HandshakePin::parse("H7QX4C").unwrap(), now().plus(9), out),
            Question::Logout { then, .. } => then.done(out),
        }
    }

    fn stored(&mut self, upload: UploadHandle) -> &mut (u32, Vec<Uploaded>) {
        self.uploads.get_mut(&self.order[usize::try_from(upload.0).unwrap()]).unwrap()
    }
}

/// A connection between the two sides whose bytes arrive in pieces of the lengths given.
struct Pipe {
    desk: Desk,
    server: Option<ServerSession<()>>,
    decoder: LineDecoder,
    pieces: Vec<usize>,
    moved: usize,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    events: Vec<Event<u8>>,
}

impl Pipe {
    fn new(pieces: Vec<usize>) -> Self {
        Self {
            desk: Desk::default(),
            server: Some(ServerSession::default()),
            decoder: LineDecoder::new(),
            pieces,
            moved: 0,
            to_server: Vec::new(),
            to_client: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Logged in, with the begin behind it.
    fn member(pieces: Vec<usize>) -> (Self, ClientSession<u8>) {
        let mut pipe = Self::new(pieces);
        let mut client = ClientSession::resume(&ResumeToken::parse("good").unwrap(), &mut pipe.to_server);
        assert_eq!(pipe.run(&mut client), [Event::Welcome]);
        (pipe, client)
    }

    fn piece(&mut self, length: usize) -> usize {
        self.moved += 1;
        self.pieces[self.moved % self.pieces.len()].clamp(1, length)
    }

    /// Lets bytes flow until both sides wait; what the client made of them, but for the steps of an upload, whose number
    /// depends on the pieces.
    fn run(&mut self, client: &mut ClientSession<u8>) -> Vec<Event<u8>> {
        while !self.to_server.is_empty() || !self.to_client.is_empty() {
            if !self.to_server.is_empty() {
                let length = self.piece(self.to_server.len());
                let bytes: Vec<_> = self.to_server.drain(..length).collect();
                self.serve(&bytes);
            }
            if !self.to_client.is_empty() {
                let length = self.piece(self.to_client.len());
                let bytes: Vec<_> = self.to_client.drain(..length).collect();
                self.events.extend(client.receive(&bytes, &mut self.to_server).unwrap());
            }
            if self.to_server.is_empty() {
                client.poll_upload(&mut self.to_server);
            }
        }
        let is_step = |event: &Event<u8>| matches!(event, Event::UploadProgress { .. });
        std::mem::take(&mut self.events).into_iter().filter(|event| !is_step(event)).collect()
    }

    fn serve(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        while let Some(session) = self.server.take() {
            let Some(line) = self.decoder.next_line().unwrap() else {
                self.server = self.settle(session.pause());
                return;
            };
            let step = session.line(line, &mut self.to_client);
            self.server = self.settle(step);
        }
    }

    fn settle(&mut self, mut step: Step<()>) -> Option<ServerSession<()>> {
        loop {
            step = match step {
                Step::Wait(session) => return Some(session),
                Step::Close => return None,
                Step::Ask(question) => self.desk.ask(question, &mut self.to_client),
            };
        }
    }
}

fn entries(count: u64) -> Arc<[ContactLogEntry]> {
    (0..count).map(|id| ContactLogEntry { record: record(id), received: now() }).collect()
}

fn upload_id(text: &str) -> UploadId {
    UploadId::parse(text).unwrap()
}

fn complete(records: u32) -> Event<u8> {
    Event::UploadComplete(UploadSummary { records, unknown: records, ..UploadSummary::default() })
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), Just(vec![usize::MAX]), vec(1_usize..200, 1..20)]
}

proptest! {
    #[test]
    fn a_device_that_logs_in_asks_everything_and_logs_out_hears_everything_however_bytes_are_cut(pieces in pieces()) {
        let mut pipe = Pipe::new(pieces);
        let name = Username::parse("alice").unwrap();
        let mut client = ClientSession::login(&name, &mut pipe.to_server);
        prop_assert_eq!(pipe.run(&mut client), [Event::PasswordRequired]);
        client.password(&Password::parse("wrong").unwrap(), &mut pipe.to_server);
        let text = "Invalid Password. Please try again (1 try left)".to_owned();
        prop_assert_eq!(pipe.run(&mut client), [Event::WrongPassword { text }]);
        client.password(&Password::parse("secret").unwrap(), &mut pipe.to_server);
        prop_assert_eq!(pipe.run(&mut client), [Event::Welcome]);
        prop_assert!(client.is_member());

        client.download(3, 1, &mut pipe.to_server);
        client.notices(2, &mut pipe.to_server);
        client.upload(&upload_id("u-1"), entries(50), &mut pipe.to_server);
        client.resume_token(3, &mut pipe.to_server);
        client.notices(4, &mut pipe.to_server);
        let heard = pipe.run(&mut client);
        let token = Event::ResumeToken {
            token: ResumeToken::parse("good").unwrap(), expires: now().plus(9), now: Some(now()),
            tag: 3,
        };
        prop_assert_eq!(heard, [
            Event::TempIds { records: vec![record(0), record(1), record(2)], tag: 1 },
            Event::Notices { notices: vec![notice(1), notice(2)], tag: 2 },
            Event::UploadBegun { acknowledged: 0, total: 50 },
            token,
            Event::Notices { notices: vec![], tag: 4 },
            complete(50),
        ]);

        client.poll_upload(&mut pipe.to_server);
        prop_assert!(pipe.to_server.is_empty(), "every record has been sent");
        client.logout(0, &mut pipe.to_server);
        prop_assert_eq!(pipe.run(&mut client), [Event::LoggedOut { tag: 0 }]);
        prop_assert!(!client.is_member() && pipe.server.is_none());
    }

    #[test]
    fn an_upload_arrives_once_and_in_order_over_any_number_of_connections(
        connections in vec((pieces(), 0_usize..4_000), 0..8), total in 0_u64..60,
    ) {
        let mut desk = Desk::default();
        let records = entries(total);
        for (pieces, cut_at) in connections.into_iter().chain([(vec![100], usize::MAX)]) {
            let (mut pipe, mut client) = Pipe::member(pieces);
            pipe.desk = desk;
            client.upload(&upload_id("u-1"), Arc::clone(&records), &mut pipe.to_server);
            let mut sent = 0;
            while sent < cut_at && (!pipe.to_server.is_empty() || !pipe.to_client.is_empty()) {
                let length = pipe.piece(pipe.to_server.len().max(1)).min(cut_at - sent).min(pipe.to_server.len());
                let bytes: Vec<_> = pipe.to_server.drain(..length).collect();
                sent += length.max(1);
                pipe.serve(&bytes);
                let answers = std::mem::take(&mut pipe.to_client);
                pipe.events.extend(client.receive(&answers, &mut pipe.to_server).unwrap());
            }
            let acknowledged = pipe.events.iter().filter_map(|event| match event {
                Event::UploadBegun { acknowledged, .. } | Event::UploadProgress { acknowledged, .. } => Some(*acknowledged),
                Event::UploadComplete(summary) => Some(summary.records),
                _ => None,
            }).max();
            desk = pipe.desk;
            let stored = desk.uploads.get("u-1").map_or(0, |(_, stored)| stored.len());
            prop_assert!(acknowledged.is_none_or(|count| usize::try_from(count).unwrap() <= stored));
        }
        let stored: Vec<_> = desk.uploads["u-1"].1.iter().map(|uploaded| match uploaded {
            Uploaded::Record(uploaded) => (uploaded.record.clone(), uploaded.received),
            Uploaded::Malformed => panic!("a record was torn"),
        }).collect();
        let expected: Vec<_> = records.iter().map(|entry| (entry.record.clone(), Some(entry.received))).collect();
        prop_assert_eq!(stored, expected);
    }

    #[test]
    fn a_server_that_says_anything_never_panics_a_device(lines in vec(".{0,60}", 0..8), asked in vec(0_u8..7, 0..6)) {
        let mut out = Vec::new();
        let mut client = ClientSession::resume(&ResumeToken::parse("t").unwrap(), &mut out);
        let _ = client.receive(b"230 Welcome\n", &mut out);
        for ask in asked {
            match ask {
                0 => client.download(2, 0, &mut out),
                1 => client.notices(0, &mut out),
                2 => client.resume_token(0, &mut out),
                3 => client.logout(0, &mut out),
                4 => client.handshake_pin(0, &mut out),
                _ => client.upload(&upload_id("u"), entries(3), &mut out),
            }
        }
        for line in lines {
            let _ = client.receive(line.as_bytes(), &mut out);
        }
    }

    #[test]
    fn replies_in_any_order_never_panic_a_device(
        replies in vec((any::<bool>(), bluetrace_protocol::strategies::replies()), 0..12), uploads: bool,
    ) {
        let mut out = Vec::new();
        let mut client = ClientSession::resume(&ResumeToken::parse("t").unwrap(), &mut out);
        let _ = client.receive(b"230 Welcome\n", &mut out);
        if uploads {
            client.upload(&upload_id("u"), entries(3), &mut out);
        }
        client.download(2, 0, &mut out);
        for (has_id, reply) in replies {
            let mut line = Vec::new();
            reply.write_to(has_id.then(|| RequestId::number(1)).as_ref(), &mut line);
            let _ = client.receive(&line, &mut out);
        }
    }
}

#[test]
fn a_device_whose_token_is_refused_logs_in_on_the_same_connection() {
    let mut pipe = Pipe::new(vec![7]);
    let mut client = ClientSession::resume(&ResumeToken::parse("stale").unwrap(), &mut pipe.to_server);
    assert_eq!(pipe.run(&mut client), [Event::SessionExpired]);
    client.username(&Username::parse("alice").unwrap(), &mut pipe.to_server);
    assert_eq!(pipe.run(&mut client), [Event::PasswordRequired]);
    client.password(&Password::parse("blocked").unwrap(), &mut pipe.to_server);
    let text = "Invalid Password. Your account has been blocked. Please try again later (60 s)".to_owned();
    assert_eq!(pipe.run(&mut client), [Event::BlockedNow { text }]);
    assert!(pipe.server.is_none());
}

#[test]
fn an_upload_that_fails_half_way_is_told_once_and_can_be_begun_again_at_once() {
    for failing_appends in [1, 2] {
        let (mut pipe, mut client) = Pipe::member(vec![60]);
        pipe.desk.failing_appends = failing_appends;
        let begun = Event::UploadBegun { acknowledged: 0, total: 40 };
        client.upload(&upload_id("u-1"), entries(40), &mut pipe.to_server);
        let mut failures = 0;
        let mut heard = Vec::new();
        // the begin follows records that are on their way still, and each of those is refused
        while !pipe.to_server.is_empty() || !pipe.to_client.is_empty() {
            let length = pipe.to_server.len().min(300);
            let bytes: Vec<_> = pipe.to_server.drain(..length).collect();
            pipe.serve(&bytes);
            let answers = std::mem::take(&mut pipe.to_client);
            for event in client.receive(&answers, &mut pipe.to_server).unwrap() {
                match event {
                    Event::UploadFailed { code, .. } => {
                        assert_eq!(code, "unavailable");
                        failures += 1;
                        client.upload(&upload_id("u-1"), entries(40), &mut pipe.to_server);
                    }
                    Event::UploadProgress { .. } => {}
                    event => heard.push(event),
                }
            }
        }
        assert_eq!(failures, failing_appends);
        assert_eq!(heard.iter().filter(|event| **event == begun).count(), 1 + usize::try_from(failures).unwrap());
        assert_eq!(heard.last(), Some(&complete(40)));
        assert_eq!(pipe.desk.uploads["u-1"].1.len(), 40);
    }
}

#[test]
fn an_upload_that_is_complete_already_begins_and_ends_in_one() {
    let (mut pipe, mut client) = Pipe::member(vec![60]);
    client.upload(&upload_id("u-1"), entries(2), &mut pipe.to_server);
    assert_eq!(pipe.run(&mut client), [Event::UploadBegun { acknowledged: 0, total: 2 }, complete(2)]);
    client.upload(&upload_id("u-1"), entries(2), &mut pipe.to_server);
    assert_eq!(pipe.run(&mut client), [complete(2)]);
    client.upload(&upload_id("u-1"), entries(3), &mut pipe.to_server);
    let heard = pipe.run(&mut client);
    assert!(matches!(&heard[..], [Event::UploadFailed { code, .. }] if code == "bad_count"));
}

#[test]
fn a_device_knows_an_answer_that_was_not_asked_for_and_a_line_that_is_none() {
    for (line, error) in [
        (r#"{"commandType":"LO"}"#, ClientError::Unasked),
        (r#"{"commandType":"UC","numOfRecv":1}"#, ClientError::Unasked),
        (TOKEN, ClientError::Unasked),
        (r#"{"commandType":"ER","id":1,"data":{"code":"internal","message":""}}"#, ClientError::Unasked),
        ("hello", ClientError::Unknown),
        ("230 Welcome", ClientError::Unknown),
        ("{}", ClientError::Unknown),
        (r#"["LO"]"#, ClientError::Unknown),
    ] {
        let (_, mut client) = Pipe::member(vec![60]);
        assert_eq!(client.receive(format!("{line}\n").as_bytes(), &mut Vec::new()), Err(error), "{line}");
    }
    let (_, mut client) = Pipe::member(vec![60]);
    let refused = Event::Refused { code: 421, text: "The server is shutting down".to_owned() };
    assert_eq!(client.receive(b"421 The server is shutting down\n", &mut Vec::new()), Ok(vec![refused]));
    assert!(!client.is_member());
}

//! What holds for every message of the command phase (PROTOCOL section 4.3), both ways.
#![expect(clippy::unwrap_used, reason = "a test may give up")]

use std::collections::BTreeSet;

use bluetrace_protocol::message::{
    BadRequest, BeginUpload, Command, ErrorCode, Reply, Request, RequestId, write_record,
};
use bluetrace_protocol::strategies::{contact_log_entries, records, replies, request_ids, requests, upload_ids};
use bluetrace_protocol::{ContactLogEntry, Record, UploadCode, Uploaded, UploadedRecord};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// One line of a session, of either side. Every kind of message passes through here.
#[derive(Debug, Clone, PartialEq)]
enum Line {
    Asks(Request),
    Answers(Option<RequestId>, Reply),
}

impl Line {
    /// The line without its end.
    fn text(&self) -> String {
        let mut out = Vec::new();
        match self {
            Self::Asks(request) => request.write_to(&mut out),
            Self::Answers(id, reply) => reply.write_to(id.as_ref(), &mut out),
        }
        let text = String::from_utf8(out).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.contains(['\n', '\r']), "a line is one line");
        line.to_owned()
    }

    /// Reads a line of the side that this one is of.
    fn parse_alike(&self, text: &str) -> Option<Self> {
        match self {
            Self::Asks(_) => Request::parse(text).ok().map(Self::Asks),
            Self::Answers(..) => Reply::parse(text).map(|(id, reply)| Self::Answers(id, reply)),
        }
    }

    /// The message's place in the list of all kinds, of which there are [`KINDS`].
    fn kind(&self) -> usize {
        match self {
            Self::Asks(Request { command, .. }) => match command {
                Command::DownloadTempIds { .. } => 0,
                Command::BeginUpload(_) => 1,
                Command::Record { .. } => 2,
                Command::Notices => 3,
                Command::ResumeToken => 4,
                Command::Logout => 5,
                Command::HandshakePin => 12,
            },
            Self::Answers(_, reply) => match reply {
                Reply::TempId { .. } => 6,
                Reply::Upload { .. } => 7,
                Reply::Notice { .. } => 8,
                Reply::ResumeToken { .. } => 9,
                Reply::LoggedOut => 10,
                Reply::Error { .. } => 11,
                Reply::HandshakePin { .. } => 13,
            },
        }
    }
}

const KINDS: usize = 14;

fn lines() -> impl Strategy<Value = Line> {
    prop_oneof![
        requests().prop_map(Line::Asks).boxed(),
        (proptest::option::of(request_ids()), replies()).prop_map(|(id, reply)| Line::Answers(id, reply)).boxed(),
    ]
}

fn command(line: &str) -> Result<Command, ErrorCode> {
    Request::parse(line).map(|request| request.command).map_err(|bad| bad.code)
}

#[test]
fn messages_of_every_kind_are_put_to_these_laws() {
    let mut runner = TestRunner::deterministic();
    let kinds: BTreeSet<_> = (0..500).map(|_| lines().new_tree(&mut runner).unwrap().current().kind()).collect();
    assert_eq!(kinds.len(), KINDS, "{kinds:?}");
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(line in lines()) {
        let text = line.text();
        prop_assert_eq!(line.parse_alike(&text), Some(line), "{}", text);
    }

    #[test]
    fn no_beginning_of_a_line_is_a_line(line in lines()) {
        let text = line.text();
        for (end, _) in text.char_indices() {
            prop_assert_eq!(line.parse_alike(&text[..end]), None, "cut at {}: {}", end, text);
        }
    }

    #[test]
    fn a_line_with_something_behind_it_is_no_line(line in lines(), trailing in "[^ \t\r\n]|\\{\\}|,|\\}|\\]") {
        let text = line.text() + &trailing;
        prop_assert_eq!(line.parse_alike(&text), None, "{}", text);
    }

    #[test]
    fn unknown_fields_are_ignored_wherever_they_stand(
        line in lines(),
        name in "[a-z]{9,12}",
        value in prop_oneof![
            Just("null"), Just("0"), Just("-1.5e300"), Just(r#""\u0000\"}""#), Just("{}"), Just(r#"[{"data":[1]}]"#),
        ],
    ) {
        let text = line.text();
        let first = format!(r#"{{"{name}":{value},{}"#, &text[1..]);
        let last = format!(r#"{},"{name}":{value} , "{name}" : {value}}}"#, text.strip_suffix('}').unwrap());
        for text in [first, last] {
            prop_assert_eq!(line.parse_alike(&text), Some(line.clone()), "{}", text);
        }
    }

    #[test]
    fn an_id_is_echoed_as_it_was_written(id in request_ids(), reply in replies()) {
        let asked = Line::Asks(Request { id: Some(id.clone()), command: Command::Notices }).text();
        let json = asked.strip_prefix(r#"{"commandType":"NT","id":"#).unwrap().strip_suffix('}').unwrap();
        let answered = Line::Answers(Request::parse(&asked).unwrap().id, reply).text();
        let echo = format!(r#","id":{json}"#);
        prop_assert!(answered.contains(&echo), "{answered} does not echo {json}");
        prop_assert_eq!(Reply::parse(&answered).unwrap().0, Some(id));
    }

    #[test]
    fn a_request_that_is_refused_is_refused_under_its_id(id in request_ids(), kind in "[A-Z]{3}") {
        let asked = Line::Asks(Request { id: Some(id.clone()), command: Command::Notices }).text();
        let bad = Request::parse(&asked.replacen("NT", &kind, 1)).unwrap_err();
        prop_assert_eq!((bad.id, bad.code), (Some(id), ErrorCode::UnknownCommand));
    }

    #[test]
    fn a_record_written_in_a_burst_is_the_record_written_alone(entry in contact_log_entries(), following: u32) {
        let ContactLogEntry { record, received } = entry.clone();
        let record = UploadedRecord { record, received: Some(received), rssi: None, seen: None };
        let request = Request { id: None, command: Command::Record { following, record: Uploaded::Record(record) } };
        let (mut alone, mut burst) = (Vec::new(), Vec::new());
        request.write_to(&mut alone);
        write_record(&entry, following, &mut burst);
        prop_assert_eq!(String::from_utf8(burst).unwrap(), String::from_utf8(alone).unwrap());
    }

    #[test]
    fn strings_may_be_written_in_escapes(record in records(), upload in upload_ids()) {
        let escaped = |text: &str| text.bytes().fold(String::new(), |text, one| text + &format!("\\u{one:04x}"));
        let uploaded = |record: &Record| Uploaded::Record(UploadedRecord {
            record: record.clone(), received: None, rssi: None, seen: None,
        });
        let (text, slashes) = (escaped(&record.reveal()), record.reveal().replace('/', "\\/"));
        for data in [format!(r#""{text}""#), format!(r#""{slashes}""#), format!(r#"{{"\u0072ecord":"{text}"}}"#)] {
            let line = format!(r#"{{"\u0063ommandType":"{}","data":{data}}}"#, escaped("UC"));
            let expected = Command::Record { following: 0, record: uploaded(&record) };
            prop_assert_eq!(command(&line), Ok(expected), "{}", line);
        }
        let line = format!(
            r#"{{"commandType":"UC","upload":"{}","code":"{}"}}"#, escaped(upload.reveal()), escaped("a \"b\"")
        );
        let code = UploadCode::parse("a \"b\"");
        prop_assert_eq!(command(&line), Ok(Command::BeginUpload(BeginUpload { records: 0, upload: Some(upload), code })));
    }

    #[test]
    fn arbitrary_lines_never_panic(line: String) {
        _ = Request::parse(&line);
        _ = Reply::parse(&line);
    }

    #[test]
    fn texts_of_a_messages_characters_never_panic(
        line in r#"\{?("(commandType|data|id|numOfSend|upload|record|UC|DT|RT)"|[\[\]{}:,\\"0-9eE.+-]|null|\\u[dD]8[0-9]{2}|é){0,40}\}?"#,
    ) {
        _ = Request::parse(&line);
        _ = Reply::parse(&line);
    }

    #[test]
    fn a_damaged_line_never_panics_and_a_refusal_quotes_nothing_of_it(
        line in lines(), at: prop::sample::Index, put in "[\"\\\\{}\\[\\]:,0-9a-zé]",
    ) {
        let mut text = line.text();
        let places: Vec<_> = text.char_indices().map(|(at, one)| at..at + one.len_utf8()).collect();
        text.replace_range(places[at.index(places.len())].clone(), &put);
        _ = Reply::parse(&text);
        if let Err(BadRequest { message, .. }) = Request::parse(&text) {
            prop_assert!(!message.contains("12345678") && message.len() < 120, "{}", message);
        }
    }
}

#[test]
fn ids_are_strings_and_numbers_of_up_to_64_characters_and_nothing_else() {
    let of = |length: usize| "x".repeat(length);
    let strings =
        [String::new(), of(1), of(64), "é".repeat(64), "\\n".repeat(32), format!("{}\\\"", of(62)), "\\\"\\\"".into()];
    let numbers = ["0", "7", "-1", "1.50", "1e400", "-0.0E+5", &"9".repeat(64)].map(str::to_owned);
    for id in strings.iter().map(|text| format!("\"{text}\"")).chain(numbers) {
        let request = Request::parse(&format!(r#"{{"commandType":"LO","id": {id} }}"#)).unwrap();
        let mut out = Vec::new();
        Reply::LoggedOut.write_to(request.id.as_ref(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{{\"commandType\":\"LO\",\"id\":{id}}}\n"));
    }
    for id in [
        format!("\"{}\"", of(65)),
        format!("\"{}\\\"", of(63)) + "\"",
        format!("\"{}\"", "\\n".repeat(33)),
        "9".repeat(65),
        "true".into(),
        "{}".into(),
        r#"{"a":1}"#.into(),
        "[1]".into(),
    ] {
        let bad = Request::parse(&format!(r#"{{"commandType":"LO","id":{id}}}"#)).unwrap_err();
        assert_eq!((bad.id, bad.code), (None, ErrorCode::BadJson), "{id}");
    }
    // null is as good as none
    assert_eq!(Request::parse(r#"{"commandType":"LO","id":null}"#).unwrap().id, None);
    assert_eq!(RequestId::number(7), Request::parse(r#"{"commandType":"LO","id":7}"#).unwrap().id.unwrap());
}

#[test]
fn counts_are_whole_numbers_within_their_range() {
    use ErrorCode::{BadCount, TooLarge};
    let odd = ["-1", "-0", "1.0", "1.5", "1e2", "-1e400", "\"1\"", "\"\"", "true", "[]", "[1]", "{}"];
    let mut cases = vec![
        ("DT", "null", Ok(1)),
        ("DT", "0", Ok(1)),
        ("DT", "1", Ok(1)),
        ("DT", "100", Ok(100)),
        ("DT", "101", Err(BadCount)),
        ("DT", "4294967295", Err(BadCount)),
        ("DT", "4294967296", Err(BadCount)),
        ("UC", "null", Ok(0)),
        ("UC", "0", Ok(0)),
        ("UC", "1", Ok(1)),
        ("UC", "1000000", Ok(1_000_000)),
        ("UC", "1000001", Err(TooLarge)),
        ("UC", "4294967295", Err(TooLarge)),
        ("UC", "4294967296", Err(TooLarge)),
        ("UC", "99999999999999999999999999", Err(TooLarge)),
    ];
    cases.extend(odd.into_iter().flat_map(|odd| [("DT", odd, Err(BadCount)), ("UC", odd, Err(BadCount))]));
    for (kind, json, expected) in cases {
        let field = if kind == "DT" { "numOfRecv" } else { "numOfSend" };
        let found = command(&format!(r#"{{"commandType":"{kind}","{field}":{json}}}"#)).map(|command| match command {
            Command::DownloadTempIds { count } => count,
            Command::BeginUpload(begin) => begin.records,
            Command::Record { .. }
            | Command::Notices
            | Command::ResumeToken
            | Command::HandshakePin
            | Command::Logout => u32::MAX,
        });
        assert_eq!(found, expected, "{kind} {json}");
        let found = command(&format!(r#"{{"commandType":"UC","data":"","{field}":{json}}}"#));
        let is_bad = field == "numOfSend" && odd.contains(&json);
        assert_eq!(found.err(), is_bad.then_some(BadCount), "a record with {field} {json}");
        // counts that mean nothing to a command are not looked at
        assert_eq!(command(&format!(r#"{{"commandType":"NT","{field}":{json}}}"#)), Ok(Command::Notices));
    }
    assert_eq!(command(r#"{"commandType":"DT"}"#), Ok(Command::DownloadTempIds { count: 1 }));
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    for field in [
        r#""commandType":"UC""#,
        r#""numOfSend":1"#,
        r#""numOfRecv":1"#,
        r#""data":"""#,
        r#""id":1"#,
        r#""upload":"u""#,
        r#""code":"c""#,
    ] {
        let kind = if field.starts_with(r#""commandType"#) { "" } else { r#","commandType":"UC""# };
        assert!(command(&format!("{{{field}{kind}}}")).is_ok(), "{field}");
        assert_eq!(command(&format!("{{{field}{kind},{field}}}")), Err(ErrorCode::BadJson), "{field}");
    }
    let record = "12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05";
    let twice = format!(r#"{{"commandType":"UC","data":{{"record":"{record}","record":"{record}"}}}}"#);
    assert_eq!(command(&twice), Ok(Command::Record { following: 0, record: Uploaded::Malformed }));
}

#[test]
fn json_that_is_no_object_is_no_message() {
    for line in [
        "",
        " ",
        "{",
        "}",
        "[]",
        "{}{}",
        r#"["NT"]"#,
        r#"["LO",null]"#,
        r#""NT""#,
        "NT",
        "1",
        "null",
        "true",
        "\u{feff}{}",
        r#"{commandType:"NT"}"#,
        r#"{"commandType":"NT",}"#,
        r"{'commandType':'NT'}",
        "\0",
    ] {
        assert_eq!(command(line), Err(ErrorCode::BadJson), "{line}");
        assert!(Reply::parse(line).is_none(), "{line}");
    }
    assert_eq!(command(" \t{ \"commandType\" : \"NT\" } "), Ok(Command::Notices));
}

#[test]
fn a_command_that_is_none_of_the_six_is_unknown() {
    for json in [r#""""#, r#""dt""#, r#""DT ""#, r#""ER""#, r#""XX""#, "null", "7", "[]", r#"{"a":"DT"}"#] {
        assert_eq!(command(&format!(r#"{{"commandType":{json}}}"#)), Err(ErrorCode::UnknownCommand), "{json}");
    }
    assert_eq!(command("{}"), Err(ErrorCode::UnknownCommand));
}

#[test]
fn a_record_is_a_text_or_an_object_with_one_and_anything_else_keeps_its_place_as_malformed() {
    let record = "12345678901234567891, 13/05/2020 17:54:06, 13/05/2020 18:09:05";
    let is_record = |data: &str| match command(&format!(r#"{{"commandType":"UC","numOfSend":3,"data":{data}}}"#)) {
        Ok(Command::Record { following: 3, record }) => record != Uploaded::Malformed,
        other => unreachable!("{data}: {other:?}"),
    };
    for data in [
        format!(r#""{record}""#),
        format!(r#"{{"record":"{record}"}}"#),
        format!(r#"{{"seen":4,"rssi":-71,"received":"13/05/2020 18:00:00","record":"{record}","more":[]}}"#),
        format!(r#"{{"record":"{record}","received":null,"rssi":null,"seen":null}}"#),
    ] {
        assert!(is_record(&data), "{data}");
    }
    for data in [
        "0".to_owned(),
        "true".into(),
        "[]".into(),
        "{}".into(),
        r#""""#.into(),
        r#""\ud800""#.into(),
        r#"{"record":7}"#.into(),
        format!(r#"["{record}"]"#),
        format!(r#"["{record}",null,-71,4]"#),
        format!(r#""{record}\n""#),
        format!(r#"{{"record":["{record}"]}}"#),
        format!(r#"{{"record":"{record}","received":"yesterday"}}"#),
        format!(r#"{{"record":"{record}","rssi":40000}}"#),
        format!(r#"{{"record":"{record}","rssi":-71.5}}"#),
        format!(r#"{{"record":"{record}","seen":-1}}"#),
        format!(r#"{{"record":"{record}","seen":4294967296}}"#),
    ] {
        assert!(!is_record(&data), "{data}");
    }
}

#[test]
fn deep_nesting_within_the_longest_line_does_no_harm() {
    let depth = bluetrace_protocol::limits::MAX_LINE / 2 - 40;
    for (open, close) in [("[", "]"), (r#"{"":"#, "}")] {
        let deep = open.repeat(depth / open.len()) + "1" + &close.repeat(depth / open.len());
        for field in ["commandType", "numOfSend", "numOfRecv", "data", "id", "upload", "code", "else"] {
            for line in [
                format!(r#"{{"commandType":"UC","{field}":{deep}}}"#),
                format!(r#"{{"{field}":{deep}}}"#),
                format!(r#"{{"commandType":"UC","data":{{"record":"","{field}":{deep}}}}}"#),
                format!(r#"{{"{field}":"#) + &open.repeat(depth),
                open.repeat(depth),
            ] {
                _ = Request::parse(&line);
                _ = Reply::parse(&line);
            }
        }
        assert_eq!(command(&format!(r#"{{"commandType":"NT","else":{deep}}}"#)), Ok(Command::Notices));
    }
}

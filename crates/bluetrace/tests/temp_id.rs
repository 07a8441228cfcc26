//! `bluetrace tempid` as another program uses it: the vectors of the reference go in at one end and come out at the other.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Finished, ILL, MET, Place, finish, now, root, send_datagram, wait_until};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const ID: &str = "Z3wjZmhjaroWzwimFLC/4gEkCjf8010mAGDDvUYAAQIDBAUGBwgJCgsMDQ4Pp2EY36jISBCD6UxWpP9zFQ==";

#[test]
fn the_reference_s_ids_are_sealed_and_opened() {
    let (vectors, place) = (vectors(), Place::new());
    let ids = vectors["tempid"].as_array().unwrap();
    for (name, key) in vectors["keys"].as_object().unwrap() {
        let of_key: Vec<&Value> = ids.iter().filter(|id| id["key"] == name.as_str()).collect();
        let lines = of_key.iter().map(|id| {
            json!({ "uid": id["uid"], "start": id["start"], "expiry": id["expiry"], "iv_hex": id["iv_hex"] })
                .to_string()
                + "\n"
        });
        let made =
            tempid(&place, &["seal", "--key-hex", text(&key["hex"])], &lines.collect::<String>()).assert_success();
        let expected: Vec<Value> = of_key.iter().map(|id| json!({ "tempid": id["tempid"] })).collect();
        assert_eq!(answers(&made), expected, "{name}");
    }
    // all keys at once: each id is opened by the one that sealed it
    let keys = vectors["keys"].as_object().unwrap().values().flat_map(|key| ["--key-hex", text(&key["hex"])]);
    let arguments: Vec<&str> = std::iter::once("open").chain(keys).collect();
    let lines: String = ids.iter().map(|id| text(&id["tempid"]).to_owned() + "\r\n").collect();
    let opened = tempid(&place, &arguments, &lines).assert_success();
    let expected = ids.iter().map(|id| {
        let said = &id["decrypted"];
        json!({ "tempid": id["tempid"], "uid": said["uid"], "start": said["startTime"], "expiry": said["expiryTime"] })
    });
    assert_eq!(answers(&opened), expected.collect::<Vec<_>>());
}

#[test]
fn ids_that_only_the_reference_takes_need_the_compatible_mode() {
    let (vectors, place) = (vectors(), Place::new());
    for vector in vectors["negative"].as_array().unwrap() {
        let Some(msg) = vector["record"]["msg"].as_str() else { continue };
        let (id, key) = (&vector["id"], text(&vector["keys_enabled_in_try_order"][0]));
        let arguments = ["open", "--opentrace-compatible", "--key-hex", text(&vectors["keys"][key]["hex"])];
        let line = format!("{msg}\n");
        let compatible = tempid(&place, &arguments, &line);
        let strict = tempid(&place, &[&arguments[..1], &arguments[2..]].concat(), &line);
        let (compatible, strict) = (&answers(&compatible)[0], &answers(&strict)[0]);
        assert_eq!((&compatible["tempid"], &strict["tempid"]), (&json!(msg), &json!(msg)));
        let expected = &vector["decrypt_with_first_key"]["ok"];
        assert_eq!(compatible["uid"], expected["uid"], "{id}");
        assert_eq!(compatible["expiry"], expected["expiryTime"], "{id}");
        assert_eq!(compatible["error"].is_null(), !expected.is_null(), "{id}");
        if vector["stricter_server"]
            .as_str()
            .is_some_and(|advice| advice.starts_with("reject") && !advice.contains("schema"))
        {
            assert_eq!(strict["error"], "bad_tempid", "{id}");
        }
    }
}

#[test]
fn a_line_that_cannot_be_opened_is_answered_and_the_next_one_too() {
    let place = Place::new();
    let other = "ff".repeat(32);
    let long = "x".repeat(16 * 1024 + 1);
    let input = [
        ID.as_bytes(),
        b"\n\n\xff\xfe\n",
        long.as_bytes(),
        b"\n",
        &long.as_bytes()[1..],
        b"\ngarbage\n",
        ID.as_bytes(),
    ];
    let opened = tempid_bytes(&place, &["open", "--key-hex", KEY], &input.concat());
    let answered = answers(&opened);
    let errors: Vec<&Value> = answered.iter().map(|answer| &answer["error"]).collect();
    assert_eq!(
        errors,
        [
            &Value::Null,
            &json!("bad_tempid"),
            &json!("not_text"),
            &json!("too_large"),
            &json!("bad_tempid"),
            &json!("bad_tempid"),
            &Value::Null
        ]
    );
    assert_eq!((&answered[2]["tempid"], &answered[3]["tempid"]), (&Value::Null, &Value::Null));
    assert_eq!(answered[0], answered[6]);
    opened.assert_complains(&["5 of 7 lines"]);
    let opened = tempid(&place, &["open", "--key-hex", &other], ID);
    assert_eq!(answers(&opened), [json!({ "tempid": ID, "error": "failed_decryption" })]);
    assert!(tempid(&place, &["open", "--key-hex", &other], "").assert_success().shown.is_empty());
}

#[test]
fn a_line_of_which_no_id_can_be_made_is_answered_and_the_next_one_too() {
    let place = Place::new();
    let uid = "ABCDEFGHIJKLMNOPQRSTUVWXYZab";
    let iv = "000102030405060708090a0b0c0d0e0f";
    let good = json!({ "uid": uid, "start": 1_586_390_340, "expiry": 1_586_391_240, "iv_hex": iv });
    let with = |name: &str, value: Value| {
        let mut line = good.clone();
        line[name] = value;
        line.to_string()
    };
    for (line, answer) in [
        (good.to_string(), Ok(ID)),
        // as the reference does
        (with("start", json!(1_586_390_340.9)), Ok(ID)),
        (String::new(), Err("bad_json")),
        ("[]".to_owned(), Err("bad_json")),
        ("{".repeat(10_000), Err("bad_json")),
        ("{}".to_owned(), Err("bad_uid")),
        (with("uid", json!(7)), Err("bad_uid")),
        (with("start", json!(2_147_483_648_u32)), Err("bad_time")),
        (with("expiry", json!(2_147_484_487_u32)), Err("bad_time")),
        (with("expiry", json!(-2_147_483_649_i64)), Err("bad_time")),
        (with("expiry", json!("1586391240")), Err("bad_time")),
        (with("expiry", json!(null)), Err("bad_time")),
        (with("iv_hex", json!(&iv[2..])), Err("bad_iv")),
        (with("iv_hex", json!(iv.replace('f', "g"))), Err("bad_iv")),
        (with("iv_hex", json!(0)), Err("bad_iv")),
    ] {
        let made = tempid(&place, &["seal", "--key-hex", KEY], &(line.clone() + "\n"));
        let (name, text) = match answer {
            Ok(id) => ("tempid", id),
            Err(error) => ("error", error),
        };
        assert_eq!(answers(&made), [json!({ name: text })], "{line}");
        assert_eq!(made.status, Some(i32::from(answer.is_err())), "{line}");
    }
}

#[test]
fn an_iv_that_is_not_given_is_another_one_each_time() {
    let place = Place::new();
    let line = json!({ "uid": "ABCDEFGHIJKLMNOPQRSTUVWXYZab", "start": 0, "expiry": 899 }).to_string() + "\n";
    let made = tempid(&place, &["seal", "--key-hex", KEY], &line.repeat(2)).assert_success();
    let ids: Vec<String> = answers(&made).iter().map(|answer| text(&answer["tempid"]).to_owned()).collect();
    assert_ne!(ids[0], ids[1]);
    let opened = tempid(&place, &["open", "--key-hex", KEY], &ids.join("\n")).assert_success();
    assert!(answers(&opened).iter().all(|answer| answer["expiry"] == 899));
}

#[test]
fn a_sealed_id_goes_all_the_way_from_a_file_through_beacon_log_and_upload_to_an_export() {
    let place = Place::with_accounts();
    // `+` and `/` at every place but the last
    let (known, unknown) = (format!("{}w==", "/+/".repeat(27)), format!("{}A==", "+/+".repeat(27)));
    let start = now().plus(-60);
    let expiry = start.plus(900);
    let window = format!("{start}, {expiry}");
    fs::write(place.path("tempIDs.txt"), format!("{} {known} {start} {expiry}\n", MET.0)).unwrap();
    let server = place.server();
    let mut device = place.device(server.address, ILL, &[]);
    let port = device.udp_port();
    for id in [&known, &unknown] {
        send_datagram(&format!("{id}, {window}, 1"), port);
        device.expect("The beacon is valid.");
    }
    wait_until("both stand in the contact log", || {
        let log = fs::read_to_string(place.device_file(ILL, "contactlog")).unwrap_or_default();
        log.starts_with(&format!("{known}, {window}, ")) && log.contains(&unknown)
    });
    device.say("Upload_contact_log");
    device.expect("upload complete: 2 records acknowledged (1 traced to a person, 1 unknown");
    drop(device);
    let contacts = place.administer(&["export", "contacts"], "").assert_success().shown;
    let statuses: Vec<(bool, bool)> =
        contacts.lines().skip(1).map(|line| (line.contains(&known), line.ends_with(",resolved"))).collect();
    assert_eq!(statuses, [(true, true), (false, false)], "{contacts}");
    let exported = place.administer(&["export", "tempids"], "").assert_success().shown;
    assert!(exported.contains(&format!("{} {known} {start} {expiry}\n", MET.0)), "{exported}");
}

#[test]
fn a_bad_key_is_told_by_its_place_and_never_shown() {
    let place = Place::new();
    for bad in ["", "0123456789abcdef0123456789abcdef", &KEY[1..], &KEY.replace('0', "O")] {
        for (arguments, place_of_it) in [
            (&["open", "--key-hex", KEY, "--key-hex", bad][..], "number 2"),
            (&["seal", "--key-hex", bad], "--key-hex is no key"),
        ] {
            let refused = tempid(&place, arguments, ID);
            assert_eq!((refused.status, refused.shown.as_str()), (Some(2), ""), "{refused:?}");
            assert_eq!(refused.errors.lines().count(), 1, "{refused:?}");
            assert!(
                refused.errors.contains(place_of_it) && refused.errors.contains("64 hexadecimal digits"),
                "{refused:?}"
            );
            assert!(bad.is_empty() || !refused.errors.contains(bad), "{refused:?}");
        }
    }
}

#[test]
fn a_program_that_waits_for_each_answer_gets_it() {
    let place = Place::new();
    let mut command = place.bluetrace(&["tempid", "open", "--key-hex", KEY]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for _ in 0..3 {
        writeln!(input, "{ID}").unwrap();
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        assert!(answer.contains("ABCDEFGHIJKLMNOPQRSTUVWXYZab"), "{answer}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

fn tempid(place: &Place, arguments: &[&str], input: &str) -> Finished {
    finish(&mut command(place, arguments), input)
}

fn tempid_bytes(place: &Place, arguments: &[&str], input: &[u8]) -> Finished {
    // what is no text goes in by a file
    let file = place.path("input");
    fs::write(&file, input).unwrap();
    let output = command(place, arguments).stdin(fs::File::open(file).unwrap()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished { status: output.status.code(), shown: text(output.stdout), errors: text(output.stderr) }
}

fn command(place: &Place, arguments: &[&str]) -> Command {
    place.bluetrace(&[&["tempid"], arguments].concat())
}

fn answers(finished: &Finished) -> Vec<Value> {
    finished.shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn vectors() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join("vectors/opentrace.json")).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

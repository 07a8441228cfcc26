//! Sealed `TempIDs` (PROTOCOL section 7): the reference's vectors byte for byte, and what holds for all of them.
#![expect(clippy::unwrap_used, reason = "a test may give up")]

mod support;

use bluetrace_protocol::message::{Command, Reply, Request, write_record};
use bluetrace_protocol::sealed::reference::{sealed_as_reference, uid_as_reference};
use bluetrace_protocol::sealed::{IV_BYTES, SEALED_BYTES, UID_BYTES, bytes_of_hex};
use bluetrace_protocol::strategies::{uids, windows};
use bluetrace_protocol::{
    Beacon, ContactLogEntry, Record, SealedError, SealedTempId, SealingKey, TempId, Timestamp, Uid, Uploaded,
    UploadedRecord,
};
use proptest::prelude::*;
use serde_json::Value;
use support::{integer, key, text, vectors};

#[test]
fn the_reference_s_temp_ids_are_ours_byte_for_byte() {
    let vectors = vectors();
    for vector in vectors["tempid"].as_array().unwrap() {
        let id = text(&vector["id"]);
        let key = key(&vectors, text(&vector["key"]));
        let uid = uid_as_reference(text(&vector["uid"]));
        let iv = bytes_of_hex(text(&vector["iv_hex"])).unwrap();
        let sealed = key.seal(&uid, integer(&vector["start"]), integer(&vector["expiry"]), iv);
        assert_eq!(sealed.reveal(), text(&vector["tempid"]), "{id}");
        let opened = key.open(&SealedTempId::parse(text(&vector["tempid"])).unwrap()).unwrap();
        let expected = &vector["decrypted"];
        assert_eq!(opened.uid.reveal(), text(&expected["uid"]), "{id}");
        assert_eq!(opened.start, integer(&expected["startTime"]), "{id}");
        assert_eq!(opened.expiry, integer(&expected["expiryTime"]), "{id}");
        let round_trips = Uid::parse(text(&vector["uid"])) == Ok(uid);
        assert_eq!(round_trips, vector["uid_round_trips"].as_bool().unwrap(), "{id}");
    }
}

#[test]
fn a_batch_of_the_reference_is_ours_byte_for_byte() {
    let vectors = vectors();
    let exchanges = vectors["callable_http"].as_array().unwrap();
    let body = text(
        &exchanges.iter().find(|exchange| text(&exchange["what"]).starts_with("getTempIDs")).unwrap()["response"]["body"],
    );
    let batch: Value = serde_json::from_str(body).unwrap();
    let (key, uid) = (key(&vectors, "K1"), Uid::parse("ABCDEFGHIJKLMNOPQRSTUVWXYZab").unwrap());
    let ids = batch["result"]["tempIDs"].as_array().unwrap();
    assert!(ids.len() > 1);
    for id in ids {
        let iv = bytes_of_hex("000102030405060708090a0b0c0d0e0f").unwrap();
        let sealed = key.seal(&uid, integer(&id["startTime"]), integer(&id["expiryTime"]), iv);
        assert_eq!(sealed.reveal(), text(&id["tempID"]));
    }
}

#[test]
fn what_the_reference_decrypts_beyond_the_one_text_opens_as_it_does_there_and_is_refused_here() {
    let vectors = vectors();
    for vector in vectors["negative"].as_array().unwrap() {
        let id = text(&vector["id"]);
        let Some(msg) = vector["record"]["msg"].as_str() else { continue };
        let first = key(&vectors, text(&vector["keys_enabled_in_try_order"][0]));
        let opened = sealed_as_reference(msg).and_then(|sealed| first.open(&sealed).ok());
        let expected = &vector["decrypt_with_first_key"]["ok"];
        match opened {
            Some(opened) => {
                assert_eq!(opened.uid.reveal(), text(&expected["uid"]), "{id}");
                assert_eq!(opened.start, integer(&expected["startTime"]), "{id}");
                assert_eq!(opened.expiry, integer(&expected["expiryTime"]), "{id}");
            }
            None => assert!(expected.is_null(), "{id}"),
        }
        let is_lax = text(&vector["what"]).contains("reference") && opened.is_some() && !msg.ends_with("FQ==");
        if is_lax || msg.len() != 84 {
            assert_eq!(SealedTempId::parse(msg), Err(SealedError::Text), "{id}");
        }
    }
}

#[test]
fn a_text_is_read_as_node_reads_it() {
    let id = vectors()["tempid"][0]["tempid"].as_str().unwrap().to_owned();
    let sealed = SealedTempId::parse(&id).unwrap();
    let (front, back) = id.split_at(40);
    for same in [
        id.trim_end_matches('=').to_owned(),
        id.replace('+', "-").replace('/', "_"),
        format!(" \n{front}\t \u{2713}{back}"),
        format!("{front}!{back}garbage"),
        id.replacen('A', "\u{141}", 3),
    ] {
        assert_eq!(sealed_as_reference(&same), Some(sealed), "{same}");
        assert_eq!(SealedTempId::parse(&same), Err(SealedError::Text), "{same}");
    }
    for end in ["=", "\u{1f600}"] {
        // the face's first half ends in the byte of a sign of padding
        assert_eq!(sealed_as_reference(&format!("{front}{end}{back}")), None, "{end} ends the text");
    }
    // a tag that is cut short is filled up with zeros
    let mut zero_at_end = *sealed.as_bytes();
    zero_at_end[SEALED_BYTES - 1] = 0;
    let whole = SealedTempId::from_slice(&zero_at_end).unwrap();
    let cut: String = whole.reveal().chars().take(80).collect();
    assert_eq!(sealed_as_reference(&cut), Some(whole));
}

#[test]
fn only_the_one_text_of_an_id_is_read() {
    let id = text(&vectors()["tempid"][0]["tempid"]).to_owned();
    assert!(SealedTempId::parse(&id).is_ok());
    for end in 0..id.len() {
        assert_eq!(SealedTempId::parse(&id[..end]), Err(SealedError::Text), "{end} characters");
    }
    for more in ["=", "A", " ", "\n", "AAAA", "\0"] {
        assert_eq!(SealedTempId::parse(&format!("{id}{more}")), Err(SealedError::Text), "{more:?} behind");
        assert_eq!(SealedTempId::parse(&format!("{more}{id}")), Err(SealedError::Text), "{more:?} before");
        // as many characters as there should be
        assert_eq!(SealedTempId::parse(&format!("{more}{}", &id[more.len()..])).is_ok(), more.starts_with('A'));
    }
    // the spare bits of the last character: four, and only one of sixteen texts has them zero
    for last in ["R", "S", "T", "U", "X", "f"] {
        assert_eq!(SealedTempId::parse(&format!("{}{last}==", &id[..81])), Err(SealedError::Text), "{last}");
    }
    assert_eq!(SealedTempId::parse(&id.replace('+', "-").replace('/', "_")), Err(SealedError::Text));
}

#[test]
fn a_user_id_is_28_characters_of_base64_and_random_ones_have_letters_and_digits_alone() {
    for wrong in [
        "",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZa",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabc",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZa=",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZa-",
    ] {
        assert_eq!(Uid::parse(wrong), Err(SealedError::Uid), "{wrong}");
    }
    let mut generator = support::Generator(1);
    let drawn: Vec<String> = (0..500).map(|_| Uid::random(&mut generator).reveal()).collect();
    let characters: std::collections::BTreeSet<char> = drawn.iter().flat_map(|uid| uid.chars()).collect();
    assert!(drawn.iter().all(|uid| uid.len() == 28));
    assert_eq!(characters.len(), 62, "all letters and digits, and nothing else: {characters:?}");
    assert!(characters.iter().all(char::is_ascii_alphanumeric));
}

#[test]
fn a_key_is_64_hexadecimal_digits() {
    assert!(SealingKey::from_hex(&"aF09".repeat(16)).is_some());
    for text in [
        String::new(),
        "a".repeat(32),
        "a".repeat(63),
        "a".repeat(65),
        "+f".repeat(32),
        "g0".repeat(32),
        "é".repeat(32),
    ] {
        assert!(SealingKey::from_hex(&text).is_none(), "{text}");
    }
}

#[test]
fn neither_keys_nor_user_ids_nor_temp_ids_are_shown_by_debug() {
    let key = SealingKey::new(&[1; 32]);
    let sealed = key.seal(&Uid::from_bytes([2; UID_BYTES]), 1, 2, [3; IV_BYTES]);
    let shown = format!("{key:?} {sealed:?} {:?}", key.open(&sealed).unwrap());
    assert_eq!(shown, "SealingKey(..) SealedTempId(..) Opened { uid: Uid(..), start: 1, expiry: 2 }");
}

#[test]
fn the_longest_lines_and_datagrams_have_room_for_a_sealed_id() {
    // `+` and `/` at every place but the last, which holds four spare bits
    let temp_id = TempId::parse(&format!("{}w==", "/+/".repeat(27))).unwrap();
    let record = Record::from_fields(temp_id.reveal(), "31/12/9999 23:59:59", "31/12/9999 23:59:59").unwrap();
    let beacon = Beacon { record: record.clone() };
    assert_eq!(Beacon::parse(beacon.reveal().as_bytes()), Ok(beacon));
    let entry = ContactLogEntry { record: record.clone(), received: record.window.start() };
    let mut line = String::new();
    entry.write_to(&mut line);
    assert_eq!(line.trim_end().len(), 147);
    assert_eq!(ContactLogEntry::parse(line.trim_end(), Timestamp::MIN).as_ref(), Ok(&entry));
    let mut out = Vec::new();
    let uploaded = Uploaded::Record(UploadedRecord { record: record.clone(), received: None, rssi: None, seen: None });
    let request = Request { id: None, command: Command::Record { following: 0, record: uploaded } };
    request.write_to(&mut out);
    assert_eq!(Request::parse(std::str::from_utf8(&out).unwrap().trim_end()), Ok(request));
    let mut out = Vec::new();
    write_record(&entry, 0, &mut out);
    assert!(Request::parse(std::str::from_utf8(&out).unwrap().trim_end()).is_ok());
    // other programs escape the slash
    let escaped = std::str::from_utf8(&out).unwrap().replace('/', "\\/");
    assert_eq!(Request::parse(escaped.trim_end()), Request::parse(std::str::from_utf8(&out).unwrap().trim_end()));
    let mut out = Vec::new();
    let reply = Reply::TempId { following: 0, record };
    reply.write_to(None, &mut out);
    assert_eq!(Reply::parse(std::str::from_utf8(&out).unwrap().trim_end()), Some((None, reply)));
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened_by_its_key_alone(
        secret: [u8; 32], other: [u8; 32], uid in uids(), start: i32, expiry: i32, iv: [u8; IV_BYTES],
    ) {
        let key = SealingKey::new(&secret);
        let sealed = key.seal(&uid, start, expiry, iv);
        let read = SealedTempId::parse(&sealed.reveal()).unwrap();
        prop_assert_eq!(read, sealed);
        prop_assert_eq!(SealedTempId::from_slice(sealed.as_bytes()), Some(sealed));
        let opened = key.open(&read).unwrap();
        prop_assert_eq!((opened.uid, opened.start, opened.expiry), (uid, start, expiry));
        prop_assert_eq!(Uid::parse(&uid.reveal()), Ok(uid));
        prop_assert_eq!(uid_as_reference(&uid.reveal()), uid);
        prop_assert_eq!(sealed_as_reference(&sealed.reveal()), Some(sealed));
        prop_assert_eq!(TempId::parse(&sealed.reveal()), Ok(TempId::from(&sealed)));
        if other != secret {
            prop_assert_eq!(SealingKey::new(&other).open(&read), Err(SealedError::NotOurs));
        }
    }

    #[test]
    fn every_window_until_2038_survives(uid in uids(), window in windows(), iv: [u8; IV_BYTES]) {
        let seconds = |moment| bluetrace_protocol::sealed::wire_seconds(moment);
        match (seconds(window.start()), seconds(window.expiry())) {
            (Some(start), Some(expiry)) => {
                let key = SealingKey::new(&[5; 32]);
                prop_assert_eq!(key.open(&key.seal(&uid, start, expiry, iv)).unwrap().window(), Some(window));
            }
            _ => prop_assert!(window.expiry().as_unix() > i64::from(i32::MAX)),
        }
    }

    #[test]
    fn any_flipped_bit_is_refused(uid in uids(), start: i32, expiry: i32, iv: [u8; IV_BYTES]) {
        let key = SealingKey::new(&[6; 32]);
        let bytes = *key.seal(&uid, start, expiry, iv).as_bytes();
        for bit in 0..8 * SEALED_BYTES {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let sealed = SealedTempId::from_slice(&flipped).unwrap();
            prop_assert_eq!(key.open(&sealed), Err(SealedError::NotOurs), "bit {}", bit);
        }
    }

    #[test]
    fn any_other_number_of_bytes_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..130)) {
        prop_assert_eq!(SealedTempId::from_slice(&bytes).is_some(), bytes.len() == SEALED_BYTES);
    }

    #[test]
    fn what_is_read_strictly_is_read_the_same_laxly(text in "[A-Za-z0-9+/]{82}==") {
        if let Ok(sealed) = SealedTempId::parse(&text) {
            prop_assert_eq!(sealed.reveal(), text.clone());
            prop_assert_eq!(sealed_as_reference(&text), Some(sealed));
        }
        prop_assert!(sealed_as_reference(&text).is_some());
    }
}

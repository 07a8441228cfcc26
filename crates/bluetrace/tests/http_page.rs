//! Holds `docs/http.md` to its word: its shell commands, run in order against a fresh server, are answered as it shows.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what helps a test fails as a test does")]

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;
use support::{Place, RunningServer, root};

#[test]
fn the_commands_on_the_page_are_answered_as_it_shows() {
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("NOT TESTED: there is no curl here (on Debian: apt-get install curl)");
    }
    let place = Place::new();
    place.administer(&["user", "add", "alice"], "waratah\n").assert_success();
    place.administer(&["user", "add", "bob"], "banksia\n").assert_success();
    let mut command =
        place.bluetrace(&["server", "0", "--bind", "127.0.0.1", "--data-dir", "data", "--http", "127.0.0.1:0"]);
    let server = RunningServer::run(&mut command, &place.path("server.log"));
    let address = server.console.seen.iter().find_map(|line| line.strip_prefix("HTTPS API on https://")).unwrap();

    let page = fs::read_to_string(root().join("docs/http.md")).unwrap();
    let block = page.split("\n```sh\n").nth(1).unwrap().split("\n```").next().unwrap();
    // what came before is run again with each step as far as it only names things
    let (mut names, mut known, mut answered) = (String::new(), BTreeMap::new(), 0);
    let mut answer = Value::Null;
    for step in steps(block) {
        let step = fill_in(&step, &known);
        if let Some(shown) = step.strip_prefix("# {") {
            let shown = format!("{{{shown}").replace(",...]", "]");
            let shown = serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
            assert!(is_like(&shown, &answer), "shown: {shown}\nanswered: {answer}");
            answered += 1;
        } else if step.contains("curl") {
            let output = Command::new("sh").args(["-c", &format!("{names}{step}")]).output().unwrap();
            answer =
                serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {step}: {output:?}"));
            learn(&answer, &mut known);
        } else if step.starts_with("api=") {
            names.extend(["api=http://", address, "\n"]);
        } else if step.split_once('=').is_some_and(|(name, _)| name.chars().all(char::is_alphabetic)) {
            names.extend([&*step, "\n"]);
        } else {
            assert!(step.is_empty() || step.starts_with(['#']) || step.starts_with("bluetrace user add"), "{step}");
        }
    }
    assert_eq!(answered, 6, "the page was read to its end");
}

/// The lines of a shell script, with those together that are one command.
fn steps(block: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    for line in block.lines() {
        let step = steps.last_mut().unwrap();
        step.push_str(line);
        if !line.starts_with('#') && line.ends_with(['\\', '|']) {
            step.push('\n');
        } else {
            steps.push(String::new());
        }
    }
    steps
}

/// Puts what was answered for what the page names as `<field>`.
fn fill_in(step: &str, known: &BTreeMap<String, String>) -> String {
    known.iter().fold(step.to_owned(), |step, (name, value)| step.replace(&format!("<{name}>"), value))
}

/// Remembers the fields of an answer; of a list those of its first entry.
fn learn(answer: &Value, known: &mut BTreeMap<String, String>) {
    let Value::Object(fields) = answer else { return };
    for (name, value) in fields {
        match value {
            Value::Array(entries) => learn(entries.first().unwrap_or(&Value::Null), known),
            Value::String(text) => _ = known.insert(name.clone(), text.clone()),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
                _ = known.insert(name.clone(), other.to_string());
            }
        }
    }
}

/// Whether an answer is as shown: the same fields and values, where a time, an id and a text of dots stand for any.
fn is_like(shown: &Value, answer: &Value) -> bool {
    const EXAMPLE: &str = "12345678901234567891";
    match (shown, answer) {
        (Value::Object(shown), Value::Object(answer)) => {
            shown.keys().eq(answer.keys()) && shown.iter().all(|(name, value)| is_like(value, &answer[name]))
        }
        (Value::Array(shown), Value::Array(answer)) => {
            answer.len() >= shown.len() && shown.iter().zip(answer).all(|(shown, answer)| is_like(shown, answer))
        }
        (Value::String(shown), Value::String(answer)) => shown == "..." || shown == EXAMPLE || shown == answer,
        (Value::Number(shown), Value::Number(answer)) if is_time(shown) => is_time(answer),
        (shown, answer) => shown == answer,
    }
}

fn is_time(number: &serde_json::Number) -> bool {
    number.as_i64().is_some_and(|number| number > 1_500_000_000)
}

//! Any two lines of a login: a username or `RESUME`, then a password. What is asked of the authority is what was typed.
#![no_main]

use bluetrace_protocol::session::server::{Question, ServerSession, Step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: (&str, &str)| {
    let (first, second) = lines;
    let mut out = Vec::new();
    match ServerSession::<()>::default().line(first, &mut out) {
        Step::Wait(session) => match session.line(second, &mut out) {
            Step::Ask(Question::Login { username, password, .. }) => {
                assert_eq!((username.reveal(), password.reveal()), (first, second));
            }
            Step::Ask(Question::Resume { token, .. }) => assert!(second.ends_with(token.reveal())),
            Step::Ask(question) => panic!("asked before the login: {question:?}"),
            Step::Wait(_) | Step::Close => {}
        },
        Step::Ask(Question::Resume { token, .. }) => assert!(first.ends_with(token.reveal())),
        Step::Ask(question) => panic!("asked before the password: {question:?}"),
        Step::Close => {}
    }
    assert!(out.is_empty() || out.ends_with(b"\n"));
});

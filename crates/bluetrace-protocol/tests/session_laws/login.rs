//! The login (section 4.2).

use bluetrace_protocol::frame::FrameError;
use bluetrace_protocol::session::server::{Failure, Question, Step};

use crate::talk::{Answer, Talk};

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

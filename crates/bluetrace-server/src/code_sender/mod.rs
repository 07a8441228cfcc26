//! Owns how a one-time code reaches its person: [`CodeSender`], by a program ([`command`]), by a webhook ([`webhook`]), or, where
//! there is neither, over the operator's console.
//!
//! Number and text go nowhere else: not into arguments, the environment, the log, or an error.

pub mod command;
pub mod webhook;

use std::fmt;
use std::io;

use bluetrace_authority::registration::{OneTimeCode, PhoneNumber};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::console::{Console, ConsoleEvent};

pub use self::command::CodeCommand;
pub use self::webhook::{CodeWebhook, WebhookUrl};

/// Sends one-time codes.
#[derive(Debug)]
pub struct CodeSender {
    way: Way,
    text: CodeText,
}

/// What a person is sent: a text with a place for the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeText {
    before: String,
    after: String,
}

/// Why a text is no [`CodeText`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CodeTextError {
    /// There is not one place for the code.
    #[error("it needs {{code}} once, where the code is to stand")]
    Place,
    /// It is not one line of a message's length.
    #[error("it is one line of at most {MAX_CODE_TEXT} characters")]
    Form,
}

/// Why a code was not sent, as far as is known. The texts hold nothing about the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The program could not be started.
    #[error("the program cannot be started: {0}")]
    NotStarted(io::ErrorKind),
    /// The program ended with another status than 0.
    #[error("the program failed: {}", .0.map_or("a signal ended it".to_owned(), |status| format!("exit status {status}")))]
    Failed(Option<i32>),
    /// Nobody answers at the webhook, or not so that a certificate of the system's shows who it is.
    #[error("the webhook cannot be reached")]
    NotReached,
    /// The webhook answered with another status than 200 to 299.
    #[error("the webhook failed: status {0}")]
    Refused(u16),
    /// It took longer than a code may take.
    #[error("it took too long")]
    TooSlow,
}

/// A text with a code in it. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageText(Zeroizing<String>);

/// A text on its way to a number.
struct Message<'a> {
    number: &'a PhoneNumber,
    text: MessageText,
}

#[derive(Debug)]
enum Way {
    Console,
    Command(CodeCommand),
    Webhook(Box<CodeWebhook>),
}

impl CodeSender {
    /// One that shows codes on the server's console: for development, and for a desk that reads them out.
    pub const fn to_console(text: CodeText) -> Self {
        Self { way: Way::Console, text }
    }

    /// One that gives codes to a program.
    pub const fn by_command(command: CodeCommand, text: CodeText) -> Self {
        Self { way: Way::Command(command), text }
    }

    /// One that gives codes to a webhook.
    pub fn by_webhook(webhook: CodeWebhook, text: CodeText) -> Self {
        Self { way: Way::Webhook(Box::new(webhook)), text }
    }

    /// Sends a code. Where that fails it may have arrived all the same.
    ///
    /// # Errors
    /// [`SendError`] if it is not known to have been sent.
    pub(crate) async fn send(
        &self,
        number: &PhoneNumber,
        code: &OneTimeCode,
        console: &Console,
    ) -> Result<(), SendError> {
        let message = Message { number, text: self.text.with(code) };
        match &self.way {
            Way::Console => {
                console.show(ConsoleEvent::OneTimeCode { number: number.username().clone(), text: message.text });
                Ok(())
            }
            Way::Command(command) => command.send(&message).await,
            Way::Webhook(webhook) => webhook.send(&message).await,
        }
    }
}

impl CodeText {
    /// Reads a text: one line of at most [`MAX_CODE_TEXT`] characters with `{code}` in it, once.
    ///
    /// # Errors
    /// [`CodeTextError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, CodeTextError> {
        if text.chars().count() > MAX_CODE_TEXT || text.chars().any(char::is_control) {
            return Err(CodeTextError::Form);
        }
        match text.split_once(PLACE) {
            Some((before, after)) if !after.contains(PLACE) => {
                Ok(Self { before: before.to_owned(), after: after.to_owned() })
            }
            Some(_) | None => Err(CodeTextError::Place),
        }
    }

    fn with(&self, code: &OneTimeCode) -> MessageText {
        // of its full length at once: a string that grows leaves copies behind
        let code = code.reveal();
        let mut text = Zeroizing::new(String::with_capacity(self.before.len() + code.len() + self.after.len()));
        for part in [&*self.before, code, &*self.after] {
            text.push_str(part);
        }
        MessageText(text)
    }
}

impl MessageText {
    /// The text, for its person. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for MessageText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for MessageText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageText(..)")
    }
}

const PLACE: &str = "{code}";

/// Most characters of a text, the place for the code included: two short messages.
pub const MAX_CODE_TEXT: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_with_one_place_for_the_code() {
        for text in ["{code}", "Your code is {code}.", "{code} ist Ihr Code, für 10 Minuten"] {
            assert!(CodeText::parse(text).is_ok(), "{text}");
        }
        assert!(CodeText::parse(&format!("{{code}}{}", "x".repeat(MAX_CODE_TEXT - 6))).is_ok());
        for (text, error) in [
            ("", CodeTextError::Place),
            ("Your code", CodeTextError::Place),
            ("{code} {code}", CodeTextError::Place),
            ("{Code}", CodeTextError::Place),
            ("{code}\n", CodeTextError::Form),
            (&format!("{{code}}{}", "x".repeat(MAX_CODE_TEXT - 5)), CodeTextError::Form),
        ] {
            assert_eq!(CodeText::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn errors_say_what_failed_in_one_line() {
        for (error, text) in [
            (SendError::NotStarted(io::ErrorKind::NotFound), "the program cannot be started: entity not found"),
            (SendError::Failed(Some(3)), "the program failed: exit status 3"),
            (SendError::Failed(None), "the program failed: a signal ended it"),
            (SendError::Refused(500), "the webhook failed: status 500"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}

//! Owns how the system's errors are told to a person: in words, without numbers and without the names of calls.

use std::fmt::Display;

/// An error's words, without those that are of use to programmers only: `Connection refused (os error 111)` becomes
/// `Connection refused`.
pub fn in_words(error: impl Display) -> String {
    let mut rest = &*error.to_string().replace(RESOLVER_CALL, "");
    let mut words = String::with_capacity(rest.len());
    while let Some((before, after)) = rest.split_once(NUMBER_OPENS) {
        let after_digits = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
        words.push_str(before);
        rest = if let Some(after_number) = after_digits.strip_prefix(')') {
            after_number
        } else {
            words.push_str(NUMBER_OPENS);
            after
        };
    }
    words.push_str(rest);
    words
}

/// How the standard library begins the number of a system error.
const NUMBER_OPENS: &str = " (os error ";

/// How it begins an error of the resolver.
const RESOLVER_CALL: &str = "failed to lookup address information: ";

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_system_error_is_told_without_its_number() {
        for number in [2, 111] {
            let told = in_words(io::Error::from_raw_os_error(number));
            assert!(!told.contains("os error") && !told.is_empty(), "{told}");
        }
        assert_eq!(in_words("no: a (os error 2); b (os error 13)"), "no: a; b");
        assert_eq!(in_words("a (os error x) b (os error 1"), "a (os error x) b (os error 1");
        assert_eq!(
            in_words("x has no address: failed to lookup address information: unknown"),
            "x has no address: unknown"
        );
    }
}

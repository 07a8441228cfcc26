//! Owns how the values on the command line are read, and why one is refused: in words that do not hold the value, which may
//! be a secret.

use std::net::IpAddr;

use bluetrace_server::code_sender::{CodeCommand, CodeText, WebhookUrl};

use super::HttpPlace;

/// Reads a duration such as `15m`, `21d`, `1h 30m`, or a plain number of seconds: 1 second to 136 years.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| "not a duration such as 90s, 15m, 12h or 21d".to_owned())?
            .as_secs(),
    };
    u32::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "a duration is a second or more, and 136 years at the most".to_owned())
}

pub(super) fn code_number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "a code is taken back by its number, which `bluetrace code list` shows".to_owned())
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "a port is a number from 0 to 65535".to_owned())
}

pub(super) fn block_duration(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "a block lasts a whole number of seconds".to_owned())
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "not an IPv4 or IPv6 address".to_owned())
}

pub(super) fn http_place(text: &str) -> Result<HttpPlace, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(HttpPlace::Off);
    }
    let place = text.parse().map(HttpPlace::At);
    place.map_err(|_| "not an address and port such as 127.0.0.1:4080 or [::]:4080, and not `off`".to_owned())
}

pub(super) fn code_command(text: &str) -> Result<CodeCommand, String> {
    CodeCommand::parse(text).ok_or_else(|| "a program is needed".to_owned())
}

pub(super) fn code_webhook(text: &str) -> Result<WebhookUrl, String> {
    WebhookUrl::parse(text).map_err(|error| error.to_string())
}

pub(super) fn code_text(text: &str) -> Result<CodeText, String> {
    CodeText::parse(text).map_err(|error| error.to_string())
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a whole number, 1 or more, is needed".to_owned())
}

pub(super) fn temp_id_lifetime(text: &str) -> Result<u32, String> {
    const DAY_S: u32 = 24 * 60 * 60;
    seconds(text).and_then(|seconds| {
        if seconds <= DAY_S { Ok(seconds) } else { Err("a TempID lives a day at the most".to_owned()) }
    })
}

pub(super) fn key_period(text: &str) -> Result<u32, String> {
    const MINUTE_S: u32 = 60;
    seconds(text).and_then(|seconds| {
        if seconds >= MINUTE_S { Ok(seconds) } else { Err("a key seals for a minute or longer".to_owned()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_units_or_as_seconds() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("21d", 1_814_400), ("1h 30m", 5_400)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "-5", "0s", "fifteen", "15 parsecs", "9999999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(temp_id_lifetime("24h").is_ok() && temp_id_lifetime("25h").is_err());
    }

    #[test]
    fn the_https_api_is_at_an_address_and_port_or_off() {
        assert_eq!(http_place("off"), Ok(HttpPlace::Off));
        assert_eq!(http_place("[::1]:0"), Ok(HttpPlace::At("[::1]:0".parse().unwrap())));
        for text in ["", "4080", "127.0.0.1", "localhost:4080", "127.0.0.1:65536"] {
            assert!(http_place(text).is_err(), "{text}");
        }
    }
}

//! Owns what a person reads: every event of a device, and the help, as lines with a tone.

use bluetrace_protocol::{ContactLogEntry, ExposureNotice, ReadReport, Record, Timestamp, UploadSummary};

use super::command::COMMANDS;
use crate::device::{Connection, Contact, DeviceEvent, End, NextTry, Status, UnfinishedUpload};
use crate::uplink::Transport;

/// How a line is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Something that stands out: a heading.
    Strong,
    Good,
    Bad,
    /// Something beside the point.
    Aside,
}

/// A line to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) tone: Tone,
    pub(super) text: String,
}

/// An event's lines. None for those that are shown in another way.
#[expect(clippy::too_many_lines, reason = "a list with an entry for each event")]
pub(super) fn of_event(event: &DeviceEvent) -> Vec<Line> {
    match event {
        DeviceEvent::ServerTrusted { server, fingerprint, file } => vec![
            strong(format!("first contact with {server}; its certificate is")),
            plain(fingerprint.to_string()),
            aside(format!(
                "remembered in {}; the server prints the same when it starts, if nobody is in between",
                file.display()
            )),
        ],
        DeviceEvent::LogFileRead { file, report } => of_report(&file.display().to_string(), report),
        DeviceEvent::PasswordRequired | DeviceEvent::UploadProgress { .. } => Vec::new(),
        DeviceEvent::Welcome => vec![good("Welcome to the BlueTrace Simulator!")],
        DeviceEvent::WrongPassword { text } => vec![bad(text)],
        DeviceEvent::Disconnected { why, retry_in } => vec![bad(format!(
            "disconnected: {why}; reconnecting by itself, first in {:.1} s. Beacons go on.",
            retry_in.as_secs_f64()
        ))],
        DeviceEvent::Resumed { moved_to: None } => vec![good("connected again")],
        DeviceEvent::Resumed { moved_to: Some(server) } => vec![good(format!("connected again, to {server}"))],
        DeviceEvent::TempIdIssued(record) => of_temp_id(record),
        DeviceEvent::TempIdHeld { record, why } => {
            let mut lines = of_temp_id(record);
            lines.push(aside(format!("this one is at hand; no fresh one can be had: {why}")));
            lines
        }
        DeviceEvent::TempIdFailed { why } => vec![bad(format!("no TempID can be had: {why}"))],
        DeviceEvent::TempIdsRefilled { count, until } => {
            vec![aside(format!("{count} TempIDs downloaded; beacons can be sent until {until} UTC"))]
        }
        DeviceEvent::NoTempId { had_one: true } => {
            vec![bad("the TempID has expired. Use Download_tempID to get a new one")]
        }
        DeviceEvent::NoTempId { had_one: false } => {
            vec![bad("there is no TempID to send. Use Download_tempID first")]
        }
        DeviceEvent::BeaconSent { record, to } => {
            vec![plain(record.reveal()), aside(format!("sent to {to}"))]
        }
        DeviceEvent::BeaconRefused { to } => vec![bad(format!("nobody listens at {to}"))],
        DeviceEvent::BeaconFailed { target, why } => {
            vec![bad(format!("no beacon was sent to {} port {}: {why}", target.host, target.port))]
        }
        DeviceEvent::BeaconHeard { record, now, is_valid } => vec![
            strong("received beacon:"),
            plain(record.reveal()),
            plain("Current time is:"),
            plain(now.to_string()),
            if *is_valid { good("The beacon is valid.") } else { bad("The beacon is invalid.") },
        ],
        DeviceEvent::BeaconDropped { from, why } => {
            vec![aside(format!("something from {from} was dropped, for {why} (said once a minute)"))]
        }
        DeviceEvent::BeaconsUnshown { count: 1 } => vec![aside("1 further beacon was heard and is not shown")],
        DeviceEvent::BeaconsUnshown { count } => {
            vec![aside(format!("{count} further beacons were heard and are not shown"))]
        }
        DeviceEvent::ContactForgotten { count: 1 } => vec![aside("1 contact is over and was forgotten")],
        DeviceEvent::ContactForgotten { count } => vec![aside(format!("{count} contacts are over and were forgotten"))],
        DeviceEvent::UploadEmpty => vec![plain("the contact log is empty: there is nothing to upload")],
        DeviceEvent::UploadUnderWay { acknowledged, total, beyond, is_followed } => {
            let mut lines = vec![plain(format!(
                "an earlier upload comes first: {acknowledged} of its {total} records are acknowledged"
            ))];
            lines.extend(of_contacts_beyond(*beyond, *is_followed));
            lines
        }
        DeviceEvent::UploadStarted { records, kept, is_connected } => of_records(records, *kept, *is_connected),
        DeviceEvent::UploadContinued { acknowledged, total } => {
            vec![aside(format!("going on with the upload: {acknowledged} of {total} records are acknowledged already"))]
        }
        DeviceEvent::RecordRefused { message } => vec![bad(format!("the authority refused a record: {message}"))],
        DeviceEvent::UploadComplete(summary) => vec![good(of_summary(summary))],
        DeviceEvent::UploadFailed { why, next_try, file } => {
            of_failed_upload(why, *next_try, &file.display().to_string())
        }
        DeviceEvent::HandshakePin { pin, expires } => vec![
            strong("PIN:"),
            plain(pin.reveal()),
            aside(format!(
                "until {expires} UTC. Ask the official for it, and do not say it yourself: who cannot tell it is none"
            )),
        ],
        DeviceEvent::Notices { notices, .. } if notices.is_empty() => vec![plain("there are no new notices")],
        DeviceEvent::Notices { notices, now } => notices.iter().flat_map(|notice| of_notice(notice, *now)).collect(),
        DeviceEvent::RequestFailed { why } => vec![bad(format!("that cannot be done: {why}"))],
        DeviceEvent::LogFileChangedOutside { file } => vec![bad(format!(
            "{} was changed by something else; it is written again from what this client holds",
            file.display()
        ))],
        DeviceEvent::FileFailing { file, why } => {
            vec![bad(format!("cannot use {}: {why}; going on with what is in memory", file.display()))]
        }
        DeviceEvent::LogFileRecovered { file } => {
            vec![good(format!("{} is written again, and whole", file.display()))]
        }
        DeviceEvent::ClockSetBack { seconds } => vec![bad(format!(
            "the clock of this machine was set back by {seconds} s; the device's time goes on as before"
        ))],
        DeviceEvent::Status(status) => of_status(status),
        DeviceEvent::Contacts { total, newest, now } => of_contacts(*total, newest, *now),
        DeviceEvent::Ended(end) => of_end(end),
    }
}

/// The list of commands.
pub(super) fn help() -> Vec<Line> {
    let width = COMMANDS.iter().map(|(name, takes, _)| name.len() + takes.len() + 1).max().unwrap_or_default();
    COMMANDS
        .iter()
        .map(|(name, takes, about)| plain(format!("  {:width$}  {about}", format!("{name} {takes}"))))
        .collect()
}

pub(super) fn plain(text: impl Into<String>) -> Line {
    Line { tone: Tone::Plain, text: text.into() }
}

fn strong(text: impl Into<String>) -> Line {
    Line { tone: Tone::Strong, text: text.into() }
}

fn good(text: impl Into<String>) -> Line {
    Line { tone: Tone::Good, text: text.into() }
}

pub(super) fn bad(text: impl Into<String>) -> Line {
    Line { tone: Tone::Bad, text: text.into() }
}

pub(super) fn aside(text: impl Into<String>) -> Line {
    Line { tone: Tone::Aside, text: text.into() }
}

/// A duration with its two largest units.
fn of_seconds(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes:02} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

fn of_temp_id(record: &Record) -> Vec<Line> {
    vec![
        strong("TempID:"),
        plain(record.temp_id.reveal()),
        aside(format!("valid from {} to {} UTC", record.window.start(), record.window.expiry())),
    ]
}

fn of_report(file: &str, report: &ReadReport) -> Vec<Line> {
    let mut lines = Vec::new();
    if report.torn {
        lines.push(bad(format!("{file}: the last line had been cut off and was dropped; the others are there")));
    }
    if report.malformed > 0 {
        let numbers: Vec<String> = report.malformed_lines.iter().map(usize::to_string).collect();
        let more = if report.malformed > numbers.len() { ", ..." } else { "" };
        let numbers = numbers.join(", ");
        let noun = if report.malformed == 1 { "line" } else { "lines" };
        lines.push(bad(format!("{file}: left out {} malformed {noun}: {numbers}{more}", report.malformed)));
    }
    if report.surplus > 0 {
        lines.push(bad(format!("{file}: left out the {} oldest lines, more than can be kept", report.surplus)));
    }
    lines
}

fn of_contacts_beyond(count: usize, is_followed: bool) -> Option<Line> {
    let noun = match count {
        0 => return None,
        1 => "1 contact in the log is".to_owned(),
        many => format!("{many} contacts in the log are"),
    };
    let what = if is_followed {
        "another upload takes what is there then, as soon as this one is complete"
    } else {
        "another upload takes what is there then: Upload_contact_log, once this one is complete"
    };
    Some(bad(format!("{noun} not in it; {what}")))
}

fn of_failed_upload(why: &str, next_try: NextTry, file: &str) -> Vec<Line> {
    let refused = || bad(format!("the authority does not take the upload: {why}"));
    let kept = || aside(format!("the upload is kept in {file} until then"));
    match next_try {
        NextTry::In(wait) => {
            let wait = of_seconds(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX));
            vec![bad(format!("the upload did not go through: {why}; tried again in {wait}"))]
        }
        NextTry::NextSession => {
            vec![bad(format!(
                "the upload did not go through: {why}; it is kept in {file} and tried again at the next login"
            ))]
        }
        NextTry::WhenAsked => vec![refused(), plain("to try it again: Upload_contact_log"), kept()],
        NextTry::WithCode => vec![
            refused(),
            plain("ask the health official for a code, and give it with: Upload_contact_log <code>"),
            kept(),
        ],
    }
}

fn of_records(records: &[ContactLogEntry], kept: usize, is_connected: bool) -> Vec<Line> {
    let shown = if records.len() > MOST_SHOWN { FIRST_SHOWN } else { records.len() };
    let mut lines = vec![match records.len() {
        1 => strong("uploading 1 record:"),
        count => strong(format!("uploading {count} records:")),
    }];
    lines.extend(records.iter().take(shown).map(|entry| plain(entry.record.reveal())));
    if records.len() > shown {
        lines.push(aside(format!("... and {} more", records.len() - shown)));
    }
    let added = records.len().saturating_sub(kept);
    if kept > 0 && added > 0 {
        lines.push(aside(format!(
            "{kept} of them had waited in an upload that was not taken, {added} were heard since"
        )));
    }
    if !is_connected {
        lines.push(bad("the authority is away: they are kept, and go by themselves when it is back"));
    }
    lines
}

fn of_summary(summary: &UploadSummary) -> String {
    let UploadSummary { records, resolved, unknown, invalid } = summary;
    let noun = if *records == 1 { "record" } else { "records" };
    format!(
        "upload complete: {records} {noun} acknowledged ({resolved} traced to a person, {unknown} unknown, {invalid} invalid)"
    )
}

/// A notice ends with the window of the last `TempID` that was heard, which may be yet to come: a meeting cannot be.
fn of_notice(notice: &ExposureNotice, now: Timestamp) -> [Line; 2] {
    let to = notice.to.min(now).max(notice.from);
    [
        bad(format!("NOTICE: you met someone who has tested positive, between {} and {to} UTC", notice.from)),
        plain(notice.advice.as_str()),
    ]
}

fn of_status(status: &Status) -> Vec<Line> {
    let transport = match status.transport {
        Transport::Tls => "TLS",
        Transport::Plaintext => "not encrypted",
    };
    let connection = match status.connection {
        Connection::Connected => "connected".to_owned(),
        Connection::Connecting => "connecting".to_owned(),
        Connection::Waiting { retry_in } => format!("away, tried again in {:.1} s", retry_in.as_secs_f64()),
    };
    let temp_id = match &status.temp_id {
        Some(record) => format!(
            "{} ({} left)",
            record.temp_id.reveal(),
            of_seconds(record.window.expiry().plus(1).seconds_since(status.now))
        ),
        None => "none; use Download_tempID".to_owned(),
    };
    let mut lines =
        vec![row("server", &format!("{}, {transport}, {connection}", status.server)), row("TempID", &temp_id)];
    if let Some(until) = status.covered_until {
        lines.push(row("", &format!("beacons can be sent until {until} UTC")));
    }
    let next = status.next_removal.map_or_else(String::new, |removal| {
        format!(", the oldest forgotten in {}", of_seconds(removal.seconds_since(status.now)))
    });
    let contacts = match status.contacts {
        1 => "1 entry".to_owned(),
        many => format!("{many} entries"),
    };
    lines.extend([
        row("contact log", &format!("{contacts}, kept {}{next}", of_seconds(status.retention_s.into()))),
        row("", &status.log_file.display().to_string()),
        row("UDP port", &status.udp.port().to_string()),
        row(
            "beacons",
            &format!("{} valid, {} invalid, {} other datagrams dropped", status.valid, status.invalid, status.dropped),
        ),
    ]);
    if let Some(upload) = &status.upload {
        lines.extend(of_unfinished(upload));
    }
    lines.push(row("time", &format!("{} UTC", status.now)));
    lines
}

fn of_unfinished(upload: &UnfinishedUpload) -> Vec<Line> {
    let UnfinishedUpload { acknowledged, total, heard, is_refused, file } = upload;
    let waits = if *is_refused { "; it waits for Upload_contact_log" } else { "" };
    let mut lines = vec![row("upload", &format!("{acknowledged} of {total} records acknowledged{waits}"))];
    if let Some((first, last)) = heard {
        lines.push(row("", &format!("kept until all are, whatever their age: heard from {first} to {last} UTC")));
    }
    lines.push(row("", &file.display().to_string()));
    lines
}

fn row(name: &str, value: &str) -> Line {
    plain(format!("{name:>12}  {value}"))
}

fn of_contacts(total: usize, newest: &[Contact], now: Timestamp) -> Vec<Line> {
    if newest.is_empty() {
        return vec![plain("the contact log is empty")];
    }
    let mut lines = Vec::with_capacity(newest.len() + 1);
    if total > newest.len() {
        lines.push(aside(format!("{} older entries are not shown", total - newest.len())));
    }
    lines.extend(newest.iter().map(|Contact { entry, removal }| {
        let age = of_seconds(now.seconds_since(entry.received));
        let left = of_seconds(removal.seconds_since(now));
        plain(format!("{}  {age} ago, forgotten in {left}", entry.record.reveal()))
    }));
    lines
}

fn of_end(end: &End) -> Vec<Line> {
    match end {
        End::LoggedOut => vec![aside("logged out")],
        End::LeftOffline { why } => vec![bad(format!("ended without telling the authority: {why}"))],
        End::Blocked { text } | End::Refused { text } => vec![bad(text)],
        End::LoginLost { why } => vec![bad(format!("the login failed: {why}"))],
        End::NoFiles(error) => vec![bad(error.to_string())],
        End::PasswordChanged => {
            vec![bad("the authority no longer accepts this password; start again with the new one")]
        }
        End::NoAccount => {
            vec![bad(
                "the account no longer exists at this authority: it was withdrawn, or its operator has removed it",
            )]
        }
        End::CertificateChanged(changed) => {
            let warning = format!("WARNING: {}", changed.at_length());
            warning.lines().map(bad).collect()
        }
        End::Abandoned => Vec::new(),
    }
}

/// Of more records than this only the first are shown (PROTOCOL section 4.4).
const MOST_SHOWN: usize = 100;
const FIRST_SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_shows_no_meeting_that_is_yet_to_come() {
        let at = |text| Timestamp::parse(text).unwrap();
        let (from, to) = (at("13/05/2020 17:54:06"), at("13/05/2020 18:09:05"));
        let notice = ExposureNotice { from, to, advice: "Stay at home.".into() };
        let shown = |now| of_notice(&notice, at(now))[0].text.clone();
        assert!(shown("13/05/2020 18:00:00").ends_with("between 13/05/2020 17:54:06 and 13/05/2020 18:00:00 UTC"));
        assert!(shown("14/05/2020 18:00:00").ends_with("between 13/05/2020 17:54:06 and 13/05/2020 18:09:05 UTC"));
        // the device's clock is slow
        assert!(shown("13/05/2020 17:00:00").ends_with("between 13/05/2020 17:54:06 and 13/05/2020 17:54:06 UTC"));
    }
}

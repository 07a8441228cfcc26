//! Owns `bluetrace export`: what the authority holds, as CSV or JSON lines on standard output, also while the server runs.

use std::io::Write;
use std::sync::Arc;

use bluetrace_authority::Authority;
use bluetrace_authority::passwords::InlinePool;
use bluetrace_authority::store::{Store, UploadRow};
use bluetrace_authority::trace::{Trace, TracedRecord};
use bluetrace_protocol::{Clock as _, Timestamp};
use serde::Serialize;

use crate::command_line::{ExportFormat, ExportKind, ExportOptions};
use crate::installation::Installation;
use crate::runtime::block_on;
use crate::system::{self, SystemClock, to_stdout};

pub(crate) fn run(options: &ExportOptions) -> anyhow::Result<()> {
    let installation = Installation::open_existing(&options.folder, Arc::new(InlinePool))?;
    let (authority, now) = (&installation.authority, SystemClock.now());
    if options.what == ExportKind::Tempids
        && !block_on(async { Ok(authority.store().sealing_keys(now).await?) })?.is_empty()
    {
        system::say(
            "sealed TempIDs are not listed: they are not stored, and open with their keys (`bluetrace keys list`)",
        );
    }
    to_stdout(|out| match (options.what, options.format) {
        (ExportKind::Tempids, ExportFormat::Csv) => block_on(temp_ids(authority.store(), now, |row| {
            Ok(writeln!(out, "{} {} {} {}", row.username, row.temp_id, row.start, row.expiry)?)
        })),
        (ExportKind::Tempids, ExportFormat::Jsonl) => {
            let mut rows = Rows::new(ExportFormat::Jsonl, out);
            block_on(temp_ids(authority.store(), now, |row| rows.write(&row)))
        }
        (ExportKind::Uploads, format) => {
            let mut rows = Rows::new(format, out);
            rows.header(&["upload", "uploader", "records", "received", "complete", "begun", "finished"])?;
            block_on(uploads(authority.store(), now, async |upload| rows.write(&UploadLine::of(&upload))))
        }
        (ExportKind::Contacts, format) => {
            let mut rows = Rows::new(format, out);
            rows.header(&["uploader", "upload", "contact", "start", "expiry", "received", "temp_id", "status"])?;
            block_on(contacts(authority, now, |mut line| {
                // the columns of a table stay as they are
                line.distance_s = line.distance_s.filter(|_| format == ExportFormat::Jsonl);
                rows.write(&line)
            }))
        }
    })
}

/// A line of `export tempids`.
#[derive(Serialize)]
struct TempIdLine {
    username: String,
    temp_id: String,
    start: String,
    expiry: String,
}

/// A line of `export uploads`.
#[derive(Serialize)]
struct UploadLine {
    upload: String,
    uploader: String,
    records: u32,
    received: u32,
    complete: bool,
    begun: String,
    finished: Option<String>,
}

/// A line of `export contacts`: one uploaded record.
#[derive(Serialize)]
struct ContactLine {
    uploader: String,
    upload: String,
    contact: Option<String>,
    start: Option<String>,
    expiry: Option<String>,
    received: Option<String>,
    temp_id: Option<String>,
    status: &'static str,
    /// Seconds from the window to the moment of a record outside it: negative before its start, positive after its expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    distance_s: Option<i64>,
}

async fn temp_ids(
    store: &dyn Store,
    now: Timestamp,
    mut write: impl FnMut(TempIdLine) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let page = store.temp_ids(last.take(), PAGE, now).await?;
        let Some(line) = page.last() else { return Ok(()) };
        last = Some(line.clone());
        for line in page {
            write(TempIdLine {
                username: line.username.reveal().to_owned(),
                temp_id: line.record.temp_id.reveal().to_owned(),
                start: line.record.window.start().to_string(),
                expiry: line.record.window.expiry().to_string(),
            })?;
        }
    }
}

async fn uploads(
    store: &dyn Store,
    now: Timestamp,
    mut write: impl AsyncFnMut(UploadRow) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let page = store.uploads(last.take(), PAGE, now).await?;
        let Some(upload) = page.last() else { return Ok(()) };
        last = Some(upload.key);
        for upload in page {
            write(upload).await?;
        }
    }
}

async fn contacts(
    authority: &Authority,
    now: Timestamp,
    mut write: impl FnMut(ContactLine) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    uploads(authority.store(), now, async |upload| {
        let mut first = 0;
        loop {
            let page = authority.traced_records(upload.key, first, PAGE, now).await?;
            if page.is_empty() {
                return Ok(());
            }
            first += u32::try_from(page.len())?;
            for traced in page {
                write(ContactLine::of(&upload, traced))?;
            }
        }
    })
    .await
}

impl UploadLine {
    fn of(upload: &UploadRow) -> Self {
        Self {
            upload: upload.upload.reveal().to_owned(),
            uploader: upload.uploader.reveal().to_owned(),
            records: upload.records,
            received: upload.durable,
            complete: upload.finished.is_some(),
            begun: upload.begun.to_string(),
            finished: upload.finished.map(|(finished, _)| finished.to_string()),
        }
    }
}

impl ContactLine {
    fn of(upload: &UploadRow, traced: TracedRecord) -> Self {
        let (status, owner) = match traced.trace {
            Trace::Resolved(owner) => ("resolved", Some(owner)),
            Trace::Expired(owner) => ("expired", Some(owner)),
            Trace::Unknown => ("unknown", None),
            Trace::Invalid => ("invalid", None),
        };
        // what the authority issued is the truth; only of an unknown id the device's word is all there is
        let said = traced.record.as_ref().map(|uploaded| uploaded.record.window);
        let window = owner.as_ref().map(|owner| owner.window).or(said);
        let received = traced.record.as_ref().and_then(|uploaded| uploaded.received);
        let distance_s = owner.as_ref().zip(received).filter(|_| status == "expired").map(|(owner, received)| {
            received.seconds_since(owner.window.expiry()).max(0) + received.seconds_since(owner.window.start()).min(0)
        });
        Self {
            uploader: upload.uploader.reveal().to_owned(),
            upload: upload.upload.reveal().to_owned(),
            contact: owner.map(|owner| owner.username.reveal().to_owned()),
            start: window.map(|window| window.start().to_string()),
            expiry: window.map(|window| window.expiry().to_string()),
            received: received.map(|time| time.to_string()),
            temp_id: traced.record.map(|uploaded| uploaded.record.temp_id.reveal().to_owned()),
            status,
            distance_s,
        }
    }
}

/// Rows on their way out, in one format.
enum Rows<'a> {
    Csv(Box<csv::Writer<&'a mut dyn Write>>),
    Jsonl(&'a mut dyn Write),
}

impl<'a> Rows<'a> {
    fn new(format: ExportFormat, out: &'a mut dyn Write) -> Self {
        match format {
            ExportFormat::Csv => Self::Csv(Box::new(csv::WriterBuilder::new().has_headers(false).from_writer(out))),
            ExportFormat::Jsonl => Self::Jsonl(out),
        }
    }

    /// Writes the names of the columns, where there are columns: also when no row follows.
    fn header(&mut self, columns: &[&str]) -> anyhow::Result<()> {
        match self {
            Self::Csv(writer) => Ok(writer.write_record(columns)?),
            Self::Jsonl(_) => Ok(()),
        }
    }

    fn write(&mut self, row: &impl Serialize) -> anyhow::Result<()> {
        match self {
            Self::Csv(writer) => Ok(writer.serialize(row)?),
            Self::Jsonl(out) => Ok(writeln!(out, "{}", serde_json::to_string(row)?)?),
        }
    }
}

/// Rows read together: bounds memory, however much there is.
const PAGE: u32 = 10_000;

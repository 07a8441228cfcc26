//! Owns `bluetrace code` and `bluetrace pin`: what an official hands out, from the command line, also while the server runs.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use bluetrace_authority::codes::{CodeOrder, CodeOrdered};
use bluetrace_authority::passwords::InlinePool;
use bluetrace_authority::store::{CodeRevoked, CodeState, UploadCodeId, UploadCodeRow};
use bluetrace_protocol::{Clock as _, Username};

use crate::command_line::{AuthorityFolder, CodeAction, CodeIssue, CodeOptions, PinOptions};
use crate::installation::Installation;
use crate::runtime::block_on;
use crate::system::{self, SystemClock, to_stdout};

pub(crate) fn run(options: CodeOptions) -> anyhow::Result<()> {
    match options.action {
        CodeAction::Issue(issue) => to_stdout(|out| self::issue(issue, out)),
        CodeAction::List { folder } => to_stdout(|out| list(&folder, out)),
        CodeAction::Unblock { username, folder } => to_stdout(|out| unblock(&username, &folder, out)),
        CodeAction::Revoke { number, folder } => to_stdout(|out| revoke(UploadCodeId(number), &folder, out)),
    }
}

/// Shows the PIN that the person's device shows.
pub(crate) fn pin(options: &PinOptions) -> anyhow::Result<()> {
    let username = Username::parse(&options.username)?;
    let installation = Installation::open_existing(&options.folder, Arc::new(InlinePool))?;
    let pin = block_on(async { Ok(installation.authority.handshake_pin_of(username, SystemClock.now()).await?) })?;
    let Some((pin, ends)) = pin else {
        bail!("there is no account of that name; `bluetrace user list` shows them");
    };
    to_stdout(|out| {
        writeln!(out, "{}", pin.reveal())?;
        Ok(writeln!(out, "until {ends} UTC; the device shows the same with Show_PIN")?)
    })
}

fn issue(issue: CodeIssue, out: &mut dyn Write) -> anyhow::Result<()> {
    let form = issue.length.form();
    let valid_s = issue.valid_for.unwrap_or(form.usual_lifetime_s());
    ensure!(
        valid_s <= form.longest_lifetime_s(),
        "a code of {} characters is valid for {} at the most, so that it cannot be guessed; use a smaller --valid-for",
        form.characters(),
        humantime::format_duration(Duration::from_secs(form.longest_lifetime_s().into()))
    );
    let case = issue.case.unwrap_or_default();
    let issued_by = issue.issued_by.map_or_else(system::user_name, Ok)?;
    for (what, text) in [("--case", &case), ("--issued-by", &issued_by)] {
        let is_line = text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control);
        ensure!(is_line, "{what} takes at most {MAX_TEXT} characters on one line");
    }
    let installation = Installation::open_existing(&issue.folder, Arc::new(InlinePool))?;
    let order = CodeOrder { form, case: case.clone(), issued_by: issued_by.clone(), valid_s };
    let ordered = block_on(async { Ok(installation.authority.issue_upload_code(order, SystemClock.now()).await?) })?;
    match ordered {
        CodeOrdered::Issued { id: UploadCodeId(number), code, expires } => {
            // on a line of its own: a script takes the first, and it is shown this once
            writeln!(out, "{}", code.reveal())?;
            Ok(writeln!(out, "number {number}  {}  issued by {issued_by}  until {expires} UTC", named(&case))?)
        }
        CodeOrdered::TooManyLive { max } => bail!(
            "{max} codes of {} characters are waiting, and with more of them guessing would become easy; \
             revoke some, wait until some are used, or issue one of another --length",
            form.characters()
        ),
    }
}

fn list(folder: &AuthorityFolder, out: &mut dyn Write) -> anyhow::Result<()> {
    let installation = Installation::open_existing(folder, Arc::new(InlinePool))?;
    let store = installation.authority.store();
    let mut last = None;
    loop {
        let page = block_on(async { Ok(store.upload_codes(last, PAGE, SystemClock.now()).await?) })?;
        let Some(row) = page.last() else { return Ok(()) };
        last = Some(row.id);
        for row in page {
            writeln!(out, "{}", line(&row))?;
        }
    }
}

fn line(row: &UploadCodeRow) -> String {
    let UploadCodeRow { id: UploadCodeId(number), form, case, issued_by, issued, expires, state } = row;
    let state = match state {
        CodeState::Live => format!("live until {expires}"),
        CodeState::Redeemed { by, at } => format!("redeemed by {} at {at}", by.reveal()),
        CodeState::Used { by, at } => format!("used by {} at {at}", by.reveal()),
        CodeState::Revoked { at } => format!("revoked at {at}"),
    };
    let characters = form.characters();
    format!("{number}  {}  {characters} characters  issued by {issued_by} at {issued}  {state}", named(case))
}

fn revoke(id: UploadCodeId, folder: &AuthorityFolder, out: &mut dyn Write) -> anyhow::Result<()> {
    let installation = Installation::open_existing(folder, Arc::new(InlinePool))?;
    let store = installation.authority.store();
    match block_on(async { Ok(store.revoke_upload_code(id, SystemClock.now()).await?) })? {
        CodeRevoked::Revoked => Ok(writeln!(
            out,
            "revoked: it lets nobody in, and an upload begun with it that is not complete is dropped"
        )?),
        CodeRevoked::Used => bail!("the upload of code {} is complete: there is nothing left to revoke", id.0),
        CodeRevoked::NoSuchCode => bail!("there is no code {}; `bluetrace code list` shows them", id.0),
    }
}

fn unblock(username: &str, folder: &AuthorityFolder, out: &mut dyn Write) -> anyhow::Result<()> {
    let username = Username::parse(username)?;
    let installation = Installation::open_existing(folder, Arc::new(InlinePool))?;
    let store = installation.authority.store();
    match block_on(async { Ok(store.forgive_wrong_codes(username, SystemClock.now()).await?) })? {
        None => bail!("there is no account of that name; `bluetrace user list` shows them"),
        Some(0) => bail!("no wrong upload code counts against that account: nothing was changed"),
        Some(1) => Ok(writeln!(out, "1 wrong code counts no more")?),
        Some(count) => Ok(writeln!(out, "{count} wrong codes count no more")?),
    }
}

fn named(case: &str) -> String {
    if case.is_empty() { "no case".to_owned() } else { format!("case {case}") }
}

/// Longest `--case` and `--issued-by`, in characters.
const MAX_TEXT: usize = 128;

/// Codes read together.
const PAGE: u32 = 1_000;

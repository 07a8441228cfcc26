//! Owns `bluetrace user`: accounts, from the operator's command line, also while the server runs.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::{bail, ensure};
use bluetrace_authority::Policy;
use bluetrace_authority::passwords::InlinePool;
use bluetrace_authority::store::{Account, CodeForm, Store};
use bluetrace_protocol::{Clock as _, Timestamp, Username};
use bluetrace_server::data_folder::DataFolder;

use crate::command_line::{AuthorityFolder, NamedUser, UserAction, UserOptions};
use crate::installation::Installation;
use crate::meant;
use crate::passwords;
use crate::runtime::block_on;
use crate::system::{SystemClock, to_stdout};

pub(crate) fn run(options: UserOptions) -> anyhow::Result<()> {
    match options.action {
        UserAction::Add(user) => add(&user),
        UserAction::List { folder } => to_stdout(|out| list(&folder, out)),
        UserAction::Remove { username, yes, folder } => remove(&username, yes, &folder),
        UserAction::Password(user) => set_password(&user),
    }
}

fn add(user: &NamedUser) -> anyhow::Result<()> {
    let username = Username::parse(&user.username)?;
    let folder = DataFolder::open(&user.folder.data_dir)?;
    let installation =
        Installation::open(&folder, user.folder.store.as_ref(), Policy::default(), Arc::new(InlinePool))?;
    // said before anybody types a password, and again if another has opened the account meanwhile
    ensure!(find(&installation, &username)?.is_none_or(|account| account.password_hash.is_none()), ACCOUNT_EXISTS);
    let password = passwords::new_password(&user.password)?;
    let is_new =
        block_on(async { Ok(installation.authority.open_account(username, password, SystemClock.now()).await?) })?;
    ensure!(is_new, ACCOUNT_EXISTS);
    confirm("added")
}

fn set_password(user: &NamedUser) -> anyhow::Result<()> {
    let username = Username::parse(&user.username)?;
    let installation = Installation::open_existing(&user.folder, Arc::new(InlinePool))?;
    ensure!(find(&installation, &username)?.is_some(), NO_SUCH_ACCOUNT);
    let password = passwords::new_password(&user.password)?;
    let is_there = block_on(async { Ok(installation.authority.change_password(username, password).await?) })?;
    ensure!(is_there, NO_SUCH_ACCOUNT);
    confirm("password set; the account's sessions must log in again once they lose their connection")
}

fn remove(username: &str, is_meant: bool, folder: &AuthorityFolder) -> anyhow::Result<()> {
    let username = Username::parse(username)?;
    let installation = Installation::open_existing(folder, Arc::new(InlinePool))?;
    let Some(account) = find(&installation, &username)? else { bail!(NO_SUCH_ACCOUNT) };
    if !is_meant {
        meant::ask(&format!(
            "The account {}, opened {}, goes with its password, its notices, and the contact logs it has uploaded.\n\
             Its TempIDs lead to nobody from then on: whoever uploads an encounter with this person cannot have them told.",
            username.reveal(),
            account.created
        ))?;
    }
    if !block_on(async { Ok(installation.authority.store().remove_account(username).await?) })? {
        bail!(NO_SUCH_ACCOUNT);
    }
    confirm("removed, with its TempIDs, uploads and notices")
}

fn list(folder: &AuthorityFolder, out: &mut dyn io::Write) -> anyhow::Result<()> {
    let installation = Installation::open_existing(folder, Arc::new(InlinePool))?;
    let store = installation.authority.store();
    let guessing = refused_codes(store)?;
    let mut last = None;
    loop {
        let page = block_on(async { Ok(store.accounts(last.take(), PAGE, SystemClock.moment()).await?) })?;
        let Some(account) = page.last() else { return Ok(()) };
        last = Some(account.username.clone());
        for account in page {
            write!(out, "{}  since {}", account.username.reveal(), account.created)?;
            if !account.has_password {
                write!(out, "  no password")?;
            }
            if let Some(until) = account.blocked_until {
                // the list tells whole seconds, and one in which the block is over
                write!(out, "  blocked until {}", until.timestamp_rounded_up())?;
            }
            if let Some(until) = guessing.get(&account.username) {
                write!(out, "  upload codes refused until {until} (`bluetrace code unblock` lets it try again)")?;
            }
            writeln!(out)?;
        }
    }
}

/// Until when no upload code of an account is looked at, for each that has typed too many wrong ones.
fn refused_codes(store: &dyn Store) -> anyhow::Result<BTreeMap<Username, Timestamp>> {
    let (mut refused, mut last, now) = (BTreeMap::new(), None, SystemClock.now());
    loop {
        let page = block_on(async { Ok(store.wrong_upload_codes(last.take(), PAGE, now).await?) })?;
        let Some((name, _)) = page.last() else { return Ok(refused) };
        last = Some(name.clone());
        // an account's limit is the same for all forms
        let limits = CodeForm::Eight.limits();
        refused.extend(page.into_iter().filter_map(|(name, wrong)| Some((name, wrong.refused_until(limits)?))));
    }
}

fn find(installation: &Installation, username: &Username) -> anyhow::Result<Option<Account>> {
    let store = installation.authority.store();
    Ok(block_on(async { Ok(store.login_state(username.clone(), SystemClock.moment()).await?) })?.account)
}

fn confirm(what: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{what}")?;
    Ok(())
}

const ACCOUNT_EXISTS: &str =
    "there is an account of that name already; to set its password, use `bluetrace user password`";

const NO_SUCH_ACCOUNT: &str = "there is no account of that name; `bluetrace user list` shows them";

/// Accounts read together.
const PAGE: u32 = 1_000;

//! Owns what the doctor says of one-time codes: whether what is to send them can be used. Nothing is sent.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Report;
use crate::command_line::RegistrationOptions;
use crate::{registration, system};

impl Report {
    /// How people who register are sent their codes. Nothing is sent.
    pub(super) fn one_time_codes(&mut self, options: &RegistrationOptions) {
        let check = "one-time codes";
        if let Some(token) = &options.webhook_token_file {
            // that it cannot be read is said below
            _ = self.secret_file(check, token, "a token", "");
        }
        if let Some(command) = &options.command {
            let program = Path::new(command.program());
            let shown = program.display();
            match executable(program) {
                Some(found) => self.ok(check, format!("{} sends them", found.display())),
                None => self.error(
                    check,
                    format!("there is no program {shown} that this user may run"),
                    "name it with its path in --code-command, and make it executable",
                ),
            }
        }
        match registration::code_sender(options.clone()) {
            Err(error) => self.error_with_remedy(
                check,
                &*error,
                "see --code-command, --code-webhook and --code-webhook-token-file",
            ),
            Ok(_) if options.webhook.is_some() => self.ok(check, "a webhook sends them"),
            Ok(_) if options.command.is_none() => {
                self.ok(check, "nothing sends them: they are shown on the server's console");
            }
            Ok(_) => {}
        }
    }
}

/// Where a program is that may be run: at its path, or under its name in `PATH`.
fn executable(program: &Path) -> Option<PathBuf> {
    let may_be_run =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & BY_ANYBODY != 0);
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(may_be_run);
    }
    let folders = system::variable("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(may_be_run)
}

/// The bits of a program that somebody may run.
const BY_ANYBODY: u32 = 0o111;

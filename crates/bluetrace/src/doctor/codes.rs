//! Owns what the doctor says of one-time codes: whether what is to send them can be used. Nothing is sent.

use std::path::Path;

use super::Report;
use crate::command_line::RegistrationOptions;
use crate::registration;

impl Report {
    /// How people who register are sent their codes. Nothing is sent.
    /// `is_open` says whether anybody can register: the server has an HTTPS API.
    pub(super) fn one_time_codes(&mut self, options: &RegistrationOptions, is_open: bool) {
        let check = "one-time codes";
        if let Some(token) = &options.webhook_token_file {
            // that it cannot be read is said below
            _ = self.secret_file(check, token, "a token", "");
        }
        if let Some(command) = &options.command {
            // one that is not there is said below
            if let Some(found) = registration::executable(Path::new(command.program())) {
                self.ok(check, format!("{} sends them", found.display()));
            }
        }
        match registration::code_sender(options.clone()) {
            Err(error) => self.error_with_remedy(
                check,
                &*error,
                "see --code-command, --code-webhook and --code-webhook-token-file",
            ),
            Ok(_) if options.webhook.is_some() => self.ok(check, "a webhook sends them"),
            Ok(_) if options.command.is_none() && is_open => self.warning(
                check,
                "nothing sends them: they are shown on the server's console alone, and whoever runs the server as a service never sees them",
                "to let people register, say --code-command or --code-webhook",
            ),
            Ok(_) if options.command.is_none() => {
                self.ok(check, "nothing sends them: they are shown on the server's console");
            }
            Ok(_) => {}
        }
    }
}

//! Owns what the doctor says of the database: the one in the data folder, or the one that servers share.

use bluetrace_authority::store::SealingKeyRow;
use bluetrace_protocol::Timestamp;
use bluetrace_server::data_folder::DataFolder;
use bluetrace_server::postgres::{PostgresOptions, PostgresStore};
use bluetrace_server::sqlite;

use super::{AS_ITS_OWNER, Report, SET_THE_CLOCK};
use crate::command_line::StoreUrl;
use crate::installation;

impl Report {
    /// The sealing keys in it, if it could be read.
    pub(super) fn store(&mut self, folder: &DataFolder, now: Timestamp) -> Option<Vec<SealingKeyRow>> {
        let check = "store";
        let database = folder.database();
        if !database.exists() {
            let found = format!("there is no {}", database.display());
            self.error(check, found, "restore it from a backup, or start `bluetrace server` to begin an empty one");
            return None;
        }
        let inspection = match sqlite::inspect(&database, now) {
            Ok(inspection) => inspection,
            Err(error) => {
                self.error_with_remedy(check, &error, AS_ITS_OWNER);
                return None;
            }
        };
        let (schema, known) = (inspection.schema, inspection.known_schema);
        match &inspection.damage {
            Some(damage) => self.error(
                check,
                format!("the database is damaged: {damage}"),
                "stop the server, and restore the file from a backup",
            ),
            None if schema < known => self.warning(
                check,
                format!("sound, with schema {schema}; this version writes schema {known}"),
                "make a backup and end older servers: the next start brings it up to date, and they refuse it then",
            ),
            None => self.ok(check, format!("sound, with schema {schema}")),
        }
        self.newest(inspection.newest, now);
        inspection.damage.is_none().then_some(inspection.sealing_keys)
    }

    /// The sealing keys in it, if it is this authority's.
    pub(super) fn shared_store(
        &mut self,
        url: &StoreUrl,
        folder: &DataFolder,
        now: Timestamp,
    ) -> Option<Vec<SealingKeyRow>> {
        let check = "store";
        let place = match installation::shared_place(url) {
            Ok(place) => place,
            Err(error) => {
                self.error_with_remedy(check, &*error, "correct the setting `store`");
                return None;
            }
        };
        let shown = place.to_string();
        let mark = folder.existing_master_key().ok().flatten().map(|key| key.mark()).unwrap_or_default();
        let inspection = match PostgresStore::inspect(place, PostgresOptions::default(), &mark, now) {
            Ok(inspection) => inspection,
            Err(error) => {
                self.error_with_remedy(check, &error, "see that the database runs and lets this user in");
                return None;
            }
        };
        let (schema, known) = (inspection.schema, inspection.known_schema);
        match schema {
            _ if !inspection.is_own => self.error(
                check,
                format!("{shown} belongs to another authority or program, or the master key here is not its own"),
                "copy master.key from a server that uses it, or name another database",
            ),
            0 => self.warning(check, format!("{shown} is empty"), "the next start makes its tables"),
            _ if schema > known => self.error(
                check,
                format!("{shown} has schema {schema}; this version knows {known}"),
                "use the newer version that wrote it",
            ),
            _ if schema < known => self.warning(
                check,
                format!("{shown} has schema {schema}; this version writes schema {known}"),
                "make a backup: the next start brings it up to date; servers that run go on meanwhile",
            ),
            _ => self.ok(check, format!("{shown} answers, with schema {schema}")),
        }
        self.newest(inspection.newest, now);
        (inspection.is_own && (1..=known).contains(&schema)).then_some(inspection.sealing_keys)
    }

    fn newest(&mut self, newest: Option<Timestamp>, now: Timestamp) {
        if let Some(newest) = newest.filter(|newest| newest.seconds_since(now) > CLOCK_LEEWAY_S) {
            let found = format!("the clock shows {now}, but the store holds something from {newest}");
            self.error("clock", found, SET_THE_CLOCK);
        }
    }
}

/// What clocks of several servers may differ by.
const CLOCK_LEEWAY_S: i64 = 60;

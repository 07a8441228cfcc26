//! Owns what the doctor says of sealing keys: whether one seals, the next is there in time, none is worn, and none outlives
//! its retention; and whether the master key opens them.

use bluetrace_authority::MasterKey;
use bluetrace_authority::keyring::{KEY_AHEAD_S, SEALS_OF_A_KEY, SEALS_TO_WARN};
use bluetrace_authority::store::{SealingKeyRow, SealingKeyState};
use bluetrace_protocol::Timestamp;

use super::Report;
use crate::command_line::{ServerOptions, TempIdScheme};

impl Report {
    /// Of the store's keys those that the folder's master key, if there is one, opens: the others are an error.
    pub(crate) fn readable_keys(
        &mut self,
        mut keys: Vec<SealingKeyRow>,
        master_key: Option<&MasterKey>,
    ) -> Vec<SealingKeyRow> {
        let lost = master_key.map_or_else(Vec::new, |master_key| SealingKeyRow::unreadable(&keys, master_key));
        if !lost.is_empty() {
            let names: Vec<_> = lost.iter().map(|id| id.0.to_string()).collect();
            self.error(
                CHECK,
                format!(
                    "the master key does not open these: {}; nobody is found by what they sealed",
                    names.join(", ")
                ),
                "end the server, and restore the master.key that they were made with from a backup",
            );
        }
        keys.retain(|key| !lost.contains(&key.id));
        keys
    }

    /// `keys` are the store's, `is_served` says whether a server looks after them.
    pub(super) fn sealing_keys(
        &mut self,
        keys: &[SealingKeyRow],
        server: &ServerOptions,
        is_served: bool,
        now: Timestamp,
    ) {
        let is_sealed = server.tempid_scheme == TempIdScheme::Sealed;
        let unfinished: Vec<_> = keys.iter().filter(|key| key.state == SealingKeyState::Shredding).collect();
        for key in &unfinished {
            self.warning(
                CHECK,
                format!("key {} is to be destroyed, and its bytes are still in the store's files", key.id.0),
                if is_served {
                    "end what reads the database beside the server, which goes on trying".to_owned()
                } else {
                    format!("start the server, or `bluetrace keys shred {}`", key.id.0)
                },
            );
        }
        let live = keys.iter().filter(|key| key.state.is_live()).count();
        let Some(in_use) = SealingKeyRow::in_use(keys, now) else {
            match (is_sealed, is_served) {
                (true, true) => self.error(
                    CHECK,
                    "no key seals now, though a server runs",
                    "examine again in a moment, if it has just started; else its log says why it could not make one",
                ),
                (true, false) => {
                    self.ok(
                        CHECK,
                        format!("none seals now: the server makes one when it starts; {live} can open TempIDs"),
                    );
                }
                // an authority that has never sealed has no keys to speak of
                (false, _) if unfinished.is_empty() && live > 0 => {
                    self.ok(CHECK, format!("none seals; {live} can open older TempIDs"));
                }
                (false, _) => {}
            }
            return;
        };
        let (id, until, seals) = (in_use.id.0, in_use.term.issues_until, in_use.seals);
        let before = self.len();
        if seals >= SEALS_TO_WARN {
            self.warning(
                CHECK,
                format!("key {id} has sealed {seals} TempIDs; at {SEALS_OF_A_KEY} another takes its place"),
                "use a shorter --key-period if that happens more than once in one",
            );
        }
        let is_followed = keys.iter().any(|key| key.state.is_live() && key.term.issues_until > until);
        // half of the time in which it should have been made
        let is_late = until.seconds_since(now) < KEY_AHEAD_S.min(i64::from(server.key_period) / 2) / 2;
        if is_sealed && is_served && is_late && !is_followed {
            self.warning(
                CHECK,
                format!("key {id} seals until {until}, and the next is not made yet"),
                "read the server's log: it makes one as soon as its store can be written",
            );
        }
        if self.len() == before && unfinished.is_empty() {
            self.ok(CHECK, format!("key {id} seals until {until}; {live} open TempIDs"));
        }
    }
}

const CHECK: &str = "sealing keys";

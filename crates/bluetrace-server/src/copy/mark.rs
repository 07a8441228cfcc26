//! Owns the mark that makes a database an unfinished copy, and says where that goes on ([`Mark`]).

use bluetrace_authority::store::StoreError;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::rows::Key;
use super::table::Engine;
use super::tables::TABLES;

/// What a destination says of itself until the copy is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// [`layout`] of the program that made it.
    layout: u64,
    /// The name of its source.
    pub(super) from: String,
    pub(super) at: Position,
}

/// Where a copy goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Position {
    /// In the table of that name, behind a key.
    In(String, Option<Key>),
    /// All rows were copied.
    Compare,
    /// At the beginning, without what is there.
    Again,
}

impl Mark {
    /// The first one of a copy.
    pub(super) fn first(from: &str) -> Self {
        let first = TABLES.first().map_or("", |table| table.name);
        Self { layout: layout(), from: from.to_owned(), at: Position::In(first.to_owned(), None) }
    }

    /// Reads one. `None` if another version of this program made it, with other descriptions of tables.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|mark: &Self| mark.layout == layout())
    }

    /// The mark of the same copy elsewhere on its way.
    pub(super) fn moved(&self, at: Position) -> Self {
        Self { at, ..self.clone() }
    }

    /// As it is kept in the destination.
    pub(super) fn spelt(&self) -> Result<String, StoreError> {
        serde_json::to_string(self).map_err(|_| StoreError::Failed("the mark of the copy cannot be written".into()))
    }
}

/// A number that is another one if anything is read or written in another way.
fn layout() -> u64 {
    let mut hash = Sha256::new();
    for table in &TABLES {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            hash.update(table.select(engine, true, None));
            hash.update(table.inserts(engine).concat());
        }
    }
    let hash = hash.finalize();
    hash.as_slice().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

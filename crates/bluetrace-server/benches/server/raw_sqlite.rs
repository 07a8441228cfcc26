//! SQLite alone: the store's own tables and settings, prepared statements, nothing around them.

use std::path::Path;

use bluetrace_protocol::{Timestamp, UploadedRecord};
use bluetrace_server::sqlite::SqliteStore;
use rusqlite::{Connection, params};
use tempfile::TempDir;

/// One connection to a database.
pub(crate) struct RawSqlite {
    connection: Connection,
    next_place: i64,
}

impl RawSqlite {
    /// A new database in a folder.
    pub(crate) fn open(folder: &TempDir) -> Self {
        let path = folder.path().join("raw.db");
        // the tables are the store's
        SqliteStore::open(&path).unwrap().close();
        Self::beside(&path)
    }

    /// A store's database, beside the store.
    pub(crate) fn beside(path: &Path) -> Self {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4096;
                 PRAGMA temp_store = MEMORY; PRAGMA cache_size = -65536;",
            )
            .unwrap();
        Self { connection, next_place: 1 << 20 }
    }

    /// Inserts records of an upload, a transaction each `batch`.
    pub(crate) fn insert_records(&mut self, records: &[UploadedRecord], batch: usize) {
        for records in records.chunks(batch) {
            let transaction = self.connection.transaction().unwrap();
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO uploaded_record (place, temp_id, start, expiry, received, rssi, seen)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )
                .unwrap();
            for heard in records {
                let window = heard.record.window;
                let row = params![
                    self.next_place,
                    heard.record.temp_id.reveal(),
                    window.start().as_unix(),
                    window.expiry().as_unix(),
                    heard.received.map(Timestamp::as_unix),
                    heard.rssi,
                    heard.seen
                ];
                insert.execute(row).unwrap();
                self.next_place += 1;
            }
            drop(insert);
            transaction.commit().unwrap();
        }
    }

    /// Inserts `TempIDs` with ids and windows of its own making, a transaction each `batch`.
    pub(crate) fn insert_temp_ids(&mut self, ids: &mut impl Iterator<Item = String>, count: usize, batch: usize) {
        let (mut left, start) = (count, crate::system::beginning().as_unix());
        while left > 0 {
            let transaction = self.connection.transaction().unwrap();
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO temp_id (temp_id, account, start, expiry, forget_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                )
                .unwrap();
            for id in ids.take(batch.min(left)) {
                let account = self.next_place % 256 + 1;
                insert.execute(params![id, account, start, start + 899, start + 1_815_300]).unwrap();
                self.next_place += 1;
            }
            drop(insert);
            transaction.commit().unwrap();
            left -= batch.min(left);
        }
    }
}

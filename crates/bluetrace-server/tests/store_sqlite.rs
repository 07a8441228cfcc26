//! The store in SQLite keeps the laws of every store.

use bluetrace_server::sqlite::SqliteStore;
use tempfile::TempDir;

bluetrace_authority::store_conformance!(fresh());

fn fresh() -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("authority.sqlite")).unwrap();
    (folder, store)
}

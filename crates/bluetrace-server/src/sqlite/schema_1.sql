-- Version 1. Times are Unix seconds; `forget_at` is the moment from which a row counts as gone.
-- A number that the outside may remember (account, upload, notice) is never given away twice: AUTOINCREMENT.

CREATE TABLE account (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    username      TEXT    NOT NULL UNIQUE,
    password_hash TEXT,                           -- NULL: exists only because an imported TempID names it
    imported_hash TEXT,
    token_epoch   INTEGER NOT NULL DEFAULT 0,
    created       INTEGER NOT NULL,
    in_a_row      INTEGER NOT NULL DEFAULT 0,     -- failed logins
    blocked_until INTEGER
) STRICT;

-- Failed logins of usernames without an account. A failure gives its row a new, highest age: the lowest is the oldest.
CREATE TABLE stranger (
    age           INTEGER PRIMARY KEY,
    username      TEXT    NOT NULL UNIQUE,
    in_a_row      INTEGER NOT NULL,
    blocked_until INTEGER,
    forget_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX stranger_forget_at ON stranger (forget_at);

-- One row: how many strangers there are, since SQLite would count them one by one.
CREATE TABLE tally (strangers INTEGER NOT NULL) STRICT;
INSERT INTO tally (strangers) VALUES (0);
CREATE TRIGGER stranger_came AFTER INSERT ON stranger BEGIN UPDATE tally SET strangers = strangers + 1; END;
CREATE TRIGGER stranger_went AFTER DELETE ON stranger BEGIN UPDATE tally SET strangers = strangers - 1; END;

-- `forget_at` grows with time, so its index is appended to and costs little.
CREATE TABLE temp_id (
    temp_id   TEXT    PRIMARY KEY,
    account   INTEGER NOT NULL,
    start     INTEGER NOT NULL,
    expiry    INTEGER NOT NULL,
    forget_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX temp_id_account ON temp_id (account);
CREATE INDEX temp_id_forget_at ON temp_id (forget_at);

CREATE TABLE upload (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    account   INTEGER,                            -- NULL: its account was removed, or another upload has its name
    name      TEXT    NOT NULL,                   -- the device's name for it
    records   INTEGER NOT NULL,
    begun     INTEGER NOT NULL,
    forget_at INTEGER NOT NULL,
    finished  INTEGER,                            -- with what came of it:
    counted   INTEGER,
    resolved  INTEGER,
    unknown   INTEGER,
    invalid   INTEGER
) STRICT;
CREATE UNIQUE INDEX upload_name ON upload (account, name);
CREATE INDEX upload_forget_at ON upload (forget_at);

-- Append-only and without a second index, because that is ten times faster (an index on random ids costs a page a row).
-- `place` is `upload << 20 | place in the upload`; an upload has at most 1,000,000 records. The places of an upload are
-- contiguous from 0, so that the highest one tells how many are durable.
CREATE TABLE uploaded_record (
    place    INTEGER PRIMARY KEY,
    temp_id  TEXT,                                -- NULL: malformed, and so is all that follows
    start    INTEGER,
    expiry   INTEGER,
    received INTEGER,
    rssi     INTEGER,
    seen     INTEGER
) STRICT;

CREATE TABLE notice (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    account   INTEGER NOT NULL,
    begins    INTEGER NOT NULL,
    ends      INTEGER NOT NULL,
    advice    TEXT    NOT NULL,
    is_read   INTEGER NOT NULL DEFAULT 0,
    forget_at INTEGER NOT NULL
) STRICT;
CREATE INDEX notice_account ON notice (account);
CREATE INDEX notice_forget_at ON notice (forget_at);

CREATE TABLE revoked_session (
    session   BLOB    PRIMARY KEY,
    forget_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX revoked_session_forget_at ON revoked_session (forget_at);

CREATE TABLE import_note (
    name TEXT PRIMARY KEY,
    note TEXT NOT NULL
) STRICT, WITHOUT ROWID;

//! Owns the descriptions of all tables ([`TABLES`]): what both databases hold, and where they differ in how they hold it. Reading, writing,
//! digesting and checking follow from this list, and a test compares it with the catalogues of both.
//!
//! Numbers that a store gives for itself (of uploads, of notices, the ages of unknown usernames) are not copied: the copy gives its own, as
//! that store does always. Rows name an upload by its account and its name instead. What is out of sight for good is left out: uploads
//! whose account was removed or that gave their name to another, with their records, and the bytes of destroyed keys.

use super::table::{Column, Kind, Role, Side, Table};

/// All tables, each behind those that its rows name.
pub(crate) static TABLES: [Table; 14] = [
    // numbers that the outside may remember are never given again: the highest ones that were given
    Table {
        name: "counter",
        columns: &[Column::new("name", Kind::Text), Column::new("value", Kind::Id)],
        key: &[0],
        sqlite: Side {
            rest: Some(
                "(SELECT c.name, ifnull((SELECT seq FROM sqlite_sequence AS s WHERE s.name = c.name), 0) AS value
                  FROM (SELECT 'account' AS name UNION ALL SELECT 'one_time_code' UNION ALL SELECT 'upload_code') AS c) AS t
                  WHERE {after} ORDER BY t.name {limit}",
            ),
            after: None,
            write: Some(&["INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)"]),
            own: &[],
        },
        postgres: Side {
            rest: Some(
                "(SELECT 'account'::text COLLATE \"C\" AS name, greatest((SELECT max(id) FROM account),
                         (SELECT value FROM latch WHERE name = 'accounts'), 0) AS value
                  UNION ALL SELECT 'one_time_code', greatest((SELECT max(id) FROM one_time_code),
                         (SELECT value FROM latch WHERE name = 'one_time_codes'), 0)
                  UNION ALL SELECT 'upload_code', (SELECT value FROM latch WHERE name = 'codes')) AS t
                 WHERE {after} ORDER BY t.name {limit}",
            ),
            after: None,
            // the rows `accounts` and `one_time_codes` are of use to a later copy alone
            write: Some(&[
                "INSERT INTO latch (name, value)
                 SELECT CASE name WHEN 'upload_code' THEN 'codes' ELSE name || 's' END, value FROM n
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            ]),
            own: &[],
        },
    },
    Table {
        name: "account",
        columns: &[
            Column::new("id", Kind::Id),
            Column::new("username", Kind::Username),
            Column::new("password_hash", Kind::Text).optional(),
            Column::new("imported_hash", Kind::Text).optional(),
            Column::new("token_epoch", Kind::Count),
            Column::new("created", Kind::Time),
            Column::new("in_a_row", Kind::Count),
            Column::new("blocked_until_ms", Kind::TimeMs).optional(),
            Column::new("user_id", Kind::Bytes(21)).optional(),
            Column::new("registered", Kind::Time).optional(),
            // the number of the last notice: PostgreSQL counts for each account, SQLite for all of them
            Column::new("notices", Kind::Id)
                .with_role(Role::Own)
                .in_sqlite("ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'notice'), 0)"),
        ],
        key: &[0],
        sqlite: Side {
            rest: None,
            after: None,
            write: Some(&[
                "INSERT INTO account (id, username, password_hash, imported_hash, token_epoch, created, in_a_row,
                                      blocked_until_ms, user_id, registered)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                // numbers of the copy's own notices come behind all that a device may have seen
                "UPDATE sqlite_sequence SET seq = max(seq, ?11) WHERE name = 'notice'",
            ]),
            own: &[],
        },
        postgres: Side::plain(),
    },
    Table {
        name: "stranger",
        columns: &[
            Column::new("age", Kind::Id)
                .with_role(Role::Order)
                .in_postgres("(extract(epoch FROM t.failed_at) * 1000000)::bigint"),
            Column::new("username", Kind::Username),
            Column::new("in_a_row", Kind::Count),
            Column::new("blocked_until_ms", Kind::TimeMs).optional(),
            Column::new("forget_at", Kind::Time),
        ],
        key: &[0, 1],
        sqlite: Side {
            rest: None,
            after: None,
            write: Some(&["INSERT INTO stranger (username, in_a_row, blocked_until_ms, forget_at)
                           VALUES (?2, ?3, ?4, ?5)"]),
            own: &[],
        },
        postgres: Side {
            rest: Some("stranger AS t WHERE {after} ORDER BY t.failed_at, t.username {limit}"),
            after: Some("(t.failed_at, t.username) > (timestamptz 'epoch' + $1 * interval '1 microsecond', $2)"),
            write: Some(&["INSERT INTO stranger (username, in_a_row, blocked_until_ms, forget_at, failed_at)
                           SELECT username, in_a_row, blocked_until_ms, forget_at,
                                  timestamptz 'epoch' + age * interval '1 microsecond' FROM n"]),
            own: &["failed_at"],
        },
    },
    Table::plain(
        "temp_id",
        &[
            Column::new("temp_id", Kind::TempId),
            Column::new("account", Kind::Id),
            Column::new("start", Kind::Time),
            Column::new("expiry", Kind::Time),
            Column::new("forget_at", Kind::Time),
        ],
    ),
    Table {
        name: "upload",
        columns: &[
            Column::new("id", Kind::Id).with_role(Role::Own),
            Column::new("account", Kind::Id),
            Column::new("name", Kind::UploadName),
            Column::new("records", Kind::Count),
            Column::new("durable", Kind::Count).in_sqlite(
                "(SELECT ifnull(max(r.place) & 1048575, -1) + 1 FROM uploaded_record AS r
                  WHERE r.place BETWEEN t.id << 20 AND (t.id << 20) + 1048575)",
            ),
            Column::new("begun", Kind::Time),
            Column::new("forget_at", Kind::Time),
            Column::new("finished", Kind::Time).optional(),
            Column::new("counted", Kind::Count).optional(),
            Column::new("resolved", Kind::Count).optional(),
            Column::new("unknown", Kind::Count).optional(),
            Column::new("invalid", Kind::Count).optional(),
        ],
        key: &[0],
        sqlite: Side {
            rest: Some(VISIBLE_UPLOADS),
            after: None,
            write: Some(&["INSERT INTO upload (account, name, records, begun, forget_at, finished, counted, resolved,
                                               unknown, invalid)
                           VALUES (?2, ?3, ?4, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"]),
            own: &[],
        },
        postgres: Side {
            rest: Some(VISIBLE_UPLOADS),
            after: None,
            write: Some(&["INSERT INTO upload (id, account, name, records, durable, begun, forget_at, finished,
                                               counted, resolved, unknown, invalid)
                           SELECT ((forget_at / 86400) << 41) + floor(random() * 2199023255552)::bigint, account, name,
                                  records, durable, begun, forget_at, finished, counted, resolved, unknown, invalid
                           FROM n"]),
            own: &[],
        },
    },
    Table {
        name: "uploaded_record",
        columns: &[
            Column::new("upload", Kind::Id).with_role(Role::Own).in_sqlite("t.place >> 20"),
            Column::new("account", Kind::Id).with_role(Role::Presence).in_both("u.account"),
            Column::new("name", Kind::UploadName).with_role(Role::Presence).in_both("u.name"),
            Column::new("place", Kind::Count).in_sqlite("t.place & 1048575"),
            Column::new("temp_id", Kind::TempId).optional(),
            Column::new("start", Kind::Time).optional(),
            Column::new("expiry", Kind::Time).optional(),
            Column::new("received", Kind::Time).optional(),
            Column::new("rssi", Kind::Small).optional(),
            Column::new("seen", Kind::Count).optional(),
        ],
        key: &[0, 3],
        sqlite: Side {
            rest: Some(
                "uploaded_record AS t LEFT JOIN upload AS u ON u.id = t.place >> 20 AND u.account IS NOT NULL
                 WHERE {after} ORDER BY t.place {limit}",
            ),
            after: Some("t.place > (?1 << 20) + ?2"),
            write: Some(&["INSERT INTO uploaded_record (place, temp_id, start, expiry, received, rssi, seen)
                           SELECT (id << 20) + ?4, ?5, ?6, ?7, ?8, ?9, ?10 FROM upload WHERE account = ?2 AND name = ?3"]),
            own: &["place"],
        },
        postgres: Side {
            rest: Some(
                "(SELECT * FROM uploaded_record AS t WHERE {after} ORDER BY upload, place {limit}) AS t
                 LEFT JOIN upload AS u ON u.id = t.upload AND u.account IS NOT NULL ORDER BY t.upload, t.place",
            ),
            after: None,
            // `n` has the upload's number here instead of what names it
            write: Some(&["INSERT INTO uploaded_record (upload, place, temp_id, start, expiry, received, rssi, seen)
                           SELECT upload, place, temp_id, start, expiry, received, rssi::smallint, seen FROM n"]),
            own: &[],
        },
    },
    Table {
        name: "notice",
        columns: &[
            Column::new("account", Kind::Id),
            Column::new("number", Kind::Id).with_role(Role::Order).in_sqlite("t.id"),
            Column::new("begins", Kind::Time),
            Column::new("ends", Kind::Time),
            Column::new("advice", Kind::Text),
            Column::new("is_read", Kind::Flag),
            Column::new("forget_at", Kind::Time),
            // of an account that may be gone
            Column::new("uploader", Kind::Id).optional(),
        ],
        key: &[0, 1],
        sqlite: Side {
            rest: None,
            after: None,
            write: Some(&["INSERT INTO notice (account, begins, ends, advice, is_read, forget_at, uploader)
                           VALUES (?1, ?3, ?4, ?5, ?6, ?7, ?8)"]),
            own: &["id"],
        },
        postgres: Side::plain(),
    },
    Table::plain("revoked_session", &[Column::new("session", Kind::Bytes(16)), Column::new("forget_at", Kind::Time)]),
    Table::plain("import_note", &[Column::new("name", Kind::Text), Column::new("note", Kind::Text)]),
    Table {
        name: "sealing_key",
        columns: &[
            Column::new("id", Kind::Id),
            Column::new("issues_from", Kind::Time),
            Column::new("issues_until", Kind::Time),
            Column::new("last_expiry", Kind::Time),
            Column::new("forget_at", Kind::Time),
            Column::new("seals", Kind::Id),
            // a key that is out of reach is in no file of the copy
            Column::new("state", Kind::Small).in_both("CAST(CASE WHEN t.state = 0 THEN 0 ELSE 2 END AS bigint)"),
            Column::new("wrapped", Kind::Bytes(64)).optional().in_both("CASE WHEN t.state = 0 THEN b.wrapped END"),
        ],
        key: &[0],
        sqlite: Side {
            rest: Some(KEYS_WITH_BYTES),
            after: None,
            write: Some(&[
                "INSERT INTO sealing_key (id, issues_from, issues_until, last_expiry, forget_at, seals, state)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                "INSERT INTO sealing_key_bytes (id, wrapped) VALUES (?1, ifnull(?8, zeroblob(64)))",
            ]),
            own: &["state"],
        },
        postgres: Side {
            rest: Some(KEYS_WITH_BYTES),
            after: None,
            write: Some(&[
                "INSERT INTO sealing_key (id, issues_from, issues_until, last_expiry, forget_at, seals, state)
                 SELECT id, issues_from, issues_until, last_expiry, forget_at, seals, state::smallint FROM n",
                "INSERT INTO sealing_key_bytes (id, wrapped) SELECT id, wrapped FROM n WHERE wrapped IS NOT NULL",
            ]),
            own: &["state"],
        },
    },
    Table {
        name: "upload_code",
        columns: &[
            Column::new("id", Kind::Id),
            Column::new("hash", Kind::Bytes(32)),
            Column::new("characters", Kind::Count),
            Column::new("case_name", Kind::Text),
            Column::new("issued_by", Kind::Text),
            Column::new("issued", Kind::Time),
            Column::new("expires", Kind::Time),
            Column::new("revoked", Kind::Time).optional(),
            Column::new("account", Kind::Id).optional(),
            Column::new("redeemed", Kind::Time).optional(),
            // one that is gone is nobody's
            Column::new("upload_account", Kind::Id).optional().in_both("u.account"),
            Column::new("upload_name", Kind::UploadName).optional().in_both("u.name"),
            Column::new("is_used", Kind::Flag),
            Column::new("forget_at", Kind::Time),
        ],
        key: &[0],
        sqlite: Side {
            rest: Some(CODES_WITH_UPLOADS),
            after: None,
            write: Some(&["INSERT INTO upload_code (id, hash, characters, case_name, issued_by, issued, expires, revoked,
                                                    account, redeemed, upload, is_used, forget_at)
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
                                   (SELECT id FROM upload WHERE account = ?11 AND name = ?12), ?13, ?14)"]),
            own: &["upload"],
        },
        postgres: Side {
            rest: Some(CODES_WITH_UPLOADS),
            after: None,
            write: Some(&["INSERT INTO upload_code (id, hash, characters, case_name, issued_by, issued, expires, revoked,
                                                    account, redeemed, upload, is_used, forget_at)
                           SELECT n.id, n.hash, n.characters, n.case_name, n.issued_by, n.issued, n.expires, n.revoked,
                                  n.account, n.redeemed, u.id, n.is_used <> 0, n.forget_at
                           FROM n LEFT JOIN upload AS u ON u.account = n.upload_account AND u.name = n.upload_name"]),
            own: &["upload"],
        },
    },
    Table::plain(
        "wrong_code",
        &[
            Column::new("id", Kind::Id),
            // 0: forgiven
            Column::new("account", Kind::Id),
            Column::new("upload", Kind::UploadName).optional(),
            Column::new("hash", Kind::Bytes(32)),
            Column::new("characters", Kind::Count),
            Column::new("forget_at", Kind::Time),
        ],
    ),
    Table::plain(
        "handshake_pin",
        &[
            Column::new("account", Kind::Id),
            Column::new("seed", Kind::Bytes(16)),
            Column::new("forget_at", Kind::Time),
        ],
    ),
    Table {
        name: "one_time_code",
        columns: &[
            Column::new("id", Kind::Id),
            Column::new("number", Kind::Bytes(32)),
            Column::new("hash", Kind::Bytes(32)),
            Column::new("made", Kind::Time),
            Column::new("expires", Kind::Time),
            Column::new("wrong", Kind::Count),
            Column::new("is_used", Kind::Flag),
            Column::new("has_failed", Kind::Flag),
            Column::new("forget_at", Kind::Time),
        ],
        key: &[0],
        sqlite: Side::plain(),
        postgres: Side {
            rest: None,
            after: None,
            write: Some(&[
                "INSERT INTO one_time_code (id, number, hash, made, expires, wrong, is_used, has_failed, forget_at)
                 SELECT id, number, hash, made, expires, wrong, is_used <> 0, has_failed <> 0, forget_at FROM n",
                // who presents a code locks its number's row
                "INSERT INTO asking_number AS a (number, forget_at)
                 SELECT number, max(forget_at) FROM n GROUP BY number
                 ON CONFLICT (number) DO UPDATE SET forget_at = greatest(a.forget_at, excluded.forget_at)",
            ]),
            own: &[],
        },
    },
];

const VISIBLE_UPLOADS: &str = "upload AS t WHERE t.account IS NOT NULL AND {after} ORDER BY t.id {limit}";

const KEYS_WITH_BYTES: &str =
    "sealing_key AS t LEFT JOIN sealing_key_bytes AS b ON b.id = t.id WHERE {after} ORDER BY t.id {limit}";

const CODES_WITH_UPLOADS: &str = "upload_code AS t LEFT JOIN upload AS u ON u.id = t.upload AND u.account IS NOT NULL
    WHERE {after} ORDER BY t.id {limit}";

/// The tables of which there are rows; counters are not rows.
pub(crate) fn countable() -> impl Iterator<Item = &'static Table> {
    TABLES.iter().filter(|table| !table.is_counter())
}

/// Tables that hold nothing of their own: what they say follows from others, or matters to one kind of store alone.
#[cfg(test)]
pub(crate) const DERIVED: [&[&str]; 2] =
    [&["tally", "sealing_key_bytes"], &["bluetrace_state", "latch", "asking_number", "sealing_key_bytes"]];

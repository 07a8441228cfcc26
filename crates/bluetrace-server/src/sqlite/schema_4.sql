-- Version 4: upload codes, wrong ones, and handshake PINs. A code is here as an HMAC only, and a PIN as the seed that it is made of.

CREATE TABLE upload_code (
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- operators name codes by it
    hash       BLOB    NOT NULL UNIQUE,
    characters INTEGER NOT NULL,                  -- 6 or 8: how it is written
    case_name  TEXT    NOT NULL,
    issued_by  TEXT    NOT NULL,
    issued     INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    revoked    INTEGER,
    account    INTEGER,                           -- who has redeemed it, and when:
    redeemed   INTEGER,
    upload     INTEGER,                           -- the upload it was last redeemed for
    is_used    INTEGER NOT NULL DEFAULT 0,        -- whether that is complete
    forget_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX upload_code_live ON upload_code (characters) WHERE account IS NULL AND revoked IS NULL;
CREATE INDEX upload_code_account ON upload_code (account) WHERE account IS NOT NULL;
CREATE INDEX upload_code_upload ON upload_code (upload) WHERE upload IS NOT NULL;
CREATE INDEX upload_code_forget_at ON upload_code (forget_at);

-- Wrong codes that were presented, as far as they count. They outlive their account.
CREATE TABLE wrong_code (
    id         INTEGER PRIMARY KEY,
    account    INTEGER NOT NULL,
    upload     TEXT,                              -- NULL: presented ahead of an upload, and so counts each time
    hash       BLOB    NOT NULL,
    characters INTEGER NOT NULL,                  -- 0: it has the form of no code
    forget_at  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX wrong_code_once ON wrong_code (account, upload, hash);
CREATE INDEX wrong_code_characters ON wrong_code (characters, forget_at);
CREATE INDEX wrong_code_forget_at ON wrong_code (forget_at);

CREATE TABLE handshake_pin (
    account   INTEGER PRIMARY KEY,
    seed      BLOB    NOT NULL,
    forget_at INTEGER NOT NULL
) STRICT;
CREATE INDEX handshake_pin_forget_at ON handshake_pin (forget_at);

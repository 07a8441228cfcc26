-- Version 1. Times are Unix seconds (a name with _ms: milliseconds); `forget_at` is the moment from which a row counts as gone.
-- Keys are random or somebody else's, never from a sequence: no place that every insert goes to.

CREATE TABLE account (
    id               bigint PRIMARY KEY,             -- random
    username         text COLLATE "C" NOT NULL UNIQUE,
    password_hash    text,                           -- NULL: exists only because an imported TempID names it
    imported_hash    text,
    token_epoch      bigint NOT NULL DEFAULT 0,
    created          bigint NOT NULL,
    in_a_row         bigint NOT NULL DEFAULT 0,      -- failed logins
    blocked_until_ms bigint,
    user_id          bytea UNIQUE,                   -- 21 bytes, given when it is first needed
    registered       bigint,                         -- when somebody first proved that the number that it is named after is his
    notices          bigint NOT NULL DEFAULT 0       -- the number of the last one
);

-- Failed logins of usernames without an account. `failed_at` tells which one is the oldest.
CREATE TABLE stranger (
    username         text COLLATE "C" PRIMARY KEY,
    in_a_row         bigint NOT NULL,
    blocked_until_ms bigint,
    forget_at        bigint NOT NULL,
    failed_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX stranger_forget_at ON stranger (forget_at);

CREATE TABLE temp_id (
    temp_id   text COLLATE "C" PRIMARY KEY,
    account   bigint NOT NULL,
    start     bigint NOT NULL,
    expiry    bigint NOT NULL,
    forget_at bigint NOT NULL
);
CREATE INDEX temp_id_account ON temp_id (account);
CREATE INDEX temp_id_forget_at ON temp_id (forget_at);

CREATE TABLE upload (
    id        bigint PRIMARY KEY,                    -- the day of forget_at, then random bits
    account   bigint,                                -- NULL: its account was removed, or another upload has its name
    name      text COLLATE "C" NOT NULL,             -- the device's name for it
    records   bigint NOT NULL,
    durable   bigint NOT NULL DEFAULT 0,             -- how many of its first records are here
    begun     bigint NOT NULL,
    forget_at bigint NOT NULL,                       -- 0: dropped; its records are deleted one by one
    finished  bigint,                                -- with what came of it:
    counted   bigint,
    resolved  bigint,
    unknown   bigint,
    invalid   bigint,
    UNIQUE (account, name)
);
CREATE INDEX upload_forget_at ON upload (forget_at);

-- A partition for each day of forget_at, since that begins an upload's key: forgetting a day is dropping a table. No second index,
-- because one on random ids costs several times what the rows do.
CREATE TABLE uploaded_record (
    upload   bigint NOT NULL,
    place    bigint NOT NULL,                        -- 0 for the first
    temp_id  text,                                   -- NULL: malformed, and so is all that follows
    start    bigint,
    expiry   bigint,
    received bigint,
    rssi     smallint,
    seen     bigint,
    PRIMARY KEY (upload, place)
) PARTITION BY RANGE (upload);

CREATE TABLE notice (
    account   bigint NOT NULL,
    number    bigint NOT NULL,                       -- within the account
    begins    bigint NOT NULL,
    ends      bigint NOT NULL,
    advice    text NOT NULL,
    is_read   boolean NOT NULL DEFAULT false,
    forget_at bigint NOT NULL,
    PRIMARY KEY (account, number)
);
CREATE INDEX notice_forget_at ON notice (forget_at);

CREATE TABLE revoked_session (
    session   bytea PRIMARY KEY,
    forget_at bigint NOT NULL
);
CREATE INDEX revoked_session_forget_at ON revoked_session (forget_at);

CREATE TABLE import_note (
    name text COLLATE "C" PRIMARY KEY,
    note text NOT NULL
);

-- A row stays when its key is gone: it says what there was, and keeps its name from being given again.
CREATE TABLE sealing_key (
    id           bigint PRIMARY KEY,
    issues_from  bigint NOT NULL,
    issues_until bigint NOT NULL,
    last_expiry  bigint NOT NULL,
    forget_at    bigint NOT NULL,
    seals        bigint NOT NULL DEFAULT 0,
    state        smallint NOT NULL DEFAULT 0         -- 0: live; 1: out of reach; 2: in no file of a table
);

-- The wrapped bytes of each key, apart from what changes: when one is destroyed, the others are written to a new file.
CREATE TABLE sealing_key_bytes (
    id      bigint PRIMARY KEY,
    wrapped bytea NOT NULL
);

CREATE TABLE upload_code (
    id         bigint PRIMARY KEY,                   -- operators name codes by it: a small number, from `latch`
    hash       bytea NOT NULL UNIQUE,
    characters bigint NOT NULL,                      -- 6 or 8: how it is written
    case_name  text NOT NULL,
    issued_by  text NOT NULL,
    issued     bigint NOT NULL,
    expires    bigint NOT NULL,
    revoked    bigint,
    account    bigint,                               -- who has redeemed it, and when:
    redeemed   bigint,
    upload     bigint,                               -- the upload it was last redeemed for
    is_used    boolean NOT NULL DEFAULT false,       -- whether that is complete
    forget_at  bigint NOT NULL
);
CREATE INDEX upload_code_live ON upload_code (characters) WHERE account IS NULL AND revoked IS NULL;
CREATE INDEX upload_code_account ON upload_code (account) WHERE account IS NOT NULL;
CREATE INDEX upload_code_upload ON upload_code (upload) WHERE upload IS NOT NULL;
CREATE INDEX upload_code_forget_at ON upload_code (forget_at);

-- Wrong codes that were presented, as far as they count. They outlive their account.
CREATE TABLE wrong_code (
    id         bigint PRIMARY KEY,                   -- random
    account    bigint NOT NULL,
    upload     text,                                 -- NULL: presented ahead of an upload, and so counts each time
    hash       bytea NOT NULL,
    characters bigint NOT NULL,                      -- 0: it has the form of no code
    forget_at  bigint NOT NULL,
    UNIQUE (account, upload, hash)
);
CREATE INDEX wrong_code_characters ON wrong_code (characters, forget_at);
CREATE INDEX wrong_code_forget_at ON wrong_code (forget_at);

CREATE TABLE handshake_pin (
    account   bigint PRIMARY KEY,
    seed      bytea NOT NULL,
    forget_at bigint NOT NULL
);
CREATE INDEX handshake_pin_forget_at ON handshake_pin (forget_at);

-- Phone numbers that were sent one-time codes, as HMACs. Who asks for a code or presents one locks its number's row.
CREATE TABLE asking_number (
    number    bytea PRIMARY KEY,
    forget_at bigint NOT NULL
);
CREATE INDEX asking_number_forget_at ON asking_number (forget_at);

CREATE TABLE one_time_code (
    id         bigint PRIMARY KEY,                   -- random
    number     bytea NOT NULL,
    hash       bytea NOT NULL,
    made       bigint NOT NULL,
    expires    bigint NOT NULL,
    wrong      bigint NOT NULL DEFAULT 0,            -- guesses at it
    is_used    boolean NOT NULL DEFAULT false,       -- it, or another one of its number
    has_failed boolean NOT NULL DEFAULT false,       -- whether the sender failed with it
    forget_at  bigint NOT NULL
);
CREATE INDEX one_time_code_number ON one_time_code (number);
CREATE INDEX one_time_code_forget_at ON one_time_code (forget_at);

-- Rows that are locked where something rare has to be done by one at a time; `value` is the last upload code's number.
CREATE TABLE latch (
    name  text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL DEFAULT 0
);
INSERT INTO latch (name) VALUES ('codes'), ('guesses at 6'), ('guesses at 8'), ('keys'), ('partitions');

-- Version 3. User ids, and the keys that seal TempIDs.

ALTER TABLE account ADD COLUMN user_id BLOB;      -- 21 bytes, given when it is first needed
CREATE UNIQUE INDEX account_user_id ON account (user_id) WHERE user_id IS NOT NULL;

-- A row stays when its key is gone: it says what there was, and keeps its name from being given again.
CREATE TABLE sealing_key (
    id           INTEGER PRIMARY KEY,
    issues_from  INTEGER NOT NULL,
    issues_until INTEGER NOT NULL,
    last_expiry  INTEGER NOT NULL,
    forget_at    INTEGER NOT NULL,
    seals        INTEGER NOT NULL DEFAULT 0,
    state        INTEGER NOT NULL DEFAULT 0       -- 0: live; 1: written over, here; 2: written over, everywhere
) STRICT;

-- The wrapped bytes of each key, apart from what changes: rows of one length that are only appended and written over in place
-- never move to another page, and so leave no copy of themselves in this file. That they do not is tested on its bytes.
CREATE TABLE sealing_key_bytes (
    id      INTEGER PRIMARY KEY,
    wrapped BLOB NOT NULL
) STRICT;

-- Version 5: registration with a phone number. A number and a code are here as HMACs only.

ALTER TABLE account ADD COLUMN registered INTEGER; -- when somebody first proved that the number that it is named after is his

CREATE TABLE one_time_code (
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- who sends a code names it afterwards
    number     BLOB    NOT NULL,
    hash       BLOB    NOT NULL,
    made       INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    wrong      INTEGER NOT NULL DEFAULT 0,        -- guesses at it
    is_used    INTEGER NOT NULL DEFAULT 0,        -- it, or another one of its number
    has_failed INTEGER NOT NULL DEFAULT 0,        -- whether the sender failed with it
    forget_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX one_time_code_number ON one_time_code (number);
CREATE INDEX one_time_code_forget_at ON one_time_code (forget_at);

-- Version 2. The end of a block is Unix milliseconds, since a block lasts exactly as long as it is said to. All other times
-- are Unix seconds as before.

ALTER TABLE account RENAME COLUMN blocked_until TO blocked_until_ms;
UPDATE account SET blocked_until_ms = 1000 * blocked_until_ms WHERE blocked_until_ms IS NOT NULL;

ALTER TABLE stranger RENAME COLUMN blocked_until TO blocked_until_ms;
UPDATE stranger SET blocked_until_ms = 1000 * blocked_until_ms WHERE blocked_until_ms IS NOT NULL;

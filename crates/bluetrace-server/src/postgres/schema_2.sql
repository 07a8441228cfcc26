-- Version 2: whose upload led to a notice, so that nobody is told of an encounter twice.

ALTER TABLE notice ADD COLUMN uploader bigint; -- it may be of an account that is gone; NULL: left by an earlier version

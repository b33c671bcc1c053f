-- Failure as a normal path: the history of every order, orders whose attempts get lost, dead letters, and
-- the answers to requests with an Idempotency-Key.

-- When the status last changed.
ALTER TABLE orders ADD COLUMN changed_at INTEGER NOT NULL DEFAULT 0;

-- 1 from a lost lease to the end of the attempts that follow it: the order may be what brought the worker
-- down, so the processor gets it alone.
ALTER TABLE orders ADD COLUMN suspect INTEGER NOT NULL DEFAULT 0 CHECK (suspect IN (0, 1));

-- The attempts before the last retry by hand; they do not count against the limit.
ALTER TABLE orders ADD COLUMN attempts_forgiven INTEGER NOT NULL DEFAULT 0 CHECK (attempts_forgiven <= attempts);

UPDATE orders SET changed_at = coalesce(finished_at, started_at, created_at);

-- The dead letters, in the order in which they are listed.
CREATE INDEX orders_failed ON orders (finished_at, seq) WHERE status = 'Failed';

-- What retention looks at.
CREATE INDEX orders_finished ON orders (finished_at) WHERE finished_at IS NOT NULL;

-- One row per attempt; its end is written once.
CREATE TABLE order_attempts (
    seq        INTEGER NOT NULL,
    number     INTEGER NOT NULL CHECK (number >= 1),
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    outcome    TEXT CHECK (outcome IN ('Completed', 'Failed', 'LeaseLost')),
    reason     TEXT,
    PRIMARY KEY (seq, number),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
) WITHOUT ROWID;

-- One row per change of status after the intake, which the order itself tells, and one per attempt that follows
-- a lost lease.
CREATE TABLE order_events (
    seq     INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    status  TEXT    NOT NULL,
    attempt INTEGER NOT NULL,
    reason  TEXT,
    PRIMARY KEY (seq, number)
) WITHOUT ROWID;

CREATE TRIGGER order_events_are_final BEFORE UPDATE ON order_events
BEGIN
    SELECT raise(ABORT, 'the history of an order does not change');
END;

CREATE TRIGGER order_attempts_end_once BEFORE UPDATE ON order_attempts WHEN OLD.ended_at IS NOT NULL
BEGIN
    SELECT raise(ABORT, 'the history of an order does not change');
END;

CREATE TRIGGER order_events_stay BEFORE DELETE ON order_events WHEN EXISTS (SELECT 1 FROM orders WHERE seq = OLD.seq)
BEGIN
    SELECT raise(ABORT, 'the history of an order does not change');
END;

CREATE TRIGGER order_attempts_stay BEFORE DELETE ON order_attempts WHEN EXISTS (SELECT 1 FROM orders WHERE seq = OLD.seq)
BEGIN
    SELECT raise(ABORT, 'the history of an order does not change');
END;

CREATE TRIGGER orders_changed_history AFTER UPDATE OF status, attempts ON orders
WHEN OLD.status <> NEW.status OR OLD.attempts <> NEW.attempts
BEGIN
    -- The attempt that was under way is over, whatever follows.
    UPDATE order_attempts
    SET ended_at = NEW.changed_at,
        outcome  = CASE WHEN NEW.status = 'Completed' THEN 'Completed'
                        WHEN NEW.status = 'Processing' OR NEW.failure = 'its lease ran out' THEN 'LeaseLost'
                        ELSE 'Failed' END,
        reason   = CASE NEW.status WHEN 'Completed' THEN NULL WHEN 'Processing' THEN 'its lease ran out' ELSE NEW.failure END
    WHERE seq = OLD.seq AND number = OLD.attempts AND OLD.status = 'Processing';
    INSERT INTO order_attempts (seq, number, started_at)
    SELECT NEW.seq, NEW.attempts, NEW.started_at WHERE NEW.attempts > OLD.attempts;
    INSERT INTO order_events (seq, number, at, status, attempt, reason)
    SELECT NEW.seq, 1 + coalesce(max(number), 0), NEW.changed_at, NEW.status, NEW.attempts,
           CASE WHEN NEW.status IN ('Pending', 'Failed') AND OLD.status = 'Processing' THEN NEW.failure
                WHEN NEW.status = 'Processing' AND OLD.status = 'Processing' THEN 'its lease ran out' END
    FROM order_events WHERE seq = NEW.seq;
END;

CREATE TRIGGER orders_deleted_history AFTER DELETE ON orders
BEGIN
    DELETE FROM order_attempts WHERE seq = OLD.seq;
    DELETE FROM order_events WHERE seq = OLD.seq;
END;

-- Orders of the schema before this one have the history that can be told.
INSERT INTO order_events (seq, number, at, status, attempt, reason)
SELECT seq, 1, changed_at, status, attempts, failure FROM orders WHERE status <> 'Pending' OR attempts > 0;

INSERT INTO order_attempts (seq, number, started_at, ended_at, outcome, reason)
SELECT seq, attempts, started_at, iif(status = 'Processing', NULL, changed_at),
       CASE status WHEN 'Processing' THEN NULL WHEN 'Completed' THEN 'Completed' ELSE 'Failed' END,
       iif(status = 'Processing', NULL, failure)
FROM orders WHERE attempts > 0;

-- The answers to requests with an Idempotency-Key, each stored in one transaction with what it reports.
CREATE TABLE idempotency_keys (
    -- Who sent the request, as a digest.
    caller      TEXT    NOT NULL,
    key         TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- A digest of the request's path and body.
    fingerprint TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    status      INTEGER NOT NULL,
    location    TEXT,
    body        TEXT    NOT NULL,
    PRIMARY KEY (caller, key)
) WITHOUT ROWID;

CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

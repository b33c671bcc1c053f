-- Owners, one numbering for all changes of state, lanes for what is due, and kinds instead of words.
--
-- `orders` is made anew: its unique identifier becomes one per owner. Rows keep their seq; what was accepted before
-- has the owner '', which stands for "nobody is told apart".

DROP TRIGGER orders_inserted;

DROP TRIGGER orders_status_changed;

DROP TRIGGER orders_deleted;

DROP TRIGGER orders_changed_history;

DROP TRIGGER orders_deleted_history;

DROP TRIGGER order_events_are_final;

DROP TRIGGER order_events_stay;

DROP TRIGGER order_attempts_stay;

CREATE TABLE orders_new (
    -- The number of the order's creation in the numbering that it shares with order_events.
    seq               INTEGER PRIMARY KEY,
    owner             TEXT    NOT NULL CHECK (length(owner) <= 64),
    order_id          TEXT    NOT NULL CHECK (length(order_id) BETWEEN 1 AND 64),
    -- 1 when the client sent the id as a JSON integer, so that it goes back as one.
    order_id_int      INTEGER NOT NULL CHECK (order_id_int IN (0, 1)),
    user_id           TEXT    NOT NULL CHECK (length(user_id) BETWEEN 1 AND 64),
    user_id_int       INTEGER NOT NULL CHECK (user_id_int IN (0, 1)),
    -- A JSON array of strings and integers, in the client's order. Long ones are blobs where that is much shorter: the
    -- array in LZ4's block format, behind its length in four bytes.
    item_ids          TEXT    NOT NULL,
    total_amount      INTEGER NOT NULL CHECK (total_amount BETWEEN 0 AND 9999999999),
    currency          TEXT    NOT NULL CHECK (length(currency) = 3),
    status            TEXT    NOT NULL CHECK (status IN ('Pending', 'Processing', 'Completed', 'Failed', 'Cancelled')),
    -- How many attempts were started; the number of the last one is the fencing token of its worker.
    attempts          INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- The attempts before the last retry by hand; they do not count against the limit.
    attempts_forgiven INTEGER NOT NULL DEFAULT 0 CHECK (attempts_forgiven <= attempts),
    created_at        INTEGER NOT NULL,
    -- When the last attempt started.
    started_at        INTEGER,
    -- When the order reached Completed, Failed or Cancelled.
    finished_at       INTEGER,
    -- When the status last changed.
    changed_at        INTEGER NOT NULL,
    -- 1 while the processor has said "ask again later": no worker owns the order until due_at.
    snoozed           INTEGER NOT NULL DEFAULT 0 CHECK (snoozed IN (0, 1)),
    -- 1 from a lost lease to the end of the attempts that follow it: the order may be what brought the worker
    -- down, so the processor gets it alone.
    quarantined       INTEGER NOT NULL DEFAULT 0 CHECK (quarantined IN (0, 1)),
    -- When a worker may next take the order up: a Pending one that no message announced or that waits
    -- for its retry, a snoozed one that is to be asked about again, a Processing one whose lease ran out.
    due_at            INTEGER,
    -- How the last attempt that did not succeed ended, and why.
    failure_kind      TEXT CHECK (failure_kind IN ('Failed', 'LeaseLost')),
    failure           TEXT,
    -- Who takes the order up next. 0: it was never started. 1: it was, and waits for a retry or is snoozed.
    -- 2: a worker has it. 3: quarantined and snoozed. 4: quarantined, and a worker has it.
    lane              INTEGER GENERATED ALWAYS AS (
        CASE WHEN due_at IS NULL THEN NULL
             WHEN status = 'Pending' THEN attempts > 0
             WHEN snoozed = 1 THEN iif(quarantined = 1, 3, 1)
             ELSE iif(quarantined = 1, 4, 2) END) VIRTUAL,
    CHECK ((due_at IS NULL) = (status IN ('Completed', 'Failed', 'Cancelled'))),
    CHECK ((finished_at IS NOT NULL) = (status IN ('Completed', 'Failed', 'Cancelled'))),
    CHECK (status NOT IN ('Processing', 'Completed') OR started_at IS NOT NULL),
    CHECK (snoozed = 0 OR status = 'Processing')
);

INSERT INTO orders_new (seq, owner, order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency, status,
                        attempts, attempts_forgiven, created_at, started_at, finished_at, changed_at, snoozed, quarantined,
                        due_at, failure_kind, failure)
SELECT seq, '', order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency, status,
       attempts, attempts_forgiven, created_at, started_at, finished_at, changed_at, parked, suspect, due_at,
       -- Until now a lost lease was known by its words alone.
       CASE WHEN failure IS NULL THEN NULL WHEN failure = 'its lease ran out' THEN 'LeaseLost' ELSE 'Failed' END, failure
FROM orders;

DROP TABLE orders;

ALTER TABLE orders_new RENAME TO orders;

CREATE UNIQUE INDEX orders_by_id ON orders (owner, order_id);

CREATE INDEX orders_due ON orders (lane, due_at) WHERE due_at IS NOT NULL;

-- The dead letters of an owner and of a user, in the order in which they are listed.
CREATE INDEX orders_failed ON orders (owner, finished_at) WHERE status = 'Failed';

CREATE INDEX orders_failed_by_user ON orders (owner, user_id, finished_at) WHERE status = 'Failed';

-- What retention looks at.
CREATE INDEX orders_finished ON orders (finished_at) WHERE finished_at IS NOT NULL;

-- One row per change of status after the creation, which the order itself tells, and one per attempt that follows
-- a lost lease.
CREATE TABLE order_events_new (
    -- Its place among all changes of all orders, creations included, in the order of their commits. SQLite has one
    -- writer at a time, so no number becomes visible after a higher one.
    number  INTEGER PRIMARY KEY,
    seq     INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    status  TEXT    NOT NULL,
    attempt INTEGER NOT NULL,
    reason  TEXT
);

-- What happened before there were numbers comes after the creations of its time, each order's events in their order.
INSERT INTO order_events_new (number, seq, at, status, attempt, reason)
SELECT (SELECT coalesce(max(seq), 0) FROM orders) + row_number() OVER (ORDER BY not_before, seq, number),
       seq, at, status, attempt, reason
-- Where a clock stepped back, an event is not earlier than the one before it.
FROM (SELECT *, max(at) OVER (PARTITION BY seq ORDER BY number) AS not_before FROM order_events);

DROP TABLE order_events;

ALTER TABLE order_events_new RENAME TO order_events;

CREATE INDEX order_events_of_order ON order_events (seq, number);

-- The highest number that was given to what has since been removed: a number is never used again.
CREATE TABLE event_number_floor (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL
);

INSERT INTO event_number_floor (id, number) VALUES (1, 0);

-- The last number that was given.
CREATE VIEW last_event (number) AS
SELECT max((SELECT number FROM event_number_floor WHERE id = 1),
           coalesce((SELECT max(seq) FROM orders), 0),
           coalesce((SELECT max(number) FROM order_events), 0));

-- A row per owner: reading an owner's metrics costs the same at ten orders and at ten million. The row '' counts all
-- orders, and the row '*' those with an owner: the difference is those without one.
CREATE TABLE order_counters_new (
    owner         TEXT PRIMARY KEY,
    total         INTEGER NOT NULL DEFAULT 0,
    pending       INTEGER NOT NULL DEFAULT 0,
    processing    INTEGER NOT NULL DEFAULT 0,
    completed     INTEGER NOT NULL DEFAULT 0,
    failed        INTEGER NOT NULL DEFAULT 0,
    cancelled     INTEGER NOT NULL DEFAULT 0,
    -- Sums over completed orders: from the start of the last attempt, and from intake.
    processing_ms INTEGER NOT NULL DEFAULT 0,
    completion_ms INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

INSERT INTO order_counters_new (owner, total, pending, processing, completed, failed, cancelled, processing_ms, completion_ms)
SELECT '', total, pending, processing, completed, failed, cancelled, processing_ms, completion_ms FROM order_counters;

INSERT INTO order_counters_new (owner) VALUES ('*');

DROP TABLE order_counters;

ALTER TABLE order_counters_new RENAME TO order_counters;

CREATE TRIGGER orders_inserted AFTER INSERT ON orders
BEGIN
    INSERT OR IGNORE INTO order_counters (owner) SELECT NEW.owner WHERE NEW.owner <> '';
    UPDATE order_counters
    SET total      = total + 1,
        pending    = pending    + (NEW.status = 'Pending'),
        processing = processing + (NEW.status = 'Processing'),
        completed  = completed  + (NEW.status = 'Completed'),
        failed     = failed     + (NEW.status = 'Failed'),
        cancelled  = cancelled  + (NEW.status = 'Cancelled')
    WHERE owner IN ('', NEW.owner, iif(NEW.owner = '', '', '*'));
END;

CREATE TRIGGER orders_status_changed AFTER UPDATE OF status ON orders WHEN OLD.status <> NEW.status
BEGIN
    UPDATE order_counters
    SET pending       = pending    + (NEW.status = 'Pending')    - (OLD.status = 'Pending'),
        processing    = processing + (NEW.status = 'Processing') - (OLD.status = 'Processing'),
        completed     = completed  + (NEW.status = 'Completed')  - (OLD.status = 'Completed'),
        failed        = failed     + (NEW.status = 'Failed')     - (OLD.status = 'Failed'),
        cancelled     = cancelled  + (NEW.status = 'Cancelled')  - (OLD.status = 'Cancelled'),
        -- A clock that stepped back makes no negative time.
        processing_ms = processing_ms + iif(NEW.status = 'Completed', max(0, NEW.finished_at - NEW.started_at), 0),
        completion_ms = completion_ms + iif(NEW.status = 'Completed', max(0, NEW.finished_at - NEW.created_at), 0)
    WHERE owner IN ('', NEW.owner, iif(NEW.owner = '', '', '*'));
END;

CREATE TRIGGER orders_removed BEFORE DELETE ON orders
BEGIN
    UPDATE event_number_floor SET number = last.number
    FROM last_event AS last WHERE event_number_floor.number < last.number;
END;

CREATE TRIGGER orders_deleted AFTER DELETE ON orders
BEGIN
    UPDATE order_counters
    SET total      = total - 1,
        pending    = pending    - (OLD.status = 'Pending'),
        processing = processing - (OLD.status = 'Processing'),
        completed  = completed  - (OLD.status = 'Completed'),
        failed     = failed     - (OLD.status = 'Failed'),
        cancelled  = cancelled  - (OLD.status = 'Cancelled'),
        processing_ms = processing_ms - iif(OLD.status = 'Completed', max(0, OLD.finished_at - OLD.started_at), 0),
        completion_ms = completion_ms - iif(OLD.status = 'Completed', max(0, OLD.finished_at - OLD.created_at), 0)
    WHERE owner IN ('', OLD.owner, iif(OLD.owner = '', '', '*'));
    DELETE FROM order_attempts WHERE seq = OLD.seq;
    DELETE FROM order_events WHERE seq = OLD.seq;
END;

CREATE TRIGGER orders_changed_history AFTER UPDATE OF status, attempts ON orders
WHEN OLD.status <> NEW.status OR OLD.attempts <> NEW.attempts
BEGIN
    -- The attempt that was under way is over, whatever follows.
    UPDATE order_attempts
    SET ended_at = NEW.changed_at,
        outcome  = iif(NEW.status = 'Completed', 'Completed', NEW.failure_kind),
        reason   = iif(NEW.status = 'Completed', NULL, NEW.failure)
    WHERE seq = OLD.seq AND number = OLD.attempts AND OLD.status = 'Processing';
    INSERT INTO order_attempts (seq, number, started_at)
    SELECT NEW.seq, NEW.attempts, NEW.started_at WHERE NEW.attempts > OLD.attempts;
    INSERT INTO order_events (number, seq, at, status, attempt, reason)
    SELECT last.number + 1, NEW.seq, NEW.changed_at, NEW.status, NEW.attempts,
           CASE WHEN OLD.status = 'Processing' AND NEW.status <> 'Completed' THEN NEW.failure END
    FROM last_event AS last;
END;

CREATE TRIGGER order_events_are_final BEFORE UPDATE ON order_events
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

-- Idempotency keys are each owner's own too.
CREATE TABLE idempotency_keys_new (
    owner       TEXT    NOT NULL,
    -- Who sent the request, among those that act for the owner.
    caller      TEXT    NOT NULL,
    key         TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- A digest of the request's path and body.
    fingerprint TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    status      INTEGER NOT NULL,
    location    TEXT,
    body        TEXT    NOT NULL,
    PRIMARY KEY (owner, caller, key)
) WITHOUT ROWID;

INSERT INTO idempotency_keys_new (owner, caller, key, fingerprint, created_at, status, location, body)
SELECT '', caller, key, fingerprint, created_at, status, location, body FROM idempotency_keys;

DROP TABLE idempotency_keys;

ALTER TABLE idempotency_keys_new RENAME TO idempotency_keys;

CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

-- How many orders the worker hands to the processor at once: it follows what its calls have taken.
CREATE TABLE worker_pace (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    batch_size INTEGER NOT NULL CHECK (batch_size >= 1)
);

-- Orders, the counters that /metrics reads, and the triggers that keep the two true to each other.
--
-- Convention for this folder: files are numbered from 0001 without gaps and never change once released;
-- statements end with `;` at the end of a line and are separated by blank lines.
-- Times are milliseconds since the Unix epoch, amounts are minor units (1/100 of the currency's unit).

CREATE TABLE orders (
    seq          INTEGER PRIMARY KEY,
    order_id     TEXT    NOT NULL UNIQUE CHECK (length(order_id) BETWEEN 1 AND 64),
    -- 1 when the client sent the id as a JSON integer, so that it goes back as one.
    order_id_int INTEGER NOT NULL CHECK (order_id_int IN (0, 1)),
    user_id      TEXT    NOT NULL CHECK (length(user_id) BETWEEN 1 AND 64),
    user_id_int  INTEGER NOT NULL CHECK (user_id_int IN (0, 1)),
    -- A JSON array of strings and integers, in the client's order.
    item_ids     TEXT    NOT NULL,
    total_amount INTEGER NOT NULL CHECK (total_amount BETWEEN 0 AND 9999999999),
    currency     TEXT    NOT NULL CHECK (length(currency) = 3),
    status       TEXT    NOT NULL CHECK (status IN ('Pending', 'Processing', 'Completed', 'Failed', 'Cancelled')),
    -- How many attempts were started; the number of the last one is the fencing token of its worker.
    attempts     INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    created_at   INTEGER NOT NULL,
    -- When the last attempt started.
    started_at   INTEGER,
    -- When the order reached Completed, Failed or Cancelled.
    finished_at  INTEGER,
    -- 1 while the processor has said "ask again later": no worker owns the order until due_at.
    parked       INTEGER NOT NULL DEFAULT 0 CHECK (parked IN (0, 1)),
    -- When a worker may next take the order up: a Pending one that no message announced or that waits
    -- for its retry, a parked one that is to be asked about again, a Processing one whose lease ran out.
    due_at       INTEGER,
    -- Why the last attempt failed.
    failure      TEXT,
    CHECK ((due_at IS NULL) = (status IN ('Completed', 'Failed', 'Cancelled'))),
    CHECK ((finished_at IS NOT NULL) = (status IN ('Completed', 'Failed', 'Cancelled'))),
    CHECK (status NOT IN ('Processing', 'Completed') OR started_at IS NOT NULL),
    CHECK (parked = 0 OR status = 'Processing')
);

CREATE INDEX orders_due ON orders (due_at) WHERE due_at IS NOT NULL;

-- One row: reading the metrics costs the same at ten orders and at ten million.
CREATE TABLE order_counters (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    total         INTEGER NOT NULL DEFAULT 0,
    pending       INTEGER NOT NULL DEFAULT 0,
    processing    INTEGER NOT NULL DEFAULT 0,
    completed     INTEGER NOT NULL DEFAULT 0,
    failed        INTEGER NOT NULL DEFAULT 0,
    cancelled     INTEGER NOT NULL DEFAULT 0,
    -- Sums over completed orders: from the start of the last attempt, and from intake.
    processing_ms INTEGER NOT NULL DEFAULT 0,
    completion_ms INTEGER NOT NULL DEFAULT 0
);

INSERT INTO order_counters (id) VALUES (1);

CREATE TRIGGER orders_inserted AFTER INSERT ON orders
BEGIN
    UPDATE order_counters
    SET total      = total + 1,
        pending    = pending    + (NEW.status = 'Pending'),
        processing = processing + (NEW.status = 'Processing'),
        completed  = completed  + (NEW.status = 'Completed'),
        failed     = failed     + (NEW.status = 'Failed'),
        cancelled  = cancelled  + (NEW.status = 'Cancelled')
    WHERE id = 1;
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
    WHERE id = 1;
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
    WHERE id = 1;
END;

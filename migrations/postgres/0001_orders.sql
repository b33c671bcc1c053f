-- The schema for PostgreSQL and what speaks like it: no triggers, sequences, foreign keys or advisory locks, and keys that
-- hosts make without asking each other. What SQLite's triggers do, each statement does itself here. Keys are compared byte by
-- byte: an update of the system's collations must not damage their indexes.

CREATE TABLE orders (
    owner             text    COLLATE "C" NOT NULL CHECK (length(owner) <= 64),
    order_id          text    COLLATE "C" NOT NULL CHECK (length(order_id) BETWEEN 1 AND 64),
    -- The number of the order's creation in the numbering that it shares with order_events.
    number            bigint  NOT NULL,
    -- The number of its latest change.
    last_number       bigint  NOT NULL CHECK (last_number >= number),
    -- 1 when the client sent the id as a JSON integer, so that it goes back as one.
    order_id_int      bigint  NOT NULL CHECK (order_id_int IN (0, 1)),
    user_id           text    COLLATE "C" NOT NULL CHECK (length(user_id) BETWEEN 1 AND 64),
    user_id_int       bigint  NOT NULL CHECK (user_id_int IN (0, 1)),
    -- A JSON array of strings and integers, in the client's order. PostgreSQL compresses long ones by itself.
    item_ids          text    NOT NULL,
    total_amount      bigint  NOT NULL CHECK (total_amount BETWEEN 0 AND 9999999999),
    currency          text    NOT NULL CHECK (length(currency) = 3),
    status            text    NOT NULL CHECK (status IN ('Pending', 'Processing', 'Completed', 'Failed', 'Cancelled')),
    -- How many attempts were started; the number of the last one is the fencing token of its worker.
    attempts          bigint  NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- The attempts before the last retry by hand; they do not count against the limit.
    attempts_forgiven bigint  NOT NULL DEFAULT 0 CHECK (attempts_forgiven <= attempts),
    -- Times are milliseconds since 1970.
    created_at        bigint  NOT NULL,
    -- When the last attempt started.
    started_at        bigint,
    -- When the order reached Completed, Failed or Cancelled.
    finished_at       bigint,
    -- When the status last changed.
    changed_at        bigint  NOT NULL,
    -- While the processor has said "ask again later": no worker owns the order until due_at.
    snoozed           boolean NOT NULL DEFAULT false CHECK (NOT snoozed OR status = 'Processing'),
    -- From a lost lease to the end of the attempts that follow it: the order may be what brought the worker down, so the
    -- processor gets it alone.
    quarantined       boolean NOT NULL DEFAULT false,
    -- When a worker may next take the order up: a Pending one that is new or waits for its retry, a snoozed one that is to
    -- be asked about again, a Processing one whose lease ran out.
    due_at            bigint,
    -- How the last attempt that did not succeed ended, and why.
    failure_kind      text    CHECK (failure_kind IN ('Failed', 'LeaseLost')),
    failure           text,
    -- Who takes the order up next. 0: it was never started. 1: it was, and waits for a retry or is snoozed.
    -- 2: a worker has it. 3: quarantined and snoozed. 4: quarantined, and a worker has it.
    lane              bigint  GENERATED ALWAYS AS (
        CASE WHEN due_at IS NULL THEN NULL
             WHEN status = 'Pending' THEN CASE WHEN attempts > 0 THEN 1 ELSE 0 END
             WHEN snoozed THEN CASE WHEN quarantined THEN 3 ELSE 1 END
             ELSE CASE WHEN quarantined THEN 4 ELSE 2 END END) STORED,
    PRIMARY KEY (owner, order_id),
    CHECK ((due_at IS NULL) = (status IN ('Completed', 'Failed', 'Cancelled'))),
    CHECK ((finished_at IS NOT NULL) = (status IN ('Completed', 'Failed', 'Cancelled'))),
    CHECK (status NOT IN ('Processing', 'Completed') OR started_at IS NOT NULL)
)
-- Every change of an order changes an indexed column, and leaves a dead row behind.
WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE UNIQUE INDEX orders_by_number ON orders (number);

CREATE INDEX orders_due ON orders (lane, due_at) WHERE due_at IS NOT NULL;

-- The dead letters of an owner and of a user, in the order in which they are listed.
CREATE INDEX orders_failed ON orders (owner, finished_at, number) WHERE status = 'Failed';

CREATE INDEX orders_failed_by_user ON orders (owner, user_id, finished_at, number) WHERE status = 'Failed';

-- What retention looks at.
CREATE INDEX orders_finished ON orders (finished_at) WHERE finished_at IS NOT NULL;

-- One row per change of status after the creation, which the order itself tells, and one per attempt that follows a
-- lost lease.
CREATE TABLE order_events (
    -- Its place among all changes of all orders, creations included: see the store's numbering.
    number       bigint PRIMARY KEY,
    order_number bigint NOT NULL,
    at           bigint NOT NULL,
    status       text   NOT NULL,
    attempt      bigint NOT NULL,
    reason       text
);

CREATE INDEX order_events_of_order ON order_events (order_number, number);

-- One row per attempt that has ended; the one that is under way is told by the order itself.
CREATE TABLE order_attempts (
    order_number bigint NOT NULL,
    number       bigint NOT NULL,
    started_at   bigint NOT NULL,
    ended_at     bigint NOT NULL,
    outcome      text   NOT NULL CHECK (outcome IN ('Completed', 'Failed', 'LeaseLost')),
    reason       text,
    PRIMARY KEY (order_number, number)
);

-- The counters of an owner are spread over slots, so that hosts seldom wait for each other; their sum is what counts.
-- The rows of the owner '' count all orders, and those of '*' the orders with an owner.
CREATE TABLE order_counters (
    owner         text   COLLATE "C" NOT NULL,
    slot          bigint NOT NULL,
    total         bigint NOT NULL,
    pending       bigint NOT NULL,
    processing    bigint NOT NULL,
    completed     bigint NOT NULL,
    failed        bigint NOT NULL,
    cancelled     bigint NOT NULL,
    -- Sums over completed orders: from the start of the last attempt, and from intake.
    processing_ms bigint NOT NULL,
    completion_ms bigint NOT NULL,
    PRIMARY KEY (owner, slot)
)
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE idempotency_keys (
    owner       text   COLLATE "C" NOT NULL,
    -- Who sent the request, among those that act for the owner.
    caller      text   COLLATE "C" NOT NULL,
    key         text   COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- A digest of the request's path and body.
    fingerprint text   NOT NULL,
    created_at  bigint NOT NULL,
    status      bigint NOT NULL,
    location    text,
    body        text   NOT NULL,
    PRIMARY KEY (owner, caller, key)
);

CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

-- How many orders a worker hands to the processor at once: it follows what its calls have taken.
CREATE TABLE worker_pace (
    id         bigint PRIMARY KEY CHECK (id = 1),
    batch_size bigint NOT NULL CHECK (batch_size >= 1)
);

-- What is added to the numbers that transactions give: a database that was restored into a new cluster, whose
-- transactions count from the beginning, goes on behind what it holds.
CREATE TABLE numbering (
    id   bigint PRIMARY KEY CHECK (id = 1),
    base bigint NOT NULL
);

INSERT INTO numbering (id, base) VALUES (1, 0);

//! The statement that changes orders: those it picks, what becomes of them, their events, the attempts that end with it,
//! and the counters.
//!
//! # Numbers
//! A change's number is made of its transaction's identifier, which PostgreSQL counts up, and its place in the
//! transaction, so that no host asks another one. A transaction that was given its identifier earlier may commit later;
//! whoever reads changes in their order stops before the numbers of the oldest transaction that has not ended
//! (`pg_snapshot_xmin`), and misses none. Where such a transaction changes an order that a later one changed before it,
//! the change gets the number behind that one's: whoever reads has not come so far, for the earlier one had not ended.

/// The bits of a number below the transaction's: 65,536 places in a transaction, with room for 15 changes each that come
/// late.
macro_rules! numbering {
    () => {
        "numbering AS MATERIALIZED (
            SELECT $1::int8 + base + (pg_current_xact_id()::text::int8 << 20) AS first FROM numbering WHERE id = 1)"
    };
}

/// How far the numbers of neighbouring places are apart.
pub(super) const STEP: i64 = 16;
/// How many changes a transaction may make.
pub(super) const MAX_CHANGES: i64 = (1 << 20) / STEP;

/// The rows of counters that an order of `owner` is counted in.
macro_rules! scopes {
    () => {
        "unnest(CASE WHEN owner = '' THEN ARRAY[''] ELSE ARRAY['', '*', owner] END) AS scope"
    };
}

/// Adds counts to the slot $2.
macro_rules! count {
    ($counts:expr) => {
        concat!(
            "counted AS (
                INSERT INTO order_counters AS c (owner, slot, total, pending, processing, completed, failed, cancelled,
                                                 processing_ms, completion_ms)
                ",
            $counts,
            " GROUP BY scope ORDER BY scope
                ON CONFLICT (owner, slot) DO UPDATE
                SET total = c.total + excluded.total, pending = c.pending + excluded.pending,
                    processing = c.processing + excluded.processing, completed = c.completed + excluded.completed,
                    failed = c.failed + excluded.failed, cancelled = c.cancelled + excluded.cancelled,
                    processing_ms = c.processing_ms + excluded.processing_ms,
                    completion_ms = c.completion_ms + excluded.completion_ms)"
        )
    };
}

/// A statement that sets `set` for the orders `o` of `picked` (a FROM clause and what follows), and selects `select` from
/// them as they are then. $1 and $2 are for the numbers and the counters. `more` are columns of `picked` that `set` may
/// use as those of `p`.
macro_rules! change {
    (picked: $picked:expr, more: $more:expr, set: $set:expr, select: $select:expr $(,)?) => {
        concat!(
            "WITH ",
            $crate::postgres::changes::numbering!(),
            ", picked AS MATERIALIZED (
                SELECT o.number, o.last_number AS was_last_number, o.status AS was_status, o.attempts AS was_attempts,
                       o.started_at AS was_started_at",
            $more,
            " FROM ",
            $picked,
            "), changed AS (
                UPDATE orders o
                SET last_number = greatest(n.first + 16 * p.place, p.was_last_number + 1), ",
            $set,
            " FROM (SELECT picked.*, row_number() OVER (ORDER BY number) - 1 AS place FROM picked) p, numbering n
                WHERE o.number = p.number RETURNING o.*, p.was_status, p.was_attempts, p.was_started_at
            ), event AS (
                INSERT INTO order_events (number, order_number, at, status, attempt, reason)
                SELECT last_number, number, changed_at, status, attempts,
                       CASE WHEN was_status = 'Processing' AND status <> 'Completed' THEN failure END
                FROM changed WHERE status <> was_status OR attempts <> was_attempts
            ), attempt AS (
                INSERT INTO order_attempts (order_number, number, started_at, ended_at, outcome, reason)
                SELECT number, was_attempts, was_started_at, changed_at,
                       CASE WHEN status = 'Completed' THEN 'Completed' ELSE failure_kind END,
                       CASE WHEN status <> 'Completed' THEN failure END
                FROM changed WHERE was_status = 'Processing' AND (status <> was_status OR attempts <> was_attempts)
            ), ",
            $crate::postgres::changes::count!(concat!(
                "SELECT scope, $2::int8, 0,
                        sum((status = 'Pending')::int - (was_status = 'Pending')::int),
                        sum((status = 'Processing')::int - (was_status = 'Processing')::int),
                        sum((status = 'Completed')::int - (was_status = 'Completed')::int),
                        sum((status = 'Failed')::int - (was_status = 'Failed')::int),
                        sum((status = 'Cancelled')::int - (was_status = 'Cancelled')::int),
                        -- A clock that stepped back makes no negative time.
                        sum(CASE WHEN status = 'Completed' THEN greatest(0, finished_at - started_at) ELSE 0 END),
                        sum(CASE WHEN status = 'Completed' THEN greatest(0, finished_at - created_at) ELSE 0 END)
                 FROM changed, ",
                $crate::postgres::changes::scopes!(),
                " WHERE status <> was_status"
            )),
            " SELECT ",
            $select,
            " FROM changed"
        )
    };
}

pub(super) use {change, count, numbering, scopes};

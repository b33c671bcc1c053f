//! The service's database by plain rusqlite: for the native twin, for filling it, and for looking at it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use order_core::sqlite::SqliteStore;
use order_core::test_doubles::RusqliteConnection;
use rusqlite::{Connection, params};

/// Milliseconds since the Unix epoch.
pub fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// A connection as the service has it: durable when a commit returns.
pub fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// A new database with the service's schema.
pub fn create(path: &Path) -> Result<Connection> {
    let store = SqliteStore::open(RusqliteConnection(open(path)?));
    tokio::runtime::Handle::current().block_on(store)?;
    Ok(open(path)?)
}

/// Adds `count` orders that wait to be processed.
pub fn fill_pending(connection: &Connection, count: u64) -> Result<()> {
    connection.execute(
        "WITH RECURSIVE number (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
         INSERT INTO orders (seq, owner, order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency,
                             status, created_at, changed_at, due_at)
         SELECT (SELECT number FROM last_event) + n, '', lower(hex(randomblob(16))), 0, 'user-' || n, 0, '[\"book\",\"pen\"]', 1250, 'EUR', 'Pending', ?2, ?2, ?2
         FROM number",
        params![count as i64, now()],
    )?;
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

/// How many orders there are: in all, Pending, Processing, Completed.
pub fn counters(connection: &Connection) -> rusqlite::Result<[i64; 4]> {
    let mut select = connection
        .prepare_cached("SELECT total, pending, processing, completed FROM order_counters WHERE owner = ''")?;
    select.query_row([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))
}

/// What the worker does to the rows of up to `batch` due orders, in two transactions as it does, a statement for each
/// row: claims them, then completes them. The schema's triggers write the history. Answers how many there were.
pub fn work_once(connection: &Connection, batch: usize) -> rusqlite::Result<usize> {
    let now = now();
    let due: Vec<i64> = connection
        .prepare_cached(
            "SELECT seq FROM orders
             WHERE lane = 0 AND due_at <= ?1 ORDER BY due_at LIMIT ?2",
        )?
        .query_map(params![now, batch as i64], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if due.is_empty() {
        return Ok(0);
    }
    let transaction = connection.unchecked_transaction()?;
    let mut claimed = Vec::with_capacity(due.len());
    {
        let mut claim = transaction.prepare_cached(
            "UPDATE orders SET status = 'Processing', attempts = attempts + 1, started_at = ?2, changed_at = ?2, due_at = ?3
             WHERE seq = ?1 AND status = 'Pending'
             RETURNING order_id, user_id, item_ids, total_amount, currency, attempts",
        )?;
        for seq in &due {
            let mut rows = claim.query(params![seq, now, now + 30_000])?;
            while let Some(row) = rows.next()? {
                // The worker hands these to the processor.
                let _: (String, String, String, i64, String) =
                    (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
                claimed.push((*seq, row.get::<_, i64>(5)?));
            }
        }
    }
    transaction.commit()?;
    let transaction = connection.unchecked_transaction()?;
    {
        let mut complete = transaction.prepare_cached(
            "UPDATE orders SET status = 'Completed', finished_at = ?3, changed_at = ?3, due_at = NULL
             WHERE seq = ?1 AND attempts = ?2 AND status = 'Processing'",
        )?;
        for (seq, attempt) in &claimed {
            complete.execute(params![seq, attempt, now])?;
        }
    }
    transaction.commit()?;
    Ok(claimed.len())
}

/// Adds `count` orders as clients and the worker would have left them: all Completed, each with its history. The
/// triggers, which would write the same row by row, are away meanwhile.
pub fn fill(connection: &mut Connection, count: u64) -> Result<()> {
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "cache_size", -400_000)?;
    let triggers: Vec<(String, String)> = connection
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'orders'")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (name, _) in &triggers {
        connection.execute_batch(&format!("DROP TRIGGER {name}"))?;
    }
    // Each order's creation and its two events have numbers that follow each other.
    let base: i64 = connection.query_row("SELECT number FROM last_event", [], |row| row.get(0))?;
    let last = count as i64;
    // One order each millisecond, up to now.
    let begin = now() - last;
    let mut at = 1;
    while at <= last {
        let end = last.min(at + 199_999);
        let transaction = connection.transaction()?;
        transaction.execute(
            "WITH RECURSIVE number (n) AS (VALUES (?1) UNION ALL SELECT n + 1 FROM number WHERE n < ?2)
             INSERT INTO orders (seq, owner, order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency,
                                 status, attempts, created_at, started_at, finished_at, changed_at)
             SELECT ?4 + 3 * n - 2, '', 'filled-' || n, 0, 'user-' || n % 100000, 0, '[\"book\",\"pen\"]', 1250, 'EUR', 'Completed',
                    1, ?3 + n, ?3 + n + 20, ?3 + n + 1000, ?3 + n + 1000 FROM number",
            params![at, end, begin, base],
        )?;
        let seqs = [base + 3 * at - 2, base + 3 * end - 2];
        transaction.execute(
            "INSERT INTO order_attempts (seq, number, started_at, ended_at, outcome)
             SELECT seq, 1, started_at, finished_at, 'Completed' FROM orders WHERE seq BETWEEN ?1 AND ?2",
            seqs,
        )?;
        transaction.execute(
            "INSERT INTO order_events (number, seq, at, status, attempt)
             SELECT seq + value, seq, iif(value = 1, started_at, finished_at), iif(value = 1, 'Processing', 'Completed'), 1
             FROM orders, json_each('[1,2]') WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq, value",
            seqs,
        )?;
        transaction.commit()?;
        at = end + 1;
    }
    connection.execute(
        "UPDATE order_counters SET total = total + ?1, completed = completed + ?1, processing_ms = processing_ms + 980 * ?1,
                                   completion_ms = completion_ms + 1000 * ?1 WHERE owner = ''",
        [count as i64],
    )?;
    for (_, sql) in &triggers {
        connection.execute_batch(sql)?;
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

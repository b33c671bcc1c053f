//! What must hold of the database at every moment, and at the end.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::settings::{MAX_ATTEMPTS, PROCESSING_TIME_MS};

/// What the clients know of the orders that they sent.
#[derive(Default)]
pub struct Ledger {
    /// By the user's identifier, which each order has for itself.
    pub sent: BTreeMap<String, Sent>,
    /// The first answers to keyed requests that are not orders: the status and the body, by key.
    pub answers: BTreeMap<String, (u16, Bytes)>,
}

/// What a reader who follows the numbers of changes has seen: how many there are up to which one.
#[derive(Clone, Copy, Default)]
struct Followed {
    up_to: i64,
    count: i64,
}

/// An order that a client sent.
pub struct Sent {
    /// Its items and amount, as the database shows them.
    pub content: (String, i64),
    /// The identifier, once it is known.
    pub order_id: Option<String>,
    /// Whether its acceptance was acknowledged.
    pub acknowledged: bool,
    /// Whether its cancellation was.
    pub cancelled: bool,
}

/// A connection that looks and leaves no trace: it does not even write back the log when it is the last. It is
/// opened when it is first needed, and must go before the machine comes back.
#[derive(Default)]
pub struct Onlooker {
    connection: Option<Connection>,
    followed: Followed,
}

impl Onlooker {
    fn connection(&mut self, path: &Path) -> rusqlite::Result<&mut Connection> {
        match &mut self.connection {
            Some(db) => Ok(db),
            none => {
                let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
                Ok(none.insert(db))
            }
        }
    }
}

/// What every order's row says.
struct Row {
    seq: i64,
    order_id: String,
    user_id: String,
    content: (String, i64),
    status: String,
    attempts: i64,
    forgiven: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
}

fn rows(db: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut statement = db.prepare_cached(
        "SELECT seq, order_id, user_id, item_ids, total_amount, status, attempts, attempts_forgiven, started_at, finished_at
         FROM orders",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Row {
            seq: row.get(0)?,
            order_id: row.get(1)?,
            user_id: row.get(2)?,
            content: (row.get(3)?, row.get(4)?),
            status: row.get(5)?,
            attempts: row.get(6)?,
            forgiven: row.get(7)?,
            started_at: row.get(8)?,
            finished_at: row.get(9)?,
        })
    })?;
    rows.collect()
}

/// Checks what must hold at any moment; with `at_end` also what must hold once nothing is left to do.
///
/// # Errors
/// What does not hold, in words. A database that cannot be read now (it is locked, or new) holds everything,
/// unless it is the end.
pub fn check(onlooker: &mut Onlooker, path: &Path, ledger: &Ledger, at_end: bool) -> Result<(), String> {
    let mut followed = onlooker.followed;
    let mut read = || -> rusqlite::Result<Result<(), String>> {
        // One snapshot for all queries.
        let db = onlooker.connection(path)?.transaction()?;
        let rows = rows(&db)?;
        let numbers = check_numbers(&db, &mut followed)?;
        Ok(check_rows(&rows, ledger, at_end)
            .and_then(|()| check_counters(&db))
            .and_then(|()| check_history(&db, &rows))
            .and(numbers))
    };
    let checked = read();
    onlooker.followed = followed;
    match checked {
        Ok(held) => held,
        Err(_) if !at_end => Ok(()),
        Err(error) => Err(format!("the database cannot be read at the end: {error}")),
    }
}

fn check_rows(rows: &[Row], ledger: &Ledger, at_end: bool) -> Result<(), String> {
    let mut by_user: BTreeMap<&str, &Row> = BTreeMap::new();
    for row in rows {
        let sent = ledger.sent.get(&row.user_id);
        let Some(sent) = sent else { return Err(format!("order {} was never sent", row.order_id)) };
        if let Some(other) = by_user.insert(&row.user_id, row) {
            return Err(format!(
                "one order of {} is there twice: {} and {}",
                row.user_id, other.order_id, row.order_id
            ));
        }
        if row.content != sent.content {
            return Err(format!("order {} was changed: {:?} instead of {:?}", row.order_id, row.content, sent.content));
        }
        if row.attempts - row.forgiven > MAX_ATTEMPTS {
            return Err(format!(
                "order {} had {} attempts of {MAX_ATTEMPTS}",
                row.order_id,
                row.attempts - row.forgiven
            ));
        }
        if sent.cancelled && row.status != "Cancelled" {
            return Err(format!("order {} was cancelled and is {}", row.order_id, row.status));
        }
        if row.status == "Completed"
            && let (Some(started), Some(finished)) = (row.started_at, row.finished_at)
            && finished - started < PROCESSING_TIME_MS
        {
            return Err(format!(
                "order {} was completed {} ms after its attempt started",
                row.order_id,
                finished - started
            ));
        }
        if at_end && ["Pending", "Processing"].contains(&row.status.as_str()) {
            return Err(format!("order {} is still {} at the end", row.order_id, row.status));
        }
    }
    for (user_id, sent) in ledger.sent.iter().filter(|(_, sent)| sent.acknowledged) {
        match by_user.get(user_id.as_str()) {
            None => return Err(format!("the acknowledged order of {user_id} is gone")),
            Some(row) if sent.order_id.as_ref().is_some_and(|order_id| *order_id != row.order_id) => {
                return Err(format!("the order of {user_id} has another name: {}", row.order_id));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Every change has a number of its own, and none becomes visible below one that was seen before.
fn check_numbers(db: &Connection, followed: &mut Followed) -> rusqlite::Result<Result<(), String>> {
    let mut count = db.prepare_cached(
        "SELECT count(*), count(DISTINCT number), coalesce(max(number), 0), coalesce(sum(number <= ?1), 0)
         FROM (SELECT seq AS number FROM orders UNION ALL SELECT number FROM order_events)",
    )?;
    let (all, distinct, last, seen): (i64, i64, i64, i64) =
        count.query_row([followed.up_to], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    if all != distinct {
        return Ok(Err("two changes have one number".to_owned()));
    }
    if seen != followed.count {
        let Followed { up_to, count } = followed;
        return Ok(Err(format!("up to number {up_to} there were {count} changes, and now there are {seen}")));
    }
    *followed = Followed { up_to: last, count: all };
    Ok(Ok(()))
}

fn check_counters(db: &Connection) -> Result<(), String> {
    let equal: rusqlite::Result<bool> = db.query_row(
        "SELECT (total, pending, processing, completed, failed, cancelled, processing_ms, completion_ms) = (
             SELECT count(*), coalesce(sum(status = 'Pending'), 0), coalesce(sum(status = 'Processing'), 0),
                    coalesce(sum(status = 'Completed'), 0), coalesce(sum(status = 'Failed'), 0),
                    coalesce(sum(status = 'Cancelled'), 0),
                    coalesce(sum(iif(status = 'Completed', max(0, finished_at - started_at), 0)), 0),
                    coalesce(sum(iif(status = 'Completed', max(0, finished_at - created_at), 0)), 0)
             FROM orders)
         FROM order_counters WHERE owner = ''",
        [],
        |row| row.get(0),
    );
    match equal {
        Ok(true) => Ok(()),
        Ok(false) => Err("the counters are not those of the rows".to_owned()),
        Err(error) => Err(format!("the counters cannot be read: {error}")),
    }
}

fn check_history(db: &Connection, rows: &[Row]) -> Result<(), String> {
    let read = || -> rusqlite::Result<Result<(), String>> {
        let mut events =
            db.prepare_cached("SELECT number, status, attempt FROM order_events WHERE seq = ?1 ORDER BY number")?;
        let mut attempts =
            db.prepare_cached("SELECT number, outcome FROM order_attempts WHERE seq = ?1 ORDER BY number")?;
        for row in rows {
            let mut told: Vec<(i64, String, i64)> = events
                .query_map([row.seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?;
            // The creation, which the order itself tells.
            told.insert(0, (row.seq, "Pending".to_owned(), 0));
            let tried: Vec<(i64, Option<String>)> =
                attempts.query_map([row.seq], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            if let Err(what) = check_events(&told, row).and_then(|()| check_attempts(&tried, row)) {
                return Ok(Err(format!("order {}: {what}: {told:?} {tried:?}", row.order_id)));
            }
        }
        Ok(Ok(()))
    };
    read().unwrap_or_else(|error| Err(format!("the history cannot be read: {error}")))
}

/// The creation comes first, each event follows from the one before, and the last one tells the order's state.
fn check_events(events: &[(i64, String, i64)], row: &Row) -> Result<(), String> {
    if events.iter().any(|event| event.0 < row.seq) {
        return Err("an event comes before its creation".to_owned());
    }
    match events.last() {
        Some((_, status, attempt)) if *status == row.status && *attempt == row.attempts => {}
        _ => return Err(format!("its events do not end in {} {}", row.status, row.attempts)),
    }
    for pair in events.windows(2) {
        let follows = match (pair[0].1.as_str(), pair[1].1.as_str()) {
            ("Pending", "Processing") | ("Processing", "Processing") => pair[1].2 == pair[0].2 + 1,
            ("Processing", "Pending" | "Completed" | "Failed") => pair[1].2 == pair[0].2,
            ("Pending", "Cancelled") | ("Failed", "Pending") => pair[1].2 == pair[0].2,
            _ => false,
        };
        if !follows {
            return Err(format!("{} does not follow {}", pair[1].1, pair[0].1));
        }
    }
    Ok(())
}

/// There is a row for each attempt, the open one is that of an order under way, and success is recorded once.
fn check_attempts(attempts: &[(i64, Option<String>)], row: &Row) -> Result<(), String> {
    if !attempts.iter().map(|attempt| attempt.0).eq(1..=row.attempts) {
        return Err("its attempts are not numbered".to_owned());
    }
    let open: Vec<i64> = attempts.iter().filter(|attempt| attempt.1.is_none()).map(|attempt| attempt.0).collect();
    let expected: Vec<i64> = if row.status == "Processing" { vec![row.attempts] } else { vec![] };
    if open != expected {
        return Err("the wrong attempts are open".to_owned());
    }
    let completed = attempts.iter().filter(|attempt| attempt.1.as_deref() == Some("Completed")).count();
    if completed != usize::from(row.status == "Completed") {
        return Err(format!("it was completed {completed} times"));
    }
    Ok(())
}

/// The content that the database shows for an order's JSON.
pub fn content_of(order: &Value) -> (String, i64) {
    let amount = order["total_amount"].as_i64().expect("the simulator sends whole amounts");
    (order["item_ids"].to_string(), amount * 100)
}

//! Brings a database to the schema of this build.

use std::time::Duration;

use super::connection::{Connection, Value};
use super::rows::unexpected_row;
use crate::store::{StoreError, known_version, migration_statements};

/// The files of `migrations/`, in the order of their numbers.
const MIGRATIONS: [(&str, &str); 3] = [
    ("0001_orders", include_str!("../../../migrations/0001_orders.sql")),
    ("0002_history", include_str!("../../../migrations/0002_history.sql")),
    ("0003_owners_and_event_numbers", include_str!("../../../migrations/0003_owners_and_event_numbers.sql")),
];

/// The schema version that this build reads and writes: the number of the last migration.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// How long the migrations wait for the lock before they look whether another process has done the work meanwhile: after
/// a cold start many wait, and all but one of them for nothing.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// How often they look. A process that migrates a large database takes long.
const LOOKS: usize = 80;

/// Applies the migrations that the database does not have yet, all in one transaction, and records them in
/// `schema_migrations`. Does nothing but read the version when there are none to apply, or when the version is a
/// later one.
///
/// The connection must be this call's alone: the transaction spans several statements. Two processes that
/// come at the same time are safe: the second waits for the first and finds the work done.
///
/// # Errors
/// [`StoreError::NewerSchema`] when the database has a later version than this build knows.
pub(super) async fn migrate<C: Connection>(connection: &C) -> Result<(), StoreError> {
    for _ in 0..LOOKS {
        // The table is missing in a new database only; any other error comes up again below.
        if let Ok(found) = recorded_version(connection).await
            && known_version(found, SCHEMA_VERSION)? == SCHEMA_VERSION
        {
            return Ok(());
        }
        match apply(connection).await {
            // Another process is migrating.
            Err(StoreError::Busy) => {}
            outcome => return outcome,
        }
    }
    Err(StoreError::Busy)
}

async fn apply<C: Connection>(connection: &C) -> Result<(), StoreError> {
    // In WAL mode readers and the writer do not block each other, and a commit costs one sync. The mode is kept in
    // the file, so this is done once, and before there is anything to read. A libSQL server, which has its own
    // way of logging, may refuse it.
    if let Err(StoreError::Busy) = connection.execute_within(LOOK_AFTER, "PRAGMA journal_mode = WAL", vec![]).await {
        return Err(StoreError::Busy);
    }
    connection.execute_within(LOOK_AFTER, "BEGIN EXCLUSIVE", vec![]).await?;
    let outcome = apply_missing(connection).await;
    let end = if outcome.is_ok() { "END" } else { "ROLLBACK" };
    match connection.execute(end, vec![]).await {
        Ok(_) => outcome,
        // The transaction may be open still, and everything that the connection does from now on a part of it:
        // the connection must not be used, whatever the reason was.
        Err(error) => Err(StoreError::Unavailable(format!("the migration did not end: {error}"))),
    }
}

async fn recorded_version<C: Connection>(connection: &C) -> Result<i64, StoreError> {
    let rows = connection.execute("SELECT max(version) FROM schema_migrations", vec![]).await?;
    match rows.first().map(Vec::as_slice) {
        Some([Value::Integer(version)]) => Ok(*version),
        Some([Value::Null]) => Ok(0),
        _ => Err(unexpected_row()),
    }
}

async fn apply_missing<C: Connection>(connection: &C) -> Result<(), StoreError> {
    let table = "CREATE TABLE IF NOT EXISTS schema_migrations (
            version    INTEGER PRIMARY KEY,
            name       TEXT NOT NULL,
            applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ'))
        )";
    connection.execute(table, vec![]).await?;
    let recorded = known_version(recorded_version(connection).await?, SCHEMA_VERSION)?;
    for (version, (name, sql)) in (1..).zip(MIGRATIONS).skip(recorded as usize) {
        for statement in migration_statements(sql) {
            connection.execute(statement, vec![]).await?;
        }
        let record = "INSERT INTO schema_migrations (version, name) VALUES (?1, ?2)";
        connection.execute(record, vec![Value::Integer(version), name.into()]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_doubles::RusqliteConnection;

    #[test]
    fn the_files_of_the_folder_are_the_migrations() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.retain(|name| name.ends_with(".sql"));
        files.sort();
        let known: Vec<_> = MIGRATIONS.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(files, known);
        for (number, name) in (1..).zip(&known) {
            assert!(name.starts_with(&format!("{number:04}_")), "{name}");
        }
    }

    #[test]
    fn splitting_a_file_loses_no_statement() {
        let whole = rusqlite::Connection::open_in_memory().unwrap();
        let split = rusqlite::Connection::open_in_memory().unwrap();
        for (name, sql) in MIGRATIONS {
            whole.execute_batch(sql).unwrap();
            for statement in migration_statements(sql) {
                split.execute_batch(statement).unwrap();
            }
            let schema = |db: &rusqlite::Connection| -> Vec<(String, String)> {
                let mut rows = db.prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name").unwrap();
                rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
            };
            assert_eq!(schema(&whole), schema(&split), "{name}");
        }
    }

    #[test]
    fn migrating_twice_is_migrating_once() {
        let db = RusqliteConnection::in_memory();
        pollster::block_on(async {
            migrate(&db).await.unwrap();
            migrate(&db).await.unwrap();
            assert_eq!(recorded_version(&db).await, Ok(SCHEMA_VERSION));
        });
    }

    /// Counts the statements that take the write lock.
    struct Watched {
        connection: RusqliteConnection,
        locks: std::cell::Cell<usize>,
    }

    impl Connection for Watched {
        async fn execute_within(
            &self,
            patience: Duration,
            sql: &str,
            parameters: Vec<Value>,
        ) -> Result<Vec<crate::sqlite::Row>, StoreError> {
            self.locks.set(self.locks.get() + usize::from(sql.starts_with("BEGIN")));
            self.connection.execute_within(patience, sql, parameters).await
        }
    }

    #[test]
    fn a_later_schema_is_told_by_a_read_and_left_alone() {
        let db = Watched { connection: RusqliteConnection::in_memory(), locks: Default::default() };
        pollster::block_on(async {
            migrate(&db).await.unwrap();
            let later = "INSERT INTO schema_migrations (version, name) VALUES (?1, 'later')";
            db.execute(later, vec![Value::Integer(SCHEMA_VERSION + 1)]).await.unwrap();
            db.locks.set(0);
            let refused = StoreError::NewerSchema { found: SCHEMA_VERSION + 1, known: SCHEMA_VERSION };
            assert_eq!(migrate(&db).await, Err(refused));
            assert_eq!(recorded_version(&db).await, Ok(SCHEMA_VERSION + 1));
            assert_eq!(db.locks.get(), 0);
        });
    }

    /// Rows of the schema before owners and event numbers are carried over: nothing is lost, what happened to an
    /// order comes in its order and after its creation, and numbers go on behind them.
    #[test]
    fn old_rows_are_carried_over() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        for (_, sql) in &MIGRATIONS[..2] {
            db.execute_batch(sql).unwrap();
        }
        db.execute_batch(
            "INSERT INTO orders (order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency, status,
                                 created_at, changed_at, due_at)
             VALUES ('a', 0, 'u', 0, '[1]', 5, 'EUR', 'Pending', 10, 10, 10), ('7', 1, 'u', 0, '[1]', 5, 'EUR', 'Pending', 11, 11, 11),
                    ('c', 0, 'u', 0, '[1]', 5, 'EUR', 'Pending', 12, 12, 12);
             UPDATE orders SET status = 'Processing', attempts = 1, started_at = 20, changed_at = 20 WHERE seq <= 2;
             -- The clock steps back.
             UPDATE orders SET status = 'Completed', finished_at = 15, changed_at = 15, due_at = NULL WHERE seq = 1;
             UPDATE orders SET status = 'Failed', finished_at = 30, changed_at = 30, due_at = NULL, failure = 'its lease ran out'
             WHERE seq = 2;
             INSERT INTO idempotency_keys (caller, key, fingerprint, created_at, status, body)
             VALUES ('me', 'k', 'f', 1, 202, '{}');",
        )
        .unwrap();
        db.execute_batch(MIGRATIONS[2].1).unwrap();
        let text = |sql: &str| db.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        let orders =
            "SELECT group_concat(concat_ws(' ', seq, owner, order_id, status, lane, failure_kind), '; ') FROM orders";
        assert_eq!(text(orders), "1  a Completed; 2  7 Failed LeaseLost; 3  c Pending 0");
        let events = "SELECT group_concat(concat_ws(' ', number, seq, status), '; ') FROM (SELECT * FROM order_events ORDER BY number)";
        assert_eq!(text(events), "4 1 Processing; 5 1 Completed; 6 2 Processing; 7 2 Failed");
        assert_eq!(text("SELECT number || '' FROM last_event"), "7");
        let counters =
            "SELECT group_concat(concat_ws(' ', owner, total, pending, completed, failed), '; ') FROM order_counters";
        assert_eq!(text(counters), " 3 1 1 1; * 0 0 0 0");
        assert_eq!(text("SELECT owner || caller || key FROM idempotency_keys"), "mek");
        assert_eq!(text("SELECT outcome || number FROM order_attempts WHERE seq = 2"), "LeaseLost1");
    }

    /// Finds the database locked when a transaction is to end.
    struct LockedAtTheEnd(RusqliteConnection);

    impl Connection for LockedAtTheEnd {
        async fn execute_within(
            &self,
            patience: Duration,
            sql: &str,
            parameters: Vec<Value>,
        ) -> Result<Vec<crate::sqlite::Row>, StoreError> {
            if sql == "END" {
                return Err(StoreError::Busy);
            }
            self.0.execute_within(patience, sql, parameters).await
        }
    }

    #[test]
    fn a_connection_whose_transaction_did_not_end_is_not_used() {
        let db = LockedAtTheEnd(RusqliteConnection::in_memory());
        assert!(matches!(pollster::block_on(migrate(&db)), Err(StoreError::Unavailable(_))));
    }

    #[test]
    fn connections_that_come_together_migrate_once() {
        let folder = std::env::temp_dir().join(format!("order-core-migrate-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("orders.db");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| pollster::block_on(migrate(&RusqliteConnection::open(&file))).unwrap());
            }
        });
        let db = RusqliteConnection::open(&file);
        assert_eq!(pollster::block_on(recorded_version(&db)), Ok(SCHEMA_VERSION));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

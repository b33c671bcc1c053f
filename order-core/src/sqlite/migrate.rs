//! Brings a database to the schema of this build.

use super::{BUSY_RETRIES, Connection, Value};
use crate::store::StoreError;

/// The files of `migrations/`, in the order of their numbers.
const MIGRATIONS: [(&str, &str); 2] = [
    ("0001_orders", include_str!("../../../migrations/0001_orders.sql")),
    ("0002_history", include_str!("../../../migrations/0002_history.sql")),
];

/// The schema version that this build reads and writes: the number of the last migration.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Applies the migrations that the database does not have yet, all in one transaction, and records them in
/// `schema_migrations`. Does nothing but read the version when there are none.
///
/// The connection must be this call's alone: the transaction spans several statements. Two processes that
/// come at the same time are safe: the second waits for the first and finds the work done.
///
/// # Errors
/// [`StoreError::Broken`] when the database has a later version than this build knows.
pub(super) async fn migrate<C: Connection>(connection: &C) -> Result<(), StoreError> {
    for _ in 0..BUSY_RETRIES {
        // The table is missing in a new database only; any other error comes up again below.
        if recorded_version(connection).await == Ok(SCHEMA_VERSION) {
            return Ok(());
        }
        match apply(connection).await {
            // Another one is at it, and done soon.
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
    if let Err(StoreError::Busy) = connection.execute("PRAGMA journal_mode = WAL", vec![]).await {
        return Err(StoreError::Busy);
    }
    connection.execute("BEGIN EXCLUSIVE", vec![]).await?;
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
        _ => Err(StoreError::unexpected_row()),
    }
}

async fn apply_missing<C: Connection>(connection: &C) -> Result<(), StoreError> {
    let table = "CREATE TABLE IF NOT EXISTS schema_migrations (
            version    INTEGER PRIMARY KEY,
            name       TEXT NOT NULL,
            applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ'))
        )";
    connection.execute(table, vec![]).await?;
    let recorded = recorded_version(connection).await?;
    if recorded > SCHEMA_VERSION {
        return Err(StoreError::Broken(format!(
            "it has schema version {recorded}, this build knows versions up to {SCHEMA_VERSION}"
        )));
    }
    for (version, (name, sql)) in (1..).zip(MIGRATIONS).skip(recorded as usize) {
        for statement in statements(sql) {
            connection.execute(statement, vec![]).await?;
        }
        let record = "INSERT INTO schema_migrations (version, name) VALUES (?1, ?2)";
        connection.execute(record, vec![Value::Integer(version), name.into()]).await?;
    }
    Ok(())
}

/// The statements of a migration file: each ends with `;` at the end of a line before a blank line or the
/// end of the file. (Statements inside a trigger have no blank line after them.)
fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n\n").map(str::trim).filter(|statement| !statement.is_empty())
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
            for statement in statements(sql) {
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

    #[test]
    fn a_later_schema_is_refused_and_left_alone() {
        let db = RusqliteConnection::in_memory();
        pollster::block_on(async {
            migrate(&db).await.unwrap();
            let later = "INSERT INTO schema_migrations (version, name) VALUES (?1, 'later')";
            db.execute(later, vec![Value::Integer(SCHEMA_VERSION + 1)]).await.unwrap();
            assert!(matches!(migrate(&db).await, Err(StoreError::Broken(_))));
            assert_eq!(recorded_version(&db).await, Ok(SCHEMA_VERSION + 1));
        });
    }

    /// Finds the database locked when a transaction is to end.
    struct LockedAtTheEnd(RusqliteConnection);

    impl Connection for LockedAtTheEnd {
        async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<crate::sqlite::Row>, StoreError> {
            if sql == "END" {
                return Err(StoreError::Busy);
            }
            self.0.execute(sql, parameters).await
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

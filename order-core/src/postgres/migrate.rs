//! Brings a database to the schema of this build.

use super::connection::{Connection, Value};
use super::rows::unexpected_row;
use crate::store::{StoreError, known_version, migration_statements};

/// The files of `migrations/postgres/`, in the order of their numbers.
const MIGRATIONS: [(&str, &str); 1] = [("0001_orders", include_str!("../../../migrations/postgres/0001_orders.sql"))];

/// The schema version that this build reads and writes: the number of the last migration.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// How often the migrations are tried where others come at the same time.
const ATTEMPTS: usize = 5;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
        version    bigint PRIMARY KEY,
        name       text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )";

/// Applies the migrations that the database does not have yet, all in one transaction, and records them in
/// `schema_migrations`. Does nothing but read the version when there are none to apply, or when the version is a later
/// one. Of several hosts that come at the same time one applies them, and the others wait for it.
///
/// # Errors
/// [`StoreError::NewerSchema`] when the database has a later version than this build knows.
pub(super) async fn migrate(connection: &impl Connection) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    for _ in 0..ATTEMPTS {
        // The table is missing in a new database only; any other error comes up again below.
        if let Ok(found) = recorded_version(connection).await
            && known_version(found, SCHEMA_VERSION)? == SCHEMA_VERSION
        {
            return Ok(());
        }
        // Two hosts that create one table at once may meet in the catalog: one of them gets an error whatever IF NOT EXISTS
        // says.
        outcome = match connection.execute(CREATE, vec![]).await {
            Ok(_) => apply(connection).await,
            Err(error) => Err(error),
        };
        if outcome.is_ok() {
            return Ok(());
        }
    }
    outcome
}

async fn recorded_version(connection: &impl Connection) -> Result<i64, StoreError> {
    let rows = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations", vec![]).await?;
    match rows.first().map(Vec::as_slice) {
        Some([Value::Integer(version)]) => Ok(*version),
        _ => Err(unexpected_row()),
    }
}

async fn apply(connection: &impl Connection) -> Result<(), StoreError> {
    connection.execute("BEGIN", vec![]).await?;
    let outcome = apply_missing(connection).await;
    let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
    connection.execute(end, vec![]).await?;
    outcome
}

async fn apply_missing(connection: &impl Connection) -> Result<(), StoreError> {
    connection.execute("LOCK TABLE schema_migrations IN EXCLUSIVE MODE", vec![]).await?;
    let recorded = known_version(recorded_version(connection).await?, SCHEMA_VERSION)?;
    for (version, (name, sql)) in (1..).zip(MIGRATIONS).skip(recorded as usize) {
        for statement in migration_statements(sql) {
            connection.execute(statement, vec![]).await?;
        }
        let record = "INSERT INTO schema_migrations (version, name) VALUES ($1, $2)";
        connection.execute(record, vec![Value::Integer(version), name.into()]).await?;
    }
    Ok(())
}

/// The base, the highest number that the database holds, and the first number, without the base, of the transaction that
/// begins next.
const NUMBERS: &str =
    "SELECT base, greatest((SELECT max(number) FROM orders), (SELECT max(number) FROM order_events), 0),
         pg_snapshot_xmax(pg_current_snapshot())::text::int8 << 20
     FROM numbering WHERE id = 1";

const RAISE: &str = "UPDATE numbering SET base = $2 WHERE id = 1 AND base = $1";

/// Has the numbers that transactions give follow those that the database holds, where it was moved to another cluster.
pub(super) async fn raise_numbering(connection: &impl Connection) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS {
        let rows = connection.execute(NUMBERS, vec![]).await?;
        let Some([Value::Integer(base), Value::Integer(highest), Value::Integer(next)]) =
            rows.first().map(Vec::as_slice)
        else {
            return Err(unexpected_row());
        };
        if base + next > *highest {
            return Ok(());
        }
        connection.execute(RAISE, vec![Value::Integer(*base), Value::Integer(highest + 1 - next)]).await?;
    }
    Err(StoreError::Conflict)
}

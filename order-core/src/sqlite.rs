//! The backend for SQLite, and all SQL of the service besides `migrations/`: a file per noun, with the names of the
//! files of [`store`](crate::store), each statement beside what reads its rows.
//!
//! Spin runs only the first statement of an `execute`, so each operation here is one statement that is its own
//! transaction. Lists travel as one JSON parameter, which keeps the statements few: Spin caches 16 per connection.

mod claims;
mod connection;
mod dead_letters;
mod history;
mod idempotency;
mod maintenance;
mod metrics;
mod migrate;
mod orders;
mod packing;
mod rows;
mod store;
mod transaction;

pub use connection::{Connection, PATIENCE, Row, Value};
pub use migrate::SCHEMA_VERSION;
pub use store::SqliteStore;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_doubles::RusqliteConnection;

    #[test]
    fn passes_the_conformance_suite() {
        let folder = tempfile::tempdir().unwrap();
        let databases = std::cell::Cell::new(0);
        pollster::block_on(crate::store::conformance::run(async || {
            databases.set(databases.get() + 1);
            let file = folder.path().join(format!("{}.db", databases.get()));
            let open = async || SqliteStore::open(RusqliteConnection::open(&file)).await.unwrap();
            [open().await, open().await]
        }));
    }

    #[test]
    fn every_statement_searches_by_an_index_and_scans_nothing() {
        let nouns = [
            claims::STATEMENTS,
            dead_letters::STATEMENTS,
            history::STATEMENTS,
            idempotency::STATEMENTS,
            maintenance::STATEMENTS,
            metrics::STATEMENTS,
            orders::STATEMENTS,
        ];
        pollster::block_on(async {
            let connection = RusqliteConnection::in_memory();
            migrate::migrate(&connection).await.unwrap();
            for (sql, index) in nouns.into_iter().flatten() {
                let parameters = (1..).take_while(|number| sql.contains(&format!("?{number}")) || *number < 8);
                let parameters: Vec<Value> = parameters.map(|_| Value::Text("[]".to_owned())).collect();
                let named = (1..=8).rev().find(|number| sql.contains(&format!("?{number}"))).unwrap_or(0);
                let parameters = parameters.into_iter().take(named).collect();
                let plan = connection.execute(&format!("EXPLAIN QUERY PLAN {sql}"), parameters).await.unwrap();
                let steps: Vec<String> = plan
                    .into_iter()
                    .map(|row| match row.into_iter().next_back() {
                        Some(Value::Text(step)) => step,
                        other => panic!("{sql}: {other:?}"),
                    })
                    .collect();
                assert!(steps.iter().any(|step| step.contains(index)), "{sql}: {steps:#?}");
                // A scan of a whole table counts even where it walks an index.
                for table in ["orders", "order_events", "order_attempts", "order_counters", "idempotency_keys"] {
                    let scan = format!("SCAN {table}");
                    assert!(!steps.iter().any(|step| step.starts_with(&scan)), "{sql}: {steps:#?}");
                }
            }
        });
    }
}

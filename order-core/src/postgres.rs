//! The backend for PostgreSQL, and all SQL of the service besides `migrations/postgres/`: a file per noun, with the names
//! of the files of [`store`](crate::store), each statement beside what reads its rows.
//!
//! Each operation is one statement that is its own transaction, at READ COMMITTED: it changes the orders and, from what
//! it changed, adds their history and counts them, each table once ([`changes`]). A statement locks rows in the order of
//! their keys, so that two of them do not wait for each other; transactions of several statements may, and PostgreSQL then
//! undoes one, which is a [`Conflict`](crate::store::StoreError::Conflict). What falls due is taken past the locks of others.
//! Lists travel as arrays. Of an order a row brings one JSON array and its items.

mod changes;
mod claims;
mod connection;
mod dead_letters;
mod history;
mod idempotency;
mod maintenance;
mod metrics;
mod migrate;
mod orders;
mod rows;
mod store;
mod transaction;

pub use connection::{Connection, Pool, Row, Value};
pub use migrate::SCHEMA_VERSION;
pub use store::PostgresStore;

//! The seam to the database: what the rest of the service asks of the place where orders are kept, a trait for each
//! audience in a file of its own.
//!
//! [`crate::sqlite`] and [`crate::postgres`] are the backends, with files of the same names: implementations of [`Store`]
//! that pass [`conformance`]. Every operation is one atomic change that is durable
//! when it returns, unless it is part of a [`Transaction`]. Nothing here relies on writers excluding each other: what
//! must not interleave is one operation or one transaction.

mod claims;
#[cfg(any(test, feature = "store-suite"))]
pub mod conformance;
mod dead_letters;
mod error;
mod history;
mod idempotency;
mod maintenance;
mod metrics;
mod migration;
mod orders;
mod transaction;

pub use claims::{Claim, Claims, Due, LEASE_LOST, Settlement};
pub use dead_letters::DeadLetters;
pub(crate) use dead_letters::read_page;
pub use error::StoreError;
pub use history::History;
pub use idempotency::{Idempotency, IdempotencyRecord, RECORDS_KEPT_MS, RequestKey};
pub use maintenance::{Maintenance, PRUNED_AT_ONCE};
pub use metrics::{Counters, Metrics, Scope};
pub(crate) use migration::{known_version, migration_statements};
pub use orders::{Acceptance, Change, Orders, Submission};
pub use transaction::{Store, Transaction, Writes};

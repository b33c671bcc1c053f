//! How requests change something: as commands, in batches, once per Idempotency-Key, and not beyond the backlog.

mod backlog;
pub mod command;
mod group_commit;
mod idempotency;

pub use group_commit::WriteQueue;

//! Connections to the database labelled `default`.
//!
//! SQLite's busy handler pauses for longer and longer, up to 100 ms, while the lock may be free for most of that time,
//! and knows no queue. So a connection lets SQLite wait for a moment only, and tries again: on Spin, where the
//! instances of a component meet at the lock, that gives more commits a second and a fraction of the longest waits.

mod blocking;
mod conversions;
#[cfg(feature = "async")]
mod non_blocking;
mod tries;

pub use blocking::BlockingConnection;
#[cfg(feature = "async")]
pub use non_blocking::AsyncConnection;

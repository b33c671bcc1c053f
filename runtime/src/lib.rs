//! What both components need of their host: the database, the queue's store, the variables, the clock and randomness,
//! each once, as the seams of [`order_core`].
//!
//! Everything here is made of interfaces of WASI 0.2 and Spin 4.0, so that the worker runs under a cron trigger that
//! is older than the HTTP trigger beside it; what the feature `async` adds is of WASI 0.3.

mod bindings;
pub mod clock;
pub mod key_value;
mod sqlite;
pub mod store;
pub mod variables;
#[cfg(feature = "async")]
pub mod wake;

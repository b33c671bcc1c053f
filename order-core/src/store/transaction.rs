//! A whole store, and several changes that are one.

use async_trait::async_trait;

use super::claims::Claims;
use super::dead_letters::DeadLetters;
use super::error::StoreError;
use super::history::History;
use super::idempotency::Idempotency;
use super::maintenance::Maintenance;
use super::metrics::Counters;
use super::orders::Orders;

/// What a transaction can hold: everything that requests change.
pub trait Writes: Orders + DeadLetters + Idempotency {}

impl<T: Orders + DeadLetters + Idempotency> Writes for T {}

/// Where orders are kept.
#[async_trait(?Send)]
pub trait Store: Writes + Counters + History + Claims + Maintenance {
    /// Begins a transaction. While it is open, the caller uses the store through it alone.
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>, StoreError>;
}

/// Changes that become durable together, or not at all. One that is dropped without an end leaves its store unusable:
/// whoever opened the store opens another one.
#[async_trait(?Send)]
pub trait Transaction {
    /// The changes.
    fn writes(&self) -> &dyn Writes;

    /// Makes them durable. After an error they may be durable or not.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// Undoes them.
    async fn roll_back(self: Box<Self>) -> Result<(), StoreError>;
}

//! What happened to an order.

use async_trait::async_trait;

use super::error::StoreError;
use crate::order::{Attempt, Event};
use crate::principal::Owner;

/// The history of an order, which only grows.
#[async_trait(?Send)]
pub trait History {
    /// An order's events, oldest first; `None` when there is no such order.
    async fn events(&self, owner: &Owner, order_id: &str) -> Result<Option<Vec<Event>>, StoreError>;

    /// An order's attempts, oldest first; `None` when there is no such order.
    async fn attempts(&self, owner: &Owner, order_id: &str) -> Result<Option<Vec<Attempt>>, StoreError>;
}

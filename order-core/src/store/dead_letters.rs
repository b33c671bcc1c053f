//! Failed orders as a list.

use async_trait::async_trait;

use super::error::StoreError;
use crate::dead_letters::DeadLetterFilter;
use crate::order::{Order, Timestamp};
use crate::page::{Cursor, Page};
use crate::principal::Owner;

/// The failed orders of an owner.
#[async_trait(?Send)]
pub trait DeadLetters {
    /// Up to `limit` failed orders in the order in which they failed, from behind `after`: 1 or more. Where orders are
    /// large, a page may have fewer, and a next one.
    async fn list(
        &self,
        owner: &Owner,
        filter: &DeadLetterFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Page<Order>, StoreError>;

    /// Does to up to `limit` failed orders what [`Orders::retry`](super::orders::Orders::retry) does to one, those
    /// first that failed first. Answers how many.
    async fn retry_all(
        &self,
        owner: &Owner,
        filter: &DeadLetterFilter,
        now: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError>;
}

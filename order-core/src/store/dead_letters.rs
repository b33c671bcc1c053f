//! Failed orders as a list.

use async_trait::async_trait;

use super::error::StoreError;
use crate::dead_letters::DeadLetterFilter;
use crate::order::{Order, Timestamp};
use crate::page::{Cursor, List, Page};
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

/// How many orders are read at once.
const STEP: u32 = 50;
/// How many bytes of items a page has at most, give or take a step: orders may be large, and pages long.
const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// What [`DeadLetters::list`] answers, put together from steps: `read` reads up to so many orders from behind a place.
pub(crate) async fn read_page(
    after: Option<Cursor>,
    limit: u32,
    read: impl AsyncFn(Option<Cursor>, u32) -> Result<Vec<Order>, StoreError>,
) -> Result<Page<Order>, StoreError> {
    let behind = |order: &Order| {
        let failed_at = order.finished_at.map_or(0, Timestamp::as_millis);
        Cursor::behind(List::DeadLetters, failed_at, order.number.0)
    };
    let (mut orders, mut after, mut bytes) = (Vec::new(), after, 0);
    loop {
        let step = (limit - orders.len() as u32).min(STEP);
        // One more than asked for tells whether there is a next page.
        let page = Page::of(read(after, step + 1).await?, step, behind);
        bytes += page.entries.iter().map(|order| order.content.item_ids.as_json().len()).sum::<usize>();
        orders.extend(page.entries);
        after = page.next;
        if after.is_none() || orders.len() as u32 >= limit || bytes >= MAX_PAGE_BYTES {
            return Ok(Page { entries: orders, next: after });
        }
    }
}

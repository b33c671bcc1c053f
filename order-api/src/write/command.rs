//! What requests want changed. A new command is a variant here, and a route that makes one.

use order_core::dead_letters::DeadLetterFilter;
use order_core::order::{NewOrder, Order, Timestamp};
use order_core::principal::Owner;
use order_core::store::{Acceptance, Change, StoreError, Writes};

use crate::http::problem::ApiError;
use crate::http::reply::Reply;

/// A change, and how its success is told.
pub enum Command {
    /// Take the order in.
    Accept(NewOrder, fn(&Order) -> Reply),
    /// Call the order off.
    Cancel(String, fn(&Order) -> Reply),
    /// Have the failed order tried again.
    Retry(String, fn(&Order) -> Reply),
    /// Have up to so many failed orders tried again.
    RetryDeadLetters(DeadLetterFilter, u32, fn(usize) -> Reply),
}

/// What a request is answered.
pub type Answer = Result<Reply, ApiError>;

impl Command {
    /// About how many bytes carrying it out moves, its answer included.
    pub fn bytes(&self) -> usize {
        /// What an order is taken to have that is not known yet: the one that is called off, or was sent before.
        const UNSEEN_ORDER: usize = 8 * 1024;
        match self {
            Self::Accept(order, _) => order.item_ids.as_json().len().max(UNSEEN_ORDER),
            Self::Cancel(..) | Self::Retry(..) => UNSEEN_ORDER,
            Self::RetryDeadLetters(filter, ..) => filter.order_ids.iter().flatten().map(String::len).sum(),
        }
    }

    /// Whether carrying it out a second time does no more than the first time.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self, Self::RetryDeadLetters(..))
    }

    /// The order that it takes in, if it does: orders that come together are taken in together.
    pub fn order(&self) -> Option<&NewOrder> {
        match self {
            Self::Accept(order, _) => Some(order),
            Self::Cancel(..) | Self::Retry(..) | Self::RetryDeadLetters(..) => None,
        }
    }

    /// Tells what became of [`Self::order`].
    pub fn tell(&self, acceptance: &Acceptance) -> Answer {
        let Self::Accept(order, reply) = self else { return Err(ApiError::Internal) };
        match acceptance {
            Acceptance::Created(order) | Acceptance::Existing(order) => Ok(reply(order)),
            Acceptance::Conflict => Err(ApiError::OrderConflict(order.order_id.as_str().to_owned())),
            Acceptance::Undecided(error) => Err(error.clone().into()),
        }
    }

    /// Carries out any command other than [`Self::Accept`].
    pub async fn carry_out(&self, writes: &dyn Writes, owner: &Owner, now: Timestamp) -> Result<Answer, StoreError> {
        let (change, order_id, reply) = match self {
            Self::Accept(..) => return Ok(Err(ApiError::Internal)),
            Self::Cancel(order_id, reply) => (writes.cancel(owner, order_id, now).await?, order_id, reply),
            Self::Retry(order_id, reply) => (writes.retry(owner, order_id, now).await?, order_id, reply),
            Self::RetryDeadLetters(filter, limit, reply) => {
                return Ok(Ok(reply(writes.retry_all(owner, filter, now, *limit).await?)));
            }
        };
        Ok(match change {
            Change::Done(order) => Ok(reply(&order)),
            Change::NotAllowed(status) => Err(ApiError::ActionNotAllowed(order_id.clone(), status)),
            Change::NotFound => Err(ApiError::OrderNotFound(order_id.clone())),
        })
    }
}

//! Taking orders in, finding them, and what clients do to them.

use async_trait::async_trait;

use super::error::StoreError;
use crate::lifecycle::Status;
use crate::order::{NewOrder, Order, Timestamp};
use crate::principal::Owner;

/// An order on its way in.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// Whose it will be.
    pub owner: &'a Owner,
    /// What it is.
    pub order: &'a NewOrder,
}

/// What became of an order that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is new and now durable.
    Created(Order),
    /// It was accepted before with the same content; this is how it stands.
    Existing(Order),
    /// Its identifier belongs to an order with other content.
    Conflict,
    /// Its identifier is taken, and the store failed before it could tell by what. Nothing was changed.
    Undecided(StoreError),
}

impl Acceptance {
    /// What `submitted` is when `found` has its identifier.
    pub fn of_known(submitted: &NewOrder, found: Order) -> Self {
        if found.content == *submitted { Self::Existing(found) } else { Self::Conflict }
    }
}

/// What became of a client's wish to change an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is done; this is how the order stands.
    Done(Box<Order>),
    /// The order's status does not allow it.
    NotAllowed(Status),
    /// There is no such order.
    NotFound,
}

/// Orders by their identifiers, which are each owner's own.
#[async_trait(?Send)]
pub trait Orders {
    /// Keeps each of `submissions` that is new, as `Pending`, created at `now` and due for a worker at `due_at`
    /// even if no message announces it. The answers are in the order of `submissions`; of two with one identifier in
    /// the same call the first is the new one.
    async fn accept(
        &self,
        submissions: &[Submission<'_>],
        now: Timestamp,
        due_at: Timestamp,
    ) -> Result<Vec<Acceptance>, StoreError>;

    /// What [`Self::accept`] would answer for those of `submissions` that were accepted before; `None` for those that
    /// would be new. Accepts nothing.
    async fn recall(&self, submissions: &[Submission<'_>]) -> Result<Vec<Option<Acceptance>>, StoreError>;

    /// The order with this identifier.
    async fn find(&self, owner: &Owner, order_id: &str) -> Result<Option<Order>, StoreError>;

    /// Calls an order off that is `Pending`.
    async fn cancel(&self, owner: &Owner, order_id: &str, now: Timestamp) -> Result<Change, StoreError>;

    /// Has an order tried again that is `Failed`: it is `Pending` and due, and its attempts count anew.
    async fn retry(&self, owner: &Owner, order_id: &str, now: Timestamp) -> Result<Change, StoreError>;
}

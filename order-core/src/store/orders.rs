//! Taking orders in, finding them, and what clients do to them.

use async_trait::async_trait;

use super::error::StoreError;
use crate::lifecycle::Status;
use crate::order::{EventNumber, NewOrder, Order, Timestamp};
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

    /// What became of `submissions`, of which those `created`, by owner and identifier, are new; `recall` tells of the
    /// others. What was created is durable by then, so an error of `recall` does not take its answers away.
    pub(crate) async fn of_all(
        submissions: &[Submission<'_>],
        created: Vec<(String, String, EventNumber)>,
        now: Timestamp,
        recall: impl AsyncFnOnce(&[Submission<'_>]) -> Result<Vec<Option<Self>>, StoreError>,
    ) -> Vec<Self> {
        let mut acceptances = Self::of_created(submissions, created, now);
        let known: Vec<Submission<'_>> =
            submissions.iter().zip(&acceptances).filter(|(_, a)| a.is_none()).map(|(known, _)| *known).collect();
        if !known.is_empty() {
            let mut recalled = recall(&known).await.map(Vec::into_iter);
            for acceptance in acceptances.iter_mut().filter(|acceptance| acceptance.is_none()) {
                *acceptance = Some(match &mut recalled {
                    Ok(recalled) => recalled.next().flatten().unwrap_or_else(|| {
                        let removed = "the order was removed between two statements".to_owned();
                        Self::Undecided(StoreError::Unavailable(removed))
                    }),
                    Err(error) => Self::Undecided(error.clone()),
                });
            }
        }
        acceptances.into_iter().flatten().collect()
    }

    /// For each of `submissions` that is among those `created` at `now`, by owner and identifier, that it is; of two with
    /// one identifier, the first.
    fn of_created(
        submissions: &[Submission<'_>],
        mut created: Vec<(String, String, EventNumber)>,
        now: Timestamp,
    ) -> Vec<Option<Self>> {
        created.sort_unstable();
        let of_created = |Submission { owner, order }: &Submission<'_>| {
            let name = (owner.as_str(), order.order_id.as_str());
            let place = created.binary_search_by(|(owner, id, _)| (owner.as_str(), id.as_str()).cmp(&name)).ok()?;
            let (_, _, number) = created.remove(place);
            Some(Self::Created(Order {
                number,
                owner: (*owner).clone(),
                content: (*order).clone(),
                status: Status::Pending,
                attempts: 0,
                created_at: now,
                started_at: None,
                finished_at: None,
                failure: None,
            }))
        };
        let acceptances = submissions.iter().map(of_created).collect();
        debug_assert!(created.is_empty());
        acceptances
    }

    /// What each of `submissions` is that has the identifier of an order in `found`.
    pub(crate) fn of_found(submissions: &[Submission<'_>], found: &[Order]) -> Vec<Option<Self>> {
        let recall = |Submission { owner, order }: &Submission<'_>| {
            let found = found.iter().find(|found| found.owner == **owner && found.content.order_id == order.order_id);
            found.map(|found| Self::of_known(order, found.clone()))
        };
        submissions.iter().map(recall).collect()
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

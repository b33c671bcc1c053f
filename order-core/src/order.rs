//! What an order is: its content, where it stands, and its history.

mod id;
mod items;
mod money;
mod timestamp;

use serde::Serialize;

pub use id::{ID_RULE, Id};
pub use items::{Items, ItemsError};
pub use money::{Amount, AmountError, Currency};
pub use timestamp::Timestamp;

use crate::lifecycle::Status;
use crate::principal::Owner;

/// What a client asked for: an order before anything happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    /// Names the order among those of its owner, for good.
    pub order_id: Id,
    /// Who ordered.
    pub user_id: Id,
    /// What was ordered.
    pub item_ids: Items,
    /// The order's value.
    pub total_amount: Amount,
    /// The currency of `total_amount`.
    pub currency: Currency,
}

/// The number of a change of state: of an order's creation or of an [`Event`]. All changes of all orders are numbered
/// together in the order in which they were committed; a number is never used again, and some are left out.
///
/// An order is known inside the store by the number of its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventNumber(pub i64);

/// An accepted order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The number of its creation.
    pub number: EventNumber,
    /// Whose it is.
    pub owner: Owner,
    /// What the client sent; it never changes.
    pub content: NewOrder,
    /// Where the order stands.
    pub status: Status,
    /// How many attempts at processing it were started.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last attempt started.
    pub started_at: Option<Timestamp>,
    /// When it reached a final status.
    pub finished_at: Option<Timestamp>,
    /// Why the last attempt that did not succeed ended.
    pub failure: Option<String>,
}

/// A change of an order's status, or an attempt that follows a lost one. The last event of an order tells its
/// status, and events are never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its place among all events.
    #[serde(skip)]
    pub number: EventNumber,
    /// When it happened.
    pub at: Timestamp,
    /// The status from then on.
    pub status: Status,
    /// How many attempts were started by then.
    pub attempt: u32,
    /// Why, where there is something to say.
    pub reason: Option<String>,
}

/// An attempt at processing an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended; `None` while it is under way.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    #[serde(rename = "outcome")]
    pub end: Option<AttemptEnd>,
    /// Why it did not succeed.
    pub reason: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AttemptEnd {
    /// The order was processed.
    Completed,
    /// The processor said that it failed.
    Failed,
    /// The worker did not report before its lease ended.
    LeaseLost,
}

impl AttemptEnd {
    const ALL: [Self; 3] = [Self::Completed, Self::Failed, Self::LeaseLost];

    /// The name that the API and the database use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::LeaseLost => "LeaseLost",
        }
    }

    /// The end of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.as_str() == name)
    }
}

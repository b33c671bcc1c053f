//! The state machine of an order, and how long a failed attempt waits for the next.
//!
//! ```text
//!             ┌──────── retry later ────────┐
//!             ▼                             │
//!  accept ▶ Pending ──── start ────▶ Processing ──── complete ────▶ Completed
//!             │  ▲                    │  │  ▲
//!        cancel  └─── retry ─── Failed◀─┘  └─ start (the lease ran out), snooze
//!             ▼                   fail
//!         Cancelled
//! ```
//!
//! [`Status::after`] is the table; the statements of a store guard the same transitions, which the store
//! suite checks status by status, and the API names what [`Status::client_actions`] allows.

use serde::Serialize;

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Status {
    /// Accepted, and not yet taken up or waiting for its next attempt.
    Pending,
    /// An attempt is under way.
    Processing,
    /// Processed, for good.
    Completed,
    /// Not processed: the processor refused it for good, or its attempts are used up.
    Failed,
    /// Called off before it was processed.
    Cancelled,
}

impl Status {
    /// Every status, in the order of the API.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Processing, Self::Completed, Self::Failed, Self::Cancelled];

    /// The name that the API and the database use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Processing => "Processing",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether nothing happens to the order any more, unless a client has it tried again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Where `action` leads from here; `None` where this status does not allow it.
    pub fn after(self, action: Action) -> Option<Self> {
        match (self, action) {
            (Self::Pending | Self::Processing, Action::Start) => Some(Self::Processing),
            (Self::Processing, Action::Snooze) => Some(Self::Processing),
            (Self::Processing, Action::Complete) => Some(Self::Completed),
            (Self::Processing, Action::RetryLater) => Some(Self::Pending),
            (Self::Processing, Action::Fail) => Some(Self::Failed),
            (Self::Pending, Action::Cancel) => Some(Self::Cancelled),
            (Self::Failed, Action::Retry) => Some(Self::Pending),
            _ => None,
        }
    }

    /// What a client may do to an order of this status.
    pub fn client_actions(self) -> impl Iterator<Item = Action> {
        [Action::Cancel, Action::Retry].into_iter().filter(move |action| self.after(*action).is_some())
    }
}

/// What can happen to an order after its intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A worker begins an attempt: the first, one after a failure, or one after a lost lease.
    Start,
    /// The processor asks for time; the attempt goes on.
    Snooze,
    /// The processor is done.
    Complete,
    /// The attempt failed and another one is due later.
    RetryLater,
    /// The attempt failed and no other follows.
    Fail,
    /// A client calls the order off, before it is processed or between two attempts.
    Cancel,
    /// A client has a failed order tried again, with all its attempts anew.
    Retry,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 7] =
        [Self::Start, Self::Snooze, Self::Complete, Self::RetryLater, Self::Fail, Self::Cancel, Self::Retry];

    /// The name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Snooze => "snooze",
            Self::Complete => "complete",
            Self::RetryLater => "retry-later",
            Self::Fail => "fail",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
        }
    }
}

/// How attempts follow each other: exponential backoff with full jitter, so that the orders that failed
/// together (a dependency was down) do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many attempts an order gets, 1 or more.
    pub max_attempts: u32,
}

impl RetryPolicy {
    /// About eight minutes of retries in the mean: longer than a deployment or a failover takes.
    pub const DEFAULT_MAX_ATTEMPTS: u32 = 8;
    /// The longest wait after the first failure, in milliseconds: a hiccup is over by then.
    pub const FIRST_DELAY_MS: u64 = 1_000;
    /// The longest wait after any failure, in milliseconds.
    pub const MAX_DELAY_MS: u64 = 600_000;

    /// Milliseconds to wait after the failure of attempt number `attempt` (1 for the first since intake or
    /// since the last retry by hand), drawn evenly from zero to `FIRST_DELAY_MS * 2^(attempt - 1)`, at most `MAX_DELAY_MS`, by the random number
    /// `dice`. `None` when the attempts are used up.
    pub fn delay_after(&self, attempt: u32, dice: u64) -> Option<u64> {
        if attempt >= self.max_attempts {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(32);
        let ceiling = (Self::FIRST_DELAY_MS << doublings).min(Self::MAX_DELAY_MS);
        Some(dice % (ceiling + 1))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: Self::DEFAULT_MAX_ATTEMPTS }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status() -> impl Strategy<Value = Status> {
        proptest::sample::select(&Status::ALL)
    }

    proptest! {
        #[test]
        fn only_a_client_leaves_a_final_status(from in status(), action in proptest::sample::select(&Action::ALL)) {
            if from.is_final() && from.after(action).is_some() {
                prop_assert_eq!((from, action), (Status::Failed, Action::Retry));
            }
        }

        #[test]
        fn any_history_ends_final_or_can_still_end(actions in proptest::collection::vec(proptest::sample::select(&Action::ALL), 0..40)) {
            let end = actions.into_iter().fold(Status::Pending, |status, action| status.after(action).unwrap_or(status));
            let can_end = end.after(Action::Start).and_then(|started| started.after(Action::Complete));
            prop_assert!(end.is_final() != (can_end == Some(Status::Completed)));
        }

        #[test]
        fn a_delay_keeps_within_its_ceiling(attempt in 1u32..100, dice: u64) {
            let policy = RetryPolicy { max_attempts: 50 };
            match policy.delay_after(attempt, dice) {
                Some(delay) => {
                    prop_assert!(attempt < 50);
                    prop_assert!(delay <= RetryPolicy::MAX_DELAY_MS);
                    prop_assert!(attempt > 1 || delay <= RetryPolicy::FIRST_DELAY_MS);
                }
                None => prop_assert!(attempt >= 50),
            }
        }

        #[test]
        fn a_status_survives_its_name(status in status()) {
            prop_assert_eq!(Status::parse(status.as_str()), Some(status));
        }
    }

    #[test]
    fn clients_are_told_what_a_status_allows() {
        for (status, actions) in [
            (Status::Pending, &["cancel"][..]),
            (Status::Processing, &[]),
            (Status::Completed, &[]),
            (Status::Failed, &["retry"]),
            (Status::Cancelled, &[]),
        ] {
            assert_eq!(status.client_actions().map(Action::as_str).collect::<Vec<_>>(), actions, "{status:?}");
        }
    }

    #[test]
    fn only_a_started_order_completes() {
        for from in Status::ALL {
            assert_eq!(from.after(Action::Complete).is_some(), from == Status::Processing, "{from:?}");
        }
    }

    #[test]
    fn the_ceiling_of_the_delay_doubles() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay_after(1, 1_000), Some(1_000));
        assert_eq!(policy.delay_after(1, 1_001), Some(0));
        assert_eq!(policy.delay_after(4, 8_000), Some(8_000));
        assert_eq!(policy.delay_after(7, 64_000), Some(64_000));
        assert_eq!(policy.delay_after(8, 0), None);
    }
}

//! The counters.

use async_trait::async_trait;

use super::error::StoreError;
use crate::lifecycle::Status;
use crate::principal::Owner;

/// Whose orders are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Everybody's.
    All,
    /// This owner's.
    Owner(&'a Owner),
}

/// The counters, all read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Orders ever accepted and still kept.
    pub total: u64,
    /// Orders per status, in the order of [`Status::ALL`].
    pub by_status: [u64; Status::ALL.len()],
    /// The sum over completed orders of the time from the start of the last attempt, in milliseconds.
    pub processing_ms: u64,
    /// The sum over completed orders of the time from intake, in milliseconds.
    pub completion_ms: u64,
}

impl Metrics {
    /// How many orders have `status`.
    pub fn count(&self, status: Status) -> u64 {
        self.by_status[status as usize]
    }

    /// How many orders are yet to reach a final status: the backlog.
    pub fn unfinished(&self) -> u64 {
        self.count(Status::Pending) + self.count(Status::Processing)
    }

    /// Average seconds from the start of the last attempt to completion; 0 while nothing is completed.
    pub fn average_processing_seconds(&self) -> f64 {
        self.per_completed(self.processing_ms)
    }

    /// Average seconds from intake to completion; 0 while nothing is completed.
    pub fn average_completion_seconds(&self) -> f64 {
        self.per_completed(self.completion_ms)
    }

    /// Rounded to whole milliseconds, the precision of the clock behind it.
    fn per_completed(&self, total_ms: u64) -> f64 {
        let completed = self.count(Status::Completed).max(1);
        (total_ms as f64 / completed as f64).round() / 1_000.0
    }
}

/// Counters that cost the same to read however many orders there are.
#[async_trait(?Send)]
pub trait Counters {
    /// The counters of `scope`.
    async fn metrics(&self, scope: Scope<'_>) -> Result<Metrics, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_over_completed_orders_in_seconds() {
        let metrics = Metrics { total: 5, by_status: [1, 1, 2, 1, 0], processing_ms: 3_001, completion_ms: 5_000 };
        assert_eq!((metrics.average_processing_seconds(), metrics.average_completion_seconds()), (1.501, 2.5));
        assert_eq!(metrics.unfinished(), 2);
        assert_eq!(Metrics::default().average_processing_seconds(), 0.0);
    }
}

//! The processor that spin.toml wires in as a dependency.

use order_core::store::Claim;
use order_core::worker::{Outcome, Processor};

use crate::bindings::orders::fulfillment::processor;

/// The component behind `orders:fulfillment/processor`.
pub struct FulfillmentComponent;

impl Processor for FulfillmentComponent {
    fn process(&self, claims: &[Claim]) -> Vec<Outcome> {
        let tasks: Vec<_> = claims.iter().map(task).collect();
        processor::process(&tasks).into_iter().map(outcome).collect()
    }
}

fn task(claim: &Claim) -> processor::Task {
    processor::Task {
        order_id: claim.content.order_id.as_str().to_owned(),
        user_id: claim.content.user_id.as_str().to_owned(),
        item_ids: claim.content.item_ids.to_ids().iter().map(|id| id.as_str().to_owned()).collect(),
        total_amount_minor: claim.content.total_amount.minor() as u64,
        currency: claim.content.currency.as_str().to_owned(),
        attempt: claim.attempt,
        started_at_ms: u64::try_from(claim.started_at.as_millis()).unwrap_or(0),
    }
}

fn outcome(outcome: processor::Outcome) -> Outcome {
    match outcome {
        processor::Outcome::Completed => Outcome::Completed,
        processor::Outcome::InProgress(ask_again_after_ms) => Outcome::InProgress { ask_again_after_ms },
        processor::Outcome::FailedForNow(reason) => Outcome::FailedForNow { reason },
        processor::Outcome::FailedForGood(reason) => Outcome::FailedForGood { reason },
    }
}

//! The default processor: an order is processed `processing_time_ms` after its attempt started.
//!
//! It keeps nothing and waits for nothing: an order that is not done yet is answered with the time that is
//! left, so any number of them are in progress at once. A processor of your own has the same shape: export
//! `orders:fulfillment/processor` (see `wit/fulfillment.wit`) and name the component in spin.toml.

use std::time::SystemTime;

mod bindings;

use bindings::exports::orders::fulfillment::processor::{Guest, Outcome, Task};
use bindings::fermyon::spin::variables;

/// How long processing takes when the variable `processing_time_ms` is not set, in milliseconds.
const DEFAULT_PROCESSING_TIME_MS: u64 = 1_000;

struct Component;

impl Guest for Component {
    fn process(batch: Vec<Task>) -> Vec<Outcome> {
        let processing_time_ms = match processing_time_ms() {
            Ok(millis) => millis,
            // A wrong setting is mended by its operator; the orders wait for it.
            Err(reason) => return batch.iter().map(|_| Outcome::FailedForNow(reason.clone())).collect(),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let outcome = |task: Task| match task.started_at_ms.saturating_add(processing_time_ms).saturating_sub(now) {
            0 => Outcome::Completed,
            left => Outcome::InProgress(left.try_into().unwrap_or(u32::MAX)),
        };
        batch.into_iter().map(outcome).collect()
    }
}

bindings::export!(Component with_types_in bindings);

fn processing_time_ms() -> Result<u64, String> {
    match variables::get("processing_time_ms") {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| format!("variable processing_time_ms must be a whole number of milliseconds, not {text:?}")),
        Err(variables::Error::Undefined(_)) => Ok(DEFAULT_PROCESSING_TIME_MS),
        Err(error) => Err(format!("variable processing_time_ms: {error}")),
    }
}

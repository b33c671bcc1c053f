//! The worker component: two triggers (cron and timer) of the same tick of [`order_core::worker`].

mod bindings;
mod processor;

use bindings::spin::cron::cron_types::{Error, Metadata};
use order_core::queue::KeyValueQueue;
use order_core::store::StoreError;
use order_core::worker::Worker;
use processor::FulfillmentComponent;
use runtime::clock::SystemClock;
use runtime::key_value::Bucket;
use runtime::{store, variables};

struct Component;

impl bindings::Guest for Component {
    async fn handle_cron_event(_: Metadata) -> Result<(), Error> {
        run_tick().await.map_err(Error::Other)
    }

    fn handle_timer_request() {
        // Every call to the host is a blocking one here, so nothing is ever pending. The timer trigger dies
        // with the guest, and has nowhere to report to.
        let _ = ready(run_tick());
    }
}

bindings::export!(Component with_types_in bindings);

/// One tick, with an error in words; it is logged here, because the triggers drop it.
async fn run_tick() -> Result<(), String> {
    let ended = tick().await;
    if let Err(error) = &ended {
        eprintln!("order-worker: {error}");
    }
    ended
}

async fn tick() -> Result<(), String> {
    let config = variables::worker_config().map_err(|error| error.to_string())?;
    let as_text = |error: StoreError| error.to_string();
    let store = store::open_blocking().await.map_err(as_text)?;
    let queue = KeyValueQueue(Bucket::open());
    let worker =
        Worker { store: &*store, queue: &queue, processor: &FulfillmentComponent, clock: &SystemClock, config };
    worker.tick().await.map_err(as_text)
}

/// Drives a future that never waits for anything.
fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

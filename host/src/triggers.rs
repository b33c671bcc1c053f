//! What wakes the components, one module for each kind of trigger in the manifest.

pub mod cron;
pub mod http;
pub mod timer;

use tokio::sync::watch;

/// How many calls of a schedule may be under way: enough for calls that wait long, and an end to what calls that
/// hang can take.
pub const MAX_OVERLAPPING_CALLS: usize = 64;

/// Waits for `future`; `None` when `stop` comes first.
async fn until_stopped<T>(stop: &mut watch::Receiver<bool>, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        value = future => Some(value),
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

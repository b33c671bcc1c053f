//! Calls of components whose answers nobody waits for, and how they end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wasmtime::Store;

use crate::component::{Component, InstanceState};
use crate::engine::{Pacer, SLICE, Sharing};
use crate::options::Options;

/// How many calls of a schedule may be under way. It bounds what hanging calls can take; with the default time-out, a
/// call each second that hangs does not reach it, so none is ever left out.
pub const MAX_OVERLAPPING_CALLS: usize = 64;

/// Why a call of a component did not return.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It took too long, and its instance was dropped.
    #[error("it did not return within the trigger time-out of {0:?} and was terminated")]
    TimedOut(Duration),
    /// The component trapped, or could not be instantiated.
    #[error("it trapped: {0:?}")]
    Trapped(wasmtime::Error),
}

/// Calls components on behalf of triggers that wait for nobody's answer: each call has an instance of its own and a
/// time-out, and all of them together leave half of the processors to HTTP.
#[derive(Clone)]
pub struct Caller {
    timeout: Duration,
    sharing: Sharing,
}

impl Caller {
    /// Calls with the time-out of `options`.
    pub fn new(options: &Options) -> Self {
        let timeout = options.trigger_timeout;
        let sharing = match options.single_threaded {
            // It waits by tokio's time, which a test may have paused, and computes by real time.
            true => Sharing::Replayed { suspended_after: Some((timeout.as_millis() / SLICE.as_millis()) as u64) },
            false => Sharing::Paced(Arc::new(Pacer::new())),
        };
        Self { timeout, sharing }
    }

    /// Makes a call in a new instance. After the time-out, or when this is dropped, the instance is dropped at once,
    /// whatever it does: it computes, it sleeps, or it waits for the host or the network.
    pub async fn call<T, C>(
        &self,
        component: &Component,
        call: impl FnOnce(Store<InstanceState>) -> C,
    ) -> Result<T, CallError>
    where
        C: Future<Output = wasmtime::Result<T>>,
    {
        let call = call(component.new_store(self.sharing.clone()));
        match tokio::time::timeout(self.timeout, call).await {
            Ok(returned) => returned.map_err(CallError::Trapped),
            Err(_) => Err(CallError::TimedOut(self.timeout)),
        }
    }
}

/// Waits for `future`; `None` when `stop` comes first.
pub async fn until_stopped<T>(stop: &mut watch::Receiver<bool>, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        value = future => Some(value),
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

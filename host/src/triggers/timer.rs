//! The timer trigger.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use wasmtime::Store;

use crate::component::{Component, InstanceState};
use crate::triggers::calls::{CallError, Caller, until_stopped};

mod bindings {
    wasmtime::component::bindgen!({
        path: ["../wit", "wit"],
        world: "orders:host/timer",
        exports: { default: async },
    });
}

use bindings::TimerPre;

/// Calls a component again and again, with a pause after each call.
///
/// As on Spin, a trap ends the trigger, and the application with it. A call that times out does not: Spin, which has no
/// time-out, would wait for it for ever, and the time-out is there so that the next call comes.
pub(crate) struct TimerSchedule {
    interval: Duration,
    component: Arc<Component>,
    exports: TimerPre<InstanceState>,
    caller: Caller,
}

impl TimerSchedule {
    pub fn new(interval: Duration, component: Arc<Component>, caller: Caller) -> Result<Self> {
        let exports = TimerPre::new(component.pre())
            .map_err(anyhow::Error::from)
            .with_context(|| format!("component {:?} does not export what the timer trigger calls", component.name))?;
        Ok(Self { interval, component, exports, caller })
    }

    /// Runs until `stop` says so.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<()> {
        while until_stopped(&mut stop, tokio::time::sleep(self.interval)).await.is_some() {
            let exports = &self.exports;
            let call = |mut store: Store<InstanceState>| async move {
                let instance = exports.instantiate_async(&mut store).await?;
                instance.call_handle_timer_request(&mut store).await
            };
            let name = &self.component.name;
            let Some(called) = until_stopped(&mut stop, self.caller.call(&self.component, call)).await else { break };
            match called {
                Ok(()) => {}
                Err(error @ CallError::TimedOut(_)) => {
                    tracing::error!("a call of {name} by the timer trigger failed: {error}");
                }
                Err(error @ CallError::Trapped(_)) => bail!("a call of {name} by the timer trigger failed: {error}"),
            }
        }
        Ok(())
    }
}

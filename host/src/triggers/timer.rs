//! The timer trigger.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::component::{Component, InstanceState};
use crate::triggers::until_stopped;

mod bindings {
    wasmtime::component::bindgen!({
        path: ["../wit", "wit"],
        world: "orders:host/timer",
        exports: { default: async },
    });
}

use bindings::TimerPre;

/// Calls a component again and again, with a pause after each call. As on Spin, a trap ends the trigger, and
/// the application with it.
pub(crate) struct TimerSchedule {
    interval: Duration,
    component: Arc<Component>,
    door: TimerPre<InstanceState>,
}

impl TimerSchedule {
    pub fn new(interval: Duration, component: Arc<Component>) -> Result<Self> {
        let door = TimerPre::new(component.pre())
            .map_err(anyhow::Error::from)
            .with_context(|| format!("component {:?} has no door for the timer trigger", component.name))?;
        Ok(Self { interval, component, door })
    }

    /// Runs until `stop` says so.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<()> {
        while until_stopped(&mut stop, tokio::time::sleep(self.interval)).await.is_some() {
            let mut store = self.component.new_store();
            let call = async {
                let instance = self.door.instantiate_async(&mut store).await?;
                instance.call_handle_timer_request(&mut store).await
            };
            call.await.map_err(anyhow::Error::from).with_context(|| format!("{} failed", self.component.name))?;
        }
        Ok(())
    }
}

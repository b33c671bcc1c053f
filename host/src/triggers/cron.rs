//! The cron trigger.

use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{DateTime, Timelike, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wasmtime::Store;

use crate::clock::Clock;
use crate::component::{Component, InstanceState};
use crate::triggers::calls::{Caller, MAX_OVERLAPPING_CALLS, until_stopped};

mod bindings {
    wasmtime::component::bindgen!({
        path: ["../wit", "wit"],
        world: "orders:host/cron",
        exports: { default: async },
    });
}

use bindings::CronPre;
use bindings::spin::cron::cron_types::{Error as CronError, Metadata};

/// Calls a component whenever its schedule says so. Calls may overlap, what a call answers is logged and
/// otherwise dropped, and what was missed is not made up for.
pub(crate) struct CronSchedule {
    cron: Cron,
    component: Arc<Component>,
    exports: CronPre<InstanceState>,
    caller: Caller,
    clock: Clock,
}

impl CronSchedule {
    pub fn new(expression: &str, component: Arc<Component>, caller: Caller, clock: Clock) -> Result<Self> {
        let cron = CronParser::builder()
            .seconds(Seconds::Required)
            .build()
            .parse(expression)
            .with_context(|| format!("the cron expression {expression:?} is not one of six fields"))?;
        let exports = CronPre::new(component.pre())
            .map_err(anyhow::Error::from)
            .with_context(|| format!("component {:?} does not export what the cron trigger calls", component.name))?;
        Ok(Self { cron, component, exports, caller, clock })
    }

    fn now(&self) -> DateTime<Utc> {
        let wall = self.clock.wall();
        DateTime::from_timestamp(wall.as_secs() as i64, wall.subsec_nanos()).unwrap_or_default()
    }

    /// Runs until `stop` says so, then waits for the calls under way.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let this = Arc::new(self);
        let mut calls = JoinSet::new();
        loop {
            let now = this.now();
            let Some(next) = next_after(&this.cron, now) else {
                tracing::warn!("the schedule of {} has no further time", this.component.name);
                let _ = stop.wait_for(|stop| *stop).await;
                break;
            };
            let wait = (next - now).to_std().unwrap_or_default();
            if until_stopped(&mut stop, tokio::time::sleep(wait)).await.is_none() {
                break;
            }
            // Forgets those that have ended.
            while calls.try_join_next().is_some() {}
            if calls.len() >= MAX_OVERLAPPING_CALLS {
                tracing::warn!("{} calls of {} have not ended; this one is left out", calls.len(), this.component.name);
                continue;
            }
            let called = this.clone();
            calls.spawn(async move { called.call(next.timestamp()).await });
        }
        while calls.join_next().await.is_some() {}
    }

    /// Calls the component once, now.
    pub async fn call_now(&self) {
        self.call(self.now().timestamp()).await;
    }

    async fn call(&self, timestamp: i64) {
        let metadata = Metadata { timestamp: timestamp.unsigned_abs() };
        let call = |mut store: Store<InstanceState>| async move {
            let instance = self.exports.instantiate_async(&mut store).await?;
            store.run_concurrent(async |accessor| instance.call_handle_cron_event(accessor, metadata).await).await?
        };
        match self.caller.call(&self.component, call).await {
            Ok(Ok(())) => {}
            Ok(Err(CronError::Other(error))) => tracing::error!("{}: {error}", self.component.name),
            Err(error) => tracing::error!("a call of {} by the cron trigger failed: {error}", self.component.name),
        }
    }
}

/// The first time of the schedule after `now`; they are whole seconds.
fn next_after(cron: &Cron, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    cron.find_next_occurrence(&now.with_nanosecond(0)?, false).ok()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn expressions_have_six_fields_as_those_of_the_plugin() {
        let parse = |expression: &str| CronParser::builder().seconds(Seconds::Required).build().parse(expression);
        assert!(parse("* * * * * *").is_ok());
        assert!(parse("*/5 0 12 * * MON-FRI").is_ok());
        assert!(parse("* * * * *").is_err());
        let cron = parse("*/2 * * * * *").unwrap();
        let from = DateTime::<Utc>::from_str("2026-11-20T06:00:00.500Z").unwrap();
        let next = next_after(&cron, from).unwrap();
        assert_eq!(next.to_rfc3339(), "2026-11-20T06:00:02+00:00");
    }
}

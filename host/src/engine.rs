//! wasmtime's engine: how components are compiled, where their instances live, and how those share the processors.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use wasmtime::{Cache, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline};

/// How long a guest computes before others get a turn: the period of the engine's epoch. A request that meets a
/// computing guest on every thread waits no longer than a few of these, and a hundred wake-ups a second cost next to
/// nothing.
pub const SLICE: Duration = Duration::from_millis(10);

/// An engine with room for so many instances at once, and a thread that advances its epoch until it is dropped.
///
/// Stores need [`share_processors`]: without it their guests trap at the first epoch.
pub fn engine(instances: u32) -> anyhow::Result<Engine> {
    let mut config = Config::new();
    config.wasm_component_model_async(true).epoch_interruption(true);
    // Compiled code is kept in the user's cache folder; a folder that cannot be used costs time, no more.
    match Cache::from_file(None) {
        Ok(cache) => _ = config.cache(Some(cache)),
        Err(error) => tracing::warn!("compiled code is not kept: {error}"),
    }
    // Instances come and go by the thousand: their memories are reserved once and cleaned, not mapped anew.
    // A component has a handful of core instances, each its memory and tables.
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(16))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(8))
        .total_stacks(instances.saturating_mul(2))
        .max_unused_warm_slots(32)
        .linear_memory_keep_resident(256 * 1024)
        .table_keep_resident(16 * 1024);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config)
        .or_else(|error| {
            // The reservation is terabytes of addresses, which a limit on them (ulimit -v) may forbid.
            tracing::warn!("instances are not pooled: {error}");
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config)
        })
        .map_err(anyhow::Error::from)?;
    let weak = engine.weak();
    let advance = move || {
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(SLICE);
        }
    };
    std::thread::Builder::new().name("epoch".to_owned()).spawn(advance).context("cannot start a thread")?;
    Ok(engine)
}

/// How a guest that computes shares the processors with everything else.
#[derive(Clone)]
pub enum Sharing {
    /// It yields after each slice.
    Yield,
    /// It yields too, and as long as it computes on and on, it waits for its share among all that have this pacer.
    Paced(Arc<Pacer>),
    /// It never yields: what runs when would depend on real time, and a test could not replay it. A guest that has
    /// computed for so many slices is taken to do so for ever and stays suspended, so that paused time moves on to
    /// its deadline.
    Replayed {
        /// In slices of real time; never, if `None`.
        suspended_after: Option<u64>,
    },
}

/// Makes the guests of `store` share the processors in this way.
pub fn share_processors<T>(store: &mut Store<T>, sharing: Sharing) {
    store.set_epoch_deadline(1);
    match sharing {
        Sharing::Yield => {
            store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
        }
        Sharing::Paced(pacer) => {
            let resumed = Arc::new(Mutex::new(Instant::now()));
            store.epoch_deadline_callback(move |_| {
                let (pacer, resumed) = (pacer.clone(), resumed.clone());
                let since_resumed = resumed.lock().expect("no access panics").elapsed();
                let pause = async move {
                    // One that comes from a wait, for a statement say, has only begun to compute.
                    match since_resumed > 3 * SLICE {
                        true => tokio::task::yield_now().await,
                        false => pacer.wait_for_slice().await,
                    }
                    *resumed.lock().expect("no access panics") = Instant::now();
                };
                Ok(UpdateDeadline::YieldCustom(1, Box::pin(pause)))
            });
        }
        Sharing::Replayed { suspended_after } => {
            let mut slices = 0;
            store.epoch_deadline_callback(move |_| {
                slices += 1;
                match suspended_after.is_some_and(|limit| slices >= limit) {
                    true => Ok(UpdateDeadline::YieldCustom(1, Box::pin(std::future::pending()))),
                    false => Ok(UpdateDeadline::Continue(1)),
                }
            });
        }
    }
}

/// Leaves half of the processors to others, however many guests compute at once.
///
/// Yielding alone would give each its share of the threads: with sixty calls of a trigger that loop, an HTTP request
/// would get a sixtieth of what it needs, each time it waits for anything.
pub struct Pacer {
    /// From one slice to the next.
    interval: Duration,
    /// When the slice after all that are granted begins.
    next: Mutex<Instant>,
}

impl Pacer {
    /// How far slices may come ahead of their time, so that one guest alone is never held up by jitter.
    const TOLERANCE: Duration = Duration::from_millis(100);

    /// Nobody computes.
    pub fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Self { interval: SLICE * 2 / processors, next: Mutex::new(Instant::now()) }
    }

    async fn wait_for_slice(&self) {
        let begin = {
            let mut next = self.next.lock().expect("no access panics");
            let begin = (*next).max(Instant::now());
            *next = begin + self.interval;
            begin - Self::TOLERANCE
        };
        match begin <= Instant::now() {
            true => tokio::task::yield_now().await,
            false => tokio::time::sleep_until(begin).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_compute_they_get_half_of_the_processors() {
        let pacer = Arc::new(Pacer::new());
        let begin = Instant::now();
        let slices = Arc::new(std::sync::atomic::AtomicU32::new(0));
        for _ in 0..60 {
            let (pacer, slices) = (pacer.clone(), slices.clone());
            tokio::spawn(async move {
                loop {
                    pacer.wait_for_slice().await;
                    slices.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let computed = SLICE * slices.load(std::sync::atomic::Ordering::Relaxed);
        let processors = std::thread::available_parallelism().unwrap().get() as u32;
        let half = begin.elapsed() * processors / 2;
        assert!(computed <= half + half / 20 && computed >= half - half / 20, "{computed:?} of {half:?}");
    }
}

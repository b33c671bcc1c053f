//! What an application is run with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::hook::CallHook;
use crate::interfaces::key_value::KeyValueStore;

/// How instances of HTTP components are used, by the names that Spin's flags have where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// How many requests an instance gets in all. It bounds what a leak in a component can take; a new instance
    /// costs as much as a hundred small requests. (Spin: 128.)
    pub max_instance_reuse_count: usize,
    /// How many requests an instance gets at once. (Spin: 16.)
    pub max_instance_concurrent_reuse_count: usize,
    /// How long an instance without requests is kept.
    pub idle_instance_timeout: Duration,
    /// How many instances of a component take requests side by side: as many as there are processors, since an
    /// instance uses one at a time, and what is in one instance can be done together; two at least, in case one
    /// has to wait. (Spin has no such limit.)
    pub accepting_instances: usize,
    /// How many instances there are at most, with those that take no more requests and still have some; beyond
    /// that requests wait.
    pub max_instances: usize,
}

impl Default for Reuse {
    fn default() -> Self {
        Self {
            max_instance_reuse_count: 10_000,
            max_instance_concurrent_reuse_count: 1_000,
            idle_instance_timeout: Duration::from_secs(1),
            accepting_instances: std::thread::available_parallelism().map_or(2, usize::from).max(2),
            max_instances: 1_000,
        }
    }
}

/// Where the queue's key-value store is kept.
#[derive(Clone)]
pub enum KeyValueLocation {
    /// In memory, gone with the process. The orders are not: they are in the database.
    Memory,
    /// In `sqlite_key_value.db` in the state directory, the file that Spin uses.
    File,
    /// In this store, which the caller made.
    Given(KeyValueStore),
}

/// What an application is run with.
#[derive(Clone)]
pub struct Options {
    /// Where the application's data is kept. Spin's is `.spin` beside the manifest.
    pub state_dir: PathBuf,
    /// The components that run; all of them where this is empty.
    pub components: Vec<String>,
    /// Where the key-value store is kept.
    pub key_value: KeyValueLocation,
    /// Values of application variables, before the environment's and the defaults.
    pub variables: BTreeMap<String, String>,
    /// How instances are used.
    pub reuse: Reuse,
    /// How long a call of a cron or timer trigger may take before its instance is dropped. A worker that holds leases
    /// needs longer than these, so that a slow call loses its lease before its life.
    pub trigger_timeout: Duration,
    /// The time.
    pub clock: Clock,
    /// Decides about the components' calls.
    pub hook: Option<Arc<dyn CallHook>>,
    /// Whether all work is done on the caller's thread; a test that replays needs it.
    pub single_threaded: bool,
    /// Draws all randomness of the components from this seed; a test that replays needs it.
    pub random_seed: Option<u64>,
    /// Drops what the components log.
    pub quiet: bool,
}

impl Options {
    /// Longer than calls that work take, by far: Spin has no such limit.
    pub const DEFAULT_TRIGGER_TIMEOUT: Duration = Duration::from_secs(60);

    /// The defaults, with the data in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            components: Vec::new(),
            key_value: KeyValueLocation::Memory,
            variables: BTreeMap::new(),
            reuse: Reuse::default(),
            trigger_timeout: Self::DEFAULT_TRIGGER_TIMEOUT,
            clock: Clock::System,
            hook: None,
            single_threaded: false,
            random_seed: None,
            quiet: false,
        }
    }

    /// The file of the database.
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("sqlite_db.db")
    }
}

//! Runs an application of Spin's where Spin is not installed: the same `spin.toml`, the same Wasm files, the
//! same database file. It stands in for Spin and is no rival: what a library does (HTTP, WASI, handing requests
//! to instances, composition, TOML, schedules) is the library's, and what it does not have it refuses.
//!
//! It is a library so that tests can run the application in their own process ([`App::load`], [`App::start`]),
//! drive its clock ([`Clock::Test`]) and let any call of a component fail ([`hook`]).

mod bindings;
mod clock;
mod compose;
pub mod hook;
mod http;
mod instance;
mod key_value;
mod manifest;
mod outbound;
mod schedule;
mod sqlite;
mod turns;
mod variables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Cache, Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

pub use clock::{Clock, TestClock};
pub use key_value::KeyValueStore;
pub use manifest::Manifest;

use crate::http::HttpServer;
use hook::CallHook;
use instance::{Grants, HostInterfaces, InstanceState};
use outbound::AllowedHost;
use schedule::{CronSchedule, TimerSchedule};
use sqlite::Database;

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
    /// Where the application's data lie. Spin's is `.spin` beside the manifest.
    pub state_dir: PathBuf,
    /// Where the key-value store is kept.
    pub key_value: KeyValueLocation,
    /// Values of application variables, before the environment's and the defaults.
    pub variables: BTreeMap<String, String>,
    /// How instances are used.
    pub reuse: Reuse,
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
    /// The defaults, with the data in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            key_value: KeyValueLocation::Memory,
            variables: BTreeMap::new(),
            reuse: Reuse::default(),
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

/// A component, compiled and linked.
pub(crate) struct Loaded {
    name: String,
    engine: Engine,
    pre: InstancePre<InstanceState>,
    grants: Arc<Grants>,
}

impl Loaded {
    fn new_store(&self) -> Store<InstanceState> {
        Store::new(&self.engine, InstanceState::new(self.grants.clone()))
    }
}

/// An application, loaded and ready to be started.
pub struct App {
    manifest: Arc<Manifest>,
    components: BTreeMap<String, Arc<Loaded>>,
    options: Options,
}

impl App {
    /// Reads the manifest, puts the components together and compiles them (or finds them compiled in
    /// wasmtime's cache).
    ///
    /// # Errors
    /// Everything that keeps the application from running as written: a manifest feature or an import that
    /// this host does not have, a missing file, a variable without a value.
    pub fn load(manifest_path: &Path, options: Options) -> Result<Self> {
        let manifest = Arc::new(Manifest::load(manifest_path)?);
        let base = manifest_path.parent().unwrap_or(Path::new("."));
        let engine = engine(&options.reuse)?;
        let linker = linker(&engine)?;
        let mut compiled = BTreeMap::new();
        for (name, component) in &manifest.components {
            let bytes = compose::compose(name, component, base)?;
            let pre = Component::new(&engine, bytes)
                .and_then(|component| linker.instantiate_pre(&component))
                .map_err(anyhow::Error::from)
                .with_context(|| format!("component {name:?} cannot run here"))?;
            compiled.insert(name.clone(), pre);
        }
        Self::configure(manifest, &engine, compiled, options)
    }

    /// The same application with other options, without compiling it again. How instances are used stays as it
    /// was.
    pub fn reconfigured(&self, options: Options) -> Result<Self> {
        let engine = self.components.values().next().map(|loaded| loaded.engine.clone());
        let engine = engine.context("the manifest has no components")?;
        let compiled = self.components.iter().map(|(name, loaded)| (name.clone(), loaded.pre.clone()));
        Self::configure(self.manifest.clone(), &engine, compiled.collect(), options)
    }

    fn configure(
        manifest: Arc<Manifest>,
        engine: &Engine,
        compiled: BTreeMap<String, InstancePre<InstanceState>>,
        options: Options,
    ) -> Result<Self> {
        std::fs::create_dir_all(&options.state_dir)
            .with_context(|| format!("cannot make the folder {}", options.state_dir.display()))?;
        let variables = manifest.resolve_variables(&options.variables)?;
        let key_value = match &options.key_value {
            KeyValueLocation::Memory => KeyValueStore::memory(),
            KeyValueLocation::File => KeyValueStore::file(&options.state_dir.join("sqlite_key_value.db"))?,
            KeyValueLocation::Given(store) => store.clone(),
        };
        let random = options.random_seed.map(|seed| Arc::new(Mutex::new(StdRng::seed_from_u64(seed))));
        let database = Arc::new(Database::new(options.database(), options.single_threaded));
        let mut components = BTreeMap::new();
        for (name, pre) in compiled {
            let component = &manifest.components[&name];
            let fill = |template: &String| manifest::fill_template(template, &variables);
            let filled = component.variables.iter().map(|(name, value)| Ok((name.clone(), fill(value)?)));
            let grants = Grants {
                component: name.clone(),
                database: (!component.sqlite_databases.is_empty()).then(|| database.clone()),
                key_value: (!component.key_value_stores.is_empty()).then(|| key_value.clone()),
                variables: filled.collect::<Result<_>>()?,
                environment: component.environment.clone(),
                allowed_hosts: component
                    .allowed_outbound_hosts
                    .iter()
                    .map(|entry| AllowedHost::parse(&fill(entry)?))
                    .collect::<Result<_>>()?,
                hook: options.hook.clone(),
                clock: options.clock.clone(),
                single_threaded: options.single_threaded,
                random: random.clone(),
                quiet: options.quiet,
            };
            let loaded = Loaded { name: name.clone(), engine: engine.clone(), pre, grants: Arc::new(grants) };
            components.insert(name, Arc::new(loaded));
        }
        Ok(Self { manifest, components, options })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn component(&self, name: &str) -> Arc<Loaded> {
        self.components[name].clone()
    }

    fn crons(&self) -> Result<Vec<CronSchedule>> {
        let triggers = self.manifest.triggers.cron.iter();
        let schedule = |trigger: &manifest::CronTrigger| {
            let clock = self.options.clock.clone();
            CronSchedule::new(&trigger.cron_expression, self.component(&trigger.component), clock)
        };
        triggers.map(schedule).collect()
    }

    fn server(&self) -> Result<Arc<HttpServer>> {
        let triggers = self.manifest.triggers.http.iter();
        let routes = triggers.map(|trigger| (trigger.route.clone(), self.component(&trigger.component)));
        Ok(Arc::new(HttpServer::new(routes.collect(), self.options.reuse)?))
    }

    /// The application without sockets and schedules: a test decides which request or tick comes when.
    pub fn driven(&self) -> Result<DrivenApp> {
        Ok(DrivenApp { server: self.server()?, crons: self.crons()? })
    }

    /// Binds `listen` and starts all triggers in the background of the current tokio runtime.
    pub async fn start(&self, listen: SocketAddr) -> Result<RunningApp> {
        let crons = self.crons()?;
        let mut timers = Vec::new();
        for trigger in &self.manifest.triggers.timer {
            let interval = Duration::from_secs(trigger.interval_secs);
            timers.push(TimerSchedule::new(interval, self.component(&trigger.component))?);
        }
        let server = self.server()?;
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;

        let (stop, stopped) = watch::channel(false);
        let mut triggers = JoinSet::new();
        for cron in crons {
            let stopped = stopped.clone();
            triggers.spawn(async move {
                cron.run(stopped).await;
                Ok(())
            });
        }
        for timer in timers {
            triggers.spawn(timer.run(stopped.clone()));
        }
        triggers.spawn(async move {
            server.serve(listener, stopped).await;
            Ok(())
        });
        Ok(RunningApp { address, stop, triggers })
    }
}

/// An application whose every step a test decides; see [`App::driven`].
pub struct DrivenApp {
    server: Arc<HttpServer>,
    crons: Vec<CronSchedule>,
}

impl DrivenApp {
    /// Sends a request and waits for the whole answer; `None` when the answer breaks off.
    pub async fn request(&self, request: ::http::Request<Bytes>) -> Option<::http::Response<Bytes>> {
        let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
        let local = SocketAddr::from(([127, 0, 0, 1], 80));
        let (parts, body) = self.server.answer(request, local).await.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(::http::Response::from_parts(parts, body))
    }

    /// Does what a second of the cron triggers does: calls each of their components once.
    pub async fn tick(&self) {
        for cron in &self.crons {
            cron.call_now().await;
        }
    }
}

/// How long calls and requests in flight have to end when the application stops.
const STOP_GRACE: Duration = Duration::from_secs(12);

/// An application that serves. Dropping it ends its triggers at once; requests on open connections end with
/// the tokio runtime.
pub struct RunningApp {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    triggers: JoinSet<Result<()>>,
}

impl RunningApp {
    /// Where it serves HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends when a trigger does, which it does of itself only after an error.
    pub async fn failed(&mut self) -> Result<()> {
        self.triggers.join_next().await.unwrap_or(Ok(Ok(())))?
    }

    /// Stops it: no new requests or calls, and those in flight come to their end, if they do within seconds.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.send_replace(true);
        let all_ended = async {
            while let Some(ended) = self.triggers.join_next().await {
                ended??;
            }
            Ok(())
        };
        let ended = tokio::time::timeout(STOP_GRACE, all_ended).await;
        ended.unwrap_or_else(|_| {
            tracing::warn!("some calls did not end within {STOP_GRACE:?}");
            Ok(())
        })
    }
}

/// Waits for `future`; `None` when `stop` comes first.
async fn until_stopped<T>(stop: &mut watch::Receiver<bool>, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        value = future => Some(value),
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

fn engine(reuse: &Reuse) -> Result<Engine> {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    // Compiled code is kept in the user's cache folder; a folder that cannot be used costs time, no more.
    match Cache::from_file(None) {
        Ok(cache) => _ = config.cache(Some(cache)),
        Err(error) => tracing::warn!("compiled code is not kept: {error}"),
    }
    // Instances come and go by the thousand: their memories are reserved once and cleaned, not mapped anew.
    // A component has a handful of core instances, each its memory and tables.
    let instances = u32::try_from(reuse.max_instances).unwrap_or(u32::MAX).saturating_add(64);
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
    Engine::new(&config)
        .or_else(|error| {
            // The reservation is terabytes of addresses, which a limit on them (ulimit -v) may forbid.
            tracing::warn!("instances are not pooled: {error}");
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config)
        })
        .map_err(anyhow::Error::from)
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    bindings::Imports::add_to_linker::<_, HostInterfaces>(&mut linker, |state| state)?;
    Ok(linker)
}

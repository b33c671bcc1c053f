//! An application: loaded from its manifest, then started, or driven by a test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
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
use wasmtime::component::InstancePre;

use crate::component::{Access, Component, InstanceState, linker};
use crate::compose;
use crate::engine::engine;
use crate::host_calls::HostCalls;
use crate::interfaces::key_value::KeyValueStore;
use crate::interfaces::outbound_http::AllowedHost;
use crate::interfaces::sqlite::Database;
use crate::interfaces::{key_value, outbound_http, sqlite, variables, wasi};
use crate::manifest::{self, Manifest};
use crate::options::{KeyValueLocation, Options};
use crate::state_dir;
use crate::triggers::calls::{Caller, MAX_OVERLAPPING_CALLS};
use crate::triggers::cron::CronSchedule;
use crate::triggers::http::HttpServer;
use crate::triggers::timer::TimerSchedule;

/// An application, loaded and ready to be started.
pub struct App {
    manifest: Arc<Manifest>,
    components: BTreeMap<String, Arc<Component>>,
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
        let mut manifest = Manifest::load(manifest_path)?;
        manifest.keep(&options.components)?;
        let manifest = Arc::new(manifest);
        let base = manifest_path.parent().unwrap_or(Path::new("."));
        let instances = options.reuse.max_instances.saturating_add(MAX_OVERLAPPING_CALLS);
        let engine = engine(u32::try_from(instances).unwrap_or(u32::MAX))?;
        let linker = linker(&engine)?;
        let mut compiled = BTreeMap::new();
        for (name, component) in &manifest.components {
            let bytes = compose::compose(name, component, base)?;
            let pre = wasmtime::component::Component::new(&engine, bytes)
                .and_then(|component| linker.instantiate_pre(&component))
                .map_err(anyhow::Error::from)
                .with_context(|| format!("component {name:?} cannot run here"))?;
            compiled.insert(name.clone(), pre);
        }
        Self::configure(manifest, compiled, options)
    }

    /// The same application with other options, without compiling it again. How instances are used stays as it
    /// was.
    pub fn reconfigured(&self, options: Options) -> Result<Self> {
        let compiled = self.components.iter().map(|(name, component)| (name.clone(), component.pre()));
        Self::configure(self.manifest.clone(), compiled.collect(), options)
    }

    fn configure(
        manifest: Arc<Manifest>,
        compiled: BTreeMap<String, InstancePre<InstanceState>>,
        options: Options,
    ) -> Result<Self> {
        state_dir::make_private(&options.state_dir)?;
        state_dir::make_database_private(&options.database())?;
        let variables = manifest.resolve_variables(&options.variables)?;
        let key_value = match &options.key_value {
            KeyValueLocation::Memory => KeyValueStore::memory(),
            KeyValueLocation::File => {
                let path = options.state_dir.join("sqlite_key_value.db");
                state_dir::make_database_private(&path)?;
                KeyValueStore::file(&path)?
            }
            KeyValueLocation::Given(store) => store.clone(),
        };
        let random = options.random_seed.map(|seed| Arc::new(Mutex::new(StdRng::seed_from_u64(seed))));
        let database = Arc::new(Database::new(options.database(), options.single_threaded));
        let mut components = BTreeMap::new();
        for (name, pre) in compiled {
            let component = &manifest.components[&name];
            let fill = |template: &String| manifest::fill_template(template, &variables);
            let filled = component.variables.iter().map(|(name, value)| Ok((name.clone(), fill(value)?)));
            let filled = filled.collect::<Result<BTreeMap<_, _>>>()?;
            let allowed = component.allowed_outbound_hosts.iter().map(|entry| AllowedHost::parse(&fill(entry)?));
            let calls = Arc::new(HostCalls::new(name.clone(), options.hook.clone(), options.single_threaded));
            let access = Access {
                sqlite: sqlite::Access {
                    calls: calls.clone(),
                    default: (!component.sqlite_databases.is_empty()).then(|| database.clone()),
                },
                key_value: key_value::Access {
                    calls: calls.clone(),
                    default: (!component.key_value_stores.is_empty()).then(|| key_value.clone()),
                },
                variables: variables::Access { calls: calls.clone(), values: Arc::new(filled) },
                outbound_http: outbound_http::Access { calls, allowed: allowed.collect::<Result<_>>()? },
                wasi: wasi::Access {
                    clock: options.clock.clone(),
                    random: random.clone(),
                    environment: component.environment.clone(),
                    quiet: options.quiet,
                },
            };
            components.insert(name.clone(), Arc::new(Component::new(name, pre, access)));
        }
        Ok(Self { manifest, components, options })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn component(&self, name: &str) -> Arc<Component> {
        self.components[name].clone()
    }

    fn crons(&self, caller: &Caller) -> Result<Vec<CronSchedule>> {
        let triggers = self.manifest.triggers.cron.iter();
        let schedule = |trigger: &manifest::CronTrigger| {
            let clock = self.options.clock.clone();
            CronSchedule::new(&trigger.cron_expression, self.component(&trigger.component), caller.clone(), clock)
        };
        triggers.map(schedule).collect()
    }

    fn server(&self) -> Result<Arc<HttpServer>> {
        let triggers = self.manifest.triggers.http.iter();
        let routes = triggers.map(|trigger| (trigger.route.clone(), self.component(&trigger.component)));
        Ok(Arc::new(HttpServer::new(routes.collect(), &self.options)?))
    }

    /// The application without sockets and schedules: a test decides which request or tick comes when.
    pub fn driven(&self) -> Result<DrivenApp> {
        Ok(DrivenApp { server: self.server()?, crons: self.crons(&Caller::new(&self.options))? })
    }

    /// Asks the components with a `ready_path` whether they can serve, then binds `listen`, if there is something to
    /// serve, and starts all triggers in the background of the current tokio runtime.
    ///
    /// # Errors
    /// A component says that it cannot serve, or `listen` is taken.
    pub async fn start(&self, listen: SocketAddr) -> Result<RunningApp> {
        let caller = Caller::new(&self.options);
        let crons = self.crons(&caller)?;
        let mut timers = Vec::new();
        for trigger in &self.manifest.triggers.timer {
            let interval = Duration::from_secs(trigger.interval_secs);
            timers.push(TimerSchedule::new(interval, self.component(&trigger.component), caller.clone())?);
        }
        let server = self.server()?;
        for (name, component) in &self.manifest.components {
            if let Some(ready_path) = &component.tool.host.ready_path {
                server.check_ready(name, ready_path).await?;
            }
        }
        let listener = match self.manifest.triggers.http.is_empty() {
            true => None,
            false => Some(TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?),
        };
        let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;

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
        if let Some(listener) = listener {
            triggers.spawn(async move {
                server.serve(listener, stopped).await;
                Ok(())
            });
        }
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

    /// Does what a second of the cron triggers does: calls each of their components once. The time-out of such a call
    /// goes by tokio's time for what waits; one that computes is suspended after as much real time, until then.
    pub async fn tick(&self) {
        for cron in &self.crons {
            cron.call_now().await;
        }
    }
}

/// How long calls and requests in flight have to end when the application stops: a little longer than HTTP requests
/// alone have, and less than the 10 s after which Docker kills.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// An application that serves. Dropping it ends its triggers at once; requests on open connections end with
/// the tokio runtime.
pub struct RunningApp {
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    triggers: JoinSet<Result<()>>,
}

impl RunningApp {
    /// Where it serves HTTP; `None` where no component that runs does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Ends when a trigger does, which it does of itself only after an error.
    pub async fn failed(&mut self) -> Result<()> {
        self.triggers.join_next().await.unwrap_or(Ok(Ok(())))?
    }

    /// Stops it: no new requests or calls. Those in flight have seconds to end; what is left then is dropped.
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

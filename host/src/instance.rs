//! What an instance of a component holds, and how its calls are carried out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;
use wasmtime::component::{HasData, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::clock::{Clock, WasiClock};
use crate::hook::{CallHook, CallKind, Fate, HostCall};
use crate::key_value::KeyValueStore;
use crate::outbound::AllowedHost;
use crate::sqlite::Database;

/// What the manifest grants a component, shared by its instances.
pub struct Grants {
    /// The component's name.
    pub component: String,
    /// What is behind the database label `default`, where it is granted.
    pub database: Option<Arc<Database>>,
    /// The store behind the key-value label `default`, where it is granted.
    pub key_value: Option<KeyValueStore>,
    /// Its variables, filled in.
    pub variables: BTreeMap<String, String>,
    /// Its environment variables.
    pub environment: BTreeMap<String, String>,
    /// Where it may send requests.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Decides about its calls.
    pub hook: Option<Arc<dyn CallHook>>,
    /// The time that it sees.
    pub clock: Clock,
    /// Whether blocking calls run on the caller's thread, so that a test has but one.
    pub single_threaded: bool,
    /// Where the instances' randomness comes from, when it is to come again.
    pub random: Option<Arc<Mutex<StdRng>>>,
    /// Whether what it writes to standard output and error is dropped.
    pub quiet: bool,
}

impl Grants {
    /// Nothing.
    #[cfg(test)]
    pub fn none() -> Self {
        Self {
            component: "test".to_owned(),
            database: None,
            key_value: None,
            variables: BTreeMap::new(),
            environment: BTreeMap::new(),
            allowed_hosts: Vec::new(),
            hook: None,
            clock: Clock::System,
            single_threaded: false,
            random: None,
            quiet: true,
        }
    }

    fn fate(&self, kind: CallKind, subject: &str) -> Fate {
        match &self.hook {
            Some(hook) => hook.fate(HostCall { component: &self.component, kind, subject }),
            None => Fate::Proceed,
        }
    }

    /// Carries a call out in the way that the hook decides.
    pub async fn call<T, E>(
        &self,
        kind: CallKind,
        subject: &str,
        error: impl Fn(String) -> E,
        work: impl Future<Output = Result<T, E>>,
    ) -> wasmtime::Result<Result<T, E>> {
        let mut fate = self.fate(kind, subject);
        while let Fate::Delay(duration, then) = fate {
            tokio::time::sleep(duration).await;
            fate = *then;
        }
        match fate {
            Fate::FailBefore(message) => return Ok(Err(error(message))),
            Fate::DieBefore => wasmtime::bail!("the hook let the instance die"),
            Fate::Proceed | Fate::FailAfter(_) | Fate::DieAfter | Fate::Delay(..) => {}
        }
        let outcome = work.await;
        match fate {
            Fate::FailAfter(message) => Ok(Err(error(message))),
            Fate::DieAfter => wasmtime::bail!("the hook let the instance die"),
            Fate::Proceed | Fate::FailBefore(_) | Fate::DieBefore | Fate::Delay(..) => Ok(outcome),
        }
    }

    /// Does work that blocks, once this is awaited.
    pub async fn on_a_thread_of_its_own<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if self.single_threaded {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is being shut down, and whoever awaits this with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// The data of an instance's store.
pub struct InstanceState {
    pub(crate) grants: Arc<Grants>,
    pub(crate) table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: Outbound,
}

impl InstanceState {
    pub(crate) fn new(grants: Arc<Grants>) -> Self {
        let mut wasi = WasiCtx::builder();
        let clock = || WasiClock { clock: grants.clock.clone(), start: Instant::now() };
        wasi.wall_clock(clock()).monotonic_clock(clock());
        if !grants.quiet {
            wasi.inherit_stdout().inherit_stderr();
        }
        if let Some(random) = &grants.random {
            let mut random = random.lock().expect("no draw panics");
            wasi.secure_random(StdRng::from_rng(&mut random));
            wasi.insecure_random(StdRng::from_rng(&mut random));
            wasi.insecure_random_seed(random.random());
        }
        for (name, value) in &grants.environment {
            wasi.env(name, value);
        }
        let outbound = Outbound(grants.clone());
        Self { grants, table: ResourceTable::new(), wasi: wasi.build(), http: WasiHttpCtx::new(), outbound }
    }
}

impl WasiView for InstanceState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for InstanceState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outbound }
    }
}

/// Ties the host's own interfaces to the instance's state.
pub(crate) struct HostInterfaces;

impl HasData for HostInterfaces {
    type Data<'a> = &'a mut InstanceState;
}

/// Sends the component's HTTP requests, those to allowed hosts.
struct Outbound(Arc<Grants>);

type IoResult = Box<dyn Future<Output = Result<(), HttpError>> + Send>;
type Sent = Result<(http::Response<WasiBody>, IoResult), HttpError>;

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: IoResult,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let uri = request.uri().clone();
        let allowed = self.0.allowed_hosts.iter().any(|host| host.allows(&uri));
        let fate = self.0.fate(CallKind::Outbound, &uri.to_string());
        let component = self.0.component.clone();
        Box::new(async move {
            if !allowed {
                tracing::warn!("{component} may not send a request to {uri}: see allowed_outbound_hosts in spin.toml");
                return Err(HttpError::HttpRequestDenied);
            }
            if matches!(fate, Fate::FailBefore(_) | Fate::DieBefore) {
                return Err(HttpError::ConnectionRefused);
            }
            let (response, io) = wasmtime_wasi_http::default_send_request(request, options).await?;
            if matches!(fate, Fate::FailAfter(_) | Fate::DieAfter) {
                return Err(HttpError::ConnectionTerminated);
            }
            Ok((response.map(BodyExt::boxed_unsync), Box::new(io) as IoResult))
        })
    }
}

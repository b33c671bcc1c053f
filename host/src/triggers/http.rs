//! The HTTP trigger: hyper in front, wasmtime's `ProxyHandler` behind, which hands requests to instances and
//! uses each for many of them, as Spin does.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Result;
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance, InstantiationError, Proxy, ProxyHandler, ShouldAccept, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{Error as HttpError, WasiBody, WasiHttpView};

use crate::component::{Component, InstanceState};
use crate::engine::Sharing;
use crate::options::{Options, Reuse};

/// How long an idle client may take to send the head of its next request; it frees what dead clients hold.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest body that is waited for before its request is handed over, in bytes: an order of some hundred items.
const MAX_BUFFERED_BYTES: u64 = 64 * 1024;
/// How long requests in flight have to end when the host stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(7);
/// How long a request may take. Components answer in seconds, so one that takes longer waits for the rest of a
/// body that does not come; its instance is used no more.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A route and the component behind it.
struct Route {
    path: String,
    and_below: bool,
    handler: ProxyHandler<ComponentInstances>,
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        match path.strip_prefix(self.path.as_str()) {
            Some("") => true,
            Some(rest) => self.and_below && rest.starts_with('/'),
            None => false,
        }
    }
}

/// Serves the manifest's HTTP triggers.
pub(crate) struct HttpServer {
    /// The longest first: it is the most specific.
    routes: Vec<Route>,
}

impl HttpServer {
    /// `routes` are those of the manifest, each with its component.
    pub fn new(routes: Vec<(String, Arc<Component>)>, options: &Options) -> Result<Self> {
        let reuse = options.reuse;
        let mut built = Vec::new();
        let accepting = reuse.accepting_instances.max(1);
        // Every place can be taken, however few instances there are to be.
        let permits = Arc::new(Semaphore::new(reuse.max_instances.max(routes.len() * accepting)));
        for (route, component) in routes {
            let (path, and_below) = match route.strip_suffix("/...") {
                Some(path) => (path.to_owned(), true),
                None => (route, false),
            };
            let service = ServicePre::new(component.pre()).map_err(anyhow::Error::from)?;
            let places = || Arc::new(Semaphore::new(accepting));
            let places = Places { empty: places(), entries: places() };
            let sharing = match options.single_threaded {
                true => Sharing::Replayed { suspended_after: None },
                false => Sharing::Yield,
            };
            let state = ComponentInstances { component, service, sharing, reuse, places, permits: permits.clone() };
            let handler = ProxyHandler::new(state);
            built.push(Route { path, and_below, handler });
        }
        built.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        Ok(Self { routes: built })
    }

    /// Accepts connections until `stop` says so, then lets the requests in flight end.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, _)) => self.clone().serve_connection(stream, &graceful),
                Err(error) => {
                    // No more files, usually: the connections that end will free some.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        if tokio::time::timeout(SHUTDOWN_GRACE, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end within {SHUTDOWN_GRACE:?}");
        }
    }

    fn serve_connection(self: Arc<Self>, stream: TcpStream, graceful: &GracefulShutdown) {
        // Without it a small answer on a kept connection waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { return };
        let service = service_fn(move |request| {
            let server = self.clone();
            async move {
                let answer = match tokio::time::timeout(REQUEST_TIMEOUT, buffered(request)).await {
                    Ok(Ok(request)) => server.answer(request, local).await,
                    Ok(Err(_)) => plain(StatusCode::BAD_REQUEST, "the body broke off"),
                    Err(_) => plain(StatusCode::REQUEST_TIMEOUT, ""),
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT).pipeline_flush(true);
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }

    /// Answers a request that came in at `local`.
    pub async fn answer(&self, request: Request<WasiBody>, local: SocketAddr) -> Response<WasiBody> {
        // Spin answers this one itself, for those who watch it.
        if request.uri().path() == "/.well-known/spin/health" {
            return plain(StatusCode::OK, "OK");
        }
        let Some(route) = self.routes.iter().find(|route| route.matches(request.uri().path())) else {
            return plain(StatusCode::NOT_FOUND, "");
        };
        let request = match with_authority(request, local) {
            Ok(request) => request,
            Err(error) => return plain(StatusCode::BAD_REQUEST, error),
        };
        match hand_over(&route.handler, request).await {
            Ok(response) => response,
            Err(error) if error.is::<ExpirationError>() => plain(StatusCode::REQUEST_TIMEOUT, ""),
            Err(error) => {
                tracing::error!("{}: {error:?}", route.handler.state().component.name);
                plain(StatusCode::INTERNAL_SERVER_ERROR, "")
            }
        }
    }
}

/// Waits for a small body, so that an instance neither waits for a slow client nor is woken for each part of what
/// is there already. A longer one, or one of unknown length, is passed on as it comes.
async fn buffered(request: Request<Incoming>) -> hyper::Result<Request<WasiBody>> {
    let (head, body) = request.into_parts();
    let is_small = body.size_hint().exact().is_some_and(|length| length <= MAX_BUFFERED_BYTES);
    let body = match is_small {
        true => Full::new(body.collect().await?.to_bytes()).map_err(|never| match never {}).boxed_unsync(),
        false => body.map_err(HttpError::Hyper).boxed_unsync(),
    };
    Ok(Request::from_parts(head, body))
}

fn plain(status: StatusCode, text: &'static str) -> Response<WasiBody> {
    let body = Full::new(bytes::Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Completes the URI with scheme and authority, which components see.
fn with_authority<B>(mut request: Request<B>, local: SocketAddr) -> Result<Request<B>, &'static str> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    if parts.authority.is_none() {
        let authority = match request.headers().get(http::header::HOST) {
            Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| "the header Host is not a host")?,
            None => Authority::try_from(local.to_string()).map_err(|_| "there is no header Host")?,
        };
        parts.authority = Some(authority);
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| "the request's target is not a path")?;
    Ok(request)
}

/// Hands a request to an instance, to one that is there if it can be.
///
/// `ProxyHandler` starts a new instance whenever none is free at that moment, so that under load each has a
/// request or two, and what an instance could do for many at once is done for each. Here a request enters when an
/// instance is free; few are then enough, and each has company.
async fn hand_over(
    handler: &ProxyHandler<ComponentInstances>,
    mut request: Request<WasiBody>,
) -> wasmtime::Result<Response<WasiBody>> {
    let places = &handler.state().places;
    loop {
        let entry = places.entries.clone().acquire_owned().await.expect("the semaphore is never closed");
        let error = match handler.handle(entry, request).await {
            Err(error) => error,
            answered => return answered,
        };
        match error.downcast::<InstantiationError<Entry>>() {
            Ok(failed) if failed.error.is::<NoPlace>() => {
                // The instance that was free a moment ago is not. It will be.
                request = failed.request.into_inner().expect("no access panics");
                drop(failed.request_data);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(failed) => return Err(failed.into()),
            Err(error) => return Err(error),
        }
    }
}

/// The right of one request to enter an instance; it is used up when the instance takes the request.
type Entry = OwnedSemaphorePermit;

/// The places of a component's instances that take requests. There is one [`Entry`] for each place that is empty,
/// and one for each whose instance is free.
struct Places {
    empty: Arc<Semaphore>,
    entries: Arc<Semaphore>,
}

/// All places are taken.
#[derive(Debug, thiserror::Error)]
#[error("all places are taken")]
struct NoPlace;

/// What an instance has of its place.
struct Place {
    entries: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
    /// Whether there is an entry for this instance.
    offered: AtomicBool,
    /// Whether it waits for something, and is not computing.
    waits: AtomicBool,
}

impl Place {
    fn offer_entry(&self) {
        if !self.offered.swap(true, Ordering::Relaxed) {
            self.entries.add_permits(1);
        }
    }

    /// Leaves the place to another instance: this one takes no more requests.
    fn leave(&self) {
        let held = self.held.lock().expect("no access panics").take();
        if held.is_some() {
            drop(held);
            self.offer_entry();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Makes the instances of a component, and says how long each is used.
struct ComponentInstances {
    component: Arc<Component>,
    service: ServicePre<InstanceState>,
    sharing: Sharing,
    reuse: Reuse,
    places: Places,
    /// One for each instance that there may be.
    permits: Arc<Semaphore>,
}

impl HandlerState for ComponentInstances {
    type StoreData = InstanceState;
    type WorkerExpiration = Expiration;
    type WorkerState = ReuseLimits;

    async fn instantiate(&self) -> wasmtime::Result<Instance<InstanceState, Expiration, ReuseLimits>> {
        let held = self.places.empty.clone().try_acquire_owned().map_err(|_| wasmtime::Error::new(NoPlace))?;
        let place = Arc::new(Place {
            entries: self.places.entries.clone(),
            held: Mutex::new(Some(held)),
            // That of the empty place, which the first request had.
            offered: AtomicBool::new(true),
            waits: AtomicBool::new(true),
        });
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let mut store = self.component.new_store(self.sharing.clone());
        let proxy = Proxy::P3(self.service.instantiate_async(&mut store).await?);
        Ok(Instance {
            store,
            proxy,
            view: InstanceState::http,
            expiration: Expiration::new(self.reuse.idle_instance_timeout, place.clone()),
            state: ReuseLimits { component: self.component.clone(), reuse: self.reuse, place, _permit: permit },
        })
    }
}

struct ReuseLimits {
    component: Arc<Component>,
    reuse: Reuse,
    place: Arc<Place>,
    _permit: OwnedSemaphorePermit,
}

impl WorkerState for ReuseLimits {
    type StoreData = InstanceState;
    type RequestData = Entry;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        // One that is full is done too: what it has may take long, and nobody should wait for it.
        if total >= self.reuse.max_instance_reuse_count || concurrent >= self.reuse.max_instance_concurrent_reuse_count
        {
            self.place.leave();
            return ShouldAccept::Never;
        }
        // `ProxyHandler` has an instance take a request when it has none or waits, and asks here right before.
        if concurrent == 0 || self.place.waits.load(Ordering::Relaxed) {
            self.place.offer_entry();
        }
        ShouldAccept::Yes
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, InstanceState>,
        entry: Entry,
        _: wasmtime::component::GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        entry.forget();
        self.place.offered.store(false, Ordering::Relaxed);
        self.place.waits.store(false, Ordering::Relaxed);
        let place = self.place.clone();
        Box::pin(async move {
            tokio::time::sleep(REQUEST_TIMEOUT).await;
            place.leave();
        })
    }

    fn drop(&self, store: Store<InstanceState>, result: Result<(), wasmtime::Error>) {
        if let Err(error) = result {
            tracing::error!("an instance of {} failed: {error:?}", self.component.name);
        }
        drop(store);
        self.place.leave();
    }
}

/// Ends an instance that has been idle, or whose latest request does not come to an end. It goes by tokio's
/// time, which tests can drive, and uses the handler's own only to notice that something began anew.
struct Expiration {
    idle: Duration,
    place: Arc<Place>,
    began: Option<(WorkerStatus, Instant, tokio::time::Instant)>,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Expiration {
    fn new(idle: Duration, place: Arc<Place>) -> Self {
        Self { idle, place, began: None, sleep: Box::pin(tokio::time::sleep(idle)) }
    }
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        // This is asked when the instance has nothing to do but wait.
        self.place.waits.store(true, Ordering::Relaxed);
        let began = match self.began {
            Some((was, at, began)) if (was, at) == (status, start) => began,
            _ => {
                let now = tokio::time::Instant::now();
                self.began = Some((status, start, now));
                now
            }
        };
        let timeout = match status {
            WorkerStatus::Idle => self.idle,
            WorkerStatus::Requests | WorkerStatus::PostReturn => REQUEST_TIMEOUT,
        };
        let deadline = began + timeout;
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(context)
    }
}

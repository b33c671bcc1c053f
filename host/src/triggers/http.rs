//! The HTTP trigger: hyper in front, the component's instances behind.

mod body;
mod connections;
mod instances;
mod problem;
mod readiness;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wasmtime_wasi_http::handler::ExpirationError;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::component::Component;
use crate::engine::Sharing;
use crate::options::Options;
use crate::triggers::calls::until_stopped;
use body::{MAX_BUFFERED_BYTES, buffered, whole};
use connections::{Busy, Connection, Connections, Socket};
use instances::HttpComponent;
use problem::{problem, response};
use readiness::{Readiness, judge};

/// How long an idle client may take to send the head of its next request; it frees what dead clients hold.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request, in bytes; a longer one is answered 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// How much of a connection's requests and responses is buffered in each direction, in bytes.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// The longest body that is always read at once, in bytes: an order of some hundred items.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// How much longer bodies take together, in bytes, until their requests are answered. Those that do not fit yet wait
/// with their clients.
const LARGE_BODIES_BYTES: usize = 32 * 1024 * 1024;
/// How long a client may take to send such a body. It holds nothing but its connection meanwhile.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests in flight have to end when the host stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(7);

/// A route and the component behind it.
struct Route {
    path: String,
    and_below: bool,
    component: HttpComponent,
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
    /// A permit for each KiB of long bodies.
    large_bodies: Arc<Semaphore>,
}

impl HttpServer {
    /// `routes` are those of the manifest, each with its component.
    pub fn new(routes: Vec<(String, Arc<Component>)>, options: &Options) -> Result<Self> {
        let reuse = options.reuse;
        let sharing = match options.single_threaded {
            true => Sharing::Replayed { suspended_after: None },
            false => Sharing::Yield,
        };
        // Every place can be taken, however few instances there are to be.
        let instances = reuse.max_instances.max(routes.len() * reuse.accepting_instances.max(1));
        let permits = Arc::new(Semaphore::new(instances));
        let mut built = Vec::new();
        for (route, component) in routes {
            let (path, and_below) = match route.strip_suffix("/...") {
                Some(path) => (path.to_owned(), true),
                None => (route, false),
            };
            let component = HttpComponent::new(component, sharing.clone(), reuse, permits.clone())?;
            built.push(Route { path, and_below, component });
        }
        built.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        Ok(Self { routes: built, large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_BYTES / 1024)) })
    }

    /// Accepts connections until `stop` says so, then lets the requests in flight end.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let connections = Connections::within_file_limit();
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = async {
                let (stream, _) = listener.accept().await?;
                Ok::<_, std::io::Error>((stream, connections.make_room().await))
            };
            match until_stopped(&mut stop, accepted).await {
                None => break,
                Some(Ok((stream, permit))) => {
                    let connection = Connection::new(connections.clone(), permit);
                    self.clone().serve_connection(stream, connection, &graceful);
                }
                Some(Err(error)) => {
                    // Others have used up the files that were left to them, usually.
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

    fn serve_connection(self: Arc<Self>, stream: TcpStream, connection: Arc<Connection>, graceful: &GracefulShutdown) {
        // Without it a small answer on a kept connection waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { return };
        let this = connection.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, connection) = (self.clone(), this.clone());
            async move {
                let (request, room) = match request.body().is_end_stream() {
                    true => (request.map(|_| whole(Bytes::new())), None),
                    false => {
                        connection.touch();
                        let room = server.room_for(request.body()).await;
                        match tokio::time::timeout(BODY_READ_TIMEOUT, buffered(request)).await {
                            Ok(Ok(request)) => (request, room),
                            Ok(Err(_)) => {
                                return answered(problem(StatusCode::BAD_REQUEST, "The body ended early."), None);
                            }
                            Err(_) => {
                                let detail = "The body did not arrive in time.";
                                return answered(problem(StatusCode::REQUEST_TIMEOUT, detail), None);
                            }
                        }
                    }
                };
                // It is being closed: nothing is answered.
                let Some(busy) = connection.set_busy() else { return std::future::pending().await };
                let response = server.answer(request, local).await;
                drop(room);
                answered(response, Some(busy))
            }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ_TIMEOUT)
            .max_header_size(MAX_HEAD_BYTES)
            // (With pipeline_flush, hyper's own 400 and 431 would not be sent.)
            .max_buf_size(MAX_BUFFER_BYTES);
        let socket = Socket { stream: TokioIo::new(stream), connection: connection.clone() };
        let served = graceful.watch(builder.serve_connection(socket, service));
        let task = tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!("a connection ended: {error}");
            }
        });
        connection.served_by(task.abort_handle());
    }

    /// Waits until there is room for a body that is to be read, unless it is small.
    async fn room_for(&self, body: &Incoming) -> Option<OwnedSemaphorePermit> {
        let longest = match body.size_hint().exact() {
            Some(length) if length <= SMALL_BODY_BYTES as u64 => return None,
            Some(length) => usize::try_from(length).unwrap_or(usize::MAX).min(MAX_BUFFERED_BYTES),
            None => MAX_BUFFERED_BYTES,
        };
        self.large_bodies.clone().acquire_many_owned(longest.div_ceil(1024) as u32).await.ok()
    }

    /// Asks a component, in process, whether it can serve: `GET ready_path`.
    ///
    /// # Errors
    /// It cannot, for a reason that does not pass by itself.
    pub async fn check_ready(&self, component: &str, ready_path: &str) -> Result<()> {
        let route = self.routes.iter().find(|route| route.component.name() == component);
        let route = route.with_context(|| format!("component {component:?} has no route"))?;
        let request = Request::get(format!("http://localhost{ready_path}")).header(HOST, "localhost");
        let request = request.body(whole(Bytes::new()))?;
        let failed = || format!("component {component:?} failed when it was asked whether it is ready");
        let response =
            route.component.answer_at_start(request).await.map_err(anyhow::Error::from).with_context(failed)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BUFFER_BYTES)
            .collect()
            .await
            .map_err(|error| anyhow!(error))
            .with_context(failed)?;
        match judge(head.status, &body.to_bytes()) {
            Readiness::Ready => Ok(()),
            Readiness::NotYet(reason) => {
                tracing::warn!("{component} is not ready yet: {reason}");
                Ok(())
            }
            Readiness::Refused(reason) => bail!("component {component:?} cannot serve: {reason}"),
        }
    }

    /// Answers a request that came in at `local`.
    pub async fn answer(&self, request: Request<WasiBody>, local: SocketAddr) -> Response<WasiBody> {
        let request = match with_authority(request, local) {
            Ok(request) => request,
            Err(detail) => return problem(StatusCode::BAD_REQUEST, detail),
        };
        // Spin answers this one itself, for those who watch it.
        if request.uri().path() == "/.well-known/spin/health" {
            return response(StatusCode::OK, "text/plain", "OK");
        }
        let Some(route) = self.routes.iter().find(|route| route.matches(request.uri().path())) else {
            return problem(StatusCode::NOT_FOUND, "No component has a route for this path.");
        };
        match route.component.answer(request).await {
            Ok(response) => response,
            Err(error) if error.is::<ExpirationError>() => {
                problem(StatusCode::REQUEST_TIMEOUT, "The request was not answered in time.")
            }
            Err(error) => {
                tracing::error!("{}: {error:?}", route.component.name());
                problem(StatusCode::INTERNAL_SERVER_ERROR, "The component failed; the log says why.")
            }
        }
    }
}

fn answered(response: Response<WasiBody>, busy: Option<Busy>) -> Result<Response<Sending>, Infallible> {
    Ok(response.map(|body| Sending { body, _busy: busy }))
}

/// The body of a response: its connection is busy until it is sent, or given up.
struct Sending {
    body: WasiBody,
    _busy: Option<Busy>,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Completes the URI with scheme and authority, which components see. The error is a sentence for the client.
fn with_authority<B>(mut request: Request<B>, local: SocketAddr) -> Result<Request<B>, &'static str> {
    // RFC 9112, section 3.2: a server must refuse a request of HTTP/1.1 without Host, and one with several.
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("The header Host must not appear more than once.");
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err("The header Host is missing.");
    }
    let authority = match host {
        Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| "The header Host is not a host.")?,
        None => Authority::try_from(local.to_string()).map_err(|_| "The header Host is missing.")?,
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    // Where the target names an authority, that goes before Host.
    parts.authority.get_or_insert(authority);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| "The target of the request is not a path.")?;
    Ok(request)
}

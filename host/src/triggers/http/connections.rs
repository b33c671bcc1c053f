//! How many connections there may be, and which of them is closed when there are too many.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::{Context, Poll};

use hyper::rt::ReadBufCursor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// More connections than this are not held, whatever the limits of the process are: each takes some kilobytes.
const MAX_CONNECTIONS: usize = 10_000;
/// How many files are left to everything else: databases, logs, and the connections of components.
const OTHER_FILES: usize = 256;

/// The connections of clients.
///
/// A connection is idle while no component works on a request from it: before the first one, between two, and while
/// the head or a body is still on its way. When no more connections may be held, the one that has been idle
/// longest is closed for a new one; when none is idle, new ones wait to be accepted.
///
/// A request changes nothing but its own connection's state: what is shared is looked at when connections are many.
pub struct Connections {
    permits: Arc<Semaphore>,
    max: usize,
    open: Mutex<Open>,
    /// How often a connection became idle; the states of idle ones are numbers of this.
    became_idle: AtomicU64,
    /// Whether a new connection waits until another one becomes idle.
    is_awaited: AtomicBool,
    awaited: Notify,
}

#[derive(Default)]
struct Open {
    /// All, and some that have been closed since.
    connections: Vec<Weak<Connection>>,
    /// Those that were idle when they were last looked through, with their states, the longest idle at the end. Those
    /// that still are have been idle longer than any other.
    idle: Vec<(u64, Weak<Connection>)>,
}

impl Connections {
    /// Room for so many.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(max)),
            max,
            open: Mutex::default(),
            became_idle: AtomicU64::new(FIRST_IDLE),
            is_awaited: AtomicBool::new(false),
            awaited: Notify::new(),
        })
    }

    /// Room for as many as the limit for open files allows, which is raised as far as the process may.
    pub fn within_file_limit() -> Arc<Self> {
        Self::new(max_connections(raise_file_limit()))
    }

    /// Waits until there is room for one more connection, and makes room if it can.
    pub async fn make_room(&self) -> OwnedSemaphorePermit {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return permit;
        }
        let mut released = std::pin::pin!(self.permits.clone().acquire_owned());
        loop {
            let awaited = self.awaited.notified();
            self.is_awaited.store(true, Ordering::SeqCst);
            // One that is told to close may be closing by itself, but then there is room all the same.
            if self.close_longest_idle() {
                return released.await.expect("the semaphore is never closed");
            }
            tokio::select! {
                permit = &mut released => return permit.expect("the semaphore is never closed"),
                () = awaited => {}
            }
        }
    }

    fn close_longest_idle(&self) -> bool {
        let mut open = self.open.lock().expect("no access panics");
        for look_again in [true, false] {
            while let Some((since, connection)) = open.idle.pop() {
                if connection.upgrade().is_some_and(|connection| connection.close_if_idle(since)) {
                    return true;
                }
            }
            if look_again {
                open.look();
            }
        }
        false
    }

    fn next_idle(&self) -> u64 {
        self.became_idle.fetch_add(1, Ordering::SeqCst)
    }
}

impl Open {
    fn look(&mut self) {
        self.connections.retain(|connection| connection.strong_count() > 0);
        self.idle.clear();
        for weak in &self.connections {
            let state = weak.upgrade().map_or(CLOSING, |connection| connection.state.load(Ordering::SeqCst));
            if (FIRST_IDLE..CLOSING).contains(&state) {
                self.idle.push((state, weak.clone()));
            }
        }
        self.idle.sort_unstable_by_key(|(since, _)| std::cmp::Reverse(*since));
    }
}

/// A connection's state while a component works on its request.
const BUSY: u64 = 0;
/// The state from when a response is complete until all of it has been handed to the socket.
const FLUSHING: u64 = 1;
/// The first state of a connection that is idle: the one that became so first.
const FIRST_IDLE: u64 = 2;
/// The state of a connection that is being closed for a new one.
const CLOSING: u64 = u64::MAX;

/// A connection, from when it is accepted until it is closed.
pub struct Connection {
    connections: Arc<Connections>,
    state: AtomicU64,
    /// The task that serves it.
    task: OnceLock<AbortHandle>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// A new one, which is idle.
    pub fn new(connections: Arc<Connections>, permit: OwnedSemaphorePermit) -> Arc<Self> {
        let state = AtomicU64::new(connections.next_idle());
        Arc::new(Self { connections, state, task: OnceLock::new(), _permit: permit })
    }

    /// Lets the connection be closed for a new one from now on, by the end of the `task` that serves it.
    pub fn served_by(self: Arc<Self>, task: AbortHandle) {
        self.task.get_or_init(|| task);
        let mut open = self.connections.open.lock().expect("no access panics");
        if open.connections.len() >= self.connections.max.saturating_mul(2) {
            open.connections.retain(|connection| connection.strong_count() > 0);
        }
        open.connections.push(Arc::downgrade(&self));
    }

    /// Whether a component may work on a request of this connection now. It may not when it is being closed: the client
    /// would not hear of the outcome.
    pub fn set_busy(self: &Arc<Self>) -> Option<Busy> {
        let leave = |was| (was != CLOSING).then_some(BUSY);
        self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, leave).is_ok().then(|| Busy(self.clone()))
    }

    /// Notes that the client has sent something: others have been idle longer.
    pub fn touch(&self) {
        self.become_idle(|was| was >= FIRST_IDLE && was != CLOSING);
    }

    /// Notes that all that was written has been handed to the socket.
    pub fn flushed(&self) {
        if self.state.load(Ordering::SeqCst) == FLUSHING {
            self.become_idle(|was| was == FLUSHING);
        }
    }

    fn become_idle(&self, may: impl Fn(u64) -> bool) {
        let idle = self.connections.next_idle();
        let become_idle = |was| may(was).then_some(idle);
        let is_idle = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, become_idle).is_ok();
        let is_awaited = &self.connections.is_awaited;
        if is_idle && is_awaited.load(Ordering::SeqCst) && is_awaited.swap(false, Ordering::SeqCst) {
            self.connections.awaited.notify_waiters();
        }
    }

    fn close_if_idle(&self, since: u64) -> bool {
        let closes = self.state.compare_exchange(since, CLOSING, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if closes {
            tracing::debug!("an idle connection makes room for a new one");
            self.task.get().expect("only connections that are served can be closed").abort();
        }
        closes
    }
}

/// A component works on a request of the connection, or on its response, until this is dropped. The connection is idle
/// once the rest of the response is [flushed](Connection::flushed).
pub struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state.store(FLUSHING, Ordering::SeqCst);
    }
}

/// The socket of a connection, which tells it when everything has been written: hyper flushes a socket once it has handed
/// over all that it had.
pub struct Socket {
    /// The socket.
    pub stream: TokioIo<TcpStream>,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl hyper::rt::Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.connection.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Raises the limit for open files as far as the process may, and returns it.
fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        // macOS has a lower limit than the one it names.
        Err(error) => {
            tracing::debug!("the limit for open files stays as it is: {error}");
            limit.current
        }
    }
}

/// How many connections there may be where so many files may be open; `None` stands for any number.
fn max_connections(files: Option<u64>) -> usize {
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    // A process with very few of them shares them equally.
    files.saturating_sub(OTHER_FILES).max(files / 2).clamp(1, MAX_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::task::JoinHandle;

    use super::*;

    #[test]
    fn the_limit_for_files_leaves_room_for_others() {
        for (files, connections) in [
            (Some(64), 32),
            (Some(256), 128),
            (Some(1_024), 768),
            (Some(1_048_576), MAX_CONNECTIONS),
            (None, MAX_CONNECTIONS),
        ] {
            assert_eq!(max_connections(files), connections, "{files:?}");
        }
    }

    async fn is_ready(future: impl Future) -> bool {
        let mut future = pin!(future);
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
    }

    /// A connection and the task that serves it, which ends only when it is closed.
    async fn connect(connections: &Arc<Connections>) -> (Arc<Connection>, JoinHandle<()>) {
        let connection = Connection::new(connections.clone(), connections.make_room().await);
        let served = connection.clone();
        let task = tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(served);
        });
        connection.clone().served_by(task.abort_handle());
        (connection, task)
    }

    async fn is_closed(task: JoinHandle<()>) -> bool {
        task.await.is_err_and(|error| error.is_cancelled())
    }

    #[tokio::test]
    async fn the_one_that_has_been_idle_longest_makes_room() {
        let connections = Connections::new(3);
        let [(first, _), (second, second_task), (third, third_task)] =
            [connect(&connections).await, connect(&connections).await, connect(&connections).await];
        // The first one works, and the second one has just been heard of.
        let busy = first.set_busy().unwrap();
        second.touch();
        let mut room = Box::pin(connect(&connections));
        assert!(!is_ready(room.as_mut()).await, "the third must end first");
        assert!(third.set_busy().is_none(), "it is too late");
        drop(third);
        assert!(is_closed(third_task).await);
        let (fourth, fourth_task) = room.await;
        // The second was looked at before the fourth came, and has been idle longer still.
        drop(second);
        let (fifth, _) = connect(&connections).await;
        assert!(is_closed(second_task).await);
        // When all work, a new one waits until the first of them is idle.
        let (fourth_busy, fifth_busy) = (fourth.set_busy().unwrap(), fifth.set_busy().unwrap());
        let mut room = Box::pin(connect(&connections));
        assert!(!is_ready(room.as_mut()).await);
        drop(fourth_busy);
        assert!(!is_ready(room.as_mut()).await, "the end of its response is yet to be sent");
        fourth.flushed();
        drop(fourth);
        room.await;
        assert!(is_closed(fourth_task).await);
        drop((busy, fifth_busy));
    }

    #[tokio::test]
    async fn one_that_is_heard_of_while_it_is_looked_at_is_looked_at_again() {
        let connections = Connections::new(1);
        let (only, task) = connect(&connections).await;
        connections.is_awaited.store(true, Ordering::SeqCst);
        let mut awaited = pin!(connections.awaited.notified());
        assert!(!is_ready(awaited.as_mut()).await);
        only.touch();
        assert!(is_ready(awaited.as_mut()).await);
        // What a component works on stays so, whatever is heard.
        let busy = only.set_busy().unwrap();
        only.touch();
        only.flushed();
        assert!(!connections.close_longest_idle());
        drop(busy);
        only.flushed();
        assert!(connections.close_longest_idle());
        drop(only);
        assert!(is_closed(task).await);
    }

    #[tokio::test]
    async fn connections_that_have_ended_are_forgotten() {
        let connections = Connections::new(2);
        for _ in 0..100 {
            let (connection, task) = connect(&connections).await;
            drop(connection);
            task.abort();
            assert!(is_closed(task).await);
        }
        assert!(connections.open.lock().unwrap().connections.len() <= 4);
    }
}

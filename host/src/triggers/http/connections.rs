//! How many connections there may be, and which of them is closed when there are too many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// More connections than this are not held, whatever the limits of the process are: each takes some kilobytes.
const MAX_CONNECTIONS: usize = 10_000;
/// How many files are left to everything else: databases, logs, and the connections of components.
const OTHER_FILES: usize = 256;

/// The connections of clients.
///
/// A connection is idle while no component works on a request of its: before the first one, between two, and while
/// the head or a small body is still on its way. When no more connections may be held, the one that has been idle
/// longest is closed for a new one; when none is idle, new ones wait to be accepted.
pub struct Connections {
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
    became_idle: Notify,
}

#[derive(Default)]
struct Idle {
    /// How to close each; the first has been idle longest.
    by_age: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

impl Connections {
    /// Room for so many.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { permits: Arc::new(Semaphore::new(max)), idle: Mutex::default(), became_idle: Notify::new() })
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
            let became_idle = self.became_idle.notified();
            // One that is told to close may be closing by itself, but then there is room all the same.
            if self.close_longest_idle() {
                return released.await.expect("the semaphore is never closed");
            }
            tokio::select! {
                permit = &mut released => return permit.expect("the semaphore is never closed"),
                () = became_idle => {}
            }
        }
    }

    fn close_longest_idle(&self) -> bool {
        let oldest = self.idle.lock().expect("no access panics").by_age.pop_first();
        oldest.inspect(|(_, close)| close.notify_one()).is_some()
    }
}

/// A connection, from when it is accepted until it is closed.
pub struct Connection {
    connections: Arc<Connections>,
    close: Arc<Notify>,
    /// Its place among the idle ones.
    idle_as: Mutex<Option<u64>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// A new one, which is idle.
    pub fn new(connections: Arc<Connections>, permit: OwnedSemaphorePermit) -> Arc<Self> {
        let connection =
            Arc::new(Self { connections, close: Arc::default(), idle_as: Mutex::default(), _permit: permit });
        connection.set_idle();
        connection
    }

    /// Waits until the connection is to be closed for a new one.
    pub async fn told_to_close(&self) {
        self.close.notified().await;
    }

    /// Whether a component may work on a request of this connection now. It may not when it has just been told to
    /// close: the client would not hear of the outcome.
    pub fn set_busy(self: &Arc<Self>) -> Option<Busy> {
        let id = self.idle_as.lock().expect("no access panics").take()?;
        self.connections.idle.lock().expect("no access panics").by_age.remove(&id)?;
        Some(Busy(self.clone()))
    }

    /// Notes that the client has sent something: others have been idle longer.
    pub fn touch(&self) {
        let Some(id) = self.idle_as.lock().expect("no access panics").take() else { return };
        if self.connections.idle.lock().expect("no access panics").by_age.remove(&id).is_some() {
            self.set_idle();
        }
    }

    fn set_idle(&self) {
        let id = {
            let mut idle = self.connections.idle.lock().expect("no access panics");
            idle.next += 1;
            let id = idle.next;
            idle.by_age.insert(id, self.close.clone());
            id
        };
        *self.idle_as.lock().expect("no access panics") = Some(id);
        self.connections.became_idle.notify_waiters();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(id) = self.idle_as.lock().expect("no access panics").take() {
            self.connections.idle.lock().expect("no access panics").by_age.remove(&id);
        }
    }
}

/// A component works on a request of the connection, or its response is being sent, until this is dropped.
pub struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_idle();
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
    use std::task::Poll;

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

    #[tokio::test]
    async fn the_one_that_has_been_idle_longest_makes_room() {
        let connections = Connections::new(3);
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(Connection::new(connections.clone(), connections.make_room().await));
        }
        // The first one works, and the second one has just been heard of.
        let busy = open[0].set_busy().unwrap();
        open[1].touch();
        let mut room = pin!(connections.make_room());
        assert!(!is_ready(room.as_mut()).await);
        assert!(is_ready(open[2].told_to_close()).await);
        assert!(open[2].set_busy().is_none(), "it is too late");
        open.remove(2);
        let third = Connection::new(connections.clone(), room.await);
        // When all work, a new one waits until the first of them is idle.
        let (second_busy, third_busy) = (open[1].set_busy().unwrap(), third.set_busy().unwrap());
        let mut room = pin!(connections.make_room());
        assert!(!is_ready(room.as_mut()).await);
        drop(busy);
        assert!(!is_ready(room.as_mut()).await);
        assert!(is_ready(open[0].told_to_close()).await);
        open.remove(0);
        drop(room.await);
        drop((second_busy, third_busy));
    }
}

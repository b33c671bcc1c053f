//! Who writes to a database next: one at a time, first come, first served.
//!
//! Writers that meet at SQLite's lock poll for it, with pauses that grow to 100 ms, and the lock stays idle
//! meanwhile. Here the thread that releases the write permit runs what waits for it next: no time passes between two
//! commits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Why there is no result.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRun {
    /// It was not run: others held the permit all the time.
    #[error("database is locked")]
    PermitTimedOut,
    /// It panicked, maybe after it took effect. (Or the host is stopping.)
    #[error("the host failed while it ran the statement")]
    Failed,
}

/// What is run with the permit; it returns the permit, or keeps it for later.
type Job = Box<dyn FnOnce(WritePermit) -> Option<WritePermit> + Send>;

/// The queue of one database.
pub struct WriteQueue {
    state: Mutex<State>,
    /// Whether everything runs on the caller's thread.
    single_threaded: bool,
}

#[derive(Default)]
struct State {
    is_taken: bool,
    waiting: VecDeque<Job>,
}

/// The right to write. Dropping it passes it on to whoever waits longest.
pub struct WritePermit(Option<Arc<WriteQueue>>);

impl WriteQueue {
    /// A queue whose permit is free. Work runs on threads for what blocks, unless `single_threaded`.
    pub fn new(single_threaded: bool) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), single_threaded })
    }

    /// Runs `work` once it gets the permit, if that is within `patience`. It is not run if the caller goes away before.
    pub async fn run_with_permit<T: Send + 'static>(
        self: &Arc<Self>,
        patience: Duration,
        work: impl FnOnce(WritePermit) -> (T, Option<WritePermit>) + Send + 'static,
    ) -> Result<T, NotRun> {
        let (tell, mut told) = oneshot::channel();
        // Until it starts, the work belongs to the caller: it holds a connection, which whoever has the permit may wait for.
        let caller = Caller(Arc::new(Mutex::new(Some(work))));
        let work = caller.0.clone();
        self.enter(Box::new(move |permit| {
            let Some(work) = work.lock().expect("no access panics").take() else { return Some(permit) };
            let (outcome, permit) = work(permit);
            let _ = tell.send(outcome);
            permit
        }));
        match tokio::time::timeout(patience, &mut told).await {
            Ok(outcome) => outcome.map_err(|_| NotRun::Failed),
            Err(_) if caller.withdraw() => Err(NotRun::PermitTimedOut),
            Err(_) => told.await.map_err(|_| NotRun::Failed),
        }
    }

    /// Runs `work` for a caller that has the permit already, or needs none. The permit that it returns is passed on.
    pub async fn run_now<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> (T, Option<WritePermit>) + Send + 'static,
    ) -> Result<T, NotRun> {
        let (tell, told) = oneshot::channel();
        self.run_blocking(move || {
            let (outcome, permit) = work();
            let _ = tell.send(outcome);
            pass_on(permit);
        });
        told.await.map_err(|_| NotRun::Failed)
    }

    fn enter(self: &Arc<Self>, job: Job) {
        {
            let mut state = self.state.lock().expect("no access panics");
            if state.is_taken {
                return state.waiting.push_back(job);
            }
            state.is_taken = true;
        }
        self.start(job);
    }

    /// Starts a job with the permit, which must be free.
    fn start(self: &Arc<Self>, job: Job) {
        let permit = WritePermit(Some(self.clone()));
        self.run_blocking(move || pass_on(job(permit)));
    }

    /// The job that waits longest; if there is none, the permit is free.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock().expect("no access panics");
        let next = state.waiting.pop_front();
        state.is_taken = next.is_some();
        next
    }

    fn run_blocking(&self, work: impl FnOnce() + Send + 'static) {
        match Handle::try_current() {
            Ok(runtime) if !self.single_threaded => drop(runtime.spawn_blocking(work)),
            _ => work(),
        }
    }
}

/// Runs on this thread whatever waits for the permit, until somebody keeps it or nobody waits.
fn pass_on(mut released: Option<WritePermit>) {
    while let Some(mut permit) = released {
        match permit.0.as_ref().and_then(|queue| queue.next()) {
            Some(next) => released = next(permit),
            None => {
                permit.0 = None;
                return;
            }
        }
    }
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        if let Some(next) = queue.next() {
            queue.start(next);
        }
    }
}

/// A caller that waits for the permit, until its work starts or this is dropped.
struct Caller<W>(Arc<Mutex<Option<W>>>);

impl<W> Caller<W> {
    /// Takes the work back; whether it had not started.
    fn withdraw(&self) -> bool {
        let work = self.0.lock().expect("no access panics").take();
        work.is_some()
    }
}

impl<W> Drop for Caller<W> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Takes the permit and keeps it.
    async fn keep(queue: &Arc<WriteQueue>) -> WritePermit {
        let slot = Arc::new(Mutex::new(None));
        let kept = slot.clone();
        let keep = move |permit| {
            *kept.lock().unwrap() = Some(permit);
            ((), None)
        };
        queue.run_with_permit(PATIENCE, keep).await.unwrap();
        slot.lock().unwrap().take().unwrap()
    }

    #[tokio::test]
    async fn those_who_wait_run_in_their_order_on_one_thread() {
        let queue = WriteQueue::new(false);
        let permit = keep(&queue).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..10)
            .map(|number| {
                let (queue, order) = (queue.clone(), order.clone());
                let work = move |permit| {
                    order.lock().unwrap().push(number);
                    (std::thread::current().id(), Some(permit))
                };
                let mut waiting = Box::pin(async move { queue.run_with_permit(PATIENCE, work).await });
                assert!(poll_once(waiting.as_mut()).is_none());
                waiting
            })
            .collect();
        drop(permit);
        let mut threads = Vec::new();
        for waiting in waiting {
            threads.push(waiting.await.unwrap());
        }
        assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
        threads.dedup();
        assert_eq!(threads.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_loses_patience_or_goes_away_leaves_no_trace() {
        let queue = WriteQueue::new(true);
        let permit = keep(&queue).await;
        let done = Arc::new(Mutex::new(0));
        let work = || {
            let done = done.clone();
            move |permit| {
                *done.lock().unwrap() += 1;
                ((), Some(permit))
            }
        };
        let patience = Duration::from_secs(5);
        assert_eq!(queue.run_with_permit(patience, work()).await, Err(NotRun::PermitTimedOut));
        let mut gone = Box::pin(queue.run_with_permit(PATIENCE, work()));
        assert!(poll_once(gone.as_mut()).is_none());
        drop(gone);
        drop(permit);
        assert_eq!(*done.lock().unwrap(), 0);
        queue.run_with_permit(PATIENCE, work()).await.unwrap();
        assert_eq!(*done.lock().unwrap(), 1, "the permit is free again");
    }

    #[tokio::test]
    async fn work_that_has_started_is_awaited() {
        let queue = WriteQueue::new(false);
        let (started, has_started) = oneshot::channel();
        let (finish, may_finish) = std::sync::mpsc::channel();
        let work = move |permit| {
            let _ = started.send(());
            may_finish.recv().unwrap();
            (7, Some(permit))
        };
        let patience = Duration::from_millis(50);
        let mut waiting = std::pin::pin!(queue.run_with_permit(patience, work));
        assert!(poll_once(waiting.as_mut()).is_none());
        // Nobody looks at the time-out before the work has started, however late that is.
        has_started.await.unwrap();
        assert!(tokio::time::timeout(patience * 4, waiting.as_mut()).await.is_err());
        finish.send(()).unwrap();
        assert_eq!(waiting.await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_panics_releases_the_permit() {
        let queue = WriteQueue::new(false);
        let panics = queue.run_with_permit(PATIENCE, |_permit| -> ((), Option<WritePermit>) { panic!("on purpose") });
        assert_eq!(panics.await, Err(NotRun::Failed));
        assert_eq!(queue.run_with_permit(PATIENCE, |permit| (7, Some(permit))).await, Ok(7));
    }

    fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(&mut future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}

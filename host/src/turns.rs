//! Turns to write to a database: one at a time, first come, first served.
//!
//! Writers that meet at SQLite's lock poll for it, with pauses that grow to 100 ms, and the lock stays idle
//! meanwhile. Here the thread that ends a turn does what waits for the next one itself: no time passes between two
//! commits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Why there is no outcome.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// Nothing was done: others had the turn all the time.
    #[error("database is locked")]
    TurnDidNotCome,
    /// The work panicked, maybe after it was done. (Or the host is being stopped.)
    #[error("the host failed while it ran the statement")]
    Failed,
}

/// What is done with the turn; it answers the turn when that is over, and keeps it otherwise.
type Job = Box<dyn FnOnce(Turn) -> Option<Turn> + Send>;

/// The turns of one database.
pub struct Turns {
    queue: Mutex<Queue>,
    /// Whether everything is done on the caller's thread.
    single_threaded: bool,
}

#[derive(Default)]
struct Queue {
    is_taken: bool,
    waiting: VecDeque<Job>,
}

/// The turn. It is the next one's when this is dropped.
pub struct Turn(Option<Arc<Turns>>);

impl Turns {
    /// Nobody has the turn. Work is done on threads for what blocks, unless there is to be but one.
    pub fn new(single_threaded: bool) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), single_threaded })
    }

    /// Has `work` done when its turn has come, if that is before `patience` is over. When the caller goes away
    /// before, nothing is done.
    pub async fn do_in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        patience: Duration,
        work: impl FnOnce(Turn) -> (T, Option<Turn>) + Send + 'static,
    ) -> Result<T, NotDone> {
        let (tell, mut told) = oneshot::channel();
        // What has not begun belongs to the caller: it holds a connection, on which the turn may wait in its turn.
        let caller = Caller(Arc::new(Mutex::new(Some(work))));
        let work = caller.0.clone();
        self.enter(Box::new(move |turn| {
            let Some(work) = work.lock().expect("no access panics").take() else { return Some(turn) };
            let (outcome, turn) = work(turn);
            let _ = tell.send(outcome);
            turn
        }));
        match tokio::time::timeout(patience, &mut told).await {
            Ok(outcome) => outcome.map_err(|_| NotDone::Failed),
            Err(_) if caller.leaves() => Err(NotDone::TurnDidNotCome),
            Err(_) => told.await.map_err(|_| NotDone::Failed),
        }
    }

    /// Has `work` done for somebody who has the turn already, or needs none. The turn that it answers is over.
    pub async fn do_without_waiting<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> (T, Option<Turn>) + Send + 'static,
    ) -> Result<T, NotDone> {
        let (tell, told) = oneshot::channel();
        self.on_a_thread(move || {
            let (outcome, turn) = work();
            let _ = tell.send(outcome);
            pass_on(turn);
        });
        told.await.map_err(|_| NotDone::Failed)
    }

    fn enter(self: &Arc<Self>, job: Job) {
        {
            let mut queue = self.queue.lock().expect("no access panics");
            if queue.is_taken {
                return queue.waiting.push_back(job);
            }
            queue.is_taken = true;
        }
        self.begin(job);
    }

    /// Begins a turn, which must be free for it.
    fn begin(self: &Arc<Self>, job: Job) {
        let turn = Turn(Some(self.clone()));
        self.on_a_thread(move || pass_on(job(turn)));
    }

    /// Who waits longest; if nobody does, the turn is free.
    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock().expect("no access panics");
        let next = queue.waiting.pop_front();
        queue.is_taken = next.is_some();
        next
    }

    fn on_a_thread(&self, work: impl FnOnce() + Send + 'static) {
        match Handle::try_current() {
            Ok(runtime) if !self.single_threaded => drop(runtime.spawn_blocking(work)),
            _ => work(),
        }
    }
}

/// Does on this thread what waits for a turn that is over, until somebody keeps it or nobody waits.
fn pass_on(mut over: Option<Turn>) {
    while let Some(mut turn) = over {
        match turn.0.as_ref().and_then(|turns| turns.next()) {
            Some(next) => over = next(turn),
            None => {
                turn.0 = None;
                return;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        if let Some(next) = turns.next() {
            turns.begin(next);
        }
    }
}

/// Who waits for a turn with work to do, until the work begins or this is dropped.
struct Caller<W>(Arc<Mutex<Option<W>>>);

impl<W> Caller<W> {
    /// Whether the work has not begun, and now never will.
    fn leaves(&self) -> bool {
        let work = self.0.lock().expect("no access panics").take();
        work.is_some()
    }
}

impl<W> Drop for Caller<W> {
    fn drop(&mut self) {
        self.leaves();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Takes a turn and keeps it.
    async fn keep(turns: &Arc<Turns>) -> Turn {
        let slot = Arc::new(Mutex::new(None));
        let kept = slot.clone();
        let keep = move |turn| {
            *kept.lock().unwrap() = Some(turn);
            ((), None)
        };
        turns.do_in_turn(PATIENCE, keep).await.unwrap();
        slot.lock().unwrap().take().unwrap()
    }

    #[tokio::test]
    async fn those_who_wait_come_in_their_order_on_one_thread() {
        let turns = Turns::new(false);
        let turn = keep(&turns).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..10)
            .map(|number| {
                let (turns, order) = (turns.clone(), order.clone());
                let work = move |turn| {
                    order.lock().unwrap().push(number);
                    (std::thread::current().id(), Some(turn))
                };
                let mut waiting = Box::pin(async move { turns.do_in_turn(PATIENCE, work).await });
                assert!(poll_once(waiting.as_mut()).is_none());
                waiting
            })
            .collect();
        drop(turn);
        let mut threads = Vec::new();
        for waiting in waiting {
            threads.push(waiting.await.unwrap());
        }
        assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
        threads.dedup();
        assert_eq!(threads.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_loses_patience_or_goes_away_leaves_no_trace() {
        let turns = Turns::new(true);
        let turn = keep(&turns).await;
        let done = Arc::new(Mutex::new(0));
        let work = || {
            let done = done.clone();
            move |turn| {
                *done.lock().unwrap() += 1;
                ((), Some(turn))
            }
        };
        let patience = Duration::from_secs(5);
        assert_eq!(turns.do_in_turn(patience, work()).await, Err(NotDone::TurnDidNotCome));
        let mut gone = Box::pin(turns.do_in_turn(PATIENCE, work()));
        assert!(poll_once(gone.as_mut()).is_none());
        drop(gone);
        drop(turn);
        assert_eq!(*done.lock().unwrap(), 0);
        turns.do_in_turn(PATIENCE, work()).await.unwrap();
        assert_eq!(*done.lock().unwrap(), 1, "the turn is free again");
    }

    #[tokio::test]
    async fn work_that_has_begun_is_waited_for() {
        let turns = Turns::new(false);
        let work = |turn| {
            std::thread::sleep(Duration::from_millis(50));
            (7, Some(turn))
        };
        assert_eq!(turns.do_in_turn(Duration::from_millis(1), work).await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_panics_leaves_its_turn() {
        let turns = Turns::new(false);
        let panics = turns.do_in_turn(PATIENCE, |_turn| -> ((), Option<Turn>) { panic!("on purpose") });
        assert_eq!(panics.await, Err(NotDone::Failed));
        assert_eq!(turns.do_in_turn(PATIENCE, |turn| (7, Some(turn))).await, Ok(7));
    }

    fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(&mut future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}

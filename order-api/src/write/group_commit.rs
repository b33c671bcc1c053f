//! The write queue of an instance: everything that requests change goes through here, in batches.
//!
//! Group commit: the commands that an instance has at once are carried out together, all their new orders with
//! one statement and one sync to disk. The first request to find no leader starts one, which takes
//! what has come together, carries it out, hands out the answers, and looks again. No request waits for
//! company: what comes while the leader is busy makes up the next batch.
//!
//! A batch with an Idempotency-Key in it is one transaction, so that a key and what was done under it are
//! durable together. That is why writes have a connection of their own, and a leader that is alone on it.

use std::cell::RefCell;
use std::rc::Rc;

use order_core::intake;
use order_core::order::EventNumber;
use order_core::queue::KeyValueQueue;
use order_core::store::{Acceptance, Store, StoreError, Submission, Writes};
use runtime::clock;
use runtime::key_value::AsyncStore;
use runtime::wake::{UntilDropped, wait_for_drop};

use super::backlog::Backlog;
use super::command::{Answer, Command};
use super::idempotency::{self, KeyInFlight, KeysInFlight};
use crate::http::post::{Keyed, Sender};
use crate::http::problem::ApiError;
use crate::stores::{Purpose, Stores};

/// The most commands in a batch: as many as an instance has requests at once.
const MAX_BATCH_COMMANDS: usize = 1_000;
/// How many bytes a batch may move, unless one command moves more: some hundredths of a second of writing.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How often a batch is tried that was undone for the sake of another one.
const MAX_TRIES: usize = 5;

/// A command on its way.
struct Job {
    /// Shared with the request, which hands it in again when the leader is cancelled.
    command: Rc<Command>,
    sender: Rc<Sender>,
    /// Keeps the key taken until the job is done, even if its request goes away before.
    _in_flight: Option<Rc<KeyInFlight>>,
}

/// A request that waits for the leader.
struct Waiting {
    job: Job,
    answer: Rc<RefCell<Option<Answer>>>,
    until_answered: UntilDropped,
}

impl Waiting {
    /// Whether its client has gone away.
    fn is_abandoned(&self) -> bool {
        Rc::strong_count(&self.answer) == 1
    }
}

#[derive(Default)]
struct Queue {
    has_leader: bool,
    waiting: Vec<Waiting>,
}

/// See the module's description.
pub struct WriteQueue {
    stores: Rc<Stores>,
    backlog: Backlog,
    queue: RefCell<Queue>,
    in_flight: KeysInFlight,
}

impl WriteQueue {
    /// A queue in front of the writing connection of `stores`, up to `max_backlog` unfinished orders.
    pub fn new(stores: Rc<Stores>, max_backlog: u64) -> Rc<Self> {
        let backlog = Backlog::new(max_backlog);
        Rc::new(Self { stores, backlog, queue: RefCell::default(), in_flight: KeysInFlight::default() })
    }

    /// Carries out `command`, together with those of other requests. What it answers is durable.
    pub async fn execute(self: &Rc<Self>, command: Command, sender: Sender) -> Answer {
        let in_flight = sender.keyed.as_ref().map(|keyed| self.in_flight.take(&keyed.key)).transpose()?.map(Rc::new);
        let (command, sender) = (Rc::new(command), Rc::new(sender));
        loop {
            let answer = Rc::default();
            let (until_answered, answered) = wait_for_drop();
            let job = Job { command: command.clone(), sender: sender.clone(), _in_flight: in_flight.clone() };
            let is_leaderless = {
                let mut queue = self.queue.borrow_mut();
                queue.waiting.push(Waiting { job, answer: Rc::clone(&answer), until_answered });
                !std::mem::replace(&mut queue.has_leader, true)
            };
            if is_leaderless {
                wit_bindgen::spawn(Leader(self.clone()).lead());
            }
            answered.await;
            if let Some(answer) = answer.take() {
                return answer;
            }
            // The leader was cancelled with its request, maybe after the commit. An order that is accepted again
            // is the same order, and a key that was recorded answers; a wish to cancel or retry that was granted is
            // refused the second time, which is true by then.
            if sender.keyed.is_none() && !command.is_repeatable() {
                return Err(ApiError::Unavailable);
            }
        }
    }

    /// What has come together, up to the limits of a batch; requests whose clients have gone away are left out.
    fn next_batch(&self) -> Vec<Waiting> {
        let mut queue = self.queue.borrow_mut();
        queue.waiting.retain(|waiting| !waiting.is_abandoned());
        let mut bytes = 0;
        let fitting = queue.waiting.iter().take(MAX_BATCH_COMMANDS).take_while(|waiting| {
            let is_first = bytes == 0;
            bytes += waiting.job.command.bytes().max(1);
            is_first || bytes <= MAX_BATCH_BYTES
        });
        let fitting = fitting.count();
        let rest = queue.waiting.split_off(fitting);
        let batch = std::mem::replace(&mut queue.waiting, rest);
        // The next request starts a new leader.
        queue.has_leader = !batch.is_empty();
        batch
    }

    async fn carry_out(&self, jobs: &[Job]) -> Vec<Answer> {
        let mut done = self.try_to_carry_out(jobs).await;
        for _ in 1..MAX_TRIES {
            if !matches!(done, Err(StoreError::Conflict)) {
                break;
            }
            done = self.try_to_carry_out(jobs).await;
        }
        match done {
            Ok((answers, created)) => {
                wit_bindgen::spawn(announce(created));
                answers
            }
            Err(error) => {
                // The state of the connection is unknown.
                self.stores.forget(Purpose::Writes);
                jobs.iter().map(|_| Err(error.clone().into())).collect()
            }
        }
    }

    async fn try_to_carry_out(&self, jobs: &[Job]) -> Done {
        let store = self.stores.get(Purpose::Writes).await?;
        self.carry_out_on(&*store, jobs).await
    }

    async fn carry_out_on(&self, store: &dyn Store, jobs: &[Job]) -> Done {
        let is_full = match jobs.iter().any(|job| job.command.order().is_some()) {
            true => self.backlog.is_full(store).await?,
            false => false,
        };
        if jobs.iter().all(|job| job.sender.keyed.is_none()) {
            return carry_out_all(store, jobs, is_full, Atomicity::EachStatement).await;
        }
        let transaction = store.begin().await?;
        match carry_out_all(transaction.writes(), jobs, is_full, Atomicity::AllTogether).await {
            Ok(done) => transaction.commit().await.map(|()| done),
            Err(error) => {
                // Without an answer to this the end of the connection does the same.
                let _ = transaction.roll_back().await;
                Err(error)
            }
        }
    }
}

/// The task that carries out. When it is cancelled, its place is free and nobody waits for it.
struct Leader(Rc<WriteQueue>);

impl Leader {
    async fn lead(self) {
        loop {
            let batch = self.0.next_batch();
            if batch.is_empty() {
                return;
            }
            let (jobs, requests): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|Waiting { job, answer, until_answered }| (job, (answer, until_answered)))
                .unzip();
            let answers = self.0.carry_out(&jobs).await;
            drop(jobs);
            for ((answer, _), outcome) in requests.iter().zip(answers) {
                answer.replace(Some(outcome));
            }
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let _waiting = {
            let mut queue = self.0.queue.borrow_mut();
            if !queue.has_leader {
                return;
            }
            // It was cancelled, maybe within a transaction: the next leader begins on another connection. Whoever
            // still waits learns of it by the end of its stream, once nothing is borrowed any more.
            queue.has_leader = false;
            std::mem::take(&mut queue.waiting)
        };
        self.0.stores.forget(Purpose::Writes);
    }
}

/// What becomes durable together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Atomicity {
    /// Each statement for itself: what one did holds whatever becomes of the next.
    EachStatement,
    /// All of it, in a transaction.
    AllTogether,
}

/// The answers, and the orders that are new.
type Done = Result<(Vec<Answer>, Vec<EventNumber>), StoreError>;

async fn carry_out_all(writes: &dyn Writes, jobs: &[Job], is_full: bool, atomicity: Atomicity) -> Done {
    let now = clock::now();
    let keyed: Vec<Option<&Keyed>> = jobs.iter().map(|job| job.sender.keyed.as_ref()).collect();
    let mut answers = idempotency::recorded_answers(writes, &keyed, now).await?;
    let created = take_in(writes, jobs, &mut answers, is_full, atomicity).await?;
    for (job, answer) in jobs.iter().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
        *answer = Some(match job.command.carry_out(writes, &job.sender.principal.owner, now).await {
            Ok(changed) => changed,
            // What was accepted in a transaction of its own is durable; its answer is true.
            Err(error) if atomicity == Atomicity::EachStatement => Err(error.into()),
            Err(error) => return Err(error),
        });
    }
    let answers: Vec<Answer> = answers.into_iter().map(|answer| answer.unwrap_or(Err(ApiError::Internal))).collect();
    let records: Vec<_> =
        keyed.iter().zip(&answers).filter_map(|(keyed, answer)| idempotency::record((*keyed)?, answer)).collect();
    if !records.is_empty() {
        writes.keep(&records, now).await?;
    }
    Ok((answers, created))
}

/// Takes in the orders of those jobs that have no answer yet, and tells them. When the backlog `is_full`, only those are
/// told that are stored already.
async fn take_in(
    writes: &dyn Writes,
    jobs: &[Job],
    answers: &mut [Option<Answer>],
    is_full: bool,
    atomicity: Atomicity,
) -> Result<Vec<EventNumber>, StoreError> {
    let (indices, submissions): (Vec<usize>, Vec<Submission<'_>>) = jobs
        .iter()
        .enumerate()
        .filter(|(index, _)| answers[*index].is_none())
        .filter_map(|(index, job)| {
            let owner = &job.sender.principal.owner;
            job.command.order().map(|order| (index, Submission { owner, order }))
        })
        .unzip();
    let mut created = Vec::new();
    if submissions.is_empty() {
        return Ok(created);
    }
    let acceptances: Vec<Option<Acceptance>> = match is_full {
        true => writes.recall(&submissions).await?,
        false => intake::accept(writes, &submissions, clock::now()).await?.into_iter().map(Some).collect(),
    };
    for (index, acceptance) in indices.into_iter().zip(acceptances) {
        match &acceptance {
            Some(Acceptance::Created(order)) => created.push(order.number),
            // After some errors SQLite has rolled the transaction back.
            Some(Acceptance::Undecided(error)) if atomicity == Atomicity::AllTogether => return Err(error.clone()),
            _ => {}
        }
        answers[index] = Some(match acceptance {
            Some(acceptance) => jobs[index].command.tell(&acceptance),
            None => Err(ApiError::Overloaded),
        });
    }
    Ok(created)
}

/// Wakes the worker, with one message for the batch. The orders are durable already, and the worker finds them
/// without a message too, only later: the requests need not wait for this.
async fn announce(created: Vec<EventNumber>) {
    let queue = KeyValueQueue(AsyncStore);
    if let Err(error) = intake::announce(&queue, &created, clock::now(), clock::random_128()).await {
        eprintln!("order-api: {error}; the worker will find the orders by itself");
    }
}

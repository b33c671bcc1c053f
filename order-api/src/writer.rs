//! The one writer of an instance: everything that requests change goes through here, in groups.
//!
//! Group commit: the writes that an instance has at once are carried out together, all their new orders with
//! one statement and one sync to disk. The first request that finds nobody at it starts a leader, which takes
//! what has come together, carries it out, hands out the answers, and looks again. No request waits for
//! company: what comes while the leader is busy makes up the next group.
//!
//! A group with an Idempotency-Key in it is one transaction, so that a key and what was done under it are
//! durable together. That is why writes have a connection of their own, and a leader that is alone on it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use order_core::intake;
use order_core::order::{NewOrder, Order, Timestamp};
use order_core::queue::KeyValueQueue;
use order_core::store::{
    ANSWERS_KEPT_MS, Acceptance, Change, DeadLetterFilter, KeptAnswer, OrderStore, RequestKey, StoreError,
};
use serde::Serialize;

use crate::orders::{self, PatientStore};
use crate::problem::{self, ApiError, DialectErrors};
use crate::runtime::{self, StoreKeyValue, UntilDropped};

/// What a request wants changed, and how its success is told.
pub enum Write {
    /// Take the order in.
    Accept(NewOrder, fn(&Order) -> Reply),
    /// Call the order off.
    Cancel(String, fn(&Order) -> Reply),
    /// Have the failed order tried again.
    Retry(String, fn(&Order) -> Reply),
    /// Have up to so many failed orders tried again.
    RetryDeadLetters(DeadLetterFilter, u32, fn(usize) -> Reply),
}

/// A success, ready to be sent and, under a key, to be kept; or whatever was kept.
#[derive(Clone)]
pub struct Reply {
    /// The status: a 2xx, or what a kept refusal had.
    pub status: StatusCode,
    /// The header Location.
    pub location: Option<String>,
    /// The body, JSON.
    pub body: String,
    /// Whether this is the answer to an earlier request with the same key.
    pub replayed: bool,
}

impl Reply {
    /// A reply with this body and nothing else.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("replies are JSON");
        Self { status, location: None, body, replayed: false }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let content_type = if self.status.is_success() { "application/json" } else { problem::CONTENT_TYPE };
        let mut response = (self.status, [(header::CONTENT_TYPE, content_type)], self.body).into_response();
        let headers = response.headers_mut();
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            headers.insert(header::LOCATION, location);
        }
        if self.replayed {
            headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

/// A request's Idempotency-Key and what it was sent with.
#[derive(Clone)]
pub struct Keyed {
    /// The key and who sent it.
    pub key: RequestKey,
    /// A digest of path and body.
    pub fingerprint: String,
    /// How its dialect tells errors.
    pub errors: Option<DialectErrors>,
}

type Answer = Result<Reply, ApiError>;

struct Job {
    /// Shared with the request, which hands it in again when the leader is cancelled.
    write: Rc<Write>,
    keyed: Option<Keyed>,
    /// Keeps the key taken until the job is done, even if its request goes away before.
    _in_flight: Option<Rc<InFlight>>,
}

/// A request that waits for the leader.
struct Waiting {
    job: Job,
    answer: Rc<RefCell<Option<Answer>>>,
    until_dropped: UntilDropped,
}

#[derive(Default)]
struct Group {
    has_leader: bool,
    waiting: Vec<Waiting>,
    /// The keys of the requests that are waiting or being carried out.
    in_flight: HashSet<RequestKey>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// Carries out `write`, together with those of the other requests. What it answers is durable.
pub async fn write(write: Write, keyed: Option<Keyed>) -> Answer {
    let in_flight = keyed.as_ref().map(|keyed| InFlight::enter(&keyed.key)).transpose()?.map(Rc::new);
    let write = Rc::new(write);
    loop {
        let answer = Rc::default();
        let (until_dropped, dropped) = runtime::wait_for_drop();
        let job = Job { write: write.clone(), keyed: keyed.clone(), _in_flight: in_flight.clone() };
        let waiting = Waiting { job, answer: Rc::clone(&answer), until_dropped };
        let leaderless = GROUP.with_borrow_mut(|group| {
            group.waiting.push(waiting);
            !std::mem::replace(&mut group.has_leader, true)
        });
        if leaderless {
            wit_bindgen::spawn(Leader.lead());
        }
        dropped.await;
        if let Some(answer) = answer.take() {
            return answer;
        }
        // The leader was cancelled with its request, maybe after the commit. An order that is accepted again
        // is the same order, and a key that was kept answers; a wish to cancel or retry that was granted is
        // refused the second time, which is true by then.
    }
}

/// A request with a key, as long as it has no answer.
struct InFlight(RequestKey);

impl InFlight {
    fn enter(key: &RequestKey) -> Result<Self, ApiError> {
        let free = GROUP.with_borrow_mut(|group| group.in_flight.insert(key.clone()));
        if free { Ok(Self(key.clone())) } else { Err(ApiError::IdempotencyKeyInFlight) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        GROUP.with_borrow_mut(|group| group.in_flight.remove(&self.0));
    }
}

/// The one that carries out. When it is cancelled, its place is free and nobody waits for it.
struct Leader;

impl Leader {
    async fn lead(self) {
        loop {
            let waiting = GROUP.with_borrow_mut(|group| {
                // Whoever comes after this leads anew.
                group.has_leader = !group.waiting.is_empty();
                std::mem::take(&mut group.waiting)
            });
            if waiting.is_empty() {
                std::mem::forget(self);
                return;
            }
            let (jobs, requests): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .map(|Waiting { job, answer, until_dropped }| (job, (answer, until_dropped)))
                .unzip();
            let answers = carry_out(&jobs).await;
            drop(jobs);
            for ((answer, _), outcome) in requests.iter().zip(answers) {
                answer.replace(Some(outcome));
            }
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // It may have been cancelled within a transaction; the next leader begins on another connection.
        orders::forget_writing_store();
        // Whoever still waits learns of it by the end of its stream, once nothing is borrowed any more.
        let _waiting = GROUP.with_borrow_mut(|group| {
            group.has_leader = false;
            std::mem::take(&mut group.waiting)
        });
    }
}

async fn carry_out(jobs: &[Job]) -> Vec<Answer> {
    let outcome = match orders::writing_store().await {
        Ok(store) => {
            let outcome = match jobs.iter().any(|job| job.keyed.is_some()) {
                true => carry_out_in_transaction(&store, jobs).await,
                false => carry_out_all(&store, jobs, false).await,
            };
            if outcome.is_err() {
                // Whatever state the connection is in, it ends with it.
                orders::forget_writing_store();
            }
            outcome
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok((answers, acceptances)) => {
            wit_bindgen::spawn(announce(acceptances));
            answers
        }
        Err(error) => jobs.iter().map(|_| Err(error.clone().into())).collect(),
    }
}

type Outcome = Result<(Vec<Answer>, Vec<Acceptance>), StoreError>;

async fn carry_out_in_transaction(store: &PatientStore, jobs: &[Job]) -> Outcome {
    store.begin().await?;
    let outcome = match carry_out_all(store, jobs, true).await {
        Ok(outcome) => store.commit().await.map(|()| outcome),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // Without an answer to this the end of the connection does the same.
        let _ = store.rollback().await;
    }
    outcome
}

async fn carry_out_all(store: &PatientStore, jobs: &[Job], in_transaction: bool) -> Outcome {
    let now = runtime::now();
    let mut answers: Vec<Option<Answer>> = kept_answers(store, jobs).await?;

    let mut acceptances = Vec::new();
    let new = |answers: &[Option<Answer>]| -> Vec<usize> {
        (0..jobs.len())
            .filter(|index| answers[*index].is_none() && matches!(*jobs[*index].write, Write::Accept(..)))
            .collect()
    };
    if !new(&answers).is_empty() && orders::backlog_is_full(store).await? {
        for index in new(&answers) {
            answers[index] = Some(Err(ApiError::Overloaded));
        }
    }
    let new = new(&answers);
    if !new.is_empty() {
        let orders: Vec<&NewOrder> = new
            .iter()
            .filter_map(|index| match &*jobs[*index].write {
                Write::Accept(order, _) => Some(order),
                _ => None,
            })
            .collect();
        acceptances = intake::accept(store, &orders, now).await?;
        for (index, acceptance) in new.into_iter().zip(&acceptances) {
            let Write::Accept(order, reply) = &*jobs[index].write else { continue };
            if let (Acceptance::Undecided(error), true) = (acceptance, in_transaction) {
                // After some errors SQLite has rolled the transaction back.
                return Err(error.clone());
            }
            answers[index] = Some(match acceptance {
                Acceptance::Created(order) | Acceptance::Existing(order) => Ok(reply(order)),
                Acceptance::Conflict => Err(ApiError::OrderConflict(order.order_id.as_str().to_owned())),
                Acceptance::Undecided(error) => Err(error.clone().into()),
            });
        }
    }
    for (job, answer) in jobs.iter().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
        *answer = Some(match change(store, &job.write, now).await {
            Ok(changed) => changed,
            // What was accepted in a transaction of its own is durable; its answer is true.
            Err(error) if !in_transaction => Err(error.into()),
            Err(error) => return Err(error),
        });
    }
    let answers: Vec<Answer> = answers.into_iter().map(|answer| answer.unwrap_or(Err(ApiError::Internal))).collect();

    let kept: Vec<_> =
        jobs.iter().zip(&answers).filter_map(|(job, answer)| kept(job.keyed.as_ref()?, answer)).collect();
    if !kept.is_empty() {
        store.keep_answers(&kept, now).await?;
    }
    Ok((answers, acceptances))
}

/// What is kept of an answer under its key: successes and refusals. After any other error nothing was done,
/// and the same request may be tried anew.
fn kept(keyed: &Keyed, answer: &Answer) -> Option<(RequestKey, KeptAnswer)> {
    let (status, location, body) = match answer {
        Ok(reply) if !reply.replayed => (reply.status, reply.location.clone(), reply.body.clone()),
        Err(error) if error.is_refusal() => {
            let (status, body) = error.told(keyed.errors.as_ref());
            (status, None, body)
        }
        _ => return None,
    };
    let fingerprint = keyed.fingerprint.clone();
    Some((keyed.key.clone(), KeptAnswer { fingerprint, status: status.as_u16(), location, body }))
}

/// Carries out what is not an intake.
async fn change(store: &PatientStore, write: &Write, now: Timestamp) -> Result<Answer, StoreError> {
    let (change, order_id, reply) = match write {
        Write::Accept(..) => return Ok(Err(ApiError::Internal)),
        Write::Cancel(order_id, reply) => (store.cancel(order_id, now).await?, order_id, reply),
        Write::Retry(order_id, reply) => (store.retry(order_id, now).await?, order_id, reply),
        Write::RetryDeadLetters(filter, limit, reply) => {
            return Ok(Ok(reply(store.retry_dead_letters(filter, now, *limit).await?)));
        }
    };
    Ok(match change {
        Change::Done(order) => Ok(reply(&order)),
        Change::NotAllowed(status) => Err(ApiError::ActionNotAllowed(order_id.clone(), status)),
        Change::NotFound => Err(ApiError::OrderNotFound(order_id.clone())),
    })
}

/// For each job the answer that its key has already, if any.
async fn kept_answers(store: &PatientStore, jobs: &[Job]) -> Result<Vec<Option<Answer>>, StoreError> {
    let mut answers: Vec<Option<Answer>> = jobs.iter().map(|_| None).collect();
    let keyed = || jobs.iter().enumerate().filter_map(|(index, job)| Some((index, job.keyed.as_ref()?)));
    let keys: Vec<RequestKey> = keyed().map(|(_, keyed)| keyed.key.clone()).collect();
    if keys.is_empty() {
        return Ok(answers);
    }
    let since = runtime::now().minus_millis(ANSWERS_KEPT_MS);
    for ((index, keyed), kept) in keyed().zip(store.kept_answers(&keys, since).await?) {
        let Some(kept) = kept else { continue };
        answers[index] = Some(if kept.fingerprint == keyed.fingerprint {
            let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
            Ok(Reply { status, location: kept.location, body: kept.body, replayed: true })
        } else {
            Err(ApiError::IdempotencyKeyReused)
        });
    }
    Ok(answers)
}

/// Wakes the worker, with one message for the group. The orders are durable already, and the worker finds them
/// without a message too, only later: the requests need not wait for this.
async fn announce(acceptances: Vec<Acceptance>) {
    let queue = KeyValueQueue(StoreKeyValue);
    if let Err(error) = intake::announce(&queue, &acceptances, runtime::now(), runtime::random()).await {
        eprintln!("order-api: {error}; the worker will find the orders by itself");
    }
}

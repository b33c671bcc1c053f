//! Requests with an Idempotency-Key: each is carried out once, and answered the same way again.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use axum::http::StatusCode;
use order_core::order::Timestamp;
use order_core::store::{IdempotencyRecord, RECORDS_KEPT_MS, RequestKey, StoreError, Writes};

use super::command::Answer;
use crate::http::post::Keyed;
use crate::http::problem::ApiError;
use crate::http::reply::Reply;

/// The keys of the requests that have no answer yet.
#[derive(Clone, Default)]
pub struct KeysInFlight(Rc<RefCell<HashSet<RequestKey>>>);

impl KeysInFlight {
    /// Takes the key until what this returns is dropped.
    ///
    /// # Errors
    /// [`ApiError::IdempotencyKeyInFlight`].
    pub fn take(&self, key: &RequestKey) -> Result<KeyInFlight, ApiError> {
        match self.0.borrow_mut().insert(key.clone()) {
            true => Ok(KeyInFlight { keys: self.clone(), key: key.clone() }),
            false => Err(ApiError::IdempotencyKeyInFlight),
        }
    }
}

/// A key that is taken.
pub struct KeyInFlight {
    keys: KeysInFlight,
    key: RequestKey,
}

impl Drop for KeyInFlight {
    fn drop(&mut self) {
        self.keys.0.borrow_mut().remove(&self.key);
    }
}

/// For each request the answer that its key has already, if any.
pub async fn recorded_answers(
    writes: &dyn Writes,
    requests: &[Option<&Keyed>],
    now: Timestamp,
) -> Result<Vec<Option<Answer>>, StoreError> {
    let keys: Vec<RequestKey> = requests.iter().flatten().map(|keyed| keyed.key.clone()).collect();
    if keys.is_empty() {
        return Ok(requests.iter().map(|_| None).collect());
    }
    let mut records = writes.records(&keys, now.minus_millis(RECORDS_KEPT_MS)).await?.into_iter();
    let mut answer = |keyed: &Keyed| Some(replay(keyed, records.next().flatten()?));
    Ok(requests.iter().map(|request| request.and_then(&mut answer)).collect())
}

fn replay(keyed: &Keyed, record: IdempotencyRecord) -> Answer {
    if record.fingerprint != keyed.fingerprint {
        return Err(ApiError::IdempotencyKeyReused);
    }
    let status = StatusCode::from_u16(record.status).unwrap_or(StatusCode::OK);
    Ok(Reply { status, location: record.location, body: record.body, is_replay: true })
}

/// What is recorded of an answer under its key: successes and refusals. After any other error nothing was done,
/// and the same request may be tried anew.
pub fn record(keyed: &Keyed, answer: &Answer) -> Option<(RequestKey, IdempotencyRecord)> {
    let (status, location, body) = match answer {
        Ok(reply) if !reply.is_replay => (reply.status, reply.location.clone(), reply.body.clone()),
        Err(error) if error.is_refusal() => {
            let (status, body) = error.told(keyed.errors.as_ref());
            (status, None, body)
        }
        _ => return None,
    };
    let fingerprint = keyed.fingerprint.clone();
    Some((keyed.key.clone(), IdempotencyRecord { fingerprint, status: status.as_u16(), location, body }))
}

//! Group commit: orders of requests that an instance has at once are accepted together, with one statement
//! and one sync to disk.
//!
//! The first request that finds nobody at it starts a leader, which takes what has come together, accepts it,
//! hands out the answers, and looks again. No request waits for company: what comes while the leader is busy
//! makes up the next group.

use std::cell::RefCell;
use std::rc::Rc;

use order_core::intake;
use order_core::order::NewOrder;
use order_core::queue::KeyValueQueue;
use order_core::store::{Acceptance, StoreError};
use spin_sdk::wasip3::wit_stream;
use spin_sdk::wit_bindgen::StreamWriter;

use crate::orders::store;
use crate::runtime::{self, StoreKeyValue};

type Answer = Result<Acceptance, StoreError>;

/// A request that waits for the leader.
struct Waiting {
    order: NewOrder,
    answer: Rc<RefCell<Option<Answer>>>,
    /// Nothing is ever written: the request waits for the stream to end, which it does when this is dropped.
    /// A task of the component model wakes another one of its instance by such means only; Rust's wakers
    /// would need wit-bindgen's inter-task-wakeup, whose way of reading its stream traps on wasmtime 48.
    _until_dropped: StreamWriter<u8>,
}

#[derive(Default)]
struct Group {
    has_leader: bool,
    waiting: Vec<Waiting>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// Accepts `order` together with those of the other requests. When this returns, it is durable.
pub async fn accept(order: NewOrder) -> Answer {
    loop {
        let answer = Rc::default();
        let (_until_dropped, mut answered) = wit_stream::new::<u8>();
        let waiting = Waiting { order: order.clone(), answer: Rc::clone(&answer), _until_dropped };
        let leaderless = GROUP.with_borrow_mut(|group| {
            group.waiting.push(waiting);
            !std::mem::replace(&mut group.has_leader, true)
        });
        if leaderless {
            wit_bindgen::spawn(Leader.lead());
        }
        answered.next().await;
        if let Some(answer) = answer.take() {
            return answer;
        }
        // The leader was cancelled with its request, maybe after the commit. Accepting again is safe: the same
        // order is the same order.
    }
}

/// The one that accepts. When it goes, finished or cancelled, its place is free and nobody waits for it.
struct Leader;

impl Leader {
    async fn lead(self) {
        loop {
            let group = GROUP.with_borrow_mut(|group| std::mem::take(&mut group.waiting));
            if group.is_empty() {
                return;
            }
            let (orders, requests): (Vec<_>, Vec<_>) = group
                .into_iter()
                .map(|Waiting { order, answer, _until_dropped }| (order, (answer, _until_dropped)))
                .unzip();
            match accept_all(&orders).await {
                Ok(acceptances) => {
                    wit_bindgen::spawn(announce(acceptances.clone()));
                    for ((answer, _), acceptance) in requests.iter().zip(acceptances) {
                        answer.replace(Some(Ok(acceptance)));
                    }
                }
                Err(error) => {
                    for (answer, _) in &requests {
                        answer.replace(Some(Err(error.clone())));
                    }
                }
            }
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // Whoever still waits learns of it by the end of its stream.
        GROUP.take();
    }
}

async fn accept_all(orders: &[NewOrder]) -> Result<Vec<Acceptance>, StoreError> {
    intake::accept(&*store().await?, orders, runtime::now()).await
}

/// Wakes the worker, with one message for the group. The orders are durable already, and the worker finds them
/// without a message too, only later: the requests need not wait for this.
async fn announce(acceptances: Vec<Acceptance>) {
    let queue = KeyValueQueue(StoreKeyValue);
    if let Err(error) = intake::announce(&queue, &acceptances, runtime::now(), runtime::random()).await {
        eprintln!("order-api: {error}; the worker will find the orders by itself");
    }
}

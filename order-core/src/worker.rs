//! How orders are worked off: one bounded pass over queue, store and processor, run again and again.

use std::collections::HashMap;

use crate::lifecycle::RetryPolicy;
use crate::order::Timestamp;
use crate::queue::OrderQueue;
use crate::store::{Claim, OrderStore, PRUNED_AT_ONCE, StoreError, Verdict};

/// What the processor says of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is processed.
    Completed,
    /// It is under way: ask again after this many milliseconds.
    InProgress {
        /// Milliseconds until asking makes sense.
        ask_again_after_ms: u32,
    },
    /// It did not work now and may later.
    FailedForNow {
        /// Why.
        reason: String,
    },
    /// It will never work.
    FailedForGood {
        /// Why.
        reason: String,
    },
}

/// The seam to fulfillment: what "processing an order" means.
pub trait Processor {
    /// Starts or looks after each of `claims`; answers one outcome for each, in their order.
    fn process(&self, claims: &[Claim]) -> Vec<Outcome>;
}

/// The worker's clock.
pub trait Clock {
    /// The time.
    fn now(&self) -> Timestamp;
    /// Waits.
    fn sleep_ms(&self, millis: u64);
    /// 64 random bits, for the jitter of retries.
    fn random(&self) -> u64;
}

/// What a worker goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a worker owns what it claimed, in milliseconds. It must exceed the longest call of the
    /// processor: an order whose lease runs out is taken up by another worker as a new attempt.
    pub lease_ms: u64,
    /// How attempts follow each other.
    pub retry: RetryPolicy,
    /// How long orders are kept after they reached a final status, in milliseconds; `None` keeps them for good.
    pub retention_ms: Option<u64>,
}

impl Config {
    /// Five times what a slow outgoing call takes; a crashed worker's orders wait no longer than this.
    pub const DEFAULT_LEASE_MS: u64 = 30_000;
}

impl Default for Config {
    fn default() -> Self {
        Self { lease_ms: Self::DEFAULT_LEASE_MS, retry: RetryPolicy::default(), retention_ms: None }
    }
}

/// How long one tick goes on, in milliseconds: the period of the trigger that wakes the worker, so that one
/// tick takes over from the other. Overlap is safe.
pub const TICK_MS: u64 = 1_000;
/// The pause between two looks at an empty queue, in milliseconds: what an order waits at worst while the
/// worker is idle, against what an idle worker costs.
pub const POLL_MS: u64 = 25;
/// The most messages that one pass takes out of the queue.
pub const MESSAGES_PER_PASS: usize = 256;
/// The most orders that the processor gets at once, unless one message names more.
pub const ORDERS_PER_BATCH: usize = 1_000;
/// How long a park may be, in milliseconds: a processor that asks for more is asked anyway.
pub const MAX_PARK_MS: u32 = 3_600_000;

/// What one worker works with.
pub struct Worker<'a, S, Q, P, C> {
    /// Where orders are kept.
    pub store: &'a S,
    /// Where their messages lie.
    pub queue: &'a Q,
    /// What processing them means.
    pub processor: &'a P,
    /// The time.
    pub clock: &'a C,
    /// What it goes by.
    pub config: Config,
}

impl<S: OrderStore, Q: OrderQueue, P: Processor, C: Clock> Worker<'_, S, Q, P, C> {
    /// Works for about [`TICK_MS`]: pass after pass, with a pause when there was nothing to do.
    ///
    /// Each pass takes healthy orders first, so that orders that bring every worker down cannot keep the others
    /// from being processed, however many there are.
    ///
    /// # Errors
    /// The store's first error ends the tick; the next one begins anew.
    pub async fn tick(&self) -> Result<(), StoreError> {
        let begin = self.clock.now();
        self.store.fail_exhausted(begin, self.config.retry.max_attempts).await?;
        let mut pruned_all = false;
        loop {
            let mut handled = self.run_once().await?;
            handled += self.run_suspect().await?;
            if !pruned_all {
                pruned_all = self.prune().await? < PRUNED_AT_ONCE as usize;
            }
            // A clock that went back must not make the tick endless.
            let now = self.clock.now();
            if now < begin || now.millis_since(begin) + POLL_MS > TICK_MS {
                return Ok(());
            }
            if handled == 0 {
                self.clock.sleep_ms(POLL_MS);
            }
        }
    }

    /// Takes one order whose lease ran out, and has it processed alone. Answers how many it handled.
    ///
    /// Such an order may be what brought its worker down, a processor that trapped on it for instance: the next
    /// one to fall takes no other with it, and the one that always falls uses up its attempts alone.
    pub async fn run_suspect(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let lease_until = now.plus_millis(self.config.lease_ms);
        match self.store.claim_suspect(now, lease_until, self.config.retry.max_attempts).await? {
            Some(claim) => self.process(&[claim]).await.map(|()| 1),
            None => Ok(0),
        }
    }

    /// Removes a little of what is no longer to be kept. Answers how much.
    async fn prune(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let finished_before = self.config.retention_ms.map(|retention| now.minus_millis(retention));
        self.store.prune(now, finished_before).await
    }

    /// One pass: takes up to [`ORDERS_PER_BATCH`] orders, those that messages announce first, has them
    /// processed in one call, so that the lease has to outlast one call only, and settles them. Answers how
    /// many orders it handled.
    ///
    /// The order of steps is what makes it safe: an order is claimed in the store before its message goes,
    /// so a crash in between leaves a stale message and never an order without an owner.
    pub async fn run_once(&self) -> Result<usize, StoreError> {
        // Without its queue the worker goes on: it finds every order by itself, only later.
        let mut messages = self.queue.receive(MESSAGES_PER_PASS).await.unwrap_or_default();
        let mut order_ids = Vec::new();
        let mut taken = 0;
        for message in &mut messages {
            if taken > 0 && order_ids.len() + message.order_ids.len() > ORDERS_PER_BATCH {
                break;
            }
            order_ids.append(&mut message.order_ids);
            taken += 1;
        }
        messages.truncate(taken);

        let mut claims = Vec::new();
        if !messages.is_empty() {
            let now = self.clock.now();
            claims = self.store.claim(&order_ids, now, now.plus_millis(self.config.lease_ms)).await?;
            // A message that stays is stale, and goes another time.
            let _ = self.queue.delete(&messages).await;
            restore_order(&mut claims, &order_ids);
        }
        let room = ORDERS_PER_BATCH.saturating_sub(claims.len());
        let mut due = Ok(Vec::new());
        if room > 0 {
            let now = self.clock.now();
            due = self.store.claim_due(now, now.plus_millis(self.config.lease_ms), room as u32).await;
        }
        // What is claimed is processed, whether more could be claimed or not.
        claims.extend(due.as_deref().unwrap_or_default().iter().cloned());
        if !claims.is_empty() {
            self.process(&claims).await?;
        }
        due.map(|_| claims.len())
    }

    async fn process(&self, claims: &[Claim]) -> Result<(), StoreError> {
        let outcomes = self.processor.process(claims);
        let now = self.clock.now();
        // An order that the processor did not answer for keeps its lease, and is taken up when that ends.
        let verdicts: Vec<_> =
            claims.iter().zip(outcomes).map(|(claim, outcome)| (claim, self.verdict(claim, outcome, now))).collect();
        self.store.settle(&verdicts, now).await.map(drop)
    }

    fn verdict(&self, claim: &Claim, outcome: Outcome, now: Timestamp) -> Verdict {
        match outcome {
            Outcome::Completed => Verdict::Complete,
            Outcome::InProgress { ask_again_after_ms } => {
                Verdict::Park { due_at: now.plus_millis(ask_again_after_ms.min(MAX_PARK_MS).into()) }
            }
            Outcome::FailedForNow { reason } => match self.config.retry.delay_after(claim.tries, self.clock.random()) {
                Some(delay) => Verdict::RetryLater { due_at: now.plus_millis(delay), reason },
                None => Verdict::Fail { reason },
            },
            Outcome::FailedForGood { reason } => Verdict::Fail { reason },
        }
    }
}

/// Brings claims, which the store answers in no order, back into that of their messages: first come, first
/// served.
fn restore_order(claims: &mut [Claim], order_ids: &[String]) {
    let place: HashMap<&str, usize> = order_ids.iter().enumerate().map(|(place, id)| (id.as_str(), place)).collect();
    claims.sort_by_key(|claim| place.get(claim.content.order_id.as_str()).copied());
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::intake;
    use crate::lifecycle::Status;
    use crate::order::{Amount, Currency, Id, NewOrder};
    use crate::queue::{KeyValue as _, KeyValueQueue};
    use crate::sqlite::SqliteStore;
    use crate::store::{Acceptance, Metrics};
    use crate::test_doubles::{ManualClock, MemoryKeyValue, RusqliteConnection};

    type Answer = fn(&Claim) -> Outcome;

    /// Answers by a rule and remembers what it was asked.
    struct Scripted {
        answer: Answer,
        asked: RefCell<Vec<(String, u32)>>,
    }

    impl Processor for Scripted {
        fn process(&self, claims: &[Claim]) -> Vec<Outcome> {
            let asked = claims.iter().map(|claim| (claim.content.order_id.as_str().to_owned(), claim.attempt));
            self.asked.borrow_mut().extend(asked);
            claims.iter().map(self.answer).collect()
        }
    }

    struct Bench {
        store: SqliteStore<RusqliteConnection>,
        queue: KeyValueQueue<MemoryKeyValue>,
        processor: Scripted,
        clock: ManualClock,
        config: Config,
    }

    impl Bench {
        async fn new(answer: Answer) -> Self {
            let connection = RusqliteConnection::in_memory();
            Self {
                store: SqliteStore::open(connection).await.unwrap(),
                queue: KeyValueQueue(MemoryKeyValue::default()),
                processor: Scripted { answer, asked: RefCell::default() },
                clock: ManualClock::default(),
                config: Config { retry: RetryPolicy { max_attempts: 3 }, ..Config::default() },
            }
        }

        fn worker(
            &self,
        ) -> Worker<'_, SqliteStore<RusqliteConnection>, KeyValueQueue<MemoryKeyValue>, Scripted, ManualClock> {
            self.worker_with(&self.processor)
        }

        fn worker_with<'a, P>(
            &'a self,
            processor: &'a P,
        ) -> Worker<'a, SqliteStore<RusqliteConnection>, KeyValueQueue<MemoryKeyValue>, P, ManualClock> {
            let Self { store, queue, clock, config, .. } = self;
            Worker { store, queue, processor, clock, config: *config }
        }

        async fn accept(&self, names: &[&str]) -> Vec<Acceptance> {
            let orders: Vec<_> = names
                .iter()
                .map(|name| NewOrder {
                    order_id: Id::from_text(*name).unwrap(),
                    user_id: Id::from_integer(1),
                    item_ids: vec![Id::from_integer(1)],
                    total_amount: Amount::from_minor(1).unwrap(),
                    currency: Currency::default(),
                })
                .collect();
            intake::accept(&self.store, &orders, self.clock.now()).await.unwrap()
        }

        async fn accept_and_announce(&self, names: &[&str]) {
            let accepted = self.accept(names).await;
            intake::announce(&self.queue, &accepted, self.clock.now(), 0).await.unwrap();
        }

        fn asked(&self) -> Vec<(String, u32)> {
            self.processor.asked.borrow().clone()
        }

        async fn metrics(&self) -> Metrics {
            self.store.metrics().await.unwrap()
        }
    }

    /// Is brought down by any batch that holds a poisoned order; remembers the sizes of its batches. A trap
    /// leaves the claims as they are, which an answer for none of them does too.
    struct Poisoned(RefCell<Vec<usize>>);

    impl Processor for Poisoned {
        fn process(&self, claims: &[Claim]) -> Vec<Outcome> {
            self.0.borrow_mut().push(claims.len());
            if claims.iter().any(|claim| claim.content.order_id.as_str().starts_with("poison")) {
                return Vec::new();
            }
            claims.iter().map(|_| Outcome::Completed).collect()
        }
    }

    #[test]
    fn an_announced_order_is_processed_in_one_pass_and_its_message_goes() {
        pollster::block_on(async {
            let bench = Bench::new(|_| Outcome::Completed).await;
            bench.accept_and_announce(&["c", "a", "b"]).await;
            assert_eq!(bench.worker().run_once().await, Ok(3));
            assert_eq!(bench.asked(), [("c".into(), 1), ("a".into(), 1), ("b".into(), 1)]);
            assert_eq!(bench.metrics().await.count(Status::Completed), 3);
            assert!(bench.queue.0.keys().await.unwrap().is_empty());
            assert_eq!(bench.worker().run_once().await, Ok(0));
        });
    }

    #[test]
    fn orders_are_taken_up_in_the_order_of_their_messages() {
        pollster::block_on(async {
            let bench = Bench::new(|_| Outcome::Completed).await;
            bench.accept(&["a", "b", "c"]).await;
            let [a, b, c] = ["a", "b", "c"].map(|name| Id::from_text(name).unwrap());
            bench.queue.send("1", &[&c, &a]).await.unwrap();
            bench.queue.send("2", &[&b]).await.unwrap();
            assert_eq!(bench.worker().run_once().await, Ok(3));
            assert_eq!(bench.asked(), [("c".into(), 1), ("a".into(), 1), ("b".into(), 1)]);
        });
    }

    #[test]
    fn many_orders_that_bring_workers_down_do_not_stop_the_others() {
        pollster::block_on(async {
            let bench = Bench::new(|_| unreachable!()).await;
            let poisoned = Poisoned(RefCell::default());
            let Bench { store, clock, config, .. } = &bench;
            let worker = bench.worker_with(&poisoned);
            let names: Vec<String> = (0..100).map(|number| format!("poison{number}")).collect();
            bench.accept_and_announce(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
            worker.run_once().await.unwrap();
            clock.sleep_ms(config.lease_ms);
            // A worker gets through one pass before the first of them brings it down.
            bench.accept_and_announce(&["good"]).await;
            worker.run_once().await.unwrap();
            worker.run_suspect().await.unwrap();
            assert_eq!(store.find("good").await.unwrap().unwrap().status, Status::Completed);
            // All of them together, the good one, and one suspect alone.
            assert_eq!(*poisoned.0.borrow(), [100, 1, 1]);
        });
    }

    #[test]
    fn what_is_old_is_pruned_by_the_tick_however_much_it_is() {
        pollster::block_on(async {
            let mut bench = Bench::new(|_| Outcome::Completed).await;
            bench.config.retention_ms = Some(1_000);
            let names: Vec<String> = (0..1_200).map(|number| number.to_string()).collect();
            for names in names.chunks(300) {
                bench.accept_and_announce(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
                bench.clock.sleep_ms(1);
            }
            bench.worker().tick().await.unwrap();
            assert_eq!(bench.metrics().await.count(Status::Completed), 1_200);
            bench.clock.sleep_ms(2_000);
            bench.worker().tick().await.unwrap();
            assert_eq!(bench.metrics().await.total, 0);
        });
    }

    #[test]
    fn an_order_without_a_message_is_found_after_a_while() {
        pollster::block_on(async {
            let bench = Bench::new(|_| Outcome::Completed).await;
            bench.accept(&["a"]).await;
            assert_eq!(bench.worker().run_once().await, Ok(0));
            bench.clock.sleep_ms(intake::UNANNOUNCED_AFTER_MS);
            assert_eq!(bench.worker().run_once().await, Ok(1));
            assert_eq!(bench.metrics().await.count(Status::Completed), 1);
        });
    }

    #[test]
    fn a_message_that_repeats_or_names_nothing_does_no_harm() {
        pollster::block_on(async {
            let bench = Bench::new(|_| Outcome::Completed).await;
            bench.accept_and_announce(&["a"]).await;
            let a = Id::from_text("a").unwrap();
            let ghost = Id::from_text("ghost").unwrap();
            bench.queue.send("2", &[&a, &ghost]).await.unwrap();
            bench.queue.send("3", &[]).await.unwrap();
            assert_eq!(bench.worker().run_once().await, Ok(1));
            bench.queue.send("4", &[&a]).await.unwrap();
            assert_eq!(bench.worker().run_once().await, Ok(0));
            assert_eq!(bench.asked(), [("a".into(), 1)]);
            assert!(bench.queue.0.keys().await.unwrap().is_empty());
        });
    }

    #[test]
    fn an_order_in_progress_is_asked_about_again_when_it_said() {
        pollster::block_on(async {
            let bench = Bench::new(|_| Outcome::InProgress { ask_again_after_ms: 400 }).await;
            bench.accept_and_announce(&["a"]).await;
            assert_eq!(bench.worker().run_once().await, Ok(1));
            bench.clock.sleep_ms(399);
            assert_eq!(bench.worker().run_once().await, Ok(0));
            bench.clock.sleep_ms(1);
            assert_eq!(bench.worker().run_once().await, Ok(1));
            assert_eq!(bench.asked(), [("a".into(), 1), ("a".into(), 1)]);
        });
    }

    #[test]
    fn a_failure_for_now_is_retried_until_the_attempts_are_used_up() {
        pollster::block_on(async {
            let bench = Bench::new(|_| Outcome::FailedForNow { reason: "down".into() }).await;
            bench.accept_and_announce(&["a"]).await;
            for _ in 0..10 {
                bench.worker().run_once().await.unwrap();
                bench.clock.sleep_ms(RetryPolicy::MAX_DELAY_MS);
            }
            assert_eq!(bench.asked(), [("a".into(), 1), ("a".into(), 2), ("a".into(), 3)]);
            let order = bench.store.find("a").await.unwrap().unwrap();
            assert_eq!((order.status, order.failure.as_deref()), (Status::Failed, Some("down")));
        });
    }

    #[test]
    fn an_order_that_brings_its_worker_down_takes_no_other_with_it() {
        pollster::block_on(async {
            let bench = Bench::new(|_| unreachable!()).await;
            let poisoned = Poisoned(RefCell::default());
            let Bench { store, clock, config, .. } = &bench;
            let worker = bench.worker_with(&poisoned);
            bench.accept_and_announce(&["a", "poison", "b"]).await;
            worker.run_once().await.unwrap();
            for _ in 0..5 {
                clock.sleep_ms(config.lease_ms);
                worker.tick().await.unwrap();
            }
            assert_eq!(bench.metrics().await.by_status, [0, 0, 2, 1, 0]);
            let poison = store.find("poison").await.unwrap().unwrap();
            assert_eq!((poison.attempts, poison.failure.as_deref()), (3, Some("its lease ran out")));
            // Together once, then each alone.
            assert_eq!(*poisoned.0.borrow(), [3, 1, 1, 1, 1]);
        });
    }

    #[test]
    fn one_pass_hands_over_one_batch() {
        pollster::block_on(async {
            let bench = Bench::new(|_| Outcome::Completed).await;
            let names: Vec<String> = (0..ORDERS_PER_BATCH * 2).map(|number| number.to_string()).collect();
            for half in names.chunks(ORDERS_PER_BATCH / 2 + 1) {
                let half: Vec<&str> = half.iter().map(String::as_str).collect();
                bench.accept_and_announce(&half).await;
                bench.clock.sleep_ms(1);
            }
            let mut passes = Vec::new();
            while let handled @ 1.. = bench.worker().run_once().await.unwrap() {
                passes.push(handled);
            }
            assert_eq!(passes.iter().sum::<usize>(), names.len());
            assert!(passes.iter().all(|handled| *handled <= ORDERS_PER_BATCH), "{passes:?}");
        });
    }

    #[test]
    fn a_failure_for_good_is_not_retried() {
        pollster::block_on(async {
            let bench = Bench::new(|claim| match claim.content.order_id.as_str() {
                "bad" => Outcome::FailedForGood { reason: "no such item".into() },
                _ => Outcome::Completed,
            })
            .await;
            bench.accept_and_announce(&["good", "bad", "fine"]).await;
            bench.worker().run_once().await.unwrap();
            assert_eq!(bench.metrics().await.by_status, [0, 0, 2, 1, 0]);
        });
    }

    #[test]
    fn a_tick_ends_after_its_time_whether_it_is_idle_or_busy() {
        pollster::block_on(async {
            let bench = Bench::new(|_| Outcome::Completed).await;
            let begin = bench.clock.now();
            bench.worker().tick().await.unwrap();
            let idle = bench.clock.now().millis_since(begin);
            assert!((TICK_MS - 2 * POLL_MS..=TICK_MS).contains(&idle), "{idle}");
            bench.accept_and_announce(&["a"]).await;
            bench.worker().tick().await.unwrap();
            assert_eq!(bench.metrics().await.count(Status::Completed), 1);
        });
    }
}

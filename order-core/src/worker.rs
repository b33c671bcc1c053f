//! How orders are worked off: bounded passes over queue, store and processor, again and again.

use crate::batch::BatchSize;
use crate::lifecycle::RetryPolicy;
use crate::order::{EventNumber, Timestamp};
use crate::queue::Queue;
use crate::settings::{self, SettingError};
use crate::store::{Claim, Claims, Due, Maintenance, PRUNED_AT_ONCE, Settlement, StoreError};

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
    /// The most orders that the processor gets at once, 1 to [`BatchSize::MAX`].
    pub max_batch: u32,
    /// How long orders are kept after they reached a final status, in milliseconds; `None` keeps them for good.
    pub retention_ms: Option<u64>,
}

impl Config {
    /// What a worker goes by where nothing is set.
    pub const DEFAULT: Self = Self {
        lease_ms: settings::LEASE_MS.default,
        retry: RetryPolicy { max_attempts: RetryPolicy::DEFAULT_MAX_ATTEMPTS },
        max_batch: BatchSize::MAX,
        retention_ms: None,
    };
}

impl Config {
    /// Reads what a worker goes by, and no other variable: the processor's, say, may have rules of its own.
    ///
    /// # Errors
    /// Those of `get`, and the first variable that breaks its rule.
    pub fn read<E: From<SettingError>>(get: impl Fn(&str) -> Result<Option<String>, E>) -> Result<Self, E> {
        let days = settings::RETENTION_DAYS.get(&get)?;
        Ok(Self {
            lease_ms: settings::LEASE_MS.get(&get)?,
            retry: RetryPolicy { max_attempts: settings::MAX_ATTEMPTS.get_small(&get)? },
            max_batch: settings::MAX_BATCH.get_small(&get)?,
            retention_ms: (days > 0).then_some(days * 24 * 60 * 60 * 1_000),
        })
    }
}

/// How long one tick takes up orders that are well, in milliseconds: the period of the trigger that wakes the worker,
/// so that one tick takes over from the other. Overlap is safe.
pub const TICK_MS: u64 = 1_000;
/// The pause between two looks at an empty queue, in milliseconds: what an order waits at worst while the
/// worker is idle, against what an idle worker costs.
pub const POLL_MS: u64 = 25;
/// The most messages that one pass takes out of the queue.
pub const MESSAGES_PER_PASS: usize = 256;
/// The part of a batch that unannounced orders, and new ones, get at least, as a divisor.
const PART_OF_NEW: usize = 8;
/// How much the processor gets at once, in bytes of items, unless one order has more.
const MAX_CALL_BYTES: usize = 4 * 1_024 * 1_024;
/// How many quarantined orders workers have processed at once: enough that those that are well, and only shared a
/// batch with one that is not, need not wait for each that hangs; few enough that as many hanging calls do no harm.
pub const QUARANTINED_AT_ONCE: u32 = 8;
/// How long a snooze lasts at least, in milliseconds: a processor that says "ask again at once" is not asked in a loop.
pub const MIN_SNOOZE_MS: u32 = 50;
/// How long a snooze lasts at most, in milliseconds: a processor that asks for more is asked anyway.
pub const MAX_SNOOZE_MS: u32 = 3_600_000;
/// The longest reason that is kept, in bytes.
pub const MAX_REASON_BYTES: usize = 4 * 1_024;

/// What one worker works with.
pub struct Worker<'a, S: ?Sized, Q, P, C> {
    /// Where orders are kept.
    pub store: &'a S,
    /// Where their messages are.
    pub queue: &'a Q,
    /// What processing them means.
    pub processor: &'a P,
    /// The time.
    pub clock: &'a C,
    /// What it goes by.
    pub config: Config,
}

impl<S: Claims + Maintenance + ?Sized, Q: Queue, P: Processor, C: Clock> Worker<'_, S, Q, P, C> {
    /// Works for about [`TICK_MS`]: pass after pass, with a pause when there was nothing to do. Then it has quarantined
    /// orders processed, for as long again at most.
    ///
    /// Quarantined orders come last because each may end the tick; the ticks that overlap with this one go on with the
    /// orders that are well.
    ///
    /// # Errors
    /// The store's first error ends the tick; the next one begins anew.
    pub async fn tick(&self) -> Result<(), StoreError> {
        let begin = self.clock.now();
        self.store.fail_exhausted(begin, self.config.retry.max_attempts).await?;
        let mut known = self.store.batch_size().await?;
        let mut batch = BatchSize::new(known, self.config.max_batch, self.config.lease_ms);
        let mut pruned_all = false;
        while !self.has_passed(begin, TICK_MS) {
            let handled = self.run_once(&mut batch).await?;
            // At once, for the next pass may not return.
            if handled > 0 && batch.differs_from(known) {
                self.store.keep_batch_size(batch.get()).await?;
                known = Some(batch.get());
            }
            if !pruned_all {
                pruned_all = self.prune().await? < PRUNED_AT_ONCE as usize;
            }
            if handled == 0 {
                self.clock.sleep_ms(POLL_MS);
            }
        }
        let begin = self.clock.now();
        let mut has_learned = false;
        while !self.has_passed(begin, TICK_MS) {
            let Some(claim) = self.claim_quarantined().await? else { break };
            // A lease that was lost since: its batch may have been too large. Once a tick is enough.
            if claim.started_at >= begin && !std::mem::replace(&mut has_learned, true) {
                batch.learn_of_loss();
                self.store.keep_batch_size(batch.get()).await?;
            }
            self.process(&[claim]).await?;
        }
        Ok(())
    }

    /// Whether `millis` milliseconds will soon have passed since `begin`. A clock that went back must not make anything
    /// endless.
    fn has_passed(&self, begin: Timestamp, millis: u64) -> bool {
        let now = self.clock.now();
        now < begin || now.millis_since(begin) + POLL_MS > millis
    }

    /// Takes one order that may have brought its worker down, to be processed alone.
    ///
    /// The next worker that such an order brings down takes no other order with it, and one that always falls uses up
    /// its attempts alone.
    async fn claim_quarantined(&self) -> Result<Option<Claim>, StoreError> {
        let (now, max_attempts) = (self.clock.now(), self.config.retry.max_attempts);
        self.store.claim_quarantined(now, self.lease_from(now), max_attempts, QUARANTINED_AT_ONCE).await
    }

    /// Removes a little of what is no longer to be kept. Answers how much.
    async fn prune(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let finished_before = self.config.retention_ms.map(|retention| now.minus_millis(retention));
        self.store.prune(now, finished_before).await
    }

    /// One pass: takes up to a batch of orders, has them processed in one call, so that the lease has to outlast one
    /// call only, and settles them. Answers how many orders it handled.
    ///
    /// Orders that were started before come first, up to half of the batch: however many new ones are announced, what
    /// was begun goes on. An eighth is for orders that were accepted a while ago and are not announced any more, and then
    /// come the new ones, by their messages. Where more than half a batch of started ones is due, the new ones get an
    /// eighth too, and the started ones the rest.
    pub async fn run_once(&self, batch: &mut BatchSize) -> Result<usize, StoreError> {
        let size = batch.get() as usize;
        let mut claims = Vec::new();
        let claimed = self.claim_batch(size, &mut claims).await;
        // What is claimed is processed, whether more could be claimed or not.
        if !claims.is_empty() {
            let begin = self.clock.now();
            self.process(&claims).await?;
            batch.learn(claims.len(), self.clock.now().millis_since(begin));
        }
        claimed.map(|()| claims.len())
    }

    async fn claim_batch(&self, size: usize, claims: &mut Vec<Claim>) -> Result<(), StoreError> {
        // A batch of one has no parts: every other one is for what was not started.
        let half = if size == 1 { (self.clock.random() % 2) as usize } else { size.div_ceil(2) };
        let part = (size / PART_OF_NEW).max(1);
        self.claim_due(Due::Started, half, claims).await?;
        let more_are_started = claims.len() == half;
        let before = claims.len();
        self.claim_due(Due::Unannounced, part.min(size - claims.len()), claims).await?;
        let more_are_unannounced = claims.len() - before == part;
        let room = size - claims.len();
        // More was started than gets on: what waits for its next step must not grow by as much as is done.
        let room_for_new = if more_are_started && half > 0 { part.min(room) } else { room };
        self.claim_announced(room_for_new, claims).await?;
        if more_are_started {
            self.claim_due(Due::Started, size - claims.len(), claims).await?;
        }
        if more_are_unannounced {
            self.claim_due(Due::Unannounced, size - claims.len(), claims).await?;
        }
        Ok(())
    }

    async fn claim_due(&self, due: Due, room: usize, claims: &mut Vec<Claim>) -> Result<(), StoreError> {
        if room > 0 {
            let now = self.clock.now();
            claims.extend(self.store.claim_due(due, now, self.lease_from(now), room as u32).await?);
        }
        Ok(())
    }

    /// Claims up to `room` orders that messages announce, first come, first served.
    ///
    /// The order of steps is what makes it safe: an order is claimed in the store before its message goes,
    /// so a crash in between leaves a stale message and never an order without an owner.
    async fn claim_announced(&self, room: usize, claims: &mut Vec<Claim>) -> Result<(), StoreError> {
        if room == 0 {
            return Ok(());
        }
        // Without its queue the worker goes on: it finds every order by itself, only later.
        let mut messages = self.queue.receive(MESSAGES_PER_PASS).await.unwrap_or_default();
        let mut announced: Vec<EventNumber> = Vec::new();
        let mut used_up = 0;
        let mut cut_short = false;
        for message in &mut messages {
            let fitting = message.orders.len().min(room - announced.len());
            announced.extend(message.orders.drain(..fitting));
            if !message.orders.is_empty() {
                cut_short = fitting > 0;
                break;
            }
            used_up += 1;
        }
        if used_up == 0 && announced.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut claimed = self.store.claim(&announced, now, self.lease_from(now)).await?;
        // The store answers in no order; orders are numbered as they came in.
        claimed.sort_unstable_by_key(|claim| claim.order);
        claims.append(&mut claimed);
        // A message that stays is stale, and goes another time. One that was cut short keeps its rest.
        if cut_short {
            let _ = self.queue.replace(&messages[used_up]).await;
        }
        if used_up > 0 {
            let _ = self.queue.delete(&messages[..used_up]).await;
        }
        Ok(())
    }

    fn lease_from(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(self.config.lease_ms)
    }

    /// Has orders processed, in several calls where they are large, and records what the processor said.
    async fn process(&self, mut claims: &[Claim]) -> Result<(), StoreError> {
        while !claims.is_empty() {
            let mut bytes = 0;
            let fitting = claims.iter().take_while(|claim| {
                let is_first = bytes == 0;
                bytes += claim.content.item_ids.as_json().len();
                is_first || bytes <= MAX_CALL_BYTES
            });
            let (call, rest) = claims.split_at(fitting.count());
            let outcomes = self.processor.process(call);
            self.settle(call, outcomes).await?;
            claims = rest;
        }
        Ok(())
    }

    /// Records what the processor said. An order that it did not answer for has failed for now.
    async fn settle(&self, claims: &[Claim], outcomes: Vec<Outcome>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let missing = || Outcome::FailedForNow { reason: "the processor gave no outcome for this order".to_owned() };
        let outcomes = outcomes.into_iter().chain(std::iter::repeat_with(missing));
        let settlements: Vec<_> =
            claims.iter().zip(outcomes).map(|(claim, outcome)| (claim, self.settlement(claim, outcome, now))).collect();
        self.store.settle(&settlements, now).await.map(drop)
    }

    fn settlement(&self, claim: &Claim, outcome: Outcome, now: Timestamp) -> Settlement {
        match outcome {
            Outcome::Completed => Settlement::Complete,
            Outcome::InProgress { ask_again_after_ms } => {
                let snooze_ms = ask_again_after_ms.clamp(MIN_SNOOZE_MS, MAX_SNOOZE_MS);
                Settlement::Snooze { until: now.plus_millis(snooze_ms.into()) }
            }
            Outcome::FailedForNow { reason } => match self.config.retry.delay_after(claim.tries, self.clock.random()) {
                Some(delay) => Settlement::RetryLater { at: now.plus_millis(delay), reason: cut(reason) },
                None => Settlement::Fail { reason: cut(reason) },
            },
            Outcome::FailedForGood { reason } => Settlement::Fail { reason: cut(reason) },
        }
    }
}

/// Cuts a reason off at [`MAX_REASON_BYTES`], between two characters.
fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::intake;
    use crate::lifecycle::Status;
    use crate::order::{Amount, Currency, Id, NewOrder, Order};
    use crate::principal::NOBODY;
    use crate::queue::{Announcements as _, KeyValue as _, KeyValueQueue};
    use crate::sqlite::SqliteStore;
    use crate::store::{Acceptance, Counters as _, History as _, Metrics, Orders as _, Scope, Submission};
    use crate::test_doubles::{ManualClock, MemoryKeyValue, RusqliteConnection};

    type Answer = fn(&Claim) -> Outcome;

    /// A batch as large as batches get.
    fn full() -> BatchSize {
        BatchSize::new(Some(BatchSize::MAX), BatchSize::MAX, Config::DEFAULT.lease_ms)
    }

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

    struct Fixture {
        store: SqliteStore<RusqliteConnection>,
        queue: KeyValueQueue<MemoryKeyValue>,
        processor: Scripted,
        clock: ManualClock,
        config: Config,
    }

    impl Fixture {
        async fn new(answer: Answer) -> Self {
            let connection = RusqliteConnection::in_memory();
            Self {
                store: SqliteStore::open(connection).await.unwrap(),
                queue: KeyValueQueue(MemoryKeyValue::default()),
                processor: Scripted { answer, asked: RefCell::default() },
                clock: ManualClock::default(),
                config: Config { retry: RetryPolicy { max_attempts: 3 }, ..Config::DEFAULT },
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

        async fn accept(&self, names: &[&str]) -> Vec<EventNumber> {
            let orders: Vec<_> = names
                .iter()
                .map(|name| NewOrder {
                    order_id: Id::from_text(*name).unwrap(),
                    user_id: Id::from_integer(1),
                    item_ids: [Id::from_integer(1)].into_iter().collect(),
                    total_amount: Amount::from_minor(1).unwrap(),
                    currency: Currency::default(),
                })
                .collect();
            let submissions: Vec<_> = orders.iter().map(|order| Submission { owner: &NOBODY, order }).collect();
            let accepted = intake::accept(&self.store, &submissions, self.clock.now()).await.unwrap();
            let created = accepted.into_iter().map(|acceptance| match acceptance {
                Acceptance::Created(order) => order.number,
                other => panic!("{other:?}"),
            });
            created.collect()
        }

        async fn accept_and_announce(&self, names: &[&str]) {
            let created = self.accept(names).await;
            // Messages are made at different moments.
            self.clock.sleep_ms(1);
            intake::announce(&self.queue, &created, self.clock.now(), 0).await.unwrap();
        }

        async fn order(&self, name: &str) -> Order {
            self.store.find(&NOBODY, name).await.unwrap().unwrap()
        }

        fn asked(&self) -> Vec<(String, u32)> {
            self.processor.asked.borrow().clone()
        }

        async fn metrics(&self) -> Metrics {
            self.store.metrics(Scope::All).await.unwrap()
        }
    }

    /// Traps on any batch that holds a poisoned order; remembers the sizes of its batches.
    struct Poisoned(RefCell<Vec<usize>>);

    impl Processor for Poisoned {
        fn process(&self, claims: &[Claim]) -> Vec<Outcome> {
            self.0.borrow_mut().push(claims.len());
            let is_poisoned = claims.iter().any(|claim| claim.content.order_id.as_str().starts_with("poison"));
            assert!(!is_poisoned, "a trap, on purpose");
            claims.iter().map(|_| Outcome::Completed).collect()
        }
    }

    /// Works until it is done, or until a trap brings the worker down.
    fn until_a_trap(work: impl Future<Output = Result<(), StoreError>>) {
        let work = std::panic::AssertUnwindSafe(|| pollster::block_on(work).unwrap());
        let _ = std::panic::catch_unwind(work);
    }

    #[test]
    fn an_announced_order_is_processed_in_one_pass_and_its_message_goes() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::Completed).await;
            fixture.accept_and_announce(&["c", "a", "b"]).await;
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(3));
            assert_eq!(fixture.asked(), [("c".into(), 1), ("a".into(), 1), ("b".into(), 1)]);
            assert_eq!(fixture.metrics().await.count(Status::Completed), 3);
            assert!(fixture.queue.0.keys().await.unwrap().is_empty());
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(0));
        });
    }

    #[test]
    fn orders_are_taken_up_as_they_came_in() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::Completed).await;
            let [c, a, b] = fixture.accept(&["c", "a", "b"]).await[..] else { panic!("three") };
            fixture.queue.announce("1", &[a, c]).await.unwrap();
            fixture.queue.announce("2", &[b]).await.unwrap();
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(3));
            assert_eq!(fixture.asked(), [("c".into(), 1), ("a".into(), 1), ("b".into(), 1)]);
        });
    }

    #[test]
    fn a_message_that_names_more_than_fits_keeps_its_rest() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::Completed).await;
            fixture.accept_and_announce(&["a", "b", "c", "d", "e"]).await;
            let worker = fixture.worker();
            let mut passes = Vec::new();
            for _ in 0..4 {
                let mut two = BatchSize::new(Some(2), 2, fixture.config.lease_ms);
                passes.push(worker.run_once(&mut two).await.unwrap());
            }
            assert_eq!(passes, [2, 2, 1, 0]);
            assert!(fixture.queue.0.keys().await.unwrap().is_empty());
        });
    }

    #[test]
    fn a_slow_processor_gets_batches_that_it_gets_through_in_time() {
        /// Does one order after the other.
        struct OneByOne<'a>(&'a ManualClock, RefCell<Vec<u64>>);

        impl Processor for OneByOne<'_> {
            fn process(&self, claims: &[Claim]) -> Vec<Outcome> {
                let begin = self.0.now();
                claims.iter().for_each(|_| self.0.sleep_ms(500));
                self.1.borrow_mut().push(self.0.now().millis_since(begin));
                claims.iter().map(|_| Outcome::Completed).collect()
            }
        }

        pollster::block_on(async {
            let fixture = Fixture::new(|_| unreachable!()).await;
            let processor = OneByOne(&fixture.clock, RefCell::default());
            let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
            fixture.accept_and_announce(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
            // What a tick has learned, the next one knows.
            for _ in 0..20 {
                fixture.worker_with(&processor).tick().await.unwrap();
            }
            assert_eq!(fixture.metrics().await.count(Status::Completed), 100);
            let longest = processor.1.borrow().iter().max().copied().unwrap();
            assert!(longest <= fixture.config.lease_ms / 3, "a call took {longest} ms");
            assert!(processor.1.borrow().len() <= 8, "{:?}", processor.1.borrow());
            for name in names {
                assert_eq!(fixture.order(&name).await.attempts, 1);
            }
        });
    }

    /// While more orders are announced in every pass than fit into it, and more of older age lie unannounced, orders
    /// that were started wait no more than the passes that their number takes at half a batch each.
    #[test]
    fn overload_does_not_starve_what_was_started() {
        pollster::block_on(async {
            const SIZE: usize = 8;
            for started in [1usize, 7, 40] {
                let fixture = Fixture::new(|claim| match (claim.content.order_id.as_str(), claim.attempt) {
                    (name, 1) if name.starts_with("retried") => Outcome::FailedForNow { reason: "once".into() },
                    _ => Outcome::Completed,
                })
                .await;
                let batch = || BatchSize::new(Some(SIZE as u32), SIZE as u32, fixture.config.lease_ms);
                let old: Vec<String> = (0..200).map(|number| format!("old{number}")).collect();
                fixture.accept(&old.iter().map(String::as_str).collect::<Vec<_>>()).await;
                let names: Vec<String> = (0..started).map(|number| format!("retried{number}")).collect();
                fixture.accept_and_announce(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
                for _ in 0..started.div_ceil(SIZE) {
                    fixture.worker().run_once(&mut batch()).await.unwrap();
                }
                // Their retries and the old ones are due by now.
                fixture.clock.sleep_ms(intake::UNANNOUNCED_AFTER_MS);
                let passes = started.div_ceil(SIZE / 2);
                for pass in 0..passes {
                    let new: Vec<String> = (0..2 * SIZE).map(|number| format!("new{pass}-{number}")).collect();
                    fixture.accept_and_announce(&new.iter().map(String::as_str).collect::<Vec<_>>()).await;
                    assert_eq!(fixture.worker().run_once(&mut batch()).await, Ok(SIZE));
                }
                for name in &names {
                    assert_eq!(fixture.order(name).await.status, Status::Completed, "{started}: {name}");
                }
                // Neither the new ones are starved, nor those that nothing announces.
                assert_eq!(fixture.order("new0-0").await.status, Status::Completed);
                assert_eq!(fixture.order("old0").await.status, Status::Completed);
            }
        });
    }

    #[test]
    fn what_a_processor_says_is_kept_within_limits() {
        pollster::block_on(async {
            let fixture = Fixture::new(|claim| match claim.content.order_id.as_str() {
                "eager" => Outcome::InProgress { ask_again_after_ms: 0 },
                _ => Outcome::FailedForGood { reason: "é".repeat(5_000) },
            })
            .await;
            fixture.accept_and_announce(&["eager", "talkative"]).await;
            let worker = fixture.worker();
            assert_eq!(worker.run_once(&mut full()).await, Ok(2));
            assert_eq!(worker.run_once(&mut full()).await, Ok(0));
            fixture.clock.sleep_ms(MIN_SNOOZE_MS.into());
            assert_eq!(worker.run_once(&mut full()).await, Ok(1));
            assert_eq!(fixture.order("talkative").await.failure, Some("é".repeat(MAX_REASON_BYTES / 2)));
        });
    }

    #[test]
    fn an_order_without_an_outcome_has_failed_for_now() {
        struct Silent;
        impl Processor for Silent {
            fn process(&self, _: &[Claim]) -> Vec<Outcome> {
                vec![Outcome::Completed]
            }
        }
        pollster::block_on(async {
            let fixture = Fixture::new(|_| unreachable!()).await;
            fixture.accept_and_announce(&["a", "b"]).await;
            fixture.worker_with(&Silent).run_once(&mut full()).await.unwrap();
            assert_eq!(fixture.order("a").await.status, Status::Completed);
            let forgotten = fixture.order("b").await;
            assert_eq!(forgotten.status, Status::Pending);
            assert_eq!(forgotten.failure.as_deref(), Some("the processor gave no outcome for this order"));
        });
    }

    /// A processor cannot forge the loss of a lease by its words.
    #[test]
    fn how_an_attempt_ended_is_not_told_by_its_reason() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::FailedForGood { reason: crate::store::LEASE_LOST.into() }).await;
            fixture.accept_and_announce(&["a"]).await;
            fixture.worker().run_once(&mut full()).await.unwrap();
            let attempts = fixture.store.attempts(&NOBODY, "a").await.unwrap().unwrap();
            assert_eq!(attempts[0].end, Some(crate::order::AttemptEnd::Failed));
        });
    }

    #[test]
    fn many_orders_that_bring_workers_down_do_not_stop_the_others() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| unreachable!()).await;
            let poisoned = Poisoned(RefCell::default());
            let Fixture { clock, config, .. } = &fixture;
            let worker = fixture.worker_with(&poisoned);
            let names: Vec<String> = (0..100).map(|number| format!("poison{number}")).collect();
            fixture.accept_and_announce(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
            fixture.store.keep_batch_size(1_000).await.unwrap();
            until_a_trap(worker.tick());
            clock.sleep_ms(config.lease_ms);
            // A tick gets through what is well before the first of them brings it down.
            fixture.accept_and_announce(&["good"]).await;
            until_a_trap(worker.tick());
            assert_eq!(fixture.order("good").await.status, Status::Completed);
            // All of them together, the good one, and one quarantined alone.
            assert_eq!(*poisoned.0.borrow(), [100, 1, 1]);
            // What was lost was too much at once, as far as anybody knows.
            assert_eq!(fixture.store.batch_size().await, Ok(Some(500)));
        });
    }

    #[test]
    fn what_is_old_is_pruned_by_the_tick_however_much_it_is() {
        pollster::block_on(async {
            let mut fixture = Fixture::new(|_| Outcome::Completed).await;
            fixture.config.retention_ms = Some(1_000);
            let names: Vec<String> = (0..1_200).map(|number| number.to_string()).collect();
            for names in names.chunks(300) {
                fixture.accept_and_announce(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
                fixture.clock.sleep_ms(1);
            }
            fixture.worker().tick().await.unwrap();
            assert_eq!(fixture.metrics().await.count(Status::Completed), 1_200);
            fixture.clock.sleep_ms(2_000);
            fixture.worker().tick().await.unwrap();
            assert_eq!(fixture.metrics().await.total, 0);
        });
    }

    #[test]
    fn an_order_without_a_message_is_found_after_a_while() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::Completed).await;
            fixture.accept(&["a"]).await;
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(0));
            fixture.clock.sleep_ms(intake::UNANNOUNCED_AFTER_MS);
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(1));
            assert_eq!(fixture.metrics().await.count(Status::Completed), 1);
        });
    }

    #[test]
    fn a_message_that_repeats_or_names_nothing_does_no_harm() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::Completed).await;
            let a = fixture.accept(&["a"]).await[0];
            let ghost = EventNumber(a.0 + 1_000);
            fixture.queue.announce("1", &[a]).await.unwrap();
            fixture.queue.announce("2", &[a, ghost]).await.unwrap();
            fixture.queue.announce("3", &[]).await.unwrap();
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(1));
            fixture.queue.announce("4", &[a]).await.unwrap();
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(0));
            assert_eq!(fixture.asked(), [("a".into(), 1)]);
            assert!(fixture.queue.0.keys().await.unwrap().is_empty());
        });
    }

    #[test]
    fn an_order_in_progress_is_asked_about_again_when_it_said() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::InProgress { ask_again_after_ms: 400 }).await;
            fixture.accept_and_announce(&["a"]).await;
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(1));
            fixture.clock.sleep_ms(399);
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(0));
            fixture.clock.sleep_ms(1);
            assert_eq!(fixture.worker().run_once(&mut full()).await, Ok(1));
            assert_eq!(fixture.asked(), [("a".into(), 1), ("a".into(), 1)]);
        });
    }

    #[test]
    fn a_failure_for_now_is_retried_until_the_attempts_are_used_up() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::FailedForNow { reason: "down".into() }).await;
            fixture.accept_and_announce(&["a"]).await;
            for _ in 0..10 {
                fixture.worker().run_once(&mut full()).await.unwrap();
                fixture.clock.sleep_ms(RetryPolicy::MAX_DELAY_MS);
            }
            assert_eq!(fixture.asked(), [("a".into(), 1), ("a".into(), 2), ("a".into(), 3)]);
            let order = fixture.order("a").await;
            assert_eq!((order.status, order.failure.as_deref()), (Status::Failed, Some("down")));
        });
    }

    #[test]
    fn an_order_that_brings_its_worker_down_takes_no_other_with_it() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| unreachable!()).await;
            let poisoned = Poisoned(RefCell::default());
            let Fixture { clock, config, .. } = &fixture;
            let worker = fixture.worker_with(&poisoned);
            fixture.accept_and_announce(&["a", "poison", "b"]).await;
            until_a_trap(worker.tick());
            for _ in 0..5 {
                clock.sleep_ms(config.lease_ms);
                until_a_trap(worker.tick());
            }
            assert_eq!(fixture.metrics().await.by_status, [0, 0, 2, 1, 0]);
            let poison = fixture.order("poison").await;
            assert_eq!((poison.attempts, poison.failure.as_deref()), (3, Some(crate::store::LEASE_LOST)));
            // Together once, then each alone.
            assert_eq!(*poisoned.0.borrow(), [3, 1, 1, 1, 1]);
        });
    }

    #[test]
    fn one_pass_hands_over_one_batch() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::Completed).await;
            let names: Vec<String> = (0..BatchSize::MAX * 2).map(|number| number.to_string()).collect();
            for half in names.chunks(BatchSize::MAX as usize / 2 + 1) {
                fixture.accept_and_announce(&half.iter().map(String::as_str).collect::<Vec<_>>()).await;
            }
            let mut passes = Vec::new();
            while let handled @ 1.. = fixture.worker().run_once(&mut full()).await.unwrap() {
                passes.push(handled);
            }
            assert_eq!(passes, [BatchSize::MAX as usize; 2]);
        });
    }

    #[test]
    fn a_failure_for_good_is_not_retried() {
        pollster::block_on(async {
            let fixture = Fixture::new(|claim| match claim.content.order_id.as_str() {
                "bad" => Outcome::FailedForGood { reason: "no such item".into() },
                _ => Outcome::Completed,
            })
            .await;
            fixture.accept_and_announce(&["good", "bad", "fine"]).await;
            fixture.worker().run_once(&mut full()).await.unwrap();
            assert_eq!(fixture.metrics().await.by_status, [0, 0, 2, 1, 0]);
        });
    }

    #[test]
    fn a_tick_ends_after_its_time_whether_it_is_idle_or_busy() {
        pollster::block_on(async {
            let fixture = Fixture::new(|_| Outcome::Completed).await;
            let begin = fixture.clock.now();
            fixture.worker().tick().await.unwrap();
            let idle = fixture.clock.now().millis_since(begin);
            assert!((TICK_MS - 2 * POLL_MS..=TICK_MS).contains(&idle), "{idle}");
            fixture.accept_and_announce(&["a"]).await;
            fixture.worker().tick().await.unwrap();
            assert_eq!(fixture.metrics().await.count(Status::Completed), 1);
        });
    }
}

//! What every [`OrderStore`] must do, as tests that any backend can be run through: [`run`] with a maker of
//! empty stores, from a test of the backend's own.

use crate::lifecycle::Status;
use crate::order::{Amount, Currency, Id, NewOrder, Timestamp};
use crate::store::{Acceptance, Claim, Metrics, OrderStore, Verdict};

/// Runs every case, each on an empty store from `make`. Panics where the store does not do what it must.
pub async fn run<S: OrderStore>(make: impl AsyncFn() -> S) {
    an_accepted_order_comes_back_as_it_was_sent(make().await).await;
    an_order_is_accepted_once(make().await).await;
    one_call_accepts_each_of_many(make().await).await;
    a_first_attempt_is_claimed_once(make().await).await;
    an_unannounced_order_falls_due(make().await).await;
    a_parked_order_goes_on_with_its_attempt(make().await).await;
    a_lost_lease_is_a_new_attempt_and_fences_the_old_one(make().await).await;
    a_retry_waits_for_its_time(make().await).await;
    what_is_due_longest_comes_first(make().await).await;
    nothing_touches_a_final_order(make().await).await;
    the_counters_follow_every_change(make().await).await;
}

const LEASE: u64 = 10_000;
const DUE: u64 = 3_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn order(name: &str) -> NewOrder {
    NewOrder {
        order_id: Id::from_text(name).unwrap(),
        user_id: Id::from_integer(-7),
        item_ids: vec![Id::from_text("a'\"\\").unwrap(), Id::from_integer(i64::MIN), Id::from_text("a'\"\\").unwrap()],
        total_amount: Amount::MAX,
        currency: Currency::parse("EUR").unwrap(),
    }
}

async fn accept<S: OrderStore>(store: &S, names: &[&str], now: i64) {
    let orders: Vec<_> = names.iter().map(|name| order(name)).collect();
    let accepted = store.accept(&orders, at(now), at(now).plus_millis(DUE)).await.unwrap();
    assert!(accepted.iter().all(|acceptance| matches!(acceptance, Acceptance::Created(_))), "{accepted:?}");
}

async fn claim<S: OrderStore>(store: &S, names: &[&str], now: i64) -> Vec<Claim> {
    let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
    store.claim(&names, at(now), at(now).plus_millis(LEASE)).await.unwrap()
}

async fn claim_one<S: OrderStore>(store: &S, name: &str, now: i64) -> Claim {
    let mut claims = claim(store, &[name], now).await;
    assert_eq!(claims.len(), 1);
    claims.remove(0)
}

async fn claim_due<S: OrderStore>(store: &S, now: i64) -> Vec<Claim> {
    store.claim_due(at(now), at(now).plus_millis(LEASE), 100).await.unwrap()
}

async fn settle<S: OrderStore>(store: &S, claim: &Claim, verdict: Verdict, now: i64) -> bool {
    store.settle(&[(claim, verdict)], at(now)).await.unwrap() == 1
}

async fn status<S: OrderStore>(store: &S, name: &str) -> Status {
    store.find(name).await.unwrap().unwrap().status
}

async fn an_accepted_order_comes_back_as_it_was_sent<S: OrderStore>(store: S) {
    let sent = NewOrder { order_id: Id::from_integer(101), ..order("x") };
    let accepted = store.accept(std::slice::from_ref(&sent), at(5), at(6)).await.unwrap();
    let [Acceptance::Created(created)] = accepted.as_slice() else { panic!("{accepted:?}") };
    let found = store.find("101").await.unwrap().unwrap();
    assert_eq!(&found, created);
    assert_eq!((found.status, found.attempts, found.created_at), (Status::Pending, 0, at(5)));
    assert_eq!((found.started_at, found.finished_at, &found.failure), (None, None, &None));
    // Equality of identifiers does not see their kind, so look at it apart.
    assert!(found.content.order_id.is_integer() && found.content.user_id.is_integer());
    let kinds: Vec<_> = found.content.item_ids.iter().map(Id::is_integer).collect();
    assert_eq!(kinds, [false, true, false]);
    assert_eq!(store.find("102").await.unwrap(), None);
}

async fn an_order_is_accepted_once<S: OrderStore>(store: S) {
    accept(&store, &["a"], 1).await;
    let before = store.find("a").await.unwrap().unwrap();
    let again = store.accept(&[order("a")], at(2), at(3)).await.unwrap();
    assert_eq!(again, [Acceptance::Existing(before.clone())]);
    let other = [
        NewOrder { user_id: Id::from_integer(8), ..order("a") },
        NewOrder { item_ids: vec![], ..order("a") },
        NewOrder { total_amount: Amount::from_minor(1).unwrap(), ..order("a") },
        NewOrder { currency: Currency::default(), ..order("a") },
    ];
    for other in other {
        assert_eq!(store.accept(&[other], at(2), at(3)).await.unwrap(), [Acceptance::Conflict]);
    }
    assert_eq!(store.find("a").await.unwrap().unwrap(), before);
    assert_eq!(store.metrics().await.unwrap().total, 1);
}

async fn one_call_accepts_each_of_many<S: OrderStore>(store: S) {
    accept(&store, &["old"], 1).await;
    let other = NewOrder { user_id: Id::from_integer(8), ..order("twice") };
    let orders = [order("b"), order("old"), order("twice"), order("a"), order("twice"), other];
    let accepted = store.accept(&orders, at(2), at(3)).await.unwrap();
    let kinds: Vec<_> = accepted
        .iter()
        .map(|acceptance| match acceptance {
            Acceptance::Created(order) => format!("created {}", order.content.order_id.as_str()),
            Acceptance::Existing(order) => format!("existing {}", order.content.order_id.as_str()),
            Acceptance::Conflict => "conflict".to_owned(),
        })
        .collect();
    assert_eq!(kinds, ["created b", "existing old", "created twice", "created a", "existing twice", "conflict"]);
    assert_eq!(store.metrics().await.unwrap().total, 4);
    assert_eq!(store.accept(&[], at(2), at(3)).await.unwrap(), []);
}

async fn a_first_attempt_is_claimed_once<S: OrderStore>(store: S) {
    accept(&store, &["a", "b"], 1).await;
    let mut claims = claim(&store, &["a", "b", "a", "unknown"], 10).await;
    claims.sort_by_key(|claim| claim.seq);
    let claimed: Vec<_> = claims.iter().map(|c| (c.content.clone(), c.attempt, c.started_at)).collect();
    assert_eq!(claimed, [(order("a"), 1, at(10)), (order("b"), 1, at(10))]);
    assert_eq!(claim(&store, &["a", "b"], 11).await, []);
    let found = store.find("a").await.unwrap().unwrap();
    assert_eq!((found.status, found.attempts, found.started_at), (Status::Processing, 1, Some(at(10))));
    assert_eq!(claim(&store, &[], 11).await, []);
}

async fn an_unannounced_order_falls_due<S: OrderStore>(store: S) {
    accept(&store, &["a"], 0).await;
    assert_eq!(claim_due(&store, DUE as i64 - 1).await, []);
    let claims = claim_due(&store, DUE as i64).await;
    assert_eq!((claims.len(), claims[0].attempt, claims[0].started_at), (1, 1, at(DUE as i64)));
    // The message comes late.
    assert_eq!(claim(&store, &["a"], DUE as i64 + 1).await, []);
}

async fn a_parked_order_goes_on_with_its_attempt<S: OrderStore>(store: S) {
    accept(&store, &["a"], 0).await;
    let first = claim_one(&store, "a", 10).await;
    assert!(settle(&store, &first, Verdict::Park { due_at: at(500) }, 20).await);
    assert_eq!(status(&store, "a").await, Status::Processing);
    // Whoever parked it has let go of it.
    assert!(!settle(&store, &first, Verdict::Complete, 30).await);
    assert_eq!(claim_due(&store, 499).await, []);
    let resumed = claim_due(&store, 500).await;
    assert_eq!(resumed, [first]);
    assert_eq!(claim_due(&store, 501).await, []);
    assert!(settle(&store, &resumed[0], Verdict::Complete, 510).await);
    let found = store.find("a").await.unwrap().unwrap();
    assert_eq!((found.status, found.attempts), (Status::Completed, 1));
    assert_eq!((found.started_at, found.finished_at), (Some(at(10)), Some(at(510))));
}

async fn a_lost_lease_is_a_new_attempt_and_fences_the_old_one<S: OrderStore>(store: S) {
    accept(&store, &["a"], 0).await;
    let first = claim_one(&store, "a", 10).await;
    let expiry = 10 + LEASE as i64;
    assert_eq!(claim_due(&store, expiry - 1).await, []);
    let second = claim_due(&store, expiry).await.remove(0);
    assert_eq!((second.attempt, second.started_at), (2, at(expiry)));
    let verdicts = [
        Verdict::Complete,
        Verdict::Park { due_at: at(expiry) },
        Verdict::RetryLater { due_at: at(expiry), reason: "late".to_owned() },
        Verdict::Fail { reason: "late".to_owned() },
    ];
    for verdict in verdicts {
        assert!(!settle(&store, &first, verdict, expiry + 1).await);
    }
    assert_eq!(status(&store, "a").await, Status::Processing);
    assert!(settle(&store, &second, Verdict::Complete, expiry + 2).await);
    assert_eq!(status(&store, "a").await, Status::Completed);
}

async fn a_retry_waits_for_its_time<S: OrderStore>(store: S) {
    accept(&store, &["a"], 0).await;
    let first = claim_one(&store, "a", 10).await;
    assert!(settle(&store, &first, Verdict::RetryLater { due_at: at(700), reason: "down".to_owned() }, 20).await);
    let found = store.find("a").await.unwrap().unwrap();
    assert_eq!((found.status, found.attempts, found.failure.as_deref()), (Status::Pending, 1, Some("down")));
    // A message that is repeated does not cut the wait short.
    assert_eq!(claim(&store, &["a"], 30).await, []);
    assert_eq!(claim_due(&store, 699).await, []);
    let second = claim_due(&store, 700).await.remove(0);
    assert_eq!((second.attempt, second.started_at), (2, at(700)));
}

async fn what_is_due_longest_comes_first<S: OrderStore>(store: S) {
    accept(&store, &["later"], 5).await;
    accept(&store, &["sooner"], 4).await;
    let now = at(50_000);
    let claims = store.claim_due(now, now.plus_millis(LEASE), 1).await.unwrap();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].content.order_id.as_str(), "sooner");
}

async fn nothing_touches_a_final_order<S: OrderStore>(store: S) {
    accept(&store, &["done", "dead"], 0).await;
    let done = claim_one(&store, "done", 1).await;
    let dead = claim_one(&store, "dead", 1).await;
    let verdicts = [(&done, Verdict::Complete), (&dead, Verdict::Fail { reason: "no stock".to_owned() })];
    assert_eq!(store.settle(&verdicts, at(2)).await.unwrap(), 2);
    let failed = store.find("dead").await.unwrap().unwrap();
    assert_eq!((failed.status, failed.failure.as_deref()), (Status::Failed, Some("no stock")));
    assert_eq!(failed.finished_at, Some(at(2)));
    assert!(!settle(&store, &done, Verdict::Fail { reason: String::new() }, 3).await);
    assert!(!settle(&store, &dead, Verdict::Complete, 3).await);
    assert_eq!(claim(&store, &["done", "dead"], 3).await, []);
    assert_eq!(claim_due(&store, i64::MAX / 2).await, []);
    assert_eq!(store.settle(&[], at(3)).await.unwrap(), 0);
}

async fn the_counters_follow_every_change<S: OrderStore>(store: S) {
    assert_eq!(store.metrics().await.unwrap(), Metrics::default());
    accept(&store, &["a", "b", "c", "d", "e"], 100).await;
    let b = claim_one(&store, "b", 200).await;
    let c = claim_one(&store, "c", 200).await;
    let d = claim_one(&store, "d", 200).await;
    let e = claim_one(&store, "e", 200).await;
    assert!(settle(&store, &c, Verdict::Complete, 1_700).await);
    assert!(settle(&store, &d, Verdict::Fail { reason: String::new() }, 300).await);
    assert!(settle(&store, &e, Verdict::RetryLater { due_at: at(900), reason: String::new() }, 300).await);
    assert!(settle(&store, &b, Verdict::Park { due_at: at(900) }, 300).await);
    let metrics = store.metrics().await.unwrap();
    let expected = Metrics { total: 5, by_status: [2, 1, 1, 1, 0], processing_ms: 1_500, completion_ms: 1_600 };
    assert_eq!(metrics, expected);
    assert_eq!((metrics.average_processing_seconds(), metrics.average_completion_seconds()), (1.5, 1.6));
}

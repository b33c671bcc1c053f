//! What every [`OrderStore`] must do, as tests that any backend can be run through: [`run`] with a maker of
//! empty stores, from a test of the backend's own.

use crate::lifecycle::{Action, Status};
use crate::order::{Amount, Attempt, AttemptOutcome, Currency, Id, NewOrder, Timestamp};
use crate::store::{
    ANSWERS_KEPT_MS, Acceptance, Change, Claim, DeadLetterFilter, KeptAnswer, Metrics, OrderStore, PRUNED_AT_ONCE,
    RequestKey, Verdict,
};

/// Runs every case, each on an empty store from `make`. Panics where the store does not do what it must.
pub async fn run<S: OrderStore>(make: impl AsyncFn() -> S) {
    let make = &make;
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
    a_suspect_stays_alone_to_the_end_of_its_attempt(make().await).await;
    an_order_that_loses_its_last_lease_fails(make().await).await;
    every_status_allows_what_the_state_machine_says(make).await;
    a_retried_order_has_all_its_attempts_again(make().await).await;
    dead_letters_are_listed_and_retried_by_filter(make().await).await;
    the_history_tells_what_happened(make().await).await;
    a_transaction_is_all_or_nothing(make().await).await;
    an_answer_is_kept_for_a_day(make().await).await;
    pruning_takes_what_is_old_and_final(make().await).await;
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

async fn claim_suspect<S: OrderStore>(store: &S, now: i64) -> Option<Claim> {
    store.claim_suspect(at(now), at(now).plus_millis(LEASE), 3).await.unwrap()
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
            Acceptance::Undecided(error) => format!("undecided: {error}"),
        })
        .collect();
    assert_eq!(kinds, ["created b", "existing old", "created twice", "created a", "existing twice", "conflict"]);
    assert_eq!(store.metrics().await.unwrap().total, 4);
    assert_eq!(store.accept(&[] as &[NewOrder], at(2), at(3)).await.unwrap(), []);
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
    // It may be what brought the worker down: it is not for a batch.
    assert_eq!(claim_due(&store, expiry).await, []);
    let second = claim_suspect(&store, expiry).await.unwrap();
    assert_eq!((second.attempt, second.started_at), (2, at(expiry)));
    assert_eq!(claim_suspect(&store, expiry).await, None);
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

async fn a_suspect_stays_alone_to_the_end_of_its_attempt<S: OrderStore>(store: S) {
    accept(&store, &["a"], 0).await;
    claim_one(&store, "a", 10).await;
    let now = 10 + LEASE as i64;
    let second = claim_suspect(&store, now).await.unwrap();
    assert!(settle(&store, &second, Verdict::Park { due_at: at(now + 5) }, now).await);
    assert_eq!(claim_due(&store, now + 5).await, []);
    assert_eq!(claim_suspect(&store, now + 4).await, None);
    let resumed = claim_suspect(&store, now + 5).await.unwrap();
    assert_eq!(resumed, second);
    assert!(
        settle(&store, &resumed, Verdict::RetryLater { due_at: at(now + 9), reason: String::new() }, now + 6).await
    );
    // The processor lived to tell: it is one among others again.
    assert_eq!(claim_suspect(&store, now + 9).await, None);
    assert_eq!(claim_due(&store, now + 9).await.len(), 1);
}

async fn an_order_that_loses_its_last_lease_fails<S: OrderStore>(store: S) {
    accept(&store, &["a", "b"], 0).await;
    claim_one(&store, "a", 10).await;
    let expiry = 10 + LEASE as i64;
    assert_eq!(store.fail_exhausted(at(expiry), 2).await.unwrap(), 0);
    claim_suspect(&store, expiry).await.unwrap();
    assert_eq!(store.fail_exhausted(at(expiry + LEASE as i64 - 1), 2).await.unwrap(), 0);
    // There is no attempt left, whether it was failed already or not.
    let last_expiry = at(expiry + LEASE as i64);
    assert_eq!(store.claim_suspect(last_expiry, last_expiry, 2).await.unwrap(), None);
    assert_eq!(store.fail_exhausted(last_expiry, 2).await.unwrap(), 1);
    assert_eq!(status(&store, "a").await, Status::Failed);
    assert_eq!(status(&store, "b").await, Status::Pending);
    let attempts = store.attempts("a").await.unwrap().unwrap();
    assert_eq!(
        attempts.iter().map(|attempt| attempt.outcome).collect::<Vec<_>>(),
        [Some(AttemptOutcome::LeaseLost); 2]
    );
}

/// Brings an order named `x` to `status`; answers its latest claim.
async fn bring_to<S: OrderStore>(store: &S, status: Status) -> Option<Claim> {
    accept(store, &["x"], 0).await;
    if status == Status::Pending {
        return None;
    }
    if status == Status::Cancelled {
        assert!(matches!(store.cancel("x", at(1)).await.unwrap(), Change::Done(_)));
        return None;
    }
    let claim = claim_one(store, "x", 1).await;
    match status {
        Status::Completed => assert!(settle(store, &claim, Verdict::Complete, 2).await),
        Status::Failed => assert!(settle(store, &claim, Verdict::Fail { reason: "no".to_owned() }, 2).await),
        _ => {}
    }
    Some(claim)
}

async fn every_status_allows_what_the_state_machine_says<S: OrderStore>(make: impl AsyncFn() -> S) {
    for from in Status::ALL {
        for action in Action::ALL {
            let store = make().await;
            let latest = bring_to(&store, from).await;
            let later = 50 + LEASE as i64;
            let settle_with = async |verdict| match &latest {
                Some(latest) => settle(&store, latest, verdict, 3).await,
                None => false,
            };
            let done = match action {
                Action::Start => {
                    !claim(&store, &["x"], 3).await.is_empty()
                        || !claim_due(&store, later).await.is_empty()
                        || claim_suspect(&store, later).await.is_some()
                }
                Action::Park => settle_with(Verdict::Park { due_at: at(9) }).await,
                Action::Complete => settle_with(Verdict::Complete).await,
                Action::RetryLater => settle_with(Verdict::RetryLater { due_at: at(9), reason: String::new() }).await,
                Action::Fail => settle_with(Verdict::Fail { reason: String::new() }).await,
                Action::Cancel => matches!(store.cancel("x", at(3)).await.unwrap(), Change::Done(_)),
                Action::Retry => matches!(store.retry("x", at(3)).await.unwrap(), Change::Done(_)),
            };
            let expected = from.after(action);
            assert_eq!(done, expected.is_some(), "{from:?} {action:?}");
            assert_eq!(status(&store, "x").await, expected.unwrap_or(from), "{from:?} {action:?}");
        }
    }
    let store = make().await;
    assert_eq!(store.cancel("none", at(1)).await.unwrap(), Change::NotFound);
    assert_eq!(store.retry("none", at(1)).await.unwrap(), Change::NotFound);
    bring_to(&store, Status::Processing).await;
    assert_eq!(store.cancel("x", at(3)).await.unwrap(), Change::NotAllowed(Status::Processing));
}

async fn a_retried_order_has_all_its_attempts_again<S: OrderStore>(store: S) {
    bring_to(&store, Status::Failed).await;
    let Change::Done(retried) = store.retry("x", at(5)).await.unwrap() else { panic!("it was failed") };
    assert_eq!((retried.status, retried.attempts, retried.finished_at), (Status::Pending, 1, None));
    let claims = claim_due(&store, 5).await;
    assert_eq!((claims[0].attempt, claims[0].tries), (2, 1));
    assert!(settle(&store, &claims[0], Verdict::Complete, 6).await);
    let completed = store.find("x").await.unwrap().unwrap();
    assert_eq!((completed.status, completed.failure), (Status::Completed, None));
}

async fn dead_letters_are_listed_and_retried_by_filter<S: OrderStore>(store: S) {
    for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let user_id = Id::from_text(if name < "c" { "u" } else { "v" }).unwrap();
        store.accept(&[NewOrder { user_id, ..order(name) }], at(0), at(1)).await.unwrap();
        let claim = claim_one(&store, name, 1).await;
        assert!(settle(&store, &claim, Verdict::Fail { reason: name.to_owned() }, 100 + number as i64).await);
    }
    accept(&store, &["alive"], 0).await;
    let all = DeadLetterFilter::default();
    let names = |orders: &[crate::order::Order]| -> String {
        orders.iter().map(|order| order.content.order_id.as_str()).collect()
    };
    let first = store.dead_letters(&all, None, 3).await.unwrap();
    assert_eq!(names(&first.orders), "abc");
    let rest = store.dead_letters(&all, first.next, 3).await.unwrap();
    assert_eq!((names(&rest.orders), rest.next), ("d".to_owned(), None));
    let whole = store.dead_letters(&all, None, 4).await.unwrap();
    assert_eq!((names(&whole.orders), whole.next), ("abcd".to_owned(), None));
    for (filter, expected) in [
        (DeadLetterFilter { user_id: Some("v".to_owned()), ..all.clone() }, "cd"),
        (
            DeadLetterFilter {
                order_ids: Some(vec!["d".to_owned(), "a".to_owned(), "alive".to_owned()]),
                ..all.clone()
            },
            "ad",
        ),
        (DeadLetterFilter { failed_from: Some(at(101)), failed_before: Some(at(103)), ..all.clone() }, "bc"),
    ] {
        assert_eq!(names(&store.dead_letters(&filter, None, 10).await.unwrap().orders), expected);
    }
    let of_u = DeadLetterFilter { user_id: Some("u".to_owned()), ..all.clone() };
    assert_eq!(store.retry_dead_letters(&of_u, at(200), 1).await.unwrap(), 1);
    assert_eq!(status(&store, "a").await, Status::Pending);
    assert_eq!(store.retry_dead_letters(&all, at(200), 10).await.unwrap(), 3);
    assert_eq!(store.retry_dead_letters(&all, at(200), 10).await.unwrap(), 0);
    assert_eq!(store.metrics().await.unwrap().by_status, [5, 0, 0, 0, 0]);
}

async fn the_history_tells_what_happened<S: OrderStore>(store: S) {
    accept(&store, &["a", "b"], 5).await;
    let first = claim_one(&store, "a", 10).await;
    assert!(settle(&store, &first, Verdict::Park { due_at: at(20) }, 11).await);
    let first = claim_due(&store, 20).await.remove(0);
    assert!(settle(&store, &first, Verdict::RetryLater { due_at: at(30), reason: "down".to_owned() }, 21).await);
    claim_due(&store, 30).await;
    let lost = 30 + LEASE as i64;
    let third = claim_suspect(&store, lost).await.unwrap();
    assert!(settle(&store, &third, Verdict::Complete, lost + 1).await);

    let events = store.events("a").await.unwrap().unwrap();
    let told: Vec<_> = events.iter().map(|e| (e.at.as_millis(), e.status, e.attempt, e.reason.as_deref())).collect();
    assert_eq!(
        told,
        [
            (5, Status::Pending, 0, None),
            (10, Status::Processing, 1, None),
            (21, Status::Pending, 1, Some("down")),
            (30, Status::Processing, 2, None),
            (lost, Status::Processing, 3, Some("its lease ran out")),
            (lost + 1, Status::Completed, 3, None),
        ]
    );
    let attempt = |number, started_at, ended_at, outcome, reason: Option<&str>| Attempt {
        number,
        started_at: at(started_at),
        ended_at: Some(at(ended_at)),
        outcome: Some(outcome),
        reason: reason.map(str::to_owned),
    };
    assert_eq!(
        store.attempts("a").await.unwrap().unwrap(),
        [
            attempt(1, 10, 21, AttemptOutcome::Failed, Some("down")),
            attempt(2, 30, lost, AttemptOutcome::LeaseLost, Some("its lease ran out")),
            attempt(3, lost, lost + 1, AttemptOutcome::Completed, None),
        ]
    );
    assert_eq!(store.attempts("b").await.unwrap(), Some(vec![]));
    assert_eq!(store.events("b").await.unwrap().unwrap().len(), 1);
    assert_eq!((store.events("none").await.unwrap(), store.attempts("none").await.unwrap()), (None, None));
}

fn request(key: &str) -> RequestKey {
    RequestKey { caller: "me".to_owned(), key: key.to_owned() }
}

fn answer(body: &str) -> KeptAnswer {
    KeptAnswer { fingerprint: "f".to_owned(), status: 202, location: Some("/x".to_owned()), body: body.to_owned() }
}

async fn a_transaction_is_all_or_nothing<S: OrderStore>(store: S) {
    store.begin().await.unwrap();
    accept(&store, &["a"], 0).await;
    store.keep_answers(&[(request("k"), answer("1"))], at(0)).await.unwrap();
    store.rollback().await.unwrap();
    assert_eq!(store.find("a").await.unwrap(), None);
    assert_eq!(store.metrics().await.unwrap(), Metrics::default());
    assert_eq!(store.kept_answers(&[request("k")], at(0)).await.unwrap(), [None]);
    store.begin().await.unwrap();
    accept(&store, &["a"], 0).await;
    store.commit().await.unwrap();
    assert_eq!(status(&store, "a").await, Status::Pending);
    // It is over: another one can begin.
    store.begin().await.unwrap();
    store.rollback().await.unwrap();
    assert_eq!(status(&store, "a").await, Status::Pending);
}

async fn an_answer_is_kept_for_a_day<S: OrderStore>(store: S) {
    let body = "{\"quote\": \"\\u00e9 \u{e9}\"}";
    let other_caller = RequestKey { caller: "you".to_owned(), ..request("k") };
    store.keep_answers(&[(request("k"), answer(body)), (request("l"), answer(""))], at(100)).await.unwrap();
    let kept = store.kept_answers(&[request("l"), other_caller, request("k")], at(100)).await.unwrap();
    assert_eq!(kept, [Some(answer("")), None, Some(answer(body))]);
    assert_eq!(store.kept_answers(&[request("k")], at(101)).await.unwrap(), [None]);
    store.keep_answers(&[(request("k"), answer("new"))], at(101)).await.unwrap();
    assert_eq!(store.kept_answers(&[request("k")], at(0)).await.unwrap(), [Some(answer("new"))]);
    let day = at(101).plus_millis(ANSWERS_KEPT_MS);
    assert_eq!(store.prune(day, None).await.unwrap(), 1);
    assert_eq!(store.kept_answers(&[request("k"), request("l")], at(0)).await.unwrap(), [Some(answer("new")), None]);
}

async fn pruning_takes_what_is_old_and_final<S: OrderStore>(store: S) {
    let names: Vec<String> = (0..PRUNED_AT_ONCE + 1).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    accept(&store, &names, 0).await;
    accept(&store, &["open", "young"], 0).await;
    let claims = claim(&store, &names, 1).await;
    let verdicts: Vec<_> = claims.iter().map(|claim| (claim, Verdict::Complete)).collect();
    store.settle(&verdicts, at(2)).await.unwrap();
    let young = claim_one(&store, "young", 1).await;
    assert!(settle(&store, &young, Verdict::Complete, 3).await);
    assert_eq!(store.prune(at(9), None).await.unwrap(), 0);
    assert_eq!(store.prune(at(9), Some(at(3))).await.unwrap(), PRUNED_AT_ONCE as usize);
    assert_eq!(store.prune(at(9), Some(at(3))).await.unwrap(), 1);
    assert_eq!(store.prune(at(9), Some(at(3))).await.unwrap(), 0);
    let metrics = store.metrics().await.unwrap();
    assert_eq!((metrics.total, metrics.by_status), (2, [1, 0, 1, 0, 0]));
    assert_eq!((store.events("n0").await.unwrap(), store.attempts("n0").await.unwrap()), (None, None));
}

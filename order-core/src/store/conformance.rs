//! What every [`Store`] must do, as tests that any backend can be run through: [`run`] with a maker of
//! empty databases, from a test of the backend's own.

use super::claims::{Claim, Due, LEASE_LOST, Settlement};
use super::error::StoreError;
use super::idempotency::{IdempotencyRecord, RECORDS_KEPT_MS, RequestKey};
use super::maintenance::PRUNED_AT_ONCE;
use super::metrics::{Metrics, Scope};
use super::orders::{Acceptance, Change, Submission};
use super::transaction::Store;
use crate::dead_letters::DeadLetterFilter;
use crate::lifecycle::{Action, Status};
use crate::order::{Amount, Attempt, AttemptEnd, Currency, EventNumber, Id, Items, NewOrder, Order, Timestamp};
use crate::principal::{NOBODY, Owner, Principal};

/// Runs every case, each on an empty database from `make`, which two stores share as two hosts would. Panics where a
/// store does not do what it must.
pub async fn run<S: Store>(make: impl AsyncFn() -> [S; 2]) {
    let make_both = &make;
    let make = &async || {
        let [store, _] = make_both().await;
        store
    };
    an_accepted_order_comes_back_as_it_was_sent(make().await).await;
    an_order_is_accepted_once(make().await).await;
    one_call_accepts_each_of_many(make().await).await;
    a_first_attempt_is_claimed_once(make().await).await;
    an_unannounced_order_falls_due(make().await).await;
    a_snoozed_order_goes_on_with_its_attempt(make().await).await;
    a_lost_lease_is_a_new_attempt_and_fences_the_old_one(make().await).await;
    a_retry_waits_for_its_time(make().await).await;
    what_is_due_longest_comes_first(make().await).await;
    nothing_touches_a_final_order(make().await).await;
    the_counters_follow_every_change(make().await).await;
    a_quarantined_stays_alone_to_the_end_of_its_attempt(make().await).await;
    an_order_that_loses_its_last_lease_fails(make().await).await;
    every_status_allows_what_the_state_machine_says(make).await;
    a_retried_order_has_all_its_attempts_again(make().await).await;
    dead_letters_are_listed_and_retried_by_filter(make().await).await;
    the_history_tells_what_happened(make().await).await;
    a_transaction_is_all_or_nothing(make().await).await;
    a_record_is_kept_for_a_day(make().await).await;
    pruning_takes_what_is_old_and_final(make().await).await;
    owners_do_not_meet(make().await).await;
    changes_are_numbered_in_the_order_of_their_commits(make().await).await;
    a_number_is_never_used_again(make().await).await;
    what_is_known_is_recalled_without_accepting(make().await).await;
    what_was_started_is_told_from_what_was_not(make().await).await;
    few_quarantined_orders_are_taken_at_once(make().await).await;
    pages_of_each_shape_of_filter_hold_all_once(make().await).await;
    the_size_of_batches_is_remembered(make().await).await;
    large_orders_come_back_whole(make().await).await;
    what_one_store_does_the_other_one_sees(make_both().await).await;
    two_stores_share_the_orders_between_them(make_both().await).await;
    changes_of_two_stores_have_one_numbering(make_both().await).await;
    nobody_sees_a_transaction_before_its_end(make_both().await).await;
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
        item_ids: [Id::from_text("a'\"\\").unwrap(), Id::from_integer(i64::MIN), Id::from_text("a'\"\\").unwrap()]
            .into_iter()
            .collect(),
        total_amount: Amount::MAX,
        currency: Currency::parse("EUR").unwrap(),
    }
}

async fn accept_all<S: Store>(store: &S, owner: &Owner, orders: &[NewOrder], now: i64, due: i64) -> Vec<Acceptance> {
    let submissions: Vec<_> = orders.iter().map(|order| Submission { owner, order }).collect();
    store.accept(&submissions, at(now), at(due)).await.unwrap()
}

async fn accept<S: Store>(store: &S, names: &[&str], now: i64) {
    let orders: Vec<_> = names.iter().map(|name| order(name)).collect();
    let accepted = accept_all(store, &NOBODY, &orders, now, now + DUE as i64).await;
    assert!(accepted.iter().all(|acceptance| matches!(acceptance, Acceptance::Created(_))), "{accepted:?}");
}

async fn claim<S: Store>(store: &S, names: &[&str], now: i64) -> Vec<Claim> {
    let mut numbers = Vec::new();
    for name in names {
        let found = store.find(&NOBODY, name).await.unwrap();
        numbers.push(found.map_or(EventNumber(i64::MAX), |order| order.number));
    }
    store.claim(&numbers, at(now), at(now).plus_millis(LEASE)).await.unwrap()
}

async fn claim_one<S: Store>(store: &S, name: &str, now: i64) -> Claim {
    let mut claims = claim(store, &[name], now).await;
    assert_eq!(claims.len(), 1);
    claims.remove(0)
}

async fn claim_due<S: Store>(store: &S, now: i64) -> Vec<Claim> {
    let mut claims = Vec::new();
    for due in [Due::Started, Due::Unannounced] {
        claims.extend(store.claim_due(due, at(now), at(now).plus_millis(LEASE), 100).await.unwrap());
    }
    claims
}

async fn claim_quarantined<S: Store>(store: &S, now: i64) -> Option<Claim> {
    store.claim_quarantined(at(now), at(now).plus_millis(LEASE), 3, 2).await.unwrap()
}

async fn settle<S: Store>(store: &S, claim: &Claim, settlement: Settlement, now: i64) -> bool {
    store.settle(&[(claim, settlement)], at(now)).await.unwrap() == 1
}

async fn status<S: Store>(store: &S, name: &str) -> Status {
    store.find(&NOBODY, name).await.unwrap().unwrap().status
}

async fn an_accepted_order_comes_back_as_it_was_sent<S: Store>(store: S) {
    let sent = NewOrder { order_id: Id::from_integer(101), ..order("x") };
    let accepted = accept_all(&store, &NOBODY, std::slice::from_ref(&sent), 5, 6).await;
    let [Acceptance::Created(created)] = accepted.as_slice() else { panic!("{accepted:?}") };
    let found = store.find(&NOBODY, "101").await.unwrap().unwrap();
    assert_eq!(&found, created);
    assert_eq!((found.status, found.attempts, found.created_at), (Status::Pending, 0, at(5)));
    assert_eq!((found.started_at, found.finished_at, &found.failure), (None, None, &None));
    // Equality of identifiers does not see their kind, so look at it apart.
    assert!(found.content.order_id.is_integer() && found.content.user_id.is_integer());
    let kinds: Vec<_> = found.content.item_ids.to_ids().iter().map(Id::is_integer).collect();
    assert_eq!(kinds, [false, true, false]);
    assert_eq!(store.find(&NOBODY, "102").await.unwrap(), None);
}

async fn an_order_is_accepted_once<S: Store>(store: S) {
    accept(&store, &["a"], 1).await;
    let before = store.find(&NOBODY, "a").await.unwrap().unwrap();
    let again = accept_all(&store, &NOBODY, &[order("a")], 2, 3).await;
    assert_eq!(again, [Acceptance::Existing(before.clone())]);
    let other = [
        NewOrder { user_id: Id::from_integer(8), ..order("a") },
        NewOrder { item_ids: [Id::from_integer(1)].into_iter().collect(), ..order("a") },
        NewOrder { total_amount: Amount::from_minor(1).unwrap(), ..order("a") },
        NewOrder { currency: Currency::default(), ..order("a") },
    ];
    for other in other {
        assert_eq!(accept_all(&store, &NOBODY, &[other], 2, 3).await, [Acceptance::Conflict]);
    }
    assert_eq!(store.find(&NOBODY, "a").await.unwrap().unwrap(), before);
    assert_eq!(store.metrics(Scope::All).await.unwrap().total, 1);
}

async fn one_call_accepts_each_of_many<S: Store>(store: S) {
    accept(&store, &["old"], 1).await;
    let other = NewOrder { user_id: Id::from_integer(8), ..order("twice") };
    let orders = [order("b"), order("old"), order("twice"), order("a"), order("twice"), other];
    let accepted = accept_all(&store, &NOBODY, &orders, 2, 3).await;
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
    assert_eq!(store.metrics(Scope::All).await.unwrap().total, 4);
    assert_eq!(accept_all(&store, &NOBODY, &[], 2, 3).await, []);
}

async fn a_first_attempt_is_claimed_once<S: Store>(store: S) {
    accept(&store, &["a", "b"], 1).await;
    let mut claims = claim(&store, &["a", "b", "a", "unknown"], 10).await;
    claims.sort_by_key(|claim| claim.order);
    let claimed: Vec<_> = claims.iter().map(|c| (c.content.clone(), c.attempt, c.started_at)).collect();
    assert_eq!(claimed, [(order("a"), 1, at(10)), (order("b"), 1, at(10))]);
    assert_eq!(claim(&store, &["a", "b"], 11).await, []);
    let found = store.find(&NOBODY, "a").await.unwrap().unwrap();
    assert_eq!((found.status, found.attempts, found.started_at), (Status::Processing, 1, Some(at(10))));
    assert_eq!(claim(&store, &[], 11).await, []);
}

async fn an_unannounced_order_falls_due<S: Store>(store: S) {
    accept(&store, &["a"], 0).await;
    assert_eq!(claim_due(&store, DUE as i64 - 1).await, []);
    let claims = claim_due(&store, DUE as i64).await;
    assert_eq!((claims.len(), claims[0].attempt, claims[0].started_at), (1, 1, at(DUE as i64)));
    // The message comes late.
    assert_eq!(claim(&store, &["a"], DUE as i64 + 1).await, []);
}

async fn a_snoozed_order_goes_on_with_its_attempt<S: Store>(store: S) {
    accept(&store, &["a"], 0).await;
    let first = claim_one(&store, "a", 10).await;
    assert!(settle(&store, &first, Settlement::Snooze { until: at(500) }, 20).await);
    assert_eq!(status(&store, "a").await, Status::Processing);
    // Whoever snoozed it has let go of it.
    assert!(!settle(&store, &first, Settlement::Complete, 30).await);
    assert_eq!(claim_due(&store, 499).await, []);
    let resumed = claim_due(&store, 500).await;
    assert_eq!(resumed, [first]);
    assert_eq!(claim_due(&store, 501).await, []);
    assert!(settle(&store, &resumed[0], Settlement::Complete, 510).await);
    let found = store.find(&NOBODY, "a").await.unwrap().unwrap();
    assert_eq!((found.status, found.attempts), (Status::Completed, 1));
    assert_eq!((found.started_at, found.finished_at), (Some(at(10)), Some(at(510))));
}

async fn a_lost_lease_is_a_new_attempt_and_fences_the_old_one<S: Store>(store: S) {
    accept(&store, &["a"], 0).await;
    let first = claim_one(&store, "a", 10).await;
    let expiry = 10 + LEASE as i64;
    assert_eq!(claim_due(&store, expiry - 1).await, []);
    // It may be what brought the worker down: it is not for a batch.
    assert_eq!(claim_due(&store, expiry).await, []);
    let second = claim_quarantined(&store, expiry).await.unwrap();
    assert_eq!((second.attempt, second.started_at), (2, at(expiry)));
    assert_eq!(claim_quarantined(&store, expiry).await, None);
    let settlements = [
        Settlement::Complete,
        Settlement::Snooze { until: at(expiry) },
        Settlement::RetryLater { at: at(expiry), reason: "late".to_owned() },
        Settlement::Fail { reason: "late".to_owned() },
    ];
    for settlement in settlements {
        assert!(!settle(&store, &first, settlement, expiry + 1).await);
    }
    assert_eq!(status(&store, "a").await, Status::Processing);
    assert!(settle(&store, &second, Settlement::Complete, expiry + 2).await);
    assert_eq!(status(&store, "a").await, Status::Completed);
}

async fn a_retry_waits_for_its_time<S: Store>(store: S) {
    accept(&store, &["a"], 0).await;
    let first = claim_one(&store, "a", 10).await;
    assert!(settle(&store, &first, Settlement::RetryLater { at: at(700), reason: "down".to_owned() }, 20).await);
    let found = store.find(&NOBODY, "a").await.unwrap().unwrap();
    assert_eq!((found.status, found.attempts, found.failure.as_deref()), (Status::Pending, 1, Some("down")));
    // A message that is repeated does not cut the wait short.
    assert_eq!(claim(&store, &["a"], 30).await, []);
    assert_eq!(claim_due(&store, 699).await, []);
    let second = claim_due(&store, 700).await.remove(0);
    assert_eq!((second.attempt, second.started_at), (2, at(700)));
}

async fn what_is_due_longest_comes_first<S: Store>(store: S) {
    accept(&store, &["later"], 5).await;
    accept(&store, &["sooner"], 4).await;
    let now = at(50_000);
    let claims = store.claim_due(Due::Unannounced, now, now.plus_millis(LEASE), 1).await.unwrap();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].content.order_id.as_str(), "sooner");
}

async fn nothing_touches_a_final_order<S: Store>(store: S) {
    accept(&store, &["done", "dead"], 0).await;
    let done = claim_one(&store, "done", 1).await;
    let dead = claim_one(&store, "dead", 1).await;
    let settlements = [(&done, Settlement::Complete), (&dead, Settlement::Fail { reason: "no stock".to_owned() })];
    assert_eq!(store.settle(&settlements, at(2)).await.unwrap(), 2);
    let failed = store.find(&NOBODY, "dead").await.unwrap().unwrap();
    assert_eq!((failed.status, failed.failure.as_deref()), (Status::Failed, Some("no stock")));
    assert_eq!(failed.finished_at, Some(at(2)));
    assert!(!settle(&store, &done, Settlement::Fail { reason: String::new() }, 3).await);
    assert!(!settle(&store, &dead, Settlement::Complete, 3).await);
    assert_eq!(claim(&store, &["done", "dead"], 3).await, []);
    assert_eq!(claim_due(&store, i64::MAX / 2).await, []);
    assert_eq!(store.settle(&[], at(3)).await.unwrap(), 0);
}

async fn the_counters_follow_every_change<S: Store>(store: S) {
    assert_eq!(store.metrics(Scope::All).await.unwrap(), Metrics::default());
    accept(&store, &["a", "b", "c", "d", "e"], 100).await;
    let b = claim_one(&store, "b", 200).await;
    let c = claim_one(&store, "c", 200).await;
    let d = claim_one(&store, "d", 200).await;
    let e = claim_one(&store, "e", 200).await;
    assert!(settle(&store, &c, Settlement::Complete, 1_700).await);
    assert!(settle(&store, &d, Settlement::Fail { reason: String::new() }, 300).await);
    assert!(settle(&store, &e, Settlement::RetryLater { at: at(900), reason: String::new() }, 300).await);
    assert!(settle(&store, &b, Settlement::Snooze { until: at(900) }, 300).await);
    let metrics = store.metrics(Scope::All).await.unwrap();
    let expected = Metrics { total: 5, by_status: [2, 1, 1, 1, 0], processing_ms: 1_500, completion_ms: 1_600 };
    assert_eq!(metrics, expected);
    assert_eq!((metrics.average_processing_seconds(), metrics.average_completion_seconds()), (1.5, 1.6));
}

async fn a_quarantined_stays_alone_to_the_end_of_its_attempt<S: Store>(store: S) {
    accept(&store, &["a"], 0).await;
    claim_one(&store, "a", 10).await;
    let now = 10 + LEASE as i64;
    let second = claim_quarantined(&store, now).await.unwrap();
    assert!(settle(&store, &second, Settlement::Snooze { until: at(now + 5) }, now).await);
    assert_eq!(claim_due(&store, now + 5).await, []);
    assert_eq!(claim_quarantined(&store, now + 4).await, None);
    let resumed = claim_quarantined(&store, now + 5).await.unwrap();
    assert_eq!(resumed, second);
    assert!(settle(&store, &resumed, Settlement::RetryLater { at: at(now + 9), reason: String::new() }, now + 6).await);
    // The processor lived to tell: it is one among others again.
    assert_eq!(claim_quarantined(&store, now + 9).await, None);
    assert_eq!(claim_due(&store, now + 9).await.len(), 1);
}

async fn an_order_that_loses_its_last_lease_fails<S: Store>(store: S) {
    accept(&store, &["a", "b"], 0).await;
    claim_one(&store, "a", 10).await;
    let expiry = 10 + LEASE as i64;
    assert_eq!(store.fail_exhausted(at(expiry), 2).await.unwrap(), 0);
    claim_quarantined(&store, expiry).await.unwrap();
    assert_eq!(store.fail_exhausted(at(expiry + LEASE as i64 - 1), 2).await.unwrap(), 0);
    // There is no attempt left, whether it was failed already or not.
    let last_expiry = at(expiry + LEASE as i64);
    assert_eq!(store.claim_quarantined(last_expiry, last_expiry, 2, 2).await.unwrap(), None);
    assert_eq!(store.fail_exhausted(last_expiry, 2).await.unwrap(), 1);
    assert_eq!(status(&store, "a").await, Status::Failed);
    assert_eq!(status(&store, "b").await, Status::Pending);
    let attempts = store.attempts(&NOBODY, "a").await.unwrap().unwrap();
    assert_eq!(attempts.iter().map(|attempt| attempt.end).collect::<Vec<_>>(), [Some(AttemptEnd::LeaseLost); 2]);
}

/// Brings an order named `x` to `status`; answers its latest claim.
async fn bring_to<S: Store>(store: &S, status: Status) -> Option<Claim> {
    accept(store, &["x"], 0).await;
    if status == Status::Pending {
        return None;
    }
    if status == Status::Cancelled {
        assert!(matches!(store.cancel(&NOBODY, "x", at(1)).await.unwrap(), Change::Done(_)));
        return None;
    }
    let claim = claim_one(store, "x", 1).await;
    match status {
        Status::Completed => assert!(settle(store, &claim, Settlement::Complete, 2).await),
        Status::Failed => assert!(settle(store, &claim, Settlement::Fail { reason: "no".to_owned() }, 2).await),
        _ => {}
    }
    Some(claim)
}

async fn every_status_allows_what_the_state_machine_says<S: Store>(make: impl AsyncFn() -> S) {
    for from in Status::ALL {
        for action in Action::ALL {
            let store = make().await;
            let latest = bring_to(&store, from).await;
            let later = 50 + LEASE as i64;
            let settle_with = async |settlement| match &latest {
                Some(latest) => settle(&store, latest, settlement, 3).await,
                None => false,
            };
            let done = match action {
                Action::Start => {
                    !claim(&store, &["x"], 3).await.is_empty()
                        || !claim_due(&store, later).await.is_empty()
                        || claim_quarantined(&store, later).await.is_some()
                }
                Action::Snooze => settle_with(Settlement::Snooze { until: at(9) }).await,
                Action::Complete => settle_with(Settlement::Complete).await,
                Action::RetryLater => settle_with(Settlement::RetryLater { at: at(9), reason: String::new() }).await,
                Action::Fail => settle_with(Settlement::Fail { reason: String::new() }).await,
                Action::Cancel => matches!(store.cancel(&NOBODY, "x", at(3)).await.unwrap(), Change::Done(_)),
                Action::Retry => matches!(store.retry(&NOBODY, "x", at(3)).await.unwrap(), Change::Done(_)),
            };
            let expected = from.after(action);
            assert_eq!(done, expected.is_some(), "{from:?} {action:?}");
            assert_eq!(status(&store, "x").await, expected.unwrap_or(from), "{from:?} {action:?}");
        }
    }
    let store = make().await;
    assert_eq!(store.cancel(&NOBODY, "none", at(1)).await.unwrap(), Change::NotFound);
    assert_eq!(store.retry(&NOBODY, "none", at(1)).await.unwrap(), Change::NotFound);
    bring_to(&store, Status::Processing).await;
    assert_eq!(store.cancel(&NOBODY, "x", at(3)).await.unwrap(), Change::NotAllowed(Status::Processing));
}

async fn a_retried_order_has_all_its_attempts_again<S: Store>(store: S) {
    bring_to(&store, Status::Failed).await;
    let Change::Done(retried) = store.retry(&NOBODY, "x", at(5)).await.unwrap() else { panic!("it was failed") };
    assert_eq!((retried.status, retried.attempts, retried.finished_at), (Status::Pending, 1, None));
    let claims = claim_due(&store, 5).await;
    assert_eq!((claims[0].attempt, claims[0].tries), (2, 1));
    assert!(settle(&store, &claims[0], Settlement::Complete, 6).await);
    let completed = store.find(&NOBODY, "x").await.unwrap().unwrap();
    assert_eq!((completed.status, completed.failure), (Status::Completed, None));
}

async fn dead_letters_are_listed_and_retried_by_filter<S: Store>(store: S) {
    for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let user_id = Id::from_text(if name < "c" { "u" } else { "v" }).unwrap();
        accept_all(&store, &NOBODY, &[NewOrder { user_id, ..order(name) }], 0, 1).await;
        let claim = claim_one(&store, name, 1).await;
        assert!(settle(&store, &claim, Settlement::Fail { reason: name.to_owned() }, 100 + number as i64).await);
    }
    accept(&store, &["alive"], 0).await;
    let all = DeadLetterFilter::default();
    let names = |orders: &[crate::order::Order]| -> String {
        orders.iter().map(|order| order.content.order_id.as_str()).collect()
    };
    let first = store.list(&NOBODY, &all, None, 3).await.unwrap();
    assert_eq!(names(&first.entries), "abc");
    let rest = store.list(&NOBODY, &all, first.next, 3).await.unwrap();
    assert_eq!((names(&rest.entries), rest.next), ("d".to_owned(), None));
    let whole = store.list(&NOBODY, &all, None, 4).await.unwrap();
    assert_eq!((names(&whole.entries), whole.next), ("abcd".to_owned(), None));
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
        assert_eq!(names(&store.list(&NOBODY, &filter, None, 10).await.unwrap().entries), expected);
    }
    let of_u = DeadLetterFilter { user_id: Some("u".to_owned()), ..all.clone() };
    assert_eq!(store.retry_all(&NOBODY, &of_u, at(200), 1).await.unwrap(), 1);
    assert_eq!(status(&store, "a").await, Status::Pending);
    assert_eq!(store.retry_all(&NOBODY, &all, at(200), 10).await.unwrap(), 3);
    assert_eq!(store.retry_all(&NOBODY, &all, at(200), 10).await.unwrap(), 0);
    assert_eq!(store.metrics(Scope::All).await.unwrap().by_status, [5, 0, 0, 0, 0]);
}

async fn the_history_tells_what_happened<S: Store>(store: S) {
    accept(&store, &["a", "b"], 5).await;
    let first = claim_one(&store, "a", 10).await;
    assert!(settle(&store, &first, Settlement::Snooze { until: at(20) }, 11).await);
    let first = claim_due(&store, 20).await.remove(0);
    assert!(settle(&store, &first, Settlement::RetryLater { at: at(30), reason: "down".to_owned() }, 21).await);
    claim_due(&store, 30).await;
    let lost = 30 + LEASE as i64;
    let third = claim_quarantined(&store, lost).await.unwrap();
    assert!(settle(&store, &third, Settlement::Complete, lost + 1).await);

    let events = store.events(&NOBODY, "a").await.unwrap().unwrap();
    let told: Vec<_> = events.iter().map(|e| (e.at.as_millis(), e.status, e.attempt, e.reason.as_deref())).collect();
    assert_eq!(
        told,
        [
            (5, Status::Pending, 0, None),
            (10, Status::Processing, 1, None),
            (21, Status::Pending, 1, Some("down")),
            (30, Status::Processing, 2, None),
            (lost, Status::Processing, 3, Some(LEASE_LOST)),
            (lost + 1, Status::Completed, 3, None),
        ]
    );
    let attempt = |number, started_at, ended_at, end, reason: Option<&str>| Attempt {
        number,
        started_at: at(started_at),
        ended_at: Some(at(ended_at)),
        end: Some(end),
        reason: reason.map(str::to_owned),
    };
    assert_eq!(
        store.attempts(&NOBODY, "a").await.unwrap().unwrap(),
        [
            attempt(1, 10, 21, AttemptEnd::Failed, Some("down")),
            attempt(2, 30, lost, AttemptEnd::LeaseLost, Some(LEASE_LOST)),
            attempt(3, lost, lost + 1, AttemptEnd::Completed, None),
        ]
    );
    assert_eq!(store.attempts(&NOBODY, "b").await.unwrap(), Some(vec![]));
    assert_eq!(store.events(&NOBODY, "b").await.unwrap().unwrap().len(), 1);
    assert_eq!(
        (store.events(&NOBODY, "none").await.unwrap(), store.attempts(&NOBODY, "none").await.unwrap()),
        (None, None)
    );
}

fn request(key: &str) -> RequestKey {
    let principal = Principal { owner: NOBODY.clone(), caller: "me".to_owned() };
    RequestKey { principal, key: key.to_owned() }
}

fn record(body: &str) -> IdempotencyRecord {
    IdempotencyRecord {
        fingerprint: "f".to_owned(),
        status: 202,
        location: Some("/x".to_owned()),
        body: body.to_owned(),
    }
}

async fn a_transaction_is_all_or_nothing<S: Store>(store: S) {
    async fn accept_in(writes: &dyn super::transaction::Writes) {
        let order = order("a");
        let submission = Submission { owner: &NOBODY, order: &order };
        let accepted = writes.accept(&[submission], at(0), at(1)).await.unwrap();
        assert!(matches!(accepted[..], [Acceptance::Created(_)]), "{accepted:?}");
    }
    let transaction = store.begin().await.unwrap();
    accept_in(transaction.writes()).await;
    transaction.writes().keep(&[(request("k"), record("1"))], at(0)).await.unwrap();
    transaction.roll_back().await.unwrap();
    assert_eq!(store.find(&NOBODY, "a").await.unwrap(), None);
    assert_eq!(store.metrics(Scope::All).await.unwrap(), Metrics::default());
    assert_eq!(store.records(&[request("k")], at(0)).await.unwrap(), [None]);
    let transaction = store.begin().await.unwrap();
    accept_in(transaction.writes()).await;
    transaction.commit().await.unwrap();
    assert_eq!(status(&store, "a").await, Status::Pending);
    // It is over: another one can begin.
    store.begin().await.unwrap().roll_back().await.unwrap();
    assert_eq!(status(&store, "a").await, Status::Pending);
}

async fn a_record_is_kept_for_a_day<S: Store>(store: S) {
    let body = "{\"quote\": \"\\u00e9 \u{e9}\"}";
    let principal = Principal { owner: NOBODY.clone(), caller: "you".to_owned() };
    let other_caller = RequestKey { principal, ..request("k") };
    store.keep(&[(request("k"), record(body)), (request("l"), record(""))], at(100)).await.unwrap();
    let kept = store.records(&[request("l"), other_caller, request("k")], at(100)).await.unwrap();
    assert_eq!(kept, [Some(record("")), None, Some(record(body))]);
    assert_eq!(store.records(&[request("k")], at(101)).await.unwrap(), [None]);
    assert_eq!(store.keep(&[(request("k"), record("new"))], at(101)).await, Err(StoreError::Conflict));
    assert_eq!(store.records(&[request("k")], at(0)).await.unwrap(), [Some(record(body))]);
    let day = at(101).plus_millis(RECORDS_KEPT_MS);
    store.keep(&[(request("k"), record("new"))], day).await.unwrap();
    assert_eq!(store.records(&[request("k")], at(0)).await.unwrap(), [Some(record("new"))]);
    assert_eq!(store.prune(day, None).await.unwrap(), 1);
    assert_eq!(store.records(&[request("k"), request("l")], at(0)).await.unwrap(), [Some(record("new")), None]);
}

async fn pruning_takes_what_is_old_and_final<S: Store>(store: S) {
    let names: Vec<String> = (0..PRUNED_AT_ONCE + 1).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    accept(&store, &names, 0).await;
    accept(&store, &["open", "young"], 0).await;
    let claims = claim(&store, &names, 1).await;
    let settlements: Vec<_> = claims.iter().map(|claim| (claim, Settlement::Complete)).collect();
    store.settle(&settlements, at(2)).await.unwrap();
    let young = claim_one(&store, "young", 1).await;
    assert!(settle(&store, &young, Settlement::Complete, 3).await);
    assert_eq!(store.prune(at(9), None).await.unwrap(), 0);
    assert_eq!(store.prune(at(9), Some(at(3))).await.unwrap(), PRUNED_AT_ONCE as usize);
    assert_eq!(store.prune(at(9), Some(at(3))).await.unwrap(), 1);
    assert_eq!(store.prune(at(9), Some(at(3))).await.unwrap(), 0);
    let metrics = store.metrics(Scope::All).await.unwrap();
    assert_eq!((metrics.total, metrics.by_status), (2, [1, 0, 1, 0, 0]));
    assert_eq!(
        (store.events(&NOBODY, "n0").await.unwrap(), store.attempts(&NOBODY, "n0").await.unwrap()),
        (None, None)
    );
}

fn owner(name: &str) -> Owner {
    Owner::parse(name).unwrap()
}

async fn owners_do_not_meet<S: Store>(store: S) {
    let [one, two] = [owner("one"), owner("two")];
    for owner in [&NOBODY, &one, &two] {
        let accepted = accept_all(&store, owner, &[order("a")], 1, 2).await;
        assert!(matches!(&accepted[..], [Acceptance::Created(order)] if order.owner == *owner), "{accepted:?}");
        assert!(matches!(accept_all(&store, owner, &[order("a")], 1, 2).await[..], [Acceptance::Existing(_)]));
    }
    assert!(matches!(store.cancel(&one, "a", at(5)).await.unwrap(), Change::Done(order) if order.owner == one));
    assert_eq!(store.find(&two, "a").await.unwrap().unwrap().status, Status::Pending);
    assert_eq!(store.find(&owner("three"), "a").await.unwrap(), None);
    assert_eq!(store.events(&one, "a").await.unwrap().unwrap().len(), 2);
    assert_eq!(store.events(&two, "a").await.unwrap().unwrap().len(), 1);

    let claims = claim_due(&store, 10).await;
    assert_eq!(claims.len(), 2);
    for claim in &claims {
        assert!(settle(&store, claim, Settlement::Fail { reason: "no".to_owned() }, 11).await);
    }
    let failed = store.list(&two, &DeadLetterFilter::default(), None, 10).await.unwrap().entries;
    assert_eq!(failed.iter().map(|order| &order.owner).collect::<Vec<_>>(), [&two]);
    assert_eq!(store.retry_all(&two, &DeadLetterFilter::default(), at(12), 10).await.unwrap(), 1);
    assert_eq!(status(&store, "a").await, Status::Failed);

    let nobodys = owner("three");
    let counts = async |scope| {
        let metrics = store.metrics(scope).await.unwrap();
        (metrics.total, metrics.by_status)
    };
    assert_eq!(counts(Scope::All).await, (3, [1, 0, 0, 1, 1]));
    assert_eq!(counts(Scope::Owner(&NOBODY)).await, (1, [0, 0, 0, 1, 0]));
    assert_eq!(counts(Scope::Owner(&one)).await, (1, [0, 0, 0, 0, 1]));
    assert_eq!(counts(Scope::Owner(&two)).await, (1, [1, 0, 0, 0, 0]));
    assert_eq!(counts(Scope::Owner(&nobodys)).await, (0, [0; 5]));

    let key = |owner: &Owner| RequestKey {
        principal: Principal { owner: owner.clone(), caller: String::new() },
        key: "k".to_owned(),
    };
    store.keep(&[(key(&one), record("1"))], at(1)).await.unwrap();
    assert_eq!(store.records(&[key(&two), key(&one)], at(1)).await.unwrap(), [None, Some(record("1"))]);
    assert_eq!(store.prune(at(100), Some(at(100))).await.unwrap(), 2);
    assert_eq!(counts(Scope::All).await, (1, [1, 0, 0, 0, 0]));
    assert_eq!(counts(Scope::Owner(&one)).await, (0, [0; 5]));
}

/// The numbers of everything that happened to these orders, in the order of their events.
async fn numbers<S: Store>(store: &S, names: &[&str]) -> Vec<i64> {
    let mut numbers = Vec::new();
    for name in names {
        let events = store.events(&NOBODY, name).await.unwrap().unwrap();
        assert!(events.is_sorted_by(|a, b| a.number < b.number), "{events:?}");
        assert_eq!(events[0].number, store.find(&NOBODY, name).await.unwrap().unwrap().number);
        numbers.extend(events.iter().map(|event| event.number.0));
    }
    numbers
}

async fn changes_are_numbered_in_the_order_of_their_commits<S: Store>(store: S) {
    accept(&store, &["a", "b"], 0).await;
    let mut last = 0;
    let mut expect_more = async |names: &[&str], count: usize| {
        let mut all = numbers(&store, names).await;
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "no two changes have one number: {all:?}");
        assert!(all[count - 1] > last, "what is committed later has a higher number");
        last = all[count - 1];
    };
    expect_more(&["a", "b"], 2).await;
    let claims = claim(&store, &["a", "b"], 1).await;
    expect_more(&["a", "b"], 4).await;
    accept(&store, &["c"], 2).await;
    expect_more(&["a", "b", "c"], 5).await;
    assert!(settle(&store, &claims[0], Settlement::Complete, 3).await);
    assert!(matches!(store.cancel(&NOBODY, "c", at(4)).await.unwrap(), Change::Done(_)));
    expect_more(&["a", "b", "c"], 7).await;
}

async fn a_number_is_never_used_again<S: Store>(store: S) {
    accept(&store, &["a"], 0).await;
    assert!(matches!(store.cancel(&NOBODY, "a", at(1)).await.unwrap(), Change::Done(_)));
    let last = numbers(&store, &["a"]).await[1];
    assert_eq!(store.prune(at(100), Some(at(100))).await.unwrap(), 1);
    accept(&store, &["a"], 200).await;
    assert!(numbers(&store, &["a"]).await[0] > last);
}

async fn what_is_known_is_recalled_without_accepting<S: Store>(store: S) {
    accept(&store, &["a"], 0).await;
    let other = NewOrder { total_amount: Amount::from_minor(1).unwrap(), ..order("a") };
    let orders = [order("b"), order("a"), other];
    let submissions: Vec<_> = orders.iter().map(|order| Submission { owner: &NOBODY, order }).collect();
    let known = store.find(&NOBODY, "a").await.unwrap().unwrap();
    let expected = [None, Some(Acceptance::Existing(known)), Some(Acceptance::Conflict)];
    assert_eq!(store.recall(&submissions).await.unwrap(), expected);
    assert_eq!(store.metrics(Scope::All).await.unwrap().total, 1);
}

async fn what_was_started_is_told_from_what_was_not<S: Store>(store: S) {
    accept(&store, &["new", "snoozed", "retried"], 0).await;
    let snoozed = claim_one(&store, "snoozed", 1).await;
    let retried = claim_one(&store, "retried", 1).await;
    assert!(settle(&store, &snoozed, Settlement::Snooze { until: at(5) }, 2).await);
    assert!(settle(&store, &retried, Settlement::RetryLater { at: at(6), reason: String::new() }, 2).await);
    let now = at(50_000);
    let taken = async |due| {
        let claims = store.claim_due(due, now, now.plus_millis(LEASE), 10).await.unwrap();
        let mut names: Vec<String> = claims.iter().map(|c| c.content.order_id.as_str().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(taken(Due::Started).await, ["retried", "snoozed"]);
    assert_eq!(taken(Due::Unannounced).await, ["new"]);
}

async fn few_quarantined_orders_are_taken_at_once<S: Store>(store: S) {
    accept(&store, &["a", "b", "c"], 0).await;
    claim(&store, &["a", "b", "c"], 1).await;
    let now = 1 + LEASE as i64;
    let first = claim_quarantined(&store, now).await.unwrap();
    claim_quarantined(&store, now).await.unwrap();
    assert_eq!(claim_quarantined(&store, now).await, None);
    assert!(settle(&store, &first, Settlement::Complete, now + 1).await);
    assert!(claim_quarantined(&store, now + 1).await.is_some());
    assert_eq!(claim_quarantined(&store, now + 1).await, None);
    // Those that lose their leases again make room.
    assert!(claim_quarantined(&store, now + LEASE as i64 + 1).await.is_some());
}

async fn pages_of_each_shape_of_filter_hold_all_once<S: Store>(store: S) {
    let names: Vec<String> = (0..12).map(|number| format!("n{number:02}")).collect();
    for (number, name) in names.iter().enumerate() {
        let user_id = Id::from_text(["u", "v"][number % 2]).unwrap();
        accept_all(&store, &NOBODY, &[NewOrder { user_id, ..order(name) }], 0, 1).await;
        let claim = claim_one(&store, name, 1).await;
        // Several fail at one moment.
        assert!(settle(&store, &claim, Settlement::Fail { reason: String::new() }, 100 + number as i64 / 4).await);
    }
    let from = DeadLetterFilter { failed_from: Some(at(101)), ..DeadLetterFilter::default() };
    let ids = |names: &[String]| Some(names.iter().rev().cloned().collect());
    for (filter, expected) in [
        (DeadLetterFilter::default(), names.clone()),
        (from.clone(), names[4..].to_vec()),
        (DeadLetterFilter { failed_before: Some(at(102)), ..from.clone() }, names[4..8].to_vec()),
        (
            DeadLetterFilter { user_id: Some("v".to_owned()), ..from.clone() },
            names[4..].iter().skip(1).step_by(2).cloned().collect(),
        ),
        (DeadLetterFilter { order_ids: ids(&names[2..9]), ..from.clone() }, names[4..9].to_vec()),
        (
            DeadLetterFilter { order_ids: ids(&names[2..9]), user_id: Some("u".to_owned()), ..from },
            names[4..9].iter().step_by(2).cloned().collect(),
        ),
    ] {
        for limit in [1, 3, 100] {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = store.list(&NOBODY, &filter, after, limit).await.unwrap();
                assert!(page.entries.len() <= limit as usize);
                listed.extend(page.entries.iter().map(|order| order.content.order_id.as_str().to_owned()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(listed, expected, "{filter:?} {limit}");
        }
    }
    let of_v = DeadLetterFilter { order_ids: ids(&names[..3]), user_id: Some("v".to_owned()), ..Default::default() };
    assert_eq!(store.retry_all(&NOBODY, &of_v, at(200), 10).await.unwrap(), 1);
    assert_eq!(status(&store, "n01").await, Status::Pending);
}

async fn the_size_of_batches_is_remembered<S: Store>(store: S) {
    assert_eq!(store.batch_size().await.unwrap(), None);
    for size in [1, 1_000, 7] {
        store.keep_batch_size(size).await.unwrap();
        assert_eq!(store.batch_size().await.unwrap(), Some(size));
    }
}

async fn large_orders_come_back_whole<S: Store>(store: S) {
    let item_ids: Items = (0..Items::MAX).map(|_| Id::from_text("\\".repeat(60)).unwrap()).collect();
    let large = |name| NewOrder { item_ids: item_ids.clone(), ..order(name) };
    let orders = [order("small"), large("a"), order("between"), large("b")];
    let accepted = accept_all(&store, &NOBODY, &orders, 0, 1).await;
    for (sent, acceptance) in orders.iter().zip(accepted) {
        let Acceptance::Created(created) = acceptance else { panic!("{acceptance:?}") };
        let found: Order = store.find(&NOBODY, sent.order_id.as_str()).await.unwrap().unwrap();
        assert_eq!((&found, &found.content), (&created, sent));
    }
}

async fn what_one_store_does_the_other_one_sees<S: Store>([one, other]: [S; 2]) {
    accept(&one, &["a"], 0).await;
    assert_eq!(status(&other, "a").await, Status::Pending);
    let again = accept_all(&other, &NOBODY, &[order("a")], 1, 2).await;
    assert!(matches!(again[..], [Acceptance::Existing(_)]), "{again:?}");
    assert!(matches!(other.cancel(&NOBODY, "a", at(2)).await.unwrap(), Change::Done(_)));
    assert_eq!(one.cancel(&NOBODY, "a", at(3)).await.unwrap(), Change::NotAllowed(Status::Cancelled));
    one.keep(&[(request("k"), record("1"))], at(0)).await.unwrap();
    assert_eq!(other.records(&[request("k")], at(0)).await.unwrap(), [Some(record("1"))]);
    assert_eq!(one.metrics(Scope::All).await.unwrap(), other.metrics(Scope::All).await.unwrap());
    other.keep_batch_size(7).await.unwrap();
    assert_eq!(one.batch_size().await.unwrap(), Some(7));
}

async fn two_stores_share_the_orders_between_them<S: Store>([one, other]: [S; 2]) {
    accept(&one, &["a", "b"], 0).await;
    let claims = claim(&one, &["a"], 1).await;
    let rest = claim(&other, &["a", "b"], 1).await;
    assert_eq!((claims.len(), rest.len()), (1, 1));
    assert_ne!(claims[0].order, rest[0].order);
    // Whoever has the latest attempt settles, whichever store started it.
    let lease_over = 1 + LEASE as i64;
    let second = claim_quarantined(&other, lease_over).await.expect("a lease ran out");
    let first = if second.order == claims[0].order { &claims[0] } else { &rest[0] };
    assert!(!settle(&one, first, Settlement::Complete, lease_over).await);
    assert!(settle(&one, &second, Settlement::Complete, lease_over).await);
    assert!(!settle(&other, &second, Settlement::Complete, lease_over).await);
    // However they take turns, each order that is due goes to one of them.
    let names: Vec<String> = (0..10).map(|number| format!("n{number}")).collect();
    accept(&one, &names.iter().map(String::as_str).collect::<Vec<_>>(), 100_000).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        for store in [&one, &other] {
            let now = at(100_000).plus_millis(DUE);
            taken.extend(store.claim_due(Due::Unannounced, now, now.plus_millis(LEASE), 2).await.unwrap());
        }
    }
    let mut numbers: Vec<i64> = taken.iter().map(|claim| claim.order.0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((taken.len(), numbers.len()), (10, 10));
}

async fn changes_of_two_stores_have_one_numbering<S: Store>([one, other]: [S; 2]) {
    let mut last = 0;
    for round in 0..3 {
        for (store, name) in [(&one, format!("one{round}")), (&other, format!("other{round}"))] {
            accept(store, &[&name], round).await;
            assert!(matches!(store.cancel(&NOBODY, &name, at(round)).await.unwrap(), Change::Done(_)));
            let [created, cancelled] = numbers(&one, &[&name]).await[..] else { panic!("two changes") };
            assert!(last < created && created < cancelled, "{last} {created} {cancelled}");
            last = cancelled;
        }
    }
}

async fn nobody_sees_a_transaction_before_its_end<S: Store>([one, other]: [S; 2]) {
    for is_committed in [false, true] {
        let transaction = one.begin().await.unwrap();
        let order = order("a");
        let submission = Submission { owner: &NOBODY, order: &order };
        transaction.writes().accept(&[submission], at(0), at(1)).await.unwrap();
        transaction.writes().keep(&[(request("k"), record("1"))], at(0)).await.unwrap();
        assert_eq!(other.find(&NOBODY, "a").await.unwrap(), None);
        assert_eq!(other.records(&[request("k")], at(0)).await.unwrap(), [None]);
        assert_eq!(other.metrics(Scope::All).await.unwrap(), Metrics::default());
        match is_committed {
            true => transaction.commit().await.unwrap(),
            false => transaction.roll_back().await.unwrap(),
        }
        assert_eq!(other.find(&NOBODY, "a").await.unwrap().is_some(), is_committed);
    }
}

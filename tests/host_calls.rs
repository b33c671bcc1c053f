//! What a request and a tick ask of the host, counted exactly: the costs that no faster machine takes away. A
//! change that asks for more shows here, and is either worth it or a mistake.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use host::hook::{CallHook, CallKind, Fate, HostCall};
use host::{App, Clock, DrivenApp, Options, TestClock};
use serde_json::json;
use tokio::task::LocalSet;

const INSERT: &str = "INSERT INTO orders";
const METRICS: &str = "SELECT total, pending,";

/// Counts calls by what they are: a statement by its first words, and one that writes is a commit.
#[derive(Default)]
struct Counter(Mutex<BTreeMap<String, usize>>);

impl CallHook for Counter {
    fn fate(&self, call: HostCall<'_>) -> Fate {
        let what = match call.kind {
            CallKind::SqliteExecute => call.subject.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            kind => format!("{kind:?}"),
        };
        *self.0.lock().unwrap().entry(what).or_default() += 1;
        // As long as a disk takes, so that requests that come together meet.
        match call.kind == CallKind::SqliteOpen || call.subject.starts_with(INSERT) {
            true => Fate::Delay(Duration::from_millis(1), Box::default()),
            false => Fate::Proceed,
        }
    }
}

struct System {
    app: DrivenApp,
    counter: Arc<Counter>,
    _state: tempfile::TempDir,
}

impl System {
    /// A system that has answered nothing yet. Its one instance takes so many requests at once.
    async fn new(at_once: usize) -> Rc<Self> {
        system::build();
        let state = tempfile::tempdir().unwrap();
        let counter = Arc::new(Counter::default());
        let mut options = Options::new(state.path());
        options.variables = [("processing_time_ms".to_owned(), "0".to_owned())].into();
        options.clock = Clock::Test(TestClock::starting_at(Duration::from_secs(1_800_000_000)));
        options.hook = Some(counter.clone());
        options.single_threaded = true;
        options.reuse.accepting_instances = 1;
        options.reuse.max_instance_concurrent_reuse_count = at_once;
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin.toml");
        let app = App::load(&manifest, options).unwrap().driven().unwrap();
        Rc::new(Self { app, counter, _state: state })
    }

    /// A system that has answered every kind of request before, so that nothing is opened any more.
    async fn warm(at_once: usize) -> Rc<Self> {
        let system = Self::new(at_once).await;
        system.create("first", None).await;
        system.get("/v1/orders/first").await;
        system.calls();
        system
    }

    async fn send(&self, request: http::request::Builder, body: String) -> u16 {
        let request = request.header("host", "test").body(Bytes::from(body)).unwrap();
        self.app.request(request).await.unwrap().status().as_u16()
    }

    async fn create(&self, order_id: &str, key: Option<&str>) {
        let body = json!({ "order_id": order_id, "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
        let mut request = http::Request::post("/v1/orders").header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        assert_eq!(self.send(request, body.to_string()).await, 202);
    }

    async fn get(&self, path: &str) {
        assert_eq!(self.send(http::Request::get(path), String::new()).await, 200);
    }

    async fn create_together(self: &Rc<Self>, orders: usize) {
        let together = LocalSet::new();
        for number in 0..orders {
            let system = self.clone();
            together.spawn_local(async move { system.create(&format!("together-{number}"), None).await });
        }
        together.await;
    }

    /// The calls since this was last asked.
    fn calls(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut *self.counter.0.lock().unwrap()).into_iter().collect()
    }

    fn assert_calls(&self, expected: &[(&str, usize)]) {
        let expected: Vec<_> = expected.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
        assert_eq!(self.calls(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_one_statement() {
    let system = System::warm(100).await;
    system.create("x", None).await;
    system.assert_calls(&[(INSERT, 1), ("KeyValueSet", 1)]);
    system.get("/v1/orders/x").await;
    system.assert_calls(&[("SELECT seq, owner,", 1)]);
    system.get("/orders/x/status").await;
    system.assert_calls(&[("SELECT seq, owner,", 1)]);
    system.get("/v1/metrics").await;
    system.assert_calls(&[(METRICS, 1)]);
    // The same order again: what was inserted tells nothing, so it is looked at.
    system.create("x", None).await;
    system.assert_calls(&[(INSERT, 1), ("SELECT seq, owner,", 1)]);
    // A key and what is done under it are one transaction.
    system.create("y", Some("k")).await;
    system.assert_calls(&[
        ("BEGIN IMMEDIATE", 1),
        ("COMMIT", 1),
        ("INSERT INTO idempotency_keys", 1),
        (INSERT, 1),
        ("KeyValueSet", 1),
        ("SELECT owner, caller,", 1),
    ]);
}

#[tokio::test(start_paused = true)]
async fn requests_that_meet_share_a_commit_and_a_message() {
    let system = System::warm(100).await;
    system.create_together(64).await;
    // The first one finds nobody to wait for.
    system.assert_calls(&[(INSERT, 2), ("KeyValueSet", 2)]);
}

#[tokio::test(start_paused = true)]
async fn requests_that_meet_in_a_new_instance_share_its_connections() {
    let system = System::new(100).await;
    let together = LocalSet::new();
    for _ in 0..64 {
        let system = system.clone();
        together.spawn_local(async move { system.get("/v1/metrics").await });
    }
    together.await;
    let calls: BTreeMap<String, usize> = system.calls().into_iter().collect();
    assert_eq!(calls[METRICS], 64, "{calls:?}");
    // One for lookups, and before it the one for lists, which migrates.
    assert_eq!(calls["SqliteOpen"], 2, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_full_leaves_its_place_to_another() {
    let system = System::warm(16).await;
    system.create_together(64).await;
    // Four instances had 16 each, the first of them the one that was there, and made two commits of them.
    let calls: BTreeMap<String, usize> = system.calls().into_iter().collect();
    assert_eq!(calls["SqliteOpen"], 3, "{calls:?}");
    assert_eq!(calls[INSERT], 8, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_orders_costs_the_worker_what_one_does() {
    let system = System::warm(100).await;
    // Batches grow up to their full size.
    for number in 0..1_600 {
        system.create(&format!("grow-{number}"), None).await;
    }
    for _ in 0..2 {
        system.app.tick().await;
    }
    system.calls();
    // How often it looks for work within a second, and what it does once in each tick.
    let tick = |passes: usize, updates: usize, messages: usize| {
        let mut calls = vec![
            ("DELETE FROM idempotency_keys", 1),
            ("KeyValueKeys", passes),
            ("PRAGMA busy_timeout =", 1),
            ("PRAGMA synchronous =", 1),
            // What was started before, and what nothing announced.
            ("SELECT 1 FROM", 2 * passes),
            ("SELECT batch_size FROM", 1),
            ("SELECT max(version) FROM", 1),
            ("SELECT seq FROM", 1),
            ("SqliteOpen", 1),
            ("UPDATE orders SET", updates),
            ("Variable", 4 + usize::from(messages > 0)),
        ];
        if messages > 0 {
            calls.splice(1..1, [("KeyValueDelete", 1), ("KeyValueGet", messages)]);
        }
        calls
    };
    // Of the updates one fails what has no attempts left.
    system.app.tick().await;
    system.assert_calls(&tick(40, 1, 0));
    for (orders, messages) in [(1, 1), (100, 100)] {
        for number in 0..orders {
            system.create(&format!("{orders}-{number}"), None).await;
        }
        system.calls();
        // One update claims them all, one completes them all. (A pass that finds work makes no pause after it.)
        system.app.tick().await;
        system.assert_calls(&tick(41, 3, messages));
    }
}

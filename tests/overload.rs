//! More orders than the worker gets through, for as long as it takes to show: the real components, with a clock that the
//! test drives and a database that takes its time.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use host::hook::{CallHook, CallKind, Fate, HostCall};
use host::{App, Clock, DrivenApp, Options, TestClock};
use rusqlite::Connection;
use serde_json::json;
use tokio::task::LocalSet;

const START: Duration = Duration::from_secs(1_800_000_000);
/// How long the processor takes for an order: it is asked twice, so each order is snoozed once.
const PROCESSING_MS: i64 = 500;
const SECONDS: usize = 12;
/// Twice what the worker gets through.
const ORDERS_A_SECOND: usize = 300;

/// Lets each statement take five milliseconds.
struct SlowDatabase;

impl CallHook for SlowDatabase {
    fn fate(&self, call: HostCall<'_>) -> Fate {
        match call.kind {
            CallKind::SqliteExecute => Fate::Delay(Duration::from_millis(5), Box::default()),
            _ => Fate::Proceed,
        }
    }
}

async fn create(app: &DrivenApp, order_id: String) {
    let body = json!({ "order_id": order_id, "user_id": "u", "item_ids": ["i"], "total_amount": 1 }).to_string();
    let request = http::Request::post("/v1/orders").header("host", "test").header("content-type", "application/json");
    let answer = app.request(request.body(Bytes::from(body)).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 202);
}

#[tokio::test(start_paused = true)]
async fn what_was_started_goes_on_while_more_comes_in_than_can_be_done() {
    system::build();
    let state = tempfile::tempdir().unwrap();
    let clock = TestClock::starting_at(START);
    let mut options = Options::new(state.path());
    options.variables = [("processing_time_ms", PROCESSING_MS.to_string()), ("max_batch", "8".to_owned())]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
    options.clock = Clock::Test(clock.clone());
    options.hook = Some(Arc::new(SlowDatabase));
    options.single_threaded = true;
    let database = options.database();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin.toml");
    let app = Rc::new(App::load(&manifest, options).unwrap().driven().unwrap());

    let local = LocalSet::new();
    local
        .run_until(async {
            for second in 0..SECONDS {
                let ticking = app.clone();
                tokio::task::spawn_local(async move { ticking.tick().await });
                let pause = Duration::from_secs(1) / ORDERS_A_SECOND as u32;
                for number in 0..ORDERS_A_SECOND {
                    let app = app.clone();
                    tokio::task::spawn_local(async move { create(&app, format!("{second}-{number}")).await });
                    tokio::time::sleep(pause).await;
                }
            }
        })
        .await;

    let db = Connection::open(database).unwrap();
    let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let now = Clock::Test(clock).wall().as_millis() as i64;
    let counts: BTreeMap<&str, i64> = ["Pending", "Processing", "Completed"]
        .map(|status| (status, one(&format!("SELECT count(*) FROM orders WHERE status = '{status}'"))))
        .into();
    assert!(counts["Pending"] > 500, "there is more than can be done: {counts:?}");
    assert!(counts["Completed"] > 500, "the worker is at it: {counts:?}");

    // Nothing that was started waits long past its time, and nothing did.
    let overdue = one(&format!("SELECT coalesce(max({now} - due_at), 0) FROM orders WHERE lane = 1"));
    assert!(overdue < 1_000, "a started order has been due for {overdue} ms");
    let slowest = one("SELECT max(finished_at - started_at) FROM orders WHERE status = 'Completed'");
    assert!(slowest < PROCESSING_MS + 1_000, "a started order took {slowest} ms");
    // While those that were not started wait for their turn.
    let waiting = one(&format!("SELECT max({now} - created_at) FROM orders WHERE status = 'Pending'"));
    assert!(waiting > 3_000, "the oldest order that was not started has waited for {waiting} ms");
}

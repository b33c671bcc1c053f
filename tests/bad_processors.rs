//! Processors that never return, or bring their worker down: other orders complete meanwhile, the bad ones end
//! `Failed`, HTTP stays answered, and Ctrl+C works.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use host::{App, Clock, DrivenApp, Options, TestClock};
use serde_json::{Value, json};
use system::{Setup, System};
use tokio::net::TcpListener;

/// How many bad orders there are among the good ones where there are many.
const BAD_ORDERS: usize = 100;
const GOOD_ORDERS: usize = 50;
const MAX_ATTEMPTS: usize = 2;

fn order(order_id: &str, item: &str) -> Value {
    json!({ "order_id": order_id, "user_id": "u", "item_ids": [item], "total_amount": "1.00" })
}

async fn start(trigger_timeout: &str) -> System {
    let max_attempts = MAX_ATTEMPTS.to_string();
    System::start_as(Setup {
        variables: &[("lease_ms", "1000"), ("max_attempts", &max_attempts)],
        test_processor: true,
        host_flags: &["--trigger-timeout", trigger_timeout],
        ..Setup::default()
    })
    .await
}

/// Asks for the metrics again and again until it is told to stop; returns how often they came.
async fn watch(system: &System, stop: &AtomicBool) -> usize {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(system.get("/v1/metrics").await.status, 200);
        answered += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answered
}

/// Waits until all orders are final, however long they take as long as they get on.
async fn settled(system: &System) -> Value {
    let (mut left, mut patience) = (u64::MAX, 3_000);
    loop {
        let metrics = system.get("/v1/metrics").await.json();
        let counts = &metrics["orders_by_status"];
        let now_left = counts["Pending"].as_u64().unwrap() + counts["Processing"].as_u64().unwrap();
        if now_left == 0 {
            return metrics;
        }
        patience = if now_left < left { 3_000 } else { patience - 1 };
        left = now_left.min(left);
        assert!(patience > 0, "nothing changes any more: {metrics}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every order has been started.
async fn until_none_is_new(system: &System) {
    for _ in 0..3_000 {
        let metrics = system.get("/v1/metrics").await.json();
        if metrics["orders_by_status"]["Pending"] == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("orders are not started within a minute");
}

async fn bad_orders_harm_nobody_else(bad: usize, item: &str) {
    let system = start("2").await;
    for number in 0..GOOD_ORDERS.max(bad) {
        if number < bad {
            assert_eq!(system.post("/v1/orders", &order(&format!("bad-{number}"), item)).await.status, 202);
        }
        if number < GOOD_ORDERS {
            assert_eq!(system.post("/v1/orders", &order(&format!("good-{number}"), "book")).await.status, 202);
        }
    }
    let stop = AtomicBool::new(false);
    let work = async {
        // One that comes while they hang, and shares no call with any of them, is not held up by them.
        until_none_is_new(&system).await;
        assert_eq!(system.post("/v1/orders", &order("late", "book")).await.status, 202);
        system.completed("late").await;
        let metrics = settled(&system).await;
        stop.store(true, Ordering::Relaxed);
        metrics
    };
    let (metrics, answered) = tokio::join!(work, watch(&system, &stop));
    assert!(answered > 0);
    assert_eq!(metrics["orders_by_status"]["Failed"], bad, "{metrics}");
    assert_eq!(metrics["orders_by_status"]["Completed"], GOOD_ORDERS + 1, "{metrics}");
    for number in 0..bad {
        let order = system.get(&format!("/v1/orders/bad-{number}")).await.json();
        assert_eq!((&order["status"], &order["attempts"]), (&json!("Failed"), &json!(MAX_ATTEMPTS)), "{order}");
    }
}

/// A server that accepts connections, which it counts, and never answers.
async fn silent_server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            open.push(stream);
        }
    });
    (port, accepted)
}

#[tokio::test]
async fn a_processor_that_computes_for_ever_harms_no_other_order() {
    if !system::on_spin() {
        bad_orders_harm_nobody_else(1, "loop").await;
        bad_orders_harm_nobody_else(BAD_ORDERS, "loop").await;
    }
}

#[tokio::test]
async fn a_processor_that_sleeps_for_ever_harms_no_other_order() {
    if !system::on_spin() {
        bad_orders_harm_nobody_else(1, "sleep").await;
        bad_orders_harm_nobody_else(BAD_ORDERS, "sleep").await;
    }
}

#[tokio::test]
async fn a_processor_that_waits_for_a_silent_server_harms_no_other_order() {
    if !system::on_spin() {
        let (port, accepted) = silent_server().await;
        bad_orders_harm_nobody_else(1, &format!("connect:{port}")).await;
        bad_orders_harm_nobody_else(BAD_ORDERS, &format!("connect:{port}")).await;
        assert!(accepted.load(Ordering::Relaxed) >= BAD_ORDERS, "its requests arrive");
    }
}

#[tokio::test]
async fn a_processor_that_traps_harms_no_other_order() {
    bad_orders_harm_nobody_else(1, "trap").await;
    bad_orders_harm_nobody_else(BAD_ORDERS, "trap").await;
}

#[tokio::test]
async fn the_processor_for_tests_completes_fails_and_takes_its_time() {
    let system = start("60").await;
    for (order_id, item) in [("completes", "book"), ("fails", "fail"), ("takes-time", "slow:100")] {
        assert_eq!(system.post("/v1/orders", &order(order_id, item)).await.status, 202);
    }
    system.completed("completes").await;
    system.completed("takes-time").await;
    settled(&system).await;
    let failed = system.get("/v1/orders/fails").await.json();
    assert_eq!((&failed["status"], &failed["failure"]), (&json!("Failed"), &json!("the order asks for it")));
}

async fn until_processing(system: &System, order_id: &str) {
    for _ in 0..3_000 {
        if system.get(&format!("/v1/orders/{order_id}")).await.json()["status"] == "Processing" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{order_id} is not taken up");
}

#[tokio::test]
async fn ctrl_c_stops_the_host_though_calls_compute_for_ever() {
    if system::on_spin() {
        return;
    }
    for interrupts in 1..=2 {
        let mut system = start("3600").await;
        for number in 0..4 {
            let order_id = format!("loop-{number}");
            assert_eq!(system.post("/v1/orders", &order(&order_id, "loop")).await.status, 202);
            until_processing(&system, &order_id).await;
        }
        for _ in 0..interrupts {
            system.interrupt();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // The first time calls get their grace; the second is at once, and not a success.
        assert_eq!(system.ended().await, interrupts == 1);
    }
}

/// The application as the simulator drives it: one thread, and time that stands still while anything runs.
async fn driven(state: &Path, trigger_timeout: Duration) -> DrivenApp {
    let mut options = Options::new(state);
    options.variables = [("lease_ms", "1000"), ("max_attempts", "2")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    options.clock = Clock::Test(TestClock::starting_at(Duration::from_secs(1_800_000_000)));
    options.single_threaded = true;
    options.trigger_timeout = trigger_timeout;
    App::load(system::manifest_with_test_processor(), options).unwrap().driven().unwrap()
}

async fn ask(app: &DrivenApp, request: http::request::Builder, body: &str) -> Value {
    let request = request.header("host", "test").header("content-type", "application/json");
    let response = app.request(request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()).await.unwrap();
    serde_json::from_slice(response.body()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_when_paused_time_says_so() {
    let state = tempfile::tempdir().unwrap();
    let timeout = Duration::from_secs(2);
    let app = driven(state.path(), timeout).await;
    for item in ["sleep", "loop"] {
        let placed = ask(&app, http::Request::post("/v1/orders"), &order(item, item).to_string()).await;
        assert_eq!(placed["status"], "Pending", "{placed}");
        for attempt in 1..=2 {
            let begin = tokio::time::Instant::now();
            app.tick().await;
            assert_eq!(begin.elapsed().as_secs(), timeout.as_secs(), "{item}");
            let order = ask(&app, http::Request::get(format!("/v1/orders/{item}")), "").await;
            assert_eq!((&order["status"], &order["attempts"]), (&json!("Processing"), &json!(attempt)), "{order}");
        }
        app.tick().await;
        let order = ask(&app, http::Request::get(format!("/v1/orders/{item}")), "").await;
        assert_eq!(order["status"], "Failed", "{order}");
    }
}

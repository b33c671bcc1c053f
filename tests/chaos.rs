//! Chaos on real processes: many clients, and `kill -9` again and again. Every client writes what it did and what
//! it was told, one line per operation; in the end a checker compares the lines with what the system says.
//!
//! `ORDERS_KILLS=50 cargo test -p tests --test chaos` is the longer mode.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use system::System;
use tokio::task::JoinSet;

const CLIENTS: usize = 16;

/// How often the system is killed.
fn kills() -> usize {
    std::env::var("ORDERS_KILLS").map_or(5, |kills| kills.parse().expect("ORDERS_KILLS is a number"))
}

/// Where the clients write: `operation order_id status`, the status 0 when no answer came.
#[derive(Clone)]
struct History(Arc<Mutex<std::fs::File>>);

impl History {
    fn create(path: &Path) -> Self {
        Self(Arc::new(Mutex::new(std::fs::File::create(path).unwrap())))
    }

    fn write(&self, operation: &str, order_id: &str, status: u16) {
        writeln!(self.0.lock().unwrap(), "{operation} {order_id} {status}").unwrap();
    }
}

fn order(order_id: &str) -> Value {
    let number: u64 = order_id.split('-').fold(0, |number, part| number * 1_000 + part.parse::<u64>().unwrap());
    json!({ "order_id": order_id, "user_id": order_id, "item_ids": [order_id, 1], "total_amount": number % 1_000_000 })
}

/// Sends orders, sends some again, reads and cancels some, until the system is gone.
async fn client(system: Arc<System>, history: History, name: String, next: Arc<AtomicUsize>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let order_id = format!("{name}-{number}");
        let body = serde_json::to_vec(&order(&order_id)).unwrap();
        let headers = [("content-type", "application/json"), ("idempotency-key", order_id.as_str())];
        // Every third one has a key as well.
        let headers = if number.is_multiple_of(3) { &headers[..] } else { &headers[..1] };
        for _ in 0..1 + number % 2 {
            let reply = system.try_send(Method::POST, "/v1/orders", headers, Some(body.clone())).await;
            history.write("create", &order_id, reply.as_ref().map_or(0, |reply| reply.status.as_u16()));
            if reply.is_none() {
                return;
            }
        }
        let path = format!("/v1/orders/{order_id}");
        let read = system.try_send(Method::GET, &path, &[], None).await;
        history.write("read", &order_id, read.as_ref().map_or(0, |reply| reply.status.as_u16()));
        if number.is_multiple_of(5) {
            let reply = system.try_send(Method::POST, &format!("{path}/cancel"), &[], None).await;
            history.write("cancel", &order_id, reply.as_ref().map_or(0, |reply| reply.status.as_u16()));
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_doubled_however_often_it_is_killed() {
    // The lease is short, so that orders in the hands of a killed worker are taken up soon.
    let mut system = System::start_with(&[("processing_time_ms", "100"), ("lease_ms", "1000")]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let history = History::create(&path);
    let numbers: Vec<_> = (0..CLIENTS).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    for kill in 0..kills() {
        let shared = Arc::new(system);
        let mut clients = JoinSet::new();
        for (name, next) in numbers.iter().enumerate() {
            clients.spawn(client(shared.clone(), history.clone(), name.to_string(), next.clone()));
        }
        // Each time at another point of its course.
        tokio::time::sleep(Duration::from_millis(100 + (kill * 137 % 700) as u64)).await;
        shared.kill_in_parts(kill);
        clients.join_all().await;
        system = Arc::into_inner(shared).expect("the clients are gone");
        system.restart().await;
    }
    let metrics = system.settled().await;
    check(&system, &metrics, &std::fs::read_to_string(&path).unwrap()).await;
}

/// Compares what the clients were told with what the system says now.
async fn check(system: &System, metrics: &Value, history: &str) {
    let mut sent: BTreeSet<&str> = BTreeSet::new();
    let mut told: BTreeMap<(&str, &str), Vec<u16>> = BTreeMap::new();
    for line in history.lines() {
        let [operation, order_id, status] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        sent.insert(order_id);
        told.entry((operation, order_id)).or_default().push(status.parse().unwrap());
    }
    let was_told =
        |operation, order_id, status| told.get(&(operation, order_id)).is_some_and(|all| all.contains(&status));
    let (mut found, mut acknowledged) = (0, 0);
    for order_id in &sent {
        for status in told.get(&("create", *order_id)).into_iter().flatten() {
            // No answer, accepted, or refused for a moment; never a conflict with itself, never an error.
            assert!([0, 202, 409, 503].contains(status), "{order_id} was answered {status}");
        }
        let reply = system.get(&format!("/v1/orders/{order_id}")).await;
        let accepted = was_told("create", order_id, 202);
        acknowledged += usize::from(accepted);
        if reply.status == 404 {
            assert!(!accepted, "the acknowledged order {order_id} is gone");
            continue;
        }
        found += 1;
        let now = reply.json();
        let expected = order(order_id);
        assert_eq!(
            (&now["user_id"], &now["item_ids"]),
            (&expected["user_id"], &expected["item_ids"]),
            "{order_id} was changed"
        );
        assert_eq!(now["total_amount"], format!("{}.00", expected["total_amount"]), "{order_id} was changed");
        let cancelled = was_told("cancel", order_id, 200);
        let allowed: &[&str] = if cancelled { &["Cancelled"] } else { &["Completed", "Cancelled"] };
        assert!(allowed.contains(&now["status"].as_str().unwrap()), "{now}");
        let events = system.get(&format!("/v1/orders/{order_id}/events")).await.json();
        let completed =
            events["events"].as_array().unwrap().iter().filter(|event| event["status"] == "Completed").count();
        assert_eq!(completed, usize::from(now["status"] == "Completed"), "{order_id}: {events}");
        // What was acknowledged before a read was seen by it.
        let reads = told.get(&("read", *order_id));
        assert!(reads.is_none_or(|reads| !reads.contains(&404)), "a read of {order_id} did not see it");
    }
    assert!(acknowledged > kills(), "the system was killed before it took orders in");
    println!(
        "{} operations, {acknowledged} orders acknowledged, {found} found, {} kills",
        history.lines().count(),
        kills()
    );
    // There is nothing that nobody sent.
    assert_eq!(metrics["total_orders"], found);
}

//! What was acknowledged is there, once, whatever happens.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use system::System;
use tokio::task::JoinSet;

fn order(number: usize) -> (String, Vec<u8>) {
    let order_id = format!("order-{number}");
    let body = json!({ "order_id": order_id, "user_id": number, "item_ids": [number, "b"], "total_amount": number });
    (order_id, serde_json::to_vec(&body).unwrap())
}

async fn all_completed_once(system: &System, order_ids: &HashSet<String>) {
    for order_id in order_ids {
        let order = system.get(&format!("/v1/orders/{order_id}")).await.json();
        assert_eq!(order["status"], "Completed", "{order}");
        assert_eq!(format!("order-{}", order["total_amount"].as_str().unwrap().trim_end_matches(".00")), *order_id);
    }
}

#[tokio::test]
async fn a_thousand_orders_at_once_are_all_accepted_and_completed() {
    const COUNT: usize = 1_000;
    let system = Arc::new(System::start_with(&[("processing_time_ms", "1000")]).await);
    let mut clients = JoinSet::new();
    for number in 0..COUNT {
        let system = system.clone();
        clients.spawn(async move {
            let (order_id, body) = order(number);
            let reply =
                system.send(Method::POST, "/v1/orders", &[("content-type", "application/json")], Some(body)).await;
            assert_eq!(reply.status, 202, "{}", String::from_utf8_lossy(&reply.body));
            order_id
        });
    }
    let accepted: HashSet<String> = clients.join_all().await.into_iter().collect();
    let sent = Instant::now();
    assert_eq!(accepted.len(), COUNT);
    let metrics = system.settled().await;
    println!("{COUNT} orders completed {:?} after the last acknowledgement", sent.elapsed());
    assert_eq!(metrics["total_orders"], COUNT);
    let counts = json!({ "Pending": 0, "Processing": 0, "Completed": COUNT, "Failed": 0, "Cancelled": 0 });
    assert_eq!(metrics["orders_by_status"], counts);
    all_completed_once(&system, &accepted).await;
    for order_id in &accepted {
        let order = system.get(&format!("/v1/orders/{order_id}")).await.json();
        assert_eq!(order["attempts"], 1, "{order}");
    }
}

#[tokio::test]
async fn a_burst_that_is_killed_in_the_middle_keeps_what_was_acknowledged() {
    const COUNT: usize = 1_000;
    let mut system = System::start_with(&[("processing_time_ms", "200"), ("lease_ms", "1000")]).await;
    let shared = Arc::new(system);
    let acknowledged: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut clients = JoinSet::new();
    for number in 0..COUNT {
        let (system, acknowledged) = (shared.clone(), acknowledged.clone());
        clients.spawn(async move {
            let (order_id, body) = order(number);
            let headers = [("content-type", "application/json")];
            match system.try_send(Method::POST, "/v1/orders", &headers, Some(body)).await {
                Some(reply) if reply.status == 202 => _ = acknowledged.lock().unwrap().insert(order_id),
                Some(reply) => panic!("{reply:?}"),
                None => {}
            }
        });
    }
    while acknowledged.lock().unwrap().len() < COUNT / 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    shared.kill();
    clients.join_all().await;
    system = Arc::into_inner(shared).expect("the clients are done");
    system.restart().await;

    let acknowledged = acknowledged.lock().unwrap().clone();
    let metrics = system.settled().await;
    all_completed_once(&system, &acknowledged).await;
    let total = metrics["total_orders"].as_u64().unwrap() as usize;
    assert!((acknowledged.len()..=COUNT).contains(&total), "{total} orders of {}", acknowledged.len());
    assert_eq!(metrics["orders_by_status"]["Completed"], total);

    // All of them sent again: those that were accepted are the same, the others are new.
    for number in 0..COUNT {
        let headers = [("content-type", "application/json")];
        assert_eq!(system.send(Method::POST, "/v1/orders", &headers, Some(order(number).1)).await.status, 202);
    }
    assert_eq!(system.settled().await["orders_by_status"]["Completed"], COUNT);
}

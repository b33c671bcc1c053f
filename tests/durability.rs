//! What was acknowledged is there, once, whatever happens.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
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
async fn what_was_acknowledged_survives_kill_9() {
    const ROUNDS: usize = 5;
    // The lease is short, so that orders in the hands of a killed worker are taken up soon.
    let mut system = System::start_with(&[("processing_time_ms", "200"), ("lease_ms", "1000")]).await;
    let mut acknowledged: HashSet<String> = HashSet::new();
    let mut unanswered: HashSet<String> = HashSet::new();
    for round in 0..ROUNDS {
        let mut clients = JoinSet::new();
        let shared = Arc::new(system);
        for client in 0..32 {
            let system = shared.clone();
            clients.spawn(async move {
                let (mut acknowledged, mut unanswered) = (Vec::new(), Vec::new());
                for number in 0.. {
                    let (order_id, body) = order(round * 1_000_000 + client * 10_000 + number);
                    let headers = [("content-type", "application/json")];
                    match system.try_send(Method::POST, "/v1/orders", &headers, Some(body)).await {
                        Some(reply) if reply.status == 202 => acknowledged.push(order_id),
                        // A restart takes what it takes; anything else is an error.
                        Some(reply) => panic!("{reply:?}"),
                        None => {
                            unanswered.push(order_id);
                            break;
                        }
                    }
                }
                (acknowledged, unanswered)
            });
        }
        // Each round is killed at another point of its course.
        tokio::time::sleep(Duration::from_millis(150 + 170 * round as u64)).await;
        shared.kill();
        for (done, open) in clients.join_all().await {
            acknowledged.extend(done);
            unanswered.extend(open);
        }
        system = Arc::into_inner(shared).expect("the clients are done");
        system.restart().await;
    }
    assert!(acknowledged.len() > ROUNDS, "the system was killed before it took orders in");
    let metrics = system.settled().await;
    all_completed_once(&system, &acknowledged).await;
    // An order without an answer may have been accepted or not, and there is nothing else.
    let mut known = acknowledged.len() as u64;
    for order_id in &unanswered {
        known += u64::from(system.get(&format!("/v1/orders/{order_id}")).await.status == 200);
    }
    assert_eq!(metrics["total_orders"], known);
    assert_eq!(metrics["orders_by_status"]["Completed"], known);
    // Sending an acknowledged order again changes nothing.
    let any = acknowledged.iter().next().and_then(|order_id| order_id.strip_prefix("order-")?.parse().ok()).unwrap();
    let (order_id, body) = order(any);
    let before: Value = system.get(&format!("/v1/orders/{order_id}")).await.json();
    let again = system.send(Method::POST, "/v1/orders", &[("content-type", "application/json")], Some(body)).await;
    assert_eq!((again.status.as_u16(), again.json()), (202, before));
}

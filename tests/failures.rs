//! Failure as a normal path: retries, dead letters, cancelling, idempotency keys and overload.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use system::{Reply, Setup, System};
use tokio::task::JoinSet;

/// What the test processor says of an order that fails.
const REASON: &str = "the order asks for it";

fn book(order_id: &str, user_id: &str) -> Value {
    json!({ "order_id": order_id, "user_id": user_id, "item_ids": ["book"], "total_amount": "12.50" })
}

/// An order whose every attempt fails, with the test processor.
fn failing(order_id: &str, user_id: &str) -> Value {
    json!({ "order_id": order_id, "user_id": user_id, "item_ids": ["fail"], "total_amount": "12.50" })
}

async fn start_with_test_processor(variables: &[(&'static str, &str)]) -> System {
    System::start_as(Setup { variables, test_processor: true, ..Setup::default() }).await
}

async fn until_status(system: &System, order_id: &str, status: &str) -> Value {
    for _ in 0..3_000 {
        let order = system.get(&format!("/v1/orders/{order_id}")).await.json();
        if order["status"] == status {
            return order;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{order_id} is not {status} within a minute");
}

async fn act(system: &System, path: &str) -> Reply {
    system.send(Method::POST, path, &[], None).await
}

#[tokio::test]
async fn an_order_that_fails_is_a_dead_letter_until_it_is_retried() {
    let system = start_with_test_processor(&[("max_attempts", "1")]).await;
    for (order_id, user_id) in [("a", "u"), ("b", "u"), ("c", "v")] {
        assert_eq!(system.post("/v1/orders", &failing(order_id, user_id)).await.status, 202);
        until_status(&system, order_id, "Failed").await;
    }
    let failed = system.get("/v1/orders/a").await.json();
    assert_eq!(failed["failure"], REASON);
    assert_eq!((&failed["attempts"], &failed["completed_at"]), (&json!(1), &Value::Null));

    let first = system.get("/v1/dead-letters?limit=2").await.json();
    let names =
        |page: &Value| page["orders"].as_array().unwrap().iter().map(|o| o["order_id"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), ["a", "b"]);
    let next = first["next"].as_str().unwrap();
    let second = system.get(&format!("/v1/dead-letters?limit=2&after={next}")).await.json();
    assert_eq!((names(&second), &second["next"]), (vec![json!("c")], &Value::Null));
    assert_eq!(names(&system.get("/v1/dead-letters?user_id=v").await.json()), ["c"]);
    assert_eq!(names(&system.get("/v1/dead-letters?failed_before=2020-01-01T00:00:00Z").await.json()), [""; 0]);
    for query in ["limit=0", "limit=x", "after=x", "failed_from=x", "unknown=1", "user_id=", "limit=1&limit=2"] {
        system.get(&format!("/v1/dead-letters?{query}")).await.problem(400, "invalid-query");
    }

    let retried = act(&system, "/v1/orders/a/retry").await;
    assert_eq!((retried.status.as_u16(), &retried.json()["status"]), (200, &json!("Pending")));
    let again = until_status(&system, "a", "Failed").await;
    assert_eq!(again["attempts"], 2);

    let history = system.get("/v1/orders/a/events").await.json();
    let told: Vec<_> =
        history["events"].as_array().unwrap().iter().map(|event| event["status"].as_str().unwrap()).collect();
    assert_eq!(told, ["Pending", "Processing", "Failed", "Pending", "Processing", "Failed"]);
    let attempts = system.get("/v1/orders/a/attempts").await.json();
    let attempts = attempts["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    for (number, attempt) in (1..).zip(attempts) {
        assert_eq!((&attempt["number"], &attempt["outcome"]), (&json!(number), &json!("Failed")));
        assert_eq!(attempt["reason"], REASON);
        assert!(attempt["started_at"].as_str().unwrap() <= attempt["ended_at"].as_str().unwrap());
    }

    let all_of_u = system.post("/v1/dead-letters/retry", &json!({ "user_id": "u" })).await;
    assert_eq!((all_of_u.status.as_u16(), all_of_u.json()), (200, json!({ "retried": 2 })));
    until_status(&system, "a", "Failed").await;
    until_status(&system, "b", "Failed").await;
    assert_eq!(act(&system, "/v1/dead-letters/retry").await.json(), json!({ "retried": 3 }));
    let problem =
        system.post("/v1/dead-letters/retry", &json!({ "usr_id": "u" })).await.problem(422, "invalid-request");
    assert_eq!(problem["errors"][0]["pointer"], "#/usr_id");
}

#[tokio::test]
async fn a_status_allows_what_it_allows() {
    let system = System::start().await;
    system.post("/v1/orders", &book("done", "u")).await;
    system.completed("done").await;
    for action in ["cancel", "retry"] {
        let problem = act(&system, &format!("/v1/orders/done/{action}")).await.problem(409, "action-not-allowed");
        assert_eq!(problem["allowed_actions"], json!([]));
        act(&system, &format!("/v1/orders/none/{action}")).await.problem(404, "order-not-found");
    }
    for path in ["/v1/orders/none/events", "/v1/orders/none/attempts"] {
        system.get(path).await.problem(404, "order-not-found");
    }
}

#[tokio::test]
async fn an_order_is_cancelled_between_attempts() {
    let system = start_with_test_processor(&[]).await;
    system.post("/v1/orders", &failing("x", "u")).await;
    until_status(&system, "x", "Pending").await;
    let cancelled = loop {
        let reply = act(&system, "/v1/orders/x/cancel").await;
        if reply.status == 200 {
            break reply.json();
        }
        assert_eq!(reply.problem(409, "action-not-allowed")["allowed_actions"], json!([]));
    };
    assert_eq!(cancelled["status"], "Cancelled");
    act(&system, "/v1/orders/x/cancel").await.problem(409, "action-not-allowed");
    // It stays so when its next attempt would have been due.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(system.get("/v1/orders/x").await.json()["status"], "Cancelled");
    assert_eq!(system.get("/v1/metrics").await.json()["orders_by_status"]["Cancelled"], 1);
}

async fn post_keyed(system: &System, path: &str, key: &str, who: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json"), ("idempotency-key", key), ("authorization", who)];
    system.send(Method::POST, path, &headers, Some(serde_json::to_vec(body).unwrap())).await
}

#[tokio::test]
async fn a_request_with_a_key_is_carried_out_once() {
    let system = System::start().await;
    let nameless = json!({ "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
    let first = post_keyed(&system, "/v1/orders", "k1", "me", &nameless).await;
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (202, ""));
    system.completed(first.json()["order_id"].as_str().unwrap()).await;
    let again = post_keyed(&system, "/v1/orders", "k1", "me", &nameless).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(
        (again.header("location"), again.header("content-type")),
        (first.header("location"), "application/json")
    );

    let other = json!({ "user_id": "u", "item_ids": ["i"], "total_amount": 2 });
    post_keyed(&system, "/v1/orders", "k1", "me", &other).await.problem(422, "idempotency-key-reused");
    let elsewhere = post_keyed(&system, "/orders", "k1", "me", &nameless).await;
    assert_eq!(elsewhere.status, 422);
    // Another caller's key is another key.
    let theirs = post_keyed(&system, "/v1/orders", "k1", "you", &nameless).await;
    assert_ne!(theirs.json()["order_id"], first.json()["order_id"]);

    // What was not carried out is not kept.
    let invalid = json!({ "user_id": "u" });
    post_keyed(&system, "/v1/orders", "k2", "me", &invalid).await.problem(422, "invalid-order");
    assert_eq!(post_keyed(&system, "/v1/orders", "k2", "me", &nameless).await.status, 202);

    for key in ["", &"k".repeat(256)] {
        post_keyed(&system, "/v1/orders", key, "me", &nameless).await.problem(400, "invalid-idempotency-key");
    }
    assert_eq!(post_keyed(&system, "/v1/orders", &"k".repeat(255), "me", &nameless).await.status, 202);
    assert_eq!(system.settled().await["total_orders"], 4);
}

#[tokio::test]
async fn a_refusal_is_kept_under_its_key_too() {
    let system = System::start_with(&[("processing_time_ms", "0")]).await;
    let cancel = |key: &'static str| post_keyed(&system, "/v1/orders/x/cancel", key, "me", &Value::Null);
    cancel("early").await.problem(404, "order-not-found");
    system.post("/v1/orders", &book("x", "u")).await;
    system.completed("x").await;
    let refused = cancel("late").await;
    refused.problem(409, "action-not-allowed");
    for (key, first) in [("early", cancel("early").await), ("late", refused)] {
        let again = cancel(key).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(again.header("content-type"), "application/problem+json");
    }
    // On the routes of another system, in its words.
    let mut other = book("x", "u");
    other["total_amount"] = json!(99);
    let first = post_keyed(&system, "/api/v1/orders", "other", "me", &other).await;
    let again = post_keyed(&system, "/api/v1/orders", "other", "me", &other).await;
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (400, ""));
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn the_same_key_at_the_same_time_is_one_request() {
    let system = Arc::new(System::start().await);
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let system = system.clone();
        clients.spawn(async move {
            let nameless = json!({ "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
            loop {
                let reply = post_keyed(&system, "/v1/orders", "together", "me", &nameless).await;
                if reply.status == 202 {
                    return reply.body;
                }
                reply.problem(409, "idempotency-key-in-flight");
            }
        });
    }
    let bodies: HashSet<_> = clients.join_all().await.into_iter().collect();
    assert_eq!(bodies.len(), 1);
    assert_eq!(system.settled().await["total_orders"], 1);
}

#[tokio::test]
async fn every_kind_of_post_takes_a_key() {
    let system = start_with_test_processor(&[("max_attempts", "1")]).await;
    let order = failing("x", "u");
    for path in ["/v1/orders", "/api/v1/orders", "/api/order", "/order"] {
        let first = post_keyed(&system, path, path, "me", &order).await;
        let again = post_keyed(&system, path, path, "me", &order).await;
        assert!(first.status.is_success());
        assert_eq!((again.status, again.body), (first.status, first.body), "{path}");
        assert_eq!(again.headers.get("idempotency-replayed").unwrap(), "true");
    }
    until_status(&system, "x", "Failed").await;
    let first = post_keyed(&system, "/v1/orders/x/retry", "again", "me", &json!({})).await;
    assert_eq!(first.status, 200);
    until_status(&system, "x", "Failed").await;
    let again = post_keyed(&system, "/v1/orders/x/retry", "again", "me", &json!({})).await;
    assert_eq!((again.status, again.body), (first.status, first.body));
    let history = system.get("/v1/orders/x/attempts").await.json();
    assert_eq!(history["attempts"].as_array().unwrap().len(), 2, "the second request retried nothing");
    let first = post_keyed(&system, "/v1/dead-letters/retry", "all", "me", &json!({})).await;
    let again = post_keyed(&system, "/v1/dead-letters/retry", "all", "me", &json!({})).await;
    assert_eq!((first.json(), again.json()), (json!({ "retried": 1 }), json!({ "retried": 1 })));
}

#[tokio::test]
async fn a_full_backlog_is_told_and_goes_away() {
    let system = start_with_test_processor(&[("max_attempts", "1000"), ("max_backlog", "3")]).await;
    let mut accepted = Vec::new();
    let refused = loop {
        let order_id = format!("o{}", accepted.len());
        let reply = system.post("/v1/orders", &failing(&order_id, "u")).await;
        match reply.status.as_u16() {
            202 => accepted.push(order_id),
            _ => break reply,
        }
        assert!(accepted.len() < 1_000, "the backlog has a limit");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    refused.problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    assert!(accepted.len() >= 3);
    // Reading goes on.
    assert_eq!(system.get("/v1/orders/o0").await.status, 200);
    assert_eq!(system.get("/v1/metrics").await.json()["total_orders"], accepted.len());

    // What is stored is stored, whoever asks again.
    let again = system.post("/v1/orders", &failing("o0", "u")).await;
    assert_eq!((again.status.as_u16(), &again.json()["order_id"]), (202, &json!("o0")));
    system.post("/v1/orders", &failing("o0", "someone else")).await.problem(409, "order-conflict");
    let keyed = post_keyed(&system, "/v1/orders", "k", "me", &failing("o1", "u")).await;
    assert_eq!(keyed.status, 202);
    post_keyed(&system, "/v1/orders", "l", "me", &failing("new", "u")).await.problem(503, "overloaded");

    // Those that are called off make room.
    for order_id in &accepted {
        while act(&system, &format!("/v1/orders/{order_id}/cancel")).await.status != 200 {
            let order = system.get(&format!("/v1/orders/{order_id}")).await.json();
            if order["status"] == "Cancelled" {
                break;
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(system.post("/v1/orders", &book("room", "u")).await.status, 202);
}

#[tokio::test]
async fn orders_that_are_being_processed_count_against_the_backlog() {
    let system = System::start_with(&[("processing_time_ms", "3600000"), ("max_backlog", "2")]).await;
    for order_id in ["a", "b"] {
        assert_eq!(system.post("/v1/orders", &book(order_id, "u")).await.status, 202);
        until_status(&system, order_id, "Processing").await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    system.post("/v1/orders", &book("c", "u")).await.problem(503, "overloaded");
}

#[tokio::test]
async fn a_slow_processor_is_not_taken_for_a_dead_one() {
    let system = start_with_test_processor(&[("lease_ms", "2000")]).await;
    // Forty orders of 100 ms each, one after the other, are two leases' worth.
    for number in 0..40 {
        let order = json!({ "order_id": number, "user_id": "u", "item_ids": ["slow:100"], "total_amount": 1 });
        assert_eq!(system.post("/v1/orders", &order).await.status, 202);
    }
    let metrics = system.settled().await;
    assert_eq!(metrics["orders_by_status"]["Completed"], 40);
    for number in 0..40 {
        assert_eq!(system.get(&format!("/v1/orders/{number}")).await.json()["attempts"], 1, "order {number}");
    }
}

#[tokio::test]
async fn a_key_survives_the_renewal_of_a_token_where_a_gateway_names_the_caller() {
    let system = System::start_with(&[("caller_header", "X-Consumer-Id")]).await;
    let nameless = json!({ "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
    let send = async |token: &str, caller: &[&str]| {
        let mut headers =
            vec![("content-type", "application/json"), ("idempotency-key", "k"), ("authorization", token)];
        headers.extend(caller.iter().map(|caller| ("x-consumer-id", *caller)));
        system.send(Method::POST, "/v1/orders", &headers, Some(serde_json::to_vec(&nameless).unwrap())).await
    };
    let first = send("Bearer old", &["shop"]).await;
    let again = send("Bearer new", &["shop"]).await;
    assert_eq!((again.status.as_u16(), &again.body), (202, &first.body));
    let other = send("Bearer old", &["another"]).await;
    assert_eq!((other.status.as_u16(), other.header("idempotency-replayed")), (202, ""));
    send("Bearer old", &["shop", "another"]).await.problem(400, "invalid-caller");
}

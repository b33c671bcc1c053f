//! The sessions of the five source systems: each curl command as their documents write it, only host and port
//! replaced, and what their clients read in the answers.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use system::{Reply, System};

/// Checks that a problem also says what the clients of a system read.
fn told(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(&reply.body));
    let problem = reply.json();
    assert_eq!(problem["status_code"], status);
    assert_eq!(problem["error"], problem["message"]);
    problem["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_go_service_on_mysql() {
    let system = System::start().await;
    let order = json!({
        "order_id": "123e4567-e89b-12d3-a456-426614174000",
        "user_id": "user123",
        "items_ids": ["item1", "item2"],
        "total_amount": 100.00
    });
    for _ in 0..2 {
        let created = system.post("/order-service/order/create", &order).await;
        assert_eq!(
            (created.status, created.json()),
            (StatusCode::OK, json!({ "message": "Order created successfully" }))
        );
    }
    system.completed("123e4567-e89b-12d3-a456-426614174000").await;
    let status = r#"curl "http://localhost:8000/order-service/order/order-status?order_id=123e4567-e89b-12d3-a456-426614174000""#;
    assert_eq!(system.curl(status).await.json(), json!({ "order_status": "Completed" }));
    let metrics = system.curl(r#"curl "http://localhost:8000/order-service/order/order-metric""#).await.json();
    let metrics = &metrics["order_metrics"];
    assert_eq!(metrics["total_orders"], 1);
    assert!(metrics["avg_processing_time"].as_f64().unwrap() >= 0.05);
    let counts = metrics["orders_by_status"].as_array().unwrap();
    assert!(counts.contains(&json!({ "status": "Completed", "count": 1 })), "{counts:?}");

    let create = "/order-service/order/create";
    let nameless = json!({ "user_id": "u", "items_ids": ["i"], "total_amount": 1 });
    assert!(told(&system.post(create, &nameless).await, 400).contains("order_id is missing"));
    let mut other = order.clone();
    other["user_id"] = json!("someone else");
    told(&system.post(create, &other).await, 409);
    told(&system.get("/order-service/order/order-status?order_id=none").await, 404);
    told(&system.get("/order-service/order/order-status").await, 400);
}

#[tokio::test]
async fn the_fastapi_service_on_postgresql() {
    let system = System::start().await;
    let create = r#"curl --location --request POST 'http://localhost:8000/api/v1/orders' \
--header 'Content-Type: application/json' \
--data-raw '{
    "order_id": "order123",
    "user_id": 102,
    "item_ids": [
        101,
        102,
        103
    ],
    "total_amount": 1001
}'"#;
    for _ in 0..2 {
        let created = system.curl(create).await;
        assert_eq!(created.status, 202);
        let message = "Order successfully processed. Please check status for order id: order123";
        assert_eq!(created.json(), json!({ "status_code": 202, "message": message }));
    }
    let second = system.curl(&create.replace("order123", "ORD123")).await;
    assert_eq!(second.status, 202);
    system.completed("ORD123").await;
    system.completed("order123").await;
    let status = system.curl("curl --location --request GET 'http://localhost:8000/api/v1/orders/ORD123'").await;
    assert_eq!(status.json(), json!({ "order_id": "ORD123", "status": "Completed" }));
    let metrics = system.curl("curl --location --request GET 'http://localhost:8000/api/v1/metrics'").await.json();
    assert_eq!(metrics["status_code"], 200);
    assert_eq!(metrics["message"], "Succesfully fetched metrics Ddta");
    assert_eq!(metrics["data"]["total_orders_processed"], 2);
    assert!(metrics["data"]["total_processing_time"].as_f64().unwrap() >= 0.1);
    assert_eq!(metrics["data"]["status_counts"], json!({ "Pending": 0, "Processing": 0, "Completed": 2 }));

    let taken = system.curl(&create.replace("1001", "1002")).await;
    assert_eq!(told(&taken, 400), "Order with order_id order123 already exists.");
    let negative = system.curl(&create.replace("1001", "-5")).await;
    assert_eq!(told(&negative, 400), "total_amount must not be negative");
    told(&system.get("/api/v1/orders/none").await, 404);
}

#[tokio::test]
async fn the_node_service_on_sqlite() {
    let system = System::start().await;
    let create = r#"curl -X POST http://localhost:3000/orders \
  -H "Content-Type: application/json" \
  -d '{
        "user_id": "user1",
        "item_ids": ["item1", "item2"],
        "total_amount": 100.5
      }'"#;
    let created = system.curl(create).await;
    assert_eq!(created.status, 201);
    let created = created.json();
    let order_id = created["order_id"].as_str().unwrap();
    let expected = json!({
        "order_id": order_id, "user_id": "user1", "item_ids": ["item1", "item2"], "total_amount": 100.5, "status": "Pending"
    });
    assert_eq!(created, expected);
    system.completed(order_id).await;
    let status = "curl http://localhost:3000/orders/:order_id/status".replace(":order_id", order_id);
    assert_eq!(system.curl(&status).await.json(), json!({ "status": "Completed" }));
    let metrics = system.curl("curl http://localhost:3000/metrics").await.json();
    assert_eq!(metrics["total_orders"], 1);
    assert!(metrics["average_processing_time"].as_f64().unwrap() >= 0.05);
    assert_eq!(metrics["order_counts"], json!({ "Pending": 0, "Processing": 0, "Completed": 1 }));

    // Two orders alike are two orders here: their clients do not name them.
    assert_ne!(system.curl(create).await.json()["order_id"], order_id);
    told(&system.post("/orders", &json!({ "user_id": "u" })).await, 400);
    told(&system.curl("curl http://localhost:3000/orders/:order_id/status").await, 404);
}

#[tokio::test]
async fn the_fastapi_service_on_sqlite() {
    let system = System::start_with(&[("processing_time_ms", "300")]).await;
    let order = json!({ "order_id": 101, "user_id": 5001, "item_ids": [12, 34, 56], "total_amount": 250.75 });
    for _ in 0..2 {
        let created = system.post("/api/order", &order).await;
        assert_eq!(
            (created.status, created.json()),
            (StatusCode::OK, json!({ "message": "Order received", "order_id": 101 }))
        );
    }
    let status = system.get("/api/order/101").await.json();
    assert_eq!(status["order_id"], 101);
    assert!(["Pending", "Processing"].contains(&status["status"].as_str().unwrap()), "{status}");
    system.completed("101").await;
    assert_eq!(system.get("/api/order/101").await.json(), json!({ "order_id": 101, "status": "Completed" }));
    let metrics = system.get("/api/metrics").await.json();
    for (name, value) in [("total_orders", 1), ("orders_pending", 0), ("orders_processing", 0), ("orders_completed", 1)]
    {
        assert_eq!(metrics[name], value, "{name}");
    }
    assert!(metrics["average_processing_time"].as_f64().unwrap() >= 0.3);

    told(
        &system.post("/api/order", &json!({ "order_id": 102, "user_id": 1, "item_ids": [], "total_amount": 1 })).await,
        422,
    );
    let malformed =
        system.send(Method::POST, "/api/order", &[("content-type", "application/json")], Some(b"{".to_vec())).await;
    told(&malformed, 422);
    told(&system.get("/api/order/102").await, 404);
}

#[tokio::test]
async fn the_go_service_on_sqlite() {
    let system = System::start().await;
    let create = r#"curl -X POST http://localhost:8080/order      -H "Content-Type: application/json"      -d '{
           "order_id": 12345,
           "user_id": 1,
           "item_ids": [101, 102, 103],
           "total_amount": 99.99
         }'"#;
    for _ in 0..2 {
        let created = system.curl(create).await;
        assert_eq!(created.status, 202);
        let message = "Order processing initiated successfully";
        assert_eq!(created.json(), json!({ "message": message, "order_id": "12345" }));
    }
    let completed = system.completed("12345").await;
    let read = system.curl("curl -X GET http://localhost:8080/order/12345").await.json();
    let time = |name: &str| Value::from(completed[name].as_str().unwrap()[..19].replace('T', " "));
    let expected = json!({
        "order_id": 12345, "user_id": 1, "item_ids": [101, 102, 103], "total_amount": 99.99, "status": "Completed",
        "created_time": time("created_at"), "processed_time": time("completed_at")
    });
    assert_eq!(read, expected);
    let metrics = system.curl("curl -X GET http://localhost:8080/metrics").await.json();
    for (name, value) in [("total_orders", 1), ("pending_orders", 0), ("processing_orders", 0), ("completed_orders", 1)]
    {
        assert_eq!(metrics[name], value, "{name}");
    }
    assert!(metrics["avg_processing_time"].as_f64().unwrap() >= 0.05);

    told(&system.curl(&create.replace("99.99", "\"99.999\"")).await, 400);
    told(&system.curl(&create.replace("99.99", "1")).await, 409);
    told(&system.get("/order/none").await, 404);
}

#[tokio::test]
async fn all_systems_speak_of_the_same_orders() {
    let system = System::start().await;
    let body = json!({
        "order_id": 77, "user_id": 1, "item_ids": [1], "items_ids": [1], "total_amount": "5.00"
    });
    for path in ["/order-service/order/create", "/api/v1/orders", "/api/order", "/order", "/v1/orders"] {
        let reply = system.post(path, &body).await;
        assert!(reply.status.is_success(), "{path}: {}", String::from_utf8_lossy(&reply.body));
    }
    assert_eq!(system.settled().await["total_orders"], 1);
}

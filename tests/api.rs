//! The canonical API, route by route and error by error.

use reqwest::Method;
use serde_json::{Value, json};
use system::{Reply, System};

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

fn book(order_id: &str) -> Value {
    json!({ "order_id": order_id, "user_id": "u", "item_ids": ["book"], "total_amount": "12.50" })
}

async fn post_raw(system: &System, body: impl Into<Vec<u8>>) -> Reply {
    system.send(Method::POST, "/v1/orders", &[("content-type", "application/json")], Some(body.into())).await
}

#[tokio::test]
async fn an_order_is_accepted_processed_and_counted() {
    let system = System::start().await;
    let sent = json!({
        "order_id": "a b/c?d", "user_id": 7, "item_ids": ["x", 2, "x"], "total_amount": 99.9, "currency": "EUR", "unknown": {}
    });
    let reply = system.post("/v1/orders", &sent).await;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("location"), "/v1/orders/a%20b%2Fc%3Fd");
    let accepted = reply.json();
    assert_eq!(accepted["order_id"], "a b/c?d");
    assert_eq!(accepted["user_id"], 7);
    assert_eq!(accepted["item_ids"], json!(["x", 2, "x"]));
    assert_eq!(accepted["total_amount"], "99.90");
    assert_eq!(accepted["currency"], "EUR");
    assert_eq!(accepted["status"], "Pending");
    assert_eq!(accepted["attempts"], 0);
    assert_eq!((&accepted["started_at"], &accepted["completed_at"]), (&Value::Null, &Value::Null));

    let completed = system.completed("a%20b%2Fc%3Fd").await;
    assert_eq!(completed["attempts"], 1);
    let times: Vec<&str> =
        ["created_at", "started_at", "completed_at"].map(|name| completed[name].as_str().unwrap()).into();
    // RFC 3339 in UTC sorts as text.
    assert!(times.is_sorted(), "{times:?}");
    assert!(times.iter().all(|time| time.ends_with('Z') && time.len() == "2026-11-20T06:05:04.321Z".len()));

    let metrics = system.get("/v1/metrics").await.json();
    assert_eq!(metrics["total_orders"], 1);
    let counts = json!({ "Pending": 0, "Processing": 0, "Completed": 1, "Failed": 0, "Cancelled": 0 });
    assert_eq!(metrics["orders_by_status"], counts);
    let (processing, completion) = (
        metrics["average_processing_seconds"].as_f64().unwrap(),
        metrics["average_completion_seconds"].as_f64().unwrap(),
    );
    assert!(processing >= 0.05 && completion >= processing, "{metrics}");
}

#[tokio::test]
async fn an_order_without_a_name_gets_a_uuid() {
    let system = System::start().await;
    let sent = json!({ "user_id": "u", "item_ids": [1], "total_amount": 0 });
    let first = system.post("/v1/orders", &sent).await.json();
    let second = system.post("/v1/orders", &sent).await.json();
    let (first, second) = (first["order_id"].as_str().unwrap(), second["order_id"].as_str().unwrap());
    assert!(first < second, "identifiers of version 7 sort by their time");
    assert_eq!((first.len(), first.as_bytes()[14]), (36, b'7'));
    assert_eq!(system.get(&format!("/v1/orders/{first}")).await.json()["currency"], "USD");
}

#[tokio::test]
async fn the_same_order_is_the_same_order_and_another_one_is_a_conflict() {
    let system = System::start().await;
    let first = system.post("/v1/orders", &book("once")).await.json();
    let same =
        json!({ "order_id": "once", "user_id": "u", "item_ids": ["book"], "total_amount": 12.5, "currency": "USD" });
    let again = system.post("/v1/orders", &same).await;
    assert_eq!(again.status, 202);
    assert_eq!(again.json()["created_at"], first["created_at"]);
    for (field, value) in [
        ("user_id", json!("v")),
        ("item_ids", json!(["book", "book"])),
        ("total_amount", json!(12.51)),
        ("currency", json!("EUR")),
    ] {
        let mut other = book("once");
        other[field] = value;
        system.post("/v1/orders", &other).await.problem(409, "order-conflict");
    }
    assert_eq!(system.settled().await["total_orders"], 1);
}

#[tokio::test]
async fn an_order_keeps_the_kind_of_its_identifier() {
    let system = System::start().await;
    let mut order = book("x");
    order["order_id"] = json!(i64::MAX);
    let reply = system.post("/v1/orders", &order).await;
    assert_eq!(reply.json()["order_id"], i64::MAX);
    assert_eq!(system.get(reply.header("location")).await.json()["order_id"], i64::MAX);
}

#[tokio::test]
async fn a_body_that_is_no_order_is_refused_field_by_field() {
    let system = System::start().await;
    let bad = json!({ "order_id": " ", "item_ids": ["a", 1.5, null], "total_amount": "1.234", "currency": "euro" });
    let problem = system.post("/v1/orders", &bad).await.problem(422, "invalid-order");
    assert_eq!(
        pointers(&problem),
        ["#/order_id", "#/user_id", "#/item_ids/1", "#/item_ids/2", "#/total_amount", "#/currency"]
    );
    for (body, pointer) in [
        ("[]", "#"),
        ("null", "#"),
        (r#"{"user_id":"u","item_ids":[],"total_amount":1}"#, "#/item_ids"),
        (r#"{"user_id":"u","item_ids":[1],"total_amount":-0.01}"#, "#/total_amount"),
        (r#"{"user_id":"u","item_ids":[1],"total_amount":100000000}"#, "#/total_amount"),
        (r#"{"user_id":"u","item_ids":[1],"total_amount":1e-3}"#, "#/total_amount"),
        (r#"{"user_id":"u","item_ids":[1],"total_amount":1e99999}"#, "#/total_amount"),
        (r#"{"user_id":"u","item_ids":[1],"total_amount":"NaN"}"#, "#/total_amount"),
        (r#"{"user_id":true,"item_ids":[1],"total_amount":1}"#, "#/user_id"),
        (r#"{"user_id":"u","user_id":"u","item_ids":[1],"total_amount":1}"#, "#/user_id"),
    ] {
        let problem = post_raw(&system, body).await.problem(422, "invalid-order");
        assert_eq!(pointers(&problem), [pointer], "{body}");
    }
    for body in ["", "{", "{\"user_id\": NaN}", "\u{feff}{}", "{} x"] {
        post_raw(&system, body).await.problem(400, "malformed-json");
    }
    post_raw(&system, b"{\"user_id\":\"\xff\"}").await.problem(400, "malformed-json");
    assert_eq!(system.get("/v1/metrics").await.json()["total_orders"], 0);
}

#[tokio::test]
async fn a_body_of_another_type_or_too_long_is_refused() {
    let system = System::start().await;
    let body = || Some(serde_json::to_vec(&book("x")).unwrap());
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json"] {
        let reply = system.send(Method::POST, "/v1/orders", &[("content-type", content_type)], body()).await;
        reply.problem(415, "unsupported-media-type");
    }
    for content_type in ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"] {
        let reply = system.send(Method::POST, "/v1/orders", &[("content-type", content_type)], body()).await;
        assert_eq!(reply.status, 202, "{content_type}");
    }
    // Without the header a page of any site could send it.
    system.send(Method::POST, "/v1/orders", &[], body()).await.problem(415, "unsupported-media-type");
    system.send(Method::POST, "/order", &[], body()).await.problem(415, "unsupported-media-type");

    let padded = |length: usize| {
        let mut body = serde_json::to_vec(&book("padded")).unwrap();
        body.resize(length, b' ');
        body
    };
    assert_eq!(post_raw(&system, padded(256 * 1024)).await.status, 202);
    post_raw(&system, padded(256 * 1024 + 1)).await.problem(413, "body-too-large");
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let system = System::start_with(&[("processing_time_ms", "3600000")]).await;
    system.post("/v1/orders", &book("x")).await;
    let host = system.authority().to_owned();
    let own = format!("http://{host}");
    let act = async |headers: &[(&str, &str)]| system.send(Method::POST, "/v1/orders/x/retry", headers, None).await;
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "cross-site"), ("origin", own.as_str())],
        // Where browsers leave that header out: an address that is neither local nor HTTPS.
        &[("origin", "http://elsewhere.example")],
        &[("origin", "null")],
    ] {
        act(headers).await.problem(403, "cross-site-request");
    }
    for headers in
        [&[][..], &[("sec-fetch-site", "same-origin")], &[("sec-fetch-site", "none")], &[("origin", own.as_str())]]
    {
        act(headers).await.problem(409, "action-not-allowed");
    }
    // A page may look as far as the browser lets it, which is not at all without CORS headers.
    let read = system.send(Method::GET, "/v1/orders/x", &[("sec-fetch-site", "cross-site")], None).await;
    assert_eq!((read.status.as_u16(), read.header("access-control-allow-origin")), (200, ""));
}

#[tokio::test]
async fn readiness_says_that_requests_are_served() {
    let system = System::start().await;
    let ready = system.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()), (200, json!({ "status": "ready" })));
}

#[tokio::test]
async fn unknown_paths_orders_and_methods_have_their_own_answers() {
    let system = System::start().await;
    for path in ["/", "/v1", "/v1/order", "/v1/orders/", "/v1/orders/a/b", "/V1/metrics"] {
        system.get(path).await.problem(404, "unknown-path");
    }
    let long = format!("/v1/orders/{}", "x".repeat(65));
    for path in ["/v1/orders/none", "/v1/orders/%00", "/v1/orders/%ff", "/v1/orders/%C3%A9", &long] {
        system.get(path).await.problem(404, "order-not-found");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/orders", "POST"),
        (Method::PUT, "/v1/orders/x", "GET,HEAD"),
        (Method::POST, "/v1/metrics", "GET,HEAD"),
        (Method::GET, "/order-service/order/create", "POST"),
        (Method::PATCH, "/api/order", "POST"),
    ] {
        let reply = system.send(method, path, &[], None).await;
        reply.problem(405, "method-not-allowed");
        assert_eq!(reply.header("allow"), allow, "{path}");
        // The clients of other systems find what they read in these answers too.
        assert_eq!(reply.json()["error"].is_string(), !path.starts_with("/v1"), "{path}");
    }
}

#[tokio::test]
async fn the_commands_of_the_readme_do_what_it_says() {
    let system = System::start().await;
    let readme = include_str!("../README.md");
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(|block| block.split("\n")).collect::<Vec<_>>().join("\n");
    let continued = lines.replace("\\\n", " ");
    let mut statuses = Vec::new();
    for command in continued.lines().filter(|line| line.starts_with("curl ")) {
        statuses.push(system.curl(command).await.status.as_u16());
    }
    assert_eq!(statuses, [202, 200, 200]);
    let first = system.completed("first").await;
    assert_eq!((&first["total_amount"], &first["currency"]), (&json!("12.50"), &json!("EUR")));
}

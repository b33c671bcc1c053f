//! Ten thousand random and malformed requests: none is answered with a 5xx, none traps a component, and the
//! service works on afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::{Value, json};
use system::System;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 16;

/// JSON of any shape, with a weakness for what stands at the edge of a rule.
fn any_json() -> impl Strategy<Value = Value> {
    let edge = prop::sample::select(vec![
        json!(null),
        json!(-0.0),
        json!(0),
        json!(-1),
        json!(99999999.99),
        json!(1e308),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(""),
        json!(" "),
        json!("."),
        json!("x".repeat(64)),
        json!("x".repeat(65)),
        json!("\u{0}"),
        json!("é"),
        json!("1e400"),
        json!("-1"),
        json!("0.001"),
        json!("99999999.99"),
        json!("USD"),
        json!([]),
        json!({}),
    ]);
    let leaf = prop_oneof![
        edge,
        any::<i64>().prop_map(Value::from),
        ".{0,80}".prop_map(Value::from),
        any::<bool>().prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((".{0,8}", inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// The body of an order whose fields hold anything, or are missing.
fn nearly_an_order() -> impl Strategy<Value = Vec<u8>> {
    let names = ["order_id", "user_id", "item_ids", "items_ids", "total_amount", "currency"];
    let fields =
        names.map(|name| prop::option::weighted(0.8, any_json().prop_map(move |value| (name.to_owned(), value))));
    fields.prop_map(|fields| {
        let order: serde_json::Map<String, Value> = fields.into_iter().flatten().collect();
        serde_json::to_vec(&order).unwrap()
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => nearly_an_order(),
        2 => any_json().prop_map(|json| serde_json::to_vec(&json).unwrap()),
        2 => any::<Vec<u8>>(),
        1 => (1usize..2_000).prop_map(|depth| "[".repeat(depth).into_bytes()),
        1 => (1usize..400_000).prop_map(|length| vec![b'9'; length]),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "/v1/orders",
        "/v1/metrics",
        "/order-service/order/create",
        "/order-service/order/order-status",
        "/order-service/order/order-metric",
        "/api/v1/orders",
        "/api/v1/metrics",
        "/orders",
        "/metrics",
        "/api/order",
        "/api/metrics",
        "/order",
    ]);
    // Every byte of a path may come percent-encoded.
    let segment =
        any::<Vec<u8>>().prop_map(|bytes| bytes.iter().take(40).map(|byte| format!("%{byte:02X}")).collect::<String>());
    let tail = prop_oneof![
        3 => Just(String::new()),
        2 => segment.clone().prop_map(|segment| format!("/{segment}")),
        1 => segment.clone().prop_map(|segment| format!("/{segment}/status")),
        1 => segment.prop_map(|segment| format!("?order_id={segment}")),
        1 => Just("?order_id=a&order_id=b".to_owned()),
        1 => "[a-z/%?&=.;:@!$'()*+,-]{0,40}".prop_map(|text| format!("/{}", text.replace('%', "%25"))),
    ];
    (known, tail).prop_map(|(known, tail)| format!("{known}{tail}"))
}

fn request() -> impl Strategy<Value = (Method, String, Option<String>, Vec<u8>)> {
    let method = prop::sample::select(vec![
        Method::POST,
        Method::POST,
        Method::POST,
        Method::GET,
        Method::GET,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
    ]);
    let content_type = prop_oneof![
        8 => Just(Some("application/json".to_owned())),
        1 => Just(None),
        1 => "[ -~]{0,30}".prop_map(Some),
    ];
    (method, path(), content_type, body())
}

#[tokio::test]
async fn ten_thousand_requests_of_any_kind_do_no_harm() {
    let system = Arc::new(System::start_with(&[("processing_time_ms", "0")]).await);
    let (answered, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients = LocalSet::new();
    let mut ended = Vec::new();
    for client in 0..CLIENTS {
        let (system, answered, accepted) = (system.clone(), answered.clone(), accepted.clone());
        // On this thread: proptest's strategies stay on theirs.
        ended.push(clients.spawn_local(async move {
            // Seeded by the client's number: a run that fails fails again.
            let rng = proptest::test_runner::TestRng::from_seed(Default::default(), &[client as u8; 32]);
            let mut runner = TestRunner::new_with_rng(Default::default(), rng);
            let requests = request();
            for _ in 0..REQUESTS / CLIENTS {
                let (method, path, content_type, body) = requests.new_tree(&mut runner).unwrap().current();
                let headers: Vec<_> = content_type.iter().map(|value| ("content-type", value.as_str())).collect();
                let context = format!(
                    "{method} {path} {content_type:?} {:?}",
                    String::from_utf8_lossy(&body[..body.len().min(300)])
                );
                let body = (method != Method::GET && method != Method::HEAD).then_some(body);
                // An answer before the end of a long body may cost the connection; that is the client's fault.
                let Some(reply) = system.try_send(method, &path, &headers, body).await else { continue };
                answered.fetch_add(1, Ordering::Relaxed);
                assert!(!reply.status.is_server_error(), "{}: {context}", reply.status);
                if reply.status.is_success() {
                    accepted.fetch_add(1, Ordering::Relaxed);
                } else if !reply.body.is_empty() {
                    assert_eq!(reply.json()["status"], reply.status.as_u16(), "{context}");
                }
            }
        }));
    }
    clients.await;
    for client in ended {
        client.await.unwrap();
    }
    let answered = answered.load(Ordering::Relaxed);
    assert!(answered > REQUESTS * 9 / 10, "{answered} of {REQUESTS} requests were answered");
    assert!(accepted.load(Ordering::Relaxed) > 0, "some of the requests are good ones");

    let order = json!({ "order_id": "after", "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
    assert_eq!(system.post("/v1/orders", &order).await.status, 202);
    system.completed("after").await;
    let metrics = system.settled().await;
    assert_eq!(metrics["total_orders"], metrics["orders_by_status"]["Completed"]);
}

#[tokio::test]
async fn what_is_not_http_ends_its_connection_and_nothing_else() {
    let system = System::start().await;
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/metrics HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
        b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(system.authority()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(!status.starts_with('5'), "{:?}: {answer}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(system.get("/v1/metrics").await.status, 200);
}

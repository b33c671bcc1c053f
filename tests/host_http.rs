//! What the host does with connections and requests before a component sees them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use host::hook::{CallHook, CallKind, Fate, HostCall};
use host::{App, Options};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use system::{Setup, System};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn order(order_id: &str) -> Value {
    json!({ "order_id": order_id, "user_id": "u", "item_ids": ["book"], "total_amount": "1.00" })
}

/// Sends a request on a connection of its own, and returns the status, the content type and the body.
async fn send(authority: &str, request: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.write_all(request).await.unwrap();
    // A connection is reset if the host did not read all that was sent.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (status, content_type.to_owned(), body.to_owned())
}

#[tokio::test]
async fn what_the_host_refuses_is_a_problem() {
    if system::on_spin() {
        return;
    }
    let system = System::start().await;
    for (request, status, title) in [
        (&b"GET /v1/metrics HTTP/1.1\r\nConnection: close\r\n\r\n"[..], 400, "Bad Request"),
        (b"GET /v1/metrics HTTP/1.1\r\nHost: a\r\nHost: a\r\nConnection: close\r\n\r\n", 400, "Bad Request"),
        (b"GET /v1/metrics HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n", 400, "Bad Request"),
        (b"GET /.well-known/spin/health HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "Bad Request"),
    ] {
        let (answered, content_type, body) = send(system.authority(), request).await;
        let context = format!("{:?}: {body}", String::from_utf8_lossy(request));
        assert_eq!((answered, content_type.as_str()), (status, "application/problem+json"), "{context}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["type"], "about:blank", "{context}");
        assert_eq!((&problem["title"], &problem["status"]), (&json!(title), &json!(status)), "{context}");
        assert!(problem["detail"].as_str().unwrap().ends_with('.'), "{context}");
    }
    // HTTP/1.0 needs no Host.
    let (status, ..) = send(system.authority(), b"GET /v1/metrics HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn the_head_of_a_request_is_bounded() {
    if system::on_spin() {
        return;
    }
    let system = System::start().await;
    let request = |length: usize| {
        let value = "x".repeat(length);
        format!("GET /v1/metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {value}\r\n\r\n").into_bytes()
    };
    for (length, status) in [(31_000, 200), (33_000, 431), (60_000, 431)] {
        assert_eq!(send(system.authority(), &request(length)).await.0, status, "{length}");
    }
}

/// Opens connections as long as the limits of this process let it, which are raised.
async fn open(system: &System, count: usize, sent: &[u8]) -> Vec<TcpStream> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(system.authority()).await.unwrap();
        stream.write_all(sent).await.unwrap();
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn five_thousand_idle_connections_stop_no_order() {
    if system::on_spin() {
        return;
    }
    let setup = Setup { variables: &[("processing_time_ms", "0")], limits: "-n 1024", ..Setup::default() };
    let system = System::start_as(setup).await;
    let mut idle = Vec::new();
    for batch in 0..10 {
        // Half of them begin a request and get no further.
        let sent = if batch % 2 == 0 { &b""[..] } else { b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Le" };
        idle.extend(open(&system, 500, sent).await);
        let order_id = format!("order-{batch}");
        assert_eq!(system.post("/v1/orders", &order(&order_id)).await.status, 202);
        system.completed(&order_id).await;
    }
    assert_eq!(idle.len(), 5_000);
    // The last ones are kept: one can still send its request.
    let mut last = idle.pop().unwrap();
    last.write_all(b"ngth: 2\r\nConnection: close\r\n\r\n{}").await.unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(system.settled().await["orders_by_status"]["Completed"], 10);
}

#[tokio::test]
async fn nobody_else_can_read_the_orders() {
    if system::on_spin() {
        return;
    }
    let system = System::start().await;
    assert_eq!(system.post("/v1/orders", &order("x")).await.status, 202);
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(system.state_dir()), 0o700);
    let files: Vec<_> = std::fs::read_dir(system.state_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "a database in WAL mode has files beside it: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn the_usual_limit_for_files_is_raised() {
    if system::on_spin() {
        return;
    }
    let system = System::start_as(Setup { limits: "-S -n 300", ..Setup::default() }).await;
    let mut idle = open(&system, 600, b"").await;
    assert_eq!(system.post("/v1/orders", &order("x")).await.status, 202);
    for stream in &mut idle {
        stream.write_all(b"GET /v1/orders/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn the_host_serves_nothing_when_a_component_says_that_it_cannot() {
    system::build();
    let folder = tempfile::tempdir().unwrap();
    let path = system::manifest_without_ready_path(folder.path());
    let manifest = std::fs::read_to_string(&path).unwrap();
    let start = async |ready_path: &str| {
        let ready = format!("\n[component.order-api.tool.host]\nready_path = \"{ready_path}\"\n");
        std::fs::write(&path, format!("{manifest}{ready}")).unwrap();
        let app = App::load(&path, Options::new(folder.path().join("state"))).unwrap();
        app.start("127.0.0.1:0".parse().unwrap()).await
    };
    start("/v1/metrics").await.unwrap().stop().await.unwrap();
    let error = start("/v1/orders/missing").await.err().expect("404 is a refusal").to_string();
    assert!(error.starts_with("component \"order-api\" cannot serve: ") && !error.contains('{'), "{error}");
}

/// Holds the insertion of an order up, once, as soon as it is armed: a migration inserts orders too.
#[derive(Default)]
struct HoldsUp {
    is_armed: AtomicBool,
    holds: AtomicBool,
}

impl CallHook for HoldsUp {
    fn fate(&self, call: HostCall<'_>) -> Fate {
        let inserts = call.kind == CallKind::SqliteExecute && call.subject.starts_with("INSERT INTO orders");
        match inserts && self.is_armed.swap(false, Ordering::Relaxed) {
            true => {
                self.holds.store(true, Ordering::Relaxed);
                Fate::Delay(Duration::from_secs(3), Box::new(Fate::Proceed))
            }
            false => Fate::Proceed,
        }
    }
}

#[tokio::test]
async fn a_request_that_waits_is_not_carried_out_once_its_client_is_gone() {
    system::build();
    let state = tempfile::tempdir().unwrap();
    let mut options = Options::new(state.path());
    let hold_up = Arc::new(HoldsUp::default());
    options.hook = Some(hold_up.clone());
    // One instance, which takes one request.
    options.reuse.accepting_instances = 1;
    options.reuse.max_instances = 1;
    options.reuse.max_instance_concurrent_reuse_count = 1;
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin.toml");
    let app = App::load(&manifest, options).unwrap().start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    hold_up.is_armed.store(true, Ordering::Relaxed);
    let url = format!("http://{}/v1/orders", app.address().unwrap());
    let client = reqwest::Client::new();
    let post = async |order_id: &str| client.post(&url).json(&order(order_id)).send().await.unwrap().status();

    let impatient = async {
        while !hold_up.holds.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut stream = TcpStream::connect(app.address().unwrap()).await.unwrap();
        let body = order("gone").to_string();
        let head = format!("Host: a\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        stream.write_all(format!("POST /v1/orders HTTP/1.1\r\n{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let (first, ()) = tokio::join!(post("first"), impatient);
    assert_eq!(first, 202);
    assert_eq!(post("last").await, 202);
    assert_eq!(client.get(format!("{url}/last")).send().await.unwrap().status(), 200);
    assert_eq!(client.get(format!("{url}/gone")).send().await.unwrap().status(), 404);
    app.stop().await.unwrap();
}

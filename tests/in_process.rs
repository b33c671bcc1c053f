//! The real components in this process, with a clock that the test drives and calls that it lets fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use host::hook::{CallHook, CallKind, Fate, HostCall};
use host::{App, Clock, KeyValueLocation, Options, RunningApp, TestClock};
use serde_json::{Value, json};

const NOW: Duration = Duration::from_secs(1_800_000_000);

struct Running {
    app: RunningApp,
    client: reqwest::Client,
    clock: Arc<TestClock>,
    _state: tempfile::TempDir,
}

impl Running {
    /// Starts the system with a clock that stands at [`NOW`] and runs with tokio's time.
    async fn start(variables: &[(&str, &str)], hook: Option<Arc<dyn CallHook>>) -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin.toml");
        Self::start_from(&manifest, variables, hook).await
    }

    async fn start_from(manifest: &Path, variables: &[(&str, &str)], hook: Option<Arc<dyn CallHook>>) -> Self {
        system::build();
        let state = tempfile::tempdir().unwrap();
        let clock = TestClock::starting_at(NOW);
        let mut options = Options::new(state.path());
        options.variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        options.clock = Clock::Test(clock.clone());
        options.hook = hook;
        options.single_threaded = true;
        let app = App::load(manifest, options).unwrap().start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self { app, client: reqwest::Client::new(), clock, _state: state }
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.app.address().unwrap());
        self.client.get(url).send().await.unwrap().json().await.unwrap()
    }

    async fn order(&self, order_id: &str) -> u16 {
        let url = format!("http://{}/v1/orders", self.app.address().unwrap());
        let body = json!({ "order_id": order_id, "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
        self.client.post(url).json(&body).send().await.unwrap().status().as_u16()
    }

    /// Waits for an order's status, or for that of a problem, which is a number.
    async fn wait_for(&self, order_id: &str, status: impl Into<Value>) -> Value {
        let status = status.into();
        for _ in 0..600 {
            let order = self.get(&format!("/v1/orders/{order_id}")).await;
            if order["status"] == status {
                return order;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{order_id} is not {status} within a minute");
    }
}

#[tokio::test]
async fn an_hour_of_processing_passes_when_the_clock_says_so() {
    let system = Running::start(&[("processing_time_ms", "3600000")], None).await;
    assert_eq!(system.order("slow").await, 202);
    let started = system.wait_for("slow", "Processing").await;
    assert!(started["created_at"].as_str().unwrap().starts_with("2027-01-15T08:00:0"), "{started}");
    system.clock.jump(3_600_000);
    let completed = system.wait_for("slow", "Completed").await;
    assert!(completed["completed_at"].as_str().unwrap().starts_with("2027-01-15T09:00:0"), "{completed}");
    assert_eq!(completed["attempts"], 1);
    system.app.stop().await.unwrap();
}

#[tokio::test]
async fn the_timer_trigger_is_another_door_to_the_same_worker() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = std::fs::read_to_string(project.join("spin.toml")).unwrap();
    let (before, after) = manifest.split_once("[[trigger.cron]]").unwrap();
    let (_, after) = after.split_once("[component.order-api]").unwrap();
    let timer = "[[trigger.timer]]\ninterval_secs = 1\ncomponent = \"order-worker\"\n\n[component.order-api]";
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(project.join("target"), folder.path().join("target")).unwrap();
    let path = folder.path().join("spin.toml");
    std::fs::write(&path, format!("{before}{timer}{after}")).unwrap();

    let system = Running::start_from(&path, &[("processing_time_ms", "10")], None).await;
    assert_eq!(system.order("timed").await, 202);
    assert_eq!(system.wait_for("timed", "Completed").await["attempts"], 1);
    system.app.stop().await.unwrap();
}

/// Lets every call of one kind fail, with this error.
struct Broken {
    kind: CallKind,
    error: &'static str,
    failed: AtomicUsize,
}

impl Broken {
    fn new(kind: CallKind, error: &'static str) -> Arc<Self> {
        Arc::new(Self { kind, error, failed: AtomicUsize::new(0) })
    }
}

impl CallHook for Broken {
    fn fate(&self, call: HostCall<'_>) -> Fate {
        if call.kind != self.kind {
            return Fate::Proceed;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        Fate::FailBefore(self.error.to_owned())
    }
}

#[tokio::test]
async fn a_queue_that_takes_no_messages_loses_no_order() {
    let broken = Broken::new(CallKind::KeyValueSet, "the test says so");
    let system = Running::start(&[("processing_time_ms", "0")], Some(broken.clone())).await;
    assert_eq!(system.order("unannounced").await, 202);
    let completed = system.wait_for("unannounced", "Completed").await;
    assert_eq!(completed["attempts"], 1);
    assert_eq!(broken.failed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_queue_that_gives_no_messages_loses_no_order() {
    let broken = Broken::new(CallKind::KeyValueKeys, "the test says so");
    let system = Running::start(&[("processing_time_ms", "0")], Some(broken.clone())).await;
    assert_eq!(system.order("unheard").await, 202);
    system.wait_for("unheard", "Completed").await;
    assert!(broken.failed.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn without_its_database_the_service_says_so_and_accepts_nothing() {
    for (error, status, kind) in [
        ("database is locked", 503, "unavailable"),
        ("database or disk is full", 503, "unavailable"),
        ("attempt to write a readonly database", 503, "unavailable"),
        ("unable to open database file", 503, "unavailable"),
        ("database disk image is malformed", 500, "internal"),
    ] {
        for call in [CallKind::SqliteOpen, CallKind::SqliteExecute] {
            let folder = tempfile::tempdir().unwrap();
            let manifest = system::manifest_without_ready_path(folder.path());
            let system = Running::start_from(&manifest, &[], Some(Broken::new(call, error))).await;
            assert_eq!(system.order("refused").await, status, "{error}");
            assert_eq!(system.get("/v1/metrics").await["type"], format!("urn:problem-type:orders:{kind}"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_database_of_a_newer_build_is_told_and_left_alone() {
    let newer = Arc::new(Newer::default());
    let system = Running::start(&[], Some(newer.clone())).await;
    assert_eq!(system.order("before").await, 202);
    newer.0.store(true, Ordering::Relaxed);
    // The connections that are open go on; a new instance has new ones.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(system.order("after").await, 503);
    assert_eq!(system.get("/v1/metrics").await["type"], "urn:problem-type:orders:unavailable");
    assert_eq!(newer.1.load(Ordering::Relaxed), 0, "it took no write lock");
}

/// Lets the database look as if a newer build had been there, and counts the write locks that are asked for then.
#[derive(Default)]
struct Newer(AtomicBool, AtomicUsize);

impl CallHook for Newer {
    fn fate(&self, call: HostCall<'_>) -> Fate {
        if self.0.load(Ordering::Relaxed) && call.subject.starts_with("BEGIN") {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        Fate::Proceed
    }

    fn rewrite(&self, statement: &str) -> Option<String> {
        let reads_version = statement.contains("max(version)");
        (self.0.load(Ordering::Relaxed) && reads_version).then(|| "SELECT 1000".to_owned())
    }
}

#[tokio::test]
async fn a_variable_that_breaks_its_rule_is_told_before_anything_is_served() {
    for (name, value, rule) in [
        ("lease_ms", "soon", "a whole number from 1000 to 3600000"),
        ("max_batch", "0", "a whole number from 1 to 1000"),
        ("max_backlog", "-1", "a whole number from 1 to 1000000000"),
        ("processing_time_ms", "1s", "a whole number from 0 to 86400000"),
        ("caller_header", "a b", "a header name of at most 64 characters, or empty"),
    ] {
        system::build();
        let state = tempfile::tempdir().unwrap();
        let mut options = Options::new(state.path());
        options.variables = [(name.to_owned(), value.to_owned())].into();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin.toml");
        let app = App::load(&manifest, options).unwrap();
        let error = app.start("127.0.0.1:0".parse().unwrap()).await.err().expect("it serves nothing").to_string();
        assert!(error.ends_with(&format!("variable {name} must be {rule}, not {value:?}")), "{error}");
    }
}

#[tokio::test]
async fn orders_are_removed_when_their_time_is_over() {
    let system = Running::start(&[("processing_time_ms", "0"), ("retention_days", "2")], None).await;
    assert_eq!(system.order("old").await, 202);
    system.wait_for("old", "Completed").await;
    system.clock.jump(24 * 3_600_000);
    assert_eq!(system.order("young").await, 202);
    system.wait_for("young", "Completed").await;
    assert_eq!(system.get("/v1/orders/old").await["status"], "Completed");
    system.clock.jump(25 * 3_600_000);
    system.wait_for("old", 404).await;
    assert_eq!(system.get("/v1/orders/young").await["status"], "Completed");
    assert_eq!(system.get("/v1/metrics").await["total_orders"], 1);
}

#[tokio::test]
async fn the_api_and_the_worker_run_apart_on_the_same_data() {
    system::build();
    let state = tempfile::tempdir().unwrap();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin.toml");
    let start = async |component: &str| {
        let mut options = Options::new(state.path());
        options.variables = [("processing_time_ms".to_owned(), "0".to_owned())].into();
        options.components = vec![component.to_owned()];
        options.key_value = KeyValueLocation::File;
        App::load(&manifest, options).unwrap().start("127.0.0.1:0".parse().unwrap()).await.unwrap()
    };
    let api = start("order-api").await;
    let client = reqwest::Client::new();
    let url = format!("http://{}/v1/orders", api.address().unwrap());
    let body = json!({ "order_id": "a", "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
    assert_eq!(client.post(&url).json(&body).send().await.unwrap().status(), 202);
    // Longer than a tick, and than the time after which a worker needs no message.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let status = async || -> Value {
        let order: Value = client.get(format!("{url}/a")).send().await.unwrap().json().await.unwrap();
        order["status"].clone()
    };
    assert_eq!(status().await, "Pending", "nobody works here");
    let worker = start("order-worker").await;
    assert_eq!(worker.address(), None);
    for _ in 0..600 {
        if status().await == "Completed" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status().await, "Completed");
    worker.stop().await.unwrap();
    assert_eq!(status().await, "Completed");
    api.stop().await.unwrap();
    let mut options = Options::new(state.path());
    options.components = vec!["order-wroker".to_owned()];
    let error = App::load(&manifest, options).err().expect("there is no such component").to_string();
    assert!(error.contains("order-wroker") && error.contains("order-worker"), "{error}");
}

//! Runs the whole system for a test, on the embedded host or, with `ORDERS_RUNTIME=spin`, on `spin up` (Spin
//! 4.1 with the cron plugin on PATH), and talks to it over HTTP.

pub mod postgres_server;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything that must happen may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
enum Runtime {
    /// The binary of `cargo up`.
    Host(PathBuf),
    Spin,
}

/// Builds what is to be tested, once per test process.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| match std::env::var("ORDERS_RUNTIME").as_deref() {
        Ok("spin") => {
            run(Command::new("spin").arg("build"));
            Runtime::Spin
        }
        Err(_) | Ok("" | "host") => {
            let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
            // No package is named, as in `cargo up` and `cargo test`: dependencies are then built once for all.
            let output = run(Command::new(cargo).args(["build", "--quiet", "--bin", "host", "--message-format=json"]));
            let messages = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let binary = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
            let binary = binary.expect("the package host has a binary");
            run(Command::new(&binary).arg("build"));
            Runtime::Host(binary)
        }
        Ok(other) => panic!("ORDERS_RUNTIME is {other:?}; it may be host or spin"),
    })
}

/// Builds the components and the host, for tests that load them themselves.
pub fn build() {
    runtime();
}

/// Whether the tests run on `spin up`, which has no deadline for calls of triggers, among others.
pub fn on_spin() -> bool {
    *runtime() == Runtime::Spin
}

/// Builds the processor for tests (`tests/processor`), and returns a manifest like `spin.toml` that has it in the place
/// of the default one.
pub fn manifest_with_test_processor() -> &'static Path {
    static MANIFEST: OnceLock<PathBuf> = OnceLock::new();
    MANIFEST.get_or_init(|| {
        let runtime = runtime();
        let mut manifest = std::fs::read_to_string(project().join("spin.toml")).expect("there is a manifest");
        for (from, to) in [
            ("fulfillment.wasm", "processor.wasm"),
            ("-p fulfillment", "-p processor"),
            (
                "\n[component.order-worker]\n",
                "\n[component.order-worker]\nallowed_outbound_hosts = [\"http://127.0.0.1:*\"]\n",
            ),
            // It is in a folder of its own below the project's.
            ("\"target/wasm32-wasip2/", "\"../wasm32-wasip2/"),
            ("\ncommand = \"cargo build", "\nworkdir = \"../..\"\ncommand = \"cargo build"),
        ] {
            assert!(manifest.contains(from), "{from:?} is missing in spin.toml");
            manifest = manifest.replace(from, to);
        }
        let folder = project().join("target/test-processor");
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let path = folder.join("spin.toml");
        // Other test processes may read it now.
        let draft = folder.join(format!("spin.toml.{}", std::process::id()));
        std::fs::write(&draft, manifest).and_then(|()| std::fs::rename(&draft, &path)).expect("it can be written");
        let mut build = match runtime {
            Runtime::Host(binary) => Command::new(binary),
            Runtime::Spin => Command::new("spin"),
        };
        run(build.args(["build", "-f"]).arg(&path));
        path
    })
}

/// A copy of the manifest in `folder` with which the host asks nothing before it serves; what it refers to is linked
/// beside it.
pub fn manifest_without_ready_path(folder: &Path) -> PathBuf {
    std::os::unix::fs::symlink(project().join("target"), folder.join("target")).expect("the folder can be written");
    let manifest = std::fs::read_to_string(project().join("spin.toml")).expect("there is a manifest");
    let lines = manifest.lines().filter(|line| !line.contains("tool.host") && !line.starts_with("ready_path"));
    let path = folder.join("spin.toml");
    let manifest: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, manifest).expect("the folder can be written");
    path
}

fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn run(command: &mut Command) -> String {
    // Cargo sets these for tests, and would then build anew whatever looks at them (ring), and all that is above it.
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
    {
        command.env_remove(name);
    }
    let output = command.current_dir(project()).stderr(Stdio::inherit()).output().expect("the command can be run");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?} failed: {stdout}");
    stdout
}

/// What a system is started with.
#[derive(Clone, Copy, Default)]
pub struct Setup<'a> {
    /// Application variables.
    pub variables: &'a [(&'static str, &'a str)],
    /// Whether the processor for tests takes the place of the default one.
    pub test_processor: bool,
    /// Flags for `cargo up`; Spin does not get them.
    pub host_flags: &'a [&'a str],
    /// Arguments for the shell's `ulimit`, where the limits are not to be those of the test.
    pub limits: &'a str,
}

/// The system under test: a server process (and, on Spin, its triggers) on data of its own.
pub struct System {
    base: String,
    variables: Vec<(&'static str, String)>,
    manifest: PathBuf,
    host_flags: Vec<String>,
    limits: String,
    state: TempDir,
    process: Option<Child>,
    client: reqwest::Client,
}

impl System {
    /// Starts the system on an empty state, with orders that take 50 ms.
    pub async fn start() -> Self {
        Self::start_with(&[("processing_time_ms", "50")]).await
    }

    /// Starts the system on an empty state, with these application variables.
    pub async fn start_with(variables: &[(&'static str, &str)]) -> Self {
        Self::start_as(Setup { variables, ..Setup::default() }).await
    }

    /// Starts the system on an empty state.
    pub async fn start_as(setup: Setup<'_>) -> Self {
        let manifest = match setup.test_processor {
            true => manifest_with_test_processor().to_owned(),
            false => project().join("spin.toml"),
        };
        let mut system = Self {
            base: String::new(),
            variables: setup.variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            manifest,
            host_flags: setup.host_flags.iter().map(|flag| (*flag).to_owned()).collect(),
            limits: setup.limits.to_owned(),
            state: tempfile::tempdir().expect("there is room for temporary files"),
            process: None,
            client: reqwest::Client::builder().timeout(PATIENCE).build().expect("a client can be made"),
        };
        system.start_process().await;
        system
    }

    async fn start_process(&mut self) {
        let state = self.state.path().to_str().expect("temporary folders have plain names");
        let mut arguments = Vec::new();
        let program = match runtime() {
            Runtime::Host(binary) => {
                arguments.extend(["up", "--skip-build", "--listen", "127.0.0.1:0"].map(str::to_owned));
                arguments.extend(self.host_flags.iter().cloned());
                binary.as_path()
            }
            Runtime::Spin => {
                // Spin does not tell the port that the system chose for it.
                let free = TcpListener::bind("127.0.0.1:0").expect("there is a free port").local_addr().unwrap();
                arguments.extend(["up", "--listen", &free.to_string()].map(str::to_owned));
                Path::new("spin")
            }
        };
        // A shell that has nothing to limit is replaced by the program all the same.
        let limit = if self.limits.is_empty() { ":".to_owned() } else { format!("ulimit {}", self.limits) };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")]).arg(program);
        command.args(arguments).args(["--state-dir", state, "--from"]).arg(&self.manifest);
        for (name, value) in &self.variables {
            command.env(format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase()), value);
        }
        // A process group of its own: Spin's triggers are processes, and end with it.
        command.current_dir(project()).stdout(Stdio::piped()).process_group(0);
        let mut process = command.spawn().expect("the runtime can be started");
        let stdout = process.stdout.take().expect("it is piped");
        self.process = Some(process);
        let (found, base) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut found = Some(found);
            // Reads to the end, so that the process never waits for a reader.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let url = line.split_whitespace().find(|word| word.starts_with("http://"));
                if let Some(url) = url.filter(|_| line.to_ascii_lowercase().contains("serving"))
                    && let Some(found) = found.take()
                {
                    let _ = found.send(url.to_owned());
                }
            }
        });
        let base = tokio::time::timeout(PATIENCE, base).await.expect("the system starts in time");
        self.base = base.expect("the system says where it serves");
    }

    /// Kills all its processes as `kill -9` does: none of them can do anything about it.
    pub fn kill(&self) {
        let process = self.process.as_ref().expect("it was started");
        let killed = Command::new("kill").args(["-9", "--", &format!("-{}", process.id())]).status();
        assert!(killed.is_ok_and(|status| status.success()), "the system was running");
    }

    /// Asks it to stop, as Ctrl+C does.
    pub fn interrupt(&self) {
        let process = self.process.as_ref().expect("it was started");
        let asked = Command::new("kill").args(["-INT", &process.id().to_string()]).status();
        assert!(asked.is_ok_and(|status| status.success()), "the system was running");
    }

    /// Waits until its process has ended by itself; whether that was a success.
    pub async fn ended(&mut self) -> bool {
        let process = self.process.as_mut().expect("it was started");
        let begin = Instant::now();
        loop {
            if let Some(status) = process.try_wait().expect("the process can be asked") {
                self.process = None;
                return status.success();
            }
            assert!(begin.elapsed() < PATIENCE, "it still runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where its data is.
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// Kills its processes one by one, as `kill -9` does: on Spin, whose triggers are processes, now the one and now
    /// the other first, with a moment between them.
    pub fn kill_in_parts(&self, turn: usize) {
        let process = self.process.as_ref().expect("it was started");
        let pid = process.id().to_string();
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &pid]).output().map(|output| output.stdout);
        let children = String::from_utf8(children.unwrap_or_default()).unwrap_or_default();
        let children: Vec<&str> = children.split_whitespace().collect();
        if let Some(child) = (!children.is_empty()).then(|| children[turn % children.len()]) {
            let _ = Command::new("kill").args(["-9", child]).status();
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = Command::new("kill").args(["-9", "--", &format!("-{pid}")]).status();
    }

    /// Starts it again on the same data, after [`Self::kill`].
    pub async fn restart(&mut self) {
        let killed = self.process.take().expect("it was started").wait();
        assert!(killed.is_ok_and(|status| !status.success()), "kill it first");
        self.start_process().await;
    }

    /// Where it serves: `127.0.0.1:port`.
    pub fn authority(&self) -> &str {
        self.base.strip_prefix("http://").expect("the base is an http URL")
    }

    /// Sends a request; `None` when the connection broke or was refused.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Option<Reply> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status(), response.headers().clone());
        Some(Reply { status, headers, body: response.bytes().await.ok()?.to_vec() })
    }

    /// Sends a request and expects an answer.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> Reply {
        self.try_send(method, path, headers, body).await.expect("the system answers")
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], None).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        let body = serde_json::to_vec(body).expect("a value is JSON");
        self.send(Method::POST, path, &[("content-type", "application/json")], Some(body)).await
    }

    /// Runs a curl command of a document as it is written; its local address becomes that of the system.
    pub async fn curl(&self, command: &str) -> Reply {
        let mut words = shlex::split(command).expect("the command is one of a shell").into_iter();
        assert_eq!(words.next().as_deref(), Some("curl"));
        let (mut method, mut headers, mut body, mut url) = (None, Vec::new(), None, None);
        while let Some(word) = words.next() {
            let mut argument = || words.next().expect("the option has an argument");
            match word.as_str() {
                "-X" | "--request" => method = Some(argument()),
                "-H" | "--header" => headers.push(argument()),
                "-d" | "--data-raw" => body = Some(argument()),
                // shlex makes a word of a continued line's end.
                "--location" | "-i" | "" => {}
                _ => url = Some(word),
            }
        }
        let url = url.expect("the command has a URL");
        let local = url.strip_prefix("http://localhost:").or(url.strip_prefix("http://127.0.0.1:"));
        let (_, path) = local.and_then(|rest| rest.split_once('/')).expect("a local URL");
        let method = method.unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.to_owned());
        let headers: Vec<_> = headers.iter().map(|header| header.split_once(": ").expect("name: value")).collect();
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        self.send(method, &format!("/{path}"), &headers, body.map(String::into_bytes)).await
    }

    /// Waits until the order is `Completed`, and answers it.
    pub async fn completed(&self, order_id: &str) -> Value {
        let path = format!("/v1/orders/{order_id}");
        let begin = Instant::now();
        loop {
            let order = self.get(&path).await.json();
            if order["status"] == "Completed" {
                return order;
            }
            assert!(begin.elapsed() < PATIENCE, "not completed in time: {order}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until no order is Pending or Processing, and answers the metrics.
    pub async fn settled(&self) -> Value {
        let begin = Instant::now();
        loop {
            let metrics = self.get("/v1/metrics").await.json();
            if metrics["orders_by_status"]["Pending"] == 0 && metrics["orders_by_status"]["Processing"] == 0 {
                return metrics;
            }
            assert!(begin.elapsed() < PATIENCE, "not settled in time: {metrics}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = Command::new("kill").args(["-9", "--", &format!("-{}", process.id())]).status();
            let _ = process.wait();
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of a header, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are ASCII"))
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Checks that this is a problem of the given kind, complete as RFC 9457 wants it, and answers it.
    pub fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:problem-type:orders:{kind}"), "{problem}");
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        problem
    }
}

//! The measurements. Each compares systems within one run, in rounds that take turns, by the medians.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::database;
use crate::load::{Answers, Body, Oha, Traffic};
use crate::process::{Built, System};

/// An order that the service gives a name: each request is another one.
const ORDER: Body =
    Body::Text(r#"{"user_id":"user-7","item_ids":["book","pen","ink"],"total_amount":"12.50","currency":"EUR"}"#);

/// How many orders the worker takes at once.
pub const BATCH: usize = 1_000;

/// How much is measured.
#[derive(Args, Clone, Copy, Debug)]
pub struct Extent {
    /// Rounds of each comparison.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of traffic in each round.
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// Orders that are stored while requests are compared.
    #[arg(long, default_value_t = 1_000_000)]
    pub stored: u64,
    /// Orders that the table grows to.
    #[arg(long, default_value_t = 10_000_000)]
    pub grown: u64,
    /// Minutes of steady traffic while the memory is watched.
    #[arg(long, default_value_t = 10)]
    pub soak_minutes: u64,
}

/// What is needed to measure.
#[derive(Clone)]
pub struct Bench {
    /// What has been built.
    pub built: Built,
    /// The load generator.
    pub oha: Oha,
    /// How much is measured.
    pub extent: Extent,
}

/// A system's data and its process, which goes first.
struct Running {
    system: System,
    state: TempDir,
}

impl Running {
    fn database(&self) -> Result<Connection> {
        Ok(database::open(&database_file(self.state.path()))?)
    }
}

fn database_file(state: &Path) -> std::path::PathBuf {
    state.join("sqlite_db.db")
}

/// The medians of what was measured several times, by name.
#[derive(Default)]
pub struct Medians(BTreeMap<String, Vec<f64>>);

impl Medians {
    fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.entry(name.into()).or_default().push(value);
    }

    /// The median of `name`; not a number where nothing was measured.
    pub fn of(&self, name: &str) -> f64 {
        median(self.values(name).to_vec())
    }

    /// The sum of `name` over all rounds.
    pub fn sum(&self, name: &str) -> f64 {
        self.values(name).iter().sum()
    }

    fn values(&self, name: &str) -> &[f64] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The median over the rounds of `a` divided by `b` of the same round: what slows a whole round down does not
    /// count.
    pub fn ratio(&self, a: &str, b: &str) -> f64 {
        median(self.values(a).iter().zip(self.values(b)).map(|(a, b)| a / b).collect())
    }
}

/// The upper median; not a number where there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// No order is refused because too many wait.
const NO_BACKLOG_LIMIT: (&str, &str) = ("max_backlog", "1000000000");

impl Bench {
    fn whole(&self, state: &Path, variables: &[(&str, &str)]) -> Result<System> {
        self.built.up(&self.built.whole(), state, &[&[NO_BACKLOG_LIMIT], variables].concat())
    }

    fn intake_only(&self, state: &Path) -> Result<System> {
        self.built.up(&self.built.intake_only, state, &[NO_BACKLOG_LIMIT])
    }

    fn native(&self, state: &Path, with_worker: bool) -> Result<System> {
        let database = database_file(state);
        let mut arguments = vec!["native", "--database", database.to_str().context("UTF-8")?];
        if with_worker {
            arguments.push("--worker");
        }
        System::start(&std::env::current_exe()?, &arguments)
    }

    /// New data with the schema, and `orders` completed orders in it.
    fn state(&self, orders: u64) -> Result<TempDir> {
        // Not in a temporary folder, which may be in memory: the disk is part of what is measured.
        let state = tempfile::tempdir_in(&self.built.target)?;
        let mut connection = database::create(&database_file(state.path()))?;
        database::fill(&mut connection, orders)?;
        Ok(state)
    }

    fn send(&self, url: String, body: Option<Body>, connections: usize) -> Result<Answers> {
        self.oha.send(&Traffic::full(url, body, connections, self.extent.seconds))
    }

    /// Requests per second of hello, the service and the native twin, with each number of connections; and that
    /// everything accepted is stored.
    ///
    /// Names: `{create,read,metrics}/{service,native}/{connections}`, `hello/{connections}` and
    /// `status/service/{connections}`, each also with `/p99` and `/failed`.
    pub fn throughput(&self, connections: &[usize]) -> Result<Medians> {
        let hello_state = tempfile::tempdir_in(&self.built.target)?;
        let hello = self.built.up(&self.built.hello(), hello_state.path(), &[])?;
        let state = self.state(self.extent.stored)?;
        let service = Running { system: self.intake_only(state.path())?, state };
        let state = self.state(self.extent.stored)?;
        let native = Running { system: self.native(state.path(), false)?, state };
        let mut medians = Medians::default();
        for connections in connections {
            let mut accepted = [0, 0];
            let before = [database::counters(&service.database()?)?[0], database::counters(&native.database()?)?[0]];
            for _ in 0..self.extent.rounds {
                let mut measure = |name: &str, url: String, body| -> Result<u64> {
                    let answers = self.send(url, body, *connections)?;
                    let name = format!("{name}/{connections}");
                    medians.add(format!("{name}/p99"), answers.p99_ms);
                    medians.add(format!("{name}/failed"), answers.failed as f64);
                    medians.add(name, answers.per_second);
                    Ok(answers.succeeded)
                };
                measure("hello", hello.base.clone(), None)?;
                for (index, (name, running)) in [("service", &service), ("native", &native)].into_iter().enumerate() {
                    let base = &running.system.base;
                    accepted[index] += measure(&format!("create/{name}"), format!("{base}/v1/orders"), Some(ORDER))?;
                    measure(&format!("read/{name}"), format!("{base}/v1/orders/filled-1"), None)?;
                    measure(&format!("metrics/{name}"), format!("{base}/v1/metrics"), None)?;
                }
                measure("status/service", format!("{}/orders/filled-1/status", service.system.base), None)?;
            }
            for (index, running) in [&service, &native].into_iter().enumerate() {
                let stored = database::counters(&running.database()?)?[0] - before[index];
                ensure!(stored as u64 >= accepted[index], "{} were accepted and {stored} stored", accepted[index]);
            }
        }
        Ok(medians)
    }

    /// Large orders, whose bodies have 117 KB: at 64 connections `create` and `hello`, which reads the same body, per
    /// second; at 1,000 connections `memory` in MiB and how many `timed out`.
    pub fn large_orders(&self) -> Result<Medians> {
        let item_ids = vec!["\\".repeat(60); 950];
        let body = json!({ "user_id": "user-7", "item_ids": item_ids, "total_amount": "12.50" });
        let file = self.built.target.join("bench-large-order.json");
        std::fs::write(&file, body.to_string())?;
        let body = Body::File(file);
        let hello_state = tempfile::tempdir_in(&self.built.target)?;
        let hello = self.built.up(&self.built.hello(), hello_state.path(), &[])?;
        let state = self.state(0)?;
        let running = Running { system: self.intake_only(state.path())?, state };
        let url = format!("{}/v1/orders", running.system.base);
        let mut medians = Medians::default();
        for _ in 0..self.extent.rounds {
            medians.add("hello", self.send(hello.base.clone(), Some(body.clone()), 64)?.per_second);
            medians.add("create", self.send(url.clone(), Some(body.clone()), 64)?.per_second);
        }
        medians.add("timed out", self.send(url, Some(body), 1_000)?.timed_out as f64);
        medians.add("memory", running.system.memory_mib()?.1);
        Ok(medians)
    }

    /// Requests per second of a system that runs somewhere else: create, read, metrics.
    pub fn elsewhere(&self, base: &str, hello: Option<&str>, close: bool) -> Result<Medians> {
        let mut medians = Medians::default();
        let client = reqwest::Client::new();
        let order = json!({ "order_id": "filled-77", "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
        tokio::runtime::Handle::current()
            .block_on(client.post(format!("{base}/v1/orders")).json(&order).send())?
            .error_for_status()?;
        for _ in 0..self.extent.rounds {
            let requests = [
                ("hello", hello.map(str::to_owned), None),
                ("create", Some(format!("{base}/v1/orders")), Some(ORDER)),
                ("read", Some(format!("{base}/v1/orders/filled-77")), None),
                ("metrics", Some(format!("{base}/v1/metrics")), None),
            ];
            for (name, url, body) in requests {
                let Some(url) = url else { continue };
                let traffic = Traffic { close, ..Traffic::full(url, body, 64, self.extent.seconds) };
                let answers = self.oha.send(&traffic)?;
                ensure!(answers.failed == 0, "{} requests of {name} failed", answers.failed);
                medians.add(name, answers.per_second);
            }
        }
        Ok(medians)
    }

    /// Orders per second all the way to Completed, with intake and worker at once: `service`, `native`.
    pub fn whole_way(&self) -> Result<Medians> {
        let mut medians = Medians::default();
        for _ in 0..self.extent.rounds {
            for name in ["service", "native"] {
                let state = self.state(0)?;
                let system = match name {
                    "service" => self.whole(state.path(), &[("processing_time_ms", "0")])?,
                    _ => self.native(state.path(), true)?,
                };
                let running = Running { system, state };
                let begin = Instant::now();
                let accepted = self.send(format!("{}/v1/orders", running.system.base), Some(ORDER), 64)?.succeeded;
                until_completed(&running.database()?, accepted as i64)?;
                medians.add(name, accepted as f64 / begin.elapsed().as_secs_f64());
            }
        }
        Ok(medians)
    }

    /// Follows 1,000 orders, sent at once, one by one to Completed. Answers how many milliseconds the last one took.
    pub fn follow(&self) -> Result<f64> {
        let state = self.state(0)?;
        let running = Running { system: self.whole(state.path(), &[("processing_time_ms", "0")])?, state };
        let base = running.system.base.clone();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
        let begin = Instant::now();
        tokio::runtime::Handle::current().block_on(async {
            let mut orders = JoinSet::new();
            for number in 0..1_000 {
                let (client, base) = (client.clone(), base.clone());
                orders.spawn(async move {
                    let order_id = format!("followed-{number}");
                    let order = json!({ "order_id": order_id, "user_id": "u", "item_ids": ["i"], "total_amount": 1 });
                    client.post(format!("{base}/v1/orders")).json(&order).send().await?.error_for_status()?;
                    loop {
                        let found = client.get(format!("{base}/v1/orders/{order_id}")).send().await?;
                        let found: Value = found.error_for_status()?.json().await?;
                        if found["status"] == "Completed" {
                            return anyhow::Ok(found["attempts"] == 1);
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                });
            }
            while let Some(followed) = orders.join_next().await {
                ensure!(followed??, "an order had more than one attempt");
            }
            Ok(())
        })?;
        Ok(begin.elapsed().as_secs_f64() * 1_000.0)
    }

    /// Orders per second that are worked off when the processor takes no time: `service`, and `plain`, which is
    /// rusqlite making the same changes in batches of the same size.
    pub fn worker(&self, orders: u64) -> Result<Medians> {
        let mut medians = Medians::default();
        for _ in 0..self.extent.rounds {
            let state = self.state(0)?;
            medians.add("service", self.work_off(state.path(), orders)?);
            let state = self.state(0)?;
            let connection = database::open(&database_file(state.path()))?;
            database::fill_pending(&connection, orders)?;
            let first = database::work_once(&connection, BATCH)?;
            let begin = Instant::now();
            while database::work_once(&connection, BATCH)? > 0 {}
            medians.add("plain", (orders - first as u64) as f64 / begin.elapsed().as_secs_f64());
        }
        Ok(medians)
    }

    /// How many waiting orders, those in `state` and as many as `orders`, the service works off per second.
    fn work_off(&self, state: &Path, orders: u64) -> Result<f64> {
        let connection = database::open(&database_file(state))?;
        database::fill_pending(&connection, orders)?;
        let [total, _, _, before] = database::counters(&connection)?;
        let _system = self.whole(state, &[("processing_time_ms", "0")])?;
        // From the first batch on, so that the start of the process and of the tick do not count.
        until_completed(&connection, before + 1)?;
        let (begin, first) = (Instant::now(), database::counters(&connection)?[3]);
        until_completed(&connection, total)?;
        Ok((total - first) as f64 / begin.elapsed().as_secs_f64())
    }

    /// Milliseconds from an order's acceptance to the start of its processing at `rate` orders a second: the
    /// median and the 99th percentile.
    pub fn pickup(&self, rate: u64) -> Result<(f64, f64)> {
        let state = self.state(0)?;
        // One order waits: once it is Completed, the worker has had its first tick.
        let connection = database::open(&database_file(state.path()))?;
        database::fill_pending(&connection, 1)?;
        let system = self.whole(state.path(), &[])?;
        until_completed(&connection, 1)?;
        let url = format!("{}/v1/orders", system.base);
        let full = Traffic::full(url, Some(ORDER), 64, self.extent.seconds.max(10));
        let traffic = Traffic { rate: Some(rate), ..full };
        let accepted = self.oha.send(&traffic)?.succeeded;
        until_completed(&connection, accepted as i64 + 1)?;
        let mut select = connection.prepare("SELECT started_at - created_at FROM orders WHERE seq > 1 ORDER BY 1")?;
        let waits: Vec<i64> = select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        ensure!(!waits.is_empty(), "nothing was accepted");
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize] as f64;
        Ok((at(0.5), at(0.99)))
    }

    /// What share of a processor the system uses when nothing happens.
    pub fn idle(&self) -> Result<f64> {
        let state = self.state(1_000)?;
        let system = self.whole(state.path(), &[])?;
        std::thread::sleep(Duration::from_secs(3));
        let (begin, before) = (Instant::now(), system.cpu()?);
        std::thread::sleep(Duration::from_secs(20));
        Ok((system.cpu()? - before).as_secs_f64() / begin.elapsed().as_secs_f64())
    }

    /// Requests and worked-off orders per second with 1,000 orders in the table, and with as many as the extent
    /// says: `{create,read,status,metrics,claim}/{small,grown}`.
    pub fn growth(&self) -> Result<Medians> {
        let mut medians = Medians::default();
        let grown = self.state(self.extent.grown)?;
        for _ in 0..self.extent.rounds {
            // What is created in a round would be growth itself: the small table is a new one each time.
            let small = self.state(1_000)?;
            for (name, state, orders) in [("small", &small, 1_000), ("grown", &grown, self.extent.grown)] {
                let system = self.intake_only(state.path())?;
                let base = &system.base;
                let any = any_filled(orders);
                let requests = [
                    ("read", format!("{base}/v1/orders/{any}"), true, None, self.extent.seconds),
                    ("status", format!("{base}/orders/{any}/status"), true, None, self.extent.seconds),
                    ("metrics", format!("{base}/v1/metrics"), false, None, self.extent.seconds),
                    ("create", format!("{base}/v1/orders"), false, Some(ORDER), 1),
                ];
                for (what, url, random, body, seconds) in requests {
                    let traffic = Traffic { random, ..Traffic::full(url, body, 64, seconds) };
                    let answers = self.oha.send(&traffic)?;
                    ensure!(answers.failed == 0, "{} of {what} failed", answers.failed);
                    medians.add(format!("{what}/{name}"), answers.per_second);
                }
                drop(system);
                // What was created above is worked off together with as much again.
                medians.add(format!("claim/{name}"), self.work_off(state.path(), 20_000)?);
            }
        }
        Ok(medians)
    }

    /// The most memory in MiB that the whole system has in use while 1,000 connections send as much as they can.
    pub fn memory(&self) -> Result<f64> {
        let state = self.state(self.extent.stored)?;
        let running = Running { system: self.whole(state.path(), &[("processing_time_ms", "0")])?, state };
        let base = &running.system.base;
        for (url, random, body) in [
            (format!("{base}/v1/orders"), false, Some(ORDER)),
            (format!("{base}/v1/orders/{}", any_filled(self.extent.stored)), true, None),
            (format!("{base}/v1/metrics"), false, None),
        ] {
            let traffic = Traffic { random, ..Traffic::full(url, body, 1_000, self.extent.seconds) };
            ensure!(self.oha.send(&traffic)?.failed == 0, "requests failed at 1,000 connections");
        }
        Ok(running.system.memory_mib()?.1)
    }

    /// Memory in MiB after each minute of steady traffic.
    pub fn soak(&self) -> Result<Vec<f64>> {
        let state = self.state(0)?;
        let running = Running { system: self.whole(state.path(), &[("processing_time_ms", "0")])?, state };
        let mut memory = Vec::new();
        for _ in 0..self.extent.soak_minutes {
            let url = format!("{}/v1/orders", running.system.base);
            let traffic = Traffic { rate: Some(1_000), ..Traffic::full(url, Some(ORDER), 1_000, 60) };
            let answers = self.oha.send(&traffic)?;
            ensure!(answers.failed == 0, "{} requests failed", answers.failed);
            memory.push(running.system.memory_mib()?.0);
        }
        Ok(memory)
    }

    /// Milliseconds from the start of the host's process to its first answer, once it has been started before.
    pub fn start(&self) -> Result<f64> {
        let state = self.state(0)?;
        let mut starts = Vec::new();
        let client = reqwest::Client::new();
        for round in 0..6 {
            let begin = Instant::now();
            let system = self.whole(state.path(), &[])?;
            let answer = client.get(format!("{}/v1/metrics", system.base)).send();
            tokio::runtime::Handle::current().block_on(answer)?.error_for_status()?;
            if round > 0 {
                starts.push(begin.elapsed().as_secs_f64() * 1_000.0);
            }
        }
        Ok(median(starts))
    }
}

/// A pattern for any of the filled orders with as many digits as most of them have, the highest ones left out. There
/// are `orders`.
fn any_filled(orders: u64) -> String {
    let digits = orders.max(10).ilog10();
    match orders / 10_u64.pow(digits) {
        0 | 1 => format!("filled-[1-9][0-9]{{{}}}", digits - 1),
        leading => format!("filled-[1-{}][0-9]{{{digits}}}", leading - 1),
    }
}

/// Waits until so many orders are Completed.
fn until_completed(connection: &Connection, orders: i64) -> Result<()> {
    let mut progress = (Instant::now(), 0);
    loop {
        let completed = database::counters(connection)?[3];
        if completed >= orders {
            return Ok(());
        }
        if completed != progress.1 {
            progress = (Instant::now(), completed);
        }
        ensure!(progress.0.elapsed() < Duration::from_secs(60), "{completed} of {orders} orders are Completed");
        std::thread::sleep(Duration::from_millis(10));
    }
}

//! Traffic, made by oha, which is installed into `target/bench-tools` when it is first needed.
//!
//! It is a program of its own and no dependency: its SQLite is of another version than ours, of which a build has
//! one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The version that the figures in RESULTS.md were made with.
const OHA: &str = "1.16.0";

/// An installed oha.
#[derive(Clone)]
pub struct Oha(PathBuf);

/// A kind of request, sent again and again.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The URL; a regular expression that is drawn from when `random` is set.
    pub url: String,
    /// Whether `url` is one.
    pub random: bool,
    /// The body of a POST; without it the request is a GET.
    pub body: Option<Body>,
    /// How many connections send at once.
    pub connections: usize,
    /// For how long, in seconds.
    pub seconds: u64,
    /// How many requests there are at most per second.
    pub rate: Option<u64>,
    /// Whether each request has a connection of its own.
    pub close: bool,
}

/// The body of a POST.
#[derive(Clone, Debug)]
pub enum Body {
    /// This JSON.
    Text(&'static str),
    /// The JSON in this file.
    File(PathBuf),
}

impl Traffic {
    /// As much as kept connections can send.
    pub fn full(url: String, body: impl Into<Option<Body>>, connections: usize, seconds: u64) -> Self {
        Self { url, random: false, body: body.into(), connections, seconds, rate: None, close: false }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// Successes per second.
    pub per_second: f64,
    /// How many successes there were.
    pub succeeded: u64,
    /// How many requests had any other end.
    pub failed: u64,
    /// How many of these timed out.
    pub timed_out: u64,
    /// The 99th percentile of the time until an answer, in milliseconds.
    pub p99_ms: f64,
}

impl Oha {
    /// Finds it, or installs it.
    pub fn ready(target: &Path) -> Result<Self> {
        let root = target.join("bench-tools");
        let binary = root.join("bin/oha");
        let has = Command::new(&binary).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        if !String::from_utf8_lossy(&has).contains(OHA) {
            println!("installing oha {OHA}, the load generator");
            let mut install = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            install.args(["install", "--quiet", "--locked", "oha", "--version", OHA, "--root"]).arg(&root);
            ensure!(install.status()?.success(), "oha cannot be installed");
        }
        Ok(Self(binary))
    }

    /// Sends the traffic, and waits for its last answer.
    pub fn send(&self, traffic: &Traffic) -> Result<Answers> {
        let mut command = Command::new(&self.0);
        command.args(["--no-tui", "--output-format", "json", "--wait-ongoing-requests-after-deadline"]);
        command.args(["-z", &format!("{}s", traffic.seconds), "-c", &traffic.connections.to_string()]);
        match &traffic.body {
            None => {}
            Some(Body::Text(json)) => _ = command.args(["-m", "POST", "-T", "application/json", "-d", json]),
            Some(Body::File(path)) => {
                command.args(["-m", "POST", "-T", "application/json", "-D"]).arg(path);
            }
        }
        if let Some(rate) = traffic.rate {
            command.args(["-q", &rate.to_string()]);
        }
        if traffic.close {
            command.arg("--disable-keepalive");
        }
        if traffic.random {
            command.arg("--rand-regex-url");
        }
        let output = command.arg(&traffic.url).stderr(Stdio::inherit()).output()?;
        let result: Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("oha told nothing of {}", traffic.url))?;
        let count = |distribution: &Value, is: fn(&str) -> bool| -> u64 {
            let entries = distribution.as_object().into_iter().flatten();
            entries.filter(|(key, _)| is(key)).filter_map(|(_, count)| count.as_u64()).sum()
        };
        let statuses = &result["statusCodeDistribution"];
        let succeeded = count(statuses, |status| status.starts_with('2'));
        let failed = count(statuses, |status| !status.starts_with('2')) + count(&result["errorDistribution"], |_| true);
        let timed_out =
            count(&result["errorDistribution"], |error| error.contains("timeout") || error.contains("timed out"));
        let total = result["summary"]["total"].as_f64().context("oha told no time")?;
        Ok(Answers {
            per_second: succeeded as f64 / total,
            succeeded,
            failed,
            timed_out,
            p99_ms: result["latencyPercentiles"]["p99"].as_f64().unwrap_or(f64::INFINITY) * 1_000.0,
        })
    }
}

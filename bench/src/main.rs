//! `cargo bench-all`: measures the service and writes `bench/RESULTS.md`. `cargo bench-all guard` is the short form,
//! which fails when a ratio has fallen.

mod database;
mod load;
mod measure;
mod native;
mod process;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use load::Oha;
use measure::{Bench, Extent};
use process::Built;
use report::{Recorded, Report, processors};

/// The host's, for the native twin.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the service against the runtime's ceiling, a native twin, and its own growth.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
    #[command(flatten)]
    extent: Extent,
}

#[derive(Subcommand)]
enum Action {
    /// Compares the most important ratios with the recorded ones, and fails when one is more than a quarter lower.
    Guard,
    /// Measures a system that runs somewhere else: create, read and metrics as `/v1` has them.
    Url {
        /// Where it is, as http://host:port.
        base: String,
        /// The URL of something on the same runtime that answers a constant.
        #[arg(long)]
        hello: Option<String>,
        /// Use each connection once.
        #[arg(long)]
        close: bool,
        /// Rounds of the comparison.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of traffic in each round.
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// Serves the native twin.
    #[command(hide = true)]
    Native {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        database: PathBuf,
        #[arg(long)]
        worker: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    if let Some(Action::Native { listen, database, worker }) = cli.command {
        return runtime.block_on(native::serve(listen, database, worker));
    }
    let _guard = runtime.enter();
    let built = Built::build()?;
    let oha = Oha::ready(&built.target)?;
    let bench = Bench { built, oha, extent: cli.extent };
    match cli.command {
        Some(Action::Guard) => guard(&bench),
        Some(Action::Url { base, hello, close, rounds, seconds }) => {
            let bench = Bench { extent: Extent { rounds, seconds, ..bench.extent }, ..bench };
            let medians = bench.elsewhere(base.trim_end_matches('/'), hello.as_deref(), close)?;
            for name in ["hello", "create", "read", "metrics"] {
                println!("{name:8} {:>8.0} a second, {:.2} x hello", medians.of(name), medians.ratio(name, "hello"));
            }
            Ok(())
        }
        _ => {
            let report = measure_all(&bench)?;
            println!("{}", report.table());
            report.write(&bench.built.project.join("bench"))
        }
    }
}

fn measure_all(bench: &Bench) -> Result<Report> {
    let step = |what: &str| println!("measuring: {what}");
    step("requests, at 1, 64 and 1,000 connections");
    let throughput = bench.throughput(&[1, 64, 1_000])?;
    let memory = bench.memory()?;
    step("large orders");
    let large_orders = bench.large_orders()?;
    step("all the way to Completed");
    let whole_way = bench.whole_way()?;
    let followed_ms = bench.follow()?;
    step("the worker");
    let worker = bench.worker(ORDERS)?;
    let pickup = bench.pickup(500)?;
    step("rest and start");
    let idle = bench.idle()?;
    let start_ms = bench.start()?;
    step("growth");
    let growth = bench.growth()?;
    step("what the guard compares");
    let guarded = Bench { extent: GUARDED, ..bench.clone() };
    let recorded = Recorded::of(&guarded.throughput(&[64])?, &worker);
    step("memory over time");
    let soak = bench.soak()?;
    let wasm_kib = [bench.built.wasm_kib("order_api")?, bench.built.wasm_kib("order_worker")?];
    let extent = bench.extent;
    Ok(Report {
        extent,
        throughput,
        large_orders,
        whole_way,
        followed_ms,
        worker,
        pickup,
        idle,
        start_ms,
        growth,
        soak,
        memory,
        wasm_kib,
        recorded,
    })
}

/// What the guard measures: short, and the same when its ratios are recorded as when they are compared.
const GUARDED: Extent = Extent { rounds: 5, seconds: 2, stored: 100_000, grown: 0, soak_minutes: 0 };
/// How many orders are worked off: some seconds of work, so that the pause between two ticks does not count.
const ORDERS: u64 = 200_000;
/// A ratio may fall to this share of the recorded one before the guard fails: noise of these comparisons is below
/// a tenth, and a mistake that costs less than a quarter is one for the long form to find.
const ALLOWED: f64 = 0.75;

fn guard(bench: &Bench) -> Result<()> {
    let recorded = Recorded::read(&bench.built.project.join("bench"))?;
    let here = processors();
    if here != recorded.processors {
        println!("not judged: the ratios were recorded on {} processors, and here are {here}", recorded.processors);
        return Ok(());
    }
    let guarded = Bench { extent: GUARDED, ..bench.clone() };
    let measured = Recorded::of(&guarded.throughput(&[64])?, &guarded.worker(ORDERS)?);
    let mut fallen = Vec::new();
    for (what, now) in &measured.ratios {
        let then = recorded.ratios.get(what).with_context(|| format!("{what:?} was not recorded"))?;
        println!("{what}: {now:.2}, recorded {then:.2}");
        let holds = *now >= then * ALLOWED;
        if !holds {
            fallen.push(what.as_str());
        }
    }
    ensure!(fallen.is_empty(), "more than a quarter below what is recorded: {}", fallen.join(", "));
    Ok(())
}

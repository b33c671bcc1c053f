//! `cargo sim`: many runs, from the command line.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use simulator::planted::Planted;
use simulator::{Faults, Report, Settings, Simulator, Totals};

/// Runs the real components through every fault, from seeds.
#[derive(Parser)]
struct Cli {
    /// How many seeds are run, each another history.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Run this seed only, and print its history.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Which faults there are: random, exhaustive (the machine dies at each call in turn), or none.
    #[arg(long, default_value = "random", value_parser = ["random", "exhaustive", "none"])]
    faults: String,
    /// With exhaustive faults: let the machine die at this call only, and print the history.
    #[arg(long)]
    call: Option<u64>,
    /// With --call: after the call instead of before it.
    #[arg(long)]
    after: bool,
    /// How many actions each client has.
    #[arg(long, default_value_t = Settings::ACTIONS)]
    actions: usize,
    /// Plant each of the known mistakes in turn, and see that it is found.
    #[arg(long)]
    planted: bool,
    /// How many runs go side by side.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
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
    let simulator = Simulator::load()?;
    if cli.planted {
        return planted(&simulator, cli.seeds);
    }
    let faults = if cli.faults == "random" { Faults::Random } else { Faults::None };
    let settings = |seed| Settings { seed, faults, actions: cli.actions, planted: None };
    let print = |report: Report| {
        report.history.iter().for_each(|line| println!("{line}"));
        ensure!(report.violation.is_none(), "violated: {}", report.violation.unwrap_or_default());
        Ok(())
    };
    if cli.faults == "exhaustive" {
        let seed = cli.seed.unwrap_or(0);
        if let Some(call) = cli.call {
            let faults = Faults::DeathAt { call, after: cli.after };
            return print(simulator.run(Settings { faults, ..settings(seed) }));
        }
        let calls = simulator.run(settings(seed)).calls;
        let deaths = settings(seed).dying_at_each_of(calls);
        return run_all(&simulator, &deaths, cli.threads);
    }
    if let Some(seed) = cli.seed {
        return print(simulator.run(settings(seed)));
    }
    let all: Vec<Settings> = (cli.from..cli.from + cli.seeds).map(settings).collect();
    run_all(&simulator, &all, cli.threads)
}

/// Runs all, and tells the first violation with the command that shows it again.
fn run_all(simulator: &Simulator, all: &[Settings], threads: usize) -> Result<()> {
    let Totals { calls, injected, deaths } = match simulator.run_all(all, threads) {
        Ok(totals) => totals,
        Err(violated) => {
            let (settings, report) = *violated;
            report.history.iter().for_each(|line| println!("{line}"));
            println!("\nto see it again: {}", settings.command());
            anyhow::bail!("violated: {}", report.violation.unwrap_or_default());
        }
    };
    println!(
        "{} runs, {calls} calls, {injected} faults in them, {deaths} deaths of the machine: no violation",
        all.len()
    );
    Ok(())
}

fn planted(simulator: &Simulator, seeds: u64) -> Result<()> {
    let mut missed = Vec::new();
    for planted in Planted::ALL {
        match simulator.find(planted, seeds) {
            Some((seed, violation)) => println!("{planted:?}: found by seed {seed}: {violation}"),
            None => {
                println!("{planted:?}: NOT FOUND");
                missed.push(planted);
            }
        }
    }
    ensure!(missed.is_empty(), "not found within {seeds} seeds: {missed:?}");
    Ok(())
}

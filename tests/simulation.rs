//! The simulator's runs that every change must pass. More of them: `cargo sim --seeds 20000`.

use simulator::planted::Planted;
use simulator::{Faults, Settings, Simulator};

const SEEDS: u64 = 300;

fn simulator() -> Simulator {
    system::build();
    Simulator::load().unwrap()
}

/// Runs all on two threads, and panics at a violation with its history and the command that shows it again.
fn none_violates(simulator: &Simulator, all: &[Settings]) {
    if let Err(violated) = simulator.run_all(all, 2) {
        let (settings, report) = *violated;
        let (history, command) = (report.history.join("\n"), settings.command());
        panic!("{history}\nviolated: {}\nto see it again: {command}", report.violation.unwrap_or_default());
    }
}

#[test]
fn no_promise_is_broken_by_random_faults() {
    let all: Vec<Settings> = (0..SEEDS).map(Settings::random).collect();
    none_violates(&simulator(), &all);
}

#[test]
fn no_promise_is_broken_wherever_the_machine_dies() {
    let simulator = simulator();
    let calm = Settings { faults: Faults::None, ..Settings::random(0) };
    let calls = simulator.run(calm).calls;
    assert!(calls > 100, "the course is worth running: {calls} calls");
    none_violates(&simulator, &calm.dying_at_each_of(calls));
}

#[test]
fn the_same_seed_is_the_same_history() {
    let simulator = simulator();
    for seed in 0..10 {
        let (first, second) = (simulator.run(Settings::random(seed)), simulator.run(Settings::random(seed)));
        assert_eq!(first.history, second.history, "seed {seed}");
        assert!(first.injected > 0 || seed != 0, "faults happen");
    }
}

#[test]
fn every_planted_mistake_is_found() {
    let simulator = simulator();
    let missed: Vec<Planted> =
        Planted::ALL.into_iter().filter(|planted| simulator.find(*planted, SEEDS).is_none()).collect();
    assert_eq!(missed, []);
}

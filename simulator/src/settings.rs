//! What is run.

use crate::planted::Planted;
use crate::world::Faults;

/// How many attempts an order gets. All times are short, so that leases run out and attempts are used up.
pub const MAX_ATTEMPTS: i64 = 3;
/// How long the processor takes.
pub const PROCESSING_TIME_MS: i64 = 700;
pub const LEASE_MS: u64 = 1_500;
/// How long the host lets a call of the worker go on.
pub const CALL_TIMEOUT_MS: u64 = 8_000;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Decides everything that is left open.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// How many actions each client has; fewer than the default shorten a history.
    pub actions: usize,
    /// A mistake in the components.
    pub planted: Option<Planted>,
}

impl Settings {
    /// How many actions each client has.
    pub const ACTIONS: usize = 20;
    /// How many clients act at once.
    pub const CLIENTS: usize = 3;

    /// A run of random faults.
    pub fn random(seed: u64) -> Self {
        Self { seed, faults: Faults::Random, actions: Self::ACTIONS, planted: None }
    }

    /// These settings with the machine dying before and after each of the first `calls` calls in turn.
    pub fn dying_at_each_of(self, calls: u64) -> Vec<Self> {
        let deaths = (0..calls).flat_map(|call| [false, true].map(|after| Faults::DeathAt { call, after }));
        deaths.map(|faults| Self { faults, ..self }).collect()
    }

    /// The command that runs this again.
    pub fn command(&self) -> String {
        let Self { seed, actions, .. } = self;
        match self.faults {
            Faults::DeathAt { call, after } => {
                format!(
                    "cargo sim --faults exhaustive --seed {seed} --call {call}{}",
                    if after { " --after" } else { "" }
                )
            }
            Faults::Random => format!("cargo sim --seed {seed} --actions {actions}"),
            Faults::None => format!("cargo sim --faults none --seed {seed}"),
        }
    }
}

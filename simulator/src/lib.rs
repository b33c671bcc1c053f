//! Runs the real components through every fault, from a seed.
//!
//! A component touches the world only through calls of its host. Here the host's clock, randomness, disk and
//! scheduling all come from one seed, every call can fail in every way, and the machine can die at any of them
//! and come back with what was synced. After every step the database is checked against what clients were
//! told ([`invariants`]), so that a promise is either kept in all of these histories or a seed shows how not.

mod client;
mod disk;
mod invariants;
pub mod planted;
mod settings;
mod simulation;
mod world;

pub use settings::Settings;
pub use simulation::{Report, Simulator, Totals};
pub use world::Faults;

//! Runs an application of Spin's where Spin is not installed: the same `spin.toml`, the same Wasm files, the
//! same database file. It stands in for Spin and is no rival: what a library does (HTTP, WASI, handing requests
//! to instances, composition, TOML, schedules) is the library's, and what it does not have it refuses.
//!
//! It is a library so that tests can run the application in their own process ([`App::load`], [`App::start`]),
//! drive its clock ([`Clock::Test`]) and let any call of a component fail ([`hook`]).

mod app;
mod clock;
mod component;
mod compose;
mod engine;
pub mod hook;
mod host_calls;
mod interfaces;
mod manifest;
mod options;
mod state_dir;
mod triggers;

pub use app::{App, DrivenApp, RunningApp};
pub use clock::{Clock, TestClock};
pub use interfaces::key_value::KeyValueStore;
pub use manifest::Manifest;
pub use options::{KeyValueLocation, Options, Reuse};

//! What wakes the components, one module for each kind of trigger in the manifest.

pub mod calls;
pub mod cron;
pub mod http;
pub mod timer;

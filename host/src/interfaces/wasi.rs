//! WASI without HTTP: clocks, randomness, environment and output. There are no files and no sockets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;
use wasmtime::component::Linker;
use wasmtime_wasi::{WasiCtx, WasiView};

use crate::clock::{Clock, WasiClock};

/// What a component has of WASI.
pub struct Access {
    /// The time that it sees.
    pub clock: Clock,
    /// Where the randomness of its instances comes from, where a test replays it.
    pub random: Option<Arc<Mutex<StdRng>>>,
    /// Its environment variables.
    pub environment: BTreeMap<String, String>,
    /// Whether what it writes to standard output and error is dropped.
    pub quiet: bool,
}

impl Access {
    /// The state of a new instance.
    pub fn new_context(&self) -> WasiCtx {
        let mut wasi = WasiCtx::builder();
        let clock = || WasiClock { clock: self.clock.clone(), start: Instant::now() };
        wasi.wall_clock(clock()).monotonic_clock(clock());
        if !self.quiet {
            wasi.inherit_stdout().inherit_stderr();
        }
        if let Some(random) = &self.random {
            let mut random = random.lock().expect("no draw panics");
            wasi.secure_random(StdRng::from_rng(&mut random));
            wasi.insecure_random(StdRng::from_rng(&mut random));
            wasi.insecure_random_seed(random.random());
        }
        for (name, value) in &self.environment {
            wasi.env(name, value);
        }
        wasi.build()
    }
}

/// Links WASI 0.2 and 0.3.
pub fn add_to_linker<T: WasiView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)
}

//! `cargo up`: builds the components and runs the application.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use host::{App, KeyValueLocation, Manifest, Options, Reuse};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Requests allocate on one thread and free on another, which this allocator is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs a Spin application on an embedded host.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Builds the components by the commands in the manifest and runs the application.
    Up(Up),
    /// Builds the components by the commands in the manifest.
    Build {
        /// The manifest.
        #[arg(short = 'f', long, default_value = "spin.toml", value_name = "FILE")]
        from: PathBuf,
    },
}

#[derive(Args)]
struct Up {
    /// The manifest.
    #[arg(short = 'f', long, default_value = "spin.toml", value_name = "FILE")]
    from: PathBuf,
    /// Where to serve HTTP.
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDR")]
    listen: SocketAddr,
    /// Where to keep the data [default: .spin beside the manifest].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Keep the key-value store in the file that Spin uses, instead of in memory.
    #[arg(long)]
    key_value_file: bool,
    /// Set an application variable; overrides SPIN_VARIABLE_<NAME> in the environment.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    variable: Vec<(String, String)>,
    /// How long a call of a cron or timer trigger may take before it is ended. It must exceed lease_ms, so that a
    /// worker loses its leases before it is ended.
    #[arg(long, default_value_t = Options::DEFAULT_TRIGGER_TIMEOUT.as_secs(), value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    trigger_timeout: u64,
    /// Run this component and its triggers, and no other; may be given several times [default: all].
    #[arg(long, value_name = "NAME")]
    component: Vec<String>,
    /// Run what was built before.
    #[arg(long)]
    skip_build: bool,
    /// How many requests an instance gets in all.
    #[arg(long, default_value_t = Reuse::default().max_instance_reuse_count, value_name = "N")]
    max_instance_reuse_count: usize,
    /// How many requests an instance gets at once.
    #[arg(long, default_value_t = Reuse::default().max_instance_concurrent_reuse_count, value_name = "N")]
    max_instance_concurrent_reuse_count: usize,
    /// How many instances of a component take requests side by side.
    #[arg(long, default_value_t = Reuse::default().accepting_instances, value_name = "N")]
    accepting_instances: usize,
    /// How long an instance without requests is kept, in milliseconds.
    #[arg(long, default_value_t = Reuse::default().idle_instance_timeout.as_millis() as u64, value_name = "MS")]
    idle_instance_timeout: u64,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("it must be of the form NAME=VALUE".to_owned()),
    }
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Action::Up(up) => {
            if !up.skip_build {
                build(&up.from, &up.component)?;
            }
            let stop = listen_for_signals()?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let ended = runtime.block_on(run(up, stop));
            // Statements that run are cut off, as at a loss of power; whatever waited for them has had its time.
            runtime.shutdown_background();
            ended
        }
        Action::Build { from } => build(&from, &[]),
    }
}

async fn run(up: Up, mut stop: watch::Receiver<bool>) -> Result<()> {
    let beside = up.from.parent().unwrap_or(Path::new("")).join(".spin");
    let mut options = Options::new(up.state_dir.unwrap_or(beside));
    options.components = up.component;
    options.variables = up.variable.into_iter().collect();
    options.trigger_timeout = Duration::from_secs(up.trigger_timeout);
    options.reuse.max_instance_reuse_count = up.max_instance_reuse_count.max(1);
    options.reuse.max_instance_concurrent_reuse_count = up.max_instance_concurrent_reuse_count.max(1);
    options.reuse.accepting_instances = up.accepting_instances;
    options.reuse.idle_instance_timeout = Duration::from_millis(up.idle_instance_timeout);
    if up.key_value_file {
        options.key_value = KeyValueLocation::File;
    }
    let database = options.database();
    let queue = if up.key_value_file { "in a file beside it" } else { "in memory; orders survive without it" };
    let app = App::load(&up.from, options)?;
    let mut running = app.start(up.listen).await?;

    let base = running.address().map(|address| format!("http://{address}"));
    println!("{}: {}", app.manifest().application.name, app.manifest().application.description);
    println!();
    println!("  serving    {}", base.as_deref().unwrap_or("nothing: no component that runs has an HTTP trigger"));
    println!("  database   {}", std::path::absolute(&database).unwrap_or(database).display());
    println!("  queue      {queue}");
    println!("  stop with  Ctrl+C");
    println!();
    if let Some(base) = base {
        print_example(&base);
    }

    tokio::select! {
        failure = running.failed() => failure,
        _ = stop.wait_for(|stop| *stop) => {
            println!("stopping once requests in flight are done; press Ctrl+C again to stop immediately");
            running.stop().await
        }
    }
}

/// What a newcomer can try.
fn print_example(base: &str) {
    println!("A first order, and what becomes of it:");
    println!();
    println!("  curl -i {base}/v1/orders -H 'Content-Type: application/json' \\");
    println!(
        "    -d '{{\"order_id\": \"first\", \"user_id\": \"me\", \"item_ids\": [\"book\"], \"total_amount\": \"12.50\"}}'"
    );
    println!("  curl {base}/v1/orders/first");
    println!("  curl {base}/v1/metrics");
    println!();
}

/// Tells of the first SIGINT or SIGTERM; at the second the process ends at once. They are waited for on a thread that
/// does nothing else, so that this works whatever the other threads do.
fn listen_for_signals() -> Result<watch::Receiver<bool>> {
    let (tell, stop) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let listen = move || {
        runtime.block_on(async {
            signals.next().await;
            tell.send_replace(true);
            signals.next().await;
        });
        std::process::exit(130);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    Ok(stop)
}

/// The signals that ask the process to stop: SIGINT (Ctrl+C) and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs the build commands of these components, or of all in the manifest, once the compiler has their target.
fn build(manifest_path: &Path, components: &[String]) -> Result<()> {
    let mut manifest = Manifest::load(manifest_path)?;
    manifest.keep(components)?;
    let base = manifest_path.parent().filter(|base| !base.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let ensure_target = base.join("scripts/wasm-target.sh");
    if ensure_target.exists() {
        let status = Command::new("sh").arg(&ensure_target).status().context("cannot run sh")?;
        ensure!(status.success(), "the target wasm32-wasip2 is missing");
    }
    for (name, component) in &manifest.components {
        let Some(build) = &component.build else { continue };
        let folder = base.join(build.workdir.as_deref().unwrap_or(Path::new("")));
        for command in build.command.iter() {
            println!("building {name}: {command}");
            let status = Command::new("sh")
                .args(["-c", command])
                .current_dir(&folder)
                .status()
                .with_context(|| format!("cannot run {command:?}"))?;
            ensure!(status.success(), "component {name:?} was not built: {command:?} failed");
        }
    }
    Ok(())
}

//! The systems that are measured, each a process on data of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A running system. It is killed when this is dropped.
pub struct System {
    /// Where it serves, `http://…` without a slash at the end.
    pub base: String,
    process: Child,
}

impl System {
    /// Starts `program` with `arguments` and a place to listen at, and waits until it answers.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(program);
        command.args(arguments).args(["--listen", &address.to_string()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn()?;
        let mut system = Self { base: format!("http://{address}"), process };
        system.wait_for(address)?;
        Ok(system)
    }

    fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(self.process.try_wait()?.is_none(), "a system ended when it was started");
            ensure!(begin.elapsed() < Duration::from_secs(60), "a system does not listen");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The memory that it has in use, and the most that it had, in MiB.
    pub fn memory_mib(&self) -> Result<(f64, f64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
        };
        Ok((field("VmRSS:").context("VmRSS")?, field("VmHWM:").context("VmHWM")?))
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // Behind the name, which may hold anything: fields 14 and 15 in proc(5), in ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<u64>().ok());
        let ticks = ticks(11).zip(ticks(12)).context("the processor time")?;
        Ok(Duration::from_millis((ticks.0 + ticks.1) * 10))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What has been built, and where.
#[derive(Clone)]
pub struct Built {
    /// The project's folder.
    pub project: PathBuf,
    /// `target`.
    pub target: PathBuf,
    host: PathBuf,
    /// The manifest without its cron trigger: what takes orders, and nobody who works them off.
    pub intake_only: PathBuf,
}

impl Built {
    /// Builds the host and all components, as `cargo up` does.
    pub fn build() -> Result<Self> {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--bin", "host", "--message-format=json"])
            .current_dir(&project)
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(built.status.success(), "the host was not built");
        let host = String::from_utf8(built.stdout)?
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
            .next_back()
            .context("cargo tells no binary")?;
        for manifest in ["spin.toml", "bench/hello/spin.toml"] {
            let status = Command::new(&host)
                .args(["build", "-f", manifest])
                .current_dir(&project)
                .stdout(Stdio::null())
                .status()?;
            ensure!(status.success(), "the components were not built");
        }
        let target = project.join("target");
        let intake_only = target.join("bench-intake-only.toml");
        std::fs::write(&intake_only, without_cron(&project)?)?;
        Ok(Self { project, target, host, intake_only })
    }

    /// Starts the system that `manifest` describes, on the data in `state`.
    pub fn up(&self, manifest: &Path, state: &Path, variables: &[(&str, &str)]) -> Result<System> {
        let variables: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut arguments = vec!["up", "--skip-build", "-f", as_str(manifest)?, "--state-dir", as_str(state)?];
        for variable in &variables {
            arguments.extend(["--variable", variable]);
        }
        System::start(&self.host, &arguments)
    }

    /// The manifest of the whole system.
    pub fn whole(&self) -> PathBuf {
        self.project.join("spin.toml")
    }

    /// The manifest of the component that answers a constant.
    pub fn hello(&self) -> PathBuf {
        self.project.join("bench/hello/spin.toml")
    }

    /// The size of a component's file, in KiB.
    pub fn wasm_kib(&self, name: &str) -> Result<f64> {
        let file = self.target.join("wasm32-wasip2/release").join(format!("{name}.wasm"));
        Ok(std::fs::metadata(file)?.len() as f64 / 1024.0)
    }
}

fn as_str(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

/// `spin.toml` without the trigger that wakes the worker, and with paths that hold elsewhere.
fn without_cron(project: &Path) -> Result<String> {
    let mut manifest: toml::Table = toml::from_str(&std::fs::read_to_string(project.join("spin.toml"))?)?;
    manifest["trigger"].as_table_mut().context("triggers")?.remove("cron");
    let components = manifest["component"].as_table_mut().context("components")?;
    components.retain(|name, _| name == "order-api");
    let source = components["order-api"]["source"].as_str().context("the source")?;
    components["order-api"]["source"] = project.join(source).to_str().context("UTF-8")?.into();
    Ok(manifest.to_string())
}

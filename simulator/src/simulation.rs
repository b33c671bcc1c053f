//! One run: clients, ticks and faults on the real components, until all is done and checked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use host::{App, Clock, KeyValueLocation, KeyValueStore, Options, TestClock};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::LocalSet;

use crate::client::{Client, Reach};
use crate::disk::Disk;
use crate::invariants::{Ledger, Onlooker, check};
use crate::planted::Planted;
use crate::settings::{CALL_TIMEOUT_MS, LEASE_MS, MAX_ATTEMPTS, PROCESSING_TIME_MS, Settings};
use crate::world::{Faults, World};

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// What happened, line by line; the same for the same settings.
    pub history: Vec<String>,
    /// What did not hold, if anything.
    pub violation: Option<String>,
    /// How many calls the components made.
    pub calls: u64,
    /// How many faults were injected into them.
    pub injected: u64,
    /// How often the machine died.
    pub deaths: u64,
}

/// What happened in several runs that violated nothing.
#[derive(Debug, Default)]
pub struct Totals {
    /// How many calls the components made.
    pub calls: u64,
    /// How many faults were injected into them.
    pub injected: u64,
    /// How often the machine died.
    pub deaths: u64,
}

/// The components, compiled once for all runs.
pub struct Simulator {
    app: App,
}

/// The store that the queue lies in, in reach of the faults.
type Messages = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

impl Simulator {
    /// Loads the components that `cargo up` or the tests have built.
    pub fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spin.toml");
        let folder = tempfile::tempdir()?;
        let mut options = Options::new(folder.path());
        options.quiet = true;
        Ok(Self { app: App::load(&manifest, options)? })
    }

    /// The first of `seeds` seeds whose history shows the mistake, and what it violates.
    pub fn find(&self, planted: Planted, seeds: u64) -> Option<(u64, String)> {
        (0..seeds).find_map(|seed| {
            let report = self.run(Settings { planted: Some(planted), ..Settings::random(seed) });
            report.violation.map(|violation| (seed, violation))
        })
    }

    /// The same violation with as few actions as show one.
    fn shorten(&self, settings: Settings, report: Report) -> (Settings, Report) {
        for actions in 1..settings.actions {
            let fewer = Settings { actions, ..settings };
            let shorter = self.run(fewer);
            if shorter.violation.is_some() {
                return (fewer, shorter);
            }
        }
        (settings, report)
    }

    /// Runs all of them, `threads` side by side.
    ///
    /// # Errors
    /// A violation, shortened; the other runs end with those under way.
    pub fn run_all(&self, all: &[Settings], threads: usize) -> Result<Totals, Box<(Settings, Report)>> {
        let next = AtomicUsize::new(0);
        let totals: Mutex<Totals> = Mutex::default();
        let violated: Mutex<Option<(Settings, Report)>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    while violated.lock().unwrap().is_none() {
                        let Some(settings) = all.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                        let report = self.run(*settings);
                        if report.violation.is_some() {
                            violated.lock().unwrap().get_or_insert((*settings, report));
                            return;
                        }
                        let mut totals = totals.lock().unwrap();
                        totals.calls += report.calls;
                        totals.injected += report.injected;
                        totals.deaths += report.deaths;
                    }
                });
            }
        });
        match violated.into_inner().unwrap() {
            Some((settings, report)) => Err(Box::new(self.shorten(settings, report))),
            None => Ok(totals.into_inner().unwrap()),
        }
    }

    /// Runs once.
    pub fn run(&self, settings: Settings) -> Report {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let disk = Disk::new(folder.path());
        let world = Arc::new(World::new(settings.seed, settings.faults, settings.planted));
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let scripted = settings.faults != Faults::Random;
        let clients: Vec<_> = (0..if scripted { 1 } else { Settings::CLIENTS })
            .map(|number| Rc::new(RefCell::new(Client::new(number, settings.actions))))
            .collect();
        let step = Rc::new(RefCell::new(0));
        let mut wall = Duration::from_secs(1_800_000_000);
        let mut deaths = 0;
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let ended = runtime.block_on(async {
                let clock = TestClock::starting_at(wall);
                let messages: Messages = Arc::default();
                let mut options = Options::new(folder.path());
                options.variables = [
                    ("processing_time_ms", PROCESSING_TIME_MS.to_string()),
                    ("max_attempts", MAX_ATTEMPTS.to_string()),
                    ("lease_ms", LEASE_MS.to_string()),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
                options.key_value = KeyValueLocation::Given(KeyValueStore::Memory(messages.clone()));
                options.trigger_timeout = Duration::from_millis(CALL_TIMEOUT_MS);
                options.clock = Clock::Test(clock.clone());
                options.hook = Some(world.clone());
                options.single_threaded = true;
                options.random_seed = Some(settings.seed.wrapping_add(deaths));
                options.quiet = true;
                let database = options.database();
                let app = self.app.reconfigured(options).expect("the application can be configured");
                let app = Rc::new(app.driven().expect("the application can be driven"));
                let checked = {
                    let (world, ledger) = (world.clone(), ledger.clone());
                    let onlooker = RefCell::new(Onlooker::default());
                    Rc::new(move |at_end: bool| {
                        if let Err(what) = check(&mut onlooker.borrow_mut(), &database, &ledger.borrow(), at_end) {
                            world.violated(what);
                        }
                    })
                };
                let check_now = checked.clone();
                let reach = Reach {
                    app,
                    world: world.clone(),
                    ledger: ledger.clone(),
                    checked: Rc::new(move || check_now(false)),
                };
                let local = LocalSet::new();
                let work = async {
                    if scripted {
                        script(&clients[0], &reach, &step).await;
                    } else {
                        rough_weather(&clients, &reach, &clock, &messages).await;
                    }
                    world.calm();
                    settle(&clients, &reach, &clock, &ledger).await;
                    (*checked)(true);
                };
                let ended = local
                    .run_until(async {
                        tokio::select! {
                            biased;
                            () = world.died.notified() => false,
                            () = work => true,
                        }
                    })
                    .await;
                // Whatever still runs finds the machine dead.
                world.die("it is switched off");
                disk.die();
                wall = Clock::Test(clock).wall();
                ended
            });
            drop(runtime);
            if ended || world.is_violated() {
                break;
            }
            disk.revive(&mut StdRng::seed_from_u64(settings.seed ^ deaths));
            world.revive();
            // What was told of the death itself is heard; the permit of a death nobody waited for goes.
            deaths += 1;
            world.tell(format!("the machine is back for the {deaths}. time"));
            wall += Duration::from_millis(500);
        }
        let (history, violation, calls, injected) = world.end();
        Report { history, violation, calls, injected, deaths }
    }
}

/// Clients act while ticks come, overlap and stay away, messages go and come again, and the clock jumps.
async fn rough_weather(clients: &[Rc<RefCell<Client>>], reach: &Reach, clock: &Arc<TestClock>, messages: &Messages) {
    let ticking = tokio::task::spawn_local({
        let (reach, clock, messages) = (reach.clone(), clock.clone(), messages.clone());
        async move {
            let mut seen = BTreeMap::new();
            loop {
                let world = &reach.world;
                match world.below(20) {
                    0..2 => {}
                    2..4 => {
                        tick(&reach);
                        tick(&reach);
                    }
                    _ => tick(&reach),
                }
                match world.below(40) {
                    0 => {
                        world.tell("fault: the queue is wiped".to_owned());
                        messages.lock().unwrap().clear();
                    }
                    1..6 => {
                        world.tell("fault: old messages come again".to_owned());
                        messages.lock().unwrap().extend(seen.clone());
                    }
                    6 => {
                        let jump = world.below(60_000) as i64 - 20_000;
                        world.tell(format!("fault: the clock jumps by {jump} ms"));
                        clock.jump(jump);
                    }
                    _ => {}
                }
                for _ in 0..4 {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    seen.extend(messages.lock().unwrap().clone());
                }
            }
        }
    });
    let acting: Vec<_> =
        clients.iter().map(|client| tokio::task::spawn_local(Client::act(client.clone(), reach.clone()))).collect();
    for client in acting {
        if let Err(error) = client.await {
            reach.world.violated(format!("the simulator failed: {error}"));
        }
    }
    ticking.abort();
}

fn tick(reach: &Reach) {
    let reach = reach.clone();
    tokio::task::spawn_local(async move {
        reach.app.tick().await;
        (reach.checked)();
    });
}

/// The faults are over: everybody insists, and ticks come until nothing is left to do.
async fn settle(clients: &[Rc<RefCell<Client>>], reach: &Reach, clock: &Arc<TestClock>, ledger: &Rc<RefCell<Ledger>>) {
    // Longer than any call is delayed, so that nothing is left of the faults.
    tokio::time::sleep(Duration::from_secs(20)).await;
    for client in clients {
        Client::insist(client, reach).await;
    }
    for round in 0..60 {
        reach.app.tick().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        if reach.world.is_violated() {
            return;
        }
        // The clock may have jumped back, and what is due is due later then.
        if round == 30 {
            clock.jump(3_600_000);
        }
        let request =
            http::Request::get("/v1/metrics").header("host", "sim").body(bytes::Bytes::new()).expect("a request");
        let metrics = reach.app.request(request).await;
        let metrics: serde_json::Value =
            metrics.and_then(|answer| serde_json::from_slice(answer.body()).ok()).unwrap_or_default();
        let counts = &metrics["orders_by_status"];
        if counts["Pending"] == 0
            && counts["Processing"] == 0
            && metrics["total_orders"].as_u64() >= Some(acknowledged(ledger))
        {
            break;
        }
    }
    for client in clients {
        Client::read_all(client, reach).await;
    }
}

fn acknowledged(ledger: &Rc<RefCell<Ledger>>) -> u64 {
    ledger.borrow().sent.values().filter(|sent| sent.acknowledged).count() as u64
}

/// A short course of all requests and of ticks. It goes on where it was when the machine died: the step that
/// was under way is done again.
async fn script(client: &Rc<RefCell<Client>>, reach: &Reach, step: &Rc<RefCell<usize>>) {
    use std::sync::atomic::Ordering::Relaxed;
    let fails = |fails| reach.world.processor_fails.store(fails, Relaxed);
    loop {
        let now = *step.borrow();
        reach.world.tell(format!("step {now}"));
        // An order that was sent before the machine died is sent again, not anew.
        let order = |index: usize, kind: u64| async move {
            if client.borrow().last() == Some(index) {
                Client::send_again(client, reach, index).await;
            } else {
                Client::order_of_kind(client, reach, kind).await;
            }
        };
        // Attempts fail until they are used up.
        let fail_all = async || {
            fails(true);
            for _ in 0..4 {
                reach.app.tick().await;
            }
            fails(false);
        };
        match now {
            // One order of each kind: named, on another route, with a key and nameless, on another route, named with a key.
            0 => order(0, 0).await,
            1 => order(1, 5).await,
            2 => order(2, 6).await,
            3 => order(3, 8).await,
            4 => order(4, 9).await,
            5 => Client::try_others(client, reach).await,
            6 => Client::send_again(client, reach, 2).await,
            7 => Client::cancel(client, reach, 0).await,
            8 => reach.app.tick().await,
            9 => Client::read_all(client, reach).await,
            10 => {
                order(5, 0).await;
                fail_all().await;
            }
            11 => Client::cancel(client, reach, 5).await,
            12 => Client::retry(client, reach, 5).await,
            13 => fail_all().await,
            14 => Client::retry_dead_letters(client, reach).await,
            15 => reach.app.tick().await,
            16 => Client::read_all(client, reach).await,
            _ => return,
        }
        *step.borrow_mut() = now + 1;
    }
}

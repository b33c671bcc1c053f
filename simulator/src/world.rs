//! What one run shares: its randomness, its history, and the hook that lets calls fail.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use host::hook::{CallHook, CallKind, Fate, HostCall};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::planted::Planted;

/// Which faults there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// None.
    None,
    /// All kinds, as the seed has it.
    Random,
    /// One: the machine dies at this call, the first being 0.
    DeathAt {
        /// The call's number.
        call: u64,
        /// Whether the call is carried out first.
        after: bool,
    },
}

/// The errors that SQLite and key-value stores are made to give before they do anything.
const ERRORS: [&str; 4] =
    ["database is locked", "database or disk is full", "disk I/O error", "attempt to write a readonly database"];

/// One run's world.
pub struct World {
    random: Mutex<StdRng>,
    history: Mutex<Vec<String>>,
    violation: Mutex<Option<String>>,
    faults: Faults,
    planted: Option<Planted>,
    /// Whether random faults happen now.
    active: AtomicBool,
    /// Whether the processor fails every attempt now.
    pub processor_fails: AtomicBool,
    dead: AtomicBool,
    /// Wakes whoever waits for the machine's death.
    pub died: Notify,
    calls: AtomicU64,
    injected: AtomicU64,
    /// Until when the processor's calls are likely to hang.
    hanging_until: Mutex<Option<Instant>>,
}

impl World {
    pub fn new(seed: u64, faults: Faults, planted: Option<Planted>) -> Self {
        Self {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            history: Mutex::default(),
            violation: Mutex::default(),
            faults,
            planted,
            active: AtomicBool::new(faults == Faults::Random),
            processor_fails: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            calls: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            hanging_until: Mutex::default(),
        }
    }

    /// Draws.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.random.lock().unwrap())
    }

    /// Whether something of this probability happens.
    pub fn chance(&self, probability: f64) -> bool {
        self.draw(|random| random.random_bool(probability))
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.draw(|random| random.random_range(0..end))
    }

    /// Writes a line of the history.
    pub fn tell(&self, line: String) {
        self.history.lock().unwrap().push(line);
    }

    /// Remembers the first violation.
    pub fn violated(&self, what: String) {
        self.tell(format!("VIOLATION {what}"));
        self.violation.lock().unwrap().get_or_insert(what);
    }

    /// Whether something was violated.
    pub fn is_violated(&self) -> bool {
        self.violation.lock().unwrap().is_some()
    }

    /// Ends all random faults.
    pub fn calm(&self) {
        self.active.store(false, Ordering::Relaxed);
        self.processor_fails.store(false, Ordering::Relaxed);
    }

    /// Whether random faults happen now.
    pub fn is_rough(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// The machine comes back.
    pub fn revive(&self) {
        self.dead.store(false, Ordering::Relaxed);
    }

    /// The machine dies: every call from now on finds it dead.
    pub fn die(&self, why: &str) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            self.tell(format!("the machine dies: {why}"));
            self.died.notify_one();
        }
    }

    /// The history, the first violation, and how many calls and injected faults there were.
    pub fn end(&self) -> (Vec<String>, Option<String>, u64, u64) {
        let history = std::mem::take(&mut *self.history.lock().unwrap());
        let violation = self.violation.lock().unwrap().take();
        (history, violation, self.calls.load(Ordering::Relaxed), self.injected.load(Ordering::Relaxed))
    }

    fn inject(&self, call: &HostCall<'_>, fate: Fate) -> Fate {
        self.injected.fetch_add(1, Ordering::Relaxed);
        let subject: String = call.subject.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        self.tell(format!("fault: {} {:?} {subject:?}: {fate:?}", call.component, call.kind));
        fate
    }

    fn random_fate(&self, call: &HostCall<'_>) -> Fate {
        let in_processor = is_in_processor(call);
        let roll = self.below(10_000);
        if in_processor {
            // Hanging comes in bursts, as it does when something behind the processor is down: one worker hangs,
            // and the one that takes its orders over hangs too.
            let hanging = self.hanging_until.lock().unwrap().is_some_and(|until| Instant::now() < until);
            if hanging && self.chance(0.5) {
                let delay = Duration::from_millis(1_500 + self.below(4_000));
                return self.inject(call, Fate::Delay(delay, Box::default()));
            }
            return match roll {
                // Slow, then hanging beyond every lease, then failing, then trapping, then never returning.
                0..300 => self.inject(call, Fate::Delay(Duration::from_millis(self.below(3_000)), Box::default())),
                300..800 => {
                    *self.hanging_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(6));
                    self.inject(call, Fate::Delay(Duration::from_millis(1_500 + self.below(4_000)), Box::default()))
                }
                800..1_500 => self.inject(call, Fate::FailBefore("the processor is down".to_owned())),
                1_500..1_700 => self.inject(call, Fate::DieBefore),
                1_700..1_750 => self.inject(call, Fate::Delay(NEVER, Box::default())),
                _ => Fate::Proceed,
            };
        }
        match roll {
            0..30 => {
                let error = ERRORS[self.below(ERRORS.len() as u64) as usize];
                self.inject(call, Fate::FailBefore(error.to_owned()))
            }
            // Not "locked": that says that nothing was done.
            30..60 => self.inject(call, Fate::FailAfter("disk I/O error".to_owned())),
            60..75 => self.inject(call, Fate::DieBefore),
            75..90 => self.inject(call, Fate::DieAfter),
            90..100 => {
                self.die("at random, before a call");
                self.inject(call, Fate::DieBefore)
            }
            100..110 => {
                self.die("at random, after a call");
                self.inject(call, Fate::DieAfter)
            }
            // Lets others go first: this is where interleavings come from.
            110..900 => Fate::Delay(Duration::from_millis(self.below(40)), Box::default()),
            900..910 => self.inject(call, Fate::Delay(Duration::from_millis(self.below(9_000)), Box::default())),
            _ => Fate::Proceed,
        }
    }
}

/// Longer than anything waits: the call never returns.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// Whether the call is one that the processor makes.
fn is_in_processor(call: &HostCall<'_>) -> bool {
    call.component == "order-worker" && call.kind == CallKind::Variable && call.subject == "processing_time_ms"
}

impl CallHook for World {
    fn fate(&self, call: HostCall<'_>) -> Fate {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.dead.load(Ordering::Relaxed) {
            return Fate::DieBefore;
        }
        if let Faults::DeathAt { call: at, after } = self.faults
            && number == at
        {
            let when = if after { "after" } else { "before" };
            let subject: String = call.subject.split_whitespace().take(6).collect::<Vec<_>>().join(" ");
            self.die(&format!("{when} call {number}, {} {:?} {subject:?}", call.component, call.kind));
            return if after { Fate::DieAfter } else { Fate::DieBefore };
        }
        if is_in_processor(&call) && self.processor_fails.load(Ordering::Relaxed) {
            return Fate::FailBefore("the processor is down".to_owned());
        }
        if self.active.load(Ordering::Relaxed) { self.random_fate(&call) } else { Fate::Proceed }
    }

    fn rewrite(&self, statement: &str) -> Option<String> {
        self.planted.and_then(|planted| planted.rewrite(statement))
    }
}

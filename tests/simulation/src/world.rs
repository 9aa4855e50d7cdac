//! What all hosts of a simulated world share: the time, the seed's choices, the events to come, the
//! network, the disks, and what was seen.
//!
//! Time is tokio's paused clock, which moves when nothing can run. An event is a closure with its
//! time; those of one time run in the order in which they were scheduled. Everything runs on one
//! thread, so a seed replays exactly; [`World::trace_hash`] says whether it did.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::disk::Disk;
use crate::faults::Fault;
use crate::invariants::Watch;
use crate::kernel::Ended;
use crate::network::Network;
use crate::rpc::Services;

#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// A machine, as `dn1`, or one run of a process on it, as `dn1#3`.
pub type Host = String;

pub fn machine(host: &str) -> &str {
    host.split('#').next().unwrap_or(host)
}

type Event = Box<dyn FnOnce(&mut State) + Send>;

pub struct State {
    pub rng: StdRng,
    pub started: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    pub network: Network,
    pub disks: BTreeMap<Host, Disk>,
    /// Hosts whose disk lost bytes, and nobody has looked yet whose.
    pub bad_disks: BTreeSet<Host>,
    pub services: Services,
    /// Datanodes' processes that have ended because of their disk.
    pub gave_up: Vec<String>,
    /// Operations of each host's executor that have ended and were not taken.
    pub ended: BTreeMap<Host, Vec<Ended>>,
    pub faults: BTreeMap<&'static str, u64>,
    /// What was done about faults, by its kind.
    pub recoveries: BTreeMap<&'static str, u64>,
    /// Faults that wait for an event, and how often it must yet happen.
    pub awaiting: Vec<(&'static str, u64, Fault)>,
    /// Those whose event has come.
    pub sprung: Vec<Fault>,
    pub watch: Arc<Watch>,
    trace: DefaultHasher,
    pub log: Option<Vec<String>>,
    prints: bool,
    /// Where the disks' files lie, which differs from run to run.
    root: String,
    /// The world does not get on any more.
    pub is_stuck: bool,
    /// What must never happen, and did.
    pub violations: Vec<String>,
    pub stops_at_violation: bool,
}

impl World {
    pub fn new(seed: u64, root: &Path, with_log: bool, prints: bool) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            started: Instant::now(),
            events: BTreeMap::new(),
            scheduled: 0,
            network: Network::default(),
            disks: BTreeMap::new(),
            bad_disks: BTreeSet::new(),
            services: Services::default(),
            gave_up: Vec::new(),
            ended: BTreeMap::new(),
            faults: BTreeMap::new(),
            recoveries: BTreeMap::new(),
            awaiting: Vec::new(),
            sprung: Vec::new(),
            watch: Arc::default(),
            trace: DefaultHasher::new(),
            log: with_log.then(Vec::new),
            prints,
            root: root.display().to_string(),
            is_stuck: false,
            violations: Vec::new(),
            stops_at_violation: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Resolves when something was scheduled, or a host was given something to do, from outside of
    /// the world's own loop.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub fn touch(&self) {
        self.0.changed.notify_one();
    }

    /// Runs the events that are due; whether there were any.
    pub fn run_due(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let mut has_run = false;
        while let Some(entry) = state.events.first_entry()
            && entry.key().0 <= now
        {
            let event = entry.remove();
            event(&mut state);
            has_run = true;
        }
        has_run
    }

    pub fn next_event(&self) -> Option<Instant> {
        self.state().events.keys().next().map(|(at, _)| *at)
    }

    /// Tells two runs apart.
    pub fn trace_hash(&self) -> u64 {
        self.state().trace.finish()
    }
}

impl State {
    pub fn schedule(&mut self, delay: Duration, event: impl FnOnce(&mut State) + Send + 'static) {
        self.schedule_at(Instant::now() + delay, event);
    }

    pub fn schedule_at(&mut self, at: Instant, event: impl FnOnce(&mut State) + Send + 'static) {
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), Box::new(event));
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }

    /// Counts a fault that is no event of its own, and too frequent for the log.
    pub fn count(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Counts a fault of this kind that took effect.
    pub fn fault(&mut self, kind: &'static str) {
        self.count(kind);
        self.trace(|| format!("fault: {kind}"));
    }

    /// Counts a recovery of this kind that went well.
    pub fn recovery(&mut self, kind: &'static str) {
        *self.recoveries.entry(kind).or_default() += 1;
    }

    /// Something has happened that faults may wait for.
    pub fn event(&mut self, name: &str) {
        for (_, left, _) in self.awaiting.iter_mut().filter(|(awaited, ..)| *awaited == name) {
            *left = left.saturating_sub(1);
        }
        let due = self.awaiting.extract_if(.., |(_, left, _)| *left == 0);
        let due: Vec<Fault> = due.map(|(_, _, fault)| fault).collect();
        self.sprung.extend(due);
    }

    pub fn violation(&mut self, what: String) {
        self.trace(|| format!("VIOLATION: {what}"));
        self.violations.push(what.replace(&self.root, ""));
    }

    /// Notes what happens.
    pub fn trace(&mut self, what: impl Fn() -> String) {
        let what = what().replace(&self.root, "");
        let what = format!("{:>9.3} {what}", self.started.elapsed().as_secs_f64());
        what.hash(&mut self.trace);
        if self.prints {
            println!("{what}");
        }
        if let Some(log) = &mut self.log {
            log.push(what);
        }
    }
}

//! A whole cluster in one thread under one seed, to find what loses bytes.
//!
//! Real: the datanodes' protocol code with executor, buffers and start-up scan, and their links to the
//! namenode; the namenode's service, block and lease management and store; the client with its
//! streamer and its reader; all codecs of the data protocol. Simulated: time ([`world`]), the network
//! ([`network`], [`rpc`]), disks ([`disk`]: files that lose what was not synced), the kernel below the
//! executor ([`kernel`]), the death of processes and machines ([`cluster`], [`faults`]).
//!
//! [`run`] lives through one seed and returns what must never happen and did ([`Report::violations`]);
//! the same seed does the same again. What is promised is in [`workload`].

pub mod client_stream;
pub mod cluster;
pub mod disk;
pub mod faults;
pub mod file_work;
pub mod invariants;
pub mod kernel;
pub mod network;
pub mod planted;
pub mod rpc;
pub mod workload;
pub mod world;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringfs_protocol::{mutants, simulation};
use tokio::task::JoinSet;
use tokio::time::Instant;

use cluster::Cluster;
use faults::{Bias, Fault, Kind, Plan};
use invariants::Floor;
use workload::{Oracle, Reader, Writer};
use world::World;

/// Where the files of the disks lie: in memory.
const MEMORY: &str = "/dev/shm";
/// After the last fault: enough for dead datanodes to be noticed and leases to end.
const WRITERS_MAX: Duration = Duration::from_secs(1_800);
const QUIET: Duration = Duration::from_secs(120);
/// Looks for what is held, once nothing should be.
const LOOKS: u32 = 3;
/// For what takes no simulated time and does not end: a hundred times what a world takes.
const REAL_MAX: Duration = Duration::from_secs(300);
/// How often what is promised is looked for on the disks.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often datanodes read all that they have.
const SCRUB_INTERVAL: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A planted bug to live with, up to the first violation.
    pub mutant: Option<&'static str>,
    pub bias: Bias,
    pub with_log: bool,
    /// Print what happens as it does.
    pub prints: bool,
}

#[derive(Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub violations: Vec<String>,
    pub simulated: Duration,
    pub faults: BTreeMap<&'static str, u64>,
    pub recoveries: BTreeMap<&'static str, u64>,
    pub trace_hash: u64,
    pub log: Vec<String>,
    pub bytes_promised: u64,
    /// How often the planted bug was reached.
    pub mutant_firings: u64,
}

thread_local! {
    static PANICS: Panics = const { Panics { is_set: Cell::new(false), all: RefCell::new(Vec::new()) } };
}

/// What panicked in this thread, where an executor would only have logged it.
struct Panics {
    is_set: Cell<bool>,
    all: RefCell<Vec<String>>,
}

impl Panics {
    fn set(&self) {
        self.is_set.set(true);
    }

    fn is_set(&self) -> bool {
        self.is_set.get()
    }

    fn push(&self, panic: String) {
        self.all.borrow_mut().push(panic);
    }
}

/// Lives through one seed, in a thread of its own.
pub fn run(seed: u64, options: Options) -> Report {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match PANICS.try_with(|all| all.is_set()) {
            Ok(true) => PANICS.with(|all| all.push(panic.to_string())),
            _ => former(panic),
        }));
    });
    let (report, lived) = std::sync::mpsc::channel();
    let living = std::thread::Builder::new().name(format!("seed {seed}")).spawn(move || {
        // Nobody waits for it where it came too late.
        let _ = report.send(live_here(seed, options));
    });
    let living = living.expect("a thread");
    let violation = match lived.recv_timeout(REAL_MAX) {
        Ok(report) => return report,
        Err(RecvTimeoutError::Timeout) => "the world is stuck: real time runs out".to_owned(),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = living.join().expect_err("it has ended without a report");
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(|&what| what.to_owned()));
            format!("panic: {}", what.unwrap_or_default())
        }
    };
    Report { seed, violations: vec![violation], ..Report::default() }
}

fn live_here(seed: u64, options: Options) -> Report {
    mutants::switch(options.mutant);
    PANICS.with(Panics::set);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O");
    let report = runtime.block_on(live(seed, options));
    drop(runtime);
    simulation::leave();
    report
}

async fn live(seed: u64, options: Options) -> Report {
    let directory = tempfile::Builder::new()
        .prefix("ringfs-simulation-")
        .tempdir_in(MEMORY)
        .expect("a directory in memory");
    let world = World::new(seed, directory.path(), options.with_log, options.prints);
    world.state().stops_at_violation = options.mutant.is_some();
    simulation::enter(Arc::new(world.clone()));
    simulation::seed(seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let plan = Plan::of(seed, options.bias, &mut rng);
    world.state().trace(|| format!("{plan:?}"));
    let mut cluster = Cluster::new(world.clone(), directory.path(), plan.datanodes, plan.writers);
    let floor = if plan.kind == Kind::Processes { Floor::Replication } else { Floor::One };
    *world.state().watch.floor.lock() = floor;
    cluster.start_namenode();
    for number in 0..plan.datanodes {
        cluster.start_datanode(number);
    }
    run_for(&mut cluster, Duration::from_secs(8)).await;
    world.state().services.loss = plan.loss;

    let oracle: Oracle = Arc::new(Mutex::new(Vec::new()));
    let mut writers = JoinSet::new();
    for number in 0..plan.writers {
        let mut writer = Writer::new(
            world.clone(),
            cluster.configuration.clone(),
            oracle.clone(),
            plan.promise(),
            number,
            rng.random(),
        );
        writer.is_busy = plan.is_busy;
        writer.must_not_fail = options.bias == Bias::OneDies;
        writers.spawn(writer.run(plan.files));
    }
    let reader = || Reader {
        world: world.clone(),
        configuration: cluster.configuration.clone(),
        oracle: oracle.clone(),
        promise: plan.promise(),
        host: format!("client{}", plan.writers),
    };
    let verifier = reader();
    let mut readers = JoinSet::new();
    readers.spawn(reader().run(StdRng::seed_from_u64(rng.random())));
    readers.spawn(look_for_losses(world.clone(), oracle.clone(), plan.promise()));
    suffer(&mut cluster, &plan, &oracle).await;
    world.state().services.loss = 0.0;
    let patience = Instant::now() + WRITERS_MAX;
    while !writers.is_empty() && Instant::now() < patience && !is_caught(&world) {
        cluster.step(patience).await;
        while let Some(ended) = writers.try_join_next() {
            if let Err(panicked) = ended {
                world.state().violation(format!("a writer: {panicked}"));
            }
        }
    }
    if !writers.is_empty() {
        world.state().violation("a writer hangs".to_owned());
    }
    writers.shutdown().await;
    readers.shutdown().await;
    finish(&mut cluster, verifier).await;
    is_at_peace(&mut cluster, &plan).await;
    let promised = |file: &workload::FileOracle| file.promised(plan.promise()) as u64;
    let bytes_promised = oracle.lock().iter().map(promised).sum();
    cluster.stop_all().await;
    report_of(seed, &world, bytes_promised)
}

/// Looks at every file's promised bytes, for ever.
async fn look_for_losses(world: World, oracle: Oracle, promise: workload::Promise) {
    let watch = world.state().watch.clone();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        give_up_what_only_bad_disks_have(&world, &oracle);
        if let Some(lost) = watch.lost(&oracle, promise) {
            world.state().violation(lost);
        }
    }
}

/// A pipeline of one may have been made on a disk that failed already. Disks that failed while no
/// namenode could say what lies where are remembered until one can.
fn give_up_what_only_bad_disks_have(world: &World, oracle: &Oracle) {
    let (watch, mut bad_disks) = {
        let mut state = world.state();
        let bad_disks = state.disks.iter().filter(|(_, disk)| disk.fails.may_lose_bytes());
        let bad_disks: BTreeSet<String> = bad_disks.map(|(machine, _)| machine.clone()).collect();
        state.bad_disks.extend(bad_disks);
        (state.watch.clone(), std::mem::take(&mut state.bad_disks))
    };
    bad_disks.retain(|machine| !watch.give_up_what_is_only_at(machine, oracle));
    world.state().bad_disks.extend(bad_disks);
}

fn report_of(seed: u64, world: &World, bytes_promised: u64) -> Report {
    let trace_hash = world.trace_hash();
    let state = world.state();
    Report {
        seed,
        violations: state.violations.clone(),
        simulated: state.started.elapsed(),
        faults: state.faults.clone(),
        recoveries: state.recoveries.clone(),
        trace_hash,
        log: state.log.clone().unwrap_or_default(),
        bytes_promised,
        mutant_firings: mutants::firings(),
    }
}

/// Reads everything back, and looks for what idle processes still hold.
async fn finish(cluster: &mut Cluster, verifier: Reader) {
    // It would come back into the safe mode that the verifier ends, and stay there.
    cluster.spare_namenode();
    run_for(cluster, QUIET).await;
    let world = cluster.world.clone();
    let mut verifying = JoinSet::new();
    verifying.spawn(verifier.verify());
    let patience = Instant::now() + WRITERS_MAX * 4;
    while !verifying.is_empty() && Instant::now() < patience && !is_caught(&world) {
        cluster.step(patience).await;
        if let Some(Err(panicked)) = verifying.try_join_next() {
            world.state().violation(format!("the verifier: {panicked}"));
        }
    }
    if !verifying.is_empty() {
        world.state().violation("a file cannot be read in time".to_owned());
    }
    run_for(cluster, QUIET).await;
    // What runs just now is no leak: what is held is held later, too.
    let mut leaks = cluster.leaks();
    for _ in 0..LOOKS {
        if leaks.is_empty() {
            break;
        }
        run_for(cluster, QUIET / LOOKS).await;
        let still = cluster.leaks();
        leaks.retain(|leak| still.contains(leak));
    }
    is_caught(&world);
    for leak in leaks {
        world.state().violation(leak);
    }
}

/// With rot found and replaced, the namenode's books must agree with the disks.
async fn is_at_peace(cluster: &mut Cluster, plan: &Plan) {
    if is_caught(&cluster.world) {
        return;
    }
    cluster.scrub();
    run_for(cluster, QUIET).await;
    let watch = cluster.world.state().watch.clone();
    for wrong in watch.at_peace(plan.promise(), plan.datanodes) {
        cluster.world.state().violation(wrong);
    }
}

/// A planted bug has shown itself, or nothing moves: nothing more is to be learnt.
fn is_caught(world: &World) -> bool {
    let panics = PANICS.with(|all| all.all.take());
    let mut state = world.state();
    panics.into_iter().for_each(|panic| state.violation(format!("panic: {panic}")));
    state.is_stuck || state.stops_at_violation && !state.violations.is_empty()
}

async fn run_for(cluster: &mut Cluster, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end && !is_caught(&cluster.world) {
        cluster.step(end).await;
    }
}

/// Carries the plan out, and mends everything at its end.
async fn suffer(cluster: &mut Cluster, plan: &Plan, oracle: &Oracle) {
    let started = Instant::now();
    let mut scrub_at = started + SCRUB_INTERVAL;
    let mut returns: Vec<(Instant, Option<usize>)> = Vec::new();
    let mut faults = plan.faults.iter();
    let mut next = faults.next();
    loop {
        let fault_at = next.map(|(at, _)| started + *at);
        let return_at = returns.iter().map(|(at, _)| *at).min();
        let Some(until) = fault_at.into_iter().chain(return_at).min() else { break };
        while Instant::now() < until {
            if is_caught(&cluster.world) {
                return;
            }
            cluster.step(until).await;
            spring_ambush(cluster, &mut returns).await;
            let sprung = std::mem::take(&mut cluster.world.state().sprung);
            for fault in &sprung {
                strike(cluster, fault, &mut returns, oracle).await;
            }
            cluster.scrub_suspects();
            if Instant::now() >= scrub_at {
                cluster.scrub();
                scrub_at = Instant::now() + SCRUB_INTERVAL;
            }
        }
        while let Some((at, fault)) = next
            && started + *at <= Instant::now()
        {
            strike(cluster, fault, &mut returns, oracle).await;
            next = faults.next();
        }
        let now = Instant::now();
        for (_, host) in returns.extract_if(.., |(at, _)| *at <= now) {
            bring_back(cluster, host);
        }
    }
    cluster.world.state().heal();
    for number in 0..plan.datanodes {
        mend(cluster, number);
        bring_back(cluster, Some(number));
    }
    bring_back(cluster, None);
}

async fn spring_ambush(cluster: &mut Cluster, returns: &mut Vec<(Instant, Option<usize>)>) {
    let ambushed = cluster.world.state().network.ambushed.take();
    let Some((machine, down)) = ambushed else { return };
    let is_it = |host: &cluster::DatanodeHost| host.machine == machine;
    if let Some(number) = cluster.datanodes.iter().position(is_it) {
        cluster.world.state().fault("datanode: killed in a packet");
        cluster.kill_datanode(number, false).await;
        returns.push((Instant::now() + down, Some(number)));
    }
}

fn bring_back(cluster: &mut Cluster, host: Option<usize>) {
    match host {
        Some(number) if !cluster.is_up(number) => cluster.start_datanode(number),
        None if !cluster.namenode_is_up() => cluster.start_namenode(),
        _ => {}
    }
}

fn mend(cluster: &Cluster, number: usize) {
    let machine = &cluster.datanodes[number].machine;
    if let Some(disk) = cluster.world.state().disks.get_mut(machine) {
        disk.fails = disk::Failures::default();
    }
}

async fn strike(
    cluster: &mut Cluster,
    fault: &Fault,
    returns: &mut Vec<(Instant, Option<usize>)>,
    oracle: &Oracle,
) {
    cluster.world.state().trace(|| format!("{fault:?}"));
    let world = cluster.world.clone();
    match fault {
        Fault::KillDatanode { number, power, down } => {
            cluster.kill_datanode(*number, *power).await;
            returns.push((Instant::now() + *down, Some(*number)));
        }
        Fault::Ambush { parcels, down } => {
            world.state().network.ambush = Some((*parcels, *down));
        }
        Fault::KillNamenode { power, down } => {
            cluster.kill_namenode(*power).await;
            returns.push((Instant::now() + *down, None));
        }
        Fault::KillNamenodeInCommit { steps } => cluster.kill_namenode_in_commit(*steps),
        Fault::EndAll { power, down } => {
            for number in 0..cluster.datanodes.len() {
                cluster.kill_datanode(number, *power).await;
                returns.push((Instant::now() + *down, Some(number)));
            }
            if *power {
                cluster.kill_namenode(true).await;
                returns.push((Instant::now() + *down, None));
            }
        }
        Fault::Block { from, to } => {
            let mut state = world.state();
            state.fault("network: half-open");
            state.network.blocked.insert((from.clone(), to.clone()));
        }
        Fault::Isolate { host } => {
            let mut state = world.state();
            state.fault("network: partition");
            let others: Vec<_> = state.network.addresses.keys().cloned().collect();
            for other in others.into_iter().filter(|other| other != host) {
                state.network.blocked.insert((host.clone(), other.clone()));
                state.network.blocked.insert((other, host.clone()));
            }
        }
        Fault::Heal => world.state().heal(),
        Fault::Reset => world.state().reset_some(),
        Fault::ResetInPacket { parcels } => world.state().network.reset_in = Some(*parcels),
        Fault::FailDisk { number, fails } => {
            give_up_what_only_bad_disks_have(&world, oracle);
            let machine = cluster.datanodes[*number].machine.clone();
            world.state().disks.entry(machine).or_default().fails = *fails;
            give_up_what_only_bad_disks_have(&world, oracle);
        }
        Fault::MendDisk { number } => {
            give_up_what_only_bad_disks_have(&world, oracle);
            mend(cluster, *number);
        }
        Fault::Rot => cluster.rot(),
        Fault::After { event, times, then } => {
            world.state().awaiting.push((event, *times, Fault::clone(then)));
        }
    }
}

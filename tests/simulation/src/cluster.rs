//! The hosts of a world and their processes: started, killed, and brought forward in time.
//!
//! One loop runs everything: the executors of all datanodes until none has anything to do, then
//! tokio's tasks (namenode, control sides of datanodes, clients), then time moves to the next event.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use ringfs_datanode::counters::Counters;
use ringfs_datanode::dataset::Dataset;
use ringfs_datanode::error::DatanodeError;
use ringfs_datanode::ring::Executor;
use ringfs_datanode::ring::simulated::new_executor;
use ringfs_datanode::simulation::{self as datanode, DatanodeConfig};
use ringfs_datanode::volume::BlockData;
use ringfs_namenode::clock::Clock;
use ringfs_namenode::error::NamenodeError;
use ringfs_namenode::namesystem::Namesystem;
use ringfs_namenode::simulation as namenode;
use ringfs_protocol::site_config::Configuration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::disk::{Disk, StoreDisk};
use crate::invariants::Watch;
use crate::kernel::HostKernel;
use crate::rpc::Service;
use crate::world::{State, World};

/// Slabs of a datanode: few, so that streams must wait for each other.
const SLABS: usize = 12;
/// Times that tokio's tasks get their turn before time moves.
const TURNS: usize = 8;
/// Rounds in which something runs though no time passes: a thousand times what worlds need.
const ROUNDS_MAX: u32 = 100_000;
/// Tasks of the namenode and of clients live while a step waits: a namenode that dies meanwhile is
/// found and started again after this time.
const LONGEST_STEP: Duration = Duration::from_secs(5);
/// Steps of one world: a hundred times what the longest needs.
const STEPS_MAX: u64 = 20_000_000;
const CACHE_BYTES: usize = 1 << 20;
pub const NAMENODE: &str = "nn";
/// The moment at which worlds begin, in milliseconds since the epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;

pub struct Cluster {
    pub world: World,
    pub configuration: Configuration,
    root: PathBuf,
    pub datanodes: Vec<DatanodeHost>,
    pub namenode: NamenodeHost,
    steps: u64,
}

pub struct DatanodeHost {
    pub machine: String,
    runs: u64,
    run: Option<DatanodeRun>,
    /// It ended because of its disk, and starts again when that answers.
    awaits_disk: bool,
}

struct DatanodeRun {
    process: String,
    executor: Rc<Executor>,
    control: JoinHandle<()>,
    dataset: Arc<Mutex<Weak<Dataset>>>,
    counters: Arc<Counters>,
}

pub struct NamenodeHost {
    disk: StoreDisk,
    run: Option<NamenodeRun>,
    runs: u64,
}

struct NamenodeRun {
    namesystem: Weak<Namesystem>,
    background: JoinHandle<()>,
}

/// tokio's paused clock.
struct WorldClock(Instant);

impl Clock for WorldClock {
    fn now_ms(&self) -> u64 {
        EPOCH_MS + self.0.elapsed().as_millis() as u64
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

pub fn namenode_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8020))
}

fn datanode_address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, number as u8 + 1], 9866))
}

pub fn client_address(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, number as u8 + 1], 1))
}

fn ipc_address(number: usize) -> SocketAddr {
    SocketAddr::from((datanode_address(number).ip(), 9867))
}

/// The settings of all hosts: times that suit an hour of a small cluster's life.
fn configuration(clients: usize) -> Configuration {
    let mut configuration = Configuration::default();
    // The last one is the operator.
    let mut users: Vec<String> = (0..clients).map(|number| format!("client{number}=")).collect();
    users.push(format!("client{clients}=supergroup"));
    for (name, value) in [
        ("fs.defaultFS", format!("hdfs://{}", namenode_address())),
        ("dfs.namenode.fs-limits.min-block-size", "512".to_owned()),
        ("dfs.blocksize", "65536".to_owned()),
        ("dfs.client-write-packet-size", "5000".to_owned()),
        ("dfs.permissions.enabled", "false".to_owned()),
        ("hadoop.user.group.static.mapping.overrides", users.join(";")),
        ("dfs.namenode.safemode.extension", "1000".to_owned()),
        ("dfs.namenode.heartbeat.recheck-interval", "20000".to_owned()),
        ("dfs.namenode.lease-hard-limit-sec", "240".to_owned()),
        ("dfs.namenode.reconstruction.pending.timeout-sec", "60".to_owned()),
        ("dfs.blockreport.intervalMsec", "60000".to_owned()),
        ("dfs.datanode.disk.check.timeout", "15s".to_owned()),
        ("ringfs.datanode.read.cache", "off".to_owned()),
        ("dfs.client.socket-timeout", "20000".to_owned()),
        ("ipc.client.connect.max.retries", "30".to_owned()),
        ("dfs.client.block.write.replace-datanode-on-failure.best-effort", "true".to_owned()),
    ] {
        configuration.set(name, &value);
    }
    configuration
}

impl Cluster {
    pub fn new(world: World, root: &Path, datanodes: usize, clients: usize) -> Self {
        let configuration = configuration(clients);
        let mut addresses = vec![(NAMENODE.to_owned(), namenode_address())];
        addresses.extend((0..datanodes).map(|n| (format!("dn{n}"), datanode_address(n))));
        addresses.extend((0..=clients).map(|n| (format!("client{n}"), client_address(n))));
        world.state().network.addresses.extend(addresses);
        world.state().watch = Arc::new(Watch::new(root));
        let disk = StoreDisk::default();
        let database = open_database(&disk).expect("a store in memory");
        namenode::format(&database, &configuration, EPOCH_MS).expect("formatting in memory");
        drop(database);
        let host = |number| DatanodeHost {
            machine: format!("dn{number}"),
            runs: 0,
            run: None,
            awaits_disk: false,
        };
        Self {
            world,
            configuration,
            root: root.to_owned(),
            datanodes: (0..datanodes).map(host).collect(),
            namenode: NamenodeHost { disk, run: None, runs: 0 },
            steps: 0,
        }
    }

    pub fn data_dir(&self, number: usize) -> PathBuf {
        self.root.join(format!("dn{number}"))
    }

    pub fn is_up(&self, number: usize) -> bool {
        self.datanodes[number].run.is_some()
    }

    pub fn namenode_is_up(&self) -> bool {
        self.namenode.run.is_some()
    }

    pub fn start_namenode(&mut self) {
        let namesystem = loop {
            self.namenode.runs += 1;
            match self.open_namesystem() {
                Ok(namesystem) => break namesystem,
                Err(_) if self.namenode.disk.has_died() => {
                    let mut state = self.world.state();
                    state.fault("namenode: died at its start");
                    self.namenode.disk = self.namenode.disk.next(false, &mut state.rng);
                }
                Err(error) => {
                    let what = format!("the namenode cannot open its store: {error}");
                    return self.world.state().violation(what);
                }
            }
        };
        let disk = self.namenode.disk.clone();
        let service = Service::new(namenode::service(namesystem.clone()), move || disk.has_died());
        self.world.state().services.add(&namenode_address().to_string(), service);
        let background = tokio::spawn(namenode::run_background(namesystem.clone()));
        let namesystem = Arc::downgrade(&namesystem);
        *self.world.state().watch.namesystem.lock() = namesystem.clone();
        self.namenode.run = Some(NamenodeRun { namesystem, background });
        self.world.state().trace(|| "the namenode starts".to_owned());
    }

    fn open_namesystem(&self) -> Result<Arc<Namesystem>, NamenodeError> {
        let disk = &self.namenode.disk;
        let clock = Arc::new(WorldClock(self.world.state().started));
        let seed = self.world.state().rng.random();
        let database = open_database(disk)?;
        namenode::open(database, Box::new(disk.clone()), &self.configuration, clock, seed)
    }

    pub async fn kill_namenode(&mut self, power_is_lost: bool) {
        let Some(run) = self.namenode.run.take() else { return };
        let kind = if power_is_lost { "namenode: power lost" } else { "namenode: killed" };
        {
            let mut state = self.world.state();
            state.fault(kind);
            state.services.remove(&namenode_address().to_string());
        }
        // What still runs on its way out, the store above all, must write nothing more.
        self.namenode.disk.die();
        run.background.abort();
        self.until_gone(|| run.namesystem.strong_count() == 0, "the namenode").await;
        let mut state = self.world.state();
        self.namenode.disk = self.namenode.disk.next(power_is_lost, &mut state.rng);
    }

    /// The namenode dies while it commits, `steps` writes from now.
    pub fn kill_namenode_in_commit(&mut self, steps: u64) {
        self.namenode.disk.die_in(steps);
    }

    /// The time of faults is over.
    pub fn spare_namenode(&mut self) {
        self.namenode.disk.spare();
    }

    pub fn start_datanode(&mut self, number: usize) {
        let root = self.data_dir(number);
        write_identity(&root, number);
        let host = &mut self.datanodes[number];
        host.runs += 1;
        let process = format!("{}#{}", host.machine, host.runs);
        let kernel = HostKernel::new(self.world.clone(), process.clone());
        let (waking, counters) = (self.world.clone(), Arc::<Counters>::default());
        let executor = new_executor(kernel, SLABS, counters.clone(), move || waking.touch())
            .expect("memory for slabs");
        let mut configuration = self.configuration.clone();
        for (name, value) in [
            ("dfs.datanode.data.dir", root.display().to_string()),
            ("dfs.datanode.address", datanode_address(number).to_string()),
            ("dfs.datanode.ipc.address", ipc_address(number).to_string()),
            ("dfs.datanode.http.address", "10.0.0.1:9864".to_owned()),
            ("dfs.datanode.hostname", host.machine.clone()),
        ] {
            configuration.set(name, &value);
        }
        let config = DatanodeConfig::from_configuration(&configuration, BlockData::Stored)
            .expect("the settings are valid");
        let listener = self.world.state().listen(&process, datanode_address(number));
        let dataset = Arc::new(Mutex::new(Weak::new()));
        let (world, slot) = (self.world.clone(), dataset.clone());
        let serving = {
            let world = world.clone();
            move |serving: datanode::Serving| {
                *slot.lock() = serving.dataset;
                let service = Service::new(serving.ipc, || false);
                world.state().services.add(&ipc_address(number).to_string(), service);
            }
        };
        let running = datanode::run(
            Arc::new(config),
            process.clone(),
            executor.remote(),
            listener.expect("pipes"),
            counters.clone(),
            serving,
        );
        let name = process.clone();
        let control = tokio::spawn(async move {
            match running.await {
                Err(DatanodeError::TooManyFailedVolumes { .. }) => {
                    world.state().fault("datanode: gave up a failed volume");
                    world.state().gave_up.push(name);
                    world.touch();
                }
                Err(error) => world.state().violation(format!("{name} gives up: {error}")),
                Ok(()) => {}
            }
        });
        host.run = Some(DatanodeRun { process, executor, control, dataset, counters });
    }

    pub async fn kill_datanode(&mut self, number: usize, power_is_lost: bool) {
        let Some(run) = self.datanodes[number].run.take() else { return };
        {
            let mut state = self.world.state();
            let kind = if power_is_lost { "datanode: power lost" } else { "datanode: killed" };
            state.fault(kind);
            state.trace(|| format!("{} ends", run.process));
            state.services.remove(&ipc_address(number).to_string());
            state.lose_sockets(&run.process, power_is_lost);
            state.watch.process_ended(&run.process);
        }
        count_recoveries(&mut self.world.state(), &run.counters);
        run.control.abort();
        run.executor.stop();
        self.world.state().forget_process(&run.process);
        drop(run.executor);
        let dataset = run.dataset.clone();
        self.until_gone(|| dataset.lock().strong_count() == 0, &run.process).await;
        if power_is_lost {
            let mut state = self.world.state();
            let state = &mut *state;
            let machine = &self.datanodes[number].machine;
            if let Some(disk) = state.disks.get_mut(machine) {
                let lost = disk.lose_power(&mut state.rng).expect("files in memory");
                for (kind, count) in [
                    ("disk: unsynced sectors lost", lost.sectors),
                    ("disk: torn sector", lost.torn),
                    ("disk: unsynced names lost", lost.names),
                ] {
                    if count > 0 {
                        state.fault(kind);
                    }
                }
            }
        }
    }

    /// Has every datanode read all that it stores, and compare it with its checksums.
    pub fn scrub(&self) {
        self.for_each_dataset(datanode::scrub);
    }

    /// Has every datanode read what became suspect, as its scrubber does at once.
    pub fn scrub_suspects(&self) {
        self.for_each_dataset(datanode::scrub_suspects);
    }

    fn for_each_dataset(&self, work: impl Fn(&Arc<Dataset>, &Arc<Counters>)) {
        for run in self.datanodes.iter().filter_map(|host| host.run.as_ref()) {
            if let Some(dataset) = run.dataset.lock().upgrade() {
                work(&dataset, &run.counters);
            }
        }
    }

    /// Changes a bit of a replica of a block that has another which is good.
    pub fn rot(&self) {
        let mut state = self.world.state();
        let state = &mut *state;
        let (watch, rng) = (state.watch.clone(), &mut state.rng);
        let settled = watch.settled();
        let candidates = settled.iter().filter(|settled| settled.block.num_bytes > 0);
        let good = candidates.map(|settled| (settled.block, watch.good_replicas(settled.block)));
        let good: Vec<_> = good.filter(|(_, machines)| machines.len() > 1).collect();
        if good.is_empty() {
            return;
        }
        let (block, machines) = &good[rng.random_range(0..good.len())];
        let machine = &machines[rng.random_range(0..machines.len())];
        let Some(data) = watch.data_file(*block, machine) else { return };
        let Some(disk) = state.disks.get_mut(machine) else { return };
        if disk.rot(&data, rng).is_ok_and(|rotten| rotten) {
            watch.rotted(block.id, machine);
            state.fault("disk: bit rot");
            state.trace(|| format!("{block} rots at {machine}"));
        }
    }

    async fn until_gone(&self, is_gone: impl Fn() -> bool, who: &str) {
        for _ in 0..200 {
            if is_gone() {
                return;
            }
            tokio::task::yield_now().await;
        }
        self.world.state().violation(format!("{who} has ended, and parts of it live on"));
    }

    /// Runs what can run now, and moves time to what comes next, at most to `until`.
    pub async fn step(&mut self, until: Instant) {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            self.stuck("it takes no end of steps");
        }
        self.settle().await;
        let timers = self.executors().filter_map(|executor| executor.next_timer());
        let next = timers.map(Instant::from_std).chain(self.world.next_event()).min();
        let next = next.unwrap_or(until).min(until).min(Instant::now() + LONGEST_STEP);
        tokio::select! {
            biased;
            () = self.world.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
        self.world.run_due();
        if self.namenode.disk.has_died() && self.namenode.run.is_some() {
            self.world.state().fault("namenode: died in a commit");
            self.kill_namenode(false).await;
            let world = self.world.clone();
            world.state().trace(|| "the namenode is down".to_owned());
            self.start_namenode();
        }
        self.look_after_disks().await;
    }

    /// An operator who starts a datanode again when its disk is whole.
    async fn look_after_disks(&mut self) {
        let gave_up = std::mem::take(&mut self.world.state().gave_up);
        for number in 0..self.datanodes.len() {
            let host = &mut self.datanodes[number];
            let ended = host.run.as_ref().is_some_and(|run| gave_up.contains(&run.process));
            host.awaits_disk |= ended;
            if ended {
                self.kill_datanode(number, false).await;
            }
            let host = &mut self.datanodes[number];
            let is_whole = |disk: &Disk| !disk.fails.hangs && !disk.fails.for_all;
            if host.awaits_disk && self.world.state().disks.get(&host.machine).is_none_or(is_whole)
            {
                host.awaits_disk = false;
                if !self.is_up(number) {
                    self.start_datanode(number);
                }
            }
        }
    }

    async fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut has_run = false;
            for executor in self.executors() {
                has_run |= executor.step(ROUNDS_MAX);
            }
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            if !has_run && !self.world.run_due() {
                return;
            }
        }
        self.stuck("something runs and runs, and no time passes");
    }

    fn stuck(&self, why: &str) {
        let mut state = self.world.state();
        if !std::mem::replace(&mut state.is_stuck, true) {
            state.violation(format!("the world is stuck: {why}"));
        }
    }

    fn executors(&self) -> impl Iterator<Item = &Rc<Executor>> {
        self.datanodes.iter().filter_map(|host| host.run.as_ref()).map(|run| &run.executor)
    }

    /// What idle datanodes hold on to.
    pub fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for number in 0..self.datanodes.len() {
            let state = self.world.state();
            let of_model = state.disks.get(&format!("dn{number}")).map_or(0, Disk::handles);
            let open = state.watch.open_files(number).saturating_sub(of_model);
            if open > 0 {
                leaks.push(format!("dn{number} holds {open} files open while idle"));
            }
        }
        for run in self.datanodes.iter().filter_map(|host| host.run.as_ref()) {
            let (executor, state) = (&run.executor, self.world.state());
            let sockets = state.network.sockets.get(&run.process).map_or(0, |all| all.len());
            // One task accepts, one may look after open files.
            for (what, count, least) in [
                ("tasks", executor.tasks(), 2),
                ("operations in flight", executor.operations_in_flight(), 1),
                ("slabs", executor.slabs_in_use(), 0),
                ("sockets", sockets, 1),
            ] {
                if count > least {
                    leaks.push(format!("{} holds {count} {what} while idle", run.process));
                }
            }
        }
        leaks
    }

    pub async fn stop_all(&mut self) {
        for number in 0..self.datanodes.len() {
            self.kill_datanode(number, false).await;
        }
        self.kill_namenode(false).await;
    }
}

fn count_recoveries(state: &mut State, counters: &Counters) {
    for (kind, times) in [
        ("re-replication", counters.blocks_replicated.get()),
        ("rot found by a scrubber", counters.block_verification_failures.get()),
    ] {
        if times > 0 {
            *state.recoveries.entry(kind).or_default() += times;
        }
    }
}

fn open_database(disk: &StoreDisk) -> Result<redb::Database, redb::DatabaseError> {
    let mut builder = redb::Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder.create_with_backend(disk.clone())
}

/// A formatted directory, whose names are not left to chance.
fn write_identity(root: &Path, number: usize) {
    let current = root.join("current");
    if current.exists() {
        return;
    }
    std::fs::create_dir_all(&current).expect("directories in memory");
    let version = format!(
        "storageID=DS-{number}\nclusterID={}\ncTime=0\ndatanodeUuid=uuid-{number}\n\
         storageType=DATA_NODE\nlayoutVersion=-57\n",
        namenode::CLUSTER_ID
    );
    std::fs::write(current.join("VERSION"), version).expect("files in memory");
}

//! What happens to a world: a list of faults with their times, from the seed.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::disk::Failures;
use crate::workload::Promise;

const BIASED_FAULTS: usize = 6;
/// Seeds from here on live busier lives.
pub const BUSY_FROM: u64 = 1_000;
/// Seeds from here on meet resets in the middle of packets and disks that stall as well.
pub const MORE_FROM: u64 = 10_000;
/// Seeds from here on meet disks that hang, or fail in the middle of work on files, as well.
pub const HANGS_FROM: u64 = 2_000_000;

/// What must have happened somewhere in the seeds of the tests.
pub const KINDS: &[&str] = &[
    "client: died",
    "datanode: killed",
    "datanode: gave up a failed volume",
    "datanode: killed in a packet",
    "datanode: power lost",
    "disk: EIO",
    "disk: ENOSPC",
    "disk: bit rot",
    "disk: file work cut off",
    "disk: file work failed in between",
    "disk: hang",
    "disk: latency",
    "disk: stall",
    "disk: torn sector",
    "disk: unsynced names lost",
    "disk: unsynced sectors lost",
    "namenode: died at its start",
    "namenode: died in a commit",
    "namenode: killed",
    "namenode: power lost",
    "network: a part is sent at once",
    "network: a receive would wait",
    "network: a send would wait",
    "network: call held back",
    "network: delay",
    "network: half-open",
    "network: held back",
    "network: no answer to a connect",
    "network: one connection overtakes another",
    "network: partition",
    "network: reset",
    "network: reset in a packet",
    "rpc: reply lost",
    "rpc: request late",
    "rpc: request lost",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Processes die and come back, the network fails.
    Processes,
    /// Machines lose power as well.
    Power,
    /// One datanode's disk fails.
    Disk,
}

#[derive(Clone, Debug)]
pub enum Fault {
    KillDatanode {
        number: usize,
        power: bool,
        down: Duration,
    },
    /// Kills the datanode that this many more parcels of data reach.
    Ambush {
        parcels: u64,
        down: Duration,
    },
    KillNamenode {
        power: bool,
        down: Duration,
    },
    KillNamenodeInCommit {
        steps: u64,
    },
    EndAll {
        power: bool,
        down: Duration,
    },
    Block {
        from: String,
        to: String,
    },
    Isolate {
        host: String,
    },
    Heal,
    Reset,
    /// The connection that this many more parcels of data arrive before.
    ResetInPacket {
        parcels: u64,
    },
    FailDisk {
        number: usize,
        fails: Failures,
    },
    MendDisk {
        number: usize,
    },
    /// Changes a bit of a replica that has good ones beside it.
    Rot,
    /// When this has happened so often.
    After {
        event: &'static str,
        times: u64,
        then: Box<Fault>,
    },
}

/// What a world has more of than others, to reach what is rare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    #[default]
    None,
    /// All datanodes die together, with files open.
    AllDie,
    /// All machines lose power as soon as this has happened.
    PowerAfter(&'static str),
    /// Calls are lost, and answers.
    Retries,
    /// One datanode dies, once; no writer may fail for that.
    OneDies,
    /// Datanodes are taken for dead, replaced, and come back.
    Excess,
    /// Machines lose power one at a time, and come back at once.
    Power,
    /// Syncs fail on one datanode.
    FailedSyncs,
    /// The namenode dies, again and again.
    NamenodeDies,
    /// Bits change on disks.
    Rot,
}

/// The events that power may be lost after.
const EVENTS: &[&str] = &["synced", "updatePipeline", "commitBlockSynchronization"];

impl Bias {
    /// By its name on a command line.
    pub fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "none" => Self::None,
            "all-die" => Self::AllDie,
            "excess" => Self::Excess,
            "failed-syncs" => Self::FailedSyncs,
            "namenode-dies" => Self::NamenodeDies,
            "one-dies" => Self::OneDies,
            "power" => Self::Power,
            "retries" => Self::Retries,
            "rot" => Self::Rot,
            name => {
                let event = name.strip_prefix("power-after-");
                let known = event.and_then(|name| EVENTS.iter().find(|event| **event == name));
                Self::PowerAfter(known.ok_or_else(|| format!("there is no bias {name}"))?)
            }
        })
    }
}

/// Every way of mending something: none of them may be out of reach.
pub const RECOVERIES: &[&str] = &[
    "block recovery",
    "datanode replaced in a pipeline",
    "failed volume reported",
    "lease ended by itself",
    "lease recovered",
    "lease taken over",
    "pipeline recovery",
    "re-replication",
    "replica recovery",
    "rot found by a scrubber",
    "rot reported",
];

/// What an answered call shows to be mended.
pub fn recovery_of(method: &str) -> Option<&'static str> {
    Some(match method {
        "commitBlockSynchronization" => "block recovery",
        "errorReport" => "failed volume reported",
        "getAdditionalDatanode" => "datanode replaced in a pipeline",
        "initReplicaRecovery" => "replica recovery",
        "recoverLease" => "lease recovered",
        "reportBadBlocks" => "rot reported",
        "updatePipeline" => "pipeline recovery",
        _ => return None,
    })
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub datanodes: usize,
    pub writers: usize,
    pub files: usize,
    pub loss: f64,
    /// Writers write for most of the time, and datanodes die in the middle of packets.
    pub is_busy: bool,
    pub faults: Vec<(Duration, Fault)>,
}

impl Plan {
    pub fn of(seed: u64, bias: Bias, rng: &mut StdRng) -> Self {
        match bias {
            Bias::None => Self::of_all_faults(seed, rng),
            bias => Self::biased(bias, rng),
        }
    }

    fn of_all_faults(seed: u64, rng: &mut StdRng) -> Self {
        let kind =
            [Kind::Processes, Kind::Processes, Kind::Power, Kind::Disk][rng.random_range(0..4)];
        let mut plan = Self {
            kind,
            datanodes: rng.random_range(4..6),
            writers: rng.random_range(1..4),
            files: rng.random_range(1..3),
            loss: [0.0, 0.01, 0.04][rng.random_range(0..3)],
            is_busy: seed >= BUSY_FROM,
            faults: Vec::new(),
        };
        let span_ms = if plan.is_busy { 40_000 } else { 60_000 };
        for _ in 0..rng.random_range(1..10) {
            let at = Duration::from_millis(rng.random_range(500..span_ms));
            plan.add(rng, at);
        }
        if plan.is_busy && kind != Kind::Disk {
            for _ in 0..rng.random_range(2..8) {
                let at = Duration::from_millis(rng.random_range(0..span_ms));
                let down = Duration::from_millis(rng.random_range(100..20_000));
                let ambush = Fault::Ambush { parcels: rng.random_range(1..40), down };
                plan.faults.push((at, ambush));
            }
            for _ in 0..rng.random_range(0..3) {
                let at = Duration::from_millis(rng.random_range(0..span_ms));
                let down = Duration::from_millis(rng.random_range(100..10_000));
                plan.faults.push((at, Fault::EndAll { power: false, down }));
            }
        }
        if seed >= MORE_FROM {
            plan.add_more(rng, span_ms);
        }
        if seed >= HANGS_FROM {
            plan.add_hangs(rng, span_ms);
        }
        // Where disks keep what they were given: each block then has another good replica.
        if kind == Kind::Processes {
            for _ in 0..rng.random_range(0..3) {
                let at = Duration::from_millis(rng.random_range(5_000..span_ms));
                plan.faults.push((at, Fault::Rot));
            }
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }

    fn add_more(&mut self, rng: &mut StdRng, span_ms: u64) {
        for _ in 0..rng.random_range(0..6) {
            let at = Duration::from_millis(rng.random_range(0..span_ms));
            self.faults.push((at, Fault::ResetInPacket { parcels: rng.random_range(0..40) }));
        }
        // A disk that fails does so alone.
        if self.kind != Kind::Disk && rng.random_bool(0.3) {
            let number = rng.random_range(0..self.datanodes);
            let at = Duration::from_millis(rng.random_range(0..span_ms));
            let stalls = Failures { stalls: true, ..Failures::default() };
            self.faults.push((at, Fault::FailDisk { number, fails: stalls }));
            let end = at + Duration::from_millis(rng.random_range(1_000..30_000));
            self.faults.push((end, Fault::MendDisk { number }));
        }
    }

    fn add_hangs(&mut self, rng: &mut StdRng, span_ms: u64) {
        if rng.random_bool(0.5) {
            return;
        }
        let (number, fails) = match self.kind {
            // Whatever fails does so on the one disk.
            Kind::Disk if rng.random_bool(0.5) => {
                (0, Failures { file_work: true, ..Failures::default() })
            }
            Kind::Disk => (0, Failures { hangs: true, ..Failures::default() }),
            Kind::Processes | Kind::Power => {
                let number = rng.random_range(0..self.datanodes);
                (number, Failures { hangs: true, ..Failures::default() })
            }
        };
        let at = Duration::from_millis(rng.random_range(0..span_ms));
        self.faults.push((at, Fault::FailDisk { number, fails }));
        let end = at + Duration::from_millis(rng.random_range(2_000..90_000));
        self.faults.push((end, Fault::MendDisk { number }));
        if self.kind == Kind::Disk {
            let at = end + Duration::from_millis(rng.random_range(0..20_000));
            let fails = Failures { sync: true, for_all: true, ..Failures::default() };
            self.faults.push((at, Fault::FailDisk { number, fails }));
            let end = at + Duration::from_millis(rng.random_range(5_000..30_000));
            self.faults.push((end, Fault::MendDisk { number }));
        }
    }

    fn biased(bias: Bias, rng: &mut StdRng) -> Self {
        let kind = match bias {
            Bias::PowerAfter(_) | Bias::Power => Kind::Power,
            Bias::FailedSyncs => Kind::Disk,
            _ => Kind::Processes,
        };
        let mut plan = Self {
            kind,
            datanodes: if bias == Bias::OneDies { 4 } else { rng.random_range(4..6) },
            writers: 2,
            files: 2,
            loss: if bias == Bias::Retries { 0.12 } else { 0.0 },
            is_busy: true,
            faults: Vec::new(),
        };
        for _ in 0..BIASED_FAULTS {
            let at = Duration::from_millis(rng.random_range(500..40_000));
            plan.add_biased(bias, rng, at);
        }
        plan.faults.push((Duration::from_secs(50), Fault::Heal));
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }

    fn add_biased(&mut self, bias: Bias, rng: &mut StdRng, at: Duration) {
        let number = rng.random_range(0..self.datanodes);
        let soon = Duration::from_millis(rng.random_range(200..5_000));
        let fault = match bias {
            Bias::None => return,
            Bias::AllDie => Fault::EndAll { power: false, down: soon },
            Bias::PowerAfter(event) => Fault::After {
                event,
                times: rng.random_range(1..4),
                then: Box::new(Fault::EndAll { power: true, down: soon }),
            },
            Bias::Retries => Fault::Reset,
            Bias::OneDies if !self.faults.is_empty() => return,
            Bias::OneDies => Fault::Ambush { parcels: rng.random_range(1..60), down: 4 * soon },
            Bias::Excess => {
                let down = Duration::from_secs(rng.random_range(60..120));
                Fault::KillDatanode { number, power: false, down }
            }
            Bias::NamenodeDies => Fault::KillNamenode { power: false, down: soon },
            Bias::Power => Fault::KillDatanode { number, power: true, down: soon },
            Bias::FailedSyncs => {
                self.faults.push((at + soon, Fault::MendDisk { number: 0 }));
                let fails = Failures { sync: true, ..Failures::default() };
                Fault::FailDisk { number: 0, fails }
            }
            Bias::Rot => Fault::Rot,
        };
        self.faults.push((at, fault));
    }

    pub fn promise(&self) -> Promise {
        match self.kind {
            Kind::Power => Promise::Synced,
            Kind::Processes | Kind::Disk => Promise::Flushed,
        }
    }

    fn add(&mut self, rng: &mut StdRng, at: Duration) {
        let down = Duration::from_millis(match rng.random_range(0..3) {
            0 => rng.random_range(100..3_000),
            1 => rng.random_range(3_000..30_000),
            _ => rng.random_range(30_000..120_000),
        });
        let number = rng.random_range(0..self.datanodes);
        let power = self.kind == Kind::Power && rng.random_bool(0.6);
        let host = |rng: &mut StdRng, plan: &Self| match rng.random_range(0..8) {
            0 => crate::cluster::NAMENODE.to_owned(),
            1 => format!("client{}", rng.random_range(0..plan.writers)),
            _ => format!("dn{}", rng.random_range(0..plan.datanodes)),
        };
        let fault = match rng.random_range(0..10) {
            // With a failing disk, all others stay: what one has, and the disk loses, must be elsewhere.
            0..=3 if self.kind == Kind::Disk => {
                let fails = match rng.random_range(0..4) {
                    0 => Failures { read: true, write: true, sync: true, ..Failures::default() },
                    1 => Failures { write: true, ..Failures::default() },
                    2 => Failures { sync: true, ..Failures::default() },
                    _ => Failures { full: true, ..Failures::default() },
                };
                self.faults.push((at + down, Fault::MendDisk { number: 0 }));
                Fault::FailDisk { number: 0, fails }
            }
            0..=3 => Fault::KillDatanode { number, power, down },
            4 if self.kind == Kind::Power => Fault::EndAll { power: true, down },
            4 | 5 => match rng.random_bool(0.5) {
                true => Fault::KillNamenodeInCommit { steps: rng.random_range(1..40) },
                false => Fault::KillNamenode { power, down: down.min(Duration::from_secs(20)) },
            },
            6 | 7 => {
                self.faults.push((at + down, Fault::Heal));
                Fault::Isolate { host: host(rng, self) }
            }
            8 => {
                self.faults.push((at + down, Fault::Heal));
                Fault::Block { from: host(rng, self), to: host(rng, self) }
            }
            _ => Fault::Reset,
        };
        self.faults.push((at, fault));
    }
}

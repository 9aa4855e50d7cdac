//! The planted bugs, which the code reaches by `mutant!`: what each breaks, in what kind of world, and
//! within how many seeds it is caught.
//!
//! A bug counts as caught by a seed that ends in its violation with it, and in none without it.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::faults::{BUSY_FROM, Bias};
use crate::{Options, run};

#[derive(Clone, Copy, Debug)]
pub struct Planted {
    pub name: &'static str,
    /// What it breaks, for those who meet it.
    pub breaks: &'static str,
    pub bias: Bias,
    /// Within how many seeds it is caught.
    pub seeds: u64,
    /// Part of what is said then.
    pub caught_by: &'static str,
}

#[derive(Clone, Debug)]
pub struct Caught {
    pub seed: u64,
    pub violation: String,
}

impl Planted {
    /// The first seed that shows the bug, and how. `Err`: how often its code was reached.
    pub fn find(&self) -> Result<Caught, u64> {
        let mut firings = 0;
        for seed in BUSY_FROM..BUSY_FROM + self.seeds {
            let options = Options { bias: self.bias, ..Options::default() };
            let report = run(seed, Options { mutant: Some(self.name), ..options });
            firings += report.mutant_firings;
            let mut violations = report.violations.into_iter();
            let shows = |violation: &String| violation.contains(self.caught_by);
            let Some(violation) = violations.find(shows) else { continue };
            if run(seed, options).violations.is_empty() {
                return Ok(Caught { seed, violation });
            }
        }
        Err(firings)
    }
}

/// Looks for all of them on all cores; `each` is told of one after the other.
pub fn find_all(planted: &[Planted], each: impl Fn(&Planted, &Result<Caught, u64>) + Sync) {
    let next = AtomicUsize::new(0);
    let telling = Mutex::new(());
    let search = || {
        while let Some(planted) = planted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = planted.find();
            let _alone = telling.lock();
            each(planted, &found);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(search))));
}

const fn planted(
    name: &'static str,
    bias: Bias,
    seeds: u64,
    caught_by: &'static str,
    breaks: &'static str,
) -> Planted {
    Planted { name, breaks, bias, seeds, caught_by }
}

const HSYNC: Bias = Bias::PowerAfter("synced");

pub const PLANTED: &[Planted] = &[
    planted(
        "client: flush without an ack",
        Bias::None,
        10,
        "flushed for",
        "an hflush promises what is still on its way",
    ),
    planted(
        "client: forget unacknowledged packets",
        Bias::OneDies,
        10,
        "a writer hangs",
        "a recovered pipeline lacks what the former one did not acknowledge",
    ),
    planted("client: hsync without a sync", HSYNC, 10, "synced for", "an hsync is an hflush"),
    planted(
        "client: keep the bad datanode",
        Bias::OneDies,
        10,
        "for one datanode's death",
        "a pipeline gives up a good datanode for a dead one",
    ),
    planted(
        "client: take an unreported block for empty",
        Bias::NamenodeDies,
        10,
        "a reader sees",
        "a file looks short after a restart of the namenode",
    ),
    planted(
        "client: trust rotten bytes",
        Bias::Rot,
        10,
        "two different bytes were served",
        "checksums are not compared",
    ),
    planted(
        "datanode: ack before the disk",
        Bias::None,
        10,
        "synced for",
        "what is acknowledged is in memory",
    ),
    planted(
        "datanode: believe a file's length at start",
        Bias::AllDie,
        10,
        "cannot be read",
        "padding counts as data after a restart, and no reader finds it whole",
    ),
    planted(
        "datanode: checksum before its data",
        HSYNC,
        30,
        "a reader sees",
        "a checksum covers bytes that power took",
    ),
    planted(
        "datanode: finalize an append without a sync",
        HSYNC,
        30,
        "cannot be read",
        "durable bytes lose the names and checksums that readers need",
    ),
    planted(
        "datanode: forget the padding",
        Bias::None,
        10,
        "in vain",
        "a finalized file is longer than its block",
    ),
    planted(
        "datanode: keep a broken connection",
        Bias::Retries,
        10,
        "sockets while idle",
        "a socket leaks with every failed operation",
    ),
    planted(
        "datanode: off by one chunk",
        Bias::AllDie,
        10,
        "no disk has",
        "the last chunk is cut off at a start",
    ),
    planted(
        "datanode: recover under the old stamp",
        Bias::AllDie,
        10,
        "the lease of",
        "a recovered replica looks stale",
    ),
    planted(
        "datanode: recover without a cut",
        Bias::AllDie,
        10,
        "cannot be read",
        "replicas keep what the recovery dropped",
    ),
    planted(
        "datanode: reopen under one stamp only",
        Bias::OneDies,
        30,
        "for one datanode's death",
        "a recovery that is tried again finds no replica that it may take",
    ),
    planted("datanode: scrub without looking", Bias::Rot, 10, "in vain", "rot stays"),
    planted(
        "datanode: show whole chunks only",
        Bias::None,
        10,
        "a reader sees",
        "a flushed end of a chunk is not shown",
    ),
    planted(
        "datanode: skip the sync of checksums",
        HSYNC,
        10,
        "checksums are missing",
        "checksums are not durable",
    ),
    planted(
        "datanode: skip the sync of data",
        HSYNC,
        10,
        "bytes are missing",
        "data is not durable",
    ),
    planted(
        "datanode: skip the sync of names",
        HSYNC,
        10,
        "a durable name",
        "the files' names are not durable",
    ),
    planted(
        "datanode: trust a failed sync",
        Bias::FailedSyncs,
        10,
        "bytes are missing",
        "what the kernel dropped is acknowledged",
    ),
    planted(
        "namenode: answer without the journal",
        Bias::NamenodeDies,
        10,
        "is gone",
        "answered calls are lost",
    ),
    planted(
        "namenode: copy nothing",
        Bias::OneDies,
        10,
        "in the end",
        "lost replicas are not replaced",
    ),
    planted(
        "namenode: count short replicas",
        Bias::Power,
        10,
        "in vain",
        "a replica cut by power counts as good",
    ),
    planted(
        "namenode: count stale replicas",
        Bias::Retries,
        60,
        "in the end",
        "a replica that missed an append counts as good",
    ),
    planted(
        "namenode: delete a replica too many",
        Bias::Excess,
        10,
        "a deletion leaves",
        "excess is counted wrong",
    ),
    planted(
        "namenode: delete bad replicas first",
        Bias::Rot,
        10,
        "a deletion leaves",
        "a rotten replica goes before it was replaced",
    ),
    planted(
        "namenode: double-apply a retried call",
        Bias::Retries,
        10,
        "was not done",
        "a repeated call gets another answer than the first",
    ),
    planted(
        "namenode: forget a pipeline's stamp",
        Bias::OneDies,
        10,
        "for one datanode's death",
        "a recovered pipeline is not the block's any more",
    ),
    planted(
        "namenode: ignore reports of rot",
        Bias::Rot,
        10,
        "in vain",
        "a rotten replica is never replaced",
    ),
    planted(
        "namenode: leases last for ever",
        Bias::AllDie,
        10,
        "the lease of",
        "a dead writer's file stays open",
    ),
    planted(
        "namenode: lose a recovered byte",
        Bias::AllDie,
        10,
        "bytes long at an append",
        "a recovery cuts what was promised",
    ),
];

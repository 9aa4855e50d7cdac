//! A bounded share of the simulation, for every run of the tests: about two minutes of two cores.
//! `tests/campaign` is the long form.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringfs_simulation::planted::{PLANTED, SEEDS_MAX, find};
use ringfs_simulation::{Options, Report, run};

/// At least so many seeds, and more while there is time.
const SEEDS_MIN: u64 = 24;
const SEEDS_FIRST: u64 = 1;
const TIME: Duration = Duration::from_secs(60);

/// Faults that must have struck, or a test of how they are survived tests nothing.
const FAULTS: &[&str] = &[
    "client: died",
    "datanode: killed",
    "datanode: power lost",
    "disk: EIO",
    "disk: unsynced names lost",
    "disk: unsynced sectors lost",
    "namenode: died in a commit",
    "namenode: killed",
    "namenode: power lost",
    "network: call held back",
    "network: half-open",
    "network: held back",
    "network: no answer to a connect",
    "network: partition",
    "rpc: reply lost",
    "rpc: request late",
    "rpc: request lost",
];

fn holds(seed: u64) -> Report {
    let report = run(seed, Options::default());
    assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
    report
}

/// Runs `work` for numbers from 0 on, on two threads, until it says that it is enough.
fn side_by_side(work: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| while work(next.fetch_add(1, Ordering::Relaxed)) {});
        }
    });
}

#[test]
#[ignore = "seed 9 leaves a lease open: its block waits for replicas that recovery does not find"]
fn no_seed_loses_what_was_promised() {
    let started = Instant::now();
    let faults: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    side_by_side(|number| {
        if number >= SEEDS_MIN && started.elapsed() >= TIME {
            return false;
        }
        let report = holds(SEEDS_FIRST + number);
        assert!(report.simulated >= Duration::from_secs(200), "it lived through its faults");
        let mut faults = faults.lock().unwrap();
        for (kind, times) in report.faults {
            *faults.entry(kind).or_default() += times;
        }
        true
    });
    let faults = faults.into_inner().unwrap();
    let missing: Vec<_> = FAULTS.iter().filter(|kind| !faults.contains_key(*kind)).collect();
    assert!(missing.is_empty(), "never struck: {missing:?}");
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in [3, 8] {
        let (first, second) = (holds(seed), holds(seed));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
    }
}

#[test]
#[ignore = "takes minutes: run it with the campaign"]
fn every_planted_bug_is_caught() {
    let missed = Mutex::new(Vec::new());
    side_by_side(|number| {
        let Some((name, seed)) = PLANTED.get(number as usize) else { return false };
        if find(name, *seed).is_none() {
            missed.lock().unwrap().push(*name);
        }
        true
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not caught within {SEEDS_MAX} seeds: {missed:?}");
}

/// Seeds that found what is named.
mod found {
    use super::holds;

    #[test]
    fn bytes_synced_before_an_append_survive_a_torn_checksum_of_their_chunk() {
        holds(17);
        holds(53);
    }

    #[test]
    fn bytes_synced_survive_where_checksums_behind_them_are_lost() {
        holds(8);
    }

    #[test]
    fn a_reader_waits_for_the_replicas_of_a_promised_block_after_a_restart() {
        holds(3);
    }
}

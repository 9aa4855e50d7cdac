//! The tests of the tests: every planted bug is caught, every kind of damage mended.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use ringfs_simulation::faults::{BUSY_FROM, HANGS_FROM, RECOVERIES};
use ringfs_simulation::planted::{PLANTED, find_all};
use ringfs_simulation::{Options, run};

/// Seeds of quieter lives, of busier ones and of such with disks that hang, within which everything must have been mended.
const SEEDS_MAX: u64 = 20;

#[test]
fn every_planted_bug_is_caught() {
    let missed = Mutex::new(Vec::new());
    find_all(PLANTED, |planted, found| {
        if let Err(firings) = found {
            missed.lock().push(format!("{}, reached {firings} times", planted.name));
        }
    });
    let missed = missed.into_inner();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_kind_of_recovery_is_reached() {
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in (1..=SEEDS_MAX).flat_map(|seed| [seed, BUSY_FROM + seed, HANGS_FROM + seed]) {
        let report = run(seed, Options::default());
        assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
        for (kind, times) in report.recoveries {
            *reached.entry(kind).or_default() += times;
        }
        if RECOVERIES.iter().all(|kind| reached.contains_key(kind)) {
            return;
        }
    }
    panic!("of {RECOVERIES:?} only {reached:?} within three times {SEEDS_MAX} seeds");
}

//! Seeds of the simulation for every run of the tests. `tests/campaign` goes looking for others.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringfs_protocol::collections::HashSet;
use ringfs_protocol::simulation;
use ringfs_simulation::world::World;
use ringfs_simulation::{Options, faults, run};

fn holds(seed: u64) {
    let report = run(seed, Options::default());
    assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
}

/// Of every kind of plan, and a busy one; with others beside it in the same process, which draw from the
/// same descriptors and inodes.
#[test]
fn a_seed_does_the_same_again() {
    let live = |seed| move || run(seed, Options { with_log: true, ..Options::default() });
    for seed in [1, 2, 4, 9, 1_001] {
        let [one, other] = std::thread::scope(|scope| {
            let both = [scope.spawn(live(seed)), scope.spawn(live(seed))];
            both.map(|life| life.join().expect("a violation is no panic"))
        });
        let differs = one.log.iter().zip(&other.log).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.trace_hash, other.trace_hash, "seed {seed}");
        assert!(one.log.len() > 1_000, "seed {seed} has lived");
    }
}

/// A closed socket is seen to be when its executor runs next, and by its descriptor: that must be no
/// other socket's until then, or the end of the connection comes only where other worlds of the process
/// have taken the number.
#[test]
fn a_closed_socket_keeps_its_descriptor_until_that_was_seen() {
    for seed in 1..=10 {
        let world = World::new(seed, Path::new("/dev/shm"), false, false);
        let open = || world.state().new_socket("dn0#1").expect("a pipe");
        // A socket takes two descriptors: the other one of the next may be this.
        let below = File::open("/dev/null").expect("the null device");
        let closed = open();
        let number = closed.as_raw_fd();
        drop((below, closed));
        assert_ne!(open().as_raw_fd(), number);
    }
}

/// Calm seeds, busy ones, and such that meet every fault: two minutes on two cores.
#[test]
fn seeds_in_turn_lose_nothing() {
    let seeds: Vec<u64> =
        (200..280).chain(1_200..1_240).chain(20_000..20_060).chain(2_000_000..2_000_040).collect();
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(BTreeMap::<&str, u64>::new());
    let live = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = run(*seed, Options::default());
            assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
            let mut all = faults.lock().expect("nobody panics with it");
            for (kind, times) in report.faults {
                *all.entry(kind).or_default() += times;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(live);
        }
    });
    let faults = faults.into_inner().expect("nobody panics with it");
    for kind in faults::KINDS {
        assert!(faults.contains_key(kind), "in all these seeds there was never \"{kind}\"");
    }
}

#[test]
fn a_seed_chooses_the_order_of_hash_tables() {
    let order = |seed| {
        simulation::seed(seed);
        let set: HashSet<u64> = (0..50).collect();
        set.into_iter().collect::<Vec<_>>()
    };
    let (first, again, other) = (order(1), order(1), order(2));
    simulation::leave();
    assert_eq!(first, again);
    assert_ne!(first, other);
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

    #[test]
    fn a_lease_ends_though_blocks_that_were_never_synced_are_gone() {
        holds(9);
    }

    #[test]
    fn a_rotten_replica_does_not_go_on_alone_while_good_ones_are_away() {
        holds(300_069);
        holds(300_356);
        holds(10_300_150);
    }

    #[test]
    fn a_block_recovery_takes_replicas_of_before_a_restart_where_the_others_have_rotted() {
        holds(1_000_527);
        holds(11_000_737);
    }

    #[test]
    fn a_synced_chunk_that_grows_twice_survives_a_torn_checksum() {
        holds(11_000_192);
        holds(1_001_247);
    }

    #[test]
    fn a_checksum_that_is_torn_between_two_sectors_proves_its_chunk() {
        holds(1_010_313);
    }

    #[test]
    fn a_flush_that_returns_while_the_pipeline_recovers_is_seen_under_the_new_stamp() {
        holds(1_000_707);
    }

    #[test]
    fn a_lease_on_a_block_before_the_synced_one_may_wait_for_what_power_took() {
        holds(11_000_980);
        holds(20_019);
    }

    #[test]
    fn bytes_synced_before_an_append_are_readable_without_the_names_of_its_end() {
        holds(10_300_078);
    }

    #[test]
    fn a_rename_refused_in_safe_mode_leaves_no_file_unwritten() {
        holds(10_300_114);
    }

    #[test]
    fn a_namenode_that_dies_at_its_start_starts_again() {
        holds(101);
    }

    #[test]
    fn rot_that_was_told_of_is_known_to_a_namenode_that_restarts() {
        holds(10_300_243);
        holds(10_300_333);
    }

    #[test]
    fn a_replica_that_nobody_knows_to_be_rotten_may_be_kept_for_a_good_one() {
        holds(300_308);
    }

    #[test]
    fn a_replica_of_a_failed_write_returns_once_its_volume_is_well() {
        holds(13_000_039);
    }
}

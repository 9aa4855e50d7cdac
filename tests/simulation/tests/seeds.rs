//! Seeds of the simulation for every run of the tests. `tests/campaign` goes looking for others.

use ringfs_simulation::{Options, run};

fn holds(seed: u64) {
    let report = run(seed, Options::default());
    assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
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

//! The planted bugs, which the code reaches by `mutant!`, each with a seed that has caught it.
//!
//! A bug is looked for from that seed on, for [`SEEDS_MAX`] seeds: changes elsewhere shift what a seed
//! does, so another one near may have to do.

use crate::{Options, run};

/// Within how many seeds each is caught.
pub const SEEDS_MAX: u64 = 40;

/// The first seed from `first` on that shows the bug, and how.
pub fn find(name: &'static str, first: u64) -> Option<(u64, String)> {
    (first..first + SEEDS_MAX).find_map(|seed| {
        let options = Options { mutant: Some(name), ..Options::default() };
        let report = run(seed, options);
        let violation = report.violations.into_iter().next()?;
        Some((seed, violation))
    })
}

pub const PLANTED: &[(&str, u64)] = &[
    ("client: flush without an ack", 1),
    ("client: hsync without a sync", 8),
    ("client: take an unreported block for empty", 3),
    ("datanode: ack before the disk", 1),
    ("datanode: checksum before its data", 17),
    ("datanode: finalize a torn chunk", 9),
    ("datanode: forget the padding", 6),
    ("datanode: recover under the old stamp", 1000),
    ("datanode: show whole chunks only", 1000),
    ("datanode: skip the sync of data", 1001),
    ("datanode: skip the sync of checksums", 1001),
    ("namenode: forget a pipeline's stamp", 1001),
    ("namenode: lose a recovered byte", 1000),
    ("namenode: leases last for ever", 1000),
];

/// Bugs that can be planted and that no seed is known to catch: looked for by `--planted`, and no part
/// of the tests until one is.
pub const SOUGHT: &[&str] = &[
    "client: ask for no acked bytes",
    "client: keep the bad datanode",
    "datanode: any generation stamp will do",
    "datanode: any length will do",
    "datanode: believe a file's length at start",
    "datanode: delete any generation stamp",
    "datanode: forget a truncation",
    "datanode: off by one chunk",
    "datanode: recover stale replicas",
    "datanode: recover to the longest",
    "datanode: recovery not durable",
    "datanode: skip the sync of names",
    "datanode: stamp not durable",
    "datanode: trust a failed sync",
    "namenode: answer without the journal",
    "namenode: count short replicas",
    "namenode: count stale replicas",
    "namenode: delete a replica too many",
    "namenode: double-apply a retried call",
];

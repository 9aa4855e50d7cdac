//! Bounds of the namenode that are not settings, with their reasons.

use std::time::Duration;

/// Operations waiting for the store's writer; callers beyond wait for room. A handler has one
/// operation queued at a time, so this covers 4096 concurrent handlers.
pub const WRITE_QUEUE_MAX: usize = 4096;

/// Operations in one transaction: bounds the wait of the batch's first reply. An operation takes
/// about 10 us, so a full batch adds about 5 ms to a sync that costs as much on a slow disk.
pub const WRITE_BATCH_MAX: usize = 512;

/// Changes that the store's writer holds in memory before it folds them into its database, which holds it
/// up for some 3 ms: once for 70 small files, whose 14 changes each then cost a fifth of what they cost
/// by a transaction a call. A change takes about 300 bytes.
pub const UNFOLDED_CHANGES_MAX: usize = 1000;

/// Records of the journal between two checkpoints. At a block of 4 KiB a batch and 3,000 batches a
/// second a checkpoint comes every 3 s and holds the writer up for some 10 ms; a start replays all of
/// it in 0.1 s, and holds it in memory meanwhile.
pub const JOURNAL_BYTES_MAX: u64 = 32 << 20;

/// The journal's last record is confirmed when no change came for so long: one more write of 4 KiB after
/// each pause, none under load.
pub const CONFIRM_AFTER: Duration = Duration::from_millis(500);

/// By how much the journal's file is lengthened, zeros written: at first use, and as far as needed.
pub const JOURNAL_STEP_BYTES: u64 = 1 << 20;

/// Inodes that one reaping transaction removes from a deleted subtree; keeps the writer's stall
/// below that of a full batch.
pub const REAP_BATCH_MAX: usize = 1000;

/// Expired retry-cache entries purged in one transaction.
pub const RETRY_PURGE_BATCH_MAX: usize = 2000;

/// Block locations after which a listing with locations ends its page (blocks x replicas).
pub const LISTING_LOCATIONS_MAX: usize = 1000;

/// Entries counted behind a page: `remainingEntries` is exact up to this many, and this many at
/// least beyond. Clients only ask whether it is zero; counting a directory of a million entries
/// for each of its thousand pages would cost the square.
pub const LISTING_REMAINING_COUNT_MAX: usize = 10_000;

/// Files that one listCorruptFileBlocks reply names.
pub const CORRUPT_FILES_PAGE: usize = 100;

/// How long `complete` waits for the last block's replicas to be reported before it answers false.
/// Go clients call it once only; Java sleeps 400 ms after each false.
pub const COMPLETE_WAIT: Duration = Duration::from_secs(2);

/// How long `append` waits for replicas of the last block that are about to be reported. Datanodes tell
/// of one within milliseconds of its last ack; copies that were ordered take longer, and are not worth it.
pub const APPEND_WAIT: Duration = Duration::from_millis(300);

/// How often the lease monitor looks for leases past the hard limit.
pub const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// After this time without renewal another client may take a file over.
pub const LEASE_SOFT_LIMIT_MS: u64 = 60_000;

/// Leases that one round of the monitor recovers.
pub const LEASE_RECOVERIES_PER_CHECK: usize = 1000;

/// User names whose groups are remembered, and for how long.
pub const USER_GROUPS_CACHE_MAX: usize = 10_000;
pub const USER_GROUPS_CACHE_TTL_MS: u64 = 300_000;

/// Group look-ups running at a time: each is a child process.
pub const USER_GROUPS_LOOKUPS_MAX: usize = 4;

/// A store up to this is verified page by page when the namenode starts: at 0.5 GB/s or more, two
/// seconds. Beyond, a start would take minutes: the log says that it was not done, and by which command
/// it can be.
pub const STORE_VERIFIED_MAX_BYTES: u64 = 1 << 30;

/// Cache of the store's pages.
pub const STORE_CACHE_BYTES: usize = 256 << 20;

/// A request for a backup: a path. It comes at once or not at all.
pub const BACKUP_REQUEST_MAX_BYTES: u64 = 8 << 10;
pub const BACKUP_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Pairs that a copy of the store takes at a time: a few hundred KiB.
pub const COPY_BATCH_MAX: usize = 2000;

/// Scripts that tell racks, running at a time, and how long one may take.
pub const RACK_SCRIPTS_MAX: usize = 4;
pub const RACK_SCRIPT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is read of a script's output: `/room/rack`.
pub const RACK_NAME_MAX_BYTES: u64 = 4096;

/// Datanodes ever registered in one run, those replaced since included: each takes about 1 KiB.
pub const DATANODES_MAX: usize = 20_000;

/// Storages of one datanode: more than any host has disks.
pub const STORAGES_PER_DATANODE_MAX: usize = 256;

/// Replicas of a full report that are processed at a time, before other calls get their turn. A
/// replica takes up to 5 us (a look-up in the store), so others wait 5 ms at most.
pub const REPORT_STEP: usize = 1000;

/// A full report of no more replicas than this is taken in where it arrives: one step's worth.
pub const REPORT_INLINE_REPLICAS: u64 = REPORT_STEP as u64;

/// Blocks of the replica map that a sweep visits at a time: at about 50 ns each, and 3 us if one has
/// lost a replica, so others wait 15 ms at most.
pub const SWEEP_STEP: usize = 5000;

/// Stored blocks that the scan after safe mode visits at a time, at about 2 us each.
pub const NAMESPACE_SCAN_STEP: usize = 2000;

/// Blocks with excess replicas on datanodes out of touch that one round looks at again.
pub const POSTPONED_PER_ROUND: usize = 1000;

/// Full block reports that may be under way at a time, and how long a datanode may take for its own.
pub const BLOCK_REPORT_LEASES_MAX: usize = 6;
pub const BLOCK_REPORT_LEASE_MS: u64 = 300_000;

/// Block recoveries handed to a datanode with one heartbeat.
pub const RECOVERIES_PER_HEARTBEAT: usize = 100;

/// A datanode is overloaded with more than twice the average number of streams, but not with fewer
/// than these: on an idle cluster one stream is above twice the average.
pub const OVERLOADED_STREAMS_MIN: u32 = 16;

/// Pause between two rounds of the block monitor when no work is left over.
pub const MONITOR_INTERVAL: Duration = Duration::from_millis(250);

/// A datanode has carried out a deletion this long after it was sent, though it did not say so yet:
/// commands are carried out in order, and three heartbeats have passed by default.
pub const OBEYED_AFTER_MS: u64 = 10_000;

/// A deletion that the datanode has not confirmed is ordered again after this time: beyond the 300 s
/// for which Java's datanodes gather their confirmations.
pub const REPEATED_AFTER_MS: u64 = 900_000;

/// Blocks from the future that are remembered, to be counted and warned of once: one is too many.
pub const FUTURE_BLOCKS_MAX: usize = 100_000;

/// Failed volumes of one datanode that a log line names: a few hundred bytes each at most.
pub const FAILED_VOLUMES_NAMED_MAX: usize = 16;

/// Open files of which is remembered which call allocated their last block: 2.5 MiB at 40 bytes each. More
/// are forgotten, and a late fsync is then taken as it comes.
pub const ALLOCATIONS_KEPT_MAX: usize = 1 << 16;

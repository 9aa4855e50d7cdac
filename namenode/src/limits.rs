//! Bounds of the namenode that are not settings, with their reasons.

use std::time::Duration;

/// Operations waiting for the store's writer; callers beyond wait for room. A handler has one
/// operation queued at a time, so this covers 4096 concurrent handlers.
pub const WRITE_QUEUE_MAX: usize = 4096;

/// Operations in one transaction: bounds the wait of the batch's first reply. An operation takes
/// about 10 us, so a full batch adds about 5 ms to a sync that costs as much on a slow disk.
pub const WRITE_BATCH_MAX: usize = 512;

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

/// Cache of the store's pages.
pub const STORE_CACHE_BYTES: usize = 256 << 20;

//! What the data path has done, counted since start and summed when asked for.
//!
//! A thread counts in a cell of its own, so that counting on one core never takes a cache line from
//! another; threads beyond the number of cells share.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// Cells of a counter: more than the data threads of most machines.
const CELLS: usize = 16;

#[derive(Default)]
pub struct Counter {
    cells: [CachePadded<AtomicU64>; CELLS],
}

thread_local! {
    static CELL: Cell<usize> = Cell::new({
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % CELLS
    });
}

impl Counter {
    pub fn add(&self, count: u64) {
        self.cells[CELL.get()].fetch_add(count, Ordering::Relaxed);
    }

    /// For what comes and goes: takes away what was added before, on any thread.
    pub fn sub(&self, count: u64) {
        self.cells[CELL.get()].fetch_sub(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        let cells = self.cells.iter().map(|cell| cell.load(Ordering::Relaxed));
        cells.fold(0, u64::wrapping_add)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[derive(Debug, Default)]
pub struct Counters {
    pub blocks_written: Counter,
    pub blocks_read: Counter,
    /// Copied to other datanodes, for the namenode or a client.
    pub blocks_replicated: Counter,
    pub bytes_written: Counter,
    pub bytes_read: Counter,
    /// Of the bytes read, those that came from the page cache without a read of the disk.
    pub bytes_read_cached: Counter,
    /// Of the bytes written, those of volumes without O_DIRECT, which went through the page cache.
    pub bytes_written_buffered: Counter,
    /// Of the bytes written, those that began a block and were flushed while they were few: these go
    /// through the page cache on every volume.
    pub bytes_written_cached: Counter,
    /// Payload that a wrong prediction of the next packets, or a read that ended early, made us move.
    pub payload_bytes_copied: Counter,
    /// Bytes of last sectors, copied to be padded for a flush and to go on after it: below
    /// 4096 a time.
    pub sector_bytes_copied: Counter,
    pub checksum_errors: Counter,
    /// Replicas that the scrubber found good, found rotten, and what it read of them.
    pub blocks_verified: Counter,
    pub block_verification_failures: Counter,
    pub bytes_scrubbed: Counter,
    /// Blocks that went into the data files of deleted ones.
    pub spare_files_used: Counter,
    /// Writes of blocks that took longer than they should.
    pub slow_writes: Counter,
    pub mirror_errors: Counter,
    /// Connections closed because there were too many.
    pub streams_refused: Counter,
    /// Reads of block files that gave less than was there.
    pub short_reads: Counter,
    /// Block files written through the page cache, on a volume without O_DIRECT or by what writes at
    /// any offset.
    pub unaligned_fallbacks: Counter,
    pub zero_copy_sends: Counter,
    /// Of these, those that the kernel copied after all.
    pub zero_copy_sends_copied: Counter,
    /// Calls of io_uring_enter.
    pub uring_enters: Counter,
    pub uring_completions: Counter,
    pub slabs_in_use: Counter,
    /// Of those, in operations whose disk does not answer: others were handed out in their place.
    pub slabs_parked: Counter,
    /// Operations whose disk has not answered for a while.
    pub operations_stuck: Counter,
    /// Operations that were given up because their disk did not answer in time.
    pub operations_given_up: Counter,
    /// The most slabs in use at a time, each data thread's own peak.
    pub slabs_high_water: Counter,
    pub slabs_total: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_together_and_may_take_back_what_another_added() {
        let counter = Counter::default();
        counter.add(5);
        std::thread::scope(|scope| {
            for _ in 0..CELLS + 2 {
                scope.spawn(|| counter.add(10));
            }
            scope.spawn(|| counter.sub(7));
        });
        assert_eq!(counter.get(), 5 + 10 * (CELLS as u64 + 2) - 7);
        assert_eq!(format!("{counter:?}"), counter.get().to_string());
    }
}

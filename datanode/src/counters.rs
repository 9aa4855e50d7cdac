//! What the data path has done, counted since start. Shared by all data threads.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Counters {
    pub blocks_written: Counter,
    pub blocks_read: Counter,
    pub bytes_written: Counter,
    pub bytes_read: Counter,
    /// Of the bytes written, those of volumes without O_DIRECT, which went through the page cache.
    pub bytes_written_buffered: Counter,
    /// Payload that a wrong prediction of the next packets made us move.
    pub payload_bytes_copied: Counter,
    /// Bytes of last sectors, copied to be padded for a flush and to go on after it: below
    /// 4096 a time.
    pub sector_bytes_copied: Counter,
    pub checksum_errors: Counter,
    pub mirror_errors: Counter,
    /// Connections closed because there were too many.
    pub streams_refused: Counter,
}

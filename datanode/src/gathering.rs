//! What a block being written has received and not yet written: pieces of slabs and their checksums,
//! made into jobs (`write_job`) for the disk.
//!
//! Data gathers in `pieces` until a slab is full; then it is a job. Whole sectors go from the slab, the
//! last partial sector from a padded copy, written again once it has grown.

use std::collections::VecDeque;
use std::time::Instant;

use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::meta_file::META_HEADER_BYTES;

use crate::counters::Counters;
use crate::limits::{CACHED_WRITE_MAX_BYTES, EAGER_PACKET_BYTES, GATHER_PATIENCE, SLAB_PATIENCE};
use crate::replica::OnDisk;
use crate::ring::{self, Buffer, Recycler, SECTOR_BYTES};
use crate::write_job::{JobWrites, WriteJob};

pub struct Gathering {
    /// Data that is in no job yet, and before it the last partial sector that is: from `start`,
    /// which is a sector's start, to `end`.
    pub pieces: VecDeque<Buffer>,
    pub start: u64,
    pub end: u64,
    /// End of the data in jobs.
    pub submitted_end: u64,
    /// Since when there is data beyond.
    pub gathers_since: Option<Instant>,
    /// Since when data goes to the present slab, and whether the one before was soon full.
    pub slab_since: Option<Instant>,
    pub fills_slabs: bool,
    /// Whether the last packet was a short one, and its length.
    pub is_short: bool,
    pub packet_len: u64,
    /// Checksums in no job yet, each with its place in the meta file.
    pub meta: VecDeque<(Buffer, u64)>,
    /// Memory of former jobs' checksums, for the next.
    pub spare_meta: Vec<Vec<(Buffer, u64)>>,
    /// Padded copies of the last sector.
    pub sectors: Recycler,
    pub checksum: DataChecksum,
    pub last_chunk_checksum: Option<u32>,
    pub jobs: VecDeque<WriteJob>,
    pub next_job: u64,
    pub file_len: u64,
    pub allocate_to: u64,
    /// Nothing was written yet, and the first write may go through the page cache.
    pub may_cache: bool,
}

impl Gathering {
    pub fn note_packet(&mut self, len: u64) {
        self.is_short = len < self.packet_len.max(EAGER_PACKET_BYTES);
        self.packet_len = len;
        let now = ring::now();
        self.gathers_since.get_or_insert(now);
        self.slab_since.get_or_insert(now);
    }

    pub fn is_flush_due(&self) -> bool {
        let is_eager = self.is_short || !self.fills_slabs;
        let is_due = |since| is_eager || ring::now() >= since + GATHER_PATIENCE;
        self.gathers_since.is_some_and(is_due)
    }

    /// Appends checksums; one that covers a chunk again takes the place of the former.
    pub fn push_checksums(&mut self, checksums: Buffer, offset: u64) {
        if checksums.is_empty() {
            return;
        }
        while let Some((last, at)) = self.meta.back_mut() {
            if *at + last.len() as u64 <= offset {
                break;
            }
            let kept = offset.saturating_sub(*at) as usize;
            *last = last.slice(..kept);
            if !last.is_empty() {
                break;
            }
            self.meta.pop_back();
        }
        self.meta.push_back((checksums, offset));
    }

    pub fn submit_full_slabs(&mut self) -> bool {
        let mut writes = JobWrites::new();
        while self.pieces.front().is_some_and(Buffer::ends_memory)
            && self.pieces.front().is_some_and(|piece| piece.len().is_multiple_of(SECTOR_BYTES))
        {
            let Some(piece) = self.pieces.pop_front() else { break };
            let len = piece.len() as u64;
            writes.push((piece, self.start));
            self.start += len;
        }
        if writes.is_empty() {
            return false;
        }
        let is_soon = |since| ring::now() <= since + SLAB_PATIENCE;
        self.fills_slabs = self.slab_since.take().is_none_or(is_soon);
        let end = self.start;
        self.queue_up_to(writes, false, end);
        true
    }

    pub fn flush(&mut self, sync: bool, counters: &Counters) -> u64 {
        let (mut writes, mut is_cached) = (JobWrites::new(), false);
        if self.submitted_end < self.end
            && let Some(mut piece) = self.pieces.pop_front()
        {
            debug_assert!(self.pieces.is_empty(), "full slabs are in jobs already");
            is_cached = self.may_cache && self.end <= CACHED_WRITE_MAX_BYTES;
            if is_cached {
                writes.push((piece.clone(), self.start));
            }
            let whole = piece.len() / SECTOR_BYTES * SECTOR_BYTES;
            if whole > 0 && !is_cached {
                writes.push((piece.slice(..whole), self.start));
            }
            piece.advance(whole);
            self.start += whole as u64;
            if !piece.is_empty() && !is_cached {
                let mut padded = self.sectors.take();
                padded[..piece.len()].copy_from_slice(&piece);
                padded[piece.len()..].fill(0);
                counters.sector_bytes_copied.add(piece.len() as u64);
                writes.push((padded.freeze(), self.start));
            }
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        if !writes.is_empty() || sync {
            let end = self.end;
            self.queue_up_to(writes, sync, end);
            self.jobs.back_mut().expect("it has just been queued").is_cached = is_cached;
        }
        self.next_job - 1
    }

    /// A job for the data up to `end`. A checksum never reaches the meta file before all of its
    /// chunk is in the block file: after a crash the meta file tells how far the data goes.
    fn queue_up_to(&mut self, writes: JobWrites, sync: bool, end: u64) {
        let (meta, on_disk) = if end == self.end {
            let last_chunk_checksum = self.last_chunk_checksum;
            (self.split_checksums(u64::MAX), OnDisk { len: end, last_chunk_checksum })
        } else {
            let chunk_len = u64::from(self.checksum.bytes_per_checksum);
            let whole_chunks = end / chunk_len;
            let meta = self.split_checksums(META_HEADER_BYTES as u64 + whole_chunks * 4);
            (meta, OnDisk { len: whole_chunks * chunk_len, last_chunk_checksum: None })
        };
        let number = self.next_job;
        self.jobs.push_back(WriteJob { writes, meta, sync, on_disk, number, is_cached: false });
        self.may_cache &= self.submitted_end == end;
        self.next_job += 1;
        self.submitted_end = end;
        self.gathers_since = (end < self.end).then(ring::now);
    }

    /// Takes the checksums that lie before `limit` in the meta file.
    fn split_checksums(&mut self, limit: u64) -> Vec<(Buffer, u64)> {
        let mut taken = self.spare_meta.pop().unwrap_or_default();
        while let Some((checksums, at)) = self.meta.front_mut() {
            let before = (limit.saturating_sub(*at) as usize).min(checksums.len());
            if before == 0 {
                break;
            }
            taken.push((checksums.slice(..before), *at));
            checksums.advance(before);
            *at += before as u64;
            if checksums.is_empty() {
                self.meta.pop_front();
            }
        }
        taken
    }
}

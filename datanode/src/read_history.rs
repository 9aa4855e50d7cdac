//! What was read of late, so that what is read again goes through the page cache and what is read
//! once does not push anything out of it.
//!
//! As the ghost lists of 2Q and ARC, this remembers names and no data: of each block, which of up to
//! 128 granules were read. What was remembered longest is forgotten first, once all that is
//! remembered exceeds what memory can hold: bytes that come again after more than that would be
//! gone from the cache before they were of use.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use ringfs_protocol::block::BlockId;
use ringfs_protocol::collections::HashMap;

use crate::limits::READ_HISTORY_BLOCKS_MAX;
use crate::ring::SLAB_BYTES;

const GRANULES: u64 = u128::BITS as u64;

#[derive(Debug)]
pub struct ReadHistory {
    /// Sum of the granules remembered; 0 remembers nothing.
    capacity_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<BlockId, Entry>,
    /// Blocks by the time of their last read.
    order: BTreeMap<u64, BlockId>,
    time: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    read: Granules,
    time: u64,
}

/// Parts of a block that were read of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granules {
    bits: u128,
    /// 0 in the empty set.
    granule_bytes: u64,
}

impl ReadHistory {
    pub fn new(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, state: Mutex::default() }
    }

    /// As much as three quarters of the machine's memory.
    pub fn of_this_machine() -> Self {
        let info = rustix::system::sysinfo();
        Self::new(info.totalram * u64::from(info.mem_unit) / 4 * 3)
    }

    /// What was read of a block before now.
    pub fn recall(&self, block: BlockId) -> Granules {
        let state = self.state.lock();
        state.blocks.get(&block).map_or(Granules::default(), |entry| entry.read)
    }

    /// Remembers a read of `start..end` of a block of `block_len` bytes, and returns what was read
    /// of it before.
    pub fn note(&self, block: BlockId, block_len: u64, start: u64, end: u64) -> Granules {
        if self.capacity_bytes == 0 || start >= end {
            return Granules::default();
        }
        let read = Granules::of(block_len, start, end);
        let mut state = self.state.lock();
        let before = state.forget(block);
        state.insert(block, read.with(before));
        while state.bytes > self.capacity_bytes || state.blocks.len() > READ_HISTORY_BLOCKS_MAX {
            let Some((_, oldest)) = state.order.first_key_value() else { break };
            let oldest = *oldest;
            state.forget(oldest);
        }
        before
    }
}

impl State {
    fn insert(&mut self, block: BlockId, read: Granules) {
        self.time += 1;
        self.bytes += read.bytes();
        self.order.insert(self.time, block);
        self.blocks.insert(block, Entry { read, time: self.time });
    }

    fn forget(&mut self, block: BlockId) -> Granules {
        let Some(entry) = self.blocks.remove(&block) else { return Granules::default() };
        self.order.remove(&entry.time);
        self.bytes -= entry.read.bytes();
        entry.read
    }
}

impl Granules {
    /// Granules of a slab or larger, so that 128 of them cover the block.
    fn of(block_len: u64, start: u64, end: u64) -> Self {
        let len = block_len.max(end);
        let granule_bytes = len.div_ceil(GRANULES).next_power_of_two().max(SLAB_BYTES as u64);
        let (first, count) =
            (start / granule_bytes, end.div_ceil(granule_bytes) - start / granule_bytes);
        let bits = u128::MAX >> (GRANULES - count) << first;
        Self { bits, granule_bytes }
    }

    /// With what was read before, unless the block has grown beyond its granules since.
    fn with(self, before: Self) -> Self {
        let is_comparable = before.granule_bytes == self.granule_bytes;
        let bits = if is_comparable { self.bits | before.bits } else { self.bits };
        Self { bits, ..self }
    }

    pub fn contains(self, offset: u64) -> bool {
        let index = offset.checked_div(self.granule_bytes);
        index.is_some_and(|index| index < GRANULES && self.bits >> index & 1 == 1)
    }

    fn bytes(self) -> u64 {
        u64::from(self.bits.count_ones()) * self.granule_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_that_were_read_are_remembered() {
        let history = ReadHistory::new(1 << 30);
        let block = BlockId(1);
        assert_eq!(history.note(block, 128 * MIB, 0, 2 * MIB), Granules::default());
        let before = history.note(block, 128 * MIB, 127 * MIB + 5, 128 * MIB);
        assert!(before.contains(0) && before.contains(2 * MIB - 1) && !before.contains(2 * MIB));
        let read = history.recall(block);
        assert!(read.contains(0) && read.contains(128 * MIB - 1) && !read.contains(126 * MIB));
        assert!(!read.contains(128 * MIB), "beyond the block");
        assert_eq!(history.recall(BlockId(2)), Granules::default());
        history.note(block, 128 * MIB, 0, 128 * MIB);
        assert!((0..128).all(|mib| history.recall(block).contains(mib * MIB)));
    }

    #[test]
    fn large_blocks_have_larger_granules() {
        let history = ReadHistory::new(1 << 40);
        let len = 1000 * MIB;
        history.note(BlockId(1), len, len - 1, len);
        let read = history.recall(BlockId(1));
        assert!(read.contains(len - 1) && read.contains(len - 8 * MIB));
        assert!(!read.contains(len - 9 * MIB));
    }

    #[test]
    fn what_was_read_longest_ago_is_forgotten_first() {
        let history = ReadHistory::new(10 * MIB);
        for id in [1, 2, 3, 1] {
            history.note(BlockId(id), 4 * MIB, 0, 3 * MIB);
        }
        assert!(history.recall(BlockId(1)).contains(0), "9 MiB fit");
        history.note(BlockId(4), 4 * MIB, 0, 3 * MIB);
        let known: Vec<_> = (1..=4).filter(|id| history.recall(BlockId(*id)).contains(0)).collect();
        assert_eq!(known, [1, 3, 4]);
        history.note(BlockId(5), 100 * MIB, 0, 100 * MIB);
        assert!((1..=5).all(|id| history.recall(BlockId(id)) == Granules::default()));
        let state = history.state.lock();
        assert_eq!((state.bytes, state.order.len()), (0, 0));
    }

    #[test]
    fn without_capacity_nothing_is_remembered() {
        let history = ReadHistory::new(0);
        history.note(BlockId(1), MIB, 0, MIB);
        assert_eq!(history.recall(BlockId(1)), Granules::default());
    }
}

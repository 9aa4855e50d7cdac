//! Blocks with fewer good replicas than their files ask for, the ones at risk first.
//!
//! Each risk's blocks are taken in turn, ascending and round again, so that blocks for which there
//! is no source or target now do not keep others waiting.

use std::collections::BTreeSet;
use std::ops::Bound;

use ringfs_protocol::block::BlockId;
use ringfs_protocol::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Risk {
    /// One replica left of several.
    Highest,
    /// Less than a third of the replicas left.
    High,
    Low,
    /// No good replica: nothing to copy from.
    Missing,
}

const RISKS: usize = 4;

impl Risk {
    pub fn of(good: usize, replication: usize) -> Self {
        match good {
            0 => Self::Missing,
            1 => Self::Highest,
            _ if good * 3 < replication => Self::High,
            _ => Self::Low,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct LowRedundancy {
    queues: [Queue; RISKS],
    entries: HashMap<BlockId, Entry>,
    missing_single: u64,
}

#[derive(Debug, Default)]
struct Queue {
    blocks: BTreeSet<BlockId>,
    /// The last block taken.
    cursor: Option<BlockId>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    risk: Risk,
    single: bool,
}

impl LowRedundancy {
    pub fn insert(&mut self, id: BlockId, good: usize, replication: usize) {
        let entry = Entry { risk: Risk::of(good, replication), single: replication == 1 };
        self.remove(id);
        self.entries.insert(id, entry);
        self.queues[entry.risk as usize].blocks.insert(id);
        self.missing_single += u64::from(entry.is_missing_single());
    }

    pub fn remove(&mut self, id: BlockId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.queues[entry.risk as usize].blocks.remove(&id);
            self.missing_single -= u64::from(entry.is_missing_single());
        }
    }

    /// The next `max` blocks to look after, those at the highest risk first.
    pub fn next(&mut self, max: usize) -> Vec<BlockId> {
        let mut next = Vec::new();
        for queue in &mut self.queues[..Risk::Missing as usize] {
            queue.take(max - next.len(), &mut next);
        }
        next
    }

    /// Blocks waiting for replicas that there is a source for.
    pub fn len(&self) -> usize {
        self.entries.len() - self.missing()
    }

    pub fn highest(&self) -> usize {
        self.queues[Risk::Highest as usize].blocks.len()
    }

    pub fn missing(&self) -> usize {
        self.queues[Risk::Missing as usize].blocks.len()
    }

    /// Missing blocks of files with a replication of one.
    pub fn missing_single(&self) -> u64 {
        self.missing_single
    }

    pub fn missing_after(&self, after: Option<BlockId>, max: usize) -> Vec<BlockId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let blocks = &self.queues[Risk::Missing as usize].blocks;
        blocks.range((from, Bound::Unbounded)).take(max).copied().collect()
    }

    #[cfg(test)]
    pub fn risk(&self, id: BlockId) -> Option<Risk> {
        self.entries.get(&id).map(|entry| entry.risk)
    }
}

impl Entry {
    fn is_missing_single(self) -> bool {
        self.single && self.risk == Risk::Missing
    }
}

impl Queue {
    fn take(&mut self, max: usize, next: &mut Vec<BlockId>) {
        let from = self.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.blocks.range((from, Bound::Unbounded));
        let to = self.cursor.map_or(Bound::Excluded(BlockId(0)), Bound::Included);
        let before = self.blocks.range((Bound::Unbounded, to));
        let start = next.len();
        next.extend(behind.chain(before).take(max));
        if next.len() > start {
            self.cursor = next.last().copied();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_replica_left_goes_before_two() {
        let mut low = LowRedundancy::default();
        low.insert(BlockId(1), 2, 3);
        low.insert(BlockId(2), 2, 10);
        low.insert(BlockId(3), 1, 3);
        low.insert(BlockId(4), 0, 3);
        assert_eq!(low.next(10), [BlockId(3), BlockId(2), BlockId(1)]);
        assert_eq!((low.len(), low.missing(), low.highest()), (3, 1, 1));
        low.insert(BlockId(1), 1, 3);
        assert_eq!(low.risk(BlockId(1)), Some(Risk::Highest));
        assert_eq!(low.len(), 3);
    }

    #[test]
    fn blocks_of_one_risk_take_turns() {
        let mut low = LowRedundancy::default();
        for id in 1..=5 {
            low.insert(BlockId(id), 2, 3);
        }
        let turns: Vec<Vec<u64>> =
            (0..3).map(|_| low.next(2).iter().map(|id| id.0).collect()).collect();
        assert_eq!(turns, [[1, 2], [3, 4], [5, 1]]);
        assert_eq!(low.next(9).len(), 5);
    }

    #[test]
    fn missing_blocks_are_listed_and_counted() {
        let mut low = LowRedundancy::default();
        low.insert(BlockId(9), 0, 1);
        low.insert(BlockId(5), 0, 3);
        assert_eq!(low.missing_after(None, 10), [BlockId(5), BlockId(9)]);
        assert_eq!(low.missing_after(Some(BlockId(5)), 10), [BlockId(9)]);
        assert_eq!(low.missing_single(), 1);
        low.remove(BlockId(9));
        assert_eq!((low.missing(), low.missing_single()), (1, 0));
        assert!(low.next(10).is_empty());
    }
}

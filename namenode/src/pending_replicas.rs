//! Replicas that are on their way: ordered from a datanode, or written by a pipeline and not
//! reported yet. They count as good for deciding whether to order more, until they time out.

use std::collections::BTreeSet;

use ringfs_protocol::block::BlockId;
use ringfs_protocol::collections::HashMap;
use smallvec::SmallVec;

use crate::datanodes::StorageIndex;

#[derive(Debug)]
pub(crate) struct PendingReplicas {
    blocks: HashMap<BlockId, Pending>,
    deadlines: BTreeSet<(u64, BlockId)>,
    timeout_ms: u64,
}

#[derive(Debug)]
struct Pending {
    targets: SmallVec<[StorageIndex; 2]>,
    deadline_ms: u64,
}

impl PendingReplicas {
    pub fn new(timeout_ms: u64) -> Self {
        Self { blocks: HashMap::default(), deadlines: BTreeSet::new(), timeout_ms }
    }

    pub fn add(&mut self, id: BlockId, targets: &[StorageIndex], now_ms: u64) {
        if targets.is_empty() {
            return;
        }
        let deadline_ms = now_ms + self.timeout_ms;
        let pending = self
            .blocks
            .entry(id)
            .or_insert_with(|| Pending { targets: SmallVec::new(), deadline_ms });
        self.deadlines.remove(&(pending.deadline_ms, id));
        pending.deadline_ms = deadline_ms;
        self.deadlines.insert((deadline_ms, id));
        for target in targets {
            if !pending.targets.contains(target) {
                pending.targets.push(*target);
            }
        }
    }

    pub fn targets(&self, id: BlockId) -> &[StorageIndex] {
        self.blocks.get(&id).map_or(&[], |pending| &pending.targets)
    }

    /// Drops those targets of `id` for which `is_over` holds.
    pub fn drop_targets(&mut self, id: BlockId, is_over: impl Fn(StorageIndex) -> bool) {
        let Some(pending) = self.blocks.get_mut(&id) else {
            return;
        };
        pending.targets.retain(|target| !is_over(*target));
        if pending.targets.is_empty() {
            self.remove(id);
        }
    }

    pub fn remove(&mut self, id: BlockId) {
        if let Some(pending) = self.blocks.remove(&id) {
            self.deadlines.remove(&(pending.deadline_ms, id));
        }
    }

    /// Blocks with a target for which `is_over` holds.
    pub fn blocks_with(&self, is_over: impl Fn(StorageIndex) -> bool) -> Vec<BlockId> {
        let with = self.deadlines.iter().map(|(_, id)| *id);
        with.filter(|id| self.targets(*id).iter().any(|target| is_over(*target))).collect()
    }

    /// Takes out the blocks whose time is over.
    pub fn take_expired(&mut self, now_ms: u64) -> Vec<BlockId> {
        let mut expired = Vec::new();
        while let Some(&(deadline_ms, id)) = self.deadlines.first()
            && deadline_ms <= now_ms
        {
            self.remove(id);
            expired.push(id);
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_expires_once_after_its_last_order() {
        let mut pending = PendingReplicas::new(100);
        let target = StorageIndex::for_test(1);
        pending.add(BlockId(7), &[target], 0);
        pending.add(BlockId(7), &[StorageIndex::for_test(2), target], 50);
        assert_eq!(pending.targets(BlockId(7)).len(), 2);
        assert!(pending.take_expired(149).is_empty());
        assert_eq!(pending.take_expired(150), [BlockId(7)]);
        assert!(pending.targets(BlockId(7)).is_empty());
        assert!(pending.take_expired(1000).is_empty());
    }

    #[test]
    fn the_last_target_reported_ends_it() {
        let mut pending = PendingReplicas::new(100);
        pending.add(BlockId(7), &[StorageIndex::for_test(1), StorageIndex::for_test(2)], 0);
        for index in [1, 2] {
            assert_eq!(pending.blocks_with(|_| true), [BlockId(7)]);
            pending.drop_targets(BlockId(7), |target| target == StorageIndex::for_test(index));
        }
        assert!(pending.blocks_with(|_| true).is_empty());
        assert!(pending.take_expired(1000).is_empty());
    }
}

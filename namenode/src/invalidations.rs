//! Replicas that one datanode shall delete: queued until a heartbeat takes them along, then ordered
//! until the datanode reports them deleted.
//!
//! A condemned replica is no location of its block, whatever late reports say, and its datanode is
//! no target for that block: an order still on its way would delete the new replica.

use std::collections::{BTreeMap, HashMap};

use ringfs_protocol::block::{Block, BlockId, GenerationStamp};

#[derive(Debug, Default)]
pub(crate) struct Invalidations {
    queued: BTreeMap<BlockId, GenerationStamp>,
    ordered: HashMap<BlockId, Ordered>,
}

#[derive(Clone, Copy, Debug)]
struct Ordered {
    generation_stamp: GenerationStamp,
    at_ms: u64,
}

impl Invalidations {
    /// The datanode deletes a replica only if it has the very generation stamp of the order.
    pub fn condemn(&mut self, id: BlockId, generation_stamp: GenerationStamp) {
        let ordered = self.ordered.get(&id).map(|ordered| ordered.generation_stamp);
        if ordered != Some(generation_stamp) {
            self.queued.insert(id, generation_stamp);
        }
    }

    pub fn condemned(&self, id: BlockId) -> Option<GenerationStamp> {
        let ordered = || self.ordered.get(&id).map(|ordered| ordered.generation_stamp);
        self.queued.get(&id).copied().or_else(ordered)
    }

    pub fn take(&mut self, max: usize, now_ms: u64) -> Vec<Block> {
        let mut taken = Vec::with_capacity(max.min(self.queued.len()));
        while taken.len() < max
            && let Some((id, generation_stamp)) = self.queued.pop_first()
        {
            self.ordered.insert(id, Ordered { generation_stamp, at_ms: now_ms });
            taken.push(Block { id, generation_stamp, num_bytes: 0 });
        }
        taken
    }

    /// The replica is gone, or was replaced by a newer one.
    pub fn forget(&mut self, id: BlockId) {
        self.queued.remove(&id);
        self.ordered.remove(&id);
    }

    /// A full report, made after `since_ms`, still has the replica: an order from before was lost.
    pub fn still_there(&mut self, id: BlockId, since_ms: u64) {
        if let Some(ordered) = self.ordered.get(&id)
            && ordered.at_ms < since_ms
        {
            self.queued.insert(id, ordered.generation_stamp);
            self.ordered.remove(&id);
        }
    }

    /// Forgets the orders from before `since_ms` whose replicas a full report no longer has.
    pub fn retain_reported(&mut self, since_ms: u64, is_reported: impl Fn(BlockId) -> bool) {
        self.ordered.retain(|id, ordered| ordered.at_ms >= since_ms || is_reported(*id));
    }

    /// Replicas waiting for a heartbeat, or ordered and not confirmed.
    pub fn len(&self) -> usize {
        self.queued.len() + self.ordered.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_sent_once_and_again_only_when_it_was_lost() {
        let mut invalidations = Invalidations::default();
        let (id, stamp) = (BlockId(7), GenerationStamp(1001));
        invalidations.condemn(id, stamp);
        assert_eq!(invalidations.take(10, 50).len(), 1);
        invalidations.condemn(id, stamp);
        assert!(invalidations.take(10, 60).is_empty());
        assert_eq!(invalidations.condemned(id), Some(stamp));

        // A report that may be older than the order says nothing about it.
        invalidations.still_there(id, 50);
        assert!(invalidations.take(10, 70).is_empty());
        invalidations.still_there(id, 51);
        assert_eq!(invalidations.take(10, 80).len(), 1);
        invalidations.forget(id);
        assert_eq!((invalidations.condemned(id), invalidations.len()), (None, 0));
    }

    #[test]
    fn a_heartbeat_takes_no_more_than_its_limit() {
        let mut invalidations = Invalidations::default();
        for id in 0..25 {
            invalidations.condemn(BlockId(id), GenerationStamp(1001));
        }
        let taken: Vec<usize> = (0..4).map(|_| invalidations.take(10, 0).len()).collect();
        assert_eq!(taken, [10, 10, 5, 0]);
    }
}

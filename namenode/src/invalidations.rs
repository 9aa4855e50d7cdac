//! Replicas that one datanode shall delete: queued until a heartbeat takes them along, then ordered
//! until the datanode reports them deleted.
//!
//! A condemned replica is no location of its block, whatever late reports say, and its datanode is
//! no target for that block: an order still on its way would delete the new replica. Java's
//! datanodes confirm deletions after as much as 300 s; where there is no other target, one is taken
//! for obeyed after [`OBEYED_AFTER_MS`]. An order that was never confirmed is given once more after
//! [`REPEATED_AFTER_MS`]: the reply that carried it may have been lost.
//!
//! An order for a replica of a block that is still wanted remembers what that was, so that it can be
//! weighed again when a heartbeat comes for it (`Replicas::take_invalidations`): the replicas that made
//! it one too many may have rotted or died meanwhile.

use std::collections::{BTreeMap, VecDeque};

use ringfs_protocol::block::{BlockId, GenerationStamp};
use ringfs_protocol::collections::HashMap;

use crate::block_map::BadReplica;
use crate::datanodes::StorageIndex;
use crate::limits::{OBEYED_AFTER_MS, REPEATED_AFTER_MS};

#[derive(Debug, Default)]
pub(crate) struct Invalidations {
    queued: BTreeMap<BlockId, Condemned>,
    ordered: HashMap<BlockId, Ordered>,
    /// When each order was given, oldest first; those confirmed since are still among them.
    order_times: VecDeque<(u64, BlockId)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Condemned {
    pub generation_stamp: GenerationStamp,
    pub was: Was,
}

/// What an order takes away.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Was {
    /// A good replica more than wanted.
    Spare(StorageIndex),
    /// A bad one beside enough good ones.
    Bad(BadReplica),
    /// Nothing that anybody needs, or what an earlier order may have taken already.
    Useless,
}

#[derive(Clone, Copy, Debug)]
struct Ordered {
    condemned: Condemned,
    at_ms: u64,
}

impl Invalidations {
    /// The datanode deletes a replica only if it has the very generation stamp of the order.
    pub fn condemn(&mut self, id: BlockId, condemned: Condemned) {
        let ordered = self.ordered.get(&id).map(|ordered| ordered.condemned.generation_stamp);
        if ordered != Some(condemned.generation_stamp) {
            self.queued.insert(id, condemned);
        }
    }

    pub fn condemned(&self, id: BlockId) -> Option<GenerationStamp> {
        let ordered = || self.ordered.get(&id).map(|ordered| &ordered.condemned);
        self.queued.get(&id).or_else(ordered).map(|condemned| condemned.generation_stamp)
    }

    /// Whether a replica of `id` was ordered to be deleted so long ago that it must be gone.
    pub fn is_obeyed(&self, id: BlockId, now_ms: u64) -> bool {
        !self.queued.contains_key(&id)
            && self
                .ordered
                .get(&id)
                .is_some_and(|ordered| now_ms.saturating_sub(ordered.at_ms) >= OBEYED_AFTER_MS)
    }

    /// Orders up to `max`.
    pub fn take(&mut self, max: usize, now_ms: u64) -> Vec<(BlockId, Condemned)> {
        self.repeat(now_ms);
        let mut taken = Vec::with_capacity(max.min(self.queued.len()));
        while taken.len() < max
            && let Some((id, condemned)) = self.queued.pop_first()
        {
            self.ordered.insert(id, Ordered { condemned, at_ms: now_ms });
            self.order_times.push_back((now_ms, id));
            taken.push((id, condemned));
        }
        taken
    }

    fn repeat(&mut self, now_ms: u64) {
        while let Some(&(at_ms, id)) = self.order_times.front()
            && now_ms.saturating_sub(at_ms) >= REPEATED_AFTER_MS
        {
            self.order_times.pop_front();
            if let Some(ordered) = self.ordered.get(&id).filter(|ordered| ordered.at_ms == at_ms) {
                // It may have been obeyed.
                self.queued.insert(id, Condemned { was: Was::Useless, ..ordered.condemned });
                self.ordered.remove(&id);
            }
        }
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
            self.queued.insert(id, ordered.condemned);
            self.ordered.remove(&id);
        }
    }

    /// Takes out the orders from before `since_ms` whose replicas a full report no longer has.
    pub fn take_obeyed(
        &mut self,
        since_ms: u64,
        is_reported: impl Fn(BlockId) -> bool,
    ) -> Vec<(BlockId, GenerationStamp)> {
        let obeyed =
            |id: &BlockId, order: &mut Ordered| order.at_ms < since_ms && !is_reported(*id);
        let taken = self.ordered.extract_if(obeyed);
        taken.map(|(id, order)| (id, order.condemned.generation_stamp)).collect()
    }

    /// Replicas waiting for a heartbeat, or ordered and not confirmed.
    pub fn len(&self) -> usize {
        self.queued.len() + self.ordered.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(generation_stamp: GenerationStamp) -> Condemned {
        Condemned { generation_stamp, was: Was::Useless }
    }

    #[test]
    fn an_order_is_sent_once_and_again_only_when_it_was_lost() {
        let mut invalidations = Invalidations::default();
        let (id, stamp) = (BlockId(7), GenerationStamp(1001));
        invalidations.condemn(id, bad(stamp));
        assert_eq!(invalidations.take(10, 50).len(), 1);
        invalidations.condemn(id, bad(stamp));
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
    fn an_order_counts_as_obeyed_some_time_after_it_was_sent() {
        let mut invalidations = Invalidations::default();
        let id = BlockId(7);
        invalidations.condemn(id, bad(GenerationStamp(1001)));
        assert!(!invalidations.is_obeyed(id, OBEYED_AFTER_MS));
        invalidations.take(10, 5);
        assert!(!invalidations.is_obeyed(id, 4 + OBEYED_AFTER_MS));
        assert!(invalidations.is_obeyed(id, 5 + OBEYED_AFTER_MS));
    }

    #[test]
    fn an_order_without_confirmation_is_repeated() {
        let mut invalidations = Invalidations::default();
        for id in [7, 8] {
            invalidations.condemn(BlockId(id), bad(GenerationStamp(1001)));
        }
        assert_eq!(invalidations.take(10, 5).len(), 2);
        invalidations.forget(BlockId(8));
        assert!(invalidations.take(10, 4 + REPEATED_AFTER_MS).is_empty());
        let again = invalidations.take(10, 5 + REPEATED_AFTER_MS);
        assert_eq!(again.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [BlockId(7)]);
        assert!(invalidations.take(10, 6 + REPEATED_AFTER_MS).is_empty());
    }

    #[test]
    fn a_heartbeat_takes_no_more_than_its_limit() {
        let mut invalidations = Invalidations::default();
        for id in 0..25 {
            invalidations.condemn(BlockId(id), bad(GenerationStamp(1001)));
        }
        let taken: Vec<usize> = (0..4).map(|_| invalidations.take(10, 0).len()).collect();
        assert_eq!(taken, [10, 10, 5, 0]);
    }
}

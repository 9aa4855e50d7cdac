//! Reports of datanodes: what changed (incremental), and all they have (full).
//!
//! Reports may be delayed, repeated or overtaken by newer ones. Nothing old may turn a good replica
//! into a bad or condemned one: see [`crate::recent_changes`] and [`crate::invalidations`] for the
//! two memories that judge lateness, and [`crate::report_leases`] for full reports.

use std::ops::Bound;

use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::block_report::ReportedReplica;
use ringfs_protocol::messages::{BlockStatus, ReceivedDeletedBlockInfoProto};

use crate::block_map::OpenReplica;
use crate::datanodes::StorageIndex;
use crate::limits::{FUTURE_BLOCKS_MAX, SWEEP_STEP};
use crate::recent_changes::Change;
use crate::replica_verdict::{BadReason, Verdict, judge};
use crate::replicas::Replicas;

/// Of a replica that was lost, whatever its generation stamp was.
const ANY_STAMP: GenerationStamp = GenerationStamp(u64::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Incremental,
    /// A picture taken at `since_ms` or later.
    Full {
        since_ms: u64,
    },
}

impl Replicas {
    /// One change that a datanode reports.
    pub fn apply_change(&mut self, storage: StorageIndex, change: &ReceivedDeletedBlockInfoProto) {
        let block = Block::from(&change.block);
        let node = self.nodes.node_of(storage);
        let deleted = match BlockStatus::try_from(change.status) {
            Ok(BlockStatus::Receiving) => {
                if self.is_deleted_late(storage, &block) {
                    return;
                }
                self.apply_replica(storage, &block, ReplicaState::Rbw, Source::Incremental);
                None
            }
            Ok(BlockStatus::Received) => {
                if self.is_deleted_late(storage, &block) {
                    return;
                }
                self.nodes.unschedule(node);
                self.delete_hint =
                    change.delete_hint.as_ref().and_then(|uuid| self.nodes.find(uuid));
                self.apply_replica(storage, &block, ReplicaState::Finalized, Source::Incremental);
                self.delete_hint = None;
                None
            }
            Ok(BlockStatus::Deleted) => {
                let invalidations = &mut self.nodes.node_mut(node).invalidations;
                let condemned = invalidations.condemned(block.id);
                if condemned.is_some_and(|stamp| stamp <= block.generation_stamp) {
                    invalidations.forget(block.id);
                }
                self.remove_replica(block.id, storage, Some(block.generation_stamp));
                Some(block.generation_stamp)
            }
            Err(_) => return,
        };
        let change = Change { at_ms: self.now_ms, storage, deleted };
        self.nodes.node_mut(node).recent.record(block.id, change);
    }

    /// Whether the datanode reported this replica deleted already, and nobody makes it anew.
    fn is_deleted_late(&self, storage: StorageIndex, block: &Block) -> bool {
        let node = self.nodes.node_of(storage);
        let on_node = |other: &StorageIndex| self.nodes.node_of(*other) == node;
        let is_awaited = || {
            self.pending.targets(block.id).iter().any(on_node)
                || self
                    .map
                    .open
                    .get(&block.id)
                    .is_some_and(|open| open.expected.iter().any(on_node))
        };
        self.nodes.node(node).recent.was_deleted(block.id, block.generation_stamp) && !is_awaited()
    }

    /// Replicas of a full report.
    pub fn apply_report(
        &mut self,
        storage: StorageIndex,
        replicas: &[ReportedReplica],
        since_ms: u64,
    ) {
        for (block, state) in replicas {
            if !self.nodes.owner(storage).recent.outweighs_report(block.id, storage, since_ms) {
                self.apply_replica(storage, block, *state, Source::Full { since_ms });
            }
        }
    }

    /// Forgets replicas of `storage` that a full report does not have, among the blocks behind
    /// `after`; the last block visited, or `None` when there are no more. `reported` is sorted.
    pub fn retire_unreported(
        &mut self,
        storage: StorageIndex,
        reported: &[BlockId],
        since_ms: u64,
        after: Option<BlockId>,
    ) -> Option<BlockId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let recent = &self.nodes.owner(storage).recent;
        let is_gone = |id: BlockId| {
            reported.binary_search(&id).is_err() && !recent.outweighs_report(id, storage, since_ms)
        };
        let mut gone = Vec::new();
        let (mut visited, mut last) = (0, None);
        for (id, settled) in self.map.settled.range((from, Bound::Unbounded)).take(SWEEP_STEP) {
            (visited, last) = (visited + 1, Some(*id));
            if settled.good.contains(&storage) && is_gone(*id) {
                gone.push(*id);
            }
        }
        if visited < SWEEP_STEP {
            last = None;
            let bad = self.map.bad.iter();
            let bad = bad.filter(|(_, bad)| bad.iter().any(|replica| replica.storage == storage));
            gone.extend(bad.map(|(id, _)| *id).filter(|id| is_gone(*id)));
            let open =
                self.map.open.iter().filter(|(_, open)| {
                    open.replicas.iter().any(|replica| replica.storage == storage)
                });
            gone.extend(open.map(|(id, _)| *id).filter(|id| is_gone(*id)));
        }
        gone.sort_unstable();
        for id in gone {
            self.remove_replica(id, storage, None);
            // Should a report of it still be on its way, it is late.
            let change = Change { at_ms: self.now_ms, storage, deleted: Some(ANY_STAMP) };
            self.nodes.owner_mut(storage).recent.record(id, change);
        }
        last
    }

    /// The full report of `storage` has been taken in.
    pub fn end_storage_report(
        &mut self,
        storage: StorageIndex,
        reported: &[BlockId],
        since_ms: u64,
    ) {
        self.nodes.storage_mut(storage).reported = true;
        let at_ms = self.now_ms;
        let node = self.nodes.owner_mut(storage);
        if let [_] = node.storages[..] {
            // With several storages another one may report the replica.
            let is_reported = |id: BlockId| reported.binary_search(&id).is_ok();
            for (id, stamp) in node.invalidations.take_obeyed(since_ms, is_reported) {
                node.recent.record(id, Change { at_ms, storage, deleted: Some(stamp) });
            }
        }
    }

    fn apply_replica(
        &mut self,
        storage: StorageIndex,
        block: &Block,
        state: ReplicaState,
        source: Source,
    ) {
        let id = block.id;
        if self.is_condemned(storage, block, source) {
            return;
        }
        let settled = self.map.settled.get(&id);
        if state == ReplicaState::Finalized && settled.is_some_and(|s| s.is_version(block)) {
            self.accept(storage, block);
            return;
        }
        let stored = self.stored.stored_block(id);
        let last_stamp = || self.stored.last_generation_stamp();
        let verdict = judge(block, state, stored.as_ref(), last_stamp);
        if let Some(stored) = stored.as_ref().filter(|stored| stored.state.is_settled())
            && self.map.settled.get(&id).is_none_or(|s| !s.is_version(&stored.block))
        {
            self.settle(stored);
        }
        match verdict {
            Verdict::Good => self.accept(storage, block),
            Verdict::Open => self.add_open(storage, block, state),
            Verdict::Bad(reason) if !self.is_late(storage, block, source) => {
                self.add_bad(storage, block, reason);
            }
            Verdict::Bad(_) | Verdict::Ignored => {}
            Verdict::Unknown => self.condemn(storage, id, block.generation_stamp),
            Verdict::FromTheFuture => {
                if self.from_the_future.len() < FUTURE_BLOCKS_MAX && self.from_the_future.insert(id)
                {
                    tracing::warn!(%block, ?state, "a replica from the future: left alone");
                }
            }
        }
    }

    /// Whether the datanode shall delete this replica; a newer version ends the sentence.
    fn is_condemned(&mut self, storage: StorageIndex, block: &Block, source: Source) -> bool {
        let invalidations = &mut self.nodes.owner_mut(storage).invalidations;
        let Some(stamp) = invalidations.condemned(block.id) else {
            return false;
        };
        if block.generation_stamp > stamp {
            invalidations.forget(block.id);
            return false;
        }
        if let Source::Full { since_ms } = source {
            invalidations.still_there(block.id, since_ms);
        }
        true
    }

    /// A finalized replica of stored stamp and length: good, unless its bytes were found wrong.
    fn accept(&mut self, storage: StorageIndex, block: &Block) {
        let node = self.nodes.node_of(storage);
        let is_corrupt = self.map.bad_replicas(block.id).iter().any(|bad| {
            bad.reason == BadReason::Corruption
                && bad.generation_stamp == block.generation_stamp
                && self.nodes.node_of(bad.storage) == node
        });
        let settled = self.map.settled.get(&block.id);
        let is_known = settled.is_some_and(|settled| settled.good.contains(&storage));
        if !is_corrupt && !is_known {
            self.add_good(block.id, storage);
        }
    }

    fn add_open(&mut self, storage: StorageIndex, block: &Block, state: ReplicaState) {
        self.open_mut(block.id);
        let (nodes, open) = (&self.nodes, self.map.open.entry(block.id).or_default());
        open.put(OpenReplica {
            storage,
            generation_stamp: block.generation_stamp,
            num_bytes: block.num_bytes,
            state,
        });
        // The datanode may have taken another of its storages than it was offered.
        let node = nodes.node_of(storage);
        match open.expected.iter_mut().find(|known| nodes.node_of(**known) == node) {
            Some(known) => *known = storage,
            None => open.expected.push(storage),
        }
        self.map.drop_bad(block.id, |bad| {
            bad.storage == storage && bad.generation_stamp < block.generation_stamp
        });
        self.notify(block.id);
    }

    /// Whether the datanode is known to have gone beyond this version of the block.
    fn is_late(&self, storage: StorageIndex, block: &Block, source: Source) -> bool {
        if source != Source::Incremental {
            return false;
        }
        if let Some(settled) = self.map.settled.get(&block.id) {
            let settled_version = (settled.generation_stamp, settled.num_bytes);
            return settled.good.contains(&storage)
                && (block.generation_stamp, block.num_bytes) < settled_version;
        }
        self.map.open.get(&block.id).is_some_and(|open| {
            let mut replicas = open.replicas.iter();
            replicas.any(|replica| {
                replica.storage == storage && replica.generation_stamp > block.generation_stamp
            })
        })
    }
}

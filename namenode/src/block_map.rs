//! Which storages hold replicas of which blocks: in memory only, built from block reports.
//!
//! A block is either *open* (being written or recovered: a pipeline, and replicas of any stamp and
//! length) or *settled* (stamp and length final: the storages with a good replica). Bad replicas
//! are kept beside either. Settled blocks are by far the most: 56 bytes each with up to four
//! replicas, ordered, so that a sweep over all of them can pause anywhere.

use std::collections::BTreeMap;

use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::collections::HashMap;
use smallvec::SmallVec;

use crate::block_manager::{BlockState, StoredBlock};
use crate::datanodes::{NodeIndex, StorageIndex};
use crate::replica_verdict::BadReason;

/// Storages of one block's replicas, never two of one datanode.
pub(crate) type Storages = SmallVec<[StorageIndex; 4]>;

#[derive(Debug)]
pub(crate) struct Settled {
    pub generation_stamp: GenerationStamp,
    pub num_bytes: u64,
    pub good: Storages,
    pub replication: u16,
    pub is_complete: bool,
}

const _: () = assert!(size_of::<(BlockId, Settled)>() <= 56);

#[derive(Debug, Default)]
pub(crate) struct Open {
    /// The pipeline, first datanode first.
    pub expected: Storages,
    pub replicas: SmallVec<[OpenReplica; 3]>,
    /// Datanodes that were asked to recover it.
    pub recovery_tried: SmallVec<[NodeIndex; 2]>,
    /// The newest that its writer was given: replicas bear it, though the block may not yet.
    pub offered_stamp: Option<GenerationStamp>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenReplica {
    pub storage: StorageIndex,
    pub generation_stamp: GenerationStamp,
    pub num_bytes: u64,
    pub state: ReplicaState,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct BadReplica {
    pub storage: StorageIndex,
    pub generation_stamp: GenerationStamp,
    pub reason: BadReason,
}

#[derive(Debug, Default)]
pub(crate) struct BlockMap {
    pub settled: BTreeMap<BlockId, Settled>,
    pub open: HashMap<BlockId, Open>,
    pub bad: BTreeMap<BlockId, SmallVec<[BadReplica; 1]>>,
}

impl BlockMap {
    pub fn bad_replicas(&self, id: BlockId) -> &[BadReplica] {
        self.bad.get(&id).map_or(&[], |bad| bad)
    }

    pub fn put_bad(&mut self, id: BlockId, replica: BadReplica) {
        let bad = self.bad.entry(id).or_default();
        bad.retain(|known| known.storage != replica.storage);
        bad.push(replica);
    }

    /// Drops the bad replicas for which `is_over` holds; true when there were any.
    pub fn drop_bad(&mut self, id: BlockId, is_over: impl Fn(&BadReplica) -> bool) -> bool {
        let Some(bad) = self.bad.get_mut(&id) else {
            return false;
        };
        let before = bad.len();
        bad.retain(|replica| !is_over(replica));
        let dropped = bad.len() < before;
        if bad.is_empty() {
            self.bad.remove(&id);
        }
        dropped
    }
}

impl Settled {
    pub fn new(stored: &StoredBlock) -> Self {
        Self {
            generation_stamp: stored.block.generation_stamp,
            num_bytes: stored.block.num_bytes,
            good: Storages::new(),
            replication: stored.replication,
            is_complete: stored.state == BlockState::Complete,
        }
    }

    pub fn is_version(&self, block: &Block) -> bool {
        self.generation_stamp == block.generation_stamp && self.num_bytes == block.num_bytes
    }

    pub fn block(&self, id: BlockId) -> Block {
        Block { id, generation_stamp: self.generation_stamp, num_bytes: self.num_bytes }
    }
}

impl Open {
    /// Records what is known of the replica on `storage`; a late report of an earlier state of the
    /// same version does not count.
    pub fn put(&mut self, replica: OpenReplica) {
        match self.replicas.iter_mut().find(|known| known.storage == replica.storage) {
            Some(known) if !known.is_newer_than(&replica) => *known = replica,
            Some(_) => {}
            None => self.replicas.push(replica),
        }
    }
}

impl OpenReplica {
    pub fn is_finalized(&self, block: &Block) -> bool {
        self.state == ReplicaState::Finalized
            && self.generation_stamp == block.generation_stamp
            && self.num_bytes == block.num_bytes
    }

    fn is_newer_than(&self, other: &Self) -> bool {
        self.generation_stamp > other.generation_stamp
            || (self.generation_stamp == other.generation_stamp
                && self.state == ReplicaState::Finalized
                && self.num_bytes >= other.num_bytes)
    }
}

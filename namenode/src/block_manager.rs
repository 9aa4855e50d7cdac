//! Where the replicas of the namespace's blocks are: the seam between the namespace, which stores
//! what blocks there are, and the datanodes, which report what replicas they hold.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringfs_protocol::block::{Block, BlockId, GenerationStamp};
use ringfs_protocol::messages::{
    DatanodeInfoProto, DatanodeReportTypeProto, DatanodeStorageReportProto, ExtendedBlockProto,
    StorageTypeProto,
};

use crate::clock::Clock;
use crate::safe_mode::SafeMode;

/// A block as the namespace stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    pub block: Block,
    pub state: BlockState,
    pub replication: u16,
    pub inode: u64,
    pub preferred_block_size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    UnderConstruction,
    UnderRecovery {
        recovery_id: GenerationStamp,
    },
    /// Length and generation stamp are final; too few replicas have been reported so far.
    Committed,
    Complete,
}

impl BlockState {
    /// Whether length and generation stamp are final.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Committed | Self::Complete)
    }
}

/// What the namespace tells about its blocks: reads of committed state, never waiting for a writer.
pub trait StoredBlocks: Send + Sync + 'static {
    fn stored_block(&self, id: BlockId) -> Option<StoredBlock>;
    /// At most `max` blocks with ids behind `after`, ascending.
    fn stored_blocks_after(&self, after: Option<BlockId>, max: usize) -> Vec<StoredBlock>;
    /// Blocks in state [`BlockState::Complete`]: the denominator of safe mode.
    fn complete_block_count(&self) -> u64;
    /// The highest generation stamp given out; replicas beyond it come from another history.
    fn last_generation_stamp(&self) -> GenerationStamp;
}

/// One storage of one datanode, as a place for a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageTarget {
    pub datanode_uuid: Arc<str>,
    pub storage_id: Arc<str>,
    pub storage_type: StorageTypeProto,
}

#[derive(Clone, Copy, Debug)]
pub struct TargetRequest<'a> {
    pub count: usize,
    pub block_size: u64,
    pub writer: IpAddr,
    /// Uuids of datanodes that must not be chosen.
    pub excluded: &'a [Arc<str>],
    /// Replicas that are there already: their datanodes are not chosen either.
    pub existing: &'a [StorageTarget],
    /// `host:port` of datanodes to choose first.
    pub favored: &'a [String],
    pub no_local_write: bool,
}

/// A block whose replicas one of its datanodes shall bring to one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryRequest {
    /// As stored: with the generation stamp that its replicas have now.
    pub block: Block,
    pub recovery_id: GenerationStamp,
    /// The block with its new length, when this is a truncate.
    pub truncate_to: Option<Block>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsStats {
    pub capacity: u64,
    pub used: u64,
    pub remaining: u64,
    pub under_replicated: u64,
    pub corrupt_blocks: u64,
    pub missing_blocks: u64,
    /// Those among `missing_blocks` that have a replication of one.
    pub missing_replication_one_blocks: u64,
    pub blocks_in_future: u64,
    pub pending_deletion_blocks: u64,
    /// Blocks with one replica left of several.
    pub highest_priority_low_redundancy_blocks: u64,
}

#[derive(Clone, Debug)]
pub struct BlockManagerConfig {
    pub pool_id: String,
    pub min_replication: usize,
}

pub struct BlockManager {
    safe_mode: SafeMode,
}

impl BlockManager {
    pub fn new(
        config: BlockManagerConfig,
        stored: Arc<dyn StoredBlocks>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Arc<Self> {
        let _ = (config, stored, clock, seed);
        todo!()
    }

    /// Places for new replicas, the writer's own datanode first; may be fewer than asked for.
    pub fn choose_targets(&self, request: &TargetRequest<'_>) -> Vec<StorageTarget> {
        let _ = request;
        todo!()
    }

    /// Live datanodes, and how many of `excluded` there are.
    pub fn live_and_excluded_counts(&self, excluded: &[Arc<str>]) -> (usize, usize) {
        let _ = excluded;
        todo!()
    }

    pub fn datanode_info(&self, uuid: &str) -> Option<DatanodeInfoProto> {
        let _ = uuid;
        todo!()
    }

    /// `targets` as a located block names them: datanodes, storage types, storage ids. Datanodes
    /// that are no longer known are left out.
    pub fn located(
        &self,
        targets: &[StorageTarget],
    ) -> (Vec<DatanodeInfoProto>, Vec<i32>, Vec<String>) {
        let _ = targets;
        todo!()
    }

    /// Where a reader finds `block`: good replicas, nearest first; or the corrupt ones and `true`
    /// when there are no others.
    pub fn locations(&self, block: &StoredBlock, reader: IpAddr) -> (Vec<StorageTarget>, bool) {
        let _ = (block, reader);
        todo!()
    }

    /// Sets the pipeline of a block under construction.
    pub fn set_expected(&self, id: BlockId, targets: Vec<StorageTarget>) {
        let _ = (id, targets);
        todo!()
    }

    /// The pipeline of a block under construction; after a restart of the namenode the datanodes
    /// that reported replicas of it.
    pub fn expected(&self, id: BlockId) -> Vec<StorageTarget> {
        let _ = id;
        todo!()
    }

    /// Live finalized replicas with the generation stamp and length of `block`.
    pub fn finalized_replicas(&self, block: &Block) -> usize {
        let _ = block;
        todo!()
    }

    /// Waits until `block` has `min` of [`Self::finalized_replicas`]; false after `timeout`.
    pub async fn wait_finalized(&self, block: &Block, min: usize, timeout: Duration) -> bool {
        let _ = (block, min, timeout);
        todo!()
    }

    /// To be called after each transaction that brought `block` to COMMITTED or COMPLETE:
    /// re-replication or removal of excess replicas begins as needed.
    pub fn block_completed(&self, block: &StoredBlock) {
        let _ = block;
        todo!()
    }

    /// To be called after a transaction that changed the replication of a settled block.
    pub fn replication_changed(&self, block: &StoredBlock) {
        let _ = block;
        todo!()
    }

    /// To be called after the transaction that deleted the blocks: forgets them, and has every
    /// replica deleted.
    pub fn remove_blocks(&self, ids: &[BlockId]) {
        let _ = ids;
        todo!()
    }

    /// To be called when a complete block goes back under construction: its good replicas become
    /// the expected ones.
    pub fn reopen_for_append(&self, block: &StoredBlock) -> Vec<StorageTarget> {
        let _ = block;
        todo!()
    }

    /// Has one of the datanodes of [`Self::expected`] recover the block, another at each call;
    /// false when none of them lives.
    pub fn queue_recovery(&self, request: &RecoveryRequest) -> bool {
        let _ = request;
        todo!()
    }

    pub fn report_bad_replica(
        &self,
        block: &ExtendedBlockProto,
        datanode_uuid: &str,
        storage_id: &str,
    ) {
        let _ = (block, datanode_uuid, storage_id);
        todo!()
    }

    /// The outcome of a block recovery, after its transaction: `block` as it is stored now has
    /// replicas at `targets` and no good ones elsewhere.
    pub fn synchronized(&self, block: &StoredBlock, targets: Vec<StorageTarget>) {
        let _ = (block, targets);
        todo!()
    }

    /// The storage `storage_id` of a registered datanode.
    pub fn target(&self, datanode_uuid: &str, storage_id: &str) -> Option<StorageTarget> {
        let _ = (datanode_uuid, storage_id);
        todo!()
    }

    pub fn live_datanodes(&self) -> usize {
        todo!()
    }

    pub fn fs_stats(&self) -> FsStats {
        todo!()
    }

    pub fn datanode_report(&self, kind: DatanodeReportTypeProto) -> Vec<DatanodeInfoProto> {
        let _ = kind;
        todo!()
    }

    pub fn datanode_storage_report(
        &self,
        kind: DatanodeReportTypeProto,
    ) -> Vec<DatanodeStorageReportProto> {
        let _ = kind;
        todo!()
    }

    /// Blocks without a good replica, ascending behind `after`.
    pub fn missing_blocks_after(&self, after: Option<BlockId>, max: usize) -> Vec<BlockId> {
        let _ = (after, max);
        todo!()
    }

    pub fn safe_mode(&self) -> &SafeMode {
        &self.safe_mode
    }
}

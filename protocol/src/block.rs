//! The names of a block and the states of its replicas.

use std::fmt;

use crate::messages::{BlockProto, ExtendedBlockProto, ReplicaStateProto};

/// A block's id: a signed 64-bit number in Java (negative for striped groups), `uint64` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u64);

/// A generation stamp: the version of a block, raised by every append and pipeline recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GenerationStamp(pub u64);

/// One version of one block with its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    pub id: BlockId,
    pub generation_stamp: GenerationStamp,
    pub num_bytes: u64,
}

/// A block and the pool (namespace) that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtendedBlock {
    pub pool_id: String,
    pub block: Block,
}

/// State of a replica on a datanode; the numbers are those of block reports and of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReplicaState {
    /// Complete: length and checksums final until an append reopens it.
    Finalized,
    /// Being written by a pipeline.
    Rbw,
    /// Was RBW when the datanode stopped: waits for recovery, not readable.
    Rwr,
    /// Under block recovery.
    Rur,
    /// Target of a replication or transfer: invisible until it finishes.
    Temporary,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blk_{}", self.0 as i64)
    }
}

impl fmt::Display for GenerationStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// `blk_<id>_<generation stamp>`, as Hadoop prints it.
impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.id, self.generation_stamp)
    }
}

/// `<pool>:blk_<id>_<generation stamp>`, as Hadoop prints it.
impl fmt::Display for ExtendedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pool_id, self.block)
    }
}

impl From<&BlockProto> for Block {
    fn from(proto: &BlockProto) -> Self {
        Self {
            id: BlockId(proto.block_id),
            generation_stamp: GenerationStamp(proto.gen_stamp),
            num_bytes: proto.num_bytes(),
        }
    }
}

impl From<Block> for BlockProto {
    fn from(block: Block) -> Self {
        Self {
            block_id: block.id.0,
            gen_stamp: block.generation_stamp.0,
            num_bytes: Some(block.num_bytes),
        }
    }
}

impl From<&ExtendedBlockProto> for ExtendedBlock {
    fn from(proto: &ExtendedBlockProto) -> Self {
        Self {
            pool_id: proto.pool_id.clone(),
            block: Block {
                id: BlockId(proto.block_id),
                generation_stamp: GenerationStamp(proto.generation_stamp),
                num_bytes: proto.num_bytes(),
            },
        }
    }
}

impl From<&ExtendedBlock> for ExtendedBlockProto {
    fn from(extended: &ExtendedBlock) -> Self {
        Self {
            pool_id: extended.pool_id.clone(),
            block_id: extended.block.id.0,
            generation_stamp: extended.block.generation_stamp.0,
            num_bytes: Some(extended.block.num_bytes),
        }
    }
}

impl From<ReplicaState> for ReplicaStateProto {
    fn from(state: ReplicaState) -> Self {
        match state {
            ReplicaState::Finalized => Self::Finalized,
            ReplicaState::Rbw => Self::Rbw,
            ReplicaState::Rwr => Self::Rwr,
            ReplicaState::Rur => Self::Rur,
            ReplicaState::Temporary => Self::Temporary,
        }
    }
}

impl From<ReplicaStateProto> for ReplicaState {
    fn from(state: ReplicaStateProto) -> Self {
        match state {
            ReplicaStateProto::Finalized => Self::Finalized,
            ReplicaStateProto::Rbw => Self::Rbw,
            ReplicaStateProto::Rwr => Self::Rwr,
            ReplicaStateProto::Rur => Self::Rur,
            ReplicaStateProto::Temporary => Self::Temporary,
        }
    }
}

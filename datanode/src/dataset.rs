//! All replicas of this datanode: the map from block id to replica, the volumes, and what the
//! namenode still has to be told.
//!
//! Shared by all threads. The map is sharded; a lookup takes one short lock. What changes a replica
//! is in `transitions` and `replica_recovery`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use ringfs_protocol::block::{BlockId, ExtendedBlock};

use crate::error::{DatanodeError, Result};
use crate::replica::Replica;
use crate::volume::Volume;

/// Power of two: the shard is taken from the block id's low bits, which are consecutive.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<BlockId, Arc<Replica>>>;

#[derive(Debug)]
pub struct Dataset {
    pool_id: String,
    volumes: Vec<Arc<Volume>>,
    shards: Box<[Shard; SHARDS]>,
}

impl Dataset {
    pub fn pool_id(&self) -> &str {
        &self.pool_id
    }

    pub fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    /// `None` for a block that is not here, or of another pool.
    pub fn replica(&self, pool_id: &str, id: BlockId) -> Option<Arc<Replica>> {
        if pool_id != self.pool_id {
            return None;
        }
        self.shard(id).read().get(&id).cloned()
    }

    /// The replica, or the error that says whether its pool or the block itself is unknown.
    pub fn require(&self, block: &ExtendedBlock) -> Result<Arc<Replica>> {
        if block.pool_id != self.pool_id {
            return Err(DatanodeError::UnknownPool {
                asked: block.pool_id.clone(),
                serving: self.pool_id.clone(),
            });
        }
        self.replica(&block.pool_id, block.block.id).ok_or_else(|| DatanodeError::ReplicaNotFound {
            block: block.clone(),
            why: "no such block here",
        })
    }

    fn shard(&self, id: BlockId) -> &Shard {
        &self.shards[id.0 as usize % SHARDS]
    }
}

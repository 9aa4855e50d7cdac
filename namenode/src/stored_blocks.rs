//! What the block manager reads of the store.

use std::ops::Bound;

use ringfs_protocol::block::{BlockId, GenerationStamp};

use crate::block_manager::{BlockState, StoredBlock, StoredBlocks};
use crate::error::Result;
use crate::schema::{BlockPhase, Counter, FileBlock, Space, decode, decode_u64, u64_key};
use crate::store::{Store, View};

impl FileBlock {
    pub fn stored(&self) -> StoredBlock {
        StoredBlock {
            block: self.block(),
            state: match self.phase() {
                BlockPhase::UnderConstruction => BlockState::UnderConstruction,
                BlockPhase::UnderRecovery => {
                    BlockState::UnderRecovery { recovery_id: GenerationStamp(self.recovery_id) }
                }
                BlockPhase::Committed => BlockState::Committed,
                BlockPhase::Complete => BlockState::Complete,
            },
            replication: u16::try_from(self.replication).unwrap_or(u16::MAX),
            inode: self.inode,
            preferred_block_size: self.preferred_block_size,
        }
    }
}

impl StoredBlocks for Store {
    fn stored_block(&self, id: BlockId) -> Option<StoredBlock> {
        let block = self.snapshot().block(id);
        logged(block).flatten().map(|block| block.stored())
    }

    fn stored_blocks_after(&self, after: Option<BlockId>, max: usize) -> Vec<StoredBlock> {
        logged(blocks_after(self, after, max)).unwrap_or_default()
    }

    fn complete_block_count(&self) -> u64 {
        logged(self.snapshot().counter(Counter::CompleteBlocks)).unwrap_or(0)
    }

    fn last_generation_stamp(&self) -> GenerationStamp {
        let stamp = self.snapshot().counter(Counter::GenerationStamp);
        GenerationStamp(logged(stamp).unwrap_or(0))
    }
}

fn blocks_after(store: &Store, after: Option<BlockId>, max: usize) -> Result<Vec<StoredBlock>> {
    let after = after.map(|id| u64_key(id.0));
    let start = after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key[..]));
    let pairs = store.snapshot().scan(Space::Blocks, start, Bound::Unbounded, max)?;
    pairs
        .into_iter()
        .map(|(key, value)| {
            let id = BlockId(decode_u64(Space::Blocks, &key)?);
            Ok(FileBlock { id, record: decode(Space::Blocks, &value)? }.stored())
        })
        .collect()
}

/// The block manager cannot act on a store that does not read; the operator must.
fn logged<T>(result: Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::error!("reading blocks: {error}")).ok()
}

//! Where a file's bytes are: `getBlockLocations` and the located blocks of other replies.

use std::net::IpAddr;
use std::sync::Arc;

use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::messages::{
    ExtendedBlockProto, LocatedBlockProto, LocatedBlocksProto, TokenProto,
};

use crate::block_manager::StorageTarget;
use crate::error::{NamenodeError, Result};
use crate::namesystem::{ClientCall, Namesystem};
use crate::permissions::{PathUse, READ};
use crate::schema::{BlockPhase, FileBlock, FileRecord, Inode, InodeId};
use crate::store::View;

impl Namesystem {
    pub fn get_block_locations(
        self: &Arc<Self>,
        call: &ClientCall,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<LocatedBlocksProto> {
        for (value, name) in [(offset, "offset"), (length, "length")] {
            if (value as i64) < 0 {
                return Err(NamenodeError::IllegalArgument(format!(
                    "Negative {name} is not supported. File: {path}"
                )));
            }
        }
        let snapshot = self.snapshot();
        let resolved = self.resolve(&snapshot, call, path, PathUse::Existing)?;
        let inode = resolved.file()?;
        call.principal.check_last(&resolved, READ)?;
        let located = self.locate(&snapshot, inode, offset, length, call.address)?;
        if located.blocks.iter().any(|block| block.locs.is_empty() && !block.corrupt)
            && self.blocks.safe_mode().is_on()
        {
            return Err(NamenodeError::SafeMode(format!(
                "Zero blocklocations for {}. Name node is in safe mode.",
                resolved.path
            )));
        }
        self.touch(inode);
        Ok(located)
    }

    /// The blocks of a file that overlap a range, and its last one.
    pub(crate) fn locate(
        &self,
        view: &dyn View,
        inode: &Inode,
        offset: u64,
        length: u64,
        reader: IpAddr,
    ) -> Result<LocatedBlocksProto> {
        let blocks = view.file_blocks(inode.id)?;
        let end = offset.saturating_add(length);
        let mut located = LocatedBlocksProto {
            under_construction: inode.file().is_some_and(|file| file.writer.is_some()),
            ..LocatedBlocksProto::default()
        };
        let mut start = 0u64;
        for (index, block) in blocks.iter().enumerate() {
            let is_last = index + 1 == blocks.len();
            let next = start + block.num_bytes;
            let is_open = is_last && !block.is_complete();
            let overlaps = start < end && (next > offset || (is_open && start >= offset));
            if overlaps || is_last {
                let proto = self.located_block(block, start, reader);
                if is_last {
                    located.last_block = Some(proto.clone());
                    located.is_last_block_complete = block.is_complete();
                }
                if overlaps {
                    located.blocks.push(proto);
                }
            }
            if !is_open {
                located.file_length = next;
            }
            start = next;
        }
        Ok(located)
    }

    /// A block as a reader gets it: good replicas, or the pipeline of one that is being written.
    pub(crate) fn located_block(
        &self,
        block: &FileBlock,
        offset: u64,
        reader: IpAddr,
    ) -> LocatedBlockProto {
        if !block.is_complete() {
            let expected = self.blocks.expected(block.id);
            if !expected.is_empty() || block.phase() != BlockPhase::Committed {
                return self.located_at(block, offset, &expected, false);
            }
        }
        let (targets, corrupt) = self.blocks.locations(&block.stored(), reader);
        self.located_at(block, offset, &targets, corrupt)
    }

    pub(crate) fn located_at(
        &self,
        block: &FileBlock,
        offset: u64,
        targets: &[StorageTarget],
        corrupt: bool,
    ) -> LocatedBlockProto {
        let (locs, storage_types, storage_ids) = self.blocks.located(targets);
        LocatedBlockProto {
            b: self.extended(block),
            offset,
            locs,
            corrupt,
            block_token: TokenProto::default(),
            storage_types,
            storage_ids,
            ..LocatedBlockProto::default()
        }
    }

    pub(crate) fn extended(&self, block: &FileBlock) -> ExtendedBlockProto {
        let pool_id = self.block_pool_id().to_owned();
        ExtendedBlockProto::from(&ExtendedBlock { pool_id, block: block.block() })
    }

    /// Records the access when the recorded one is older than the precision. The read does not wait.
    fn touch(self: &Arc<Self>, inode: &Inode) {
        let precision_ms = self.config.access_time_precision_ms;
        let now_ms = self.now_ms();
        if precision_ms == 0
            || now_ms <= inode.atime_ms.saturating_add(precision_ms)
            || self.blocks.safe_mode().is_on()
        {
            return;
        }
        let (namesystem, id) = (self.clone(), inode.id);
        tokio::spawn(async move {
            let what = "Cannot record an access time".to_owned();
            let touched = namesystem.change(what, move |_, update| {
                if let Some(mut inode) = update.inode(id)? {
                    inode.atime_ms = inode.atime_ms.max(now_ms);
                    update.put_inode(id, &inode)?;
                }
                Ok(())
            });
            if let Err(error) = touched.await {
                tracing::debug!("access time of inode {id}: {error}");
            }
        });
    }
}

/// The last block of a file.
pub(crate) fn last_block(
    view: &dyn View,
    inode: InodeId,
    file: &FileRecord,
) -> Result<Option<FileBlock>> {
    match file.blocks.checked_sub(1) {
        Some(index) => view.file_block(inode, index),
        None => Ok(None),
    }
}

/// The block before the last one.
pub(crate) fn penultimate_block(
    view: &dyn View,
    inode: InodeId,
    file: &FileRecord,
) -> Result<Option<FileBlock>> {
    match file.blocks.checked_sub(2) {
        Some(index) => view.file_block(inode, index),
        None => Ok(None),
    }
}

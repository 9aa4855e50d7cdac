//! The end of a block recovery: `commitBlockSynchronization` from the datanode that led it.

use std::sync::Arc;

use ringfs_protocol::messages::CommitBlockSynchronizationRequestProto;

use crate::block_locations::last_block;
use crate::block_manager::StorageTarget;
use crate::error::{NamenodeError, Result};
use crate::file_write::pipeline;
use crate::namespace;
use crate::namesystem::Namesystem;
use crate::open_file::{file_of, set_length};
use crate::schema::BlockPhase;
use crate::store::{Update, View};

impl Namesystem {
    /// Takes over what the recovery found: the block's new generation stamp and length and who holds
    /// it, or that nobody holds any of it. A repetition of a report that was taken does nothing.
    pub async fn commit_block_synchronization(
        self: &Arc<Self>,
        request: CommitBlockSynchronizationRequestProto,
    ) -> Result<()> {
        self.own_block(&request.block)?;
        let targets: Vec<StorageTarget> = request
            .new_targets
            .iter()
            .zip(&request.new_target_storages)
            .filter_map(|(node, storage)| self.blocks.target(&node.datanode_uuid, storage))
            .collect();
        let what = "Cannot commitBlockSynchronization while in safe mode".to_owned();
        self.change(what, move |namesystem, update| {
            namesystem.synchronize(update, &request, targets)
        })
        .await
    }

    fn synchronize(
        self: &Arc<Self>,
        update: &mut Update,
        request: &CommitBlockSynchronizationRequestProto,
        targets: Vec<StorageTarget>,
    ) -> Result<()> {
        let old = self.own_block(&request.block)?;
        let Some(mut block) = update.block(old.id)? else {
            if request.delete_block {
                return Ok(());
            }
            return Err(NamenodeError::Io(format!("Block (={old}) not found")));
        };
        let inode = update.inode(block.inode)?;
        let attached = namespace::names_of(update, block.inode)?.is_some();
        let Some(mut inode) = inode.filter(|_| attached) else {
            return Err(NamenodeError::FileNotFound(format!(
                "File not found: inode {}, likely due to delayed block removal",
                block.inode
            )));
        };
        let is_last =
            last_block(update, inode.id, file_of(&inode))?.is_some_and(|last| last.id == block.id);
        if file_of(&inode).writer.is_none() || !is_last || block.is_complete() {
            return Ok(());
        }
        if block.phase() != BlockPhase::UnderRecovery || block.recovery_id != request.new_gen_stamp
        {
            return Err(NamenodeError::Io(format!(
                "The recovery id {} does not match current recovery id {} for block {old}",
                request.new_gen_stamp, block.recovery_id
            )));
        }
        if request.delete_block {
            self.remove_last_block(update, &mut inode, &block)?;
        } else {
            block.generation_stamp = request.new_gen_stamp;
            block.recovery_id = 0;
            block.truncate_to = None;
            block.pipeline = pipeline(&targets);
            block.set_phase(if request.close_file {
                BlockPhase::Complete
            } else {
                BlockPhase::UnderConstruction
            });
            let lost = u64::from(ringfs_protocol::mutant!("namenode: lose a recovered byte"));
            let length = request.new_length.saturating_sub(lost);
            set_length(update, &mut inode, &mut block, length)?;
        }
        if request.close_file {
            self.close_file(update, inode)?;
        }
        let (namesystem, deleted) = (self.clone(), request.delete_block);
        update.after_commit(move || {
            namesystem.leases.end_recovery(block.id);
            if !deleted {
                namesystem.blocks.synchronized(&block.stored(), targets);
            }
        });
        Ok(())
    }
}

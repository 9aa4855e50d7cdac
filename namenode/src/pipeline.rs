//! A writer's pipeline after a failure: a new generation stamp for the block, then its new members.
//!
//! `updateBlockForPipeline` only gives out a stamp; nothing changes until `updatePipeline`, except that
//! the block cannot be committed under an older one any more: who asks for that is a former session's
//! call that was lost and comes late. Replicas that datanodes report with an older stamp afterwards
//! were left behind by the failure.

use std::sync::Arc;

use ringfs_protocol::block::{BlockId, ExtendedBlock};
use ringfs_protocol::messages::{
    ExtendedBlockProto, LocatedBlockProto, UpdatePipelineRequestProto, UpdatePipelineResponseProto,
};

use crate::block_manager::StorageTarget;
use crate::error::{NamenodeError, Result};
use crate::file_write::{NO_OFFSET, pipeline};
use crate::namespace;
use crate::namesystem::{ClientCall, Namesystem};
use crate::open_file::{file_of, set_length};
use crate::retry_cache::Outcome;
use crate::schema::{BlockPhase, FileBlock, Inode};
use crate::store::View;

impl Namesystem {
    pub async fn update_block_for_pipeline(
        self: &Arc<Self>,
        block: ExtendedBlockProto,
        holder: String,
    ) -> Result<LocatedBlockProto> {
        let what = format!(
            "Cannot get a new generation stamp and an access token for block {}",
            ExtendedBlock::from(&block)
        );
        let stamped = self
            .change(what, move |namesystem, update| {
                namesystem.block_under_construction(update, &block, &holder)?;
                let stamp = update.next_generation_stamp()?;
                let (blocks, id) = (namesystem.blocks.clone(), BlockId(block.block_id));
                update.after_commit(move || blocks.offer_stamp(id, stamp));
                Ok(ExtendedBlockProto { generation_stamp: stamp.0, ..block })
            })
            .await?;
        Ok(LocatedBlockProto { b: stamped, offset: NO_OFFSET, ..LocatedBlockProto::default() })
    }

    pub async fn update_pipeline(
        self: &Arc<Self>,
        call: &ClientCall,
        request: UpdatePipelineRequestProto,
    ) -> Result<UpdatePipelineResponseProto> {
        if request.storage_ids.len() != request.new_nodes.len() {
            return Err(NamenodeError::HadoopIllegalArgument(format!(
                "Different number of storage IDs ({}) and datanodes ({})",
                request.storage_ids.len(),
                request.new_nodes.len()
            )));
        }
        let targets: Vec<StorageTarget> = request
            .new_nodes
            .iter()
            .zip(&request.storage_ids)
            .filter_map(|(node, storage)| self.blocks.target(&node.datanode_uuid, storage))
            .collect();
        let what = "Cannot update the pipeline of a block".to_owned();
        self.change_once(call, what, move |namesystem, update| {
            let (mut inode, mut block) = namesystem.block_under_construction(
                update,
                &request.old_block,
                &request.client_name,
            )?;
            let new = namesystem.own_block(&request.new_block)?;
            let is_newer = new.generation_stamp.0 > block.generation_stamp
                && new.num_bytes >= block.num_bytes
                && new.id == block.id;
            if !is_newer {
                return Err(NamenodeError::Io(format!(
                    "Update {} (len = {}) to an older state: {new} (len = {})",
                    block.block(),
                    block.num_bytes,
                    new.num_bytes
                )));
            }
            if !ringfs_protocol::mutant!("namenode: forget a pipeline's stamp") {
                block.generation_stamp = new.generation_stamp.0;
            }
            block.pipeline = pipeline(&targets);
            set_length(update, &mut inode, &mut block, new.num_bytes)?;
            let (blocks, id) = (namesystem.blocks.clone(), block.id);
            update.after_commit(move || blocks.set_expected(id, targets));
            Ok(Outcome::Done(UpdatePipelineResponseProto {}))
        })
        .await
    }

    /// The block that a pipeline writes, with its file, if `holder` is the one who writes it.
    fn block_under_construction(
        &self,
        view: &dyn View,
        named: &ExtendedBlockProto,
        holder: &str,
    ) -> Result<(Inode, FileBlock)> {
        let name = self.own_block(named)?;
        let refuse = |why: String| Err(NamenodeError::Io(why));
        let Some(block) = view.block(name.id)? else {
            return refuse(format!("{name} does not exist"));
        };
        if block.phase() != BlockPhase::UnderConstruction {
            let state = match block.phase() {
                BlockPhase::UnderRecovery => "UNDER_RECOVERY",
                BlockPhase::Committed => "COMMITTED",
                BlockPhase::Complete => "COMPLETE",
                BlockPhase::UnderConstruction => "UNDER_CONSTRUCTION",
            };
            return refuse(format!(
                "Unexpected BlockUCState: {name} is {state} but not UNDER_CONSTRUCTION"
            ));
        }
        let inode = view.inode(block.inode)?;
        let attached = namespace::names_of(view, block.inode)?.is_some();
        let inode = inode.filter(|inode| attached && file_of(inode).writer.is_some());
        let Some(inode) = inode else {
            return refuse(format!(
                "The file {name} belonged to does not exist or it is not under construction."
            ));
        };
        if file_of(&inode).writer.as_ref().is_some_and(|writer| writer.holder != holder) {
            return Err(NamenodeError::LeaseExpired(format!(
                "Lease mismatch: {name} is accessed by a non lease holder {holder}"
            )));
        }
        Ok((inode, block))
    }
}

//! Writing a file: `create`, `addBlock`, `complete`, and what a writer asks in between.

use std::sync::Arc;

use ringfs_protocol::block::{Block, BlockId, ExtendedBlock};
use ringfs_protocol::messages::{
    AddBlockFlagProto, AddBlockRequestProto, CreateFlagProto, CreateRequestProto,
    CreateResponseProto, DatanodeInfoProto, ExtendedBlockProto, GetAdditionalDatanodeRequestProto,
    LocatedBlockProto,
};

use crate::block_locations::{last_block, penultimate_block};
use crate::block_manager::{StorageTarget, TargetRequest};
use crate::error::{NamenodeError, Result};
use crate::leases::LeaseUse;
use crate::listing::{effective_policy, file_status};
use crate::namespace::{self, NewInode, ResolvedPath, check_new_path, check_parent};
use crate::namesystem::{ClientCall, Namesystem};
use crate::open_file::{WriterClaim, file_of, same_version, set_length};
use crate::paths;
use crate::permissions::{MODE_MASK, PathUse, WRITE};
use crate::retry_cache::Outcome;
use crate::schema::{
    BlockPhase, BlockRecord, Counter, FileBlock, FileRecord, Inode, InodeKind, WriterRecord,
};
use crate::storage_policies;
use crate::store::{Update, View};

/// Offset of a located block that stands for itself, not for a place in its file: -1.
pub(crate) const NO_OFFSET: u64 = u64::MAX;

impl Namesystem {
    pub async fn create(
        self: &Arc<Self>,
        call: &ClientCall,
        request: CreateRequestProto,
    ) -> Result<CreateResponseProto> {
        paths::check_length("create", &request.src)?;
        check_new_path(&request.src)?;
        let caller = call.clone();
        let what = format!("Cannot create file{}", request.src);
        self.change_once(call, what, move |namesystem, update| {
            namesystem.create_file(update, &caller, &request)
        })
        .await
    }

    fn create_file(
        self: &Arc<Self>,
        update: &mut Update,
        call: &ClientCall,
        request: &CreateRequestProto,
    ) -> Result<Outcome<CreateResponseProto>> {
        let has = |flag: CreateFlagProto| request.create_flag & flag as u32 != 0;
        let overwrite = has(CreateFlagProto::Overwrite);
        let mut path = self.resolve(update, call, &request.src, PathUse::Create)?;
        call.principal.check_ancestor_write(&path)?;
        match path.last() {
            Some(inode) if inode.is_directory() => {
                return Err(NamenodeError::FileAlreadyExists(format!(
                    "{} already exists as a directory",
                    path.path
                )));
            }
            Some(_) if overwrite => call.principal.check_last(&path, WRITE)?,
            Some(_) => {}
            None => {
                if !request.create_parent {
                    check_parent(&path)?;
                }
                if !has(CreateFlagProto::Create) {
                    return Err(NamenodeError::FileNotFound(format!(
                        "Can't overwrite non-existent {} for client {}",
                        path.path, call.address
                    )));
                }
            }
        }
        let policy = self.check_new_file(request, has(CreateFlagProto::LazyPersist))?;
        if let Some(inode) = path.last().cloned() {
            if !overwrite {
                return self.refuse_existing(update, call, &path, inode, &request.client_name);
            }
            self.remove_path(update, &path)?;
            path = namespace::resolve(update, &path.path)?;
        }
        // Directories made on the way are like the one above them.
        let parent = self.make_ancestors(update, call, &path, |parent_mode| parent_mode)?;
        let mut inode = self.add_inode(
            update,
            call,
            parent,
            &path.parent_path(),
            NewInode {
                name: path.name(),
                mode: request.masked.perm & MODE_MASK,
                kind: InodeKind::File(FileRecord {
                    replication: request.replication,
                    preferred_block_size: request.block_size,
                    ..FileRecord::default()
                }),
            },
        )?;
        inode.storage_policy = policy;
        let writer = writer_record(call, &request.client_name);
        self.open_for(update, &mut inode, writer)?;
        let policy = if policy == 0 { effective_policy(&path) } else { policy };
        let fs = Some(file_status(&inode, Vec::new(), policy));
        let first_block = self.allocate_first_block(update, call, request, inode)?;
        Ok(Outcome::Done(CreateResponseProto { fs, first_block }))
    }

    /// What a new file asks for must be within the limits; returns its storage policy.
    fn check_new_file(&self, request: &CreateRequestProto, lazy_persist: bool) -> Result<u32> {
        self.check_replication(&request.src, request.replication)?;
        let least = self.config.min_block_size;
        if request.block_size < least {
            return Err(NamenodeError::Io(format!(
                "Specified block size is less than configured minimum value \
                 (dfs.namenode.fs-limits.min-block-size): {} < {least}",
                request.block_size
            )));
        }
        if let Some(name) = request.ec_policy_name.as_ref().filter(|name| !name.is_empty()) {
            return Err(NamenodeError::HadoopIllegalArgument(format!(
                "Policy '{name}' does not match any enabled erasure coding policies: []. Files \
                 are replicated here."
            )));
        }
        match request.storage_policy.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => storage_policies::id_of(name),
            None if lazy_persist => Ok(storage_policies::LAZY_PERSIST),
            None => Ok(0),
        }
    }

    /// A file that is there and may not be overwritten. If its writer is gone, its lease is
    /// recovered on this occasion.
    fn refuse_existing(
        self: &Arc<Self>,
        update: &mut Update,
        call: &ClientCall,
        path: &ResolvedPath,
        inode: Inode,
        holder: &str,
    ) -> Result<Outcome<CreateResponseProto>> {
        let machine = call.address.to_string();
        let lease_use = LeaseUse::CreateFile;
        let refusal = self.take_over(update, lease_use, &path.path, inode, holder, &machine)?;
        Ok(Outcome::Refused(refusal.unwrap_or_else(|| {
            NamenodeError::FileAlreadyExists(format!(
                "{} for client {machine} already exists",
                path.path
            ))
        })))
    }

    pub async fn add_block(
        self: &Arc<Self>,
        call: &ClientCall,
        request: AddBlockRequestProto,
    ) -> Result<LocatedBlockProto> {
        let previous = match &request.previous {
            Some(previous) => Some(self.own_block(previous)?),
            None => None,
        };
        let what = format!("Cannot add block to {}", request.src);
        self.check_safe_mode(&what)?;
        let claim = WriterClaim {
            path: request.src.clone(),
            file_id: request.file_id(),
            holder: request.client_name.clone(),
        };
        let inode = match self.next_block(&self.snapshot(), &claim, previous.as_ref())? {
            NextBlock::Allocated(inode, block) => {
                let targets = self.blocks.expected(block.id);
                if !targets.is_empty() {
                    return Ok(self.located_at(&block, file_of(&inode).length, &targets, false));
                }
                inode
            }
            NextBlock::Needed(inode) => inode,
        };
        self.wait_for_penultimate(&inode).await?;
        let targets = self.choose_targets(call, &request, &inode)?;
        let call_key = call.retry_key;
        let (block, offset, targets) = self
            .change(what, move |namesystem, update| {
                match namesystem.next_block(update, &claim, previous.as_ref())? {
                    NextBlock::Allocated(inode, block) => {
                        namesystem.repeat_allocation(update, &inode, block, targets)
                    }
                    NextBlock::Needed(inode) => {
                        let previous = previous.as_ref();
                        let given = targets.clone();
                        namesystem.leases.note_allocation(inode.id, call_key);
                        let (block, offset) =
                            namesystem.allocate(update, &claim, inode, previous, given)?;
                        Ok((block, offset, targets))
                    }
                }
            })
            .await?;
        Ok(self.located_at(&block, offset, &targets, false))
    }

    /// The pipeline of a block that an earlier call got; `targets` where the namenode was restarted
    /// since and no datanode has reported a replica. The client may have begun one on a datanode that
    /// is away, and given it up: a new stamp tells it from those that are now to be written.
    fn repeat_allocation(
        &self,
        update: &mut Update,
        inode: &Inode,
        mut block: FileBlock,
        targets: Vec<StorageTarget>,
    ) -> Result<(FileBlock, u64, Vec<StorageTarget>)> {
        let offset = file_of(inode).length;
        let expected = self.blocks.expected(block.id);
        if !expected.is_empty() {
            return Ok((block, offset, expected));
        }
        block.generation_stamp = update.next_generation_stamp()?.0;
        block.pipeline = pipeline(&targets);
        update.put_block(&block)?;
        let (blocks, id, given) = (self.blocks.clone(), block.id, targets.clone());
        update.after_commit(move || blocks.set_expected(id, given));
        Ok((block, offset, targets))
    }

    /// Whether `previous` asks for a new block or repeats a request that was already served.
    fn next_block(
        &self,
        view: &dyn View,
        claim: &WriterClaim,
        previous: Option<&Block>,
    ) -> Result<NextBlock> {
        let inode = self.check_lease(view, claim)?;
        let file = file_of(&inode);
        let last = last_block(view, inode.id, file)?;
        let last = last.as_ref();
        let full_len = file.preferred_block_size;
        let is_full = |block: &FileBlock| block.is_complete() && block.num_bytes >= full_len;
        let appends_behind_full_block = previous.is_none() && last.is_some_and(is_full);
        if same_version(last, previous) || appends_behind_full_block {
            return Ok(NextBlock::Needed(inode));
        }
        let penultimate = penultimate_block(view, inode.id, file)?;
        // Apache knows no repetition of the first call behind a full block.
        let repeats = same_version(penultimate.as_ref(), previous)
            || previous.is_none() && penultimate.as_ref().is_some_and(is_full);
        match last {
            Some(last) if repeats => {
                if last.num_bytes != 0 {
                    return Err(NamenodeError::Io(format!(
                        "Request looked like a retry to allocate block {} but it already contains \
                         {} bytes",
                        last.block(),
                        last.num_bytes
                    )));
                }
                let last = last.clone();
                Ok(NextBlock::Allocated(inode, last))
            }
            last => {
                let name =
                    |block: Option<Block>| block.map_or("null".to_owned(), |b| b.to_string());
                Err(NamenodeError::Io(format!(
                    "Cannot allocate block in {}: passed 'previous' block {} does not match actual \
                     last block in file {}",
                    claim.path,
                    name(previous.copied()),
                    name(last.map(FileBlock::block))
                )))
            }
        }
    }

    /// Gives the block before the last one the time to be reported, as `complete` does.
    async fn wait_for_penultimate(&self, inode: &Inode) -> Result<()> {
        let file = file_of(inode);
        if file.blocks < 2 {
            return Ok(());
        }
        let block = penultimate_block(&self.snapshot(), inode.id, file)?;
        if let Some(block) = block.filter(|block| block.phase() == BlockPhase::Committed) {
            let min = self.config.replication_min as usize;
            self.blocks.wait_finalized(&block.block(), min, self.config.complete_wait).await;
        }
        Ok(())
    }

    fn choose_targets(
        &self,
        call: &ClientCall,
        request: &AddBlockRequestProto,
        inode: &Inode,
    ) -> Result<Vec<StorageTarget>> {
        let file = file_of(inode);
        let excluded = uuids(&request.exclude_nodes);
        let no_local_write = request.flags.contains(&(AddBlockFlagProto::NoLocalWrite as i32));
        let targets = self.blocks.choose_targets(&TargetRequest {
            count: file.replication as usize,
            block_size: file.preferred_block_size,
            writer: call.address,
            excluded: &excluded,
            existing: &[],
            favored: &request.favored_nodes,
            no_local_write,
        });
        let min = self.config.replication_min;
        if targets.len() < min as usize {
            let (live, excluded) = self.blocks.live_and_excluded_counts(&excluded);
            return Err(NamenodeError::Io(format!(
                "File {} could only be written to {} of the {min} minReplication nodes. There are \
                 {live} datanode(s) running and {excluded} node(s) are excluded in this operation.",
                request.src,
                targets.len()
            )));
        }
        Ok(targets)
    }

    /// Commits the previous block and appends a new one; returns it with its offset.
    pub(crate) fn allocate(
        &self,
        update: &mut Update,
        claim: &WriterClaim,
        mut inode: Inode,
        previous: Option<&Block>,
        targets: Vec<StorageTarget>,
    ) -> Result<(FileBlock, u64)> {
        if let Some(mut block) = penultimate_block(update, inode.id, file_of(&inode))?
            && !self.settle(update, &mut block)?
        {
            return Err(NamenodeError::NotReplicatedYet(format!(
                "Not replicated yet: {}",
                claim.path
            )));
        }
        let limit = self.config.max_blocks_per_file;
        if file_of(&inode).blocks >= limit {
            return Err(NamenodeError::Io(format!(
                "File has reached the limit on maximum number of blocks \
                 (dfs.namenode.fs-limits.max-blocks-per-file): {} >= {limit}",
                file_of(&inode).blocks
            )));
        }
        if let Some(previous) = previous {
            self.commit_last_block(update, &mut inode, previous)?;
        }
        let file = file_of(&inode);
        let offset = file.length;
        let block = FileBlock {
            id: BlockId(update.next(Counter::LastBlock)?),
            record: BlockRecord {
                generation_stamp: update.next_generation_stamp()?.0,
                inode: inode.id,
                index: file.blocks,
                replication: file.replication,
                preferred_block_size: file.preferred_block_size,
                pipeline: pipeline(&targets),
                ..BlockRecord::default()
            },
        };
        update.put_block(&block)?;
        update.put_file_block(inode.id, block.index, block.id)?;
        if let Some(file) = inode.file_mut() {
            file.blocks += 1;
        }
        update.put_inode(inode.id, &inode)?;
        let (blocks, id) = (self.blocks.clone(), block.id);
        update.after_commit(move || blocks.set_expected(id, targets));
        Ok((block, offset))
    }

    /// True when the file is closed. It waits a moment for the last block to be reported, because
    /// some clients ask only once and others sleep long before they ask again.
    pub async fn complete(
        self: &Arc<Self>,
        claim: WriterClaim,
        last: Option<ExtendedBlockProto>,
    ) -> Result<bool> {
        let last = match &last {
            Some(last) => Some(self.own_block(last)?),
            None => None,
        };
        let what = format!("Cannot complete file {}", claim.path);
        self.check_safe_mode(&what)?;
        if let Some(block) = &last {
            let min = self.config.replication_min as usize;
            // Nobody waits for a file that is not theirs.
            if self.blocks.finalized_replicas(block) < min
                && self.check_lease(&self.snapshot(), &claim).is_ok()
            {
                self.blocks.wait_finalized(block, min, self.config.complete_wait).await;
            }
        }
        self.change(what, move |namesystem, update| {
            namesystem.complete_file(update, &claim, last.as_ref())
        })
        .await
    }

    fn complete_file(
        &self,
        update: &mut Update,
        claim: &WriterClaim,
        last: Option<&Block>,
    ) -> Result<bool> {
        let mut inode = match self.check_lease(update, claim) {
            Ok(inode) => inode,
            Err(error @ NamenodeError::LeaseExpired(_)) => {
                return if self.is_completed(update, claim, last)? { Ok(true) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        if let Some(mut block) = penultimate_block(update, inode.id, file_of(&inode))?
            && !self.settle(update, &mut block)?
        {
            return Ok(false);
        }
        if let Some(last) = last {
            self.commit_last_block(update, &mut inode, last)?;
        }
        let block = last_block(update, inode.id, file_of(&inode))?;
        if block.is_some_and(|block| !block.is_complete()) {
            return Ok(false);
        }
        self.close_file(update, inode)?;
        Ok(true)
    }

    /// Whether a repeated `complete` finds its file closed as it left it.
    fn is_completed(
        &self,
        view: &dyn View,
        claim: &WriterClaim,
        last: Option<&Block>,
    ) -> Result<bool> {
        let inode = match claim.file_id {
            0 => namespace::resolve(view, &claim.path)?.last().cloned(),
            id => view.inode(id)?,
        };
        let Some(inode) = inode.filter(|inode| !inode.is_directory()) else { return Ok(false) };
        let file = file_of(&inode);
        let block = last_block(view, inode.id, file)?;
        Ok(file.writer.is_none() && same_version(block.as_ref(), last))
    }

    pub async fn abandon_block(
        self: &Arc<Self>,
        claim: WriterClaim,
        block: ExtendedBlockProto,
    ) -> Result<()> {
        let what = format!("Cannot abandon block {} for file {}", block.block_id, claim.path);
        self.change(what, move |namesystem, update| {
            let mut inode = namesystem.check_lease(update, &claim)?;
            let last = last_block(update, inode.id, file_of(&inode))?;
            match last.filter(|last| last.id.0 == block.block_id && !last.is_complete()) {
                Some(last) => namesystem.remove_last_block(update, &mut inode, &last),
                None => Ok(()),
            }
        })
        .await
    }

    /// Records how much of the last block its writer has flushed, when it says so.
    pub async fn fsync(
        self: &Arc<Self>,
        call: &ClientCall,
        claim: WriterClaim,
        last_block_length: Option<u64>,
    ) -> Result<()> {
        let what = format!("Cannot fsync file {}", claim.path);
        let Some(length) = last_block_length else {
            self.check_safe_mode(&what)?;
            return self.check_lease(&self.snapshot(), &claim).map(|_| ());
        };
        let call_key = call.retry_key;
        self.change(what, move |namesystem, update| {
            let mut inode = namesystem.check_lease(update, &claim)?;
            // Overtaken by its own repetition and what came then. (Apache gives the new block the length
            // of the former, and refuses a repeated addBlock from then on.)
            if namesystem.leases.is_before_allocation(inode.id, call_key) {
                return Ok(());
            }
            match last_block(update, inode.id, file_of(&inode))? {
                Some(mut block)
                    if block.phase() == BlockPhase::UnderConstruction
                        && length > block.num_bytes =>
                {
                    set_length(update, &mut inode, &mut block, length)
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// The pipeline of a block with datanodes added to it.
    pub fn get_additional_datanode(
        &self,
        call: &ClientCall,
        request: &GetAdditionalDatanodeRequestProto,
    ) -> Result<LocatedBlockProto> {
        self.check_safe_mode(&format!("Cannot add datanode; src={}", request.src))?;
        self.own_block(&request.blk)?;
        let claim = WriterClaim {
            path: request.src.clone(),
            file_id: request.file_id(),
            holder: request.client_name.clone(),
        };
        let inode = self.check_lease(&self.snapshot(), &claim)?;
        let mut targets: Vec<StorageTarget> = request
            .existings
            .iter()
            .zip(&request.existing_storage_uuids)
            .filter_map(|(node, storage)| self.blocks.target(&node.id.datanode_uuid, storage))
            .collect();
        let added = self.blocks.choose_targets(&TargetRequest {
            count: request.num_additional_nodes.min(self.config.replication_max) as usize,
            block_size: file_of(&inode).preferred_block_size,
            writer: call.address,
            excluded: &uuids(&request.excludes),
            existing: &targets,
            favored: &[],
            no_local_write: false,
        });
        targets.extend(added);
        let (locs, storage_types, storage_ids) = self.blocks.located(&targets);
        Ok(LocatedBlockProto {
            b: request.blk.clone(),
            offset: NO_OFFSET,
            locs,
            storage_types,
            storage_ids,
            ..LocatedBlockProto::default()
        })
    }

    /// A block that a client names, which must be of this pool.
    pub(crate) fn own_block(&self, block: &ExtendedBlockProto) -> Result<Block> {
        if block.pool_id != self.block_pool_id() {
            return Err(NamenodeError::Io(format!(
                "Unexpected BlockPoolId {} - expected {}",
                block.pool_id,
                self.block_pool_id()
            )));
        }
        Ok(ExtendedBlock::from(block).block)
    }
}

enum NextBlock {
    /// For the file as it is now.
    Needed(Inode),
    /// By an earlier call, at the file's end.
    Allocated(Inode, FileBlock),
}

pub(crate) fn writer_record(call: &ClientCall, holder: &str) -> WriterRecord {
    WriterRecord { holder: holder.to_owned(), machine: call.address.to_string() }
}

pub(crate) fn pipeline(targets: &[StorageTarget]) -> Vec<String> {
    targets.iter().map(|target| target.datanode_uuid.to_string()).collect()
}

fn uuids(nodes: &[DatanodeInfoProto]) -> Vec<Arc<str>> {
    nodes.iter().map(|node| node.id.datanode_uuid.as_str().into()).collect()
}

//! A file open for writing: who may write it, how its last block is committed, how it is closed.
//!
//! ```text
//! UNDER_CONSTRUCTION --commit--> COMMITTED --enough finalized replicas--> COMPLETE
//!        |    ^                                                             |
//!        |    +------------------------- append ----------------------------+
//!        +--lease recovery, truncate--> UNDER_RECOVERY --synchronized--> COMPLETE
//! ```
//!
//! Block reports need no transaction: whether a COMMITTED block has become COMPLETE is asked of the
//! block manager when an operation depends on it, and recorded by that operation.

use ringfs_protocol::block::Block;

use crate::block_locations::last_block;
use crate::error::{NamenodeError, Result};
use crate::namespace;
use crate::namesystem::Namesystem;
use crate::schema::{BlockPhase, FileBlock, FileRecord, Inode, WriterRecord};
use crate::store::{Update, View};

/// How a client names the file that it is writing.
#[derive(Clone, Debug)]
pub struct WriterClaim {
    pub path: String,
    /// 0 from clients that know the path only. An id follows the file through renames.
    pub file_id: u64,
    pub holder: String,
}

/// What the leases of most holders, which messages count, stay below.
const LEASES_COUNTED_MAX: usize = 10_000;

impl Namesystem {
    /// The file that `claim` names, if the claimant holds its lease.
    pub(crate) fn check_lease(&self, view: &dyn View, claim: &WriterClaim) -> Result<Inode> {
        let inode = match claim.file_id {
            0 => namespace::resolve(view, &claim.path)?.last().cloned(),
            id => view.inode(id)?,
        };
        let who = |view| described_claim(view, claim);
        let Some(inode) = inode else {
            let who = who(view)?;
            return Err(NamenodeError::FileNotFound(format!("File does not exist: {who}")));
        };
        let expired = |why: String| Err(NamenodeError::LeaseExpired(why));
        let Some(file) = inode.file() else {
            return expired(format!("INode is not a regular file: {}", who(view)?));
        };
        let Some(writer) = &file.writer else {
            return expired(format!("File is not open for writing: {}", who(view)?));
        };
        if namespace::names_of(view, inode.id)?.is_none() {
            let who = who(view)?;
            return Err(NamenodeError::FileNotFound(format!("File is deleted: {who}")));
        }
        if writer.holder != claim.holder {
            return expired(format!(
                "Client (={}) is not the lease owner (={}): {}",
                claim.holder,
                writer.holder,
                who(view)?
            ));
        }
        Ok(inode)
    }

    /// Fixes length and generation stamp of the last block as its writer states them.
    pub(crate) fn commit_last_block(
        &self,
        update: &mut Update,
        inode: &mut Inode,
        commit: &Block,
    ) -> Result<()> {
        let Some(mut block) = last_block(update, inode.id, file_of(inode))? else { return Ok(()) };
        match block.phase() {
            BlockPhase::Complete => return Ok(()),
            BlockPhase::UnderRecovery => {
                return Err(NamenodeError::Io(format!(
                    "Commit or complete block {commit}, whereas it is under recovery."
                )));
            }
            BlockPhase::UnderConstruction | BlockPhase::Committed => {}
        }
        if block.id != commit.id {
            return Err(NamenodeError::Io(format!(
                "Trying to commit inconsistent block: id = {}, expected id = {}",
                commit.id, block.id
            )));
        }
        if block.generation_stamp != commit.generation_stamp.0 {
            return Err(NamenodeError::Io(format!(
                "Commit block with mismatching GS. NN has {}, client submits {commit}",
                block.block()
            )));
        }
        if let Some(offered) = self.blocks.offered_stamp(block.id)
            && commit.generation_stamp < offered
        {
            return Err(NamenodeError::Io(format!(
                "Commit block with mismatching GS. Its writer has {}, client submits {commit}",
                offered.0
            )));
        }
        if block.phase() == BlockPhase::Committed {
            return self.settle(update, &mut block).map(|_| ());
        }
        let enough = self.has_min_replicas(commit);
        block.set_phase(if enough { BlockPhase::Complete } else { BlockPhase::Committed });
        set_length(update, inode, &mut block, commit.num_bytes)?;
        self.announce(update, &block);
        Ok(())
    }

    /// Makes a COMMITTED block COMPLETE if enough finalized replicas are known; true when it is.
    pub(crate) fn settle(&self, update: &mut Update, block: &mut FileBlock) -> Result<bool> {
        if block.phase() == BlockPhase::Committed && self.has_min_replicas(&block.block()) {
            block.set_phase(BlockPhase::Complete);
            update.put_block(block)?;
            self.announce(update, block);
        }
        Ok(block.is_complete())
    }

    fn has_min_replicas(&self, block: &Block) -> bool {
        self.blocks.finalized_replicas(block) >= self.config.replication_min as usize
    }

    /// Tells the block manager, once that is durable, that a block's length is final.
    fn announce(&self, update: &mut Update, block: &FileBlock) {
        let (blocks, stored) = (self.blocks.clone(), block.stored());
        update.after_commit(move || blocks.block_completed(&stored));
    }

    /// Ends the writing of a file; all its blocks are complete.
    pub(crate) fn close_file(&self, update: &mut Update, mut inode: Inode) -> Result<()> {
        inode.mtime_ms = self.now_ms();
        let id = inode.id;
        if let Some(file) = inode.file_mut()
            && let Some(writer) = file.writer.take()
        {
            update.remove_lease(&writer.holder, id)?;
        }
        update.put_inode(id, &inode)
    }

    /// Opens a file for a writer.
    pub(crate) fn open_for(
        &self,
        update: &mut Update,
        inode: &mut Inode,
        writer: WriterRecord,
    ) -> Result<()> {
        self.hand_lease(update, &writer.holder, inode.id)?;
        if let Some(file) = inode.file_mut() {
            file.writer = Some(writer);
        }
        update.put_inode(inode.id, inode)
    }

    /// Drops the last block of a file from its record.
    pub(crate) fn remove_last_block(
        &self,
        update: &mut Update,
        inode: &mut Inode,
        block: &FileBlock,
    ) -> Result<()> {
        if let Some(file) = inode.file_mut() {
            file.blocks = file.blocks.saturating_sub(1);
            file.length = file.length.saturating_sub(block.num_bytes);
        }
        update.remove_file_block(inode.id, block.index)?;
        update.remove_block(block.id)?;
        update.put_inode(inode.id, inode)?;
        self.forget_blocks(update, vec![block.id]);
        Ok(())
    }
}

/// Gives a block of a file another length.
pub(crate) fn set_length(
    update: &mut Update,
    inode: &mut Inode,
    block: &mut FileBlock,
    num_bytes: u64,
) -> Result<()> {
    let id = inode.id;
    if let Some(file) = inode.file_mut() {
        file.length = file.length.saturating_sub(block.num_bytes).saturating_add(num_bytes);
    }
    block.num_bytes = num_bytes;
    update.put_inode(id, inode)?;
    update.put_block(block)
}

/// The file's record; an empty one for a directory.
pub(crate) fn file_of(inode: &Inode) -> &FileRecord {
    static NO_FILE: FileRecord =
        FileRecord { replication: 0, preferred_block_size: 0, blocks: 0, length: 0, writer: None };
    inode.file().unwrap_or(&NO_FILE)
}

/// Whether two blocks, either of which may be absent, are the same version of the same block.
pub(crate) fn same_version(a: Option<&FileBlock>, b: Option<&Block>) -> bool {
    let version = |block: Block| (block.id, block.generation_stamp);
    a.map(|block| version(block.block())) == b.map(|block| version(*block))
}

fn described_claim(view: &dyn View, claim: &WriterClaim) -> Result<String> {
    let WriterClaim { path, file_id, holder } = claim;
    let open = view.leased_files(holder, LEASES_COUNTED_MAX)?.len();
    let lease = if open == 0 {
        format!("Holder {holder} does not have any open files.")
    } else {
        format!("[Lease.  Holder: {holder}, pending creates: {open}]")
    };
    Ok(format!("{path} (inode {file_id}) {lease}"))
}

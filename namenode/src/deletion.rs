//! Deletion: `delete`, and the reaper that removes what was deleted.
//!
//! Deleting a directory detaches it: its entry goes, and its inode is put on the reap list. That is
//! one small transaction whatever the size of the subtree, and from then on nothing in it can be
//! reached. The reaper removes the detached inodes in bounded transactions between those of clients,
//! each putting the sub-directories it meets on the list before their parent leaves it; so it can
//! stop anywhere, and goes on at the next start. Blocks are invalidated on the datanodes only after
//! the transaction that forgets them.

use std::sync::Arc;

use ringfs_protocol::block::BlockId;
use ringfs_protocol::blocking;
use ringfs_protocol::messages::DeleteResponseProto;

use crate::error::{NamenodeError, Result};
use crate::limits::REAP_BATCH_MAX;
use crate::namespace::{self, ResolvedPath};
use crate::namesystem::{ClientCall, Namesystem};
use crate::paths;
use crate::permissions::{ALL, PathUse};
use crate::rename::checked_is;
use crate::retry_cache::Outcome;
use crate::schema::{
    FileRecord, Inode, InodeId, NO_PARENT, Space, decode_u64, file_block_key, u64_key,
};
use crate::store::{Snapshot, Update, View};

impl Namesystem {
    pub async fn delete(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        recursive: bool,
    ) -> Result<DeleteResponseProto> {
        paths::check_not_reserved(&path)?;
        let checked = if recursive { self.check_subtree_access(call, &path).await? } else { None };
        let caller = call.clone();
        let what = format!("Cannot delete {path}");
        self.change_once(call, what, move |namesystem, update| {
            let resolved = namesystem.resolve(update, &caller, &path, PathUse::Existing)?;
            caller.principal.check_parent_write(&resolved)?;
            checked_is(&resolved, checked)?;
            let nothing = Ok(Outcome::Nothing(DeleteResponseProto { result: false }));
            let Some(inode) = resolved.last() else { return nothing };
            if !recursive && inode.children() > 0 {
                return Err(NamenodeError::PathIsNotEmptyDirectory(format!(
                    "{} is non empty",
                    resolved.path
                )));
            }
            if resolved.is_root() {
                return nothing;
            }
            namesystem.remove_path(update, &resolved)?;
            Ok(Outcome::Done(DeleteResponseProto { result: true }))
        })
        .await
    }

    /// Takes an existing path out of the namespace.
    pub(crate) fn remove_path(
        self: &Arc<Self>,
        update: &mut Update,
        path: &ResolvedPath,
    ) -> Result<()> {
        let (Some(inode), Some(parent)) = (path.last(), path.parent()) else { return Ok(()) };
        update.remove_entry(parent.id, path.name().as_bytes())?;
        let mut parent = parent.clone();
        parent.add_children(-1);
        parent.mtime_ms = self.now_ms();
        update.put_inode(parent.id, &parent)?;
        let is_small = inode.children() == 0
            && inode.file().is_none_or(|file| (file.blocks as usize) < REAP_BATCH_MAX);
        if is_small {
            let mut removed = Vec::new();
            remove_inode(update, inode, usize::MAX, &mut removed)?;
            self.forget_blocks(update, removed);
            return Ok(());
        }
        let mut inode = inode.clone();
        inode.parent = NO_PARENT;
        update.put_inode(inode.id, &inode)?;
        update.put(Space::Reap, &u64_key(inode.id), &[])?;
        let namesystem = self.clone();
        update.after_commit(move || namesystem.reaper.notify_one());
        Ok(())
    }

    /// Tells the block manager, once that is durable, that blocks are no longer wanted.
    pub(crate) fn forget_blocks(&self, update: &mut Update, ids: Vec<BlockId>) {
        if !ids.is_empty() {
            let blocks = self.blocks.clone();
            update.after_commit(move || blocks.remove_blocks(&ids));
        }
    }

    /// For a caller who is no superuser: every non-empty directory of the subtree must grant
    /// everything, and sticky ones must not protect their entries. It reads a snapshot beside the
    /// writer, because a subtree may be large; the inode it looked at is returned, for the change to
    /// compare. `None`: nothing to check.
    pub(crate) async fn check_subtree_access(
        self: &Arc<Self>,
        call: &ClientCall,
        path: &str,
    ) -> Result<Option<InodeId>> {
        if call.principal.passes_everything() {
            return Ok(None);
        }
        let (namesystem, call, path) = (self.clone(), call.clone(), path.to_owned());
        run_blocking(move || {
            let snapshot = namesystem.snapshot();
            let resolved = namesystem.resolve(&snapshot, &call, &path, PathUse::Existing)?;
            call.principal.check_parent_write(&resolved)?;
            let Some(inode) = resolved.last() else { return Ok(None) };
            check_subtree(&snapshot, &call, inode)?;
            Ok(Some(inode.id))
        })
        .await
    }

    /// Removes detached subtrees, for ever.
    pub(crate) async fn reap_deleted(self: &Arc<Self>) {
        loop {
            if let Err(error) = self.reap_all().await {
                tracing::warn!("removing deleted files: {error}");
            }
            self.reaper.notified().await;
        }
    }

    pub(crate) async fn reap_all(self: &Arc<Self>) -> Result<()> {
        loop {
            let namesystem = self.clone();
            let more = self
                .store
                .write(move |update| {
                    let mut removed = Vec::new();
                    let more = reap(update, REAP_BATCH_MAX, &mut removed)?;
                    namesystem.forget_blocks(update, removed);
                    Ok(more)
                })
                .await?;
            if !more {
                return Ok(());
            }
        }
    }
}

/// Runs a long read beside the async threads.
pub(crate) async fn run_blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    blocking::run(read)
        .await
        .map_err(|error| NamenodeError::Io(format!("a reading task failed: {error}")))?
}

fn check_subtree(snapshot: &Snapshot, call: &ClientCall, top: &Inode) -> Result<()> {
    let mut pending = vec![top.clone()];
    while let Some(directory) = pending.pop() {
        if directory.children() == 0 {
            continue;
        }
        let path = || namespace::path_of(snapshot, directory.id).ok().flatten().unwrap_or_default();
        call.principal.check(&directory, ALL, path)?;
        let mut after = Vec::new();
        loop {
            let children = snapshot.children(directory.id, &after, REAP_BATCH_MAX)?;
            let Some((last, _)) = children.last() else { break };
            after.clone_from(last);
            for (name, id) in children {
                let Some(child) = snapshot.inode(id)? else { continue };
                let child_path = || format!("{}/{}", path(), String::from_utf8_lossy(&name));
                call.principal.check_sticky(&directory, &child, child_path)?;
                if child.is_directory() {
                    pending.push(child);
                }
            }
        }
    }
    Ok(())
}

/// Removes up to about `budget` detached inodes and blocks; true when more are left.
fn reap(update: &mut Update, budget: usize, removed: &mut Vec<BlockId>) -> Result<bool> {
    let mut budget = budget;
    while budget > 0 {
        let Some((key, _)) = update.scan_prefix(Space::Reap, &[], 1)?.pop() else {
            return Ok(false);
        };
        let id = decode_u64(Space::Reap, &key)?;
        let Some(inode) = update.inode(id)? else {
            update.remove(Space::Reap, &key)?;
            continue;
        };
        let used = if inode.is_directory() {
            reap_directory(update, &inode, budget, removed)?
        } else {
            remove_inode(update, &inode, budget, removed)?
        };
        budget = budget.saturating_sub(used);
    }
    Ok(!update.scan_prefix(Space::Reap, &[], 1)?.is_empty())
}

fn reap_directory(
    update: &mut Update,
    directory: &Inode,
    budget: usize,
    removed: &mut Vec<BlockId>,
) -> Result<usize> {
    let children = update.children(directory.id, &[], budget)?;
    let mut used = 0;
    for (name, id) in &children {
        used += 1;
        update.remove_entry(directory.id, name)?;
        let Some(child) = update.inode(*id)? else { continue };
        if child.children() > 0 {
            update.put(Space::Reap, &u64_key(*id), &[])?;
        } else {
            let left = budget.saturating_sub(used).max(1);
            used += remove_inode(update, &child, left, removed)?;
        }
        if used >= budget {
            return Ok(used);
        }
    }
    if children.len() < budget {
        update.remove_inode(directory.id)?;
        update.remove(Space::Reap, &u64_key(directory.id))?;
    }
    Ok(used + 1)
}

/// Removes a file or an empty directory, or the last `budget` blocks of a longer file, which then
/// is on the reap list.
fn remove_inode(
    update: &mut Update,
    inode: &Inode,
    budget: usize,
    removed: &mut Vec<BlockId>,
) -> Result<usize> {
    let file = inode.file().cloned().unwrap_or_default();
    let kept = (file.blocks as usize).saturating_sub(budget) as u32;
    for index in (kept..file.blocks).rev() {
        if let Some(value) = update.remove(Space::FileBlocks, &file_block_key(inode.id, index))? {
            let id = BlockId(decode_u64(Space::FileBlocks, &value)?);
            update.remove_block(id)?;
            removed.push(id);
        }
    }
    if let Some(writer) = &file.writer {
        update.remove_lease(&writer.holder, inode.id)?;
    }
    if kept > 0 {
        let mut inode = inode.clone();
        if let Some(record) = inode.file_mut() {
            *record = FileRecord { blocks: kept, writer: None, ..file };
        }
        update.put_inode(inode.id, &inode)?;
        update.put(Space::Reap, &u64_key(inode.id), &[])?;
    } else {
        update.remove_inode(inode.id)?;
        update.remove(Space::Reap, &u64_key(inode.id))?;
    }
    Ok((file.blocks - kept) as usize + 1)
}

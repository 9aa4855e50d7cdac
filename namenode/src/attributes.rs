//! Changing what is recorded of an inode: permission, owner, times, replication, storage policy.

use std::sync::Arc;

use crate::error::{NamenodeError, Result};
use crate::listing::effective_policy;
use crate::namesystem::{ClientCall, Namesystem};
use crate::paths;
use crate::permissions::{MODE_MASK, PathUse, WRITE};
use crate::schema::InodeId;
use crate::storage_policies;
use crate::store::{Update, View};

/// "Leave as it is" of setTimes: -1 on the wire.
const UNCHANGED: u64 = u64::MAX;

impl Namesystem {
    pub async fn set_permission(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        mode: u32,
    ) -> Result<()> {
        paths::check_not_reserved(&path)?;
        let call = call.clone();
        self.change(format!("Cannot set permission for {path}"), move |namesystem, update| {
            let resolved = namesystem.resolve(update, &call, &path, PathUse::Existing)?;
            call.principal.check_owner(&resolved)?;
            let mut inode = resolved.existing()?.clone();
            inode.mode = mode & MODE_MASK;
            update.put_inode(inode.id, &inode)
        })
        .await
    }

    pub async fn set_owner(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        owner: Option<String>,
        group: Option<String>,
    ) -> Result<()> {
        paths::check_not_reserved(&path)?;
        let call = call.clone();
        self.change(format!("Cannot set owner for {path}"), move |namesystem, update| {
            let principal = &call.principal;
            let resolved = namesystem.resolve(update, &call, &path, PathUse::Existing)?;
            principal.check_owner(&resolved)?;
            let denied = |why: String| Err(NamenodeError::AccessControl(why));
            if !principal.passes_everything() {
                if owner.as_ref().is_some_and(|owner| *owner != principal.user) {
                    return denied("Non-super user cannot change owner".to_owned());
                }
                if let Some(group) = group.as_ref().filter(|g| !principal.groups.contains(g)) {
                    return denied(format!("User does not belong to {group}"));
                }
            }
            let mut inode = resolved.existing()?.clone();
            if let Some(owner) = owner.filter(|owner| !owner.is_empty()) {
                inode.owner = owner;
            }
            if let Some(group) = group.filter(|group| !group.is_empty()) {
                inode.group = group;
            }
            update.put_inode(inode.id, &inode)
        })
        .await
    }

    pub async fn set_times(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        mtime_ms: u64,
        atime_ms: u64,
    ) -> Result<()> {
        paths::check_not_reserved(&path)?;
        let call = call.clone();
        self.change(format!("Cannot set times {path}"), move |namesystem, update| {
            let resolved = namesystem.resolve(update, &call, &path, PathUse::Existing)?;
            call.principal.check_last(&resolved, WRITE)?;
            let mut inode = resolved.existing()?.clone();
            if mtime_ms != UNCHANGED {
                inode.mtime_ms = mtime_ms;
            }
            if atime_ms != UNCHANGED {
                inode.atime_ms = atime_ms;
            }
            update.put_inode(inode.id, &inode)
        })
        .await
    }

    /// False when the path is no file.
    pub async fn set_replication(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        replication: u32,
    ) -> Result<bool> {
        let call = call.clone();
        self.change(format!("Cannot set replication for {path}"), move |namesystem, update| {
            namesystem.check_replication(&path, replication)?;
            let resolved = namesystem.resolve(update, &call, &path, PathUse::Existing)?;
            call.principal.check_last(&resolved, WRITE)?;
            let Some(mut inode) = resolved.last().cloned() else { return Ok(false) };
            let Some(file) = inode.file_mut() else { return Ok(false) };
            if file.replication != replication {
                file.replication = replication;
                update.put_inode(inode.id, &inode)?;
                namesystem.set_block_replication(update, inode.id, replication)?;
            }
            Ok(true)
        })
        .await
    }

    /// Gives every block of a file another replication.
    pub(crate) fn set_block_replication(
        &self,
        update: &mut Update,
        inode: InodeId,
        replication: u32,
    ) -> Result<()> {
        for mut block in update.file_blocks(inode)? {
            if block.replication == replication {
                continue;
            }
            block.replication = replication;
            update.put_block(&block)?;
            if block.is_complete() {
                let (blocks, stored) = (self.blocks.clone(), block.stored());
                update.after_commit(move || blocks.replication_changed(&stored));
            }
        }
        Ok(())
    }

    pub(crate) fn check_replication(&self, path: &str, replication: u32) -> Result<()> {
        let (least, most) = (self.config.replication_min, self.config.replication_max);
        let why = if replication > most {
            format!("exceeds maximum of {most}")
        } else if replication < least {
            format!("is less than the required minimum of {least}")
        } else {
            return Ok(());
        };
        Err(NamenodeError::Io(format!(
            "Requested replication factor of {replication} {why} for {path}"
        )))
    }

    /// `None` unsets it.
    pub async fn set_storage_policy(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        policy: Option<String>,
    ) -> Result<()> {
        paths::check_not_reserved(&path)?;
        let call = call.clone();
        self.change(format!("Cannot set storage policy for {path}"), move |namesystem, update| {
            let resolved = namesystem.resolve(update, &call, &path, PathUse::Existing)?;
            call.principal.check_last(&resolved, WRITE)?;
            let id = policy.as_deref().map_or(Ok(0), storage_policies::id_of)?;
            let mut inode = resolved.existing()?.clone();
            inode.storage_policy = id;
            update.put_inode(inode.id, &inode)
        })
        .await
    }

    /// The id of the policy in force at a path.
    pub fn get_storage_policy(&self, call: &ClientCall, path: &str) -> Result<u32> {
        let snapshot = self.snapshot();
        let resolved = self.resolve(&snapshot, call, path, PathUse::Existing)?;
        resolved.existing()?;
        Ok(effective_policy(&resolved))
    }
}

//! Reading the namespace: file status, directory listings, content summaries.

use std::sync::Arc;

use ringfs_protocol::messages::{
    ContentSummaryProto, DirectoryListingProto, FileType, FsPermissionProto, HdfsFileStatusProto,
    QuotaUsageProto,
};

use crate::deletion::run_blocking;
use crate::error::{NamenodeError, Result};
use crate::limits::{LISTING_LOCATIONS_MAX, LISTING_REMAINING_COUNT_MAX, REAP_BATCH_MAX};
use crate::namespace::{self, ResolvedPath};
use crate::namesystem::{ClientCall, Namesystem};
use crate::paths;
use crate::permissions::{EXECUTE, PathUse, READ};
use crate::schema::{Inode, InodeId, InodeKind, ROOT_INODE};
use crate::store::{Snapshot, View};

/// "Not set" of a quota.
const NO_QUOTA: u64 = u64::MAX;
/// The namespace quota that the root has from the start.
const ROOT_NAMESPACE_QUOTA: u64 = i64::MAX as u64;

impl Namesystem {
    /// `None` when there is nothing at the path.
    pub fn get_file_info(
        &self,
        call: &ClientCall,
        path: &str,
        need_location: bool,
    ) -> Result<Option<HdfsFileStatusProto>> {
        if let Some(status) = self.reserved_status(path) {
            return Ok(Some(status));
        }
        let snapshot = self.snapshot();
        let resolved = match self.resolve(&snapshot, call, path, PathUse::Existing) {
            Ok(resolved) => resolved,
            Err(NamenodeError::FileNotFound(_)) => return Ok(None),
            // Below a file there is nothing; only those who may look anywhere are told so.
            Err(NamenodeError::AccessControl(_)) if call.principal.is_superuser => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(inode) = resolved.last() else { return Ok(None) };
        let mut status = file_status(inode, Vec::new(), effective_policy(&resolved));
        if need_location && !inode.is_directory() {
            status.locations =
                Some(self.locate(&snapshot, inode, 0, i64::MAX as u64, call.address)?);
        }
        Ok(Some(status))
    }

    /// One page of a directory, or a file by itself; `None` when there is nothing at the path.
    pub fn get_listing(
        &self,
        call: &ClientCall,
        path: &str,
        start_after: &[u8],
        need_location: bool,
    ) -> Result<Option<DirectoryListingProto>> {
        if self.reserved_status(path).is_some() {
            return Ok(Some(self.reserved_listing(path)));
        }
        let snapshot = self.snapshot();
        let resolved = self.resolve(&snapshot, call, path, PathUse::Existing)?;
        let Some(inode) = resolved.last() else { return Ok(None) };
        let is_superuser = call.principal.is_superuser;
        let policy = if is_superuser { effective_policy(&resolved) } else { 0 };
        if !inode.is_directory() {
            let mut status = file_status(inode, Vec::new(), policy);
            if need_location {
                let all = i64::MAX as u64;
                status.locations = Some(self.locate(&snapshot, inode, 0, all, call.address)?);
            }
            return Ok(Some(DirectoryListingProto {
                partial_listing: vec![status],
                remaining_entries: 0,
            }));
        }
        call.principal.check_last(&resolved, READ | EXECUTE)?;
        let start_after = start_name(&snapshot, start_after)?;
        let mut names = snapshot.children(inode.id, &start_after, self.config.listing_limit)?;
        let mut page = Vec::with_capacity(names.len());
        let mut locations = 0;
        for (name, id) in &names {
            let Some(child) = snapshot.inode(*id)? else { continue };
            let policy = match (is_superuser, child.storage_policy) {
                (false, _) => 0,
                (true, 0) => policy,
                (true, own) => own,
            };
            let mut status = file_status(&child, name.clone(), policy);
            if need_location && !child.is_directory() {
                let all = i64::MAX as u64;
                let located = self.locate(&snapshot, &child, 0, all, call.address)?;
                let replication = status.block_replication() as usize;
                locations += located.blocks.len() * replication;
                status.locations = Some(located);
            }
            page.push(status);
            if locations >= LISTING_LOCATIONS_MAX {
                break;
            }
        }
        names.truncate(page.len());
        let remaining_entries = remaining(&snapshot, inode, &start_after, &names)?;
        Ok(Some(DirectoryListingProto { partial_listing: page, remaining_entries }))
    }

    pub async fn get_content_summary(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
    ) -> Result<ContentSummaryProto> {
        let (namesystem, call) = (self.clone(), call.clone());
        run_blocking(move || {
            let snapshot = namesystem.snapshot();
            let resolved = namesystem.resolve(&snapshot, &call, &path, PathUse::Existing)?;
            summarize(&snapshot, &call, resolved.existing()?)
        })
        .await
    }

    pub async fn get_quota_usage(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
    ) -> Result<QuotaUsageProto> {
        let summary = self.get_content_summary(call, path).await?;
        Ok(QuotaUsageProto {
            file_and_directory_count: summary.file_count + summary.directory_count,
            quota: summary.quota,
            space_consumed: summary.space_consumed,
            space_quota: summary.space_quota,
            type_quota_infos: None,
        })
    }

    pub fn is_file_closed(&self, call: &ClientCall, path: &str) -> Result<bool> {
        let snapshot = self.snapshot();
        let resolved = self.resolve(&snapshot, call, path, PathUse::Existing)?;
        Ok(resolved.file()?.file().is_some_and(|file| file.writer.is_none()))
    }

    pub fn get_preferred_block_size(&self, call: &ClientCall, path: &str) -> Result<u64> {
        let snapshot = self.snapshot();
        let resolved = self.resolve(&snapshot, call, path, PathUse::Existing)?;
        Ok(resolved.file()?.file().map_or(0, |file| file.preferred_block_size))
    }

    pub fn check_access(&self, call: &ClientCall, path: &str, access: u32) -> Result<()> {
        let snapshot = self.snapshot();
        let resolved = self.resolve(&snapshot, call, path, PathUse::Existing)?;
        resolved.existing()?;
        call.principal.check_last(&resolved, access)
    }

    /// `/.reserved` and what is in it: directories that no inode stands for.
    fn reserved_status(&self, path: &str) -> Option<HdfsFileStatusProto> {
        let names: Vec<&str> = paths::components(path).take(3).collect();
        matches!(names.as_slice(), [paths::RESERVED] | [paths::RESERVED, paths::RESERVED_INODES])
            .then(|| self.reserved_directory(""))
    }

    fn reserved_directory(&self, name: &str) -> HdfsFileStatusProto {
        HdfsFileStatusProto {
            file_type: FileType::IsDir as i32,
            path: name.as_bytes().to_vec(),
            permission: FsPermissionProto { perm: 0o770 },
            owner: self.config.superuser.clone(),
            group: self.config.supergroup.clone(),
            modification_time: self.identity().c_time,
            block_replication: Some(0),
            blocksize: Some(0),
            file_id: Some(ROOT_INODE),
            children_num: Some(0),
            flags: Some(0),
            ..HdfsFileStatusProto::default()
        }
    }

    fn reserved_listing(&self, path: &str) -> DirectoryListingProto {
        let names: &[&str] = if paths::components(path).count() == 1 {
            &[paths::RESERVED_INODES, paths::RESERVED_RAW]
        } else {
            &[]
        };
        DirectoryListingProto {
            partial_listing: names.iter().map(|name| self.reserved_directory(name)).collect(),
            remaining_entries: 0,
        }
    }
}

/// An inode as clients see it; `name` is empty but in listings.
pub(crate) fn file_status(inode: &Inode, name: Vec<u8>, policy: u32) -> HdfsFileStatusProto {
    let file = inode.file().cloned().unwrap_or_default();
    let (file_type, children) = match &inode.kind {
        Some(InodeKind::Directory(directory)) => (FileType::IsDir, directory.children),
        _ => (FileType::IsFile, 0),
    };
    HdfsFileStatusProto {
        file_type: file_type as i32,
        path: name,
        length: file.length,
        permission: FsPermissionProto { perm: inode.mode },
        owner: inode.owner.clone(),
        group: inode.group.clone(),
        modification_time: inode.mtime_ms,
        access_time: inode.atime_ms,
        block_replication: Some(file.replication),
        blocksize: Some(file.preferred_block_size),
        file_id: Some(inode.id),
        children_num: Some(i32::try_from(children).unwrap_or(i32::MAX)),
        storage_policy: Some(policy),
        flags: Some(0),
        ..HdfsFileStatusProto::default()
    }
}

/// The storage policy set nearest above an inode, or on it; 0 when none is.
pub(crate) fn effective_policy(path: &ResolvedPath) -> u32 {
    path.inodes.iter().rev().map(|inode| inode.storage_policy).find(|id| *id != 0).unwrap_or(0)
}

/// The name that a listing starts behind: a name, or an inode's reserved path.
fn start_name(view: &dyn View, start_after: &[u8]) -> Result<Vec<u8>> {
    if !start_after.starts_with(b"/") {
        return Ok(start_after.to_vec());
    }
    let path = String::from_utf8_lossy(start_after);
    let resolved = namespace::resolve(view, &path)?;
    Ok(resolved.name().as_bytes().to_vec())
}

/// Entries behind a page; see [`LISTING_REMAINING_COUNT_MAX`].
fn remaining(
    view: &dyn View,
    directory: &Inode,
    start_after: &[u8],
    page: &[(Vec<u8>, InodeId)],
) -> Result<u32> {
    let Some((last, _)) = page.last() else { return Ok(0) };
    let left = if start_after.is_empty() {
        directory.children().saturating_sub(page.len() as u64)
    } else {
        view.children(directory.id, last, LISTING_REMAINING_COUNT_MAX)?.len() as u64
    };
    Ok(u32::try_from(left).unwrap_or(u32::MAX))
}

fn summarize(snapshot: &Snapshot, call: &ClientCall, top: &Inode) -> Result<ContentSummaryProto> {
    let mut summary = ContentSummaryProto {
        quota: if top.id == ROOT_INODE { ROOT_NAMESPACE_QUOTA } else { NO_QUOTA },
        space_quota: NO_QUOTA,
        snapshot_length: Some(0),
        snapshot_file_count: Some(0),
        snapshot_directory_count: Some(0),
        snapshot_space_consumed: Some(0),
        erasure_coding_policy: Some(String::new()),
        ..ContentSummaryProto::default()
    };
    let mut pending = vec![top.clone()];
    while let Some(inode) = pending.pop() {
        if !inode.is_directory() {
            add_file(snapshot, &inode, &mut summary)?;
            continue;
        }
        summary.directory_count += 1;
        let path = || namespace::path_of(snapshot, inode.id).ok().flatten().unwrap_or_default();
        call.principal.check(&inode, READ | EXECUTE, path)?;
        let mut after = Vec::new();
        loop {
            let children = snapshot.children(inode.id, &after, REAP_BATCH_MAX)?;
            let Some((last, _)) = children.last() else { break };
            after.clone_from(last);
            for (_, id) in &children {
                match snapshot.inode(*id)? {
                    Some(child) if child.is_directory() => pending.push(child),
                    Some(child) => add_file(snapshot, &child, &mut summary)?,
                    None => {}
                }
            }
        }
    }
    Ok(summary)
}

/// A block under construction takes the space of a full one.
fn add_file(view: &dyn View, inode: &Inode, summary: &mut ContentSummaryProto) -> Result<()> {
    let Some(file) = inode.file() else { return Ok(()) };
    summary.file_count += 1;
    summary.length += file.length;
    let mut space = file.length;
    if file.writer.is_some()
        && let Some(last) = crate::block_locations::last_block(view, inode.id, file)?
        && !last.is_complete()
    {
        space += file.preferred_block_size.saturating_sub(last.num_bytes);
    }
    summary.space_consumed += space * u64::from(file.replication);
    Ok(())
}

//! The tree: resolving paths, making inodes, `mkdirs`.
//!
//! An inode record knows its parent and its own name, and a directory's entries are a range of the
//! store; so a rename moves one entry whatever hangs below, and an id leads to a path and back. An
//! inode is *attached* when its parents lead to the root: the inodes of a deleted subtree exist until
//! they are reaped, but nothing may be done to them any more.

use std::sync::Arc;

use ringfs_protocol::limits::PATH_MAX_DEPTH;

use crate::error::{NamenodeError, Result};
use crate::namesystem::{ClientCall, Namesystem};
use crate::paths;
use crate::permissions::{MODE_MASK, PathUse};
use crate::schema::{
    Counter, DirectoryRecord, Inode, InodeId, InodeKind, InodeRecord, ROOT_INODE, Space, damaged,
};
use crate::store::{Update, View};

/// Write and execute for the owner: what directories made on the way always grant.
const OWNER_WRITE_EXECUTE: u32 = 0o300;

/// A path and the inodes that exist along it, the root first.
#[derive(Clone, Debug)]
pub struct ResolvedPath {
    /// Without reserved prefixes and superfluous slashes.
    pub path: String,
    pub names: Vec<String>,
    pub inodes: Vec<Inode>,
}

impl ResolvedPath {
    /// The inode that the path names, when it exists.
    pub fn last(&self) -> Option<&Inode> {
        self.inodes.get(self.names.len())
    }

    pub fn parent(&self) -> Option<&Inode> {
        self.inodes.get(self.names.len().checked_sub(1)?)
    }

    /// What exists above the last component. The last of them may be a file.
    pub fn ancestors(&self) -> &[Inode] {
        &self.inodes[..self.inodes.len().min(self.names.len())]
    }

    /// The path of `inodes[depth]`.
    pub fn path_at(&self, depth: usize) -> String {
        paths::join(&self.names[..depth.min(self.names.len())])
    }

    pub fn parent_path(&self) -> String {
        self.path_at(self.names.len().saturating_sub(1))
    }

    pub fn name(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    pub fn is_root(&self) -> bool {
        self.names.is_empty()
    }

    /// The path one component longer.
    pub fn child(&self, view: &dyn View, name: &str) -> Result<Self> {
        let mut names = self.names.clone();
        names.push(name.to_owned());
        resolve_names(view, names)
    }

    /// The file that the path names.
    pub fn file(&self) -> Result<&Inode> {
        match self.last() {
            Some(inode) if inode.is_directory() => {
                Err(NamenodeError::FileNotFound(format!("Path is not a file: {}", self.path)))
            }
            Some(inode) => Ok(inode),
            None => Err(self.missing()),
        }
    }

    pub fn existing(&self) -> Result<&Inode> {
        self.last().ok_or_else(|| self.missing())
    }

    pub fn missing(&self) -> NamenodeError {
        NamenodeError::FileNotFound(format!("File does not exist: {}", self.path))
    }
}

/// Looks a path up, without any permission check.
pub fn resolve(view: &dyn View, path: &str) -> Result<ResolvedPath> {
    let names: Vec<&str> = paths::components(path).collect();
    let names = match names.as_slice() {
        [paths::RESERVED, paths::RESERVED_RAW, rest @ ..] => owned(rest),
        [paths::RESERVED, paths::RESERVED_INODES, id, rest @ ..] => {
            let names = match id.parse() {
                Ok(id) => names_of(view, id)?,
                Err(_) => None,
            };
            let mut names = names.ok_or_else(|| {
                NamenodeError::FileNotFound(format!(
                    "File for given inode path does not exist: {path}"
                ))
            })?;
            names.extend(owned(rest));
            names
        }
        names => owned(names),
    };
    resolve_names(view, names)
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn resolve_names(view: &dyn View, names: Vec<String>) -> Result<ResolvedPath> {
    let root = view.inode(ROOT_INODE)?.ok_or_else(|| damaged(Space::Inodes, "no root"))?;
    let mut inodes = vec![root];
    for name in &names {
        let directory = &inodes[inodes.len() - 1];
        if !directory.is_directory() {
            break;
        }
        let Some(id) = view.child(directory.id, name.as_bytes())? else { break };
        let inode = view
            .inode(id)?
            .ok_or_else(|| damaged(Space::Inodes, format!("inode {id} ({name}) is missing")))?;
        inodes.push(inode);
    }
    Ok(ResolvedPath { path: paths::join(&names), names, inodes })
}

/// The components of an inode's path; `None` when it is not attached to the root.
pub fn names_of(view: &dyn View, id: InodeId) -> Result<Option<Vec<String>>> {
    let mut names = Vec::new();
    let mut id = id;
    while id != ROOT_INODE {
        let Some(inode) = view.inode(id)? else { return Ok(None) };
        if names.len() > PATH_MAX_DEPTH {
            return Err(damaged(Space::Inodes, format!("inode {id} lies too deep")));
        }
        names.push(String::from_utf8_lossy(&inode.name).into_owned());
        id = inode.parent;
    }
    names.reverse();
    Ok(Some(names))
}

/// The path of an inode; `None` when it is not attached.
pub fn path_of(view: &dyn View, id: InodeId) -> Result<Option<String>> {
    Ok(names_of(view, id)?.map(|names| paths::join(&names)))
}

impl Namesystem {
    /// Looks a path up for a caller, who must be allowed to walk it.
    pub(crate) fn resolve(
        &self,
        view: &dyn View,
        call: &ClientCall,
        path: &str,
        path_use: PathUse,
    ) -> Result<ResolvedPath> {
        let mut names = paths::components(path);
        if names.next() == Some(paths::RESERVED) && names.next() == Some(paths::RESERVED_RAW) {
            call.principal.check_superuser()?;
        }
        let resolved = resolve(view, path)?;
        call.principal.check_traverse(&resolved, path_use)?;
        Ok(resolved)
    }

    pub async fn mkdirs(
        self: &Arc<Self>,
        call: &ClientCall,
        path: String,
        mode: u32,
        create_parent: bool,
    ) -> Result<bool> {
        paths::check_length("mkdirs", &path)?;
        check_new_path(&path)?;
        let call = call.clone();
        let what = format!("Cannot create directory {path}");
        self.change(what, move |namesystem, update| {
            let resolved = match namesystem.resolve(update, &call, &path, PathUse::Create) {
                Err(NamenodeError::ParentNotDirectory(_)) => {
                    return Err(NamenodeError::ParentNotDirectory(format!(
                        "Parent path is not a directory: {path}"
                    )));
                }
                resolved => resolved?,
            };
            match resolved.last() {
                Some(inode) if inode.is_directory() => return Ok(true),
                Some(_) => {
                    return Err(NamenodeError::FileAlreadyExists(format!(
                        "Path is not a directory: {}",
                        resolved.path
                    )));
                }
                None => {}
            }
            call.principal.check_ancestor_write(&resolved)?;
            if !create_parent {
                check_parent(&resolved)?;
            }
            let mode = mode & MODE_MASK;
            let parent = namesystem.make_ancestors(update, &call, &resolved, |_| mode)?;
            let directory = InodeKind::Directory(DirectoryRecord::default());
            namesystem.add_inode(
                update,
                &call,
                parent,
                &resolved.parent_path(),
                NewInode { name: resolved.name(), mode, kind: directory },
            )?;
            Ok(true)
        })
        .await
    }

    /// Makes the missing directories above the last component; returns the parent. `mode` gives the
    /// mode of each from that of the directory above it.
    pub(crate) fn make_ancestors(
        &self,
        update: &mut Update,
        call: &ClientCall,
        path: &ResolvedPath,
        mode: impl Fn(u32) -> u32,
    ) -> Result<Inode> {
        let ancestors = path.ancestors();
        let mut parent = ancestors
            .last()
            .ok_or_else(|| NamenodeError::InvalidPath("the root already exists".to_owned()))?
            .clone();
        for depth in ancestors.len()..path.names.len() {
            let new = NewInode {
                name: &path.names[depth - 1],
                mode: mode(parent.mode) | OWNER_WRITE_EXECUTE,
                kind: InodeKind::Directory(DirectoryRecord::default()),
            };
            parent = self.add_inode(update, call, parent, &path.path_at(depth - 1), new)?;
        }
        Ok(parent)
    }

    /// Adds an inode to a directory, owned by the caller and of the directory's group.
    pub(crate) fn add_inode(
        &self,
        update: &mut Update,
        call: &ClientCall,
        mut parent: Inode,
        parent_path: &str,
        new: NewInode,
    ) -> Result<Inode> {
        paths::check_component(&self.config, parent_path, new.name)?;
        self.check_directory_items(&parent, parent_path)?;
        let now_ms = self.now_ms();
        let id = update.next(Counter::LastInode)?;
        let is_file = matches!(new.kind, InodeKind::File(_));
        let record = InodeRecord {
            parent: parent.id,
            name: new.name.as_bytes().to_vec(),
            owner: call.principal.user.clone(),
            group: parent.group.clone(),
            mode: new.mode,
            mtime_ms: now_ms,
            atime_ms: if is_file { now_ms } else { 0 },
            storage_policy: 0,
            kind: Some(new.kind),
        };
        update.put_inode(id, &record)?;
        update.put_entry(parent.id, new.name.as_bytes(), id)?;
        parent.mtime_ms = now_ms;
        parent.add_children(1);
        update.put_inode(parent.id, &parent)?;
        Ok(Inode { id, record })
    }

    pub(crate) fn check_directory_items(&self, parent: &Inode, path: &str) -> Result<()> {
        let limit = self.config.max_directory_items;
        if parent.children() >= limit {
            return Err(NamenodeError::MaxDirectoryItemsExceeded(format!(
                "The directory item limit of {path} is exceeded: limit={limit} items={}",
                parent.children() + 1
            )));
        }
        Ok(())
    }
}

pub(crate) struct NewInode<'a> {
    pub name: &'a str,
    pub mode: u32,
    pub kind: InodeKind,
}

/// Refuses a path that nothing may be created at.
pub(crate) fn check_new_path(path: &str) -> Result<()> {
    if !paths::is_valid_new_path(path) {
        return Err(NamenodeError::InvalidPath(format!("Invalid file name: {path}")));
    }
    paths::check_not_reserved(path)
}

/// The parent must exist and be a directory.
pub(crate) fn check_parent(path: &ResolvedPath) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.is_directory() => Err(NamenodeError::ParentNotDirectory(format!(
            "Parent path is not a directory: {}",
            path.parent_path()
        ))),
        None if !path.is_root() => Err(NamenodeError::FileNotFound(format!(
            "Parent directory doesn't exist: {}",
            path.parent_path()
        ))),
        _ => Ok(()),
    }
}

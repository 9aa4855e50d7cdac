//! The two renames. The older one answers false where the newer throws, and moves into a destination
//! that is a directory; the newer one can replace its destination.

use std::sync::Arc;

use ringfs_protocol::messages::{Rename2ResponseProto, RenameResponseProto};

use crate::error::{NamenodeError, Result};
use crate::namespace::ResolvedPath;
use crate::namesystem::{ClientCall, Namesystem};
use crate::paths;
use crate::permissions::PathUse;
use crate::retry_cache::Outcome;
use crate::store::{Update, View};

impl Namesystem {
    pub async fn rename(
        self: &Arc<Self>,
        call: &ClientCall,
        source: String,
        destination: String,
    ) -> Result<RenameResponseProto> {
        check_paths(&source, &destination)?;
        let caller = call.clone();
        let what = format!("Cannot rename {source}");
        self.change_once(call, what, move |namesystem, update| {
            let answer = |result| RenameResponseProto { result };
            let from = namesystem.resolve(update, &caller, &source, PathUse::Existing)?;
            if is_below(&destination, &from) {
                return Ok(Outcome::Nothing(answer(false)));
            }
            let to = namesystem.resolve(update, &caller, &destination, PathUse::Create)?;
            let to = match to.last() {
                Some(inode) if inode.is_directory() && !from.is_root() => {
                    to.child(update, from.name())?
                }
                _ => to,
            };
            caller.principal.check_parent_write(&from)?;
            caller.principal.check_ancestor_write(&to)?;
            if from.is_root() || from.last().is_none() {
                return Ok(Outcome::Nothing(answer(false)));
            }
            if from.names == to.names {
                return Ok(Outcome::Nothing(answer(true)));
            }
            if to.last().is_some() || to.parent().is_none() || to.names.starts_with(&from.names) {
                return Ok(Outcome::Nothing(answer(false)));
            }
            namesystem.move_entry(update, &from, &to)?;
            Ok(Outcome::Done(answer(true)))
        })
        .await
    }

    pub async fn rename2(
        self: &Arc<Self>,
        call: &ClientCall,
        source: String,
        destination: String,
        overwrite: bool,
        to_trash: bool,
    ) -> Result<Rename2ResponseProto> {
        check_paths(&source, &destination)?;
        let checked = if to_trash { self.check_subtree_access(call, &source).await? } else { None };
        let caller = call.clone();
        let what = format!("Cannot rename {source}");
        self.change_once(call, what, move |namesystem, update| {
            let from = namesystem.resolve(update, &caller, &source, PathUse::Existing)?;
            let to = namesystem.resolve(update, &caller, &destination, PathUse::Create)?;
            caller.principal.check_parent_write(&from)?;
            if to_trash {
                checked_is(&from, checked)?;
            }
            caller.principal.check_ancestor_write(&to)?;
            check_rename2(&from, &to, overwrite)?;
            let to = if to.last().is_some() {
                namesystem.remove_path(update, &to)?;
                // The move must see the parent without its old entry.
                crate::namespace::resolve(update, &to.path)?
            } else {
                to
            };
            let from = crate::namespace::resolve(update, &from.path)?;
            namesystem.move_entry(update, &from, &to)?;
            Ok(Outcome::Done(Rename2ResponseProto {}))
        })
        .await
    }

    /// Moves an existing entry to a free place below an existing directory.
    fn move_entry(
        &self,
        update: &mut Update,
        from: &ResolvedPath,
        to: &ResolvedPath,
    ) -> Result<()> {
        let (Some(inode), Some(old_parent), Some(new_parent)) =
            (from.last(), from.parent(), to.parent())
        else {
            return Err(NamenodeError::FileNotFound(format!("{} is gone", from.path)));
        };
        paths::check_component(&self.config, &to.parent_path(), to.name())?;
        if !new_parent.is_directory() {
            return Err(NamenodeError::ParentNotDirectory(format!(
                "{} (is not a directory)",
                to.parent_path()
            )));
        }
        if new_parent.id != old_parent.id {
            self.check_directory_items(new_parent, &to.parent_path())?;
        }
        let now_ms = self.now_ms();
        update.remove_entry(old_parent.id, from.name().as_bytes())?;
        update.put_entry(new_parent.id, to.name().as_bytes(), inode.id)?;
        let mut inode = inode.clone();
        inode.parent = new_parent.id;
        inode.name = to.name().as_bytes().to_vec();
        update.put_inode(inode.id, &inode)?;
        for (id, delta) in [(old_parent.id, -1), (new_parent.id, 1)] {
            // Read anew: both may be the same directory.
            if let Some(mut parent) = update.inode(id)? {
                parent.add_children(delta);
                parent.mtime_ms = now_ms;
                update.put_inode(id, &parent)?;
            }
        }
        Ok(())
    }
}

/// Whether a path leads into `top`, which may be a file that nothing can be in.
fn is_below(path: &str, top: &ResolvedPath) -> bool {
    let names: Vec<&str> = paths::components(path).collect();
    names.len() > top.names.len() && names.iter().zip(&top.names).all(|(a, b)| a == b)
}

fn check_paths(source: &str, destination: &str) -> Result<()> {
    paths::check_length("rename", source)?;
    paths::check_length("rename", destination)?;
    if !paths::is_valid_new_path(destination) {
        return Err(NamenodeError::InvalidPath(format!("Invalid name: {destination}")));
    }
    paths::check_not_reserved(source)?;
    paths::check_not_reserved(destination)
}

/// The conditions of rename2, in the order of their refusals.
fn check_rename2(from: &ResolvedPath, to: &ResolvedPath, overwrite: bool) -> Result<()> {
    let (source, destination) = (&from.path, &to.path);
    let refuse = |why: String| Err(NamenodeError::Io(why));
    let Some(inode) = from.last() else {
        return Err(NamenodeError::FileNotFound(format!("rename source {source} is not found.")));
    };
    if from.is_root() {
        return refuse("rename source cannot be the root".to_owned());
    }
    if source == destination {
        return Err(NamenodeError::FileAlreadyExists(format!(
            "The source {source} and destination {destination} are the same"
        )));
    }
    if to.names.starts_with(&from.names) {
        return refuse(format!(
            "Rename destination {destination} is a directory or file under source {source}"
        ));
    }
    if to.is_root() {
        return refuse("rename destination cannot be the root".to_owned());
    }
    if let Some(target) = to.last() {
        if target.is_directory() != inode.is_directory() {
            return refuse(format!(
                "Source {source} and destination {destination} must both be directories"
            ));
        }
        if !overwrite {
            return Err(NamenodeError::FileAlreadyExists(format!(
                "rename destination {destination} already exists"
            )));
        }
        if target.children() > 0 {
            return refuse(format!("rename destination directory is not empty: {destination}"));
        }
    }
    match to.parent() {
        None => Err(NamenodeError::FileNotFound(format!(
            "rename destination parent {} not found.",
            to.parent_path()
        ))),
        Some(parent) if !parent.is_directory() => Err(NamenodeError::ParentNotDirectory(format!(
            "rename destination parent {} is a file.",
            to.parent_path()
        ))),
        Some(_) => Ok(()),
    }
}

/// The subtree whose permissions were checked must be the one that is about to be taken away.
pub(crate) fn checked_is(path: &ResolvedPath, checked: Option<u64>) -> Result<()> {
    match path.last() {
        Some(inode) if checked.is_some_and(|id| id != inode.id) => Err(NamenodeError::Retriable(
            format!("{} was replaced while its permissions were checked", path.path),
        )),
        _ => Ok(()),
    }
}

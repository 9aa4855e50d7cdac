//! Who may do what: the checks of HDFS's permission model on a resolved path.
//!
//! Classes do not fall through: an owner whose bits refuse is refused though "others" might. The
//! superuser passes every check but one: nobody walks through a file.

use ringfs_protocol::messages::FsActionProto;

use crate::error::{NamenodeError, Result};
use crate::namespace::ResolvedPath;
use crate::schema::{Inode, InodeRecord};

pub const READ: u32 = FsActionProto::Read as u32;
pub const WRITE: u32 = FsActionProto::Write as u32;
pub const EXECUTE: u32 = FsActionProto::Execute as u32;
pub const ALL: u32 = READ | WRITE | EXECUTE;

pub const STICKY: u32 = 0o1000;
/// The bits that are stored of a mode.
pub const MODE_MASK: u32 = 0o1777;

/// Who calls, with what the server knows of the user.
#[derive(Clone, Debug)]
pub struct Principal {
    pub user: String,
    pub groups: Vec<String>,
    pub is_superuser: bool,
    /// False when `dfs.permissions.enabled` is: then all but structure and superuser is let pass.
    pub checked: bool,
}

/// What a path that leads through a file is to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathUse {
    /// To create something there: the parent is not a directory.
    Create,
    /// Anything else: access is denied.
    Existing,
}

impl Principal {
    /// Every existing ancestor must be a directory that the caller may pass.
    pub fn check_traverse(&self, path: &ResolvedPath, path_use: PathUse) -> Result<()> {
        for (depth, inode) in path.ancestors().iter().enumerate() {
            if !inode.is_directory() {
                let message = format!("{} (is not a directory)", path.path_at(depth));
                return Err(match path_use {
                    PathUse::Create => NamenodeError::ParentNotDirectory(message),
                    PathUse::Existing => NamenodeError::AccessControl(message),
                });
            }
            self.check(inode, EXECUTE, || path.path_at(depth))?;
        }
        Ok(())
    }

    /// Access to the last inode, when it exists.
    pub fn check_last(&self, path: &ResolvedPath, access: u32) -> Result<()> {
        match path.last() {
            Some(inode) => self.check(inode, access, || path.path.clone()),
            None => Ok(()),
        }
    }

    /// WRITE on the deepest existing ancestor: what a new entry needs.
    pub fn check_ancestor_write(&self, path: &ResolvedPath) -> Result<()> {
        let ancestors = path.ancestors();
        if let Some(inode) = ancestors.last() {
            self.check(inode, WRITE, || path.path_at(ancestors.len() - 1))?;
        }
        Ok(())
    }

    /// WRITE on the parent, and its sticky bit: what removing an entry needs.
    pub fn check_parent_write(&self, path: &ResolvedPath) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.check(parent, WRITE, || path.path_at(path.names.len() - 1))?;
            if let Some(inode) = path.last() {
                self.check_sticky(parent, inode, || path.path.clone())?;
            }
        }
        Ok(())
    }

    /// In a sticky directory only its owner and the entry's may remove or rename an entry.
    pub fn check_sticky(
        &self,
        parent: &Inode,
        child: &Inode,
        path: impl Fn() -> String,
    ) -> Result<()> {
        if self.passes_everything()
            || parent.mode & STICKY == 0
            || parent.owner == self.user
            || child.owner == self.user
        {
            return Ok(());
        }
        let path = path();
        let parent_path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent_path = if parent_path.is_empty() { "/" } else { parent_path };
        Err(NamenodeError::AccessControl(format!(
            "Permission denied by sticky bit: user={}, path={}, parent={}",
            self.user,
            described(child, &path),
            described(parent, parent_path)
        )))
    }

    pub fn check_owner(&self, path: &ResolvedPath) -> Result<()> {
        match path.last() {
            Some(inode) if !self.passes_everything() && inode.owner != self.user => {
                Err(NamenodeError::AccessControl(format!(
                    "Permission denied. user={} is not the owner of inode={}",
                    self.user, path.path
                )))
            }
            _ => Ok(()),
        }
    }

    pub fn check_superuser(&self) -> Result<()> {
        if self.is_superuser {
            return Ok(());
        }
        Err(NamenodeError::AccessControl(format!(
            "Access denied for user {}. Superuser privilege is required",
            self.user
        )))
    }

    pub fn check(&self, inode: &Inode, access: u32, path: impl Fn() -> String) -> Result<()> {
        if self.passes_everything() || self.granted(inode) & access == access {
            return Ok(());
        }
        Err(NamenodeError::AccessControl(format!(
            "Permission denied: user={}, access={}, inode={}",
            self.user,
            access_name(access),
            described(inode, &path())
        )))
    }

    pub fn passes_everything(&self) -> bool {
        self.is_superuser || !self.checked
    }

    /// The bits of the one class that the caller belongs to.
    fn granted(&self, inode: &InodeRecord) -> u32 {
        if inode.owner == self.user {
            inode.mode >> 6 & ALL
        } else if self.groups.contains(&inode.group) {
            inode.mode >> 3 & ALL
        } else {
            inode.mode & ALL
        }
    }
}

/// `"/dir":alice:supergroup:drwxr-xr-x`, as clients match it.
fn described(inode: &InodeRecord, path: &str) -> String {
    let kind = if inode.is_directory() { 'd' } else { '-' };
    format!("\"{path}\":{}:{}:{kind}{}", inode.owner, inode.group, mode_text(inode.mode))
}

fn mode_text(mode: u32) -> String {
    let mut text: Vec<u8> = (0..9)
        .map(|bit| if mode & (0o400 >> bit) != 0 { b"rwxrwxrwx"[bit] } else { b'-' })
        .collect();
    if mode & STICKY != 0 {
        text[8] = if mode & EXECUTE != 0 { b't' } else { b'T' };
    }
    text.into_iter().map(char::from).collect()
}

fn access_name(access: u32) -> &'static str {
    match access {
        0 => "NONE",
        EXECUTE => "EXECUTE",
        WRITE => "WRITE",
        3 => "WRITE_EXECUTE",
        READ => "READ",
        5 => "READ_EXECUTE",
        6 => "READ_WRITE",
        _ => "ALL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{DirectoryRecord, FileRecord, InodeKind};

    fn principal(user: &str, groups: &[&str]) -> Principal {
        Principal {
            user: user.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            is_superuser: user == "super",
            checked: true,
        }
    }

    fn inode(owner: &str, mode: u32, kind: InodeKind) -> Inode {
        let record = InodeRecord {
            owner: owner.to_owned(),
            group: "staff".to_owned(),
            mode,
            kind: Some(kind),
            ..InodeRecord::default()
        };
        Inode { id: 1, record }
    }

    fn directory(owner: &str, mode: u32) -> Inode {
        inode(owner, mode, InodeKind::Directory(DirectoryRecord::default()))
    }

    #[test]
    fn classes_do_not_fall_through() {
        let path = || "/d".to_owned();
        // Mode, caller, caller's groups, access, allowed.
        let matrix = [
            (0o077, "alice", &["staff"][..], READ, false),
            (0o707, "bob", &["staff"][..], READ, false),
            (0o770, "carol", &[][..], EXECUTE, false),
            (0o700, "alice", &[][..], ALL, true),
            (0o050, "bob", &["x", "staff"][..], READ | EXECUTE, true),
            (0o050, "bob", &["x", "staff"][..], WRITE, false),
            (0o003, "carol", &["x"][..], WRITE | EXECUTE, true),
            (0o000, "super", &[][..], ALL, true),
        ];
        for (mode, user, groups, access, allowed) in matrix {
            let result = principal(user, groups).check(&directory("alice", mode), access, path);
            assert_eq!(result.is_ok(), allowed, "{mode:o} {user} {access}");
        }
        let mut unchecked = principal("carol", &[]);
        unchecked.checked = false;
        assert!(unchecked.check(&directory("alice", 0), ALL, path).is_ok());
        assert!(unchecked.check_superuser().is_err());
    }

    #[test]
    fn messages_are_those_that_clients_match() {
        let error =
            principal("bob", &[]).check(&directory("alice", 0o755), WRITE, || "/dir".into());
        assert_eq!(
            error.unwrap_err().to_string(),
            "Permission denied: user=bob, access=WRITE, inode=\"/dir\":alice:staff:drwxr-xr-x"
        );
        let file = inode("alice", 0o1640, InodeKind::File(FileRecord::default()));
        assert_eq!(described(&file, "/f"), "\"/f\":alice:staff:-rw-r----T");
    }

    #[test]
    fn sticky_directories_protect_the_entries_of_others() {
        let parent = directory("root", 0o1777);
        let child = directory("alice", 0o777);
        let path = || "/tmp/x".to_owned();
        assert!(principal("alice", &[]).check_sticky(&parent, &child, path).is_ok());
        assert!(principal("root", &[]).check_sticky(&parent, &child, path).is_ok());
        assert!(principal("super", &[]).check_sticky(&parent, &child, path).is_ok());
        let error = principal("bob", &[]).check_sticky(&parent, &child, path).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Permission denied by sticky bit: user=bob, path=\"/tmp/x\":alice:staff:drwxrwxrwx, \
             parent=\"/tmp\":root:staff:drwxrwxrwt"
        );
        let plain = directory("root", 0o777);
        assert!(principal("bob", &[]).check_sticky(&plain, &child, path).is_ok());
    }
}

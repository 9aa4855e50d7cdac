//! What the namenode tells of a file or directory, and where a file's blocks are.

use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::messages::{
    DatanodeInfoProto, FileType, HdfsFileStatusProto, LocatedBlockProto,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// Absolute.
    pub path: String,
    pub is_dir: bool,
    pub len: u64,
    pub replication: u16,
    pub block_size: u64,
    /// The lower nine bits `rwxrwxrwx`, and 01000 for the sticky bit.
    pub permission: u16,
    pub has_acl: bool,
    pub owner: String,
    pub group: String,
    pub mtime_ms: u64,
    pub atime_ms: u64,
    pub file_id: u64,
    /// Entries of a directory; `None` when the namenode does not say.
    pub children: Option<u32>,
    /// Target of a symbolic link.
    pub symlink: Option<String>,
}

/// One block of a file: the range of the file that it holds and the datanodes that hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockLocation {
    pub block: ExtendedBlock,
    pub offset: u64,
    pub len: u64,
    pub corrupt: bool,
    pub datanodes: Vec<DatanodeInfoProto>,
}

impl FileStatus {
    /// The last component of the path; empty for the root.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    pub(crate) fn of(path: &str, status: HdfsFileStatusProto) -> Self {
        let bits = status.permission.perm;
        Self {
            path: path.to_owned(),
            is_dir: status.file_type == FileType::IsDir as i32,
            len: status.length,
            replication: status.block_replication() as u16,
            block_size: status.blocksize(),
            permission: (bits & 0o1777) as u16,
            has_acl: status.flags.map_or(bits & PERMISSION_ACL_BIT != 0, |f| f & FLAG_HAS_ACL != 0),
            mtime_ms: status.modification_time,
            atime_ms: status.access_time,
            file_id: status.file_id(),
            children: status.children_num.and_then(|children| u32::try_from(children).ok()),
            symlink: status.symlink.as_deref().map(|link| String::from_utf8_lossy(link).into()),
            owner: status.owner,
            group: status.group,
        }
    }

    /// An entry of a listing of `directory`; listing a file gives one entry without a name.
    pub(crate) fn of_entry(directory: &str, status: HdfsFileStatusProto) -> Self {
        let path = match &*String::from_utf8_lossy(&status.path) {
            "" => directory.to_owned(),
            name => format!("{}/{name}", directory.trim_end_matches('/')),
        };
        Self::of(&path, status)
    }
}

impl From<LocatedBlockProto> for BlockLocation {
    fn from(located: LocatedBlockProto) -> Self {
        Self {
            block: ExtendedBlock::from(&located.b),
            offset: located.offset,
            len: located.b.num_bytes(),
            corrupt: located.corrupt,
            datanodes: located.locs,
        }
    }
}

/// `HdfsFileStatusProto.Flags`; Hadoop 2 put it into the permission instead.
const FLAG_HAS_ACL: u32 = 1;
const PERMISSION_ACL_BIT: u32 = 1 << 12;

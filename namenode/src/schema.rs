//! What the metadata store holds, key by key.
//!
//! | space | key | value |
//! |---|---|---|
//! | identity | `identity` | [`IdentityRecord`]: store version, cluster, namespace, block pool |
//! | counters | name | u64: last ids handed out, complete blocks |
//! | inodes | inode | [`InodeRecord`] |
//! | entries | directory, name with each byte flipped in its top bit | inode |
//! | blocks | block | [`BlockRecord`] |
//! | file blocks | inode, index (u32) | block |
//! | leases | holder, `0`, inode | - |
//! | retries | client id, call id | [`RetryRecord`] |
//! | retry expiry | expiry (ms), client id, call id | - |
//! | reap | inode of a detached subtree | - |
//!
//! Numbers are big-endian, so that key order is numeric order. HDFS lists names in the order of
//! *signed* bytes; with the top bit flipped, that is the order of the keys, and a listing is a range.
//!
//! Records are protobuf: a field added later leaves old records readable. The tags that ACLs,
//! extended attributes and quotas will need are left free.

use prost::{Message, Oneof};
use ringfs_protocol::block::{Block, BlockId, GenerationStamp};

use crate::error::{NamenodeError, Result};

/// Layout of the store; another number is refused.
pub const STORE_VERSION: u32 = 1;

pub type InodeId = u64;

pub const ROOT_INODE: InodeId = 16385;
/// Parent of a detached subtree's top; never an inode.
pub const NO_PARENT: InodeId = 0;
/// The last reserved block id and generation stamp: counters start here.
pub const LAST_RESERVED_BLOCK_ID: u64 = 1_073_741_824;
pub const LAST_RESERVED_GENERATION_STAMP: u64 = 1000;

/// A key space of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Identity,
    Counters,
    Inodes,
    Entries,
    Blocks,
    FileBlocks,
    Leases,
    Retries,
    RetryExpiry,
    Reap,
}

impl Space {
    pub const ALL: [Self; 10] = [
        Self::Identity,
        Self::Counters,
        Self::Inodes,
        Self::Entries,
        Self::Blocks,
        Self::FileBlocks,
        Self::Leases,
        Self::Retries,
        Self::RetryExpiry,
        Self::Reap,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Counters => "counters",
            Self::Inodes => "inodes",
            Self::Entries => "entries",
            Self::Blocks => "blocks",
            Self::FileBlocks => "file_blocks",
            Self::Leases => "leases",
            Self::Retries => "retries",
            Self::RetryExpiry => "retry_expiry",
            Self::Reap => "reap",
        }
    }
}

pub const IDENTITY_KEY: &[u8] = b"identity";

/// A counter of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    LastInode,
    LastBlock,
    GenerationStamp,
    CompleteBlocks,
}

impl Counter {
    pub fn key(self) -> &'static [u8] {
        match self {
            Self::LastInode => b"last_inode",
            Self::LastBlock => b"last_block",
            Self::GenerationStamp => b"generation_stamp",
            Self::CompleteBlocks => b"complete_blocks",
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct IdentityRecord {
    #[prost(uint32, tag = "1")]
    pub store_version: u32,
    #[prost(string, tag = "2")]
    pub cluster_id: String,
    #[prost(uint32, tag = "3")]
    pub namespace_id: u32,
    #[prost(string, tag = "4")]
    pub block_pool_id: String,
    #[prost(uint64, tag = "5")]
    pub c_time: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct InodeRecord {
    #[prost(uint64, tag = "1")]
    pub parent: InodeId,
    #[prost(bytes = "vec", tag = "2")]
    pub name: Vec<u8>,
    #[prost(string, tag = "3")]
    pub owner: String,
    #[prost(string, tag = "4")]
    pub group: String,
    /// The nine permission bits and the sticky bit.
    #[prost(uint32, tag = "5")]
    pub mode: u32,
    #[prost(uint64, tag = "6")]
    pub mtime_ms: u64,
    #[prost(uint64, tag = "7")]
    pub atime_ms: u64,
    /// 0: none set here.
    #[prost(uint32, tag = "8")]
    pub storage_policy: u32,
    #[prost(oneof = "InodeKind", tags = "14, 15")]
    pub kind: Option<InodeKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum InodeKind {
    #[prost(message, tag = "14")]
    Directory(DirectoryRecord),
    #[prost(message, tag = "15")]
    File(FileRecord),
}

#[derive(Clone, PartialEq, Message)]
pub struct DirectoryRecord {
    #[prost(uint64, tag = "1")]
    pub children: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct FileRecord {
    #[prost(uint32, tag = "1")]
    pub replication: u32,
    #[prost(uint64, tag = "2")]
    pub preferred_block_size: u64,
    #[prost(uint32, tag = "3")]
    pub blocks: u32,
    /// Sum of the blocks' stored lengths.
    #[prost(uint64, tag = "4")]
    pub length: u64,
    /// Present while the file is open for writing.
    #[prost(message, optional, tag = "5")]
    pub writer: Option<WriterRecord>,
}

/// Who holds the lease of a file.
#[derive(Clone, PartialEq, Message)]
pub struct WriterRecord {
    #[prost(string, tag = "1")]
    pub holder: String,
    /// Address of the client, for messages and for placement.
    #[prost(string, tag = "2")]
    pub machine: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum BlockPhase {
    UnderConstruction = 0,
    UnderRecovery = 1,
    Committed = 2,
    Complete = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockRecord {
    #[prost(uint64, tag = "1")]
    pub generation_stamp: u64,
    #[prost(uint64, tag = "2")]
    pub num_bytes: u64,
    #[prost(enumeration = "BlockPhase", tag = "3")]
    pub phase: i32,
    /// Generation stamp that the running recovery will give the block; 0: none.
    #[prost(uint64, tag = "4")]
    pub recovery_id: u64,
    /// Length that a running truncation will leave.
    #[prost(uint64, optional, tag = "5")]
    pub truncate_to: Option<u64>,
    #[prost(uint64, tag = "6")]
    pub inode: InodeId,
    #[prost(uint32, tag = "7")]
    pub index: u32,
    #[prost(uint32, tag = "8")]
    pub replication: u32,
    #[prost(uint64, tag = "9")]
    pub preferred_block_size: u64,
    /// Datanodes of the last known pipeline: until one of them has reported that it holds nothing,
    /// a block without replicas may still have acknowledged bytes.
    #[prost(string, repeated, tag = "10")]
    pub pipeline: Vec<String>,
}

/// The reply of an at-most-once call, kept for a client that never saw it.
#[derive(Clone, PartialEq, Message)]
pub struct RetryRecord {
    #[prost(uint64, tag = "1")]
    pub expiry_ms: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub reply: Vec<u8>,
}

/// An inode with its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Inode {
    pub id: InodeId,
    pub record: InodeRecord,
}

impl std::ops::Deref for Inode {
    type Target = InodeRecord;
    fn deref(&self) -> &InodeRecord {
        &self.record
    }
}

impl std::ops::DerefMut for Inode {
    fn deref_mut(&mut self) -> &mut InodeRecord {
        &mut self.record
    }
}

impl InodeRecord {
    pub fn file(&self) -> Option<&FileRecord> {
        match &self.kind {
            Some(InodeKind::File(file)) => Some(file),
            _ => None,
        }
    }

    pub fn file_mut(&mut self) -> Option<&mut FileRecord> {
        match &mut self.kind {
            Some(InodeKind::File(file)) => Some(file),
            _ => None,
        }
    }

    pub fn directory(&self) -> Option<&DirectoryRecord> {
        match &self.kind {
            Some(InodeKind::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    pub fn is_directory(&self) -> bool {
        self.directory().is_some()
    }

    pub fn children(&self) -> u64 {
        self.directory().map_or(0, |directory| directory.children)
    }

    pub fn add_children(&mut self, delta: i64) {
        if let Some(InodeKind::Directory(directory)) = &mut self.kind {
            directory.children = directory.children.saturating_add_signed(delta);
        }
    }
}

/// A block of a file with its id.
#[derive(Clone, Debug, PartialEq)]
pub struct FileBlock {
    pub id: BlockId,
    pub record: BlockRecord,
}

impl std::ops::Deref for FileBlock {
    type Target = BlockRecord;
    fn deref(&self) -> &BlockRecord {
        &self.record
    }
}

impl std::ops::DerefMut for FileBlock {
    fn deref_mut(&mut self) -> &mut BlockRecord {
        &mut self.record
    }
}

impl FileBlock {
    pub fn block(&self) -> Block {
        Block {
            id: self.id,
            generation_stamp: GenerationStamp(self.record.generation_stamp),
            num_bytes: self.record.num_bytes,
        }
    }

    pub fn is_complete(&self) -> bool {
        self.record.phase() == BlockPhase::Complete
    }
}

pub fn u64_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

pub fn entry_key(directory: InodeId, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&directory.to_be_bytes());
    key.extend(name.iter().map(|byte| byte ^ 0x80));
    key
}

/// The name in an entry's key.
pub fn entry_name(key: &[u8]) -> Vec<u8> {
    key.iter().skip(8).map(|byte| byte ^ 0x80).collect()
}

pub fn file_block_key(inode: InodeId, index: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&inode.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// A holder's name ends at a zero byte, so that no holder's leases lie within another's.
pub fn lease_prefix(holder: &str) -> Vec<u8> {
    let mut key: Vec<u8> = holder.bytes().filter(|byte| *byte != 0).collect();
    key.push(0);
    key
}

pub fn lease_key(holder: &str, inode: InodeId) -> Vec<u8> {
    let mut key = lease_prefix(holder);
    key.extend_from_slice(&inode.to_be_bytes());
    key
}

/// Holder and inode of a lease's key.
pub fn split_lease_key(key: &[u8]) -> Option<(String, InodeId)> {
    let (holder, inode) = key.split_last_chunk::<8>()?;
    let holder = holder.strip_suffix(&[0])?;
    Some((String::from_utf8_lossy(holder).into_owned(), u64::from_be_bytes(*inode)))
}

/// The first key after all keys that start with `prefix`; `None` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

pub fn decode_u64(space: Space, value: &[u8]) -> Result<u64> {
    let bytes = value.try_into().map_err(|_| damaged(space, "a number is not 8 bytes long"))?;
    Ok(u64::from_be_bytes(bytes))
}

pub fn decode<M: Message + Default>(space: Space, value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|error| damaged(space, error))
}

pub fn damaged(space: Space, why: impl std::fmt::Display) -> NamenodeError {
    NamenodeError::Io(format!("metadata store is damaged: {}: {why}", space.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_keys_order_names_by_signed_bytes_within_their_directory() {
        let names: [&[u8]; 5] = [b"\x80", b"\xff", b"a", b"a\xc3\xa9", b"ab"];
        let keys: Vec<_> = names.iter().map(|name| entry_key(7, name)).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(keys.iter().all(|key| *key < entry_key(8, b"")));
        assert_eq!(entry_name(&keys[3]), names[3]);
    }

    #[test]
    fn prefixes_end_before_the_next_prefix() {
        assert_eq!(prefix_end(&[1, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255]), None);
        assert_eq!(split_lease_key(&lease_key("a\0b", 9)), Some(("ab".to_owned(), 9)));
        let end = prefix_end(&lease_prefix("ab")).expect("a prefix of ASCII has an end");
        assert!(lease_key("ab", u64::MAX) < end);
        assert!(lease_key("abc", 1) > end);
    }
}

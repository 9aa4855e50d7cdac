//! Names and contents of a replica's two files in Apache's layout.
//!
//! | bytes of `blk_<id>_<gs>.meta` | field |
//! |---|---|
//! | 2, big-endian | version = 1 |
//! | 1 | checksum type: 0 NULL, 1 CRC32, 2 CRC32C |
//! | 4, big-endian | bytes per checksum |
//! | n x 4, big-endian | CRCs, the last one over the partial chunk only |

use std::path::PathBuf;

use crate::ProtocolError;
use crate::block::{BlockId, GenerationStamp};
use crate::checksum::DataChecksum;

pub const META_HEADER_BYTES: usize = 7;

pub fn encode_meta_header(checksum: DataChecksum) -> [u8; META_HEADER_BYTES] {
    let _ = checksum;
    todo!()
}

/// Refuses a short header, a version other than 1, an unknown type, an impossible chunk size.
pub fn decode_meta_header(bytes: &[u8]) -> Result<DataChecksum, ProtocolError> {
    let _ = bytes;
    todo!()
}

/// `blk_<id>`, the id as a signed decimal.
pub fn block_file_name(id: BlockId) -> String {
    let _ = id;
    todo!()
}

/// `blk_<id>_<gs>.meta`.
pub fn meta_file_name(id: BlockId, generation_stamp: GenerationStamp) -> String {
    let _ = (id, generation_stamp);
    todo!()
}

/// What a file in a replica directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaFile {
    Block(BlockId),
    Meta(BlockId, GenerationStamp),
}

/// `None` for a name that is neither.
pub fn parse_replica_file_name(name: &str) -> Option<ReplicaFile> {
    let _ = name;
    todo!()
}

/// Layout version of a datanode's storage: how block ids map to directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatanodeLayout {
    /// -56, Hadoop 2.6 and 2.7: 256 x 256 directories.
    V56,
    /// -57, Hadoop 2.8 to 3.5: 32 x 32 directories.
    V57,
}

impl DatanodeLayout {
    pub fn version(self) -> i32 {
        match self {
            Self::V56 => -56,
            Self::V57 => -57,
        }
    }

    pub fn from_version(version: i32) -> Option<Self> {
        match version {
            -56 => Some(Self::V56),
            -57 => Some(Self::V57),
            _ => None,
        }
    }

    /// `subdirX/subdirY` below `finalized/`.
    pub fn block_dir(self, id: BlockId) -> PathBuf {
        let _ = id;
        todo!()
    }
}

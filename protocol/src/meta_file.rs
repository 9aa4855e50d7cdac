//! Names and contents of a replica's two files in Apache's layout.
//!
//! | bytes of `blk_<id>_<gs>.meta` | field |
//! |---|---|
//! | 2, big-endian | version = 1 |
//! | 1 | checksum type: 0 NULL, 1 CRC32, 2 CRC32C |
//! | 4, big-endian | bytes per checksum |
//! | n x 4, big-endian | CRCs, the last one over the partial chunk only |

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use crate::ProtocolError;
use crate::block::{BlockId, GenerationStamp};
use crate::checksum::{ChecksumType, DataChecksum};

pub const META_HEADER_BYTES: usize = 7;
const META_VERSION: u16 = 1;

pub fn encode_meta_header(checksum: DataChecksum) -> [u8; META_HEADER_BYTES] {
    let [v0, v1] = META_VERSION.to_be_bytes();
    let [b0, b1, b2, b3] = checksum.bytes_per_checksum.to_be_bytes();
    [v0, v1, checksum.kind as u8, b0, b1, b2, b3]
}

/// Refuses a short header, a version other than 1, an unknown type, an impossible chunk size.
pub fn decode_meta_header(bytes: &[u8]) -> Result<DataChecksum, ProtocolError> {
    let Some(&[v0, v1, kind, b0, b1, b2, b3]) = bytes.first_chunk::<META_HEADER_BYTES>() else {
        let why = format!("{} bytes, its header has {META_HEADER_BYTES}", bytes.len());
        return Err(ProtocolError::malformed("meta file", why));
    };
    let version = u16::from_be_bytes([v0, v1]);
    if version != META_VERSION {
        return Err(ProtocolError::VersionMismatch { expected: META_VERSION, received: version });
    }
    let kind = ChecksumType::from_number(i32::from(kind)).ok_or_else(|| {
        ProtocolError::malformed("meta file", format!("unknown checksum type {kind}"))
    })?;
    DataChecksum::new(kind, u32::from_be_bytes([b0, b1, b2, b3]))
}

/// `blk_<id>`, the id as a signed decimal.
pub fn block_file_name(id: BlockId) -> String {
    id.to_string()
}

/// `blk_<id>_<gs>.meta`.
pub fn meta_file_name(id: BlockId, generation_stamp: GenerationStamp) -> String {
    format!("{id}_{generation_stamp}.meta")
}

/// What a file in a replica directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaFile {
    Block(BlockId),
    Meta(BlockId, GenerationStamp),
}

/// `None` for a name that is neither.
pub fn parse_replica_file_name(name: &str) -> Option<ReplicaFile> {
    let rest = name.strip_prefix("blk_")?;
    let Some(meta) = rest.strip_suffix(".meta") else {
        return parse_block_id(rest).map(ReplicaFile::Block);
    };
    let (id, generation_stamp) = meta.split_once('_')?;
    let generation_stamp = canonical::<u64>(generation_stamp)?;
    Some(ReplicaFile::Meta(parse_block_id(id)?, GenerationStamp(generation_stamp)))
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
        let mask = match self {
            Self::V56 => 0xff,
            Self::V57 => 0x1f,
        };
        let id = id.0 as i64;
        PathBuf::from(format!("subdir{}/subdir{}", (id >> 16) & mask, (id >> 8) & mask))
    }
}

fn parse_block_id(text: &str) -> Option<BlockId> {
    canonical::<i64>(text).map(|id| BlockId(id as u64))
}

/// A number written as Hadoop writes it, so that a name and what it parses to stay one to one: no
/// plus sign, no leading zeros.
fn canonical<N: FromStr + Display>(text: &str) -> Option<N> {
    text.parse::<N>().ok().filter(|number| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_header_is_the_one_apache_writes() {
        let checksum = DataChecksum::new(ChecksumType::Crc32c, 512).unwrap();
        assert_eq!(encode_meta_header(checksum), [0, 1, 2, 0, 0, 2, 0]);
        assert_eq!(decode_meta_header(&[0, 1, 2, 0, 0, 2, 0, 0xff]), Ok(checksum));
        let short = decode_meta_header(&[0, 1, 2, 0, 0, 2]).unwrap_err();
        assert_eq!(short.to_string(), "meta file: 6 bytes, its header has 7");
        for damaged in [[0, 2, 2, 0, 0, 2, 0], [0, 1, 3, 0, 0, 2, 0], [0, 1, 2, 0, 0, 0, 0]] {
            assert!(decode_meta_header(&damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn names_of_other_files_are_not_taken_for_replicas() {
        for name in [
            "",
            "blk_",
            "blk_+1",
            "blk_01",
            "blk_1.meta",
            "blk_1_",
            "blk_1_-1.meta",
            "blk_1_2.meta.tmp",
            "blk_1.unlinked",
            "VERSION",
            "blk_99999999999999999999",
        ] {
            assert_eq!(parse_replica_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn directories_follow_the_layout() {
        let id = BlockId(1_073_741_825);
        assert_eq!(DatanodeLayout::V57.block_dir(id), PathBuf::from("subdir0/subdir0"));
        let id = BlockId(0x40ab_cdef);
        assert_eq!(DatanodeLayout::V57.block_dir(id), PathBuf::from("subdir11/subdir13"));
        assert_eq!(DatanodeLayout::V56.block_dir(id), PathBuf::from("subdir171/subdir205"));
        let negative = BlockId(-16i64 as u64);
        assert_eq!(DatanodeLayout::V57.block_dir(negative), PathBuf::from("subdir31/subdir31"));
    }

    proptest! {
        #[test]
        fn file_names_round_trip(id: u64, generation_stamp: u64) {
            let (id, generation_stamp) = (BlockId(id), GenerationStamp(generation_stamp));
            prop_assert_eq!(
                parse_replica_file_name(&block_file_name(id)), Some(ReplicaFile::Block(id)));
            prop_assert_eq!(
                parse_replica_file_name(&meta_file_name(id, generation_stamp)),
                Some(ReplicaFile::Meta(id, generation_stamp)));
        }

        #[test]
        fn a_name_that_parses_is_the_name_that_is_written(name in "blk_[-+0-9_]{0,24}(\\.meta)?") {
            match parse_replica_file_name(&name) {
                Some(ReplicaFile::Block(id)) => prop_assert_eq!(block_file_name(id), name),
                Some(ReplicaFile::Meta(id, stamp)) => {
                    prop_assert_eq!(meta_file_name(id, stamp), name)
                }
                None => {}
            }
        }

        #[test]
        fn any_header_is_a_checksum_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..10),
        ) {
            if let Ok(checksum) = decode_meta_header(&bytes) {
                prop_assert_eq!(&encode_meta_header(checksum)[..], &bytes[..META_HEADER_BYTES]);
            }
        }
    }
}

//! What `FileSystem.getFileChecksum` sums up: a block's chunk CRCs to an MD5 or to one composite
//! CRC (the datanode's part), and the blocks' values to the file's (the client's part).

use md5::{Digest, Md5};

use crate::checksum::{ChecksumType, DataChecksum};

/// MD5 over the chunk CRCs of a block, as they lie in its meta file. For a range that ends inside a
/// chunk the last CRC pushed is that of the chunk's covered part.
#[derive(Clone, Debug, Default)]
pub struct BlockMd5(Md5);

impl BlockMd5 {
    pub fn push_crcs(&mut self, crcs: &[u8]) {
        self.0.update(crcs);
    }

    pub fn push_partial_chunk(&mut self, crc: u32) {
        self.0.update(crc.to_be_bytes());
    }

    pub fn finish(self) -> [u8; 16] {
        self.0.finalize().into()
    }
}

/// The CRC of a run of bytes put together from the CRCs of its consecutive pieces.
#[derive(Clone, Debug)]
pub struct CompositeCrc {
    checksum: DataChecksum,
    /// Shift over one full chunk: nearly all pieces of a block are that long.
    chunk_shift: u32,
    crc: u32,
}

impl CompositeCrc {
    pub fn new(checksum: DataChecksum) -> Self {
        let chunk_shift = checksum.shift_of(u64::from(checksum.bytes_per_checksum));
        Self { checksum, chunk_shift, crc: 0 }
    }

    pub fn push(&mut self, crc: u32, len_bytes: u64) {
        let shift = if len_bytes == u64::from(self.checksum.bytes_per_checksum) {
            self.chunk_shift
        } else {
            self.checksum.shift_of(len_bytes)
        };
        self.crc = self.checksum.combine_shifted(self.crc, crc, shift);
    }

    /// Pushes the CRCs of full chunks as they lie in a meta file.
    pub fn push_chunks(&mut self, crcs: &[u8]) {
        for crc in crcs.as_chunks().0 {
            self.crc =
                self.checksum.combine_shifted(self.crc, u32::from_be_bytes(*crc), self.chunk_shift);
        }
    }

    pub fn finish(self) -> u32 {
        self.crc
    }
}

/// A file's checksum as `hdfs dfs -checksum` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChecksum {
    /// MD5 of the blocks' MD5s of their chunk CRCs: depends on block and chunk size.
    Md5Md5Crc { kind: ChecksumType, bytes_per_crc: u32, crc_per_block: u64, md5: [u8; 16] },
    /// The CRC of the whole file's bytes, whatever its blocks and chunks.
    Composite { kind: ChecksumType, crc: u32 },
}

impl FileChecksum {
    /// From the blocks' MD5s in file order; `crc_per_block` is the first block's and counts only
    /// when there are several.
    pub fn of_block_md5s(
        checksum: DataChecksum,
        crc_per_block: u64,
        block_md5s: &[[u8; 16]],
    ) -> Self {
        Self::Md5Md5Crc {
            kind: checksum.kind,
            bytes_per_crc: checksum.bytes_per_checksum,
            crc_per_block: if block_md5s.len() > 1 { crc_per_block } else { 0 },
            md5: md5_of_md5s(block_md5s),
        }
    }

    /// What Java answers for a file without blocks in MD5MD5CRC mode.
    pub fn of_empty_file() -> Self {
        Self::Md5Md5Crc {
            kind: ChecksumType::Crc32,
            bytes_per_crc: 0,
            crc_per_block: 0,
            md5: md5_of_md5s(&[]),
        }
    }

    pub fn algorithm_name(&self) -> String {
        match self {
            Self::Md5Md5Crc { kind, bytes_per_crc, crc_per_block, .. } => {
                format!("MD5-of-{crc_per_block}MD5-of-{bytes_per_crc}{}", kind.name())
            }
            Self::Composite { kind, .. } => format!("COMPOSITE-{}", kind.name()),
        }
    }

    /// The serialised form that is printed as hexadecimal digits: 28 bytes, or 4 for a composite.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Md5Md5Crc { bytes_per_crc, crc_per_block, md5, .. } => {
                let mut bytes = Vec::with_capacity(28);
                bytes.extend_from_slice(&bytes_per_crc.to_be_bytes());
                bytes.extend_from_slice(&crc_per_block.to_be_bytes());
                bytes.extend_from_slice(md5);
                bytes
            }
            Self::Composite { crc, .. } => crc.to_be_bytes().to_vec(),
        }
    }
}

/// Java digests the whole backing array of a buffer that starts at 32 bytes and doubles, so zeros
/// pad the MD5s to the next power of two.
fn md5_of_md5s(block_md5s: &[[u8; 16]]) -> [u8; 16] {
    let bytes = block_md5s.as_flattened();
    let padding = bytes.len().next_power_of_two().max(32) - bytes.len();
    Md5::new().chain_update(bytes).chain_update(vec![0; padding]).finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CRC32C_512: DataChecksum =
        DataChecksum { kind: ChecksumType::Crc32c, bytes_per_checksum: 512 };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn an_empty_file_has_javas_checksum() {
        let checksum = FileChecksum::of_empty_file();
        assert_eq!(checksum.algorithm_name(), "MD5-of-0MD5-of-0CRC32");
        assert_eq!(
            hex(&checksum.to_bytes()),
            "00000000000000000000000070bc8f4b72a86921468bf8e8441dce51"
        );
    }

    #[test]
    fn the_first_blocks_crc_count_is_named_only_among_several_blocks() {
        let one = FileChecksum::of_block_md5s(CRC32C_512, 2048, &[[1; 16]]);
        assert_eq!(one.algorithm_name(), "MD5-of-0MD5-of-512CRC32C");
        let two = FileChecksum::of_block_md5s(CRC32C_512, 2048, &[[1; 16], [2; 16]]);
        assert_eq!(two.algorithm_name(), "MD5-of-2048MD5-of-512CRC32C");
        assert_eq!(two.to_bytes().len(), 28);
        assert!(two.to_bytes().starts_with(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 8, 0]));
    }

    #[test]
    fn md5s_are_padded_to_a_power_of_two() {
        let padded = |count: usize, len: usize| -> [u8; 16] {
            let mut bytes = [7u8; 16].repeat(count);
            bytes.resize(len, 0);
            Md5::digest(bytes).into()
        };
        for (count, len) in [(0, 32), (1, 32), (2, 32), (3, 64), (4, 64), (5, 128), (9, 256)] {
            assert_eq!(md5_of_md5s(&vec![[7; 16]; count]), padded(count, len), "{count} blocks");
        }
    }

    proptest! {
        #[test]
        fn a_composite_is_the_crc_of_the_bytes(
            data in proptest::collection::vec(any::<u8>(), 0..5000),
            bytes_per_checksum in 1u32..900,
            kind in prop::sample::select(vec![ChecksumType::Crc32, ChecksumType::Crc32c]),
        ) {
            let checksum = DataChecksum::new(kind, bytes_per_checksum).unwrap();
            let chunks = data.chunks_exact(bytes_per_checksum as usize);
            let rest = chunks.remainder();
            let crcs: Vec<u8> = chunks.flat_map(|chunk| checksum.crc(chunk).to_be_bytes()).collect();
            let mut composite = CompositeCrc::new(checksum);
            composite.push_chunks(&crcs);
            composite.push(checksum.crc(rest), rest.len() as u64);
            prop_assert_eq!(composite.finish(), checksum.crc(&data));
        }
    }
}

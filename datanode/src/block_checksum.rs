//! BLOCK_CHECKSUM: one value for a block's bytes, computed from the stored chunk checksums alone; only
//! a range that ends inside a chunk reads that chunk's data.

use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::file_checksum::{BlockMd5, CompositeCrc};
use ringfs_protocol::messages::{
    BlockChecksumOptionsProto, BlockChecksumTypeProto, OpBlockChecksumProto,
    OpBlockChecksumResponseProto,
};
use ringfs_protocol::meta_file::META_HEADER_BYTES;

use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::replica_files::{open_reader, read_checksum};
use crate::ring;

/// Read of the meta file at a time: covers 32 MiB of data at 512 bytes a chunk.
const PIECE_BYTES: u64 = 256 << 10;

/// The checksums of one replica's first `len` bytes.
struct StoredChecksums {
    data: ring::File,
    meta: ring::File,
    checksum: DataChecksum,
    /// Bytes of checksums in the meta file.
    stored_len: u64,
    /// Bytes asked for, at most the visible length.
    len: u64,
    /// Whether `len` is less than what a reader may see.
    is_part: bool,
}

pub async fn block_checksum(
    dataset: &Dataset,
    request: &OpBlockChecksumProto,
) -> Result<OpBlockChecksumResponseProto> {
    let block = ExtendedBlock::from(&request.header.block);
    let stored = StoredChecksums::open(dataset, &block).await?;
    let options = request.block_checksum_options.clone();
    let kind = options.as_ref().map(BlockChecksumOptionsProto::block_checksum_type);
    let computed = match kind {
        Some(BlockChecksumTypeProto::CompositeCrc) => {
            let stripe_len = options.as_ref().map_or(0, BlockChecksumOptionsProto::stripe_length);
            stored.composite_crc(stripe_len).await
        }
        _ => stored.md5().await,
    };
    let block_checksum = computed.map_err(DatanodeError::io(format!("summing up {block}")))?;
    let checksum = stored.checksum;
    Ok(OpBlockChecksumResponseProto {
        bytes_per_crc: checksum.bytes_per_checksum,
        crc_per_block: stored.stored_len.checked_div(checksum.checksum_size() as u64).unwrap_or(0),
        block_checksum,
        crc_type: Some(checksum.kind as i32),
        block_checksum_options: options,
    })
}

impl StoredChecksums {
    async fn open(dataset: &Dataset, block: &ExtendedBlock) -> Result<Self> {
        let replica = dataset.require_answering(block)?;
        let unfit = |why: &str| DatanodeError::UnexpectedReplica {
            block: replica.block(),
            why: why.to_owned(),
        };
        if replica.generation_stamp() < block.block.generation_stamp {
            return Err(unfit("its generation stamp is below the one asked for"));
        }
        let visible = replica.visible_len().ok_or_else(|| unfit("it is not readable"))?;
        let (data, meta, meta_path) = open_reader(&replica, false).await?;
        let checksum = read_checksum(&meta, &meta_path).await?;
        let meta_len = meta
            .len()
            .await
            .map_err(DatanodeError::io(format!("reading {}", meta_path.display())))?;
        Ok(Self {
            data,
            meta,
            checksum,
            stored_len: meta_len - META_HEADER_BYTES as u64,
            len: block.block.num_bytes.min(visible),
            is_part: block.block.num_bytes < visible,
        })
    }

    /// MD5 of all stored checksums, or of those of the first `len` bytes.
    async fn md5(&self) -> std::io::Result<Vec<u8>> {
        let mut md5 = BlockMd5::default();
        let (whole, partial_len) = self.whole_chunks();
        let (end, partial_len) =
            if self.is_part { (whole, partial_len) } else { (self.stored_len, 0) };
        let mut offset = 0;
        while offset < end {
            let piece = self.stored(offset, end).await?;
            offset += piece.len() as u64;
            md5.push_crcs(&piece);
        }
        if partial_len > 0 && self.checksum.kind != ChecksumType::Null {
            md5.push_partial_chunk(self.crc_of_end(partial_len).await?);
        }
        Ok(md5.finish().to_vec())
    }

    /// The CRC of the first `len` bytes, or of each stripe of them.
    async fn composite_crc(&self, stripe_len: u64) -> std::io::Result<Vec<u8>> {
        let chunk_len = u64::from(self.checksum.bytes_per_checksum);
        let stripe_len = if stripe_len == 0 { u64::MAX } else { stripe_len };
        if stripe_len != u64::MAX && stripe_len % chunk_len != 0 {
            let why = format!("a stripe of {stripe_len} bytes is not whole chunks of {chunk_len}");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
        }
        let (end, partial_len) = self.whole_chunks();
        let mut crcs = Vec::new();
        let (mut composite, mut in_stripe) = (CompositeCrc::new(self.checksum), 0);
        let mut offset = 0;
        while offset < end {
            let stripe_end = offset.saturating_add((stripe_len - in_stripe) / chunk_len * 4);
            let piece = self.stored(offset, end.min(stripe_end)).await?;
            offset += piece.len() as u64;
            in_stripe += piece.len() as u64 / 4 * chunk_len;
            composite.push_chunks(&piece);
            if in_stripe == stripe_len {
                let full = std::mem::replace(&mut composite, CompositeCrc::new(self.checksum));
                crcs.extend(full.finish().to_be_bytes());
                in_stripe = 0;
            }
        }
        if partial_len > 0 {
            composite.push(self.crc_of_end(partial_len).await?, partial_len);
            in_stripe += partial_len;
        }
        if in_stripe > 0 || crcs.is_empty() {
            crcs.extend(composite.finish().to_be_bytes());
        }
        Ok(crcs)
    }

    /// Bytes of checksums of whole chunks within `len`, and the bytes of data after them.
    fn whole_chunks(&self) -> (u64, u64) {
        let chunk_len = u64::from(self.checksum.bytes_per_checksum);
        (self.len / chunk_len * self.checksum.checksum_size() as u64, self.len % chunk_len)
    }

    async fn stored(&self, offset: u64, end: u64) -> std::io::Result<Vec<u8>> {
        let count = (end - offset).min(PIECE_BYTES) as usize;
        self.meta.read_exact_at(META_HEADER_BYTES as u64 + offset, count).await
    }

    async fn crc_of_end(&self, count: u64) -> std::io::Result<u32> {
        let bytes = self.data.read_exact_at(self.len - count, count as usize).await?;
        Ok(self.checksum.crc(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::tests::{extended, open, put_finalized};
    use crate::replica_length::DEFAULT_CHECKSUM;
    use crate::transitions::tests::{node, on_ring};
    use md5::{Digest, Md5};
    use ringfs_protocol::messages::BaseHeaderProto;

    fn request(len: u64, options: Option<BlockChecksumOptionsProto>) -> OpBlockChecksumProto {
        OpBlockChecksumProto {
            header: BaseHeaderProto {
                block: (&extended(1, 1001, len)).into(),
                token: None,
                trace_info: None,
            },
            block_checksum_options: options,
        }
    }

    fn composite(stripe_length: Option<u64>) -> Option<BlockChecksumOptionsProto> {
        Some(BlockChecksumOptionsProto {
            block_checksum_type: Some(BlockChecksumTypeProto::CompositeCrc as i32),
            stripe_length,
        })
    }

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 257) as u8).collect()
    }

    #[test]
    fn md5_covers_the_stored_checksums_of_the_range() {
        on_ring(async {
            let node = node();
            let bytes = data(1500);
            put_finalized(&node.volume, 1, 1001, &bytes);
            let dataset = open(vec![node.volume.clone()]);
            for len in [1, 511, 512, 513, 1024, 1400, 1500, 9999] {
                let part = &bytes[..len.min(1500)];
                let mut crcs = vec![0; DEFAULT_CHECKSUM.checksums_len(part.len() as u64) as usize];
                DEFAULT_CHECKSUM.fill(part, &mut crcs);
                let reply = block_checksum(&dataset, &request(len as u64, None)).await.unwrap();
                assert_eq!(reply.block_checksum, Md5::digest(&crcs).to_vec(), "{len}");
                assert_eq!((reply.bytes_per_crc, reply.crc_per_block), (512, 3));
                assert_eq!(reply.crc_type, Some(ChecksumType::Crc32c as i32));
            }
        });
    }

    #[test]
    fn the_composite_crc_is_that_of_the_bytes() {
        on_ring(async {
            let node = node();
            let bytes = data(1500);
            put_finalized(&node.volume, 1, 1001, &bytes);
            let dataset = open(vec![node.volume.clone()]);
            for len in [1, 511, 512, 513, 1500, 9999] {
                let reply = block_checksum(&dataset, &request(len as u64, composite(None))).await;
                let expected = DEFAULT_CHECKSUM.crc(&bytes[..len.min(1500)]).to_be_bytes();
                let reply = reply.unwrap();
                assert_eq!(reply.block_checksum, expected, "{len}");
                assert_eq!(
                    reply.block_checksum_options,
                    composite(None),
                    "clients demand the echo"
                );
            }
            let reply =
                block_checksum(&dataset, &request(1500, composite(Some(1024)))).await.unwrap();
            let stripes =
                [&bytes[..1024], &bytes[1024..]].map(|s| DEFAULT_CHECKSUM.crc(s).to_be_bytes());
            assert_eq!(reply.block_checksum, stripes.concat());
            assert!(block_checksum(&dataset, &request(1500, composite(Some(700)))).await.is_err());
        });
    }

    #[test]
    fn an_empty_block_and_a_missing_one() {
        on_ring(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, b"");
            let dataset = open(vec![node.volume.clone()]);
            let reply = block_checksum(&dataset, &request(0, None)).await.unwrap();
            assert_eq!(reply.block_checksum, Md5::digest(b"").to_vec());
            assert_eq!(reply.crc_per_block, 0);
            let reply = block_checksum(&dataset, &request(0, composite(None))).await.unwrap();
            assert_eq!(reply.block_checksum, [0; 4]);
            let mut other = request(0, None);
            other.header.block.block_id = 2;
            let missing = block_checksum(&dataset, &other).await.unwrap_err();
            assert!(matches!(missing, DatanodeError::ReplicaNotFound { .. }), "{missing}");
        });
    }
}

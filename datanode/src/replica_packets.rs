//! A replica as the packets of DataTransferProtocol, for copies to other datanodes: data and checksums
//! as stored, verified on the way so that a corrupt replica is reported and not spread.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::meta_file::META_HEADER_BYTES;
use ringfs_protocol::packet::{PACKET_PREFIX_MAX_BYTES, PacketHeader, encode_packet_prefix};

use crate::error::{DatanodeError, Result};
use crate::replica::Replica;
use crate::replica_files::{open_reader, read_checksum};
use crate::replica_length::good_prefix;
use crate::ring;

/// Data of one packet, as HDFS clients send it: 126 chunks of 512 bytes.
const PACKET_DATA_BYTES: u64 = 64_512;
/// Packets made from one read of about 1 MiB.
const PACKETS_PER_RUN: u64 = 16;

/// Holds the first `len` bytes of a replica that nobody writes to, and the rest of their last chunk,
/// against their checksums.
pub async fn verify(replica: &Arc<Replica>, len: u64) -> Result<()> {
    let on_disk = replica.on_disk();
    let mut stored = ReplicaPackets::open(replica.clone(), on_disk.len).await?;
    let chunk_len = u64::from(stored.checksum.bytes_per_checksum);
    let end = len.next_multiple_of(chunk_len).min(on_disk.len);
    while stored.offset < end {
        let run_len = (end - stored.offset).min(stored.run_max());
        stored.read(run_len).await?;
        stored.offset += run_len;
    }
    Ok(())
}

/// Where a loss of power tore the replica: the end of what was synced last, if that was within a chunk
/// of which more was written later. Its data is the later one and its checksum the earlier one, which
/// fits the synced part. `None` where the first chunk that does not fit has no such part.
pub async fn torn_at(replica: &Arc<Replica>) -> Result<Option<u64>> {
    let end = replica.on_disk().len;
    let mut stored = ReplicaPackets::open(replica.clone(), end).await?;
    let checksum = stored.checksum;
    let chunk_len = u64::from(checksum.bytes_per_checksum);
    while stored.offset < end {
        let run_len = (end - stored.offset).min(stored.run_max());
        let (data, checksums) = stored.read_stored(run_len).await?;
        if let Err(mismatch) = checksum.verify(&data, &checksums) {
            let start = mismatch.chunk_index * chunk_len as usize;
            let chunk = &data[start..data.len().min(start + chunk_len as usize)];
            let part = good_prefix(checksum, mismatch.expected, u32::MAX, chunk);
            return Ok(part.map(|part| stored.offset + start as u64 + part));
        }
        stored.offset += run_len;
    }
    Ok(None)
}

pub struct ReplicaPackets {
    replica: Arc<Replica>,
    data: ring::File,
    meta: ring::File,
    checksum: DataChecksum,
    /// End of what is sent.
    len: u64,
    offset: u64,
    seqno: i64,
    done: bool,
}

impl ReplicaPackets {
    /// The first `len` bytes, which the caller knows to be visible.
    pub async fn open(replica: Arc<Replica>, len: u64) -> Result<Self> {
        let (data, meta, meta_path) = open_reader(&replica, false).await?;
        let checksum = read_checksum(&meta, &meta_path).await?;
        Ok(Self { replica, data, meta, checksum, len, offset: 0, seqno: 0, done: false })
    }

    pub fn checksum(&self) -> DataChecksum {
        self.checksum
    }

    /// Bytes of a run: whole chunks.
    fn run_max(&self) -> u64 {
        let chunk_len = u64::from(self.checksum.bytes_per_checksum);
        (PACKET_DATA_BYTES * PACKETS_PER_RUN / chunk_len).max(1) * chunk_len
    }

    /// The next packets, encoded; the empty last packet comes alone; then `None`.
    pub async fn next_run(&mut self) -> Result<Option<BytesMut>> {
        if self.done {
            return Ok(None);
        }
        let mut out = BytesMut::new();
        if self.offset == self.len {
            self.done = true;
            self.push_packet(&mut out, &[], &[], true);
            return Ok(Some(out));
        }
        let chunk_len = u64::from(self.checksum.bytes_per_checksum);
        let packet_len = (PACKET_DATA_BYTES / chunk_len).max(1) * chunk_len;
        let run_len = (self.len - self.offset).min(packet_len * PACKETS_PER_RUN);
        let (data, checksums) = self.read(run_len).await?;
        let checksums_per_packet = self.checksum.checksums_len(packet_len) as usize;
        out.reserve(data.len() + checksums.len() + PACKETS_PER_RUN as usize * 40);
        for (index, data) in data.chunks(packet_len as usize).enumerate() {
            let start = index * checksums_per_packet;
            let end = (start + checksums_per_packet).min(checksums.len());
            self.push_packet(&mut out, &checksums[start..end], data, false);
        }
        Ok(Some(out))
    }

    /// Data and checksums of a run that starts at a chunk boundary, verified.
    async fn read(&self, run_len: u64) -> Result<(Vec<u8>, Vec<u8>)> {
        let (data, checksums) = self.read_stored(run_len).await?;
        self.checksum.verify(&data, &checksums).map_err(|mismatch| {
            let source = io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "chunk {} after byte {} has checksum {:08x}, stored is {:08x}",
                    mismatch.chunk_index, self.offset, mismatch.computed, mismatch.expected
                ),
            );
            DatanodeError::Corrupt { block: self.replica.block(), source }
        })?;
        Ok((data, checksums))
    }

    async fn read_stored(&self, run_len: u64) -> Result<(Vec<u8>, Vec<u8>)> {
        let reading = || format!("reading {}", self.replica.block());
        let failed = |source| DatanodeError::Io { what: reading(), source };
        let data = self.data.read_exact_at(self.offset, run_len as usize).await.map_err(failed)?;
        if self.checksum.kind == ChecksumType::Null {
            return Ok((data, Vec::new()));
        }
        let chunk_len = u64::from(self.checksum.bytes_per_checksum);
        let at = META_HEADER_BYTES as u64 + self.offset / chunk_len * 4;
        let count = self.checksum.checksums_len(run_len) as usize;
        let mut checksums = self.meta.read_exact_at(at, count).await.map_err(failed)?;
        let partial = (run_len % chunk_len) as usize;
        if partial != 0 {
            let on_disk = self.replica.on_disk();
            // The stored checksum may cover bytes beyond those that are read.
            let own = match self.offset + run_len < on_disk.len {
                true => Some(self.checksum.crc(&data[data.len() - partial..])),
                false => on_disk.last_chunk_checksum,
            };
            if let Some(crc) = own {
                checksums[count - 4..].copy_from_slice(&crc.to_be_bytes());
            }
        }
        Ok((data, checksums))
    }

    fn push_packet(&mut self, out: &mut BytesMut, checksums: &[u8], data: &[u8], last: bool) {
        let header = PacketHeader {
            offset_in_block: self.offset,
            seqno: self.seqno,
            last_packet_in_block: last,
            data_len: data.len() as u32,
            sync_block: false,
        };
        let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
        let prefix_len = encode_packet_prefix(&header, checksums.len(), &mut prefix);
        out.extend_from_slice(&prefix[..prefix_len]);
        out.extend_from_slice(checksums);
        out.extend_from_slice(data);
        ring::counters().payload_bytes_copied.add(data.len() as u64);
        self.offset += data.len() as u64;
        self.seqno += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::tests::{open, put_finalized};
    use crate::replica_length::DEFAULT_CHECKSUM;
    use crate::transitions::tests::{fill, node, on_ring, request};
    use crate::volume::tests::POOL;
    use ringfs_protocol::block::BlockId;
    use ringfs_protocol::packet::decode_packet_prefix;

    /// Reads a stream of packets back: the data, and the seqno after the last packet.
    fn unpack(mut stream: &[u8]) -> (Vec<u8>, i64) {
        let (mut data, mut seqno) = (Vec::new(), 0);
        loop {
            let frame = decode_packet_prefix(stream).unwrap().expect("whole packets");
            assert_eq!(frame.header.seqno, seqno);
            assert_eq!(frame.header.offset_in_block, data.len() as u64);
            seqno += 1;
            let (checksums, rest) = stream[frame.prefix_len..].split_at(frame.checksums_len);
            let (payload, rest) = rest.split_at(frame.data_len);
            DEFAULT_CHECKSUM.verify(payload, checksums).unwrap();
            data.extend_from_slice(payload);
            stream = rest;
            if frame.header.last_packet_in_block {
                assert!(stream.is_empty());
                return (data, seqno);
            }
        }
    }

    async fn stream(replica: Arc<Replica>, len: u64) -> Result<Vec<u8>> {
        let mut packets = ReplicaPackets::open(replica, len).await?;
        let mut stream = Vec::new();
        while let Some(run) = packets.next_run().await? {
            stream.extend(run);
        }
        Ok(stream)
    }

    #[test]
    fn every_length_arrives_whole() {
        on_ring(async {
            let node = node();
            let bytes: Vec<u8> = (0..1_200_000).map(|i| (i * 7 + i / 513) as u8).collect();
            for (id, len) in
                [0, 1, 511, 512, 513, 64_512, 64_513, 1_032_192, 1_200_000].into_iter().enumerate()
            {
                put_finalized(&node.volume, id as u64, 1001, &bytes[..len]);
            }
            let dataset = open(vec![node.volume.clone()]);
            for id in 0..9 {
                let replica = dataset.replica(POOL, BlockId(id)).unwrap();
                let len = replica.bytes_on_disk();
                let (data, packets) = unpack(&stream(replica, len).await.unwrap());
                assert!(data == bytes[..len as usize], "{len}");
                assert_eq!(packets as u64, len.div_ceil(PACKET_DATA_BYTES) + 1);
            }
        });
    }

    #[test]
    fn the_visible_part_of_a_block_being_written_has_its_own_last_checksum() {
        on_ring(async {
            let node = node();
            let mut writer = node.dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
            fill(&mut writer, &[6; 900], 0).await;
            let sent = stream(writer.replica.clone(), 700).await.unwrap();
            assert_eq!(unpack(&sent).0, [6; 700]);
        });
    }

    #[test]
    fn rot_shows_in_the_chunks_that_are_looked_at() {
        on_ring(async {
            let node = node();
            let bytes: Vec<u8> = (0..1_200_000).map(|i| (i * 7 + i / 513) as u8).collect();
            put_finalized(&node.volume, 1, 1001, &bytes);
            let dataset = open(vec![node.volume.clone()]);
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            verify(&replica, 1_200_000).await.unwrap();
            let mut rotten = bytes.clone();
            rotten[1_199_999] ^= 1;
            std::fs::write(replica.files().data, &rotten).unwrap();
            for (len, holds) in [(0, true), (1_199_616, true), (1_199_617, false)] {
                assert_eq!(verify(&replica, len).await.is_ok(), holds, "{len}");
            }
        });
    }

    #[test]
    fn corrupt_bytes_are_not_passed_on() {
        on_ring(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, &[1; 2000]);
            let dataset = open(vec![node.volume.clone()]);
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            std::fs::write(replica.files().data, [2; 2000]).unwrap();
            let error = stream(replica, 2000).await.unwrap_err();
            assert!(matches!(error, DatanodeError::Corrupt { .. }), "{error}");
        });
    }
}

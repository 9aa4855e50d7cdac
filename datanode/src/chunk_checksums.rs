//! The stored checksums of data as it arrives: the packet's own where they fit, computed anew where
//! a packet begins inside a chunk (an append), carries none, or counts in other chunks than the file.

use ringfs_protocol::checksum::{ChecksumMismatch, ChecksumType, DataChecksum};
use ringfs_protocol::meta_file::META_HEADER_BYTES;

use crate::error::{DatanodeError, Result};
use crate::packet::{Packet, Pieces};
use crate::ring::Buffer;
use crate::transitions::ReplicaWriter;

/// How far the block goes, and the CRC of its last chunk if that is not full.
pub struct ChunkChecksums {
    checksum: DataChecksum,
    end: u64,
    last: Option<u32>,
}

impl ChunkChecksums {
    /// For a replica that is continued; the checksum of a partial last chunk is in its meta file.
    pub async fn open(writer: &ReplicaWriter) -> Result<Self> {
        let checksum = writer.checksum;
        let chunk_len = u64::from(checksum.bytes_per_checksum);
        let end = writer.start_len;
        let mut last = None;
        if !end.is_multiple_of(chunk_len) && checksum.kind != ChecksumType::Null {
            let at = META_HEADER_BYTES as u64 + end / chunk_len * 4;
            let stored = writer.meta.read_exact_at(at, 4).await.map_err(DatanodeError::io(
                format!("reading the last checksum of {}", writer.replica.block()),
            ))?;
            last = stored.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        }
        Ok(Self { checksum, end, last })
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn last(&self) -> Option<u32> {
        self.last
    }

    /// Whether the packet's checksums cannot be stored as they are.
    pub fn must_recompute(&self, packet: &Packet, client: DataChecksum) -> bool {
        let chunk_len = u64::from(self.checksum.bytes_per_checksum);
        packet.header.data_len > 0
            && (client != self.checksum
                || packet.checksums().is_empty()
                || !packet.header.offset_in_block.is_multiple_of(chunk_len))
    }

    /// The checksums of the chunks that the packet's fresh data touches, with the index of the first
    /// one; moves on to the end of the packet.
    pub fn of(&mut self, packet: &Packet, client: DataChecksum) -> (Buffer, u64) {
        let chunk_len = u64::from(self.checksum.bytes_per_checksum);
        let first_chunk = self.end / chunk_len;
        if self.checksum.kind == ChecksumType::Null {
            self.end = packet.end();
            return (Vec::new().into(), first_chunk);
        }
        let checksums = if self.must_recompute(packet, client) {
            self.compute(&packet.fresh).into()
        } else {
            let known = (first_chunk - packet.header.offset_in_block / chunk_len) as usize * 4;
            packet.checksums_buffer().slice(known..)
        };
        self.end = packet.end();
        self.last = match checksums.last_chunk::<4>() {
            Some(bytes) if !self.end.is_multiple_of(chunk_len) => Some(u32::from_be_bytes(*bytes)),
            _ => None,
        };
        (checksums, first_chunk)
    }

    fn compute(&self, fresh: &Pieces) -> Vec<u8> {
        let chunk_len = self.checksum.bytes_per_checksum as usize;
        let mut in_chunk = (self.end % chunk_len as u64) as usize;
        let mut crc = self.last;
        let mut out = Vec::new();
        for piece in fresh.iter() {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let (part, after) = rest.split_at(rest.len().min(chunk_len - in_chunk));
                rest = after;
                in_chunk += part.len();
                let value = match crc {
                    Some(crc) => self.checksum.crc_append(crc, part),
                    None => self.checksum.crc(part),
                };
                crc = Some(value);
                if in_chunk == chunk_len {
                    out.extend_from_slice(&value.to_be_bytes());
                    (in_chunk, crc) = (0, None);
                }
            }
        }
        if let Some(crc) = crc.filter(|_| in_chunk > 0) {
            out.extend_from_slice(&crc.to_be_bytes());
        }
        out
    }
}

/// Verifies a packet's data against its checksums, chunks counted from the packet's start.
pub fn verify_pieces(
    checksum: DataChecksum,
    packet: &Packet,
) -> std::result::Result<(), ChecksumMismatch> {
    if checksum.kind == ChecksumType::Null {
        return Ok(());
    }
    let chunk_len = checksum.bytes_per_checksum as usize;
    let mut stored = packet.checksums();
    let mut chunk_index = 0;
    // The beginning of a chunk that goes on in the next piece.
    let mut split: Option<(u32, usize)> = None;
    let compare = |stored: &mut &[u8], computed: u32, chunk_index: usize| {
        let (expected, rest) = stored.split_first_chunk::<4>().expect("lengths were checked");
        *stored = rest;
        let expected = u32::from_be_bytes(*expected);
        match expected == computed {
            true => Ok(()),
            false => Err(ChecksumMismatch { chunk_index, expected, computed }),
        }
    };
    for piece in packet.data.iter() {
        let mut data = &piece[..];
        if let Some((crc, len)) = split.take() {
            let (part, rest) = data.split_at(data.len().min(chunk_len - len));
            data = rest;
            let crc = checksum.crc_append(crc, part);
            if len + part.len() < chunk_len {
                split = Some((crc, len + part.len()));
                continue;
            }
            compare(&mut stored, crc, chunk_index)?;
            chunk_index += 1;
        }
        let whole = data.len() / chunk_len * chunk_len;
        let (whole, part) = data.split_at(whole);
        let (checksums, rest) = stored.split_at(whole.len() / chunk_len * 4);
        checksum.verify(whole, checksums).map_err(|mismatch| ChecksumMismatch {
            chunk_index: chunk_index + mismatch.chunk_index,
            ..mismatch
        })?;
        chunk_index += whole.len() / chunk_len;
        stored = rest;
        if !part.is_empty() {
            split = Some((checksum.crc(part), part.len()));
        }
    }
    match split {
        Some((crc, _)) => compare(&mut stored, crc, chunk_index),
        None => Ok(()),
    }
}

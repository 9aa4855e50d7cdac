//! Reading one range of one replica: READ_BLOCK, packets, the closing status.
//!
//! The datanode sends whole chunks, so the first and the last packet may hold more than was asked
//! for. Packets are verified and handed out as slices of the receive buffer. After the last one the
//! status goes out and the connection can take the next operation.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ringfs_protocol::ProtocolError;
use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::messages::*;
use ringfs_protocol::operation::Opcode;
use ringfs_protocol::packet::{PacketFrame, decode_packet_prefix};
use ringfs_protocol::wire::encode_delimited;

use crate::ClientError;
use crate::datanode_stream::{DatanodeStream, within};
use crate::limits::READ_BUFFER_BYTES;
use crate::located_blocks::BlockRange;
use crate::write_pipeline::operation_header;

#[derive(Debug)]
pub(crate) struct BlockReader {
    stream: DatanodeStream,
    block: ExtendedBlock,
    /// `None` when the replica has no checksums or they are not wanted.
    checksum: Option<DataChecksum>,
    /// Where the next packet starts in the block.
    packet_offset: u64,
    /// What is still to be handed out.
    offset: u64,
    end: u64,
    next_seqno: i64,
    /// Bytes of the last packet, or of what is expected.
    packet_len: usize,
    /// Bytes up to which is received into the present buffer.
    batch_left: usize,
    limit: Duration,
    finished: bool,
}

impl BlockReader {
    pub async fn open(
        mut stream: DatanodeStream,
        client_name: &str,
        range: &BlockRange,
        verify: bool,
        limit: Duration,
    ) -> Result<Self, ClientError> {
        let located = &range.block;
        let block = ExtendedBlock::from(&located.b);
        let operation = OpReadBlockProto {
            header: operation_header(client_name, located.b.clone(), located.block_token.clone()),
            offset: range.offset_in_block,
            len: range.len,
            send_checksums: Some(verify),
            caching_strategy: Some(CachingStrategyProto { drop_behind: None, readahead: None }),
        };
        stream.send_operation(Opcode::ReadBlock, &operation, limit).await?;
        let response = stream.read_response(limit).await?;
        stream.check("READ_BLOCK", &block, &response)?;
        let malformed = |why: String| stream.malformed(ProtocolError::malformed(READ, why));
        let info = response
            .read_op_checksum_info
            .ok_or_else(|| malformed("no readOpChecksumInfo".to_owned()))?;
        let checksum =
            DataChecksum::from_proto(&info.checksum).map_err(|source| stream.malformed(source))?;
        let first = info.chunk_offset;
        let chunk = u64::from(checksum.bytes_per_checksum);
        if first > range.offset_in_block || first.saturating_add(chunk) <= range.offset_in_block {
            let asked = range.offset_in_block;
            return Err(malformed(format!("data from {first} on where {asked} was asked for")));
        }
        let trusts = ringfs_protocol::mutant!("client: trust rotten bytes");
        let verified = verify && checksum.kind != ChecksumType::Null && !trusts;
        Ok(Self {
            stream,
            block,
            checksum: verified.then_some(checksum),
            packet_offset: first,
            offset: range.offset_in_block,
            end: range.offset_in_block + range.len,
            next_seqno: 0,
            packet_len: usize::try_from(range.len).map_or(READ_BUFFER_BYTES, expected_bytes),
            batch_left: 0,
            limit,
            finished: false,
        })
    }

    /// The next bytes of the range; `None` after the last.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while self.offset < self.end {
            let frame = self.receive_packet().await?;
            if frame.header.last_packet_in_block {
                let (offset, end) = (self.offset, self.end);
                return Err(self.malformed(format!("ends at {offset}, {end} was asked for")));
            }
            let taken = self.take_data(frame);
            if let Err(ClientError::Checksum { .. }) = taken {
                self.tell_of_rot().await;
            }
            if let Some(bytes) = taken? {
                if self.offset == self.end {
                    self.finish().await;
                }
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Bytes still to be handed out.
    pub fn remaining(&self) -> u64 {
        self.end - self.offset
    }

    /// The connection, when the whole range was read and its end agreed on.
    pub fn into_stream(self) -> Option<DatanodeStream> {
        self.finished.then_some(self.stream)
    }

    /// Receives until the next packet is there as a whole. Packets of a stream are of one size as a
    /// rule, so batches of whole ones leave no part of one to be moved to the next buffer.
    async fn receive_packet(&mut self) -> Result<PacketFrame, ClientError> {
        loop {
            let frame = decode_packet_prefix(&self.stream.received)
                .map_err(|source| self.stream.malformed(source))?;
            let received = self.stream.received.len();
            let missing = match frame {
                Some(frame) if frame.total_len() <= received => {
                    self.check(&frame)?;
                    self.packet_len = frame.total_len();
                    return Ok(frame);
                }
                Some(frame) => frame.total_len() - received,
                None => 1,
            };
            if self.batch_left < missing {
                let packets = (READ_BUFFER_BYTES / self.packet_len).max(1);
                self.batch_left = missing.max((packets * self.packet_len).saturating_sub(received));
            }
            self.batch_left -= self.stream.receive(self.batch_left, self.limit).await?;
        }
    }

    fn check(&mut self, frame: &PacketFrame) -> Result<(), ClientError> {
        let header = &frame.header;
        if header.seqno != self.next_seqno || header.offset_in_block != self.packet_offset {
            return Err(self.malformed(format!(
                "packet {} at {} where {} at {} is due",
                header.seqno, header.offset_in_block, self.next_seqno, self.packet_offset
            )));
        }
        if frame.data_len == 0 && !header.last_packet_in_block {
            return Err(self.malformed("an empty packet that is not the last".to_owned()));
        }
        if let Some(checksum) = self.checksum {
            let expected = checksum.checksums_len(frame.data_len as u64);
            if frame.checksums_len as u64 != expected {
                return Err(self.malformed(format!(
                    "{} bytes of checksums for {} of data",
                    frame.checksums_len, frame.data_len
                )));
            }
        }
        self.next_seqno += 1;
        self.packet_offset += frame.data_len as u64;
        Ok(())
    }

    /// The wanted part of a packet's data, verified; `None` when none of it is wanted.
    fn take_data(&mut self, frame: PacketFrame) -> Result<Option<Bytes>, ClientError> {
        let mut packet = self.stream.received.split_to(frame.total_len());
        packet.advance(frame.prefix_len);
        let checksums = packet.split_to(frame.checksums_len);
        let start = self.packet_offset - frame.data_len as u64;
        if let Some(checksum) = self.checksum {
            checksum.verify(&packet, &checksums).map_err(|mismatch| {
                let chunk = u64::from(checksum.bytes_per_checksum);
                let offset = start + mismatch.chunk_index as u64 * chunk;
                ClientError::Checksum {
                    datanode: self.stream.address.clone(),
                    block: self.block.clone(),
                    chunk: offset / chunk,
                    offset,
                }
            })?;
        }
        let mut data = packet.freeze();
        data.advance((self.offset - start).min(data.len() as u64) as usize);
        data.truncate((self.end - self.offset).min(data.len() as u64) as usize);
        #[cfg(feature = "simulation")]
        ringfs_protocol::simulation::see(ringfs_protocol::simulation::Sight::Served {
            block: self.block.block,
            offset_bytes: self.offset,
            bytes: &data,
        });
        self.offset += data.len() as u64;
        Ok((!data.is_empty()).then_some(data))
    }

    /// Agrees with the datanode on the end. The bytes are there already: whatever fails now only
    /// means that the connection is not used again.
    ///
    /// The status is not sent by itself but in front of the next operation, which saves either side a
    /// system call and a wake-up for each read; a connection that is closed instead says as much.
    async fn finish(&mut self) {
        let Ok(trailer) = self.receive_packet().await else {
            return;
        };
        if !trailer.header.last_packet_in_block {
            return;
        }
        self.stream.received.advance(trailer.total_len());
        let status = match self.checksum {
            Some(_) => Status::ChecksumOk,
            None => Status::Success,
        };
        let status = ClientReadStatusProto { status: status as i32 };
        encode_delimited(&status, &mut self.stream.owed);
        self.finished = self.stream.received.is_empty();
    }

    /// The datanode looks at a replica that a reader found corrupt, and remembers it when the namenode
    /// has forgotten what it was told. Nothing depends on it.
    async fn tell_of_rot(&mut self) {
        let status = ClientReadStatusProto { status: Status::ErrorChecksum as i32 };
        let mut bytes = BytesMut::new();
        encode_delimited(&status, &mut bytes);
        let _ = within(self.limit, String::new, self.stream.tcp.write_all(&bytes)).await;
    }

    fn malformed(&self, why: String) -> ClientError {
        self.stream.malformed(ProtocolError::malformed(READ, format!("{}: {why}", self.block)))
    }
}

/// About what a datanode sends for `len` bytes of data: chunks at both ends, checksums, two prefixes.
fn expected_bytes(len: usize) -> usize {
    const ENDS: usize = 2 << 10;
    (len.saturating_add(len / 128).saturating_add(ENDS)).min(READ_BUFFER_BYTES)
}

const READ: &str = "READ_BLOCK";

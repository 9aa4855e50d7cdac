//! READ_BLOCK: a range of a replica, with its stored checksums, as packets.
//!
//! What is small goes out with its reply in one message (`small_read`), everything else as a stream
//! of packets (`read_stream`). Nothing is verified here: the client does, and reports what does not
//! match. A peer that goes away in the middle (a seek) is no error.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use ringfs_protocol::block::{ExtendedBlock, ReplicaState};
use ringfs_protocol::checksum::ChecksumType;
use ringfs_protocol::limits::OPERATION_MAX_BYTES;
use ringfs_protocol::messages::{
    BlockOpResponseProto, CachingStrategyProto, ClientReadStatusProto, OpReadBlockProto,
    ReadOpChecksumInfoProto, Status,
};
use ringfs_protocol::packet::{PACKET_PREFIX_MAX_BYTES, PacketHeader, encode_packet_prefix};
use ringfs_protocol::wire::{decode_delimited, encode_delimited};
use tracing::{debug, warn};

use crate::connection::Connection;
use crate::error::{DatanodeError, Result};
use crate::limits::SMALL_READ_BYTES;
use crate::open_replicas::{self, OpenReplica};
use crate::read_stream::ReadStream;
use crate::replica::{OnDisk, Replica};
use crate::ring::{self, BufferMut, SECTOR_BYTES};
use crate::server::TransferServer;
use crate::small_read;

/// How long a reader waits for a replica being written to reach the end of its range.
const GROWTH_PATIENCE: Duration = Duration::from_secs(3);
const GROWTH_POLL: Duration = Duration::from_millis(20);
/// For what a reader that hung up said before: that is here already.
const PARTING_PATIENCE: Duration = Duration::from_millis(100);

/// Serves one READ_BLOCK; returns whether the connection may carry another operation.
pub async fn serve(
    server: &TransferServer,
    connection: &mut Connection,
    request: &OpReadBlockProto,
) -> Result<bool> {
    let block = ExtendedBlock::from(&request.header.base_header.block);
    let range = match ReadRange::resolve(server, &block, request).await {
        Ok(range) => range,
        Err(error) => return refuse(connection, &block, error).await,
    };
    let (start, end) = (range.start, range.end);
    let replica = range.open.replica.clone();
    let (sent, bytes) = if end - start <= SMALL_READ_BYTES {
        let message = match small_read::message(&range, &server.reads).await {
            Ok(message) => message,
            Err(error) => {
                server.dataset.note_failure(&replica, &error);
                return refuse(connection, &block, error).await;
            }
        };
        let sent = connection.send_message(message).await.map(drop);
        let bytes = if sent.is_ok() { end - start } else { 0 };
        (sent, bytes)
    } else {
        connection.send(BytesMut::from(&range.reply()[..])).await?;
        let mut stream = ReadStream::new(range, &server.reads);
        let sent = stream.send(connection).await;
        (sent, stream.finish(&server.reads))
    };
    server.counters.bytes_read.add(bytes);
    match sent {
        Ok(()) => server.counters.blocks_read.add(1),
        Err(error @ DatanodeError::Peer { .. }) => {
            debug!(%block, %error, "reader is gone");
            // Perhaps over what it got, and it said so.
            read_status(connection, &replica, PARTING_PATIENCE).await?;
            return Ok(false);
        }
        Err(error) => {
            server.dataset.note_failure(&replica, &error);
            return Err(error);
        }
    }
    read_status(connection, &replica, server.socket_timeout).await
}

async fn refuse(
    connection: &Connection,
    block: &ExtendedBlock,
    error: DatanodeError,
) -> Result<bool> {
    warn!(%block, peer = connection.peer, %error, "cannot be read");
    connection.send(error_reply(&error)).await?;
    Ok(false)
}

pub fn error_reply(error: &DatanodeError) -> BytesMut {
    let mut bytes = BytesMut::new();
    let reply = BlockOpResponseProto {
        status: error.status() as i32,
        message: Some(error.to_string()),
        ..Default::default()
    };
    encode_delimited(&reply, &mut bytes);
    bytes
}

/// The client's verdict on what it got. One that closes without a word has seen enough.
async fn read_status(
    connection: &mut Connection,
    replica: &Replica,
    patience: Duration,
) -> Result<bool> {
    let status = connection
        .read("ClientReadStatusProto", patience, |buf| {
            decode_delimited::<ClientReadStatusProto>(
                "ClientReadStatusProto",
                buf,
                OPERATION_MAX_BYTES,
            )
        })
        .await;
    match status {
        Ok(Some(status)) => {
            if !matches!(status.status(), Status::ChecksumOk | Status::Success) {
                debug!(peer = connection.peer, status = ?status.status(), "read ended");
            }
            if status.status() == Status::ErrorChecksum {
                warn!(block = %replica.block(), peer = connection.peer, "a reader found it corrupt");
                replica.volume().suspects().push(replica.id());
            }
            Ok(true)
        }
        Ok(None) | Err(DatanodeError::Peer { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a request asks for: whole chunks of a replica, from `start` to `end`.
pub struct ReadRange {
    pub open: Rc<OpenReplica>,
    pub on_disk: OnDisk,
    pub start: u64,
    pub end: u64,
    pub with_checksums: bool,
    pub caching: CachingStrategyProto,
}

impl ReadRange {
    async fn resolve(
        server: &TransferServer,
        block: &ExtendedBlock,
        request: &OpReadBlockProto,
    ) -> Result<Self> {
        let replica = server.dataset.require_answering(block)?;
        let found = replica.block();
        let unfit = |why: String| DatanodeError::UnexpectedReplica { block: found, why };
        if found.generation_stamp < block.block.generation_stamp {
            let asked = block.block.generation_stamp;
            return Err(unfit(format!("Replica gen stamp < block genstamp, block={asked}")));
        }
        if replica.visible_len().is_none() {
            return Err(unfit(format!("Replica is not readable in state {:?}", replica.state())));
        }
        let (offset, len) = (request.offset, request.len);
        let on_disk = on_disk_for(&replica, offset.saturating_add(len)).await;
        // A length below zero in Java's eyes means "to the end".
        let asked_end =
            if len > i64::MAX as u64 { on_disk.len } else { offset.saturating_add(len) };
        if offset > on_disk.len || asked_end > on_disk.len {
            let why = match replica.state() {
                ReplicaState::Rbw if offset <= on_disk.len => {
                    format!("Need {asked_end} bytes, but only {} bytes available", on_disk.len)
                }
                _ => format!(
                    "Offset {offset} and length {len} don't match block {block} ( blockLen {} )",
                    on_disk.len
                ),
            };
            return Err(unfit(why));
        }
        let open = open_replicas::open(&replica).await;
        let open = open.inspect_err(|error| server.dataset.note_failure(&replica, error))?;
        let checksum = open.checksum;
        let chunk_len = u64::from(checksum.bytes_per_checksum);
        Ok(Self {
            open,
            on_disk,
            start: offset / chunk_len * chunk_len,
            end: asked_end.next_multiple_of(chunk_len).min(on_disk.len),
            with_checksums: request.send_checksums() && checksum.kind != ChecksumType::Null,
            caching: request.caching_strategy.clone().unwrap_or_default(),
        })
    }

    /// Whether reads of the range count as the ones of which a second is worth caching: not those
    /// of a replica that is being written, nor where the client says that it will not come again.
    pub fn may_come_again(&self) -> bool {
        self.open.finalized_len() == Some(self.on_disk.len) && !self.caching.drop_behind()
    }

    /// The reply that precedes the packets.
    pub fn reply(&self) -> BytesMut {
        let mut checksum = self.open.checksum.to_proto();
        if !self.with_checksums {
            checksum.r#type = ChecksumType::Null as i32;
        }
        let info = ReadOpChecksumInfoProto { checksum, chunk_offset: self.start };
        let reply = BlockOpResponseProto {
            status: Status::Success as i32,
            read_op_checksum_info: Some(info),
            ..Default::default()
        };
        let mut bytes = BytesMut::new();
        encode_delimited(&reply, &mut bytes);
        bytes
    }

    pub fn failed(&self, source: std::io::Error) -> DatanodeError {
        DatanodeError::Io { what: format!("reading {}", self.open.replica.block()), source }
    }
}

/// Appends what precedes a packet's checksums and data.
pub fn put_prefix(
    out: &mut Vec<u8>,
    seqno: i64,
    offset_in_block: u64,
    checksums_len: usize,
    data_len: u64,
) {
    let header = PacketHeader {
        offset_in_block,
        seqno,
        last_packet_in_block: data_len == 0,
        data_len: data_len as u32,
        sync_block: false,
    };
    let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
    let len = encode_packet_prefix(&header, checksums_len, &mut prefix);
    out.extend_from_slice(&prefix[..len]);
}

/// Reads `wanted` bytes at `offset` into the front of a buffer that is as long or longer, both
/// multiples of a sector unless the file ends before.
///
/// The read is under way when this returns.
pub fn read_filled(
    file: ring::File,
    buffer: BufferMut,
    offset: u64,
    wanted: usize,
) -> impl Future<Output = io::Result<BufferMut>> {
    let first = file.read_at(buffer, offset);
    async move {
        let (result, mut buffer) = first.await;
        let mut filled = result?;
        while filled < wanted {
            // A short read ends at a sector, unless it met the end of the file.
            if filled == 0 || !filled.is_multiple_of(SECTOR_BYTES) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let rest = BufferMut::zeroed((wanted - filled).next_multiple_of(SECTOR_BYTES));
            let (result, rest) = file.read_at(rest, offset + filled as u64).await;
            let count = result?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            let counters = ring::counters();
            counters.short_reads.add(1);
            counters.payload_bytes_copied.add(count as u64);
            filled += count;
        }
        Ok(buffer)
    }
}

/// Waits a while for a replica being written to reach `end`.
async fn on_disk_for(replica: &Replica, end: u64) -> OnDisk {
    let deadline = ring::now() + GROWTH_PATIENCE;
    loop {
        let on_disk = replica.on_disk();
        let may_grow = replica.state() == ReplicaState::Rbw && end <= i64::MAX as u64;
        if on_disk.len >= end || !may_grow || ring::now() >= deadline {
            return on_disk;
        }
        ring::sleep(GROWTH_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_ends_early_is_an_error_also_where_it_ends_with_a_sector() {
        ring::block_on(async {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("short");
            for len in [0, 700, SECTOR_BYTES, SECTOR_BYTES + 700] {
                std::fs::write(&path, vec![7; len]).unwrap();
                let options = ring::OpenOptions { read: true, ..Default::default() };
                let file = ring::File::open(&path, options).await.unwrap();
                let wanted = 2 * SECTOR_BYTES;
                let read = read_filled(file, BufferMut::zeroed(wanted), 0, wanted).await;
                let error = read.map(|_| ()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len} bytes");
            }
        })
        .unwrap();
    }
}

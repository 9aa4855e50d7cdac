//! READ_BLOCK: a range of a replica, with its stored checksums, as packets.
//!
//! The data goes from the disk into slabs (O_DIRECT, several reads ahead of the one being sent) and
//! from there to the socket; the checksums are read from the meta file, 32 MiB of data's worth at a
//! time. Nothing is verified here: the client does, and reports what does not match.
//!
//! The stream owns its slabs through a share of the pool. It waits for the pool only while it holds
//! none, reads ahead only into slabs that are free, and gives all back before it waits for the
//! client's status. A peer that goes away in the middle (a seek) is no error.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringfs_protocol::block::{ExtendedBlock, ReplicaState};
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::limits::OPERATION_MAX_BYTES;
use ringfs_protocol::messages::{
    BlockOpResponseProto, ClientReadStatusProto, OpReadBlockProto, ReadOpChecksumInfoProto, Status,
};
use ringfs_protocol::meta_file::META_HEADER_BYTES;
use ringfs_protocol::packet::{PACKET_PREFIX_MAX_BYTES, PacketHeader, encode_packet_prefix};
use ringfs_protocol::wire::{decode_delimited, encode_delimited};
use tracing::{debug, warn};

use crate::connection::Connection;
use crate::error::{DatanodeError, Result};
use crate::limits::{READ_STREAM_SLABS_MAX, SEND_TIMEOUT};
use crate::replica::{OnDisk, Replica};
use crate::replica_files::{open_reader, read_checksum};
use crate::ring::{self, Buffer, BufferMut, SECTOR_BYTES, SLAB_BYTES, SendMessage, SlabShare};
use crate::server::TransferServer;

/// Data of one packet, rounded down to whole chunks: what Apache's datanode sends.
const PACKET_DATA_BYTES: u64 = 64 << 10;
/// Checksums read at a time: those of 32 MiB at 512 bytes a chunk.
const CHECKSUMS_PIECE_BYTES: u64 = 256 << 10;
/// How long a reader waits for a replica being written to reach the end of its range.
const GROWTH_PATIENCE: Duration = Duration::from_secs(3);
const GROWTH_POLL: Duration = Duration::from_millis(20);

type Read = Pin<Box<dyn Future<Output = (std::io::Result<usize>, BufferMut)>>>;

/// Serves one READ_BLOCK; returns whether the connection may carry another operation.
pub async fn serve(
    server: &TransferServer,
    connection: &mut Connection,
    request: &OpReadBlockProto,
) -> Result<bool> {
    let block = ExtendedBlock::from(&request.header.base_header.block);
    let mut stream = match ReadStream::open(server, &block, request).await {
        Ok(stream) => stream,
        Err(error) => {
            warn!(%block, peer = connection.peer, %error, "cannot be read");
            connection.send(error_reply(&error)).await?;
            return Ok(false);
        }
    };
    connection.send(stream.reply()).await?;
    let sent = stream.send(connection).await;
    server.counters.bytes_read.add(stream.sent - stream.start);
    match sent {
        Ok(()) => server.counters.blocks_read.add(1),
        Err(error @ DatanodeError::Peer { .. }) => {
            debug!(%block, %error, "reader is gone");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    drop(stream);
    read_status(connection, server.socket_timeout).await
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
async fn read_status(connection: &mut Connection, patience: Duration) -> Result<bool> {
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
            Ok(true)
        }
        Ok(None) | Err(DatanodeError::Peer { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A range of a replica on its way: whole chunks from `start` to `end`.
struct ReadStream {
    replica: Arc<Replica>,
    data: ring::File,
    checksums: StoredChecksums,
    with_checksums: bool,
    start: u64,
    end: u64,
    /// Up to here packets were made.
    sent: u64,
    seqno: i64,
    /// Where the next read of the data file starts; a multiple of a sector.
    read_offset: u64,
    reads: VecDeque<(u64, Read)>,
    share: SlabShare,
}

impl ReadStream {
    async fn open(
        server: &TransferServer,
        block: &ExtendedBlock,
        request: &OpReadBlockProto,
    ) -> Result<Self> {
        let replica = server.dataset.require(block)?;
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
        let direct = replica.volume().direct_io();
        let (data, meta, meta_path) = open_reader(&replica, direct).await?;
        let checksum = read_checksum(&meta, &meta_path).await?;
        let chunk_len = u64::from(checksum.bytes_per_checksum);
        let start = offset / chunk_len * chunk_len;
        let end = asked_end.next_multiple_of(chunk_len).min(on_disk.len);
        let with_checksums = request.send_checksums() && checksum.kind != ChecksumType::Null;
        Ok(Self {
            replica,
            data,
            checksums: StoredChecksums::new(meta, checksum, on_disk, end),
            with_checksums,
            start,
            end,
            sent: start,
            seqno: 0,
            read_offset: start / SECTOR_BYTES as u64 * SECTOR_BYTES as u64,
            reads: VecDeque::new(),
            share: ring::pool().share(READ_STREAM_SLABS_MAX),
        })
    }

    fn reply(&self) -> BytesMut {
        let mut checksum = self.checksums.checksum.to_proto();
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

    async fn send(&mut self, connection: &Connection) -> Result<()> {
        let mut message = SendMessage::new();
        // Data that was read and makes no whole packet yet.
        let mut pending = Pending::default();
        while self.sent < self.end {
            self.read_ahead().await;
            pending.push(self.next_data().await?);
            let is_last = self.sent + pending.len == self.end;
            self.make_packets(&mut pending, is_last, &mut message).await?;
            message = send_message(connection, message).await?;
        }
        message.push(self.prefix(0, 0, true).into());
        send_message(connection, message).await.map(drop)
    }

    /// Starts reads up to the stream's share of slabs, the first one even if it must wait for it.
    async fn read_ahead(&mut self) {
        while self.read_offset < self.end {
            let slabs = match self.share.try_take(1) {
                Some(slabs) => slabs,
                None if self.reads.is_empty() => self.share.take(1).await,
                None => return,
            };
            let Some(mut slab) = slabs.into_iter().next() else { return };
            let wanted = (self.end - self.read_offset).next_multiple_of(SECTOR_BYTES as u64);
            slab.truncate(wanted.min(SLAB_BYTES as u64) as usize);
            let len = slab.len() as u64;
            let read = self.data.read_at(slab, self.read_offset);
            self.reads.push_back((self.read_offset, Box::pin(read)));
            self.read_offset += len;
        }
    }

    /// The data of the oldest read, cut to the range that is sent.
    async fn next_data(&mut self) -> Result<Buffer> {
        let failed = |source| DatanodeError::Io {
            what: format!("reading {}", self.replica.block()),
            source,
        };
        let (offset, read) = self.reads.pop_front().expect("read_ahead has started one");
        let (result, slab) = read.await;
        let mut filled = result.map_err(failed)?;
        let wanted = (self.end - offset).min(slab.len() as u64) as usize;
        let mut slab = slab;
        while filled < wanted {
            // A short read ends at a sector, unless it met the end of the file.
            if filled == 0 || !filled.is_multiple_of(SECTOR_BYTES) {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let rest = BufferMut::zeroed((wanted - filled).next_multiple_of(SECTOR_BYTES));
            let (result, rest) = self.data.read_at(rest, offset + filled as u64).await;
            let count = result.map_err(failed)?;
            slab[filled..filled + count].copy_from_slice(&rest[..count]);
            let counters = ring::counters();
            counters.short_reads.add(1);
            counters.payload_bytes_copied.add(count as u64);
            filled += count;
        }
        let skip = self.start.saturating_sub(offset) as usize;
        Ok(slab.freeze().slice(skip..wanted))
    }

    /// Turns pending data into packets, all of it when it is the last.
    async fn make_packets(
        &mut self,
        pending: &mut Pending,
        is_last: bool,
        message: &mut SendMessage,
    ) -> Result<()> {
        let chunk_len = u64::from(self.checksums.checksum.bytes_per_checksum);
        let packet_len = (PACKET_DATA_BYTES / chunk_len).max(1) * chunk_len;
        while pending.len >= packet_len || (is_last && pending.len > 0) {
            let len = pending.len.min(packet_len);
            let checksums_len = match self.with_checksums {
                true => self.checksums.checksum.checksums_len(len) as usize,
                false => 0,
            };
            let mut head = self.prefix(checksums_len, len, false);
            if self.with_checksums {
                head.extend_from_slice(self.checksums.of(self.sent, len, &self.replica).await?);
            }
            message.push(head.into());
            pending.move_to(len, message);
            self.sent += len;
            self.seqno += 1;
        }
        Ok(())
    }

    fn prefix(&self, checksums_len: usize, data_len: u64, is_last: bool) -> Vec<u8> {
        let header = PacketHeader {
            offset_in_block: self.sent,
            seqno: self.seqno,
            last_packet_in_block: is_last,
            data_len: data_len as u32,
            sync_block: false,
        };
        let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
        let len = encode_packet_prefix(&header, checksums_len, &mut prefix);
        let mut out = Vec::with_capacity(len + checksums_len);
        out.extend_from_slice(&prefix[..len]);
        out
    }
}

/// Waits a while for a replica being written to reach `end`.
async fn on_disk_for(replica: &Replica, end: u64) -> OnDisk {
    let deadline = Instant::now() + GROWTH_PATIENCE;
    loop {
        let on_disk = replica.on_disk();
        let may_grow = replica.state() == ReplicaState::Rbw && end <= i64::MAX as u64;
        if on_disk.len >= end || !may_grow || Instant::now() >= deadline {
            return on_disk;
        }
        ring::sleep(GROWTH_POLL).await;
    }
}

async fn send_message(
    connection: &Connection,
    message: Box<SendMessage>,
) -> Result<Box<SendMessage>> {
    match ring::timeout(SEND_TIMEOUT, connection.stream.send_message(message)).await {
        Ok((Ok(()), message)) => Ok(message),
        Ok((Err(error), _)) => Err(connection.failed(format!("sending: {error}"))),
        Err(_) => Err(connection.failed(format!("took nothing for {} s", SEND_TIMEOUT.as_secs()))),
    }
}

/// Data in order, waiting to become packets.
#[derive(Default)]
struct Pending {
    buffers: VecDeque<Buffer>,
    len: u64,
}

impl Pending {
    fn push(&mut self, buffer: Buffer) {
        self.len += buffer.len() as u64;
        self.buffers.push_back(buffer);
    }

    fn move_to(&mut self, len: u64, message: &mut SendMessage) {
        self.len -= len;
        let mut len = len as usize;
        while len > 0 {
            let front = self.buffers.front_mut().expect("as many bytes as counted");
            let part = len.min(front.len());
            message.push(front.slice(..part));
            front.advance(part);
            if front.is_empty() {
                self.buffers.pop_front();
            }
            len -= part;
        }
    }
}

/// The checksums of the meta file, a piece at a time.
struct StoredChecksums {
    meta: ring::File,
    checksum: DataChecksum,
    on_disk: OnDisk,
    /// End of the data that will be asked for.
    end: u64,
    /// Index of the first chunk in `piece`.
    first_chunk: u64,
    piece: Vec<u8>,
}

impl StoredChecksums {
    fn new(meta: ring::File, checksum: DataChecksum, on_disk: OnDisk, end: u64) -> Self {
        Self { meta, checksum, on_disk, end, first_chunk: 0, piece: Vec::new() }
    }

    /// The checksums of `len` bytes from `offset`, which starts a chunk.
    async fn of(&mut self, offset: u64, len: u64, replica: &Replica) -> Result<&[u8]> {
        let chunk_len = u64::from(self.checksum.bytes_per_checksum);
        let (first, count) = (offset / chunk_len, len.div_ceil(chunk_len));
        let held = self.piece.len() as u64 / 4;
        if first < self.first_chunk || first + count > self.first_chunk + held {
            let last = self.end.div_ceil(chunk_len);
            let wanted = (last - first).min((CHECKSUMS_PIECE_BYTES / 4).max(count));
            let at = META_HEADER_BYTES as u64 + first * 4;
            let read = self.meta.read_exact_at(at, wanted as usize * 4);
            self.piece = read.await.map_err(DatanodeError::io(format!(
                "reading the checksums of {}",
                replica.block()
            )))?;
            self.first_chunk = first;
            self.put_last_chunk(chunk_len);
        }
        let from = (first - self.first_chunk) as usize * 4;
        Ok(&self.piece[from..from + count as usize * 4])
    }

    /// The meta file's value for a last chunk that is being written may belong to a longer chunk
    /// than is sent.
    fn put_last_chunk(&mut self, chunk_len: u64) {
        let Some(crc) = self.on_disk.last_chunk_checksum else { return };
        if self.on_disk.len.is_multiple_of(chunk_len) {
            return;
        }
        let chunk = self.on_disk.len / chunk_len;
        let Some(index) = chunk.checked_sub(self.first_chunk) else { return };
        if let Some(slot) = self.piece.chunks_exact_mut(4).nth(index as usize) {
            slot.copy_from_slice(&crc.to_be_bytes());
        }
    }
}

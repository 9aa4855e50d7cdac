//! A range of a replica on its way to a reader, piece by piece; pieces end at multiples of a slab's
//! size.
//!
//! | piece | is read | and sent |
//! |---|---|---|
//! | not read of late | with O_DIRECT into a slab | from the slab |
//! | read of late, not in the page cache | through the page cache into a slab, which fills it | from the slab |
//! | read of late, in the page cache | not at all | from the page cache, by sendfile |
//!
//! So a first read leaves the page cache as it was, a second one fills it, and from the third on
//! neither the disk nor a copy is needed. What the cache holds, and for how long, is the kernel's to
//! decide. A replica that is being written is only read with O_DIRECT; the writes of an append drop
//! the pages that they change, and pages already on their way keep what they held.
//!
//! As soon as reads end the disk gets the next ones, and only then is sent what they brought: while
//! the thread copies to the socket the disk is at work. The stream owns its slabs through a share of
//! the pool. It waits for the pool only while it holds none, reads ahead only into slabs that are
//! free, and gives all back before it waits for the client's status.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;

use ringfs_protocol::packet::PACKET_PREFIX_MAX_BYTES;

use crate::block_reader::{ReadRange, put_prefix, read_filled};
use crate::connection::Connection;
use crate::error::Result;
use crate::limits::{
    READ_PACKET_BYTES, READ_RESERVE_DIVISOR, READ_STREAM_SLABS_MAX, READS_IN_FLIGHT_MAX,
};
use crate::read_history::{Granules, ReadHistory};
use crate::ring::{self, Buffer, BufferMut, SECTOR_BYTES, SLAB_BYTES, SendMessage, SlabShare};
use crate::stored_checksums::StoredChecksums;

const PIECE_BYTES: u64 = SLAB_BYTES as u64;
const SECTOR: u64 = SECTOR_BYTES as u64;

type Read = Pin<Box<dyn Future<Output = io::Result<BufferMut>>>>;

pub struct ReadStream {
    range: ReadRange,
    checksums: StoredChecksums,
    /// What was read of the block before this stream.
    read_before: Granules,
    /// Up to here packets were made.
    sent: u64,
    seqno: i64,
    /// Where the next read of the data file starts; a multiple of a sector.
    read_offset: u64,
    reads: VecDeque<PieceRead>,
    share: SlabShare,
}

/// A piece that is being read or was read, cut to what is sent of it.
struct PieceRead {
    skip: usize,
    wanted: usize,
    state: State,
}

enum State {
    Reading(Read),
    Ended(io::Result<BufferMut>),
}

impl ReadStream {
    pub fn new(range: ReadRange, history: &ReadHistory) -> Self {
        let chunk_len = u64::from(range.open.checksum.bytes_per_checksum);
        // Pieces sent from the page cache are packets of their own, of whole chunks.
        let may_be_cached = range.may_come_again() && PIECE_BYTES.is_multiple_of(chunk_len);
        let read_before = match may_be_cached {
            true => history.recall(range.open.replica.id()),
            false => Granules::default(),
        };
        // One piece is being sent, and as much is read ahead as the client wants.
        let slabs = range.caching.readahead.map_or(READ_STREAM_SLABS_MAX, |bytes| {
            let pieces = bytes.max(0) as u64 / PIECE_BYTES;
            pieces.saturating_add(1).min(READ_STREAM_SLABS_MAX as u64) as usize
        });
        Self {
            checksums: StoredChecksums::new(range.open.clone(), range.on_disk, range.end),
            read_before,
            sent: range.start,
            seqno: 0,
            read_offset: range.start / SECTOR * SECTOR,
            reads: VecDeque::new(),
            share: share_of_pool(slabs),
            range,
        }
    }

    pub async fn send(&mut self, connection: &Connection) -> Result<()> {
        let mut message = SendMessage::new();
        // Data that was read and makes no whole packet yet.
        let mut pending = Pending::default();
        while self.sent < self.range.end {
            if self.reads.is_empty() && pending.len == 0 && self.is_cached(self.sent).await? {
                self.send_cached_piece(connection).await?;
                self.read_offset = self.sent;
                continue;
            }
            if self.reads.is_empty() {
                let slab = self.share.take_one().await;
                self.start_read(slab).await?;
            }
            self.read_ahead().await?;
            pending.push(self.next_data().await?);
            if self.read_ahead().await? {
                // A turn of the ring, which gives them to the disk: the send keeps this thread.
                ring::yield_now().await;
            }
            self.make_packets(&mut pending, &mut message).await?;
            message = connection.send_message(message).await?;
        }
        let mut trailer = Vec::new();
        put_prefix(&mut trailer, self.seqno, self.sent, 0, 0);
        message.push(trailer.into());
        connection.send_message(message).await.map(drop)
    }

    /// Remembers what was read; returns how many bytes were sent.
    pub fn finish(self, history: &ReadHistory) -> u64 {
        let range = &self.range;
        if range.may_come_again() {
            history.note(range.open.replica.id(), range.on_disk.len, range.start, self.sent);
        }
        self.sent - range.start
    }

    /// Where the piece that holds `offset` ends.
    fn piece_end(&self, offset: u64) -> u64 {
        (offset + 1).next_multiple_of(PIECE_BYTES).min(self.range.end)
    }

    async fn is_cached(&self, offset: u64) -> Result<bool> {
        if !self.read_before.contains(offset) {
            return Ok(false);
        }
        let file = self.range.open.buffered().await?;
        Ok(file.is_cached(offset, self.piece_end(offset) - offset))
    }

    async fn send_cached_piece(&mut self, connection: &Connection) -> Result<()> {
        let end = self.piece_end(self.sent);
        let open = self.range.open.clone();
        let file = open.buffered().await?;
        while self.sent < end {
            let len = (end - self.sent).min(READ_PACKET_BYTES);
            let head = self.packet_head(len).await?;
            connection.send_cached(&head, file, self.sent, len).await?;
            ring::counters().bytes_read_cached.add(len);
            self.sent += len;
            self.seqno += 1;
        }
        // A reader as fast as the page cache would leave nothing to the other streams.
        ring::yield_now().await;
        Ok(())
    }

    /// Starts reads as far as slabs are free; whether it did.
    async fn read_ahead(&mut self) -> Result<bool> {
        let mut has_begun = false;
        while self.read_offset < self.range.end
            && self.in_flight().await < READS_IN_FLIGHT_MAX
            && !self.is_cached(self.read_offset).await?
            && let Some(slab) = self.share.try_take_one()
        {
            self.start_read(slab).await?;
            has_begun = true;
        }
        Ok(has_begun)
    }

    async fn start_read(&mut self, mut slab: BufferMut) -> Result<()> {
        let offset = self.read_offset;
        let end = self.piece_end(offset);
        slab.truncate((end - offset).next_multiple_of(SECTOR) as usize);
        let file = match self.read_before.contains(offset) {
            true => self.range.open.buffered().await?.clone(),
            false => self.range.open.data.clone(),
        };
        let wanted = (end - offset) as usize;
        let read = Box::pin(read_filled(file, slab, offset, wanted));
        let skip = self.range.start.saturating_sub(offset) as usize;
        self.reads.push_back(PieceRead { skip, wanted, state: State::Reading(read) });
        self.read_offset = end;
        Ok(())
    }

    /// Reads that have not ended yet.
    async fn in_flight(&mut self) -> usize {
        poll_fn(|context| {
            let mut count = 0;
            for PieceRead { state, .. } in &mut self.reads {
                if let State::Reading(read) = state {
                    match read.as_mut().poll(context) {
                        Poll::Ready(result) => *state = State::Ended(result),
                        Poll::Pending => count += 1,
                    }
                }
            }
            Poll::Ready(count)
        })
        .await
    }

    /// The data of the oldest read.
    async fn next_data(&mut self) -> Result<Buffer> {
        let PieceRead { skip, wanted, state } = self.reads.pop_front().expect("one was started");
        let ended = match state {
            State::Reading(read) => read.await,
            State::Ended(result) => result,
        };
        let slab = ended.map_err(|error| self.range.failed(error))?;
        Ok(slab.freeze().slice(skip..wanted))
    }

    /// Turns pending data into packets; less than a chunk stays, unless it is the last.
    async fn make_packets(
        &mut self,
        pending: &mut Pending,
        message: &mut SendMessage,
    ) -> Result<()> {
        let chunk_len = u64::from(self.range.open.checksum.bytes_per_checksum);
        let packet_len = (READ_PACKET_BYTES / chunk_len).max(1) * chunk_len;
        let is_last = self.sent + pending.len == self.range.end;
        while pending.len > 0 {
            let whole_chunks =
                if is_last { pending.len } else { pending.len / chunk_len * chunk_len };
            let len = whole_chunks.min(packet_len);
            if len == 0 {
                break;
            }
            message.push(self.packet_head(len).await?.into());
            pending.move_to(len, message);
            self.sent += len;
            self.seqno += 1;
        }
        Ok(())
    }

    /// Prefix and checksums of the next packet.
    async fn packet_head(&mut self, len: u64) -> Result<Vec<u8>> {
        let checksums_len = match self.range.with_checksums {
            true => self.range.open.checksum.checksums_len(len) as usize,
            false => 0,
        };
        let mut head = Vec::with_capacity(PACKET_PREFIX_MAX_BYTES + checksums_len);
        put_prefix(&mut head, self.seqno, self.sent, checksums_len, len);
        if self.range.with_checksums {
            head.extend_from_slice(self.checksums.of(self.sent, len).await?);
        }
        Ok(head)
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

/// Readers leave a part of the pool to writers, however slow their clients are.
fn share_of_pool(slabs: usize) -> SlabShare {
    let pool = ring::pool();
    pool.share(slabs, pool.total() / READ_RESERVE_DIVISOR)
}

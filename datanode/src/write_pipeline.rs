//! WRITE_BLOCK: one block being written, from its first datanode's side or any other's.
//!
//! ```text
//! client -> receiver -> BlockSink  -> disk          PacketReceiver lays packets out in slabs
//!              |                       |            BlockSink writes them from there
//!              +-----> Mirror ----> next datanode   Mirror sends them from there
//! client <- acks <-----------(both)----+
//! ```
//!
//! | stage | replica | replies |
//! |---|---|---|
//! | CREATE, APPEND, APPEND_RECOVERY, STREAMING_RECOVERY | RBW | after set-up, then an ack a packet |
//! | CLOSE_RECOVERY | FINALIZED at once | after set-up, no packets |
//! | TRANSFER_RBW, TRANSFER_FINALIZED | TEMPORARY, then RBW or FINALIZED | one at the end |
//! | any, from a datanode (no client name) | TEMPORARY, then FINALIZED | none |
//!
//! A packet is acknowledged when its data and checksums are in this node's files, those of a packet
//! with `syncBlock` on its device, and the datanodes below have acknowledged it. The last one waits
//! for the replica to be FINALIZED.
//!
//! Failures: a corrupt packet is answered ERROR_CHECKSUM and ends the stream, but what its sender has on
//! the way is taken until it hangs up: it might see no answer otherwise, only a peer that is gone. A
//! disk that fails ends it with ERROR; a mirror that fails is reported with every further ack, and the
//! stream goes on. The peer's disappearance, a stop by a recovery and every other error leave the
//! replica RBW with what it has, for recovery (a TEMPORARY one is deleted). No write is in flight when
//! the stream ends, but for those of a disk that did not answer in time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringfs_protocol::block::Block;
use ringfs_protocol::checksum::{ChecksumMismatch, DataChecksum};
use ringfs_protocol::messages::{OpWriteBlockProto, Status};
use ringfs_protocol::packet::{HEARTBEAT_SEQNO, PACKET_PREFIX_MAX_BYTES};
use tracing::{info, warn};

use crate::block_sink::BlockSink;
use crate::chunk_checksums::{ChunkChecksums, verify_pieces};
use crate::connection::Connection;
use crate::error::{DatanodeError, Result};
use crate::limits::{
    CORRUPT_SENDER_PATIENCE, HALF_PACKET_PATIENCE, RECEIVE_BYTES_MAX, RESERVE_DIVISOR,
    RESERVE_LEVELS_MAX, SILENCE_PATIENCE, WRITE_STREAM_SLABS_MAX,
};
use crate::mirror::Mirror;
use crate::packet::Packet;
use crate::packet_receiver::PacketReceiver;
use crate::pipeline_acks::Awaiting;
use crate::pipeline_setup::{MirrorSetup, Role, set_up, setup_reply, success_reply};
use crate::replica::Replica;
use crate::ring::{self, BufferMut, Either, ReceiveMessage, SECTOR_BYTES, SLAB_BYTES, SlabShare};
use crate::server::TransferServer;
use crate::transitions::ReplicaWriter;
use crate::whole_block;

/// Serves one WRITE_BLOCK to its end. Returns whether the connection may carry another operation: where
/// its peer asked for that, and the block ended as agreed with nothing behind it.
pub async fn serve(
    server: &TransferServer,
    connection: &mut Connection,
    request: OpWriteBlockProto,
) -> Result<bool> {
    let role = Role::of(&request)?;
    if let Some(served) = whole_block::serve(server, connection, &request, role).await {
        return served;
    }
    let (writer, setup) = set_up(server, &request, role).await;
    let MirrorSetup { mirror, status, bad_link, reopens_finalized } = setup;
    let writer = match writer {
        Ok(writer) => writer,
        Err(error) => {
            warn!(block = %request.header.base_header.block.block_id, peer = connection.peer, %error,
                "write refused");
            let reply = setup_reply(error.status(), String::new(), Some(error.to_string()));
            if !role.has_setup_reply() {
                return Err(error);
            }
            connection.send(reply).await?;
            return Ok(false);
        }
    };
    if role.has_setup_reply() {
        let reply = if status == Status::Success {
            success_reply(reopens_finalized, request.keeps_connection())
        } else {
            let message = format!("no pipeline to {bad_link}");
            setup_reply(status, bad_link, Some(message))
        };
        let replied = connection.send(reply).await;
        if status != Status::Success || replied.is_err() {
            if let Some(writer) = writer {
                server.dataset.abandon(writer).await?;
            }
            return replied.map(|()| false);
        }
    }
    let Some(writer) = writer else { return Ok(false) };
    let client_checksum = DataChecksum::from_proto(&request.requested_checksum)?;
    let stream = BlockStream::open(server, &writer, &request, role, client_checksum, mirror).await;
    match stream {
        Ok(stream) => {
            let outcome = stream.run(server, connection, writer).await;
            if let Err(DatanodeError::CorruptPacket { .. }) = outcome {
                connection.drop_rest(CORRUPT_SENDER_PATIENCE).await;
            }
            Ok(outcome? && role.has_setup_reply() && request.keeps_connection())
        }
        Err(error) => {
            server.dataset.abandon(writer).await?;
            Err(error)
        }
    }
}

pub struct BlockStream {
    pub(crate) block: Block,
    pub(crate) replica: Arc<Replica>,
    pub(crate) role: Role,
    start_len: u64,
    /// The client's idea of how long the block may get.
    size_hint: u64,
    pub(crate) sink: BlockSink,
    pub(crate) mirror: Option<Rc<Mirror>>,
    client_checksum: DataChecksum,
    chunks: RefCell<ChunkChecksums>,
    share: SlabShare,
    pub(crate) awaiting: RefCell<VecDeque<Awaiting>>,
    /// Whether the client asked for a sync with the block's last packet.
    pub(crate) synced: Cell<bool>,
    /// Whether the block's last packet has come, and nothing behind it.
    ends_cleanly: Cell<bool>,
    patience: Duration,
}

impl BlockStream {
    async fn open(
        server: &TransferServer,
        writer: &ReplicaWriter,
        request: &OpWriteBlockProto,
        role: Role,
        client_checksum: DataChecksum,
        mirror: Option<Rc<Mirror>>,
    ) -> Result<Self> {
        let hint = request.header.base_header.block.num_bytes();
        let chunks = ChunkChecksums::open(writer).await?;
        let sink = BlockSink::open(writer, chunks.last(), hint, server.counters.clone()).await?;
        Ok(Self {
            block: writer.replica.block(),
            replica: writer.replica.clone(),
            role,
            start_len: writer.start_len,
            size_hint: hint,
            sink,
            mirror,
            client_checksum,
            chunks: RefCell::new(chunks),
            share: share_of_pool(request.targets.len()),
            awaiting: RefCell::default(),
            synced: Cell::new(false),
            ends_cleanly: Cell::new(false),
            patience: server.socket_timeout,
        })
    }

    async fn run(
        self,
        server: &TransferServer,
        connection: &mut Connection,
        writer: ReplicaWriter,
    ) -> Result<bool> {
        let stopped = writer.stopped();
        let writer = RefCell::new(Some(writer));
        let outcome = {
            let mut disk = pin!(self.sink.run());
            let work = self.work(server, connection, &writer);
            let guarded = ring::race(work, stopped);
            match ring::race(guarded, disk.as_mut()).await {
                Either::First(worked) => {
                    if self.replica.volume().is_failed() {
                        // The writes in flight may never end: the client shall not wait for them.
                        self.tell_of_failure(&connection.stream.clone()).await;
                    }
                    self.sink.close();
                    let drained = disk.await;
                    match worked {
                        Either::First(worked) => worked.and(drained),
                        Either::Second(()) => {
                            Err(DatanodeError::WriterStopped { block: self.block })
                        }
                    }
                }
                Either::Second(failed) => {
                    self.tell_of_failure(&connection.stream.clone()).await;
                    failed
                }
            }
        };
        if let Some(mirror) = &self.mirror {
            mirror.end();
        }
        let left = writer.borrow_mut().take();
        if let Some(mut writer) = left {
            self.sink.hand_over(&mut writer);
            server.dataset.abandon(writer).await?;
        }
        if let Err(error) = &outcome {
            info!(block = %self.block, %error, "write ended early");
        } else {
            server.counters.blocks_written.add(1);
        }
        outcome.map(|()| self.ends_cleanly.get())
    }

    /// The receiver, the mirror and the acks side by side, until the block is done or fails.
    async fn work(
        &self,
        server: &TransferServer,
        connection: &mut Connection,
        writer: &RefCell<Option<ReplicaWriter>>,
    ) -> Result<()> {
        let upstream = connection.stream.clone();
        let receive = self.receive_all(server, connection);
        let finish = self.finish_all(server, &upstream, writer);
        let mirror = async {
            match &self.mirror {
                Some(mirror) => {
                    mirror.run(self.role.has_setup_reply(), &self.sink.progress).await;
                }
                None => std::future::pending().await,
            }
            std::future::pending::<()>().await
        };
        let receive_then_wait = async {
            match receive.await {
                Ok(()) => std::future::pending().await,
                Err(error) => error,
            }
        };
        match ring::race(finish, ring::race(receive_then_wait, mirror)).await {
            Either::First(finished) => finished,
            Either::Second(Either::First(error)) => Err(error),
            Either::Second(Either::Second(())) => Ok(()),
        }
    }

    /// Receives packets until the last one or a corrupt one.
    async fn receive_all(
        &self,
        server: &TransferServer,
        connection: &mut Connection,
    ) -> Result<()> {
        let mut receiver =
            PacketReceiver::new(self.start_len, self.size_hint, self.client_checksum);
        receiver.feed(&connection.received.split());
        let mut message = ReceiveMessage::new();
        let mut packets = VecDeque::new();
        // Whether no more has come than an empty packet, such as the block's last one: the mirror sends it
        // with those before it, and the next datanode is woken up once.
        let mut is_end_behind = false;
        loop {
            if !self.take_all(server, &mut packets)? {
                self.received_all(&packets, &receiver);
                return Ok(());
            }
            if !is_end_behind {
                // The mirror sends them now, and more comes meanwhile.
                ring::yield_now().await;
            }
            let mut available = connection.stream.available();
            if matches!(available, Ok(0)) && !receiver.is_unsettled() {
                self.await_bytes(connection, &mut receiver).await?;
                available = connection.stream.available();
            }
            // Behind the wait, so that silent streams hold no slabs that others need. The sink moves its
            // last partial sector to a new one: all that has arrived in the old one is with it by now.
            self.make_room(&mut receiver).await;
            receiver.settle(&mut packets)?;
            server.counters.payload_bytes_copied.add(receiver.take_copied_bytes());
            if receiver.is_unsettled() || !packets.is_empty() {
                continue;
            }
            // Where it cannot be told, all is predicted.
            if let Ok(available) = available {
                receiver.foresee(available, |at, prefix| connection.stream.peek(at, prefix));
            }
            receiver.plan(&mut message);
            let (received, returned) = connection.stream.receive_message(message).await;
            message = returned;
            let count =
                received.map_err(|error| connection.failed(format!("receiving: {error}")))?;
            receiver.received(&mut message, count, &mut packets)?;
            let behind = available.map_or(0, |available| available.saturating_sub(count));
            is_end_behind = (1..=PACKET_PREFIX_MAX_BYTES).contains(&behind);
            if count == 0 {
                return Err(connection.failed("closed before the block's last packet".to_owned()));
            }
        }
    }

    fn received_all(&self, behind: &VecDeque<Packet>, receiver: &PacketReceiver) {
        self.ends_cleanly.set(behind.is_empty() && receiver.is_between_packets());
    }

    /// Gives the receiver slabs, so that a whole receive fits; waits only for what it cannot do
    /// without.
    async fn make_room(&self, receiver: &mut PacketReceiver) {
        while receiver.room_len() < receiver.room_needed().max(RECEIVE_BYTES_MAX) {
            match self.share.try_take_one() {
                Some(slab) => self.add_room(receiver, slab),
                None if receiver.room_len() >= receiver.room_needed() => return,
                None => self.wait_for_room(receiver).await,
            }
        }
    }

    fn add_room(&self, receiver: &mut PacketReceiver, slab: BufferMut) {
        let room = if receiver.room_len() == 0 { self.sink.enter_slab(slab) } else { slab };
        receiver.add_room(room);
    }

    /// Waits for slabs of this stream that are being written. If the pool has none even then, the
    /// stream lets go of what it holds of a packet before it waits for other streams: those that
    /// wait for each other never would.
    async fn wait_for_room(&self, receiver: &mut PacketReceiver) {
        self.sink.set_receiver_waits(true);
        match ring::race(self.share.take_one(), self.sink.drained()).await {
            Either::First(slab) => self.add_room(receiver, slab),
            Either::Second(()) => {
                receiver.release();
                self.sink.leave_slab();
                let bytes = SECTOR_BYTES + receiver.backlog_len();
                for slab in self.share.take(bytes.div_ceil(SLAB_BYTES)).await {
                    self.add_room(receiver, slab);
                }
            }
        }
        self.sink.set_receiver_waits(false);
    }

    /// Waits for bytes. The disk flushes meanwhile; a stream that stays silent gives its slabs back.
    async fn await_bytes(
        &self,
        connection: &Connection,
        receiver: &mut PacketReceiver,
    ) -> Result<()> {
        self.sink.set_receiver_waits(true);
        let closed = |error| connection.failed(format!("receiving: {error}"));
        let begun = ring::now();
        loop {
            let left = self.patience.saturating_sub(ring::now().saturating_duration_since(begun));
            let patience = match receiver.is_inside_packet() {
                _ if self.share.held() == 0 => left,
                true => HALF_PACKET_PATIENCE.min(left),
                false => SILENCE_PATIENCE.min(left),
            };
            if let Ok(readable) = ring::timeout(patience, connection.stream.readable()).await {
                self.sink.set_receiver_waits(false);
                return readable.map_err(closed);
            }
            if patience == left {
                let seconds = self.patience.as_secs();
                return Err(connection.failed(format!("no packet within {seconds} s")));
            }
            if self.sink.is_drained() {
                receiver.release();
                self.sink.leave_slab();
            }
        }
    }

    /// Passes packets on; `false` after the last of the stream.
    fn take_all(&self, server: &TransferServer, packets: &mut VecDeque<Packet>) -> Result<bool> {
        while let Some(packet) = packets.pop_front() {
            if !self.take(server, packet)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Passes one packet on; `false` after the last of the stream.
    fn take(&self, server: &TransferServer, packet: Packet) -> Result<bool> {
        let header = packet.header;
        let mut awaiting = Awaiting {
            seqno: header.seqno,
            end: packet.end(),
            job: 0,
            is_last: header.last_packet_in_block,
            status: Status::Success,
        };
        if header.seqno == HEARTBEAT_SEQNO {
            self.send_to_mirror(&packet);
            self.await_ack(Awaiting { end: 0, ..awaiting });
            return Ok(true);
        }
        let mut chunks = self.chunks.borrow_mut();
        if let Err(mismatch) = self.verify(&packet, &chunks) {
            server.counters.checksum_errors.add(1);
            warn!(
                block = %self.block, seqno = header.seqno, offset = header.offset_in_block,
                chunk = mismatch.chunk_index, expected = mismatch.expected,
                computed = mismatch.computed, "corrupt packet"
            );
            let status = Status::ErrorChecksum;
            // Nothing comes behind it that would have what has gathered before it written.
            self.sink.flush(false);
            self.await_ack(Awaiting { end: 0, is_last: true, status, ..awaiting });
            return Ok(false);
        }
        self.send_to_mirror(&packet);
        server.counters.bytes_written.add(u64::from(header.data_len));
        if !self.replica.volume().direct_io() {
            server.counters.bytes_written_buffered.add(u64::from(header.data_len));
        }
        if packet.fresh.iter().next().is_some() {
            let (checksums, first_chunk) = chunks.of(&packet, self.client_checksum);
            self.replica.set_bytes_received(chunks.end());
            self.sink.push(packet.fresh.into_buffers(), checksums, first_chunk, chunks.last());
        }
        if header.sync_block || header.last_packet_in_block {
            awaiting.job = self.sink.flush(header.sync_block);
            self.synced.set(header.sync_block && header.last_packet_in_block);
        }
        self.await_ack(awaiting);
        Ok(!header.last_packet_in_block)
    }

    /// The last datanode verifies for all: the others pass on what they got. A datanode that stores
    /// other checksums than it received verifies as well, or it would seal what was corrupt.
    fn verify(
        &self,
        packet: &Packet,
        chunks: &ChunkChecksums,
    ) -> std::result::Result<(), ChecksumMismatch> {
        let is_tail = self.mirror.as_ref().is_none_or(|mirror| mirror.has_failed());
        let must = is_tail || chunks.must_recompute(packet, self.client_checksum);
        if must && !packet.checksums().is_empty() {
            verify_pieces(self.client_checksum, packet)?;
        }
        Ok(())
    }

    fn send_to_mirror(&self, packet: &Packet) {
        if let Some(mirror) = &self.mirror {
            let parts = std::iter::once(packet.head.clone()).chain(packet.data.iter().cloned());
            mirror.push(&packet.header, parts);
        }
    }
}

/// A stream near the end of its pipeline may take the last slabs: the others can only get on when it
/// does, and may hold all slabs of the datanodes before it.
fn share_of_pool(targets: usize) -> SlabShare {
    let pool = ring::pool();
    let reserve = pool.total() / RESERVE_DIVISOR * targets.min(RESERVE_LEVELS_MAX);
    pool.share(WRITE_STREAM_SLABS_MAX, reserve)
}

//! A small block in one go: its packets, the last one included, follow their WRITE_BLOCK at once.
//!
//! ```text
//! client -> WRITE_BLOCK + packets -> [relay them to the next datanode | store them] -> reply + acks
//! ```
//!
//! The bytes stay in the memory that they arrived in, for the next datanode and the disk alike. They are
//! relayed before they are stored; one piece of file work makes the replica (`whole_replica`); and when
//! both are done one message answers for the block: the reply to the set-up with all acks behind it. So
//! each datanode of the pipeline is woken up twice for a block, and its volume's threads once.
//!
//! It is all or nothing. Whatever fails, here or below, the set-up is refused, what was stored here is
//! taken back, and the client, which has the block's bytes still, gives the block up and begins another
//! one without the datanode that is named. A mid-way failure thus needs no recovery.
//!
//! The next datanode gets the packets with the operation over a connection that it kept, which is one of
//! ours; over a new one behind its reply, as any datanode does. Where blocks are to be synced or their data
//! thrown away, [`crate::write_pipeline`] finds the packets behind the operation as if they had come after
//! its reply.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ringfs_protocol::ProtocolError;
use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::limits::{WHOLE_BLOCK_MAX_BYTES, WHOLE_BLOCK_PACKETS_MAX};
use ringfs_protocol::messages::{
    BlockConstructionStage as Stage, DatanodeInfoProto, OpWriteBlockProto, Status,
};
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use ringfs_protocol::packet::{
    PACKET_PREFIX_MAX_BYTES, PipelineAck, Replies, decode_ack, decode_packet_prefix, encode_ack,
};
use smallvec::SmallVec;
use tracing::{debug, info, warn};

use crate::chunk_checksums::verify_pieces;
use crate::connection::Connection;
use crate::error::{DatanodeError, Result};
use crate::idle_mirrors;
use crate::packet::{Packet, Pieces};
use crate::peer;
use crate::pipeline_setup::{
    Role, data_address, mirror_patience, next_request, setup_reply, success_reply,
};
use crate::replica::Replica;
use crate::ring::{self, Buffer, SendMessage};
use crate::server::TransferServer;
use crate::transitions::CreateReplica;
use crate::volume::BlockData;
use crate::whole_replica::WholeReplica;

/// Serves the WRITE_BLOCK to its end, if it may go this way: returns whether the connection may carry
/// another operation, or `None` where nothing has been done.
pub async fn serve(
    server: &TransferServer,
    connection: &mut Connection,
    request: &OpWriteBlockProto,
    role: Role,
) -> Option<Result<bool>> {
    let following = request.following_bytes? as usize;
    let dataset = &server.dataset;
    let suits = role == Role::Pipeline(Stage::PipelineSetupCreate)
        && following <= WHOLE_BLOCK_MAX_BYTES
        && !dataset.sync_on_close
        && dataset.volumes().iter().all(|volume| volume.block_data() == BlockData::Stored);
    if !suits {
        return None;
    }
    Some(receive_and_write(server, connection, request, following).await)
}

async fn receive_and_write(
    server: &TransferServer,
    connection: &mut Connection,
    request: &OpWriteBlockProto,
    following: usize,
) -> Result<bool> {
    let bytes = connection.take_behind("a whole block", following, server.socket_timeout).await?;
    let checksum = DataChecksum::from_proto(&request.requested_checksum)?;
    let packets = split(&bytes, checksum)?;
    let mut block = ExtendedBlock::from(&request.header.base_header.block);
    block.block.num_bytes = packets.last().map_or(0, Packet::end);
    let whole = WholeBlock { server, request, block, checksum, bytes, packets };
    let outcome = whole.write().await;
    let tell = || outcome.iter().for_each(|written| server.dataset.tell_received(&written.replica));
    // The last datanode tells the namenode at once: the file's end waits for the first report. The others
    // do behind the reply, which the client waits for; but what stands is told of, whoever went away.
    if whole.is_last() {
        tell();
    }
    let replied = connection.send(whole.reply(&outcome)).await;
    if !whole.is_last() {
        tell();
    }
    replied.map(|()| outcome.is_ok() && request.keeps_connection())
}

type Answer<T> = std::result::Result<T, Refusal>;

struct WholeBlock<'a> {
    server: &'a TransferServer,
    request: &'a OpWriteBlockProto,
    /// With its length.
    block: ExtendedBlock,
    checksum: DataChecksum,
    /// As received.
    bytes: Vec<Buffer>,
    /// The same, taken apart.
    packets: Vec<Packet>,
}

/// The block is here and everywhere below.
struct Written {
    replica: Arc<Replica>,
    below: Below,
}

/// What the datanodes below say of a block that they all have.
struct Below {
    reopens_finalized: bool,
    /// One for each packet; none where this datanode is the last.
    acks: Vec<PipelineAck>,
}

/// Why there is no such block.
struct Refusal {
    status: Status,
    /// `ip:port` of the datanode to do without; empty where it is this one.
    bad_link: String,
    why: String,
}

impl WholeBlock<'_> {
    async fn write(&self) -> Answer<Written> {
        let own = |error: DatanodeError| Refusal {
            status: error.status(),
            bad_link: String::new(),
            why: error.to_string(),
        };
        if self.is_last() {
            self.verify()?;
        }
        let create = CreateReplica {
            block: self.block.clone(),
            checksum: self.checksum,
            storage_type: self.request.storage_type(),
            storage_id: self.request.storage_id.clone().filter(|id| !id.is_empty()),
        };
        // In this order, so that the next datanode gets the block while it is stored here.
        let (below, stored) =
            ring::join(self.relay(), self.server.dataset.create_whole(create, self.content()))
                .await;
        let replica = stored.map_err(own)?;
        match below {
            Ok(below) => {
                self.count(&replica);
                Ok(Written { replica, below })
            }
            Err(refusal) => {
                self.server.dataset.take_back(&replica).await.map_err(own)?;
                Err(refusal)
            }
        }
    }

    fn is_last(&self) -> bool {
        self.request.targets.is_empty()
    }

    /// The last datanode verifies for all: the others pass on what they got.
    fn verify(&self) -> Answer<()> {
        for packet in &self.packets {
            if let Err(mismatch) = verify_pieces(self.checksum, packet) {
                self.server.counters.checksum_errors.add(1);
                let seqno = packet.header.seqno;
                warn!(
                    block = %self.block, seqno, chunk = mismatch.chunk_index,
                    expected = mismatch.expected, computed = mismatch.computed, "corrupt packet"
                );
                let error = DatanodeError::CorruptPacket { block: self.block.block, seqno };
                return Err(Refusal {
                    status: Status::ErrorChecksum,
                    bad_link: String::new(),
                    why: error.to_string(),
                });
            }
        }
        Ok(())
    }

    fn content(&self) -> WholeReplica {
        let data = self.packets.iter().flat_map(|packet| packet.data.iter().cloned());
        WholeReplica {
            data: data.collect(),
            checksums: self.packets.iter().map(Packet::checksums_buffer).collect(),
        }
    }

    fn count(&self, replica: &Replica) {
        let (counters, len) = (&self.server.counters, self.block.block.num_bytes);
        if !replica.volume().direct_io() {
            counters.bytes_written_buffered.add(len);
        }
        counters.blocks_written.add(1);
        counters.bytes_written.add(len);
        counters.bytes_written_cached.add(len);
    }

    /// Has the datanodes below write the block.
    async fn relay(&self) -> Answer<Below> {
        let Some(target) = self.request.targets.first() else {
            return Ok(Below { reopens_finalized: true, acks: Vec::new() });
        };
        let asked = self.ask_next(target).await.unwrap_or_else(|error| {
            Err(Refusal { status: Status::Error, bad_link: String::new(), why: error.to_string() })
        });
        asked.map_err(|refusal| self.blame(refusal, peer::name(&target.id)))
    }

    async fn ask_next(&self, target: &DatanodeInfoProto) -> Result<Answer<Below>> {
        let address = data_address(target)?;
        let patience = mirror_patience(self.server, self.request);
        if let Some(kept) = idle_mirrors::take(address) {
            let begun = ring::now();
            match self.ask(kept, true, patience).await {
                // It was closed meanwhile, most likely, and the operation never read.
                Err(error) if ring::now().duration_since(begun) < patience => {
                    debug!(%error, %address, "a kept connection is of no more use");
                }
                asked => return asked,
            }
        }
        self.ask(Connection::connect(address, patience).await?, false, patience).await
    }

    /// What the client is told of a refusal by the datanode `name` below.
    fn blame(&self, refusal: Refusal, name: String) -> Refusal {
        self.server.counters.mirror_errors.add(1);
        warn!(block = %self.block, target = name, refusal.why, "mirror did not take a whole block");
        let bad_link = match refusal.status {
            // What was sent from here did not arrive as it was: let the client blame this node.
            Status::ErrorChecksum => String::new(),
            _ if refusal.bad_link.is_empty() => name,
            _ => refusal.bad_link,
        };
        Refusal { status: Status::Error, bad_link, why: refusal.why }
    }

    /// An error where the connection is of no use, a refusal where the datanode gives one. The packets go
    /// with the operation where the connection `is_kept`, else behind the reply.
    async fn ask(
        &self,
        mut mirror: Connection,
        is_kept: bool,
        patience: Duration,
    ) -> Result<Answer<Below>> {
        let mut next = next_request(self.request);
        next.keeps_connection = Some(true);
        next.following_bytes = self.request.following_bytes.filter(|_| is_kept);
        let mut operation = BytesMut::new();
        encode_operation(Opcode::WriteBlock, &next, &mut operation);
        let mut message = SendMessage::new();
        let push_packets = |message: &mut SendMessage| {
            self.bytes.iter().for_each(|piece| message.push(piece.clone()));
        };
        message.push(operation.freeze().into());
        if is_kept {
            push_packets(&mut message);
        }
        message = mirror.send_message(message).await?;
        let reply = mirror.expect("reply to WRITE_BLOCK", patience, decode_response).await?;
        if reply.status() != Status::Success {
            return Ok(Err(Refusal {
                status: reply.status(),
                bad_link: reply.first_bad_link().to_owned(),
                why: reply.message().to_owned(),
            }));
        }
        if !is_kept {
            push_packets(&mut message);
            mirror.send_message(message).await?;
        }
        let mut acks = Vec::with_capacity(self.packets.len());
        for packet in &self.packets {
            let ack = mirror.expect("pipeline ack", patience, decode_ack).await?;
            let bad = ack.replies.iter().rposition(|status| *status != Status::Success);
            if let Some(bad) = bad {
                let target = self.request.targets.get(bad);
                return Ok(Err(Refusal {
                    status: ack.replies[bad],
                    bad_link: target.map(|target| peer::name(&target.id)).unwrap_or_default(),
                    why: format!("answers {:?} to a packet", ack.replies[bad]),
                }));
            }
            if ack.seqno != packet.header.seqno {
                return Err(mirror.failed("an ack out of order".to_owned()));
            }
            acks.push(ack);
        }
        if reply.keeps_connection() && mirror.received.is_empty() {
            idle_mirrors::keep(mirror);
        }
        Ok(Ok(Below { reopens_finalized: reply.reopens_finalized(), acks }))
    }

    /// The reply to the set-up, and behind one that says SUCCESS the acks.
    fn reply(&self, outcome: &Answer<Written>) -> BytesMut {
        let below = match outcome {
            Ok(Written { below, .. }) => below,
            Err(Refusal { status, bad_link, why }) => {
                info!(block = %self.block, why, bad_link, "a whole block is refused");
                return setup_reply(*status, bad_link.clone(), Some(why.clone()));
            }
        };
        let mut out = success_reply(below.reopens_finalized, self.request.keeps_connection());
        for (index, packet) in self.packets.iter().enumerate() {
            let further = below.acks.get(index).map_or(&[][..], |ack| &ack.replies);
            let own = std::iter::once(Status::Success);
            let replies: Replies = own.chain(further.iter().copied()).collect();
            encode_ack(packet.header.seqno, &replies, 0, &mut out);
        }
        out
    }
}

/// The packets of a whole block, data where it lies.
fn split(bytes: &[Buffer], checksum: DataChecksum) -> Result<Vec<Packet>> {
    let malformed = |why: String| DatanodeError::from(ProtocolError::malformed("whole block", why));
    let mut rest = Rest(bytes.iter().cloned().collect());
    let mut packets: Vec<Packet> = Vec::new();
    while packets.len() < WHOLE_BLOCK_PACKETS_MAX {
        let Some(frame) = decode_packet_prefix(&rest.front(PACKET_PREFIX_MAX_BYTES))? else {
            return Err(malformed("it ends within a packet's header".to_owned()));
        };
        let end = packets.last().map_or(0, Packet::end);
        let header = frame.header;
        if header.offset_in_block != end || header.seqno < 0 || header.sync_block {
            return Err(malformed(format!("{header:?} at {end}")));
        }
        if frame.checksums_len as u64 != checksum.checksums_len(u64::from(header.data_len)) {
            return Err(malformed(format!("{} bytes of checksums", frame.checksums_len)));
        }
        let missing = || malformed("it ends within a packet".to_owned());
        let head = rest.take(frame.prefix_len + frame.checksums_len).ok_or_else(missing)?;
        let data = rest.take(frame.data_len).ok_or_else(missing)?;
        let prefix_len = frame.prefix_len;
        let fresh = Pieces::default();
        packets.push(Packet { header, head: joined(head), prefix_len, data, fresh });
        if header.last_packet_in_block {
            return match rest.0.is_empty() {
                true => Ok(packets),
                false => Err(malformed("bytes behind its last packet".to_owned())),
            };
        }
    }
    Err(malformed(format!("more than {WHOLE_BLOCK_PACKETS_MAX} packets")))
}

/// What is not taken apart yet.
struct Rest(VecDeque<Buffer>);

impl Rest {
    /// A copy of the first `len` bytes, if there are as many.
    fn front(&self, len: usize) -> SmallVec<[u8; PACKET_PREFIX_MAX_BYTES]> {
        self.0.iter().flat_map(|piece| piece.iter().copied()).take(len).collect()
    }

    fn take(&mut self, mut len: usize) -> Option<Pieces> {
        let mut taken = Pieces::default();
        while len > 0 {
            let piece = self.0.front_mut()?;
            let count = len.min(piece.len());
            taken.push(piece.slice(..count));
            piece.advance(count);
            if piece.is_empty() {
                self.0.pop_front();
            }
            len -= count;
        }
        Some(taken)
    }
}

/// A packet's head in one piece: it is copied where it lies across two.
fn joined(pieces: Pieces) -> Buffer {
    let mut pieces: SmallVec<[Buffer; 2]> = pieces.into_buffers().collect();
    match pieces.len() {
        1 => pieces.remove(0),
        _ => pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<u8>>().into(),
    }
}

//! What a balancer asks of two datanodes: REPLACE_BLOCK makes this one fetch a block from a third,
//! which serves it with COPY_BLOCK; the RECEIVED that follows names the replica that may go.
//!
//! The packets that arrive are verified and written one after the other through the page cache: a
//! move is background work, and should not take the write path's buffers. Both sides keep to the
//! node's bandwidth for moves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use ringfs_protocol::block::{Block, ExtendedBlock};
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::messages::{
    BlockOpResponseProto, OpCopyBlockProto, OpReplaceBlockProto, ReadOpChecksumInfoProto, Status,
};
use ringfs_protocol::meta_file::META_HEADER_BYTES;
use ringfs_protocol::operation::Opcode;
use ringfs_protocol::packet::{PacketFrame, decode_packet_prefix};
use tokio::sync::Semaphore;
use tracing::info;

use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::move_bandwidth::MoveBandwidth;
use crate::peer::Peer;
use crate::replica::OnDisk;
use crate::replica_files::require_stored;
use crate::replica_packets::ReplicaPackets;
use crate::ring;
use crate::transitions::{CreateReplica, ReplicaWriter};

/// Blocks that move to or from this node at a time, as in HDFS; further ones are refused.
const MOVES_MAX: usize = 50;

/// What COPY_BLOCK sends behind the last packet: the source holds nothing of the block any more.
pub const COPY_DONE: [u8; 2] = [0, b'd'];

#[derive(Clone)]
pub struct BlockMoves {
    dataset: Arc<Dataset>,
    timeout: Duration,
    running: Arc<Semaphore>,
    bandwidth: Arc<MoveBandwidth>,
}

impl BlockMoves {
    pub fn new(dataset: Arc<Dataset>, timeout: Duration, bytes_per_second: u64) -> Self {
        let bandwidth = Arc::new(MoveBandwidth::new(bytes_per_second));
        Self { dataset, timeout, running: Arc::new(Semaphore::new(MOVES_MAX)), bandwidth }
    }

    /// Which what COPY_BLOCK sends is to keep to as well.
    pub fn bandwidth(&self) -> &Arc<MoveBandwidth> {
        &self.bandwidth
    }

    /// COPY_BLOCK: the reply, and the packets that follow it; [`COPY_DONE`] ends the stream.
    pub async fn copy_block(
        &self,
        request: &OpCopyBlockProto,
    ) -> Result<(BlockOpResponseProto, ReplicaPackets)> {
        let block = ExtendedBlock::from(&request.header.block);
        let replica = self.dataset.require_answering(&block)?;
        let (found, visible) = (replica.block(), replica.visible_len());
        let Some(visible) =
            visible.filter(|_| found.generation_stamp >= block.block.generation_stamp)
        else {
            let why = format!("it cannot serve {block}");
            return Err(DatanodeError::UnexpectedReplica { block: found, why });
        };
        let packets = ReplicaPackets::open(replica, visible).await?;
        let reply = BlockOpResponseProto {
            status: Status::Success as i32,
            read_op_checksum_info: Some(ReadOpChecksumInfoProto {
                checksum: packets.checksum().to_proto(),
                chunk_offset: 0,
            }),
            ..Default::default()
        };
        Ok((reply, packets))
    }

    /// REPLACE_BLOCK: fetches the block from its source and keeps it. May take as long as the copy
    /// does: the caller tells its client IN_PROGRESS meanwhile.
    pub async fn replace_block(&self, request: &OpReplaceBlockProto) -> Result<Block> {
        let block = ExtendedBlock::from(&request.header.block);
        let _running = self
            .running
            .try_acquire()
            .map_err(|_| DatanodeError::Busy { what: "block moves", limit: MOVES_MAX })?;
        let mut source = Peer::connect(&request.source, self.timeout).await?;
        let copy = OpCopyBlockProto { header: request.header.clone() };
        source.send_operation(Opcode::CopyBlock, &copy).await?;
        let reply: BlockOpResponseProto = source.message("reply to COPY_BLOCK").await?;
        let checksum = match &reply.read_op_checksum_info {
            Some(info) if reply.status == Status::Success as i32 => {
                DataChecksum::from_proto(&info.checksum)?
            }
            _ => return Err(source.failed(format!("refused {block}: {}", reply.message()))),
        };
        let create = CreateReplica {
            block: block.clone(),
            checksum,
            storage_type: request.storage_type(),
            storage_id: request.storage_id.clone(),
        };
        let mut writer = self.dataset.create_temporary(create, false).await?;
        if let Err(error) = receive_packets(&mut source, &mut writer, &self.bandwidth).await {
            self.dataset.abandon(writer).await?;
            return Err(error);
        }
        let hint = Some(request.del_hint.clone()).filter(|hint| !hint.is_empty());
        let moved = self.dataset.finalize(writer, false, hint).await?;
        info!(block = %moved, from = source.name(), "moved here");
        Ok(moved)
    }
}

/// Takes packets in order until the last one.
async fn receive_packets(
    source: &mut Peer,
    writer: &mut ReplicaWriter,
    bandwidth: &MoveBandwidth,
) -> Result<()> {
    let path = writer.replica.files().data;
    require_stored(&writer.replica)?;
    ring::counters().unaligned_fallbacks.add(1);
    let mut len = 0;
    loop {
        let Some(frame) = decode_packet_prefix(source.received())? else {
            source.receive("a packet").await?;
            continue;
        };
        if source.received().len() < frame.total_len() {
            source.receive("the rest of a packet").await?;
            continue;
        }
        if writer.is_stopped() {
            return Err(DatanodeError::WriterStopped { block: writer.replica.block() });
        }
        expect_next(source, &frame, writer.checksum, len)?;
        bandwidth.take(frame.total_len()).await;
        source.received().advance(frame.prefix_len);
        let checksums = source.received().split_to(frame.checksums_len);
        let data = source.received().split_to(frame.data_len);
        if frame.header.last_packet_in_block {
            return Ok(());
        }
        writer.checksum.verify(&data, &checksums).map_err(|mismatch| {
            source.failed(format!("corrupt bytes in chunk {} after {len}", mismatch.chunk_index))
        })?;
        let chunk_len = u64::from(writer.checksum.bytes_per_checksum);
        let meta_offset =
            META_HEADER_BYTES as u64 + len / chunk_len * writer.checksum.checksum_size() as u64;
        let written = async {
            writer.data.write_all_at(data.to_vec().into(), len).await?;
            writer.meta.write_all_at(checksums.to_vec().into(), meta_offset).await
        };
        written.await.map_err(DatanodeError::io(format!("writing {}", path.display())))?;
        len += data.len() as u64;
        writer.file_len = len;
        writer.replica.set_all_lengths(OnDisk { len, last_chunk_checksum: None });
        writer.promise.taken(len);
    }
}

/// Packets of a copy follow each other without gap or overlap, at chunk boundaries.
fn expect_next(source: &Peer, frame: &PacketFrame, checksum: DataChecksum, len: u64) -> Result<()> {
    let at_boundary = len.is_multiple_of(u64::from(checksum.bytes_per_checksum));
    let checksums_len = checksum.checksums_len(frame.data_len as u64);
    let fits = frame.header.offset_in_block == len
        && (at_boundary || frame.data_len == 0)
        && checksums_len == frame.checksums_len as u64;
    if fits {
        return Ok(());
    }
    Err(source.failed(format!(
        "sent a packet of {} bytes with {} bytes of checksums at {} where {len} bytes are here",
        frame.data_len, frame.checksums_len, frame.header.offset_in_block
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_reports::BlockChange;
    use crate::dataset::tests::{extended, open, put_finalized};
    use crate::fake_peer::FakePeer;
    use crate::transitions::tests::{assert_holds, changes, node, on_ring};
    use crate::volume::tests::POOL;
    use ringfs_protocol::block::BlockId;
    use ringfs_protocol::messages::{BaseHeaderProto, DatanodeInfoProto};
    use ringfs_protocol::operation::Operation;

    fn moves(dataset: &Arc<Dataset>) -> BlockMoves {
        BlockMoves::new(dataset.clone(), Duration::from_secs(5), 1 << 30)
    }

    fn header() -> BaseHeaderProto {
        BaseHeaderProto { block: (&extended(1, 1001, 0)).into(), token: None, trace_info: None }
    }

    fn replace(source: DatanodeInfoProto) -> OpReplaceBlockProto {
        OpReplaceBlockProto {
            header: header(),
            del_hint: "old-node".into(),
            source,
            storage_type: None,
            storage_id: None,
        }
    }

    /// The reply and the packets with which a node that has block 1 answers COPY_BLOCK.
    async fn copy_of(bytes: &[u8]) -> (BlockOpResponseProto, Vec<u8>) {
        let node = node();
        put_finalized(&node.volume, 1, 1001, bytes);
        let dataset = Arc::new(open(vec![node.volume.clone()]));
        let request = OpCopyBlockProto { header: header() };
        let (reply, mut packets) = moves(&dataset).copy_block(&request).await.unwrap();
        let mut stream = Vec::new();
        while let Some(run) = packets.next_run().await.unwrap() {
            stream.extend_from_slice(&run);
        }
        (reply, stream)
    }

    fn source(reply: BlockOpResponseProto, stream: Vec<u8>) -> FakePeer<()> {
        FakePeer::start(move |mut conversation| {
            assert!(matches!(conversation.operation(), Operation::CopyBlock(_)));
            conversation.reply(&reply);
            conversation.send(&stream);
            conversation.send(&COPY_DONE);
        })
    }

    #[test]
    fn a_block_is_fetched_and_the_old_replica_named() {
        on_ring(async {
            let bytes: Vec<u8> = (0..200_000).map(|i| (i * 13 + i / 511) as u8).collect();
            let (reply, stream) = copy_of(&bytes).await;
            let node = node();
            let peer = source(reply, stream);
            let moved =
                moves(&node.dataset).replace_block(&replace(peer.info.clone())).await.unwrap();
            peer.outcome();
            assert_eq!(moved, extended(1, 1001, 200_000).block);
            assert_holds(&node.dataset.replica(POOL, BlockId(1)).unwrap(), &bytes);
            let hinted = BlockChange::Received { delete_hint: Some("old-node".into()) };
            assert_eq!(changes(&node), [(moved, hinted)]);
        });
    }

    #[test]
    fn a_corrupted_or_broken_copy_leaves_nothing() {
        on_ring(async {
            let (reply, stream) = copy_of(&[7; 100_000]).await;
            let node = node();
            let mut corrupt = stream.clone();
            corrupt[60_000] ^= 1;
            for stream in [corrupt, stream[..80_000].to_vec()] {
                let peer = source(reply.clone(), stream);
                let moved = moves(&node.dataset).replace_block(&replace(peer.info.clone())).await;
                assert!(matches!(
                    moved,
                    Err(DatanodeError::Peer { .. } | DatanodeError::Protocol(_))
                ));
                peer.outcome();
                assert!(node.dataset.replica(POOL, BlockId(1)).is_none());
            }
            let refusal =
                BlockOpResponseProto { status: Status::Error as i32, ..Default::default() };
            let peer = source(refusal, Vec::new());
            assert!(moves(&node.dataset).replace_block(&replace(peer.info.clone())).await.is_err());
        });
    }
}

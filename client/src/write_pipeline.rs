//! The connection of a writer to its pipeline: set up by WRITE_BLOCK, then packets out and acks in.
//!
//! Packets wait in `queued`; some at a time get their checksums and go to `outgoing`, as the buffers that
//! they are made of, and leave by one vectored write while they are still in the processor's cache.
//! Nothing here waits for more than the socket. Behind a block that ended well the connection is kept for
//! the next one, where the datanode says that it takes another operation.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::limits::WHOLE_BLOCK_MAX_BYTES;
use ringfs_protocol::messages::*;
use ringfs_protocol::operation::Opcode;
use ringfs_protocol::packet::{PipelineAck, decode_ack};
use tracing::debug;

use crate::ClientError;
use crate::datanode_stream::{DatanodeConnector, DatanodeStream, within};
use crate::idle_connections::IdleConnections;
use crate::limits::{ACK_BUFFER_BYTES, SEND_BATCH_BYTES, SEND_BATCH_PACKETS_MAX};
use crate::packetizer::Packet;
use crate::streamer::{PipelineNode, PipelineSetup, SetupFailure};

/// What every WRITE_BLOCK of a file says.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub client_name: String,
    pub checksum: DataChecksum,
    pub block_size: u64,
}

#[derive(Debug)]
pub(crate) struct WritePipeline {
    stream: DatanodeStream,
    pub reopens_finalized: bool,
    checksum: DataChecksum,
    queued: VecDeque<Packet>,
    /// Heads and data of what is being sent.
    outgoing: VecDeque<Bytes>,
    /// Memory of heads, used again for those of the next packets.
    heads: BytesMut,
    keeps_connection: bool,
    end: BlockEnd,
}

/// How far the end of the block is: the connection can be kept only behind an ack of all that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockEnd {
    Open,
    /// The block's last packet is on its way, and nothing behind it.
    Sent {
        seqno: i64,
    },
    Acknowledged,
    /// Something else was sent behind the last packet.
    Overrun,
}

impl WritePipeline {
    /// Connects to the first datanode of `setup`, which connects to the next and so on; over an idle
    /// connection if there is a good one, and then with the whole block if the datanode takes it.
    pub async fn open(
        connector: &DatanodeConnector,
        options: &WriteOptions,
        setup: &PipelineSetup,
        whole_block: Vec<Packet>,
    ) -> Result<Self, SetupFailure> {
        let first = &setup.nodes[0];
        let failed = |error: ClientError| SetupFailure { bad_link: None, why: error.to_string() };
        let limit = connector.timeouts.of_reply(setup.nodes.len());
        let operation = write_operation(options, setup);
        let kept = match connector.idle_connections.take(&first.address()) {
            Some(stream) => {
                let packets = if stream.takes_whole_blocks { whole_block } else { Vec::new() };
                let mut kept = Self::over(stream, options.checksum);
                match kept.begin(operation.clone(), packets, limit).await {
                    // It was closed meanwhile, and the operation never read.
                    Err(error @ ClientError::Io { .. }) => {
                        debug!("idle connection: {error}");
                        None
                    }
                    begun => Some((kept, begun.map_err(failed)?)),
                }
            }
            None => None,
        };
        let (mut pipeline, response) = match kept {
            Some(kept) => kept,
            None => {
                let stream = connector.connect(&first.datanode.id).await.map_err(failed)?;
                let mut anew = Self::over(stream, options.checksum);
                let response = anew.begin(operation, Vec::new(), limit).await.map_err(failed)?;
                (anew, response)
            }
        };
        let checked = pipeline.stream.check("WRITE_BLOCK", &setup.block, &response);
        checked.map_err(|error| SetupFailure {
            bad_link: response.first_bad_link.clone().filter(|link| !link.is_empty()),
            why: error.to_string(),
        })?;
        pipeline.reopens_finalized = response.reopens_finalized();
        pipeline.keeps_connection = response.keeps_connection();
        pipeline.stream.takes_whole_blocks = response.keeps_connection();
        Ok(pipeline)
    }

    fn over(stream: DatanodeStream, checksum: DataChecksum) -> Self {
        Self {
            stream,
            reopens_finalized: false,
            checksum,
            queued: VecDeque::new(),
            outgoing: VecDeque::new(),
            heads: BytesMut::new(),
            keeps_connection: false,
            end: BlockEnd::Open,
        }
    }

    /// Sends the operation, with the packets behind it in the same call, and reads the reply.
    async fn begin(
        &mut self,
        mut operation: OpWriteBlockProto,
        whole_block: Vec<Packet>,
        limit: Duration,
    ) -> Result<BlockOpResponseProto, ClientError> {
        whole_block.into_iter().for_each(|packet| self.push(packet));
        self.encode_batch();
        let following: usize = self.outgoing.iter().map(Bytes::len).sum();
        if following > WHOLE_BLOCK_MAX_BYTES {
            self.outgoing.clear();
            self.end = BlockEnd::Open;
        } else if following > 0 {
            operation.following_bytes = Some(following as u32);
        }
        let bytes = self.stream.operation(Opcode::WriteBlock, &operation);
        self.outgoing.push_front(bytes.freeze());
        let address = self.stream.address.clone();
        let what = || format!("sending WriteBlock to datanode {address}");
        let sending = async {
            while self.has_outgoing() {
                self.writable().await?;
                self.send()?;
            }
            Ok(())
        };
        within(limit, what, sending).await?;
        self.stream.read_response(limit).await
    }

    /// Whether the block's last packet is sent, or about to be.
    pub fn has_block(&self) -> bool {
        self.end != BlockEnd::Open
    }

    pub fn push(&mut self, packet: Packet) {
        if packet.last_in_block {
            self.end = BlockEnd::Sent { seqno: packet.seqno };
        } else if self.end != BlockEnd::Open {
            self.end = BlockEnd::Overrun;
        }
        self.queued.push_back(packet);
    }

    /// Gives the connection up, or to the next block or read.
    pub fn close(self, idle_connections: &IdleConnections) {
        if self.keeps_connection && self.end == BlockEnd::Acknowledged {
            idle_connections.keep(self.stream);
        }
    }

    pub fn has_outgoing(&self) -> bool {
        !(self.outgoing.is_empty() && self.queued.is_empty())
    }

    /// The rest cannot be sent: the acks that still come tell why.
    pub fn discard_outgoing(&mut self) {
        self.queued.clear();
        self.outgoing.clear();
    }

    pub async fn writable(&self) -> io::Result<()> {
        self.stream.tcp.writable().await
    }

    pub async fn readable(&self) -> io::Result<()> {
        self.stream.tcp.readable().await
    }

    /// Sends until the socket takes no more.
    pub fn send(&mut self) -> io::Result<()> {
        loop {
            if self.outgoing.is_empty() {
                self.encode_batch();
            }
            let mut slices = [IoSlice::new(&[]); 2 * SEND_BATCH_PACKETS_MAX];
            let count = self.outgoing.len();
            for (slice, bytes) in slices.iter_mut().zip(&self.outgoing) {
                *slice = IoSlice::new(bytes);
            }
            match count {
                0 => return Ok(()),
                _ => match self.stream.tcp.try_write_vectored(&slices[..count]) {
                    Ok(sent) => self.sent(sent),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                },
            }
        }
    }

    fn encode_batch(&mut self) {
        let mut bytes = 0;
        while bytes < SEND_BATCH_BYTES
            && self.outgoing.len() < 2 * SEND_BATCH_PACKETS_MAX
            && let Some(packet) = self.queued.pop_front()
        {
            bytes += packet.data.len();
            packet.encode_head(self.checksum, &mut self.heads);
            self.outgoing.push_back(self.heads.split().freeze());
            if !packet.data.is_empty() {
                self.outgoing.push_back(packet.data);
            }
        }
    }

    fn sent(&mut self, mut len: usize) {
        while let Some(first) = self.outgoing.front_mut() {
            if len < first.len() {
                first.advance(len);
                return;
            }
            len -= first.len();
            self.outgoing.pop_front();
        }
    }

    /// Takes what the socket has: true when there was something, false when there is nothing yet.
    pub fn receive(&mut self) -> io::Result<bool> {
        let mut acks = [0; ACK_BUFFER_BYTES];
        match self.stream.tcp.try_read(&mut acks) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.stream.received.extend_from_slice(&acks[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next ack received whole.
    pub fn next_ack(&mut self) -> Result<Option<PipelineAck>, ClientError> {
        let received: &mut BytesMut = &mut self.stream.received;
        match decode_ack(received) {
            Ok(Some((ack, len))) => {
                received.advance(len);
                let is_good = ack.replies.iter().all(|status| *status == Status::Success);
                if is_good && self.end == (BlockEnd::Sent { seqno: ack.seqno }) {
                    self.end = BlockEnd::Acknowledged;
                }
                Ok(Some(ack))
            }
            Ok(None) => Ok(None),
            Err(source) => Err(self.stream.malformed(source)),
        }
    }
}

/// Makes `source` send its replica of `block` to `target`, for a pipeline that both will be in.
pub(crate) async fn transfer_replica(
    connector: &DatanodeConnector,
    client_name: &str,
    block: &ExtendedBlock,
    token: TokenProto,
    source: &PipelineNode,
    target: PipelineNode,
) -> Result<(), ClientError> {
    let mut stream = connector.connect(&source.datanode.id).await?;
    let operation = OpTransferBlockProto {
        header: operation_header(client_name, block.into(), token),
        target_storage_types: vec![target.storage_type],
        target_storage_ids: storage_ids([&target]),
        targets: vec![target.datanode],
    };
    // The source answers when the target has the whole replica.
    let limit = connector.timeouts.of_reply(2);
    stream.send_operation(Opcode::TransferBlock, &operation, limit).await?;
    let response = stream.read_response(limit).await?;
    stream.check("TRANSFER_BLOCK", block, &response)
}

pub(crate) fn operation_header(
    client_name: &str,
    block: ExtendedBlockProto,
    token: TokenProto,
) -> ClientOperationHeaderProto {
    ClientOperationHeaderProto {
        base_header: BaseHeaderProto { block, token: Some(token), trace_info: None },
        client_name: client_name.to_owned(),
    }
}

fn write_operation(options: &WriteOptions, setup: &PipelineSetup) -> OpWriteBlockProto {
    let (first, rest) = (&setup.nodes[0], &setup.nodes[1..]);
    let mut block = ExtendedBlockProto::from(&setup.block);
    // A hint of the space that the block may need.
    block.num_bytes = Some(options.block_size);
    OpWriteBlockProto {
        header: operation_header(&options.client_name, block, setup.token.clone()),
        targets: rest.iter().map(|node| node.datanode.clone()).collect(),
        source: None,
        stage: setup.stage as i32,
        pipeline_size: setup.nodes.len() as u32,
        min_bytes_rcvd: setup.min_bytes,
        max_bytes_rcvd: setup.max_bytes,
        latest_generation_stamp: setup.latest_generation_stamp,
        requested_checksum: options.checksum.to_proto(),
        caching_strategy: Some(CachingStrategyProto { drop_behind: None, readahead: None }),
        storage_type: Some(first.storage_type),
        target_storage_types: rest.iter().map(|node| node.storage_type).collect(),
        allow_lazy_persist: None,
        pinning: Some(false),
        target_pinnings: vec![false; rest.len()],
        storage_id: storage_ids([first]).pop(),
        target_storage_ids: storage_ids(rest),
        keeps_connection: Some(true),
        following_bytes: None,
    }
}

/// All ids, or none when the namenode named none.
fn storage_ids<'a>(nodes: impl IntoIterator<Item = &'a PipelineNode>) -> Vec<String> {
    let ids: Vec<_> = nodes.into_iter().map(|node| node.storage_id.clone()).collect();
    if ids.iter().any(String::is_empty) { Vec::new() } else { ids }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ringfs_protocol::checksum::ChecksumType;
    use ringfs_protocol::operation::{Operation, decode_operation};
    use ringfs_protocol::packet::{decode_packet_prefix, encode_ack};
    use ringfs_protocol::wire::encode_delimited;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::PipelineTimeouts;

    fn packets() -> Vec<Packet> {
        let packet = |seqno: i64, offset_in_block: u64, data: &'static [u8]| Packet {
            seqno,
            offset_in_block,
            last_in_block: data.is_empty(),
            sync: false,
            data: Bytes::from_static(data),
        };
        vec![packet(0, 0, &[7; 700]), packet(1, 700, &[])]
    }

    /// Takes one block, keeps the connection, and returns how many bytes were said to follow. Where some
    /// were, the reply waits for the last of them.
    async fn take_block(tcp: &mut TcpStream) -> Option<u32> {
        let mut received = BytesMut::new();
        let (operation, used) = loop {
            assert!(tcp.read_buf(&mut received).await.unwrap() > 0);
            if let Some(decoded) = decode_operation(&received).unwrap() {
                break decoded;
            }
        };
        received.advance(used);
        let Operation::WriteBlock(request) = operation else { panic!() };
        let mut out = BytesMut::new();
        encode_delimited(
            &BlockOpResponseProto {
                status: Status::Success as i32,
                keeps_connection: Some(true),
                ..Default::default()
            },
            &mut out,
        );
        if request.following_bytes.is_none() {
            assert!(received.is_empty(), "packets before the reply");
            tcp.write_all(&out.split()).await.unwrap();
        }
        let mut taken = 0;
        for seqno in 0..2 {
            let len = loop {
                let frame = decode_packet_prefix(&received).unwrap();
                match frame.filter(|frame| received.len() >= frame.total_len()) {
                    Some(frame) => break frame.total_len(),
                    None => assert!(tcp.read_buf(&mut received).await.unwrap() > 0),
                }
            };
            received.advance(len);
            taken += len as u32;
            encode_ack(seqno, &[Status::Success], 0, &mut out);
        }
        tcp.write_all(&out).await.unwrap();
        assert!(request.following_bytes.is_none_or(|following| following == taken));
        request.following_bytes
    }

    /// Writes one block; returns whether it went with the set-up.
    async fn write_block(connector: &DatanodeConnector, node: &PipelineNode) -> bool {
        let options = WriteOptions {
            client_name: "c".to_owned(),
            checksum: DataChecksum::new(ChecksumType::Crc32c, 512).unwrap(),
            block_size: 1 << 20,
        };
        let setup = PipelineSetup {
            block: ExtendedBlock::from(&ExtendedBlockProto::default()),
            token: TokenProto::default(),
            nodes: vec![node.clone()],
            stage: BlockConstructionStage::PipelineSetupCreate,
            min_bytes: 0,
            max_bytes: 0,
            latest_generation_stamp: 0,
        };
        let opened = WritePipeline::open(connector, &options, &setup, packets()).await;
        let mut pipeline = opened.unwrap();
        let has_block = pipeline.has_block();
        if !has_block {
            packets().into_iter().for_each(|packet| pipeline.push(packet));
        }
        let mut acks = 0;
        while acks < 2 {
            pipeline.send().unwrap();
            match pipeline.next_ack().unwrap() {
                Some(_) => acks += 1,
                None => {
                    pipeline.readable().await.unwrap();
                    pipeline.receive().unwrap();
                }
            }
        }
        pipeline.close(&connector.idle_connections);
        has_block
    }

    #[tokio::test]
    async fn a_whole_block_goes_to_who_kept_a_writers_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut id = DatanodeIDProto { ip_addr: "127.0.0.1".to_owned(), ..Default::default() };
        id.xfer_port = listener.local_addr().unwrap().port().into();
        let datanode = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut followed = Vec::new();
            for _ in 0..3 {
                followed.push(take_block(&mut tcp).await.is_some());
            }
            followed
        });
        let connector = DatanodeConnector {
            host: String::new(),
            timeouts: PipelineTimeouts {
                socket: Duration::from_secs(10),
                per_datanode: Duration::from_secs(1),
            },
            use_hostname: false,
            idle_connections: IdleConnections::default(),
        };
        // As it is behind a read: kept, by whatever datanode.
        connector.idle_connections.keep(connector.connect(&id).await.unwrap());
        let node = PipelineNode {
            datanode: DatanodeInfoProto { id, ..Default::default() },
            storage_type: StorageTypeProto::Disk as i32,
            storage_id: String::new(),
        };
        for is_known in [false, true, true] {
            assert_eq!(write_block(&connector, &node).await, is_known);
        }
        assert_eq!(datanode.await.unwrap(), [false, true, true]);
    }
}

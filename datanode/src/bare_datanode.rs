//! A datanode without a namenode, and a client's end of its transfer port: what tests of the data path
//! start from.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use ringfs_protocol::ProtocolError;
use ringfs_protocol::block::{BlockId, ReplicaState};
use ringfs_protocol::messages::{
    BaseHeaderProto, BlockConstructionStage as Stage, BlockOpResponseProto, CachingStrategyProto,
    ClientOperationHeaderProto, ClientReadStatusProto, DatanodeIDProto, DatanodeInfoProto,
    OpReadBlockProto, OpTransferBlockProto, OpWriteBlockProto, Status,
};
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use ringfs_protocol::packet::{
    PACKET_PREFIX_MAX_BYTES, PacketHeader, PipelineAck, decode_ack, decode_packet_prefix,
    encode_packet_prefix,
};
use ringfs_protocol::wire::encode_delimited;

use crate::activity::Activity;
use crate::block_move::BlockMoves;
use crate::block_transfer::Transfers;
use crate::counters::Counters;
use crate::data_work::DataWork;
use crate::dataset::tests::{extended, open};
use crate::limits::DISK_OPERATION_TIMEOUT;
use crate::read_history::ReadHistory;
use crate::replica_length::DEFAULT_CHECKSUM as CHECKSUM;
use crate::ring;
use crate::runtime::DataThreads;
use crate::server::TransferServer;
use crate::transitions::tests::{Node, assert_holds};
use crate::volume::Volume;
use crate::volume::tests::{POOL, buffered_volume_at, volume_at};

const POOL_BYTES: u64 = 48 << 20;

/// A datanode without a namenode.
pub(crate) struct Datanode {
    pub node: Node,
    pub server: Arc<TransferServer>,
    work: DataWork,
    pub address: SocketAddr,
    /// Last: its threads use the others.
    _threads: DataThreads,
}

impl Datanode {
    pub fn start(direct_io: bool) -> Self {
        Self::start_at("127.0.0.1", direct_io)
    }

    pub fn start_at(ip_address: &str, direct_io: bool) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("d");
        let volume = if direct_io { volume_at(root) } else { buffered_volume_at(root) };
        Self::start_on(ip_address, vec![volume], temp)
    }

    pub fn start_on(ip_address: &str, volumes: Vec<Arc<Volume>>, temp: tempfile::TempDir) -> Self {
        Self::start_with(ip_address, volumes, temp, POOL_BYTES)
    }

    /// One data thread, whose streams share a pool of so many bytes.
    pub fn start_with_pool(pool_bytes: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let volume = volume_at(temp.path().join("d"));
        Self::start_with("127.0.0.1", vec![volume], temp, pool_bytes)
    }

    fn start_with(
        ip_address: &str,
        volumes: Vec<Arc<Volume>>,
        temp: tempfile::TempDir,
        pool_bytes: u64,
    ) -> Self {
        let volume = volumes[0].clone();
        let dataset = Arc::new(open(volumes));
        let counters = Arc::<Counters>::default();
        let threads =
            DataThreads::start(1, pool_bytes, false, DISK_OPERATION_TIMEOUT, &counters).unwrap();
        let spawner = threads.spawner();
        let work = DataWork::new(move |job| spawner.spawn(job));
        let timeout = Duration::from_secs(10);
        let activity = Arc::<Activity>::default();
        let server = Arc::new(TransferServer {
            dataset: dataset.clone(),
            activity: activity.clone(),
            counters,
            reads: ReadHistory::new(1 << 30),
            transfers: Transfers {
                dataset: dataset.clone(),
                activity,
                timeout,
                timeout_per_target: timeout,
                own_id: DatanodeIDProto::default(),
            },
            moves: BlockMoves::new(dataset.clone(), timeout, 1 << 30),
            socket_timeout: timeout,
            timeout_per_target: timeout,
            keepalive: timeout,
            restart: Arc::default(),
            streams_max: 64,
        });
        let listener = TcpListener::bind((ip_address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        server.clone().start(listener, work.clone());
        Self {
            node: Node { dataset, volume, _temp: temp },
            server,
            work,
            address,
            _threads: threads,
        }
    }

    pub fn info(&self) -> DatanodeInfoProto {
        let id = DatanodeIDProto {
            ip_addr: self.address.ip().to_string(),
            xfer_port: self.address.port().into(),
            ..Default::default()
        };
        DatanodeInfoProto { id, ..Default::default() }
    }

    pub fn assert_holds(&self, id: u64, bytes: &[u8]) {
        let replica = self.node.dataset.replica(POOL, BlockId(id)).unwrap();
        assert_eq!(replica.state(), ReplicaState::Finalized);
        assert_eq!(replica.bytes_on_disk(), bytes.len() as u64);
        assert_holds(&replica, bytes);
    }

    /// Slabs that streams hold, once those that just ended have let go.
    pub fn held_slabs(&self) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let held = || {
            runtime
                .block_on(self.work.run(|| async { ring::pool().total() - ring::pool().free() }))
                .unwrap()
        };
        for _ in 0..200 {
            if held() == 0 {
                return 0;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        held()
    }
}

/// A client's end of a connection.
pub(crate) struct Client {
    pub stream: TcpStream,
    received: BytesMut,
    pub seqno: i64,
    pub caching: Option<CachingStrategyProto>,
}

impl Client {
    pub fn connect(datanode: &Datanode) -> Self {
        Self::connect_to(datanode.address)
    }

    pub fn connect_to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: BytesMut::new(), seqno: 0, caching: None }
    }

    fn decode<T>(
        &mut self,
        decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, ProtocolError>,
    ) -> Option<T> {
        loop {
            if let Some((message, used)) = decode(&self.received).unwrap() {
                self.received.advance(used);
                return Some(message);
            }
            let mut piece = [0; 65536];
            let count = self.stream.read(&mut piece).unwrap_or(0);
            if count == 0 {
                return None;
            }
            self.received.extend_from_slice(&piece[..count]);
        }
    }

    pub fn start_write(&mut self, request: &OpWriteBlockProto) -> BlockOpResponseProto {
        let mut bytes = BytesMut::new();
        encode_operation(Opcode::WriteBlock, request, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
        self.response().expect("a reply to WRITE_BLOCK")
    }

    /// `None` when the datanode has closed.
    pub fn response(&mut self) -> Option<BlockOpResponseProto> {
        self.decode(decode_response)
    }

    pub fn transfer(&mut self, request: &OpTransferBlockProto) -> BlockOpResponseProto {
        let mut bytes = BytesMut::new();
        encode_operation(Opcode::TransferBlock, request, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
        self.decode(decode_response).expect("a reply to TRANSFER_BLOCK")
    }

    pub fn send_packet(&mut self, data: &[u8], offset: u64, sync_block: bool, last: bool) {
        let bytes = packet(data, offset, self.seqno, sync_block, last);
        self.seqno += 1;
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next ack; `None` when the datanode has closed.
    pub fn ack(&mut self) -> Option<PipelineAck> {
        self.decode(decode_ack)
    }

    /// Reads the acks of all packets sent since `from`.
    pub fn expect_acks(&mut self, from: i64, datanodes: usize) {
        for seqno in from..self.seqno {
            let ack = self.ack().unwrap_or_else(|| panic!("closed before ack {seqno}"));
            assert_eq!(ack.seqno, seqno);
            assert_eq!(ack.replies[..], vec![Status::Success; datanodes]);
        }
    }

    pub fn finish(&mut self, len: u64, datanodes: usize, acked: i64) {
        self.send_packet(&[], len, false, true);
        self.expect_acks(acked, datanodes);
    }

    /// READ_BLOCK, up to its reply.
    pub fn start_read(&mut self, id: u64, offset: u64, len: u64) -> BlockOpResponseProto {
        let request = OpReadBlockProto {
            header: header(id, 1001, 0),
            offset,
            len,
            send_checksums: None,
            caching_strategy: self.caching.clone(),
        };
        let mut bytes = BytesMut::new();
        encode_operation(Opcode::ReadBlock, &request, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
        self.decode(decode_response).expect("a reply to READ_BLOCK")
    }

    pub fn send_read_status(&mut self, status: Status) {
        let mut bytes = BytesMut::new();
        encode_delimited(&ClientReadStatusProto { status: status as i32 }, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// READ_BLOCK: the bytes from the chunk at `offset` on, and where they start.
    pub fn read(&mut self, id: u64, offset: u64, len: u64) -> Result<(u64, Vec<u8>), String> {
        let reply = self.start_read(id, offset, len);
        let Some(info) = reply.read_op_checksum_info.clone() else {
            return Err(reply.message().to_owned());
        };
        Ok((info.chunk_offset, self.read_started(info.chunk_offset)))
    }

    /// The packets that follow the reply to READ_BLOCK, whose bytes are from `start` on.
    pub fn read_started(&mut self, start: u64) -> Vec<u8> {
        let (mut data, mut seqno) = (Vec::new(), 0);
        loop {
            let frame = self.decode(|buf| {
                let frame = decode_packet_prefix(buf)?;
                Ok(frame.filter(|frame| buf.len() >= frame.total_len()).map(|frame| (frame, 0)))
            });
            let frame = frame.expect("packets up to the last");
            assert_eq!(frame.header.seqno, seqno);
            assert_eq!(frame.header.offset_in_block, start + data.len() as u64);
            seqno += 1;
            self.received.advance(frame.prefix_len);
            let checksums = self.received.split_to(frame.checksums_len);
            let payload = self.received.split_to(frame.data_len);
            CHECKSUM.verify(&payload, &checksums).unwrap();
            data.extend_from_slice(&payload);
            if frame.header.last_packet_in_block {
                break;
            }
        }
        self.send_read_status(Status::ChecksumOk);
        data
    }
}

pub(crate) fn packet(
    data: &[u8],
    offset: u64,
    seqno: i64,
    sync_block: bool,
    last: bool,
) -> Vec<u8> {
    let mut checksums = vec![0; CHECKSUM.checksums_len(data.len() as u64) as usize];
    CHECKSUM.fill(data, &mut checksums);
    let header = PacketHeader {
        offset_in_block: offset,
        seqno,
        last_packet_in_block: last,
        data_len: data.len() as u32,
        sync_block,
    };
    let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
    let prefix_len = encode_packet_prefix(&header, checksums.len(), &mut prefix);
    [&prefix[..prefix_len], &checksums, data].concat()
}

pub(crate) fn header(id: u64, stamp: u64, len: u64) -> ClientOperationHeaderProto {
    ClientOperationHeaderProto {
        base_header: BaseHeaderProto {
            block: (&extended(id, stamp, len)).into(),
            token: None,
            trace_info: None,
        },
        client_name: "DFSClient_test".into(),
    }
}

pub(crate) fn create(id: u64, targets: Vec<DatanodeInfoProto>) -> OpWriteBlockProto {
    OpWriteBlockProto {
        header: header(id, 1001, 8 << 20),
        pipeline_size: targets.len() as u32,
        targets,
        source: None,
        stage: Stage::PipelineSetupCreate as i32,
        min_bytes_rcvd: 0,
        max_bytes_rcvd: 0,
        latest_generation_stamp: 0,
        requested_checksum: CHECKSUM.to_proto(),
        caching_strategy: None,
        storage_type: None,
        target_storage_types: Vec::new(),
        allow_lazy_persist: None,
        pinning: None,
        target_pinnings: Vec::new(),
        storage_id: None,
        target_storage_ids: Vec::new(),
        keeps_connection: None,
        following_bytes: None,
    }
}

pub(crate) fn reopen(stage: Stage, id: u64, new_stamp: u64, len: u64) -> OpWriteBlockProto {
    OpWriteBlockProto {
        stage: stage as i32,
        min_bytes_rcvd: len,
        max_bytes_rcvd: len,
        latest_generation_stamp: new_stamp,
        ..create(id, Vec::new())
    }
}

pub(crate) fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 509 + i / 65_537) as u8).collect()
}

/// Sends `content[from..]` in packets of `size`, as one client does.
pub(crate) fn send_evenly(client: &mut Client, content: &[u8], from: usize, size: usize) {
    for (index, data) in content[from..].chunks(size).enumerate() {
        client.send_packet(data, (from + index * size) as u64, false, false);
    }
}

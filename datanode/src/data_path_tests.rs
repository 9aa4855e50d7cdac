//! The transfer port from outside: blocks written over sockets in every shape that clients send them
//! in, the files and the acks compared with a model, and read back in ranges.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringfs_protocol::ProtocolError;
use ringfs_protocol::block::{BlockId, ReplicaState};
use ringfs_protocol::messages::{
    BaseHeaderProto, BlockConstructionStage as Stage, BlockOpResponseProto, CachingStrategyProto,
    ClientOperationHeaderProto, ClientReadStatusProto, DatanodeIDProto, DatanodeInfoProto,
    OpReadBlockProto, OpWriteBlockProto, Status,
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
use crate::limits::{CACHED_WRITE_MAX_BYTES, DISK_OPERATION_TIMEOUT, HALF_PACKET_PATIENCE};
use crate::read_history::ReadHistory;
use crate::replica_length::DEFAULT_CHECKSUM as CHECKSUM;
use crate::ring;
use crate::runtime::DataThreads;
use crate::server::TransferServer;
use crate::transitions::tests::{Node, assert_holds};
use crate::volume::Volume;
use crate::volume::tests::{POOL, buffered_volume_at, volume_at};

const CHUNK: u64 = 512;
/// What Java sends: 126 chunks.
const USUAL: usize = 64_512;
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
    seqno: i64,
    caching: Option<CachingStrategyProto>,
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
        self.decode(decode_response).expect("a reply to WRITE_BLOCK")
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

    /// READ_BLOCK: the bytes from the chunk at `offset` on, and where they start.
    pub fn read(&mut self, id: u64, offset: u64, len: u64) -> Result<(u64, Vec<u8>), String> {
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
        let reply = self.decode(decode_response).expect("a reply to READ_BLOCK");
        let Some(info) = reply.read_op_checksum_info.clone() else {
            return Err(reply.message().to_owned());
        };
        let (start, mut data, mut seqno) = (info.chunk_offset, Vec::new(), 0);
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
        let mut bytes = BytesMut::new();
        let status = ClientReadStatusProto { status: Status::ChecksumOk as i32 };
        encode_delimited(&status, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
        Ok((start, data))
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

#[test]
fn blocks_of_every_length_are_written_and_read_back() {
    let datanode = Datanode::start(true);
    let lengths = [0, 1, 511, 512, 513, 4095, 4096, 4097, USUAL - 1, USUAL, USUAL + 1, 1 << 20];
    let lengths = lengths.into_iter().chain([(1 << 20) + 1, 3_333_333]);
    let content = bytes(3_333_333);
    for (id, len) in lengths.enumerate() {
        let id = id as u64;
        let mut client = Client::connect(&datanode);
        assert_eq!(client.start_write(&create(id, Vec::new())).status(), Status::Success);
        send_evenly(&mut client, &content[..len], 0, USUAL);
        client.finish(len as u64, 1, 0);
        assert!(client.ack().is_none(), "the connection ends with the block");
        datanode.assert_holds(id, &content[..len]);

        let mut reader = Client::connect(&datanode);
        for (offset, count) in [(0, len), (len / 2, len - len / 2), (len / 3, len / 3), (len, 0)] {
            let (start, data) = reader.read(id, offset as u64, count as u64).unwrap();
            assert_eq!(start, offset as u64 / CHUNK * CHUNK);
            let end = ((offset + count).next_multiple_of(CHUNK as usize)).min(len);
            assert!(data == content[start as usize..end.max(start as usize)], "{len}: {offset}");
        }
        let beyond = reader.read(id, len as u64, 1).unwrap_err();
        assert!(beyond.contains("don't match block"), "{beyond}");
    }
    assert_eq!(datanode.held_slabs(), 0);
}

/// And what follows the first bytes of a block does not, whether they were flushed or not.
#[test]
fn small_blocks_go_through_the_page_cache() {
    let datanode = Datanode::start(true);
    let cached = || datanode.server.counters.bytes_written_cached.get();
    let content = bytes(200_000);
    let small = CACHED_WRITE_MAX_BYTES as usize;
    for (id, len, expected) in [(1, 10_240, 10_240), (2, small, small), (3, small + 1, 0)] {
        let before = cached();
        write(&datanode, &create(id, Vec::new()), &content[..len]);
        assert_eq!(cached() - before, expected as u64, "{len} bytes");
        datanode.assert_holds(id, &content[..len]);
    }
    let before = cached();
    let mut client = Client::connect(&datanode);
    client.start_write(&create(4, Vec::new()));
    client.send_packet(&content[..700], 0, true, false);
    client.expect_acks(0, 1);
    client.send_packet(&content[512..5000], 512, false, false);
    client.expect_acks(1, 1);
    send_evenly(&mut client, &content, 4608, USUAL);
    client.finish(content.len() as u64, 1, 2);
    assert_eq!(cached() - before, 700);
    datanode.assert_holds(4, &content);
    assert_eq!(datanode.held_slabs(), 0);
}

/// Whatever comes while the first bytes are on their way through the page cache.
#[test]
fn a_small_block_goes_on_before_it_is_written() {
    let datanode = Datanode::start(true);
    let content = bytes(100_000);
    for id in 0..60 {
        let first = [700, 4096, 8192, 10_240][id % 4];
        let len = [first, first, content.len()][id % 3];
        let mut client = Client::connect(&datanode);
        client.start_write(&create(id as u64, Vec::new()));
        client.send_packet(&content[..first], 0, id % 5 == 0, false);
        std::thread::sleep(Duration::from_micros(id as u64 * 10));
        let from = first / CHUNK as usize * CHUNK as usize;
        if first < len {
            send_evenly(&mut client, &content[..len], from, USUAL);
        }
        client.send_packet(&[], len as u64, id % 2 == 0, true);
        client.expect_acks(0, 1);
        datanode.assert_holds(id as u64, &content[..len]);
    }
}

fn write(datanode: &Datanode, request: &OpWriteBlockProto, content: &[u8]) {
    append(datanode, request, content, 0);
}

#[test]
fn a_block_read_again_comes_from_the_page_cache_with_the_same_bytes() {
    const LEN: usize = (5 << 20) + 12_345;
    for direct_io in [true, false] {
        let datanode = Datanode::start(direct_io);
        let counters = &datanode.server.counters;
        let content = bytes(LEN);
        write(&datanode, &create(1, Vec::new()), &content);
        let copied_before = counters.payload_bytes_copied.get();
        let mut client = Client::connect(&datanode);
        let mut read = |offset: usize, len: usize| {
            let (start, data) = client.read(1, offset as u64, len as u64).unwrap();
            let end = (offset + len).next_multiple_of(CHUNK as usize).min(LEN);
            assert!(data == content[start as usize..end], "{offset}, {len}");
        };
        read(0, LEN);
        assert_eq!(counters.bytes_read_cached.get(), 0, "the first time");
        read(0, LEN);
        // What did not stay in the cache is read again, so the third time is not always enough.
        for _ in 0..20 {
            read(0, LEN);
        }
        assert!(counters.bytes_read_cached.get() >= LEN as u64, "in the end");
        for offset in [0, 1, 511, 70_000, 1 << 20, (1 << 20) - 1, 5 << 20, LEN - 1] {
            for len in [1, 600, 65_536, 65_537, 300_000, 2_500_000] {
                read(offset, len.min(LEN - offset));
            }
        }
        assert_eq!(counters.payload_bytes_copied.get(), copied_before);
        assert_eq!(datanode.held_slabs(), 0);
    }
}

/// Like `write`; inside a chunk that chunk is filled first, in a packet of its own.
fn append(datanode: &Datanode, request: &OpWriteBlockProto, content: &[u8], from: usize) {
    let mut client = Client::connect(datanode);
    assert_eq!(client.start_write(request).status(), Status::Success);
    let boundary = from.next_multiple_of(CHUNK as usize).min(content.len());
    if boundary > from {
        client.send_packet(&content[from..boundary], from as u64, false, false);
    }
    send_evenly(&mut client, content, boundary, USUAL);
    client.finish(content.len() as u64, 1, 0);
}

#[test]
fn what_an_append_changes_is_never_sent_from_the_cache() {
    let datanode = Datanode::start(true);
    let content = bytes(3_500_000);
    let lengths = [700_001, 700_100, 1_048_576, 2_000_000, 2_000_001, 3_500_000];
    for (round, len) in lengths.into_iter().enumerate() {
        let stamp = 1001 + round as u64;
        let from = round.checked_sub(1).map_or(0, |former| lengths[former]);
        let mut request = match round {
            0 => create(1, Vec::new()),
            _ => reopen(Stage::PipelineSetupAppend, 1, stamp, from as u64),
        };
        request.header = header(1, stamp.max(1002) - 1, 8 << 20);
        append(&datanode, &request, &content[..len], from);
        let mut client = Client::connect(&datanode);
        for _ in 0..4 {
            let (_, data) = client.read(1, 0, len as u64).unwrap();
            assert!(data == content[..len], "round {round}");
            let tail = len as u64 - 1000;
            let (start, data) = client.read(1, tail, 1000).unwrap();
            assert!(data == content[start as usize..len], "tail in round {round}");
        }
    }
    assert!(datanode.server.counters.bytes_read_cached.get() > 0);
    assert_eq!(datanode.held_slabs(), 0);
}

#[test]
fn a_client_that_will_not_read_again_leaves_no_trace() {
    let datanode = Datanode::start(true);
    let content = bytes(3 << 20);
    write(&datanode, &create(1, Vec::new()), &content);
    let mut client = Client::connect(&datanode);
    client.caching = Some(CachingStrategyProto { drop_behind: Some(true), readahead: Some(0) });
    for _ in 0..5 {
        assert!(client.read(1, 0, 3 << 20).unwrap().1 == content);
        assert!(client.read(1, 4096, 4096).unwrap().1 == content[4096..8192]);
    }
    assert_eq!(datanode.server.counters.bytes_read_cached.get(), 0);
    let read = datanode.server.reads.recall(BlockId(1));
    assert!(!read.contains(0));
}

#[test]
fn what_comes_as_expected_is_not_moved() {
    let datanode = Datanode::start(true);
    let copied = || datanode.server.counters.payload_bytes_copied.get();
    let content = bytes(8 << 20);
    for id in 0..3 {
        let mut client = Client::connect(&datanode);
        client.start_write(&create(id, Vec::new()));
        send_evenly(&mut client, &content, 0, USUAL);
        client.finish(8 << 20, 1, 0);
        datanode.assert_holds(id, &content);
    }
    assert_eq!(copied(), 0, "of full blocks");
    let mut client = Client::connect(&datanode);
    client.start_write(&create(9, Vec::new()));
    send_evenly(&mut client, &content[..3_000_000], 0, USUAL);
    client.finish(3_000_000, 1, 0);
    datanode.assert_holds(9, &content[..3_000_000]);
    assert_eq!(copied(), 0, "with a short packet at the end");
}

/// One client's life on one block: packets of changing sizes, flushes inside a chunk with the chunk
/// sent again, repetitions, syncs and pauses, in any mix.
fn write_wildly(client: &mut Client, content: &[u8], from: usize, rng: &mut StdRng) {
    let chunk = CHUNK as usize;
    let mut end = from;
    while end < content.len() {
        // An append inside a chunk fills that chunk first, in one packet or more; every other packet
        // begins at a chunk, the present one or one before.
        let first_boundary = from.next_multiple_of(chunk);
        let (offset, most) = if end < first_boundary {
            (end, first_boundary - end)
        } else {
            let back = if rng.random_bool(0.1) { rng.random_range(0..5) * chunk } else { 0 };
            let present = end / chunk * chunk;
            (present.saturating_sub(back).max(first_boundary), 200_000)
        };
        let len = match rng.random_range(0..4) {
            0 => rng.random_range(1..=most),
            1 => rng.random_range(1..=700).min(most),
            _ => USUAL.min(most),
        };
        let stop = (offset + len).min(content.len());
        let sync_block = rng.random_bool(0.05);
        let bytes = packet(&content[offset..stop], offset as u64, client.seqno, sync_block, false);
        let (front, back) = bytes.split_at(match rng.random_bool(0.2) {
            true => rng.random_range(0..bytes.len()),
            false => 0,
        });
        client.stream.write_all(front).unwrap();
        if !front.is_empty() {
            std::thread::sleep(Duration::from_micros(rng.random_range(0..2000)));
        }
        client.stream.write_all(back).unwrap();
        client.seqno += 1;
        end = end.max(stop);
        if rng.random_bool(0.15) {
            std::thread::sleep(Duration::from_micros(rng.random_range(0..3000)));
        }
    }
}

#[test]
fn any_mix_of_packets_makes_the_same_block() {
    for seed in 0..24 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let datanode = Datanode::start(seed % 4 != 3);
        let len = rng.random_range(1..4_000_000);
        let content = bytes(len);
        let first = rng.random_range(0..len);
        let mut client = Client::connect(&datanode);
        client.start_write(&create(1, Vec::new()));
        write_wildly(&mut client, &content[..first], 0, rng);
        client.finish(first as u64, 1, 0);
        datanode.assert_holds(1, &content[..first]);

        let mut client = Client::connect(&datanode);
        let request = reopen(Stage::PipelineSetupAppend, 1, 1002, first as u64);
        assert_eq!(client.start_write(&request).status(), Status::Success, "seed {seed}");
        write_wildly(&mut client, &content, first, rng);
        client.finish(len as u64, 1, 0);
        datanode.assert_holds(1, &content);
        assert_eq!(datanode.held_slabs(), 0, "seed {seed}");
    }
}

#[test]
fn a_client_that_pauses_inside_a_packet_goes_on() {
    let datanode = Datanode::start(true);
    let content = bytes(3 * USUAL);
    let mut client = Client::connect(&datanode);
    client.start_write(&create(1, Vec::new()));
    // The second packet repeats half of the first one.
    let second = USUAL as u64 / 2 / CHUNK * CHUNK;
    for (seqno, offset, cuts) in [(0, 0, [100, 30_000]), (1, second, [700, 40_000])] {
        let data = &content[offset as usize..offset as usize + USUAL];
        let bytes = packet(data, offset, seqno, false, false);
        let mut from = 0;
        for cut in cuts {
            client.stream.write_all(&bytes[from..cut]).unwrap();
            from = cut;
            std::thread::sleep(HALF_PACKET_PATIENCE + Duration::from_millis(200));
            assert_eq!(datanode.held_slabs(), 0, "a silent stream holds nothing");
        }
        client.stream.write_all(&bytes[from..]).unwrap();
        client.seqno += 1;
    }
    let end = second as usize + USUAL;
    send_evenly(&mut client, &content, end, USUAL);
    client.finish(content.len() as u64, 1, 0);
    datanode.assert_holds(1, &content);
}

#[test]
fn three_datanodes_hold_the_same_block() {
    let [one, two, three] = [(); 3].map(|()| Datanode::start(true));
    for seed in 0..6 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let content = bytes(rng.random_range(1..3_000_000));
        let mut client = Client::connect(&one);
        let reply = client.start_write(&create(seed, vec![two.info(), three.info()]));
        assert_eq!((reply.status(), reply.first_bad_link()), (Status::Success, ""));
        assert!(reply.reopens_finalized(), "all three are ours");
        write_wildly(&mut client, &content, 0, rng);
        client.finish(content.len() as u64, 3, 0);
        for datanode in [&one, &two, &three] {
            datanode.assert_holds(seed, &content);
        }
    }
    for datanode in [&one, &two, &three] {
        assert_eq!(datanode.held_slabs(), 0);
        assert_eq!(datanode.server.counters.mirror_errors.get(), 0);
    }
}

#[test]
fn what_is_acknowledged_is_on_disk_at_once() {
    let datanode = Datanode::start(true);
    let content = bytes(200_000);
    let mut client = Client::connect(&datanode);
    client.start_write(&create(1, Vec::new()));
    let replica = datanode.node.dataset.replica(POOL, BlockId(1)).unwrap();
    let mut end = 0;
    for len in [1, 510, 1, 100, 4000, 64_000, 700] {
        let offset = end / CHUNK as usize * CHUNK as usize;
        let acked = client.seqno;
        client.send_packet(&content[offset..end + len], offset as u64, false, false);
        client.expect_acks(acked, 1);
        end += len;
        assert_eq!(replica.visible_len(), Some(end as u64));
        // As after a kill -9 now: what a start makes of the files.
        let files = replica.files();
        let copy = Datanode::start(false);
        let rbw = copy.node.volume.rbw_dir();
        for file in [&files.data, &files.meta] {
            std::fs::copy(file, rbw.join(file.file_name().unwrap())).unwrap();
        }
        let again = open(vec![copy.node.volume.clone()]);
        let found = again.replica(POOL, BlockId(1)).unwrap();
        assert_eq!(found.bytes_on_disk(), end as u64);
        assert_holds(&found, &content[..end]);
        // A reader of the open block gets the checksums that belong to what it gets.
        let (_, data) = Client::connect(&datanode).read(1, 0, end as u64).unwrap();
        assert!(data == content[..end]);
    }
}

#[test]
fn a_corrupt_packet_ends_its_stream_and_no_other() {
    let datanode = Datanode::start(true);
    let content = bytes(200_000);
    let mut other = Client::connect(&datanode);
    other.start_write(&create(2, Vec::new()));
    send_evenly(&mut other, &content[..USUAL * 2], 0, USUAL);

    let mut client = Client::connect(&datanode);
    client.start_write(&create(1, Vec::new()));
    send_evenly(&mut client, &content[..USUAL], 0, USUAL);
    client.expect_acks(0, 1);
    let mut corrupt = packet(&content[USUAL..2 * USUAL], USUAL as u64, 1, false, false);
    let last = corrupt.len() - 1;
    corrupt[last] ^= 1;
    client.stream.write_all(&corrupt).unwrap();
    let ack = client.ack().unwrap();
    assert_eq!((ack.seqno, &ack.replies[..]), (1, &[Status::ErrorChecksum][..]));
    assert!(client.ack().is_none());
    let replica = datanode.node.dataset.replica(POOL, BlockId(1)).unwrap();
    assert_eq!((replica.state(), replica.visible_len()), (ReplicaState::Rbw, Some(USUAL as u64)));

    send_evenly(&mut other, &content, USUAL * 2, USUAL);
    other.finish(content.len() as u64, 1, 0);
    datanode.assert_holds(2, &content);
    assert_eq!(datanode.held_slabs(), 0);
}

#[test]
fn a_pipeline_recovers_after_its_client_lost_it() {
    let datanode = Datanode::start(true);
    let content = bytes(1_500_000);
    let mut client = Client::connect(&datanode);
    client.start_write(&create(1, Vec::new()));
    send_evenly(&mut client, &content[..10 * USUAL], 0, USUAL);
    client.expect_acks(0, 1);
    let half = packet(&content[10 * USUAL..11 * USUAL], 10 * USUAL as u64, 10, false, false);
    client.stream.write_all(&half[..30_000]).unwrap();
    // The old connection stays open: the recovery stops its stream.
    let mut again = Client::connect(&datanode);
    let acked = 10 * USUAL as u64;
    let recover = OpWriteBlockProto {
        max_bytes_rcvd: 11 * USUAL as u64,
        ..reopen(Stage::PipelineSetupStreamingRecovery, 1, 1002, acked)
    };
    assert_eq!(again.start_write(&recover).status(), Status::Success);
    assert!(client.ack().is_none(), "the former stream was closed");
    send_evenly(&mut again, &content, 10 * USUAL, 50_176);
    again.finish(content.len() as u64, 1, 0);
    datanode.assert_holds(1, &content);

    let close = reopen(Stage::PipelineCloseRecovery, 1, 1003, content.len() as u64);
    let close = OpWriteBlockProto { header: header(1, 1002, 0), ..close };
    assert_eq!(Client::connect(&datanode).start_write(&close).status(), Status::Success);
    let replica = datanode.node.dataset.replica(POOL, BlockId(1)).unwrap();
    assert_eq!(replica.generation_stamp().0, 1003);
    datanode.assert_holds(1, &content);
    assert_eq!(datanode.held_slabs(), 0);
}

#[test]
fn a_lost_mirror_is_reported_and_this_nodes_bytes_are_kept() {
    let one = Datanode::start(true);
    let two = Datanode::start(true);
    let content = bytes(500_000);
    let mut client = Client::connect(&one);
    client.start_write(&create(1, vec![two.info()]));
    send_evenly(&mut client, &content[..4 * USUAL], 0, USUAL);
    client.expect_acks(0, 2);
    drop(two);
    client.send_packet(&content[4 * USUAL..5 * USUAL], 4 * USUAL as u64, false, false);
    let ack = client.ack().unwrap();
    assert_eq!((ack.seqno, &ack.replies[..]), (4, &[Status::Success, Status::Error][..]));
    let replica = one.node.dataset.replica(POOL, BlockId(1)).unwrap();
    assert_eq!(replica.bytes_on_disk(), 5 * USUAL as u64);

    let nobody = DatanodeInfoProto {
        id: DatanodeIDProto { ip_addr: "127.0.0.1".into(), xfer_port: 1, ..Default::default() },
        ..Default::default()
    };
    let reply = Client::connect(&one).start_write(&create(2, vec![nobody]));
    assert_eq!((reply.status(), reply.first_bad_link()), (Status::Error, "127.0.0.1:1"));
}

#[test]
fn nonsense_is_refused_and_the_port_stays_open() {
    let datanode = Datanode::start(true);
    let mut refused = reopen(Stage::PipelineSetupAppend, 9, 1002, 5);
    let reply = Client::connect(&datanode).start_write(&refused);
    assert_eq!(reply.status(), Status::Error);
    assert!(reply.message().contains("Replica not found"), "{}", reply.message());
    refused.stage = Stage::DataStreaming as i32;
    let mut garbage = [
        BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]),
        BytesMut::from(&[0, 28, 80, 0xff, 0xff, 0xff, 0xff, 0xff][..]),
        BytesMut::from(&[0, 27, 80][..]),
        BytesMut::from(&[0, 28, 33][..]),
        BytesMut::new(),
    ];
    encode_operation(Opcode::WriteBlock, &refused, &mut garbage[4]);
    for garbage in garbage {
        let mut client = Client::connect(&datanode);
        client.stream.write_all(&garbage).unwrap();
        assert!(client.ack().is_none(), "closed without an answer");
    }
    let mut gap = Client::connect(&datanode);
    gap.start_write(&create(1, Vec::new()));
    gap.send_packet(&[1; 512], 1024, false, false);
    assert!(gap.ack().is_none(), "a gap ends the stream");

    let mut client = Client::connect(&datanode);
    client.start_write(&create(2, Vec::new()));
    send_evenly(&mut client, &bytes(1000), 0, USUAL);
    client.finish(1000, 1, 0);
    datanode.assert_holds(2, &bytes(1000));
}

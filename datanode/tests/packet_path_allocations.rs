//! The packet path takes no memory from the allocator in steady state: the data threads of a pipeline
//! of two datanodes are watched while packets pass through both.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use ringfs_datanode::activity::Activity;
use ringfs_datanode::block_move::BlockMoves;
use ringfs_datanode::block_transfer::Transfers;
use ringfs_datanode::counters::Counters;
use ringfs_datanode::data_work::DataWork;
use ringfs_datanode::dataset::Dataset;
use ringfs_datanode::limits::DISK_OPERATION_TIMEOUT;
use ringfs_datanode::read_history::ReadHistory;
use ringfs_datanode::runtime::DataThreads;
use ringfs_datanode::server::TransferServer;
use ringfs_datanode::storage_directory::{LockedDirectory, NamespaceIdentity};
use ringfs_datanode::volume::Volume;
use ringfs_protocol::ProtocolError;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::messages::{
    BaseHeaderProto, BlockConstructionStage, ClientOperationHeaderProto, DatanodeIDProto,
    DatanodeInfoProto, ExtendedBlockProto, OpWriteBlockProto, Status, StorageTypeProto,
};
use ringfs_protocol::meta_file::DatanodeLayout;
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use ringfs_protocol::packet::{
    PACKET_PREFIX_MAX_BYTES, PacketHeader, decode_ack, encode_packet_prefix,
};
use ringfs_protocol::site_config::StorageDirectory as StorageLocation;

const POOL: &str = "BP-1-127.0.0.1-1";
const CHECKSUM: DataChecksum = DataChecksum { kind: ChecksumType::Crc32c, bytes_per_checksum: 512 };
/// What Java sends: 126 chunks.
const PACKET_BYTES: usize = 64_512;
/// Packets of a round, which fill 16 slabs: what took memory for a packet or a slab would show in
/// every round.
const PACKETS: usize = 260;
const ROUNDS_MAX: usize = 20;

/// Counts what threads that are watched ask for.
struct Watching;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if IS_WATCHED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// A datanode without a namenode, whose data thread is watched.
struct Datanode {
    address: SocketAddr,
    counters: Arc<Counters>,
    _threads: DataThreads,
}

impl Datanode {
    fn start(root: &Path) -> Self {
        let location =
            StorageLocation { storage_type: StorageTypeProto::Disk, path: root.to_owned() };
        let namespace = NamespaceIdentity {
            namespace_id: 1,
            cluster_id: "CID-1".into(),
            pool_id: POOL.into(),
            c_time: 0,
        };
        let directory = LockedDirectory::open(&location, 0o700)
            .and_then(|directory| directory.join_namespace(&namespace, "u", DatanodeLayout::V57))
            .unwrap();
        let volume = Arc::new(Volume::open(directory, POOL, 0, true).unwrap());
        let dataset = Arc::new(
            Dataset::open(POOL, vec![volume], Vec::new(), true, false, DISK_OPERATION_TIMEOUT)
                .unwrap(),
        );
        let counters = Arc::<Counters>::default();
        let threads =
            DataThreads::start(1, 96 << 20, false, DISK_OPERATION_TIMEOUT, &counters).unwrap();
        let spawner = threads.spawner();
        let work = DataWork::new(move |job| spawner.spawn(job));
        work.start(|| async { IS_WATCHED.set(true) });
        let (activity, timeout) = (Arc::<Activity>::default(), Duration::from_secs(20));
        let server = Arc::new(TransferServer {
            dataset: dataset.clone(),
            activity: activity.clone(),
            counters: counters.clone(),
            reads: ReadHistory::new(0),
            transfers: Transfers {
                dataset: dataset.clone(),
                activity,
                timeout,
                timeout_per_target: timeout,
                own_id: DatanodeIDProto::default(),
            },
            moves: BlockMoves::new(dataset, timeout, 1 << 30),
            socket_timeout: timeout,
            timeout_per_target: timeout,
            keepalive: timeout,
            restart: Arc::default(),
            streams_max: 64,
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        server.start(listener, work);
        Self { address, counters, _threads: threads }
    }
}

/// The writing end of a pipeline.
struct Client {
    stream: TcpStream,
    received: BytesMut,
    packets: usize,
}

impl Client {
    /// Starts a block through `first`, and `second` behind it.
    fn start(first: &Datanode, second: &Datanode) -> Self {
        let id = DatanodeIDProto {
            ip_addr: "127.0.0.1".into(),
            xfer_port: second.address.port().into(),
            ..Default::default()
        };
        let block = ExtendedBlockProto {
            pool_id: POOL.into(),
            block_id: 1,
            generation_stamp: 1001,
            num_bytes: Some(1 << 29),
        };
        let request = OpWriteBlockProto {
            header: ClientOperationHeaderProto {
                base_header: BaseHeaderProto { block, ..Default::default() },
                client_name: "client".into(),
            },
            targets: vec![DatanodeInfoProto { id, ..Default::default() }],
            stage: BlockConstructionStage::PipelineSetupCreate as i32,
            pipeline_size: 2,
            requested_checksum: CHECKSUM.to_proto(),
            ..Default::default()
        };
        let stream = TcpStream::connect(first.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, received: BytesMut::new(), packets: 0 };
        let mut bytes = BytesMut::new();
        encode_operation(Opcode::WriteBlock, &request, &mut bytes);
        client.stream.write_all(&bytes).unwrap();
        assert_eq!(client.decode(decode_response).status(), Status::Success);
        client
    }

    fn decode<T>(
        &mut self,
        decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, ProtocolError>,
    ) -> T {
        loop {
            if let Some((message, used)) = decode(&self.received).unwrap() {
                self.received.advance(used);
                return message;
            }
            let mut piece = [0; 65536];
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "closed early");
            self.received.extend_from_slice(&piece[..count]);
        }
    }

    /// Sends packets, a client's window of 80 ahead of their acks, and takes all acks.
    fn write(&mut self, count: usize) {
        let end = self.packets + count;
        for acked in self.packets..end {
            while self.packets < end.min(acked + 80) {
                let packet = packet(self.packets);
                self.stream.write_all(&packet).unwrap();
                self.packets += 1;
            }
            let ack = self.decode(decode_ack);
            assert_eq!(ack.seqno, acked as i64);
            assert!(
                ack.replies.len() == 2 && ack.replies.iter().all(|reply| *reply == Status::Success)
            );
        }
    }
}

fn packet(index: usize) -> Vec<u8> {
    let data = vec![index as u8; PACKET_BYTES];
    let mut checksums = vec![0; CHECKSUM.checksums_len(data.len() as u64) as usize];
    CHECKSUM.fill(&data, &mut checksums);
    let header = PacketHeader {
        offset_in_block: (index * PACKET_BYTES) as u64,
        seqno: index as i64,
        last_packet_in_block: false,
        data_len: data.len() as u32,
        sync_block: false,
    };
    let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
    let len = encode_packet_prefix(&header, checksums.len(), &mut prefix);
    [&prefix[..len], &checksums, &data].concat()
}

#[test]
fn packets_pass_without_heap_allocations() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let second = Datanode::start(&directory.path().join("2"));
    let first = Datanode::start(&directory.path().join("1"));
    let mut client = Client::start(&first, &second);
    let mut rounds = Vec::new();
    // Queues and the slabs in use still grow in the first rounds, each as the timing has it.
    while rounds.last() != Some(&0) && rounds.len() < ROUNDS_MAX {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        client.write(PACKETS);
        rounds.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
    }
    assert!(rounds[0] > 0, "the data threads are watched");
    assert_eq!(rounds.last(), Some(&0), "for {PACKETS} packets through two datanodes: {rounds:?}");
    for datanode in [&first, &second] {
        assert_eq!(datanode.counters.payload_bytes_copied.get(), 0);
    }
}

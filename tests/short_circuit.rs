//! Short-circuit reads: our client reads replicas of its host from files that the datanode passes.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use ringfs_client::CreateOptions;
use ringfs_protocol::messages::{
    BaseHeaderProto, BlockOpResponseProto, ExtendedBlockProto, OpRequestShortCircuitAccessProto,
    ReleaseShortCircuitAccessRequestProto, ShortCircuitShmIdProto, ShortCircuitShmRequestProto,
    ShortCircuitShmSlotProto, Status,
};
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use tempfile::TempDir;

use crate::cluster::{TestCluster, sample, wait_for};

const DEADLINE: Duration = Duration::from_secs(20);

/// A cluster whose datanodes pass files, and the directory of their sockets.
fn start(datanodes: usize) -> (TestCluster, TempDir) {
    // The build directory may lie where others could put a socket of theirs in its place.
    let sockets = tempfile::tempdir_in("/run").unwrap();
    let path = sockets.path().join("dn._PORT").display().to_string();
    let settings =
        [("dfs.client.read.shortcircuit", "true"), ("dfs.domain.socket.path", path.as_str())];
    (TestCluster::start_with(datanodes, &settings), sockets)
}

/// Block files below `directory` that this process has open, those without a name any more too.
fn open_block_files(directory: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let target: PathBuf = std::fs::read_link(entry.ok()?.path()).ok()?;
        let is_data = target.to_str()?.contains("blk_") && !target.to_str()?.contains(".meta");
        (is_data && target.starts_with(directory)).then_some(())
    });
    links.count()
}

#[test]
fn files_are_read_from_the_replicas_themselves() {
    let (cluster, _sockets) = start(1);
    let library = cluster.connect();
    let bytes = sample::bytes(2 * sample::BLOCK + 100_777);
    library.write("/f", &bytes).unwrap();
    let directory = cluster.data_dir(0);
    assert_eq!(open_block_files(&directory), 0);
    assert!(library.read("/f").unwrap() == bytes);
    assert!(open_block_files(&directory) >= 3, "three blocks' files are open");
    assert!(library.read("/f").unwrap() == bytes, "again, through the page cache");
    library.run(async |client| {
        let mut reader = client.open("/f").await.unwrap();
        let block = sample::BLOCK;
        let ranges =
            [(0, 1), (511, 2), (4097, 4096), (block - 1, 2), (3, 70_000), (700_001, 1_200_000)];
        for (offset, len) in ranges {
            let mut range = vec![0; len];
            assert_eq!(reader.read_at(offset as u64, &mut range).await.unwrap(), len);
            assert!(range == bytes[offset..offset + len], "{len} bytes at {offset}");
        }
        let mut end = vec![0; 1_000];
        assert_eq!(reader.read_at(bytes.len() as u64 - 10, &mut end).await.unwrap(), 10);
        reader.seek(block as u64 + 3).unwrap();
        let chunk = reader.next_chunk().await.unwrap().unwrap();
        assert_eq!(chunk, bytes[block + 3..][..chunk.len()]);
    });
}

#[test]
fn an_append_is_noticed() {
    let (cluster, _sockets) = start(1);
    let library = cluster.connect();
    let steps = [5, 507, 1, 64_000, 300_000, 1];
    let bytes = sample::bytes(steps.iter().sum());
    library.write("/a", &[]).unwrap();
    let mut len = 0;
    for step in steps {
        library.run(async |client| {
            let early = client.open("/a").await.unwrap();
            let mut writer = client.append("/a").await.unwrap();
            writer.write_slice(&bytes[len..len + step]).await.unwrap();
            writer.hflush().await.unwrap();
            // Opened before, so with a length of before, while the replica is written.
            let mut before = vec![0; len];
            assert_eq!(early.read_at(0, &mut before).await.unwrap(), len);
            assert!(before == bytes[..len]);
            writer.close().await.unwrap();
        });
        len += step;
        assert!(library.read("/a").unwrap() == bytes[..len], "after appending {step}");
    }
}

#[test]
fn a_replica_deleted_underneath_is_read_to_its_end_and_then_let_go() {
    let (cluster, _sockets) = start(1);
    let library = cluster.connect();
    let bytes = sample::bytes(sample::BLOCK);
    library.write("/f", &bytes).unwrap();
    let directory = cluster.data_dir(0);
    library.run(async |client| {
        let reader = client.open("/f").await.unwrap();
        let mut part = vec![0; 10_000];
        assert_eq!(reader.read_at(100, &mut part).await.unwrap(), part.len());
        assert!(part == bytes[100..10_100]);
        client.delete("/f", false).await.unwrap();
    });
    wait_for("the files are closed", DEADLINE, || {
        library.run(async |_| tokio::time::sleep(Duration::from_millis(50)).await);
        (open_block_files(&directory) == 0).then_some(())
    });
    library.write("/f", &bytes[..1000]).unwrap();
    assert!(library.read("/f").unwrap() == bytes[..1000]);
}

/// The flipped bit shows in the meta file's checksums, then over TCP, and so the namenode learns of it.
#[test]
fn rot_is_seen_reported_and_gone_round() {
    let (cluster, _sockets) = start(4);
    let library = cluster.connect();
    let bytes = sample::bytes(900_000);
    library.write("/f", &bytes).unwrap();
    let ports = library.reported_replica_ports("/f", 3)[0].clone();
    let holder = (0..4)
        .find(|index| cluster.datanode_address(*index).ends_with(&ports[0].to_string()))
        .unwrap();
    let id = cluster.finalized_blocks(holder)[0];
    let path = cluster.block_file(holder, id);
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 500_000).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], 500_000).unwrap();
    file.sync_all().unwrap();
    // Readers start at any replica, and a client stays with the files that it has: among a few clients
    // one starts at the bad one.
    wait_for("the bad replica is replaced", 2 * DEADLINE, || {
        assert!(cluster.connect().read("/f").unwrap() == bytes);
        let ports = library.replica_ports("/f")[0].clone();
        (ports.len() == 3 && !cluster.finalized_blocks(holder).contains(&id)).then_some(())
    });
}

#[test]
fn without_a_socket_files_are_read_over_tcp() {
    let cluster = TestCluster::start_with(1, &[]);
    let absent = cluster.scratch("absent._PORT").display().to_string();
    let settings =
        [("dfs.client.read.shortcircuit", "true"), ("dfs.domain.socket.path", absent.as_str())];
    let library = cluster.connect_with(&settings);
    let bytes = sample::bytes(sample::BLOCK + 5);
    library.write("/f", &bytes).unwrap();
    assert!(library.read("/f").unwrap() == bytes);
    assert_eq!(open_block_files(&cluster.data_dir(0)), 0);
}

fn exchange(socket: &Path, request: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request).unwrap();
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn response(socket: &Path, block: &ExtendedBlockProto, max_version: u32) -> BlockOpResponseProto {
    let header = BaseHeaderProto { block: block.clone(), ..Default::default() };
    let request = OpRequestShortCircuitAccessProto {
        header,
        max_version,
        slot_id: None,
        supports_receipt_verification: Some(true),
    };
    let mut bytes = BytesMut::new();
    encode_operation(Opcode::RequestShortCircuitFds, &request, &mut bytes);
    decode_response(&exchange(socket, &bytes)).unwrap().unwrap().0
}

#[test]
fn only_what_may_be_passed_is_and_nonsense_harms_nobody() {
    let (cluster, sockets) = start(1);
    let library = cluster.connect();
    let bytes = sample::bytes(100_000);
    library.write("/f", &bytes).unwrap();
    let socket = std::fs::read_dir(sockets.path()).unwrap().next().unwrap().unwrap().path();
    let block_of = |path: &str| {
        let blocks = library.run(async |client| client.block_locations(path, 0, 1 << 40).await);
        ExtendedBlockProto::from(&blocks.unwrap()[0].block)
    };
    let block = block_of("/f");
    assert_eq!(response(&socket, &block, 1).status(), Status::Success);
    let old = response(&socket, &block, 0);
    assert_eq!(old.status(), Status::ErrorUnsupported);
    assert_eq!(old.short_circuit_access_version, Some(1));
    let unknown = ExtendedBlockProto { block_id: 1, ..block.clone() };
    assert_eq!(response(&socket, &unknown, 1).status(), Status::Error);
    let foreign = ExtendedBlockProto { pool_id: "BP-1".to_owned(), ..block.clone() };
    assert_eq!(response(&socket, &foreign, 1).status(), Status::Error);
    let newer =
        ExtendedBlockProto { generation_stamp: block.generation_stamp + 1, ..block.clone() };
    assert_eq!(response(&socket, &newer, 1).status(), Status::Error);
    // A replica being written, which stays a matter of this one block.
    let mut writer =
        library.run(async |client| client.create("/open", CreateOptions::default()).await).unwrap();
    library.run(async |_| {
        writer.write_slice(&bytes[..1000]).await.unwrap();
        writer.hflush().await.unwrap();
    });
    let open = response(&socket, &block_of("/open"), 1);
    assert_eq!(open.status(), Status::ErrorUnsupported);
    assert_eq!(open.short_circuit_access_version, Some(1));
    // No segments of shared memory: `status` is the first field of all of these replies.
    let slot_id =
        ShortCircuitShmSlotProto { shm_id: ShortCircuitShmIdProto { hi: 1, lo: 2 }, slot_idx: 0 };
    let mut shm = BytesMut::new();
    let client_name = "stranger".to_owned();
    let request = ShortCircuitShmRequestProto { client_name, trace_info: None };
    encode_operation(Opcode::RequestShortCircuitShm, &request, &mut shm);
    let mut release = BytesMut::new();
    let request = ReleaseShortCircuitAccessRequestProto { slot_id, trace_info: None };
    encode_operation(Opcode::ReleaseShortCircuitFds, &request, &mut release);
    for (request, status) in [(shm, Status::ErrorUnsupported), (release, Status::ErrorInvalid)] {
        assert_eq!(exchange(&socket, &request)[1..3], [8, status as u8]);
    }
    for nonsense in
        [&[][..], &[0], &[0, 27, 87], &[0, 28, 87, 0xff, 0xff, 0xff, 0xff, 0x0f], &[7; 9]]
    {
        assert!(exchange(&socket, nonsense).is_empty(), "{nonsense:?}");
    }
    assert!(library.read("/f").unwrap() == bytes);
    assert!(open_block_files(&cluster.data_dir(0)) >= 1);
    library.run(async |_| writer.close().await).unwrap();
}

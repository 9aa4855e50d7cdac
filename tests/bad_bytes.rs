//! Bytes that no client of good will sends, on the namenode's and the datanodes' ports: each gets
//! the answer that HDFS gives, or none; the servers stay up and other streams are unharmed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use ringfs_client::CreateOptions;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::messages::{
    AddBlockRequestProto, AddBlockResponseProto, BaseHeaderProto, BlockConstructionStage,
    ClientOperationHeaderProto, CreateRequestProto, CreateResponseProto, FsPermissionProto,
    LocatedBlockProto, OpWriteBlockProto, Status,
};
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use ringfs_protocol::packet::{PACKET_PREFIX_MAX_BYTES, PacketHeader, encode_packet_prefix};
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions};
use ringfs_protocol::rpc::codec::encode_connection_start;
use ringfs_protocol::rpc::protocol_name;

use crate::cluster::{TestCluster, sample, wait_for};

/// Runs `abuse` while another client writes file after file, and reads each back afterwards.
fn with_a_stream_beside(cluster: &TestCluster, abuse: impl FnOnce()) {
    let library = cluster.connect();
    let bytes = sample::bytes(sample::BLOCK + 200_000);
    let abused = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while written < 3 || !abused.load(Ordering::Relaxed) {
                library.write(&format!("/beside/{written}"), &bytes).unwrap();
                written += 1;
            }
            written
        });
        abuse();
        abused.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    for number in 0..written {
        assert!(library.read(&format!("/beside/{number}")).unwrap() == bytes, "file {number}");
    }
}

/// Sends `bytes` and returns all that comes back until the server closes the connection.
#[track_caller]
fn answer(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    // A server may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("{address} keeps the connection: {error}"),
    }
}

/// The peer goes away in the middle of `bytes`.
fn abandon(address: &str, bytes: &[u8]) {
    connect(address).write_all(bytes).unwrap();
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn the_namenode_survives_broken_frames() {
    let cluster = TestCluster::start();
    let namenode = cluster.namenode_address();
    let start = encode_connection_start(protocol_name::CLIENT, "alice", &[7; 16]);
    let after_start = |bytes: &[u8]| [&start, bytes].concat();
    with_a_stream_beside(&cluster, || {
        let version_8 = answer(&namenode, b"hrpc\x0a\x00\x00");
        assert!(contains(&version_8, "org.apache.hadoop.ipc.RPC$VersionMismatch"), "{version_8:?}");
        let web = answer(&namenode, b"GET / HTTP/1.1\r\nHost: namenode\r\n\r\n");
        assert!(web.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&web));
        answer(&namenode, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");

        // Frames that claim 2 GiB, 129 MiB, and a negative length.
        for len in [0x7fff_ffff_u32, 129 << 20, 0xffff_ff00] {
            answer(&namenode, &after_start(&len.to_be_bytes()));
        }
        // 1 MiB before the connection said who it is.
        answer(&namenode, &[b"hrpc\x09\x00\x00".as_slice(), &(1_u32 << 20).to_be_bytes()].concat());
        // A header that is no protobuf message, and one that is cut off by its frame.
        for frame in [&[0x05, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0x7f, 0x08, 0x02]] {
            let len = (frame.len() as u32).to_be_bytes();
            let fatal = answer(&namenode, &after_start(&[&len, frame].concat()));
            assert!(contains(&fatal, "org.apache.hadoop.ipc."), "{fatal:?}");
        }
        // Gone in the middle of each part.
        let frame = after_start(&[0, 0, 0, 100, 1, 2, 3]);
        for cut in [1, 4, 6, 8, start.len() - 1, start.len() + 2, frame.len()] {
            abandon(&namenode, &frame[..cut]);
        }
    });
}

#[test]
fn a_datanode_survives_broken_operations() {
    let cluster = TestCluster::start();
    let datanode = cluster.datanode_address(0);
    with_a_stream_beside(&cluster, || {
        // Unknown operation, wrong version, no version at all: closed without a word, as HDFS does.
        for bytes in [&[0, 28, 99][..], &[0, 27, 81, 0], &[0xff; 64], b"GET / HTTP/1.1\r\n\r\n"] {
            assert_eq!(answer(&datanode, bytes), [0_u8; 0], "{bytes:?}");
        }
        // A message that claims 4 GiB, a length that never ends, a message that is none.
        for bytes in [
            &[0, 28, 80, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
            &[0, 28, 81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0, 28, 80, 3, 0xff, 0xff, 0xff],
        ] {
            answer(&datanode, bytes);
        }
        for cut in [&[0][..], &[0, 28], &[0, 28, 80], &[0, 28, 80, 40, 10, 30]] {
            abandon(&datanode, cut);
        }
    });
}

/// A block that the namenode gave to a client of ours, to be written by hand.
struct OpenBlock {
    located: LocatedBlockProto,
    client_name: &'static str,
}

impl OpenBlock {
    fn create(cluster: &TestCluster, path: &str) -> Self {
        let client_name = "bad-bytes";
        let options = RpcClientOptions {
            connect_timeout: Duration::from_secs(5),
            call_timeout: Some(Duration::from_secs(20)),
            ..RpcClientOptions::default()
        };
        let create = CreateRequestProto {
            src: path.to_owned(),
            masked: FsPermissionProto { perm: 0o644 },
            client_name: client_name.to_owned(),
            create_flag: 1,
            create_parent: true,
            replication: 1,
            block_size: sample::BLOCK as u64,
            ..Default::default()
        };
        let add_block = AddBlockRequestProto {
            src: path.to_owned(),
            client_name: client_name.to_owned(),
            ..Default::default()
        };
        let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        let address = cluster.namenode_address();
        let added = cluster.connect().run(async |_| {
            let namenode = RpcClient::new(&address, protocol_name::CLIENT, &user, options);
            let _: CreateResponseProto = namenode.call("create", &create).await.unwrap();
            namenode.call::<_, AddBlockResponseProto>("addBlock", &add_block).await.unwrap()
        });
        Self { located: added.block, client_name }
    }

    /// Connects to the block's datanode and opens a pipeline of one.
    fn pipeline(&self) -> TcpStream {
        let datanode = &self.located.locs[0].id;
        let mut stream = connect(&format!("{}:{}", datanode.ip_addr, datanode.xfer_port));
        let checksum = DataChecksum::new(ChecksumType::Crc32c, 512).unwrap();
        let write = OpWriteBlockProto {
            header: ClientOperationHeaderProto {
                base_header: BaseHeaderProto {
                    block: self.located.b.clone(),
                    ..Default::default()
                },
                client_name: self.client_name.to_owned(),
            },
            stage: BlockConstructionStage::PipelineSetupCreate.into(),
            pipeline_size: 1,
            latest_generation_stamp: self.located.b.generation_stamp,
            requested_checksum: checksum.to_proto(),
            storage_id: self.located.storage_ids.first().cloned(),
            ..Default::default()
        };
        let mut request = BytesMut::new();
        encode_operation(Opcode::WriteBlock, &write, &mut request);
        stream.write_all(&request).unwrap();
        let mut reply = Vec::new();
        loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            reply.push(byte[0]);
            if let Some((response, _)) = decode_response(&reply).unwrap() {
                assert_eq!(response.status, i32::from(Status::Success), "{response:?}");
                return stream;
            }
        }
    }
}

fn packet(data: &[u8], damage: bool) -> BytesMut {
    let checksum = DataChecksum::new(ChecksumType::Crc32c, 512).unwrap();
    let mut checksums = vec![0; checksum.checksums_len(data.len() as u64) as usize];
    checksum.fill(data, &mut checksums);
    let header = PacketHeader {
        offset_in_block: 0,
        seqno: 0,
        last_packet_in_block: false,
        data_len: data.len() as u32,
        sync_block: false,
    };
    let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
    let prefix_len = encode_packet_prefix(&header, checksums.len(), &mut prefix);
    let mut packet = BytesMut::new();
    packet.put_slice(&prefix[..prefix_len]);
    packet.put_slice(&checksums);
    packet.put_slice(data);
    if damage {
        *packet.last_mut().unwrap() ^= 1;
    }
    packet
}

/// Reads to the end: acks, if any, and then the end of the connection.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => rest,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => rest,
        Err(error) => panic!("the connection stays open: {error}"),
    }
}

#[test]
fn a_datanode_refuses_broken_packets() {
    let cluster = TestCluster::start();
    let data = sample::bytes(5_000);
    with_a_stream_beside(&cluster, || {
        let mut stream = OpenBlock::create(&cluster, "/corrupt").pipeline();
        stream.write_all(&packet(&data, true)).unwrap();
        let acks = rest(stream);
        // PipelineAckProto: a reply field (key 0x10) of ERROR_CHECKSUM, or the bare end of the stream.
        let code = Status::ErrorChecksum as u8;
        assert!(acks.is_empty() || acks.windows(2).any(|pair| pair == [0x10, code]), "{acks:?}");

        // A packet that claims 2 GiB, one whose data is longer than its payload, a header beyond it.
        let broken = [
            &[0x7f, 0xff, 0xff, 0xff, 0, 25][..],
            &[
                0, 0, 0, 4, 0, 25, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0x18,
                0, 0x25, 0, 0, 1, 0,
            ],
            &[0, 0, 0, 4, 0xff, 0xff],
            &[0xff, 0xff, 0xff, 0xff, 0, 25],
        ];
        for (number, lengths) in broken.into_iter().enumerate() {
            let mut stream = OpenBlock::create(&cluster, &format!("/broken{number}")).pipeline();
            let _ = stream.write_all(lengths);
            rest(stream);
        }
        let mut stream = OpenBlock::create(&cluster, "/cut").pipeline();
        stream.write_all(&packet(&data, false)[..1_000]).unwrap();
    });
    let library = cluster.connect();
    // Whoever comes next can replace what the broken writer left.
    let overwrite = CreateOptions { overwrite: true, ..CreateOptions::default() };
    for path in ["/corrupt", "/cut"] {
        wait_for("the half-made file replaced", Duration::from_secs(30), || {
            library
                .run(async |client| {
                    let mut writer = client.create(path, overwrite.clone()).await?;
                    writer.write_slice(&data).await?;
                    writer.close().await
                })
                .ok()
        });
        assert_eq!(library.read(path).unwrap(), data);
    }
}

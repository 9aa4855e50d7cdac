//! Bytes that an unmodified Hadoop 3.5 client and Hadoop 2.7.3 servers exchanged: a file of 1000
//! bytes written to one datanode, read and summed up, and the namenode calls of a deletion.
//! `client` is what the client sent on a connection, `server` what came back.

use bytes::{Bytes, BytesMut};
use prost::Message;
use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::file_checksum::{BlockMd5, FileChecksum};
use ringfs_protocol::messages::*;
use ringfs_protocol::operation::{Opcode, Operation, decode_operation, encode_operation};
use ringfs_protocol::packet::{
    PACKET_PREFIX_MAX_BYTES, PacketHeader, PipelineAck, decode_ack, decode_packet_prefix,
    encode_packet_prefix,
};
use ringfs_protocol::rpc::codec::{self, Outcome};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::rpc::session::{Session, Step};
use ringfs_protocol::wire::{decode_delimited, encode_delimited};

const CRC32C_512: DataChecksum =
    DataChecksum { kind: ChecksumType::Crc32c, bytes_per_checksum: 512 };
const FILE_BYTES: usize = 1000;

fn file() -> Vec<u8> {
    (0..FILE_BYTES).map(|index| (index * 31 + (index >> 8)) as u8).collect()
}

/// Takes the operation off the front; what it holds encodes to the same bytes again.
fn take_operation(bytes: &mut &[u8]) -> Operation {
    let (operation, len) = decode_operation(bytes).unwrap().unwrap();
    let mut again = BytesMut::new();
    match &operation {
        Operation::WriteBlock(op) => encode_operation(Opcode::WriteBlock, &**op, &mut again),
        Operation::ReadBlock(op) => encode_operation(Opcode::ReadBlock, &**op, &mut again),
        Operation::BlockChecksum(op) => encode_operation(Opcode::BlockChecksum, &**op, &mut again),
        other => panic!("not captured: {other:?}"),
    }
    assert_eq!(again, bytes[..len]);
    *bytes = &bytes[len..];
    operation
}

fn take_message<M: Message + Default>(bytes: &mut &[u8]) -> M {
    let (message, len) = decode_delimited::<M>("captured", bytes, 1 << 20).unwrap().unwrap();
    let mut again = BytesMut::new();
    encode_delimited(&message, &mut again);
    assert_eq!(again, bytes[..len]);
    *bytes = &bytes[len..];
    message
}

fn take_ack(bytes: &mut &[u8]) -> PipelineAck {
    let (ack, len) = decode_ack(bytes).unwrap().unwrap();
    *bytes = &bytes[len..];
    ack
}

/// The file in one packet, checksums verified, then the empty last packet.
fn take_packets(mut bytes: &[u8]) -> &[u8] {
    let data = PacketHeader {
        offset_in_block: 0,
        seqno: 0,
        last_packet_in_block: false,
        data_len: FILE_BYTES as u32,
        sync_block: false,
    };
    let last = PacketHeader {
        offset_in_block: FILE_BYTES as u64,
        seqno: 1,
        last_packet_in_block: true,
        data_len: 0,
        sync_block: false,
    };
    for (header, content) in [(data, &file()[..]), (last, &[])] {
        let frame = decode_packet_prefix(bytes).unwrap().unwrap();
        assert_eq!(frame.header, header);
        let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
        let prefix_len = encode_packet_prefix(&header, frame.checksums_len, &mut prefix);
        let (packet_prefix, rest) = bytes.split_at(frame.prefix_len);
        assert_eq!(&prefix[..prefix_len], packet_prefix);
        let (checksums, rest) = rest.split_at(frame.checksums_len);
        let (packet_data, rest) = rest.split_at(frame.data_len);
        assert_eq!(packet_data, content);
        assert_eq!(CRC32C_512.verify(packet_data, checksums), Ok(()));
        let mut filled = vec![0; checksums.len()];
        CRC32C_512.fill(packet_data, &mut filled);
        assert_eq!(filled, checksums);
        bytes = rest;
    }
    bytes
}

#[test]
fn a_block_is_written() {
    let mut client = &include_bytes!("captured/write.client")[..];
    let Operation::WriteBlock(write) = take_operation(&mut client) else { unreachable!() };
    let block = ExtendedBlock::from(&write.header.base_header.block);
    assert_eq!(block.to_string(), "BP-1091195015-127.0.0.1-1795244631805:blk_1073741830_1006");
    assert_eq!(write.stage(), BlockConstructionStage::PipelineSetupCreate);
    assert_eq!((write.pipeline_size, write.targets.len()), (1, 0));
    assert_eq!(DataChecksum::from_proto(&write.requested_checksum), Ok(CRC32C_512));
    assert_eq!(write.storage_id(), "DS-c4c776f4-d5d1-4893-9a71-fdb004c912dd");
    assert!(take_packets(client).is_empty());

    let mut server = &include_bytes!("captured/write.server")[..];
    let response: BlockOpResponseProto = take_message(&mut server);
    assert_eq!((response.status(), response.first_bad_link()), (Status::Success, ""));
    for seqno in [0, 1] {
        let ack = take_ack(&mut server);
        assert_eq!((ack.seqno, &ack.replies[..]), (seqno, &[Status::Success][..]));
    }
    assert!(server.is_empty());
}

#[test]
fn a_block_is_read() {
    let mut client = &include_bytes!("captured/read.client")[..];
    let Operation::ReadBlock(read) = take_operation(&mut client) else { unreachable!() };
    assert_eq!((read.offset, read.len, read.send_checksums()), (0, FILE_BYTES as u64, true));
    let status: ClientReadStatusProto = take_message(&mut client);
    assert_eq!(status.status(), Status::ChecksumOk);
    assert!(client.is_empty());

    let mut server = &include_bytes!("captured/read.server")[..];
    let response: BlockOpResponseProto = take_message(&mut server);
    let info = response.read_op_checksum_info.unwrap();
    assert_eq!(DataChecksum::from_proto(&info.checksum), Ok(CRC32C_512));
    assert_eq!(info.chunk_offset, 0);
    assert!(take_packets(server).is_empty());
}

#[test]
fn a_file_is_summed_up() {
    let mut client = &include_bytes!("captured/checksum.client")[..];
    let Operation::BlockChecksum(asked) = take_operation(&mut client) else { unreachable!() };
    let options = asked.block_checksum_options.unwrap();
    assert_eq!(options.block_checksum_type(), BlockChecksumTypeProto::Md5crc);

    let mut server = &include_bytes!("captured/checksum.server")[..];
    let response: BlockOpResponseProto = take_message(&mut server);
    let answer = response.checksum_response.unwrap();
    let mut crcs = vec![0; CRC32C_512.checksums_len(FILE_BYTES as u64) as usize];
    CRC32C_512.fill(&file(), &mut crcs);
    let mut block_md5 = BlockMd5::default();
    block_md5.push_crcs(&crcs);
    let block_md5 = block_md5.finish();
    assert_eq!(answer.block_checksum, block_md5);

    let checksum = FileChecksum::of_block_md5s(CRC32C_512, answer.crc_per_block, &[block_md5]);
    assert_eq!(checksum.algorithm_name(), "MD5-of-0MD5-of-512CRC32C");
    let printed: String = checksum.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(printed, "0000020000000000000000001a9e431c9a13c8401703f31502ceccdc");
}

#[test]
fn the_checksum_of_several_blocks_is_hadoops() {
    // 2.5 MiB of the letter x in blocks of 1 MiB, as `hdfs dfs -checksum` printed it.
    let mut crcs = Vec::new();
    let md5s: Vec<[u8; 16]> = [1 << 20, 1 << 20, 1 << 19]
        .into_iter()
        .map(|len: usize| {
            crcs.resize(CRC32C_512.checksums_len(len as u64) as usize, 0);
            CRC32C_512.fill(&vec![b'x'; len], &mut crcs);
            let mut md5 = BlockMd5::default();
            md5.push_crcs(&crcs);
            md5.finish()
        })
        .collect();
    let checksum = FileChecksum::of_block_md5s(CRC32C_512, 2048, &md5s);
    assert_eq!(checksum.algorithm_name(), "MD5-of-2048MD5-of-512CRC32C");
    let printed: String = checksum.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(printed, "000002000000000000000800efb3d39b910f7bc9399b9cdcfb2e86a0");
}

#[test]
fn a_java_client_calls_the_namenode() {
    let mut bytes = BytesMut::from(&include_bytes!("captured/rpc.client")[..]);
    let mut session = Session::new();
    assert_eq!(session.step(&mut bytes).unwrap(), Step::Nothing);
    let Step::Context(context) = session.step(&mut bytes).unwrap() else { panic!("no context") };
    assert_eq!((context.effective_user.as_str(), context.real_user), ("root", None));
    let mut methods = Vec::new();
    loop {
        match session.step(&mut bytes).unwrap() {
            Step::Call(request) => {
                assert_eq!(request.protocol, protocol_name::CLIENT);
                assert_eq!((request.protocol_version, request.identity.retry_count), (1, 0));
                if request.method == "delete" {
                    let delete = DeleteRequestProto::decode(request.body).unwrap();
                    assert_eq!((delete.src.as_str(), delete.recursive), ("/d1000", false));
                }
                methods.push((request.identity.call_id, request.method));
            }
            Step::NeedMore { frame_len: None } => break,
            other => panic!("not a call: {other:?}"),
        }
    }
    assert!(bytes.is_empty());
    let called: Vec<(i32, &str)> = methods.iter().map(|(id, name)| (*id, name.as_str())).collect();
    assert_eq!(
        called,
        [(0, "getFileInfo"), (1, "getFileInfo"), (2, "getServerDefaults"), (3, "delete")]
    );
}

#[test]
fn a_java_namenode_answers() {
    let mut bytes = BytesMut::from(&include_bytes!("captured/rpc.server")[..]);
    let client_id = &include_bytes!("captured/rpc.client")[20..36];
    let mut bodies = Vec::new();
    while let Some(len) = codec::decode_frame_len(&bytes, 1 << 20).unwrap() {
        let frame = codec::take_frame(&mut bytes, len).unwrap();
        let response = codec::decode_response(frame.clone(), client_id).unwrap();
        let Outcome::Success(body) = response.outcome else { panic!("{response:?}") };
        // What the server says is what ours would: header fields, their order, the framing.
        let identity = codec::CallIdentity {
            call_id: response.call_id,
            client_id: client_id.to_vec(),
            retry_count: 0,
        };
        assert_eq!(codec::encode_success(&identity, &body)[4..], frame);
        assert!(codec::decode_response(frame, &[0; 16]).is_err(), "another client's id");
        assert_eq!(response.call_id, bodies.len() as i32);
        bodies.push(body);
    }
    assert!(bytes.is_empty());
    let decode = |index: usize| -> Bytes { bodies[index].clone() };
    let info = GetFileInfoResponseProto::decode(decode(0)).unwrap().fs.unwrap();
    assert_eq!((info.length, info.owner.as_str(), info.block_replication()), (1000, "root", 3));
    let defaults = GetServerDefaultsResponseProto::decode(decode(2)).unwrap();
    assert_eq!(defaults.server_defaults.block_size, 128 << 20);
    assert!(DeleteResponseProto::decode(decode(3)).unwrap().result);
    assert_eq!(bodies.len(), 4);
}

//! Small blocks that follow their WRITE_BLOCK at once, through one datanode and through three.

use std::fs;
use std::io::Write;
use std::time::Duration;

use bytes::BytesMut;
use ringfs_protocol::block::{BlockId, ReplicaState};
use ringfs_protocol::messages::{BlockOpResponseProto, OpWriteBlockProto, Status};
use ringfs_protocol::operation::{Opcode, Operation, encode_operation};

use crate::bare_datanode::*;
use crate::block_reports::BlockChange;
use crate::dataset::Dataset;
use crate::dataset::tests::open;
use crate::fake_peer::FakePeer;
use crate::ring::Buffer;
use crate::ring::failing::block_on_failing_after;
use crate::transitions::tests::{assert_holds, changes, node, request};
use crate::volume::tests::POOL;
use crate::whole_replica::WholeReplica;

/// Packets of a block, with so much data each, and the last one.
fn packets(content: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut seqno = 0;
    for (index, data) in content.chunks(size).enumerate() {
        out.extend(packet(data, (index * size) as u64, seqno, false, false));
        seqno += 1;
    }
    out.extend(packet(&[], content.len() as u64, seqno, false, true));
    out
}

fn whole(request: OpWriteBlockProto, following: &[u8]) -> OpWriteBlockProto {
    let following_bytes = Some(following.len() as u32);
    OpWriteBlockProto { keeps_connection: Some(true), following_bytes, ..request }
}

fn message(request: &OpWriteBlockProto, following: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode_operation(Opcode::WriteBlock, request, &mut bytes);
    bytes.extend_from_slice(following);
    bytes.to_vec()
}

fn write_whole(
    client: &mut Client,
    request: OpWriteBlockProto,
    following: &[u8],
) -> BlockOpResponseProto {
    let request = whole(request, following);
    client.stream.write_all(&message(&request, following)).unwrap();
    client.response().expect("a reply to WRITE_BLOCK")
}

fn expect_written(client: &mut Client, reply: &BlockOpResponseProto, size: i64, datanodes: usize) {
    assert_eq!((reply.status(), reply.first_bad_link()), (Status::Success, ""));
    assert!(reply.keeps_connection());
    client.seqno = size;
    client.expect_acks(0, datanodes);
}

fn files_in_rbw(datanode: &Datanode) -> usize {
    fs::read_dir(datanode.node.volume.rbw_dir()).unwrap().count()
}

#[test]
fn a_whole_block_is_on_three_datanodes_with_its_reply() {
    let [one, two, three] = [(); 3].map(|()| Datanode::start(true));
    let mut client = Client::connect(&one);
    let lens = [10_240, 0, 1, 511, 60_000, 10_240];
    for (id, len) in lens.into_iter().enumerate() {
        let (id, content) = (id as u64, bytes(len));
        let request = create(id, vec![two.info(), three.info()]);
        let reply = write_whole(&mut client, request, &packets(&content, 65_536));
        assert!(reply.reopens_finalized(), "all three are ours");
        expect_written(&mut client, &reply, if len > 0 { 2 } else { 1 }, 3);
        for datanode in [&one, &two, &three] {
            datanode.assert_holds(id, &content);
        }
    }
    for datanode in [&one, &two, &three] {
        let counters = &datanode.server.counters;
        assert_eq!((counters.payload_bytes_copied.get(), counters.mirror_errors.get()), (0, 0));
        assert_eq!((counters.blocks_written.get(), counters.bytes_written.get()), (6, 80_992));
        assert_eq!(datanode.server.activity.streams(), 1, "for all blocks");
        assert_eq!((datanode.held_slabs(), files_in_rbw(datanode)), (0, 0));
        assert_eq!(datanode.node.volume.promised_bytes(), 0);
        // The last one behind its reply.
        let mut told = changes(&datanode.node);
        for _ in 0..200 {
            if told.len() == 6 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            told.extend(changes(&datanode.node));
        }
        assert_eq!(told.len(), 6);
        assert!(told.iter().all(|(_, change)| *change == BlockChange::RECEIVED), "{told:?}");
    }
    let (_, data) = client.read(4, 0, 60_000).unwrap();
    assert!(data == bytes(60_000));
}

/// A byte at a time, so that heads lie across what is received together.
#[test]
fn a_whole_block_may_trickle_in() {
    let datanode = Datanode::start(true);
    let mut client = Client::connect(&datanode);
    let content = bytes(3000);
    let following = packets(&content, 3000);
    let bytes = message(&whole(create(1, Vec::new()), &following), &following);
    for piece in bytes.chunks(97) {
        client.stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let reply = client.response().unwrap();
    expect_written(&mut client, &reply, 2, 1);
    datanode.assert_holds(1, &content);
}

/// What is below knows nothing of whole blocks, and gets the packets behind its own reply.
#[test]
fn a_datanode_of_another_make_gets_the_packets_behind_its_reply() {
    let content = bytes(10_240);
    let mirror = FakePeer::start_each(2, |mut conversation| {
        let Operation::WriteBlock(request) = conversation.operation() else { panic!() };
        assert_eq!(request.following_bytes, None);
        assert!(conversation.is_silent_for_a_moment());
        conversation.reply(&BlockOpResponseProto {
            status: Status::Success as i32,
            first_bad_link: Some(String::new()),
            ..Default::default()
        });
        let data = conversation.packets().unwrap();
        conversation.acknowledge(2);
        data
    });
    let datanode = Datanode::start(true);
    let mut client = Client::connect(&datanode);
    for id in 0..2 {
        let request = create(id, vec![mirror.info.clone()]);
        let reply = write_whole(&mut client, request, &packets(&content, 65_536));
        assert!(!reply.reopens_finalized());
        expect_written(&mut client, &reply, 2, 2);
        datanode.assert_holds(id, &content);
    }
    assert!(mirror.outcome().into_iter().all(|data| data == content));
}

/// A mirror that closes the connection which it kept is asked again over a new one.
#[test]
fn a_kept_connection_that_was_closed_is_no_failure() {
    let content = bytes(10_240);
    let mirror = FakePeer::start_each(3, |mut conversation| {
        let Operation::WriteBlock(request) = conversation.operation() else { panic!() };
        let status = Status::Success as i32;
        let reply =
            BlockOpResponseProto { status, keeps_connection: Some(true), ..Default::default() };
        conversation.reply(&reply);
        let data = conversation.packets().unwrap();
        conversation.acknowledge(2);
        (request.following_bytes, data)
    });
    let datanode = Datanode::start(true);
    let mut client = Client::connect(&datanode);
    for id in 0..3 {
        let request = create(id, vec![mirror.info.clone()]);
        let reply = write_whole(&mut client, request, &packets(&content, 65_536));
        expect_written(&mut client, &reply, 2, 2);
        datanode.assert_holds(id, &content);
    }
    assert!(
        mirror
            .outcome()
            .into_iter()
            .all(|(following, data)| (following, data) == (None, content.clone()))
    );
    assert_eq!(datanode.server.counters.mirror_errors.get(), 0);
}

/// Whoever refuses is named by those before it, which keep nothing.
#[test]
fn a_refusal_below_leaves_nothing_here_and_is_told_by_name() {
    let [one, two, three] = [(); 3].map(|()| Datanode::start(true));
    let content = bytes(10_240);
    let following = packets(&content, 65_536);
    // So that their connections are kept.
    let mut client = Client::connect(&one);
    let reply = write_whole(&mut client, create(9, vec![two.info(), three.info()]), &following);
    expect_written(&mut client, &reply, 2, 3);
    for (id, has_it) in [(1, &three), (2, &two)] {
        let mut other = Client::connect(has_it);
        let reply = write_whole(&mut other, create(id, Vec::new()), &following);
        expect_written(&mut other, &reply, 2, 1);
        let mut client = Client::connect(&one);
        let request = create(id, vec![two.info(), three.info()]);
        let reply = write_whole(&mut client, request.clone(), &following);
        assert_eq!(reply.status(), Status::Error);
        assert_eq!(reply.first_bad_link(), has_it.address.to_string());
        assert!(client.ack().is_none(), "closed");
        assert!(one.node.dataset.replica(POOL, BlockId(id)).is_none());
        let told = changes(&one.node);
        assert!(told.iter().all(|(block, _)| block.id == BlockId(9)), "{told:?}");
        has_it.assert_holds(id, &content);

        // So it is where the packets come behind the reply.
        let reply = Client::connect(&two).start_write(&create(id, vec![three.info()]));
        let link = if id == 1 { three.address.to_string() } else { String::new() };
        assert_ne!(reply.status(), Status::Success);
        assert_eq!(reply.first_bad_link(), link);
    }
    assert_eq!(files_in_rbw(&one), 0);

    // The client's own datanode.
    let mut client = Client::connect(&three);
    let reply = write_whole(&mut client, create(1, Vec::new()), &following);
    assert_eq!((reply.status(), reply.first_bad_link()), (Status::ErrorExists, ""));
    three.assert_holds(1, &content);
}

/// Nobody stores it, and the one that sent it on is to blame.
#[test]
fn a_corrupt_block_is_refused_by_all() {
    let [one, two, three] = [(); 3].map(|()| Datanode::start(true));
    let mut following = packets(&bytes(10_240), 65_536);
    let mut client = Client::connect(&one);
    // So that their connections are kept.
    let reply = write_whole(&mut client, create(2, vec![two.info(), three.info()]), &following);
    expect_written(&mut client, &reply, 2, 3);
    following[5000] ^= 1;
    let reply = write_whole(&mut client, create(1, vec![two.info(), three.info()]), &following);
    assert_eq!(reply.status(), Status::Error);
    assert_eq!(reply.first_bad_link(), two.address.to_string());
    assert_eq!(three.server.counters.checksum_errors.get(), 1);
    for datanode in [&one, &two, &three] {
        assert!(datanode.node.dataset.replica(POOL, BlockId(1)).is_none());
        assert_eq!(files_in_rbw(datanode), 0);
    }
    let mut client = Client::connect(&three);
    let reply = write_whole(&mut client, create(1, Vec::new()), &following);
    assert_eq!((reply.status(), reply.first_bad_link()), (Status::ErrorChecksum, ""));
}

#[test]
fn malformed_blocks_close_the_connection_and_leave_nothing() {
    let datanode = Datanode::start(true);
    let good = packets(&bytes(1024), 1024);
    let data = |offset, sync| packet(&bytes(512), offset, 0, sync, false);
    let end = |offset| packet(&[], offset, 1, false, true);
    let cut = good.len() - 1;
    let bad: [(&str, Vec<u8>); 7] = [
        ("no last packet", good[..cut].to_vec()),
        ("bytes behind it", [&good[..], &[0]].concat()),
        ("a gap", [data(512, false), end(1024)].concat()),
        ("an end elsewhere", [data(0, false), end(511)].concat()),
        ("a sync", [data(0, true), end(512)].concat()),
        ("too many packets", [data(0, false), data(512, false), end(1024)].concat()),
        ("noise", vec![0xff; 2000]),
    ];
    for (what, following) in bad {
        let mut client = Client::connect(&datanode);
        let request = whole(create(1, Vec::new()), &following);
        client.stream.write_all(&message(&request, &following)).unwrap();
        assert!(client.response().is_none(), "{what}");
        assert!(datanode.node.dataset.replica(POOL, BlockId(1)).is_none(), "{what}");
    }
    // A client that goes away in the middle.
    let mut client = Client::connect(&datanode);
    let request = whole(create(1, Vec::new()), &good);
    client.stream.write_all(&message(&request, &good[..cut])).unwrap();
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.response().is_none());
    assert!(datanode.node.dataset.replica(POOL, BlockId(1)).is_none());
}

/// What is too large for it, or for other stages, goes the long way.
#[test]
fn packets_behind_any_write_block_are_found() {
    let datanode = Datanode::start(true);
    let mut client = Client::connect(&datanode);
    let content = bytes(100_000);
    let reply = write_whole(&mut client, create(1, Vec::new()), &packets(&content, 50_176));
    expect_written(&mut client, &reply, 3, 1);
    datanode.assert_holds(1, &content);
}

/// Nobody was told of it: after a crash there is nothing, or as much as its checksums prove.
#[test]
fn a_crash_at_any_step_leaves_what_a_start_knows() {
    let content = bytes(1500);
    let checksum = crate::replica_length::DEFAULT_CHECKSUM;
    let mut checksums = vec![0; 12];
    checksum.fill(&content, &mut checksums);
    for steps in 0.. {
        let node = node();
        let dataset = node.dataset.clone();
        let (data, crcs) = (content.clone(), checksums.clone());
        let done = block_on_failing_after(steps, async move {
            let content = WholeReplica {
                data: vec![Buffer::from(data)],
                checksums: vec![Buffer::from(crcs)],
            };
            Dataset::create_whole(&dataset, request(1, 1001, 1500), content).await.map(drop)
        });
        if done.is_err() {
            assert!(node.dataset.replica(POOL, BlockId(1)).is_none());
            assert!(node.volume.health().is_suspect());
        }
        let again = open(vec![node.volume.clone()]);
        if let Some(replica) = again.replica(POOL, BlockId(1)) {
            let len = replica.bytes_on_disk() as usize;
            if len > 0 {
                assert_holds(&replica, &content[..len]);
            }
            assert_eq!(len == 1500, steps >= 4, "{steps}: {len}");
            assert!(done.is_err() || replica.state() == ReplicaState::Finalized);
        } else {
            assert!(steps < 2, "{steps}");
        }
        if done.is_ok() {
            assert!(steps >= 6, "two files created, written and moved");
            return;
        }
    }
}

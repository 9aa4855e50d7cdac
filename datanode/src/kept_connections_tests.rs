//! Connections that carry one block after another: a writer's, and those between the datanodes of its
//! pipelines.

use ringfs_protocol::messages::{BlockOpResponseProto, OpWriteBlockProto, Status};
use ringfs_protocol::operation::Operation;

use crate::bare_datanode::*;
use crate::fake_peer::FakePeer;

fn keeping(request: OpWriteBlockProto) -> OpWriteBlockProto {
    OpWriteBlockProto { keeps_connection: Some(true), ..request }
}

#[test]
fn blocks_follow_each_other_on_one_connection() {
    let [one, two, three] = [(); 3].map(|()| Datanode::start(true));
    let mut client = Client::connect(&one);
    for (id, len) in [10_240, 0, 1, 300_000, 10_240].into_iter().enumerate() {
        let content = bytes(len);
        let reply = client.start_write(&keeping(create(id as u64, vec![two.info(), three.info()])));
        assert_eq!(reply.status(), Status::Success);
        assert!(reply.keeps_connection());
        client.seqno = 0;
        if len > 0 {
            client.send_packet(&content, 0, false, false);
        }
        client.finish(len as u64, 3, 0);
        for datanode in [&one, &two, &three] {
            datanode.assert_holds(id as u64, &content);
        }
    }
    for datanode in [&one, &two, &three] {
        assert_eq!(datanode.server.activity.streams(), 1, "for all blocks");
        assert_eq!(datanode.held_slabs(), 0);
    }
    let (_, data) = client.read(3, 0, 300_000).unwrap();
    assert!(data == bytes(300_000));
}

#[test]
fn a_connection_is_not_kept_unasked_or_with_bytes_behind_the_block() {
    let datanode = Datanode::start(true);
    let mut client = Client::connect(&datanode);
    assert!(!client.start_write(&create(1, Vec::new())).keeps_connection());
    client.finish(0, 1, 0);
    assert!(client.ack().is_none());

    let mut client = Client::connect(&datanode);
    client.start_write(&keeping(create(2, Vec::new())));
    let mut bytes = packet(&[], 0, 0, false, true);
    bytes.extend(packet(&[], 0, 1, false, true));
    std::io::Write::write_all(&mut client.stream, &bytes).unwrap();
    client.seqno = 1;
    client.expect_acks(0, 1);
    assert!(client.ack().is_none());
    datanode.assert_holds(2, &[]);
}

/// Each block of a mirror that hangs up behind it needs a connection of its own, and gets it.
#[test]
fn a_kept_connection_that_was_closed_is_no_failure() {
    let mirror = FakePeer::start_each(3, |mut conversation| {
        let Operation::WriteBlock(request) = conversation.operation() else { panic!() };
        assert!(request.keeps_connection());
        let status = Status::Success as i32;
        let reply =
            BlockOpResponseProto { status, keeps_connection: Some(true), ..Default::default() };
        conversation.reply(&reply);
        let data = conversation.packets().unwrap();
        conversation.acknowledge(2);
        data
    });
    let datanode = Datanode::start(true);
    let mut client = Client::connect(&datanode);
    let content = bytes(10_240);
    for id in 0..3 {
        let reply = client.start_write(&keeping(create(id, vec![mirror.info.clone()])));
        assert_eq!((reply.status(), reply.first_bad_link()), (Status::Success, ""));
        client.seqno = 0;
        client.send_packet(&content, 0, false, false);
        client.finish(content.len() as u64, 2, 0);
        datanode.assert_holds(id, &content);
    }
    assert!(mirror.outcome().into_iter().all(|data| data == content));
    assert_eq!(datanode.server.counters.mirror_errors.get(), 0);
}

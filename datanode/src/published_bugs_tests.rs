//! Bugs that cost users of HDFS data, as its issue tracker has them: one test for each whose state is a
//! datanode's. ARCHITECTURE.md lists them all.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringfs_protocol::block::{BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::messages::{
    BlockConstructionStage as Stage, DatanodeInfoProto, OpTransferBlockProto, OpWriteBlockProto,
    Status,
};

use crate::bare_datanode::{Client, Datanode, bytes, create, header, packet, reopen, send_evenly};
use crate::dataset::tests::{extended, open, put, put_finalized};
use crate::transitions::tests::{assert_holds, fill, node, on_ring, request};
use crate::volume::tests::{POOL, volume_at};

/// After a recovery at a length within a chunk the client sends from there, or from before; the
/// checksum of that chunk must be of what is in it.
#[test]
fn hdfs_4660_resend_after_recovery_at_a_partial_chunk() {
    let datanode = Datanode::start(true);
    let content = bytes(300_000);
    for seed in 0..40_u64 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let acked = rng.random_range(1..150_000_usize);
        let sent = rng.random_range(acked..150_001);
        let mut client = Client::connect(&datanode);
        client.start_write(&create(seed, Vec::new()));
        client.send_packet(&content[..acked], 0, false, false);
        client.expect_acks(0, 1);
        // Sent on from the last whole chunk, as a client does that had to flush a part of one.
        let from = acked / 512 * 512;
        if sent > from {
            let whole = packet(&content[from..sent], from as u64, 1, false, false);
            let cut = rng.random_range(0..=whole.len());
            client.stream.write_all(&whole[..cut]).unwrap();
        }
        let recover = OpWriteBlockProto {
            max_bytes_rcvd: sent as u64,
            ..reopen(Stage::PipelineSetupStreamingRecovery, seed, 1002, acked as u64)
        };
        let mut again = Client::connect(&datanode);
        assert_eq!(again.start_write(&recover).status(), Status::Success, "{seed}");
        let resent = [from, 0, acked / 2 / 512 * 512][seed as usize % 3];
        send_evenly(&mut again, &content, resent, [512, 1_536, 64_512][seed as usize % 3]);
        again.finish(content.len() as u64, 1, 0);
        datanode.assert_holds(seed, &content);
    }
}

/// A datanode that joins a pipeline gets a replica that ends within a chunk, whose checksum on disk
/// may be of more than what is copied; the client then sends that chunk again to both.
#[test]
fn hdfs_10587_a_datanode_that_joins_at_a_partial_chunk_holds_the_same_block() {
    let [one, two] = [(); 2].map(|()| Datanode::start(true));
    let content = bytes(300_000);
    for id in 0..30_u64 {
        let rng = &mut StdRng::seed_from_u64(id);
        let acked = rng.random_range(1..150_000_usize);
        let sent = rng.random_range(acked..150_001);
        let mut client = Client::connect(&one);
        client.start_write(&create(id, Vec::new()));
        client.send_packet(&content[..acked], 0, false, false);
        client.expect_acks(0, 1);
        let from = acked / 512 * 512;
        let whole = packet(&content[from..sent], from as u64, 1, false, false);
        client.stream.write_all(&whole[..rng.random_range(0..=whole.len())]).unwrap();
        let transfer = OpTransferBlockProto {
            header: header(id, 1001, acked as u64),
            targets: vec![two.info()],
            target_storage_types: Vec::new(),
            target_storage_ids: Vec::new(),
        };
        assert_eq!(Client::connect(&one).transfer(&transfer).status(), Status::Success, "{id}");
        let copied = two.node.dataset.replica(POOL, BlockId(id)).unwrap().bytes_on_disk();
        assert!(copied >= acked as u64, "{id}: {copied} of {acked} bytes were copied");
        let recover = OpWriteBlockProto {
            targets: vec![two.info()],
            pipeline_size: 2,
            max_bytes_rcvd: sent as u64,
            ..reopen(Stage::PipelineSetupStreamingRecovery, id, 1002, acked as u64)
        };
        let mut again = Client::connect(&one);
        assert_eq!(again.start_write(&recover).status(), Status::Success, "{id}");
        send_evenly(&mut again, &content, from, [512, 1_536, 64_512][id as usize % 3]);
        again.finish(content.len() as u64, 2, 0);
        one.assert_holds(id, &content);
        two.assert_holds(id, &content);
    }
}

/// Passes bytes on and flips a bit of the one at `offset`.
fn flipping_link(to: SocketAddr, offset: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut from, _) = listener.accept().unwrap();
        let mut to = TcpStream::connect(to).unwrap();
        let (mut back, mut replies) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut replies, &mut back));
        let (mut passed, mut piece) = (0, [0; 16_384]);
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if (passed..passed + count).contains(&offset) {
                piece[offset - passed] ^= 4;
            }
            passed += count;
            if to.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(std::net::Shutdown::Both);
    });
    address
}

/// A bit flips between the first and the second datanode: nothing of it is acknowledged, and the
/// blame falls on the first, which sent it, not on the second, which has to be in the next pipeline.
#[test]
fn hdfs_3875_corruption_in_the_middle_blames_who_sent_it() {
    let [one, two] = [(); 2].map(|()| Datanode::start(true));
    let content = bytes(400_000);
    let mut link = two.info();
    link.id.xfer_port = flipping_link(two.address, 200_000).port().into();
    let mut client = Client::connect(&one);
    assert_eq!(client.start_write(&create(1, vec![link])).status(), Status::Success);
    send_evenly(&mut client, &content[..100_000], 0, 20_000);
    client.expect_acks(0, 2);
    let mut acked = 100_000;
    // The first datanode hangs up when it learns of it, perhaps before all is sent.
    for (index, data) in content[100_000..].chunks(20_000).enumerate() {
        let (offset, seqno) = (100_000 + index * 20_000, 5 + index as i64);
        let bytes = packet(data, offset as u64, seqno, false, false);
        if client.stream.write_all(&bytes).is_err() {
            break;
        }
    }
    while let Some(ack) = client.ack() {
        // Hung up on is the first datanode; an ack that blamed the second would keep the first.
        assert!(ack.replies.iter().all(|status| *status == Status::Success), "{ack:?}");
        acked += 20_000;
    }
    let hung_up = client.stream.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(hung_up, Ok(0) | Err(ErrorKind::ConnectionReset)), "{hung_up:?}");
    assert!((100_000..200_000).contains(&acked), "{acked} bytes were acknowledged");
    let replica = two.node.dataset.replica(POOL, BlockId(1)).unwrap();
    assert!(replica.bytes_on_disk() >= acked && replica.bytes_on_disk() < 200_000);
    let recover = OpWriteBlockProto {
        max_bytes_rcvd: content.len() as u64,
        ..reopen(Stage::PipelineSetupStreamingRecovery, 1, 1002, acked)
    };
    let mut again = Client::connect(&two);
    assert_eq!(again.start_write(&recover).status(), Status::Success);
    send_evenly(&mut again, &content, acked as usize, 20_000);
    again.finish(content.len() as u64, 1, 0);
    two.assert_holds(1, &content);
}

/// The client repeats the end of a block while the first attempt is still finishing it.
#[test]
fn hdfs_7065_close_recovery_races_with_the_end_of_the_block() {
    let datanode = Datanode::start(true);
    let content = bytes(100_000);
    for id in 0..30 {
        let mut client = Client::connect(&datanode);
        client.start_write(&create(id, Vec::new()));
        send_evenly(&mut client, &content, 0, 64_512);
        client.expect_acks(0, 1);
        client.send_packet(&[], content.len() as u64, false, true);
        let close = reopen(Stage::PipelineCloseRecovery, id, 1002, content.len() as u64);
        let mut closing = Client::connect(&datanode);
        assert_eq!(closing.start_write(&close).status(), Status::Success, "{id}");
        let replica = datanode.node.dataset.replica(POOL, BlockId(id)).unwrap();
        assert_eq!(replica.generation_stamp(), GenerationStamp(1002));
        datanode.assert_holds(id, &content);
    }
}

/// A recovery that got no further than this datanode is followed by another, whose client still names
/// the generation stamp from before both.
#[test]
fn hdfs_16598_a_newer_stamp_than_the_clients_fails_no_pipeline() {
    on_ring(async {
        let node = node();
        let dataset = &node.dataset;
        let mut writer = dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
        fill(&mut writer, &[3; 1500], 10_000).await;
        let replica = writer.replica.clone();
        replica.set_bytes_acked(1500);
        drop(writer);
        let block = extended(1, 1001, 0);
        for stamp in [1002, 1003, 1004] {
            let recovered = dataset.recover_rbw(&block, GenerationStamp(stamp), 1500, 1500);
            drop(recovered.await.unwrap());
        }
        let closed = dataset.recover_close(&block, GenerationStamp(1005), 1500).await.unwrap();
        assert_eq!(closed, extended(1, 1005, 1500).block);
        let appended = dataset.recover_append(&block, GenerationStamp(1006), 1500).await.unwrap();
        dataset.finalize(appended, false, None).await.unwrap();
        assert_holds(&replica, &[3; 1500]);
    });
}

/// Whatever a start finds twice, the better one stays, with its files.
#[test]
fn hdfs_8486_a_start_deletes_no_good_replica_as_a_duplicate() {
    use ReplicaState::{Finalized, Rbw};
    let states = [Finalized, Rbw];
    for (first, second) in states.iter().flat_map(|one| states.map(|two| (*one, two))) {
        for (stamps, lengths) in [([1001, 1001], [600, 600]), ([1001, 1002], [600, 600])] {
            let temp = tempfile::tempdir().unwrap();
            let volumes = ["1", "2"].map(|name| volume_at(temp.path().join(name)));
            put(&volumes[0], first, 1, stamps[0], &vec![7; lengths[0]]);
            put(&volumes[1], second, 1, stamps[1], &vec![7; lengths[1]]);
            // The same block in one volume, where paths may name one file.
            put_finalized(&volumes[0], 2, 1001, &[8; 600]);
            let entry = volumes[0].replica_dir(Finalized, BlockId(2)).join("blk_2");
            for _ in 0..2 {
                let dataset = open(volumes.to_vec());
                let replica = dataset.replica(POOL, BlockId(1)).unwrap();
                assert_holds(&replica, &[7; 600]);
                assert_eq!(replica.generation_stamp().0, stamps[1], "{first:?} and {second:?}");
                assert_holds(&dataset.replica(POOL, BlockId(2)).unwrap(), &[8; 600]);
                drop(dataset);
            }
            assert!(entry.exists());
        }
    }
}

/// The block's second datanode is lost with the last packet: the end is told, and so is who failed.
#[test]
fn hdfs_16968_a_block_of_two_that_ends_with_one_says_so() {
    let [one, two] = [(); 2].map(|()| Datanode::start(true));
    let content = bytes(100_000);
    let targets: Vec<DatanodeInfoProto> = vec![two.info()];
    let mut client = Client::connect(&one);
    client.start_write(&create(1, targets));
    send_evenly(&mut client, &content, 0, 64_512);
    client.expect_acks(0, 2);
    drop(two);
    client.send_packet(&[], content.len() as u64, false, true);
    let ack = client.ack().unwrap();
    assert_eq!(ack.replies[..], [Status::Success, Status::Error]);
    one.assert_holds(1, &content);
    // The client then closes it under a new stamp, which shuts the lost replica out.
    let close = OpWriteBlockProto {
        header: header(1, 1001, 0),
        ..reopen(Stage::PipelineCloseRecovery, 1, 1002, content.len() as u64)
    };
    assert_eq!(Client::connect(&one).start_write(&close).status(), Status::Success);
    one.assert_holds(1, &content);
}

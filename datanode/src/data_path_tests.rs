//! The transfer port from outside: blocks written over sockets in every shape that clients send them
//! in, the files and the acks compared with a model, and read back in ranges.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringfs_protocol::block::{BlockId, ReplicaState};
use ringfs_protocol::messages::{
    BlockConstructionStage as Stage, CachingStrategyProto, DatanodeIDProto, DatanodeInfoProto,
    OpWriteBlockProto, Status,
};
use ringfs_protocol::operation::{Opcode, encode_operation};

use crate::bare_datanode::*;
use crate::dataset::tests::open;
use crate::limits::{CACHED_WRITE_MAX_BYTES, HALF_PACKET_PATIENCE, SILENCE_PATIENCE};
use crate::transitions::tests::assert_holds;
use crate::volume::tests::POOL;

const CHUNK: u64 = 512;
/// What Java sends: 126 chunks.
const USUAL: usize = 64_512;

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
fn a_reader_that_leaves_over_a_bad_checksum_makes_the_replica_suspect() {
    let datanode = Datanode::start(true);
    let content = bytes(8 << 20);
    write(&datanode, &create(1, Vec::new()), &content);
    let suspects = datanode.server.dataset.volumes()[0].suspects().receiver();
    for len in [content.len() as u64, 4096] {
        let mut client = Client::connect(&datanode);
        assert_eq!(client.start_read(1, 0, len).status(), Status::Success);
        client.send_read_status(Status::ErrorChecksum);
        drop(client);
        assert_eq!(suspects.recv_timeout(Duration::from_secs(10)), Ok(BlockId(1)), "{len}");
    }
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
fn a_stream_holds_slabs_only_while_packets_come() {
    let datanode = Datanode::start(true);
    let content = bytes(2 * USUAL);
    let mut client = Client::connect(&datanode);
    client.start_write(&create(1, Vec::new()));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(datanode.held_slabs(), 0, "before the first packet");
    send_evenly(&mut client, &content, 0, USUAL);
    for _ in 0..50 {
        std::thread::sleep(SILENCE_PATIENCE / 5);
        if datanode.held_slabs() == 0 {
            break;
        }
    }
    assert_eq!(datanode.held_slabs(), 0, "behind a packet");
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
    let mut both = packet(&content[USUAL..2 * USUAL], USUAL as u64, 1, false, false);
    let mut corrupt = packet(&content[..USUAL], 2 * USUAL as u64, 2, false, false);
    let last = corrupt.len() - 1;
    corrupt[last] ^= 1;
    both.extend_from_slice(&corrupt);
    client.stream.write_all(&both).unwrap();
    // What came whole with it is stored.
    for (seqno, status) in [(1, Status::Success), (2, Status::ErrorChecksum)] {
        let ack = client.ack().unwrap();
        assert_eq!((ack.seqno, &ack.replies[..]), (seqno, &[status][..]));
    }
    // Who sends on without having looked is not cut off, and so gets to see that ack.
    for _ in 0..10 {
        client.stream.write_all(&corrupt).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(client.ack().is_none());
    let replica = datanode.node.dataset.replica(POOL, BlockId(1)).unwrap();
    let good = 2 * USUAL as u64;
    assert_eq!((replica.state(), replica.visible_len()), (ReplicaState::Rbw, Some(good)));

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

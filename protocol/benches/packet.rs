//! Packet headers and acks, as every packet of a write meets them: encoded once and decoded once by
//! each datanode of a pipeline.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringfs_protocol::messages::Status;
use ringfs_protocol::packet::{
    PACKET_PREFIX_MAX_BYTES, PacketHeader, decode_ack, decode_packet_prefix, encode_ack,
    encode_packet_prefix,
};

/// A client's packet of 64 KiB: 126 chunks.
const DATA_BYTES: u32 = 64_512;
const CHECKSUMS_BYTES: usize = 126 * 4;

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet header");
    group.throughput(Throughput::Elements(1));
    for sync_block in [false, true] {
        let header = PacketHeader {
            offset_in_block: 2080 * u64::from(DATA_BYTES),
            seqno: 2080,
            last_packet_in_block: false,
            data_len: DATA_BYTES,
            sync_block,
        };
        let kind = if sync_block { "with syncBlock" } else { "usual" };
        let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
        group.bench_function(format!("encode, {kind}"), |bench| {
            bench.iter(|| encode_packet_prefix(black_box(&header), CHECKSUMS_BYTES, &mut prefix))
        });
        let len = encode_packet_prefix(&header, CHECKSUMS_BYTES, &mut prefix);
        group.bench_function(format!("decode, {kind}"), |bench| {
            bench.iter(|| decode_packet_prefix(black_box(&prefix[..len])))
        });
    }
    group.finish();
}

fn acks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline ack");
    group.throughput(Throughput::Elements(1));
    for replicas in [1, 3] {
        let replies = vec![Status::Success; replicas];
        let mut ack = BytesMut::with_capacity(64);
        group.bench_function(format!("encode, {replicas} replicas"), |bench| {
            bench.iter(|| {
                ack.clear();
                encode_ack(black_box(2080), &replies, 120_000, &mut ack);
            })
        });
        group.bench_function(format!("decode, {replicas} replicas"), |bench| {
            bench.iter(|| decode_ack(black_box(&ack)))
        });
    }
    group.finish();
}

criterion_group!(benches, headers, acks);
criterion_main!(benches);

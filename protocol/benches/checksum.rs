//! Checksums of one packet's data, 64 KiB at 512 bytes per chunk: the shape of every write.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};

const DATA_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 512;

fn checksums(criterion: &mut Criterion) {
    let data: Vec<u8> = (0..DATA_BYTES).map(|index| ((index * 31) >> 3) as u8).collect();
    let mut out = vec![0; DATA_BYTES / CHUNK_BYTES * 4];
    let mut group = criterion.benchmark_group("64 KiB at 512 bytes per chunk");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    for kind in [ChecksumType::Crc32c, ChecksumType::Crc32] {
        let checksum = DataChecksum { kind, bytes_per_checksum: CHUNK_BYTES as u32 };
        group.bench_function(format!("fill {}", kind.name()), |bench| {
            bench.iter(|| checksum.fill(black_box(&data), &mut out))
        });
        group.bench_function(format!("verify {}", kind.name()), |bench| {
            bench.iter(|| checksum.verify(black_box(&data), &out))
        });
    }
    group.bench_function("crc32c crate, for comparison", |bench| {
        bench.iter(|| {
            for (chunk, out) in black_box(&data).chunks(CHUNK_BYTES).zip(out.as_chunks_mut().0) {
                *out = crc32c::crc32c(chunk).to_be_bytes();
            }
        })
    });
    group.finish();
}

criterion_group!(benches, checksums);
criterion_main!(benches);

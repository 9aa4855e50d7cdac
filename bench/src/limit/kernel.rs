//! What one core does with memory: CRC32C of chunks by every kernel there is, a copy, a sum.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ringfs_protocol::checksum::{ChecksumType, DataChecksum};

use crate::processes::cpu_time_of_this_thread;
use crate::report::{ProcessCpu, Run};

const BUFFER_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 512;
const LEAST_ELAPSED: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    CrcFast,
    Crc32c,
    /// What the datanode and the client compute with.
    Protocol,
    Copy,
    Sum,
}

impl Kernel {
    pub const ALL: [Self; 5] = [Self::CrcFast, Self::Crc32c, Self::Protocol, Self::Copy, Self::Sum];

    pub fn name(self) -> &'static str {
        match self {
            Self::CrcFast => "CRC32C of 512 B chunks, crc-fast",
            Self::Crc32c => "CRC32C of 512 B chunks, crc32c crate",
            Self::Protocol => "CRC32C of 512 B chunks, as ringfs computes it",
            Self::Copy => "copy of 1 MiB",
            Self::Sum => "sum of 1 MiB",
        }
    }

    /// Over the same 1 MiB again and again.
    pub fn run(self) -> Run {
        let source: Vec<u8> = (0..BUFFER_BYTES).map(|index| ((index * 7919) >> 3) as u8).collect();
        let mut target = vec![0; BUFFER_BYTES];
        self.pass(&source, &mut target);
        let (started, cpu) = (Instant::now(), cpu_time_of_this_thread());
        let mut passes = 0;
        while started.elapsed() < LEAST_ELAPSED {
            self.pass(black_box(&source), black_box(&mut target));
            passes += 1;
        }
        let elapsed = started.elapsed();
        let cpu_s = (cpu_time_of_this_thread() - cpu).as_secs_f64();
        let cpu = vec![ProcessCpu { process: "kernel".to_owned(), cpu_s }];
        Run {
            bytes: passes * BUFFER_BYTES as u64,
            operations: passes,
            elapsed,
            cpu,
            ..Run::default()
        }
    }

    /// Leaves the checksums, the copy or the sum in `target`.
    fn pass(self, source: &[u8], target: &mut [u8]) {
        let sums = &mut target[..source.len() / CHUNK_BYTES * 4];
        match self {
            Self::CrcFast => fill(source, sums, crc_fast::crc32_iscsi),
            Self::Crc32c => fill(source, sums, crc32c::crc32c),
            Self::Protocol => DataChecksum::new(ChecksumType::Crc32c, CHUNK_BYTES as u32)
                .expect("512 bytes are a chunk")
                .fill(source, sums),
            Self::Copy => target[..source.len()].copy_from_slice(source),
            Self::Sum => {
                let words = source.as_chunks::<8>().0.iter();
                let sum =
                    words.fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(*word)));
                target[..8].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

#[inline(always)]
fn fill(source: &[u8], sums: &mut [u8], crc: impl Fn(&[u8]) -> u32) {
    for (chunk, sum) in source.chunks_exact(CHUNK_BYTES).zip(sums.chunks_exact_mut(4)) {
        sum.copy_from_slice(&crc(chunk).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_one_checksum_agree_and_the_others_do_what_they_say() {
        let source: Vec<u8> = (0..4096_u32).map(|index| ((index * index) >> 5) as u8).collect();
        let result = |kernel: Kernel, len: usize| {
            let mut target = vec![0; source.len()];
            kernel.pass(&source, &mut target);
            target.truncate(len);
            target
        };
        let sums = result(Kernel::Protocol, 32);
        assert_eq!(sums[..4], crc32c::crc32c(&source[..512]).to_be_bytes());
        assert_eq!(result(Kernel::CrcFast, 32), sums);
        assert_eq!(result(Kernel::Crc32c, 32), sums);
        assert_eq!(result(Kernel::Copy, 4096), source);
        let words = source.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        assert_eq!(result(Kernel::Sum, 8), words.fold(0, u64::wrapping_add).to_le_bytes());
    }
}

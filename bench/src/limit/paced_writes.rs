//! What the disk alone gives a pipeline in open loop: a packet is due at a fixed rate, and each is
//! written, with O_DIRECT or to the page cache, to as many files as it has replicas on this disk. A file has one write at a
//! time, of all packets that are due. A packet's latency is that of its slowest copy, from the moment
//! it was due: no ack that comes after the local writes can come sooner, and a disk that stalls delays
//! all packets that were due meanwhile.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use rustix::fs::{OFlags, fcntl_setfl};

use super::disk::{RawDisk, fill_with_noise};
use crate::BenchError;
use crate::processes::cpu_time_of_this_process;
use crate::report::{Latency, ProcessCpu, Run};

/// Packets that one write takes at most: 1 MiB of the usual 64 KiB.
const GATHERED_MAX: u64 = 16;

#[derive(Clone, Debug)]
pub struct PacedWrites {
    /// On the disk to measure.
    pub directory: PathBuf,
    /// Files that each packet is written to.
    pub copies: usize,
    pub packet_bytes: usize,
    /// Of packets, without their copies.
    pub bytes_per_s: u64,
    pub bytes: u64,
    /// Not with O_DIRECT.
    pub through_cache: bool,
}

impl PacedWrites {
    pub fn run(&self) -> Result<Run, BenchError> {
        let packets = self.bytes / self.packet_bytes as u64;
        let disks: Vec<RawDisk> = (0..self.copies)
            .map(|_| RawDisk::create(&self.directory, self.bytes))
            .collect::<Result<_, _>>()?;
        if self.through_cache {
            let buffered = |disk: &RawDisk| fcntl_setfl(disk.file(), OFlags::empty());
            let opened: rustix::io::Result<()> = disks.iter().try_for_each(buffered);
            opened.map_err(|errno| BenchError::limit("write without O_DIRECT")(errno.into()))?;
        }
        let write_bytes = self.packet_bytes * GATHERED_MAX as usize;
        let mut data =
            MmapMut::map_anon(write_bytes).map_err(BenchError::limit("allocate packets"))?;
        // Without huge pages the measure holds.
        let _ = data.advise(Advice::HugePage);
        fill_with_noise(&mut data);
        let (cpu, started) = (cpu_time_of_this_process(), Instant::now());
        let copies: Vec<Vec<Duration>> = thread::scope(|scope| {
            let data = &data;
            let start = |disk| scope.spawn(move || self.write(disk, data, started, packets));
            let writers: Vec<_> = disks.iter().map(start).collect();
            let joined = writers.into_iter().map(|writer| writer.join().expect("no writer panics"));
            joined.collect::<Result<_, BenchError>>()
        })?;
        let elapsed = started.elapsed();
        let cpu_s = (cpu_time_of_this_process() - cpu).as_secs_f64();
        let mut latency = Latency::new("packet write");
        for packet in 0..packets as usize {
            let slowest = copies.iter().map(|latencies| latencies[packet]).max();
            latency.record(slowest.expect("a packet has at least one copy"));
        }
        Ok(Run {
            bytes: packets * self.packet_bytes as u64,
            operations: packets,
            elapsed,
            cpu: vec![ProcessCpu { process: "disk".to_owned(), cpu_s }],
            latency: Some(latency),
            ..Run::default()
        })
    }

    /// One copy of all packets; the latency of each.
    fn write(
        &self,
        disk: &RawDisk,
        data: &[u8],
        started: Instant,
        packets: u64,
    ) -> Result<Vec<Duration>, BenchError> {
        let packet_bytes = self.packet_bytes as u64;
        let packet_s = packet_bytes as f64 / self.bytes_per_s as f64;
        let due = |packet: u64| started + Duration::from_secs_f64(packet as f64 * packet_s);
        let mut latencies = Vec::with_capacity(packets as usize);
        let mut next = 0;
        while next < packets {
            thread::sleep(due(next).saturating_duration_since(Instant::now()));
            let all_due = 1 + (started.elapsed().as_secs_f64() / packet_s) as u64;
            let end = all_due.clamp(next + 1, packets.min(next + GATHERED_MAX));
            let bytes = &data[..((end - next) * packet_bytes) as usize];
            let written = disk.file().write_all_at(bytes, next * packet_bytes);
            written.map_err(BenchError::file("write", disk.path()))?;
            latencies.extend((next..end).map(|packet| due(packet).elapsed()));
            next = end;
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_has_a_latency_and_none_comes_before_it_is_due() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for through_cache in [false, true] {
            let paced = PacedWrites {
                directory: directory.path().to_owned(),
                copies: 2,
                packet_bytes: 64 << 10,
                bytes_per_s: 64 << 20,
                bytes: 4 << 20,
                through_cache,
            };
            let run = paced.run().unwrap();
            assert_eq!((run.bytes, run.operations), (4 << 20, 64));
            // The last of 64 packets is due after 63 of 64 of a 16th of a second.
            assert!(run.elapsed >= Duration::from_micros(61_500), "{:?}", run.elapsed);
            assert_eq!(run.latency.unwrap().histogram_us.len(), 64);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

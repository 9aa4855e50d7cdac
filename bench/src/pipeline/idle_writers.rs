//! Writers that send one packet and stay open while others are measured, and what they cost the
//! datanodes of this machine: threads, and resident memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::block_source::BlockSource;
use super::event_loop::EventLoop;
use super::limits::{IDLE_HEARTBEAT, IDLE_OPENED_AT_A_TIME};
use super::options::PipelineOptions;
use super::progress::Progress;
use super::write_stream::{WriteRules, WriteStream};
use crate::BenchError;
use crate::processes::{NamedProcess, ProcessSize};

/// Looks at a process's threads, of which the one with the fewest counts, and the pause between two.
const LOOKS: usize = 3;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct IdleWriters {
    batches: Vec<EventLoop<WriteStream>>,
    heartbeat_due: Instant,
    pub counters: BTreeMap<String, f64>,
}

impl IdleWriters {
    /// Returns when every writer's packet is acked.
    pub fn open(
        options: &PipelineOptions,
        rules: &Arc<WriteRules>,
        source: &mut BlockSource,
        processes: &[NamedProcess],
    ) -> Result<Self, BenchError> {
        let heartbeat_due = Instant::now() + IDLE_HEARTBEAT;
        let mut writers = Self { batches: Vec::new(), heartbeat_due, counters: BTreeMap::new() };
        let count = options.idle_writers;
        if count == 0 {
            return Ok(writers);
        }
        let datanodes = processes.iter().filter(|process| process.name.starts_with("datanode"));
        let before = sizes(datanodes.clone())?;
        let len = rules.packet_data_bytes as u64;
        let progress = Arc::new(Progress::new(count));
        for batch in (0..count).step_by(IDLE_OPENED_AT_A_TIME) {
            let open = |index| {
                let block = source.allocate(len)?;
                let mut writer = WriteStream::open(index, rules, &progress, None, [block])?;
                writer.hold_open();
                writer.start(Instant::now());
                Ok::<_, BenchError>(writer)
            };
            let batch = batch..(batch + IDLE_OPENED_AT_A_TIME).min(count);
            let mut batch = EventLoop::new(batch.map(open).collect::<Result<_, _>>()?)?;
            batch.run_until(WriteStream::is_idle)?;
            writers.batches.push(batch);
        }
        let after = sizes(datanodes)?;
        writers.counters = growth(&before, &after, count * usize::from(options.replication));
        Ok(writers)
    }

    /// Those that are due.
    pub fn send_heartbeats(&mut self) -> Result<(), BenchError> {
        if Instant::now() < self.heartbeat_due {
            return Ok(());
        }
        self.heartbeat_due = Instant::now() + IDLE_HEARTBEAT;
        let mut writers = self.batches.iter_mut().flat_map(|batch| &mut batch.streams);
        writers.try_for_each(WriteStream::send_heartbeat)
    }

    /// Ends every block.
    pub fn close(mut self) -> Result<(), BenchError> {
        for batch in &mut self.batches {
            batch.streams.iter_mut().for_each(WriteStream::release);
            batch.run_until(WriteStream::is_done)?;
        }
        Ok(())
    }
}

/// A datanode at one moment.
#[derive(Clone, Debug)]
struct Size {
    name: String,
    resident_bytes: f64,
    /// Its own.
    threads: f64,
    /// The kernel's, which carry out for a ring what would block it; idle ones go after seconds.
    ring_workers: f64,
}

impl Size {
    fn of(process: &NamedProcess) -> Result<Self, BenchError> {
        let ProcessSize { resident_bytes, .. } = ProcessSize::of(process.pid)?;
        let mut threads = Threads::of(process.pid)?;
        // A worker that is just made bears the name of the thread that needs it.
        for _ in 1..LOOKS {
            std::thread::sleep(LOOK_PAUSE);
            threads = Threads::of(process.pid)?.min(threads);
        }
        Ok(Self {
            name: process.name.clone(),
            resident_bytes: resident_bytes as f64,
            threads: threads.own as f64,
            ring_workers: threads.ring_workers as f64,
        })
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Threads {
    own: usize,
    ring_workers: usize,
}

impl Threads {
    /// From one listing, by their names.
    fn of(pid: u32) -> Result<Self, BenchError> {
        let path = PathBuf::from(format!("/proc/{pid}/task"));
        let tasks = std::fs::read_dir(&path).map_err(BenchError::file("list", &path))?;
        // A worker may end while it is looked at.
        let names =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let (ring_workers, own): (Vec<_>, Vec<_>) =
            names.partition(|name| name.starts_with("iou-"));
        Ok(Self { own: own.len(), ring_workers: ring_workers.len() })
    }
}

fn sizes<'a>(processes: impl Iterator<Item = &'a NamedProcess>) -> Result<Vec<Size>, BenchError> {
    processes.map(Size::of).collect()
}

/// `replicas` are those that the writers hold open, on all datanodes together.
fn growth(before: &[Size], after: &[Size], replicas: usize) -> BTreeMap<String, f64> {
    let mut counters = BTreeMap::new();
    let mut put = |name: String, value: f64| counters.insert(name, value);
    for (when, sizes) in [("before", before), ("beside", after)] {
        for size in sizes {
            let name = &size.name;
            put(format!("{name}_resident_bytes_{when}_idle_writers"), size.resident_bytes);
            put(format!("{name}_threads_{when}_idle_writers"), size.threads);
            put(format!("{name}_ring_workers_{when}_idle_writers"), size.ring_workers);
        }
    }
    if !before.is_empty() {
        let grown = |figure: fn(&Size) -> f64| {
            after.iter().map(figure).sum::<f64>() - before.iter().map(figure).sum::<f64>()
        };
        let resident_kib = grown(|size| size.resident_bytes) / 1024.0 / replicas as f64;
        put("idle_writer_resident_kib".to_owned(), resident_kib);
        put("idle_writers_new_threads".to_owned(), grown(|size| size.threads));
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_shared_among_the_replicas() {
        let size = |resident_bytes, threads, ring_workers| Size {
            name: "datanode0".to_owned(),
            resident_bytes,
            threads,
            ring_workers,
        };
        let counters = growth(&[size(1048576.0, 3.0, 0.0)], &[size(2097152.0, 4.0, 9.0)], 64);
        assert_eq!(counters["idle_writer_resident_kib"], 16.0);
        assert_eq!(counters["idle_writers_new_threads"], 1.0);
        assert_eq!(counters["datanode0_threads_before_idle_writers"], 3.0);
        assert_eq!(counters["datanode0_ring_workers_beside_idle_writers"], 9.0);
        assert!(growth(&[], &[], 64).is_empty());
    }

    #[test]
    fn sizes_a_process() {
        let size = Size::of(&NamedProcess::this("client")).unwrap();
        assert!(size.resident_bytes > 0.0 && size.threads >= 1.0);
    }
}

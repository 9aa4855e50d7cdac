//! The floor pipeline: the least code that moves, checks, forwards and stores the same bytes through
//! as many processes as there are replicas, without anything HDFS would add. It is what the
//! datanode's throughput and processor time are held against.
//!
//! A client thread a stream sends packets of data with a CRC32C per 512 bytes and keeps at most a window
//! (80, as Hadoop's) of them unacknowledged; each process receives several at once, forwards them from
//! the same memory and stores data and checksums; the last one verifies them. Acks come back cumulative,
//! one a slab. A packet is acknowledged once its data is written (O_DIRECT) and its checksums are with
//! the kernel, here and in every process further down; [`AckKind::Received`] is the weaker kind, which
//! waits for writes only at a block's end. A stream keeps its connections over all its blocks.
//!
//! What is outside the measured time: processes started, memory touched, streams connected, the
//! files of the first two blocks allocated, those that are to have space already laid out, by the first
//! run for all; at the end, files deleted.

mod client;
mod files;
mod layout;
mod node;
mod progress;
mod threads;
mod tokio_uring;
mod uring;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tempfile::TempDir;

use self::client::{Driven, Source, Stream};
use self::layout::Layout;
pub use self::layout::WINDOW_PACKETS;
pub use self::node::NodeOptions;
use self::node::NodeReport;
use super::Engine;
use super::child::{self, ChildProcess};
use crate::BenchError;
use crate::report::{Latency, Measurement, ProcessCpu, Run, Side, TimePoint};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// O_DIRECT writes
    Disk,
    /// Nothing is stored
    Discard,
}

/// What the files of blocks are written into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Space {
    /// Space that the file system has just given out
    New,
    /// Space of files that were written before and emptied, as a datanode keeps it of deleted blocks
    Kept,
}

impl Space {
    fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Kept => "kept",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AckKind {
    /// After the local write, and downstream's ack
    Written,
    /// On receipt; the last packet of a block waits for its writes
    Received,
}

impl AckKind {
    fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Received => "received",
        }
    }
}

#[derive(Clone, Debug)]
pub struct FloorOptions {
    pub engine: Engine,
    pub store: Store,
    pub ack: AckKind,
    /// Processes that the bytes go through.
    pub replication: usize,
    pub streams: usize,
    pub packet_bytes: u64,
    pub block_bytes: u64,
    /// That the client sends ahead of their acks.
    pub window_packets: u64,
    pub space: Space,
    /// Of all streams together.
    pub bytes: u64,
    /// The next block of a stream begins when the last one is acknowledged whole, as with HDFS's
    /// clients, instead of flowing on.
    pub drain_blocks: bool,
    /// On the disk to measure; what is made in it is deleted again.
    pub directory: PathBuf,
}

impl FloorOptions {
    /// One stream to three replicas on the disk of `directory`, in HDFS's own sizes.
    pub fn new(directory: &Path, bytes: u64) -> Self {
        Self {
            engine: Engine::Uring,
            store: Store::Disk,
            ack: AckKind::Written,
            replication: 3,
            streams: 1,
            packet_bytes: 64 << 10,
            block_bytes: 128 << 20,
            window_packets: WINDOW_PACKETS,
            space: Space::New,
            bytes,
            drain_blocks: false,
            directory: directory.to_owned(),
        }
    }

    /// The line of the table that runs of these options belong to.
    pub fn measurement(&self) -> Measurement {
        let store = if self.store == Store::Disk { "on disk" } else { "discarded" };
        let (streams, replication) = (self.streams, self.replication);
        let parameters = [
            ("engine", self.engine.name().to_owned()),
            ("store", store.to_owned()),
            ("ack", self.ack.name().to_owned()),
            ("replication", replication.to_string()),
            ("streams", streams.to_string()),
            ("packet_bytes", self.packet_bytes.to_string()),
            ("block_bytes", self.block_bytes.to_string()),
            ("window_packets", self.window_packets.to_string()),
            ("space", self.space.name().to_owned()),
            ("drain_blocks", self.drain_blocks.to_string()),
        ];
        Measurement {
            group: "floor pipeline".to_owned(),
            name: format!(
                "{}, {replication} replica{}, {streams} stream{}, {store}{}{}",
                self.engine.name(),
                if replication == 1 { "" } else { "s" },
                if streams == 1 { "" } else { "s" },
                if self.space == Space::Kept { ", kept space" } else { "" },
                match self.window_packets {
                    WINDOW_PACKETS => String::new(),
                    packets => format!(", {packets} packets ahead"),
                },
            ),
            side: Side::Limit,
            parameters: parameters.map(|(name, value)| (name.to_owned(), value)).into(),
            runs: Vec::new(),
        }
    }

    fn layout(&self) -> Result<Layout, BenchError> {
        Layout::new(self.bytes, self.streams, self.packet_bytes, self.block_bytes)?
            .with_window(self.window_packets)
    }
}

const TIMELINE_STEP: Duration = Duration::from_millis(50);

/// A floor that can be run again and again, and the files that it keeps meanwhile.
pub struct Floor {
    options: FloorOptions,
    layout: Layout,
    scratch: TempDir,
}

impl Floor {
    pub fn new(options: FloorOptions) -> Result<Self, BenchError> {
        let layout = options.layout()?;
        let scratch = tempfile::Builder::new()
            .prefix("ringfs-floor-")
            .tempdir_in(&options.directory)
            .map_err(BenchError::file("create a directory in", &options.directory))?;
        Ok(Self { options, layout, scratch })
    }

    /// One run, in child processes of this executable, which must be `ringfs`.
    pub fn run(&self) -> Result<Run, BenchError> {
        let Self { options, layout, .. } = self;
        let mut nodes = Vec::new();
        for index in (0..options.replication).rev() {
            let directory = self.directory(index);
            if let Some(directory) = &directory {
                std::fs::create_dir_all(directory)
                    .map_err(BenchError::file("create", directory))?;
            }
            let downstream = nodes.last().map(|node: &Node| node.address);
            nodes.push(Node::start(options, layout, downstream, directory.as_deref())?);
        }
        settle(self.scratch.path())?;
        let first = nodes.last().ok_or_else(|| {
            BenchError::Usage("a pipeline of 0 replicas stores nothing".to_owned())
        })?;
        let mut run = drive(options, layout, first.address)?;
        for (index, node) in nodes.into_iter().rev().enumerate() {
            let report = node.finish()?;
            run.cpu.push(ProcessCpu { process: format!("floor{index}"), cpu_s: report.cpu_s });
            let named = |(name, value)| (format!("floor{index}_{name}"), value);
            run.counters.extend(report.counters.into_iter().map(named));
        }
        if options.space == Space::New {
            for directory in (0..options.replication).filter_map(|index| self.directory(index)) {
                std::fs::remove_dir_all(&directory)
                    .map_err(BenchError::file("remove", &directory))?;
            }
        }
        Ok(run)
    }

    /// Of a process that stores.
    fn directory(&self, index: usize) -> Option<PathBuf> {
        let stores = self.options.store == Store::Disk;
        stores.then(|| self.scratch.path().join(format!("floor{index}")))
    }
}

/// Has the file system finish what earlier runs left to it, the discards of deleted blocks above
/// all.
fn settle(directory: &Path) -> Result<(), BenchError> {
    let opened = std::fs::File::open(directory).map_err(BenchError::file("open", directory))?;
    rustix::fs::syncfs(opened)
        .map_err(|errno| BenchError::file("synchronize", directory)(errno.into()))
}

/// The client: a thread a stream.
fn drive(options: &FloorOptions, layout: &Layout, address: SocketAddr) -> Result<Run, BenchError> {
    let source = Source::new(layout).map_err(BenchError::limit("make data to send"))?;
    let (start, progress) = (Barrier::new(layout.streams + 1), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (source, start, progress) = (&source, &start, &progress);
        let threads: Vec<_> = (0..layout.streams)
            .map(|index| {
                let drain_blocks = options.drain_blocks;
                let stream = Stream { index, layout, source, drain_blocks, progress };
                scope.spawn(move || stream.drive(address, start))
            })
            .collect();
        start.wait();
        let started = Instant::now();
        let mut run = Run { bytes: layout.bytes(), ..Run::default() };
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::park_timeout(TIMELINE_STEP);
            let (at_s, bytes) = (started.elapsed().as_secs_f64(), progress.load(Ordering::Relaxed));
            run.timeline.push(TimePoint { at_s, bytes, operations: bytes / layout.packet_bytes });
        }
        run.operations = layout.packets() * layout.streams as u64;
        let mut latency = Latency::new("packet ack");
        let (mut cpu_s, mut finished) = (0.0, started);
        for thread in threads {
            let driven: Driven = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .map_err(BenchError::limit("drive a stream through the floor"))?;
            cpu_s += driven.cpu.as_secs_f64();
            finished = finished.max(driven.finished);
            latency.histogram_us.add(&driven.latency.histogram_us).expect("the same bounds");
        }
        run.elapsed = finished - started;
        run.latency = Some(latency);
        run.cpu.push(ProcessCpu { process: "client".to_owned(), cpu_s });
        Ok(run)
    })
}

/// A process of the pipeline.
struct Node {
    child: ChildProcess,
    address: SocketAddr,
}

impl Node {
    fn start(
        options: &FloorOptions,
        layout: &Layout,
        downstream: Option<SocketAddr>,
        directory: Option<&Path>,
    ) -> Result<Self, BenchError> {
        let mut command = ChildProcess::command("floor-node")?;
        command
            .args(["--engine", options.engine.name()])
            .args(["--ack", options.ack.name()])
            .args(["--streams", &layout.streams.to_string()])
            .args(["--packet-bytes", &layout.packet_bytes.to_string()])
            .args(["--block-bytes", &layout.block_bytes.to_string()])
            .args(["--stream-bytes", &layout.stream_bytes.to_string()])
            .args(["--window-packets", &layout.window_packets.to_string()])
            .args(["--space", options.space.name()]);
        if let Some(address) = downstream {
            command.args(["--downstream", &address.to_string()]);
        }
        if let Some(directory) = directory {
            command.arg("--directory").arg(directory);
        }
        let mut child = ChildProcess::start(command)?;
        let address = child.line()?;
        Ok(Self { child, address })
    }

    fn finish(mut self) -> Result<NodeReport, BenchError> {
        let report: String = self.child.line()?;
        serde_json::from_str(&report).map_err(|error| child::failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// The processes as threads of this one: the executable of a test is not `ringfs`.
    fn through_threads(options: &FloorOptions) -> (Run, Vec<NodeReport>) {
        let layout = options.layout().unwrap();
        std::thread::scope(|scope| {
            let mut downstream = None;
            let mut nodes = Vec::new();
            for index in (0..options.replication).rev() {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let directory = (options.store == Store::Disk).then(|| {
                    let directory = options.directory.join(index.to_string());
                    std::fs::create_dir(&directory).unwrap();
                    directory
                });
                let (engine, ack) = (options.engine, options.ack);
                let space = options.space;
                let node = NodeOptions { engine, ack, layout, downstream, directory, space };
                downstream = Some(listener.local_addr().unwrap());
                nodes.push(scope.spawn(move || node.serve(&listener, || Ok(())).unwrap()));
            }
            let run = drive(options, &layout, downstream.unwrap());
            let run = run.unwrap_or_else(|error| panic!("{}: {error:?}", options.engine.name()));
            (run, nodes.into_iter().map(|node| node.join().unwrap()).collect())
        })
    }

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    /// Every block of every stream in every process, with the checksums of its chunks.
    fn assert_stored(options: &FloorOptions) {
        let layout = options.layout().unwrap();
        let source = Source::new(&layout).unwrap();
        for replica in 0..options.replication {
            let directory = options.directory.join(replica.to_string());
            let mut files = 0;
            for stream in 0..layout.streams {
                for block in 0..layout.blocks() {
                    let first = block * layout.packets_per_block();
                    let sent: Vec<u8> = (first..layout.end_of_block(first))
                        .flat_map(|packet| source.packet(stream, packet).to_vec())
                        .collect();
                    let data = std::fs::read(files::data_path(&directory, stream, block)).unwrap();
                    assert!(data == sent, "replica {replica}, stream {stream}, block {block}");
                    let mut sums = vec![0; sent.len() / layout::CHUNK_BYTES * 4];
                    layout::CHECKSUM.fill(&sent, &mut sums);
                    let stored =
                        std::fs::read(files::sums_path(&directory, stream, block)).unwrap();
                    assert!(stored == sums, "sums of {replica}, {stream}, {block}");
                    files += 2;
                }
            }
            assert_eq!(std::fs::read_dir(&directory).unwrap().count(), files);
        }
    }

    #[test]
    fn every_engine_stores_exactly_the_bytes_in_every_process() {
        for engine in Engine::ALL {
            // Blocks that end within a slab, and a last one that is not full.
            for (replication, streams, packet_bytes) in
                [(1, 1, 64 << 10), (3, 2, 64 << 10), (2, 3, 12 << 10)]
            {
                let directory = scratch();
                let options = FloorOptions {
                    engine,
                    replication,
                    streams,
                    packet_bytes,
                    block_bytes: packet_bytes * 40,
                    drain_blocks: streams == 2,
                    window_packets: 40 * replication as u64,
                    space: if streams == 1 { Space::New } else { Space::Kept },
                    ..FloorOptions::new(directory.path(), 11 * MIB)
                };
                let (run, _) = through_threads(&options);
                assert_stored(&options);
                let layout = options.layout().unwrap();
                assert_eq!(run.bytes, layout.bytes());
                assert_eq!(run.operations, layout.packets() * streams as u64);
                assert_eq!(run.latency.unwrap().histogram_us.len(), run.operations);
            }
        }
    }

    #[test]
    fn weaker_acks_and_no_storage_move_the_same_bytes() {
        for engine in Engine::ALL {
            let directory = scratch();
            let mut options = FloorOptions {
                engine,
                ack: AckKind::Received,
                ..FloorOptions::new(directory.path(), 9 * MIB)
            };
            through_threads(&options);
            assert_stored(&options);
            for replica in 0..options.replication {
                std::fs::remove_dir_all(directory.path().join(replica.to_string())).unwrap();
            }
            options.store = Store::Discard;
            assert_eq!(through_threads(&options).0.bytes, 9 * MIB);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn the_tail_refuses_a_corrupt_packet() {
        use std::io::Write;
        for engine in Engine::ALL {
            let layout = Layout::new(MIB, 1, 64 << 10, MIB).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let node = NodeOptions {
                engine,
                ack: AckKind::Written,
                layout,
                downstream: None,
                directory: None,
                space: Space::New,
            };
            let serving = std::thread::spawn(move || node.serve(&listener, || Ok(())));
            let mut socket = node::connect(address, 0).unwrap();
            let mut packet = vec![0; layout.wire_bytes()];
            packet[..layout::HEADER_BYTES].copy_from_slice(&layout.header(0));
            socket.write_all(&packet).unwrap();
            let error = serving.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("chunk 0 is corrupt"), "{error}");
        }
    }
}

//! `ringfs bench dfsio`: files written, appended to, read, read at random positions, and small files
//! by the thousand, through our client, on any `hdfs://` cluster.
//!
//! | mode | a run | counted |
//! |---|---|---|
//! | write | `files` streams at once, each creates a file of `file-size` | bytes, create to last close |
//! | append | the same onto files of 1 MiB that were made before the clock runs | bytes |
//! | read | the same files read by as many streams, as often as there are runs | bytes |
//! | pread | `clients` each read `size` bytes at random offsets of these files | reads, each one's latency |
//! | small | `clients` each create, write and close files of `size`, one after the other | files, latency |
//!
//! Everything happens in a directory of the run's own, which goes at the end, also after a failure
//! (a run that is killed leaves it). Files written are deleted before the next run, and the datanodes
//! are given time to do so: an unlink of the run before would be measured otherwise. Small files stay
//! until the end: ext4 passes over inodes that were deleted within the last minutes one by one, and
//! their next run would measure that search.

mod classic;
mod pattern;
mod random_reads;
mod small_files;
mod streams;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use chrono::Utc;
use clap::{Args, ValueEnum};
use ringfs_protocol::site_config::parse_bytes;
use tokio::runtime::Runtime;

use crate::deletions::Deletions;
use crate::file_system::{FileSystem, FileSystemOptions};
use crate::meter::{Meter, Timeline};
use crate::processes::{CpuSpan, NamedProcess};
use crate::report::{Latency, Measurement, Run, Side};
use crate::scratch_directory::ScratchDirectory;
use crate::{BenchError, Session};

pub use classic::{Classic, StreamTime};
use pattern::{Pattern, SLICE_MAX_BYTES};
pub(crate) use workload::join_all;
use workload::{Budget, Workload};

const PREAD_BYTES: u64 = 4096;
const SMALL_FILE_BYTES: u64 = 10 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Create files and write them from memory
    Write,
    /// Read files from start to end
    Read,
    /// Write at the end of files that exist
    Append,
    /// Read at random positions
    Pread,
    /// Create, write and close many small files
    Small,
}

#[derive(Clone, Debug, Args)]
pub struct DfsioOptions {
    #[command(flatten)]
    pub file_system: FileSystemOptions,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Mode::Write)]
    pub mode: Mode,
    /// Files, each a stream of its own, all at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub files: u64,
    /// Length of each file
    #[arg(long, value_name = "BYTES", default_value = "1g", value_parser = parse_bytes)]
    pub file_size: u64,
    /// Replicas [default: the client's setting, else the namenode's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub replication: Option<u16>,
    /// Block size [default: the client's setting, else the namenode's]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub block_size: Option<u64>,
    /// Bytes of one write [default: about 1 MiB, whole packets]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub buffer: Option<u64>,
    /// Bytes of one positional read, or of one small file [default: 4k, 10k]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub size: Option<u64>,
    /// Concurrent callers of pread and small
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// Length of a run of pread and small in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Operations of a run of pread and small, all clients together, instead of --seconds
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    pub operations: Option<u64>,
    /// Runs before those that count
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub warm_up: u32,
    /// Compare what is read with what was written, byte by byte
    #[arg(long)]
    pub verify: bool,
    /// Empty this machine's page cache before each run (needs root)
    #[arg(long)]
    pub cold: bool,
    /// Leave the files behind
    #[arg(long)]
    pub keep: bool,
    /// Directory of the file system to work below
    #[arg(long, value_name = "PATH", default_value = "/benchmarks/ringfs-dfsio")]
    pub dir: String,
}

/// A cluster made ready for runs of one mode: what they read is written.
pub struct Dfsio {
    options: DfsioOptions,
    runtime: Runtime,
    file_system: FileSystem,
    side: Side,
    processes: Vec<NamedProcess>,
    scratch: ScratchDirectory,
    pattern: Pattern,
    /// Runs of small files so far, each in a directory of its own.
    small_runs: AtomicU32,
}

/// A run, and what TestDFSIO says of its streams in the modes that it has.
#[derive(Clone, Debug)]
pub struct DfsioRun {
    pub run: Run,
    pub classic: Option<Classic>,
}

/// A small file is a few hundred microseconds of waiting and calls of some microseconds each: a second
/// thread of the client would mostly wake the first one, on cores that the servers may share.
fn runtime(mode: Mode) -> std::io::Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if mode == Mode::Small {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        runtime.worker_threads((cores / 2).max(1));
    }
    runtime.enable_all().build()
}

/// Prepares, runs once and cleans up.
pub fn run_once(options: &DfsioOptions) -> Result<Run, BenchError> {
    let dfsio = Dfsio::prepare(options)?;
    let outcome = dfsio.run_once();
    dfsio.finish()?;
    Ok(outcome?.run)
}

impl DfsioOptions {
    /// One file of 1 GiB, or 8 callers for 5 s; the rest as the cluster says.
    pub fn new(mode: Mode, file_system: FileSystemOptions) -> Self {
        Self {
            file_system,
            mode,
            files: 1,
            file_size: 1 << 30,
            replication: None,
            block_size: None,
            buffer: None,
            size: None,
            clients: 8,
            seconds: 5,
            operations: None,
            warm_up: 1,
            verify: false,
            cold: false,
            keep: false,
            dir: "/benchmarks/ringfs-dfsio".to_owned(),
        }
    }

    pub fn run(self, session: &mut Session) -> Result<(), BenchError> {
        session.progress(&format!("{}: preparing", self.mode.name()));
        let dfsio = Dfsio::prepare(&self)?;
        let measured = dfsio.repeat(session);
        dfsio.finish()?;
        session.add(measured?);
        Ok(())
    }

    /// Bytes of a positional read or a small file.
    fn operation_bytes(&self) -> u64 {
        self.size.unwrap_or(if self.mode == Mode::Pread { PREAD_BYTES } else { SMALL_FILE_BYTES })
    }

    fn check(&self) -> Result<(), BenchError> {
        let refuse = |why: String| Err(BenchError::Usage(why));
        let most = SLICE_MAX_BYTES as u64;
        let (buffer, size) = (self.buffer.unwrap_or(1), self.operation_bytes());
        match self.mode {
            Mode::Write | Mode::Append | Mode::Read if buffer == 0 || buffer > most => {
                refuse(format!("--buffer {buffer} is not from 1 to {most}"))
            }
            Mode::Pread if size == 0 || size > self.file_size.min(most) => {
                let most = self.file_size.min(most);
                refuse(format!("--size {size} is not from 1 to {most}"))
            }
            Mode::Small if size > most => refuse(format!("--size {size} is above {most}")),
            _ => Ok(()),
        }
    }

    fn parameters(&self) -> BTreeMap<String, String> {
        let mut parameters = BTreeMap::new();
        let mut put = |name: &str, value: String| parameters.insert(name.to_owned(), value);
        if matches!(self.mode, Mode::Pread | Mode::Small) {
            put("clients", self.clients.to_string());
            put("size", self.operation_bytes().to_string());
        }
        if self.mode != Mode::Small {
            put("files", self.files.to_string());
            put("file_size", self.file_size.to_string());
        }
        if let Some(replication) = self.replication {
            put("replication", replication.to_string());
        }
        if let Some(block_size) = self.block_size {
            put("block_size", block_size.to_string());
        }
        if self.cold {
            put("page_cache", "cold".to_owned());
        }
        parameters
    }
}

impl Dfsio {
    pub fn prepare(options: &DfsioOptions) -> Result<Self, BenchError> {
        options.check()?;
        let runtime = runtime(options.mode).map_err(BenchError::Runtime)?;
        let file_system = options.file_system.connect()?;
        let (side, processes, scratch) = runtime.block_on(async {
            let side = file_system.side().await?;
            let processes = file_system.processes().await?;
            let scratch = ScratchDirectory::create(&file_system.client, &options.dir).await?;
            Ok::<_, BenchError>((side, processes, scratch))
        })?;
        let pattern = Pattern::new();
        let options = options.clone();
        let small_runs = AtomicU32::new(0);
        let dfsio =
            Self { options, runtime, file_system, side, processes, scratch, pattern, small_runs };
        if matches!(dfsio.options.mode, Mode::Read | Mode::Pread) {
            let written = dfsio.runtime.block_on(streams::write(dfsio.workload(Meter::default())));
            if let Err(error) = written {
                dfsio.finish()?;
                return Err(error);
            }
        }
        Ok(dfsio)
    }

    pub fn side(&self) -> Side {
        self.side
    }

    /// Only the measured part is on the clock and in the processor times.
    pub fn run_once(&self) -> Result<DfsioRun, BenchError> {
        let workload = self.workload(Meter::default());
        let deletions = self.runtime.block_on(Deletions::before_run(&self.file_system.client))?;
        let mut readers = Vec::new();
        match self.options.mode {
            Mode::Append => self.runtime.block_on(streams::write_bases(workload.clone()))?,
            Mode::Pread => readers = self.runtime.block_on(random_reads::open(&workload))?,
            Mode::Write | Mode::Read | Mode::Small => {}
        }
        if self.options.cold {
            drop_page_cache()?;
        }
        let timeline = Timeline::start(workload.meter.clone());
        let cpu = CpuSpan::start(&self.processes)?;
        let started = Instant::now();
        let budget = Budget::new(self.options.operations, self.options.seconds);
        let outcome = self.runtime.block_on(async {
            let workload = workload.clone();
            match self.options.mode {
                Mode::Write => streams::write(workload).await.map(Outcome::Streams),
                Mode::Append => streams::append(workload).await.map(Outcome::Streams),
                Mode::Read => streams::read(workload).await.map(Outcome::Streams),
                Mode::Pread => {
                    random_reads::read(workload, readers, budget).await.map(Outcome::Operations)
                }
                Mode::Small => small_files::write(workload, budget).await.map(Outcome::Operations),
            }
        });
        let elapsed = started.elapsed();
        let cpu = cpu.so_far()?;
        let timeline = timeline.finish();
        let outcome = outcome?;
        self.delete_what_was_written(deletions)?;
        let mut run =
            Run { bytes: workload.meter.bytes(), elapsed, cpu, timeline, ..Run::default() };
        let classic = match outcome {
            Outcome::Streams(streams) => {
                let classic = Classic::of(&streams, elapsed);
                run.counters = stream_counters(&classic);
                Some(classic)
            }
            Outcome::Operations(latency) => {
                run.operations = workload.meter.operations();
                run.latency = Some(latency);
                None
            }
        };
        Ok(DfsioRun { run, classic })
    }

    /// Deletes everything unless it is to be kept.
    pub fn finish(self) -> Result<(), BenchError> {
        if self.options.keep {
            return Ok(());
        }
        self.runtime.block_on(self.scratch.remove())
    }

    fn repeat(&self, session: &mut Session) -> Result<Measurement, BenchError> {
        let mode = self.options.mode.name();
        for _ in 0..self.options.warm_up {
            session.progress(&format!("{mode}: warming up"));
            self.run_once()?;
        }
        let mut runs = Vec::new();
        for number in 1..=session.options.runs {
            session.progress(&format!("{mode}: run {number} of {}", session.options.runs));
            let DfsioRun { run, classic } = self.run_once()?;
            if let Some(classic) = classic {
                println!("{}\n{}", classic.lines(mode, Utc::now()), classic.beside());
            }
            runs.push(run);
        }
        if self.options.keep {
            session.find(format!("the files stay in {}", self.scratch.path));
        }
        Ok(Measurement {
            group: "dfsio".to_owned(),
            name: mode.to_owned(),
            side: self.side,
            parameters: self.options.parameters(),
            runs,
        })
    }

    fn workload(&self, meter: Meter) -> Workload {
        let mut directory = self.scratch.path.clone();
        if self.options.mode == Mode::Small {
            let run = self.small_runs.fetch_add(1, Ordering::Relaxed);
            directory += &format!("/run_{run}");
        }
        Workload {
            client: self.file_system.client.clone(),
            options: Arc::new(self.options.clone()),
            directory,
            pattern: self.pattern.clone(),
            meter: Arc::new(meter),
        }
    }

    /// Before the next run, which would have the datanodes' deletions beside it.
    fn delete_what_was_written(&self, deletions: Deletions) -> Result<(), BenchError> {
        if self.options.keep || !matches!(self.options.mode, Mode::Write | Mode::Append) {
            return Ok(());
        }
        self.runtime.block_on(async {
            for entry in self.file_system.client.list(&self.scratch.path).await? {
                self.file_system.client.delete(&entry.path, true).await?;
            }
            deletions.done(&self.file_system.client).await
        })
    }
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Append => "append",
            Self::Pread => "pread",
            Self::Small => "small",
        }
    }
}

enum Outcome {
    Streams(Vec<StreamTime>),
    Operations(Latency),
}

/// TestDFSIO's figures beside the run's own rate, which is that of all streams together.
fn stream_counters(classic: &Classic) -> BTreeMap<String, f64> {
    [
        ("testdfsio_throughput_mib_per_s", classic.throughput_mb_per_s),
        ("testdfsio_average_io_rate_mib_per_s", classic.average_io_rate_mb_per_s),
        ("testdfsio_io_rate_std_deviation", classic.io_rate_deviation),
        ("aggregate_mib_per_s", classic.aggregate_mb_per_s()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn drop_page_cache() -> Result<(), BenchError> {
    rustix::fs::sync();
    let path = std::path::Path::new("/proc/sys/vm/drop_caches");
    std::fs::write(path, "1").map_err(BenchError::file("write", path))
}

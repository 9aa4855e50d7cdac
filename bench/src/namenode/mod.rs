//! `ringfs bench namenode`: calls a second, their latency and what they cost the namenode, over RPC,
//! of any HDFS namenode. Operations and options have NNThroughputBenchmark's names and meanings
//! (`-op create -threads 64 -files 20000 -filesPerDir 100`), but its callers are tasks here, so that
//! hundreds of them cost little: see [`driver`].
//!
//! A run works in a directory of its own, made before and deleted after its clock runs.

mod block_reports;
mod calls;
mod driver;
mod production_mix;
mod throughput;

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use ringfs_protocol::site_config::parse_bytes;
use tokio::runtime::Runtime;

use crate::file_system::{FileSystem, FileSystemOptions};
use crate::report::{Measurement, Run, Side};
use crate::scratch_directory::ScratchDirectory;
use crate::{BenchError, Session};

use block_reports::BlockReportLoad;
use calls::FileRules;
use driver::Driver;
use throughput::{Load, Operation};

/// Everything that one process can drive on a connection without waiting for itself.
const CONNECTIONS_MAX: i64 = 1024;
const THREADS_MAX: i64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum NamenodeOperation {
    /// Create files without blocks
    Create,
    /// Ask for the blocks of files
    Open,
    /// Ask for the status of files
    FileStatus,
    /// Make directories
    Mkdirs,
    /// Rename files
    Rename,
    /// Delete files
    Delete,
    /// What a production namenode is asked: 95 % reads
    Mix,
    /// Report all blocks of datanodes that exist for this only
    BlockReport,
    /// Each of the above in turn
    All,
}

#[derive(Clone, Debug, Args)]
pub struct NamenodeOptions {
    #[command(flatten)]
    pub file_system: FileSystemOptions,
    /// What to measure
    #[arg(long, value_enum, default_value_t = NamenodeOperation::All)]
    pub op: NamenodeOperation,
    /// Concurrent callers
    #[arg(long, value_name = "T", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=THREADS_MAX))]
    pub threads: u32,
    /// Connections, each with a thread of this process for its share of the callers [default: half of
    /// the processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    pub connections: Option<u32>,
    /// Files to create, open, rename, ... in a run; calls of a run of mix
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub files: u64,
    /// Files a directory
    #[arg(long = "filesPerDir", alias = "files-per-dir", value_name = "P", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub files_per_dir: u64,
    /// Directories to make in a run of mkdirs [default: as many as files]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub dirs: Option<u64>,
    /// Directories a directory
    #[arg(long = "dirsPerDir", alias = "dirs-per-dir", value_name = "P", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub dirs_per_dir: u64,
    /// Close files within create
    #[arg(long)]
    pub close: bool,
    /// Datanodes of blockReport
    #[arg(long, value_name = "T", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub datanodes: u32,
    /// Block reports of a run, all datanodes together
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub reports: u64,
    /// Blocks of each datanode
    #[arg(long = "blocksPerReport", alias = "blocks-per-report", value_name = "B", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub blocks_per_report: u64,
    /// Blocks a file, of those in reports
    #[arg(long = "blocksPerFile", alias = "blocks-per-file", value_name = "F", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub blocks_per_file: u64,
    /// Block size of the files: room that a namenode reserves for blocks that nobody writes
    #[arg(long = "blockSize", alias = "block-size", value_name = "BYTES", default_value = "1m", value_parser = parse_bytes)]
    pub block_size: u64,
    /// Replication of the files, those with blocks in mix too
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub replication: u16,
    /// Runs before those that count
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub warm_up: u32,
    /// Directory of the file system to work below
    #[arg(
        long = "baseDirName",
        alias = "dir",
        value_name = "PATH",
        default_value = "/nnThroughputBenchmark"
    )]
    pub base_dir: String,
}

/// A namenode to measure.
pub struct NamenodeBench {
    options: NamenodeOptions,
    /// Where the file system's client lives.
    runtime: Runtime,
    file_system: FileSystem,
    driver: Driver,
    side: Side,
}

/// Connects and runs once; [`NamenodeOperation::All`] is not one operation and is refused.
pub fn run_once(options: &NamenodeOptions) -> Result<Run, BenchError> {
    NamenodeBench::connect(options)?.run_once(options.op)
}

impl NamenodeOptions {
    pub fn run(self, session: &mut Session) -> Result<(), BenchError> {
        let bench = NamenodeBench::connect(&self)?;
        for &operation in self.op.each() {
            let name = operation.name();
            for _ in 0..self.warm_up {
                session.progress(&format!("{name}: warming up"));
                bench.run_once(operation)?;
            }
            let mut runs = Vec::new();
            for number in 1..=session.options.runs {
                session.progress(&format!("{name}: run {number} of {}", session.options.runs));
                runs.push(bench.run_once(operation)?);
            }
            session.add(Measurement {
                group: "namenode".to_owned(),
                name,
                side: bench.side,
                parameters: self.parameters(operation),
                runs,
            });
        }
        Ok(())
    }

    fn connections(&self) -> u32 {
        let half = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1);
        self.connections.unwrap_or(half as u32)
    }

    /// What `operation` depends on.
    fn parameters(&self, operation: NamenodeOperation) -> BTreeMap<String, String> {
        let counts = match operation {
            NamenodeOperation::BlockReport => vec![
                ("datanodes", self.datanodes.into()),
                ("reports", self.reports),
                ("blocksPerReport", self.blocks_per_report),
                ("blocksPerFile", self.blocks_per_file),
            ],
            NamenodeOperation::Mkdirs => vec![
                ("threads", self.threads.into()),
                ("dirs", self.dirs.unwrap_or(self.files)),
                ("dirsPerDir", self.dirs_per_dir),
            ],
            _ => vec![
                ("threads", self.threads.into()),
                ("files", self.files),
                ("filesPerDir", self.files_per_dir),
                ("close", self.close.into()),
            ],
        };
        let connections = ("connections", self.connections().into());
        let all = counts.into_iter().chain([connections]);
        all.map(|(name, value)| (name.to_owned(), value.to_string())).collect()
    }
}

impl NamenodeOperation {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn each(&self) -> &[Self] {
        match self {
            Self::All => &[
                Self::Create,
                Self::Open,
                Self::FileStatus,
                Self::Mkdirs,
                Self::Rename,
                Self::Delete,
                Self::Mix,
                Self::BlockReport,
            ],
            one => std::slice::from_ref(one),
        }
    }
}

impl NamenodeBench {
    pub fn connect(options: &NamenodeOptions) -> Result<Self, BenchError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(BenchError::Runtime)?;
        let file_system = options.file_system.connect()?;
        let (side, processes) = runtime.block_on(async {
            Ok::<_, BenchError>((file_system.side().await?, file_system.processes().await?))
        })?;
        let driver = Driver::new(file_system.clone(), processes, options.connections());
        Ok(Self { options: options.clone(), runtime, file_system, driver, side })
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn run_once(&self, operation: NamenodeOperation) -> Result<Run, BenchError> {
        let client = &self.file_system.client;
        let scratch = ScratchDirectory::create(client, &self.options.base_dir);
        let scratch = self.runtime.block_on(scratch)?;
        let run = self.run_in(operation, &scratch.path);
        self.runtime.block_on(scratch.remove())?;
        run
    }

    fn run_in(&self, operation: NamenodeOperation, directory: &str) -> Result<Run, BenchError> {
        let (driver, runtime, load) = (&self.driver, &self.runtime, self.load(directory));
        let operation = match operation {
            NamenodeOperation::Create if self.options.close => Operation::CreateAndClose,
            NamenodeOperation::Create => Operation::Create,
            NamenodeOperation::Open => Operation::Open,
            NamenodeOperation::FileStatus => Operation::FileStatus,
            NamenodeOperation::Rename => Operation::Rename,
            NamenodeOperation::Delete => Operation::Delete,
            NamenodeOperation::Mkdirs => {
                let load = Load {
                    operations: self.options.dirs.unwrap_or(self.options.files),
                    entries_per_directory: self.options.dirs_per_dir,
                    ..load
                };
                return Operation::Mkdirs.run(driver, &load);
            }
            NamenodeOperation::BlockReport => {
                let reports = self.block_report_load();
                return block_reports::run(driver, &load, reports, &self.file_system, runtime);
            }
            NamenodeOperation::Mix => {
                let client = self.file_system.preparing_client()?;
                return production_mix::run(driver, &load, &client, runtime);
            }
            NamenodeOperation::All => {
                return Err(BenchError::Usage("\"all\" is no single operation".to_owned()));
            }
        };
        operation.run(driver, &load)
    }

    fn load(&self, directory: &str) -> Load {
        Load {
            directory: directory.to_owned(),
            callers: self.options.threads,
            operations: self.options.files,
            entries_per_directory: self.options.files_per_dir,
            rules: FileRules {
                replication: self.options.replication.into(),
                block_size: self.options.block_size,
            },
        }
    }

    fn block_report_load(&self) -> BlockReportLoad {
        BlockReportLoad {
            datanodes: self.options.datanodes,
            reports: self.options.reports,
            blocks_per_report: self.options.blocks_per_report,
            blocks_per_file: self.options.blocks_per_file,
        }
    }
}

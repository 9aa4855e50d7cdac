//! What this machine's disk and loopback give without ringfs, and what a process costs: the figures
//! that a throughput is to be held against. Each is measured plainly, in the run that quotes it,
//! because a disk's speed drifts by half within hours.

pub mod compare;
mod deletions;
pub mod dfsio;
pub mod file_system;
pub mod limit;
pub mod machine;
pub mod meter;
pub mod namenode;
mod output;
pub mod pipeline;
pub mod processes;
pub mod prometheus;
pub mod report;
pub mod scratch_directory;
pub mod session;
pub mod statistics;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use ringfs_client::ClientError;
use ringfs_protocol::ProtocolError;
use ringfs_protocol::rpc::client::RpcError;
use ringfs_protocol::site_config::ConfigError;
use thiserror::Error;

pub use session::{Session, SessionOptions};

/// A bench that another one starts writes its report to this file, whatever stands between them.
pub const REPORT_VARIABLE: &str = "RINGFS_BENCH_JSON";

/// What `ringfs bench` can measure by itself. Each variant is a module's `…Command` with a method
/// `run(self, &mut Session) -> Result<(), BenchError>`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// What this host gives: checksums, a TCP hop, the disk, and the least pipeline
    Limit(limit::LimitCommand),
    /// A process of the floor pipeline
    #[command(hide = true)]
    FloorNode(limit::floor::NodeOptions),
    /// The receiver of a TCP hop
    #[command(hide = true)]
    HopNode,
    /// Write and read blocks straight to and from datanodes
    Pipeline(pipeline::PipelineCommand),
    /// Write, append to and read files of a cluster, as TestDFSIO does
    Dfsio(dfsio::DfsioOptions),
    /// Call a namenode, as NNThroughputBenchmark does
    Namenode(namenode::NamenodeOptions),
    /// Hold two commands or two clusters against each other, and say whether one is worse
    Compare(Box<compare::CompareCommand>),
}

impl BenchCommand {
    /// The name of the command, as the report says it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Limit(_) => "limit",
            Self::FloorNode(_) => "floor-node",
            Self::HopNode => "hop-node",
            Self::Pipeline(_) => "pipeline",
            Self::Dfsio(_) => "dfsio",
            Self::Namenode(_) => "namenode",
            Self::Compare(_) => "compare",
        }
    }

    /// Blocks until everything is measured; must not be called on an async thread.
    pub fn run(self, session: &mut Session) -> Result<(), BenchError> {
        match self {
            Self::Limit(command) => command.run(session),
            Self::FloorNode(options) => options.run(),
            Self::HopNode => limit::hop::serve_parent(),
            Self::Pipeline(command) => command.run(session),
            Self::Dfsio(options) => options.run(session),
            Self::Namenode(options) => options.run(session),
            Self::Compare(command) => command.run(session),
        }
    }
}

#[derive(Debug, Error)]
pub enum BenchError {
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot {what}: {source}")]
    Limit { what: &'static str, source: std::io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    /// A command line that cannot be meant.
    #[error("{0}")]
    Usage(String),
    #[error("cannot compare: {0}")]
    Compare(String),
    /// B is worse than the bound allows.
    #[error("{0}")]
    Regression(String),
    /// The machine is too noisy to tell.
    #[error("{0}")]
    NoVerdict(String),
    #[error("cannot look at process {pid}: {why}")]
    Process { pid: u32, why: String },
    #[error("cannot find the process that listens on {address}: {why}")]
    Listener { address: String, why: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot start a runtime: {0}")]
    Runtime(std::io::Error),
    #[error("{file} has {read_bytes} bytes where {expected_bytes} were written")]
    WrongLength { file: String, expected_bytes: u64, read_bytes: u64 },
    #[error("{file} differs from what was written from byte {offset_bytes} on")]
    Differs { file: String, offset_bytes: u64 },
    #[error("the namenode answers {method} of {path} with nothing done")]
    NotDone { method: &'static str, path: String },
    #[error("cannot {what} datanode {address}: {source}")]
    Datanode { address: SocketAddr, what: &'static str, source: std::io::Error },
    #[error("datanode {address} refuses {operation} of {block}: {why}")]
    Refused { address: SocketAddr, operation: &'static str, block: String, why: String },
    #[error("datanode {address}: {source}")]
    Malformed { address: SocketAddr, source: ProtocolError },
    #[error("there are {found} of {wanted} datanodes for a pipeline")]
    TooFewDatanodes { found: usize, wanted: usize },
    #[error("cannot read http://{address}/metrics: {source}")]
    Metrics { address: SocketAddr, source: std::io::Error },
    #[error("cannot wait for sockets: {0}")]
    EventLoop(std::io::Error),
}

impl BenchError {
    /// Everything was measured, and this is what came out.
    pub fn is_verdict(&self) -> bool {
        matches!(self, Self::Regression(_) | Self::NoVerdict(_))
    }

    fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }

    fn limit(what: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Limit { what, source }
    }
}

/// Bytes moved in a time.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub bytes: u64,
    pub elapsed: Duration,
}

impl From<report::Run> for Rate {
    fn from(run: report::Run) -> Self {
        Self { bytes: run.bytes, elapsed: run.elapsed }
    }
}

impl Rate {
    /// In units of 10^9 bytes a second, as disks and networks are sold.
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

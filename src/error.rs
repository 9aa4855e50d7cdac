//! Why a command failed, and the exit code that says so: 0 success, 1 failure, 2 wrong usage (clap),
//! 3 and 4 the verdicts of `bench compare`, 130 stopped by a signal. `ringfs dfs` keeps the codes of `hdfs dfs` instead.

use std::process::ExitCode;

use ringfs::cluster::ClusterError;
use ringfs_bench::BenchError;
use ringfs_client::ClientError;
use ringfs_datanode::DatanodeError;
use ringfs_namenode::NamenodeError;
use ringfs_protocol::site_config::ConfigError;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum CommandError {
    #[error(transparent)]
    Datanode(#[from] DatanodeError),
    #[error(transparent)]
    Namenode(#[from] NamenodeError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: String, source: std::io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error("{0}")]
    Usage(String),
    #[error("read back {found} where {expected} was written, at byte {offset_bytes} of {file}")]
    Differs { file: String, offset_bytes: u64, expected: String, found: String },
    #[error("goals missed: {}", .0.join(", "))]
    GoalsMissed(Vec<String>),
    #[error("{command}: {why}")]
    JavaBench { command: String, why: String },
    #[error("stopped by a signal")]
    Interrupted,
}

impl CommandError {
    /// Whether everything was measured, and this is what came out.
    pub fn is_verdict(&self) -> bool {
        match self {
            Self::Bench(error) => error.is_verdict(),
            error => matches!(error, Self::GoalsMissed(_)),
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Bench(BenchError::Usage(_)) => ExitCode::from(2),
            Self::Bench(BenchError::Regression(_)) => ExitCode::from(3),
            Self::Bench(BenchError::NoVerdict(_)) => ExitCode::from(4),
            Self::Datanode(error) => ExitCode::from(error.exit_code()),
            Self::Interrupted => ExitCode::from(130),
            _ => ExitCode::FAILURE,
        }
    }

    pub fn file(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { what, path, source }
    }
}

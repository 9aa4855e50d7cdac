//! Everything that an operation of the client can fail with.

use std::io;
use std::sync::Arc;

use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::messages::Status;
use ringfs_protocol::rpc::client::RpcError;
use ringfs_protocol::site_config::ConfigError;
use ringfs_protocol::{ProtocolError, RemoteError};
use thiserror::Error;

/// Cheap to clone: what broke a stream is told to each of its later calls.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// The namenode, or a datanode's IPC port, threw.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// `what` names the peer and the step.
    #[error("{what}: {source}")]
    Io { what: String, source: Arc<io::Error> },
    #[error("{peer}: {source}")]
    Protocol { peer: String, source: ProtocolError },
    #[error("{what} took longer than {timeout_ms} ms")]
    TimedOut { what: String, timeout_ms: u64 },
    #[error(transparent)]
    Configuration(Arc<ConfigError>),
    /// An argument that cannot be meant.
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    /// A datanode answered an operation with another status than SUCCESS.
    #[error("datanode {datanode} answers {operation} of {block} with {status:?}: {message}")]
    Refused {
        datanode: String,
        operation: &'static str,
        block: ExtendedBlock,
        status: Status,
        message: String,
    },
    #[error(
        "{block} from {datanode}: checksum error in chunk {chunk} (byte {offset} of the block)"
    )]
    Checksum { datanode: String, block: ExtendedBlock, chunk: u64, offset: u64 },
    /// No replica could be read; `last` is what the last one tried had to say.
    #[error("could not obtain {block} of {path} at byte {offset}: {last}")]
    NoReplica { path: String, block: ExtendedBlock, offset: u64, last: String },
    #[error("{path} changed while it was read: {why}")]
    FileChanged { path: String, why: String },
    /// The write pipeline broke for good.
    #[error("{path}: {why}")]
    Pipeline { path: String, why: String },
    #[error(
        "{path}: the last block does not have enough replicas after {attempts} attempts to close the file"
    )]
    NotClosed { path: String, attempts: u32 },
    /// A call on a writer that was closed or aborted.
    #[error("{path} is closed")]
    Closed { path: String },
}

impl ClientError {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }

    /// The Java class that a server threw.
    pub fn class(&self) -> Option<&str> {
        match self {
            Self::Remote(remote) => Some(&remote.class),
            _ => None,
        }
    }
}

impl From<RpcError> for ClientError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Remote(remote) => Self::Remote(remote),
            RpcError::Io { address, source } => Self::io(address, source),
            RpcError::Protocol { address, source } => Self::Protocol { peer: address, source },
            RpcError::TimedOut { address, method, timeout_ms } => {
                Self::TimedOut { what: format!("{address}: {method}"), timeout_ms }
            }
        }
    }
}

impl From<ConfigError> for ClientError {
    fn from(error: ConfigError) -> Self {
        Self::Configuration(Arc::new(error))
    }
}

//! What can go wrong in the namenode: one variant for each Java class that clients act upon, and the
//! failures that never cross the wire.
//!
//! [`NamenodeError::to_remote`] is the only place where an error becomes a Java class name.

use ringfs_protocol::error::java;
use ringfs_protocol::rpc::server::CallError;
use ringfs_protocol::site_config::ConfigError;
use ringfs_protocol::{ProtocolError, RemoteError};
use thiserror::Error;

pub type Result<T, E = NamenodeError> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum NamenodeError {
    #[error("{0}")]
    FileNotFound(String),
    #[error("{0}")]
    FileAlreadyExists(String),
    #[error("{0}")]
    ParentNotDirectory(String),
    #[error("{0}")]
    PathIsNotEmptyDirectory(String),
    #[error("{0}")]
    InvalidPath(String),
    #[error("{0}")]
    AccessControl(String),
    #[error("{0}")]
    AlreadyBeingCreated(String),
    #[error("{0}")]
    RecoveryInProgress(String),
    #[error("{0}")]
    NotReplicatedYet(String),
    #[error("{0}")]
    LeaseExpired(String),
    #[error("{0}")]
    SafeMode(String),
    #[error("{0}")]
    Retriable(String),
    #[error("{0}")]
    IllegalArgument(String),
    #[error("{0}")]
    HadoopIllegalArgument(String),
    #[error("{0}")]
    UnsupportedOperation(String),
    #[error("{0}")]
    PathComponentTooLong(String),
    #[error("{0}")]
    MaxDirectoryItemsExceeded(String),
    #[error("{0}")]
    DisallowedDatanode(String),
    #[error("{0}")]
    UnregisteredNode(String),
    #[error("{0}")]
    IncorrectVersion(String),
    /// Refusals without a Java class of their own.
    #[error("{0}")]
    Io(String),
    /// The metadata store cannot be read or written: the namenode serves no more changes.
    #[error(
        "metadata store: {0}; check the disk of dfs.namenode.name.dir and restart the namenode"
    )]
    Store(String),
    /// A store that this version of ringfs cannot use, or none.
    #[error("{path}: {why}")]
    Format { path: String, why: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("{what}: {source}")]
    System { what: String, source: std::io::Error },
}

impl NamenodeError {
    pub fn system(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::System { what: what.into(), source }
    }

    fn java_class(&self) -> &'static str {
        match self {
            Self::FileNotFound(_) => java::FILE_NOT_FOUND,
            Self::FileAlreadyExists(_) => java::FILE_ALREADY_EXISTS,
            Self::ParentNotDirectory(_) => java::PARENT_NOT_DIRECTORY,
            Self::PathIsNotEmptyDirectory(_) => java::PATH_IS_NOT_EMPTY_DIRECTORY,
            Self::InvalidPath(_) => java::INVALID_PATH,
            Self::AccessControl(_) => java::ACCESS_CONTROL,
            Self::AlreadyBeingCreated(_) => java::ALREADY_BEING_CREATED,
            Self::RecoveryInProgress(_) => java::RECOVERY_IN_PROGRESS,
            Self::NotReplicatedYet(_) => java::NOT_REPLICATED_YET,
            Self::LeaseExpired(_) => java::LEASE_EXPIRED,
            Self::SafeMode(_) => java::SAFE_MODE,
            Self::Retriable(_) => java::RETRIABLE,
            Self::IllegalArgument(_) => java::ILLEGAL_ARGUMENT,
            Self::HadoopIllegalArgument(_) => java::HADOOP_ILLEGAL_ARGUMENT,
            Self::UnsupportedOperation(_) => java::UNSUPPORTED_OPERATION,
            Self::PathComponentTooLong(_) => java::PATH_COMPONENT_TOO_LONG,
            Self::MaxDirectoryItemsExceeded(_) => java::MAX_DIRECTORY_ITEMS_EXCEEDED,
            Self::DisallowedDatanode(_) => java::DISALLOWED_DATANODE,
            Self::UnregisteredNode(_) => java::UNREGISTERED_NODE,
            Self::IncorrectVersion(_) => java::INCORRECT_VERSION,
            Self::Io(_)
            | Self::Store(_)
            | Self::Format { .. }
            | Self::Config(_)
            | Self::Protocol(_)
            | Self::System { .. } => java::IO,
        }
    }

    pub fn to_remote(&self) -> RemoteError {
        RemoteError::new(self.java_class(), self.to_string())
    }
}

impl From<NamenodeError> for CallError {
    fn from(error: NamenodeError) -> Self {
        Self::Application(error.to_remote())
    }
}

macro_rules! store_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for NamenodeError {
            fn from(error: $error) -> Self {
                Self::Store(error.to_string())
            }
        })*
    };
}

store_errors!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError
);

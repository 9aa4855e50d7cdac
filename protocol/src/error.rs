//! Errors of the codecs, and the errors that cross the wire by Java class name.

use thiserror::Error;

/// A peer's bytes that cannot be what they claim, or exceed a stated limit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtocolError {
    #[error("{what} of {len} bytes exceeds the limit of {limit}")]
    TooLong { what: &'static str, len: u64, limit: u64 },
    #[error("{what}: {why}")]
    Malformed { what: &'static str, why: String },
    #[error("unknown operation code {code:#04x}")]
    UnknownOperation { code: u8 },
    #[error("version mismatch: expected {expected}, received {received}")]
    VersionMismatch { expected: u16, received: u16 },
}

impl ProtocolError {
    pub fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { what, why: why.into() }
    }
}

/// An exception as Hadoop IPC carries it: the Java class that clients act upon, and a message whose
/// first line is meant for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{class}: {message}")]
pub struct RemoteError {
    pub class: String,
    pub message: String,
}

impl RemoteError {
    pub fn new(class: &str, message: impl Into<String>) -> Self {
        Self { class: class.to_owned(), message: message.into() }
    }
}

/// Fully qualified Java class names that clients match on; nested classes use `$`.
pub mod java {
    pub const IO: &str = "java.io.IOException";
    pub const FILE_NOT_FOUND: &str = "java.io.FileNotFoundException";
    pub const UNSUPPORTED_OPERATION: &str = "java.lang.UnsupportedOperationException";
    pub const ILLEGAL_ARGUMENT: &str = "java.lang.IllegalArgumentException";
    pub const HADOOP_ILLEGAL_ARGUMENT: &str = "org.apache.hadoop.HadoopIllegalArgumentException";
    pub const CHECKSUM: &str = "org.apache.hadoop.fs.ChecksumException";
    pub const FILE_ALREADY_EXISTS: &str = "org.apache.hadoop.fs.FileAlreadyExistsException";
    pub const PARENT_NOT_DIRECTORY: &str = "org.apache.hadoop.fs.ParentNotDirectoryException";
    pub const PATH_IS_NOT_EMPTY_DIRECTORY: &str =
        "org.apache.hadoop.fs.PathIsNotEmptyDirectoryException";
    pub const PATH_IS_NOT_DIRECTORY: &str = "org.apache.hadoop.fs.PathIsNotDirectoryException";
    pub const INVALID_PATH: &str = "org.apache.hadoop.fs.InvalidPathException";
    pub const ACCESS_CONTROL: &str = "org.apache.hadoop.security.AccessControlException";
    pub const ALREADY_BEING_CREATED: &str =
        "org.apache.hadoop.hdfs.protocol.AlreadyBeingCreatedException";
    pub const RECOVERY_IN_PROGRESS: &str =
        "org.apache.hadoop.hdfs.protocol.RecoveryInProgressException";
    pub const NOT_REPLICATED_YET: &str =
        "org.apache.hadoop.hdfs.server.namenode.NotReplicatedYetException";
    pub const LEASE_EXPIRED: &str = "org.apache.hadoop.hdfs.server.namenode.LeaseExpiredException";
    pub const SAFE_MODE: &str = "org.apache.hadoop.hdfs.server.namenode.SafeModeException";
    pub const RETRIABLE: &str = "org.apache.hadoop.ipc.RetriableException";
    pub const STANDBY: &str = "org.apache.hadoop.ipc.StandbyException";
    pub const RPC_NO_SUCH_METHOD: &str = "org.apache.hadoop.ipc.RpcNoSuchMethodException";
    pub const RPC_NO_SUCH_PROTOCOL: &str = "org.apache.hadoop.ipc.RpcNoSuchProtocolException";
    pub const RPC_VERSION_MISMATCH: &str = "org.apache.hadoop.ipc.RPC$VersionMismatch";
    pub const RPC_SERVER_FATAL: &str = "org.apache.hadoop.ipc.Server$FatalRpcServerException";
    pub const RPC_SERVER: &str = "org.apache.hadoop.ipc.RpcServerException";
    pub const IPC: &str = "org.apache.hadoop.ipc.IpcException";
    pub const PATH_COMPONENT_TOO_LONG: &str =
        "org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException";
    pub const MAX_DIRECTORY_ITEMS_EXCEEDED: &str =
        "org.apache.hadoop.hdfs.protocol.FSLimitException$MaxDirectoryItemsExceededException";
    pub const REPLICA_NOT_FOUND: &str =
        "org.apache.hadoop.hdfs.server.datanode.ReplicaNotFoundException";
    pub const REPLICA_ALREADY_EXISTS: &str =
        "org.apache.hadoop.hdfs.server.datanode.ReplicaAlreadyExistsException";
    pub const DISK_OUT_OF_SPACE: &str =
        "org.apache.hadoop.util.DiskChecker$DiskOutOfSpaceException";
    pub const DISALLOWED_DATANODE: &str =
        "org.apache.hadoop.hdfs.server.protocol.DisallowedDatanodeException";
    pub const UNREGISTERED_NODE: &str = "org.apache.hadoop.hdfs.protocol.UnregisteredNodeException";
    pub const INCORRECT_VERSION: &str =
        "org.apache.hadoop.hdfs.server.common.IncorrectVersionException";
    pub const AUTHORIZATION: &str = "org.apache.hadoop.security.authorize.AuthorizationException";
}

//! What can go wrong on a datanode, as one enum: mapped once to the Java class that travels over
//! IPC, once to the status of a data-transfer reply and once to the process's exit code.

use std::io;

use ringfs_protocol::block::{Block, ExtendedBlock, ReplicaState};
use ringfs_protocol::error::java;
use ringfs_protocol::messages::Status;
use ringfs_protocol::rpc::client::RpcError;
use ringfs_protocol::site_config::ConfigError;
use ringfs_protocol::{ProtocolError, RemoteError};
use thiserror::Error;

use crate::replica::ReplicaEvent;

pub type Result<T> = std::result::Result<T, DatanodeError>;

#[derive(Debug, Error)]
pub enum DatanodeError {
    /// `what` names the action and the path or peer: "opening /d/current/…/blk_1".
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("Replica not found for {block}: {why}")]
    ReplicaNotFound { block: ExtendedBlock, why: &'static str },
    #[error(
        "Block {block} already exists in state {state:?} with generation stamp {found_stamp} and \
         thus cannot be created"
    )]
    ReplicaExists { block: ExtendedBlock, state: ReplicaState, found_stamp: u64 },
    #[error("{event:?} is not possible for replica {block} in state {state:?}")]
    IllegalTransition { block: Block, state: Option<ReplicaState>, event: ReplicaEvent },
    /// The replica exists, but its generation stamp or length is not what the caller counts on.
    #[error("Replica {block} does not fit: {why}")]
    UnexpectedReplica { block: Block, why: String },
    #[error(
        "replica {block} is under recovery {current_id}, which recovery {asked_id} does not supersede"
    )]
    RecoveryInProgress { block: Block, current_id: u64, asked_id: u64 },
    #[error("the writer of {block} was stopped by a recovery")]
    WriterStopped { block: Block },
    #[error("a write or sync of {block} failed")]
    WriteFailed { block: Block },
    #[error("the writer of {block} did not stop within {timeout_ms} ms")]
    WriterStuck { block: Block, timeout_ms: u64 },
    #[error("volume {volume} has failed")]
    VolumeFailed { volume: String },
    #[error("volume {volume} does not answer")]
    VolumeStalled { volume: String },
    #[error(
        "{failed} of {configured} volumes have failed, more than \
         dfs.datanode.failed.volumes.tolerated ({tolerated}) allows: {volumes}"
    )]
    TooManyFailedVolumes { failed: usize, configured: usize, tolerated: i64, volumes: String },
    #[error("no volume has {needed_bytes} bytes left for {block}: {volumes}")]
    NoSpace { block: Block, needed_bytes: u64, volumes: String },
    #[error("block pool {asked} is not served here, but {serving}")]
    UnknownPool { asked: String, serving: String },
    #[error("replica {block} is corrupt: {source}")]
    Corrupt { block: Block, source: io::Error },
    #[error(
        "the data of {block} was thrown away: this datanode measures with --bench-discard-block-data"
    )]
    Discarded { block: Block },
    #[error("packet {seqno} of {block} does not match its checksums")]
    CorruptPacket { block: Block, seqno: i64 },
    #[error("packet {seqno} of {block} did not reach the next datanode as it was sent")]
    CorruptBelow { block: Block, seqno: i64 },
    #[error("{path}: {why}")]
    Storage { path: String, why: String },
    #[error(
        "Incompatible {key} in {path}: the namenode has {namenode}, this directory has {found}; \
         point dfs.datanode.data.dir at this cluster's directory, or empty it if its blocks are \
         not wanted"
    )]
    ForeignStorage { path: String, key: &'static str, namenode: String, found: String },
    #[error(
        "{path} is locked by {owner}: another datanode serves this directory; stop it or configure \
         another dfs.datanode.data.dir"
    )]
    Locked { path: String, owner: String },
    /// The machine lacks what a datanode cannot do without; `why` ends with the remedy.
    #[error("{why}")]
    Host { why: String },
    #[error("the namenode refused this datanode: {0}")]
    Refused(RemoteError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// A peer of the data-transfer protocol answered with a failure, or fell silent.
    #[error("{peer}: {why}")]
    Peer { peer: String, why: String },
    #[error("{what}: {limit} are under way, which is the limit; try later")]
    Busy { what: &'static str, limit: usize },
    #[error("the datanode is stopping")]
    Stopping,
}

impl DatanodeError {
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    pub fn java_class(&self) -> &'static str {
        match self {
            Self::ReplicaNotFound { .. } => java::REPLICA_NOT_FOUND,
            Self::ReplicaExists { .. } => java::REPLICA_ALREADY_EXISTS,
            Self::RecoveryInProgress { .. } => java::RECOVERY_IN_PROGRESS,
            Self::UnknownPool { .. } | Self::Stopping => java::RETRIABLE,
            Self::NoSpace { .. } => java::DISK_OUT_OF_SPACE,
            Self::Corrupt { .. } => java::CHECKSUM,
            _ => java::IO,
        }
    }

    /// The exception that an IPC caller sees.
    pub fn to_remote(&self) -> RemoteError {
        RemoteError::new(self.java_class(), self.to_string())
    }

    /// The status of a data-transfer reply whose message is this error's text. HDFS clients treat
    /// every failure but an access token's alike, so ERROR serves for nearly all.
    pub fn status(&self) -> Status {
        match self {
            Self::ReplicaExists { .. } => Status::ErrorExists,
            Self::Corrupt { .. } => Status::ErrorChecksum,
            _ => Status::Error,
        }
    }

    /// 2 for a wrong configuration, 1 else: what the root binary exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            _ => 1,
        }
    }

    /// Whether it may be a volume's fault, which a check tells.
    pub fn is_of_files(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    /// Whether a disk did not answer in time: then what was asked of it may still take place.
    pub fn is_overdue(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut)
    }

    /// A volume's disk does not answer.
    pub fn no_answer(what: String) -> Self {
        let source = io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer");
        Self::Io { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfs_protocol::block::{BlockId, GenerationStamp};

    #[test]
    fn errors_keep_the_class_that_clients_act_on() {
        let block = Block { id: BlockId(7), generation_stamp: GenerationStamp(1001), num_bytes: 0 };
        let missing = DatanodeError::ReplicaNotFound {
            block: ExtendedBlock { pool_id: "BP-1".into(), block },
            why: "no such block",
        };
        assert_eq!(missing.to_remote().class, java::REPLICA_NOT_FOUND);
        assert_eq!(
            missing.to_remote().message,
            "Replica not found for BP-1:blk_7_1001: no such block"
        );
        let busy = DatanodeError::RecoveryInProgress { block, current_id: 1003, asked_id: 1002 };
        assert_eq!(busy.to_remote().class, java::RECOVERY_IN_PROGRESS);
        assert_eq!(busy.status(), Status::Error);
    }
}

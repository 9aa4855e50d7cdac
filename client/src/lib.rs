//! The HDFS client: a [`Client`] for the namespace, [`FileWriter`] and [`FileReader`] for files'
//! bytes, and the commands of [`shell`]. Runs on tokio alone, so also where io_uring is forbidden.
//!
//! A byte written goes from the caller's buffer through `packetizer` (packets, checksums) to
//! `stream_driver`, which does what the state machine in `streamer` says: ask `namenode` for a block,
//! open a `write_pipeline`, send, await acks, recover. A byte read comes from a `block_reader` that
//! `file_reader` opens on a replica of what `located_blocks` says, or, where the replica is on this host
//! and its datanode passes its files (`local_replicas`), from a `local_block_reader`.

mod block_checksums;
mod block_reader;
mod client;
mod config;
mod datanode_stream;
mod error;
#[cfg(test)]
mod fake_cluster;
mod file_reader;
mod file_status;
mod file_writer;
mod idle_connections;
mod lease_renewal;
pub mod limits;
mod local_block_reader;
mod local_replicas;
mod located_blocks;
mod namenode;
mod packetizer;
mod read_buffers;
mod replica_reader;
pub mod shell;
mod socket;
mod stream_driver;
mod streamer;
mod write_pipeline;

pub use client::{Client, CombineMode, CreateOptions, ListPages};
pub use error::ClientError;
pub use file_reader::FileReader;
pub use file_status::{BlockLocation, FileStatus};
pub use file_writer::FileWriter;
pub use ringfs_protocol::file_checksum::FileChecksum;
pub use ringfs_protocol::messages::{
    ContentSummaryProto, DatanodeInfoProto, DatanodeReportTypeProto, FsServerDefaultsProto,
    GetFsStatsResponseProto, SafeModeActionProto,
};

//! The datanode: stores replicas of blocks, serves and receives them, obeys its namenode.

pub mod activity;
pub mod block_checksum;
pub mod block_move;
mod block_recovery;
pub mod block_reports;
pub mod block_transfer;
mod command;
mod commands;
pub mod config;
#[cfg(test)]
mod crash_points;
mod data_work;
pub mod dataset;
mod deletion;
pub mod error;
#[cfg(test)]
mod fake_namenode;
#[cfg(test)]
mod fake_peer;
mod ipc_server;
mod java_properties;
mod namenode_link;
mod peer;
mod process;
mod reopening;
pub mod replica;
mod replica_files;
mod replica_length;
mod replica_packets;
pub mod replica_recovery;
pub mod ring;
mod runtime;
mod start_scan;
mod storage_directory;
pub mod transitions;
pub mod volume;

pub use command::DatanodeCommand;
pub use error::DatanodeError;

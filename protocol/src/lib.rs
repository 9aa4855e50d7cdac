//! What HDFS clients, namenodes and datanodes say to each other, and what a datanode's disks hold.
//!
//! The codecs are sans-IO: bytes in, a value or a typed [`ProtocolError`] out, allocation bounded by
//! [`limits`]. Only [`rpc::client`] and [`rpc::server`] touch sockets. This crate knows no other
//! crate of the workspace.

pub mod block;
pub mod block_report;
pub mod blocking;
pub mod checksum;
pub mod collections;
pub mod domain_socket;
pub mod error;
pub mod file_checksum;
#[cfg(target_arch = "x86_64")]
mod folded_crc32c;
pub mod limits;
pub mod messages;
pub mod meta_file;
pub mod mutants;
pub mod operation;
pub mod packet;
pub mod peer_timeout;
pub mod rpc;
pub mod settings;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod site_config;
pub mod wire;

pub use error::{ProtocolError, RemoteError};

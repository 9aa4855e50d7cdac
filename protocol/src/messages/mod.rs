//! The protobuf messages of Hadoop's protocols as prost structs, one file per protocol.
//!
//! They are written by hand from the field numbers: no `protoc` runs at build time. Names are
//! Hadoop's own with the `Proto` suffix, so that a wire message is never taken for a domain type.

mod client_namenode;
mod common;
mod data_transfer;
mod datanode_ipc;
mod datanode_namenode;
mod ipc;

pub use client_namenode::*;
pub use common::*;
pub use data_transfer::*;
pub use datanode_ipc::*;
pub use datanode_namenode::*;
pub use ipc::*;

//! The datanode: stores replicas of blocks, serves and receives them, obeys its namenode.

pub mod config;
pub mod dataset;
pub mod error;
mod java_properties;
pub mod replica;
pub mod ring;
mod storage_directory;
pub mod transitions;
pub mod volume;

pub use error::DatanodeError;

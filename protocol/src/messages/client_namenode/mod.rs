//! `org.apache.hadoop.hdfs.protocol.ClientProtocol` version 1: a request and a response for each
//! method, named as on the wire.
//!
//! Field numbers and types are the interface facts of Hadoop 2.7 to 3.5; unknown fields are skipped.

mod cluster;
mod files;
mod namespace;

pub use cluster::*;
pub use files::*;
pub use namespace::*;

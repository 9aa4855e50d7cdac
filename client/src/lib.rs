//! The HDFS client: a [`Client`] for the namespace, [`FileWriter`] and [`FileReader`] for files'
//! bytes. Runs on tokio alone, so also where io_uring is forbidden.

mod client;
mod error;
mod file_reader;
mod file_status;
mod file_writer;
pub mod shell;

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

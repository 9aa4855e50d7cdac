//! Operations on the namespace, and the opening of files.

use ringfs_protocol::file_checksum::FileChecksum;
use ringfs_protocol::messages::{
    ContentSummaryProto, DatanodeInfoProto, DatanodeReportTypeProto, FsActionProto,
    FsServerDefaultsProto, GetFsStatsResponseProto, SafeModeActionProto,
};
use ringfs_protocol::site_config::Configuration;

use crate::{BlockLocation, ClientError, FileReader, FileStatus, FileWriter};

/// A connection to one file system as one user; cheap to clone. Paths are absolute.
#[derive(Clone, Debug)]
pub struct Client {}

/// How a file is created; what is `None` comes from the configuration, else from the namenode.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub overwrite: bool,
    pub replication: Option<u16>,
    pub block_size: Option<u64>,
    /// Before the umask is taken off.
    pub permission: u16,
    pub create_parent: bool,
    /// `host:port` of datanodes that the first replicas should go to.
    pub favored_nodes: Vec<String>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            overwrite: false,
            replication: None,
            block_size: None,
            permission: 0o666,
            create_parent: true,
            favored_nodes: Vec::new(),
        }
    }
}

/// What sums a file up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CombineMode {
    /// MD5 of MD5s of CRCs: depends on block and chunk size.
    Md5Md5Crc,
    /// The CRC of the file's bytes.
    CompositeCrc,
}

impl Client {
    /// `uri` is `hdfs://host[:port]`, by default `fs.defaultFS`. The user is `HADOOP_USER_NAME`, else
    /// the login's. Nothing is sent until the first call.
    pub fn connect(config: &Configuration, uri: Option<&str>) -> Result<Self, ClientError> {
        let _ = (config, uri);
        todo!()
    }
    pub fn user(&self) -> &str {
        todo!()
    }
    /// `hdfs://host:port`
    pub fn uri(&self) -> &str {
        todo!()
    }
    /// `/user/NAME`
    pub fn home_directory(&self) -> String {
        todo!()
    }
    /// `fs.permissions.umask-mode`
    pub fn umask(&self) -> u16 {
        todo!()
    }
    pub async fn file_status(&self, path: &str) -> Result<Option<FileStatus>, ClientError> {
        let _ = path;
        todo!()
    }
    pub async fn file_link_status(&self, path: &str) -> Result<Option<FileStatus>, ClientError> {
        let _ = path;
        todo!()
    }
    /// All entries of a directory, or the file itself; FileNotFoundException when there is neither.
    pub async fn list(&self, path: &str) -> Result<Vec<FileStatus>, ClientError> {
        let _ = path;
        todo!()
    }
    pub fn list_pages(&self, path: &str) -> ListPages {
        let _ = path;
        todo!()
    }
    /// `mode` before the umask is taken off (usually 0o777).
    pub async fn mkdirs(&self, path: &str, mode: u16, parents: bool) -> Result<(), ClientError> {
        let _ = (path, mode, parents);
        todo!()
    }
    /// False when there was nothing to delete.
    pub async fn delete(&self, path: &str, recursive: bool) -> Result<bool, ClientError> {
        let _ = (path, recursive);
        todo!()
    }
    /// AccessControlException when the user may not do that with the path.
    pub async fn check_access(&self, path: &str, action: FsActionProto) -> Result<(), ClientError> {
        let _ = (path, action);
        todo!()
    }
    /// The old rename, into a directory that exists: false when it cannot be done.
    pub async fn rename(&self, src: &str, dst: &str) -> Result<bool, ClientError> {
        let _ = (src, dst);
        todo!()
    }
    pub async fn rename2(
        &self,
        src: &str,
        dst: &str,
        overwrite: bool,
        to_trash: bool,
    ) -> Result<(), ClientError> {
        let _ = (src, dst, overwrite, to_trash);
        todo!()
    }
    pub async fn set_permission(&self, path: &str, permission: u16) -> Result<(), ClientError> {
        let _ = (path, permission);
        todo!()
    }
    pub async fn set_owner(
        &self,
        path: &str,
        owner: Option<&str>,
        group: Option<&str>,
    ) -> Result<(), ClientError> {
        let _ = (path, owner, group);
        todo!()
    }
    /// `None` leaves a time as it is.
    pub async fn set_times(
        &self,
        path: &str,
        mtime_ms: Option<u64>,
        atime_ms: Option<u64>,
    ) -> Result<(), ClientError> {
        let _ = (path, mtime_ms, atime_ms);
        todo!()
    }
    /// False for a directory.
    pub async fn set_replication(&self, path: &str, replication: u16) -> Result<bool, ClientError> {
        let _ = (path, replication);
        todo!()
    }
    pub async fn content_summary(&self, path: &str) -> Result<ContentSummaryProto, ClientError> {
        let _ = path;
        todo!()
    }
    pub async fn fs_stats(&self) -> Result<GetFsStatsResponseProto, ClientError> {
        todo!()
    }
    /// Asked once, then kept.
    pub async fn server_defaults(&self) -> Result<FsServerDefaultsProto, ClientError> {
        todo!()
    }
    /// The blocks that overlap `len` bytes from `offset` on.
    pub async fn block_locations(
        &self,
        path: &str,
        offset: u64,
        len: u64,
    ) -> Result<Vec<BlockLocation>, ClientError> {
        let _ = (path, offset, len);
        todo!()
    }
    pub async fn file_checksum(
        &self,
        path: &str,
        mode: CombineMode,
    ) -> Result<FileChecksum, ClientError> {
        let _ = (path, mode);
        todo!()
    }
    /// True when done; false when the last block is still being cut by its datanodes.
    pub async fn truncate(&self, path: &str, new_len: u64) -> Result<bool, ClientError> {
        let _ = (path, new_len);
        todo!()
    }
    pub async fn concat(&self, target: &str, sources: &[&str]) -> Result<(), ClientError> {
        let _ = (target, sources);
        todo!()
    }
    /// True when the file is closed.
    pub async fn recover_lease(&self, path: &str) -> Result<bool, ClientError> {
        let _ = path;
        todo!()
    }
    pub async fn is_file_closed(&self, path: &str) -> Result<bool, ClientError> {
        let _ = path;
        todo!()
    }
    pub async fn datanode_report(
        &self,
        kind: DatanodeReportTypeProto,
    ) -> Result<Vec<DatanodeInfoProto>, ClientError> {
        let _ = kind;
        todo!()
    }
    /// Whether the namenode is in safe mode after `action`.
    pub async fn safe_mode(&self, action: SafeModeActionProto) -> Result<bool, ClientError> {
        let _ = action;
        todo!()
    }
    pub async fn create(
        &self,
        path: &str,
        options: CreateOptions,
    ) -> Result<FileWriter, ClientError> {
        let _ = (path, options);
        todo!()
    }
    pub async fn append(&self, path: &str) -> Result<FileWriter, ClientError> {
        let _ = path;
        todo!()
    }
    /// As `append`, in a new block whatever room the last one has.
    pub async fn append_new_block(&self, path: &str) -> Result<FileWriter, ClientError> {
        let _ = path;
        todo!()
    }
    pub async fn open(&self, path: &str) -> Result<FileReader, ClientError> {
        let _ = path;
        todo!()
    }
}

/// The entries of a directory, page by page.
#[derive(Debug)]
pub struct ListPages {}

impl ListPages {
    /// The next entries; `None` after the last.
    pub async fn next_page(&mut self) -> Result<Option<Vec<FileStatus>>, ClientError> {
        todo!()
    }
}

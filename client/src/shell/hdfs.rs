//! HDFS as the commands see it: the client's calls, their results turned into what is shown.

use bytes::Bytes;
use ringfs_protocol::error::java;
use ringfs_protocol::messages::FsActionProto;
use ringfs_protocol::settings;
use ringfs_protocol::site_config::Configuration;

use super::error::ShellError;
use super::file_system::{Access, Space, Status, Summary};
use crate::{Client, CombineMode, CreateOptions, FileReader, FileStatus, FileWriter};

/// Before the umask is taken off.
const DIRECTORY_MODE: u16 = 0o777;

type Result<T> = std::result::Result<T, ShellError>;

#[derive(Clone)]
pub struct Hdfs {
    client: Client,
    combine_mode: CombineMode,
}

impl Hdfs {
    pub fn connect(authority: &str, configuration: &Configuration) -> Result<Self> {
        let uri = format!("hdfs://{authority}");
        let client = Client::connect(configuration, Some(&uri))?;
        let combine_mode = match configuration.text(&settings::DFS_CHECKSUM_COMBINE_MODE).as_str() {
            "MD5MD5CRC" => CombineMode::Md5Md5Crc,
            "COMPOSITE_CRC" => CombineMode::CompositeCrc,
            other => {
                return Err(ShellError::Message(format!(
                    "{} = {other}: neither MD5MD5CRC nor COMPOSITE_CRC",
                    settings::DFS_CHECKSUM_COMBINE_MODE.name
                )));
            }
        };
        Ok(Self { client, combine_mode })
    }

    pub fn uri(&self) -> &str {
        self.client.uri()
    }

    pub fn home(&self) -> String {
        self.client.home_directory()
    }

    pub async fn status(&self, path: &str) -> Result<Option<Status>> {
        Ok(self.client.file_status(path).await?.map(Status::from))
    }

    pub async fn list(&self, path: &str) -> Result<Vec<(String, Status)>> {
        let entries = self.client.list(path).await?;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.name().to_owned(), Status::from(entry)))
            .collect())
    }

    pub async fn make_directories(&self, path: &str, mode: Option<u16>) -> Result<bool> {
        self.client.mkdirs(path, mode.unwrap_or(DIRECTORY_MODE), true).await?;
        Ok(true)
    }

    pub async fn delete(&self, path: &str, recursive: bool) -> Result<bool> {
        Ok(self.client.delete(path, recursive).await?)
    }

    pub async fn rename(&self, from: &str, to: &str) -> Result<bool> {
        Ok(self.client.rename(from, to).await?)
    }

    pub async fn open(
        &self,
        path: &str,
        offset: u64,
        verify_checksums: bool,
    ) -> Result<HdfsReader> {
        let mut reader = self.client.open(path).await?;
        reader.verify_checksums(verify_checksums);
        if offset > 0 {
            reader.seek(offset)?;
        }
        Ok(HdfsReader(reader))
    }

    pub async fn create(&self, path: &str, one_replica: bool) -> Result<HdfsWriter> {
        let replication = one_replica.then_some(1);
        let options = CreateOptions { overwrite: true, replication, ..CreateOptions::default() };
        Ok(HdfsWriter(self.client.create(path, options).await?))
    }

    pub async fn create_empty(&self, path: &str) -> Result<()> {
        let options =
            CreateOptions { overwrite: true, expects_data: false, ..CreateOptions::default() };
        Ok(self.client.create(path, options).await?.close().await?)
    }

    pub async fn append(&self, path: &str, new_block: bool) -> Result<HdfsWriter> {
        let writer = if new_block {
            self.client.append_new_block(path).await?
        } else {
            self.client.append(path).await?
        };
        Ok(HdfsWriter(writer))
    }

    pub async fn set_times(
        &self,
        path: &str,
        modified_ms: Option<i64>,
        accessed_ms: Option<i64>,
    ) -> Result<()> {
        let since_1970 = |time: Option<i64>| time.map(|millis| u64::try_from(millis).unwrap_or(0));
        let (modified, accessed) = (since_1970(modified_ms), since_1970(accessed_ms));
        Ok(self.client.set_times(path, modified, accessed).await?)
    }

    pub async fn set_owner(
        &self,
        path: &str,
        owner: Option<&str>,
        group: Option<&str>,
    ) -> Result<()> {
        Ok(self.client.set_owner(path, owner, group).await?)
    }

    pub async fn set_mode(&self, path: &str, mode: u16) -> Result<()> {
        Ok(self.client.set_permission(path, mode).await?)
    }

    pub async fn may(&self, path: &str, access: Access) -> Result<bool> {
        let action = match access {
            Access::Read => FsActionProto::Read,
            Access::Write => FsActionProto::Write,
        };
        match self.client.check_access(path, action).await {
            Ok(()) => Ok(true),
            Err(error) => match error.class() {
                Some(java::ACCESS_CONTROL | java::FILE_NOT_FOUND) => Ok(false),
                _ => Err(error.into()),
            },
        }
    }

    /// The namenode's interval counts when it has one, else ours.
    pub async fn has_trash(&self, configuration: &Configuration) -> Result<bool> {
        if self.client.server_defaults().await?.trash_interval() > 0 {
            return Ok(true);
        }
        let own = configuration
            .integer(&settings::FS_TRASH_INTERVAL)
            .map_err(|error| ShellError::Message(error.to_string()))?;
        Ok(own > 0)
    }

    pub async fn summary(&self, path: &str) -> Result<Summary> {
        let summary = self.client.content_summary(path).await?;
        // A quota that is not set travels as -1.
        let quota = |quota: u64| Some(quota as i64).filter(|quota| *quota >= 0);
        Ok(Summary {
            length: summary.length as i64,
            files: summary.file_count as i64,
            directories: summary.directory_count as i64,
            space_consumed: summary.space_consumed as i64,
            quota: quota(summary.quota),
            space_quota: quota(summary.space_quota),
            snapshot_length: summary.snapshot_length() as i64,
            snapshot_files: summary.snapshot_file_count() as i64,
            snapshot_directories: summary.snapshot_directory_count() as i64,
            snapshot_space_consumed: summary.snapshot_space_consumed() as i64,
        })
    }

    pub async fn space(&self) -> Result<Space> {
        let stats = self.client.fs_stats().await?;
        Ok(Space { capacity: stats.capacity, used: stats.used, remaining: stats.remaining })
    }

    pub async fn checksum(&self, path: &str) -> Result<(String, String)> {
        let checksum = self.client.file_checksum(path, self.combine_mode).await?;
        let digits = checksum.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((checksum.algorithm_name(), digits))
    }

    pub async fn set_replication(&self, path: &str, replication: u32) -> Result<bool> {
        let replication = u16::try_from(replication)
            .map_err(|_| ShellError::Usage(format!("replication {replication} is too high")))?;
        Ok(self.client.set_replication(path, replication).await?)
    }

    pub async fn replica_counts(&self, path: &str) -> Result<Vec<u32>> {
        let blocks = self.client.block_locations(path, 0, u64::MAX >> 1).await?;
        Ok(blocks.iter().map(|block| block.datanodes.len() as u32).collect())
    }

    pub async fn truncate(&self, path: &str, length: u64) -> Result<bool> {
        Ok(self.client.truncate(path, length).await?)
    }

    pub async fn is_closed(&self, path: &str) -> Result<bool> {
        Ok(self.client.is_file_closed(path).await?)
    }

    pub async fn concat(&self, target: &str, sources: Vec<String>) -> Result<()> {
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        Ok(self.client.concat(target, &sources).await?)
    }
}

impl From<FileStatus> for Status {
    fn from(status: FileStatus) -> Self {
        Self {
            is_directory: status.is_dir,
            length: status.len,
            replication: status.replication.into(),
            block_size: status.block_size,
            owner: status.owner,
            group: status.group,
            mode: status.permission,
            modified_ms: status.mtime_ms as i64,
            accessed_ms: status.atime_ms as i64,
        }
    }
}

pub struct HdfsReader(FileReader);

impl HdfsReader {
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.next_chunk().await?)
    }
}

pub struct HdfsWriter(FileWriter);

impl HdfsWriter {
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        Ok(self.0.write(data).await?)
    }

    pub async fn close(self) -> Result<()> {
        Ok(self.0.close().await?)
    }
}

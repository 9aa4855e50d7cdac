//! The two file systems that commands work on, HDFS and the local one, behind the same calls.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use ringfs_protocol::site_config::Configuration;

use super::error::ShellError;
use super::hdfs::{Hdfs, HdfsReader, HdfsWriter};
use super::local;

/// What is read from a local file at a time: long enough for a pipeline to be busy meanwhile.
const LOCAL_READ_BYTES: u64 = 1 << 20;

type Result<T> = std::result::Result<T, ShellError>;

/// A file or directory as commands show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub is_directory: bool,
    pub length: u64,
    /// 0 for a directory, as is the block size.
    pub replication: u32,
    pub block_size: u64,
    pub owner: String,
    pub group: String,
    pub mode: u16,
    pub modified_ms: i64,
    pub accessed_ms: i64,
}

/// What is below a path; a quota that is not set is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub length: i64,
    pub files: i64,
    pub directories: i64,
    pub space_consumed: i64,
    pub quota: Option<i64>,
    pub space_quota: Option<i64>,
    pub snapshot_length: i64,
    pub snapshot_files: i64,
    pub snapshot_directories: i64,
    pub snapshot_space_consumed: i64,
}

/// Bytes of a whole file system.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub capacity: u64,
    pub used: u64,
    pub remaining: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

#[derive(Clone)]
pub enum FileSystem {
    Hdfs(Hdfs),
    Local,
}

impl FileSystem {
    pub fn open_uri(
        scheme: &str,
        authority: Option<&str>,
        configuration: &Configuration,
    ) -> Result<Self> {
        match (scheme, authority) {
            ("file", _) => Ok(Self::Local),
            ("hdfs", Some(authority)) => Hdfs::connect(authority, configuration).map(Self::Hdfs),
            ("hdfs", None) => Err(ShellError::Message(
                "Incomplete HDFS URI, no host: hdfs:/// needs fs.defaultFS to name one".to_owned(),
            )),
            _ => Err(ShellError::Message(format!("No FileSystem for scheme \"{scheme}\""))),
        }
    }

    /// What stands before an absolute path in a URI.
    pub fn uri(&self) -> &str {
        match self {
            Self::Hdfs(hdfs) => hdfs.uri(),
            Self::Local => "file:",
        }
    }

    /// The directory that relative paths start from.
    pub fn home(&self) -> String {
        match self {
            Self::Hdfs(hdfs) => hdfs.home(),
            Self::Local => local::home(),
        }
    }

    pub fn is_same(&self, other: &Self) -> bool {
        self.uri() == other.uri()
    }

    pub async fn status(&self, path: &str) -> Result<Option<Status>> {
        match self {
            Self::Hdfs(hdfs) => hdfs.status(path).await,
            Self::Local => local::status(path),
        }
    }

    /// What a directory holds, sorted by name.
    pub async fn list(&self, path: &str) -> Result<Vec<(String, Status)>> {
        match self {
            Self::Hdfs(hdfs) => hdfs.list(path).await,
            Self::Local => local::list(path),
        }
    }

    /// Makes a directory and the parents it lacks.
    pub async fn make_directories(&self, path: &str) -> Result<bool> {
        match self {
            Self::Hdfs(hdfs) => hdfs.make_directories(path, None).await,
            Self::Local => local::make_directories(path).map(|()| true),
        }
    }

    /// As `make_directories`, with that mode.
    pub async fn make_directories_with(&self, path: &str, mode: u16) -> Result<bool> {
        self.hdfs("directories of a given mode")?.make_directories(path, Some(mode)).await
    }

    pub async fn delete(&self, path: &str, recursive: bool) -> Result<bool> {
        match self {
            Self::Hdfs(hdfs) => hdfs.delete(path, recursive).await,
            Self::Local => local::delete(path, recursive),
        }
    }

    /// Renames without replacing anything.
    pub async fn rename(&self, from: &str, to: &str) -> Result<bool> {
        match self {
            Self::Hdfs(hdfs) => hdfs.rename(from, to).await,
            Self::Local => local::rename(from, to).map(|()| true),
        }
    }

    pub async fn open(&self, path: &str, verify_checksums: bool) -> Result<Source> {
        match self {
            Self::Hdfs(hdfs) => {
                Ok(Source::Hdfs(Box::new(hdfs.open(path, 0, verify_checksums).await?)))
            }
            Self::Local => local::open(path).map(Source::Local),
        }
    }

    /// Opens a file to be read from `offset` on.
    pub async fn open_at(&self, path: &str, offset: u64) -> Result<Source> {
        match self {
            Self::Hdfs(hdfs) => Ok(Source::Hdfs(Box::new(hdfs.open(path, offset, true).await?))),
            Self::Local => {
                let mut file = local::open(path)?;
                let seek = file.seek(SeekFrom::Start(offset));
                seek.map_err(|error| ShellError::local(Path::new(path), error))?;
                Ok(Source::Local(file))
            }
        }
    }

    /// Opens a new file, or one made empty, for writing; `one_replica` overrides the replication.
    pub async fn create(&self, path: &str, one_replica: bool) -> Result<Sink> {
        match self {
            Self::Hdfs(hdfs) => Ok(Sink::Hdfs(Box::new(hdfs.create(path, one_replica).await?))),
            Self::Local => Ok(Sink::Local { file: local::create(path)?, path: path.to_owned() }),
        }
    }

    /// Makes a file without a byte, whatever was there.
    pub async fn create_empty(&self, path: &str) -> Result<()> {
        match self {
            Self::Hdfs(hdfs) => hdfs.create_empty(path).await,
            Self::Local => local::create(path).map(drop),
        }
    }

    pub async fn append(&self, path: &str, new_block: bool) -> Result<Sink> {
        let writer = self.hdfs("append")?.append(path, new_block).await?;
        Ok(Sink::Hdfs(Box::new(writer)))
    }

    /// Sets the times that are given, in milliseconds since 1970.
    pub async fn set_times(
        &self,
        path: &str,
        modified_ms: Option<i64>,
        accessed_ms: Option<i64>,
    ) -> Result<()> {
        match self {
            Self::Hdfs(hdfs) => hdfs.set_times(path, modified_ms, accessed_ms).await,
            Self::Local => local::set_times(path, modified_ms, accessed_ms),
        }
    }

    pub async fn set_owner(
        &self,
        path: &str,
        owner: Option<&str>,
        group: Option<&str>,
    ) -> Result<()> {
        match self {
            Self::Hdfs(hdfs) => hdfs.set_owner(path, owner, group).await,
            Self::Local => local::set_owner(path, owner, group),
        }
    }

    pub async fn set_mode(&self, path: &str, mode: u16) -> Result<()> {
        match self {
            Self::Hdfs(hdfs) => hdfs.set_mode(path, mode).await,
            Self::Local => local::set_mode(path, mode),
        }
    }

    pub async fn may(&self, path: &str, access: Access) -> Result<bool> {
        match self {
            Self::Hdfs(hdfs) => hdfs.may(path, access).await,
            Self::Local => Ok(local::may(path, access)),
        }
    }

    /// Whether deleted paths are to be moved to a trash.
    pub async fn has_trash(&self, configuration: &Configuration) -> Result<bool> {
        match self {
            Self::Hdfs(hdfs) => hdfs.has_trash(configuration).await,
            Self::Local => Ok(false),
        }
    }

    pub async fn summary(&self, path: &str) -> Result<Summary> {
        self.hdfs("content summary")?.summary(path).await
    }

    pub async fn space(&self) -> Result<Space> {
        self.hdfs("file system status")?.space().await
    }

    /// Algorithm and digits of a file's checksum.
    pub async fn checksum(&self, path: &str) -> Result<(String, String)> {
        self.hdfs("checksum")?.checksum(path).await
    }

    pub async fn set_replication(&self, path: &str, replication: u32) -> Result<bool> {
        match self {
            Self::Hdfs(hdfs) => hdfs.set_replication(path, replication).await,
            Self::Local => Ok(true),
        }
    }

    /// Replicas that each block of a file has.
    pub async fn replica_counts(&self, path: &str) -> Result<Vec<u32>> {
        self.hdfs("replicas")?.replica_counts(path).await
    }

    /// Whether the file has its new length at once; else its last block is being recovered.
    pub async fn truncate(&self, path: &str, length: u64) -> Result<bool> {
        self.hdfs("truncate")?.truncate(path, length).await
    }

    /// Whether nobody has the file open for writing, nor is it being recovered.
    pub async fn is_closed(&self, path: &str) -> Result<bool> {
        self.hdfs("lease")?.is_closed(path).await
    }

    pub async fn concat(&self, target: &str, sources: Vec<String>) -> Result<()> {
        self.hdfs("concat")?.concat(target, sources).await
    }

    fn hdfs(&self, operation: &str) -> Result<&Hdfs> {
        match self {
            Self::Hdfs(hdfs) => Ok(hdfs),
            Self::Local => Err(ShellError::Message(format!("file: has no {operation}"))),
        }
    }
}

/// A file being read.
pub enum Source {
    Hdfs(Box<HdfsReader>),
    Local(File),
    StandardInput,
}

impl Source {
    /// The next piece, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Hdfs(reader) => reader.next().await,
            Self::Local(file) => read_piece(file, "local file"),
            Self::StandardInput => read_piece(&mut std::io::stdin(), "standard input"),
        }
    }
}

fn read_piece(input: &mut impl Read, name: &str) -> Result<Option<Bytes>> {
    let mut data = Vec::with_capacity(LOCAL_READ_BYTES as usize);
    let read = input.take(LOCAL_READ_BYTES).read_to_end(&mut data);
    read.map_err(|error| ShellError::local(Path::new(name), error))?;
    Ok(Some(Bytes::from(data)).filter(|data| !data.is_empty()))
}

/// A file being written; only `close` makes it complete.
pub enum Sink {
    Hdfs(Box<HdfsWriter>),
    Local { file: File, path: String },
}

impl Sink {
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        match self {
            Self::Hdfs(writer) => writer.write(data).await,
            Self::Local { file, path } => {
                file.write_all(&data).map_err(|error| ShellError::local(Path::new(path), error))
            }
        }
    }

    pub async fn close(self) -> Result<()> {
        match self {
            Self::Hdfs(writer) => writer.close().await,
            Self::Local { .. } => Ok(()),
        }
    }
}

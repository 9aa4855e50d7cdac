//! What the tests share: clusters of the real binary, sample bytes, other people's clients.

pub mod disks;
pub mod fuse_volume;
pub mod java;
pub mod namespaces;
pub mod prerequisites;
pub mod processes;
pub mod reply_proxy;
pub mod sample;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use namespaces::{Network, Place};
use ringfs::cluster::{Cluster, ClusterOptions};
use ringfs_client::{BlockLocation, Client, ClientError, CreateOptions};
use ringfs_protocol::site_config::Configuration;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const BINARY: &str = env!("CARGO_BIN_EXE_ringfs");

/// Dead nodes are noticed within 2 × recheck + 10 × heartbeat = 4 s, and acted upon at once.
pub const FAST: &[(&str, &str)] = &[
    ("dfs.heartbeat.interval", "300ms"),
    ("dfs.namenode.heartbeat.recheck-interval", "500ms"),
    ("dfs.namenode.redundancy.interval.seconds", "300ms"),
    ("dfs.namenode.stale.datanode.interval", "2s"),
    ("dfs.blocksize", "1m"),
];

/// A cluster in a directory of its own, both gone at the end of the test; the logs of a failing
/// test are printed first.
pub struct TestCluster {
    cluster: Cluster,
    directory: TempDir,
}

impl TestCluster {
    /// Three datanodes with [`FAST`] settings.
    pub fn start() -> Self {
        Self::start_with(3, &[])
    }

    pub fn start_with(datanodes: usize, settings: &[(&str, &str)]) -> Self {
        let directory = temporary_directory();
        let cluster = started(directory.path(), datanodes, settings, None);
        Self { cluster, directory }
    }

    /// Three datanodes, and servers that run as `user`, who is the superuser.
    pub fn start_as(user: &str, settings: &[(&str, &str)]) -> Self {
        let directory = temporary_directory();
        let cluster = started(directory.path(), 3, settings, Some(user.to_owned()));
        Self { cluster, directory }
    }

    /// Of which the first datanodes keep their blocks in `data_dirs`.
    pub fn start_on(
        datanodes: usize,
        settings: &[(&str, &str)],
        data_dirs: Vec<Vec<PathBuf>>,
    ) -> Self {
        let directory = temporary_directory();
        let mut options = options(directory.path(), datanodes, settings);
        options.data_dirs = data_dirs;
        let cluster = Cluster::start(options).unwrap_or_else(|error| panic!("{error}"));
        Self { cluster, directory }
    }

    /// Each server on a host of `network` of its own.
    pub fn start_in(network: &Network, datanodes: usize, settings: &[(&str, &str)]) -> Self {
        let directory = temporary_directory();
        let mut options = options(directory.path(), datanodes, settings);
        options.namenode_host = network.host(Place::Namenode);
        options.datanode_hosts =
            (0..datanodes).map(|index| network.host(Place::Datanode(index))).collect();
        let cluster = Cluster::start(options).unwrap_or_else(|error| panic!("{error}"));
        Self { cluster, directory }
    }

    /// Three datanodes that throw block data away.
    pub fn start_discarding() -> Self {
        let directory = temporary_directory();
        let mut options = options(directory.path(), 3, &[]);
        options.discard_block_data = true;
        let cluster = Cluster::start(options).unwrap_or_else(|error| panic!("{error}"));
        Self { cluster, directory }
    }

    /// Stops the cluster and starts it again on the same directory with other settings.
    pub fn restart_with(&mut self, settings: &[(&str, &str)]) {
        self.cluster.stop().unwrap_or_else(|error| panic!("{error}"));
        self.cluster =
            started(self.directory.path(), self.cluster.datanode_count(), settings, None);
    }

    /// A file below the cluster's directory, for a test's own use.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let scratch = self.directory.path().join("scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        scratch.join(name)
    }

    pub fn write_scratch(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.scratch(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// `ringfs dfs` with `arguments`.
    pub fn dfs(&self, arguments: &[&str]) -> Outcome {
        self.dfs_as(None, arguments)
    }

    pub fn dfs_as(&self, user: Option<&str>, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(BINARY);
        command.arg("dfs").args(arguments).env("HADOOP_CONF_DIR", self.conf_dir());
        command.env_remove("HADOOP_USER_NAME").envs(user.map(|user| ("HADOOP_USER_NAME", user)));
        Outcome::of(command.stdin(Stdio::null()).output().unwrap())
    }

    /// Our client library with the cluster's configuration.
    pub fn connect(&self) -> Library {
        self.connect_with(&[])
    }

    /// With settings beside those of the cluster.
    pub fn connect_with(&self, settings: &[(&str, &str)]) -> Library {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let configuration = Configuration::load(Some(&self.conf_dir()), &settings).unwrap();
        Library { runtime, client: Client::connect(&configuration, None).unwrap() }
    }

    /// The whole cluster down and up again, as after a reboot.
    pub fn restart(&mut self) {
        self.cluster.stop().unwrap_or_else(|error| panic!("{error}"));
        self.cluster.start_all().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Bytes of the block and meta files that a datanode has on disk.
    pub fn stored_bytes(&self, datanode: usize) -> u64 {
        block_files(&self.data_dir(datanode))
            .iter()
            .map(|file| file.metadata().unwrap().len())
            .sum()
    }

    pub fn stored_is_empty(&self, datanode: usize) -> bool {
        block_files(&self.data_dir(datanode)).is_empty()
    }

    /// The data file of a replica.
    pub fn block_file(&self, datanode: usize, id: u64) -> PathBuf {
        let name = format!("blk_{id}");
        block_files(&self.data_dir(datanode))
            .into_iter()
            .find(|file| file.file_name().is_some_and(|found| *found == *name))
            .unwrap_or_else(|| panic!("datanode {datanode} has no {name}"))
    }

    /// Whether the disks hold `expected` replicas and nothing else, each of them what `bytes` are from
    /// some block's start; else what is wrong.
    pub fn replicas_are_right(&self, bytes: &[u8], expected: usize) -> Result<(), String> {
        let mut found = 0;
        let datanodes = 0..self.cluster.datanode_count();
        for file in datanodes.flat_map(|index| block_files(&self.data_dir(index))) {
            if file.extension().is_some_and(|extension| extension == "meta") {
                continue;
            }
            found += 1;
            let data = std::fs::read(&file).map_err(|error| format!("{file:?}: {error}"))?;
            let mut starts = (0..bytes.len()).step_by(sample::BLOCK);
            if !starts.any(|start| bytes[start..].starts_with(&data)) {
                return Err(format!("{} holds something else", file.display()));
            }
        }
        match found == expected {
            true => Ok(()),
            false => Err(format!("{found} replicas on the disks instead of {expected}")),
        }
    }

    /// Finalized replicas of a datanode, by block id.
    pub fn finalized_blocks(&self, datanode: usize) -> Vec<u64> {
        let mut ids: Vec<u64> = block_files(&self.data_dir(datanode))
            .iter()
            .filter(|file| file.components().any(|part| part.as_os_str() == "finalized"))
            .filter_map(|file| file.file_name()?.to_str()?.strip_prefix("blk_")?.parse().ok())
            .collect();
        ids.sort_unstable();
        ids
    }
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for log in std::fs::read_dir(self.cluster.logs_dir()).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- {}\n{}", log.path().display(), last.join("\n"));
        }
    }
}

/// Our client, and the runtime that its connections live on.
pub struct Library {
    runtime: Runtime,
    pub client: Client,
}

impl Library {
    pub fn run<T>(&self, work: impl AsyncFnOnce(&Client) -> T) -> T {
        self.runtime.block_on(work(&self.client))
    }

    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<(), ClientError> {
        self.run(async |client| {
            let mut writer = client.create(path, CreateOptions::default()).await?;
            writer.write_slice(bytes).await?;
            writer.close().await
        })
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        self.run(async |client| {
            let mut reader = client.open(path).await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = reader.next_chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        })
    }

    /// For each block the transfer ports of the datanodes that the namenode names.
    pub fn replica_ports(&self, path: &str) -> Vec<Vec<u32>> {
        let locations = self.run(async |client| client.block_locations(path, 0, 1 << 60).await);
        let ports = |location: &BlockLocation| {
            let mut ports: Vec<u32> =
                location.datanodes.iter().map(|datanode| datanode.id.xfer_port).collect();
            ports.sort_unstable();
            ports
        };
        locations.unwrap().iter().map(ports).collect()
    }

    /// Once so many replicas of each block have been reported: a file is complete with one.
    pub fn reported_replica_ports(&self, path: &str, count: usize) -> Vec<Vec<u32>> {
        wait_for(&format!("{count} reported replicas of {path}"), Duration::from_secs(10), || {
            let replicas = self.replica_ports(path);
            replicas.iter().all(|ports| ports.len() == count).then_some(replicas)
        })
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub exit: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Outcome {
    pub fn of(output: Output) -> Self {
        Self {
            exit: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.exit, 0, "out: {}\nerr: {}", self.text(), self.err);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

fn started(
    directory: &Path,
    datanodes: usize,
    settings: &[(&str, &str)],
    user: Option<String>,
) -> Cluster {
    let mut options = options(directory, datanodes, settings);
    options.user = user;
    Cluster::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn options(directory: &Path, datanodes: usize, settings: &[(&str, &str)]) -> ClusterOptions {
    let mut options = ClusterOptions::new(Path::new(BINARY), directory);
    options.datanodes = datanodes;
    options.settings = FAST
        .iter()
        .chain(settings)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    options
}

/// On the disk of the build directory, which is a real one.
pub fn temporary_directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Polls `condition` until it gives a value, and fails with `what` when `deadline` has passed.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < deadline, "after {deadline:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All `blk_*` files below a data directory.
pub fn block_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        // Directories and files may go while they are listed: datanodes move and delete blocks.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if entry.file_name().to_string_lossy().starts_with("blk_") && path.exists() {
                files.push(path);
            }
        }
    }
    files
}

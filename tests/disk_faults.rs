//! Disks that fail for real under datanodes at work: whatever a disk does, writers get on, what was
//! acknowledged is read back as it was written, the namenode knows of the failed volume, and its
//! blocks are replicated elsewhere. Some 5 s a test.

use std::path::PathBuf;
use std::time::Duration;

use ringfs_client::{CreateOptions, FileWriter};
use ringfs_protocol::messages::{
    DatanodeReportTypeProto, GetDatanodeStorageReportRequestProto,
    GetDatanodeStorageReportResponseProto,
};
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::site_config::user_name;

use crate::cluster::disks::{FileSystem, LoopVolume};
use crate::cluster::fuse_volume::{Fault, FuseVolume};
use crate::cluster::{Library, TestCluster, block_files, sample, wait_for};
use crate::metrics::scrape;

pub const RECOVERED: Duration = Duration::from_secs(30);

/// Files that are being written while the disk fails, and what of each is flushed before.
const WRITERS: usize = 4;
const FLUSHED: usize = 300_001;
const LEN: usize = 2 * sample::BLOCK + 77_777;

/// Replicas of two, the first on datanode 0 as long as that can be.
pub struct Work {
    pub client: Library,
    favored: String,
    pub bytes: Vec<u8>,
    pub writers: Vec<FileWriter>,
}

impl Work {
    /// One file is written whole, others up to [`FLUSHED`].
    pub fn begin(cluster: &TestCluster) -> Self {
        let mut work = Self::of(cluster);
        let mut whole = work.create("/before");
        work.client.run(async |_| {
            whole.write_slice(&work.bytes).await.unwrap();
            whole.close().await.unwrap();
        });
        for index in 0..WRITERS {
            let mut writer = work.create(&format!("/during{index}"));
            work.client.run(async |_| {
                writer.write_slice(&work.bytes[..FLUSHED]).await.unwrap();
                writer.hflush().await.unwrap();
            });
            work.writers.push(writer);
        }
        work
    }

    /// Nothing is written yet.
    pub fn of(cluster: &TestCluster) -> Self {
        let (library, bytes) = (cluster.connect(), sample::bytes(LEN));
        Self { client: library, favored: cluster.datanode_address(0), bytes, writers: Vec::new() }
    }

    pub fn create(&self, path: &str) -> FileWriter {
        self.create_with(path, 2)
    }

    pub fn create_with(&self, path: &str, replication: u16) -> FileWriter {
        let options = CreateOptions {
            replication: Some(replication),
            favored_nodes: vec![self.favored.clone()],
            ..CreateOptions::default()
        };
        self.client.run(async |client| client.create(path, options).await.unwrap())
    }

    /// Writes all files to their end and one more, and reads all back.
    pub fn end(&mut self) {
        let writers = std::mem::take(&mut self.writers);
        let last = self.create("/after");
        self.client.run(async |_| {
            for mut writer in writers {
                writer.write_slice(&self.bytes[FLUSHED..]).await.unwrap();
                writer.close().await.unwrap();
            }
            let mut writer = last;
            writer.write_slice(&self.bytes).await.unwrap();
            writer.close().await.unwrap();
        });
        self.read_all_back();
    }

    pub fn read_all_back(&self) {
        for path in self.paths() {
            assert!(self.client.read(&path).unwrap() == self.bytes, "{path}");
        }
    }

    fn paths(&self) -> Vec<String> {
        let during = (0..WRITERS).map(|index| format!("/during{index}"));
        ["/before".to_owned(), "/after".to_owned()].into_iter().chain(during).collect()
    }

    /// Waits until two good disks have each block of all files, as the namenode knows.
    fn wait_for_replicas(&self, good: &[PathBuf]) {
        for path in self.paths() {
            wait_for(&format!("two replicas of each block of {path}"), RECOVERED, || {
                let blocks = self.client.run(async |client| {
                    client.block_locations(&path, 0, u64::MAX >> 1).await.unwrap()
                });
                let files: Vec<PathBuf> = good.iter().flat_map(|dir| block_files(dir)).collect();
                let is_safe = blocks.iter().all(|block| {
                    let name = format!("/blk_{}", block.block.block.id.0);
                    let on_disk = files.iter().filter(|f| f.to_string_lossy().ends_with(&name));
                    block.datanodes.len() >= 2 && on_disk.count() >= 2
                });
                (is_safe && blocks.len() == LEN.div_ceil(sample::BLOCK)).then_some(())
            });
        }
        self.read_all_back();
    }
}

/// Storages that the namenode takes for failed.
pub fn failed_storages(cluster: &TestCluster, library: &Library) -> usize {
    library.run(async |_| {
        let options = RpcClientOptions::default();
        let rpc = RpcClient::new(
            &cluster.namenode_address(),
            protocol_name::CLIENT,
            &user_name(),
            options,
        );
        let request =
            GetDatanodeStorageReportRequestProto { r#type: DatanodeReportTypeProto::All as i32 };
        let reply: GetDatanodeStorageReportResponseProto =
            rpc.call("getDatanodeStorageReport", &request).await.unwrap();
        let datanodes = reply.datanode_storage_reports.iter();
        datanodes.flat_map(|node| &node.storage_reports).filter(|s| s.failed()).count()
    })
}

/// Three datanodes; the first has a second disk that is good.
pub fn cluster_on(sick: PathBuf, good: &LoopVolume, settings: &[(&str, &str)]) -> TestCluster {
    let tolerant = [("dfs.datanode.failed.volumes.tolerated", "-1")];
    let settings = [&tolerant[..], settings].concat();
    TestCluster::start_on(3, &settings, vec![vec![sick, good.data_dir()]])
}

fn good_dirs(cluster: &TestCluster, good: &LoopVolume) -> Vec<PathBuf> {
    vec![good.data_dir(), cluster.data_dir(1), cluster.data_dir(2)]
}

/// A fault that fails the volume, while writers and replicas are on it.
fn survives_the_loss(kind: FileSystem, fault: impl FnOnce(&LoopVolume)) {
    let (sick, good) = (LoopVolume::new(kind, 320), LoopVolume::new(FileSystem::Ext4, 64));
    let mut cluster = cluster_on(sick.data_dir(), &good, &[]);
    let mut work = Work::begin(&cluster);
    assert!(!block_files(&sick.data_dir()).is_empty(), "the test must hit something");
    fault(&sick);
    work.end();
    assert_one_volume_lost(&mut cluster, &work, &good);
}

pub fn assert_one_volume_lost(cluster: &mut TestCluster, work: &Work, good: &LoopVolume) {
    wait_for("the namenode knows of the failed volume", RECOVERED, || {
        (failed_storages(cluster, &work.client) == 1).then_some(())
    });
    let metrics = scrape(&cluster.datanode_http_address(0));
    assert_eq!(metrics["datanode_volume_failures"], 1);
    assert!(metrics["fs_dataset_state_capacity"] < 64 << 20, "the good volume's alone");
    work.wait_for_replicas(&good_dirs(cluster, good));
    cluster.check_children().unwrap();
}

#[test]
fn an_ext4_that_is_shut_down_costs_no_acknowledged_byte() {
    survives_the_loss(FileSystem::Ext4, LoopVolume::shut_down);
}

#[test]
fn an_xfs_that_is_shut_down_costs_no_acknowledged_byte() {
    survives_the_loss(FileSystem::Xfs, LoopVolume::shut_down);
}

#[test]
fn an_ext4_that_errs_and_goes_read_only_costs_no_acknowledged_byte() {
    survives_the_loss(FileSystem::Ext4, LoopVolume::err_to_read_only);
}

#[test]
fn a_volume_that_is_unmounted_costs_no_acknowledged_byte() {
    survives_the_loss(FileSystem::Ext4, LoopVolume::vanish);
}

#[test]
fn a_datanode_whose_only_volume_fails_says_why_it_ends() {
    let sick = LoopVolume::new(FileSystem::Ext4, 64);
    let mut cluster = TestCluster::start_on(3, &[], vec![vec![sick.data_dir()]]);
    let mut work = Work::begin(&cluster);
    sick.shut_down();
    work.end();
    let ended = wait_for("the datanode ends", RECOVERED, || cluster.check_children().err());
    let why = ended.to_string();
    assert!(why.contains("datanode0") && why.contains("1 of 1 volumes have failed"), "{why}");
    assert!(why.contains("dfs.datanode.failed.volumes.tolerated"), "{why}");
    work.wait_for_replicas(&[cluster.data_dir(1), cluster.data_dir(2)]);
}

#[test]
fn a_volume_that_is_full_in_the_middle_of_a_block_only_loses_the_block() {
    let (sick, good) =
        (LoopVolume::new(FileSystem::Ext4, 64), LoopVolume::new(FileSystem::Ext4, 64));
    // Blocks of their whole length have room from their first slab on; these are cut off before.
    let mut cluster = cluster_on(sick.data_dir(), &good, &[("dfs.blocksize", "1m")]);
    let mut work = Work::begin(&cluster);
    let written = |sick: &LoopVolume| !block_files(&sick.data_dir()).is_empty();
    assert!(written(&sick), "the test must hit something");
    sick.fill();
    good.fill();
    work.end();
    let all = [good_dirs(&cluster, &good), vec![sick.data_dir()]].concat();
    work.wait_for_replicas(&all);
    assert_eq!(failed_storages(&cluster, &work.client), 0, "a full disk is a good one");
    assert_eq!(scrape(&cluster.datanode_http_address(0))["datanode_volume_failures"], 0);
    cluster.check_children().unwrap();
}

#[test]
fn a_datanode_writes_to_all_of_its_disks() {
    let disks: Vec<LoopVolume> = (0..4).map(|_| LoopVolume::new(FileSystem::Ext4, 64)).collect();
    let dirs: Vec<PathBuf> = disks.iter().map(LoopVolume::data_dir).collect();
    let mut cluster = TestCluster::start_on(1, &[], vec![dirs.clone()]);
    let library = cluster.connect();
    // A volume may begin a sixteenth of its room behind, 4 blocks of each, and is then written last.
    let bytes = sample::bytes(31 * sample::BLOCK + 1);
    library.write("/spread", &bytes).unwrap();
    for dir in &dirs {
        assert!(!block_files(dir).is_empty(), "nothing on {}", dir.display());
    }
    drop(library);
    cluster.restart();
    assert!(cluster.connect().read("/spread").unwrap() == bytes);
}

#[test]
fn a_fuse_volume_that_errs_costs_no_acknowledged_byte() {
    let (sick, good) = (FuseVolume::new(), LoopVolume::new(FileSystem::Ext4, 64));
    let mut cluster = cluster_on(sick.data_dir(), &good, &[]);
    let mut work = Work::begin(&cluster);
    assert!(!block_files(&sick.behind()).is_empty(), "the test must hit something");
    sick.set(Fault::Erring);
    work.end();
    assert_one_volume_lost(&mut cluster, &work, &good);
}

#[test]
fn hdfs_17342_a_read_that_fails_once_costs_no_replica() {
    let sick = FuseVolume::new();
    let mut cluster = TestCluster::start_on(1, &[], vec![vec![sick.data_dir()]]);
    let (library, bytes) = (cluster.connect(), sample::bytes(sample::BLOCK));
    library.write("/once", &bytes).unwrap();
    sick.set(Fault::FailingReads(1));
    // Our client tries again; whether it does or not, the replica is good.
    let _ = library.read("/once");
    assert_eq!(sick.fault(), Fault::FailingReads(0), "the fault did not fire");
    wait_for("the scrubber has found it good", RECOVERED, || {
        let metrics = scrape(&cluster.datanode_http_address(0));
        assert_eq!(metrics["datanode_block_verification_failures"], 0);
        (metrics["datanode_blocks_verified"] > 0 && metrics["ringfs_volumes_suspect"] == 0)
            .then_some(())
    });
    assert!(library.read("/once").unwrap() == bytes);
    assert_eq!(failed_storages(&cluster, &library), 0);
    cluster.check_children().unwrap();
}

/// The device loses data in silence, and nobody reads: the scrubber finds out.
#[test]
fn rot_under_a_truncated_image_is_found_and_replaced_from_good_replicas() {
    const BLOCKS: usize = 16;
    let sick = LoopVolume::new(FileSystem::Ext4, 64);
    let fast = [("dfs.block.scanner.volume.bytes.per.second", "1g")];
    let mut cluster = TestCluster::start_on(3, &fast, vec![vec![sick.data_dir()]]);
    let (library, bytes) = (cluster.connect(), sample::bytes(BLOCKS * sample::BLOCK));
    library.run(async |client| {
        let options = CreateOptions {
            replication: Some(2),
            favored_nodes: vec![cluster.datanode_address(0)],
            ..CreateOptions::default()
        };
        let mut writer = client.create("/rotten", options).await.unwrap();
        writer.write_slice(&bytes).await.unwrap();
        writer.close().await.unwrap();
    });
    let data_files = || -> Vec<PathBuf> {
        let files = block_files(&sick.data_dir()).into_iter();
        files.filter(|file| file.extension().is_none()).collect()
    };
    assert_eq!(data_files().len(), BLOCKS);
    // A round that begins anew: the first one is over, and the next one due in three weeks.
    cluster.stop_datanode(0).unwrap();
    for pool in std::fs::read_dir(sick.data_dir().join("current")).unwrap().flatten() {
        let _ = std::fs::remove_file(pool.path().join("scanner.cursor"));
    }
    let rotten = sick.cut_image(&data_files());
    assert!(rotten >= 4, "the test must hit something");
    cluster.start_datanode(0).unwrap();
    cluster.wait_until_serving(3).unwrap();
    wait_for("all rot is found", RECOVERED, || {
        // The namenode has not noticed that it was away; it may not listen yet.
        std::net::TcpStream::connect(cluster.datanode_http_address(0)).ok()?;
        let metrics = scrape(&cluster.datanode_http_address(0));
        (metrics["datanode_block_verification_failures"] >= rotten).then_some(())
    });
    wait_for("good replicas have taken their place", RECOVERED, || {
        let is_whole = library.replica_ports("/rotten").iter().all(|ports| ports.len() == 2);
        (is_whole && data_files().len() + rotten as usize <= BLOCKS).then_some(())
    });
    assert!(library.read("/rotten").unwrap() == bytes);
    cluster.check_children().unwrap();
}

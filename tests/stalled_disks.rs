//! Disks that answer nothing, under datanodes at work: their streams end in bounded time, clients get on
//! with other datanodes, the other volumes of the datanode with their work, and heartbeats, start and
//! stop wait for nothing. Some 10 s a test.

use std::net::TcpStream;
use std::time::Duration;

use crate::cluster::disks::{FileSystem, LoopVolume};
use crate::cluster::fuse_volume::{Call, Fault, FuseVolume};
use crate::cluster::{TestCluster, block_files, sample, wait_for};
use crate::disk_faults::{RECOVERED, Work, assert_one_volume_lost, cluster_on, failed_storages};
use crate::metrics::scrape;

/// Shorter than a dead datanode's heartbeats may be late (4 s): it must not be taken for dead.
const GIVES_UP: (&str, &str) = ("ringfs.datanode.disk.operation.timeout", "2s");

fn good_volume() -> LoopVolume {
    LoopVolume::new(FileSystem::Ext4, 64)
}

fn metric(cluster: &TestCluster, name: &str) -> u64 {
    scrape(&cluster.datanode_http_address(0))[name]
}

fn wait_for_metric(cluster: &TestCluster, name: &str, is_due: impl Fn(u64) -> bool) {
    wait_for(name, RECOVERED, || is_due(metric(cluster, name)).then_some(()));
}

/// Times that the namenode has told its operator of a datanode's failed volume.
fn failures_told(cluster: &TestCluster) -> usize {
    let log = std::fs::read_to_string(cluster.logs_dir().join("namenode.log")).unwrap();
    log.lines().filter(|line| line.contains("a datanode has failed volumes")).count()
}

/// A stall at the next `call`, for ever: the work goes on, and the volume fails in the end.
fn survives_a_stall_at(call: Call, provoke: impl FnOnce(&mut Work)) {
    let (sick, good) = (FuseVolume::new(), good_volume());
    let fails = ("dfs.datanode.disk.check.timeout", "6s");
    let mut cluster = cluster_on(sick.data_dir(), &good, &[GIVES_UP, fails]);
    let _mended = sick.mended_at_end();
    let mut work = Work::begin(&cluster);
    assert!(!block_files(&sick.behind()).is_empty(), "the test must hit something");
    sick.set(Fault::StallingAt(call));
    provoke(&mut work);
    work.end();
    assert_eq!(sick.fault(), Fault::Stalling, "the test must hit something");
    assert_one_volume_lost(&mut cluster, &work, &good);
    let namenode = std::fs::read_to_string(cluster.logs_dir().join("namenode.log")).unwrap();
    assert!(!namenode.contains("a datanode is dead"), "its heartbeats were held up");
}

#[test]
fn a_volume_that_stalls_under_writes_holds_nobody_up() {
    survives_a_stall_at(Call::Write, |_| {});
}

#[test]
fn a_volume_that_stalls_under_reads_holds_nobody_up() {
    survives_a_stall_at(Call::Read, |work| {
        assert!(work.client.read("/before").unwrap() == work.bytes);
    });
}

#[test]
fn a_volume_that_stalls_under_hsync_holds_nobody_up() {
    survives_a_stall_at(Call::Sync, |work| {
        work.client.run(async |_| {
            for writer in &mut work.writers {
                writer.hsync().await.unwrap();
            }
        });
    });
}

#[test]
fn a_volume_that_stalls_as_a_block_is_finalized_holds_nobody_up() {
    survives_a_stall_at(Call::Rename, |_| {});
}

#[test]
fn a_volume_that_answers_again_is_written_to_again() {
    let (sick, good) = (FuseVolume::new(), good_volume());
    let mut cluster = cluster_on(sick.data_dir(), &good, &[GIVES_UP]);
    let _mended = sick.mended_at_end();
    let mut work = Work::begin(&cluster);
    sick.set(Fault::StallingAt(Call::Write));
    work.end();
    assert!(metric(&cluster, "ringfs_disk_operations_given_up_total") > 0);
    assert!(metric(&cluster, "ringfs_disk_operations_stuck") > 0);
    assert_eq!(metric(&cluster, "ringfs_volumes_stalled"), 1);
    sick.set(Fault::None);
    for name in ["ringfs_volumes_stalled", "ringfs_disk_operations_stuck", "ringfs_slabs_parked"] {
        wait_for_metric(&cluster, name, |value| value == 0);
    }
    wait_for_metric(&cluster, "ringfs_slabs_in_use", |value| value == 0);
    let before = block_files(&sick.behind()).len();
    let mut writer = work.create("/again");
    work.client.run(async |_| {
        writer.write_slice(&work.bytes).await.unwrap();
        writer.close().await.unwrap();
    });
    assert!(block_files(&sick.behind()).len() > before, "nothing was written to it again");
    work.read_all_back();
    assert_eq!(failed_storages(&cluster, &work.client), 0);
    // What was given up is sorted out by the next start.
    cluster.restart();
    cluster.wait_until_serving(3).unwrap();
    work.read_all_back();
}

/// Far more operations stuck than the kernel has workers for one ring, and none of them given up.
#[test]
fn many_stuck_operations_hold_up_no_other_volume() {
    let (sick, good) = (FuseVolume::new(), good_volume());
    let one_thread = ("ringfs.datanode.data.threads", "1");
    let dirs = vec![vec![sick.data_dir(), good.data_dir()]];
    let cluster = TestCluster::start_on(1, &[one_thread], dirs);
    let _mended = sick.mended_at_end();
    let library = cluster.connect();
    let work = Work::of(&cluster);
    // The kernel has four workers for each, and half of the blocks may go to the good volume.
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut writers: Vec<_> =
        (0..16 * cores).map(|i| work.create_with(&format!("/stuck{i}"), 1)).collect();
    library.run(async |_| {
        sick.set(Fault::Stalling);
        // Their blocks' files are to be created, which the workers do.
        for writer in &mut writers {
            writer.write_slice(&work.bytes[..1000]).await.unwrap();
            // The flush is not waited for: it comes when the disk does.
            let _ = tokio::time::timeout(Duration::from_millis(50), writer.hflush()).await;
        }
    });
    wait_for_metric(&cluster, "ringfs_volumes_stalled", |count| count == 1);
    let stuck = metric(&cluster, "ringfs_disk_operations_stuck");
    assert!(stuck > 5 * cores as u64, "{stuck} operations are stuck on {cores} cores");
    let mut writer = work.create_with("/meanwhile", 1);
    work.client.run(async |_| {
        writer.write_slice(&work.bytes[..sample::BLOCK]).await.unwrap();
        writer.hsync().await.unwrap();
        writer.close().await.unwrap();
    });
    assert!(library.read("/meanwhile").unwrap() == work.bytes[..sample::BLOCK]);
    assert_eq!(sick.fault(), Fault::Stalling);
}

#[test]
fn a_volume_that_stalls_at_start_is_a_failed_one() {
    let (sick, good) = (FuseVolume::new(), good_volume());
    let mut cluster = cluster_on(sick.data_dir(), &good, &[GIVES_UP]);
    let _mended = sick.mended_at_end();
    let mut work = Work::begin(&cluster);
    work.end();
    cluster.stop_datanode(0).unwrap();
    let faults = [Fault::Stalling, Fault::StallingAt(Call::List)];
    for (before, fault) in faults.into_iter().enumerate() {
        sick.set(fault);
        cluster.start_datanode(0).unwrap();
        wait_for("the namenode knows of the failed volume", RECOVERED, || {
            TcpStream::connect(cluster.datanode_http_address(0)).ok()?;
            (metric(&cluster, "datanode_volume_failures") == 1).then_some(())
        });
        wait_for("the namenode says so", RECOVERED, || {
            (failures_told(&cluster) > before).then_some(())
        });
        let mut writer = work.create("/meanwhile");
        work.client.run(async |client| {
            writer.write_slice(&work.bytes).await.unwrap();
            writer.close().await.unwrap();
            client.delete("/meanwhile", false).await.unwrap();
        });
        work.read_all_back();
        sick.set(Fault::None);
        cluster.stop_datanode(0).unwrap();
    }
    cluster.start_datanode(0).unwrap();
    wait_for("it serves both", RECOVERED, || {
        TcpStream::connect(cluster.datanode_http_address(0)).ok()?;
        (metric(&cluster, "datanode_volume_failures") == 0).then_some(())
    });
}

/// The kernel keeps the process as long as the disk has a thread of it; all else it lets go of.
#[test]
fn a_datanode_stops_in_time_whatever_its_disks_do() {
    let (sick, good) = (FuseVolume::new(), good_volume());
    let mut cluster = cluster_on(sick.data_dir(), &good, &[]);
    let _mended = sick.mended_at_end();
    let mut work = Work::begin(&cluster);
    sick.set(Fault::StallingAt(Call::Write));
    for writer in &mut work.writers {
        work.client.run(async |_| {
            writer.write_slice(&work.bytes[..5000]).await.unwrap();
            let _ = tokio::time::timeout(Duration::from_millis(200), writer.hflush()).await;
        });
    }
    assert_eq!(sick.fault(), Fault::Stalling);
    let pid = cluster.datanode_pid(0).unwrap();
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let log = cluster.logs_dir().join("datanode0.log");
    wait_for("the datanode stops", RECOVERED, || {
        std::fs::read_to_string(&log).unwrap().contains("stopped counters").then_some(())
    });
    for address in [cluster.datanode_address(0), cluster.datanode_ipc_address(0)] {
        assert!(TcpStream::connect(&address).is_err(), "{address} still listens");
    }
    assert!(!good.data_dir().join("in_use.lock").exists(), "the good volume is locked still");
    assert_eq!(sick.fault(), Fault::Stalling);
    sick.set(Fault::None);
    wait_for("the process is gone", RECOVERED, || cluster.check_children().err());
}

//! Nothing acknowledged is lost, whatever ends when.

use std::net::TcpListener;
use std::time::Duration;

use ringfs_client::CreateOptions;

use crate::cluster::java::JavaShell;
use crate::cluster::{Library, TestCluster, sample, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_restart_between_write_and_read_loses_nothing() {
    let mut cluster = TestCluster::start();
    let bytes = sample::bytes(2 * sample::BLOCK + 4_321);
    let library = cluster.connect();
    for len in [0, 1, 512, 65_537, sample::BLOCK, bytes.len()] {
        library.write(&format!("/kept/f{len}"), &bytes[..len]).unwrap();
    }
    cluster.dfs(&["-chmod", "600", "/kept/f1"]).succeeded();
    cluster.dfs(&["-mv", "/kept/f512", "/kept/renamed"]).succeeded();
    cluster.dfs(&["-rm", "-skipTrash", "/kept/f0"]).succeeded();
    let listing = cluster.dfs(&["-ls", "-R", "/"]).succeeded().text();
    drop(library);
    for _ in 0..2 {
        cluster.restart();
        assert_eq!(cluster.dfs(&["-ls", "-R", "/"]).succeeded().text(), listing);
        let library = cluster.connect();
        for (name, len) in
            [("f1", 1), ("renamed", 512), ("f65537", 65_537), ("f2101473", bytes.len())]
        {
            assert!(library.read(&format!("/kept/{name}")).unwrap() == bytes[..len], "{name}");
        }
    }
    cluster.connect().write("/kept/after", &bytes).unwrap();
}

/// Lengths at which the last chunk, packet or block is whole, begun, or nearly full.
const FLUSHED: [usize; 8] =
    [1, 511, 512, 513, 65_536, 70_001, sample::BLOCK, sample::BLOCK + 300_007];

#[test]
fn killed_datanodes_keep_every_byte_that_an_hflush_acknowledged() {
    let mut cluster = TestCluster::start();
    let bytes = sample::bytes(FLUSHED[FLUSHED.len() - 1]);
    let writing = cluster.connect();
    let mut writers = Vec::new();
    for len in FLUSHED {
        let writer = writing.run(async |client| {
            let path = format!("/flushed/{len}");
            let mut writer = client.create(&path, CreateOptions::default()).await.unwrap();
            // In two writes, so that a partial chunk was flushed before and grows.
            writer.write_slice(&bytes[..len / 2]).await.unwrap();
            writer.hflush().await.unwrap();
            writer.write_slice(&bytes[len / 2..len]).await.unwrap();
            writer.hflush().await.unwrap();
            writer
        });
        writers.push(writer);
    }
    cluster.kill_all_datanodes();
    // The writers end with their process: nobody recovers the pipelines.
    drop((writers, writing));
    start_datanodes(&mut cluster);
    let library = cluster.connect();
    for len in FLUSHED {
        recover(&library, &format!("/flushed/{len}"));
        let read = library.read(&format!("/flushed/{len}")).unwrap();
        assert!(read.len() >= len && read == bytes[..read.len()], "{len}: {} bytes", read.len());
    }
}

#[test]
fn killed_datanodes_keep_what_the_java_client_flushed() {
    let mut cluster = TestCluster::start();
    let bytes = sample::bytes(sample::BLOCK + 100_003);
    let local = cluster.write_scratch("bytes", &bytes);
    let mut java = JavaShell::start(&cluster.conf_dir(), &[], None);
    for (flush, len) in [("@hflush", 100_003), ("@hsync", 7), ("@hflush", bytes.len())] {
        let path = format!("/java/{len}");
        java.run_with_stdin(Some(&local), &[flush, &path, &len.to_string()]).succeeded();
    }
    cluster.kill_all_datanodes();
    java.kill();
    start_datanodes(&mut cluster);
    let library = cluster.connect();
    for len in [7, 100_003, bytes.len()] {
        recover(&library, &format!("/java/{len}"));
        assert!(library.read(&format!("/java/{len}")).unwrap() == bytes[..len], "{len}");
    }
}

/// The namenode is killed too, in the middle of a stream of small files: each that was closed is
/// there afterwards.
#[test]
fn a_killed_cluster_keeps_every_closed_file() {
    let mut cluster = TestCluster::start();
    let bytes = sample::bytes(3_000);
    let library = cluster.connect();
    let (closed, outcomes) = std::sync::mpsc::channel();
    let stopped = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0.. {
                if library.write(&format!("/small/{number}"), &bytes[..number % 3_000]).is_err() {
                    return number;
                }
                closed.send(number).unwrap();
            }
            unreachable!("the writer fails when the cluster is gone")
        });
        for _ in 0..50 {
            outcomes.recv_timeout(MINUTE).unwrap();
        }
        cluster.kill_namenode();
        cluster.kill_all_datanodes();
        writer.join().unwrap()
    });
    drop(library);
    cluster.start_all().unwrap();
    let library = cluster.connect();
    assert!(stopped >= 50);
    for number in 0..stopped {
        let path = format!("/small/{number}");
        assert!(library.read(&path).unwrap() == bytes[..number % 3_000], "{path} of {stopped}");
    }
}

/// Clearing the namespace quota of `/` spoilt what Apache saved of the namespace next. Here are no quotas,
/// and whoever sets or clears one is told so.
#[test]
fn hdfs_1258_clearing_the_roots_quota_costs_no_file() {
    const CLEARED: &str = "-1";
    const AS_IT_IS: &str = "9223372036854775807";
    let mut cluster = TestCluster::start();
    let mut java = JavaShell::start(&cluster.conf_dir(), &[], None);
    let bytes = sample::bytes(30_000);
    let quotas = [(CLEARED, AS_IT_IS), (AS_IT_IS, CLEARED), (CLEARED, CLEARED), ("1", "1")];
    let library = cluster.connect();
    library.write("/0", &bytes).unwrap();
    for (number, (namespace, space)) in quotas.into_iter().enumerate() {
        let refused = java.run(&["@setQuota", "/", namespace, space]);
        assert!(refused.exit != 0 && refused.err.contains("setQuota"), "{}", refused.err);
        library.write(&format!("/{}", number + 1), &bytes).unwrap();
    }
    drop(library);
    java.kill();
    cluster.kill_namenode();
    cluster.kill_all_datanodes();
    cluster.start_all().unwrap();
    for _ in 0..2 {
        let library = cluster.connect();
        for number in 0..=quotas.len() {
            assert!(library.read(&format!("/{number}")).unwrap() == bytes, "/{number}");
        }
        drop(library);
        cluster.restart();
    }
}

/// The kernel closes the ports of a killed datanode a little after the process: a start waits for them.
#[test]
fn a_datanode_starts_although_its_port_is_held_a_moment_longer() {
    let mut cluster = TestCluster::start_with(1, &[]);
    let library = cluster.connect();
    library.write("/f", b"kept").unwrap();
    cluster.kill_datanode(0);
    let port = wait_for("the port of the killed datanode", MINUTE, || {
        TcpListener::bind(cluster.datanode_address(0)).ok()
    });
    cluster.start_datanode(0).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    drop(port);
    wait_for("the datanode serves again", MINUTE, || {
        library.read("/f").is_ok_and(|read| read == b"kept").then_some(())
    });
}

fn start_datanodes(cluster: &mut TestCluster) {
    for index in 0..cluster.datanode_count() {
        cluster.start_datanode(index).unwrap();
    }
}

/// Takes the lease of a writer that is gone; returns once the file is closed.
fn recover(library: &Library, path: &str) {
    wait_for(&format!("{path} closed"), MINUTE, || {
        library.run(async |client| client.recover_lease(path).await).unwrap_or(false).then_some(())
    });
}

//! `kill -9` and SIGSTOP of every process at every stage of a write, by each of three clients.
//!
//! A case is a client, a replication, a stage, a victim and a signal. The oracle is the sample: what
//! an hflush or a close acknowledged is read back, a write that some datanode of its pipeline survives
//! succeeds, and in the end every replica on every disk is what was written.
//!
//! Every run takes cases in which each pair of two properties occurs, some 40 of a second or two; all of
//! them, 588, are taken with RINGFS_ALL_FAILURES=1 (about an hour and a half: Hadoop's client takes 16 s and
//! hdfs-native 60 s to notice a silent first datanode), and those whose name contains a text with
//! RINGFS_FAILURE, such as RINGFS_FAILURE=Java/3/Closing.

mod case;
mod site;
mod writer;

use std::time::Duration;

use crate::cluster::{TestCluster, processes, sample, wait_for};
use case::{Case, Stage, Victim};
use site::Site;
use writer::Kind;

/// Short patience, so that a case takes a second or two. Hadoop's client and the command line read
/// these from the cluster's configuration, hdfs-native is handed them.
pub const SETTINGS: [(&str, &str); 12] = [
    ("dfs.client.socket-timeout", "1500"),
    ("ringfs.pipeline.timeout.per-datanode", "500"),
    ("dfs.client.block.write.replace-datanode-on-failure.best-effort", "true"),
    ("dfs.client.retry.policy.enabled", "true"),
    ("dfs.client.retry.policy.spec", "300,40"),
    ("ipc.client.connect.retry.interval", "300"),
    ("ipc.client.connect.max.retries", "40"),
    ("dfs.client.block.write.locateFollowingBlock.initial.delay.ms", "100"),
    ("dfs.client.block.write.locateFollowingBlock.retries", "8"),
    ("dfs.client.max.block.acquire.failures", "6"),
    ("dfs.client.retry.window.base", "300"),
    // A copy on its way to a datanode that the next case kills is ordered again in time for the last look.
    ("dfs.namenode.reconstruction.pending.timeout-sec", "5"),
];

#[test]
fn our_client_writes_through_failures() {
    run_cases(Kind::Ours);
}

#[test]
fn the_java_client_writes_through_failures() {
    run_cases(Kind::Java);
}

#[test]
fn hdfs_native_writes_through_failures() {
    run_cases(Kind::HdfsNative);
}

#[test]
fn the_chosen_cases_cover_what_they_should() {
    let chosen = case::chosen();
    for kind in [Kind::Ours, Kind::Java, Kind::HdfsNative] {
        let of_kind: Vec<&Case> = chosen.iter().filter(|case| case.kind == kind).collect();
        for stage in Stage::ALL {
            assert!(of_kind.iter().any(|case| case.stage == stage), "{kind:?} at {stage:?}");
        }
        for victim in Victim::ALL {
            assert!(of_kind.iter().any(|case| case.victim == victim), "{kind:?}, {victim:?}");
        }
        for replication in 1..=3 {
            let covered = of_kind.iter().any(|case| case.replication == replication);
            assert!(covered, "{kind:?} at replication {replication}");
        }
    }
    assert!(chosen.len() < 90, "{} cases take too long", chosen.len());
}

fn run_cases(kind: Kind) {
    let all = std::env::var_os("RINGFS_ALL_FAILURES").is_some();
    let wanted = std::env::var("RINGFS_FAILURE").unwrap_or_default();
    let cases = if all || !wanted.is_empty() { case::all() } else { case::chosen() };
    let mut site = Site::start(kind);
    let mut failures = Vec::new();
    for case in cases.into_iter().filter(|case| case.kind == kind) {
        if !wanted.is_empty() && !case.to_string().contains(&wanted) {
            continue;
        }
        let started = std::time::Instant::now();
        let outcome = site.run(&case);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(how) => eprintln!("{case}: {how}, {seconds:.1} s"),
            Err(why) => {
                eprintln!("{case}: FAILED: {why}, {seconds:.1} s\n{}", site.last_logs());
                failures.push(format!("{case}: {why}"));
                site = Site::start(kind);
            }
        }
    }
    if let Err(why) = site.check_all_replicas() {
        failures.push(why);
    }
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
}

/// An append whose datanodes die one after the other, each a while after the last: replacements keep
/// what was acknowledged on enough of them.
#[test]
fn hdfs_16146_datanodes_die_one_after_another_under_an_append() {
    let mut cluster = TestCluster::start_with(6, &SETTINGS);
    let library = cluster.connect();
    let bytes = sample::bytes(1_000_003);
    library.write("/f", &bytes[..300_001]).unwrap();
    let mut writer = library.run(async |client| client.append("/f").await.unwrap());
    let mut written = 300_001;
    let own = std::process::id();
    for round in 0..3 {
        let next = written + 200_000;
        library.run(async |_| {
            writer.write_slice(&bytes[written..next]).await.unwrap();
            writer.hflush().await.unwrap();
        });
        written = next;
        let ports = processes::connected_ports(own);
        let is_member = |index: &usize| {
            let address = cluster.datanode_address(*index);
            cluster.datanode_pid(*index).is_some()
                && ports.iter().any(|port| address.ends_with(&format!(":{port}")))
        };
        let first = (0..6).find(is_member).unwrap_or_else(|| panic!("round {round}: no pipeline"));
        cluster.kill_datanode(first);
        std::thread::sleep(Duration::from_millis(700));
    }
    library.run(async |_| {
        writer.write_slice(&bytes[written..]).await.unwrap();
        writer.close().await.unwrap();
    });
    assert!(library.read("/f").unwrap() == bytes);
    wait_for("three replicas again", Duration::from_secs(30), || {
        (library.replica_ports("/f")[0].len() == 3).then_some(())
    });
}

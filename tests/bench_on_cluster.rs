//! `ringfs bench dfsio` and `ringfs bench namenode`, small, on a cluster: the counts in the JSON, the
//! lines that scripts read, and a name space that is as it was before.

use std::process::{Command, Stdio};

use ringfs_client::FileStatus;
use serde_json::Value;

use crate::cluster::{BINARY, Outcome, TestCluster};

/// Runs `ringfs bench` quietly; returns what it printed, and its JSON.
fn bench(cluster: &TestCluster, arguments: &[&str]) -> (String, Value) {
    let json = cluster.scratch("bench.json");
    let outcome = start(cluster, &[arguments, &["--json", json.to_str().unwrap()]].concat());
    let report = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    (outcome.succeeded().text(), report)
}

fn start(cluster: &TestCluster, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(BINARY);
    command.arg("bench").args(arguments).args(["--runs", "1", "--quiet"]);
    command.env("HADOOP_CONF_DIR", cluster.conf_dir()).stdin(Stdio::null());
    Outcome::of(command.output().unwrap())
}

fn names_in_root(cluster: &TestCluster) -> Vec<String> {
    let root = cluster.connect().run(async |client| client.list("/").await.unwrap());
    root.iter().map(FileStatus::name).map(str::to_owned).collect()
}

fn run(report: &Value) -> &Value {
    let measurement = &report["measurements"][0];
    assert_eq!(measurement["side"], "ours");
    assert_eq!(measurement["runs"].as_array().unwrap().len(), 1);
    &measurement["runs"][0]
}

fn processes(run: &Value) -> Vec<&str> {
    let cpu = run["cpu"].as_array().unwrap().iter();
    cpu.map(|process| process["process"].as_str().unwrap()).collect()
}

#[test]
fn dfsio_moves_every_byte_and_leaves_nothing() {
    let cluster = TestCluster::start();
    let size = ["--files", "2", "--file-size", "2500k", "--replication", "2", "--verify"];
    for mode in ["write", "append", "read"] {
        let (printed, report) = bench(&cluster, &[&["dfsio", "--mode", mode], &size[..]].concat());
        let run = run(&report);
        assert_eq!(run["bytes"], 2 * 2500 * 1024, "{mode}");
        assert!(run["elapsed_s"].as_f64().unwrap() > 0.0);
        assert_eq!(processes(run), ["client", "namenode", "datanode0", "datanode1", "datanode2"]);
        for line in [
            &format!("----- TestDFSIO ----- : {mode}\n            Date & time: "),
            "\n        Number of files: 2\n Total MBytes processed: 4.88\n      Throughput mb/sec: ",
            "\n Average IO rate mb/sec: ",
            "\n  IO rate std deviation: ",
            "\n     Test exec time sec: ",
            "\n   Aggregate throughput: ",
        ] {
            assert!(printed.contains(line), "{mode}: no {line:?} in {printed}");
        }
    }
    assert_eq!(names_in_root(&cluster), Vec::<String>::new());
}

#[test]
fn dfsio_counts_reads_at_random_positions_and_small_files() {
    let cluster = TestCluster::start();
    let (_, report) = bench(
        &cluster,
        &["dfsio", "--mode", "pread", "--file-size", "3m", "--clients", "3", "--operations", "200"]
            .map(|word| word),
    );
    let pread = run(&report);
    assert_eq!((&pread["operations"], &pread["bytes"]), (&200.into(), &(200 * 4096).into()));
    assert_eq!(pread["latency"]["histogram_us"]["count"], 200);
    let (_, report) =
        bench(&cluster, &["dfsio", "--mode", "small", "--clients", "4", "--operations", "50"]);
    let small = run(&report);
    assert_eq!((&small["operations"], &small["bytes"]), (&50.into(), &(50 * 10_240).into()));
    assert_eq!(small["latency"]["histogram_us"]["count"], 50);
    assert_eq!(names_in_root(&cluster), Vec::<String>::new());
}

#[test]
fn dfsio_keeps_its_files_when_asked() {
    let cluster = TestCluster::start();
    let kept = ["dfsio", "--file-size", "1500k", "--dir", "/kept/here", "--keep"];
    bench(&cluster, &kept);
    let library = cluster.connect();
    let directory = library.run(async |client| client.list("/kept/here").await.unwrap());
    assert_eq!(directory.len(), 1);
    let files = library.run(async |client| client.list(&directory[0].path).await.unwrap());
    assert_eq!(files.iter().map(|file| file.len).collect::<Vec<_>>(), [1500 * 1024]);
}

#[test]
fn namenode_does_every_operation_as_often_as_asked() {
    let cluster = TestCluster::start();
    let (_, report) = bench(
        &cluster,
        &["namenode", "-op", "all", "-threads", "8", "-files", "100", "-filesPerDir", "10"]
            .into_iter()
            .chain(["-datanodes", "2", "-reports", "6", "-blocksPerReport", "25"])
            .collect::<Vec<_>>(),
    );
    let measurements = report["measurements"].as_array().unwrap();
    let counted: Vec<(&str, u64)> = measurements
        .iter()
        .map(|measurement| {
            let run = &measurement["runs"][0];
            let operations = run["operations"].as_u64().unwrap();
            let latency = &run["latency"];
            assert_eq!(latency["histogram_us"]["count"], operations);
            assert!(run["counters"]["namenode_cpu_s_per_1000_operations"].is_f64());
            (measurement["name"].as_str().unwrap(), operations)
        })
        .collect();
    let hundred =
        ["create", "open", "fileStatus", "mkdirs", "rename", "delete"].map(|op| (op, 100));
    assert_eq!(counted[..6], hundred);
    assert_eq!(counted[6..], [("mix", 100), ("blockReport", 6)]);
    assert_eq!(names_in_root(&cluster), Vec::<String>::new());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let cluster = TestCluster::start();
    for (arguments, why) in [
        (
            ["dfsio", "--mode", "pread", "--size", "17m"],
            "--size 17825792 is not from 1 to 16777216",
        ),
        (["dfsio", "--mode", "write", "--buffer", "0"], "--buffer 0 is not from 1 to 16777216"),
        (["dfsio", "--mode", "write", "--dir", "here"], "\"here\" is not an absolute directory"),
    ] {
        let outcome = start(&cluster, &arguments);
        assert_eq!(outcome.exit, 2, "{arguments:?}: {}", outcome.err);
        assert!(outcome.err.contains(why), "{}", outcome.err);
    }
}

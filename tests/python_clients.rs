//! Clients that others wrote in Python, and Spark, on a cluster of ours.

use std::process::Command;

use crate::cluster::{Outcome, TestCluster, prerequisites, sample};

#[test]
fn snakebite_lists_and_reads() {
    let cluster = TestCluster::start();
    cluster.dfs(&["-mkdir", "-p", "/s"]).succeeded();
    let locals = local_files(&cluster);
    let mut put = vec!["-put"];
    put.extend(locals.iter().map(String::as_str));
    put.push("/s");
    cluster.dfs(&put).succeeded();
    let address = cluster.namenode_address();
    let (host, port) = address.split_once(':').unwrap();
    let mut arguments = vec![host, port, "/s"];
    arguments.extend(locals.iter().map(String::as_str));
    let said = python("snakebite_reads.py", &arguments).succeeded().text();
    assert_eq!(said, format!("compared {}\n", locals.len()));
}

#[test]
fn the_hdfs_native_wheel_writes_and_reads() {
    let cluster = TestCluster::start();
    let (locals, uri) = (local_files(&cluster), cluster.uri());
    let mut arguments = vec![uri.as_str(), "/native"];
    arguments.extend(locals.iter().map(String::as_str));
    let said = python("hdfs_native_round_trip.py", &arguments).succeeded().text();
    assert_eq!(said, format!("compared {}\n", locals.len()));
}

#[test]
fn spark_writes_and_reads_parquet() {
    // Parquet files of this job are larger than a block: Spark reads them in splits.
    let cluster = TestCluster::start();
    let said = python("spark_parquet.py", &[&cluster.uri(), "100000"]).succeeded().text();
    assert!(said.ends_with("rows 100000\n"), "{said}");
    let listing = cluster.dfs(&["-ls", "-C", "/spark/table"]).succeeded().text();
    assert!(listing.contains("/spark/table/_SUCCESS"), "{listing}");
    assert!(!listing.contains("_temporary"), "the job's commit cleaned up: {listing}");
}

fn python(script: &str, arguments: &[&str]) -> Outcome {
    let script = format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(prerequisites::python());
    command.arg(script).args(arguments);
    command.env("PYSPARK_PYTHON", prerequisites::python()).env("SPARK_LOCAL_IP", "127.0.0.1");
    Outcome::of(command.output().unwrap())
}

fn local_files(cluster: &TestCluster) -> Vec<String> {
    let bytes = sample::bytes(2 * sample::BLOCK + 12_345);
    [1, 511, 512, 513, 65_536, 200_000, sample::BLOCK, bytes.len()]
        .map(|len| cluster.write_scratch(&format!("f{len}"), &bytes[..len]).display().to_string())
        .into()
}

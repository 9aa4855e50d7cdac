//! `ringfs bench pipeline` against a real cluster: all bytes counted, every packet's latency taken.

use std::process::Command;

use serde_json::Value;

use crate::cluster::{BINARY, Outcome, TestCluster};

/// 16 packets of 126 chunks and the rest of the block, twice.
const BLOCK_BYTES: u64 = 16 * 64_512 + 24_576;
const BYTES: u64 = 2 * BLOCK_BYTES;
const PACKETS: u64 = 2 * 17;

/// One run with `arguments`; its figures.
fn run(cluster: &TestCluster, arguments: &[&str]) -> Value {
    let json = cluster.scratch("pipeline.json");
    let (block_size, bytes) = (BLOCK_BYTES.to_string(), BYTES.to_string());
    let mut command = Command::new(BINARY);
    command.args(["bench", "pipeline", "--fs", &cluster.uri(), "--runs", "1", "--quiet"]);
    command.args(["--block-size", &block_size, "--bytes", &bytes, "--json"]).arg(&json);
    Outcome::of(command.args(arguments).output().unwrap()).succeeded();
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let measurement = &report["measurements"][0];
    assert_eq!(measurement["side"], "ours");
    measurement["runs"][0].clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[test]
fn a_thousand_idle_writers_take_little_memory_and_no_thread() {
    let cluster = TestCluster::start();
    let http = cluster.datanode_http_address(0);
    let idle = ["--replication", "1", "--idle-writers", "1000", "--metrics", &http];
    let written = run(&cluster, &idle);
    let counters = &written["counters"];
    assert_eq!(number(&counters["idle_writers_new_threads"]), 0.0);
    // Without optimisation futures are several times as large: 87 KiB where a release has 23. A slab kept
    // for each would be 1,024.
    let resident_kib = number(&counters["idle_writer_resident_kib"]);
    assert!(resident_kib <= 128.0, "{resident_kib} KiB resident for each");
}

#[test]
fn writes_reads_and_keeps_to_a_plan() {
    let cluster = TestCluster::start();
    let http = cluster.datanode_http_address(0);

    let written = run(&cluster, &["--streams", "2", "--idle-writers", "3", "--metrics", &http]);
    assert_eq!(written["bytes"], 2 * BYTES);
    assert_eq!(written["operations"], 2 * PACKETS);
    assert_eq!(written["latency"]["histogram_us"]["count"], 2 * PACKETS);
    let counters = &written["counters"];
    assert_eq!(number(&counters["ringfs_payload_bytes_copied_total"]), 0.0);
    assert_eq!(number(&counters["datanode_bytes_written"]), 2.0 * BYTES as f64);
    assert_eq!(number(&counters["idle_writers_new_threads"]), 0.0);
    assert!(number(&counters["slowest_stream_to_mean"]) <= 1.0);
    let processes = written["cpu"].as_array().unwrap();
    let has = |name| processes.iter().any(|process| process["process"] == name);
    assert!(has("client") && has("datanode0") && has("datanode2"), "{processes:?}");

    let synced = run(&cluster, &["--durability", "hsync", "--replication", "1"]);
    assert_eq!(synced["latency"]["histogram_us"]["count"], PACKETS);

    let planned = run(&cluster, &["--rate", "10MB"]);
    assert_eq!(planned["bytes"], BYTES);
    assert_eq!(planned["latency"]["histogram_us"]["count"], PACKETS);
    // All but the last packet are due by then.
    let due_s = (BYTES - 64_512) as f64 / 10e6;
    assert!(number(&planned["elapsed_s"]) >= due_s, "{planned}");

    let read = run(&cluster, &["--mode", "read", "--streams", "2"]);
    assert_eq!((&read["bytes"], &read["operations"]), (&(2 * BYTES).into(), &4.into()));
    assert_eq!(read["latency"]["histogram_us"]["count"], 4);
    let ranges = run(&cluster, &["--mode", "read", "--read-size", "4k", "--rate", "100MB"]);
    let reads = 2 * BLOCK_BYTES.div_ceil(4096);
    assert_eq!((&ranges["bytes"], &ranges["operations"]), (&BYTES.into(), &reads.into()));
    assert_eq!(ranges["latency"]["histogram_us"]["count"], reads);

    assert_eq!(cluster.dfs(&["-ls", "/"]).succeeded().text(), "");
}

#[test]
fn datanodes_take_blocks_that_no_namenode_gave() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    library.write("/kept", b"kept").unwrap();
    let pool = library.run(async |client| {
        let located = client.block_locations("/kept", 0, 1).await.unwrap();
        located[0].block.pool_id.clone()
    });
    let datanodes = [0, 1, 2].map(|index| cluster.datanode_address(index)).join(",");
    let written =
        run(&cluster, &["--datanodes", &datanodes, "--pool", &pool, "--replication", "2"]);
    assert_eq!(written["latency"]["histogram_us"]["count"], PACKETS);
    assert_eq!(library.read("/kept").unwrap(), b"kept");

    let wrong = ["bench", "pipeline", "--datanodes", &datanodes, "--pool", "BP-no", "--runs", "1"];
    let refused = Outcome::of(Command::new(BINARY).args(wrong).output().unwrap());
    assert_eq!(refused.exit, 1, "{}", refused.err);
    assert!(refused.err.contains("refuses WRITE_BLOCK of BP-no"), "{}", refused.err);
    let unknown = ["bench", "pipeline", "--fs", &cluster.uri(), "--datanodes", "127.0.0.1:1"];
    let refused = Outcome::of(Command::new(BINARY).args(unknown).output().unwrap());
    assert!(refused.err.contains("no live datanode 127.0.0.1:1"), "{}", refused.err);
}

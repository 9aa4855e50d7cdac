//! `ringfs bench goal`, small: every figure and verdict in the JSON, nothing left behind. Whether a
//! goal is met is not looked at: these runs are too short to say.

use std::path::Path;
use std::process::Command;

use ringfs_datanode::domain_socket::check_directories;
use serde_json::Value;

use crate::cluster::{BINARY, Outcome, TestCluster, temporary_directory};

fn goal(directory: &Path, arguments: &[&str]) -> (Outcome, Value) {
    let json = directory.join("goal.json");
    let mut command = Command::new(BINARY);
    command.args(["bench", "goal", "--runs", "1", "--quiet", "--bytes", "24m"]).args(arguments);
    command.args(["--directory", directory.to_str().unwrap(), "--json", json.to_str().unwrap()]);
    let outcome = Outcome::of(command.output().unwrap());
    let report = std::fs::read(&json).ok();
    let report = report.map_or(Value::Null, |report| serde_json::from_slice(&report).unwrap());
    // Whatever the clusters kept is gone.
    let left = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| name == "goal.json"), "{}", outcome.err);
    (outcome, report)
}

fn verdicts(report: &Value) -> Vec<(&str, f64)> {
    let verdicts = report["verdicts"].as_array().unwrap().iter();
    verdicts.map(|v| (v["goal"].as_str().unwrap(), v["figure"].as_f64().unwrap())).collect()
}

#[test]
fn writing_is_held_against_the_floor() {
    let directory = temporary_directory();
    let (outcome, report) = goal(directory.path(), &["write-1"]);
    let printed = outcome.succeeded().text();
    assert!(printed.contains("datanodes to floor, GB/s"), "{printed}");
    let sides: Vec<&str> = report["measurements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|measurement| measurement["side"].as_str().unwrap())
        .collect();
    assert_eq!(sides, ["limit", "ours", "limit", "ours"]);
    let verdicts = verdicts(&report);
    assert_eq!(verdicts.len(), 2);
    assert!(verdicts.iter().all(|(goal, figure)| *goal == "write-1" && *figure > 0.0));
}

#[test]
fn a_peer_takes_turns_and_its_java_client_too() {
    let peer = TestCluster::start();
    let directory = temporary_directory();
    let uri = peer.uri();
    let (outcome, report) = goal(directory.path(), &["pread-4k", "--peer", &uri]);
    outcome.succeeded();
    let socket = directory.path().join("pread-4k/dn._PORT");
    let is_fit = check_directories(directory.path()).is_ok() && socket.as_os_str().len() <= 107;
    assert_eq!(verdicts(&report).len(), 1 + usize::from(is_fit), "over TCP and short-circuit");
    let java = "echo '{\"mb\":{mb},\"s\":2,\"cpu_s\":{\"datanode0\":1}}' # {mode} {uri} {pids}";
    let arguments = ["java-read", "--peer", &uri, "--java-bench", java];
    let (outcome, report) = goal(directory.path(), &arguments);
    outcome.succeeded();
    let figures: Vec<f64> = verdicts(&report).iter().map(|(_, figure)| *figure).collect();
    assert_eq!(figures, [24.0 * f64::from(1 << 20) / 1e9 / 2.0, 1024.0 / 24.0]);
    assert_eq!(peer.connect().run(async |client| client.list("/").await.unwrap()).len(), 0);
}

#[test]
fn a_missed_goal_fails_a_check_and_a_missing_peer_is_named() {
    let directory = temporary_directory();
    // Without direct I/O, all that is written is in the cache.
    let buffered = ["page-cache", "--check", "-D", "ringfs.datanode.direct-io=false"];
    let (outcome, report) = goal(directory.path(), &buffered);
    assert_eq!(outcome.exit, 1, "{}", outcome.err);
    assert!(outcome.err.contains("goals missed: page-cache"), "{}", outcome.err);
    assert_eq!(report["verdicts"][0]["met"], false);
    let (outcome, _) = goal(directory.path(), &["small-files"]);
    assert_eq!(outcome.exit, 2, "{}", outcome.err);
    assert!(outcome.err.contains("small-files needs --peer"), "{}", outcome.err);
}

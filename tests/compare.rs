//! `ringfs bench compare` against commands whose figures are known: its verdicts, its exit codes, and
//! what it writes. No figure here is a time.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cluster::{BINARY, Outcome};

fn compare(arguments: &[&str]) -> Outcome {
    let mut words = vec!["bench", "compare", "--quiet", "--warm-up", "0"];
    words.extend(arguments);
    Outcome::of(Command::new(BINARY).args(words).stdin(Stdio::null()).output().unwrap())
}

/// Prints the numbers in turn, one a run.
fn in_turn(directory: &Path, numbers: &str) -> String {
    let count = directory.join("count").display().to_string();
    format!(
        "n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) > {count}; \
         set -- {numbers}; shift $((n % $#)); echo \"$1\""
    )
}

#[test]
fn tells_better_from_worse_and_bounds_a_regression() {
    let figure = ["--figure", r"(\d+)", "--runs", "3"];
    for (a, b, more, exit, words) in [
        ("echo 10", "echo 12", &[][..], 0, "B is better than A by 20.0 %"),
        ("echo 10", "echo 10", &["--max-regression", "0%"], 0, "A and B are equal"),
        ("echo 100", "echo 98", &["--max-regression", "3%"], 0, "B is worse than A by 2.0 %"),
        ("echo 100", "echo 90", &["--max-regression", "3%"], 3, "The bound is 3.0 %"),
        ("echo 100", "echo 90", &["--max-regression", "3%", "--lower-is-better"], 0, "better"),
        ("echo 90", "echo 100", &["--max-regression", "3%", "--lower-is-better"], 3, "worse"),
    ] {
        let outcome = compare(&[&["--a", a, "--b", b], &figure[..], more].concat());
        assert_eq!(outcome.exit, exit, "{a}, {b}: {}", outcome.err);
        assert!(outcome.text().contains(words), "{a}, {b}: {}", outcome.text());
    }
}

#[test]
fn refuses_a_verdict_in_noise() {
    let directory = tempfile::tempdir().unwrap();
    let noisy = in_turn(directory.path(), "10 20 30 10 40 20 10");
    let outcome = compare(&[
        "--a",
        &noisy,
        "--b",
        "echo 19",
        "--figure",
        r"(\d+)",
        "--runs",
        "5",
        "--max-regression",
        "3%",
    ]);
    assert_eq!(outcome.exit, 4, "{} {}", outcome.text(), outcome.err);
    assert!(outcome.err.contains("No verdict: A differs from itself"), "{}", outcome.err);
    assert!(outcome.text().contains("No verdict"), "{}", outcome.text());
}

#[test]
fn runs_the_sides_in_turns() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let says = |name: &str| format!("printf {name} >> {}; echo 1", log.display());
    let (a, b) = (says("a"), says("b"));
    let outcome = compare(&["--a", &a, "--b", &b, "--figure", "(.)", "--runs", "4"]);
    assert_eq!(outcome.exit, 0, "{}", outcome.err);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "aaaaaaaaabbaabba");
}

#[test]
fn takes_json_lines_with_their_cost_and_writes_both_reports() {
    let directory = tempfile::tempdir().unwrap();
    let (json, html) = (directory.path().join("r.json"), directory.path().join("r.html"));
    let line = |mb_s: u32| {
        format!(r#"echo '{{"op":"write","mb":1024,"s":2.0,"mb_s":{mb_s},"cpu_s":{{"dn0":1.5}}}}'"#)
    };
    let a = format!("{}; {}; {}", line(500), line(900), line(600));
    let outcome = compare(&[
        "--a",
        &a,
        "--b",
        "echo speed 0.9 GB/s",
        "--key-a",
        "mb_s",
        "--scale-a",
        "0.001",
        "--figure-b",
        "speed ([0-9.]+)",
        "--runs",
        "3",
        "--json",
        json.to_str().unwrap(),
        "--html",
        html.to_str().unwrap(),
    ]);
    assert_eq!(outcome.exit, 0, "{}", outcome.err);
    assert!(outcome.text().contains("B is better than A by 50.0 %"), "{}", outcome.text());
    assert!(outcome.text().contains("dn0 1.50"), "{}", outcome.text());
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let run = &report["measurements"][0]["runs"][0];
    assert_eq!(
        (run["bytes"].as_u64(), run["cpu"][0]["cpu_s"].as_f64()),
        (Some(3 << 30), Some(4.5))
    );
    assert_eq!(report["measurements"].as_array().unwrap().len(), 4);
    assert!(std::fs::read_to_string(html).unwrap().contains("</html>"));
}

#[test]
fn a_bench_on_either_side_is_taken_by_its_report() {
    let directory = tempfile::tempdir().unwrap();
    let report = r#"{"measurements":[{"group":"g","name":"write","runs":[
        {"bytes":2000000000,"operations":0,"elapsed_s":1.0,"cpu":[{"process":"client","cpu_s":0.5}]}]}]}"#;
    let path = directory.path().join("report");
    std::fs::write(&path, report).unwrap();
    let bench = format!("cp {} \"$RINGFS_BENCH_JSON\"", path.display());
    let outcome = compare(&["--a", &bench, "--b", &bench, "--runs", "3"]);
    assert_eq!(outcome.exit, 0, "{}", outcome.err);
    assert!(outcome.text().contains("gb_per_s: B is 1.000 of A"), "{}", outcome.text());
    assert!(outcome.text().contains("client 0.268"), "{}", outcome.text());
    let mixed = compare(&["--a", &bench, "--b", "true", "--runs", "3"]);
    assert_eq!(mixed.exit, 1, "{}", mixed.err);
    assert!(mixed.err.contains("A's figure is gb_per_s, B's is elapsed_s"), "{}", mixed.err);
}

#[test]
fn says_what_is_wrong() {
    for (arguments, exit, words) in [
        (&["--a", "true"][..], 2, "--b"),
        (&[], 2, "--a"),
        (&["--a", "true", "--b", "true", "--runs", "2"], 2, "too few"),
        (&["--a", "true", "--b", "true", "--figure", r"\d+"], 2, "no group"),
        (&["--a", "true", "--b", "true", "--figure", "("], 2, "regex"),
        (&["--a", "true", "--b", "true", "--max-regression", "much"], 2, "3%"),
        (&["--a", "true", "--b", "true", "--process", "dn"], 2, "NAME=PID"),
        (&["--cluster-a", "hdfs://a:1", "--cluster-b", "hdfs://b:1"], 2, "BENCH"),
        (&["--a", "true", "--b", "exit 9", "--elapsed", "--runs", "3"], 1, "side B"),
        (&["--a", "echo x", "--b", "echo x", "--figure", r"(\d)"], 1, "nothing that matches"),
        (&["--a", "echo 0", "--b", "echo 1", "--figure", r"(\d)"], 1, "above zero"),
    ] {
        let outcome = compare(arguments);
        assert_eq!(outcome.exit, exit, "{arguments:?}: {}", outcome.err);
        assert!(outcome.err.contains(words), "{arguments:?}: {}", outcome.err);
    }
}

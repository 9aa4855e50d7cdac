//! The binary's own commands.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::cluster::{BINARY, Outcome, temporary_directory, wait_for};

const SOON: Duration = Duration::from_secs(20);

fn ringfs(arguments: &[&str]) -> Outcome {
    Outcome::of(Command::new(BINARY).args(arguments).stdin(Stdio::null()).output().unwrap())
}

#[test]
fn help_and_version_everywhere() {
    let version = format!("ringfs {}\n", env!("CARGO_PKG_VERSION"));
    for spelling in ["--version", "-version", "-V"] {
        assert_eq!(ringfs(&[spelling]).succeeded().text(), version);
    }
    let help = ringfs(&["--help"]).succeeded().text();
    for command in ["namenode", "datanode", "dfs", "mini", "demo", "settings"] {
        assert!(help.contains(command), "{help}");
        if command != "dfs" {
            for spelling in ["--help", "-help", "-h"] {
                let help = ringfs(&[command, spelling]).succeeded().text();
                assert!(help.contains(&format!("Usage: ringfs {command}")), "{help}");
            }
            let version = ringfs(&[command, "--version"]).succeeded().text();
            assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
        }
    }
    let shell = ringfs(&["dfs", "-help"]).succeeded().text();
    for command in ["-appendToFile", "-checksum", "-setrep", "-put", "-ls"] {
        assert!(shell.contains(command), "{shell}");
    }
    assert!(ringfs(&["dfs", "--help"]).succeeded().text().contains("-put"));
    for wrong in
        [&["frobnicate"][..], &[], &["mini", "--datanodes", "0"], &["namenode", "-nonsense"]]
    {
        let outcome = ringfs(wrong);
        assert_eq!(outcome.exit, 2, "{wrong:?}: {}", outcome.err);
        assert!(outcome.err.contains("--help"), "{}", outcome.err);
    }
}

#[test]
fn settings_are_listed() {
    let table = ringfs(&["settings"]).succeeded().text();
    for setting in ringfs_protocol::settings::ALL {
        assert!(
            table.contains(setting.name) && table.contains(setting.meaning),
            "{}",
            setting.name
        );
    }
}

#[test]
fn servers_say_why_they_cannot_start() {
    let directory = temporary_directory();
    let name_dir = format!("dfs.namenode.name.dir=file://{}/name", directory.path().display());
    let definitions = ["-D", &name_dir, "-D", "dfs.namenode.rpc-address=127.0.0.1:1"];
    let unformatted = ringfs(&[&["namenode"], &definitions[..]].concat());
    assert_eq!(unformatted.exit, 1);
    assert!(unformatted.err.contains("-format"), "{}", unformatted.err);
    ringfs(&[&["namenode", "-format"], &definitions[..]].concat()).succeeded();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let rpc_address = format!("dfs.namenode.rpc-address={address}");
    let in_use = ringfs(&["namenode", "-D", &name_dir, "-D", &rpc_address]);
    assert_eq!(in_use.exit, 1);
    assert!(in_use.err.contains(&address), "{}", in_use.err);
}

/// `ringfs mini`, killed when the test is done with it.
struct Mini {
    child: Child,
    uri: String,
}

impl Mini {
    fn start(working_directory: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .arg("mini")
            .args(arguments)
            .current_dir(working_directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut uri = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut uri).unwrap();
        if !uri.starts_with("hdfs://127.0.0.1:") {
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            panic!("mini said {uri:?}, {error}");
        }
        Self { child, uri: uri.trim().to_owned() }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The servers.
    fn children(&self) -> Vec<Pid> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut pids = Vec::new();
        for task in std::fs::read_dir(tasks).unwrap().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap();
            pids.extend(children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
        }
        pids.into_iter().filter_map(Pid::from_raw).collect()
    }

    /// Exit code and stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (self.child.wait().unwrap().code(), error)
    }
}

impl Drop for Mini {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gone(pids: &[Pid]) -> Option<()> {
    pids.iter().all(|pid| test_kill_process(*pid).is_err()).then_some(())
}

#[test]
fn mini_serves_keeps_its_files_and_stops_cleanly() {
    let directory = temporary_directory();
    let settings = ["-D", "dfs.blocksize=2m"];
    let mini = Mini::start(directory.path(), &settings);
    let (uri, children) = (mini.uri.clone(), mini.children());
    assert_eq!(children.len(), 4, "a namenode and three datanodes");
    let kept = directory.path().join("ringfs-mini");
    let conf = kept.join("conf");
    let dfs = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.arg("dfs").args(arguments).env("HADOOP_CONF_DIR", &conf);
        Outcome::of(command.output().unwrap())
    };
    dfs(&["-mkdir", "-p", "/d"]).succeeded();
    let local = directory.path().join("local");
    std::fs::write(&local, vec![7; 3 << 20]).unwrap();
    dfs(&["-put", &local.display().to_string(), "/d/f"]).succeeded();
    assert_eq!(dfs(&["-stat", "%o %r", "/d/f"]).succeeded().text(), "2097152 3\n");
    assert!(ringfs(&["dfs", "-fs", &uri, "-ls", "/d"]).succeeded().text().contains("/d/f"));
    let dashed = dfs(&["-ls", "-R", "/"]).succeeded().text();
    assert_eq!(dfs(&["ls", "-R", "/"]).succeeded().text(), dashed, "with or without a dash");
    kill_process(mini.pid(), Signal::INT).unwrap();
    assert_eq!(mini.end().0, Some(0), "Ctrl-C is how it ends");
    gone(&children).expect("all servers have ended with it");
    for name in ["namenode", "datanode0", "datanode1", "datanode2"] {
        assert!(kept.join(format!("logs/{name}.log")).exists());
    }

    let again = Mini::start(directory.path(), &[]);
    assert_eq!(again.uri, uri, "clients find it where it was");
    assert!(dfs(&["-cat", "/d/f"]).succeeded().out == vec![7; 3 << 20]);
    kill_process(again.pid(), Signal::TERM).unwrap();
    assert_eq!(again.end().0, Some(0));
}

#[test]
fn mini_names_a_server_that_died() {
    let directory = temporary_directory();
    let mini = Mini::start(directory.path(), &["--datanodes", "1"]);
    let children = mini.children();
    let of = |what: &str| {
        let pid = children.iter().find(|pid| {
            let path = PathBuf::from(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
            std::fs::read_to_string(path).unwrap().contains(what)
        });
        *pid.unwrap()
    };
    kill_process(of("datanode\0"), Signal::KILL).unwrap();
    let (code, error) = mini.end();
    assert_eq!(code, Some(1));
    assert!(error.contains("datanode0 ended with signal: 9"), "{error}");
    assert!(error.contains("logs/datanode0.log"), "{error}");
    gone(&children).expect("the namenode was stopped");
}

#[test]
fn no_server_outlives_a_killed_mini_and_temp_leaves_nothing() {
    let directory = temporary_directory();
    let mini = Mini::start(directory.path(), &["--temp", "--datanodes", "2"]);
    let children = mini.children();
    assert_eq!(children.len(), 3);
    kill_process(mini.pid(), Signal::TERM).unwrap();
    assert_eq!(mini.end().0, Some(0));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    let mini = Mini::start(directory.path(), &["--dir", "kept", "--datanodes", "1"]);
    let children = mini.children();
    kill_process(mini.pid(), Signal::KILL).unwrap();
    drop(mini);
    wait_for("the servers gone", SOON, || gone(&children));
}

#[test]
fn demo_compares_and_leaves_nothing() {
    let directory = temporary_directory();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.arg("demo").args(arguments).current_dir(directory.path());
        Outcome::of(command.output().unwrap())
    };
    let demo = run(&["--size", "40m", "-D", "dfs.blocksize=16m"]).succeeded().text();
    assert!(
        demo.contains("0.04 GiB in 3 blocks of 16 MiB, 3 replicas of each; read back equal"),
        "{demo}"
    );
    for line in ["write", "read", "raw disk write", "raw disk read", "raw loopback", "CPU-seconds"]
    {
        assert!(demo.lines().any(|found| found.starts_with(line)), "{demo}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing left");

    let file = directory.path().join("given");
    std::fs::write(&file, vec![1; 1_000_001]).unwrap();
    let arguments = ["--file", "given", "--datanodes", "1", "--replication", "1"];
    let demo = run(&arguments).succeeded().text();
    assert!(demo.contains("1 blocks of 128 MiB, 1 replicas"), "{demo}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "only the given file");
    let refused = run(&["--replication", "3", "--datanodes", "2"]);
    assert_eq!(
        (refused.exit, refused.err.contains("3 replicas need as many datanodes")),
        (2, true)
    );
}

#[test]
fn tune_says_what_it_finds_and_changes_nothing() {
    let outcome = ringfs(&["tune", env!("CARGO_TARGET_TMPDIR")]);
    let text = outcome.succeeded().text();
    for finding in ["io_uring", "locked memory", "TCP congestion control", "file system"] {
        assert!(text.contains(finding), "{finding} is not in {text}");
    }
    let missing = ringfs(&["tune", "/no/such/directory"]);
    assert_eq!(missing.exit, 1);
    assert!(missing.err.contains("cannot look at /no/such/directory"), "{}", missing.err);
}

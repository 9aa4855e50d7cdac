//! `ringfs bench goal NAME`: what ringfs is to reach, each goal by one command that starts its own
//! cluster, measures ours, what the machine gives and, with `--peer`, another cluster in turns, and
//! says by how much the goal is met or missed.
//!
//! | file | |
//! |---|---|
//! | `lab` | the clusters, and the turns that subjects take |
//! | `subjects` | what is measured: files through our client, blocks sent to datanodes, the floor |
//! | `writing` `reading` `files` `footprint` `java` | a function per goal |
//!
//! Everything is made in one directory, which goes at the end, also after Ctrl-C. Figures are medians
//! of `--runs` runs; one round before them is not counted, in which memory is touched first.

mod files;
mod footprint;
mod java;
mod lab;
mod reading;
mod subjects;
mod writing;

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use ringfs_bench::Session;
use ringfs_protocol::site_config::parse_bytes;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CommandError;
use lab::Lab;

struct Goal {
    name: &'static str,
    /// Heads the goal's measurements.
    title: &'static str,
    needs: Needs,
    measure: fn(&mut Lab<'_>) -> Result<(), CommandError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Held against this machine; some goals against `--peer` as well, if it is given.
    Nothing,
    Peer,
    /// `--java-bench`, and `--peer`.
    Java,
}

const GOALS: [Goal; 15] = [
    Goal {
        name: "write-3",
        title: "write-3: one stream, 3 replicas, on disk",
        needs: Needs::Nothing,
        measure: writing::three_replicas,
    },
    Goal {
        name: "write-1",
        title: "write-1: one stream, 1 replica, on disk",
        needs: Needs::Nothing,
        measure: writing::one_replica,
    },
    Goal {
        name: "write-3-discard",
        title: "write-3-discard: one stream, 3 replicas, block data discarded",
        needs: Needs::Nothing,
        measure: writing::discarded,
    },
    Goal {
        name: "cpu",
        title: "cpu: processor time of three datanodes, writing to disk",
        needs: Needs::Nothing,
        measure: writing::processor_time,
    },
    Goal {
        name: "cold-read",
        title: "cold-read: sequential read of what memory does not hold",
        needs: Needs::Nothing,
        measure: reading::cold,
    },
    Goal {
        name: "hot-read",
        title: "hot-read: sequential read of what was read before",
        needs: Needs::Nothing,
        measure: reading::hot,
    },
    Goal {
        name: "pread-4k",
        title: "pread-4k: positional reads of 4 KiB, 8 clients",
        needs: Needs::Peer,
        measure: reading::positional,
    },
    Goal {
        name: "ack-p99",
        title: "ack-p99: packet acks in open loop at half of each side's peak",
        needs: Needs::Peer,
        measure: writing::ack_latency,
    },
    Goal {
        name: "writers-64",
        title: "writers-64: 64 active writers, 3 replicas",
        needs: Needs::Nothing,
        measure: writing::many_writers,
    },
    Goal {
        name: "idle-writers-1000",
        title: "idle-writers-1000: one active stream beside 1,000 idle ones on a datanode",
        needs: Needs::Nothing,
        measure: writing::idle_writers,
    },
    Goal {
        name: "small-files",
        title: "small-files: files of 10 KB, created, written and closed, 3 replicas",
        needs: Needs::Peer,
        measure: files::small,
    },
    Goal {
        name: "page-cache",
        title: "page-cache: what writing leaves in the page cache",
        needs: Needs::Nothing,
        measure: footprint::page_cache,
    },
    Goal {
        name: "resident-memory",
        title: "resident-memory: a datanode at full load",
        needs: Needs::Nothing,
        measure: footprint::resident_memory,
    },
    Goal {
        name: "java-write",
        title: "java-write: Hadoop's Java client writing, 3 replicas",
        needs: Needs::Java,
        measure: java::write,
    },
    Goal {
        name: "java-read",
        title: "java-read: Hadoop's Java client reading again",
        needs: Needs::Java,
        measure: java::read,
    },
];

const ALL: &str = "all";

#[derive(Debug, Args)]
pub struct GoalCommand {
    /// The goal to hold this machine's figures against, or all that need no more than is given
    #[arg(value_parser = PossibleValuesParser::new(GOALS.iter().map(|goal| goal.name).chain([ALL])))]
    goal: String,
    #[command(flatten)]
    options: GoalOptions,
    /// Fail when a goal is missed
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
pub struct GoalOptions {
    /// Namenode of a running cluster to measure in turn with ours, one of Apache's
    #[arg(long, value_name = "hdfs://HOST:PORT")]
    peer: Option<String>,
    /// Command that runs Hadoop's Java client and prints a JSON object with "mb" and "s" for each run;
    /// {mode} (write, read, pread), {threads}, {uri}, {mb}, {replication}, {sync} (0, 1) and {pids}
    /// (NAME:PID,...) are put in. A pread run has "ops" and "size" instead of "mb", and
    /// so has one of {mode} small, files of 10 KB below /bench-small (bench/java/SmallFiles.java)
    #[arg(long, value_name = "COMMAND")]
    java_bench: Option<String>,
    /// Bytes of a run [default: 2g; what page-cache and writers-64 write: 8g]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    bytes: Option<u64>,
    /// Where the clusters are made, on the disk to measure
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    directory: PathBuf,
    /// A setting of our servers and of our client on every cluster, such as dfs.blocksize=64m
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = crate::mini::setting)]
    settings: Vec<(String, String)>,
}

impl GoalCommand {
    pub fn run(self, session: &mut Session) -> Result<(), CommandError> {
        let chosen = self.chosen(session)?;
        session.on_disk(&self.options.directory)?;
        let directory = tempfile::Builder::new()
            .prefix("ringfs-goal-")
            .tempdir_in(&self.options.directory)
            .map_err(CommandError::file("create a directory in", &self.options.directory))?;
        remove_when_stopped(directory.path());
        for goal in chosen {
            // A cluster of its own: no goal finds what another one left in caches or on the disk.
            let mut lab = Lab::new(session, &self.options, goal.name, goal.title, directory.path());
            (goal.measure)(&mut lab)?;
        }
        match session.missed() {
            missed if self.check && !missed.is_empty() => Err(CommandError::GoalsMissed(missed)),
            _ => Ok(()),
        }
    }

    fn chosen(&self, session: &mut Session) -> Result<Vec<&'static Goal>, CommandError> {
        let lacks = |goal: &Goal| match goal.needs {
            Needs::Nothing => None,
            Needs::Java if self.options.java_bench.is_none() => Some("--java-bench"),
            Needs::Peer | Needs::Java if self.options.peer.is_none() => Some("--peer"),
            Needs::Peer | Needs::Java => None,
        };
        let mut chosen = Vec::new();
        for goal in GOALS.iter().filter(|goal| self.goal == ALL || self.goal == goal.name) {
            match lacks(goal) {
                None => chosen.push(goal),
                Some(missing) if self.goal == ALL => {
                    session.find(format!("{} was not measured: it needs {missing}", goal.name));
                }
                Some(missing) => {
                    return Err(CommandError::Usage(format!("{} needs {missing}", goal.name)));
                }
            }
        }
        Ok(chosen)
    }
}

/// SIGINT and SIGTERM end this process, and with it its children; what they wrote goes first.
fn remove_when_stopped(directory: &Path) {
    let directory = directory.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let stopped = runtime.and_then(|runtime| {
            runtime.block_on(async {
                let mut interrupt = signal(SignalKind::interrupt())?;
                let mut terminate = signal(SignalKind::terminate())?;
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                Ok(())
            })
        });
        if stopped.is_ok() {
            // The servers still write: what is made meanwhile is found by the next try.
            (0..3).find(|_| std::fs::remove_dir_all(&directory).is_ok());
            eprintln!("ringfs: {}", CommandError::Interrupted);
            std::process::exit(130);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_have_names_of_their_own() {
        let mut names: Vec<_> = GOALS.iter().map(|goal| goal.name).collect();
        assert!(GOALS.iter().all(|goal| goal.title.starts_with(&format!("{}: ", goal.name))));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), GOALS.len());
        assert!(!names.contains(&ALL));
    }
}

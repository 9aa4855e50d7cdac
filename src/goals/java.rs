//! Goals of Hadoop's own Java client, run by a command that is given: on ours and on the peer.

use std::process::{Command, Stdio};
use std::time::Duration;

use ringfs_bench::file_system::FileSystemOptions;
use ringfs_bench::limit::disk::{RawDisk, Requests};
use ringfs_bench::report::Bound::{AtLeast, AtMost};
use ringfs_bench::report::{Measurement, ProcessCpu, Run, Side};
use serde_json::Value;

use super::lab::{Lab, median_of};
use super::subjects::Subject;
use crate::error::CommandError;

/// Replicas of a file that is written, and of one that is read.
const WRITTEN: u16 = 3;
const READ: u16 = 1;
const SMALL_FILES_DIRECTORY: &str = "/bench-small";

pub fn write(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let ours = lab.ours()?;
    let bytes = lab.bytes();
    let disk = RawDisk::create(lab.directory(), bytes)?;
    let mut subjects = vec![
        Subject::new("O_DIRECT write", Side::Limit, move || Ok(disk.write(Requests::LARGE)?)),
        java(lab, "ringfs", Side::Ours, &ours, ("write", 1), WRITTEN, false)?,
    ];
    if let Some(peer) = lab.peer() {
        for (name, sync) in [("peer, not synced", false), ("peer, synced", true)] {
            subjects.push(java(lab, name, Side::Peer, &peer, ("write", 1), WRITTEN, sync)?);
        }
    }
    let measured = lab.interleave(subjects)?;
    let [disk, ours, peers @ ..] = &measured[..] else { unreachable!("at least two subjects") };
    let rate = |measurement: &Measurement| median_of(measurement, Run::gb_per_s);
    let third = rate(disk) / 3.0;
    for (peer, times) in peers.iter().zip([1.5, 2.0]) {
        let wanted = (rate(peer) * times).min(third);
        let what = format!("to {times}x {} or a third of the disk, GB/s", peer.name);
        lab.judge(&what, rate(ours), Some(wanted), AtLeast(1.0));
    }
    Ok(())
}

/// What is read was read before, by the round that does not count.
pub fn read(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let mut subjects = Vec::new();
    let sides = [("ringfs", Side::Ours, Some(lab.ours()?)), ("peer", Side::Peer, lab.peer())];
    for (name, side, file_system) in sides {
        let Some(file_system) = file_system else { continue };
        lab.progress(&format!("{name}: writing a file"));
        java(lab, name, side, &file_system, ("write", 1), READ, false)?.work.run()?;
        let mut read = java(lab, name, side, &file_system, ("read", 1), READ, false)?;
        // The second read of a file is the one that brings it into memory.
        read.work.run()?;
        subjects.push(read);
    }
    let measured = lab.interleave(subjects)?;
    if let [ours, peer] = &measured[..] {
        lab.judge_medians("to the peer, GB/s", (ours, peer), Run::gb_per_s, AtLeast(1.0));
        let of_datanodes = |run: &Run| run.cpu_s_per_gib("datanode");
        let (ours, peer) = (median_of(ours, of_datanodes), median_of(peer, of_datanodes));
        lab.judge("datanodes to peer's, CPU-s/GiB", ours, Some(peer), AtMost(0.5));
    }
    Ok(())
}

/// Positional reads of 4 KiB of a file that it writes first.
pub fn positional(
    lab: &Lab<'_>,
    peer: &FileSystemOptions,
    threads: u32,
) -> Result<Subject, CommandError> {
    let name = "peer with Java's client";
    lab.progress(&format!("{name}: writing a file"));
    java(lab, name, Side::Peer, peer, ("write", 1), READ, false)?.work.run()?;
    java(lab, name, Side::Peer, peer, ("pread", threads), READ, false)
}

/// Whether the command knows this mode, which one may lack that has those of reading and writing.
pub fn writes_small_files(lab: &Lab<'_>, peer: &FileSystemOptions) -> bool {
    if lab.java_bench().is_err() {
        return false;
    }
    lab.progress("peer with Java's client: a first run of small files");
    let first = small_files(lab, "first", peer, 1).and_then(|mut subject| subject.work.run());
    first.inspect_err(|error| lab.progress(&format!("without Java's client: {error}"))).is_ok()
}

/// Files of 10 KB; they stay below [`SMALL_FILES_DIRECTORY`].
pub fn small_files(
    lab: &Lab<'_>,
    name: &str,
    peer: &FileSystemOptions,
    threads: u32,
) -> Result<Subject, CommandError> {
    java(lab, name, Side::Peer, peer, ("small", threads), WRITTEN, false)
}

pub fn delete_small_files(peer: &FileSystemOptions) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Runtime::new().map_err(CommandError::Runtime)?;
    let client = peer.connect()?.client;
    runtime.block_on(client.delete(SMALL_FILES_DIRECTORY, true))?;
    Ok(())
}

fn java(
    lab: &Lab<'_>,
    name: &str,
    side: Side,
    file_system: &FileSystemOptions,
    (mode, threads): (&str, u32),
    replication: u16,
    sync: bool,
) -> Result<Subject, CommandError> {
    let runtime = tokio::runtime::Runtime::new().map_err(CommandError::Runtime)?;
    let processes = runtime.block_on(file_system.connect()?.processes())?;
    let servers = processes.iter().filter(|process| process.pid != std::process::id());
    let pids: Vec<_> = servers.map(|server| format!("{}:{}", server.name, server.pid)).collect();
    let command = substituted(
        lab.java_bench()?,
        &[
            ("mode", mode),
            ("threads", &threads.to_string()),
            ("uri", file_system.fs.as_deref().unwrap_or_default()),
            ("mb", &(lab.bytes() >> 20).to_string()),
            ("replication", &replication.to_string()),
            ("sync", if sync { "1" } else { "0" }),
            ("pids", &pids.join(",")),
        ],
    );
    Ok(Subject::new(name, side, move || run(&command)))
}

fn substituted(command: &str, values: &[(&str, &str)]) -> String {
    let replace =
        |text: String, (name, value): &(&str, &str)| text.replace(&format!("{{{name}}}"), value);
    values.iter().fold(command.to_owned(), replace)
}

fn run(command: &str) -> Result<Run, CommandError> {
    let failed = |why: String| CommandError::JavaBench { command: command.to_owned(), why };
    let output = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    parse(&printed).ok_or_else(|| failed(format!("it prints no run as JSON: {printed:?}")))
}

/// All runs that were printed, as one.
fn parse(printed: &str) -> Option<Run> {
    let mut sum = Run::default();
    let mut elapsed_s = 0.0;
    for line in printed.lines().filter(|line| line.starts_with('{')) {
        let run: Value = serde_json::from_str(line).ok()?;
        match run["ops"].as_u64() {
            Some(operations) => {
                sum.operations += operations;
                sum.bytes += operations * run["size"].as_u64()?;
            }
            None => sum.bytes += (run["mb"].as_f64()? * f64::from(1 << 20)) as u64,
        }
        elapsed_s += run["s"].as_f64()?;
        for (process, cpu_s) in run["cpu_s"].as_object().into_iter().flatten() {
            let cpu_s = cpu_s.as_f64()?;
            match sum.cpu.iter_mut().find(|cpu| cpu.process == *process) {
                Some(cpu) => cpu.cpu_s += cpu_s,
                None => sum.cpu.push(ProcessCpu { process: process.clone(), cpu_s }),
            }
        }
    }
    sum.elapsed = Duration::try_from_secs_f64(elapsed_s).ok()?;
    (sum.bytes > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_the_runs_that_are_printed() {
        let printed = "started\n\
            {\"op\":\"write\",\"mb\":1024,\"s\":2.0,\"cpu_s\":{\"datanode0\":0.5,\"client\":1}}\n\
            {\"op\":\"write\",\"mb\":1024,\"s\":3.0,\"cpu_s\":{\"datanode0\":0.25,\"client\":1}}\n";
        let run = parse(printed).unwrap();
        assert_eq!((run.bytes, run.elapsed), (2 << 30, Duration::from_secs(5)));
        assert_eq!(run.cpu_s_per_gib("datanode"), 0.375);
        let run = parse("{\"op\":\"pread\",\"size\":4096,\"ops\":100,\"s\":0.5}\n").unwrap();
        assert_eq!((run.bytes, run.operations, run.operations_per_s()), (409_600, 100, 200.0));
        assert!(parse("nothing\n").is_none() && parse("{\"mb\":1}\n").is_none());
    }

    #[test]
    fn puts_values_in_and_leaves_other_braces() {
        let command =
            substituted("b {mode} uri={uri} {x}", &[("mode", "read"), ("uri", "hdfs://h")]);
        assert_eq!(command, "b read uri=hdfs://h {x}");
    }
}

//! Goals of reading files through our client: from the disk, out of memory, at random positions.

use std::path::{Path, PathBuf};

use ringfs::cluster::Cluster;
use ringfs_bench::dfsio::{Dfsio, DfsioOptions, Mode};
use ringfs_bench::limit::disk::{self, Look, Requests};
use ringfs_bench::limit::send_file;
use ringfs_bench::report::Bound::{AtLeast, AtMost};
use ringfs_bench::report::{Run, Side};

use super::java;
use super::lab::{Lab, median_of, settle};
use super::subjects::{Subject, one_file};
use crate::error::CommandError;

const PREAD_CLIENTS: u32 = 8;

/// What was read before would be read through the page cache: each round has a file of its own for each
/// way to read it, and the replicas' files are what the raw reads are of: one that forgets the bytes, and
/// one that checksums them, as every reader of HDFS must.
pub fn cold(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let raws = [
        ("O_DIRECT, 1 MiB, 4 in flight", Look::AtNothing),
        ("O_DIRECT, 1 MiB, 4 in flight, checksummed", Look::AtEachByte),
    ];
    let mut raws = raws.map(|(name, look)| (lab.measurement(name, Side::Limit), look));
    let mut ways = vec![(lab.measurement("ringfs, over TCP", Side::Ours), lab.ours()?)];
    if let Some(short_circuit) = lab.ours_short_circuit()? {
        ways.push((lab.measurement("ringfs, short-circuit", Side::Ours), short_circuit));
    }
    for round in 0..=lab.runs() {
        lab.progress(&format!("round {round}: writing"));
        let mut files = Vec::new();
        let mut blocks = Vec::new();
        for (_, file_system) in &ways {
            files.push(Dfsio::prepare(&one_file(Mode::Read, file_system.clone(), bytes, 1))?);
            if blocks.is_empty() {
                blocks = block_files(lab.cluster()?)?;
            }
        }
        settle(lab.directory())?;
        lab.progress(&format!("round {round}: reading"));
        let mut read_raw = || {
            for (raw, look) in &mut raws {
                let run = disk::read_files(&blocks, Requests::LARGE, *look)?;
                if round > 0 {
                    raw.runs.push(run);
                }
            }
            Ok::<(), CommandError>(())
        };
        if round % 2 == 0 {
            read_raw()?;
        }
        for ((ours, _), file) in ways.iter_mut().zip(&files) {
            let run = file.run_once()?.run;
            if round > 0 {
                ours.runs.push(run);
            }
        }
        if round % 2 == 1 {
            read_raw()?;
        }
        for file in files {
            file.finish()?;
        }
        wait_until_empty(lab)?;
    }
    let [(raw, _), (checksummed, _)] = raws;
    for (limit, named) in [(&raw, "as much"), (&checksummed, "as much, checksummed")] {
        for (ours, _) in &ways {
            let what = format!("{} to O_DIRECT read of {named}, GB/s", ours.name);
            lab.judge_medians(&what, (ours, limit), Run::gb_per_s, AtLeast(0.95));
        }
    }
    lab.add(raw);
    lab.add(checksummed);
    for (ours, _) in ways {
        lab.add(ours);
    }
    Ok(())
}

/// The file is read twice before it counts: the first read leaves nothing in the page cache, the
/// second one fills it.
pub fn hot(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let mut ways = vec![("ringfs, over TCP", lab.ours()?)];
    if let Some(short_circuit) = lab.ours_short_circuit()? {
        ways.push(("ringfs, short-circuit", short_circuit));
    }
    let mut subjects = Vec::new();
    for (name, file_system) in ways {
        let file = Dfsio::prepare(&one_file(Mode::Read, file_system, bytes, 1))?;
        for _ in 0..2 {
            file.run_once()?;
        }
        if subjects.is_empty() {
            let blocks = block_files(lab.cluster()?)?;
            let send = move || Ok(send_file::run(&blocks)?);
            subjects.push(Subject::new("sendfile", Side::Limit, send));
        }
        subjects.push(Subject::new(name, Side::Ours, move || Ok(file.run_once()?.run)));
    }
    if let Some(peer) = lab.peer() {
        subjects.push(Subject::files("peer", Side::Peer, &one_file(Mode::Read, peer, bytes, 1))?);
    }
    let measured = lab.interleave(subjects)?;
    let on_side = |side| measured.iter().filter(move |measurement| measurement.side == side);
    let (sendfile, over_tcp) = (&measured[0], &measured[1]);
    for ours in on_side(Side::Ours) {
        let what = format!("{} to sendfile, GB/s", ours.name);
        lab.judge_medians(&what, (ours, sendfile), Run::gb_per_s, AtLeast(0.75));
    }
    for peer in on_side(Side::Peer) {
        let of_datanodes = |run: &Run| run.cpu_s_per_gib("datanode");
        let (ours, peer) = (median_of(over_tcp, of_datanodes), median_of(peer, of_datanodes));
        lab.judge("datanodes to peer's, CPU-s/GiB", ours, Some(peer), AtMost(0.5));
    }
    Ok(())
}

pub fn positional(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let options = |file_system| DfsioOptions {
        clients: PREAD_CLIENTS,
        ..one_file(Mode::Pread, file_system, bytes, 1)
    };
    let mut subjects = vec![Subject::files("ringfs, over TCP", Side::Ours, &options(lab.ours()?))?];
    if let Some(short_circuit) = lab.ours_short_circuit()? {
        let name = "ringfs, short-circuit";
        subjects.push(Subject::files(name, Side::Ours, &options(short_circuit))?);
    }
    if let Some(peer) = lab.peer() {
        subjects.push(Subject::files("peer with our client", Side::Peer, &options(peer.clone()))?);
        if lab.java_bench().is_ok() {
            subjects.push(java::positional(lab, &peer, PREAD_CLIENTS)?);
        }
    }
    let measured = lab.interleave(subjects)?;
    let (ours, peers): (Vec<_>, Vec<_>) =
        measured.iter().partition(|measurement| measurement.side == Side::Ours);
    for peer in peers {
        for ours in &ours {
            let what = format!("{} to {}, reads of 4 KiB a second", ours.name, peer.name);
            lab.judge_medians(&what, (ours, peer), Run::operations_per_s, AtLeast(5.0));
        }
    }
    Ok(())
}

/// The data files of all finished replicas of a cluster.
pub fn block_files(cluster: &Cluster) -> Result<Vec<PathBuf>, CommandError> {
    let mut files = Vec::new();
    for index in 0..cluster.datanode_count() {
        collect_files(&cluster.data_dir(index), &mut files)?;
    }
    files.retain(|path| is_in_finalized(path) && path.extension().is_none());
    files.sort_unstable();
    Ok(files)
}

pub fn collect_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), CommandError> {
    let read = || CommandError::file("read", directory);
    for entry in std::fs::read_dir(directory).map_err(read())? {
        let path = entry.map_err(read())?.path();
        if path.is_dir() {
            collect_files(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn is_in_finalized(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "finalized")
}

/// Deleted files' replicas go in their volume's own time.
fn wait_until_empty(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !block_files(lab.cluster()?)?.is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(())
}

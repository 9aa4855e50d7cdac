//! Goals of reading files through our client: from the disk, out of memory, at random positions.

use std::path::{Path, PathBuf};

use ringfs::cluster::Cluster;
use ringfs_bench::dfsio::{Dfsio, DfsioOptions, Mode};
use ringfs_bench::limit::disk::{self, Requests};
use ringfs_bench::limit::send_file;
use ringfs_bench::report::Bound::{AtLeast, AtMost};
use ringfs_bench::report::{Run, Side};

use super::lab::{Lab, median_of, settle};
use super::subjects::{Subject, one_file};
use crate::error::CommandError;

const PREAD_CLIENTS: u32 = 8;

/// What a datanode has read before it would read through the page cache: each round has a file of its
/// own, and its replicas' files are what the raw read is of.
pub fn cold(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let options = one_file(Mode::Read, lab.ours()?, bytes, 1);
    let mut raw = lab.measurement("O_DIRECT, 1 MiB, 4 in flight", Side::Limit);
    let mut ours = lab.measurement("ringfs", Side::Ours);
    for round in 0..=lab.runs() {
        lab.progress(&format!("round {round}: writing a file"));
        let file = Dfsio::prepare(&options)?;
        let blocks = block_files(lab.cluster()?)?;
        settle(lab.directory())?;
        lab.progress(&format!("round {round}: reading it"));
        let read_raw = || Ok::<Run, CommandError>(disk::read_files(&blocks, Requests::LARGE)?);
        let read_ours = || Ok::<Run, CommandError>(file.run_once()?.run);
        let (of_raw, of_ours) = if round % 2 == 0 {
            let of_raw = read_raw()?;
            (of_raw, read_ours()?)
        } else {
            let of_ours = read_ours()?;
            (read_raw()?, of_ours)
        };
        if round > 0 {
            raw.runs.push(of_raw);
            ours.runs.push(of_ours);
        }
        file.finish()?;
        wait_until_empty(lab)?;
    }
    let what = "client to O_DIRECT read of the same files, GB/s";
    lab.judge_medians(what, (&ours, &raw), Run::gb_per_s, AtLeast(0.95));
    lab.add(raw);
    lab.add(ours);
    Ok(())
}

/// The file is read twice before it counts: the first read leaves nothing in the page cache, the
/// second one fills it.
pub fn hot(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let file = Dfsio::prepare(&one_file(Mode::Read, lab.ours()?, bytes, 1))?;
    for _ in 0..2 {
        file.run_once()?;
    }
    let blocks = block_files(lab.cluster()?)?;
    let read = move || Ok(file.run_once()?.run);
    let mut subjects = vec![
        Subject::new("sendfile", Side::Limit, move || Ok(send_file::run(&blocks)?)),
        Subject::new("ringfs", Side::Ours, read),
    ];
    if let Some(peer) = lab.peer() {
        subjects.push(Subject::files("peer", Side::Peer, &one_file(Mode::Read, peer, bytes, 1))?);
    }
    let measured = lab.interleave(subjects)?;
    let (sendfile, ours) = (&measured[0], &measured[1]);
    lab.judge_medians("client to sendfile, GB/s", (ours, sendfile), Run::gb_per_s, AtLeast(0.75));
    if let Some(peer) = measured.get(2) {
        let of_datanodes = |run: &Run| run.cpu_s_per_gib("datanode");
        let (ours, peer) = (median_of(ours, of_datanodes), median_of(peer, of_datanodes));
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
    let mut subjects = vec![Subject::files("ringfs", Side::Ours, &options(lab.ours()?))?];
    if let Some(peer) = lab.peer() {
        subjects.push(Subject::files("peer", Side::Peer, &options(peer))?);
    }
    let measured = lab.interleave(subjects)?;
    if let [ours, peer] = &measured[..] {
        let bound = AtLeast(5.0);
        lab.judge_medians("reads of 4 KiB a second", (ours, peer), Run::operations_per_s, bound);
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

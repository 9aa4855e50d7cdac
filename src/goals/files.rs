//! Goals of many files.

use ringfs_bench::dfsio::{DfsioOptions, Mode};
use ringfs_bench::report::Bound::AtLeast;
use ringfs_bench::report::{Run, Side};

use super::java;
use super::lab::Lab;
use super::subjects::Subject;
use crate::error::CommandError;

const CALLERS: [u32; 3] = [1, 8, 32];

/// All callers in one round of turns: what a measurement leaves is deleted at its end, and ext4 passes
/// over inodes that were deleted within the last minutes one by one to find a free one. The next
/// measurement would be one of that search.
pub fn small(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let options = |file_system, callers| DfsioOptions {
        clients: callers,
        replication: Some(3),
        ..DfsioOptions::new(Mode::Small, file_system)
    };
    let peer = lab.peer();
    let peers_java = peer.clone().filter(|peer| java::writes_small_files(lab, peer));
    let mut subjects = Vec::new();
    for callers in CALLERS {
        let name = |side: &str| format!("{side}, {callers} at a time");
        subjects.push(Subject::files(name("ringfs"), Side::Ours, &options(lab.ours()?, callers))?);
        if let Some(peer) = &peer {
            let peer = options(peer.clone(), callers);
            subjects.push(Subject::files(name("peer with our client"), Side::Peer, &peer)?);
        }
        if let Some(peer) = &peers_java {
            let name = name("peer with Java's client");
            subjects.push(java::small_files(lab, &name, peer, callers)?);
        }
    }
    let sides = subjects.len() / CALLERS.len();
    let measured = lab.interleave(subjects)?;
    if let Some(peer) = &peers_java {
        java::delete_small_files(peer)?;
    }
    for (callers, of_callers) in CALLERS.iter().zip(measured.chunks(sides)) {
        let [ours, peers @ ..] = of_callers else { unreachable!("ours is always there") };
        for peer in peers {
            let against = peer.name.split(',').next().unwrap_or_default();
            let what = format!("files a second, {callers} at a time, to {against}");
            lab.judge_medians(&what, (ours, peer), Run::operations_per_s, AtLeast(5.0));
        }
    }
    Ok(())
}

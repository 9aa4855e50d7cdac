//! Goals of many files.

use ringfs_bench::dfsio::{DfsioOptions, Mode};
use ringfs_bench::report::Bound::AtLeast;
use ringfs_bench::report::{Run, Side};

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
    let mut subjects = Vec::new();
    for callers in CALLERS {
        let name = |side: &str| format!("{side}, {callers} at a time");
        subjects.push(Subject::files(name("ringfs"), Side::Ours, &options(lab.ours()?, callers))?);
        if let Some(peer) = lab.peer() {
            subjects.push(Subject::files(name("peer"), Side::Peer, &options(peer, callers))?);
        }
    }
    let sides = subjects.len() / CALLERS.len();
    let measured = lab.interleave(subjects)?;
    for (callers, of_callers) in CALLERS.iter().zip(measured.chunks(sides)) {
        if let [ours, peer] = of_callers {
            let what = format!("files a second, {callers} at a time");
            lab.judge_medians(&what, (ours, peer), Run::operations_per_s, AtLeast(5.0));
        }
    }
    Ok(())
}

//! Goals of many files.

use ringfs_bench::dfsio::{DfsioOptions, Mode};
use ringfs_bench::report::Bound::AtLeast;
use ringfs_bench::report::{Run, Side};

use super::lab::Lab;
use super::subjects::Subject;
use crate::error::CommandError;

const CALLERS: [u32; 3] = [1, 8, 32];

pub fn small(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let options = |file_system, callers| DfsioOptions {
        clients: callers,
        replication: Some(3),
        ..DfsioOptions::new(Mode::Small, file_system)
    };
    for callers in CALLERS {
        let ours = options(lab.ours()?, callers);
        let name = |side: &str| format!("{side}, {callers} at a time");
        let mut subjects = vec![Subject::files(name("ringfs"), Side::Ours, &ours)?];
        if let Some(peer) = lab.peer() {
            subjects.push(Subject::files(name("peer"), Side::Peer, &options(peer, callers))?);
        }
        let measured = lab.interleave(subjects)?;
        if let [ours, peer] = &measured[..] {
            let what = format!("files a second, {callers} at a time");
            lab.judge_medians(&what, (ours, peer), Run::operations_per_s, AtLeast(5.0));
        }
    }
    Ok(())
}

//! A restart that an operator announces: `hdfs dfsadmin -shutdownDatanode HOST:PORT upgrade`.
//!
//! Writers are told by an out-of-band ack, OOB_RESTART. One that has no other datanode, or is on the
//! same host, waits for this one to come back instead of giving it up. So that its replicas can be
//! written on then, each that is being written gets a mark with a time: until then the next start takes
//! it for RBW as it was, and not for one that waits for recovery. Name and contents of the mark are
//! Hadoop's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringfs_protocol::block::{BlockId, ReplicaState};
use ringfs_protocol::meta_file;
use tokio::sync::watch;
use tracing::warn;

use crate::dataset::Dataset;
use crate::replica::Replica;

/// How long a mark counts (`dfs.datanode.restart.replica.expiration`).
const MARK_LIFE: Duration = Duration::from_secs(50);

/// Time for the announcement to leave, before the process ends.
pub const ANNOUNCEMENT_TIME: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub struct PlannedRestart {
    is_announced: watch::Sender<bool>,
}

impl Default for PlannedRestart {
    fn default() -> Self {
        Self { is_announced: watch::Sender::new(false) }
    }
}

impl PlannedRestart {
    /// Marks what is being written, then has every stream tell its writer.
    pub fn announce(&self, dataset: &Dataset) {
        let until = SystemTime::now() + MARK_LIFE;
        let is_in_reach =
            |replica: &std::sync::Arc<Replica>| !replica.volume().health().is_stalled();
        for replica in dataset.replicas_in(ReplicaState::Rbw).into_iter().filter(is_in_reach) {
            if let Err(error) = mark(&replica, until) {
                warn!(block = %replica.block(), %error, "cannot be written on after the restart");
            }
        }
        self.is_announced.send_replace(true);
    }

    pub fn is_announced(&self) -> bool {
        *self.is_announced.borrow()
    }

    /// Resolves once the restart is announced.
    pub fn announced(&self) -> impl Future<Output = ()> + use<> {
        let mut changes = self.is_announced.subscribe();
        async move {
            // The sender lives as long as the streams.
            let _ = changes.wait_for(|is_announced| *is_announced).await;
        }
    }
}

fn mark(replica: &Replica, until: SystemTime) -> io::Result<()> {
    let millis = until.duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_millis();
    fs::write(mark_path(&replica.volume().rbw_dir(), replica.id()), millis.to_string())
}

/// Takes the mark of a replica found in `rbw/`; true when it still counts.
pub fn take_mark(rbw: &Path, id: BlockId) -> bool {
    let path = mark_path(rbw, id);
    let Ok(text) = fs::read_to_string(&path) else { return false };
    // A mark that stays is too old at the next start.
    let _ = fs::remove_file(&path);
    let until = text.trim().parse().ok().map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
    until.is_some_and(|until| SystemTime::now() < until)
}

/// Beside `rbw`: Hadoop joins the names with a colon where a slash was meant.
fn mark_path(rbw: &Path, id: BlockId) -> PathBuf {
    let mut name = rbw.as_os_str().to_owned();
    name.push(format!(":.{}.restart", meta_file::block_file_name(id)));
    name.into()
}

#[cfg(test)]
mod tests {
    use ringfs_protocol::block::GenerationStamp;

    use super::*;
    use crate::dataset::tests::{extended, open};
    use crate::transitions::tests::{assert_holds, fill, node, on_ring, request};
    use crate::volume::tests::POOL;

    #[test]
    fn a_marked_replica_is_written_on_after_the_restart_and_only_the_next_one() {
        on_ring(async {
            let node = node();
            let restart = PlannedRestart::default();
            for id in [1, 2] {
                let mut writer = node.dataset.create_rbw(request(id, 1001, 0)).await.unwrap();
                fill(&mut writer, &[id as u8; 700], 4096).await;
                drop(writer);
                if id == 1 {
                    restart.announce(&node.dataset);
                }
            }
            assert!(restart.is_announced());
            restart.announced().await;
            let state = |dataset: &Dataset, id| dataset.replica(POOL, BlockId(id)).unwrap().state();
            let dataset = open(vec![node.volume.clone()]);
            assert_eq!(state(&dataset, 1), ReplicaState::Rbw);
            assert_eq!(state(&dataset, 2), ReplicaState::Rwr);
            let block = extended(1, 1001, 0);
            let stamp = GenerationStamp(1002);
            let writer = dataset.recover_rbw(&block, stamp, 700, 700).await.unwrap();
            dataset.finalize(writer, false, None).await.unwrap();
            assert_holds(&dataset.replica(POOL, BlockId(1)).unwrap(), &[1; 700]);

            let dataset = open(vec![node.volume.clone()]);
            assert_eq!(state(&dataset, 2), ReplicaState::Rwr);
            let past = SystemTime::now() - Duration::from_secs(1);
            mark(&dataset.replica(POOL, BlockId(2)).unwrap(), past).unwrap();
            assert_eq!(state(&open(vec![node.volume.clone()]), 2), ReplicaState::Rwr, "too late");
        });
    }
}

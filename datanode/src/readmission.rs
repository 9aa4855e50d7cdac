//! Replicas that a failed write put out of the books, and their way back.
//!
//! Their files are there yet, and may be all that is left of what a client was promised; without them
//! a lease could stay open until the datanode starts again. So they are looked for as a start does
//! (`start_scan`), past the page cache, once nothing can change the files any more:
//!
//! | the volume | the replica |
//! |---|---|
//! | is suspect or stalled, or an operation on some disk has not ended | waits |
//! | passed its check | is in the books as what its files are, and scrubbed first; the namenode gets a full report |
//! | has failed | stays out: a start finds it |
//!
//! A write of the same block that came meanwhile has precedence, and one that comes during the look is
//! refused. Nothing here is proof of the bytes: as after a start, readers and the scrubber verify them.
//!
//! Waiting are at most the replicas with failed writes, of which a volume survives
//! [`crate::limits::FAILED_WRITES_MAX`].

use std::fs;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use ringfs_protocol::block::{BlockId, ReplicaState};
use ringfs_protocol::collections::HashMap;
use ringfs_protocol::meta_file::{ReplicaFile, parse_replica_file_name};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::counters::Counters;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::failed_writes::{drop_from_page_cache, on_own_thread};
use crate::replica::Replica;
use crate::start_scan::{FoundReplica, scan_block};
use crate::volume::Volume;

#[derive(Debug, Default)]
pub(crate) struct OutOfBooks {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    replicas: HashMap<BlockId, Arc<Replica>>,
    looked_for: Option<Arc<Replica>>,
}

impl OutOfBooks {
    pub fn add(&self, replica: &Arc<Replica>) {
        self.waiting.lock().replicas.insert(replica.id(), replica.clone());
        self.added.notify_one();
    }

    pub fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

impl Waiting {
    pub fn looked_for(&self, id: BlockId) -> Option<&Arc<Replica>> {
        self.looked_for.as_ref().filter(|replica| replica.id() == id)
    }
}

impl Dataset {
    /// Resolves when replicas are out of the books.
    pub async fn some_are_out_of_books(&self) {
        while self.out_of_books.lock().replicas.is_empty() {
            self.out_of_books.added.notified().await;
        }
    }

    /// Returns how many replicas came back. To be called again while some are out: see the table.
    pub async fn readmit(&self, counters: &Counters) -> usize {
        if counters.operations_stuck.get() > 0 {
            return 0;
        }
        let mut returned = 0;
        for replica in self.ready_to_return() {
            let Some((id, volume)) = self.begin_look(&replica) else { continue };
            let looked_at = volume.clone();
            let found = on_own_thread(move || find(&looked_at, id)).await;
            let found = found.unwrap_or_else(|error| Err(DatanodeError::io("a thread")(error)));
            returned += usize::from(self.end_look(&volume, id, found));
        }
        returned
    }

    fn ready_to_return(&self) -> Vec<Arc<Replica>> {
        let mut waiting = self.out_of_books.lock();
        waiting.replicas.retain(|_, replica| !replica.volume().is_failed());
        let is_ready = |replica: &&Arc<Replica>| {
            let health = replica.volume().health();
            !health.is_suspect() && !health.is_stalled()
        };
        waiting.replicas.values().filter(is_ready).cloned().collect()
    }

    /// `None` where the block has been written again.
    fn begin_look(&self, replica: &Arc<Replica>) -> Option<(BlockId, Arc<Volume>)> {
        let mut waiting = self.out_of_books.lock();
        waiting.replicas.remove(&replica.id());
        if self.replica(self.pool_id(), replica.id()).is_some() {
            return None;
        }
        waiting.looked_for = Some(replica.clone());
        Some((replica.id(), replica.volume().clone()))
    }

    fn end_look(
        &self,
        volume: &Arc<Volume>,
        id: BlockId,
        found: Result<Option<FoundReplica>>,
    ) -> bool {
        let mut waiting = self.out_of_books.lock();
        let former = waiting.looked_for.take();
        match found {
            Ok(Some(found)) => {
                info!(block = %found.block, state = ?found.state, "is in the books again");
                self.add_found(volume, found, false);
                volume.suspects().push(id);
                true
            }
            Ok(None) => {
                warn!(block = %id, volume = volume.location(), "nothing is left of the replica");
                false
            }
            Err(error) => {
                warn!(block = %id, %error, "stays out of the books");
                volume.suspect(&error);
                waiting.replicas.extend(former.map(|former| (id, former)));
                false
            }
        }
    }
}

fn find(volume: &Volume, id: BlockId) -> Result<Option<FoundReplica>> {
    for dir in [volume.replica_dir(ReplicaState::Finalized, id), volume.rbw_dir()] {
        let failed = || DatanodeError::io(format!("looking for {id} in {}", dir.display()));
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed())?,
        };
        for entry in entries {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let of_block = match name.to_str().and_then(parse_replica_file_name) {
                Some(ReplicaFile::Block(found) | ReplicaFile::Meta(found, _)) => found == id,
                None => false,
            };
            if of_block {
                drop_from_page_cache(&entry.path()).map_err(failed())?;
            }
        }
    }
    scan_block(volume, id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_reports::BlockChange;
    use crate::dataset::tests::extended;
    use crate::transitions::tests::{Node, changes, fill, node, on_ring, request};

    /// A finalized replica of 700 bytes of which a later sync failed.
    async fn distrusted(node: &Node) {
        let mut writer = node.dataset.create_rbw(request(1, 1001, 4096)).await.unwrap();
        fill(&mut writer, &[7; 700], 0).await;
        let replica = writer.replica.clone();
        node.dataset.finalize(writer, false, None).await.unwrap();
        let held = replica.transition.lock().await;
        let source = io::Error::from_raw_os_error(libc::EIO);
        let error = DatanodeError::Io { what: "syncing".into(), source };
        node.dataset.distrust(&replica, &held, &error).await;
    }

    fn passes_its_check(node: &Node) {
        node.volume.health().cleared("the volume");
    }

    #[test]
    fn a_replica_comes_back_once_its_volume_has_passed_its_check() {
        on_ring(async {
            let node = node();
            let counters = Counters::default();
            distrusted(&node).await;
            changes(&node);
            assert_eq!(node.dataset.readmit(&counters).await, 0, "the volume is suspect");
            passes_its_check(&node);
            counters.operations_stuck.add(1);
            assert_eq!(node.dataset.readmit(&counters).await, 0, "a disk may change files yet");
            counters.operations_stuck.sub(1);
            assert_eq!(node.dataset.readmit(&counters).await, 1);
            let found = node.dataset.require(&extended(1, 1001, 0)).unwrap();
            assert_eq!(found.block(), extended(1, 1001, 700).block);
            assert_eq!(found.state(), ReplicaState::Finalized);
            assert_eq!(node.dataset.readmit(&counters).await, 0, "once");
        });
    }

    #[test]
    fn what_was_written_again_has_precedence() {
        on_ring(async {
            let node = node();
            distrusted(&node).await;
            let again = node.dataset.create_rbw(request(1, 1002, 4096)).await.unwrap();
            passes_its_check(&node);
            assert_eq!(node.dataset.readmit(&Counters::default()).await, 0);
            assert!(Arc::ptr_eq(
                &node.dataset.require(&extended(1, 1002, 0)).unwrap(),
                &again.replica
            ));
        });
    }

    #[test]
    fn nobody_writes_what_is_just_looked_for() {
        on_ring(async {
            let node = node();
            distrusted(&node).await;
            let replica = node.dataset.out_of_books.lock().replicas[&BlockId(1)].clone();
            let (id, volume) = node.dataset.begin_look(&replica).unwrap();
            assert!(node.dataset.create_rbw(request(1, 1002, 4096)).await.is_err());
            let found = find(&volume, id);
            assert!(node.dataset.end_look(&volume, id, found));
            assert!(node.dataset.require(&extended(1, 1001, 0)).is_ok());
        });
    }

    #[test]
    fn a_replica_that_cannot_be_read_waits_on_and_one_that_is_gone_does_not() {
        on_ring(async {
            let node = node();
            let counters = Counters::default();
            distrusted(&node).await;
            let dir = node.volume.replica_dir(ReplicaState::Finalized, BlockId(1));
            let moved = dir.with_extension("moved");
            fs::rename(&dir, &moved).unwrap();
            fs::write(&dir, "no directory").unwrap();
            passes_its_check(&node);
            assert_eq!(node.dataset.readmit(&counters).await, 0);
            assert!(node.volume.health().is_suspect());
            fs::remove_file(&dir).unwrap();
            passes_its_check(&node);
            changes(&node);
            assert_eq!(node.dataset.readmit(&counters).await, 0, "nothing is left");
            fs::rename(&moved, &dir).unwrap();
            assert_eq!(node.dataset.readmit(&counters).await, 0, "nobody waits any more");
            assert!(changes(&node).iter().all(|(_, change)| *change == BlockChange::Deleted));
        });
    }
}

//! What becomes of a replica whose write, sync or truncation failed.
//!
//! After such a failure nothing that memory says of its files holds: the kernel drops the pages that
//! it could not write and reports that once, so a second sync succeeds without anything on the device,
//! and a read finds in the page cache what the disk never got. So the operation is never repeated. The
//! replica is taken as after a restart: the page cache lets go of its files, and what their checksums
//! prove, read from the device, is its length from now on.
//!
//! | it was | and the files | it is |
//! |---|---|---|
//! | RBW | can be read | RWR of the proven length: not for readers, of use to a block recovery |
//! | RBW, FINALIZED or RUR | cannot, or are half moved | out of the books, until it is found again (`readmission`) |
//! | any of these | are on a disk that does not answer | the same: what was given up may still change them |
//! | TEMPORARY | - | deleted by whoever wrote it |
//!
//! A write that found no room (ENOSPC) loses nothing that was written before: the replica stays RBW.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ringfs_protocol::block::{Block, ReplicaState};
use rustix::fs::{Advice, fadvise};
use tokio::sync::{MutexGuard, oneshot};
use tracing::warn;

use crate::block_reports::BlockChange;
use crate::dataset::{Dataset, account_whole};
use crate::error::DatanodeError;
use crate::replica::{OnDisk, Replica, ReplicaEvent, ReplicaFiles};
use crate::start_scan::cut_to_good_len;

impl Dataset {
    /// Has the volume checked, and takes the replica for what its files prove. Nobody else has the
    /// files open for writing any more.
    pub(crate) async fn distrust(
        &self,
        replica: &Arc<Replica>,
        _held: &MutexGuard<'_, ()>,
        error: &DatanodeError,
    ) {
        replica.note_failed_write();
        replica.volume().suspect(error);
        if replica.state() == ReplicaState::Temporary || replica.is_deleted() {
            return;
        }
        let former = replica.block();
        let is_silent = error.is_overdue()
            || replica.has_overdue_write()
            || replica.volume().health().is_stalled();
        let proven = match replica.state() {
            _ if is_silent => Err(io::Error::other("its disk does not answer")),
            ReplicaState::Rbw => proven_len(replica.files()).await,
            _ => Err(io::Error::other("its files may be half changed")),
        };
        let restarted = proven.and_then(|len| {
            replica.set_all_lengths(OnDisk { len, last_chunk_checksum: None });
            replica
                .apply(ReplicaEvent::Restart, former.generation_stamp)
                .map(|()| len)
                .map_err(io::Error::other)
        });
        match restarted {
            Ok(proven_len) => {
                account_whole(replica);
                warn!(block = %former, proven_len, %error, "waits for recovery after a failed write");
            }
            Err(why) => {
                warn!(block = %former, %why, %error, "not served any more after a failed write");
                self.give_up(replica, former);
            }
        }
    }

    fn give_up(&self, replica: &Arc<Replica>, former: Block) {
        self.forget(replica);
        replica.lose();
        self.tell(replica, former, BlockChange::Deleted);
        self.out_of_books.add(replica);
    }
}

/// Reads files on a thread of its own, for a failing disk takes its time.
async fn proven_len(files: ReplicaFiles) -> io::Result<u64> {
    on_own_thread(move || {
        drop_from_page_cache(&files.meta)
            .and_then(|_| drop_from_page_cache(&files.data))
            .and_then(|file_len| cut_to_good_len(&files.data, &files.meta, file_len))
    })
    .await
    .and_then(|proven| proven)
}

/// A world has but one thread.
pub(crate) async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    #[cfg(feature = "simulation")]
    if ringfs_protocol::simulation::is_entered() {
        return Ok(work());
    }
    let (sender, result) = oneshot::channel();
    std::thread::Builder::new().name("failed-write".into()).spawn(move || {
        // Whoever asked is gone only while the datanode stops.
        let _ = sender.send(work());
    })?;
    result.await.map_err(io::Error::other)
}

/// Returns the file's length. Dirty pages are written first, for those stay in the cache; whether
/// that succeeds says nothing any more.
pub(crate) fn drop_from_page_cache(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let _ = file.sync_data();
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::tests::extended;
    use crate::transitions::tests::{changes, fill, node, on_ring, request};
    use ringfs_protocol::block::GenerationStamp;

    fn eio() -> DatanodeError {
        let source = io::Error::from_raw_os_error(libc::EIO);
        DatanodeError::Io { what: "syncing".into(), source }
    }

    #[test]
    fn a_replica_whose_sync_failed_is_worth_what_its_files_prove() {
        on_ring(async {
            let node = node();
            let mut writer = node.dataset.create_rbw(request(1, 1001, 4096)).await.unwrap();
            fill(&mut writer, &[7; 2000], 0).await;
            let replica = writer.replica.clone();
            // What was said to be there is not: the last checksums never reached the device.
            writer.meta.set_len(7 + 2 * 4).await.unwrap();
            replica.note_failed_write();
            node.dataset.abandon(writer).await.unwrap();
            assert_eq!(replica.state(), ReplicaState::Rwr);
            assert_eq!((replica.bytes_on_disk(), replica.bytes_acked()), (1024, 1024));
            assert_eq!(replica.visible_len(), None);
            let block = extended(1, 1001, 4096);
            let again = node.dataset.recover_rbw(&block, GenerationStamp(1002), 0, 4096).await;
            assert!(again.is_err(), "no pipeline goes on with it");
            let found = node.dataset.start_recovery(&block, GenerationStamp(1003)).await;
            let found = found.unwrap().unwrap();
            assert_eq!((found.original, found.block.num_bytes), (ReplicaState::Rwr, 1024));
        });
    }

    #[test]
    fn any_failed_write_has_the_volume_checked_but_a_full_disk_is_trusted() {
        let kinds = [
            (io::Error::from_raw_os_error(libc::ENOSPC), false, false),
            (io::Error::from_raw_os_error(libc::EDQUOT), false, false),
            (io::Error::from_raw_os_error(libc::EIO), true, false),
            (io::ErrorKind::TimedOut.into(), true, true),
        ];
        for (source, is_distrusted, may_still_happen) in kinds {
            on_ring(async move {
                let node = node();
                let writer = node.dataset.create_rbw(request(1, 1001, 4096)).await.unwrap();
                let error = DatanodeError::Io { what: "writing".into(), source };
                writer.replica.note_write_failure(&error);
                assert!(node.volume.health().is_suspect(), "{error}");
                assert_eq!(writer.replica.has_failed_write(), is_distrusted, "{error}");
                assert_eq!(writer.replica.has_overdue_write(), may_still_happen, "{error}");
            });
        }
    }

    #[test]
    fn a_replica_whose_files_cannot_be_read_is_out_of_the_books() {
        on_ring(async {
            let node = node();
            let mut writer = node.dataset.create_rbw(request(1, 1001, 4096)).await.unwrap();
            fill(&mut writer, &[7; 2000], 0).await;
            changes(&node);
            let replica = writer.replica.clone();
            std::fs::remove_file(replica.files().meta).unwrap();
            replica.note_failed_write();
            node.dataset.abandon(writer).await.unwrap();
            assert!(node.dataset.require(&extended(1, 1001, 0)).is_err());
            assert_eq!(changes(&node), [(extended(1, 1001, 2000).block, BlockChange::Deleted)]);
        });
    }

    #[test]
    fn a_finalized_replica_that_was_half_changed_is_not_served() {
        on_ring(async {
            let node = node();
            let mut writer = node.dataset.create_rbw(request(1, 1001, 4096)).await.unwrap();
            fill(&mut writer, &[7; 700], 0).await;
            let replica = writer.replica.clone();
            node.dataset.finalize(writer, false, None).await.unwrap();
            let held = replica.transition.lock().await;
            node.dataset.distrust(&replica, &held, &eio()).await;
            assert!(node.dataset.require(&extended(1, 1001, 0)).is_err());
            assert!(node.volume.health().is_suspect() && !node.volume.is_failed());
        });
    }
}

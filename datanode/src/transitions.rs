//! A replica's life on disk: each change of state with its file operations, in an order that leaves
//! either the old or the new state behind when the process dies in between.
//!
//! | transition | file operations, the last one is the commit |
//! |---|---|
//! | create | data file and meta file, then the meta's header, in `rbw/` or `tmp/` |
//! | finalize | truncate padded data to its length; sync if asked; meta, then data into `finalized/` |
//! | create whole (in `whole_replica`) | as create, with all data and checksums, then as finalize |
//! | append (in `reopening`) | data, then meta (under the new generation stamp) into `rbw/` |
//! | bump (in `reopening`) | rename meta to the new generation stamp |
//!
//! A step that fails leaves a replica that nobody trusts: see `failed_writes`.
//!
//! Data in `rbw/` with its meta still in `finalized/` is thus complete in either direction, and
//! `start_scan` makes it FINALIZED again. These run on a data thread.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ringfs_protocol::block::{Block, ExtendedBlock, GenerationStamp, ReplicaState};
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::messages::StorageTypeProto;
use ringfs_protocol::meta_file::encode_meta_header;
use tokio::sync::MutexGuard;

use crate::block_reports::BlockChange;
use crate::dataset::{Dataset, account_whole};
use crate::error::{DatanodeError, Result};
use crate::replica::{OnDisk, Replica, ReplicaEvent, WriterLease};
use crate::replica_files::{
    create_files, cut_and_move, move_data_first, move_meta_first, sync_dirs, sync_replica,
};
use crate::ring;
use crate::volume::SpacePromise;

/// How long a transition waits for a former writer to let go of a replica.
pub const WRITER_STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What a new replica needs to be known of.
#[derive(Clone, Debug)]
pub struct CreateReplica {
    /// `num_bytes` is a hint of the size to come, for which room is promised.
    pub block: ExtendedBlock,
    pub checksum: DataChecksum,
    pub storage_type: StorageTypeProto,
    /// The volume that the namenode chose, if it did.
    pub storage_id: Option<String>,
}

/// A replica opened for writing. Whoever holds this, and nobody else, writes its files; it must go
/// (through `finalize`, `abandon` or a drop) soon after [`ReplicaWriter::stopped`] resolves, and not
/// before its operations in flight are complete.
#[derive(Debug)]
pub struct ReplicaWriter {
    pub replica: Arc<Replica>,
    /// O_DIRECT when [`crate::volume::Volume::passes_by_cache`] says so and it is not
    /// `through_cache`, as that of a new replica is: whoever writes much turns it to O_DIRECT.
    pub data: ring::File,
    pub(crate) through_cache: bool,
    /// Through the page cache.
    pub meta: ring::File,
    /// The checksum of the meta file, which an append must keep whatever its client asks for.
    pub checksum: DataChecksum,
    /// Bytes that were there when the writer took over.
    pub start_len: u64,
    /// Size of the data file (padding and preallocation included), kept up to date by the writer:
    /// `finalize` truncates where it exceeds the replica's length.
    pub file_len: u64,
    /// To be told how much of the disk the files take ([`SpacePromise::taken`]).
    pub promise: Arc<SpacePromise>,
    pub(crate) lease: WriterLease,
}

impl ReplicaWriter {
    /// Resolves when a recovery or a deletion wants the writer out of the way.
    pub fn stopped(&self) -> impl Future<Output = ()> + use<> {
        self.lease.stopped()
    }

    pub fn is_stopped(&self) -> bool {
        self.lease.is_stopped()
    }
}

impl Dataset {
    /// A new RBW replica; RECEIVING is queued to the namenode.
    pub async fn create_rbw(&self, create: CreateReplica) -> Result<ReplicaWriter> {
        let writer = self.create(ReplicaState::Rbw, &create, false).await?;
        self.tell(&writer.replica, writer.replica.block(), BlockChange::Receiving);
        Ok(writer)
    }

    /// A new TEMPORARY replica. `replace_older` (a transfer on behalf of a client) allows it to take
    /// the place of a replica with an older generation stamp.
    pub async fn create_temporary(
        &self,
        create: CreateReplica,
        replace_older: bool,
    ) -> Result<ReplicaWriter> {
        self.create(ReplicaState::Temporary, &create, replace_older).await
    }

    /// RBW or TEMPORARY to FINALIZED at the length [`Replica::bytes_on_disk`]; RECEIVED is queued,
    /// with `delete_hint` (the datanode whose replica a balancer wants gone) if given.
    pub async fn finalize(
        &self,
        writer: ReplicaWriter,
        sync: bool,
        delete_hint: Option<String>,
    ) -> Result<Block> {
        let replica = writer.replica.clone();
        let held = replica.transition.lock().await;
        if writer.is_stopped() {
            return Err(DatanodeError::WriterStopped { block: replica.block() });
        }
        replica.check(ReplicaEvent::Finalize)?;
        // What a writer took over may have been durable, and readable when power is back: so it must
        // be again.
        let reopened = writer.start_len > 0
            && !ringfs_protocol::mutant!("datanode: finalize an append without a sync");
        let sync = sync || self.sync_on_close || reopened;
        let (len, stamp) = (replica.bytes_on_disk(), replica.generation_stamp());
        let from = replica.files();
        let to = replica.files_of(ReplicaState::Finalized, stamp);
        let cuts =
            writer.file_len != len && !ringfs_protocol::mutant!("datanode: forget the padding");
        let moved = async {
            if !sync {
                let cut = cuts.then_some((&writer.data, len));
                return cut_and_move(replica.volume(), cut, &from, &to).await;
            }
            let completed = async {
                if cuts {
                    writer.data.set_len(len).await?;
                }
                writer.data.sync_data().await?;
                writer.meta.sync_data().await
            };
            completed
                .await
                .map_err(DatanodeError::io(format!("completing {}", from.data.display())))?;
            move_meta_first(&from, &to).await?;
            sync_dirs(&to.data).await
        };
        if let Err(error) = moved.await {
            let temporary = replica.state() == ReplicaState::Temporary;
            drop(writer);
            self.distrust(&replica, &held, &error).await;
            if temporary {
                // Its files may be in either place; those left in `finalized/` a start finds.
                let _ = self.discard(&replica, &held).await;
            }
            return Err(error);
        }
        let received = BlockChange::Received { delete_hint };
        self.settle(&replica, &held, ReplicaEvent::Finalize, stamp, len, received)
    }

    /// The end of TRANSFER_RBW: what was TEMPORARY is a replica of a pipeline that goes on.
    /// Its bytes may have been durable where they came from. RECEIVING is queued: should the pipeline
    /// never reach it, as its client dies, only the namenode can have it recovered or deleted.
    pub async fn convert_temporary_to_rbw(&self, writer: ReplicaWriter) -> Result<Block> {
        let replica = writer.replica.clone();
        let _held = replica.transition.lock().await;
        if writer.is_stopped() {
            return Err(DatanodeError::WriterStopped { block: replica.block() });
        }
        replica.check(ReplicaEvent::ConvertToRbw)?;
        let stamp = replica.generation_stamp();
        let to = replica.files_of(ReplicaState::Rbw, stamp);
        let moved = async {
            move_data_first(&replica.files(), &to).await?;
            sync_replica(&to).await
        };
        moved.await.inspect_err(|error| self.note_failure(&replica, error))?;
        replica.set_bytes_received(replica.bytes_on_disk());
        replica.set_bytes_acked(replica.bytes_on_disk());
        replica.apply(ReplicaEvent::ConvertToRbw, stamp)?;
        account_whole(&replica);
        self.tell(&replica, replica.block(), BlockChange::Receiving);
        Ok(replica.block())
    }

    /// The writer gave up: an RBW replica stays for recovery as it is, a TEMPORARY one is deleted.
    pub async fn abandon(&self, writer: ReplicaWriter) -> Result<()> {
        let replica = writer.replica.clone();
        drop(writer);
        let held = replica.transition.lock().await;
        if replica.state() != ReplicaState::Temporary {
            account_whole(&replica);
            if replica.has_failed_write() {
                let failed = DatanodeError::WriteFailed { block: replica.block() };
                self.distrust(&replica, &held, &failed).await;
            }
            return Ok(());
        }
        match replica.check(ReplicaEvent::Delete) {
            Ok(()) => self.discard(&replica, &held).await,
            // Whoever wanted the writer to stop has deleted it.
            Err(_) => Ok(()),
        }
    }

    async fn create(
        &self,
        state: ReplicaState,
        create: &CreateReplica,
        replace_older: bool,
    ) -> Result<ReplicaWriter> {
        self.require_pool(&create.block.pool_id)?;
        let block = create.block.block;
        let (volume, promise) =
            self.choose_volume(block, create.storage_type, create.storage_id.as_deref())?;
        let empty = Block { num_bytes: 0, ..block };
        let replica = Arc::new(Replica::new(volume, empty, state, None));
        let held = replica.transition.lock().await;
        self.insert_new(&replica, &create.block, replace_older).await?;
        let files = replica.files();
        let opened = async {
            create_files(replica.volume(), &files, &encode_meta_header(create.checksum)).await
        };
        match opened.await {
            Ok((data, meta)) => {
                replica.note_made();
                let lease = replica.lease_to_writer();
                drop(held);
                let checksum = create.checksum;
                Ok(ReplicaWriter {
                    replica,
                    data,
                    through_cache: true,
                    meta,
                    checksum,
                    start_len: 0,
                    file_len: 0,
                    promise: Arc::new(promise),
                    lease,
                })
            }
            Err(error) => {
                self.note_failure(&replica, &error);
                // What was created goes; a failure to remove it adds nothing to the first one.
                let _ = self.discard(&replica, &held).await;
                Err(error)
            }
        }
    }

    /// Puts a new replica, whose transition the caller holds, into the map.
    pub(crate) async fn insert_new(
        &self,
        replica: &Arc<Replica>,
        block: &ExtendedBlock,
        replace_older: bool,
    ) -> Result<()> {
        if let Err(present) = self.insert(replica.clone()) {
            self.make_way(block, &present, replace_older).await?;
            self.insert(replica.clone()).map_err(|present| exists(block, &present))?;
        }
        if replica.volume().is_failed() {
            // Too late for those who took its replicas out of the books.
            self.forget(replica);
            return Err(DatanodeError::VolumeFailed { volume: replica.volume().location() });
        }
        Ok(())
    }

    /// Removes a replica with an older generation stamp in favour of a new TEMPORARY one.
    async fn make_way(
        &self,
        block: &ExtendedBlock,
        present: &Arc<Replica>,
        replace_older: bool,
    ) -> Result<()> {
        if !replace_older || present.generation_stamp() >= block.block.generation_stamp {
            return Err(exists(block, present));
        }
        let held = self.hold_in_time(present).await?;
        present.check(ReplicaEvent::CreateTemporary)?;
        if present.generation_stamp() >= block.block.generation_stamp {
            return Err(exists(block, present));
        }
        self.discard(present, &held).await
    }

    /// The end of every way to FINALIZED, once the files are in their place.
    pub(crate) fn settle(
        &self,
        replica: &Arc<Replica>,
        _held: &MutexGuard<'_, ()>,
        event: ReplicaEvent,
        stamp: GenerationStamp,
        len: u64,
        received: BlockChange,
    ) -> Result<Block> {
        self.settle_untold(replica, event, stamp, len)?;
        let block = replica.block();
        self.tell(replica, block, received);
        Ok(block)
    }

    /// [`Dataset::settle`], but the namenode is not told yet.
    pub(crate) fn settle_untold(
        &self,
        replica: &Arc<Replica>,
        event: ReplicaEvent,
        stamp: GenerationStamp,
        len: u64,
    ) -> Result<()> {
        replica.set_all_lengths(OnDisk { len, last_chunk_checksum: None });
        replica.apply(event, stamp)?;
        account_whole(replica);
        Ok(())
    }

    /// [`Dataset::hold`] on a data thread, bounded.
    pub(crate) async fn hold_in_time<'a>(
        &self,
        replica: &'a Replica,
    ) -> Result<MutexGuard<'a, ()>> {
        ring::timeout(WRITER_STOP_TIMEOUT, self.hold(replica)).await.map_err(|_| {
            DatanodeError::WriterStuck {
                block: replica.block(),
                timeout_ms: WRITER_STOP_TIMEOUT.as_millis() as u64,
            }
        })
    }

    /// A file operation on the replica failed: its volume is checked, and the scrubber reads it.
    pub(crate) fn note_failure(&self, replica: &Replica, error: &DatanodeError) {
        if error.is_of_files() {
            replica.volume().suspect(error);
            replica.volume().suspects().push(replica.id());
        }
    }
}

fn exists(block: &ExtendedBlock, present: &Replica) -> DatanodeError {
    DatanodeError::ReplicaExists {
        block: block.clone(),
        state: present.state(),
        found_stamp: present.generation_stamp().0,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::future::Future;

    use super::*;
    use crate::dataset::tests::{extended, open, put_finalized};
    use crate::replica_length::{DEFAULT_CHECKSUM, meta_len};
    use crate::volume::Volume;
    use crate::volume::tests::{POOL, buffered_volume_at};
    use ringfs_protocol::block::BlockId;

    pub fn on_ring(test: impl Future<Output = ()> + 'static) {
        ring::block_on(test).unwrap();
    }

    pub struct Node {
        pub dataset: Arc<Dataset>,
        pub volume: Arc<Volume>,
        pub _temp: tempfile::TempDir,
    }

    /// Volumes without O_DIRECT, for these tests write bytes at any offset.
    pub fn node() -> Node {
        let temp = tempfile::tempdir().unwrap();
        let volume = buffered_volume_at(temp.path().join("d"));
        Node { dataset: Arc::new(open(vec![volume.clone()])), volume, _temp: temp }
    }

    pub fn request(id: u64, stamp: u64, size_hint: u64) -> CreateReplica {
        CreateReplica {
            block: extended(id, stamp, size_hint),
            checksum: DEFAULT_CHECKSUM,
            storage_type: StorageTypeProto::Disk,
            storage_id: None,
        }
    }

    /// Makes the replica `bytes` long, as a write pipeline does, with `extra` bytes of preallocation.
    pub async fn fill(writer: &mut ReplicaWriter, bytes: &[u8], extra: u64) {
        let mut crcs = vec![0; DEFAULT_CHECKSUM.checksums_len(bytes.len() as u64) as usize];
        DEFAULT_CHECKSUM.fill(bytes, &mut crcs);
        writer.data.write_all_at(bytes.to_vec().into(), 0).await.unwrap();
        writer.meta.write_all_at(crcs.into(), 7).await.unwrap();
        writer.file_len = bytes.len() as u64 + extra;
        writer.data.set_len(writer.file_len).await.unwrap();
        let len = bytes.len() as u64;
        writer.replica.set_all_lengths(OnDisk { len, last_chunk_checksum: None });
    }

    /// The replica's files hold exactly `bytes` and their checksums.
    pub fn assert_holds(replica: &Replica, bytes: &[u8]) {
        let files = replica.files();
        assert_eq!(fs::read(&files.data).unwrap(), bytes);
        let meta = fs::read(&files.meta).unwrap();
        assert_eq!(meta.len() as u64, meta_len(DEFAULT_CHECKSUM, bytes.len() as u64));
        DEFAULT_CHECKSUM.verify(bytes, &meta[7..]).unwrap();
    }

    pub fn changes(node: &Node) -> Vec<(Block, BlockChange)> {
        node.dataset.reports().take().into_iter().flat_map(|storage| storage.changes).collect()
    }

    pub fn received() -> BlockChange {
        BlockChange::RECEIVED
    }

    #[test]
    fn a_block_is_created_filled_and_finalized() {
        on_ring(async {
            let node = node();
            let mut writer = node.dataset.create_rbw(request(1, 1001, 4096)).await.unwrap();
            assert_eq!(changes(&node), [(extended(1, 1001, 0).block, BlockChange::Receiving)]);
            fill(&mut writer, &[7; 700], 5000).await;
            let replica = writer.replica.clone();
            let block = node.dataset.finalize(writer, true, Some("other".into())).await.unwrap();
            assert_eq!(block, extended(1, 1001, 700).block);
            assert_eq!(replica.state(), ReplicaState::Finalized);
            assert!(replica.files().data.ends_with("finalized/subdir0/subdir0/blk_1"));
            assert_holds(&replica, &[7; 700]);
            assert_eq!(fs::read_dir(node.volume.rbw_dir()).unwrap().count(), 0);
            let hinted = BlockChange::Received { delete_hint: Some("other".into()) };
            assert_eq!(changes(&node), [(block, hinted)]);
            assert_eq!(node.volume.usage().dfs_used_bytes, 700 + 7 + 8);
            assert_eq!(node.volume.promised_bytes(), 0);
        });
    }

    #[test]
    fn a_block_that_exists_is_not_created_again() {
        on_ring(async {
            let node = node();
            let writer = node.dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
            for stamp in [1000, 1001, 1002] {
                let error = node.dataset.create_rbw(request(1, stamp, 0)).await.unwrap_err();
                assert!(matches!(error, DatanodeError::ReplicaExists { .. }), "{error}");
            }
            let error =
                node.dataset.create_temporary(request(1, 1002, 0), false).await.unwrap_err();
            assert!(matches!(error, DatanodeError::ReplicaExists { .. }), "{error}");
            assert!(!writer.is_stopped(), "the first writer goes on");
            let foreign = CreateReplica {
                block: ExtendedBlock { pool_id: "BP-other".into(), ..extended(2, 1001, 0) },
                ..request(2, 1001, 0)
            };
            let error = node.dataset.create_rbw(foreign).await.unwrap_err();
            assert!(matches!(error, DatanodeError::UnknownPool { .. }), "{error}");
        });
    }

    #[test]
    fn a_full_volume_refuses_and_leaves_nothing() {
        on_ring(async {
            let node = node();
            let error = node.dataset.create_rbw(request(1, 1001, u64::MAX / 4)).await.unwrap_err();
            assert!(matches!(error, DatanodeError::NoSpace { .. }), "{error}");
            assert!(node.dataset.replica(POOL, BlockId(1)).is_none());
            assert_eq!(node.volume.promised_bytes(), 0);
        });
    }

    #[test]
    fn a_failed_create_leaves_nothing() {
        on_ring(async {
            let node = node();
            fs::create_dir(node.volume.rbw_dir().join("blk_1_1001.meta")).unwrap();
            let error = node.dataset.create_rbw(request(1, 1001, 0)).await.unwrap_err();
            assert!(error.to_string().contains("blk_1_1001.meta"), "{error}");
            assert!(node.dataset.replica(POOL, BlockId(1)).is_none());
            assert!(!node.volume.rbw_dir().join("blk_1").exists());
            assert_eq!(node.volume.promised_bytes(), 0);
        });
    }

    #[test]
    fn a_temporary_replica_becomes_finalized_or_rbw_or_nothing() {
        on_ring(async {
            let node = node();
            let dataset = &node.dataset;
            let mut writer = dataset.create_temporary(request(1, 1001, 0), false).await.unwrap();
            fill(&mut writer, &[1; 600], 0).await;
            assert!(dataset.report().concat().is_empty(), "TEMPORARY is nobody's business");
            dataset.finalize(writer, false, None).await.unwrap();
            assert_holds(&dataset.replica(POOL, BlockId(1)).unwrap(), &[1; 600]);

            let mut writer = dataset.create_temporary(request(2, 1001, 0), false).await.unwrap();
            fill(&mut writer, &[2; 600], 0).await;
            dataset.convert_temporary_to_rbw(writer).await.unwrap();
            let replica = dataset.replica(POOL, BlockId(2)).unwrap();
            assert_eq!((replica.state(), replica.visible_len()), (ReplicaState::Rbw, Some(600)));
            let told = changes(&node);
            assert!(told.contains(&(replica.block(), BlockChange::Receiving)), "{told:?}");
            assert!(replica.files().data.starts_with(node.volume.rbw_dir()));
            assert_holds(&replica, &[2; 600]);

            let writer = dataset.create_temporary(request(3, 1001, 0), false).await.unwrap();
            let files = writer.replica.files();
            dataset.abandon(writer).await.unwrap();
            assert!(dataset.replica(POOL, BlockId(3)).is_none() && !files.data.exists());
        });
    }

    #[test]
    fn a_transfer_replaces_an_older_replica_only() {
        on_ring(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, &[1; 600]);
            let dataset = open(vec![node.volume.clone()]);
            let error = dataset.create_temporary(request(1, 1001, 0), true).await.unwrap_err();
            assert!(matches!(error, DatanodeError::ReplicaExists { .. }), "{error}");
            let mut writer = dataset.create_temporary(request(1, 1002, 0), true).await.unwrap();
            fill(&mut writer, &[9; 300], 0).await;
            dataset.finalize(writer, false, None).await.unwrap();
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            assert_eq!(replica.generation_stamp().0, 1002);
            assert_holds(&replica, &[9; 300]);
        });
    }

    #[test]
    fn a_stopped_writer_cannot_finalize() {
        on_ring(async {
            let node = node();
            let mut writer = node.dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
            fill(&mut writer, &[4; 100], 0).await;
            writer.replica.stop_request().unwrap();
            let error = node.dataset.finalize(writer, false, None).await.unwrap_err();
            assert!(matches!(error, DatanodeError::WriterStopped { .. }), "{error}");
            let replica = node.dataset.replica(POOL, BlockId(1)).unwrap();
            assert_eq!(replica.state(), ReplicaState::Rbw);
        });
    }

    #[test]
    fn what_a_crash_leaves_of_a_write_is_recovered_at_start() {
        on_ring(async {
            let node = node();
            let mut writer = node.dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
            fill(&mut writer, &[5; 777], 1 << 16).await;
            drop(writer);
            let again = open(vec![node.volume.clone()]);
            let replica = again.replica(POOL, BlockId(1)).unwrap();
            assert_eq!((replica.state(), replica.bytes_on_disk()), (ReplicaState::Rwr, 777));
            assert_holds(&replica, &[5; 777]);
        });
    }
}

//! All replicas of this datanode: the map from block id to replica, the volumes, and what the
//! namenode still has to be told.
//!
//! Shared by all threads. The map is sharded; a lookup takes one short lock. What changes a replica
//! is in `transitions` and `replica_recovery`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use ringfs_protocol::block::{Block, BlockId, ExtendedBlock, ReplicaState};
use ringfs_protocol::block_report::ReportedReplica;
use ringfs_protocol::collections::HashMap;
use ringfs_protocol::messages::StorageTypeProto;
use tokio::sync::{MutexGuard, Notify};
use tracing::{info, warn};

use crate::block_reports::{BlockChange, ReportQueue};
use crate::deletion::Deleter;
use crate::error::{DatanodeError, Result};
use crate::readmission::OutOfBooks;
use crate::replica::{Replica, ReplicaEvent};
use crate::replica_length::DEFAULT_CHECKSUM;
use crate::start_scan::{FoundReplica, scan_volumes};
use crate::volume::{SpacePromise, Volume};
use crate::volume_health::VolumeFailure;
use crate::volume_watch;

/// Power of two: the shard is taken from the block id's low bits, which are consecutive.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<BlockId, Arc<Replica>>>;

#[derive(Debug)]
pub struct Dataset {
    pool_id: String,
    volumes: Vec<Arc<Volume>>,
    /// One for each volume, in their order.
    deleters: Vec<Deleter>,
    shards: [Shard; SHARDS],
    reports: Arc<ReportQueue>,
    /// Directories that could not be opened at start.
    failed_at_start: Vec<VolumeFailure>,
    volume_failed: Arc<Notify>,
    pub(crate) out_of_books: OutOfBooks,
    /// Where the next choice among equal volumes begins.
    next_volume: AtomicUsize,
    pub(crate) sync_on_close: bool,
}

impl Dataset {
    /// Reads what the volumes hold, and has each watched; one that cannot be read has failed.
    pub fn open(
        pool_id: &str,
        volumes: Vec<Arc<Volume>>,
        failed_at_start: Vec<VolumeFailure>,
        delete_duplicates: bool,
        sync_on_close: bool,
        disk_timeout: Duration,
    ) -> Result<Self> {
        let reports = Arc::new(ReportQueue::default());
        let deleters = volumes
            .iter()
            .map(|volume| Deleter::start(volume.clone(), reports.clone()))
            .collect::<Result<Vec<_>>>()?;
        let dataset = Self {
            pool_id: pool_id.to_owned(),
            volumes,
            deleters,
            shards: std::array::from_fn(|_| Shard::default()),
            reports,
            failed_at_start,
            volume_failed: Arc::default(),
            out_of_books: OutOfBooks::default(),
            next_volume: AtomicUsize::new(0),
            sync_on_close,
        };
        let scans = scan_volumes(&dataset.volumes, disk_timeout)?;
        for ((volume, deleter), scan) in dataset.volumes.iter().zip(&dataset.deleters).zip(scans) {
            match scan {
                Ok(scan) => {
                    deleter.delete(scan.leftovers);
                    for replica in scan.replicas {
                        dataset.add_found(volume, replica, delete_duplicates);
                    }
                }
                Err(error) => volume.mark_failed(&error),
            }
            volume_watch::start(volume, dataset.volume_failed.clone())?;
        }
        Ok(dataset)
    }

    /// Of all volumes, those that could not be opened included.
    pub fn failures(&self) -> Vec<VolumeFailure> {
        let failed = self.volumes.iter().filter_map(|volume| volume.health().failure());
        self.failed_at_start.iter().cloned().chain(failed).collect()
    }

    pub fn configured_volumes(&self) -> usize {
        self.volumes.len() + self.failed_at_start.len()
    }

    /// Resolves when a volume has failed.
    pub async fn volume_failed(&self) {
        self.volume_failed.notified().await;
    }

    /// Takes the replicas of failed volumes out of the books; their files stay as they are, and their
    /// writers are told to stop.
    pub fn lose_failed_volumes(&self) {
        let mut lost = 0;
        for shard in &self.shards {
            shard.write().retain(|_, replica| {
                let is_lost = replica.volume().is_failed();
                if is_lost {
                    replica.lose();
                    lost += 1;
                }
                !is_lost
            });
        }
        if lost > 0 {
            warn!(replicas = lost, "replicas lost with their volumes");
        }
    }

    pub fn pool_id(&self) -> &str {
        &self.pool_id
    }

    pub fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    pub fn reports(&self) -> &Arc<ReportQueue> {
        &self.reports
    }

    pub fn replica_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// `None` for a block that is not here, or of another pool.
    pub fn replica(&self, pool_id: &str, id: BlockId) -> Option<Arc<Replica>> {
        if pool_id != self.pool_id {
            return None;
        }
        self.shard(id).read().get(&id).cloned()
    }

    /// The replica, or the error that says whether its pool or the block itself is unknown.
    pub fn require(&self, block: &ExtendedBlock) -> Result<Arc<Replica>> {
        self.require_pool(&block.pool_id)?;
        self.replica(&block.pool_id, block.block.id).ok_or_else(|| DatanodeError::ReplicaNotFound {
            block: block.clone(),
            why: "no such block here",
        })
    }

    /// The replica, where its disk answers as far as is known: nothing more is begun on one that does
    /// not, so that what is stuck there stays bounded.
    pub fn require_answering(&self, block: &ExtendedBlock) -> Result<Arc<Replica>> {
        let replica = self.require(block)?;
        self.expect_answering(&replica)?;
        Ok(replica)
    }

    pub(crate) fn expect_answering(&self, replica: &Replica) -> Result<()> {
        match replica.volume().health().is_stalled() {
            true => Err(DatanodeError::VolumeStalled { volume: replica.volume().location() }),
            false => Ok(()),
        }
    }

    pub fn require_pool(&self, pool_id: &str) -> Result<()> {
        if pool_id == self.pool_id {
            return Ok(());
        }
        Err(DatanodeError::UnknownPool { asked: pool_id.to_owned(), serving: self.pool_id.clone() })
    }

    /// All reportable replicas, one list for each volume in their order.
    pub fn report(&self) -> Vec<Vec<ReportedReplica>> {
        let mut reports = vec![Vec::new(); self.volumes.len()];
        for shard in &self.shards {
            for replica in shard.read().values() {
                if let Some(state) = replica.reported_state() {
                    reports[self.volume_index(replica.volume())].push((replica.block(), state));
                }
            }
        }
        reports
    }

    pub fn replicas_in(&self, state: ReplicaState) -> Vec<Arc<Replica>> {
        let shards = self.shards.iter();
        let in_state = |shard: &Shard| {
            let replicas = shard.read();
            let chosen = replicas.values().filter(|replica| replica.state() == state);
            chosen.cloned().collect::<Vec<_>>()
        };
        shards.flat_map(in_state).collect()
    }

    /// Deletes the replica if it has exactly this generation stamp, as INVALIDATE asks. A writer is
    /// told to stop first. The files are out of the way on return, and unlinked later.
    pub async fn delete(&self, block: &ExtendedBlock) -> Result<()> {
        let replica = self.require_answering(block)?;
        let (found, asked) = (replica.generation_stamp(), block.block.generation_stamp);
        if found != asked {
            return Err(DatanodeError::UnexpectedReplica {
                block: replica.block(),
                why: format!("its deletion is asked for with generation stamp {asked}"),
            });
        }
        let held = self.hold(&replica).await;
        self.remove(&replica, &held, true)
    }

    /// Waits until the replica has no writer any more (it is told to stop) and nobody else changes
    /// it. Callers bound the wait: a writer may be stuck in its disk.
    pub(crate) async fn hold<'a>(&self, replica: &'a Replica) -> MutexGuard<'a, ()> {
        loop {
            if let Some(writer) = replica.stop_request() {
                writer.closed().await;
            }
            let held = replica.transition.lock().await;
            if replica.stop_request().is_none() {
                return held;
            }
        }
    }

    /// Takes the replica out of the map and its files out of their place.
    pub(crate) fn remove(
        &self,
        replica: &Arc<Replica>,
        _held: &MutexGuard<'_, ()>,
        report: bool,
    ) -> Result<()> {
        replica.apply(ReplicaEvent::Delete, replica.generation_stamp())?;
        self.forget(replica);
        let deleter = &self.deleters[self.volume_index(replica.volume())];
        deleter.retire(replica, report)?;
        #[cfg(feature = "simulation")]
        ringfs_protocol::simulation::see(ringfs_protocol::simulation::Sight::Deleted(
            replica.block(),
        ));
        Ok(())
    }

    /// [`Dataset::remove`] on a data thread, of a replica that the namenode does not count on. The
    /// files stay where the disk does not answer; the next start deletes them, or has the namenode
    /// do so.
    pub(crate) async fn discard(
        &self,
        replica: &Arc<Replica>,
        _held: &MutexGuard<'_, ()>,
    ) -> Result<()> {
        replica.apply(ReplicaEvent::Delete, replica.generation_stamp())?;
        self.forget(replica);
        if replica.volume().health().is_stalled() {
            return Ok(());
        }
        let deleter = &self.deleters[self.volume_index(replica.volume())];
        deleter.retire_on_ring(replica).await
    }

    /// Lets go of the directories, so that another process may have them.
    pub fn unlock_directories(&self) {
        self.volumes.iter().for_each(|volume| volume.unlock());
    }

    pub(crate) fn forget(&self, replica: &Arc<Replica>) {
        let mut shard = self.shard(replica.id()).write();
        if shard.get(&replica.id()).is_some_and(|present| Arc::ptr_eq(present, replica)) {
            shard.remove(&replica.id());
        }
    }

    /// Adds a new replica, or returns the one that is there or just looked for.
    pub(crate) fn insert(&self, replica: Arc<Replica>) -> std::result::Result<(), Arc<Replica>> {
        let out_of_books = self.out_of_books.lock();
        match out_of_books.looked_for(replica.id()) {
            Some(former) => Err(former.clone()),
            None => self.enter(replica),
        }
    }

    fn enter(&self, replica: Arc<Replica>) -> std::result::Result<(), Arc<Replica>> {
        match self.shard(replica.id()).write().entry(replica.id()) {
            std::collections::hash_map::Entry::Occupied(present) => Err(present.get().clone()),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(replica);
                Ok(())
            }
        }
    }

    pub(crate) fn tell(&self, replica: &Replica, block: Block, change: BlockChange) {
        self.reports.push(replica.volume().storage_id(), block, change);
    }

    /// A volume for a new block of `bytes`: the one named by `storage_id` if it has room, else the
    /// roomiest of the storage type, else the roomiest of any. Of volumes that have about the same
    /// room each gets its turn.
    pub(crate) fn choose_volume(
        &self,
        block: Block,
        storage_type: StorageTypeProto,
        storage_id: Option<&str>,
    ) -> Result<(Arc<Volume>, SpacePromise)> {
        let turn = self.next_volume.fetch_add(1, Ordering::Relaxed);
        let mut candidates: Vec<(u64, usize, &Arc<Volume>)> = Vec::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            if volume.is_failed() || volume.health().is_stalled() {
                continue;
            }
            // In steps of 1/16 of the capacity, so that small differences do not send all writers
            // to one disk.
            let usage = volume.usage();
            let step = (usage.capacity_bytes / 16).max(1);
            let turn = (index + turn) % self.volumes.len();
            candidates.push((usage.remaining_bytes / step, turn, volume));
        }
        candidates.sort_by_key(|(room, turn, volume)| {
            let is_sound = !volume.health().is_suspect();
            let named = storage_id == Some(volume.storage_id());
            let same_type = volume.storage_type() == storage_type;
            std::cmp::Reverse((is_sound, named, same_type, *room, *turn))
        });
        for (_, _, volume) in &candidates {
            if let Some(promise) = volume.promise(block.num_bytes) {
                return Ok(((*volume).clone(), promise));
            }
        }
        Err(DatanodeError::NoSpace {
            block,
            needed_bytes: block.num_bytes,
            volumes: self.describe_room(),
        })
    }

    fn describe_room(&self) -> String {
        let rooms = self.volumes.iter().map(|volume| {
            let root = volume.root().display();
            match volume.is_failed() {
                true => format!("{root} has failed"),
                false if volume.health().is_stalled() => format!("{root} does not answer"),
                false => format!("{root} has {}", volume.usage().remaining_bytes),
            }
        });
        rooms.collect::<Vec<_>>().join(", ")
    }

    /// A replica found on a disk; the lesser of two of the same block goes.
    pub(crate) fn add_found(
        &self,
        volume: &Arc<Volume>,
        found: FoundReplica,
        delete_duplicates: bool,
    ) {
        let replica = Arc::new(Replica::new(volume.clone(), found.block, found.state, None));
        account_whole(&replica);
        let present = match self.enter(replica.clone()) {
            Ok(()) => return,
            Err(present) => present,
        };
        let former = FoundReplica { block: present.block(), state: present.state() };
        let (winner, loser) =
            if found.beats(&former) { (replica, present) } else { (present, replica) };
        self.shard(winner.id()).write().insert(winner.id(), winner.clone());
        let (kept, lost) = (winner.files(), loser.files());
        warn!(
            kept = %kept.data.display(), kept_block = %winner.block(),
            other = %lost.data.display(), other_block = %loser.block(), delete_duplicates,
            "two replicas of one block"
        );
        // Two entries of one directory may share a file; what is kept must not lose it.
        let files: Vec<&Path> = [&lost.data, &lost.meta]
            .into_iter()
            .filter(|path| **path != kept.data && **path != kept.meta)
            .map(|path| path.as_path())
            .collect();
        if !delete_duplicates {
            return;
        }
        let deleter = &self.deleters[self.volume_index(loser.volume())];
        match deleter.retire_files(&files, loser.accounted_bytes()) {
            Ok(()) => info!(block = %loser.block(), "the lesser replica is deleted"),
            Err(error) => warn!(%error, "the lesser replica stays, and is not served"),
        }
    }

    fn volume_index(&self, volume: &Arc<Volume>) -> usize {
        self.volumes
            .iter()
            .position(|known| Arc::ptr_eq(known, volume))
            .expect("replicas are made on the dataset's own volumes only")
    }

    fn shard(&self, id: BlockId) -> &Shard {
        &self.shards[id.0 as usize % SHARDS]
    }
}

/// Counts a replica's two files in its volume's `dfs_used`.
pub(crate) fn account_whole(replica: &Replica) {
    let len = replica.bytes_on_disk();
    replica.account(len + crate::replica_length::meta_len(DEFAULT_CHECKSUM, len));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::DISK_OPERATION_TIMEOUT;
    use crate::volume::tests::{POOL, volume_at};
    use ringfs_protocol::block::GenerationStamp;
    use std::fs;

    pub fn extended(id: u64, stamp: u64, len: u64) -> ExtendedBlock {
        let block =
            Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), num_bytes: len };
        ExtendedBlock { pool_id: POOL.into(), block }
    }

    pub fn put_finalized(volume: &Volume, id: u64, stamp: u64, bytes: &[u8]) {
        put(volume, ReplicaState::Finalized, id, stamp, bytes);
    }

    pub fn put(volume: &Volume, state: ReplicaState, id: u64, stamp: u64, bytes: &[u8]) {
        let dir = volume.replica_dir(state, BlockId(id));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("blk_{id}")), bytes).unwrap();
        let mut meta = ringfs_protocol::meta_file::encode_meta_header(DEFAULT_CHECKSUM).to_vec();
        let mut crcs = vec![0; DEFAULT_CHECKSUM.checksums_len(bytes.len() as u64) as usize];
        DEFAULT_CHECKSUM.fill(bytes, &mut crcs);
        meta.extend(crcs);
        fs::write(dir.join(format!("blk_{id}_{stamp}.meta")), meta).unwrap();
    }

    pub fn open(volumes: Vec<Arc<Volume>>) -> Dataset {
        Dataset::open(POOL, volumes, Vec::new(), true, false, DISK_OPERATION_TIMEOUT).unwrap()
    }

    #[test]
    fn of_two_replicas_of_a_block_the_better_one_is_served_and_the_other_deleted() {
        let temp = tempfile::tempdir().unwrap();
        let volumes = vec![volume_at(temp.path().join("1")), volume_at(temp.path().join("2"))];
        put_finalized(&volumes[0], 1, 1001, &[1; 600]);
        put_finalized(&volumes[1], 1, 1002, &[1; 500]);
        put_finalized(&volumes[0], 2, 1001, &[2; 600]);
        put_finalized(&volumes[1], 2, 1001, &[2; 300]);
        // In one volume: finalized, and interrupted under an older generation stamp.
        put_finalized(&volumes[0], 3, 1005, &[3; 600]);
        put(&volumes[0], ReplicaState::Rbw, 3, 1004, &[3; 900]);
        let dataset = open(volumes.clone());
        let served = |id| {
            let replica = dataset.replica(POOL, BlockId(id)).unwrap();
            let block = replica.block();
            (block.generation_stamp.0, block.num_bytes, replica.volume().root().to_owned())
        };
        assert_eq!(served(1), (1002, 500, volumes[1].root().to_owned()));
        assert_eq!(served(2), (1001, 600, volumes[0].root().to_owned()));
        assert_eq!(served(3), (1005, 600, volumes[0].root().to_owned()));
        assert_eq!(dataset.replica_count(), 3);
        let exists = |volume: usize, id| {
            let volume = &volumes[volume];
            let dir = volume.replica_dir(ReplicaState::Finalized, BlockId(id));
            dir.join(format!("blk_{id}")).exists()
        };
        assert!(!exists(0, 1) && exists(1, 1) && exists(0, 2) && !exists(1, 2) && exists(0, 3));
        assert!(!volumes[0].rbw_dir().join("blk_3").exists());
        drop(dataset);
        assert_eq!(open(volumes).replica_count(), 3);
    }

    #[test]
    fn the_full_report_lists_each_volumes_replicas() {
        let temp = tempfile::tempdir().unwrap();
        let volumes = vec![volume_at(temp.path().join("1")), volume_at(temp.path().join("2"))];
        put_finalized(&volumes[0], 1, 1001, &[1; 600]);
        put(&volumes[1], ReplicaState::Rbw, 2, 1002, &[2; 700]);
        let report = open(volumes).report();
        assert_eq!(report[0], [(extended(1, 1001, 600).block, ReplicaState::Finalized)]);
        assert_eq!(report[1], [(extended(2, 1002, 700).block, ReplicaState::Rwr)]);
    }

    #[tokio::test]
    async fn a_deletion_must_name_the_generation_stamp_and_is_reported() {
        let temp = tempfile::tempdir().unwrap();
        let volume = volume_at(temp.path().join("1"));
        put_finalized(&volume, 1, 1001, &[1; 600]);
        let dataset = open(vec![volume.clone()]);
        assert!(volume.usage().dfs_used_bytes >= 600);
        let stale = dataset.delete(&extended(1, 1000, 600)).await.unwrap_err();
        assert!(stale.to_string().contains("generation stamp 1000"), "{stale}");
        dataset.delete(&extended(1, 1001, 600)).await.unwrap();
        assert!(dataset.replica(POOL, BlockId(1)).is_none());
        let again = dataset.delete(&extended(1, 1001, 600)).await;
        assert!(matches!(again, Err(DatanodeError::ReplicaNotFound { .. })));
        dataset.reports().due().await;
        let taken = dataset.reports().take();
        assert_eq!(taken[0].changes, [(extended(1, 1001, 600).block, BlockChange::Deleted)]);
        assert_eq!(volume.usage().dfs_used_bytes, 0);
    }

    #[tokio::test]
    async fn a_deletion_waits_until_the_writer_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let volume = volume_at(temp.path().join("1"));
        put(&volume, ReplicaState::Rbw, 1, 1001, &[1; 600]);
        let dataset = Arc::new(open(vec![volume]));
        let replica = dataset.replica(POOL, BlockId(1)).unwrap();
        let lease = replica.lease_to_writer();
        let deletion = {
            let dataset = dataset.clone();
            tokio::spawn(async move { dataset.delete(&extended(1, 1001, 600)).await })
        };
        lease.stopped().await;
        assert!(replica.files().data.exists(), "not while the writer may still write");
        drop(lease);
        deletion.await.unwrap().unwrap();
        assert!(!replica.files().data.exists());
    }

    #[test]
    fn a_volume_is_chosen_by_name_then_type_then_room() {
        let temp = tempfile::tempdir().unwrap();
        let volumes = vec![volume_at(temp.path().join("1")), volume_at(temp.path().join("2"))];
        let dataset = open(volumes.clone());
        let choose = |storage_id| {
            let block = extended(1, 1001, 1024).block;
            dataset.choose_volume(block, StorageTypeProto::Ssd, storage_id).unwrap().0
        };
        for volume in &volumes {
            assert!(Arc::ptr_eq(&choose(Some(volume.storage_id())), volume));
        }
        let picks: Vec<_> = (0..4).map(|_| choose(Some("DS-unknown")).root().to_owned()).collect();
        assert_ne!(picks[0], picks[1], "volumes of one disk take turns");
        let huge = extended(1, 1001, u64::MAX / 4).block;
        let error = dataset.choose_volume(huge, StorageTypeProto::Disk, None).unwrap_err();
        assert!(error.to_string().contains(&volumes[0].root().display().to_string()), "{error}");
    }
}

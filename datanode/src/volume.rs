//! One disk: where each replica lies in Apache's layout, how much room there is, and whether files
//! can be opened past the page cache.
//!
//! A volume of a measurement may throw the data and checksums of blocks away ([`BlockData`]): its
//! block files stay empty, and reading a replica of it is an error.
//!
//! Room is what `statvfs` said when the volume's watch last looked (a sick disk may not answer, and no
//! stream nor heartbeat may wait for it), and what spare files take (`spare_files`), less what was
//! written since, less `dfs.datanode.du.reserved` (as far as files of others do not fill it already) and
//! less what blocks being written have announced but not yet taken, so that blocks written at the same
//! time do not overcommit the disk.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use ringfs_protocol::block::{BlockId, ReplicaState};
use ringfs_protocol::messages::StorageTypeProto;
use ringfs_protocol::meta_file::DatanodeLayout;
use tokio::sync::Semaphore;
use tracing::warn;

use crate::error::{DatanodeError, Result};
use crate::limits::{SUSPECTS_MAX, VOLUME_WORKERS};
use crate::ring::{self, FileWorkers};
use crate::spare_files::SpareFiles;
use crate::storage_directory::StorageDirectory;
use crate::volume_health::{VolumeFailure, VolumeHealth};
use crate::volume_profile::{Medium, VolumeProfile};

/// Alignment of offsets, lengths and memory that a direct write is probed with, and keeps.
pub const DIRECT_IO_ALIGNMENT_BYTES: usize = 4096;

/// What becomes of the bytes that are written to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockData {
    Stored,
    /// Thrown away, to measure all of the data path but the disk. Asked for on the command line only.
    Discarded,
}

#[derive(Debug)]
pub struct Volume {
    directory: StorageDirectory,
    /// `current/<pool>` below the volume's root.
    pool_dir: PathBuf,
    layout: DatanodeLayout,
    reserved_bytes: u64,
    direct_io: bool,
    block_data: BlockData,
    profile: VolumeProfile,
    /// The turns of streams to write, where not all may at a time.
    turns: Option<Arc<Semaphore>>,
    dfs_used_bytes: AtomicU64,
    /// Announced by replicas being written and not taken from the disk yet.
    promised_bytes: AtomicU64,
    /// Promised before, and taken from the disk: only grows.
    taken_bytes: AtomicU64,
    room: Mutex<MeasuredRoom>,
    /// `st_dev` of its directory: another one means that the disk was unmounted.
    device: u64,
    health: VolumeHealth,
    suspects: SuspectReplicas,
    spare_files: SpareFiles,
    deletions_turn: tokio::sync::Mutex<()>,
    workers: FileWorkers,
}

/// Replicas that the scrubber shall read first.
#[derive(Debug)]
pub struct SuspectReplicas {
    queue: (Sender<BlockId>, Receiver<BlockId>),
}

impl Default for SuspectReplicas {
    fn default() -> Self {
        Self { queue: bounded(SUSPECTS_MAX) }
    }
}

impl SuspectReplicas {
    /// When the queue is full, the replica waits for its turn like any other.
    pub fn push(&self, id: BlockId) {
        let _ = self.queue.0.try_send(id);
    }

    pub(crate) fn receiver(&self) -> Receiver<BlockId> {
        self.queue.1.clone()
    }
}

#[derive(Clone, Copy, Debug)]
struct MeasuredRoom {
    space: FilesystemSpace,
    /// [`Volume::taken_bytes`] just before.
    taken_bytes: u64,
}

/// What a heartbeat says of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    pub capacity_bytes: u64,
    pub dfs_used_bytes: u64,
    pub remaining_bytes: u64,
    pub non_dfs_used_bytes: u64,
}

/// Room promised to a replica that is being written; dropping it gives back what is left of it.
#[derive(Debug)]
pub struct SpacePromise {
    volume: Arc<Volume>,
    announced_bytes: u64,
    left_bytes: AtomicU64,
}

impl Volume {
    /// Opens the pool's directories (created when absent) on a locked storage directory.
    pub fn open(
        directory: StorageDirectory,
        pool_id: &str,
        reserved_bytes: u64,
        use_direct_io: bool,
    ) -> Result<Self> {
        let pool_dir = directory.pool_dir(pool_id);
        for dir in ["tmp", "current/rbw", "current/finalized"] {
            let dir = pool_dir.join(dir);
            fs::create_dir_all(&dir)
                .map_err(DatanodeError::io(format!("creating {}", dir.display())))?;
        }
        let is_served = is_fuse(directory.root());
        if is_served {
            ring::use_workers_below(directory.root());
        }
        let direct_io = use_direct_io && {
            let probe = match is_served {
                true => {
                    Err(io::Error::other("on FUSE, it makes a data thread wait for the daemon"))
                }
                false => probe_direct_io(&pool_dir.join("tmp/direct-io-probe")),
            };
            if let Err(error) = &probe {
                warn!(
                    volume = %directory.root().display(), %error,
                    "no O_DIRECT on this volume: serving it through the page cache, at a lower rate"
                );
            }
            probe.is_ok()
        };
        let profile = VolumeProfile::of(Medium::of(directory.root(), directory.storage_type()));
        let device = fs::metadata(&pool_dir)
            .map_err(DatanodeError::io(format!("looking at {}", pool_dir.display())))?
            .dev();
        let space = FilesystemSpace::of(directory.root())?;
        Ok(Self {
            layout: directory.layout(),
            turns: profile.turns(),
            profile,
            directory,
            pool_dir,
            reserved_bytes,
            direct_io,
            block_data: BlockData::Stored,
            dfs_used_bytes: AtomicU64::new(0),
            promised_bytes: AtomicU64::new(0),
            taken_bytes: AtomicU64::new(0),
            room: Mutex::new(MeasuredRoom { space, taken_bytes: 0 }),
            device,
            health: VolumeHealth::default(),
            suspects: SuspectReplicas::default(),
            spare_files: SpareFiles::new(0),
            deletions_turn: tokio::sync::Mutex::new(()),
            workers: FileWorkers::start(VOLUME_WORKERS)
                .map_err(DatanodeError::io("starting the threads of a volume"))?,
        })
    }

    /// Makes it a volume that throws block data away, which one that holds blocks never becomes.
    pub fn discarding_block_data(mut self) -> Result<Self> {
        if let Some(block) = find_block(&self.root().join("current"))? {
            return Err(DatanodeError::Storage {
                path: block.display().to_string(),
                why:
                    "is a block, so this directory is not for --bench-discard-block-data: name one \
                      without blocks"
                        .into(),
            });
        }
        warn!(
            volume = %self.root().display(),
            "THE DATA OF ALL BLOCKS WRITTEN HERE IS THROWN AWAY (--bench-discard-block-data)"
        );
        self.block_data = BlockData::Discarded;
        Ok(self)
    }

    /// Writes to it as to this medium, whatever its device says.
    pub fn with_medium(mut self, medium: Medium) -> Self {
        self.profile = VolumeProfile::of(medium);
        self.turns = self.profile.turns();
        self
    }

    /// Keeps up to so many data files of deleted blocks for new ones.
    pub fn with_spare_files(mut self, count_max: usize) -> Self {
        self.spare_files = SpareFiles::new(count_max);
        self
    }

    pub fn spare_files(&self) -> &SpareFiles {
        &self.spare_files
    }

    pub fn profile(&self) -> &VolumeProfile {
        &self.profile
    }

    /// To be held by a stream while it writes, if there is one.
    pub fn turns(&self) -> Option<&Arc<Semaphore>> {
        self.turns.as_ref()
    }

    pub fn root(&self) -> &Path {
        self.directory.root()
    }

    pub fn storage_type(&self) -> StorageTypeProto {
        self.directory.storage_type()
    }

    /// `DS-<uuid>`: the name of this volume towards the namenode.
    pub fn storage_id(&self) -> &str {
        self.directory.storage_id()
    }

    /// Whether data files are opened with O_DIRECT.
    pub fn direct_io(&self) -> bool {
        self.direct_io
    }

    /// Whether there is a page cache that the data of blocks passes by.
    pub fn passes_by_cache(&self) -> bool {
        self.direct_io && self.block_data == BlockData::Stored
    }

    pub fn block_data(&self) -> BlockData {
        self.block_data
    }

    pub fn health(&self) -> &VolumeHealth {
        &self.health
    }

    pub fn suspects(&self) -> &SuspectReplicas {
        &self.suspects
    }

    /// Held by the one command that deletes here: others wait for the disk behind it.
    pub fn deletions_turn(&self) -> &tokio::sync::Mutex<()> {
        &self.deletions_turn
    }

    /// The threads for short work on files here.
    pub fn workers(&self) -> &FileWorkers {
        &self.workers
    }

    /// Where Apache's datanode keeps it, too.
    pub fn scrub_cursor_path(&self) -> PathBuf {
        self.pool_dir.join("scanner.cursor")
    }

    /// Another process may have its directory from now on.
    pub fn unlock(&self) {
        self.directory.unlock();
    }

    pub fn is_failed(&self) -> bool {
        self.health.is_failed()
    }

    /// The directory as configured.
    pub fn location(&self) -> String {
        self.root().display().to_string()
    }

    pub fn device(&self) -> u64 {
        self.device
    }

    /// Nothing is written here nor read from here from now on; `failed_volumes` does the rest.
    pub fn mark_failed(&self, error: &DatanodeError) {
        let capacity = self.usage().capacity_bytes;
        self.health.fail(VolumeFailure::now(self.location(), error, capacity));
    }

    /// A file operation failed on this volume: it is checked soon.
    pub fn suspect(&self, error: &DatanodeError) {
        self.health.suspect(&self.location(), error);
    }

    /// What an unfinished upgrade keeps for a rollback.
    pub fn previous_dirs(&self) -> [PathBuf; 2] {
        [self.root().join("previous"), self.pool_dir.join("previous")]
    }

    pub fn finalized_root(&self) -> PathBuf {
        self.pool_dir.join("current/finalized")
    }

    pub fn rbw_dir(&self) -> PathBuf {
        self.pool_dir.join("current/rbw")
    }

    /// TEMPORARY replicas, and files on their way to the deletion thread. Emptied at start.
    pub fn tmp_dir(&self) -> PathBuf {
        self.pool_dir.join("tmp")
    }

    /// The directory that holds replica `id` while it is in `state`.
    pub fn replica_dir(&self, state: ReplicaState, id: BlockId) -> PathBuf {
        match state {
            ReplicaState::Temporary => self.tmp_dir(),
            ReplicaState::Rbw | ReplicaState::Rwr | ReplicaState::Rur => self.rbw_dir(),
            ReplicaState::Finalized => self.finalized_root().join(self.layout.block_dir(id)),
        }
    }

    /// `dfs_used` counts `new_bytes` where it counted `old_bytes`.
    pub(crate) fn account(&self, old_bytes: u64, new_bytes: u64) {
        if self.block_data == BlockData::Discarded {
            return;
        }
        if new_bytes >= old_bytes {
            self.dfs_used_bytes.fetch_add(new_bytes - old_bytes, Ordering::Relaxed);
        } else {
            self.dfs_used_bytes.fetch_sub(old_bytes - new_bytes, Ordering::Relaxed);
        }
    }

    /// Asks the disk how much room there is: only the volume's watch may wait for that.
    pub(crate) fn measure_room(&self) -> Result<()> {
        let taken_bytes = self.taken_bytes.load(Ordering::Relaxed);
        let space = FilesystemSpace::of(self.root())?;
        *self.room.lock() = MeasuredRoom { space, taken_bytes };
        Ok(())
    }

    /// Never waits for the disk.
    pub fn usage(&self) -> VolumeUsage {
        let room = *self.room.lock();
        let taken_since = self.taken_bytes.load(Ordering::Relaxed) - room.taken_bytes;
        usage_from(
            room.space.with_free(self.spare_files.bytes()),
            self.dfs_used_bytes.load(Ordering::Relaxed),
            self.reserved_bytes,
            self.promised_bytes.load(Ordering::Relaxed) + taken_since,
        )
    }

    /// Promises `bytes` to a new replica, or `None` when there is less room.
    pub fn promise(self: &Arc<Self>, bytes: u64) -> Option<SpacePromise> {
        if self.usage().remaining_bytes <= bytes {
            return None;
        }
        self.promised_bytes.fetch_add(bytes, Ordering::Relaxed);
        let promise = SpacePromise {
            volume: self.clone(),
            announced_bytes: bytes,
            left_bytes: AtomicU64::new(bytes),
        };
        // Others may have been promised room meanwhile: this usage counts them, and this promise.
        (self.usage().remaining_bytes > 0).then_some(promise)
    }
}

impl SpacePromise {
    /// The replica's files now take `bytes` of the disk: so much less is promised.
    pub fn taken(&self, bytes: u64) {
        let taken = self.set_left(self.announced_bytes.saturating_sub(bytes));
        self.volume.taken_bytes.fetch_add(taken, Ordering::Relaxed);
    }

    /// Returns how much less is left than before.
    fn set_left(&self, left: u64) -> u64 {
        let before = self.left_bytes.swap(left, Ordering::Relaxed);
        self.volume.promised_bytes.fetch_add(left.wrapping_sub(before), Ordering::Relaxed);
        before.saturating_sub(left)
    }
}

impl Drop for SpacePromise {
    fn drop(&mut self) {
        self.set_left(0);
    }
}

#[derive(Clone, Copy, Debug)]
struct FilesystemSpace {
    total_bytes: u64,
    free_bytes: u64,
    /// Free for users other than root.
    available_bytes: u64,
}

impl FilesystemSpace {
    fn of(root: &Path) -> Result<Self> {
        #[cfg(feature = "simulation")]
        if ringfs_protocol::simulation::is_entered() {
            // The real disk below has other users.
            let bytes = 1 << 40;
            return Ok(Self { total_bytes: bytes, free_bytes: bytes, available_bytes: bytes });
        }
        let stat = rustix::fs::statvfs(root)
            .map_err(io::Error::from)
            .map_err(DatanodeError::io(format!("statvfs of {}", root.display())))?;
        Ok(Self {
            total_bytes: stat.f_blocks * stat.f_frsize,
            free_bytes: stat.f_bfree * stat.f_frsize,
            available_bytes: stat.f_bavail * stat.f_frsize,
        })
    }
}

impl FilesystemSpace {
    fn with_free(self, bytes: u64) -> Self {
        Self {
            free_bytes: self.free_bytes + bytes,
            available_bytes: self.available_bytes + bytes,
            ..self
        }
    }
}

fn usage_from(
    space: FilesystemSpace,
    dfs_used_bytes: u64,
    reserved_bytes: u64,
    promised_bytes: u64,
) -> VolumeUsage {
    let capacity_bytes = space.total_bytes.saturating_sub(reserved_bytes);
    let used_bytes = space.total_bytes.saturating_sub(space.free_bytes);
    let others_bytes = used_bytes.saturating_sub(dfs_used_bytes);
    let still_reserved_bytes = reserved_bytes.saturating_sub(others_bytes);
    let room_bytes =
        space.available_bytes.saturating_sub(still_reserved_bytes).saturating_sub(promised_bytes);
    VolumeUsage {
        capacity_bytes,
        dfs_used_bytes,
        remaining_bytes: room_bytes.min(capacity_bytes.saturating_sub(dfs_used_bytes)),
        non_dfs_used_bytes: others_bytes.saturating_sub(reserved_bytes),
    }
}

/// A block's file anywhere below `dir`.
fn find_block(dir: &Path) -> Result<Option<PathBuf>> {
    let reading = || format!("reading {}", dir.display());
    for entry in fs::read_dir(dir).map_err(DatanodeError::io(reading()))? {
        let entry = entry.map_err(DatanodeError::io(reading()))?;
        let found = match entry.file_type().map_err(DatanodeError::io(reading()))?.is_dir() {
            true => find_block(&entry.path())?,
            false => entry.file_name().to_string_lossy().starts_with("blk_").then(|| entry.path()),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// There the kernel starts a direct write by waiting for its end, whoever asks it not to.
fn is_fuse(root: &Path) -> bool {
    const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
    rustix::fs::statfs(root).is_ok_and(|stat| stat.f_type as u64 == FUSE_SUPER_MAGIC)
}

/// Writes one aligned page with O_DIRECT to a new file and removes it.
fn probe_direct_io(path: &Path) -> io::Result<()> {
    let page = memmap2::MmapMut::map_anon(DIRECT_IO_ALIGNMENT_BYTES)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let written = file.write_all_at(&page, 0);
    fs::remove_file(path)?;
    written
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::replica::Replica;
    use crate::storage_directory::tests::formatted_directory;
    use ringfs_protocol::block::{Block, GenerationStamp};

    pub const POOL: &str = "BP-1-127.0.0.1-1";

    pub fn volume() -> (Arc<Volume>, tempfile::TempDir) {
        let temp = tempfile::tempdir().unwrap();
        (volume_at(temp.path().join("d")), temp)
    }

    pub fn volume_at(root: PathBuf) -> Arc<Volume> {
        let directory = formatted_directory(&root, StorageTypeProto::Disk);
        Arc::new(Volume::open(directory, POOL, 0, true).unwrap())
    }

    /// Without O_DIRECT: its files take bytes at any offset.
    pub fn buffered_volume_at(root: PathBuf) -> Arc<Volume> {
        let directory = formatted_directory(&root, StorageTypeProto::Disk);
        Arc::new(Volume::open(directory, POOL, 0, false).unwrap())
    }

    impl Volume {
        pub fn promised_bytes(&self) -> u64 {
            self.promised_bytes.load(Ordering::Relaxed)
        }
    }

    /// A replica without files: its directory is gone already.
    pub fn replica(state: ReplicaState, len: u64) -> Replica {
        let block =
            Block { id: BlockId(1), generation_stamp: GenerationStamp(1001), num_bytes: len };
        Replica::new(volume().0, block, state, None)
    }

    #[test]
    fn room_is_what_reservations_and_promises_leave() {
        let space = FilesystemSpace { total_bytes: 1000, free_bytes: 500, available_bytes: 450 };
        let usage = usage_from(space, 300, 100, 50);
        assert_eq!(usage.capacity_bytes, 900);
        assert_eq!(usage.non_dfs_used_bytes, 100, "200 of others, 100 of them in the reserve");
        assert_eq!(usage.remaining_bytes, 400, "others fill the reserve, 50 are promised");
        assert_eq!(usage_from(space, 500, 100, 0).remaining_bytes, 350, "the reserve is empty");
        assert_eq!(usage_from(space, 300, 2000, 0).remaining_bytes, 0);
    }

    #[test]
    fn a_promise_shrinks_as_its_bytes_are_taken_and_ends_with_the_writer() {
        let (volume, _temp) = volume();
        let promise = volume.promise(1000).expect("room for 1000 bytes");
        assert_eq!(volume.promised_bytes(), 1000);
        promise.taken(400);
        assert_eq!(volume.promised_bytes(), 600);
        promise.taken(5000);
        assert_eq!(volume.promised_bytes(), 0);
        drop(promise);
        assert_eq!(volume.promised_bytes(), 0);
        assert!(volume.promise(u64::MAX / 2).is_none(), "more than any disk");
        assert_eq!(volume.promised_bytes(), 0);
    }

    #[test]
    fn a_volume_with_a_block_of_any_pool_never_throws_blocks_away() {
        let (volume, _temp) = volume();
        let volume = Arc::into_inner(volume).unwrap();
        let other_pool = volume.root().join("current/BP-2-127.0.0.1-2/current/rbw");
        fs::create_dir_all(&other_pool).unwrap();
        fs::write(other_pool.join("blk_7"), "").unwrap();
        let error = volume.discarding_block_data().unwrap_err().to_string();
        assert!(error.contains("blk_7") && error.contains("--bench-discard"), "{error}");
    }

    #[test]
    fn replicas_lie_where_the_layout_puts_them() {
        let (volume, _temp) = volume();
        let id = BlockId(0x0102_0304);
        assert!(
            volume
                .replica_dir(ReplicaState::Finalized, id)
                .ends_with("BP-1-127.0.0.1-1/current/finalized/subdir2/subdir3")
        );
        assert!(volume.replica_dir(ReplicaState::Rwr, id).ends_with("current/rbw"));
        assert!(volume.replica_dir(ReplicaState::Temporary, id).ends_with("BP-1-127.0.0.1-1/tmp"));
    }
}

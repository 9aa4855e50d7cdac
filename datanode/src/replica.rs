//! One replica: its state, lengths, generation stamp, and the writer that feeds it.
//!
//! | event \ state    | none | TEMPORARY | RBW       | FINALIZED | RWR       | RUR       |
//! |------------------|------|-----------|-----------|-----------|-----------|-----------|
//! | CreateRbw        | RBW  | -         | -         | -         | -         | -         |
//! | CreateTemporary  | TEMP | TEMP      | TEMP      | TEMP      | TEMP      | -         |
//! | ConvertToRbw     | -    | RBW       | -         | -         | -         | -         |
//! | Finalize         | -    | FINALIZED | FINALIZED | -         | -         | -         |
//! | Append           | -    | -         | -         | RBW       | -         | -         |
//! | RecoverAppend    | -    | -         | RBW       | RBW       | -         | -         |
//! | RecoverStreaming | -    | -         | RBW       | RBW       | -         | -         |
//! | RecoverClose     | -    | -         | FINALIZED | FINALIZED | -         | -         |
//! | StartRecovery    | -    | -         | RUR       | RUR       | RUR       | RUR       |
//! | FinishRecovery   | -    | -         | -         | -         | -         | FINALIZED |
//! | Restart          | -    | none      | RWR       | FINALIZED | RWR       | original  |
//! | Delete           | -    | none      | none      | none      | none      | none      |
//!
//! CreateTemporary over an existing replica replaces one of an older generation stamp, which only a
//! transfer on behalf of a client may ask for. A higher recovery id takes a RUR over. RUR keeps the
//! state it came from: there its files lie, and so it is reported.
//!
//! Who may change a replica: whoever holds [`Replica::transition`], an async lock. The writer of an
//! RBW or TEMPORARY replica moves the lengths forward without it; a recovery first asks that writer
//! to stop and waits until its [`WriterLease`] is gone, so that no two parties touch the files.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::meta_file;
use tokio::sync::watch;

use crate::error::{DatanodeError, Result};
use crate::volume::Volume;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaEvent {
    CreateRbw,
    CreateTemporary,
    ConvertToRbw,
    Finalize,
    Append,
    RecoverAppend,
    RecoverStreaming,
    RecoverClose,
    StartRecovery,
    FinishRecovery,
    Restart,
    Delete,
}

/// The table has no entry for this event in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTransition;

/// The state after `event`, where `None` stands for "no replica"; an error when the table above
/// has no entry. `original` is the state a RUR came from.
pub fn next_state(
    state: Option<ReplicaState>,
    original: Option<ReplicaState>,
    event: ReplicaEvent,
) -> std::result::Result<Option<ReplicaState>, NoTransition> {
    use ReplicaEvent as E;
    use ReplicaState::{Finalized, Rbw, Rur, Rwr, Temporary};
    Ok(match (event, state) {
        (E::CreateRbw, None) => Some(Rbw),
        (E::CreateTemporary, None | Some(Temporary | Rbw | Finalized | Rwr)) => Some(Temporary),
        (E::ConvertToRbw, Some(Temporary)) => Some(Rbw),
        (E::Finalize, Some(Temporary | Rbw)) => Some(Finalized),
        (E::Append, Some(Finalized)) => Some(Rbw),
        (E::RecoverAppend, Some(Rbw | Finalized)) => Some(Rbw),
        (E::RecoverStreaming, Some(Rbw | Finalized)) => Some(Rbw),
        (E::RecoverClose, Some(Rbw | Finalized)) => Some(Finalized),
        (E::StartRecovery, Some(Rbw | Finalized | Rwr | Rur)) => Some(Rur),
        (E::FinishRecovery, Some(Rur)) => Some(Finalized),
        (E::Restart, Some(Temporary)) => None,
        (E::Restart, Some(Rbw | Rwr)) => Some(Rwr),
        (E::Restart, Some(Finalized)) => Some(Finalized),
        (E::Restart, Some(Rur)) => match original {
            Some(Finalized) => Some(Finalized),
            _ => Some(Rwr),
        },
        (E::Delete, Some(_)) => None,
        _ => return Err(NoTransition),
    })
}

/// How far a replica's bytes are on disk, with the checksum of a last chunk that is not full: a
/// reader of an RBW replica must send the checksum that belongs to the length it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    pub len: u64,
    /// `None` when the length is a multiple of the chunk size, or the meta file has the checksum.
    pub last_chunk_checksum: Option<u32>,
}

/// The paths of a replica's two files at one moment; a transition may rename them right after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFiles {
    pub data: PathBuf,
    pub meta: PathBuf,
}

#[derive(Debug)]
pub struct Replica {
    id: BlockId,
    volume: Arc<Volume>,
    core: Mutex<Core>,
    on_disk: Mutex<OnDisk>,
    bytes_received: AtomicU64,
    bytes_acked: AtomicU64,
    /// A write or sync of its files failed: see `failed_writes`.
    has_failed_write: AtomicBool,
    /// One was given up, and may still take place.
    has_overdue_write: AtomicBool,
    /// See [`Replica::may_be_kept`].
    may_be_kept: AtomicBool,
    /// Block recoveries that it was kept out of because its bytes have rotted.
    rot_refusals: AtomicU32,
    /// Held across every change of state, and the file operations that belong to it.
    pub(crate) transition: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Core {
    state: ReplicaState,
    /// The state before RUR, while under recovery.
    original: ReplicaState,
    generation_stamp: GenerationStamp,
    recovery_id: GenerationStamp,
    writer: Option<Arc<watch::Sender<bool>>>,
    /// Set by Delete: whoever waited for this replica meanwhile finds no state to go on from.
    is_deleted: bool,
    /// What the volume's `dfs_used` counts for this replica.
    accounted_bytes: u64,
}

/// A writer's hold on its replica: dropping it says that the writer touches the files no more.
#[derive(Debug)]
pub struct WriterLease {
    stop: watch::Receiver<bool>,
}

impl WriterLease {
    /// Resolves when a recovery or a deletion wants this writer out of the way.
    pub fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let mut stop = self.stop.clone();
        async move {
            // An error means that the sender is gone with the replica itself: a stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }
}

impl Replica {
    pub fn new(
        volume: Arc<Volume>,
        block: Block,
        state: ReplicaState,
        last_chunk_checksum: Option<u32>,
    ) -> Self {
        Self {
            id: block.id,
            volume,
            core: Mutex::new(Core {
                state,
                original: state,
                generation_stamp: block.generation_stamp,
                recovery_id: GenerationStamp(0),
                writer: None,
                is_deleted: false,
                accounted_bytes: 0,
            }),
            on_disk: Mutex::new(OnDisk { len: block.num_bytes, last_chunk_checksum }),
            bytes_received: AtomicU64::new(block.num_bytes),
            bytes_acked: AtomicU64::new(block.num_bytes),
            has_failed_write: AtomicBool::new(false),
            may_be_kept: AtomicBool::new(false),
            rot_refusals: AtomicU32::new(0),
            has_overdue_write: AtomicBool::new(false),
            transition: tokio::sync::Mutex::new(()),
        }
    }

    pub fn id(&self) -> BlockId {
        self.id
    }

    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    pub fn state(&self) -> ReplicaState {
        self.core.lock().state
    }

    /// The state that says where the files lie: that of before the recovery for a RUR.
    pub fn original_state(&self) -> ReplicaState {
        self.core.lock().settled_state()
    }

    pub fn generation_stamp(&self) -> GenerationStamp {
        self.core.lock().generation_stamp
    }

    pub fn recovery_id(&self) -> GenerationStamp {
        self.core.lock().recovery_id
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.core.lock().is_deleted
    }

    /// Id, generation stamp and length on disk.
    pub fn block(&self) -> Block {
        let generation_stamp = self.generation_stamp();
        Block { id: self.id, generation_stamp, num_bytes: self.bytes_on_disk() }
    }

    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Acquire)
    }

    pub fn set_bytes_received(&self, len: u64) {
        self.bytes_received.store(len, Ordering::Release);
    }

    pub fn bytes_on_disk(&self) -> u64 {
        self.on_disk.lock().len
    }

    pub fn on_disk(&self) -> OnDisk {
        *self.on_disk.lock()
    }

    pub fn set_on_disk(&self, on_disk: OnDisk) {
        *self.on_disk.lock() = on_disk;
    }

    pub fn bytes_acked(&self) -> u64 {
        self.bytes_acked.load(Ordering::Acquire)
    }

    pub fn set_bytes_acked(&self, len: u64) {
        self.bytes_acked.store(len, Ordering::Release);
    }

    /// Sets received, on disk and acked at once: after a truncation or at the end of a block.
    pub fn set_all_lengths(&self, on_disk: OnDisk) {
        self.set_bytes_received(on_disk.len);
        self.set_on_disk(on_disk);
        self.set_bytes_acked(on_disk.len);
    }

    /// Whether its data file may become another block's when it is deleted: one that this process made,
    /// passed to no client, and wrote without an error (`spare_files`).
    pub(crate) fn may_be_kept(&self) -> bool {
        self.may_be_kept.load(Ordering::Acquire) && !self.has_failed_write()
    }

    /// This process has just made its files.
    pub(crate) fn note_made(&self) {
        self.may_be_kept.store(true, Ordering::Release);
    }

    /// Its files are about to be opened for a client, who may keep them for ever.
    pub(crate) fn note_passed(&self) {
        self.may_be_kept.store(false, Ordering::Release);
    }

    /// Its writer must not go on, nor may anybody trust what memory says of the files.
    pub(crate) fn note_failed_write(&self) {
        if !self.has_failed_write.swap(true, Ordering::AcqRel) {
            self.volume.health().count_failed_write();
        }
    }

    /// A write failed: has the volume checked, and the replica distrusted where more than room was wanting.
    pub(crate) fn note_write_failure(&self, error: &DatanodeError) {
        let DatanodeError::Io { source, .. } = error else { return };
        match source.raw_os_error() {
            _ if error.is_overdue() => self.note_overdue_write(),
            Some(libc::ENOSPC | libc::EDQUOT) => {}
            _ => self.note_failed_write(),
        }
        self.volume.suspect(error);
    }

    /// Nor can it be said what the files hold, as long as the disk may still do what was given up.
    pub(crate) fn note_overdue_write(&self) {
        self.has_overdue_write.store(true, Ordering::Release);
        self.note_failed_write();
    }

    pub(crate) fn has_overdue_write(&self) -> bool {
        self.has_overdue_write.load(Ordering::Acquire)
    }

    /// Its bytes have rotted: how often it would have been refused with this time.
    pub(crate) fn refuse_for_rot(&self) -> u32 {
        self.rot_refusals.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn has_failed_write(&self) -> bool {
        self.has_failed_write.load(Ordering::Acquire)
    }

    /// What readers may count on; `None` for replicas that nobody may read (RWR, TEMPORARY).
    pub fn visible_len(&self) -> Option<u64> {
        match self.original_state() {
            ReplicaState::Finalized => Some(self.bytes_on_disk()),
            ReplicaState::Rbw if ringfs_protocol::mutant!("datanode: show whole chunks only") => {
                Some(self.bytes_acked() / 512 * 512)
            }
            ReplicaState::Rbw => Some(self.bytes_acked()),
            ReplicaState::Rwr | ReplicaState::Rur | ReplicaState::Temporary => None,
        }
    }

    /// How a block report lists this replica; TEMPORARY ones are not reported.
    pub fn reported_state(&self) -> Option<ReplicaState> {
        match self.original_state() {
            ReplicaState::Temporary => None,
            state => Some(state),
        }
    }

    /// Where the files are now.
    pub fn files(&self) -> ReplicaFiles {
        let core = self.core.lock();
        self.files_of(core.settled_state(), core.generation_stamp)
    }

    /// Where the files of this replica lie in `state` under `generation_stamp`.
    pub(crate) fn files_of(&self, state: ReplicaState, stamp: GenerationStamp) -> ReplicaFiles {
        let dir = self.volume.replica_dir(state, self.id);
        ReplicaFiles {
            data: dir.join(meta_file::block_file_name(self.id)),
            meta: dir.join(meta_file::meta_file_name(self.id, stamp)),
        }
    }

    /// Whether `event` may happen now; the caller holds [`Replica::transition`].
    pub(crate) fn check(&self, event: ReplicaEvent) -> Result<()> {
        let core = self.core.lock();
        core.next(event).map(|_| ()).map_err(|NoTransition| self.illegal(&core, event))
    }

    /// Applies `event` with the generation stamp that the replica has afterwards; the caller holds
    /// [`Replica::transition`] and has done the file operations.
    pub(crate) fn apply(&self, event: ReplicaEvent, stamp: GenerationStamp) -> Result<()> {
        let mut core = self.core.lock();
        let next = core.next(event).map_err(|NoTransition| self.illegal(&core, event))?;
        match next {
            Some(ReplicaState::Rur) => {
                core.original = core.settled_state();
                core.recovery_id = stamp;
                core.state = ReplicaState::Rur;
            }
            Some(state) => {
                core.state = state;
                core.original = state;
                core.generation_stamp = stamp;
            }
            None => core.is_deleted = true,
        }
        Ok(())
    }

    /// A new writer takes hold; a former one must be gone ([`Replica::stop_request`]).
    pub(crate) fn lease_to_writer(&self) -> WriterLease {
        let (sender, stop) = watch::channel(false);
        self.core.lock().writer = Some(Arc::new(sender));
        WriterLease { stop }
    }

    /// Asks the present writer, if any, to stop; the future of `closed()` on the returned sender
    /// resolves when its lease is gone.
    pub(crate) fn stop_request(&self) -> Option<Arc<watch::Sender<bool>>> {
        let writer = self.core.lock().writer.clone()?;
        if writer.is_closed() {
            return None;
        }
        writer.send_replace(true);
        Some(writer)
    }

    /// Its volume has failed: whoever works with this replica finds no state to go on from, and a
    /// writer is told to stop. Needs no [`Replica::transition`], whose holder may wait for the disk.
    pub(crate) fn lose(&self) {
        self.core.lock().is_deleted = true;
        self.stop_request();
    }

    /// Makes the volume's `dfs_used` count `bytes` for this replica instead of what it did before.
    pub(crate) fn account(&self, bytes: u64) {
        let mut core = self.core.lock();
        self.volume.account(core.accounted_bytes, bytes);
        core.accounted_bytes = bytes;
    }

    pub(crate) fn accounted_bytes(&self) -> u64 {
        self.core.lock().accounted_bytes
    }

    fn illegal(&self, core: &Core, event: ReplicaEvent) -> DatanodeError {
        let block = Block {
            id: self.id,
            generation_stamp: core.generation_stamp,
            num_bytes: self.bytes_on_disk(),
        };
        DatanodeError::IllegalTransition { block, state: core.present_state(), event }
    }
}

impl Core {
    fn present_state(&self) -> Option<ReplicaState> {
        (!self.is_deleted).then_some(self.state)
    }

    fn settled_state(&self) -> ReplicaState {
        if self.state == ReplicaState::Rur { self.original } else { self.state }
    }

    fn next(&self, event: ReplicaEvent) -> std::result::Result<Option<ReplicaState>, NoTransition> {
        next_state(self.present_state(), Some(self.original), event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReplicaEvent as E;
    use ReplicaState::{Finalized, Rbw, Rur, Rwr, Temporary};

    const EVENTS: [E; 12] = [
        E::CreateRbw,
        E::CreateTemporary,
        E::ConvertToRbw,
        E::Finalize,
        E::Append,
        E::RecoverAppend,
        E::RecoverStreaming,
        E::RecoverClose,
        E::StartRecovery,
        E::FinishRecovery,
        E::Restart,
        E::Delete,
    ];
    const STATES: [Option<ReplicaState>; 6] =
        [None, Some(Temporary), Some(Rbw), Some(Finalized), Some(Rwr), Some(Rur)];

    /// The table of the module's head, read from this very file: what it says must be what
    /// [`next_state`] does, cell by cell.
    #[test]
    fn the_table_in_the_head_is_the_table_in_the_code() {
        let rows: Vec<Vec<&str>> = include_str!("replica.rs")
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .filter_map(|line| line.strip_prefix("//! | "))
            .map(|line| line.split('|').map(str::trim).collect())
            .skip(1)
            .collect();
        assert_eq!(rows.len(), EVENTS.len());
        for (row, event) in rows.iter().zip(EVENTS) {
            assert_eq!(row[0], format!("{event:?}"));
            for (cell, state) in row[1..].iter().zip(STATES) {
                let expected = match *cell {
                    "-" => Err(NoTransition),
                    "none" => Ok(None),
                    "TEMP" | "TEMPORARY" => Ok(Some(Temporary)),
                    "RBW" => Ok(Some(Rbw)),
                    "FINALIZED" => Ok(Some(Finalized)),
                    "RWR" => Ok(Some(Rwr)),
                    "RUR" => Ok(Some(Rur)),
                    "original" => {
                        let from_finalized = next_state(state, Some(Finalized), event);
                        assert_eq!(from_finalized, Ok(Some(Finalized)));
                        assert_eq!(next_state(state, Some(Rwr), event), Ok(Some(Rwr)));
                        Ok(Some(Rwr))
                    }
                    other => panic!("cell {other:?}"),
                };
                assert_eq!(next_state(state, Some(Rbw), event), expected, "{event:?} in {state:?}");
            }
        }
    }

    #[test]
    fn a_writer_learns_of_a_stop_and_its_lease_ends_the_wait() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let replica = crate::volume::tests::replica(Rbw, 100);
        assert!(replica.stop_request().is_none(), "no writer yet");
        let lease = replica.lease_to_writer();
        assert!(!lease.is_stopped());
        let stopping = replica.stop_request().expect("a live writer");
        assert!(lease.is_stopped());
        runtime.block_on(async {
            lease.stopped().await;
            drop(lease);
            stopping.closed().await;
        });
        assert!(replica.stop_request().is_none(), "the writer is gone");
    }

    #[test]
    fn a_replica_under_recovery_keeps_place_and_visibility_of_its_original_state() {
        let replica = crate::volume::tests::replica(Finalized, 100);
        let before = replica.files();
        replica.apply(E::StartRecovery, GenerationStamp(1005)).unwrap();
        replica.apply(E::StartRecovery, GenerationStamp(1006)).unwrap();
        assert_eq!(replica.state(), Rur);
        assert_eq!(replica.original_state(), Finalized);
        assert_eq!(replica.recovery_id(), GenerationStamp(1006));
        assert_eq!(replica.generation_stamp(), GenerationStamp(1001));
        assert_eq!(replica.files(), before);
        assert_eq!(replica.visible_len(), Some(100));
        assert_eq!(replica.reported_state(), Some(Finalized));
        replica.apply(E::FinishRecovery, GenerationStamp(1006)).unwrap();
        assert_eq!((replica.state(), replica.generation_stamp().0), (Finalized, 1006));
    }

    #[test]
    fn a_deleted_replica_goes_nowhere() {
        let replica = crate::volume::tests::replica(Finalized, 100);
        replica.apply(E::Delete, GenerationStamp(1001)).unwrap();
        for event in EVENTS {
            let is_creation = matches!(event, E::CreateRbw | E::CreateTemporary);
            assert_eq!(replica.check(event).is_ok(), is_creation, "{event:?}");
        }
    }

    #[test]
    fn readers_see_acked_bytes_of_an_rbw_and_nothing_of_rwr_and_temporary() {
        let replica = crate::volume::tests::replica(Rbw, 0);
        replica.set_bytes_received(300);
        replica.set_on_disk(OnDisk { len: 200, last_chunk_checksum: Some(9) });
        replica.set_bytes_acked(100);
        assert_eq!(replica.visible_len(), Some(100));
        assert_eq!(crate::volume::tests::replica(Rwr, 5).visible_len(), None);
        assert_eq!(crate::volume::tests::replica(Temporary, 5).visible_len(), None);
        assert_eq!(crate::volume::tests::replica(Temporary, 5).reported_state(), None);
    }
}

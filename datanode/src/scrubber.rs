//! Looks for rot: reads every finalized replica of a volume once in `dfs.datanode.scan.period.hours`
//! and compares it with its checksums, as Apache's `VolumeScanner` does. One thread for each volume,
//! at most `dfs.block.scanner.volume.bytes.per.second`, past the page cache.
//!
//! Replicas under suspicion come first: those that a reader could not read, or whose checksums a
//! client found wrong. In the order of directories and names come all others; where that has got to
//! is in `scanner.cursor`, in Apache's format, so that either implementation goes on for the other.
//!
//! | reading it gives | what follows |
//! |---|---|
//! | the bytes of its checksums | counted |
//! | other bytes, too few, no file; or EIO, while the volume passes its check | once more; reported with reportBadBlocks if it is so again |
//! | EMFILE and the like | nothing: its turn comes again |
//! | anything, but the replica was appended to or deleted meanwhile | nothing |

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use ringfs_protocol::block::{Block, BlockId, ReplicaState};
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::meta_file::{self, META_HEADER_BYTES};
use ringfs_protocol::settings;
use ringfs_protocol::site_config::{ConfigError, Configuration};
use tracing::{debug, info, warn};

use crate::counters::Counters;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::limits::{SCRUB_PIECE_BYTES, SUSPECTS_MAX};
use crate::replica::{Replica, ReplicaFiles};
use crate::scrub_cursor::ScrubCursor;
use crate::volume::{DIRECT_IO_ALIGNMENT_BYTES, Volume};

/// A replica that was suspect once is so again after this time, as for Apache.
const SUSPECT_AGAIN_AFTER: Duration = Duration::from_secs(600);
const CURSOR_SAVE_INTERVAL: Duration = Duration::from_secs(600);
/// When there is nothing to do, or the volume cannot be listed.
const IDLE_PAUSE: Duration = Duration::from_secs(60);
/// Between two tries to read what may be rotten.
const SECOND_LOOK_PAUSE: Duration = Duration::from_millis(500);

const ALIGNMENT: u64 = DIRECT_IO_ALIGNMENT_BYTES as u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPace {
    pub period: Duration,
    pub bytes_per_second: u64,
}

impl ScrubPace {
    /// `None`: switched off, by a period below 0 or a rate of 0. Period 0 is the default one,
    /// as for Apache.
    pub fn from_configuration(
        configuration: &Configuration,
    ) -> std::result::Result<Option<Self>, ConfigError> {
        const HOUR: u64 = 3600;
        let hours = match configuration.integer(&settings::DFS_DATANODE_SCAN_PERIOD_HOURS)? {
            0 => Configuration::default().integer(&settings::DFS_DATANODE_SCAN_PERIOD_HOURS)?,
            hours => hours,
        };
        let bytes_per_second =
            configuration.bytes(&settings::DFS_BLOCK_SCANNER_VOLUME_BYTES_PER_SECOND)?;
        Ok(match u64::try_from(hours) {
            Ok(hours) if bytes_per_second > 0 => {
                let period = Duration::from_secs(hours.saturating_mul(HOUR));
                Some(Self { period, bytes_per_second })
            }
            _ => None,
        })
    }
}

/// Starts a thread for each volume; each ends with the dataset.
pub fn start(dataset: &Arc<Dataset>, counters: &Arc<Counters>, pace: ScrubPace) -> Result<()> {
    for index in 0..dataset.volumes().len() {
        let scrubber = Scrubber::new(dataset, index, counters, pace);
        std::thread::Builder::new()
            .name("scrubber".into())
            .spawn(move || scrubber.run())
            .map_err(DatanodeError::io("starting a scrubber"))?;
    }
    Ok(())
}

/// Reads every finalized replica at once, in a world without threads.
#[cfg(feature = "simulation")]
pub fn scrub_all(dataset: &Arc<Dataset>, counters: &Arc<Counters>) {
    for_each_volume(dataset, counters, |scrubber, volume| {
        let mut found = dataset.replicas_in(ReplicaState::Finalized);
        found.retain(|replica| Arc::ptr_eq(replica.volume(), volume));
        let mut ids: Vec<BlockId> = found.iter().map(|replica| replica.id()).collect();
        ids.sort_unstable();
        ids.into_iter().try_for_each(|id| scrubber.scrub(id, false))
    });
}

/// Reads the replicas that have become suspect.
#[cfg(feature = "simulation")]
pub fn scrub_suspects(dataset: &Arc<Dataset>, counters: &Arc<Counters>) {
    if dataset.volumes().iter().any(|volume| !volume.suspects().receiver().is_empty()) {
        for_each_volume(dataset, counters, |scrubber, _| scrubber.scrub_suspects());
    }
}

#[cfg(feature = "simulation")]
fn for_each_volume(
    dataset: &Arc<Dataset>,
    counters: &Arc<Counters>,
    mut scrub: impl FnMut(&mut Scrubber, &Arc<Volume>) -> std::result::Result<(), Over>,
) {
    let pace = ScrubPace { period: Duration::ZERO, bytes_per_second: u64::MAX };
    for (index, volume) in dataset.volumes().iter().enumerate() {
        // The end of the volume is the end of it.
        let _ = scrub(&mut Scrubber::new(dataset, index, counters, pace), volume);
    }
}

struct Scrubber {
    /// Held only while files are opened: what sleeps here must not keep the volumes locked.
    dataset: Weak<Dataset>,
    volume_index: usize,
    counters: Arc<Counters>,
    pace: ScrubPace,
    suspects: Receiver<BlockId>,
    waiting: VecDeque<BlockId>,
    /// When replicas were last under suspicion.
    recent: HashMap<BlockId, Instant>,
    /// When the next bytes may be read.
    free_at: Instant,
}

/// The dataset is gone, or the volume has failed.
struct Over;

/// Why a replica does not pass.
enum Finding {
    Rot(String),
    /// Nothing can be said of it.
    Nothing,
    Over,
}

impl From<Over> for Finding {
    fn from(_: Over) -> Self {
        Self::Over
    }
}

impl Scrubber {
    fn new(
        dataset: &Arc<Dataset>,
        volume_index: usize,
        counters: &Arc<Counters>,
        pace: ScrubPace,
    ) -> Self {
        Self {
            dataset: Arc::downgrade(dataset),
            volume_index,
            counters: counters.clone(),
            pace,
            suspects: dataset.volumes()[volume_index].suspects().receiver(),
            waiting: VecDeque::new(),
            recent: HashMap::new(),
            free_at: Instant::now(),
        }
    }

    fn run(mut self) {
        let _ = self.scrub_on();
    }

    fn scrub_on(&mut self) -> std::result::Result<(), Over> {
        let (mut cursor, root, path) = {
            let (_, volume) = self.volume()?;
            let path = volume.scrub_cursor_path();
            (ScrubCursor::load(&path, now_ms()), volume.finalized_root(), path)
        };
        let mut saved = Instant::now();
        loop {
            self.scrub_suspects()?;
            if cursor.is_at_end() {
                let left = cursor.time_to_next(now_ms(), self.pace.period);
                match left.is_zero() {
                    true => cursor = ScrubCursor::start_at(now_ms()),
                    false => self.pause(left.min(IDLE_PAUSE))?,
                }
                continue;
            }
            match cursor.advance(&root) {
                Ok(Some(id)) => {
                    self.scrub(id, false)?;
                }
                Ok(None) => {
                    info!(volume = %root.display(), "every block of the volume was scrubbed")
                }
                Err(error) => {
                    let (_, volume) = self.volume()?;
                    let what = format!("listing {}", root.display());
                    volume.suspect(&DatanodeError::Io { what, source: error });
                    drop(volume);
                    self.pause(IDLE_PAUSE)?;
                }
            }
            if cursor.is_at_end() || saved.elapsed() >= CURSOR_SAVE_INTERVAL {
                saved = Instant::now();
                // The process may have ended, and another one serve the directory.
                let _still_ours = self.volume()?;
                if let Err(error) = cursor.save(&path, now_ms()) {
                    debug!(%error, path = %path.display(), "the scrubber's place is not saved");
                }
            }
        }
    }

    fn volume(&self) -> std::result::Result<(Arc<Dataset>, Arc<Volume>), Over> {
        let dataset = self.dataset.upgrade().ok_or(Over)?;
        let volume = dataset.volumes()[self.volume_index].clone();
        if volume.is_failed() { Err(Over) } else { Ok((dataset, volume)) }
    }

    /// Sleeps; suspects that arrive meanwhile end that, and wait for their turn.
    fn pause(&mut self, time: Duration) -> std::result::Result<(), Over> {
        match self.suspects.recv_timeout(time) {
            Ok(id) => self.note_suspect(id),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Over),
        }
        Ok(())
    }

    fn note_suspect(&mut self, id: BlockId) {
        self.recent.retain(|_, since| since.elapsed() < SUSPECT_AGAIN_AFTER);
        if self.recent.len() < SUSPECTS_MAX && !self.recent.contains_key(&id) {
            self.recent.insert(id, Instant::now());
            self.waiting.push_back(id);
        }
    }

    fn scrub_suspects(&mut self) -> std::result::Result<(), Over> {
        while let Ok(id) = self.suspects.try_recv() {
            self.note_suspect(id);
        }
        while let Some(id) = self.waiting.pop_front() {
            info!(block = %id, "a suspect replica is scrubbed");
            self.scrub(id, true)?;
        }
        Ok(())
    }

    fn scrub(&mut self, id: BlockId, is_suspect: bool) -> std::result::Result<(), Over> {
        for is_second_look in [false, true] {
            let Some((replica, block, files)) = self.finalized(id)? else { return Ok(()) };
            let verified = self.verify(block, &files, is_suspect);
            let why = match verified {
                Ok(bytes) => {
                    self.counters.blocks_verified.add(1);
                    debug!(%block, bytes, "scrubbed");
                    return Ok(());
                }
                Err(Finding::Over) => return Err(Over),
                Err(Finding::Nothing) => return Ok(()),
                Err(Finding::Rot(why)) => why,
            };
            let Some(replica) = replica.upgrade().filter(|replica| is_still(replica, block)) else {
                return Ok(());
            };
            if is_second_look {
                let (dataset, volume) = self.volume()?;
                self.counters.block_verification_failures.add(1);
                warn!(%block, volume = %volume.root().display(), why, "THE REPLICA IS ROTTEN");
                dataset.reports().push_bad(volume.storage_id(), replica.block());
                return Ok(());
            }
            drop(replica);
            pause_before_second_look();
        }
        Ok(())
    }

    /// The replica, if it lies here and nobody writes to it.
    fn finalized(
        &self,
        id: BlockId,
    ) -> std::result::Result<Option<(Weak<Replica>, Block, ReplicaFiles)>, Over> {
        let (dataset, volume) = self.volume()?;
        let replica = dataset.replica(dataset.pool_id(), id).filter(|replica| {
            replica.state() == ReplicaState::Finalized && Arc::ptr_eq(replica.volume(), &volume)
        });
        Ok(replica.map(|replica| (Arc::downgrade(&replica), replica.block(), replica.files())))
    }

    /// Reads it all; the number of its bytes.
    fn verify(
        &mut self,
        block: Block,
        files: &ReplicaFiles,
        is_suspect: bool,
    ) -> std::result::Result<u64, Finding> {
        let opened = {
            let (_, volume) = self.volume()?;
            Reading::open(files, volume.direct_io()).map_err(|error| judge(&volume, error))?
        };
        let Some(mut reading) = opened else { return Ok(0) };
        let mut offset = 0;
        while offset < block.num_bytes {
            let len = reading.piece_bytes.min(block.num_bytes - offset);
            let read = reading.verify_piece(offset, len);
            self.counters.bytes_scrubbed.add(len);
            match read {
                Ok(()) => offset += len,
                Err(error) => {
                    let (_, volume) = self.volume()?;
                    return Err(judge(&volume, error));
                }
            }
            self.keep_pace(len)?;
            if !is_suspect {
                self.scrub_suspects()?;
            }
        }
        Ok(block.num_bytes)
    }

    fn keep_pace(&mut self, bytes: u64) -> std::result::Result<(), Over> {
        let now = Instant::now();
        let taken = Duration::from_secs_f64(bytes as f64 / self.pace.bytes_per_second as f64);
        self.free_at = self.free_at.max(now) + taken;
        loop {
            let left = self.free_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.pause(left)?;
        }
    }
}

fn pause_before_second_look() {
    #[cfg(feature = "simulation")]
    if ringfs_protocol::simulation::is_entered() {
        return;
    }
    std::thread::sleep(SECOND_LOOK_PAUSE);
}

fn is_still(replica: &Replica, block: Block) -> bool {
    !replica.is_deleted() && replica.state() == ReplicaState::Finalized && replica.block() == block
}

/// Whether an error speaks against the replica. One of the disk has the volume checked as well: if it
/// fails, nobody asks for this replica any more.
fn judge(volume: &Volume, error: io::Error) -> Finding {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR | libc::EAGAIN) => {
            return Finding::Nothing;
        }
        Some(_) => volume.suspect(&DatanodeError::Io {
            what: "scrubbing".into(),
            source: io::Error::new(error.kind(), error.to_string()),
        }),
        None => {}
    }
    Finding::Rot(error.to_string())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// The two files of a replica, read past the page cache where the volume can.
struct Reading {
    data: fs::File,
    meta: fs::File,
    is_direct: bool,
    checksum: DataChecksum,
    /// Data verified at a time: whole chunks.
    piece_bytes: u64,
    data_memory: memmap2::MmapMut,
    meta_memory: memmap2::MmapMut,
}

impl Reading {
    /// `None` when there are no checksums to compare with.
    fn open(files: &ReplicaFiles, is_direct: bool) -> io::Result<Option<Self>> {
        let open = |path: &Path| {
            let flags = if is_direct { libc::O_DIRECT } else { 0 };
            fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
        };
        let (data, meta) = (open(&files.data)?, open(&files.meta)?);
        let mut meta_memory = memmap2::MmapMut::map_anon(DIRECT_IO_ALIGNMENT_BYTES)?;
        let head = read_range(&meta, &mut meta_memory, 0, META_HEADER_BYTES as u64)?;
        let checksum = head
            .first_chunk::<META_HEADER_BYTES>()
            .and_then(|header| meta_file::decode_meta_header(header).ok())
            .ok_or_else(|| rot("its meta file has no readable header".to_owned()))?;
        if checksum.kind == ChecksumType::Null {
            return Ok(None);
        }
        let chunk_bytes = u64::from(checksum.bytes_per_checksum);
        let piece_bytes = (SCRUB_PIECE_BYTES / chunk_bytes).max(1) * chunk_bytes;
        Ok(Some(Self {
            data_memory: memory_for(piece_bytes)?,
            meta_memory: memory_for(checksum.checksums_len(piece_bytes))?,
            data,
            meta,
            is_direct,
            checksum,
            piece_bytes,
        }))
    }

    fn verify_piece(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let data = read_range(&self.data, &mut self.data_memory, offset, len)?;
        let at = META_HEADER_BYTES as u64 + self.checksum.checksums_len(offset);
        let wanted = self.checksum.checksums_len(len);
        let checksums = read_range(&self.meta, &mut self.meta_memory, at, wanted)?;
        if ringfs_protocol::mutant!("datanode: scrub without looking") {
            return Ok(());
        }
        self.checksum.verify(data, checksums).map_err(|mismatch| {
            rot(format!(
                "chunk {} after byte {offset} has checksum {:08x}, stored is {:08x}",
                mismatch.chunk_index, mismatch.computed, mismatch.expected
            ))
        })?;
        if !self.is_direct {
            for file in [&self.data, &self.meta] {
                rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
            }
        }
        Ok(())
    }
}

fn rot(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Room for `bytes` at any offset, rounded out to sectors.
fn memory_for(bytes: u64) -> io::Result<memmap2::MmapMut> {
    memmap2::MmapMut::map_anon((bytes.next_multiple_of(ALIGNMENT) + ALIGNMENT) as usize)
}

/// Exactly `len` bytes at `offset`, by reads of whole sectors.
fn read_range<'a>(
    file: &fs::File,
    memory: &'a mut memmap2::MmapMut,
    offset: u64,
    len: u64,
) -> io::Result<&'a [u8]> {
    let start = offset / ALIGNMENT * ALIGNMENT;
    let skip = (offset - start) as usize;
    let needed = skip + len as usize;
    let wanted = needed.next_multiple_of(DIRECT_IO_ALIGNMENT_BYTES);
    let mut filled = 0;
    while filled < needed {
        match file.read_at(&mut memory[filled..wanted], start + filled as u64)? {
            0 => return Err(rot(format!("a file ends before byte {}", offset + len))),
            count => filled += count,
        }
    }
    Ok(&memory[skip..needed])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::tests::{open, put_finalized};
    use crate::volume::tests::{volume, volume_at};

    fn pace(bytes_per_second: u64) -> ScrubPace {
        ScrubPace { period: Duration::from_secs(3600), bytes_per_second }
    }

    #[track_caller]
    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(20), "not in time: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn flip(path: &Path, at: u64) {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
        file.sync_all().unwrap();
    }

    fn bad(dataset: &Dataset) -> Vec<BlockId> {
        let mut bad: Vec<_> =
            dataset.reports().take_bad().into_iter().map(|(_, block)| block.id).collect();
        bad.sort();
        bad
    }

    #[test]
    fn all_kinds_of_rot_are_found_and_good_replicas_pass() {
        let (volume, _temp) = volume();
        let len = 3 * SCRUB_PIECE_BYTES as usize + 77;
        for id in 1..=5 {
            put_finalized(&volume, id, 1001, &vec![id as u8; len]);
        }
        let dataset = Arc::new(open(vec![volume.clone()]));
        let files = |id| dataset.replica(dataset.pool_id(), BlockId(id)).unwrap().files();
        flip(&files(2).data, len as u64 - 1);
        flip(&files(3).meta, 100);
        fs::OpenOptions::new().write(true).open(files(4).data).unwrap().set_len(5000).unwrap();
        fs::remove_file(files(5).meta).unwrap();
        let counters = Arc::<Counters>::default();
        start(&dataset, &counters, pace(1 << 30)).unwrap();
        until("all were read", || {
            counters.blocks_verified.get() + counters.block_verification_failures.get() == 5
        });
        assert_eq!(bad(&dataset), [2, 3, 4, 5].map(BlockId));
        until("its place is saved", || {
            volume.scrub_cursor_path().exists()
                && ScrubCursor::load(&volume.scrub_cursor_path(), 0).is_at_end()
        });
        assert!(!volume.is_failed());
    }

    #[test]
    fn suspects_come_first_and_one_scrubbed_of_late_is_left_alone() {
        let (volume, _temp) = volume();
        for id in 1..=9 {
            put_finalized(&volume, id, 1001, &vec![1; 2 << 20]);
        }
        let dataset = Arc::new(open(vec![volume.clone()]));
        let ninth = dataset.replica(dataset.pool_id(), BlockId(9)).unwrap();
        flip(&ninth.files().data, 3);
        let counters = Arc::<Counters>::default();
        // A block takes 2 s at this pace, so the ninth would have to wait for 16 s.
        start(&dataset, &counters, pace(1 << 20)).unwrap();
        until("one block is being scrubbed", || counters.bytes_scrubbed.get() > 0);
        let since = Instant::now();
        volume.suspects().push(BlockId(9));
        volume.suspects().push(BlockId(9));
        until("the suspect was read", || counters.block_verification_failures.get() == 1);
        assert!(counters.blocks_verified.get() < 8, "{:?}", since.elapsed());
        assert_eq!(bad(&dataset), [BlockId(9)]);
    }

    #[test]
    fn the_volumes_lock_goes_while_a_scrubber_sleeps() {
        let temp = tempfile::tempdir().unwrap();
        let volume = volume_at(temp.path().join("d"));
        put_finalized(&volume, 1, 1001, &vec![1; 4 << 20]);
        let dataset = Arc::new(open(vec![volume]));
        let counters = Arc::<Counters>::default();
        start(&dataset, &counters, pace(1 << 20)).unwrap();
        until("it reads", || counters.bytes_scrubbed.get() > 0);
        drop(dataset);
        until("the lock file is gone", || !temp.path().join("d/in_use.lock").exists());
    }

    #[test]
    fn nothing_is_rotten_for_want_of_descriptors() {
        let (volume, _temp) = volume();
        let of = |errno| judge(&volume, io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EMFILE), Finding::Nothing));
        assert!(!volume.health().is_suspect());
        assert!(matches!(of(libc::EIO), Finding::Rot(_)));
        assert!(volume.health().is_suspect());
    }

    #[test]
    fn the_pace_is_apaches() {
        let of = |hours: &str, rate: &str| {
            let mut configuration = Configuration::default();
            configuration.set("dfs.datanode.scan.period.hours", hours);
            configuration.set("dfs.block.scanner.volume.bytes.per.second", rate);
            ScrubPace::from_configuration(&configuration).unwrap()
        };
        let weeks = ScrubPace { period: Duration::from_secs(504 * 3600), bytes_per_second: 7 };
        assert_eq!(of("0", "7"), Some(weeks));
        assert_eq!(of("504", "7"), Some(weeks));
        assert_eq!((of("-1", "7"), of("504", "0")), (None, None));
    }
}

//! What a volume holds when the datanode starts: directory listings only, but for replicas that were
//! being written, whose good length is read off their checksums.
//!
//! | found | becomes |
//! |---|---|
//! | data and meta in `finalized/` | FINALIZED, length of the data file, generation stamp of the meta's name |
//! | data in `finalized/`, meta in `rbw/` | the meta moves back: FINALIZED (an append that had not begun) |
//! | data in `rbw/`, meta in `finalized/` | the data moves over: FINALIZED (see `transitions`) |
//! | data and meta in `rbw/` | RWR, both files cut to the good length |
//! | data without a meta anywhere | generation stamp 0 (useless, as for Apache); length 0 in `rbw/` |
//! | a finalized replica in another directory than its id's | moved to its id's directory |
//! | meta without data, other names | ignored |
//! | anything in `tmp/` | deleted |
//!
//! Of two replicas of one block the higher generation stamp stays, then FINALIZED over RWR, then the
//! longer one, then the first found.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::collections::HashMap;
use ringfs_protocol::meta_file::{self, META_HEADER_BYTES, ReplicaFile};
use tracing::{info, warn};

use crate::deletion::set_leftovers_aside;
use crate::disk_threads::{DiskWork, Progress, run_in_time};
use crate::error::{DatanodeError, Result};
use crate::planned_restart;
use crate::replica_length::{good_len, meta_len};
use crate::volume::Volume;

/// The generation stamp of a replica whose meta file is missing.
const NO_STAMP: GenerationStamp = GenerationStamp(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundReplica {
    pub block: Block,
    pub state: ReplicaState,
}

impl FoundReplica {
    /// Whether this one stays when `other` is a replica of the same block.
    pub fn beats(&self, other: &Self) -> bool {
        let rank = |found: &Self| {
            let complete = found.state == ReplicaState::Finalized;
            (found.block.generation_stamp, complete, found.block.num_bytes)
        };
        rank(self) > rank(other)
    }
}

/// What a volume holds.
pub struct Scanned {
    pub replicas: Vec<FoundReplica>,
    /// To be deleted.
    pub leftovers: Vec<PathBuf>,
}

/// All replicas of all volumes. One whose disk does not answer for `patience` is an error.
pub fn scan_volumes(volumes: &[Arc<Volume>], patience: Duration) -> Result<Vec<Result<Scanned>>> {
    let scan = |volume: &Arc<Volume>| -> DiskWork<Result<Scanned>> {
        let volume = volume.clone();
        Box::new(move |progress| {
            let replicas = scan_volume(&volume, progress)?;
            Ok(Scanned { replicas, leftovers: set_leftovers_aside(&volume, progress)? })
        })
    };
    let scans = run_in_time(volumes.iter().map(scan).collect(), patience)?;
    let scans = scans.into_iter().zip(volumes).map(|(scan, volume)| {
        let no_answer = || DatanodeError::no_answer(format!("scanning {}", volume.location()));
        scan.unwrap_or_else(|| Err(no_answer()))
    });
    Ok(scans.collect())
}

fn scan_volume(volume: &Volume, progress: &Progress) -> Result<Vec<FoundReplica>> {
    let started = std::time::Instant::now();
    let scan = VolumeScan { volume, progress, only: None, found: Vec::new() };
    let found = scan.run(&volume.finalized_root())?;
    let open = found.iter().filter(|found| found.state != ReplicaState::Finalized).count();
    info!(
        volume = %volume.root().display(), replicas = found.len(), waiting_for_recovery = open,
        millis = started.elapsed().as_millis() as u64, "scanned"
    );
    Ok(found)
}

/// What the volume holds of one block, by the same rules. Nobody may have its files open.
pub(crate) fn scan_block(volume: &Volume, id: BlockId) -> Result<Option<FoundReplica>> {
    let progress = Progress::default();
    let scan = VolumeScan { volume, progress: &progress, only: Some(id), found: Vec::new() };
    let found = scan.run(&volume.replica_dir(ReplicaState::Finalized, id))?;
    let better =
        |one: FoundReplica, other: FoundReplica| if other.beats(&one) { other } else { one };
    Ok(found.into_iter().reduce(better))
}

struct VolumeScan<'a> {
    volume: &'a Volume,
    progress: &'a Progress,
    /// The only block that is looked for, if so.
    only: Option<BlockId>,
    found: Vec<FoundReplica>,
}

/// Files of `finalized/` that lack their other half, over all its directories.
#[derive(Default)]
struct Unpaired {
    data: Vec<(BlockId, u64)>,
    metas: HashMap<BlockId, GenerationStamp>,
}

/// One directory's replica files.
#[derive(Default)]
struct Listing {
    data: HashMap<BlockId, u64>,
    /// The highest generation stamp, if a block has several meta files.
    metas: HashMap<BlockId, GenerationStamp>,
    subdirs: Vec<PathBuf>,
}

impl Listing {
    fn read(dir: &Path, progress: &Progress) -> Result<Self> {
        let failed =
            |source| DatanodeError::Io { what: format!("reading {}", dir.display()), source };
        let mut listing = Self::default();
        for entry in fs::read_dir(dir).map_err(failed)? {
            progress.note();
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            match name.to_str().and_then(meta_file::parse_replica_file_name) {
                Some(ReplicaFile::Block(id)) => {
                    listing.data.insert(id, entry.metadata().map_err(failed)?.len());
                }
                Some(ReplicaFile::Meta(id, stamp)) => {
                    let highest = listing.metas.entry(id).or_insert(stamp);
                    *highest = stamp.max(*highest);
                }
                None if entry.file_type().map_err(failed)?.is_dir() => {
                    listing.subdirs.push(entry.path());
                }
                None => {}
            }
        }
        Ok(listing)
    }
}

impl VolumeScan<'_> {
    fn run(mut self, finalized_dir: &Path) -> Result<Vec<FoundReplica>> {
        let mut finalized = Unpaired::default();
        if self.only.is_none() || finalized_dir.exists() {
            self.finalized_dir(finalized_dir, &mut finalized)?;
        }
        let mut rbw = self.list(&self.volume.rbw_dir())?;
        for (id, len) in finalized.data {
            self.progress.note();
            self.finalized_without_meta(id, len, &mut rbw)?;
        }
        for (id, file_len) in std::mem::take(&mut rbw.data) {
            self.progress.note();
            let stamp = rbw.metas.remove(&id);
            self.interrupted(id, file_len, stamp, &finalized.metas)?;
        }
        Ok(self.found)
    }

    fn list(&self, dir: &Path) -> Result<Listing> {
        let mut listing = Listing::read(dir, self.progress)?;
        if let Some(only) = self.only {
            listing.data.retain(|id, _| *id == only);
            listing.metas.retain(|id, _| *id == only);
            listing.subdirs.clear();
        }
        Ok(listing)
    }

    fn finalized_dir(&mut self, dir: &Path, unpaired: &mut Unpaired) -> Result<()> {
        let mut listing = self.list(dir)?;
        for (id, len) in listing.data {
            self.progress.note();
            let stamp = listing.metas.remove(&id);
            if !self.put_in_its_place(dir, id, stamp)? {
                continue;
            }
            match stamp {
                Some(stamp) => self.add(id, stamp, len, ReplicaState::Finalized),
                None => unpaired.data.push((id, len)),
            }
        }
        unpaired.metas.extend(listing.metas);
        for subdir in listing.subdirs {
            self.finalized_dir(&subdir, unpaired)?;
        }
        Ok(())
    }

    /// Moves a finalized replica found in a directory that is not its id's, where nobody would look
    /// for it; `false` when that place is taken.
    fn put_in_its_place(
        &self,
        dir: &Path,
        id: BlockId,
        stamp: Option<GenerationStamp>,
    ) -> Result<bool> {
        let place = self.volume.replica_dir(ReplicaState::Finalized, id);
        if dir == place {
            return Ok(true);
        }
        let data = meta_file::block_file_name(id);
        if place.join(&data).exists() {
            warn!(block = %id, dir = %dir.display(), "a second copy in a wrong directory is ignored");
            return Ok(false);
        }
        fs::create_dir_all(&place)
            .map_err(DatanodeError::io(format!("creating {}", place.display())))?;
        if let Some(stamp) = stamp {
            let meta = meta_file::meta_file_name(id, stamp);
            rename(&dir.join(&meta), &place.join(&meta))?;
        }
        rename(&dir.join(&data), &place.join(&data))?;
        info!(block = %id, from = %dir.display(), to = %place.display(), "moved to its directory");
        Ok(true)
    }

    fn finalized_without_meta(&mut self, id: BlockId, len: u64, rbw: &mut Listing) -> Result<()> {
        let place = self.volume.replica_dir(ReplicaState::Finalized, id);
        let stamp = match rbw.metas.get(&id) {
            Some(&stamp) if !rbw.data.contains_key(&id) => stamp,
            _ => {
                warn!(block = %id, dir = %place.display(), "no meta file: the replica is useless");
                self.add(id, NO_STAMP, len, ReplicaState::Finalized);
                return Ok(());
            }
        };
        rbw.metas.remove(&id);
        let name = meta_file::meta_file_name(id, stamp);
        rename(&self.volume.rbw_dir().join(&name), &place.join(&name))?;
        info!(block = %id, stamp = stamp.0, "an append that had not begun is taken back");
        self.add(id, stamp, len, ReplicaState::Finalized);
        Ok(())
    }

    /// A data file in `rbw/`.
    fn interrupted(
        &mut self,
        id: BlockId,
        file_len: u64,
        stamp: Option<GenerationStamp>,
        finalized_metas: &HashMap<BlockId, GenerationStamp>,
    ) -> Result<()> {
        let rbw = self.volume.rbw_dir();
        let data = rbw.join(meta_file::block_file_name(id));
        let Some(stamp) = stamp else {
            let Some(&stamp) = finalized_metas.get(&id) else {
                warn!(block = %id, "no meta file: the interrupted replica is useless");
                self.add(id, NO_STAMP, 0, ReplicaState::Rwr);
                return Ok(());
            };
            return self.half_moved(id, stamp, file_len);
        };
        let meta = rbw.join(meta_file::meta_file_name(id, stamp));
        if ringfs_protocol::mutant!("datanode: believe a file's length at start") {
            self.add(id, stamp, file_len, ReplicaState::Rwr);
            return Ok(());
        }
        let len = cut_to_good_len(&data, &meta, file_len)
            .map_err(DatanodeError::io(format!("checking {}", data.display())))?;
        let state = match planned_restart::take_mark(&rbw, id) {
            true => ReplicaState::Rbw,
            false => ReplicaState::Rwr,
        };
        self.add(id, stamp, len, state);
        Ok(())
    }

    /// Data in `rbw/`, meta in `finalized/`: complete, when the lengths say so.
    fn half_moved(&mut self, id: BlockId, stamp: GenerationStamp, file_len: u64) -> Result<()> {
        let (rbw, place) =
            (self.volume.rbw_dir(), self.volume.replica_dir(ReplicaState::Finalized, id));
        let data = meta_file::block_file_name(id);
        let meta = meta_file::meta_file_name(id, stamp);
        let checking = || format!("checking {}", place.join(&meta).display());
        let complete = is_complete(&place.join(&meta), file_len)
            .map_err(|source| DatanodeError::Io { what: checking(), source })?;
        if complete {
            rename(&rbw.join(&data), &place.join(&data))?;
            info!(block = %id, stamp = stamp.0, "an interrupted finalize is completed");
            self.add(id, stamp, file_len, ReplicaState::Finalized);
            return Ok(());
        }
        rename(&place.join(&meta), &rbw.join(&meta))?;
        let len = cut_to_good_len(&rbw.join(&data), &rbw.join(&meta), file_len)
            .map_err(|source| DatanodeError::Io { what: checking(), source })?;
        self.add(id, stamp, len, ReplicaState::Rwr);
        Ok(())
    }

    fn add(&mut self, id: BlockId, stamp: GenerationStamp, len: u64, state: ReplicaState) {
        let block = Block { id, generation_stamp: stamp, num_bytes: len };
        self.found.push(FoundReplica { block, state });
    }
}

/// Finds the good length of an interrupted replica and cuts both files to it.
pub(crate) fn cut_to_good_len(
    data_path: &Path,
    meta_path: &Path,
    file_len: u64,
) -> io::Result<u64> {
    let data = fs::OpenOptions::new().read(true).write(true).open(data_path)?;
    let meta = fs::OpenOptions::new().read(true).write(true).open(meta_path)?;
    let stored_len = meta.metadata()?.len();
    let mut header = [0; META_HEADER_BYTES];
    let checksum = match meta.read_exact_at(&mut header, 0) {
        Ok(()) => meta_file::decode_meta_header(&header).ok(),
        Err(_) => None,
    };
    let Some(checksum) = checksum else {
        warn!(meta = %meta_path.display(), "no readable header: nothing of the replica counts");
        return Ok(0);
    };
    // What lies beyond the data file's own chunks cannot matter, whatever the meta file's size.
    let wanted = meta_len(checksum, file_len).min(stored_len) - META_HEADER_BYTES as u64;
    let mut stored = Vec::with_capacity(wanted as usize);
    io::Seek::seek(&mut &meta, io::SeekFrom::Start(META_HEADER_BYTES as u64))?;
    (&meta).take(wanted).read_to_end(&mut stored)?;
    let len = good_len(checksum, &stored, file_len, |offset, out| data.read_exact_at(out, offset))?;
    if len != file_len {
        data.set_len(len)?;
    }
    if meta_len(checksum, len) != stored_len {
        meta.set_len(meta_len(checksum, len))?;
    }
    mend_last_checksum(checksum, &data, &meta, len)?;
    Ok(len)
}

/// The last chunk's checksum may be torn where it lies across two sectors, and prove its chunk yet.
fn mend_last_checksum(
    checksum: DataChecksum,
    data: &fs::File,
    meta: &fs::File,
    len: u64,
) -> io::Result<()> {
    if len == 0 || checksum.kind == ChecksumType::Null {
        return Ok(());
    }
    let chunk_len = u64::from(checksum.bytes_per_checksum);
    let index = (len - 1) / chunk_len;
    let mut chunk = vec![0; (len - index * chunk_len) as usize];
    data.read_exact_at(&mut chunk, index * chunk_len)?;
    let (mut stored, crc) = ([0; 4], checksum.crc(&chunk).to_be_bytes());
    let at = META_HEADER_BYTES as u64 + index * 4;
    meta.read_exact_at(&mut stored, at)?;
    if stored != crc {
        meta.write_all_at(&crc, at)?;
    }
    Ok(())
}

fn is_complete(meta_path: &Path, file_len: u64) -> io::Result<bool> {
    let meta = fs::File::open(meta_path)?;
    let mut header = [0; META_HEADER_BYTES];
    if meta.read_exact_at(&mut header, 0).is_err() {
        return Ok(false);
    }
    let checksum = meta_file::decode_meta_header(&header);
    let stored_len = meta.metadata()?.len();
    Ok(checksum.is_ok_and(|checksum| meta_len(checksum, file_len) == stored_len))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(DatanodeError::io(format!(
        "renaming {} to {}",
        from.display(),
        to.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::tests::volume_at;

    struct Disk {
        volume: Arc<Volume>,
        _temp: tempfile::TempDir,
    }

    impl Disk {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            Self { volume: volume_at(temp.path().join("d")), _temp: temp }
        }

        fn dir(&self, state: ReplicaState, id: u64) -> PathBuf {
            let dir = self.volume.replica_dir(state, BlockId(id));
            fs::create_dir_all(&dir).unwrap();
            dir
        }

        fn data(&self, state: ReplicaState, id: u64, bytes: &[u8]) -> PathBuf {
            let path = self.dir(state, id).join(format!("blk_{id}"));
            fs::write(&path, bytes).unwrap();
            path
        }

        fn meta(&self, state: ReplicaState, id: u64, stamp: u64, data: &[u8]) -> PathBuf {
            let path = self.dir(state, id).join(format!("blk_{id}_{stamp}.meta"));
            fs::write(&path, meta_bytes(data)).unwrap();
            path
        }

        fn scan(&self) -> Vec<(u64, u64, u64, ReplicaState)> {
            let mut found: Vec<_> = scan_volume(&self.volume, &Progress::default())
                .unwrap()
                .iter()
                .map(|found| {
                    let block = found.block;
                    (block.id.0, block.generation_stamp.0, block.num_bytes, found.state)
                })
                .collect();
            found.sort();
            found
        }
    }

    fn meta_bytes(data: &[u8]) -> Vec<u8> {
        let checksum = DataChecksum::new(ChecksumType::Crc32c, 512).unwrap();
        let mut bytes = meta_file::encode_meta_header(checksum).to_vec();
        let mut crcs = vec![0; checksum.checksums_len(data.len() as u64) as usize];
        checksum.fill(data, &mut crcs);
        bytes.extend(crcs);
        bytes
    }

    use ReplicaState::{Finalized, Rbw, Rwr};

    #[test]
    fn finalized_and_interrupted_replicas_are_found() {
        let disk = Disk::new();
        disk.data(Finalized, 1, &[7; 700]);
        disk.meta(Finalized, 1, 1001, &[7; 700]);
        disk.data(Finalized, 0x0203_0405, b"");
        disk.meta(Finalized, 0x0203_0405, 1002, b"");
        let mut preallocated = vec![9; 700];
        preallocated.resize(4096, 0);
        let data = disk.data(Rbw, 3, &preallocated);
        disk.meta(Rbw, 3, 1003, &[9; 700]);
        fs::write(disk.dir(Finalized, 1).join("blk_x"), "no replica").unwrap();
        fs::write(disk.dir(Rbw, 3).join("note.txt"), "no replica").unwrap();
        assert_eq!(
            disk.scan(),
            [(1, 1001, 700, Finalized), (3, 1003, 700, Rwr), (0x0203_0405, 1002, 0, Finalized)]
        );
        assert_eq!(fs::metadata(data).unwrap().len(), 700, "preallocation is given back");
    }

    #[test]
    fn the_higher_of_two_meta_files_counts() {
        let disk = Disk::new();
        disk.data(Rbw, 3, &[9; 700]);
        disk.meta(Rbw, 3, 1003, &[9; 100]);
        disk.meta(Rbw, 3, 1004, &[9; 700]);
        assert_eq!(disk.scan(), [(3, 1004, 700, Rwr)]);
    }

    #[test]
    fn half_moved_replicas_are_put_together_again() {
        let disk = Disk::new();
        disk.data(Rbw, 1, &[1; 700]);
        disk.meta(Finalized, 1, 1001, &[1; 700]);
        disk.data(Finalized, 2, &[2; 700]);
        disk.meta(Rbw, 2, 1002, &[2; 700]);
        // Lengths that do not fit: the data was still being written.
        disk.data(Rbw, 3, &[3; 4096]);
        disk.meta(Finalized, 3, 1003, &[3; 700]);
        let expected = [(1, 1001, 700, Finalized), (2, 1002, 700, Finalized), (3, 1003, 700, Rwr)];
        assert_eq!(disk.scan(), expected);
        assert_eq!(disk.scan(), expected, "a second start finds nothing to repair");
        for (id, dir) in [(1, Finalized), (2, Finalized), (3, Rbw)] {
            assert!(disk.dir(dir, id).join(format!("blk_{id}")).exists());
            assert!(disk.dir(dir, id).join(format!("blk_{id}_100{id}.meta")).exists());
        }
    }

    #[test]
    fn replicas_without_meta_files_are_kept_but_useless() {
        let disk = Disk::new();
        let finalized = disk.data(Finalized, 1, &[1; 700]);
        let rbw = disk.data(Rbw, 2, &[2; 700]);
        assert_eq!(disk.scan(), [(1, 0, 700, Finalized), (2, 0, 0, Rwr)]);
        assert!(finalized.exists() && rbw.exists());
    }

    #[test]
    fn a_misplaced_replica_moves_to_its_directory() {
        let disk = Disk::new();
        // Where the 256 x 256 layout has it.
        let id = 0x00ff_ff01;
        let wrong = disk.volume.finalized_root().join("subdir255/subdir255");
        fs::create_dir_all(&wrong).unwrap();
        fs::write(wrong.join(format!("blk_{id}")), [5; 600]).unwrap();
        fs::write(wrong.join(format!("blk_{id}_1001.meta")), meta_bytes(&[5; 600])).unwrap();
        assert_eq!(disk.scan(), [(id, 1001, 600, Finalized)]);
        assert!(disk.dir(Finalized, id).join(format!("blk_{id}_1001.meta")).exists());
        // A second copy there neither counts nor is deleted.
        fs::write(wrong.join(format!("blk_{id}")), [5; 600]).unwrap();
        assert_eq!(disk.scan(), [(id, 1001, 600, Finalized)]);
        assert!(wrong.join(format!("blk_{id}")).exists());
    }

    #[test]
    fn an_unreadable_meta_header_leaves_nothing_of_an_interrupted_replica() {
        let disk = Disk::new();
        disk.data(Rbw, 1, &[1; 700]);
        fs::write(disk.dir(Rbw, 1).join("blk_1_1001.meta"), [0, 1, 2]).unwrap();
        assert_eq!(disk.scan(), [(1, 1001, 0, Rwr)]);
    }

    #[test]
    fn the_better_of_two_replicas_is_known() {
        let found = |stamp, state, len| FoundReplica {
            block: Block {
                id: BlockId(1),
                generation_stamp: GenerationStamp(stamp),
                num_bytes: len,
            },
            state,
        };
        assert!(found(1002, Rwr, 5).beats(&found(1001, Finalized, 10)));
        assert!(found(1001, Finalized, 10).beats(&found(1001, Finalized, 5)));
        assert!(found(1001, Finalized, 5).beats(&found(1001, Rwr, 10)));
        assert!(!found(1001, Finalized, 5).beats(&found(1001, Finalized, 5)));
    }
}

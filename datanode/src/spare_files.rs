//! Data files of deleted blocks that new blocks are written into.
//!
//! ```text
//! deleted -> emptied and kept, by the volume's deletion thread (else unlinked)
//! kept    -> a new replica's data file, when that outgrows its first slab (`block_sink`)
//!         -> unlinked: not used for SPARE_FILE_LIFE, or room on the volume has become scarce
//! ```
//!
//! An unlink of a full block and the allocation of the next one's space cost the disk some 25 ms where
//! freed space is discarded at once, and what lies below a virtual disk allocates it all over again as
//! it is written: one file after the other was written at 1.9 GB/s so, and at 2.3 to 3.6 into space
//! that was kept.
//!
//! A block that ends early has the rest of its file cut off, which costs the disk as much as its part of
//! an unlink does, and its writer waits for it, where unwritten space is freed in 0.1 ms. So spare files
//! are handed out only while most of the volume's blocks that outgrow a slab fill at least half of what
//! they announced.
//!
//! What must hold: nobody finds a block's bytes in another one. A file is emptied when it is kept
//! (its space reads as zeroes, as space that is preallocated does), and it is kept only if it was made
//! by this process, has no other name, is open nowhere, and was never passed to a client
//! ([`crate::replica::Replica::may_be_kept`]): whoever has it open, a write that was given up included,
//! would meet the next block there.
//!
//! Spare files lie in `tmp/`, so a start deletes them, ours or Apache's. They count as free.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};
use tracing::debug;

use crate::limits::{SPARE_FILE_BYTES_MIN, SPARE_FILE_LIFE, SPARE_ROOM_DIVISOR};
use crate::ring;
use crate::volume::DIRECT_IO_ALIGNMENT_BYTES;

/// Those of one volume.
#[derive(Debug)]
pub struct SpareFiles {
    /// The longest kept one last.
    files: Mutex<Vec<Kept>>,
    count_max: usize,
    /// A bit for each of the last blocks: 1, it was half full or more.
    filled: AtomicU16,
}

/// As long as its space, all of it zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpareFile {
    pub path: PathBuf,
    pub len: u64,
}

#[derive(Debug)]
struct Kept {
    file: SpareFile,
    /// `None`: of no use.
    since: Option<Instant>,
}

impl SpareFiles {
    /// Keeps at most so many.
    pub fn new(count_max: usize) -> Self {
        Self { files: Mutex::default(), count_max, filled: AtomicU16::new(u16::MAX) }
    }

    /// A block that had all of its space allocated has ended.
    pub fn note_block(&self, len: u64, allocated_len: u64) {
        let bit = u16::from(len >= allocated_len / 2);
        let note = |filled: u16| Some(filled << 1 | bit);
        let _ = self.filled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, note);
    }

    /// Bytes of the disk that they take.
    pub fn bytes(&self) -> u64 {
        self.files.lock().iter().map(|kept| kept.file.len).sum()
    }

    pub fn count(&self) -> usize {
        self.files.lock().len()
    }

    /// Takes over a file that has left its replica's place, on a volume with so much room. Waits for
    /// the disk. `false`: it is to be unlinked.
    pub fn keep(&self, path: &Path, room_bytes: u64) -> bool {
        if self.count() >= self.count_max {
            return false;
        }
        let most = (room_bytes / SPARE_ROOM_DIVISOR).saturating_sub(self.bytes());
        match emptied(path, most) {
            Ok(Some(len)) => {
                let file = SpareFile { path: path.to_owned(), len };
                self.files.lock().push(Kept { file, since: Some(Instant::now()) });
                true
            }
            Ok(None) => false,
            Err(error) => {
                debug!(path = %path.display(), %error, "not kept as a spare file");
                false
            }
        }
    }

    /// One for a block of up to `len` bytes: no longer, as what is beyond would have to be cut off, and
    /// at least half as long; `None` where blocks rarely fill them.
    pub fn take(&self, len: u64) -> Option<SpareFile> {
        if self.filled.load(Ordering::Relaxed).count_ones() < u16::BITS / 2 {
            return None;
        }
        let mut files = self.files.lock();
        let is_fit = |kept: &Kept| kept.since.is_some() && kept.file.len <= len;
        let fitting = files.iter().enumerate().filter(|(_, kept)| is_fit(kept));
        let (index, kept) = fitting.max_by_key(|(_, kept)| kept.file.len)?;
        let is_long = kept.file.len >= len / 2;
        is_long.then(|| files.swap_remove(index).file)
    }

    /// A file that was taken and turned out to be of no use: the next release has it.
    pub fn reject(&self, file: SpareFile) {
        self.files.lock().push(Kept { file, since: None });
    }

    /// To be unlinked, on a volume with so much room.
    pub fn release(&self, room_bytes: u64) -> Vec<PathBuf> {
        let mut files = self.files.lock();
        let most = room_bytes / SPARE_ROOM_DIVISOR;
        let mut bytes = 0;
        let mut released = Vec::new();
        files.retain(|kept| {
            let is_young = kept.since.is_some_and(|since| since.elapsed() < SPARE_FILE_LIFE);
            let stays = is_young && bytes + kept.file.len <= most;
            match stays {
                true => bytes += kept.file.len,
                false => released.push(kept.file.path.clone()),
            }
            stays
        });
        released
    }
}

/// Frees the file of its bytes, but not their space; its length, or `None` if it is not to be kept.
fn emptied(path: &Path, len_max: u64) -> io::Result<Option<u64>> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let status = file.metadata()?;
    let len = status.len().next_multiple_of(DIRECT_IO_ALIGNMENT_BYTES as u64);
    let is_fit = (SPARE_FILE_BYTES_MIN..=len_max).contains(&len)
        && status.blocks() * 512 >= len
        && status.nlink() == 1;
    if !is_fit || ring::fs::is_open_elsewhere(&file)? {
        return Ok(None);
    }
    fallocate(&file, FallocateFlags::ZERO_RANGE, 0, len)?;
    Ok(Some(len))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    const ROOM: u64 = 1 << 40;
    const LEN: u64 = SPARE_FILE_BYTES_MIN;

    /// On the disk of the sources: one in memory zeroes no ranges.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    fn block_file(directory: &Path, name: &str, len: u64) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, vec![7; len as usize]).unwrap();
        path
    }

    #[test]
    fn a_kept_file_has_its_space_and_none_of_its_bytes() {
        let directory = directory();
        let spares = SpareFiles::new(2);
        let path = block_file(directory.path(), "odd", LEN + 100);
        assert!(spares.keep(&path, ROOM));
        let status = fs::metadata(&path).unwrap();
        assert_eq!((status.len(), status.blocks() * 512), (LEN + 4096, LEN + 4096));
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!((spares.count(), spares.bytes()), (1, LEN + 4096));
        assert_eq!(spares.take(LEN), None, "longer than the block");
        assert_eq!(spares.take(3 * LEN), None, "shorter than half of it");
        assert_eq!(spares.take(2 * LEN), Some(SpareFile { path, len: LEN + 4096 }));
        assert_eq!(spares.bytes(), 0);
    }

    #[test]
    fn what_others_could_look_into_is_not_kept() {
        let directory = directory();
        let spares = SpareFiles::new(2);
        let path = block_file(directory.path(), "block", LEN);
        let reader = File::open(&path).unwrap();
        assert!(!spares.keep(&path, ROOM), "somebody reads it");
        let mut byte = [0];
        reader.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [7], "and goes on reading it");
        drop(reader);
        let mapped = File::open(&path).unwrap();
        let writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        drop(mapped);
        assert!(!spares.keep(&path, ROOM), "somebody may write to it");
        drop(writer);
        fs::hard_link(&path, directory.path().join("of an upgrade")).unwrap();
        assert!(!spares.keep(&path, ROOM), "it has another name");
        fs::remove_file(directory.path().join("of an upgrade")).unwrap();
        assert!(spares.keep(&path, ROOM));
    }

    #[test]
    fn no_more_are_kept_than_their_number_and_the_room_allow() {
        let directory = directory();
        let spares = SpareFiles::new(2);
        assert!(!spares.keep(&block_file(directory.path(), "short", LEN - 4096), ROOM));
        let sparse = directory.path().join("sparse");
        File::create(&sparse).unwrap().set_len(LEN).unwrap();
        assert!(!spares.keep(&sparse, ROOM), "without its space");
        let paths = ["a", "b", "c"].map(|name| block_file(directory.path(), name, LEN));
        assert!(!spares.keep(&paths[0], SPARE_ROOM_DIVISOR * LEN - 1), "too little room");
        assert!(spares.keep(&paths[0], SPARE_ROOM_DIVISOR * LEN));
        assert!(!spares.keep(&paths[1], SPARE_ROOM_DIVISOR * LEN), "it is one file's");
        assert!(spares.keep(&paths[1], ROOM));
        assert!(!spares.keep(&paths[2], ROOM), "two are enough");
        assert!(spares.release(ROOM).is_empty());
        assert_eq!(spares.release(SPARE_ROOM_DIVISOR * LEN), [paths[1].clone()]);
        assert_eq!(spares.release(0), [paths[0].clone()]);
        assert_eq!(spares.count(), 0);
    }

    #[test]
    fn none_is_handed_out_where_blocks_end_early() {
        let directory = directory();
        let spares = SpareFiles::new(1);
        assert!(spares.keep(&block_file(directory.path(), "block", LEN), ROOM));
        (0..9).for_each(|_| spares.note_block(LEN / 2 - 1, LEN));
        assert_eq!(spares.take(LEN), None);
        spares.note_block(LEN / 2, LEN);
        assert_eq!(spares.take(LEN), None, "the oldest note was of a full one, too");
        (0..7).for_each(|_| spares.note_block(LEN, LEN));
        assert!(spares.take(LEN).is_some());
    }

    #[test]
    fn what_is_not_used_is_released() {
        let directory = directory();
        let spares = SpareFiles::new(2);
        let path = block_file(directory.path(), "block", LEN);
        assert!(spares.keep(&path, ROOM));
        spares.files.lock()[0].since = Instant::now().checked_sub(SPARE_FILE_LIFE);
        assert_eq!(spares.release(ROOM), [path]);
    }
}

//! One host's disk: files in a directory of the real, in-memory file system hold what programs see,
//! and beside each the model keeps what a power failure would leave.
//!
//! A write is volatile until the file is synced, by 512-byte sector: a power failure keeps or loses
//! each unsynced sector and change of length by the seed's choice. Names change in a journal: a power
//! failure keeps a front part of it, at least as far as a directory was synced. After a failed sync
//! what was dirty counts as clean and is lost, as on Linux under pressure for memory. What start-up
//! code does without the executor is durable at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

const SECTOR: u64 = 512;
/// Sectors of a 4 KiB one.
const PAGE_SECTORS: u64 = 8;

#[derive(Debug, Default)]
pub struct Disk {
    /// By inode.
    files: BTreeMap<u64, FileModel>,
    next_file: u64,
    directories: BTreeMap<u64, PathBuf>,
    journal: Vec<NameChange>,
    /// Changes of names that are durable.
    forced: usize,
    pub fails: Failures,
}

/// Which operations fail from now on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failures {
    pub read: bool,
    pub write: bool,
    pub sync: bool,
    pub full: bool,
    /// Everything takes seconds.
    pub stalls: bool,
    /// Nothing ends before this is over.
    pub hangs: bool,
    /// Each operation in a piece of work on files may fail.
    pub file_work: bool,
    /// A check of the disk meets it as well: the datanode gives it up.
    pub for_all: bool,
}

/// What a loss of power took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    /// Of 512 bytes.
    pub sectors: usize,
    /// Of 4 KiB, of which a part was lost and another was not.
    pub torn: usize,
    pub names: usize,
}

#[derive(Debug)]
struct FileModel {
    /// The real file system's inodes differ from run to run: where files are taken in turn, it is
    /// by these.
    number: u64,
    handle: File,
    durable: Vec<u8>,
    /// Sectors that were written since the last sync.
    dirty: BTreeSet<u64>,
    len_is_dirty: bool,
}

#[derive(Debug)]
enum NameChange {
    Create { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, replaced: Option<Vec<u8>> },
    Unlink { path: PathBuf, content: Vec<u8> },
    CreateDir { path: PathBuf },
}

impl Failures {
    /// What is there can be lost.
    pub fn may_lose_bytes(&self) -> bool {
        self.read || self.write || self.sync
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Disk {
    /// Takes bytes and gives them back.
    pub fn check(&self) -> io::Result<()> {
        match self.fails {
            Failures { for_all: false, .. } => Ok(()),
            Failures { read: false, write: false, sync: false, full: true, .. } => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            Failures { read: false, write: false, sync: false, .. } => Ok(()),
            _ => Err(eio()),
        }
    }

    /// Returns the descriptor's number, as the kernel does.
    pub fn open(&mut self, path: &Path, flags: i32, mode: u32) -> io::Result<u32> {
        self.open_file(path, flags, mode).map(|file| file.into_raw_fd() as u32)
    }

    pub fn open_file(&mut self, path: &Path, flags: i32, mode: u32) -> io::Result<File> {
        if self.fails.read {
            return Err(eio());
        }
        let creates = flags & libc::O_CREAT != 0;
        if creates && self.fails.full {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if creates && self.fails.write {
            return Err(eio());
        }
        let access = flags & libc::O_ACCMODE;
        let mut options = OpenOptions::new();
        options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY).mode(mode);
        if flags & libc::O_EXCL != 0 {
            options.create_new(true);
        }
        let file = options.open(path)?;
        let status = file.metadata()?;
        if status.is_dir() {
            self.directories.insert(status.ino(), path.to_owned());
        } else if path != Path::new("/dev/null") {
            if creates {
                self.journal.push(NameChange::Create { path: path.to_owned() });
            }
            self.learn(status.ino(), path, creates)?;
        }
        Ok(file)
    }

    fn learn(&mut self, inode: u64, path: &Path, is_new: bool) -> io::Result<()> {
        if is_new {
            self.files.remove(&inode);
        }
        if self.files.contains_key(&inode) {
            return Ok(());
        }
        let handle = OpenOptions::new().read(true).write(true).open(path)?;
        let durable = if is_new { Vec::new() } else { read_all(&handle)? };
        self.next_file += 1;
        let number = self.next_file;
        let model =
            FileModel { number, handle, durable, dirty: BTreeSet::new(), len_is_dirty: false };
        self.files.insert(inode, model);
        Ok(())
    }

    fn file(&mut self, inode: u64) -> io::Result<&mut FileModel> {
        self.files.get_mut(&inode).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    pub fn read(&mut self, inode: u64, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        if self.fails.read {
            return Err(eio());
        }
        let mut bytes = vec![0; len];
        let count = self.file(inode)?.handle.read_at(&mut bytes, offset)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    pub fn write(&mut self, inode: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.fails.write {
            return Err(eio());
        }
        if self.fails.full {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.file(inode)?.write(bytes, offset)
    }

    pub fn allocate(&mut self, inode: u64, end: u64) -> io::Result<()> {
        if self.fails.full || self.fails.write {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let file = self.file(inode)?;
        if file.handle.metadata()?.len() < end {
            file.handle.set_len(end)?;
            file.len_is_dirty = true;
        }
        Ok(())
    }

    pub fn truncate(&mut self, inode: u64, len: u64) -> io::Result<()> {
        if self.fails.write {
            return Err(eio());
        }
        let file = self.file(inode)?;
        let old = file.handle.metadata()?.len();
        file.handle.set_len(len)?;
        file.len_is_dirty = true;
        file.dirty.extend(len.min(old) / SECTOR..len.max(old).div_ceil(SECTOR));
        Ok(())
    }

    pub fn sync(&mut self, inode: u64) -> io::Result<()> {
        if let Some(directory) = self.directories.get(&inode) {
            if self.fails.sync {
                return Err(eio());
            }
            let touches = |change: &NameChange| change.touches(directory);
            if let Some(last) = self.journal.iter().rposition(touches) {
                self.forced = self.forced.max(last + 1);
            }
            return Ok(());
        }
        let fails = self.fails.sync;
        let file = self.file(inode)?;
        if fails {
            // The kernel takes the pages for clean, and may drop them at any moment: here at once.
            let mut now = read_all(&file.handle)?;
            for sector in std::mem::take(&mut file.dirty) {
                copy_sector(&file.durable, &mut now, sector);
            }
            file.handle.write_all_at(&now, 0)?;
            return Err(eio());
        }
        file.sync()
    }

    pub fn len(&mut self, inode: u64) -> io::Result<u64> {
        Ok(self.file(inode)?.handle.metadata()?.len())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.fails.write {
            return Err(eio());
        }
        let replaced = fs::read(to).ok();
        fs::rename(from, to)?;
        let (from, to) = (from.to_owned(), to.to_owned());
        self.journal.push(NameChange::Rename { from, to, replaced });
        Ok(())
    }

    pub fn unlink(&mut self, path: &Path) -> io::Result<()> {
        if self.fails.write {
            return Err(eio());
        }
        let content = fs::read(path)?;
        fs::remove_file(path)?;
        self.journal.push(NameChange::Unlink { path: path.to_owned(), content });
        Ok(())
    }

    pub fn create_dir(&mut self, path: &Path, _mode: u32) -> io::Result<()> {
        if self.fails.write {
            return Err(eio());
        }
        fs::create_dir(path)?;
        self.journal.push(NameChange::CreateDir { path: path.to_owned() });
        Ok(())
    }

    /// The host loses power.
    pub fn lose_power(&mut self, rng: &mut StdRng) -> io::Result<Lost> {
        let mut lost = Lost::default();
        let mut files: Vec<&mut FileModel> = self.files.values_mut().collect();
        files.sort_by_key(|file| file.number);
        for file in files {
            file.lose_power(rng, &mut lost)?;
        }
        let kept = rng.random_range(self.forced..=self.journal.len());
        lost.names = self.journal.len() - kept;
        for change in self.journal.drain(kept..).rev() {
            change.undo()?;
        }
        self.forget();
        Ok(lost)
    }

    /// What is there now has always been there: at a start, and when names have no past.
    pub fn forget(&mut self) {
        *self = Self { fails: self.fails, ..Self::default() };
    }

    /// Descriptors that the model itself holds.
    pub fn handles(&self) -> usize {
        self.files.len()
    }

    /// What a loss of power would leave of the file, and the oldest name that it could have then; `None`
    /// if perhaps none at all.
    pub fn durable(&self, path: &Path) -> io::Result<Option<(PathBuf, Vec<u8>)>> {
        let mut oldest = path;
        for change in self.journal[self.forced..].iter().rev().filter(|change| change.makes(oldest))
        {
            match change {
                NameChange::Rename { from, .. } => oldest = from,
                _ => return Ok(None),
            }
        }
        let file = File::open(path)?;
        let durable = match self.files.get(&file.metadata()?.ino()) {
            Some(model) => model.durable.clone(),
            None => read_all(&file)?,
        };
        Ok(Some((oldest.to_owned(), durable)))
    }

    /// Changes one bit of a file behind everybody's back.
    pub fn rot(&mut self, path: &Path, rng: &mut StdRng) -> io::Result<bool> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let (inode, len) = (file.metadata()?.ino(), file.metadata()?.len());
        if len == 0 {
            return Ok(false);
        }
        let (at, bit) = (rng.random_range(0..len), rng.random_range(0..8));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << bit;
        file.write_all_at(&byte, at)?;
        if let Some(model) = self.files.get_mut(&inode)
            && let Some(durable) = model.durable.get_mut(at as usize)
        {
            *durable = byte[0];
        }
        Ok(true)
    }
}

impl FileModel {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let old_len = self.handle.metadata()?.len();
        self.handle.write_all_at(bytes, offset)?;
        let sectors = offset.min(old_len) / SECTOR..end.div_ceil(SECTOR);
        for sector in sectors {
            self.dirty.insert(sector);
        }
        self.len_is_dirty |= end > old_len;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.durable = read_all(&self.handle)?;
        self.dirty.clear();
        self.len_is_dirty = false;
        Ok(())
    }

    fn lose_power(&mut self, rng: &mut StdRng, all: &mut Lost) -> io::Result<()> {
        let mut now = read_all(&self.handle)?;
        if self.len_is_dirty && rng.random_bool(0.5) {
            // What a truncation took away, and nobody wrote again, comes back as it was.
            let cut = now.len().min(self.durable.len());
            now.truncate(cut);
            now.extend_from_slice(&self.durable[cut..]);
            all.sectors += 1;
        }
        let lost: Vec<u64> = self.dirty.iter().copied().filter(|_| rng.random_bool(0.5)).collect();
        lost.iter().for_each(|sector| copy_sector(&self.durable, &mut now, *sector));
        all.sectors += lost.len();
        let pages: BTreeSet<u64> = lost.iter().map(|sector| sector / PAGE_SECTORS).collect();
        let is_kept = |sector: &u64| self.dirty.contains(sector) && !lost.contains(sector);
        let is_torn =
            |page: &u64| (page * PAGE_SECTORS..(page + 1) * PAGE_SECTORS).any(|s| is_kept(&s));
        all.torn += pages.iter().filter(|page| is_torn(page)).count();
        self.handle.set_len(now.len() as u64)?;
        self.handle.write_all_at(&now, 0)
    }
}

/// Puts what a sector was, zeroes if it was nothing, in its place.
fn copy_sector(from: &[u8], to: &mut [u8], sector: u64) {
    let start = ((sector * SECTOR) as usize).min(to.len());
    let end = (start + SECTOR as usize).min(to.len());
    for (at, byte) in to[start..end].iter_mut().enumerate() {
        *byte = from.get(start + at).copied().unwrap_or(0);
    }
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl NameChange {
    fn touches(&self, directory: &Path) -> bool {
        match self {
            Self::Create { path } | Self::Unlink { path, .. } | Self::CreateDir { path } => {
                path.parent() == Some(directory)
            }
            Self::Rename { from, to, .. } => {
                from.parent() == Some(directory) || to.parent() == Some(directory)
            }
        }
    }

    fn makes(&self, made: &Path) -> bool {
        match self {
            Self::Create { path } | Self::CreateDir { path } => path == made,
            Self::Rename { to, .. } => to == made,
            Self::Unlink { .. } => false,
        }
    }

    /// What is not as this change left it was changed durably since, and stays.
    fn undo(&self) -> io::Result<()> {
        let undone = match self {
            Self::Create { path } => fs::remove_file(path),
            Self::Rename { from, to, replaced } => match fs::rename(to, from) {
                Ok(()) => match replaced {
                    Some(content) => fs::write(to, content),
                    None => Ok(()),
                },
                Err(error) => Err(error),
            },
            Self::Unlink { path, content } => fs::write(path, content),
            Self::CreateDir { path } => match fs::remove_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                removed => removed,
            },
        };
        match undone {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            undone => undone,
        }
    }
}

/// The namenode's disk: one file in memory, written by the store. A power failure keeps or loses each
/// page that was written since the last sync.
#[derive(Clone, Debug, Default)]
pub struct StoreDisk(std::sync::Arc<parking_lot::Mutex<StoreContent>>);

#[derive(Debug, Default)]
struct StoreContent {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// The journal's file: what was written there is durable.
    journal: Vec<u8>,
    /// Writes and syncs until the process dies in one of them.
    dies_in: Option<u64>,
    has_died: bool,
}

const PAGE: usize = 4096;

impl StoreDisk {
    /// The process will die in the middle of a commit, this many steps from now.
    pub fn die_in(&self, steps: u64) {
        self.0.lock().dies_in = Some(steps);
    }

    /// A death that has not come yet will not come.
    pub fn spare(&self) {
        self.0.lock().dies_in = None;
    }

    /// Nothing is written from now on.
    pub fn die(&self) {
        self.0.lock().has_died = true;
    }

    pub fn has_died(&self) -> bool {
        self.0.lock().has_died
    }

    /// What the next process finds: everything, or, without power, what was synced and some more.
    pub fn next(&self, power_was_lost: bool, rng: &mut StdRng) -> Self {
        let former = self.0.lock();
        let mut now = former.now.clone();
        if power_was_lost {
            if rng.random_bool(0.5) && !former.dirty.is_empty() {
                now.resize(former.durable.len().max(now.len()), 0);
            }
            for page in former.dirty.iter().filter(|_| rng.random_bool(0.5)) {
                let start = (page * PAGE).min(now.len());
                let end = (start + PAGE).min(now.len());
                for (at, byte) in now[start..end].iter_mut().enumerate() {
                    *byte = former.durable.get(start + at).copied().unwrap_or(0);
                }
            }
        }
        let journal = former.journal.clone();
        let content =
            StoreContent { durable: now.clone(), now, journal, ..StoreContent::default() };
        Self(std::sync::Arc::new(parking_lot::Mutex::new(content)))
    }
}

impl StoreContent {
    fn step(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.dies_in {
            *left = left.saturating_sub(1);
            self.has_died |= *left == 0;
        }
        if self.has_died { Err(eio()) } else { Ok(()) }
    }
}

impl redb::StorageBackend for StoreDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.0.lock();
        let start = offset as usize;
        let bytes = content.now.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = self.0.lock();
        content.step()?;
        content.now.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.0.lock();
        content.step()?;
        let now = content.now.clone();
        content.durable = now;
        content.dirty.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.0.lock();
        content.step()?;
        let start = offset as usize;
        let end = start + data.len();
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(data);
        content.dirty.extend(start / PAGE..end.div_ceil(PAGE));
        Ok(())
    }
}

impl ringfs_namenode::simulation::JournalFile for StoreDisk {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.0.lock().journal.clone())
    }

    fn write(&mut self, offset_bytes: u64, blocks: &[u8]) -> io::Result<()> {
        let mut content = self.0.lock();
        let died = content.step();
        // A death in the middle leaves a part of it.
        let written =
            if died.is_err() { &blocks[..blocks.len() / 2 / PAGE * PAGE] } else { blocks };
        let (start, end) = (offset_bytes as usize, offset_bytes as usize + written.len());
        if content.journal.len() < end {
            content.journal.resize(end, 0);
        }
        content.journal[start..end].copy_from_slice(written);
        died
    }

    fn len_bytes(&mut self) -> io::Result<u64> {
        Ok(self.0.lock().journal.len() as u64)
    }
}

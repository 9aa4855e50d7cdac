//! A FUSE file system that passes everything through to a directory, until a test has it err or
//! stall: then calls fail with EIO, or wait until it is told otherwise. Needs root and `/dev/fuse`;
//! what is missing fails the test.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use fuser::consts::FOPEN_DIRECT_IO;
use fuser::{
    BackgroundSession, FUSE_ROOT_ID, FileAttr, FileType, Filesystem, MountOption, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow,
};
use tempfile::TempDir;

use super::temporary_directory;

const EIO: i32 = 5;
const O_ACCMODE: i32 = 3;
const O_RDONLY: i32 = 0;
/// The kernel asks for everything, every time.
const NO_CACHING: Duration = Duration::ZERO;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every call fails with EIO.
    Erring,
    /// The next so many reads of block files fail with EIO.
    FailingReads(u32),
    /// No call comes back.
    Stalling,
    /// From the next such call on a block's file on, or on a directory of blocks.
    StallingAt(Call),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    Sync,
    Rename,
    List,
}

type FaultCell = Arc<(Mutex<Fault>, Condvar)>;

/// Ends what a volume does wrong, so that the processes that are stuck in it can end.
pub struct Mended(FaultCell);

impl Drop for Mended {
    fn drop(&mut self) {
        set(&self.0, Fault::None);
    }
}

fn set(cell: &FaultCell, fault: Fault) {
    *cell.0.lock().unwrap() = fault;
    cell.1.notify_all();
}

/// A mounted file system; calls that stall come back when it is dropped.
pub struct FuseVolume {
    fault: FaultCell,
    session: Option<BackgroundSession>,
    directory: TempDir,
}

impl FuseVolume {
    pub fn new() -> Self {
        let directory = temporary_directory();
        let (behind, mounted) = (directory.path().join("behind"), directory.path().join("mounted"));
        fs::create_dir(&behind).unwrap();
        fs::create_dir(&mounted).unwrap();
        let fault: FaultCell = Arc::new((Mutex::new(Fault::None), Condvar::new()));
        let file_system = PassThrough {
            fault: fault.clone(),
            paths: HashMap::from([(FUSE_ROOT_ID, behind)]),
            open: HashMap::new(),
            names: HashMap::new(),
            next_handle: 1,
        };
        let options = [MountOption::FSName("ringfs-test".to_owned())];
        let session = fuser::spawn_mount2(file_system, &mounted, &options)
            .unwrap_or_else(|error| panic!("mounting a FUSE file system (as root): {error}"));
        Self { fault, session: Some(session), directory }
    }

    /// For `dfs.datanode.data.dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("mounted/data")
    }

    /// The same files, where no call fails or stalls.
    pub fn behind(&self) -> PathBuf {
        self.directory.path().join("behind/data")
    }

    pub fn set(&self, fault: Fault) {
        set(&self.fault, fault);
    }

    pub fn fault(&self) -> Fault {
        *self.fault.0.lock().unwrap()
    }

    /// To be held behind the cluster, so that it goes before that: a process that is stuck in a volume
    /// cannot end.
    pub fn mended_at_end(&self) -> Mended {
        Mended(self.fault.clone())
    }
}

impl Drop for FuseVolume {
    fn drop(&mut self) {
        self.set(Fault::None);
        drop(self.session.take());
    }
}

struct PassThrough {
    fault: FaultCell,
    /// By the inode's number, which is that of the file behind, but for the root.
    paths: HashMap<u64, PathBuf>,
    open: HashMap<u64, File>,
    /// Of open files, as they were opened.
    names: HashMap<u64, PathBuf>,
    next_handle: u64,
}

fn is_of_block(path: &Path) -> bool {
    let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    name.starts_with("blk_") || name.starts_with("subdir")
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(EIO)
}

fn attributes(ino: u64, metadata: &Metadata) -> FileAttr {
    let time = |time: io::Result<SystemTime>| time.unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino,
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time(metadata.accessed()),
        mtime: time(metadata.modified()),
        ctime: time(metadata.modified()),
        crtime: SystemTime::UNIX_EPOCH,
        kind: if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile },
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Replies with the error, or goes on with the value.
macro_rules! attempt {
    ($reply:ident, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(&error)),
        }
    };
}

impl PassThrough {
    /// What every call goes through.
    fn pass(&self) -> io::Result<()> {
        let mut fault = self.fault.0.lock().unwrap();
        while *fault == Fault::Stalling {
            fault = self.fault.1.wait(fault).unwrap();
        }
        match *fault {
            Fault::Erring => Err(io::Error::from_raw_os_error(EIO)),
            _ => Ok(()),
        }
    }

    /// What a call on a file goes through.
    fn pass_at(&self, call: Call, path: Option<&PathBuf>) -> io::Result<()> {
        let mut fault = self.fault.0.lock().unwrap();
        if *fault == Fault::StallingAt(call) && path.is_some_and(|path| is_of_block(path)) {
            *fault = Fault::Stalling;
        }
        drop(fault);
        self.pass()
    }

    fn pass_read(&self, ino: u64) -> io::Result<()> {
        self.pass_at(Call::Read, self.paths.get(&ino))?;
        let mut fault = self.fault.0.lock().unwrap();
        let name = self.path(ino)?.file_name().map(OsStr::to_string_lossy);
        let is_block = name.is_some_and(|name| name.starts_with("blk_") && !name.contains(".meta"));
        match *fault {
            Fault::FailingReads(left) if is_block && left > 0 => {
                *fault = Fault::FailingReads(left - 1);
                Err(io::Error::from_raw_os_error(EIO))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, ino: u64) -> io::Result<&Path> {
        let path = self.paths.get(&ino).map(PathBuf::as_path);
        path.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn child(&self, parent: u64, name: &OsStr) -> io::Result<PathBuf> {
        self.pass()?;
        Ok(self.path(parent)?.join(name))
    }

    fn enter(&mut self, path: PathBuf) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(&path)?;
        self.paths.insert(metadata.ino(), path);
        Ok(attributes(metadata.ino(), &metadata))
    }

    fn keep(&mut self, file: File, path: PathBuf) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 1;
        self.open.insert(handle, file);
        self.names.insert(handle, path);
        handle
    }

    fn file(&self, handle: u64) -> io::Result<&File> {
        self.open.get(&handle).ok_or_else(|| io::Error::from_raw_os_error(EIO))
    }
}

impl Filesystem for PassThrough {
    fn lookup(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let path = attempt!(reply, self.child(parent, name));
        let attr = attempt!(reply, self.enter(path));
        reply.entry(&NO_CACHING, &attr, 0);
    }

    fn getattr(&mut self, _: &Request<'_>, ino: u64, handle: Option<u64>, reply: ReplyAttr) {
        attempt!(reply, self.pass());
        let metadata = match handle {
            Some(handle) => self.file(handle).and_then(File::metadata),
            None => self.path(ino).and_then(fs::symlink_metadata),
        };
        let metadata = attempt!(reply, metadata);
        reply.attr(&NO_CACHING, &attributes(ino, &metadata));
    }

    fn setattr(
        &mut self,
        _: &Request<'_>,
        ino: u64,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<u64>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<u32>,
        reply: ReplyAttr,
    ) {
        attempt!(reply, self.pass());
        if let Some(mode) = mode {
            let mode = fs::Permissions::from_mode(mode & 0o7777);
            attempt!(reply, self.path(ino).and_then(|path| fs::set_permissions(path, mode)));
        }
        if let Some(size) = size {
            let set = match handle {
                Some(handle) => self.file(handle).and_then(|file| file.set_len(size)),
                None => self
                    .path(ino)
                    .and_then(|path| fs::OpenOptions::new().write(true).open(path)?.set_len(size)),
            };
            attempt!(reply, set);
        }
        let metadata = match handle {
            Some(handle) => self.file(handle).and_then(File::metadata),
            None => self.path(ino).and_then(fs::symlink_metadata),
        };
        let metadata = attempt!(reply, metadata);
        reply.attr(&NO_CACHING, &attributes(ino, &metadata));
    }

    fn mkdir(
        &mut self,
        _: &Request<'_>,
        parent: u64,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let path = attempt!(reply, self.child(parent, name));
        attempt!(reply, fs::create_dir(&path));
        attempt!(reply, fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777)));
        let attr = attempt!(reply, self.enter(path));
        reply.entry(&NO_CACHING, &attr, 0);
    }

    fn unlink(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        let path = attempt!(reply, self.child(parent, name));
        attempt!(reply, fs::remove_file(path));
        reply.ok();
    }

    fn rmdir(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        let path = attempt!(reply, self.child(parent, name));
        attempt!(reply, fs::remove_dir(path));
        reply.ok();
    }

    fn rename(
        &mut self,
        _: &Request<'_>,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let from = attempt!(reply, self.child(parent, name));
        attempt!(reply, self.pass_at(Call::Rename, Some(&from)));
        let to = attempt!(reply, self.child(new_parent, new_name));
        attempt!(reply, fs::rename(&from, &to));
        attempt!(reply, self.enter(to));
        reply.ok();
    }

    fn open(&mut self, _: &Request<'_>, ino: u64, flags: i32, reply: ReplyOpen) {
        attempt!(reply, self.pass());
        let is_for_writing = flags & O_ACCMODE != O_RDONLY;
        let opened = self
            .path(ino)
            .and_then(|path| fs::OpenOptions::new().read(true).write(is_for_writing).open(path));
        let file = attempt!(reply, opened);
        let path = self.paths[&ino].clone();
        reply.opened(self.keep(file, path), FOPEN_DIRECT_IO);
    }

    fn create(
        &mut self,
        _: &Request<'_>,
        parent: u64,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let path = attempt!(reply, self.child(parent, name));
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode & 0o7777);
        let file = attempt!(reply, options.open(&path));
        let attr = attempt!(reply, self.enter(path.clone()));
        reply.created(&NO_CACHING, &attr, 0, self.keep(file, path), FOPEN_DIRECT_IO);
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        ino: u64,
        handle: u64,
        offset: i64,
        size: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        attempt!(reply, self.pass_read(ino));
        let mut bytes = vec![0; size as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            let file = attempt!(reply, self.file(handle));
            match attempt!(reply, file.read_at(&mut bytes[filled..], offset as u64 + filled as u64))
            {
                0 => break,
                count => filled += count,
            }
        }
        reply.data(&bytes[..filled]);
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        _: u64,
        handle: u64,
        offset: i64,
        data: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        attempt!(reply, self.pass_at(Call::Write, self.names.get(&handle)));
        let written = self.file(handle).and_then(|file| file.write_all_at(data, offset as u64));
        attempt!(reply, written);
        reply.written(data.len() as u32);
    }

    fn flush(&mut self, _: &Request<'_>, _: u64, _: u64, _: u64, reply: ReplyEmpty) {
        attempt!(reply, self.pass());
        reply.ok();
    }

    fn release(
        &mut self,
        _: &Request<'_>,
        _: u64,
        handle: u64,
        _: i32,
        _: Option<u64>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open.remove(&handle);
        self.names.remove(&handle);
        reply.ok();
    }

    fn fsync(&mut self, _: &Request<'_>, _: u64, handle: u64, _: bool, reply: ReplyEmpty) {
        attempt!(reply, self.pass_at(Call::Sync, self.names.get(&handle)));
        attempt!(reply, self.file(handle).and_then(File::sync_data));
        reply.ok();
    }

    fn fsyncdir(&mut self, _: &Request<'_>, _: u64, _: u64, _: bool, reply: ReplyEmpty) {
        attempt!(reply, self.pass());
        reply.ok();
    }

    fn readdir(
        &mut self,
        _: &Request<'_>,
        ino: u64,
        _: u64,
        offset: i64,
        mut reply: ReplyDirectory,
    ) {
        attempt!(reply, self.pass_at(Call::List, self.paths.get(&ino)));
        let listed = self.path(ino).and_then(|path| fs::read_dir(path)?.collect());
        let mut entries: Vec<fs::DirEntry> = attempt!(reply, listed);
        entries.sort_by_key(fs::DirEntry::file_name);
        for (index, entry) in entries.iter().enumerate().skip(offset as usize) {
            let metadata = attempt!(reply, entry.metadata());
            let attr = attributes(metadata.ino(), &metadata);
            if reply.add(attr.ino, index as i64 + 1, attr.kind, entry.file_name()) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&mut self, _: &Request<'_>, ino: u64, reply: ReplyStatfs) {
        attempt!(reply, self.pass());
        let stat = self.path(ino).and_then(|path| Ok(rustix::fs::statvfs(path)?));
        let stat = attempt!(reply, stat);
        reply.statfs(
            stat.f_blocks,
            stat.f_bfree,
            stat.f_bavail,
            stat.f_files,
            stat.f_ffree,
            stat.f_bsize as u32,
            stat.f_namemax as u32,
            stat.f_frsize as u32,
        );
    }
}

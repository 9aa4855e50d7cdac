//! Files whose operations run on this thread's ring.
//!
//! Operations are submitted when they are called, not when first polled: several may be started
//! and waited for in any order.
//!
//! One whose disk does not answer in time fails with `TimedOut`. Its memory stays with the kernel
//! (`stuck`), and it may still take place: what it would have changed is not to be trusted any more.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use parking_lot::RwLock;

use super::buffers::{Buffer, BufferMut};
use super::descriptor::{Descriptor, OpenDescriptor};
use super::driver::Operation;
use super::executor::current;
use super::in_flight::InFlight;
use super::message::SendMessage;

/// Directories of which reads and writes wait where they are begun.
static WAITING: RwLock<BTreeSet<PathBuf>> = RwLock::new(BTreeSet::new());

/// Files below it that are opened from now on are read and written by the kernel's workers, and never
/// by a data thread itself.
pub fn use_workers_below(directory: &Path) {
    WAITING.write().insert(directory.to_owned());
}

#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    pub read: bool,
    pub write: bool,
    pub create_new: bool,
    /// O_DIRECT: memory, offsets and lengths must be multiples of
    /// [`super::SECTOR_BYTES`].
    pub direct: bool,
}

/// An open file; closed when the last handle and operation on it are gone.
#[derive(Clone, Debug)]
pub struct File {
    pub(super) descriptor: Descriptor,
    /// Open on the null device: what writes to the file, changes or syncs it does nothing.
    discards: bool,
}

impl File {
    pub async fn open(path: &Path, options: OpenOptions) -> io::Result<Self> {
        let mut flags = libc::O_CLOEXEC;
        flags |= match (options.read, options.write) {
            (true, true) => libc::O_RDWR,
            (false, true) => libc::O_WRONLY,
            _ => libc::O_RDONLY,
        };
        if options.create_new {
            flags |= libc::O_CREAT | libc::O_EXCL;
        }
        if options.direct {
            flags |= libc::O_DIRECT;
        }
        let operation = Operation::Open { path: c_path(path)?, flags, mode: 0o644 };
        let (_, outcome) = submit(operation).await?;
        outcome.result.map(|number| Self::opened(number, waits_below(path)))
    }

    /// The result of an [`Operation::Open`].
    pub(super) fn opened(number: u32, waits: bool) -> Self {
        // SAFETY: the kernel has just opened it for us.
        let owned = unsafe { OwnedFd::from_raw_fd(number as i32) };
        Self::of(OpenDescriptor::file(owned, waits))
    }

    pub(super) fn of(descriptor: Descriptor) -> Self {
        Self { descriptor, discards: false }
    }

    pub(super) fn discards(&self) -> bool {
        self.discards
    }

    /// Passes the page cache by from now on.
    pub fn set_direct(&self) -> io::Result<()> {
        current().set_direct(&self.descriptor)
    }

    /// A name of the open file itself, wherever it was moved since.
    pub fn own_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.descriptor.as_raw_fd()))
    }

    /// The descriptor, where this is the last handle on it.
    pub fn into_descriptor(self) -> Option<OwnedFd> {
        Rc::into_inner(self.descriptor).map(OpenDescriptor::into_owned)
    }

    /// A file that takes everything at once and keeps nothing.
    pub async fn discarding() -> io::Result<Self> {
        let options = OpenOptions { read: true, write: true, ..Default::default() };
        let null = Self::open(Path::new("/dev/null"), options).await?;
        Ok(Self { discards: true, ..null })
    }

    /// Reads at most the buffer's length. The buffer comes back either way, unless the disk does not
    /// answer: then the kernel keeps it, and an empty one comes back.
    pub fn read_at(
        &self,
        buffer: BufferMut,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, BufferMut)> + use<> {
        let in_flight = submit(Operation::Read { fd: self.descriptor.clone(), buffer, offset });
        async move {
            match in_flight.await {
                Ok((Operation::Read { buffer, .. }, outcome)) => (count(outcome.result), buffer),
                Err(overdue) => (Err(overdue.into()), BufferMut::from(Vec::new())),
                _ => unreachable!("an operation comes back as it was submitted"),
            }
        }
    }

    /// Reads exactly `len` bytes into memory of its own.
    pub async fn read_exact_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let rest = BufferMut::from(vec![0; len - out.len()]);
            let (read, buffer) = self.read_at(rest, offset + out.len() as u64).await;
            match read? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => out.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(out)
    }

    /// Writes all of the buffer.
    pub fn write_all_at(&self, buffer: Buffer, offset: u64) -> WriteAll {
        WriteAll { file: self.clone(), offset, in_flight: self.write(buffer, offset) }
    }

    /// Writes all of a list of buffers, one after the other; an emptied list comes back.
    pub fn write_all_gathered_at(
        &self,
        message: Box<SendMessage>,
        offset: u64,
    ) -> impl Future<Output = (io::Result<()>, Box<SendMessage>)> + use<> {
        let file = self.clone();
        let mut in_flight = file.write_gathered(message, offset);
        async move {
            let mut offset = offset;
            loop {
                let (mut message, outcome) = match in_flight.await {
                    Ok((Operation::WriteGathered { message, .. }, outcome)) => (message, outcome),
                    Err(overdue) => return (Err(overdue.into()), SendMessage::new()),
                    Ok(_) => unreachable!("an operation comes back as it was submitted"),
                };
                let written = more_than_none(outcome.result);
                if let Ok(count) = written {
                    message.advance(count);
                    offset += count as u64;
                    if message.parts() > 0 {
                        in_flight = file.write_gathered(message, offset);
                        continue;
                    }
                }
                message.clear();
                return (written.map(drop), message);
            }
        }
    }

    /// Allocates disk space and makes the file at least `offset + len` bytes long.
    pub async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.discards {
            return Ok(());
        }
        run(Operation::Allocate { fd: self.descriptor.clone(), offset, len }).await
    }

    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        if self.discards {
            return Ok(());
        }
        run(Operation::Truncate { fd: self.descriptor.clone(), len }).await
    }

    /// fdatasync: data, and the metadata needed to read it.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.sync(true).await
    }

    pub async fn sync_all(&self) -> io::Result<()> {
        self.sync(false).await
    }

    async fn sync(&self, data_only: bool) -> io::Result<()> {
        if self.discards {
            return Ok(());
        }
        run(Operation::Sync { fd: self.descriptor.clone(), data_only }).await
    }

    #[allow(clippy::len_without_is_empty, reason = "a question to the kernel, not a container")]
    pub async fn len(&self) -> io::Result<u64> {
        self.status().await.map(|status| status.stx_size)
    }

    /// How many names the file has.
    pub async fn links(&self) -> io::Result<u32> {
        self.status().await.map(|status| status.stx_nlink)
    }

    async fn status(&self) -> io::Result<Box<libc::statx>> {
        // SAFETY: a statx of all zeroes is a valid value.
        let status = Box::new(unsafe { std::mem::zeroed::<libc::statx>() });
        let operation = Operation::Status { fd: self.descriptor.clone(), status };
        match submit(operation).await? {
            (Operation::Status { status, .. }, outcome) => outcome.result.map(|_| status),
            _ => unreachable!("an operation comes back as it was submitted"),
        }
    }

    fn write(&self, buffer: Buffer, offset: u64) -> InFlight {
        let len = buffer.len();
        self.start_write(Operation::Write { fd: self.descriptor.clone(), buffer, offset }, len)
    }

    fn write_gathered(&self, message: Box<SendMessage>, offset: u64) -> InFlight {
        let (fd, len) = (self.descriptor.clone(), message.remaining());
        self.start_write(Operation::WriteGathered { fd, message, offset }, len)
    }

    fn start_write(&self, operation: Operation, len: usize) -> InFlight {
        match self.discards {
            true => current().ended(operation, len as u32),
            false => submit(operation),
        }
    }
}

/// A write under way, and what it takes to go on after a short one.
pub struct WriteAll {
    file: File,
    offset: u64,
    in_flight: InFlight,
}

impl Future for WriteAll {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let done = ready!(Pin::new(&mut self.in_flight).poll(context));
            let (Operation::Write { mut buffer, .. }, outcome) = done? else {
                unreachable!("an operation comes back as it was submitted");
            };
            let written = more_than_none(outcome.result)?;
            buffer.advance(written);
            if buffer.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.offset += written as u64;
            let rest = self.file.write(buffer, self.offset);
            self.in_flight = rest;
        }
    }
}

/// Whether files below make their readers and writers wait, as `use_workers_below` was told.
pub(super) fn waits_below(path: &Path) -> bool {
    WAITING.read().iter().any(|directory| path.starts_with(directory))
}

pub(super) fn submit(operation: Operation) -> InFlight {
    current().submit(operation)
}

pub(super) async fn run(operation: Operation) -> io::Result<()> {
    submit(operation).await?.1.result.map(drop)
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a zero byte"))
}

pub(super) fn count(result: io::Result<u32>) -> io::Result<usize> {
    result.map(|count| count as usize)
}

fn more_than_none(result: io::Result<u32>) -> io::Result<usize> {
    match count(result)? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}

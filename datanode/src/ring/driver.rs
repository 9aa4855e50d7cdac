//! The seam between the protocol code and the kernel: operations that own what they touch, and the
//! driver that carries them out. The io_uring driver is in `uring`; a simulated one implements the
//! same trait.
//!
//! An operation is owned by the executor from submission to completion, whatever becomes of the
//! future that waits for it: dropping that future, or giving up on a disk that does not answer, never
//! frees memory under the kernel's hands.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;

use super::buffers::{Buffer, BufferMut};
use super::descriptor::Descriptor;
use super::file_work::{FileWork, FileWorkers};
use super::message::{ReceiveMessage, SendMessage, SocketAddress};
use super::net::{KernelSockets, Sockets};
use super::zero_copy::ZeroCopyUsage;

#[derive(Debug)]
pub enum Operation {
    Read {
        fd: Descriptor,
        buffer: BufferMut,
        offset: u64,
    },
    Write {
        fd: Descriptor,
        buffer: Buffer,
        offset: u64,
    },
    WriteGathered {
        fd: Descriptor,
        message: Box<SendMessage>,
        offset: u64,
    },
    /// Receives into the spare capacity.
    Receive {
        fd: Descriptor,
        buffer: BytesMut,
    },
    ReceiveMessage {
        fd: Descriptor,
        message: Box<ReceiveMessage>,
    },
    /// Sends `buffer[from..]`.
    Send {
        fd: Descriptor,
        buffer: BytesMut,
        from: usize,
    },
    SendMessage {
        fd: Descriptor,
        message: Box<SendMessage>,
    },
    /// Sends from the message's own memory where the kernel can; `usage` learns whether it did.
    SendMessageZeroCopy {
        fd: Descriptor,
        message: Box<SendMessage>,
        usage: Rc<ZeroCopyUsage>,
    },
    /// What is left of such a send once its result is handed out: the memory that the network card
    /// may still read, until the kernel's notice.
    AwaitNotice {
        buffers: Vec<Buffer>,
        usage: Rc<ZeroCopyUsage>,
    },
    AwaitReadable {
        fd: Descriptor,
    },
    AwaitWritable {
        fd: Descriptor,
    },
    Accept {
        fd: Descriptor,
    },
    Connect {
        fd: Descriptor,
        address: Box<SocketAddress>,
    },
    Open {
        path: CString,
        flags: i32,
        mode: u32,
    },
    Allocate {
        fd: Descriptor,
        offset: u64,
        len: u64,
    },
    Truncate {
        fd: Descriptor,
        len: u64,
    },
    Sync {
        fd: Descriptor,
        data_only: bool,
    },
    Status {
        fd: Descriptor,
        status: Box<libc::statx>,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Unlink {
        path: CString,
    },
    CreateDir {
        path: CString,
        mode: u32,
    },
    /// The last use of a file's descriptor; some file systems wait for their server at it.
    Close {
        fd: RawFd,
    },
    FileWork {
        work: Box<FileWork>,
        workers: FileWorkers,
    },
}

impl Operation {
    /// Whether giving up on it must cancel it. What a disk does cannot be cancelled once it has begun,
    /// and is left to end when it does.
    pub fn waits_for_peer(&self) -> bool {
        matches!(
            self,
            Self::Receive { .. }
                | Self::ReceiveMessage { .. }
                | Self::Send { .. }
                | Self::SendMessage { .. }
                | Self::SendMessageZeroCopy { .. }
                | Self::AwaitReadable { .. }
                | Self::AwaitWritable { .. }
                | Self::Accept { .. }
                | Self::Connect { .. }
        )
    }

    /// Whether it ends when a disk has done something, however long that takes.
    pub fn waits_for_disk(&self) -> bool {
        !self.waits_for_peer() && !matches!(self, Self::AwaitNotice { .. })
    }

    /// The slabs that the kernel reads or writes until its end, each named by its address.
    pub fn slabs(&self, out: &mut Vec<usize>) {
        match self {
            Self::Read { buffer, .. } => out.extend(buffer.slab()),
            Self::Write { buffer, .. } => out.extend(buffer.slab()),
            Self::WriteGathered { message, .. } => out.extend(message.slabs()),
            Self::FileWork { work, .. } => work.slabs(out),
            _ => {}
        }
    }

    /// What a completion brought that nobody waits for any more: a descriptor would stay open.
    pub fn descriptor_of(&self, outcome: &Outcome) -> Option<RawFd> {
        match (self, &outcome.result) {
            (Self::Open { .. } | Self::Accept { .. }, Ok(number)) => Some(*number as RawFd),
            _ => None,
        }
    }
}

/// What the kernel says at the end of an operation.
#[derive(Debug)]
pub struct Outcome {
    /// A count or a descriptor, by the operation's kind.
    pub result: io::Result<u32>,
    pub notice: Notice,
}

impl Outcome {
    /// Of an operation with nothing else to tell.
    pub fn of(result: io::Result<u32>) -> Self {
        Self { result, notice: Notice::None }
    }
}

/// How the kernel lets go of memory that it sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// With the result, as in every other operation.
    None,
    /// By a second completion, which is still to come.
    Due,
    /// This is it.
    Arrived { copied: bool },
}

#[derive(Debug)]
pub struct Completion {
    pub token: u64,
    pub outcome: Outcome,
}

/// How long [`Driver::turn`] may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    None,
    Until(Instant),
}

pub trait Driver {
    /// Starts `operation`; its completion carries `token`.
    ///
    /// # Safety
    ///
    /// The operation's heap memory (buffers, message, path, address) must stay alive and untouched
    /// until that completion.
    unsafe fn submit(&mut self, token: u64, operation: &mut Operation);

    /// Carries `operation` out at once where that takes no waiting; `None` if nothing was done.
    fn attempt(&mut self, _operation: &mut Operation) -> Option<io::Result<u32>> {
        None
    }

    /// Asks for the early end of an operation, which still completes.
    fn cancel(&mut self, token: u64);

    /// Passes submissions on, waits for a completion as long as `patience` says, and appends what
    /// has completed. A call of the waker that came with the driver ends the wait.
    fn turn(&mut self, patience: Patience, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// Makes a range of memory known for operations on it; `None` if that is not possible.
    ///
    /// # Safety
    ///
    /// The memory must stay mapped until the driver is gone.
    unsafe fn register(&mut self, index: usize, base: *mut u8, len: usize) -> Option<u16>;

    fn now(&self) -> Instant;

    /// So many operations are stuck in disks that do not answer: those of other disks shall not wait
    /// behind them.
    fn make_up_for_stuck(&mut self, _operations: usize) {}

    /// Whether descriptors of files are closed by an operation, for the wait of a close.
    fn closes_files(&self) -> bool {
        false
    }

    /// Whether [`Operation::FileWork`] may be submitted.
    fn does_file_work(&self) -> bool {
        false
    }

    /// Has an open file's operations pass the page cache by from now on (O_DIRECT). Waits for nothing.
    fn set_direct(&mut self, file: &Descriptor) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(file)?;
        Ok(rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::DIRECT)?)
    }

    /// What is asked of sockets without waiting.
    fn sockets(&self) -> &dyn Sockets {
        &KernelSockets
    }
}

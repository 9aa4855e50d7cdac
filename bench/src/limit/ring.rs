//! The raw io_uring loop of the limits: one ring of one thread, and the one piece of memory that all
//! its operations read and write, huge-page backed, touched and registered before any clock runs.
//!
//! Who owns a byte: the arena is the ring's, and operations name ranges of it. From submission to
//! completion a range that is received into or read into is the kernel's, and one that is sent or
//! written must not change: callers keep to that as a state machine of theirs says, and look at
//! [`Ring::bytes`] only of ranges whose operation has completed. A ring that is dropped with
//! operations in flight leaks its arena, for the kernel may still write to it.

#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use memmap2::{Advice, MmapMut};

const SUBMISSIONS: u32 = 512;
const COMPLETIONS: u32 = 4096;
/// The kernel registers at most this much as one buffer.
const REGISTERED_BYTES_MAX: usize = 1 << 30;
const PAGE_BYTES: usize = 4096;

pub struct Ring {
    ring: IoUring,
    arena: ManuallyDrop<MmapMut>,
    registered: bool,
    messages: Vec<Message>,
    in_flight: usize,
    /// Calls of io_uring_enter.
    pub enters: u64,
    pub completions: u64,
}

/// What a RECVMSG or SENDMSG in flight points to. Its address must not change: boxed.
struct Message {
    header: Box<libc::msghdr>,
    parts: Vec<libc::iovec>,
}

/// An operation's end: its token, and what the system call of its name would have returned.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub token: u64,
    result: i32,
}

impl Completion {
    pub fn bytes(&self) -> io::Result<usize> {
        usize::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }
}

impl Ring {
    /// `messages` is how many [`Ring::receive_message`] and [`Ring::send_message`] may be in flight,
    /// each with its own slot.
    pub fn new(arena_bytes: usize, messages: usize) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let mut arena = MmapMut::map_anon(arena_bytes)?;
        // Without huge pages the measure holds, up to a quarter lower on O_DIRECT.
        let _ = arena.advise(Advice::HugePage);
        arena.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
        let buffers: Vec<_> = arena.chunks_mut(REGISTERED_BYTES_MAX).map(iovec).collect();
        // SAFETY: the arena is neither moved nor unmapped while the ring exists, see `drop`.
        let registered = unsafe { ring.submitter().register_buffers(&buffers) }.is_ok();
        let message = || Message {
            // SAFETY: a msghdr of zeroes is valid: no name, no parts, no control data.
            header: Box::new(unsafe { std::mem::zeroed() }),
            parts: Vec::new(),
        };
        Ok(Self {
            ring,
            arena: ManuallyDrop::new(arena),
            registered,
            messages: (0..messages).map(|_| message()).collect(),
            in_flight: 0,
            enters: 0,
            completions: 0,
        })
    }

    /// Of no range that an operation in flight writes to.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.arena[range]
    }

    /// Of no range that an operation in flight names.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.arena[range]
    }

    /// RECVMSG into the ranges, one after the other.
    pub fn receive_message(
        &mut self,
        slot: usize,
        socket: impl AsFd,
        ranges: impl Iterator<Item = Range<usize>>,
        token: u64,
    ) -> io::Result<()> {
        let message = self.message(slot, ranges);
        self.push(opcode::RecvMsg::new(fd(&socket), message).build(), token)
    }

    /// SENDMSG of all the ranges: completes short only if the connection breaks.
    pub fn send_message(
        &mut self,
        slot: usize,
        socket: impl AsFd,
        ranges: impl Iterator<Item = Range<usize>>,
        token: u64,
    ) -> io::Result<()> {
        let message = self.message(slot, ranges);
        let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32;
        self.push(opcode::SendMsg::new(fd(&socket), message).flags(flags).build(), token)
    }

    pub fn receive(
        &mut self,
        socket: impl AsFd,
        range: Range<usize>,
        token: u64,
    ) -> io::Result<()> {
        let buffer = &mut self.arena[range];
        let entry = opcode::Recv::new(fd(&socket), buffer.as_mut_ptr(), buffer.len() as u32);
        self.push(entry.build(), token)
    }

    /// Completes short only if the connection breaks.
    pub fn send(&mut self, socket: impl AsFd, range: Range<usize>, token: u64) -> io::Result<()> {
        let buffer = &self.arena[range];
        let entry = opcode::Send::new(fd(&socket), buffer.as_ptr(), buffer.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.push(entry.build(), token)
    }

    /// `range` must not cross a multiple of 1 GiB.
    pub fn write_at(
        &mut self,
        file: impl AsFd,
        range: Range<usize>,
        offset_bytes: u64,
        token: u64,
    ) -> io::Result<()> {
        let index = (range.start / REGISTERED_BYTES_MAX) as u16;
        let (file, buffer) = (fd(&file), &self.arena[range]);
        let (start, len) = (buffer.as_ptr(), buffer.len() as u32);
        let entry = if self.registered {
            opcode::WriteFixed::new(file, start, len, index).offset(offset_bytes).build()
        } else {
            opcode::Write::new(file, start, len).offset(offset_bytes).build()
        };
        self.push(entry, token)
    }

    /// `range` must not cross a multiple of 1 GiB.
    pub fn read_at(
        &mut self,
        file: impl AsFd,
        range: Range<usize>,
        offset_bytes: u64,
        token: u64,
    ) -> io::Result<()> {
        let index = (range.start / REGISTERED_BYTES_MAX) as u16;
        let (file, buffer) = (fd(&file), &mut self.arena[range]);
        let (start, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
        let entry = if self.registered {
            opcode::ReadFixed::new(file, start, len, index).offset(offset_bytes).build()
        } else {
            opcode::Read::new(file, start, len).offset(offset_bytes).build()
        };
        self.push(entry, token)
    }

    /// Submits what was asked for, waits for one completion at least and takes all there are.
    pub fn wait(&mut self, into: &mut Vec<Completion>) -> io::Result<()> {
        into.clear();
        loop {
            self.enters += 1;
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        let completions = self.ring.completion();
        into.extend(
            completions.map(|cqe| Completion { token: cqe.user_data(), result: cqe.result() }),
        );
        self.in_flight -= into.len();
        self.completions += into.len() as u64;
        Ok(())
    }

    fn message(
        &mut self,
        slot: usize,
        ranges: impl Iterator<Item = Range<usize>>,
    ) -> *mut libc::msghdr {
        let message = &mut self.messages[slot];
        message.parts.clear();
        message.parts.extend(ranges.map(|range| iovec(&mut self.arena[range])));
        message.header.msg_iov = message.parts.as_mut_ptr();
        message.header.msg_iovlen = message.parts.len() as _;
        &raw mut *message.header
    }

    fn push(&mut self, entry: Entry, token: u64) -> io::Result<()> {
        let entry = entry.user_data(token);
        // SAFETY: the entry points into the arena and the messages, which outlive its completion:
        // the arena is leaked rather than unmapped early, and the kernel copies a message's header
        // and parts when it is submitted.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.enters += 1;
            self.ring.submit()?;
        }
        self.in_flight += 1;
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight == 0 {
            // SAFETY: dropped once, here, and no operation can reach it any more.
            unsafe { ManuallyDrop::drop(&mut self.arena) };
        }
    }
}

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

fn fd(file: &impl AsFd) -> Fd {
    Fd(file.as_fd().as_raw_fd())
}

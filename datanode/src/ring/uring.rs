//! The io_uring driver: one ring of one thread (single issuer, deferred task work, so completions
//! are only worked on when this thread asks for them).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam::queue::SegQueue;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode};
use rustix::event::{EventfdFlags, eventfd};

use crate::counters::Counters;
use crate::limits::STUCK_WORKERS_MAX;

use super::driver::{Completion, Driver, Notice, Operation, Outcome, Patience};

const SUBMISSIONS: u32 = 512;
/// More completions than this wait in the kernel until they are collected.
const COMPLETIONS: u32 = 4096;
/// FTRUNCATE is the youngest operation used: Linux 6.9.
pub const LEAST_KERNEL: &str = "6.9";

const TOKEN_WAKE_UP: u64 = u64::MAX;
/// Of what nobody waits for.
const TOKEN_UNATTENDED: u64 = u64::MAX - 1;

pub struct UringDriver {
    ring: IoUring,
    /// Written to by other threads; a read of it is always in flight.
    wake_up: Arc<OwnedFd>,
    wake_up_count: Box<u64>,
    registered_slabs: u32,
    has_wake_up_read: bool,
    /// How many workers the kernel uses at most for operations that wait, as it was at first.
    usual_workers: Option<u32>,
    worked: Arc<Worked>,
    counters: Arc<Counters>,
}

/// File work that its threads have done.
struct Worked {
    queue: SegQueue<Completion>,
    /// The driver waits, or is about to: it must be woken.
    is_waiting: AtomicBool,
    wake_up: WakeUp,
}

/// Ends a driver's wait from another thread.
#[derive(Clone)]
pub struct WakeUp(Arc<OwnedFd>);

impl WakeUp {
    pub fn wake(&self) {
        // A full counter means that a wake-up is due anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl UringDriver {
    /// A ring for the calling thread with room for `slabs` registered buffers.
    pub fn new(slabs: usize, counters: Arc<Counters>) -> io::Result<(Self, WakeUp)> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Ftruncate::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let registered_slabs = match ring.submitter().register_buffers_sparse(slabs as u32) {
            Ok(()) => slabs as u32,
            Err(_) => 0,
        };
        let wake_up = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let handle = WakeUp(wake_up.clone());
        let driver = Self {
            ring,
            wake_up,
            wake_up_count: Box::new(0),
            registered_slabs,
            has_wake_up_read: false,
            usual_workers: None,
            worked: Arc::new(Worked {
                queue: SegQueue::new(),
                is_waiting: AtomicBool::new(false),
                wake_up: handle.clone(),
            }),
            counters,
        };
        Ok((driver, handle))
    }

    /// # Safety
    ///
    /// What the entry points to must stay alive until its completion.
    unsafe fn push(&mut self, entry: &Entry) {
        // SAFETY: passed on to the caller.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // A full queue is emptied by submitting; a failure here is transient (memory, a full
            // completion queue) and the next attempt meets it again.
            self.counters.uring_enters.add(1);
            if let Err(error) = self.ring.submit() {
                tracing::debug!(%error, "submission queue is full");
                self.ring.completion().sync();
            }
        }
    }

    fn keep_wake_up_read(&mut self) {
        if self.has_wake_up_read {
            return;
        }
        let count = (&raw mut *self.wake_up_count).cast();
        let entry = opcode::Read::new(Fd(self.wake_up.as_raw_fd()), count, 8).build();
        // SAFETY: the counter is boxed and lives as long as the ring.
        unsafe { self.push(&entry.user_data(TOKEN_WAKE_UP)) };
        self.has_wake_up_read = true;
    }

    /// Nothing to submit, and no completion for which the kernel wants to be entered.
    fn has_nothing_to_do(&mut self) -> bool {
        let submissions = self.ring.submission();
        submissions.is_empty() && !submissions.taskrun() && !submissions.cq_overflow()
    }

    /// Files' operations that would wait are done by workers of the kernel, four a core: when all are
    /// stuck, nothing more is done, on whatever disk. So each stuck one gets a substitute.
    fn allow_workers_beside(&mut self, stuck: usize) -> io::Result<()> {
        let usual = match self.usual_workers {
            Some(usual) => usual,
            None => {
                // Zeros change nothing, and what there was comes back.
                let mut limits = [0; 2];
                self.ring.submitter().register_iowq_max_workers(&mut limits)?;
                *self.usual_workers.insert(limits[0])
            }
        };
        let stuck = u32::try_from(stuck).unwrap_or(u32::MAX).min(STUCK_WORKERS_MAX);
        self.ring.submitter().register_iowq_max_workers(&mut [usual + stuck, 0])?;
        if stuck > 0 {
            // What waits already gets a new worker when more is asked of them, and not before.
            let nothing =
                opcode::Nop::new().build().flags(Flags::ASYNC).user_data(TOKEN_UNATTENDED);
            // SAFETY: the entry points to nothing.
            unsafe { self.push(&nothing) };
        }
        Ok(())
    }

    fn enter(&mut self, patience: Patience) -> io::Result<()> {
        if patience == Patience::None && self.has_nothing_to_do() {
            return Ok(());
        }
        self.counters.uring_enters.add(1);
        let now = Instant::now();
        let entered = match patience {
            Patience::None => self.ring.submit(),
            Patience::Until(deadline) if deadline <= now => self.ring.submit(),
            Patience::Until(deadline) => {
                let timespec = Timespec::from(deadline - now);
                let args = SubmitArgs::new().timespec(&timespec);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

impl Driver for UringDriver {
    unsafe fn submit(&mut self, token: u64, operation: &mut Operation) {
        if let Operation::FileWork { work, workers } = operation {
            let worked = self.worked.clone();
            let done = move |result| worked.push(token, result);
            // SAFETY: the work is boxed in the operation, which the caller keeps alive and untouched.
            return unsafe { workers.submit(work, done) };
        }
        let entry = entry(operation).flags(way_of(operation)).user_data(token);
        // SAFETY: the entry points into the operation, which the caller keeps alive.
        unsafe { self.push(&entry) };
    }

    fn attempt(&mut self, operation: &mut Operation) -> Option<io::Result<u32>> {
        const AT_ONCE: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let result = match operation {
            // SAFETY: the message's ranges lie in the buffers that it holds alone.
            Operation::ReceiveMessage { fd, message } => unsafe {
                libc::recvmsg(fd.as_raw_fd(), message.header(), AT_ONCE)
            },
            // SAFETY: the message's ranges lie in the buffers that it holds.
            Operation::SendMessage { fd, message } => unsafe {
                libc::sendmsg(fd.as_raw_fd(), message.header(), AT_ONCE)
            },
            Operation::Send { fd, buffer, from } => {
                let rest = &buffer[*from..];
                // SAFETY: the range is the buffer's.
                unsafe { libc::send(fd.as_raw_fd(), rest.as_ptr().cast(), rest.len(), AT_ONCE) }
            }
            _ => return None,
        };
        match u32::try_from(result) {
            Ok(count) => Some(Ok(count)),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => None,
                error if error.kind() == io::ErrorKind::Interrupted => None,
                error => Some(Err(error)),
            },
        }
    }

    fn cancel(&mut self, token: u64) {
        let entry = opcode::AsyncCancel::new(token).build().user_data(TOKEN_UNATTENDED);
        // SAFETY: the entry points to nothing.
        unsafe { self.push(&entry) };
    }

    fn turn(&mut self, patience: Patience, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.keep_wake_up_read();
        self.worked.is_waiting.store(patience != Patience::None, Ordering::SeqCst);
        let patience = if self.worked.queue.is_empty() { patience } else { Patience::None };
        self.enter(patience)?;
        self.worked.is_waiting.store(false, Ordering::SeqCst);
        while let Some(completion) = self.worked.queue.pop() {
            completions.push(completion);
        }
        let mut count = 0;
        for entry in self.ring.completion() {
            count += 1;
            match entry.user_data() {
                TOKEN_WAKE_UP => self.has_wake_up_read = false,
                TOKEN_UNATTENDED => {}
                token => completions.push(Completion { token, outcome: outcome(&entry) }),
            }
        }
        self.counters.uring_completions.add(count);
        Ok(())
    }

    unsafe fn register(&mut self, index: usize, base: *mut u8, len: usize) -> Option<u16> {
        let index = u32::try_from(index).ok().filter(|index| *index < self.registered_slabs)?;
        let buffer = [libc::iovec { iov_base: base.cast(), iov_len: len }];
        // SAFETY: the caller keeps the memory mapped as long as the driver lives.
        let registered =
            unsafe { self.ring.submitter().register_buffers_update(index, &buffer, None) };
        match registered {
            Ok(()) => u16::try_from(index).ok(),
            Err(error) => {
                // One refusal (the locked-memory limit, as a rule) is followed by others.
                self.registered_slabs = 0;
                tracing::warn!(
                    %error,
                    "buffers cannot be registered with io_uring, which costs some processor time: \
                     raise the locked-memory limit (LimitMEMLOCK=infinity in the service, ulimit \
                     -l unlimited in a shell)"
                );
                None
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn make_up_for_stuck(&mut self, operations: usize) {
        if let Err(error) = self.allow_workers_beside(operations) {
            tracing::warn!(%error, operations, "the kernel gives no workers in place of stuck ones");
        }
    }

    fn closes_files(&self) -> bool {
        true
    }

    fn does_file_work(&self) -> bool {
        true
    }
}

impl Worked {
    fn push(&self, token: u64, result: io::Result<u32>) {
        self.queue.push(Completion { token, outcome: Outcome::of(result) });
        if self.is_waiting.swap(false, Ordering::SeqCst) {
            self.wake_up.wake();
        }
    }
}

/// Has the notice of a zero-copy send say whether the kernel copied after all; the uapi's constants.
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
const NOTIF_USAGE_ZC_COPIED: i32 = 1 << 31;

fn outcome(entry: &cqueue::Entry) -> Outcome {
    let result = entry.result();
    if cqueue::notif(entry.flags()) {
        let copied = result & NOTIF_USAGE_ZC_COPIED != 0;
        return Outcome { result: Ok(0), notice: Notice::Arrived { copied } };
    }
    Outcome {
        result: u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result)),
        // Of the operations used, only zero-copy sends complete more than once.
        notice: if cqueue::more(entry.flags()) { Notice::Due } else { Notice::None },
    }
}

/// How the kernel is to begin it. It tries reads at once where a file can be polled, as those of FUSE
/// can, and has this thread wait for the server.
fn way_of(operation: &Operation) -> Flags {
    match operation {
        Operation::Read { fd, .. }
        | Operation::Write { fd, .. }
        | Operation::WriteGathered { fd, .. }
            if fd.waits() =>
        {
            Flags::ASYNC
        }
        _ => Flags::empty(),
    }
}

fn entry(operation: &mut Operation) -> Entry {
    let at_cwd = Fd(libc::AT_FDCWD);
    match operation {
        Operation::Read { fd, buffer, offset } => {
            let (base, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
            match buffer.registered() {
                Some(index) => {
                    opcode::ReadFixed::new(raw(fd), base, len, index).offset(*offset).build()
                }
                None => opcode::Read::new(raw(fd), base, len).offset(*offset).build(),
            }
        }
        Operation::Write { fd, buffer, offset } => {
            let (base, len) = (buffer.as_ptr(), buffer.len() as u32);
            match buffer.registered() {
                Some(index) => {
                    opcode::WriteFixed::new(raw(fd), base, len, index).offset(*offset).build()
                }
                None => opcode::Write::new(raw(fd), base, len).offset(*offset).build(),
            }
        }
        Operation::WriteGathered { fd, message, offset } => {
            let iovecs = message.iovecs();
            opcode::Writev::new(raw(fd), iovecs.as_ptr(), iovecs.len() as u32)
                .offset(*offset)
                .build()
        }
        Operation::Receive { fd, buffer } => {
            let spare = buffer.spare_capacity_mut();
            let (base, len) = (spare.as_mut_ptr().cast(), spare.len() as u32);
            opcode::Recv::new(raw(fd), base, len).build()
        }
        Operation::ReceiveMessage { fd, message } => {
            opcode::RecvMsg::new(raw(fd), message.header()).build()
        }
        Operation::Send { fd, buffer, from } => {
            let rest = &buffer[*from..];
            opcode::Send::new(raw(fd), rest.as_ptr(), rest.len() as u32)
                .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                .build()
        }
        Operation::SendMessage { fd, message } => opcode::SendMsg::new(raw(fd), message.header())
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build(),
        Operation::SendMessageZeroCopy { fd, message, .. } => {
            opcode::SendMsgZc::new(raw(fd), message.header())
                .ioprio(SEND_ZC_REPORT_USAGE)
                .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
                .build()
        }
        Operation::AwaitNotice { .. } => {
            unreachable!("the rest of a send that was submitted before")
        }
        Operation::AwaitReadable { fd } => {
            opcode::PollAdd::new(raw(fd), (libc::POLLIN | libc::POLLRDHUP) as u32).build()
        }
        Operation::AwaitWritable { fd } => {
            opcode::PollAdd::new(raw(fd), libc::POLLOUT as u32).build()
        }
        Operation::Accept { fd } => {
            opcode::Accept::new(raw(fd), std::ptr::null_mut(), std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build()
        }
        Operation::Connect { fd, address } => {
            let (base, len) = (address.0.as_ptr().cast(), address.0.len());
            opcode::Connect::new(raw(fd), base, len).build()
        }
        Operation::Open { path, flags, mode } => {
            opcode::OpenAt::new(at_cwd, path.as_ptr()).flags(*flags).mode(*mode).build()
        }
        Operation::Allocate { fd, offset, len } => {
            opcode::Fallocate::new(raw(fd), *len).offset(*offset).build()
        }
        Operation::Truncate { fd, len } => opcode::Ftruncate::new(raw(fd), *len).build(),
        Operation::Sync { fd, data_only } => {
            let flags = if *data_only { FsyncFlags::DATASYNC } else { FsyncFlags::empty() };
            opcode::Fsync::new(raw(fd)).flags(flags).build()
        }
        Operation::Status { fd, status } => {
            opcode::Statx::new(raw(fd), c"".as_ptr(), (&raw mut **status).cast())
                .flags(libc::AT_EMPTY_PATH)
                .mask(libc::STATX_SIZE | libc::STATX_NLINK)
                .build()
        }
        Operation::Rename { from, to } => {
            opcode::RenameAt::new(at_cwd, from.as_ptr(), at_cwd, to.as_ptr()).build()
        }
        Operation::Unlink { path } => opcode::UnlinkAt::new(at_cwd, path.as_ptr()).build(),
        Operation::Close { fd } => opcode::Close::new(Fd(*fd)).build(),
        Operation::FileWork { .. } => unreachable!("done by threads of its volume"),
        Operation::CreateDir { path, mode } => {
            opcode::MkDirAt::new(at_cwd, path.as_ptr()).mode(*mode).build()
        }
    }
}

fn raw(fd: &impl AsRawFd) -> Fd {
    let number: RawFd = fd.as_raw_fd();
    Fd(number)
}

//! A driver whose kernel is a model: operations become requests without pointers, answers are copied
//! into the operations' memory. Time, files and sockets are the model's.
//!
//! What is written or sent is read twice, at submission and at completion, as a real kernel may read
//! it at any moment between: memory that changed meanwhile is a bug, and ends the run.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::driver::{Completion, Driver, Operation, Outcome, Patience};
use super::executor::Executor;
use super::file_work::FileWork;
use super::message::ReceiveMessage;
use super::net::Sockets;
use crate::counters::Counters;

pub use super::descriptor::Descriptor;

#[derive(Debug)]
pub enum Request {
    Read {
        fd: Descriptor,
        len: usize,
        offset: u64,
    },
    Write {
        fd: Descriptor,
        bytes: Vec<u8>,
        offset: u64,
    },
    Receive {
        fd: Descriptor,
        len: usize,
    },
    /// All of the bytes, unless the connection fails before.
    Send {
        fd: Descriptor,
        bytes: Vec<u8>,
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
        address: SocketAddr,
    },
    Open {
        path: PathBuf,
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
    Length {
        fd: Descriptor,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    CreateDir {
        path: PathBuf,
        mode: u32,
    },
    /// One step after the other, up to the first that fails.
    FileWork {
        steps: Vec<FileStep>,
    },
}

#[derive(Debug)]
pub enum FileStep {
    /// What it opens counts as created.
    Open {
        path: PathBuf,
        flags: i32,
        mode: u32,
    },
    /// Of the file of that number that the work creates.
    Allocate {
        created: usize,
        len: u64,
    },
    /// To an open file, or to the one of that number that the work creates.
    Write {
        file: Result<Descriptor, usize>,
        bytes: Vec<u8>,
        offset: u64,
    },
    SetLen {
        file: Descriptor,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
}

#[derive(Debug)]
pub struct Answer {
    /// A count or a descriptor, by the request's kind.
    pub result: io::Result<u32>,
    /// What a read or receive has brought.
    pub bytes: Vec<u8>,
    /// A file's length, where that was asked; the steps that were done of file work.
    pub len: u64,
    /// By file work.
    pub created: Vec<OwnedFd>,
}

/// The kernel of one simulated host.
pub trait Kernel: Sockets {
    fn submit(&mut self, token: u64, request: Request);
    /// Sends as much as can be without waiting; `None` if that is nothing.
    fn send_at_once(&mut self, fd: &Descriptor, bytes: &[u8]) -> Option<io::Result<u32>>;
    /// Receives what is there, or the end of the stream; `None` if that must be waited for.
    fn receive_at_once(&mut self, fd: &Descriptor, len: usize) -> Option<io::Result<Vec<u8>>>;
    /// The request ends early, and is answered nevertheless.
    fn cancel(&mut self, token: u64);
    /// What has ended since the last call.
    fn take_ended(&mut self) -> Vec<(u64, Answer)>;
    fn now(&self) -> Instant;
    /// From now on the file's operations must be aligned.
    fn set_direct(&mut self, file: &Descriptor);
}

pub struct SimulatedDriver<K> {
    kernel: K,
    in_flight: BTreeMap<u64, Memory>,
}

/// An operation's memory, which the executor keeps in place until its completion.
enum Memory {
    None,
    Into(Vec<(*mut u8, usize)>),
    From { ranges: Vec<(*const u8, usize)>, copy: Vec<u8> },
    Status(*mut libc::statx),
    FileWork(*mut FileWork),
}

/// An executor on a model, with a pool of `slabs` slabs. `wake_up` is called when another host, or
/// what is no host's, has given it something to do.
pub fn new_executor(
    kernel: impl Kernel + 'static,
    slabs: usize,
    counters: Arc<Counters>,
    wake_up: impl Fn() + Send + Sync + 'static,
) -> io::Result<Rc<Executor>> {
    let driver = SimulatedDriver { kernel, in_flight: BTreeMap::new() };
    let executor = Executor::new(Box::new(driver), wake_up, counters);
    executor.make_pool(slabs)?;
    Ok(executor)
}

impl<K: Kernel> Driver for SimulatedDriver<K> {
    unsafe fn submit(&mut self, token: u64, operation: &mut Operation) {
        let (request, memory) = request(operation);
        self.in_flight.insert(token, memory);
        self.kernel.submit(token, request);
    }

    fn attempt(&mut self, operation: &mut Operation) -> Option<io::Result<u32>> {
        match operation {
            Operation::SendMessage { fd, message } => {
                self.kernel.send_at_once(fd, &message.to_vec())
            }
            Operation::Send { fd, buffer, from } => self.kernel.send_at_once(fd, &buffer[*from..]),
            Operation::ReceiveMessage { fd, message } => {
                let ranges = ranges_of(message);
                let received = self.kernel.receive_at_once(fd, total(&ranges))?;
                Some(received.map(|bytes| {
                    // SAFETY: the ranges are the message's, which is in nobody else's hands.
                    unsafe { bring(&bytes, ranges) };
                    bytes.len() as u32
                }))
            }
            _ => None,
        }
    }

    fn cancel(&mut self, token: u64) {
        self.kernel.cancel(token);
    }

    fn does_file_work(&self) -> bool {
        true
    }

    fn turn(&mut self, _: Patience, completions: &mut Vec<Completion>) -> io::Result<()> {
        for (token, mut answer) in self.kernel.take_ended() {
            let memory = self.in_flight.remove(&token).expect("it was submitted, and ends once");
            // SAFETY: the operation is in the executor's table until this completion.
            let result = unsafe { settle(memory, &mut answer) }.and(answer.result);
            completions.push(Completion { token, outcome: Outcome::of(result) });
        }
        Ok(())
    }

    unsafe fn register(&mut self, _: usize, _: *mut u8, _: usize) -> Option<u16> {
        None
    }

    fn now(&self) -> Instant {
        self.kernel.now()
    }

    fn set_direct(&mut self, file: &Descriptor) -> io::Result<()> {
        self.kernel.set_direct(file);
        Ok(())
    }

    fn sockets(&self) -> &dyn Sockets {
        &self.kernel
    }
}

/// Copies what was brought into the operation's memory, or looks whether what was taken is still
/// what it was.
///
/// # Safety
///
/// The operation's memory is where it was when it was submitted.
unsafe fn settle(memory: Memory, answer: &mut Answer) -> io::Result<()> {
    match memory {
        Memory::None => {}
        // SAFETY: the ranges are nobody else's until the completion.
        Memory::Into(ranges) => unsafe { bring(&answer.bytes, ranges) },
        Memory::From { ranges, copy } => {
            let mut at = 0;
            for (base, len) in ranges {
                // SAFETY: the range is as long, and is only read until the completion.
                let now = unsafe { std::slice::from_raw_parts(base, len) };
                assert!(now == &copy[at..at + len], "memory was changed under an operation");
                at += len;
            }
        }
        // SAFETY: the status is boxed in the operation.
        Memory::Status(status) => unsafe { (*status).stx_size = answer.len },
        Memory::FileWork(work) => {
            let created = std::mem::take(&mut answer.created);
            // SAFETY: the work is boxed in the operation.
            unsafe { (*work).end_modelled(answer.len as usize, created) };
        }
    }
    Ok(())
}

fn ranges_of(message: &ReceiveMessage) -> Vec<(*mut u8, usize)> {
    message.iovecs().iter().map(|part| (part.iov_base.cast(), part.iov_len)).collect()
}

fn total(ranges: &[(*mut u8, usize)]) -> usize {
    ranges.iter().map(|(_, len)| len).sum()
}

/// Copies `bytes` into the ranges, one after the other.
///
/// # Safety
///
/// The ranges are as long as they say, and nobody else's.
unsafe fn bring(bytes: &[u8], ranges: Vec<(*mut u8, usize)>) {
    let mut rest = bytes;
    for (base, len) in ranges {
        let (front, behind) = rest.split_at(rest.len().min(len));
        // SAFETY: as the caller has it.
        unsafe { base.copy_from(front.as_ptr(), front.len()) };
        rest = behind;
    }
    assert!(rest.is_empty(), "the model brings no more than it was asked for");
}

fn request(operation: &mut Operation) -> (Request, Memory) {
    match operation {
        Operation::Read { fd, buffer, offset } => {
            let (fd, len, offset) = (fd.clone(), buffer.len(), *offset);
            (Request::Read { fd, len, offset }, Memory::Into(vec![(buffer.as_mut_ptr(), len)]))
        }
        Operation::Write { fd, buffer, offset } => {
            let (fd, bytes, offset) = (fd.clone(), buffer.to_vec(), *offset);
            let memory = from(vec![(buffer.as_ptr(), buffer.len())], &bytes);
            (Request::Write { fd, bytes, offset }, memory)
        }
        Operation::WriteGathered { fd, message, offset } => {
            let (bytes, memory) = gathered(message.iovecs());
            (Request::Write { fd: fd.clone(), bytes, offset: *offset }, memory)
        }
        Operation::Receive { fd, buffer } => {
            let spare = buffer.spare_capacity_mut();
            let (base, len) = (spare.as_mut_ptr().cast(), spare.len());
            (Request::Receive { fd: fd.clone(), len }, Memory::Into(vec![(base, len)]))
        }
        Operation::ReceiveMessage { fd, message } => {
            let ranges = ranges_of(message);
            (Request::Receive { fd: fd.clone(), len: total(&ranges) }, Memory::Into(ranges))
        }
        Operation::Send { fd, buffer, from: start } => {
            let rest = &buffer[*start..];
            let bytes = rest.to_vec();
            let memory = from(vec![(rest.as_ptr(), rest.len())], &bytes);
            (Request::Send { fd: fd.clone(), bytes }, memory)
        }
        Operation::SendMessage { fd, message }
        | Operation::SendMessageZeroCopy { fd, message, .. } => {
            let (bytes, memory) = gathered(message.iovecs());
            (Request::Send { fd: fd.clone(), bytes }, memory)
        }
        Operation::Status { fd, status } => {
            (Request::Length { fd: fd.clone() }, Memory::Status(&raw mut **status))
        }
        Operation::FileWork { work, .. } => {
            (Request::FileWork { steps: work.modelled() }, Memory::FileWork(&raw mut **work))
        }
        operation => (without_memory(operation), Memory::None),
    }
}

fn without_memory(operation: &Operation) -> Request {
    let path =
        |path: &std::ffi::CString| PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes()));
    match operation {
        Operation::AwaitReadable { fd } => Request::AwaitReadable { fd: fd.clone() },
        Operation::AwaitWritable { fd } => Request::AwaitWritable { fd: fd.clone() },
        Operation::Accept { fd } => Request::Accept { fd: fd.clone() },
        Operation::Connect { fd, address } => {
            let address = address.0.as_socket().expect("datanodes connect by IP only");
            Request::Connect { fd: fd.clone(), address }
        }
        Operation::Open { path: name, flags, mode } => {
            Request::Open { path: path(name), flags: *flags, mode: *mode }
        }
        Operation::Allocate { fd, offset, len } => {
            Request::Allocate { fd: fd.clone(), offset: *offset, len: *len }
        }
        Operation::Truncate { fd, len } => Request::Truncate { fd: fd.clone(), len: *len },
        Operation::Sync { fd, data_only } => {
            Request::Sync { fd: fd.clone(), data_only: *data_only }
        }
        Operation::Rename { from, to } => Request::Rename { from: path(from), to: path(to) },
        Operation::Unlink { path: name } => Request::Unlink { path: path(name) },
        Operation::CreateDir { path: name, mode } => {
            Request::CreateDir { path: path(name), mode: *mode }
        }
        operation => unreachable!("{operation:?} is handled with its memory, or never submitted"),
    }
}

fn from(ranges: Vec<(*const u8, usize)>, bytes: &[u8]) -> Memory {
    Memory::From { ranges, copy: bytes.to_vec() }
}

fn gathered(iovecs: &[libc::iovec]) -> (Vec<u8>, Memory) {
    let mut bytes = Vec::new();
    let mut ranges = Vec::with_capacity(iovecs.len());
    for part in iovecs {
        let base: *const u8 = part.iov_base.cast();
        // SAFETY: the message holds the buffer that the range lies in.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(base, part.iov_len) });
        ranges.push((base, part.iov_len));
    }
    let memory = from(ranges, &bytes);
    (bytes, memory)
}

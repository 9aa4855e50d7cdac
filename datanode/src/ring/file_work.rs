//! Several operations on the files of one volume as one: a thread of the volume does them one after
//! the other, where each by itself would be handed to a worker of io_uring and back.
//!
//! For short ones (names, a few KiB through the page cache), which cost less than their hand-off. Work
//! that waits for a stalled disk holds up work on the same volume, nothing else. What it touches lies
//! in the executor's table until its completion, as with every operation. A driver without such threads
//! (`Driver::does_file_work`) gets each step as an operation of its own.
//!
//! The first step that fails ends the work; what was done before stays.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::CString;
#[cfg(feature = "simulation")]
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
#[cfg(feature = "simulation")]
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
#[cfg(feature = "simulation")]
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::fs::{FallocateFlags, Mode, OFlags};

use super::descriptor::{Descriptor, OpenDescriptor};
use super::driver::Operation;
use super::executor::current;
use super::file::{File, c_path, run, submit, waits_below};
use super::message::SendMessage;
#[cfg(feature = "simulation")]
use super::simulated::FileStep;

/// The threads that do the file work of one volume; they end with the last handle.
#[derive(Clone, Debug)]
pub struct FileWorkers(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Queue>);

/// No channel: those that spin before they sleep take the processor from who would give them work.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    is_closed: bool,
}

/// Steps, in the order in which they are done, and the files that some of them create.
#[derive(Debug, Default)]
pub struct FileWork {
    steps: Vec<Step>,
    done: usize,
    created: Vec<OwnedFd>,
    /// Of each file to create, whether reads and writes of it wait where they are begun.
    waits: Vec<bool>,
}

#[derive(Debug)]
enum Step {
    /// What it opens counts as created.
    Open {
        path: CString,
        flags: OFlags,
    },
    /// Of the file of that number that the work creates.
    Allocate {
        created: usize,
        len: u64,
    },
    /// To an open file, or to the one of that number that the work creates.
    Write {
        file: Result<Descriptor, usize>,
        message: Box<SendMessage>,
        offset: u64,
    },
    SetLen {
        file: Descriptor,
        len: u64,
    },
    Rename {
        from: CString,
        to: CString,
    },
}

#[derive(Debug)]
pub struct FileWorkDone {
    pub created: Vec<File>,
    /// The number of the step that failed, from 0, and why.
    pub failure: Option<(usize, io::Error)>,
}

/// Work on its way to a thread.
struct Request {
    work: *mut FileWork,
    done: Box<dyn FnOnce(io::Result<u32>) + Send>,
}

// SAFETY: whoever submits the work leaves it alone until `done` is called; and the thread reads what
// its handles point to, but neither copies nor drops them.
unsafe impl Send for Request {}

impl FileWorkers {
    pub fn start(threads: usize) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        // First, so that threads end where a later one cannot be started.
        let workers = Self(Arc::new(Handle(queue.clone())));
        for _ in 0..threads {
            let queue = queue.clone();
            let builder = std::thread::Builder::new().name("volume-files".to_owned());
            builder.spawn(move || queue.serve())?;
        }
        Ok(workers)
    }

    /// Has a thread do the work, and call `done` at its end.
    ///
    /// # Safety
    ///
    /// The work stays where it is, and nobody else touches it, until `done` is called.
    pub(super) unsafe fn submit(
        &self,
        work: &mut FileWork,
        done: impl FnOnce(io::Result<u32>) + Send + 'static,
    ) {
        let Handle(queue) = &*self.0;
        queue.waiting.lock().requests.push_back(Request { work, done: Box::new(done) });
        queue.changed.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.waiting.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Queue {
    fn serve(&self) {
        while let Some(Request { work, done }) = self.next() {
            // SAFETY: the work is this thread's until `done` is called.
            let outcome = unsafe { (*work).carry_out() };
            done(outcome.map(|()| 0));
        }
    }

    fn next(&self) -> Option<Request> {
        let mut waiting = self.waiting.lock();
        loop {
            match waiting.requests.pop_front() {
                None if waiting.is_closed => return None,
                None => self.changed.wait(&mut waiting),
                request => return request,
            }
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({:?})", self.work)
    }
}

impl Drop for FileWork {
    /// What nobody waits for any more is closed as other files are.
    fn drop(&mut self) {
        drop(self.take_created());
    }
}

impl FileWork {
    /// Creates a file that must not be there; returns its number among those created.
    pub fn create(&mut self, path: &Path) -> io::Result<usize> {
        self.open_with(path, CREATE)
    }

    /// Opens a file that is there; returns its number among those created.
    pub fn open(&mut self, path: &Path) -> io::Result<usize> {
        self.open_with(path, OPEN)
    }

    fn open_with(&mut self, path: &Path, flags: OFlags) -> io::Result<usize> {
        self.steps.push(Step::Open { path: c_path(path)?, flags });
        self.waits.push(waits_below(path));
        Ok(self.waits.len() - 1)
    }

    /// Has the disk space of a file, which becomes at least so long.
    pub fn allocate_created(&mut self, number: usize, len: u64) {
        self.steps.push(Step::Allocate { created: number, len });
    }

    pub fn write_created(&mut self, number: usize, message: Box<SendMessage>, offset: u64) {
        self.steps.push(Step::Write { file: Err(number), message, offset });
    }

    pub fn write(&mut self, file: &File, message: Box<SendMessage>, offset: u64) {
        self.steps.push(Step::Write { file: Ok(file.descriptor.clone()), message, offset });
    }

    pub fn set_len(&mut self, file: &File, len: u64) {
        if !file.discards() {
            self.steps.push(Step::SetLen { file: file.descriptor.clone(), len });
        }
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.steps.push(Step::Rename { from: c_path(from)?, to: c_path(to)? });
        Ok(())
    }

    pub async fn run(self, workers: &FileWorkers) -> FileWorkDone {
        if !current().with_driver(|driver| driver.does_file_work()) {
            return self.run_by_steps().await;
        }
        let operation = Operation::FileWork { work: Box::new(self), workers: workers.clone() };
        match submit(operation).await {
            Ok((Operation::FileWork { mut work, .. }, outcome)) => {
                let failure = outcome.result.err().map(|error| (work.done, error));
                FileWorkDone { created: work.take_created(), failure }
            }
            Ok(_) => unreachable!("an operation comes back as it was submitted"),
            Err(error) => FileWorkDone { created: Vec::new(), failure: Some((0, error.into())) },
        }
    }

    /// Its steps for a model of the kernel, which has the bytes and not where they lie.
    #[cfg(feature = "simulation")]
    pub(super) fn modelled(&self) -> Vec<FileStep> {
        let path = |path: &CString| PathBuf::from(OsStr::from_bytes(path.as_bytes()));
        let modelled = |step: &Step| match step {
            Step::Open { path: name, flags } => {
                FileStep::Open { path: path(name), flags: flags.bits() as i32, mode: MODE }
            }
            Step::Allocate { created, len } => FileStep::Allocate { created: *created, len: *len },
            Step::Write { file, message, offset } => {
                FileStep::Write { file: file.clone(), bytes: message.to_vec(), offset: *offset }
            }
            Step::SetLen { file, len } => FileStep::SetLen { file: file.clone(), len: *len },
            Step::Rename { from, to } => FileStep::Rename { from: path(from), to: path(to) },
        };
        self.steps.iter().map(modelled).collect()
    }

    /// What the model has done of it.
    #[cfg(feature = "simulation")]
    pub(super) fn end_modelled(&mut self, done: usize, created: Vec<OwnedFd>) {
        self.done = done;
        self.created = created;
    }

    fn take_created(&mut self) -> Vec<File> {
        let created = self.created.drain(..).zip(&self.waits);
        created.map(|(file, waits)| File::of(OpenDescriptor::file(file, *waits))).collect()
    }

    /// The slabs that it writes from, each named by its address.
    pub(super) fn slabs(&self, out: &mut Vec<usize>) {
        for step in &self.steps {
            if let Step::Write { message, .. } = step {
                out.extend(message.slabs());
            }
        }
    }

    async fn run_by_steps(mut self) -> FileWorkDone {
        let mut created: Vec<File> = Vec::new();
        for (number, step) in std::mem::take(&mut self.steps).into_iter().enumerate() {
            let result = match step {
                Step::Open { path, flags } => {
                    let (flags, waits) = (flags.bits() as i32, self.waits[created.len()]);
                    let opened = submit(Operation::Open { path, flags, mode: MODE }).await;
                    let number = opened.map_err(io::Error::from).and_then(|(_, end)| end.result);
                    number.map(|number| created.push(File::opened(number, waits)))
                }
                Step::Allocate { created: number, len } => created[number].allocate(0, len).await,
                Step::Write { file, message, offset } => {
                    let file = match file {
                        Ok(descriptor) => File::of(descriptor),
                        Err(number) => created[number].clone(),
                    };
                    file.write_all_gathered_at(message, offset).await.0
                }
                Step::SetLen { file, len } => File::of(file).set_len(len).await,
                Step::Rename { from, to } => run(Operation::Rename { from, to }).await,
            };
            if let Err(error) = result {
                return FileWorkDone { created, failure: Some((number, error)) };
            }
        }
        FileWorkDone { created, failure: None }
    }

    fn carry_out(&mut self) -> io::Result<()> {
        for step in &mut self.steps {
            match step {
                Step::Open { path, flags } => {
                    let mode = Mode::from_raw_mode(MODE);
                    self.created.push(rustix::fs::open(path.as_c_str(), *flags, mode)?);
                }
                Step::Allocate { created, len } => {
                    let file = &self.created[*created];
                    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, *len)?;
                }
                Step::Write { file: Ok(file), message, offset } => {
                    write_all(file.as_raw_fd(), message, *offset)?;
                }
                Step::Write { file: Err(number), message, offset } => {
                    write_all(self.created[*number].as_raw_fd(), message, *offset)?;
                }
                Step::SetLen { file, len } => rustix::fs::ftruncate(file.as_fd(), *len)?,
                Step::Rename { from, to } => rustix::fs::rename(from.as_c_str(), to.as_c_str())?,
            }
            self.done += 1;
        }
        Ok(())
    }
}

const OPEN: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC);
const CREATE: OFlags = OPEN.union(OFlags::CREATE).union(OFlags::EXCL);
const MODE: u32 = 0o644;

fn write_all(file: i32, message: &mut SendMessage, mut offset: u64) -> io::Result<()> {
    while message.parts() > 0 {
        let iovecs = message.iovecs();
        // SAFETY: the iovecs are ranges of the message's buffers, and are only read.
        let written = unsafe {
            libc::pwritev(file, iovecs.as_ptr(), iovecs.len() as i32, offset as libc::off_t)
        };
        match written {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            1.. => {
                message.advance(written as usize);
                offset += written as u64;
            }
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ring::failing::block_on_failing_after;
    use crate::ring::{Buffer, block_on};

    fn message(parts: &[&[u8]]) -> Box<SendMessage> {
        let mut message = SendMessage::new();
        parts.iter().for_each(|part| message.push(Buffer::from(part.to_vec())));
        message
    }

    /// Two files are created and written to, one of them moved.
    fn work(directory: &Path) -> FileWork {
        let mut work = FileWork::default();
        let (first, second) = (directory.join("first"), directory.join("second"));
        assert_eq!(work.create(&first).unwrap(), 0);
        assert_eq!(work.create(&second).unwrap(), 1);
        work.write_created(1, message(&[b"ab", b"cde"]), 3);
        work.rename(&second, &directory.join("third")).unwrap();
        work
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn all_steps_are_done_by_threads_and_by_the_ring() {
        for by_threads in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_owned();
            let main = async move {
                let workers = FileWorkers::start(1).unwrap();
                let done = work(&path).run(&workers).await;
                assert!(done.failure.is_none(), "{:?}", done.failure);
                assert_eq!(done.created.len(), 2);
                assert_eq!(fs::read(path.join("third")).unwrap(), b"\0\0\0abcde");
                let mut more = FileWork::default();
                more.write(&done.created[1], message(&[b"xyz"]), 0);
                more.set_len(&done.created[1], 4);
                assert!(more.run(&workers).await.failure.is_none());
                assert_eq!(fs::read(path.join("third")).unwrap(), b"xyza");
            };
            match by_threads {
                true => block_on(main).unwrap(),
                false => block_on_failing_after(usize::MAX, main),
            }
        }
    }

    #[test]
    fn the_step_that_fails_is_named_and_ends_the_work() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("second"), b"").unwrap();
        let path = directory.path().to_owned();
        let failure = block_on(async move {
            let workers = FileWorkers::start(2).unwrap();
            work(&path).run(&workers).await.failure
        });
        let (step, error) = failure.unwrap().unwrap();
        assert_eq!((step, error.kind()), (1, io::ErrorKind::AlreadyExists));
        assert_eq!(names(directory.path()), ["first", "second"]);
    }

    /// The executor ends while a thread is at work: it waits for it.
    #[test]
    fn work_that_nobody_waits_for_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        block_on(async move {
            let workers = FileWorkers::start(1).unwrap();
            let running = work(&path).run(&workers);
            crate::ring::race(running, crate::ring::yield_now()).await;
        })
        .unwrap();
        assert_eq!(names(directory.path()), ["first", "third"]);
    }
}

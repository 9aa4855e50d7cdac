//! The kernel of one simulated host: requests of its executor become events of the world, each after
//! a latency of its own. File operations take effect when they end; one that a crash overtakes has
//! taken effect or not, by the seed's choice.
//!
//! A socket's descriptor is the writing end of a pipe of which the world holds the other: when the
//! last handle on it is closed, the world sees that the pipe hangs up.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;
use ringfs_datanode::ring::Sockets;
use ringfs_datanode::ring::simulated::{Answer, Descriptor, FileStep, Kernel, Request};
use rustix::event::{PollFd, PollFlags, poll};

use crate::disk::Disk;
use crate::file_work::Step;
use crate::world::{Host, State, World, machine};

/// How often it is looked whether a disk still hangs.
pub const HANG_POLL: Duration = Duration::from_millis(500);

/// Held by who looks at what the process's descriptors are, which holds each of them open for a moment,
/// and by who looks which of them are closed: else a socket is now and then closed too late.
pub static DESCRIPTORS: Mutex<()> = Mutex::new(());

/// A token and what it got.
pub type Ended = (u64, Answer);

pub struct HostKernel {
    world: World,
    host: Host,
    /// What is under way keeps its descriptor open.
    held: BTreeMap<u64, Vec<Descriptor>>,
    /// O_DIRECT: file descriptors whose operations must be aligned.
    direct: BTreeSet<i32>,
    opening: BTreeMap<u64, bool>,
}

impl HostKernel {
    pub fn new(world: World, host: Host) -> Self {
        Self {
            world,
            host,
            held: BTreeMap::new(),
            direct: BTreeSet::new(),
            opening: BTreeMap::new(),
        }
    }

    fn hold(&mut self, token: u64, fd: Descriptor) -> u64 {
        let inode = rustix::fs::fstat(&*fd).map_or(0, |status| status.st_ino);
        self.keep(token, fd);
        inode
    }

    fn keep(&mut self, token: u64, fd: Descriptor) {
        self.held.entry(token).or_default().push(fd);
    }

    /// Has `operate` done on the host's disk some time from now.
    fn on_disk(
        &self,
        token: u64,
        what: String,
        operate: impl FnOnce(&mut Disk) -> io::Result<Done> + Send + 'static,
    ) {
        let mut state = self.world.state();
        let host = self.host.clone();
        let latency = state.disk_latency(machine(&host));
        let operation = Box::new(operate);
        let id = (self.host.clone(), token);
        state.disks.entry(machine(&host).to_owned()).or_default();
        state.network.disk_operations.insert(id, (what, operation));
        state.schedule(latency, move |state| state.end_disk_operation(&host, token));
    }

    fn must_be_aligned(&self, fd: i32, len: usize, offset: u64) -> bool {
        self.direct.contains(&fd) && (!len.is_multiple_of(4096) || !offset.is_multiple_of(4096))
    }
}

/// What an operation on a disk gives.
#[derive(Debug, Default)]
pub struct Done {
    pub number: u32,
    pub bytes: Vec<u8>,
    pub len: u64,
}

pub type DiskOperation = Box<dyn FnOnce(&mut Disk) -> io::Result<Done> + Send>;

pub fn answer(result: io::Result<Done>) -> Answer {
    let (result, bytes, len) = match result {
        Ok(done) => (Ok(done.number), done.bytes, done.len),
        Err(error) => (Err(error), Vec::new(), 0),
    };
    Answer { result, bytes, len, created: Vec::new() }
}

fn done(result: io::Result<()>) -> io::Result<Done> {
    result.map(|()| Done::default())
}

impl Kernel for HostKernel {
    fn submit(&mut self, token: u64, request: Request) {
        match request {
            Request::Read { fd, len, offset } => {
                if self.must_be_aligned(fd.as_raw_fd(), len, offset) {
                    return self.refuse(token, libc::EINVAL);
                }
                let inode = self.hold(token, fd);
                let short = self.world.state().chance(0.01);
                self.on_disk(token, format!("read {len} at {offset}"), move |disk| {
                    let mut bytes = disk.read(inode, len, offset)?;
                    if short && bytes.len() > 4096 {
                        bytes.truncate(4096);
                    }
                    Ok(Done { number: bytes.len() as u32, bytes, len: 0 })
                });
            }
            Request::Write { fd, bytes, offset } => {
                if self.must_be_aligned(fd.as_raw_fd(), bytes.len(), offset) {
                    return self.refuse(token, libc::EINVAL);
                }
                let inode = self.hold(token, fd);
                let short = self.world.state().chance(0.01);
                let what = format!("write {} at {offset}", bytes.len());
                self.on_disk(token, what, move |disk| {
                    let count = if short && bytes.len() > 4096 { 4096 } else { bytes.len() };
                    disk.write(inode, &bytes[..count], offset)?;
                    Ok(Done { number: count as u32, ..Done::default() })
                });
            }
            Request::Allocate { fd, offset, len } => {
                let inode = self.hold(token, fd);
                self.on_disk(token, "allocate".into(), move |disk| {
                    done(disk.allocate(inode, offset + len))
                });
            }
            Request::Truncate { fd, len } => {
                let inode = self.hold(token, fd);
                let what = format!("truncate to {len}");
                self.on_disk(token, what, move |disk| done(disk.truncate(inode, len)));
            }
            Request::Sync { fd, .. } => {
                let inode = self.hold(token, fd);
                self.on_disk(token, "sync".into(), move |disk| done(disk.sync(inode)));
            }
            Request::Length { fd } => {
                let inode = self.hold(token, fd);
                self.on_disk(token, "length".into(), move |disk| {
                    Ok(Done { len: disk.len(inode)?, ..Done::default() })
                });
            }
            request => self.submit_name_or_socket(token, request),
        }
    }

    fn send_at_once(&mut self, fd: &Descriptor, bytes: &[u8]) -> Option<io::Result<u32>> {
        self.world.state().send_at_once(&self.host, fd.as_raw_fd(), bytes)
    }

    fn receive_at_once(&mut self, fd: &Descriptor, len: usize) -> Option<io::Result<Vec<u8>>> {
        self.world.state().receive_at_once(&self.host, fd.as_raw_fd(), len)
    }

    fn cancel(&mut self, token: u64) {
        let mut state = self.world.state();
        let cancelled = io::Error::from_raw_os_error(libc::ECANCELED);
        let id = (self.host.clone(), token);
        if !state.network.forget(&id) && !state.cut_file_work_off(&id) {
            state.end_disk_operation_early(&self.host, token);
        }
        if !state.has_ended(&self.host, token) {
            state.end(&self.host, token, answer(Err(cancelled)));
        }
    }

    fn take_ended(&mut self) -> Vec<Ended> {
        let ended = self.world.state().ended.get_mut(&self.host).map(std::mem::take);
        let ended = ended.unwrap_or_default();
        for (token, answer) in &ended {
            self.held.remove(token);
            for file in &answer.created {
                self.direct.remove(&file.as_raw_fd());
            }
            let number = answer.result.as_ref().map_or(-1, |number| *number as i32);
            match self.opening.remove(token) {
                Some(true) => drop(self.direct.insert(number)),
                // The number may have been a direct file's before.
                Some(false) => drop(self.direct.remove(&number)),
                None => {}
            }
        }
        self.reap();
        ended
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn set_direct(&mut self, file: &Descriptor) {
        self.direct.insert(file.as_raw_fd());
    }
}

impl HostKernel {
    fn refuse(&self, token: u64, errno: i32) {
        let error = Err(io::Error::from_raw_os_error(errno));
        self.world.state().end(&self.host, token, answer(error));
    }

    fn submit_name_or_socket(&mut self, token: u64, request: Request) {
        match request {
            Request::Open { path, flags, mode } => {
                let is_direct = flags & libc::O_DIRECT != 0;
                self.opening.insert(token, is_direct);
                let what = format!("open {}", name(&path));
                self.on_disk(token, what, move |disk| {
                    let number = disk.open(&path, flags & !libc::O_DIRECT, mode)?;
                    Ok(Done { number, ..Done::default() })
                });
            }
            Request::Rename { from, to } => {
                let what = format!("rename {} to {}", name(&from), name(&to));
                self.on_disk(token, what, move |disk| done(disk.rename(&from, &to)));
            }
            Request::Unlink { path } => {
                let what = format!("unlink {}", name(&path));
                self.on_disk(token, what, move |disk| done(disk.unlink(&path)));
            }
            Request::CreateDir { path, mode } => {
                self.on_disk(token, "mkdir".into(), move |disk| done(disk.create_dir(&path, mode)));
            }
            Request::Receive { fd, len } => {
                let socket = fd.as_raw_fd();
                self.keep(token, fd);
                self.world.state().receive(&self.host, socket, token, len);
            }
            Request::Send { fd, bytes } => {
                let socket = fd.as_raw_fd();
                self.keep(token, fd);
                self.world.state().send(&self.host, socket, token, bytes);
            }
            Request::AwaitReadable { fd } => {
                let socket = fd.as_raw_fd();
                self.keep(token, fd);
                self.world.state().receive(&self.host, socket, token, 0);
            }
            Request::Accept { fd } => {
                let socket = fd.as_raw_fd();
                self.keep(token, fd);
                self.world.state().accept(&self.host, socket, token);
            }
            Request::Connect { fd, address } => {
                let socket = fd.as_raw_fd();
                self.keep(token, fd);
                self.world.state().connect(&self.host, socket, token, address);
            }
            Request::FileWork { steps } => {
                let steps = steps.into_iter().map(|step| self.step(token, step)).collect();
                self.world.state().begin_file_work(&self.host, token, steps);
            }
            request => unreachable!("{request:?} is for the page cache, which is switched off"),
        }
    }

    /// What of a step can be done by the world, which holds no descriptors of ours.
    fn step(&mut self, token: u64, step: FileStep) -> Step {
        match step {
            FileStep::Open { path, flags, mode } => Step::Open { path, flags, mode },
            FileStep::Allocate { created, len } => Step::Allocate { created, len },
            FileStep::Write { file: Ok(fd), bytes, offset } => {
                let must_fail = self.must_be_aligned(fd.as_raw_fd(), bytes.len(), offset);
                assert!(!must_fail, "file work goes through the page cache");
                Step::Write { file: Ok(self.hold(token, fd)), bytes, offset }
            }
            FileStep::Write { file: Err(number), bytes, offset } => {
                Step::Write { file: Err(number), bytes, offset }
            }
            FileStep::SetLen { file, len } => Step::SetLen { inode: self.hold(token, file), len },
            FileStep::Rename { from, to } => Step::Rename { from, to },
        }
    }

    /// Closes the sockets of which no handle is left.
    fn reap(&self) {
        let mut state = self.world.state();
        let closed: Vec<(u64, i32)> = {
            let Some(sockets) = state.network.sockets.get(&self.host) else { return };
            let mut polled: Vec<PollFd<'_>> = sockets
                .values()
                .map(|socket| PollFd::new(&socket.hang_up, PollFlags::IN))
                .collect();
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let nobody_looks = DESCRIPTORS.lock();
            if polled.is_empty() || poll(&mut polled, Some(&now)).is_err() {
                return;
            }
            drop(nobody_looks);
            let hung_up: Vec<bool> =
                polled.iter().map(|entry| entry.revents().contains(PollFlags::HUP)).collect();
            let closed = sockets.iter().zip(hung_up).filter(|(_, closed)| *closed);
            let mut closed: Vec<_> = closed.map(|((fd, socket), _)| (socket.number, *fd)).collect();
            closed.sort_unstable();
            closed
        };
        for (_, socket) in closed {
            let host = self.host.clone();
            state.close_socket(&host, socket);
        }
    }
}

impl Sockets for HostKernel {
    fn open(&self, _: SocketAddr) -> io::Result<OwnedFd> {
        self.world.state().new_socket(&self.host)
    }

    fn prepare(&self, socket: &OwnedFd) -> io::Result<bool> {
        self.peer_address(socket).map(|_| false)
    }

    fn peer_address(&self, socket: &OwnedFd) -> io::Result<SocketAddr> {
        self.world.state().socket_addresses(&self.host, socket.as_raw_fd()).map(|(_, peer)| peer)
    }

    fn local_address(&self, socket: &OwnedFd) -> io::Result<SocketAddr> {
        self.world.state().socket_addresses(&self.host, socket.as_raw_fd()).map(|(own, _)| own)
    }

    fn available(&self, socket: &OwnedFd) -> io::Result<usize> {
        Ok(self.world.state().arrived(&self.host, socket.as_raw_fd(), 0).len())
    }

    fn peek(&self, socket: &OwnedFd, at: usize, out: &mut [u8]) -> usize {
        let bytes = self.world.state().arrived(&self.host, socket.as_raw_fd(), at);
        let count = bytes.len().min(out.len());
        out[..count].copy_from_slice(&bytes[..count]);
        count
    }

    fn shut_down(&self, socket: &OwnedFd) {
        self.world.state().shut_down(&self.host, socket.as_raw_fd());
    }
}

/// A file's name as the log has it: without the process number that files to be deleted have in theirs.
pub fn name(path: &std::path::Path) -> String {
    let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    match name.strip_prefix("deleted-").and_then(|rest| rest.split_once('-')) {
        Some((_process, number)) => format!("deleted-{number}"),
        None => name,
    }
}

impl State {
    pub fn end(&mut self, host: &str, token: u64, answer: Answer) {
        self.ended.entry(host.to_owned()).or_default().push((token, answer));
    }

    pub fn has_ended(&self, host: &str, token: u64) -> bool {
        self.ended.get(host).is_some_and(|ended| ended.iter().any(|(other, _)| *other == token))
    }

    /// How long a disk takes to answer, unless it hangs.
    pub fn disk_latency(&mut self, machine: &str) -> Duration {
        let slow = self.chance(0.02);
        let mut latency = self.millis(if slow { 5..60 } else { 0..4 });
        if slow {
            self.count("disk: latency");
        }
        if self.disks.get(machine).is_some_and(|disk| disk.fails.stalls) {
            latency += self.millis(500..9_000);
            self.fault("disk: stall");
        }
        latency
    }

    pub fn hangs(&mut self, machine: &str) -> bool {
        let hangs = self.disks.get(machine).is_some_and(|disk| disk.fails.hangs);
        if hangs {
            self.count("disk: hang");
        }
        hangs
    }

    fn end_disk_operation(&mut self, host: &str, token: u64) {
        if self.hangs(machine(host)) {
            let host = host.to_owned();
            return self.schedule(HANG_POLL, move |state| state.end_disk_operation(&host, token));
        }
        self.carry_out(host, token);
    }

    fn carry_out(&mut self, host: &str, token: u64) {
        let id = (host.to_owned(), token);
        let Some((what, operation)) = self.network.disk_operations.remove(&id) else { return };
        let Some(disk) = self.disks.get_mut(machine(host)) else { return };
        let result = operation(disk);
        if let Err(error) = &result
            && let Some(errno) = error.raw_os_error()
            && [libc::EIO, libc::ENOSPC].contains(&errno)
        {
            self.fault(if errno == libc::EIO { "disk: EIO" } else { "disk: ENOSPC" });
        }
        self.trace(|| format!("{host}: {what}: {:?}", result.as_ref().err()));
        self.end(host, token, answer(result));
    }

    /// An operation that its process does not live to see the end of.
    fn end_disk_operation_early(&mut self, host: &str, token: u64) {
        let takes_effect = self.rng.random_bool(0.5);
        let id = (host.to_owned(), token);
        if takes_effect {
            self.carry_out(host, token);
        } else {
            self.network.disk_operations.remove(&id);
        }
    }
}

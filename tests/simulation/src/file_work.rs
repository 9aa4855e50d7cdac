//! The threads of a volume that do several operations on files as one: each step takes effect at a
//! time of its own, and what comes in between finds some done and others not: a failure of any step, a
//! disk that hangs, the death of the process.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ringfs_datanode::ring::simulated::Answer;

use crate::disk::Disk;
use crate::kernel::{HANG_POLL, name};
use crate::world::{Host, State, machine};

/// How often a step fails on a disk that has file work fail.
const FAILS: f64 = 0.25;

pub struct FileWork {
    steps: VecDeque<Step>,
    done: u64,
    created: Vec<OwnedFd>,
}

pub enum Step {
    Open {
        path: PathBuf,
        flags: i32,
        mode: u32,
    },
    Allocate {
        created: usize,
        len: u64,
    },
    /// To the file of that inode, or to the one of that number among those created.
    Write {
        file: Result<u64, usize>,
        bytes: Vec<u8>,
        offset: u64,
    },
    SetLen {
        inode: u64,
        len: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
}

impl Step {
    fn carry_out(&self, disk: &mut Disk, created: &mut Vec<OwnedFd>) -> io::Result<()> {
        match self {
            Self::Open { path, flags, mode } => {
                created.push(disk.open_file(path, *flags, *mode)?.into());
                Ok(())
            }
            Self::Allocate { created: number, len } => {
                disk.allocate(rustix::fs::fstat(&created[*number])?.st_ino, *len)
            }
            Self::Write { file: Ok(inode), bytes, offset } => disk.write(*inode, bytes, *offset),
            Self::Write { file: Err(number), bytes, offset } => {
                let inode = rustix::fs::fstat(&created[*number])?.st_ino;
                disk.write(inode, bytes, *offset)
            }
            Self::SetLen { inode, len } => disk.truncate(*inode, *len),
            Self::Rename { from, to } => disk.rename(from, to),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Open { path, flags, .. } => match flags & libc::O_CREAT {
                0 => format!("open {}", name(path)),
                _ => format!("create {}", name(path)),
            },
            Self::Allocate { len, .. } => format!("allocate {len}"),
            Self::Write { bytes, offset, .. } => format!("write {} at {offset}", bytes.len()),
            Self::SetLen { len, .. } => format!("truncate to {len}"),
            Self::Rename { from, to } => format!("rename {} to {}", name(from), name(to)),
        }
    }
}

impl State {
    pub fn begin_file_work(&mut self, host: &str, token: u64, steps: VecDeque<Step>) {
        let latency = self.disk_latency(machine(host));
        let work = FileWork { steps, done: 0, created: Vec::new() };
        let host = host.to_owned();
        self.disks.entry(machine(&host).to_owned()).or_default();
        self.network.file_works.insert((host.clone(), token), work);
        self.schedule(latency, move |state| state.take_a_step(host, token));
    }

    fn take_a_step(&mut self, host: Host, token: u64) {
        if self.hangs(machine(&host)) {
            return self.schedule(HANG_POLL, move |state| state.take_a_step(host, token));
        }
        let id = (host, token);
        let Some(mut work) = self.network.file_works.remove(&id) else { return };
        let host = &id.0;
        let result = match work.steps.pop_front() {
            Some(step) => self.carry_out_step(host, &step, &mut work.created),
            None => Ok(()),
        };
        match result {
            Ok(()) if !work.steps.is_empty() => {
                work.done += 1;
                let latency = self.millis(0..2);
                self.network.file_works.insert(id.clone(), work);
                self.schedule(latency, move |state| state.take_a_step(id.0, token));
            }
            result => {
                if result.is_err() && work.done > 0 {
                    self.fault("disk: file work failed in between");
                }
                let (len, created) = (work.done, work.created);
                let result = result.map(|()| 0);
                self.end(host, token, Answer { result, bytes: Vec::new(), len, created });
            }
        }
    }

    fn carry_out_step(
        &mut self,
        host: &str,
        step: &Step,
        created: &mut Vec<OwnedFd>,
    ) -> io::Result<()> {
        let is_bad = self.disks.get(machine(host)).is_some_and(|disk| disk.fails.file_work);
        let fails = is_bad && self.chance(FAILS);
        let result = match self.disks.get_mut(machine(host)) {
            Some(disk) if !fails => step.carry_out(disk, created),
            _ => Err(io::Error::from_raw_os_error(libc::EIO)),
        };
        self.trace(|| format!("{host}: {}: {:?}", step.describe(), result.as_ref().err()));
        result
    }

    /// The process dies in it: whether there was such work.
    pub fn cut_file_work_off(&mut self, id: &(Host, u64)) -> bool {
        let Some(work) = self.network.file_works.remove(id) else { return false };
        if work.done > 0 {
            self.fault("disk: file work cut off");
        }
        true
    }
}

//! A job of a [`crate::block_sink::BlockSink`]: data for the block file, its checksums for the meta
//! file behind it, and what is true once both are written. Jobs hold their memory until then.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use smallvec::SmallVec;

use crate::limits::GATHERED_PARTS_MAX;
use crate::replica::OnDisk;
use crate::ring::{self, Buffer, WriteAll};

pub struct WriteJob {
    pub writes: JobWrites,
    pub meta: Vec<(Buffer, u64)>,
    pub sync: bool,
    pub on_disk: OnDisk,
    pub number: u64,
    /// Goes through the page cache.
    pub is_cached: bool,
}

/// Whole sectors and a padded last one, as a rule.
pub type JobWrites = SmallVec<[(Buffer, u64); 2]>;

/// File work that has begun.
pub type RunningWork = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// The writes of a job, under way side by side.
pub struct Writes {
    pub begun: Instant,
    writes: SmallVec<[WriteAll; 2]>,
    done: usize,
    work: Option<RunningWork>,
    outcome: io::Result<()>,
}

impl WriteJob {
    /// Whether the checksums of `next` follow this job's in the meta file, and fit one write. A job
    /// that asks for no sync does not wait for another's.
    pub fn can_take(&self, next: &Self) -> bool {
        let end = self.meta.last().map(|(checksums, at)| at + checksums.len() as u64);
        let follows = match (end, next.meta.first()) {
            (Some(end), Some((_, at))) => end == *at,
            _ => true,
        };
        follows && self.sync == next.sync && self.meta.len() + next.meta.len() <= GATHERED_PARTS_MAX
    }

    /// Becomes a job that is done when both are; returns the other's memory, emptied.
    pub fn take(&mut self, mut next: Self) -> Vec<(Buffer, u64)> {
        self.meta.append(&mut next.meta);
        self.on_disk = next.on_disk;
        self.number = next.number;
        next.meta
    }
}

impl Writes {
    /// Of writes that have just been started.
    pub fn new(writes: SmallVec<[WriteAll; 2]>) -> Self {
        Self { begun: ring::now(), writes, done: 0, work: None, outcome: Ok(()) }
    }

    pub fn of_work(work: RunningWork) -> Self {
        Self { work: Some(work), ..Self::new(SmallVec::new()) }
    }
}

impl Future for Writes {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(work) = &mut self.work {
            return work.as_mut().poll(context);
        }
        while self.done < self.writes.len() {
            let next = self.done;
            if let Err(error) = ready!(Pin::new(&mut self.writes[next]).poll(context)) {
                self.outcome = Err(error);
            }
            self.done += 1;
        }
        Poll::Ready(std::mem::replace(&mut self.outcome, Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u64, meta: &[(usize, u64)], sync: bool) -> WriteJob {
        let meta = meta.iter().map(|(len, at)| (Buffer::from(vec![number as u8; *len]), *at));
        let on_disk = OnDisk { len: number * 1000, last_chunk_checksum: None };
        WriteJob {
            writes: JobWrites::new(),
            meta: meta.collect(),
            sync,
            on_disk,
            number,
            is_cached: false,
        }
    }

    #[test]
    fn a_job_takes_only_checksums_that_follow_its_own() {
        let mut first = job(1, &[(8, 7), (4, 15)], false);
        assert!(!first.can_take(&job(2, &[(8, 15)], false)), "a checksum that is written again");
        assert!(!first.can_take(&job(2, &[(8, 23)], false)), "a gap");
        assert!(!first.can_take(&job(2, &[(8, 19)], true)), "a sync that nobody waits for here");
        let long: Vec<_> = (0..GATHERED_PARTS_MAX as u64).map(|at| (4, 19 + 4 * at)).collect();
        assert!(!first.can_take(&job(2, &long, false)), "more parts than one write may have");
        assert!(first.can_take(&job(2, &[], false)));
        let next = job(2, &[(8, 19), (4, 27)], false);
        assert!(first.can_take(&next));
        assert!(first.take(next).is_empty());
        let places: Vec<_> = first.meta.iter().map(|(part, at)| (part.len(), *at)).collect();
        assert_eq!(places, [(8, 7), (4, 15), (8, 19), (4, 27)]);
        assert_eq!((first.number, first.on_disk.len), (2, 2000));
    }
}

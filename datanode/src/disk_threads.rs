//! Work on disks at start and at stop, each volume's on a thread of its own: nobody waits for a disk
//! that stops answering. A thread in such a disk's hands is left to itself, and ends when the disk
//! answers or the process ends.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;

use crate::error::{DatanodeError, Result};

/// How often it is looked whether the threads get on.
const POLL: Duration = Duration::from_millis(50);

/// Told of each step that a disk has answered.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    pub fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub type DiskWork<T> = Box<dyn FnOnce(&Progress) -> T + Send>;

/// One piece of work, as its waiter sees it.
struct Waiting {
    thread: JoinHandle<()>,
    progress: Progress,
    steps: u64,
    seen: Instant,
}

/// The results in order; `None` of work that had no step done within `patience`.
pub fn run_in_time<T: Send + 'static>(
    work: Vec<DiskWork<T>>,
    patience: Duration,
) -> Result<Vec<Option<T>>> {
    #[cfg(feature = "simulation")]
    if ringfs_protocol::simulation::is_entered() {
        return Ok(work.into_iter().map(|work| Some(work(&Progress::default()))).collect());
    }
    let (sender, results) = unbounded();
    let mut waiting = Vec::with_capacity(work.len());
    for (index, work) in work.into_iter().enumerate() {
        let (sender, progress) = (sender.clone(), Progress::default());
        let noted = progress.clone();
        let thread = std::thread::Builder::new()
            .name("disk-work".into())
            // Whoever asked may have given up.
            .spawn(move || drop(sender.send((index, work(&noted)))))
            .map_err(DatanodeError::io("starting a thread for a volume"))?;
        waiting.push(Some(Waiting { thread, progress, steps: 0, seen: Instant::now() }));
    }
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    while waiting.iter().any(Option::is_some) {
        if let Ok((index, result)) = results.recv_timeout(POLL) {
            (done[index], waiting[index]) = (Some(result), None);
            continue;
        }
        for place in &mut waiting {
            let Some(work) = place else { continue };
            if work.thread.is_finished() && results.is_empty() {
                // It ended without a result.
                let Some(work) = place.take() else { continue };
                if let Err(panic) = work.thread.join() {
                    resume_unwind(panic);
                }
            } else if !work.gets_on(patience) {
                *place = None;
            }
        }
    }
    Ok(done)
}

impl Waiting {
    fn gets_on(&mut self, patience: Duration) -> bool {
        let steps = self.progress.0.load(Ordering::Relaxed);
        if steps != self.steps {
            (self.steps, self.seen) = (steps, Instant::now());
        }
        self.seen.elapsed() < patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_get_on_holds_up_no_other() {
        let (_kept, never) = unbounded::<()>();
        let stuck: DiskWork<u32> = Box::new(move |progress| {
            progress.note();
            let _ = never.recv();
            1
        });
        let slow: DiskWork<u32> = Box::new(|progress| {
            for _ in 0..30 {
                std::thread::sleep(Duration::from_millis(20));
                progress.note();
            }
            2
        });
        let fast: DiskWork<u32> = Box::new(|_| 3);
        let done = run_in_time(vec![stuck, slow, fast], Duration::from_millis(300)).unwrap();
        assert_eq!(done, [None, Some(2), Some(3)]);
    }

    #[test]
    #[should_panic(expected = "of the work")]
    fn a_panic_of_the_work_is_that_of_its_waiter() {
        let panics: DiskWork<()> = Box::new(|_| panic!("of the work"));
        let _ = run_in_time(vec![panics], Duration::from_secs(5));
    }
}

//! Operations whose disk does not answer. Nothing can end them before the disk does, so they stay in
//! the executor's table with all that they own; but nobody else shall wait for them.
//!
//! While there are operations on disks, the executor looks through them once in
//! [`DISK_LOOK_INTERVAL`], which costs a running operation no clock:
//!
//! | in flight for | it is | and |
//! |---|---|---|
//! | [`STUCK_AFTER_LOOKS`] | stuck | the kernel may use another worker and the pool another slab in place of those that it holds |
//! | the timeout | overdue | whoever waits is told `TimedOut`; buffers and descriptor stay with the operation |
//! | until the disk answers | - | it leaves the table, its slabs return to the pool, a file that it opened is closed |

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::limits::{DISK_LOOK_INTERVAL, DISK_OPERATION_TIMEOUT, STUCK_AFTER_LOOKS};

use super::driver::Operation;
use super::executor::{Executor, SlotState};

/// When the disks' operations are looked through, and what was found the last time.
pub(super) struct DiskLooks {
    count: Cell<u32>,
    /// `None` while there are no operations on disks.
    next: Cell<Option<Instant>>,
    /// Looks after which an operation is overdue.
    overdue_after: Cell<u32>,
    stuck: Cell<usize>,
}

impl Default for DiskLooks {
    fn default() -> Self {
        Self {
            count: Cell::default(),
            next: Cell::default(),
            overdue_after: Cell::new(looks_in(DISK_OPERATION_TIMEOUT)),
            stuck: Cell::default(),
        }
    }
}

impl DiskLooks {
    /// An operation begins; returns the number of looks before it.
    pub(super) fn note(&self, operation: &Operation, now: Instant) -> u32 {
        if operation.waits_for_disk() && self.next.get().is_none() {
            self.next.set(Some(now + DISK_LOOK_INTERVAL));
        }
        self.count.get()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next.get()
    }
}

impl Executor {
    pub(super) fn give_up_on_disks_after(&self, timeout: Duration) {
        self.disk_looks.overdue_after.set(looks_in(timeout));
    }

    pub(super) fn look_at_disks(&self, now: Instant) {
        let looks = &self.disk_looks;
        looks.count.set(looks.count.get() + 1);
        let (mut under_way, mut stuck, mut overdue) = (false, 0, Vec::new());
        let mut slabs = Vec::new();
        for slot in self.operations.borrow_mut().iter_mut() {
            if !slot.operation.waits_for_disk() || matches!(slot.state, SlotState::Done(_)) {
                continue;
            }
            under_way = true;
            let age = looks.count.get() - slot.submitted_at_look;
            if age < STUCK_AFTER_LOOKS {
                continue;
            }
            stuck += 1;
            slot.operation.slabs(&mut slabs);
            if age >= looks.overdue_after.get()
                && let SlotState::Waiting(waker) = &mut slot.state
            {
                overdue.push(waker.take());
                slot.state = SlotState::Overdue;
            }
        }
        looks.next.set(under_way.then(|| now + DISK_LOOK_INTERVAL));
        self.counters.operations_given_up.add(overdue.len() as u64);
        if stuck > 0 || looks.stuck.get() > 0 {
            self.make_up_for_stuck(stuck, slabs);
        }
        overdue.into_iter().flatten().for_each(|waker| waker.wake());
    }

    fn make_up_for_stuck(&self, stuck: usize, mut slabs: Vec<usize>) {
        // Several operations may write parts of one slab.
        slabs.sort_unstable();
        slabs.dedup();
        let former = self.disk_looks.stuck.replace(stuck);
        self.counters.operations_stuck.add(stuck as u64);
        self.counters.operations_stuck.sub(former as u64);
        if let Some(pool) = &*self.pool.borrow() {
            pool.set_parked(slabs.len());
        }
        self.driver.borrow_mut().make_up_for_stuck(stuck);
    }
}

fn looks_in(time: Duration) -> u32 {
    // An operation may begin just before a look.
    (time.div_duration_f64(DISK_LOOK_INTERVAL).ceil() as u32).max(1) + 1
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::io::{self, Write};
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::rc::Rc;
    use std::sync::Arc;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::counters::Counters;
    use crate::ring::executor::current;
    use crate::ring::{self, File, OpenOptions};

    const SLABS: usize = 2;

    /// A pipe with a name: a file that answers when the test wants it to.
    fn pipe(directory: &Path) -> PathBuf {
        let path = directory.join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    fn executor(counters: &Arc<Counters>) -> Rc<Executor> {
        ring::new_executor(SLABS, Duration::from_secs(1), counters.clone()).unwrap()
    }

    /// Descriptors of this process that are open on the file.
    fn open_on(path: &Path) -> usize {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        links.filter(|link| fs::read_link(link.path()).is_ok_and(|open| open == path)).count()
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..500 {
            if is_so() {
                return;
            }
            ring::sleep(Duration::from_millis(10)).await;
        }
        panic!("still not: {what}");
    }

    fn is_given_up<T>(result: &io::Result<T>) -> bool {
        result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
    }

    #[test]
    fn a_slab_that_is_stuck_has_another_in_its_place_until_it_comes_back() {
        let (directory, counters) = (tempfile::tempdir().unwrap(), Arc::<Counters>::default());
        let (path, counted) = (pipe(directory.path()), counters.clone());
        executor(&counters).run(async move {
            let options = OpenOptions { read: true, write: true, ..Default::default() };
            let file = File::open(&path, options).await.unwrap();
            let share = ring::pool().share(SLABS, 0);
            let (read, buffer) = file.read_at(share.take_one().await, 0).await;
            assert!(is_given_up(&read) && buffer.is_empty());
            assert_eq!((share.held(), ring::pool().free()), (1, SLABS), "it is still the kernel's");
            let others = ring::pool().share(SLABS, 0).try_take(SLABS);
            assert!(others.is_some(), "as many as ever for others");
            assert_eq!((counted.slabs_parked.get(), counted.operations_stuck.get()), (1, 1));
            drop(others);
            fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"late").unwrap();
            until("the slab is back", || share.held() == 0).await;
            until("none is parked", || counted.slabs_parked.get() == 0).await;
            assert_eq!((ring::pool().free(), counted.operations_stuck.get()), (SLABS, 0));
        });
        assert_eq!(counters.operations_given_up.get(), 1);
    }

    #[test]
    fn a_file_that_is_opened_too_late_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = pipe(&directory.path().canonicalize().unwrap());
        executor(&Arc::default()).run(async move {
            let name = CString::new(path.as_os_str().as_bytes()).unwrap();
            // With O_CREAT it is not tried without waiting, and waits for somebody who writes.
            let flags = libc::O_CREAT | libc::O_RDONLY | libc::O_CLOEXEC;
            let open = current().submit(Operation::Open { path: name, flags, mode: 0o600 });
            assert!(open.await.is_err());
            let writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
            until("only the writer has it open", || open_on(&path) == 1).await;
            drop(writer);
        });
    }
}

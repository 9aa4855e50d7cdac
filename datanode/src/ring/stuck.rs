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

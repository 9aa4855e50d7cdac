//! A driver for tests on which everything that would change a disk fails from some operation on, as
//! if the process had died there: what was done before stays, nothing more is done.

#![allow(unsafe_code)]

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::driver::{Completion, Driver, Operation, Outcome, Patience};
use super::executor::Executor;
use super::uring::UringDriver;

struct FailingDriver {
    inner: UringDriver,
    changes_left: usize,
    failed: Vec<u64>,
}

/// Like [`super::block_on`], but after `changes` changes to the disk all further ones fail.
pub fn block_on_failing_after<F>(changes: usize, main: F) -> F::Output
where
    F: Future + 'static,
    F::Output: 'static,
{
    let (inner, wake_up) = UringDriver::new(0, Arc::default()).unwrap();
    let driver = FailingDriver { inner, changes_left: changes, failed: Vec::new() };
    Executor::new(Box::new(driver), move || wake_up.wake(), Arc::default()).run(main)
}

fn changes_disk(operation: &Operation) -> bool {
    match operation {
        Operation::Write { .. }
        | Operation::WriteGathered { .. }
        | Operation::Allocate { .. }
        | Operation::Truncate { .. }
        | Operation::Rename { .. }
        | Operation::Unlink { .. }
        | Operation::CreateDir { .. } => true,
        Operation::Open { flags, .. } => flags & libc::O_CREAT != 0,
        _ => false,
    }
}

impl Driver for FailingDriver {
    unsafe fn submit(&mut self, token: u64, operation: &mut Operation) {
        if changes_disk(operation) {
            if self.changes_left == 0 {
                self.failed.push(token);
                return;
            }
            self.changes_left -= 1;
        }
        // SAFETY: passed on to the caller.
        unsafe { self.inner.submit(token, operation) };
    }

    fn cancel(&mut self, token: u64) {
        if !self.failed.contains(&token) {
            self.inner.cancel(token);
        }
    }

    fn turn(&mut self, patience: Patience, completions: &mut Vec<Completion>) -> io::Result<()> {
        let patience = if self.failed.is_empty() { patience } else { Patience::None };
        for token in self.failed.drain(..) {
            let result = Err(io::Error::from_raw_os_error(libc::EIO));
            let outcome = Outcome::of(result);
            completions.push(Completion { token, outcome });
        }
        self.inner.turn(patience, completions)
    }

    unsafe fn register(&mut self, index: usize, base: *mut u8, len: usize) -> Option<u16> {
        // SAFETY: passed on to the caller.
        unsafe { self.inner.register(index, base, len) }
    }

    fn now(&self) -> Instant {
        self.inner.now()
    }
}

//! Waiting for an operation of the executor's table.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::driver::{Operation, Outcome};
use super::executor::{Executor, Slot, SlotState};

/// An operation under way. Dropped early, it leaves the operation to the executor.
pub struct InFlight {
    pub(super) executor: Rc<Executor>,
    /// `None` once the completion was handed out.
    pub(super) token: Option<usize>,
}

/// The disk has not answered in time; the operation stays with the kernel, and what it owns with it.
#[derive(Clone, Copy, Debug)]
pub struct Overdue;

impl From<Overdue> for io::Error {
    fn from(_: Overdue) -> Self {
        Self::new(io::ErrorKind::TimedOut, "the disk does not answer")
    }
}

impl Future for InFlight {
    type Output = Result<(Operation, Outcome), Overdue>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let token = self.token.expect("polled after completion");
        let mut operations = self.executor.operations.borrow_mut();
        let slot = operations.get_mut(token).expect("in the table until handed out here");
        if let SlotState::Waiting(waker) = &mut slot.state {
            match waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        if matches!(slot.state, SlotState::Overdue) {
            slot.state = SlotState::Abandoned;
            drop(operations);
            self.token = None;
            return Poll::Ready(Err(Overdue));
        }
        if slot.notice_due {
            let rest = slot.operation.awaiting_notice();
            let operation = std::mem::replace(&mut slot.operation, rest);
            let state = std::mem::replace(&mut slot.state, SlotState::Abandoned);
            let SlotState::Done(outcome) = state else {
                unreachable!("only a dropped future's operation is abandoned");
            };
            drop(operations);
            self.token = None;
            return Poll::Ready(Ok((operation, outcome)));
        }
        let Some(Slot { operation, state: SlotState::Done(outcome), .. }) =
            operations.remove(token)
        else {
            unreachable!("only a dropped future's operation is abandoned");
        };
        drop(operations);
        self.token = None;
        Poll::Ready(Ok((operation, outcome)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(token) = self.token else { return };
        let mut operations = self.executor.operations.borrow_mut();
        let Some(slot) = operations.get_mut(token) else { return };
        if matches!(slot.state, SlotState::Waiting(_) | SlotState::Overdue) {
            slot.state = SlotState::Abandoned;
            if slot.operation.waits_for_peer() {
                self.executor.driver.borrow_mut().cancel(token as u64);
            }
            return;
        }
        if slot.notice_due {
            slot.state = SlotState::Abandoned;
            return;
        }
        let done = operations.remove(token);
        drop(operations);
        self.executor.discard(done);
    }
}

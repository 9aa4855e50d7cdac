//! The few combinators that the protocol code needs.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::timers::{Sleep, sleep};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    First(A),
    Second(B),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

pin_project! {
    /// Written out, as [`Join`] is: an async function would hold what it is given twice, once as its
    /// argument, and combinators in combinators of a large future double it each time.
    pub struct Race<A, B> {
        #[pin]
        first: A,
        #[pin]
        second: B,
    }
}

/// Resolves with whichever is ready first, the first one when both are; the other is dropped.
pub fn race<A: Future, B: Future>(first: A, second: B) -> Race<A, B> {
    Race { first, second }
}

impl<A: Future, B: Future> Future for Race<A, B> {
    type Output = Either<A::Output, B::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let race = self.project();
        if let Poll::Ready(output) = race.first.poll(context) {
            return Poll::Ready(Either::First(output));
        }
        race.second.poll(context).map(Either::Second)
    }
}

pin_project! {
    pub struct Join<A: Future, B: Future> {
        #[pin]
        first: A,
        #[pin]
        second: B,
        first_output: Option<A::Output>,
        second_output: Option<B::Output>,
    }
}

/// Resolves with both, which take turns on this thread.
pub fn join<A: Future, B: Future>(first: A, second: B) -> Join<A, B> {
    Join { first, second, first_output: None, second_output: None }
}

impl<A: Future, B: Future> Future for Join<A, B> {
    type Output = (A::Output, B::Output);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let join = self.project();
        if join.first_output.is_none()
            && let Poll::Ready(output) = join.first.poll(context)
        {
            *join.first_output = Some(output);
        }
        if join.second_output.is_none()
            && let Poll::Ready(output) = join.second.poll(context)
        {
            *join.second_output = Some(output);
        }
        match (join.first_output.take(), join.second_output.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            (first, second) => {
                (*join.first_output, *join.second_output) = (first, second);
                Poll::Pending
            }
        }
    }
}

pin_project! {
    pub struct Timeout<F> {
        #[pin]
        race: Race<F, Sleep>,
    }
}

pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { race: race(future, sleep(duration)) }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().race.poll(context).map(|either| match either {
            Either::First(output) => Ok(output),
            Either::Second(()) => Err(TimedOut),
        })
    }
}

/// Lets the thread's other tasks run, and completions be collected.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl From<TimedOut> for std::io::Error {
    fn from(_: TimedOut) -> Self {
        std::io::ErrorKind::TimedOut.into()
    }
}

/// Tells one waiting future of this thread that something it looks at has changed.
#[derive(Debug, Default)]
pub struct Signal {
    is_set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    pub fn set(&self) {
        self.is_set.set(true);
        if let Some(waker) = self.waiter.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Resolves once `set` was called since the last time that this resolved.
    pub async fn changed(&self) {
        poll_fn(|context| {
            if self.is_set.take() {
                return Poll::Ready(());
            }
            *self.waiter.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

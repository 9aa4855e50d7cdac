//! Wakers at their times, for tasks of one executor.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::executor::{CURRENT, current, now};

/// Wakers by time of expiry; the number tells equal times apart.
pub(super) struct Timers {
    entries: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
}

impl Default for Timers {
    /// With an entry that stays: a tree that is never empty keeps its first node, and a few timers
    /// come and go in that.
    fn default() -> Self {
        let never = (Instant::now() + Duration::from_secs(100 * 365 * 24 * 60 * 60), u64::MAX);
        Self { entries: BTreeMap::from([(never, Waker::noop().clone())]), next_id: 0 }
    }
}

impl Timers {
    pub fn next_deadline(&self) -> Instant {
        let (timer, _) = self.entries.keys().next().expect("one entry stays");
        *timer
    }

    pub fn expire(&mut self, now: Instant) {
        while let Some(entry) = self.entries.first_entry()
            && entry.key().0 <= now
        {
            entry.remove().wake();
        }
    }
}

/// Resolves at `deadline`.
pub struct Sleep {
    deadline: Instant,
    /// Its entry among the timers, once polled.
    id: Option<u64>,
}

pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, id: None }
}

pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let executor = current();
        if executor.driver.borrow().now() >= self.deadline {
            return Poll::Ready(());
        }
        let mut timers = executor.timers.borrow_mut();
        let id = *self.id.get_or_insert_with(|| {
            timers.next_id += 1;
            timers.next_id
        });
        timers.entries.insert((self.deadline, id), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        CURRENT.with(|current| {
            if let Some(executor) = &*current.borrow() {
                executor.timers.borrow_mut().entries.remove(&(self.deadline, id));
            }
        });
    }
}

//! How much this datanode is doing, as its heartbeats tell the namenode, which spreads work by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Debug, Default)]
pub struct Activity {
    streams: AtomicU32,
    transfers: AtomicU32,
}

/// One stream or transfer under way, until dropped.
#[derive(Debug)]
pub struct Busy {
    activity: Arc<Activity>,
    gauge: fn(&Activity) -> &AtomicU32,
}

impl Activity {
    /// Operations being served to clients and other datanodes (`xceiverCount`).
    pub fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Blocks that this node copies to others (`xmitsInProgress`).
    pub fn transfers(&self) -> u32 {
        self.transfers.load(Ordering::Relaxed)
    }

    pub fn stream(self: &Arc<Self>) -> Busy {
        Busy::new(self, |activity| &activity.streams)
    }

    pub fn transfer(self: &Arc<Self>) -> Busy {
        Busy::new(self, |activity| &activity.transfers)
    }
}

impl Busy {
    fn new(activity: &Arc<Activity>, gauge: fn(&Activity) -> &AtomicU32) -> Self {
        gauge(activity).fetch_add(1, Ordering::Relaxed);
        Self { activity: activity.clone(), gauge }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        (self.gauge)(&self.activity).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_counted_until_it_ends() {
        let activity = Arc::new(Activity::default());
        let (stream, transfer) = (activity.stream(), activity.transfer());
        let second = activity.stream();
        assert_eq!((activity.streams(), activity.transfers()), (2, 1));
        drop((stream, transfer));
        assert_eq!((activity.streams(), activity.transfers()), (1, 0));
        drop(second);
        assert_eq!(activity.streams(), 0);
    }
}

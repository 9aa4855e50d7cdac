//! The bytes a second that block moves may take of this node, those sent and those received together
//! (`dfs.datanode.balance.bandwidthPerSec`, and `dfsadmin -setBalancerBandwidth` while it runs).
//!
//! Each piece of a move is given the time that it takes at that rate, behind the pieces before it: a
//! schedule of one number, which all data threads share. A move that ends early leaves its time unused.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ring;

#[derive(Debug)]
pub struct MoveBandwidth(Mutex<Schedule>);

#[derive(Debug)]
struct Schedule {
    bytes_per_second: u64,
    /// When the pieces that were let through have had their time.
    free_at: Option<Instant>,
}

impl MoveBandwidth {
    /// 0 is taken for 1: moves must not divide by it, and nobody wants them to hang.
    pub fn new(bytes_per_second: u64) -> Self {
        Self(Mutex::new(Schedule { bytes_per_second: bytes_per_second.max(1), free_at: None }))
    }

    /// For the pieces that come.
    pub fn set(&self, bytes_per_second: u64) {
        self.0.lock().bytes_per_second = bytes_per_second.max(1);
    }

    /// Waits until `bytes` may go.
    pub async fn take(&self, bytes: usize) {
        let start = self.0.lock().reserve(bytes, ring::now());
        ring::sleep_until(start).await;
    }
}

impl Schedule {
    /// When the piece may go.
    fn reserve(&mut self, bytes: usize, now: Instant) -> Instant {
        let start = self.free_at.map_or(now, |free_at| free_at.max(now));
        let seconds = bytes as f64 / self.bytes_per_second as f64;
        self.free_at = Some(start + Duration::from_secs_f64(seconds));
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_at_the_rate_and_save_up_nothing() {
        let bandwidth = MoveBandwidth::new(1_000_000);
        let start = Instant::now();
        let mut schedule = bandwidth.0.lock();
        let mut after_ms = |bytes, now_ms| {
            let now = start + Duration::from_millis(now_ms);
            (schedule.reserve(bytes, now) - start).as_millis()
        };
        assert_eq!(after_ms(500_000, 0), 0);
        assert_eq!(after_ms(100_000, 0), 500);
        assert_eq!(after_ms(100_000, 300), 600);
        assert_eq!(after_ms(300_000, 10_000), 10_000, "idle time is not made up for");
        assert_eq!(after_ms(1, 10_000), 10_300);
        drop(schedule);
        bandwidth.set(500_000);
        let mut schedule = bandwidth.0.lock();
        let now = start + Duration::from_secs(60);
        schedule.reserve(100_000, now);
        assert_eq!(schedule.reserve(1, now) - now, Duration::from_millis(200));
    }
}

//! What all streams of a run have done, and how evenly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::meter::Meter;

#[derive(Debug)]
pub struct Progress {
    pub meter: Arc<Meter>,
    stream_bytes: Vec<AtomicU64>,
    /// Bytes of each stream when the first one ended: until then all were active.
    at_first_end: OnceLock<Vec<u64>>,
}

/// When a stream's bytes are due, by the open loop's rate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    bytes_per_s: f64,
    /// Streams begin one after the other, so that their packets do not come in bursts.
    delay: Duration,
}

impl Progress {
    pub fn new(streams: usize) -> Self {
        let stream_bytes = (0..streams).map(|_| AtomicU64::new(0)).collect();
        Self { meter: Arc::default(), stream_bytes, at_first_end: OnceLock::new() }
    }

    pub fn add(&self, stream: usize, bytes: u64, operations: u64) {
        self.meter.add(bytes, operations);
        self.stream_bytes[stream].fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn ended(&self) {
        self.at_first_end.get_or_init(|| {
            self.stream_bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect()
        });
    }

    /// The slowest stream's bytes over the mean of all, while all were active.
    pub fn slowest_to_mean(&self) -> Option<f64> {
        let bytes = self.at_first_end.get()?;
        let mean = bytes.iter().sum::<u64>() as f64 / bytes.len() as f64;
        Some(*bytes.iter().min()? as f64 / mean.max(1.0))
    }
}

impl Plan {
    /// Of stream `index` of `streams`, which send units of `unit_bytes` at `rate` bytes a second
    /// together.
    pub fn new(rate: u64, index: usize, streams: usize, unit_bytes: u64) -> Self {
        let delay = Duration::from_secs_f64(index as f64 * unit_bytes as f64 / rate as f64);
        Self { bytes_per_s: rate as f64 / streams as f64, delay }
    }

    pub fn due(&self, start: Instant, offset_bytes: u64) -> Instant {
        start + self.delay + Duration::from_secs_f64(offset_bytes as f64 / self.bytes_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_spreads_streams_over_the_rate() {
        let start = Instant::now();
        let at = |index, offset| Plan::new(4000, index, 4, 100).due(start, offset) - start;
        assert_eq!(at(0, 0), Duration::ZERO);
        assert_eq!(at(1, 0), Duration::from_millis(25));
        assert_eq!(at(3, 1000), Duration::from_millis(1075));
    }

    #[test]
    fn evenness_counts_while_all_are_active() {
        let progress = Progress::new(2);
        assert_eq!(progress.slowest_to_mean(), None);
        progress.add(0, 300, 1);
        progress.add(1, 100, 1);
        progress.ended();
        progress.add(1, 200, 1);
        progress.ended();
        assert_eq!(progress.slowest_to_mean(), Some(0.5));
        assert_eq!((progress.meter.bytes(), progress.meter.operations()), (600, 3));
    }
}

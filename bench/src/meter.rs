//! What a run has done so far, counted by whoever does it, and its course over time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::report::TimePoint;

const FIRST_INTERVAL: Duration = Duration::from_millis(100);

/// A longer run is sampled at longer intervals: at this many points every other one goes.
const POINTS_MAX: usize = 1000;

#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    operations: AtomicU64,
}

impl Meter {
    pub fn add(&self, bytes: u64, operations: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }
}

/// A thread that reads a meter at intervals, until it is asked for what it saw.
#[derive(Debug)]
pub struct Timeline {
    stop: Arc<AtomicBool>,
    sampler: JoinHandle<Vec<TimePoint>>,
}

impl Timeline {
    pub fn start(meter: Arc<Meter>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sampler = std::thread::spawn(move || sample(&meter, &stopped));
        Self { stop, sampler }
    }

    pub fn finish(self) -> Vec<TimePoint> {
        self.stop.store(true, Ordering::Relaxed);
        self.sampler.thread().unpark();
        self.sampler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn sample(meter: &Meter, stopped: &AtomicBool) -> Vec<TimePoint> {
    let started = Instant::now();
    let mut interval = FIRST_INTERVAL;
    let mut points = Vec::new();
    let mut due = started + interval;
    loop {
        let stop = stopped.load(Ordering::Relaxed);
        let now = Instant::now();
        if stop || now >= due {
            let at_s = (now - started).as_secs_f64();
            points.push(TimePoint { at_s, bytes: meter.bytes(), operations: meter.operations() });
            due = now + interval;
        }
        if stop {
            return points;
        }
        if points.len() == POINTS_MAX {
            let mut index = 0;
            points.retain(|_| (index % 2 == 1, index += 1).0);
            interval *= 2;
        }
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_whole_count() {
        let meter = Arc::new(Meter::default());
        let timeline = Timeline::start(meter.clone());
        meter.add(10, 1);
        std::thread::sleep(FIRST_INTERVAL * 2);
        meter.add(5, 2);
        let points = timeline.finish();
        let last = points.last().unwrap();
        assert_eq!((last.bytes, last.operations), (15, 3));
        assert_eq!((points[0].bytes, points[0].operations), (10, 1));
    }
}

//! Which volumes write slowly. Every write of a block is timed; once in
//! `dfs.datanode.outliers.report.interval` each volume's mean goes to the namenode if it is slow
//! (SlowDiskReportProto, in the next heartbeat).
//!
//! A volume is slow as Apache's `OutlierDetector` has it: with [`DISKS_MIN`] or more that were written
//! to, one whose mean lies far above the median of all. Where there are fewer, that says nothing, and
//! one is slow whose mean write takes [`SLOW_WRITE`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::SLOW_WRITE;

/// `dfs.datanode.min.outlier.detection.disks`: below, a median means little.
const DISKS_MIN: usize = 5;
/// `dfs.datanode.slowdisk.low.threshold.ms`: no volume below is slow, however fast the others are.
const LOW_THRESHOLD_MS: f64 = 20.0;
/// Deviations (of the median, scaled to a normal distribution's) that make an outlier.
const DEVIATIONS: f64 = 3.0;
const MAD_SCALE: f64 = 1.4826;
const MEDIANS: f64 = 3.0;

/// The writes of one volume since they were last looked at.
#[derive(Debug, Default)]
pub struct WriteTimes {
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl WriteTimes {
    /// Whether it was a slow one.
    pub fn note(&self, time: Duration) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
        time >= SLOW_WRITE
    }

    /// The mean in ms, and a new start; `None` when nothing was written.
    pub fn take_mean_ms(&self) -> Option<f64> {
        let count = self.count.swap(0, Ordering::Relaxed);
        let sum_us = self.sum_us.swap(0, Ordering::Relaxed);
        (count > 0).then(|| sum_us as f64 / count as f64 / 1000.0)
    }
}

/// For each mean, whether it is that of a slow volume.
pub fn are_slow(means_ms: &[Option<f64>]) -> Vec<bool> {
    let known: Vec<f64> = means_ms.iter().copied().flatten().collect();
    let limit_ms = match known.len() < DISKS_MIN {
        true => SLOW_WRITE.as_secs_f64() * 1000.0,
        false => {
            let middle = median(known.clone());
            let deviation =
                median(known.iter().map(|mean| (mean - middle).abs()).collect()) * MAD_SCALE;
            LOW_THRESHOLD_MS.max(middle * MEDIANS).max(middle + deviation * DEVIATIONS)
        }
    };
    means_ms.iter().map(|mean| mean.is_some_and(|mean| mean >= limit_ms)).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_volumes_are_slow_by_themselves_and_many_by_comparison() {
        assert_eq!(are_slow(&[Some(900.0), Some(2.0), None]), [true, false, false]);
        assert_eq!(are_slow(&[Some(90.0), Some(2.0)]), [false, false]);
        let many = |last| [Some(2.0), Some(3.0), Some(2.5), Some(2.0), Some(last)];
        assert_eq!(are_slow(&many(90.0)), [false, false, false, false, true]);
        assert_eq!(are_slow(&many(19.0)), [false; 5], "below the low threshold");
        let all_slow = [Some(400.0); 6];
        assert_eq!(are_slow(&all_slow), [false; 6], "none is worse than the others");
        assert!(are_slow(&[]).is_empty());
    }

    #[test]
    fn a_mean_is_of_the_writes_since_the_last() {
        let times = WriteTimes::default();
        assert_eq!(times.take_mean_ms(), None);
        assert!(!times.note(Duration::from_millis(10)));
        assert!(times.note(SLOW_WRITE));
        let mean = times.take_mean_ms().unwrap();
        assert!((mean - (10.0 + SLOW_WRITE.as_millis() as f64) / 2.0).abs() < 0.01, "{mean}");
        assert_eq!(times.take_mean_ms(), None);
    }
}

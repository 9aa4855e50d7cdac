//! The block of lines that Hadoop's TestDFSIO ends with, from the same figures: bytes and time of
//! each stream, MB = 2^20. Scripts read these lines, so nothing else stands in them.
//!
//! Its two rates are those of one stream: `Throughput` is all bytes by the sum of all streams' times,
//! `Average IO rate` the mean of each stream's own rate. What the streams moved together is neither.

use std::time::Duration;

use chrono::{DateTime, Utc};

const MB: f64 = (1 << 20) as f64;

/// One stream's share of a run: the time from its file being open to its file being closed.
#[derive(Clone, Copy, Debug)]
pub struct StreamTime {
    pub bytes: u64,
    pub elapsed: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classic {
    pub files: usize,
    pub bytes: u64,
    pub throughput_mb_per_s: f64,
    pub average_io_rate_mb_per_s: f64,
    pub io_rate_deviation: f64,
    /// From before the first stream's start to after the last one's end.
    pub elapsed: Duration,
}

impl Classic {
    pub fn of(streams: &[StreamTime], elapsed: Duration) -> Self {
        let bytes = streams.iter().map(|stream| stream.bytes).sum();
        let seconds: f64 = streams.iter().map(|stream| stream.elapsed.as_secs_f64()).sum();
        let mb_per_s = |bytes: u64, seconds: f64| bytes as f64 / MB / seconds.max(1e-9);
        let rates =
            streams.iter().map(|stream| mb_per_s(stream.bytes, stream.elapsed.as_secs_f64()));
        let count = streams.len().max(1) as f64;
        let mean = rates.clone().sum::<f64>() / count;
        let mean_square = rates.map(|rate| rate * rate).sum::<f64>() / count;
        Self {
            files: streams.len(),
            bytes,
            throughput_mb_per_s: mb_per_s(bytes, seconds),
            average_io_rate_mb_per_s: mean,
            io_rate_deviation: (mean_square - mean * mean).abs().sqrt(),
            elapsed,
        }
    }

    pub fn aggregate_mb_per_s(&self) -> f64 {
        self.bytes as f64 / MB / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub fn lines(&self, what: &str, now: DateTime<Utc>) -> String {
        let megabytes = format!("{:.2}", self.bytes as f64 / MB);
        let megabytes = megabytes.trim_end_matches('0').trim_end_matches('.');
        format!(
            "----- TestDFSIO ----- : {what}\n            Date & time: {}\n        Number of files: {}\n \
             Total MBytes processed: {megabytes}\n      Throughput mb/sec: {:.2}\n \
             Average IO rate mb/sec: {:.2}\n  IO rate std deviation: {:.2}\n     Test exec time sec: {:.2}\n",
            now.format("%a %b %d %H:%M:%S UTC %Y"),
            self.files,
            self.throughput_mb_per_s,
            self.average_io_rate_mb_per_s,
            self.io_rate_deviation,
            self.elapsed.as_secs_f64(),
        )
    }

    /// What stands beside the block, each rate called what it is.
    pub fn beside(&self) -> String {
        format!(
            "The rates above are those of one stream: all bytes by the sum of the {} streams' times, and the\n\
             mean of each stream's own rate; MB is 2^20 bytes. Together the streams moved, in wall time from\n\
             before the first file was opened to after the last was closed:\n   \
             Aggregate throughput: {:.2} MB/s ({:.3} GB/s of 10^9 bytes)\n",
            self.files,
            self.aggregate_mb_per_s(),
            self.aggregate_mb_per_s() * MB / 1e9,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_what_testdfsio_computes() {
        let streams = [(100, 2), (100, 1)].map(|(megabytes, seconds)| StreamTime {
            bytes: megabytes << 20,
            elapsed: Duration::from_secs(seconds),
        });
        let classic = Classic::of(&streams, Duration::from_millis(2500));
        assert!((classic.throughput_mb_per_s - 200.0 / 3.0).abs() < 1e-9);
        assert!((classic.average_io_rate_mb_per_s - 75.0).abs() < 1e-9);
        assert!((classic.io_rate_deviation - 25.0).abs() < 1e-9);
        assert!((classic.aggregate_mb_per_s() - 80.0).abs() < 1e-9);
    }

    #[test]
    fn is_spelled_as_testdfsio_spells_it() {
        let stream = StreamTime { bytes: 3 << 19, elapsed: Duration::from_secs(1) };
        let lines = Classic::of(&[stream], Duration::from_secs(2))
            .lines("write", DateTime::from_timestamp(1_587_012_084, 0).unwrap());
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "----- TestDFSIO ----- : write",
                "            Date & time: Thu Apr 16 04:41:24 UTC 2020",
                "        Number of files: 1",
                " Total MBytes processed: 1.5",
                "      Throughput mb/sec: 1.50",
                " Average IO rate mb/sec: 1.50",
                "  IO rate std deviation: 0.00",
                "     Test exec time sec: 2.00",
            ]
        );
    }
}

//! What a run of the bench found, as every command hands it to [`crate::output`]: measurements, each
//! of several runs, each with its figures, the processor time of every process that took part, the
//! spectrum of its latencies and its course over time.
//!
//! The types are the JSON: a field that changes its meaning or goes away raises
//! [`SCHEMA_VERSION`]; a new one does not.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::machine::Machine;

pub const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub schema_version: u32,
    /// `limit`, `pipeline`, …
    pub bench: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    pub started_unix_ms: u64,
    pub elapsed_s: f64,
    pub machine: Machine,
    /// Share of the machine's processor time that its host took for others during the run.
    pub steal_share: f64,
    pub measurements: Vec<Measurement>,
    /// Goals, and whether these measurements meet them.
    pub verdicts: Vec<Verdict>,
    /// Sentences for people: what was compared with what, what came out, what could not be measured.
    pub findings: Vec<String>,
}

/// Whose figure it is: decides the colour of plots and what is held against what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Ours,
    /// What the machine gives.
    Limit,
    Peer,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Lines of one group stand together: "TCP hop", "floor pipeline".
    pub group: String,
    pub name: String,
    pub side: Side,
    pub parameters: BTreeMap<String, String>,
    pub runs: Vec<Run>,
}

/// One repetition.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// Payload; 0 where only operations count.
    pub bytes: u64,
    pub operations: u64,
    #[serde(rename = "elapsed_s", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// Processor time by process over the measured span.
    pub cpu: Vec<ProcessCpu>,
    pub latency: Option<Latency>,
    pub timeline: Vec<TimePoint>,
    /// Counters of a server over the span (`payload_bytes_copied`), and figures that fit nowhere
    /// else; units in the names.
    pub counters: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ProcessCpu {
    /// `client`, `datanode0`, `floor2`.
    pub process: String,
    pub cpu_s: f64,
}

/// Bytes and operations done since the run's start.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TimePoint {
    pub at_s: f64,
    pub bytes: u64,
    pub operations: u64,
}

/// Microseconds of an operation, from the moment it was due.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// `packet ack`, `create`.
    pub of: String,
    #[serde(serialize_with = "spectrum")]
    pub histogram_us: Histogram<u64>,
}

/// A figure held against a goal.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The goal's name: `write-3`.
    pub goal: String,
    /// What was held against what, and in which unit.
    pub what: String,
    pub figure: f64,
    /// What the figure is divided by to be held against the bound; without it the figure itself is.
    pub against: Option<f64>,
    #[serde(flatten)]
    pub bound: Bound,
    pub met: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Verdict {
    /// Medians, as a rule. What is not a number meets nothing.
    pub fn new(goal: &str, what: &str, figure: f64, against: Option<f64>, bound: Bound) -> Self {
        let mut verdict =
            Self { goal: goal.into(), what: what.into(), figure, against, bound, met: false };
        verdict.met = match bound {
            Bound::AtLeast(least) => verdict.judged() >= least,
            Bound::AtMost(most) => verdict.judged() <= most,
        };
        verdict
    }

    /// What is held against the bound.
    pub fn judged(&self) -> f64 {
        self.against.map_or(self.figure, |against| self.figure / against)
    }
}

impl Run {
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub fn operations_per_s(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Of the processes whose name starts with `prefix`, together.
    pub fn cpu_s_per_gib(&self, prefix: &str) -> f64 {
        let of_prefix = self.cpu.iter().filter(|cpu| cpu.process.starts_with(prefix));
        let cpu_s: f64 = of_prefix.map(|cpu| cpu.cpu_s).sum();
        cpu_s / (self.bytes as f64 / f64::from(1 << 30)).max(f64::MIN_POSITIVE)
    }
}

impl Latency {
    /// One microsecond to two minutes at three digits; what takes longer counts as two minutes.
    pub fn new(of: &str) -> Self {
        let histogram_us = Histogram::new_with_bounds(1, 120_000_000, 3).expect("valid bounds");
        Self { of: of.to_owned(), histogram_us }
    }

    pub fn record(&mut self, latency: Duration) {
        self.histogram_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// The percentiles that are quoted, and the whole distribution as pairs of value and count.
fn spectrum<S: serde::Serializer>(
    histogram: &Histogram<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Spectrum {
        count: u64,
        mean: f64,
        p50: u64,
        p90: u64,
        p99: u64,
        p999: u64,
        max: u64,
        recorded: Vec<(u64, u64)>,
    }
    let recorded = histogram.iter_recorded();
    let spectrum = Spectrum {
        count: histogram.len(),
        mean: histogram.mean(),
        p50: histogram.value_at_quantile(0.5),
        p90: histogram.value_at_quantile(0.9),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
        recorded: recorded
            .map(|value| (value.value_iterated_to(), value.count_at_value()))
            .collect(),
    };
    spectrum.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_the_ratio_or_the_figure_against_its_bound() {
        let met = |figure, against, bound| Verdict::new("g", "w", figure, against, bound).met;
        assert!(met(1.9, Some(2.0), Bound::AtLeast(0.95)));
        assert!(!met(1.89, Some(2.0), Bound::AtLeast(0.95)));
        assert!(met(0.5, Some(2.0), Bound::AtMost(0.25)));
        assert!(!met(f64::NAN, None, Bound::AtMost(0.0)));
        assert!(met(0.0, None, Bound::AtMost(0.0)));
        let verdict = Verdict::new("g", "w", 3.0, Some(2.0), Bound::AtLeast(1.0));
        let json = serde_json::to_value(&verdict).unwrap();
        assert_eq!((&json["at_least"], &json["met"]), (&1.0.into(), &true.into()));
    }
}

//! One call of the bench: what every command is given to repeat its measurements, tell how far they
//! are and hand in what they found; at its end the table, the JSON and the HTML of it all.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringfs_tuning::host::StealTime;

use crate::machine::Machine;
use crate::output;
use crate::report::{Measurement, Report, SCHEMA_VERSION, Verdict};
use crate::{BenchError, REPORT_VARIABLE};

#[derive(Clone, Debug, Default, Args)]
pub struct SessionOptions {
    /// Repetitions of each measurement; figures are their medians
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Write all figures to this file as JSON
    #[arg(long, global = true, value_name = "FILE", env = REPORT_VARIABLE, hide_env = true)]
    pub json: Option<PathBuf>,
    /// Write a report with plots to this file, one self-contained page
    #[arg(long, global = true, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Describe the disk of this directory in the report (repeatable): where a cluster's datanodes
    /// keep their blocks. What a command measures itself is described anyway
    #[arg(long, global = true, value_name = "DIRECTORY")]
    pub describe_disk: Vec<PathBuf>,
    /// Show no progress
    #[arg(long, global = true)]
    pub quiet: bool,
}

#[derive(Debug)]
pub struct Session {
    pub options: SessionOptions,
    report: Report,
    started: Instant,
    steal: Option<StealTime>,
    progress: Progress,
}

impl Session {
    /// `bench` is the command's name.
    pub fn new(bench: &str, options: SessionOptions) -> Result<Self, BenchError> {
        let mut machine = Machine::describe();
        options.describe_disk.iter().try_for_each(|directory| machine.add_disk(directory))?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        let report = Report {
            schema_version: SCHEMA_VERSION,
            bench: bench.to_owned(),
            command: words.collect(),
            started_unix_ms: since_epoch.as_millis() as u64,
            elapsed_s: 0.0,
            machine,
            steal_share: 0.0,
            measurements: Vec::new(),
            verdicts: Vec::new(),
            findings: Vec::new(),
        };
        let progress = Progress::start(&options);
        Ok(Self { options, report, started: Instant::now(), steal: StealTime::now(), progress })
    }

    /// Says what is being measured now: a line that the next one replaces, on a terminal.
    pub fn progress(&self, what: &str) {
        match &self.progress {
            Progress::Silent => {}
            Progress::Lines => eprintln!("{what}"),
            Progress::Bar(bar) => {
                bar.set_message(what.to_owned());
                bar.tick();
            }
        }
    }

    /// The disk below `directory` is measured: the report describes it.
    pub fn on_disk(&mut self, directory: &Path) -> Result<(), BenchError> {
        self.report.machine.add_disk(directory)
    }

    pub fn add(&mut self, measurement: Measurement) {
        self.report.measurements.push(measurement);
    }

    pub fn judge(&mut self, verdict: Verdict) {
        self.report.verdicts.push(verdict);
    }

    /// Names of the goals that were missed so far.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.report.verdicts.iter().filter(|verdict| !verdict.met);
        let mut goals: Vec<String> = missed.map(|verdict| verdict.goal.clone()).collect();
        goals.dedup();
        goals
    }

    pub fn find(&mut self, sentence: impl Into<String>) {
        self.report.findings.push(sentence.into());
    }

    /// Prints the table and writes the files that were asked for. A process that only took part in
    /// another's measurement has nothing to say.
    pub fn finish(mut self) -> Result<(), BenchError> {
        if self.report.measurements.is_empty() && self.report.findings.is_empty() {
            return Ok(());
        }
        if cfg!(debug_assertions) {
            self.find("This is a debug build: its own figures say nothing.");
        }
        self.report.elapsed_s = self.started.elapsed().as_secs_f64();
        let steal = self.steal.zip(StealTime::now());
        self.report.steal_share = steal.map_or(0.0, |(from, to)| to.share_since(&from));
        if let Progress::Bar(bar) = &self.progress {
            bar.finish_and_clear();
        }
        output::write(&self.report, &self.options)
    }
}

/// Nothing redraws by itself: a thread that ticks would be measured too.
#[derive(Debug)]
enum Progress {
    Silent,
    /// Standard error is no terminal.
    Lines,
    Bar(ProgressBar),
}

impl Progress {
    fn start(options: &SessionOptions) -> Self {
        if options.quiet {
            return Self::Silent;
        }
        let target = ProgressDrawTarget::stderr();
        if target.is_hidden() {
            return Self::Lines;
        }
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg}");
        let bar = ProgressBar::with_draw_target(None, target);
        Self::Bar(bar.with_style(style.expect("a valid template")))
    }
}

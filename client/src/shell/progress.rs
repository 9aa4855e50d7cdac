//! The bar of a transfer that takes long, on standard error and only when that is a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Transfers shorter than this show nothing.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Progress {
    name: String,
    length: Option<u64>,
    done: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    wanted: bool,
}

impl Progress {
    /// `length` is unknown for a stream; of several transfers at once none is shown.
    pub fn new(name: &str, length: Option<u64>, alone: bool) -> Self {
        Self {
            name: name.to_owned(),
            length,
            done: 0,
            started: Instant::now(),
            bar: None,
            wanted: alone && std::io::stderr().is_terminal(),
        }
    }

    pub fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if self.wanted && self.bar.is_none() && self.started.elapsed() > PATIENCE {
            self.bar = Some(self.draw());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }

    fn draw(&self) -> ProgressBar {
        let (bar, template) = match self.length {
            Some(length) => (
                ProgressBar::new(length),
                "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
            ),
        };
        // A template that cannot be parsed leaves the plain bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(self.name.clone());
        bar.set_elapsed(self.started.elapsed());
        bar.with_elapsed(self.started.elapsed())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

//! `ringfs bench compare`: is B better or worse than A, and can that be told at all?
//!
//! Both sides run in turns, A B B A, so that a machine that drifts drifts under both. Before that A
//! runs against itself in the same turns: what differs there is noise, and a difference between A
//! and B that is smaller is none. `figure` reads what a run came to, `side` runs it, `verdict`
//! decides. A side that fails ends the comparison; nothing is judged from fewer runs than asked for.

mod figure;
mod side;
mod verdict;

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::Args;

use self::figure::{Figure, FigureOf, Source};
use self::side::{Program, Side};
use self::verdict::{Better, Outcome, decide};
use crate::processes::NamedProcess;
use crate::report::{self, Measurement, Run};
use crate::statistics::Ratio;
use crate::{BenchError, Session};

/// An interval drawn from fewer says nothing.
const LEAST_RUNS: u32 = 3;

const EXAMPLES: &str = "\
Exit codes: 0 a verdict, and B within the bound; 1 a run failed; 2 wrong usage; 3 B is worse than A
by more than --max-regression; 4 no verdict: A differs from itself by more than B from A.

Examples:
  ringfs bench compare --cluster-a hdfs://apache:8020 --cluster-b hdfs://ours:8020 \\
      -- dfsio --mode write --files 1 --file-size 2g --runs 1
  ringfs bench compare --a './bench.sh write mb=2048' --key-a mb_s --scale-a 0.001048576 \\
      --b 'ringfs bench dfsio --file-size 2g --runs 3' --max-regression 3%
  ringfs bench compare --a 'old/sort < words' --b 'new/sort < words' --elapsed";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompareCommand {
    /// The command that B is held against, run by `sh -c`
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "b",
        conflicts_with = "cluster_a",
        required_unless_present = "cluster_a"
    )]
    a: Option<String>,
    /// The command to judge
    #[arg(long, value_name = "COMMAND", requires = "a")]
    b: Option<String>,
    /// The cluster that B is held against, as --fs of the bench command after `--`
    #[arg(long, value_name = "hdfs://HOST:PORT", requires_all = ["cluster_b", "bench"])]
    cluster_a: Option<String>,
    /// The cluster to judge
    #[arg(long, value_name = "hdfs://HOST:PORT", requires = "cluster_a")]
    cluster_b: Option<String>,
    /// Take the figure from the output: the first group of this regular expression, the median where
    /// it matches several times
    #[arg(long, value_name = "REGEX", conflicts_with_all = ["key", "elapsed"])]
    figure: Option<regex::Regex>,
    /// Take the figure from output of JSON objects, one on a line: the median of this key's values
    /// (`cpu_s.client` is a key within a key)
    #[arg(long, value_name = "KEY", conflicts_with = "elapsed")]
    key: Option<String>,
    /// --figure of A alone
    #[arg(long, value_name = "REGEX", conflicts_with = "key_a")]
    figure_a: Option<regex::Regex>,
    /// --figure of B alone
    #[arg(long, value_name = "REGEX", conflicts_with = "key_b")]
    figure_b: Option<regex::Regex>,
    /// --key of A alone
    #[arg(long, value_name = "KEY")]
    key_a: Option<String>,
    /// --key of B alone
    #[arg(long, value_name = "KEY")]
    key_b: Option<String>,
    /// Multiply A's figure by this: both must be in one unit
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale_a: f64,
    /// Multiply B's figure by this
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale_b: f64,
    /// Compare how long the commands take. Without this, --figure or --key, the figure is that of the
    /// report when the command is a `ringfs bench`, else the time
    #[arg(long)]
    elapsed: bool,
    /// Which figure of a `ringfs bench` report [default: gb-per-s, or operations-per-s where no bytes
    /// are moved]
    #[arg(long, value_enum, value_name = "FIGURE")]
    of: Option<FigureOf>,
    /// Which measurement: of a report the one whose name has this text in it, of JSON lines those
    /// that have it as a value (`"op":"create"`)
    #[arg(long, value_name = "NAME")]
    measurement: Option<String>,
    /// More is better [default, but for times, latencies and processor time]
    #[arg(long, conflicts_with = "lower_is_better")]
    higher_is_better: bool,
    /// Less is better
    #[arg(long)]
    lower_is_better: bool,
    /// Exit with 3 when B is worse than A by more than this
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_regression: Option<f64>,
    /// Runs of each side before those that count
    #[arg(long, value_name = "N", default_value_t = 1)]
    warm_up: u32,
    /// A server whose processor time to show, over each run as a whole (repeatable)
    #[arg(long = "process", value_name = "NAME=PID|HOST:PORT")]
    processes: Vec<NamedProcess>,
    /// With clusters: the bench to run against either, such as `dfsio --mode read`
    #[arg(last = true, value_name = "BENCH")]
    bench: Vec<OsString>,
}

impl CompareCommand {
    pub fn run(self, session: &mut Session) -> Result<(), BenchError> {
        let runs = session.options.runs;
        if runs < LEAST_RUNS {
            return Err(BenchError::Usage(format!(
                "--runs {runs} is too few to compare: {LEAST_RUNS} of each side at least"
            )));
        }
        let (a, b) = self.sides()?;
        for round in 1..=self.warm_up {
            for side in [&a, &b] {
                session.progress(&format!("warm-up {round} of {}: {}", self.warm_up, side.name));
                side.run()?;
            }
        }
        let (first, second) = in_turns(session, "A against itself", &a, &a)?;
        let (of_a, of_b) = in_turns(session, "B against A", &a, &b)?;
        let name = common_name(&of_a, &of_b)?;
        let noise = ratio(&first, &second)?.reach();
        let ratio = ratio(&of_a, &of_b)?;
        let better = self.better(&name);
        let verdict = decide(noise, &ratio, better, self.max_regression);

        let against_itself = "A against itself";
        session.add(measurement(against_itself, "A, first", report::Side::Peer, &a, &name, first));
        session.add(measurement(
            against_itself,
            "A, second",
            report::Side::Peer,
            &a,
            &name,
            second,
        ));
        session.add(measurement("B against A", "A", report::Side::Peer, &a, &name, of_a));
        session.add(measurement("B against A", "B", report::Side::Ours, &b, &name, of_b));
        session.find(format!(
            "{name}: B is {:.3} of A, with 95 % confidence {:.3} to {:.3}; A against itself is off by up to {:.1} %; {} is better.",
            ratio.ratio,
            ratio.low,
            ratio.high,
            noise * 100.0,
            better.word(),
        ));
        session.find(verdict.sentence.clone());
        match verdict.outcome {
            Outcome::Told => Ok(()),
            Outcome::Regression => Err(BenchError::Regression(verdict.sentence)),
            Outcome::NoVerdict => Err(BenchError::NoVerdict(verdict.sentence)),
        }
    }

    fn sides(&self) -> Result<(Side, Side), BenchError> {
        let program = |command: &Option<String>, cluster: &Option<String>| match (command, cluster)
        {
            (Some(command), _) => Ok(Program::shell(command)),
            (None, Some(cluster)) => Program::bench(cluster, &self.bench),
            (None, None) => Err(BenchError::Usage("both sides are needed".to_owned())),
        };
        let source = |figure: &Option<regex::Regex>, key: &Option<String>| {
            let figure = figure.clone().or_else(|| self.figure.clone().filter(|_| key.is_none()));
            let key = key.clone().or_else(|| self.key.clone());
            match (figure, key) {
                (Some(regex), _) if regex.captures_len() < 2 => {
                    Err(BenchError::Usage(format!("{regex} has no group for the figure")))
                }
                (Some(regex), _) => Ok(Source::Output(regex)),
                (None, Some(key)) => Ok(Source::Key(key)),
                (None, None) if self.elapsed => Ok(Source::Elapsed),
                (None, None) => Ok(Source::ReportOrElapsed),
            }
        };
        let figure = |source, scale| Figure {
            source,
            scale,
            of: self.of,
            measurement: self.measurement.clone(),
        };
        let side = |name, program, figure| Side {
            name,
            program,
            figure,
            processes: self.processes.clone(),
        };
        let a = figure(source(&self.figure_a, &self.key_a)?, self.scale_a);
        let b = figure(source(&self.figure_b, &self.key_b)?, self.scale_b);
        Ok((
            side("A", program(&self.a, &self.cluster_a)?, a),
            side("B", program(&self.b, &self.cluster_b)?, b),
        ))
    }

    fn better(&self, figure: &str) -> Better {
        let is_cost = ["elapsed", "p50", "p99", "cpu", "latency"];
        match (self.higher_is_better, self.lower_is_better) {
            (true, _) => Better::Higher,
            (_, true) => Better::Lower,
            _ if is_cost.iter().any(|word| figure.starts_with(word)) => Better::Lower,
            _ => Better::Higher,
        }
    }
}

/// What a run of a side came to.
struct Sample {
    name: String,
    figure: f64,
    run: Run,
}

/// One, two, two, one, …: the runs of each, as many as the session asks for.
fn in_turns(
    session: &Session,
    what: &str,
    one: &Side,
    two: &Side,
) -> Result<(Vec<Sample>, Vec<Sample>), BenchError> {
    let runs = session.options.runs;
    let (mut of_one, mut of_two) = (Vec::new(), Vec::new());
    for round in 0..runs {
        let mut turn = [(one, &mut of_one), (two, &mut of_two)];
        if round % 2 == 1 {
            turn.reverse();
        }
        for (side, samples) in turn {
            session.progress(&format!("{what}, {} of {runs}: {}", round + 1, side.name));
            let sample = side.run()?;
            session.progress(&format!(
                "{what}, {} of {runs}: {} {} {:.4}",
                round + 1,
                side.name,
                sample.name,
                sample.figure
            ));
            samples.push(sample);
        }
    }
    Ok((of_one, of_two))
}

fn ratio(a: &[Sample], b: &[Sample]) -> Result<Ratio, BenchError> {
    let figures =
        |samples: &[Sample]| samples.iter().map(|sample| sample.figure).collect::<Vec<_>>();
    Ratio::of_medians(&figures(a), &figures(b)).ok_or_else(|| {
        BenchError::Compare("a figure is not above zero, and has no ratio to another".to_owned())
    })
}

/// A report's GB/s against the time of something that is no `ringfs bench` would be nonsense.
fn common_name(a: &[Sample], b: &[Sample]) -> Result<String, BenchError> {
    let (of_a, of_b) = (&a[0].name, &b[0].name);
    if of_a != of_b && (of_a == figure::ELAPSED || of_b == figure::ELAPSED) {
        return Err(BenchError::Compare(format!(
            "A's figure is {of_a}, B's is {of_b}: say with --figure, --key or --elapsed which to take"
        )));
    }
    Ok(of_b.clone())
}

fn measurement(
    group: &str,
    name: &str,
    side: report::Side,
    of: &Side,
    figure: &str,
    samples: Vec<Sample>,
) -> Measurement {
    let runs = samples.into_iter().map(|sample| {
        let mut run = sample.run;
        run.counters.insert(figure.to_owned(), sample.figure);
        run
    });
    let parameters = [("command", of.program.to_string()), ("figure", figure.to_owned())];
    Measurement {
        group: group.to_owned(),
        name: name.to_owned(),
        side,
        parameters: parameters
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        runs: runs.collect(),
    }
}

/// `3%` or `3`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end().parse::<f64>();
    match number {
        Ok(percent) if percent.is_finite() && percent >= 0.0 => Ok(percent / 100.0),
        _ => Err("expected a percentage such as 3%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(percent("3%"), Ok(0.03));
        assert_eq!(percent("0.5"), Ok(0.005));
        for wrong in ["", "%", "-1%", "three", "inf"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}

//! What the runs of a measurement come to: medians, with the least and the most beside them, and the
//! processor time that they cost by process. The cells of the tables, and what plots draw.

use std::collections::BTreeMap;

use crate::report::{Bound, Measurement, Report, Run, Verdict};
use crate::statistics::{Summary, median};

/// Measurements that stand together, in the order in which they came.
pub struct Group<'a> {
    pub name: &'a str,
    pub rows: Vec<Row<'a>>,
}

pub struct Row<'a> {
    pub measurement: &'a Measurement,
    pub gb_per_s: Option<Summary>,
    pub operations_per_s: Option<Summary>,
    pub cpu: Cpu,
    pub latency: Option<Percentiles>,
    /// What the parameter `figure` names: a counter that stands for the measurement, with its name.
    pub figure: Option<(Summary, &'a str)>,
    /// Medians; without the figure.
    pub counters: BTreeMap<&'a str, f64>,
}

/// Processor time by process, for each unit of what was done.
pub struct Cpu {
    pub unit: &'static str,
    pub by_process: Vec<(String, f64)>,
}

/// Medians over the runs, in microseconds.
pub struct Percentiles {
    pub of: String,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

pub fn groups(report: &Report) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for measurement in &report.measurements {
        let row = Row::of(measurement);
        match groups.iter_mut().find(|group| group.name == measurement.group) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { name: &measurement.group, rows: vec![row] }),
        }
    }
    groups
}

/// Heads and rows of cells.
pub fn verdicts(verdicts: &[Verdict]) -> ([&'static str; 6], Vec<[String; 6]>) {
    let cells = |verdict: &Verdict| {
        let (sign, bound) = match verdict.bound {
            Bound::AtLeast(least) => ("at least", least),
            Bound::AtMost(most) => ("at most", most),
        };
        let times = if verdict.against.is_some() { "x" } else { "" };
        [
            verdict.goal.clone(),
            verdict.what.clone(),
            number(verdict.figure),
            verdict
                .against
                .map(|against| format!("{:.3}x of {}", verdict.judged(), number(against)))
                .unwrap_or_default(),
            format!("{sign} {bound}{times}"),
            if verdict.met { "met" } else { "missed" }.to_owned(),
        ]
    };
    (["goal", "what", "figure", "ratio", "bound", "verdict"], verdicts.iter().map(cells).collect())
}

impl Group<'_> {
    /// Heads and rows of cells; a column that no row fills is left out.
    pub fn table(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        type Column<'a> = (&'static str, Box<dyn Fn(&Row<'_>) -> String>);
        let columns: [Column<'_>; 10] = [
            ("", Box::new(|row| row.measurement.name.clone())),
            ("side", Box::new(|row| row.side().to_owned())),
            (
                "figure",
                Box::new(|row| {
                    row.figure.map(|(figure, _)| with_range(figure)).unwrap_or_default()
                }),
            ),
            ("GB/s", Box::new(|row| row.gb_per_s.map(with_range).unwrap_or_default())),
            ("op/s", Box::new(|row| row.operations_per_s.map(with_range).unwrap_or_default())),
            ("CPU", Box::new(|row| row.cpu.total())),
            ("by process", Box::new(|row| row.cpu.shares())),
            ("p50", Box::new(|row| row.percentile(|latency| latency.p50))),
            ("p99", Box::new(|row| row.percentile(|latency| latency.p99))),
            ("p999", Box::new(|row| row.percentile(|latency| latency.p999))),
        ];
        let filled =
            columns.iter().filter(|(_, cell)| self.rows.iter().any(|row| !cell(row).is_empty()));
        let filled: Vec<_> = filled.collect();
        let heads = filled.iter().map(|(head, _)| *head).collect();
        let cells = |row| filled.iter().map(|(_, cell)| cell(row)).collect();
        (heads, self.rows.iter().map(cells).collect())
    }

    /// What the latencies are of.
    pub fn latency_of(&self) -> Option<&str> {
        self.rows.iter().find_map(|row| Some(row.latency.as_ref()?.of.as_str()))
    }
}

impl<'a> Row<'a> {
    fn of(measurement: &'a Measurement) -> Self {
        let runs = &measurement.runs;
        let summary = |counts: fn(&Run) -> bool, figure: fn(&Run) -> f64| {
            let figures: Vec<f64> = runs.iter().filter(|run| counts(run)).map(figure).collect();
            Summary::of(&figures)
        };
        let figure = measurement.parameters.get("figure").and_then(|name| {
            let figures: Option<Vec<f64>> =
                runs.iter().map(|run| run.counters.get(name).copied()).collect();
            Some((Summary::of(&figures?)?, name.as_str()))
        });
        let mut counters = counters(runs);
        if let Some((_, name)) = figure {
            counters.remove(name);
        }
        Self {
            measurement,
            figure,
            gb_per_s: summary(|run| run.bytes > 0, Run::gb_per_s),
            operations_per_s: summary(|run| run.operations > 0, Run::operations_per_s),
            cpu: Cpu::of(runs),
            latency: Percentiles::of(runs),
            counters,
        }
    }

    pub fn side(&self) -> &'static str {
        match self.measurement.side {
            crate::report::Side::Ours => "ours",
            crate::report::Side::Limit => "limit",
            crate::report::Side::Peer => "peer",
        }
    }

    /// What to hold rows of a group against each other by.
    pub fn headline(&self) -> Option<(Summary, &'a str)> {
        let gb_per_s = self.gb_per_s.map(|summary| (summary, "GB/s"));
        self.figure.or(gb_per_s).or(self.operations_per_s.map(|summary| (summary, "op/s")))
    }

    /// The run whose headline is nearest to the median: what a plot over time shows.
    pub fn typical_run(&self) -> Option<&'a Run> {
        let middle = self.headline()?.0.median;
        let figure = |run: &Run| {
            if let Some((_, name)) = self.figure {
                return run.counters.get(name).copied().unwrap_or_default();
            }
            if self.gb_per_s.is_some() { run.gb_per_s() } else { run.operations_per_s() }
        };
        let distance = |run: &Run| (figure(run) - middle).abs();
        self.measurement.runs.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }

    fn percentile(&self, of: impl Fn(&Percentiles) -> f64) -> String {
        self.latency.as_ref().map(|latency| microseconds(of(latency))).unwrap_or_default()
    }
}

impl Cpu {
    /// Per GiB of payload; per operation where there is none; else as it is.
    fn of(runs: &[Run]) -> Self {
        let (unit, per): (_, fn(&Run) -> f64) = if runs.iter().any(|run| run.bytes > 0) {
            ("s/GiB", |run| run.bytes as f64 / f64::from(1 << 30))
        } else if runs.iter().any(|run| run.operations > 0) {
            ("us/op", |run| run.operations as f64 / 1e6)
        } else {
            ("s", |_| 1.0)
        };
        let mut names: Vec<&str> = Vec::new();
        for cpu in runs.iter().flat_map(|run| &run.cpu) {
            if !names.contains(&cpu.process.as_str()) {
                names.push(&cpu.process);
            }
        }
        let of_process = |name: &str| {
            let shares: Vec<f64> = runs
                .iter()
                .filter(|run| per(run) > 0.0)
                .filter_map(|run| {
                    let cpu = run.cpu.iter().find(|cpu| cpu.process == name)?;
                    Some(cpu.cpu_s / per(run))
                })
                .collect();
            median(&shares)
        };
        let by_process = names.iter().map(|name| ((*name).to_owned(), of_process(name)));
        Self { unit, by_process: by_process.filter(|(_, share)| share.is_finite()).collect() }
    }

    pub fn sum(&self) -> f64 {
        self.by_process.iter().map(|(_, share)| share).sum()
    }

    fn total(&self) -> String {
        if self.by_process.is_empty() {
            return String::new();
        }
        format!("{} {}", number(self.sum()), self.unit)
    }

    /// `client 0.13, datanode0-2 0.21 0.20 0.22`: numbered processes in a row share their name.
    fn shares(&self) -> String {
        let numbered = |name: &str| {
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
            (stem.to_owned(), name[stem.len()..].to_owned())
        };
        let mut shared: Vec<(String, Vec<String>, Vec<String>)> = Vec::new();
        for (name, share) in &self.by_process {
            let (stem, index) = numbered(name);
            match shared.last_mut() {
                Some((last, indices, shares)) if *last == stem && !index.is_empty() => {
                    indices.push(index);
                    shares.push(number(*share));
                }
                _ => shared.push((stem, vec![index], vec![number(*share)])),
            }
        }
        let spelled = shared.iter().map(|(stem, indices, shares)| {
            let first = &indices[0];
            let to = indices.last().filter(|last| *last != first);
            let to = to.map(|last| format!("-{last}")).unwrap_or_default();
            format!("{stem}{first}{to} {}", shares.join(" "))
        });
        spelled.collect::<Vec<_>>().join(", ")
    }
}

impl Percentiles {
    fn of(runs: &[Run]) -> Option<Self> {
        let recorded: Vec<_> = runs.iter().filter_map(|run| run.latency.as_ref()).collect();
        let at = |quantile: f64| {
            let values: Vec<f64> = recorded
                .iter()
                .map(|latency| latency.histogram_us.value_at_quantile(quantile) as f64)
                .collect();
            median(&values)
        };
        let of = recorded.first()?.of.clone();
        Some(Self { of, p50: at(0.5), p99: at(0.99), p999: at(0.999) })
    }
}

fn counters(runs: &[Run]) -> BTreeMap<&str, f64> {
    let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, figure) in runs.iter().flat_map(|run| &run.counters) {
        figures.entry(name).or_default().push(*figure);
    }
    figures.into_iter().map(|(name, figures)| (name, median(&figures))).collect()
}

/// `2.31 [2.20-2.40]`; without the range where there is none.
pub fn with_range(summary: Summary) -> String {
    let Summary { median, min, max } = summary;
    if min == max {
        return number(median);
    }
    format!("{} [{}-{}]", number(median), number(min), number(max))
}

pub fn microseconds(microseconds: f64) -> String {
    match microseconds {
        long if long >= 1e6 => format!("{} s", number(long / 1e6)),
        middle if middle >= 1e3 => format!("{} ms", number(middle / 1e3)),
        short => format!("{} us", number(short)),
    }
}

/// Three digits that count; thousands are set apart.
pub fn number(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        tiny if tiny < 0.001 => format!("{figure:.1e}"),
        small if small < 1.0 => format!("{figure:.3}"),
        small if small < 10.0 => format!("{figure:.2}"),
        middle if middle < 100.0 => format!("{figure:.1}"),
        _ => {
            let digits = format!("{:.0}", figure.abs());
            let sign = if figure < 0.0 { "-" } else { "" };
            let lead = digits.len() % 3;
            let rest = digits.as_bytes()[lead..].chunks(3).map(String::from_utf8_lossy);
            let lead = (lead > 0).then(|| digits[..lead].into());
            sign.to_owned() + &lead.into_iter().chain(rest).collect::<Vec<_>>().join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;

    #[test]
    fn rows_are_medians_with_their_range() {
        let report = sample::report();
        let groups = groups(&report);
        assert_eq!(groups.len(), 2);
        let (heads, rows) = groups[0].table();
        assert_eq!(heads, ["", "side", "GB/s", "CPU", "by process", "p50", "p99", "p999"]);
        assert_eq!(rows[0][2], "2.68 [2.15-2.68]");
        assert_eq!(rows[1][3], "0.875 s/GiB");
        assert_eq!(rows[1][4], "client 0.125, datanode0-1 0.250 0.500");
        assert_eq!(rows[1][5..], ["500 us", "990 us", "1.00 ms"]);
        let (heads, rows) = groups[1].table();
        assert_eq!(heads, ["", "side", "op/s", "CPU", "by process"]);
        assert_eq!(rows[0], ["create", "peer", "12,500", "20.0 us/op", "namenode 20.0"]);
    }

    #[test]
    fn the_typical_run_is_the_median_one() {
        let report = sample::report();
        let groups = groups(&report);
        assert_eq!(groups[0].rows[0].typical_run().unwrap().elapsed.as_secs_f64(), 0.4);
    }

    #[test]
    fn numbers_have_three_digits() {
        let figures = [0.0, 0.000_12, 0.1234, 1.234, 12.34, 123.4, 1234.5, 12_345_678.0, -4321.0];
        let spelled = figures.map(number);
        let expected =
            ["0", "1.2e-4", "0.123", "1.23", "12.3", "123", "1,234", "12,345,678", "-4,321"];
        assert_eq!(spelled, expected);
        assert_eq!(microseconds(2_500_000.0), "2.50 s");
    }
}

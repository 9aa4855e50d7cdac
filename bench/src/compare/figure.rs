//! The figure of a run: from the report that a `ringfs bench` writes, from JSON lines, by a regular
//! expression from whatever it prints, or the time it took.

use std::time::Duration;

use clap::ValueEnum;
use regex::Regex;
use serde_json::Value;

use super::Sample;
use crate::report::{ProcessCpu, Run};
use crate::statistics::median;

pub const ELAPSED: &str = "elapsed_s";

pub struct Figure {
    pub source: Source,
    pub scale: f64,
    pub of: Option<FigureOf>,
    pub measurement: Option<String>,
}

pub enum Source {
    /// First group of an expression.
    Output(Regex),
    /// Key of JSON lines, dots between keys within keys.
    Key(String),
    Elapsed,
    ReportOrElapsed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FigureOf {
    GbPerS,
    OperationsPerS,
    CpuSPerGib,
    P50Us,
    P99Us,
    P999Us,
}

/// What a run left.
pub struct Printed {
    pub output: String,
    pub report: Option<Value>,
    pub elapsed: Duration,
}

impl Figure {
    /// The error says what the command lacks.
    pub fn of(&self, printed: &Printed) -> Result<Sample, String> {
        let mut sample = match (&self.source, &printed.report) {
            (Source::Output(regex), _) => in_output(regex, printed)?,
            (Source::Key(key), _) => self.in_lines(key, printed)?,
            (Source::ReportOrElapsed, Some(report)) => self.in_report(report)?,
            (Source::ReportOrElapsed, None) if self.of.is_some() || self.measurement.is_some() => {
                return Err("wrote no report: is it a `ringfs bench` without a --json of its own?"
                    .to_owned());
            }
            (Source::ReportOrElapsed | Source::Elapsed, _) => elapsed(printed),
        };
        sample.figure *= self.scale;
        Ok(sample)
    }

    /// Lines that are no objects, or lack the key, are not meant. `mb` (2^20 bytes), `s` and `cpu_s`
    /// by process, where lines have them, are the run's payload, time and cost.
    fn in_lines(&self, key: &str, printed: &Printed) -> Result<Sample, String> {
        let lines = printed.output.lines().filter_map(|line| serde_json::from_str(line).ok());
        let meant = |line: &Value| match (&self.measurement, line) {
            (Some(wanted), Value::Object(fields)) => fields.values().any(|value| value == wanted),
            _ => true,
        };
        let lines: Vec<(Value, f64)> = lines
            .filter(meant)
            .filter_map(|line: Value| {
                let value =
                    key.split('.').try_fold(&line, |value, key| value.get(key))?.as_f64()?;
                Some((line, value))
            })
            .collect();
        if lines.is_empty() {
            return Err(format!("printed no JSON line with a number as {key:?}"));
        }
        let mut run = Run { elapsed: printed.elapsed, ..Run::default() };
        let seconds = lines.iter().map(|(line, _)| line["s"].as_f64()).sum::<Option<f64>>();
        let mebibytes = lines.iter().map(|(line, _)| line["mb"].as_f64()).sum::<Option<f64>>();
        if let (Some(seconds), Some(mebibytes)) = (seconds.and_then(duration), mebibytes) {
            (run.elapsed, run.bytes) = (seconds, (mebibytes * f64::from(1 << 20)) as u64);
            for (process, cpu_s) in
                lines.iter().filter_map(|(line, _)| line["cpu_s"].as_object()).flatten()
            {
                add_cpu(&mut run.cpu, process, cpu_s);
            }
        }
        let figures: Vec<f64> = lines.iter().map(|(_, figure)| *figure).collect();
        Ok(Sample { name: key.to_owned(), figure: median(&figures), run })
    }

    fn in_report(&self, report: &Value) -> Result<Sample, String> {
        let measurements = report["measurements"].as_array().map_or(&[][..], Vec::as_slice);
        let name = |measurement: &Value| {
            let part = |key: &str| measurement[key].as_str().unwrap_or_default().to_owned();
            format!("{}, {}", part("group"), part("name"))
        };
        let wanted = self.measurement.as_deref().unwrap_or_default();
        let meant: Vec<&Value> =
            measurements.iter().filter(|measurement| name(measurement).contains(wanted)).collect();
        let [measurement] = meant[..] else {
            let names: Vec<String> = measurements.iter().map(name).collect();
            let (count, names) = (meant.len(), names.join("; "));
            return Err(format!(
                "reports {count} such measurements, choose one by --measurement: {names}"
            ));
        };
        let runs = measurement["runs"].as_array().map_or(&[][..], Vec::as_slice);
        let in_bytes = runs.iter().any(|run| run["bytes"].as_u64() > Some(0));
        let default = if in_bytes { FigureOf::GbPerS } else { FigureOf::OperationsPerS };
        let of = self.of.unwrap_or(default);
        let figures: Option<Vec<f64>> = runs.iter().map(|run| of.of_run(run)).collect();
        let figures = figures.filter(|figures| !figures.is_empty());
        let figures =
            figures.ok_or_else(|| format!("reports no {} of {}", of.name(), name(measurement)))?;
        Ok(Sample { name: of.name().to_owned(), figure: median(&figures), run: sum(runs) })
    }
}

impl FigureOf {
    fn name(self) -> &'static str {
        match self {
            Self::GbPerS => "gb_per_s",
            Self::OperationsPerS => "operations_per_s",
            Self::CpuSPerGib => "cpu_s_per_gib",
            Self::P50Us => "p50_us",
            Self::P99Us => "p99_us",
            Self::P999Us => "p999_us",
        }
    }

    fn of_run(self, run: &Value) -> Option<f64> {
        let latency = |percentile: &str| run["latency"]["histogram_us"][percentile].as_f64();
        match self {
            Self::GbPerS => Some(sum(std::slice::from_ref(run)).gb_per_s()),
            Self::OperationsPerS => Some(sum(std::slice::from_ref(run)).operations_per_s()),
            Self::CpuSPerGib => {
                let run = sum(std::slice::from_ref(run));
                (run.bytes > 0 && !run.cpu.is_empty()).then(|| run.cpu_s_per_gib(""))
            }
            Self::P50Us => latency("p50"),
            Self::P99Us => latency("p99"),
            Self::P999Us => latency("p999"),
        }
    }
}

fn in_output(regex: &Regex, printed: &Printed) -> Result<Sample, String> {
    let mut figures = Vec::new();
    for group in regex.captures_iter(&printed.output).filter_map(|captures| captures.get(1)) {
        let number = group.as_str().replace(',', "").parse::<f64>();
        figures
            .push(number.map_err(|_| format!("printed {:?}, which is no number", group.as_str()))?);
    }
    if figures.is_empty() {
        return Err(format!("printed nothing that matches {regex}"));
    }
    let run = Run { elapsed: printed.elapsed, ..Run::default() };
    Ok(Sample { name: "figure".to_owned(), figure: median(&figures), run })
}

fn elapsed(printed: &Printed) -> Sample {
    let run = Run { elapsed: printed.elapsed, ..Run::default() };
    Sample { name: ELAPSED.to_owned(), figure: printed.elapsed.as_secs_f64(), run }
}

/// The runs of a report's JSON as one.
fn sum(runs: &[Value]) -> Run {
    let mut sum = Run::default();
    for run in runs {
        sum.bytes += run["bytes"].as_u64().unwrap_or(0);
        sum.operations += run["operations"].as_u64().unwrap_or(0);
        sum.elapsed += run["elapsed_s"].as_f64().and_then(duration).unwrap_or_default();
        for cpu in run["cpu"].as_array().into_iter().flatten() {
            add_cpu(&mut sum.cpu, cpu["process"].as_str().unwrap_or_default(), &cpu["cpu_s"]);
        }
    }
    sum
}

fn add_cpu(all: &mut Vec<ProcessCpu>, process: &str, cpu_s: &Value) {
    let cpu_s = cpu_s.as_f64().unwrap_or(0.0);
    match all.iter_mut().find(|cpu| cpu.process == process) {
        Some(cpu) => cpu.cpu_s += cpu_s,
        None => all.push(ProcessCpu { process: process.to_owned(), cpu_s }),
    }
}

fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(output: &str, report: Option<Value>) -> Printed {
        Printed { output: output.to_owned(), report, elapsed: Duration::from_secs(4) }
    }

    fn figure(source: Source) -> Figure {
        Figure { source, scale: 1.0, of: None, measurement: None }
    }

    fn wrong(figure: &Figure, printed: &Printed) -> String {
        figure.of(printed).err().expect("nothing to be found")
    }

    #[test]
    fn by_expression() {
        let mut by = figure(Source::Output(Regex::new(r"speed: ([\d.,]+)").unwrap()));
        by.scale = 2.0;
        let three = printed("speed: 1,000.5\nspeed: 3\nspeed: 2000\n", None);
        assert_eq!(by.of(&three).unwrap().figure, 2001.0);
        assert!(wrong(&by, &printed("slow", None)).contains("nothing that matches"));
        assert!(wrong(&by, &printed("speed: ,", None)).contains("no number"));
    }

    #[test]
    fn by_key_of_lines_with_their_cost() {
        let output = r#"starting
{"op":"write","mb":1024,"s":0.5,"mb_s":2048.0,"cpu_s":{"client":1.0,"dn0":2.0}}
{"op":"write","mb":1024,"s":1.5,"mb_s":682.0,"cpu_s":{"client":3.0,"dn0":2.0}}
{"op":"read","mb":1024,"s":1.5,"mb_s":9000.0,"cpu_s":{"client":3.0}}
"#;
        let mut by = figure(Source::Key("mb_s".to_owned()));
        by.measurement = Some("write".to_owned());
        let sample = by.of(&printed(output, None)).unwrap();
        assert_eq!((sample.name.as_str(), sample.figure), ("mb_s", 1365.0));
        assert_eq!((sample.run.bytes, sample.run.elapsed), (2 << 30, Duration::from_secs(2)));
        assert_eq!(sample.run.cpu_s_per_gib("dn0"), 2.0);
        let within = figure(Source::Key("cpu_s.client".to_owned()));
        assert_eq!(within.of(&printed(output, None)).unwrap().figure, 3.0);
        let absent = figure(Source::Key("cpu_s.nn".to_owned()));
        assert!(wrong(&absent, &printed(output, None)).contains("cpu_s.nn"));
    }

    #[test]
    fn by_report() {
        let run = |bytes: u64, elapsed_s: f64| {
            json!({"bytes": bytes, "operations": 10, "elapsed_s": elapsed_s,
                "cpu": [{"process": "client", "cpu_s": 0.5}],
                "latency": {"histogram_us": {"p50": 5, "p99": 7, "p999": 9}}})
        };
        let gib = 1 << 30;
        let measurement = |name: &str| json!({"group": "g", "name": name, "runs": [run(gib, 1.0), run(gib, 2.0), run(gib, 4.0)]});
        let one = printed("", Some(json!({"measurements": [measurement("write")]})));
        let sample = figure(Source::ReportOrElapsed).of(&one).unwrap();
        assert_eq!(sample.name, "gb_per_s");
        assert!((sample.figure - gib as f64 / 2e9).abs() < 1e-9);
        assert_eq!((sample.run.bytes, sample.run.cpu.len()), (3 * gib, 1));
        for (of, expected) in
            [(FigureOf::P99Us, 7.0), (FigureOf::CpuSPerGib, 0.5), (FigureOf::OperationsPerS, 5.0)]
        {
            let by = Figure { of: Some(of), ..figure(Source::ReportOrElapsed) };
            assert_eq!(by.of(&one).unwrap().figure, expected, "{of:?}");
        }
        let two =
            printed("", Some(json!({"measurements": [measurement("write"), measurement("read")]})));
        assert!(wrong(&figure(Source::ReportOrElapsed), &two).contains("g, write; g, read"));
        let by = Figure { measurement: Some("read".to_owned()), ..figure(Source::ReportOrElapsed) };
        assert!(by.of(&two).is_ok() && by.of(&one).is_err());
        assert!(wrong(&by, &printed("", None)).contains("no report"));
    }

    #[test]
    fn by_time_where_there_is_no_report() {
        let sample = figure(Source::ReportOrElapsed).of(&printed("", None)).unwrap();
        assert_eq!((sample.name.as_str(), sample.figure), (ELAPSED, 4.0));
    }
}

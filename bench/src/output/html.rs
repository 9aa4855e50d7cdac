//! The report as one page that needs nothing else: style and plots are inside, no script, no font,
//! no image from elsewhere. Light or dark as the reader's system has it.

use std::fmt::Write;

use super::figures::{self, Group, Row, groups, microseconds, number};
use super::plots::{self, Axis, Bar, Line, Stack, escape};
use super::table::command_line;
use crate::report::{Report, Run};

/// More lines than these in one plot are not told apart: the first ones are drawn.
const MOST_LINES: usize = 8;
/// Points of a line; a longer course is drawn from every nth of its points.
const MOST_POINTS: usize = 200;

pub fn of(report: &Report) -> String {
    let mut page = String::new();
    let title = format!("ringfs bench {}", report.bench);
    let style = include_str!("style.css");
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{style}</style></head><body><main>\n",
        title = escape(&title),
    )
    .expect("a string takes all");
    write_head(&mut page, report, &title);
    write_verdicts(&mut page, report);
    for group in groups(report) {
        write_group(&mut page, &group);
    }
    write_machine(&mut page, report);
    page + "</main></body></html>\n"
}

fn write_head(page: &mut String, report: &Report, title: &str) {
    let machine = &report.machine;
    let (cpu, kernel) = (escape(&machine.cpu), escape(&machine.kernel));
    let command = escape(&command_line(&report.command));
    let (cores, steal) = (machine.cores, report.steal_share * 100.0);
    let (date, elapsed) = (utc(report.started_unix_ms), report.elapsed_s);
    writeln!(
        page,
        "<header><h1>{}</h1><p>{cores} x {cpu}, Linux {kernel}; {date}, {elapsed:.0} s; \
         {steal:.2} % steal time</p><pre>{command}</pre></header>",
        escape(title)
    )
    .expect("a string takes all");
    if !report.findings.is_empty() {
        let items = report.findings.iter().map(|finding| format!("<li>{}</li>", escape(finding)));
        *page += &format!("<ul class=\"findings\">{}</ul>\n", items.collect::<String>());
    }
}

fn write_verdicts(page: &mut String, report: &Report) {
    if report.verdicts.is_empty() {
        return;
    }
    let (heads, rows) = figures::verdicts(&report.verdicts);
    let head = heads.map(|head| format!("<th scope=\"col\">{head}</th>"));
    let row = |row: &[String; 6]| {
        let cells = row.each_ref().map(|cell| format!("<td>{}</td>", escape(cell)));
        format!("<tr>{}</tr>", cells.concat())
    };
    *page += &format!(
        "<section><h2>Goals</h2><div class=\"wide\"><table><thead><tr>{}</tr></thead>\
         <tbody>{}</tbody></table></div></section>\n",
        head.concat(),
        rows.iter().map(row).collect::<String>()
    );
}

fn write_group(page: &mut String, group: &Group<'_>) {
    *page += &format!("<section><h2>{}</h2>\n", escape(group.name));
    write_table(page, group);
    for plot in [bars(group), cpu(group), spectrum(group), course(group)].into_iter().flatten() {
        *page += &format!("<figure><figcaption>{}</figcaption>{}</figure>\n", plot.0, plot.1);
    }
    write_details(page, group);
    *page += "</section>\n";
}

fn write_table(page: &mut String, group: &Group<'_>) {
    let (heads, rows) = group.table();
    let head = |head: &&str| {
        let name = if head.is_empty() { "measurement" } else { head };
        format!("<th scope=\"col\">{name}</th>")
    };
    let row = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(index, cell)| match (index, heads[index]) {
            (0, _) => format!("<th scope=\"row\">{}</th>", escape(cell)),
            (_, "side") => format!("<td><i class=\"{cell}\"></i>{cell}</td>"),
            (_, "by process") => format!("<td class=\"processes\">{}</td>", escape(cell)),
            _ => format!("<td class=\"figure\">{}</td>", escape(cell)),
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let latency = group.latency_of().map(|of| format!("; latency of a {}", escape(of)));
    writeln!(
        page,
        "<div class=\"wide\"><table><caption>Medians of the runs [least-most]{}</caption>\
         <thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        latency.unwrap_or_default(),
        heads.iter().map(head).collect::<String>(),
        rows.iter().map(row).collect::<String>(),
    )
    .expect("a string takes all");
}

/// A caption and its plot.
type Plot = (&'static str, String);

/// One plot for each unit of the group, the first unit's only where there are two: the bars of one
/// plot must be comparable.
fn bars(group: &Group<'_>) -> Option<Plot> {
    let (_, unit) = group.rows.iter().find_map(Row::headline)?;
    let of_unit = group.rows.iter().filter_map(|row| {
        let (figure, _) = row.headline().filter(|(_, other)| *other == unit)?;
        Some(Bar { label: &row.measurement.name, side: row.side(), figure })
    });
    let title = format!("{}: {unit} of each measurement", group.name);
    Some((
        "Throughput: median, the line from the least to the most of the runs",
        plots::bars(&title, unit, &of_unit.collect::<Vec<_>>()),
    ))
}

fn cpu(group: &Group<'_>) -> Option<Plot> {
    let unit = group.rows.iter().find(|row| !row.cpu.by_process.is_empty())?.cpu.unit;
    let rows = group.rows.iter().filter(|row| row.cpu.unit == unit && row.cpu.sum() > 0.0);
    let stacks: Vec<Stack<'_>> = rows
        .map(|row| Stack { label: &row.measurement.name, parts: &row.cpu.by_process })
        .collect();
    let caption = match unit {
        "s/GiB" => "CPU-seconds per GiB, by process",
        "us/op" => "CPU-microseconds per operation, by process",
        _ => "CPU-seconds, by process",
    };
    let title = format!("{}: {caption}", group.name);
    (!stacks.is_empty()).then(|| (caption, plots::stacks(&title, unit, &stacks)))
}

/// Latency by percentile, over all runs of a measurement.
fn spectrum(group: &Group<'_>) -> Option<Plot> {
    let lines: Vec<Line<'_>> =
        group.rows.iter().filter_map(spectrum_line).take(MOST_LINES).collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let (least, most) = (
        points().map(|point| point.1).fold(f64::INFINITY, f64::min),
        points().map(|point| point.1).fold(0.0, f64::max),
    );
    let nines = points().map(|point| point.0).fold(0.0, f64::max);
    if lines.is_empty() {
        return None;
    }
    let x = Axis::nines("percentile", nines);
    let y = Axis::logarithmic("latency", 10_f64.powf(least), 10_f64.powf(most), microseconds);
    let title = format!("{}: latency by percentile", group.name);
    Some((
        "Latency by percentile, every nine as wide as the last",
        plots::lines(&title, &x, &y, &lines),
    ))
}

fn spectrum_line<'a>(row: &Row<'a>) -> Option<Line<'a>> {
    let mut recorded = row.measurement.runs.iter().filter_map(|run| run.latency.as_ref());
    let mut all = recorded.next()?.histogram_us.clone();
    for latency in recorded {
        // Histograms of one measurement have the same bounds: nothing is out of range.
        let _ = all.add(&latency.histogram_us);
    }
    if all.is_empty() {
        return None;
    }
    // The last value stands at the nine that the count of values can speak of.
    let last = (all.len() as f64).log10();
    let points = all.iter_recorded().map(|value| {
        let nines = -(1.0 - value.quantile()).max(f64::MIN_POSITIVE).log10();
        (nines.min(last), (value.value_iterated_to().max(1) as f64).log10())
    });
    Some(Line { label: &row.measurement.name, points: thinned(points.collect()) })
}

/// Throughput over the time of the median run.
fn course(group: &Group<'_>) -> Option<Plot> {
    let (_, unit) = group.rows.iter().find_map(Row::headline)?;
    let in_bytes = unit == "GB/s";
    let lines = group.rows.iter().filter_map(|row| {
        row.headline().filter(|(_, other)| *other == unit)?;
        let points = rates(row.typical_run()?, in_bytes);
        (points.len() > 1).then(|| Line { label: &row.measurement.name, points })
    });
    let lines: Vec<Line<'_>> = lines.take(MOST_LINES).collect();
    let most = |of: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|line| &line.points).map(of).fold(0.0, f64::max)
    };
    let (x, y) =
        (Axis::linear("seconds", most(|point| point.0)), Axis::linear(unit, most(|point| point.1)));
    let title = format!("{}: {unit} over time", group.name);
    (!lines.is_empty())
        .then(|| ("Throughput over time, of the median run", plots::lines(&title, &x, &y, &lines)))
}

/// What was done between each two points, at the later one's time.
fn rates(run: &Run, in_bytes: bool) -> Vec<(f64, f64)> {
    let done = |point: &crate::report::TimePoint| {
        if in_bytes { point.bytes as f64 / 1e9 } else { point.operations as f64 }
    };
    let points = thinned(run.timeline.clone());
    let pairs = points.windows(2).filter(|pair| pair[1].at_s > pair[0].at_s);
    pairs
        .map(|pair| {
            (pair[1].at_s, (done(&pair[1]) - done(&pair[0])) / (pair[1].at_s - pair[0].at_s))
        })
        .collect()
}

fn thinned<T>(points: Vec<T>) -> Vec<T> {
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept =
        points.into_iter().enumerate().filter(|(index, _)| index % step == 0 || *index == last);
    kept.map(|(_, point)| point).collect()
}

fn write_details(page: &mut String, group: &Group<'_>) {
    for row in &group.rows {
        let parameters =
            row.measurement.parameters.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let counters = row.counters.iter().map(|(name, figure)| (*name, number(*figure)));
        let facts: String =
            parameters.chain(counters).map(|(name, value)| fact(name, &value)).collect();
        if !facts.is_empty() {
            let name = escape(&row.measurement.name);
            *page += &format!(
                "<details><summary>{name}: parameters and counters</summary><dl>{facts}</dl></details>\n"
            );
        }
    }
}

fn write_machine(page: &mut String, report: &Report) {
    let facts: String =
        report.machine.facts().iter().map(|(name, value)| fact(name, value)).collect();
    *page += &format!("<section><h2>Machine</h2><dl>{facts}</dl></section>\n");
}

fn fact(name: &str, value: &str) -> String {
    format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value))
}

/// `2026-11-21 09:48 UTC`.
fn utc(unix_ms: u64) -> String {
    let instant = i64::try_from(unix_ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    instant.map(|instant| instant.format("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;

    #[test]
    fn escapes_every_name() {
        let page = of(&sample::report());
        assert!(page.contains("ours &amp; &lt;theirs&gt;"));
        assert!(!page.contains("<theirs>") && !page.contains("<here>"));
        assert!(page.contains("&quot;floor&quot; &lt;here&gt;"));
    }

    #[test]
    fn needs_nothing_from_elsewhere() {
        let page = of(&sample::report()).to_lowercase();
        for outside in ["http:", "https:", "src=", "<link", "@import", "url(", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn has_every_plot_that_there_are_figures_for() {
        let page = of(&sample::report());
        let first =
            &page[page.find("<h2>three replicas").unwrap()..page.find("<h2>namespace").unwrap()];
        assert_eq!(first.matches("<svg").count(), 4);
        let second = &page[page.find("<h2>namespace").unwrap()..page.find("<h2>Machine").unwrap()];
        assert_eq!(second.matches("<svg").count(), 2);
        assert!(page.contains("2023-11-14 22:13 UTC") && page.contains("payload_bytes_copied"));
        for tag in
            ["svg", "section", "figure", "table", "details", "dl", "ul", "title", "path", "rect"]
        {
            let opened = page.matches(&format!("<{tag} ")).count()
                + page.matches(&format!("<{tag}>")).count();
            let closed = page.matches(&format!("</{tag}>")).count();
            let start = format!("<{tag} ");
            let empty = page.split(&start).skip(1);
            let empty = empty
                .filter(|rest| rest.split_once('>').is_some_and(|(tag, _)| tag.ends_with('/')));
            assert_eq!(opened, closed + empty.count(), "{tag}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""));
    }

    #[test]
    fn rates_are_between_points() {
        let report = sample::report();
        let points = rates(&report.measurements[0].runs[0], true);
        assert_eq!(points.len(), 4);
        assert!(points.iter().all(|(_, rate)| (rate - 2.0).abs() < 1e-9), "{points:?}");
        assert_eq!(thinned((0..1000).collect::<Vec<_>>()).last(), Some(&999));
    }
}

//! The report as text for a terminal: a table for each group, what was found, the machine.

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::figures::{self, Group, groups, number};
use crate::report::{Report, Verdict};

pub fn of(report: &Report) -> String {
    let mut text = String::new();
    for group in groups(report) {
        write_group(&mut text, &group);
    }
    write_verdicts(&mut text, &report.verdicts);
    for finding in &report.findings {
        text += finding;
        text += "\n";
    }
    if !report.findings.is_empty() {
        text += "\n";
    }
    for (name, fact) in report.machine.facts() {
        writeln!(text, "{name}: {fact}").expect("a string takes all");
    }
    writeln!(text, "steal time: {:.2} % of all processor time", report.steal_share * 100.0)
        .and_then(|()| writeln!(text, "command: {}", command_line(&report.command)))
        .expect("a string takes all");
    text
}

/// As a shell would take it.
pub fn command_line(words: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            return word.clone();
        }
        format!("'{}'", word.replace('\'', r"'\''"))
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn write_verdicts(text: &mut String, verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    let (heads, rows) = figures::verdicts(verdicts);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads).add_rows(rows);
    for line in table.lines() {
        writeln!(text, "{}", line.trim_end()).expect("a string takes all");
    }
    text.push('\n');
}

fn write_group(text: &mut String, group: &Group<'_>) {
    let (heads, rows) = group.table();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for (index, column) in table.set_header(&heads).add_rows(rows).column_iter_mut().enumerate() {
        let words = matches!(heads[index], "" | "side" | "by process");
        let alignment = if words { CellAlignment::Left } else { CellAlignment::Right };
        column.set_cell_alignment(alignment);
    }
    let runs = group.rows.iter().map(|row| row.measurement.runs.len()).max().unwrap_or(0);
    let latency = group.latency_of().map(|of| format!("; latency of a {of}")).unwrap_or_default();
    let plural = if runs == 1 { "run" } else { "runs: median [least-most]" };
    writeln!(text, "{} ({runs} {plural}{latency})", group.name).expect("a string takes all");
    for line in table.lines() {
        writeln!(text, "{}", line.trim_end()).expect("a string takes all");
    }
    for row in group.rows.iter().filter(|row| !row.counters.is_empty()) {
        let counters =
            row.counters.iter().map(|(name, figure)| format!("{name} {}", number(*figure)));
        let counters: Vec<String> = counters.collect();
        writeln!(text, "   {}: {}", row.measurement.name, counters.join(", "))
            .expect("a string takes all");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;

    #[test]
    fn columns_align() {
        let text = of(&sample::report());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "three replicas (3 runs: median [least-most]; latency of a packet ack)"
        );
        let end_of = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        let gb_ends = end_of(lines[1], "GB/s");
        assert!(gb_ends.is_some());
        assert_eq!(end_of(lines[2], "2.68 [2.15-2.68]"), gb_ends, "{text}");
        assert_eq!(end_of(lines[3], "2.15 [1.72-2.15]"), gb_ends, "{text}");
        assert_eq!(lines[1].find("by process"), lines[2].find("client 0.125"), "{text}");
        assert_eq!(lines[2].find("limit"), lines[3].find("ours   "), "{text}");
        assert!(lines[4].trim().starts_with("the floor: payload_bytes_copied 0"), "{text}");
    }

    #[test]
    fn says_the_machine_and_the_command() {
        let text = of(&sample::report());
        assert!(text.contains("command: ringfs bench pipeline --name 'a b'\n"), "{text}");
        assert!(text.contains("steal time: 1.00 %") && text.contains("kernel: Linux"), "{text}");
        assert!(text.contains("at 80 % of the \"floor\""), "{text}");
        assert_eq!(command_line(&["it's".to_owned(), String::new()]), r"'it'\''s' ''");
    }
}

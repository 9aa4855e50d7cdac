//! Plots as inline SVG. Colours are classes that the page's style gives for light and dark; every
//! mark has a title that a pointer shows, and every plot a name for those who do not see it.

use std::fmt::Write;

use super::figures::number;
use crate::statistics::Summary;

const WIDTH: f64 = 860.0;
const LABEL_WIDTH: f64 = 250.0;
const VALUE_WIDTH: f64 = 150.0;
const ROW_HEIGHT: f64 = 30.0;
/// Series beyond these share colours with the first ones.
const COLOURS: usize = 8;

pub struct Bar<'a> {
    pub label: &'a str,
    /// `ours`, `limit` or `peer`.
    pub side: &'a str,
    pub figure: Summary,
}

/// A bar for each median, with a line from the least to the most of the runs.
pub fn bars(title: &str, unit: &str, bars: &[Bar<'_>]) -> String {
    let most = bars.iter().map(|bar| bar.figure.max).fold(0.0, f64::max);
    let scale = Horizontal::new(most);
    let mut svg = Svg::open(title, ROW_HEIGHT * bars.len() as f64 + 4.0);
    for (index, bar) in bars.iter().enumerate() {
        let Summary { median, min, max } = bar.figure;
        let label = format!("{} ({})", bar.label, bar.side);
        let row = Row { index, label: &label };
        row.label(&mut svg);
        let tip = format!("{label}: {} {unit}, {} to {}", number(median), number(min), number(max));
        row.bar(&mut svg, scale, (0.0, median), bar.side, &tip);
        let (y, from, to) = (row.middle(), scale.x(min), scale.x(max));
        svg.add(format_args!(r#"<path class="range" d="M{from:.1} {y:.1}H{to:.1}"/>"#));
        row.value(&mut svg, scale.x(max), &format!("{} {unit}", number(median)));
    }
    svg.close()
}

pub struct Stack<'a> {
    pub label: &'a str,
    /// Name and length of each part.
    pub parts: &'a [(String, f64)],
}

/// Bars of several parts, such as the processor time by process.
pub fn stacks(title: &str, unit: &str, stacks: &[Stack<'_>]) -> String {
    let names =
        distinct(stacks.iter().flat_map(|stack| stack.parts).map(|(name, _)| name.as_str()));
    let sum = |stack: &Stack<'_>| stack.parts.iter().map(|(_, part)| part).sum::<f64>();
    let scale = Horizontal::new(stacks.iter().map(sum).fold(0.0, f64::max));
    let mut svg = Svg::open(title, ROW_HEIGHT * stacks.len() as f64 + 4.0);
    for (index, stack) in stacks.iter().enumerate() {
        let row = Row { index, label: stack.label };
        row.label(&mut svg);
        let mut from = 0.0;
        for (name, part) in stack.parts {
            let tip = format!("{}, {name}: {} {unit}", stack.label, number(*part));
            row.bar(&mut svg, scale, (from, from + part), &colour(&names, name), &tip);
            from += part;
        }
        row.value(&mut svg, scale.x(from), &format!("{} {unit}", number(from)));
    }
    svg.close() + &legend(&names)
}

pub struct Line<'a> {
    pub label: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// An axis: where its ticks are, what they say, and its ends.
pub struct Axis {
    pub name: String,
    pub from: f64,
    pub to: f64,
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 in about five round steps.
    pub fn linear(name: &str, most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let factors = [1.0, 2.0, 5.0, 10.0];
        let step = factors.iter().map(|factor| factor * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let count = (most / step).ceil() as u32;
        let ticks =
            (0..=count).map(|tick| (f64::from(tick) * step, number(f64::from(tick) * step)));
        Self {
            name: name.to_owned(),
            from: 0.0,
            to: f64::from(count) * step,
            ticks: ticks.collect(),
        }
    }

    /// Whole powers of ten around `least` to `most`; points are given as their logarithms.
    pub fn logarithmic(name: &str, least: f64, most: f64, spell: impl Fn(f64) -> String) -> Self {
        let from = least.log10().floor();
        let to = most.log10().ceil().max(from + 1.0);
        let ticks = (from as i32..=to as i32).map(|at| (f64::from(at), spell(10_f64.powi(at))));
        Self { name: name.to_owned(), from, to, ticks: ticks.collect() }
    }

    /// Nines of a percentile, `-log10(1 - q)`: every further nine is as wide as the one before.
    pub fn nines(name: &str, most: f64) -> Self {
        let to = most.ceil().clamp(1.0, 7.0);
        let ticks = (0..=to as usize).map(|nines| (nines as f64, percent_of_nines(nines)));
        Self { name: name.to_owned(), from: 0.0, to, ticks: ticks.collect() }
    }

    fn share(&self, value: f64) -> f64 {
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }
}

pub fn lines(title: &str, x: &Axis, y: &Axis, lines: &[Line<'_>]) -> String {
    const HEIGHT: f64 = 320.0;
    let (left, right, top, bottom) = (70.0, WIDTH - 12.0, 26.0, HEIGHT - 44.0);
    let at_x = |value: f64| left + x.share(value) * (right - left);
    let at_y = |value: f64| bottom - y.share(value) * (bottom - top);
    let mut svg = Svg::open(title, HEIGHT);
    for (value, label) in &y.ticks {
        let (at, left_text) = (at_y(*value), left - 8.0);
        svg.add(format_args!(r#"<path class="grid" d="M{left} {at:.1}H{right}"/>"#));
        svg.text(left_text, at + 4.0, "end", label);
    }
    for (value, label) in &x.ticks {
        let at = at_x(*value);
        svg.add(format_args!(r#"<path class="grid" d="M{at:.1} {top}V{bottom}"/>"#));
        svg.text(at, bottom + 18.0, "middle", label);
    }
    svg.text(left, 14.0, "start", &y.name);
    svg.text(right, HEIGHT - 6.0, "end", &x.name);
    let names = distinct(lines.iter().map(|line| line.label));
    for line in lines {
        let mut path = String::new();
        for (index, (px, py)) in line.points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            write!(path, "{command}{:.1} {:.1}", at_x(*px), at_y(*py)).expect("a string takes all");
        }
        let (colour, label) = (colour(&names, line.label), escape(line.label));
        svg.add(format_args!(
            r#"<path class="line {colour}" d="{path}"><title>{label}</title></path>"#
        ));
    }
    svg.close() + &legend(&names)
}

pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

struct Svg(String);

impl Svg {
    fn open(title: &str, height: f64) -> Self {
        let title = escape(title);
        Self(format!(
            r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>"#
        ))
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        self.0.write_fmt(element).expect("a string takes all");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        self.add(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    fn close(self) -> String {
        self.0 + "</svg>"
    }
}

/// The scale of bars that lie.
#[derive(Clone, Copy)]
struct Horizontal {
    most: f64,
}

impl Horizontal {
    fn new(most: f64) -> Self {
        Self { most: most.max(f64::MIN_POSITIVE) }
    }

    fn x(self, value: f64) -> f64 {
        LABEL_WIDTH + value / self.most * (WIDTH - LABEL_WIDTH - VALUE_WIDTH)
    }
}

struct Row<'a> {
    index: usize,
    label: &'a str,
}

impl Row<'_> {
    fn middle(&self) -> f64 {
        ROW_HEIGHT * (self.index as f64 + 0.5) + 2.0
    }

    /// Cut where the bar begins; the tip has it whole.
    fn label(&self, svg: &mut Svg) {
        const MOST_CHARS: usize = 36;
        let mut label = self.label.to_owned();
        if label.chars().count() > MOST_CHARS {
            label = label.chars().take(MOST_CHARS - 1).chain(['…']).collect();
        }
        svg.text(LABEL_WIDTH - 10.0, self.middle() + 4.0, "end", &label);
    }

    fn bar(&self, svg: &mut Svg, scale: Horizontal, span: (f64, f64), class: &str, tip: &str) {
        let (x, y, height) = (scale.x(span.0), self.middle() - 9.0, 18.0);
        let (width, tip) = (scale.x(span.1) - x, escape(tip));
        svg.add(format_args!(
            r#"<rect class="bar {class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height}"><title>{tip}</title></rect>"#
        ));
    }

    fn value(&self, svg: &mut Svg, x: f64, value: &str) {
        svg.text(x + 8.0, self.middle() + 4.0, "start", value);
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

fn colour(names: &[&str], name: &str) -> String {
    let index = names.iter().position(|other| *other == name).unwrap_or(0);
    format!("c{}", index % COLOURS)
}

fn legend(names: &[&str]) -> String {
    let entry = |name: &&str| {
        format!(r#"<li><i class="{}"></i>{}</li>"#, colour(names, name), escape(name))
    };
    format!(r#"<ul class="legend">{}</ul>"#, names.iter().map(entry).collect::<String>())
}

fn percent_of_nines(nines: usize) -> String {
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more - 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks() {
        let axis = Axis::linear("GB/s", 2.3);
        let labels: Vec<&str> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["0", "0.500", "1.00", "1.50", "2.00", "2.50"]);
        assert_eq!((axis.share(0.0), axis.share(2.5)), (0.0, 1.0));
        let axis = Axis::logarithmic("us", 12.0, 3400.0, number);
        assert_eq!((axis.from, axis.to), (1.0, 4.0));
        assert_eq!(Axis::linear("nothing", 0.0).to, 1.0);
        let axis = Axis::nines("percentile", 3.2);
        let labels: Vec<&str> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let summary = |median| Summary { median, min: median, max: median };
        let svg = bars(
            "t",
            "GB/s",
            &[
                Bar { label: "a", side: "ours", figure: summary(1.0) },
                Bar { label: "b", side: "limit", figure: summary(2.0) },
            ],
        );
        let whole = WIDTH - LABEL_WIDTH - VALUE_WIDTH;
        assert!(svg.contains(&format!(r#"width="{whole:.1}""#)), "{svg}");
        assert!(svg.contains(&format!(r#"width="{:.1}""#, whole / 2.0)), "{svg}");
    }

    #[test]
    fn stacks_lie_end_to_end_in_their_own_colours() {
        let parts = [("client".to_owned(), 1.0), ("datanode0".to_owned(), 3.0)];
        let svg = stacks("t", "s", &[Stack { label: "a", parts: &parts }]);
        let whole = WIDTH - LABEL_WIDTH - VALUE_WIDTH;
        let second = format!(r#"class="bar c1" x="{:.1}""#, LABEL_WIDTH + whole / 4.0);
        assert!(svg.contains(&second), "{svg}");
        assert!(svg.contains(r#"<i class="c1"></i>datanode0"#), "{svg}");
    }
}

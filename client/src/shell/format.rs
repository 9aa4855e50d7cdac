//! How numbers, times and tables look: widths and roundings of Hadoop's shell, which scripts parse.

use chrono::{DateTime, Local, LocalResult, NaiveDate, TimeZone, Utc};

const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// Binary prefixes with one decimal, none when the number is whole: `1.5 K`, `128 M`, `6`.
pub fn human_size(bytes: i64) -> String {
    let magnitude = bytes.unsigned_abs();
    if magnitude < 1024 {
        return bytes.to_string();
    }
    let sign = if bytes < 0 { "-" } else { "" };
    let exponent = (u64::BITS - 1 - magnitude.leading_zeros()) / 10;
    if magnitude.is_multiple_of(1 << (10 * exponent)) {
        return format!("{sign}{} {}", magnitude >> (10 * exponent), unit(exponent));
    }
    let tenths = |exponent: u32| ((u128::from(magnitude) * 20) >> (10 * exponent)).div_ceil(2);
    // 1048575 is `1.0 M`, not `1024.0 K`.
    let exponent = if tenths(exponent) >= 10240 { exponent + 1 } else { exponent };
    let tenths = tenths(exponent);
    format!("{sign}{}.{} {}", tenths / 10, tenths % 10, unit(exponent))
}

fn unit(exponent: u32) -> char {
    UNITS[exponent as usize - 1]
}

/// `human_size` or plain digits, as `-h` says.
pub fn size(bytes: i64, human: bool) -> String {
    if human { human_size(bytes) } else { bytes.to_string() }
}

/// `yyyy-MM-dd HH:mm` in the local time zone, for listings.
pub fn local_minute(millis: i64) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or_default();
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string()
}

/// `yyyy-MM-dd HH:mm:ss` in UTC, for `-stat`.
pub fn utc_second(millis: i64) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or_default();
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Milliseconds of `yyyyMMdd:HHmmss` in the local time zone; fields may exceed their ranges
/// (second 75 is a minute and 15 seconds).
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_at_checked(8)?;
    let time = time.strip_prefix(':')?;
    if time.len() < 6 || !date.bytes().chain(time.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |digits: &str| digits.parse::<i64>().ok();
    let (year, month, day) = (number(&date[..4])?, number(&date[4..6])?, number(&date[6..])?);
    let (hours, minutes, seconds) =
        (number(&time[..2])?, number(&time[2..4])?, number(&time[4..])?);
    let months = year.checked_mul(12)?.checked_add(month - 1)?;
    let first = NaiveDate::from_ymd_opt(
        i32::try_from(months.div_euclid(12)).ok()?,
        months.rem_euclid(12) as u32 + 1,
        1,
    )?;
    let span = chrono::TimeDelta::try_seconds(
        ((day - 1) * 24 + hours)
            .checked_mul(3600)?
            .checked_add(minutes * 60)?
            .checked_add(seconds)?,
    )?;
    let naive = first.and_hms_opt(0, 0, 0)?.checked_add_signed(span)?;
    match Local.from_local_datetime(&naive) {
        LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => {
            Some(time.timestamp_millis())
        }
        // A time that the change to summer time skips.
        LocalResult::None => Some(naive.and_utc().timestamp_millis()),
    }
}

/// Rows of cells aligned in columns two spaces apart, the last column as it is.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right_aligned: &'static [usize],
}

impl Table {
    pub fn new(right_aligned: &'static [usize]) -> Self {
        Self { rows: Vec::new(), right_aligned }
    }

    pub fn add(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
            })
            .collect();
        self.rows.iter().map(move |row| self.line(row, &widths))
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            if self.right_aligned.contains(&column) {
                line.push_str(&format!("{cell:>width$}"));
            } else if column + 1 < row.len() {
                line.push_str(&format!("{cell:<width$}"));
            } else {
                line.push_str(cell);
            }
        }
        line
    }
}

/// Wraps text at word boundaries; paragraphs are separated by `\n` in the text.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.len() + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
            } else if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0"),
            (6, "6"),
            (1023, "1023"),
            (1024, "1 K"),
            (1500, "1.5 K"),
            (1536, "1.5 K"),
            (4500, "4.4 K"),
            (128 << 20, "128 M"),
            (2_501_500, "2.4 M"),
            (1280, "1.3 K"),
            (1_048_575, "1.0 M"),
            (811_659_522_048, "755.9 G"),
            (-2048, "-2 K"),
            (i64::MAX, "8.0 E"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn times() {
        assert_eq!(utc_second(981_173_106_789), "2001-02-03 04:05:06");
        assert_eq!(utc_second(0), "1970-01-01 00:00:00");
        let parsed = parse_timestamp("20010203:040506").unwrap();
        assert_eq!(local_minute(parsed), "2001-02-03 04:05");
        assert_eq!(
            parse_timestamp("20010203:040575").unwrap(),
            parse_timestamp("20010203:040615").unwrap()
        );
        for wrong in ["", "junk", "2001", "20010203", "20010203 040506", "20010203:04"] {
            assert_eq!(parse_timestamp(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tables() {
        let mut table = Table::new(&[1]);
        table.add(vec!["a".into(), "1".into(), "x".into()]);
        table.add(vec!["long".into(), "22".into(), "path".into()]);
        assert_eq!(table.lines().collect::<Vec<_>>(), ["a      1  x", "long  22  path"]);
    }

    #[test]
    fn wrapping() {
        assert_eq!(wrap("aa bb cc\nd", 5), ["aa bb", "cc", "d"]);
    }
}

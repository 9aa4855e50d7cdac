//! The text format of `java.util.Properties`, in which VERSION files are written: `key=value` lines,
//! comments, backslash escapes, line continuation.

use std::collections::BTreeMap;

pub type Properties = BTreeMap<String, String>;

/// Reads what Java may have written; a line that makes no sense to Java's reader does not exist, so
/// this never fails. A later line of the same key wins.
pub fn parse(text: &str) -> Properties {
    let mut properties = Properties::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut logical = line.trim_start().to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while ends_in_continuation(&logical) {
            logical.pop();
            logical.push_str(lines.next().unwrap_or_default().trim_start());
        }
        let (key, value) = split(&logical);
        properties.insert(unescape(key), unescape(value));
    }
    properties
}

/// Writes as Java does, so that either side reads the other's file.
pub fn format(comment: &str, properties: &Properties) -> String {
    let mut text = format!("#{comment}\n");
    for (key, value) in properties {
        text.push_str(&escape(key, true));
        text.push('=');
        text.push_str(&escape(value, false));
        text.push('\n');
    }
    text
}

fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1
}

/// Splits at the first unescaped `=`, `:` or blank; blanks around the separator belong to it.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line
        .char_indices()
        .find(|&(_, c)| {
            let separator = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\x0c');
            escaped = c == '\\' && !escaped;
            separator
        })
        .map_or(line.len(), |(index, _)| index);
    let (key, rest) = line.split_at(end);
    let blank = [' ', '\t', '\x0c'];
    let rest = rest.trim_start_matches(blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(blank))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\x0c'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

fn escape(text: &str, is_key: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, c) in text.chars().enumerate() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\x0c' => out.push_str("\\f"),
            ' ' if is_key || index == 0 => out.push_str("\\ "),
            '=' | ':' | '#' | '!' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0u16; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_that_java_wrote_is_read() {
        let text = "#Sat Nov 21 06:09:00 UTC 2026\nstorageID=DS-1f2e\nclusterID=CID\\:a\\=b\n\
                    cTime=0\n! note\n  layoutVersion : -56\nlong=one\\\n   two\nempty\nu=\\u00e9\n";
        let properties = parse(text);
        let expected = [
            ("storageID", "DS-1f2e"),
            ("clusterID", "CID:a=b"),
            ("cTime", "0"),
            ("layoutVersion", "-56"),
            ("long", "onetwo"),
            ("empty", ""),
            ("u", "\u{e9}"),
        ];
        assert_eq!(properties.len(), expected.len());
        for (key, value) in expected {
            assert_eq!(properties.get(key).map(String::as_str), Some(value), "{key}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            // Java itself splits a character beyond the basic plane in two escapes.
            properties in prop::collection::btree_map("[ -~\\t\\n\u{e0}-\u{17f}]{1,12}", "[ -~\\t\\n\\r\u{e0}-\u{17f}]{0,20}", 0..6)
        ) {
            prop_assert_eq!(parse(&format("comment", &properties)), properties);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            parse(&text);
        }
    }
}

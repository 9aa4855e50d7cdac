//! Hadoop's path patterns: `*`, `?`, `[a-b]`, `[^a-b]`, `{a,b}` and `\` before a character that is
//! meant as itself. A group with a slash in it stands for several paths; everything else is matched
//! component by component against listings.

use regex::{Regex, RegexBuilder};

use super::error::ShellError;

/// Paths that groups with slashes may stand for: `{a/b,c/d}{e/f,g/h}` is four.
const ALTERNATIVES_MAX: usize = 4096;

/// Compiled size of one component's pattern.
const PATTERN_MAX_BYTES: usize = 1 << 20;

/// One component of a pattern.
#[derive(Debug)]
pub enum Component {
    /// No pattern: the name itself, its escapes removed.
    Name(String),
    Pattern(Regex),
}

impl Component {
    pub fn parse(text: &str) -> Result<Self, ShellError> {
        match translate(text)? {
            None => Ok(Self::Name(unescape(text))),
            Some(expression) => compile(&expression, false).map(Self::Pattern),
        }
    }
}

/// A pattern for a name alone, as `-find -name` takes it.
pub fn name_pattern(text: &str, ignore_case: bool) -> Result<Regex, ShellError> {
    let expression = translate(text)?.unwrap_or_else(|| regex::escape(&unescape(text)));
    compile(&expression, ignore_case)
}

pub fn unescape(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        name.push(if letter == '\\' { letters.next().unwrap_or(letter) } else { letter });
    }
    name
}

fn compile(expression: &str, ignore_case: bool) -> Result<Regex, ShellError> {
    RegexBuilder::new(&format!("^(?:{expression})$"))
        .dot_matches_new_line(true)
        .case_insensitive(ignore_case)
        .size_limit(PATTERN_MAX_BYTES)
        .build()
        .map_err(|error| ShellError::Message(format!("Illegal file pattern: {error}")))
}

/// The regular expression of a component, `None` when it holds no pattern.
fn translate(text: &str) -> Result<Option<String>, ShellError> {
    let mut expression = String::new();
    let mut has_pattern = false;
    let mut open_groups = 0;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        has_pattern |= "*?[{".contains(letter);
        match letter {
            '\\' => match letters.next() {
                Some(escaped) => push_literal(&mut expression, escaped),
                None => return Err(illegal("Missing escaped character", text)),
            },
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '{' => {
                expression.push_str("(?:");
                open_groups += 1;
            }
            ',' if open_groups > 0 => expression.push('|'),
            '}' if open_groups > 0 => {
                expression.push(')');
                open_groups -= 1;
            }
            '[' => translate_set(&mut letters, &mut expression, text)?,
            other => push_literal(&mut expression, other),
        }
    }
    if open_groups > 0 {
        return Err(illegal("Unclosed group", text));
    }
    Ok(has_pattern.then_some(expression))
}

fn translate_set(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    expression: &mut String,
    text: &str,
) -> Result<(), ShellError> {
    expression.push('[');
    if letters.next_if(|letter| matches!(letter, '^' | '!')).is_some() {
        expression.push('^');
    }
    loop {
        match letters.next() {
            None => return Err(illegal("Unclosed character class", text)),
            Some(']') => break,
            Some('-') => expression.push('-'),
            Some('\\') => match letters.next() {
                Some(escaped) => push_literal(expression, escaped),
                None => return Err(illegal("Missing escaped character", text)),
            },
            Some(other) => push_literal(expression, other),
        }
    }
    expression.push(']');
    Ok(())
}

fn push_literal(expression: &mut String, letter: char) {
    let mut bytes = [0; 4];
    expression.push_str(&regex::escape(letter.encode_utf8(&mut bytes)));
}

fn illegal(why: &str, text: &str) -> ShellError {
    ShellError::Message(format!(
        "Illegal file pattern: error parsing regexp: {why} at pos {}: `{text}`",
        text.chars().count()
    ))
}

/// The paths that a pattern stands for: one for each alternative of each group with a slash in it.
pub fn alternatives(pattern: &str) -> Result<Vec<String>, ShellError> {
    let mut finished = Vec::new();
    let mut pending = vec![pattern.to_owned()];
    while let Some(text) = pending.pop() {
        match first_group_with_slash(&text) {
            None => finished.push(text),
            Some((start, end)) => {
                let group = split_group(&text[start + 1..end]);
                for part in group.iter().rev() {
                    pending.push(format!("{}{part}{}", &text[..start], &text[end + 1..]));
                }
            }
        }
        if finished.len() + pending.len() > ALTERNATIVES_MAX {
            return Err(ShellError::Message(format!(
                "Illegal file pattern: `{pattern}' stands for more than {ALTERNATIVES_MAX} paths"
            )));
        }
    }
    Ok(finished)
}

/// Byte positions of the braces of the first outermost group that holds a slash.
fn first_group_with_slash(text: &str) -> Option<(usize, usize)> {
    let mut depth = 0;
    let mut start = 0;
    let mut has_slash = false;
    let mut escaped = false;
    for (position, letter) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match letter {
            '\\' => escaped = true,
            '{' => {
                if depth == 0 {
                    (start, has_slash) = (position, false);
                }
                depth += 1;
            }
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 && has_slash {
                    return Some((start, position));
                }
            }
            '/' => has_slash = true,
            _ => {}
        }
    }
    None
}

/// The alternatives between the braces of one group; commas of inner groups do not count.
fn split_group(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth, mut escaped) = (0, 0, false);
    for (position, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        match Component::parse(pattern).expect(pattern) {
            Component::Name(literal) => literal == name,
            Component::Pattern(regex) => regex.is_match(name),
        }
    }

    #[test]
    fn wildcards() {
        assert!(matches("*", "") && matches("*", "x\ny") && matches("a*c", "abbc"));
        assert!(!matches("a*c", "abbd") && matches("?1", "a1") && !matches("?1", "1"));
        assert!(matches("a.?", "a.b") && !matches("a.?", "abc") && matches("a+(b)", "a+(b)"));
    }

    #[test]
    fn sets() {
        assert!(matches("[ab]1", "b1") && !matches("[ab]1", "c1"));
        assert!(matches("[a-c]", "b") && !matches("[a-c]", "d"));
        assert!(matches("[^a]1", "b1") && !matches("[^a]1", "a1") && !matches("[!a]1", "a1"));
        assert!(matches(r"[\]x]", "]") && matches("[&&~~]", "&") && matches("[.[]", "["));
    }

    #[test]
    fn groups() {
        assert!(matches("{a,b}{1,2}", "b1") && !matches("{a,b}{1,2}", "b3"));
        assert!(matches("*.{txt,log}", "x.log") && matches("{a{b,c},d}", "ac"));
        assert!(matches("a}", "a}") && matches("a,b", "a,b"));
    }

    #[test]
    fn escapes_make_plain_names() {
        assert!(matches!(Component::parse(r"a\*b"), Ok(Component::Name(name)) if name == "a*b"));
        assert!(matches!(Component::parse("plain"), Ok(Component::Name(_))));
        assert!(matches(r"\**", "*x") && !matches(r"\**", "x"));
    }

    #[test]
    fn broken_patterns_name_the_place() {
        let message = |text: &str| Component::parse(text).unwrap_err().to_string();
        assert!(message("[a").ends_with("Unclosed character class at pos 2: `[a`"));
        assert!(message("{a").ends_with("Unclosed group at pos 2: `{a`"));
        assert!(message("a\\").contains("Missing escaped character"));
        assert!(message("[b-a]").starts_with("Illegal file pattern: "));
    }

    #[test]
    fn groups_across_components() {
        assert_eq!(alternatives("/x/{a,b/c}/d").unwrap(), ["/x/a/d", "/x/b/c/d"]);
        assert_eq!(alternatives("/{a,b}/c").unwrap(), ["/{a,b}/c"]);
        assert_eq!(alternatives("{/a,{b/c,d}}").unwrap(), ["/a", "b/c", "d"]);
        assert_eq!(alternatives("/a{").unwrap(), ["/a{"]);
        assert!(alternatives(&"{a/,b/}".repeat(20)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_pattern_or_an_error(text in ".{0,40}", name in ".{0,10}") {
            if let Ok(parts) = alternatives(&text) {
                for part in parts {
                    if let Ok(Component::Pattern(regex)) = Component::parse(&part) {
                        let _ = regex.is_match(&name);
                    }
                }
            }
        }
    }
}

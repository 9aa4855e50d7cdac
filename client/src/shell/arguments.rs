//! How Hadoop's FsShell reads a command's arguments: single-dash options first, the first word that
//! is not an option (or `-`, or what follows `--`) starts the operands.

use std::collections::VecDeque;

use super::command::Command;
use super::error::ShellError;

/// What an option takes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    /// The next word, unless it is an option or one of the operands that the command needs.
    Optional,
    /// The next word, whatever it is.
    Required,
    /// The rest of its own word: `-ptopax`.
    Suffix,
}

/// One option: how it is spelled and explained.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Without the first dash.
    pub name: &'static str,
    /// A second spelling, or nothing.
    pub alias: &'static str,
    pub takes: Takes,
    /// What the usage shows for what it takes.
    pub value: &'static str,
    pub help: &'static str,
}

pub const fn flag(name: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { name, alias: "", takes: Takes::Nothing, value: "", help }
}

impl OptionSpec {
    /// As the usage line shows it, without the brackets.
    pub fn usage(&self) -> String {
        let Self { name, alias, value, .. } = self;
        match self.takes {
            Takes::Nothing if alias.is_empty() => format!("-{name}"),
            Takes::Nothing => format!("-{name}|-{alias}"),
            Takes::Optional | Takes::Required => format!("-{name} {value}"),
            Takes::Suffix => format!("-{name} | -{name}{value}"),
        }
    }
}

/// The options given, by their first name, and the operands in order.
#[derive(Debug, Default)]
pub struct Arguments {
    options: Vec<(&'static str, String)>,
    pub operands: VecDeque<String>,
}

impl Arguments {
    pub fn parse(command: &Command, words: Vec<String>) -> Result<Self, ShellError> {
        let mut arguments = Self { options: Vec::new(), operands: words.into() };
        arguments.take_options(command)?;
        let (least, most) = (command.operands_min, command.operands_max);
        let count = arguments.operands.len();
        if count < least {
            return Err(ShellError::not_enough_arguments(least, count));
        }
        if count > most {
            return Err(ShellError::Usage(format!(
                "Too many arguments: expected {most} but got {count}"
            )));
        }
        Ok(arguments)
    }

    fn take_options(&mut self, command: &Command) -> Result<(), ShellError> {
        let mut position = 0;
        while let Some(word) = self.operands.get(position).cloned() {
            let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else { break };
            if name == "-" {
                self.operands.remove(position);
                break;
            }
            let Some((option, suffix)) = command.option(name) else {
                if command.leaves_unknown_options {
                    position += 1;
                    continue;
                }
                return Err(ShellError::Usage(format!("Illegal option {word}")));
            };
            self.operands.remove(position);
            let value = match option.takes {
                Takes::Nothing => String::new(),
                Takes::Suffix => suffix.to_owned(),
                Takes::Required => self.operands.remove(position).ok_or_else(|| {
                    ShellError::Usage(format!("option {word} requires 1 argument."))
                })?,
                Takes::Optional => match self.operands.get(position) {
                    Some(next)
                        if !next.starts_with('-') && self.operands.len() > command.operands_min =>
                    {
                        self.operands.remove(position).unwrap_or_default()
                    }
                    _ => String::new(),
                },
            };
            self.options.push((option.name, value));
        }
        Ok(())
    }

    /// Whether the option of that first name was given.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// What the option took with it, the last time it was given.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    /// The value of an option as a whole number; `None` when it is absent or empty.
    pub fn number(&self, name: &str) -> Result<Option<i64>, ShellError> {
        match self.value(name) {
            None | Some("") => Ok(None),
            Some(text) => parse_number(text, i64::MIN, i64::MAX).map(Some),
        }
    }

    /// The next operand, for commands whose first operand is no path.
    pub fn take_operand(&mut self) -> Result<String, ShellError> {
        self.operands.pop_front().ok_or_else(|| ShellError::not_enough_arguments(1, 0))
    }
}

/// A number as Java reads and refuses it.
pub fn parse_number(text: &str, least: i64, most: i64) -> Result<i64, ShellError> {
    let number: i128 =
        text.parse().map_err(|_| ShellError::Usage(format!("For input string: \"{text}\"")))?;
    if number < i128::from(least) || number > i128::from(most) {
        return Err(ShellError::Usage(format!("Value out of range. Value:\"{text}\" Radix:10")));
    }
    Ok(number as i64)
}

#[cfg(test)]
mod tests {
    use super::super::command;
    use super::*;

    fn parse(name: &str, words: &[&str]) -> Result<Arguments, ShellError> {
        let command = command::find(name).expect("a command of the table");
        Arguments::parse(command, words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn usage_error(name: &str, words: &[&str]) -> String {
        match parse(name, words) {
            Err(ShellError::Usage(message)) => message,
            other => panic!("expected a usage error, got {other:?}"),
        }
    }

    #[test]
    fn options_end_at_the_first_other_word() {
        let arguments = parse("ls", &["-R", "-h", "/a", "-d"]).unwrap();
        assert!(arguments.has("R") && arguments.has("h") && !arguments.has("d"));
        assert_eq!(arguments.operands, ["/a", "-d"]);
    }

    #[test]
    fn a_dash_is_an_operand_and_two_dashes_end_options() {
        assert_eq!(parse("put", &["-f", "-", "/x"]).unwrap().operands, ["-", "/x"]);
        assert_eq!(parse("ls", &["--", "-R"]).unwrap().operands, ["-R"]);
    }

    #[test]
    fn values() {
        let arguments = parse("put", &["-t", "4", "a", "b"]).unwrap();
        assert_eq!(arguments.number("t").unwrap(), Some(4));
        assert_eq!(arguments.operands, ["a", "b"]);
        // The only operand is never taken for an option's value.
        assert_eq!(parse("tail", &["-s", "/a"]).unwrap().operands, ["/a"]);
        assert_eq!(parse("cp", &["-ptop", "a", "b"]).unwrap().value("p"), Some("top"));
        assert_eq!(usage_error("touch", &["-t"]), "option -t requires 1 argument.");
    }

    #[test]
    fn refusals() {
        assert_eq!(usage_error("ls", &["-Z"]), "Illegal option -Z");
        assert_eq!(usage_error("mkdir", &[]), "Not enough arguments: expected 1 but got 0");
        assert_eq!(usage_error("head", &["a", "b"]), "Too many arguments: expected 1 but got 2");
    }

    #[test]
    fn unknown_options_of_chmod_are_its_mode() {
        assert_eq!(parse("chmod", &["-R", "-w", "/a"]).unwrap().operands, ["-w", "/a"]);
    }

    #[test]
    fn numbers_are_refused_with_a_reason() {
        assert_eq!(parse_number("12", 0, 20).unwrap(), 12);
        assert!(
            matches!(parse_number("99", 0, 20), Err(ShellError::Usage(m)) if m.contains("out of range"))
        );
        assert!(
            matches!(parse_number("x", 0, 20), Err(ShellError::Usage(m)) if m == "For input string: \"x\"")
        );
    }
}

//! `-find`: tests and prints, applied in order to every path below the given ones until one fails.

use regex::Regex;

use super::arguments::Arguments;
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, Walk, expand_all};
use super::{Shell, glob};

pub const FIND: Command = Command {
    name: "find",
    options: &[],
    operands: "<path> ... <expression> ...",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: true,
    about: "Finds paths below the given ones, or the home directory. Expressions: -name PATTERN, \
            -iname PATTERN (letters of either case), -print, -print0 (ends each path with a zero \
            byte); -a or -and may stand between them. Without -print, what passes is printed.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

enum Expression {
    Name(Regex),
    /// Prints the path and this byte after it.
    Print(u8),
}

async fn run(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let first = arguments.operands.iter().position(|word| word.starts_with('-'));
    let words = arguments.operands.split_off(first.unwrap_or(arguments.operands.len()));
    let expressions = parse(words.into_iter())?;
    if arguments.operands.is_empty() {
        arguments.operands.push_back(".".to_owned());
    }
    let mut walk = Walk::from(expand_all(shell, arguments.operands).await?);
    while let Some(item) = walk.next() {
        match item.status() {
            Ok(_) => apply(shell, &item, &expressions)?,
            Err(error) => shell.report(error)?,
        }
        walk.enter(shell, &item).await?;
    }
    Ok(())
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Vec<Expression>, ShellError> {
    let mut expressions = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-a" | "-and" => {}
            "-print" => expressions.push(Expression::Print(b'\n')),
            "-print0" => expressions.push(Expression::Print(0)),
            "-name" | "-iname" => {
                let pattern = words
                    .next()
                    .ok_or_else(|| ShellError::Usage(format!("{word} requires a pattern")))?;
                let regex = glob::name_pattern(&pattern, word == "-iname")?;
                expressions.push(Expression::Name(regex));
            }
            _ => return Err(ShellError::Message(format!("Unexpected argument: {word}"))),
        }
    }
    if !expressions.iter().any(|expression| matches!(expression, Expression::Print(_))) {
        expressions.push(Expression::Print(b'\n'));
    }
    Ok(expressions)
}

fn apply(shell: &mut Shell, item: &Item, expressions: &[Expression]) -> Result<(), ShellError> {
    for expression in expressions {
        match expression {
            Expression::Name(regex) if !regex.is_match(item.name()) => break,
            Expression::Name(_) => {}
            Expression::Print(end) => {
                shell.console().bytes(item.text.as_bytes())?;
                shell.console().bytes(&[*end])?;
            }
        }
    }
    Ok(())
}

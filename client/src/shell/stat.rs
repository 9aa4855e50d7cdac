//! `-stat`.

use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::file_system::Status;
use super::item::{Item, Walk, expand_all};
use super::{Shell, format, mode};

const DEFAULT_FORMAT: &str = "%y";

pub const STAT: Command = Command {
    name: "stat",
    options: &[flag("R", "Descends into directories.")],
    operands: "[format] <path> ...",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Prints what is known of each path in a format with a % in it: %a mode in octal, %A in \
            letters, %b bytes, %F kind, %g group, %n name, %o block size, %r replication, %u owner, \
            %x and %X access time (UTC, milliseconds), %y and %Y modification time. Without a \
            format, %y.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let recursive = arguments.has("R");
    let mut pattern = DEFAULT_FORMAT.to_owned();
    if arguments.operands.front().is_some_and(|first| first.contains('%')) {
        pattern = arguments.take_operand()?;
    }
    if arguments.operands.is_empty() {
        return Err(ShellError::not_enough_arguments(1, 0));
    }
    let mut walk = Walk::from(expand_all(shell, arguments.operands).await?);
    while let Some(item) = walk.next() {
        match item.status() {
            Ok(status) => shell.console().line(&render(&pattern, &item, status))?,
            Err(error) => shell.report(error)?,
        }
        if recursive {
            walk.enter(shell, &item).await?;
        }
    }
    Ok(())
}

/// A `%` at the end is dropped, one before any other letter leaves the letter.
fn render(pattern: &str, item: &Item, status: &Status) -> String {
    let mut text = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let Some(field) = letters.next() else { break };
        match field {
            'a' => text.push_str(&format!("{:o}", status.mode)),
            'A' => text.push_str(&mode::symbolic(status.mode)),
            'b' => text.push_str(&status.length.to_string()),
            'F' => text.push_str(if status.is_directory { "directory" } else { "regular file" }),
            'g' => text.push_str(&status.group),
            'n' => text.push_str(item.name()),
            'o' => text.push_str(&status.block_size.to_string()),
            'r' => text.push_str(&status.replication.to_string()),
            'u' => text.push_str(&status.owner),
            'x' => text.push_str(&format::utc_second(status.accessed_ms)),
            'X' => text.push_str(&status.accessed_ms.to_string()),
            'y' => text.push_str(&format::utc_second(status.modified_ms)),
            'Y' => text.push_str(&status.modified_ms.to_string()),
            other => text.push(other),
        }
    }
    text
}

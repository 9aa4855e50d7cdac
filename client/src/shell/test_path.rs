//! `-test`: an answer by exit code.

use super::Shell;
use super::arguments::{Arguments, flag};
use super::command::Command;
use super::error::{EXIT_FAILURE, ShellError};
use super::file_system::Access;
use super::item::{Item, expand_all};

pub const TEST: Command = Command {
    name: "test",
    options: &[
        flag("d", "It is a directory."),
        flag("e", "It exists."),
        flag("f", "It is a file."),
        flag("s", "It has more than zero bytes."),
        flag("w", "It exists and may be written."),
        flag("r", "It exists and may be read."),
        flag("z", "It has zero bytes."),
    ],
    operands: "-[defswrz] <path>",
    operands_min: 1,
    operands_max: 1,
    leaves_unknown_options: false,
    about: "Answers a question about a path with exit code 0 for yes and 1 for no.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    let asked: Vec<&str> =
        TEST.options.iter().map(|option| option.name).filter(|name| arguments.has(name)).collect();
    let question = match asked.as_slice() {
        [] => return Err(ShellError::Usage("No test flag given".to_owned())),
        [question] => *question,
        _ => return Err(ShellError::Usage("Only one test flag is allowed".to_owned())),
    };
    for item in expand_all(shell, arguments.operands).await? {
        match answer(&item, question).await {
            Ok(true) => {}
            Ok(false) => shell.set_exit_code(EXIT_FAILURE),
            Err(error) => shell.report(error)?,
        }
    }
    Ok(())
}

async fn answer(item: &Item, question: &str) -> Result<bool, ShellError> {
    let Some(status) = &item.status else { return Ok(false) };
    Ok(match question {
        "d" => status.is_directory,
        "f" => !status.is_directory,
        "s" => status.length > 0,
        "z" => status.length == 0,
        "r" => item.file_system.may(&item.path, Access::Read).await?,
        "w" => item.file_system.may(&item.path, Access::Write).await?,
        _ => true,
    })
}

//! `-mv`.

use super::Shell;
use super::arguments::Arguments;
use super::command::{ANY_NUMBER, Command};
use super::destination;
use super::error::ShellError;
use super::item::{Item, expand_all};

pub const MV: Command = Command {
    name: "mv",
    options: &[],
    operands: "<src> ... <dst>",
    operands_min: 2,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Moves files and directories within a file system. Several sources need a directory to go \
            to; nothing is replaced.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let destination = destination::remote(shell, &mut arguments.operands).await?;
    let sources = expand_all(shell, arguments.operands).await?;
    if sources.is_empty() {
        return Ok(());
    }
    destination::check(sources.len(), &destination, false).await?;
    for source in sources {
        if let Err(error) = move_one(&source, &destination).await {
            shell.report(error)?;
        }
    }
    Ok(())
}

async fn move_one(source: &Item, destination: &Item) -> Result<(), ShellError> {
    source.status()?;
    let target = destination::target_of(source, destination).await?;
    destination::refuse_into_itself(source, &target)?;
    if !source.file_system.is_same(&target.file_system) {
        let why = "Does not match target filesystem".to_owned();
        return Err(ShellError::Path { path: source.text.clone(), why });
    }
    if target.exists() {
        return Err(ShellError::Exists(target.text));
    }
    if !target.file_system.rename(&source.path, &target.path).await? {
        return Err(ShellError::failed(&source.text));
    }
    Ok(())
}

//! `-mkdir`.

use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, expand_all};
use super::{Shell, path};

pub const MKDIR: Command = Command {
    name: "mkdir",
    options: &[flag("p", "Makes missing parents too, and accepts a directory that exists.")],
    operands: "<path> ...",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Makes directories.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    let with_parents = arguments.has("p");
    for item in expand_all(shell, arguments.operands).await? {
        if let Err(error) = make(&item, with_parents).await {
            shell.report(error)?;
        }
    }
    Ok(())
}

async fn make(item: &Item, with_parents: bool) -> Result<(), ShellError> {
    match &item.status {
        Some(status) if !status.is_directory => {
            return Err(ShellError::NotDirectory(item.text.clone()));
        }
        Some(_) if with_parents => return Ok(()),
        Some(_) => return Err(ShellError::Exists(item.text.clone())),
        None => {}
    }
    if let Some(parent) = path::parent(&item.path).filter(|_| !with_parents)
        && item.file_system.status(parent).await?.is_none()
    {
        return Err(ShellError::NotFound(format!("{}{parent}", item.file_system.uri())));
    }
    if item.file_system.make_directories(&item.path).await? {
        Ok(())
    } else {
        Err(ShellError::failed(&item.text))
    }
}

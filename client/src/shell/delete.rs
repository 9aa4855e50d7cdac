//! `-rm` and `-rmdir`.

use super::arguments::{Arguments, OptionSpec, Takes, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, expand, expand_all};
use super::{Shell, trash};

pub const RM: Command = Command {
    name: "rm",
    options: &[
        flag("f", "Says nothing about a path that does not exist."),
        OptionSpec {
            name: "r",
            alias: "R",
            takes: Takes::Nothing,
            value: "",
            help: "Deletes directories with all they hold.",
        },
        flag("skipTrash", "Deletes at once where the file system has a trash."),
    ],
    operands: "<src> ...",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Deletes files, or moves them to /user/NAME/.Trash where fs.trash.interval is above 0.",
    run: |shell, arguments| Box::pin(rm(shell, arguments)),
};

pub const RMDIR: Command = Command {
    name: "rmdir",
    options: &[flag(
        "-ignore-fail-on-non-empty",
        "Leaves a directory that is not empty in silence.",
    )],
    operands: "<dir> ...",
    about: "Deletes empty directories.",
    run: |shell, arguments| Box::pin(rmdir(shell, arguments)),
    ..RM
};

async fn rm(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    let (force, recursive) = (arguments.has("f"), arguments.has("r"));
    let skip_trash = arguments.has("skipTrash");
    let mut items = Vec::new();
    for operand in &arguments.operands {
        match expand(shell, operand).await {
            Err(ShellError::NotFound(_)) if force => {}
            Err(error) => shell.report(error)?,
            Ok(found) => items.extend(found.into_iter().filter(|item| item.exists() || !force)),
        }
    }
    for item in items {
        if let Err(error) = rm_one(shell, &item, recursive, skip_trash).await {
            shell.report(error)?;
        }
    }
    Ok(())
}

async fn rm_one(
    shell: &mut Shell,
    item: &Item,
    recursive: bool,
    skip_trash: bool,
) -> Result<(), ShellError> {
    if item.status()?.is_directory && !recursive {
        return Err(ShellError::IsDirectory(item.text.clone()));
    }
    if !skip_trash && trash::take(shell, item).await? {
        return Ok(());
    }
    if !item.file_system.delete(&item.path, recursive).await? {
        return Err(ShellError::failed(&item.text));
    }
    shell.console().line(&format!("Deleted {}", item.text))
}

async fn rmdir(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    let keep_quiet = arguments.has("-ignore-fail-on-non-empty");
    for item in expand_all(shell, arguments.operands).await? {
        match rmdir_one(&item).await {
            Err(ShellError::NotEmpty(_)) if keep_quiet => {}
            Err(error) => shell.report(error)?,
            Ok(()) => {}
        }
    }
    Ok(())
}

async fn rmdir_one(item: &Item) -> Result<(), ShellError> {
    if !item.status()?.is_directory {
        return Err(ShellError::NotDirectory(item.text.clone()));
    }
    if !item.file_system.list(&item.path).await?.is_empty() {
        return Err(ShellError::NotEmpty(item.text.clone()));
    }
    if item.file_system.delete(&item.path, false).await? {
        Ok(())
    } else {
        Err(ShellError::failed(&item.text))
    }
}

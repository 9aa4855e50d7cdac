//! `-getmerge`.

use super::Shell;
use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::file_system::{FileSystem, Sink};
use super::item::{Item, expand_all};

pub const GETMERGE: Command = Command {
    name: "getmerge",
    options: &[
        flag("nl", "Writes a newline after each file."),
        flag("skip-empty-file", "With -nl, writes none after an empty file."),
    ],
    operands: "<src> <localdst>",
    operands_min: 2,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Writes the given files, and the files right in the given directories, one after another \
            into one local file.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let target = arguments.operands.pop_back().unwrap_or_default();
    let target = Item::look_up_local(&target).await?;
    if target.is_directory() {
        return Err(ShellError::IsDirectory(target.text));
    }
    let newline = arguments.has("nl");
    let newline_after_empty = newline && !arguments.has("skip-empty-file");
    let operands = std::mem::take(&mut arguments.operands);
    let errors_before = shell.errors();
    let mut files = Vec::new();
    for item in expand_all(shell, operands).await? {
        match files_of(item).await {
            Ok(found) => files.extend(found),
            Err(error) => shell.report(error)?,
        }
    }
    if shell.errors() > errors_before {
        return Ok(());
    }
    if let Some(parent) = super::path::parent(&target.path) {
        target.file_system.make_directories(parent).await?;
    }
    let mut output = FileSystem::Local.create(&target.path, false).await?;
    for file in files {
        write(&file, &mut output).await?;
        if if file.length() == 0 { newline_after_empty } else { newline } {
            output.write(bytes::Bytes::from_static(b"\n")).await?;
        }
    }
    output.close().await
}

/// A file itself, of a directory its files but not what is deeper.
async fn files_of(item: Item) -> Result<Vec<Item>, ShellError> {
    if !item.status()?.is_directory {
        return Ok(vec![item]);
    }
    let mut children = item.children().await?;
    children.retain(|child| !child.is_directory());
    Ok(children)
}

async fn write(file: &Item, output: &mut Sink) -> Result<(), ShellError> {
    let mut source = file.file_system.open(&file.path, true).await?;
    while let Some(data) = source.next().await? {
        output.write(data).await?;
    }
    Ok(())
}

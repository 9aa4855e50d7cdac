//! `-concat`.

use super::Shell;
use super::arguments::Arguments;
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, expand_all};

pub const CONCAT: Command = Command {
    name: "concat",
    options: &[],
    operands: "<target path> <src path> <src path> ...",
    operands_min: 0,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: true,
    about: "Moves the blocks of the sources to the end of the target, in order, and deletes the \
            sources. All are in one directory.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    let mut items = expand_all(shell, arguments.operands).await?.into_iter();
    let target = items.next().ok_or_else(|| refuse("Target path not specified."))?;
    let sources: Vec<Item> = items.collect();
    if sources.len() < 2 {
        return Err(refuse("The number of source paths is less than 2."));
    }
    if !is_file(&target) {
        let message = format!("Target path {} does not exist or is not file.", target.uri());
        return Err(ShellError::Message(message));
    }
    if let Some(source) = sources.iter().find(|source| !is_file(source)) {
        let message = format!("{} does not exist or is not file.", source.uri());
        return Err(ShellError::Message(message));
    }
    let paths = sources.into_iter().map(|source| source.path).collect();
    target.file_system.concat(&target.path, paths).await
}

fn refuse(why: &str) -> ShellError {
    ShellError::Message(format!("{why} {}", CONCAT.operands))
}

fn is_file(item: &Item) -> bool {
    item.exists() && !item.is_directory()
}

//! `-checksum`.

use super::Shell;
use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, expand_all};

pub const CHECKSUM: Command = Command {
    name: "checksum",
    options: &[flag("v", "Shows the block size too.")],
    operands: "<src> ...",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Prints the checksum of each file as path, algorithm and hexadecimal digits. By default it \
            depends on the block size; -D dfs.checksum.combine.mode=COMPOSITE_CRC depends on the \
            bytes alone.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    let with_block_size = arguments.has("v");
    for item in expand_all(shell, arguments.operands).await? {
        match line(&item, with_block_size).await {
            Ok(line) => shell.console().line(&line)?,
            Err(error) => shell.report(error)?,
        }
    }
    Ok(())
}

async fn line(item: &Item, with_block_size: bool) -> Result<String, ShellError> {
    let status = item.status()?;
    if status.is_directory {
        return Err(ShellError::IsDirectory(item.text.clone()));
    }
    let (algorithm, digits) = item.file_system.checksum(&item.path).await?;
    let mut line = format!("{}\t{algorithm}\t{digits}", item.text);
    if with_block_size {
        line.push_str(&format!("\tBlockSize={}", status.block_size));
    }
    Ok(line)
}

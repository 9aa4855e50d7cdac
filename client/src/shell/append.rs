//! `-appendToFile`.

use super::Shell;
use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::destination;
use super::error::ShellError;
use super::file_system::{Sink, Source};
use super::item::Item;

pub const APPEND_TO_FILE: Command = Command {
    name: "appendToFile",
    options: &[flag("n", "Starts a new block, whatever room the last one has.")],
    operands: "<localsrc> ... <dst>",
    operands_min: 0,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Appends local files, or standard input for -, to a file, which is made when there is none.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    if arguments.operands.len() < 2 {
        return Err(ShellError::Message("missing destination argument".to_owned()));
    }
    let new_block = arguments.has("n");
    let target = destination::remote(shell, &mut arguments.operands).await?;
    if !target.exists() {
        target.file_system.create_empty(&target.path).await?;
    }
    let mut output = target.file_system.append(&target.path, new_block).await?;
    let outcome = append_all(arguments.operands.make_contiguous(), &mut output).await;
    // What came before an unreadable source is part of the file.
    let closed = output.close().await;
    outcome.and(closed)
}

async fn append_all(operands: &[String], output: &mut Sink) -> Result<(), ShellError> {
    if operands.iter().any(|operand| operand == "-") {
        if operands.len() > 1 {
            let message = "stdin (-) must be the sole input argument when present";
            return Err(ShellError::Message(message.to_owned()));
        }
        return pour(Source::StandardInput, output).await;
    }
    for operand in operands {
        let item = Item::look_up_local(operand).await?;
        match &item.status {
            None => return Err(ShellError::Message(item.path)),
            Some(status) if status.is_directory => {
                return Err(ShellError::Message("Is a directory".to_owned()));
            }
            Some(_) => {}
        }
        pour(item.file_system.open(&item.path, true).await?, output).await?;
    }
    Ok(())
}

async fn pour(mut source: Source, output: &mut Sink) -> Result<(), ShellError> {
    while let Some(data) = source.next().await? {
        output.write(data).await?;
    }
    Ok(())
}

//! `-truncate`.

use std::time::Duration;

use super::Shell;
use super::arguments::{Arguments, flag, parse_number};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, expand_all};

const POLL_INTERVAL: Duration = Duration::from_millis(200);

pub const TRUNCATE: Command = Command {
    name: "truncate",
    options: &[flag("w", "Waits until the last block is recovered, where that is needed.")],
    operands: "<length> <path> ...",
    operands_min: 2,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Cuts files to a length.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let text = arguments.take_operand()?;
    let length = match parse_number(&text, i64::MIN, i64::MAX) {
        Ok(number) => number,
        Err(error) => {
            shell.warn("Illegal length, a non-negative integer expected")?;
            return Err(error);
        }
    };
    let length =
        u64::try_from(length).map_err(|_| ShellError::Usage("length must be >= 0".to_owned()))?;
    let wait = arguments.has("w");
    let mut recovering = Vec::new();
    for item in expand_all(shell, arguments.operands).await? {
        match cut(&item, length).await {
            Ok(true) => shell.console().line(&done(&item, length))?,
            Ok(false) if wait => recovering.push(item),
            Ok(false) => shell.console().line(&format!(
                "Truncating {} to length: {length}. Wait for block recovery to complete before \
                 further updating this file.",
                item.text
            ))?,
            Err(error) => shell.report(error)?,
        }
    }
    for mut item in recovering {
        shell.console().line(&format!("Waiting for {} ...", item.text))?;
        shell.console().flush()?;
        while item.length() != length || !item.file_system.is_closed(&item.path).await? {
            tokio::time::sleep(POLL_INTERVAL).await;
            item.refresh().await?;
            item.status()?;
        }
        shell.console().line(&done(&item, length))?;
    }
    Ok(())
}

fn done(item: &Item, length: u64) -> String {
    format!("Truncated {} to length: {length}", item.text)
}

/// `false` while the last block is still to be recovered at its new length.
async fn cut(item: &Item, length: u64) -> Result<bool, ShellError> {
    let status = item.status()?;
    if status.is_directory {
        return Err(ShellError::IsDirectory(item.text.clone()));
    }
    if length > status.length {
        return Err(ShellError::Usage(format!(
            "Cannot truncate to a larger file size. Current size: {}, truncate size: {length}.",
            status.length
        )));
    }
    item.file_system.truncate(&item.path, length).await
}

//! `-setrep`.

use std::time::Duration;

use super::Shell;
use super::arguments::{Arguments, flag, parse_number};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, Walk, expand_all};

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A dot is printed once in so many polls: every 10 seconds.
const POLLS_PER_DOT: u32 = 10;

pub const SETREP: Command = Command {
    name: "setrep",
    options: &[
        flag("R", "Taken for the sake of scripts: directories are always descended."),
        flag("w", "Waits until every block has that many replicas."),
    ],
    operands: "<rep> <path> ...",
    operands_min: 2,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Sets the replication of files, and of all files below directories.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    let text = arguments.take_operand()?;
    let replication = match parse_number(&text, i16::MIN.into(), i16::MAX.into()) {
        Ok(number) => number,
        Err(error) => {
            shell.warn("Illegal replication, a positive integer expected")?;
            return Err(error);
        }
    };
    if replication < 1 {
        return Err(ShellError::Usage("replication must be >= 1".to_owned()));
    }
    let replication = replication as u32;
    let wait = arguments.has("w");
    let mut changed = Vec::new();
    let mut walk = Walk::from(expand_all(shell, arguments.operands).await?);
    while let Some(item) = walk.next() {
        match set(shell, &item, replication).await {
            Ok(true) if wait => changed.push(item),
            Ok(true) => {}
            Ok(false) => walk.enter(shell, &item).await?,
            Err(error) => shell.report(error)?,
        }
    }
    for item in changed {
        await_replicas(shell, &item, replication).await?;
    }
    Ok(())
}

/// `false` for a directory, which has no replication of its own.
async fn set(shell: &mut Shell, item: &Item, replication: u32) -> Result<bool, ShellError> {
    if item.status()?.is_directory {
        return Ok(false);
    }
    if !item.file_system.set_replication(&item.path, replication).await? {
        let message = format!("Could not set replication for: {}", item.text);
        return Err(ShellError::Message(message));
    }
    shell.console().line(&format!("Replication {replication} set: {}", item.text))?;
    Ok(true)
}

async fn await_replicas(
    shell: &mut Shell,
    item: &Item,
    replication: u32,
) -> Result<(), ShellError> {
    shell.console().bytes(format!("Waiting for {} ...", item.text).as_bytes())?;
    let mut warned = false;
    for poll in 1.. {
        let counts = item.file_system.replica_counts(&item.path).await?;
        if counts.iter().all(|count| *count == replication) {
            break;
        }
        if !warned && counts.iter().any(|count| *count > replication) {
            warned = true;
            let warning = "\nWARNING: the waiting time may be long for DECREASING the number of \
                           replications.";
            shell.console().line(warning)?;
        }
        if poll % POLLS_PER_DOT == 1 {
            shell.console().bytes(b".")?;
        }
        shell.console().flush()?;
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    shell.console().line(" done")
}

//! `-du` and `-df`.

use super::Shell;
use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::format::{self, Table};
use super::item::{Item, expand_all};

pub const DU: Command = Command {
    name: "du",
    options: &[
        flag("s", "Shows one sum for each path, not one for each entry of a directory."),
        flag("h", "Shows sizes with binary prefixes: 1.5 K, 128 M."),
        flag("v", "Shows a line of column names."),
        flag("x", "Leaves snapshots out."),
    ],
    operands: "<path> ...",
    operands_min: 0,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Shows how much the files below each path hold. \
            Columns: bytes, bytes of all replicas, path.",
    run: |shell, arguments| Box::pin(du(shell, arguments)),
};

pub const DF: Command = Command {
    name: "df",
    options: &[flag("h", "Shows sizes with binary prefixes: 1.5 K, 128 M.")],
    operands: "[<path> ...]",
    about: "Shows capacity, used and free space of the file system.",
    run: |shell, arguments| Box::pin(df(shell, arguments)),
    ..DU
};

async fn du(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    if arguments.operands.is_empty() {
        arguments.operands.push_back(".".to_owned());
    }
    let mut table = Table::new(&[]);
    if arguments.has("v") {
        let header = ["SIZE", "DISK_SPACE_CONSUMED_WITH_ALL_REPLICAS", "FULL_PATH_NAME"];
        table.add(header.map(str::to_owned).to_vec());
    }
    let header_rows = table.len();
    let operands = std::mem::take(&mut arguments.operands);
    for item in expand_all(shell, operands).await? {
        let items = match entries(item, arguments.has("s")).await {
            Ok(items) => items,
            Err(error) => {
                shell.report(error)?;
                continue;
            }
        };
        for item in items {
            match du_row(&item, arguments.has("h"), arguments.has("x")).await {
                Ok(row) => table.add(row),
                Err(error) => shell.report(error)?,
            }
        }
    }
    print(shell, &table, header_rows)
}

async fn entries(item: Item, summed: bool) -> Result<Vec<Item>, ShellError> {
    if item.status()?.is_directory && !summed { item.children().await } else { Ok(vec![item]) }
}

async fn du_row(
    item: &Item,
    human: bool,
    without_snapshots: bool,
) -> Result<Vec<String>, ShellError> {
    let summary = item.file_system.summary(&item.path).await?;
    let (mut length, mut space) = (summary.length, summary.space_consumed);
    if without_snapshots {
        length -= summary.snapshot_length;
        space -= summary.snapshot_space_consumed;
    }
    Ok(vec![format::size(length, human), format::size(space, human), item.text.clone()])
}

async fn df(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    if arguments.operands.is_empty() {
        arguments.operands.push_back("/".to_owned());
    }
    let mut table = Table::new(&[1, 2, 3, 4]);
    table.add(["Filesystem", "Size", "Used", "Available", "Use%"].map(str::to_owned).to_vec());
    let operands = std::mem::take(&mut arguments.operands);
    for item in expand_all(shell, operands).await? {
        match df_row(&item, arguments.has("h")).await {
            Ok(row) => table.add(row),
            Err(error) => shell.report(error)?,
        }
    }
    print(shell, &table, 1)
}

async fn df_row(item: &Item, human: bool) -> Result<Vec<String>, ShellError> {
    item.status()?;
    let space = item.file_system.space().await?;
    let percent = match space.capacity {
        0 => "NaN".to_owned(),
        capacity => format!("{:.0}%", space.used as f64 / capacity as f64 * 100.0),
    };
    let size = |bytes: u64| format::size(i64::try_from(bytes).unwrap_or(i64::MAX), human);
    Ok(vec![
        item.file_system.uri().to_owned(),
        size(space.capacity),
        size(space.used),
        size(space.remaining),
        percent,
    ])
}

fn print(shell: &mut Shell, table: &Table, header_rows: usize) -> Result<(), ShellError> {
    if table.len() > header_rows {
        for line in table.lines() {
            shell.console().line(&line)?;
        }
    }
    Ok(())
}

//! `-count`.

use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::file_system::Summary;
use super::item::{Item, expand_all};
use super::{Shell, format};

pub const COUNT: Command = Command {
    name: "count",
    options: &[
        flag("q", "Shows quotas and what is left of them too."),
        flag("h", "Shows numbers with binary prefixes."),
        flag("v", "Shows a line of column names."),
        flag("u", "Shows quotas and what is left of them alone."),
        flag("x", "Leaves snapshots out."),
    ],
    operands: "<path> ...",
    operands_min: 1,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Counts directories, files and bytes below each path. \
            Columns: DIR_COUNT FILE_COUNT CONTENT_SIZE PATHNAME; \
            with -q QUOTA REM_QUOTA SPACE_QUOTA REM_SPACE_QUOTA before them.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

const QUOTA_HEADER: &str = "       QUOTA       REM_QUOTA     SPACE_QUOTA REM_SPACE_QUOTA ";
const COUNT_HEADER: &str = "   DIR_COUNT   FILE_COUNT       CONTENT_SIZE ";

struct Counting {
    quotas: bool,
    counts: bool,
    human: bool,
    without_snapshots: bool,
}

async fn run(shell: &mut Shell, arguments: Arguments) -> Result<(), ShellError> {
    let quotas = arguments.has("q") || arguments.has("u");
    if quotas && arguments.has("x") {
        shell.console().line("q or u option is given, the -x option is ignored.")?;
    }
    let counting = Counting {
        quotas,
        counts: !arguments.has("u"),
        human: arguments.has("h"),
        without_snapshots: arguments.has("x") && !quotas,
    };
    if arguments.has("v") {
        let quota_header = if counting.quotas { QUOTA_HEADER } else { "" };
        let count_header = if counting.counts { COUNT_HEADER } else { "" };
        shell.console().line(&format!("{quota_header}{count_header}PATHNAME"))?;
    }
    for item in expand_all(shell, arguments.operands).await? {
        match counting.line(&item).await {
            Ok(line) => shell.console().line(&line)?,
            Err(error) => shell.report(error)?,
        }
    }
    Ok(())
}

impl Counting {
    async fn line(&self, item: &Item) -> Result<String, ShellError> {
        item.status()?;
        let summary = item.file_system.summary(&item.path).await?;
        let mut line = String::new();
        if self.quotas {
            line.push_str(&self.quota_columns(&summary));
        }
        if self.counts {
            line.push_str(&self.count_columns(&summary));
        }
        line.push_str(&item.text);
        Ok(line)
    }

    fn quota_columns(&self, summary: &Summary) -> String {
        let columns = |quota: Option<i64>, used: i64| match quota {
            Some(quota) => (
                format::size(quota, self.human),
                format::size(quota.saturating_sub(used), self.human),
            ),
            None => ("none".to_owned(), "inf".to_owned()),
        };
        let names = columns(summary.quota, summary.directories.saturating_add(summary.files));
        let space = columns(summary.space_quota, summary.space_consumed);
        format!("{:>12} {:>15} {:>15} {:>15} ", names.0, names.1, space.0, space.1)
    }

    fn count_columns(&self, summary: &Summary) -> String {
        let size = |number| format::size(number, self.human);
        let (mut directories, mut files, mut length) =
            (summary.directories, summary.files, summary.length);
        if self.without_snapshots {
            directories -= summary.snapshot_directories;
            files -= summary.snapshot_files;
            length -= summary.snapshot_length;
        }
        format!("{:>12} {:>12} {:>18} ", size(directories), size(files), size(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let counting =
            Counting { quotas: true, counts: true, human: false, without_snapshots: false };
        let mut summary =
            Summary { directories: 3, files: 4, length: 2_503_006, ..Summary::default() };
        assert_eq!(
            counting.count_columns(&summary),
            "           3            4            2503006 "
        );
        assert_eq!(
            counting.quota_columns(&summary),
            "        none             inf            none             inf "
        );
        summary.quota = Some(10);
        assert!(counting.quota_columns(&summary).starts_with("          10               3 "));
        assert_eq!(QUOTA_HEADER.len(), counting.quota_columns(&summary).len());
        assert_eq!(COUNT_HEADER.len(), counting.count_columns(&summary).len());
    }
}

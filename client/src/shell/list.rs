//! `-ls`.

use super::arguments::{Arguments, flag};
use super::command::{ANY_NUMBER, Command};
use super::error::ShellError;
use super::item::{Item, Walk, expand_all};
use super::{Shell, format, mode};

pub const LS: Command = Command {
    name: "ls",
    options: &[
        flag("C", "Shows paths alone."),
        flag("d", "Shows a directory itself, not what it holds."),
        flag("h", "Shows sizes with binary prefixes: 1.5 K, 128 M."),
        flag("q", "Shows ? in place of characters that cannot be printed."),
        flag("R", "Descends into directories."),
        flag("t", "Sorts by modification time, latest first."),
        flag("S", "Sorts by size, largest first."),
        flag("r", "Reverses the order."),
        flag("u", "Shows and sorts by access time instead of modification time."),
    ],
    operands: "[<path> ...]",
    operands_min: 0,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: false,
    about: "Lists files and what directories hold; without a path, the home directory. \
            Columns: permissions, replication (- for a directory), owner, group, size in bytes, \
            modification time, path.",
    run: |shell, arguments| Box::pin(run(shell, arguments)),
};

async fn run(shell: &mut Shell, mut arguments: Arguments) -> Result<(), ShellError> {
    if arguments.operands.is_empty() {
        arguments.operands.push_back(".".to_owned());
    }
    let mut listing = Listing::new(&arguments);
    let itself = arguments.has("d");
    let recursive = arguments.has("R") && !itself;
    for item in expand_all(shell, std::mem::take(&mut arguments.operands)).await? {
        if let Err(error) = listing.argument(shell, item, itself, recursive).await {
            shell.report(error)?;
        }
    }
    Ok(())
}

/// How lines look; columns only ever widen, from one directory of a command to the next.
struct Listing {
    paths_only: bool,
    human: bool,
    printable_only: bool,
    by_time: bool,
    by_size: bool,
    reverse: bool,
    access_time: bool,
    replication_width: usize,
    owner_width: usize,
    group_width: usize,
    length_width: usize,
}

impl Listing {
    fn new(arguments: &Arguments) -> Self {
        Self {
            paths_only: arguments.has("C"),
            human: arguments.has("h"),
            printable_only: arguments.has("q"),
            by_time: arguments.has("t"),
            by_size: arguments.has("S") && !arguments.has("t"),
            reverse: arguments.has("r"),
            access_time: arguments.has("u"),
            replication_width: 3,
            owner_width: 0,
            group_width: 0,
            length_width: 10,
        }
    }

    async fn argument(
        &mut self,
        shell: &mut Shell,
        item: Item,
        itself: bool,
        recursive: bool,
    ) -> Result<(), ShellError> {
        if !item.status()?.is_directory || itself {
            self.widen(std::slice::from_ref(&item));
            return self.print(shell, &item);
        }
        let mut children = item.children().await?;
        if !recursive {
            if !self.paths_only && !children.is_empty() {
                shell.console().line(&format!("Found {} items", children.len()))?;
            }
            self.sort(&mut children);
        }
        self.widen(&children);
        let mut walk = Walk::from(children);
        while let Some(item) = walk.next() {
            self.print(shell, &item)?;
            if recursive && item.is_directory() {
                match item.children().await {
                    Ok(children) => {
                        self.widen(&children);
                        walk.descend(children);
                    }
                    Err(error) => shell.report(error)?,
                }
            }
        }
        Ok(())
    }

    /// Listings come sorted by name, and what is equal keeps that order.
    fn sort(&self, items: &mut [Item]) {
        items.sort_by(|a, b| {
            let order = if self.by_time {
                self.time_ms(b).cmp(&self.time_ms(a))
            } else if self.by_size {
                b.length().cmp(&a.length())
            } else {
                a.path.cmp(&b.path)
            };
            if self.reverse { order.reverse() } else { order }
        });
    }

    fn time_ms(&self, item: &Item) -> i64 {
        item.status.as_ref().map_or(0, |status| {
            if self.access_time { status.accessed_ms } else { status.modified_ms }
        })
    }

    fn widen(&mut self, items: &[Item]) {
        for status in items.iter().filter_map(|item| item.status.as_ref()) {
            let digits = |number: u64| number.to_string().len();
            self.replication_width = self.replication_width.max(digits(status.replication.into()));
            self.owner_width = self.owner_width.max(status.owner.chars().count());
            self.group_width = self.group_width.max(status.group.chars().count());
            self.length_width = self.length_width.max(digits(status.length));
        }
    }

    fn print(&self, shell: &mut Shell, item: &Item) -> Result<(), ShellError> {
        let path = if self.printable_only { printable(&item.text) } else { item.text.clone() };
        if self.paths_only {
            return shell.console().line(&path);
        }
        let status = item.status()?;
        let (kind, replication) = if status.is_directory {
            ('d', "-".to_owned())
        } else {
            ('-', status.replication.to_string())
        };
        let line = format!(
            "{kind}{} {replication:>repl$} {:<owner$} {:<group$} {:>length$} {} {path}",
            mode::symbolic(status.mode),
            status.owner,
            status.group,
            format::size(status.length as i64, self.human),
            format::local_minute(self.time_ms(item)),
            repl = self.replication_width,
            owner = self.owner_width,
            group = self.group_width,
            length = self.length_width,
        );
        shell.console().line(&line)
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

//! The commands of `ringfs dfs`: each is one [`Command`], from which its arguments are parsed and its
//! usage and help are printed.

use std::future::Future;
use std::pin::Pin;

use super::arguments::{Arguments, OptionSpec, Takes};
use super::console::Console;
use super::error::ShellError;
use super::format::wrap;
use super::{Shell, generic_options};
use super::{
    append, checksum, concat, copy, count, delete, display, find, list, make_directory, merge,
    ownership, rename, replication, space, stat, test_path, touch, truncate,
};

const HELP_WIDTH: usize = 78;

/// The work of a command, on the arguments that its definition allows.
pub type Run = for<'a> fn(
    &'a mut Shell,
    Arguments,
) -> Pin<Box<dyn Future<Output = Result<(), ShellError>> + 'a>>;

#[derive(Clone, Copy)]
pub struct Command {
    pub name: &'static str,
    pub options: &'static [OptionSpec],
    /// How the usage line shows what follows the options; with a dash in front, the options too.
    pub operands: &'static str,
    pub operands_min: usize,
    pub operands_max: usize,
    /// Words that look like options but are none stay operands (`-chmod -w PATH`).
    pub leaves_unknown_options: bool,
    pub about: &'static str,
    pub run: Run,
}

pub const ANY_NUMBER: usize = usize::MAX;

/// In the order of the usage: by name.
pub const ALL: &[Command] = &[
    append::APPEND_TO_FILE,
    display::CAT,
    checksum::CHECKSUM,
    ownership::CHGRP,
    ownership::CHMOD,
    ownership::CHOWN,
    concat::CONCAT,
    copy::COPY_FROM_LOCAL,
    copy::COPY_TO_LOCAL,
    count::COUNT,
    copy::CP,
    space::DF,
    space::DU,
    find::FIND,
    copy::GET,
    merge::GETMERGE,
    display::HEAD,
    HELP,
    list::LS,
    make_directory::MKDIR,
    copy::MOVE_FROM_LOCAL,
    rename::MV,
    copy::PUT,
    delete::RM,
    delete::RMDIR,
    replication::SETREP,
    stat::STAT,
    display::TAIL,
    test_path::TEST,
    display::TEXT,
    touch::TOUCH,
    touch::TOUCHZ,
    truncate::TRUNCATE,
    USAGE,
];

const HELP: Command = Command {
    name: "help",
    options: &[],
    operands: "[cmd ...]",
    operands_min: 0,
    operands_max: ANY_NUMBER,
    leaves_unknown_options: true,
    about: "Explains the given commands, or all of them.",
    run: |shell, arguments| Box::pin(async move { help(shell.console(), &arguments, true) }),
};

const USAGE: Command = Command {
    name: "usage",
    about: "Shows how the given commands, or all of them, are called.",
    run: |shell, arguments| Box::pin(async move { help(shell.console(), &arguments, false) }),
    ..HELP
};

/// Commands of `hdfs dfs` that there are not, and why.
const NOT_OFFERED: &[(&str, &str)] = &[
    ("createSnapshot", "there are no snapshots"),
    ("deleteSnapshot", "there are no snapshots"),
    ("expunge", "trash checkpoints are not made: -rm -r -skipTrash .Trash empties the trash"),
    ("getfacl", "there are no ACLs"),
    ("getfattr", "there are no extended attributes"),
    ("renameSnapshot", "there are no snapshots"),
    ("setfacl", "there are no ACLs"),
    ("setfattr", "there are no extended attributes"),
];

/// Why a command that Hadoop has is missing here.
pub fn why_not_offered(name: &str) -> Option<&'static str> {
    NOT_OFFERED.iter().find(|(known, _)| *known == name).map(|(_, why)| *why)
}

/// The command of that name, without its dash.
pub fn find(name: &str) -> Option<&'static Command> {
    ALL.iter().find(|command| command.name == name)
}

impl Command {
    /// The option spelled `name`, and for one that takes its suffix, that suffix.
    pub fn option<'a>(&self, name: &'a str) -> Option<(&'static OptionSpec, &'a str)> {
        self.options.iter().find_map(|option| {
            if option.name == name || (!name.is_empty() && option.alias == name) {
                return Some((option, ""));
            }
            let suffix = name.strip_prefix(option.name)?;
            (option.takes == Takes::Suffix).then_some((option, suffix))
        })
    }

    /// `-ls [-C] [-d] ... [<path> ...]`
    pub fn usage(&self) -> String {
        let mut words = vec![format!("-{}", self.name)];
        if !self.operands.starts_with('-') {
            words.extend(self.options.iter().map(|option| format!("[{}]", option.usage())));
        }
        if !self.operands.is_empty() {
            words.push(self.operands.to_owned());
        }
        words.join(" ")
    }

    fn help_lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} :", self.usage())];
        lines.extend(wrap(self.about, HELP_WIDTH).into_iter().map(|line| format!("  {line}")));
        let width = self.options.iter().map(|option| option.usage().len()).max().unwrap_or(0);
        if width > 0 {
            lines.push(String::new());
        }
        for option in self.options {
            let mut first = option.usage();
            for line in wrap(option.help, HELP_WIDTH - width - 2) {
                lines.push(format!("  {:<width$}  {line}", std::mem::take(&mut first)));
            }
        }
        lines
    }
}

pub const USAGE_PREFIX: &str = "Usage: hadoop fs [generic options]";

/// The usage of every command and of the generic options.
pub fn usage_lines() -> Vec<String> {
    let mut lines = vec![USAGE_PREFIX.to_owned()];
    lines.extend(ALL.iter().map(|command| format!("\t[{}]", command.usage())));
    lines.push(String::new());
    lines.extend(generic_options::usage_lines());
    lines
}

fn help(console: &mut Console, arguments: &Arguments, in_full: bool) -> Result<(), ShellError> {
    for name in &arguments.operands {
        let command =
            find(name).ok_or_else(|| ShellError::Usage(format!("`{name}': Unknown command")))?;
        if in_full {
            for line in command.help_lines() {
                console.line(&line)?;
            }
        } else {
            console.line(&format!("{USAGE_PREFIX} {}", command.usage()))?;
        }
    }
    if !arguments.operands.is_empty() {
        return Ok(());
    }
    let (commands, generic) = (ALL.len() + 2, usage_lines());
    for line in &generic[..commands] {
        console.line(line)?;
    }
    if in_full {
        for command in ALL {
            for line in command.help_lines() {
                console.line(&line)?;
            }
            console.line("")?;
        }
    }
    for line in &generic[commands..] {
        console.line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted_and_documented() {
        assert!(ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(NOT_OFFERED.iter().all(|(name, _)| find(name).is_none()));
        for command in ALL {
            assert!(command.operands_min <= command.operands_max, "{}", command.name);
            assert!(command.about.ends_with('.'), "{}", command.name);
            for option in command.options {
                assert!(option.help.ends_with('.'), "{} -{}", command.name, option.name);
            }
        }
    }

    #[test]
    fn usage_is_hadoops() {
        let usage = |name| find(name).expect("a command of the table").usage();
        assert_eq!(usage("ls"), "-ls [-C] [-d] [-h] [-q] [-R] [-t] [-S] [-r] [-u] [<path> ...]");
        assert_eq!(
            usage("put"),
            "-put [-f] [-p] [-l] [-d] [-t <thread count>] [-q <thread pool queue size>] <localsrc> ... <dst>"
        );
        assert_eq!(usage("test"), "-test -[defswrz] <path>");
        assert_eq!(usage("rmdir"), "-rmdir [--ignore-fail-on-non-empty] <dir> ...");
    }
}

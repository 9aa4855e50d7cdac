//! `ringfs dfs`: the commands, output, messages and exit codes of `hdfs dfs`.
//!
//! A command runs on the calling thread, which may block on local files and on standard output; the
//! client's connections live on the runtime's workers. An error that concerns one path is printed and
//! the command goes on; it ends at a wrong command line (exit code 255) and when nobody reads its
//! output any more (which is success).

mod append;
mod arguments;
mod checksum;
mod command;
mod concat;
mod console;
mod copy;
mod count;
mod delete;
mod destination;
mod display;
mod error;
mod file_system;
mod find;
mod format;
mod generic_options;
mod glob;
mod hdfs;
mod item;
mod list;
mod local;
mod make_directory;
mod merge;
mod mode;
mod ownership;
mod path;
mod progress;
mod rename;
mod replication;
mod space;
mod stat;
mod temporaries;
mod test_path;
mod touch;
mod trash;
mod truncate;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use ringfs_protocol::settings;
use ringfs_protocol::site_config::Configuration;
use tokio::signal::unix::{SignalKind, signal};

use arguments::Arguments;
use command::{Command, USAGE_PREFIX, usage_lines};
use console::Console;
use error::{EXIT_FAILURE, EXIT_USAGE, ShellError};
use file_system::FileSystem;
use generic_options::GenericOptions;
use path::PathParts;
use temporaries::Temporaries;

/// Threads that carry a command's connections: one would do, two keep a copy's reading and writing
/// sides apart.
const WORKER_THREADS: usize = 2;

/// What a shell ends with when a signal stops it.
const EXIT_INTERRUPTED: i32 = 130;

/// Runs one command line, what follows `ringfs dfs`, and says how it went.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut console = Console::standard();
    let mut words: Vec<String> =
        words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let outcome = match GenericOptions::take(&mut words) {
        Ok(generic) => run_command(console, &generic, words),
        Err(error) => console.complain(&error.first_line()).and_then(|()| {
            print_usage(&mut console, None)?;
            Ok(EXIT_USAGE)
        }),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(ShellError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", error.first_line());
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// The options of `ringfs dfs` itself, for its `--help` and for manual pages.
pub fn clap_command() -> clap::Command {
    clap::Command::new("ringfs dfs")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Works on files of an HDFS cluster, as `hdfs dfs` does")
        .override_usage("ringfs dfs [GENERIC OPTIONS] -COMMAND [OPTIONS] [OPERANDS]")
        .after_help(format!(
            "The dash before a command may be left out: `ringfs dfs ls /`.\n\
             `ringfs dfs -help` explains the commands:\n\n{}",
            usage_lines().join("\n")
        ))
}

fn run_command(
    mut console: Console,
    generic: &GenericOptions,
    mut words: Vec<String>,
) -> Result<u8, ShellError> {
    if words.is_empty() {
        print_usage(&mut console, None)?;
        return Ok(EXIT_USAGE);
    }
    let word = words.remove(0);
    let text = match word.as_str() {
        "--help" | "-h" => Some(clap_command().render_help().to_string()),
        "--version" | "-V" => Some(clap_command().render_version()),
        _ => None,
    };
    if let Some(text) = text {
        console.bytes(text.as_bytes())?;
        console.flush()?;
        return Ok(0);
    }
    let Some(command) = command::find(word.strip_prefix('-').unwrap_or(&word)) else {
        console.complain(&format!("{word}: Unknown command"))?;
        print_usage(&mut console, None)?;
        return Ok(EXIT_USAGE);
    };
    let conf_dir = std::env::var_os("HADOOP_CONF_DIR");
    let configuration = generic.configuration(conf_dir.as_deref().map(std::path::Path::new))?;
    let mut shell = Shell::new(configuration, console, command.name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| ShellError::Message(format!("cannot start threads: {error}")))?;
    runtime.spawn(clean_up_when_stopped(shell.temporaries()));
    let outcome = runtime.block_on(shell.run(command, words));
    // A connection's task may be waiting for a peer that is gone.
    runtime.shutdown_background();
    outcome
}

async fn clean_up_when_stopped(temporaries: Temporaries) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    temporaries.delete_all().await;
    std::process::exit(EXIT_INTERRUPTED);
}

fn print_usage(console: &mut Console, command: Option<&Command>) -> Result<(), ShellError> {
    for line in usage_lines() {
        console.complain(&line)?;
    }
    if let Some(command) = command {
        console.complain(&format!("{USAGE_PREFIX} {}", command.usage()))?;
    }
    Ok(())
}

/// What a running command has at hand.
pub struct Shell {
    configuration: Configuration,
    console: Console,
    command_name: &'static str,
    /// File systems in use, by the scheme and authority that were asked for.
    file_systems: Vec<(String, FileSystem)>,
    temporaries: Temporaries,
    errors: usize,
    exit_code: u8,
}

impl Shell {
    fn new(configuration: Configuration, console: Console, command_name: &'static str) -> Self {
        Self {
            configuration,
            console,
            command_name,
            file_systems: Vec::new(),
            temporaries: Temporaries::default(),
            errors: 0,
            exit_code: 0,
        }
    }

    async fn run(&mut self, command: &Command, words: Vec<String>) -> Result<u8, ShellError> {
        let outcome = match Arguments::parse(command, words) {
            Ok(arguments) => (command.run)(self, arguments).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            if let ShellError::Usage(message) = error {
                self.console.complain(&format!("-{}: {message}", command.name))?;
                print_usage(&mut self.console, Some(command))?;
                return Ok(EXIT_USAGE);
            }
            self.report(error)?;
        }
        self.console.flush()?;
        Ok(if self.errors > 0 { EXIT_FAILURE } else { self.exit_code })
    }

    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    pub fn temporaries(&self) -> Temporaries {
        self.temporaries.clone()
    }

    pub fn errors(&self) -> usize {
        self.errors
    }

    /// What the command ends with when nothing failed.
    pub fn set_exit_code(&mut self, code: u8) {
        self.exit_code = code;
    }

    pub fn warn(&mut self, message: &str) -> Result<(), ShellError> {
        self.console.complain(&format!("{}: {message}", self.command_name))
    }

    /// Prints an error that concerns one path, so that the command can go on; hands back one that
    /// ends it.
    pub fn report(&mut self, error: ShellError) -> Result<(), ShellError> {
        if error.ends_command() {
            return Err(error);
        }
        self.errors += 1;
        self.warn(&error.first_line())
    }

    /// Where a path is: its file system, and its absolute path there.
    pub fn locate(&mut self, text: &str) -> Result<(FileSystem, String), ShellError> {
        if text.is_empty() {
            let message = "Can not create a Path from an empty string";
            return Err(ShellError::Usage(message.to_owned()));
        }
        let parts = PathParts::split(text);
        let file_system = self.file_system(parts.scheme, parts.authority)?;
        let path = path::absolute(&file_system.home(), parts.path);
        Ok((file_system, path))
    }

    fn file_system(
        &mut self,
        scheme: Option<&str>,
        authority: Option<&str>,
    ) -> Result<FileSystem, ShellError> {
        let default = self.configuration.text(&settings::FS_DEFAULT_FS);
        let default = PathParts::split(&default);
        let scheme = scheme.or(default.scheme).unwrap_or("file");
        let authority = authority.or(default.authority.filter(|_| default.scheme == Some(scheme)));
        let key = format!("{scheme}://{}", authority.unwrap_or_default());
        if let Some((_, known)) = self.file_systems.iter().find(|(known, _)| *known == key) {
            return Ok(known.clone());
        }
        let file_system = FileSystem::open_uri(scheme, authority, &self.configuration)?;
        self.file_systems.push((key, file_system.clone()));
        Ok(file_system)
    }
}

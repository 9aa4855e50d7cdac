//! `ringfs COMMAND`: picks the command; every failure becomes a message on stderr and an exit code
//! here and nowhere else.

mod arguments;
mod bench;
mod demo;
mod error;
mod goals;
mod logging;
mod mini;
mod settings;
mod tune;

use std::ffi::OsString;
use std::future::Future;
use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};

use error::CommandError;

/// A small block costs hundreds of short-lived allocations over all processes.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "ringfs", version, about, propagate_version = true, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure this machine, a cluster, and one against the other
    Bench(Box<bench::Bench>),
    /// Run a datanode
    Datanode(ringfs_datanode::DatanodeCommand),
    /// Work with files, as `hdfs dfs` does; `ringfs dfs -help` lists the commands
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Dfs {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Format a namespace, or serve it
    Namenode(ringfs_namenode::NamenodeCommand),
    /// Start a namenode and datanodes on this machine, until Ctrl-C
    Mini(mini::MiniCommand),
    /// Write a file through three datanodes, read it back, compare, and say how fast that was
    Demo(demo::DemoCommand),
    /// Look at this host and its disks with a datanode's eyes, and say what to change
    Tune(tune::TuneCommand),
    /// List every setting with its default and meaning
    Settings,
}

fn main() -> ExitCode {
    ringfs::cluster::die_with_parent();
    let command_line = CommandLine::parse_from(arguments::with_double_dashes(std::env::args_os()));
    logging::start(match command_line.command {
        Command::Datanode(_) | Command::Namenode(_) => "info",
        _ => "warn",
    });
    let outcome = match command_line.command {
        Command::Datanode(command) => command.run().map_err(CommandError::from),
        Command::Namenode(command) => command.run().map_err(CommandError::from),
        Command::Dfs { arguments } => return ringfs_client::shell::run(arguments),
        Command::Mini(command) => match block_on(until_stopped(command.run())) {
            // Ctrl-C is how it is meant to end.
            Err(CommandError::Interrupted) => Ok(()),
            ended => ended,
        },
        Command::Demo(command) => block_on(until_stopped(command.run())),
        Command::Bench(bench) => bench.run(),
        Command::Tune(command) => command.run(),
        Command::Settings => settings::print(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // `ringfs settings | head` is no failure.
        Err(CommandError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringfs: {error}");
            error.exit_code()
        }
    }
}

fn block_on<E: Into<CommandError>>(
    command: impl Future<Output = Result<(), E>>,
) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(CommandError::Runtime)?.block_on(command).map_err(Into::into)
}

/// Runs `command` until it ends or SIGINT or SIGTERM comes. It is dropped then, and with it what it
/// holds: child processes and temporary directories.
async fn until_stopped(
    command: impl Future<Output = Result<(), CommandError>>,
) -> Result<(), CommandError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::Runtime)?;
    tokio::select! {
        outcome = command => outcome,
        _ = interrupt.recv() => Err(CommandError::Interrupted),
        _ = terminate.recv() => Err(CommandError::Interrupted),
    }
}

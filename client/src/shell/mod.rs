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
    let name = word.strip_prefix('-').unwrap_or(&word);
    if let Some(why) = command::why_not_offered(name) {
        console.complain(&format!("-{name}: not offered by ringfs: {why}"))?;
        return Ok(EXIT_USAGE);
    }
    let Some(command) = command::find(name) else {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Capture(Arc<Mutex<Vec<u8>>>);

    impl Write for Capture {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Capture {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// Output, errors and exit code of a command on the local file system.
    fn run_local(words: &[&str]) -> (String, String, u8) {
        let (output, errors) = (Capture::default(), Capture::default());
        let console = Console::new(Box::new(output.clone()), Box::new(errors.clone()));
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let code = run_command(console, &local_only(), words).unwrap();
        (output.text(), errors.text(), code)
    }

    fn local_only() -> GenericOptions {
        let default_fs = (settings::FS_DEFAULT_FS.name.to_owned(), "file:///".to_owned());
        GenericOptions { properties: vec![default_fs], files: Vec::new() }
    }

    fn run_well(words: &[&str]) -> String {
        let (output, errors, code) = run_local(words);
        assert_eq!((errors.as_str(), code), ("", 0), "{words:?}");
        output
    }

    /// A directory with `small` ("hello\n") and `tree/one`, `tree/sub/two`; and its path.
    fn sample() -> (tempfile::TempDir, impl Fn(&str) -> String) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("tree/sub")).unwrap();
        for name in ["small", "tree/one", "tree/sub/two"] {
            fs::write(directory.path().join(name), "hello\n").unwrap();
        }
        let base = directory.path().display().to_string();
        (directory, move |name: &str| format!("{base}/{name}"))
    }

    #[test]
    fn a_dash_before_the_command_may_be_left_out() {
        let (_directory, at) = sample();
        assert_eq!(run_well(&["-cat", &at("small")]), "hello\n");
        assert_eq!(run_well(&["cat", &at("small"), &at("tree/one")]), "hello\nhello\n");
    }

    #[test]
    fn wrong_command_lines_end_with_the_usage() {
        for (words, first) in [
            (&["-nosuch"][..], "-nosuch: Unknown command"),
            (&["-ls", "-Z"], "-ls: Illegal option -Z"),
            (&["-mkdir"], "-mkdir: Not enough arguments: expected 1 but got 0"),
            (&["-ls", ""], "-ls: Can not create a Path from an empty string"),
        ] {
            let (output, errors, code) = run_local(words);
            assert_eq!((output.as_str(), code), ("", EXIT_USAGE));
            let mut lines = errors.lines();
            assert_eq!(lines.next(), Some(first));
            assert_eq!(lines.next(), Some(USAGE_PREFIX));
        }
        let (_, errors, code) = run_local(&["-getfacl", "/"]);
        assert_eq!(
            (errors.as_str(), code),
            ("-getfacl: not offered by ringfs: there are no ACLs\n", EXIT_USAGE)
        );
    }

    #[test]
    fn a_command_goes_on_after_an_error() {
        let (_directory, at) = sample();
        let (output, errors, code) = run_local(&["-cat", &at("nosuch"), &at("small"), &at("z*")]);
        assert_eq!(output, "hello\n");
        let expected = format!(
            "cat: `{}': No such file or directory\ncat: `{}': No such file or directory\n",
            at("z*"),
            at("nosuch")
        );
        assert_eq!((errors, code), (expected, EXIT_FAILURE));
    }

    #[test]
    fn trees_are_copied_and_moved_whole() {
        let (_directory, at) = sample();
        run_well(&["-cp", &at("tree"), &at("copy")]);
        run_well(&["-get", "-t", "4", &at("tree"), &at("got")]);
        run_well(&["-moveFromLocal", &at("copy"), &at("moved")]);
        for name in ["moved/one", "moved/sub/two", "got/one", "got/sub/two"] {
            assert_eq!(fs::read(at(name)).unwrap(), b"hello\n", "{name}");
        }
        assert!(!fs::exists(at("copy")).unwrap());
        let listed = run_well(&["-ls", "-C", "-R", &at("got")]);
        let expected = ["got/one", "got/sub", "got/sub/two"].map(|name| at(name) + "\n").concat();
        assert_eq!(listed, expected);
    }

    #[test]
    fn what_exists_is_not_replaced_without_f() {
        let (_directory, at) = sample();
        fs::write(at("other"), "other\n").unwrap();
        let (_, errors, code) = run_local(&["-put", &at("small"), &at("other")]);
        assert_eq!(errors, format!("put: `{}': File exists\n", at("other")));
        assert_eq!(code, EXIT_FAILURE);
        run_well(&["-put", "-f", &at("small"), &at("other")]);
        assert_eq!(fs::read(at("other")).unwrap(), b"hello\n");
        let (_, errors, _) = run_local(&["-cp", &at("tree"), &at("tree/sub")]);
        assert!(errors.ends_with("': is a subdirectory of itself\n"), "{errors}");
    }

    #[test]
    fn a_failed_copy_leaves_nothing() {
        let (_directory, at) = sample();
        fs::create_dir(at("full._COPYING_")).unwrap();
        let (_, errors, code) = run_local(&["-put", &at("small"), &at("full")]);
        assert_eq!(code, EXIT_FAILURE, "{errors}");
        assert!(!fs::exists(at("full")).unwrap() && !fs::exists(at("full._COPYING_")).unwrap());
    }

    #[test]
    fn getmerge_puts_files_together() {
        let (_directory, at) = sample();
        run_well(&["-getmerge", "-nl", &at("tree"), &at("small"), &at("merged")]);
        assert_eq!(fs::read(at("merged")).unwrap(), b"hello\n\nhello\n\n");
    }

    #[test]
    fn nobody_reading_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_directory, at) = sample();
        let console = Console::new(Box::new(Closed), Box::new(Capture::default()));
        let words = vec!["-cat".to_owned(), at("small")];
        let outcome = run_command(console, &local_only(), words);
        assert!(matches!(outcome, Err(ShellError::Output(_))));
    }
}

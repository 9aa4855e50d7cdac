//! Child processes of the bench: this executable, `ringfs`, with a hidden command. Each tells its
//! parent lines on its standard output, and ends at the latest when its parent does.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::str::FromStr;

use rustix::process::Signal;

use crate::BenchError;

/// Killed when it is dropped.
pub struct ChildProcess {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl ChildProcess {
    /// `ringfs bench NAME`, to be given its options.
    pub fn command(name: &str) -> Result<Command, BenchError> {
        let executable =
            std::env::current_exe().map_err(BenchError::limit("find this executable"))?;
        let mut command = Command::new(executable);
        command.args(["bench", name]).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }

    pub fn start(mut command: Command) -> Result<Self, BenchError> {
        let mut child = command.spawn().map_err(BenchError::limit("start a child process"))?;
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, output })
    }

    /// Waits for the next line of it.
    pub fn line<T: FromStr>(&mut self) -> Result<T, BenchError> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(BenchError::limit("hear from a child process"))?;
        line.trim_end().parse().map_err(|_| failed(format!("it said {line:?} and no more")))
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a child did not do; the child itself has told the reason on its standard error.
pub fn failed(why: String) -> BenchError {
    BenchError::limit("measure with a child process")(io::Error::other(why))
}

/// In the child.
pub fn end_with_parent() -> Result<(), BenchError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| BenchError::limit("end with the parent process")(errno.into()))
}

/// In the child.
pub fn tell_parent(line: &str) -> Result<(), BenchError> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(BenchError::limit("answer the parent process"))
}

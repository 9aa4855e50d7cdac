//! One child process: its log, its end.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::{ClusterError, ClusterOptions, Host};

/// Tells a child which process it must not outlive.
const PARENT_VARIABLE: &str = "RINGFS_PARENT_PID";

/// Lines of its log that the report of a dead child quotes.
const TAIL_LINES: usize = 20;

/// Has the kernel kill this process when the process that started it as a part of a cluster ends.
/// To be called first of all by `main`; does nothing in a process started otherwise.
pub fn die_with_parent() {
    let Some(parent) = std::env::var(PARENT_VARIABLE).ok().and_then(|pid| pid.parse().ok()) else {
        return;
    };
    let armed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let parent_now = rustix::process::getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get());
    // The parent may have ended before the signal was armed.
    if armed.is_err() || parent_now != Some(parent) {
        std::process::exit(1);
    }
}

#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Runs the binary with `arguments` on `host`, its output appended to its log. What enters the
    /// host must become the binary, not start it: this process signals its child.
    pub fn spawn(
        name: &str,
        options: &ClusterOptions,
        host: &Host,
        arguments: &[String],
    ) -> Result<Self, ClusterError> {
        let log = options.directory.join("logs").join(format!("{name}.log"));
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(ClusterError::file("open", &log))?;
        let errors = output.try_clone().map_err(ClusterError::file("open", &log))?;
        let mut command = match host.enter.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&options.binary);
                command
            }
            None => Command::new(&options.binary),
        };
        if let Some(user) = &options.user {
            command.env("HADOOP_USER_NAME", user);
        }
        command
            .args(arguments)
            .env("HADOOP_CONF_DIR", options.directory.join("conf"))
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C at a terminal is for this process, which then stops its children in order.
            .process_group(0);
        let child = spawn_from_lasting_thread(command).map_err(|source| ClusterError::Spawn {
            name: name.to_owned(),
            binary: options.binary.clone(),
            source,
        })?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error when the process has ended.
    pub fn check(&mut self) -> Result<(), ClusterError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.died(status)),
            Err(source) => Err(ClusterError::file("wait for the process of", &self.log)(source)),
        }
    }

    /// For a process that does its work and ends.
    pub fn wait_for_success(mut self) -> Result<(), ClusterError> {
        let status = self.child.wait();
        let status = status.map_err(ClusterError::file("wait for the process of", &self.log))?;
        if status.success() { Ok(()) } else { Err(self.died(status)) }
    }

    pub fn terminate(&self) {
        // Fails only when the process has ended, which is what is asked for.
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// SIGTERM, and SIGKILL by drop after `timeout`. Ending with an error is an error.
    pub fn stop(mut self, timeout: Duration) -> Result<(), ClusterError> {
        self.terminate();
        let started = Instant::now();
        while started.elapsed() < timeout {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.died(status)),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Err(ClusterError::NotStopping {
            name: self.name.clone(),
            waited_s: timeout.as_secs(),
            log: self.log.clone(),
        })
    }

    fn died(&self, status: ExitStatus) -> ClusterError {
        ClusterError::Died {
            name: self.name.clone(),
            status: status.to_string(),
            log: self.log.clone(),
            tail: tail(&self.log),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(log: &Path) -> String {
    let Ok(file) = File::open(log) else {
        return String::new();
    };
    let mut last = VecDeque::with_capacity(TAIL_LINES + 1);
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        last.push_back(String::from_utf8_lossy(&line).into_owned());
        if last.len() > TAIL_LINES {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n")
}

/// "Dies with its parent" means to the kernel: with the thread that started it. So all children are
/// started by one thread that lasts as long as the process.
fn spawn_from_lasting_thread(command: Command) -> std::io::Result<Child> {
    type Request = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, reply) in requests {
                // A caller that is gone has no use for the child: it is killed with this process.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let gone = || std::io::Error::other("the thread that starts processes has ended");
    let (reply, child) = mpsc::channel();
    spawner.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(directory: &Path) -> ClusterOptions {
        std::fs::create_dir(directory.join("logs")).unwrap();
        ClusterOptions::new(Path::new("/bin/sh"), directory)
    }

    fn shell(script: &str) -> [String; 2] {
        ["-c".to_owned(), script.to_owned()]
    }

    #[test]
    fn a_dead_child_is_named_with_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let script = shell("seq 1 30; echo cannot bind >&2; exit 3");
        let server =
            Server::spawn("datanode7", &options(directory.path()), &Host::default(), &script)
                .unwrap();
        let message = server.wait_for_success().unwrap_err().to_string();
        assert!(message.contains("datanode7 ended with exit status: 3"), "{message}");
        assert!(message.contains("logs/datanode7.log"), "{message}");
        assert!(message.ends_with("29\n30\ncannot bind"), "{message}");
        assert!(!message.contains("\n11\n"), "only the last lines: {message}");
    }

    #[test]
    fn stop_is_gentle_first_and_drop_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let options = options(directory.path());
        let gentle = shell("trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done");
        let mut server = Server::spawn("gentle", &options, &Host::default(), &gentle).unwrap();
        while tail(&server.log).is_empty() {
            server.check().unwrap();
        }
        server.stop(Duration::from_secs(5)).unwrap();

        let deaf = shell("trap '' TERM; echo up; while :; do sleep 0.01; done");
        let mut server = Server::spawn("deaf", &options, &Host::default(), &deaf).unwrap();
        while tail(&server.log).is_empty() {
            server.check().unwrap();
        }
        let pid = Pid::from_child(&server.child);
        let error = server.stop(Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ClusterError::NotStopping { .. }), "{error}");
        assert!(rustix::process::test_kill_process(pid).is_err(), "killed and reaped");
    }
}

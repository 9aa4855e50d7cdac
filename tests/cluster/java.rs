//! Hadoop's Java client in one JVM that runs one command after the other (`tests/java/Shell.java`).

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Outcome, prerequisites};

/// What Hadoop reaches for inside the JDK.
const OPENED: &[&str] = &["java.lang", "java.util", "java.nio", "sun.nio.ch", "java.net"];

pub struct JavaShell {
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl JavaShell {
    /// A client with the configuration in `conf_dir` and `settings` over it, which acts as `user`.
    pub fn start(conf_dir: &Path, settings: &[(&str, &str)], user: Option<&str>) -> Self {
        let log = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/java");
        let class_path = format!(
            "{}:{}:{}:{}",
            conf_dir.display(),
            log.display(),
            prerequisites::java_shell_classes().display(),
            prerequisites::hadoop_class_path(),
        );
        let mut command = Command::new("java");
        command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m"]);
        command.args(OPENED.iter().flat_map(|package| {
            ["--add-opens".to_owned(), format!("java.base/{package}=ALL-UNNAMED")]
        }));
        command.args(["-cp", &class_path, "Shell"]);
        command.args(settings.iter().map(|(name, value)| format!("{name}={value}")));
        command.env_remove("HADOOP_USER_NAME").envs(user.map(|user| ("HADOOP_USER_NAME", user)));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("java: {error}; a JDK is needed, run tests/run"));
        let requests = child.stdin.take().expect("piped");
        let replies = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, requests, replies }
    }

    /// One command of `hdfs dfs`, or one of the driver's own (`@…`).
    #[track_caller]
    pub fn run(&mut self, arguments: &[&str]) -> Outcome {
        self.run_with_stdin(None, arguments)
    }

    #[track_caller]
    pub fn run_with_stdin(&mut self, stdin: Option<&Path>, arguments: &[&str]) -> Outcome {
        self.send(stdin, arguments);
        self.receive().unwrap_or_else(|said| panic!("{said} to {arguments:?}"))
    }

    /// Asks without waiting; each request is to be followed by a [`JavaShell::receive`].
    pub fn send(&mut self, stdin: Option<&Path>, arguments: &[&str]) {
        let stdin = stdin.map_or("-".to_owned(), |path| path.display().to_string());
        let fields: Vec<String> = std::iter::once(stdin.as_str())
            .chain(arguments.iter().copied())
            .map(|field| field.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n"))
            .collect();
        // A JVM that is gone is told of by its missing answer.
        let _ = writeln!(self.requests, "{}", fields.join("\t"));
    }

    /// The answer; an error when the JVM has ended.
    pub fn receive(&mut self) -> Result<Outcome, String> {
        let mut head = String::new();
        self.replies.read_line(&mut head).map_err(|error| error.to_string())?;
        let numbers: Vec<i32> =
            head.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let [exit, out_len, err_len] = numbers[..] else {
            return Err(format!("the JVM ended or said {head:?}"));
        };
        let (out_len, err_len) = (out_len as usize, err_len as usize);
        let mut bytes = vec![0; out_len + err_len];
        self.replies.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        let err = bytes.split_off(out_len);
        let err = String::from_utf8_lossy(&err).into_owned();
        Ok(Outcome { exit, out: bytes, err })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The command must succeed; what it wrote to stdout.
    #[track_caller]
    pub fn ok(&mut self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.exit, 0, "{arguments:?}: {}{}", outcome.text(), outcome.err);
        outcome.text()
    }

    /// SIGKILL: a writer that is gone without a word.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for JavaShell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

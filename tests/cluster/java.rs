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
        let stdin = stdin.map_or("-".to_owned(), |path| path.display().to_string());
        let fields: Vec<String> = std::iter::once(stdin.as_str())
            .chain(arguments.iter().copied())
            .map(|field| field.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n"))
            .collect();
        writeln!(self.requests, "{}", fields.join("\t")).expect("the JVM runs");
        let mut head = String::new();
        self.replies.read_line(&mut head).expect("the JVM answers");
        let numbers: Vec<i64> =
            head.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [exit, out_len, err_len] = numbers[..] else {
            panic!("the JVM ended or said {head:?} to {arguments:?}")
        };
        let mut bytes = vec![0; usize::try_from(out_len + err_len).unwrap()];
        self.replies.read_exact(&mut bytes).expect("the JVM answers");
        let err = bytes.split_off(usize::try_from(out_len).unwrap());
        let err = String::from_utf8_lossy(&err).into_owned();
        Outcome { exit: i32::try_from(exit).unwrap(), out: bytes, err }
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

//! `ringfs dfs` against what Hadoop's own shell prints and ends with, command by command.
//!
//! Each file of `tests/shell_golden` is a script in a namespace and a local directory of its own:
//!
//! ```text
//! # a remark
//! @ write small "hello\n"            a local file; also: random NAME BYTES, lines NAME COUNT,
//!                                    gzip NAME SOURCE, mkdir NAME
//! @ same got small                   a check; also: read NAME "bytes", absent NAME
//! $ as=alice stdin=small -put - /x   a command, perhaps of another user and with an input
//! > a line that it prints            `>|` for a last line without its newline
//! ! a line on standard error
//! = 1                                its exit code, when it is not 0
//! ```
//!
//! In commands `{URI}` is the file system and `{LOCAL}` the local directory; in lines also `{DATE}`
//! and `{TIME}` for times of today's clock, `{USAGE}` for what `-usage` prints, `{*}` for anything.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use regex::Regex;

use crate::cluster::{BINARY, TestCluster};

/// Who starts the namenode, and with it the superuser that the scripts expect.
const SUPERUSER: &str = "hdfs";

#[test]
fn shell_is_hadoops() {
    let cluster = TestCluster::start_as(SUPERUSER, &[("dfs.blocksize", "128m")]);
    let mut scripts: Vec<PathBuf> =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shell_golden"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let mut report = String::new();
    for script in scripts {
        Runner::new(&cluster.uri()).run(&script, &mut report);
    }
    assert!(report.is_empty(), "\n{report}");
}

struct Runner {
    uri: String,
    local: tempfile::TempDir,
    usage: String,
}

/// A command of a script with what is expected of it.
#[derive(Default)]
struct Step {
    line: String,
    number: usize,
    out: String,
    err: String,
    exit: i32,
}

impl Runner {
    fn new(uri: &str) -> Self {
        let mut runner =
            Self { uri: uri.to_owned(), local: tempfile::tempdir().unwrap(), usage: String::new() };
        runner.usage = runner.execute("-usage").0;
        runner
    }

    fn run(&self, script: &Path, report: &mut String) {
        let text = fs::read_to_string(script).unwrap();
        let mut steps: Vec<Step> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let (mark, rest) = line.split_at(1.min(line.len()));
            match (mark, steps.last_mut()) {
                ("$" | "@", _) => {
                    steps.push(Step { line: line.to_owned(), number, ..Step::default() });
                }
                (">", Some(step)) => push_line(&mut step.out, rest),
                ("!", Some(step)) => push_line(&mut step.err, rest),
                ("=", Some(step)) => step.exit = rest.trim().parse().unwrap(),
                ("#" | "", _) => {}
                _ => panic!("{}:{number}: {line}", script.display()),
            }
        }
        for step in steps {
            let problem = match step.line.strip_prefix("@ ") {
                Some(action) => self.act(action),
                None => self.compare(&step),
            };
            if let Some(problem) = problem {
                let name = script.file_name().unwrap().display();
                writeln!(report, "{name}:{}: {}\n{problem}", step.number, step.line).unwrap();
            }
        }
    }

    fn compare(&self, step: &Step) -> Option<String> {
        let (out, err, exit) = self.execute(step.line.trim_start_matches("$ "));
        let mut problem = String::new();
        for (what, expected, found) in
            [("standard output", &step.out, &out), ("standard error", &step.err, &err)]
        {
            if !self.pattern(expected).is_match(found) {
                writeln!(problem, "  {what}, expected:\n{expected}  found:\n{found}").unwrap();
            }
        }
        if exit != step.exit {
            writeln!(problem, "  exit code {exit} instead of {}", step.exit).unwrap();
        }
        Some(problem).filter(|problem| !problem.is_empty())
    }

    /// Standard output, standard error and exit code of a command line.
    fn execute(&self, line: &str) -> (String, String, i32) {
        let mut command = Command::new(BINARY);
        command.args(["dfs", "-fs", &self.uri]).current_dir(self.local.path());
        command.env("TZ", "UTC").env("HADOOP_USER_NAME", SUPERUSER).env_remove("HADOOP_CONF_DIR");
        command.stdin(Stdio::null());
        for word in split_words(&self.fill_in(line)) {
            if let Some(user) = word.strip_prefix("as=") {
                command.env("HADOOP_USER_NAME", user);
            } else if let Some(input) = word.strip_prefix("stdin=") {
                command.stdin(File::open(self.path(input)).unwrap());
            } else {
                command.arg(word);
            }
        }
        let output = command.output().unwrap();
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
            output.status.code().unwrap_or(-1),
        )
    }

    /// Does what a line with `@` says; a check that fails gives a problem.
    fn act(&self, action: &str) -> Option<String> {
        let words = split_words(action);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let holds = match words.as_slice() {
            ["write", name, text] => fs::write(self.path(name), unescape(text)).is_ok(),
            ["random", name, bytes] => {
                fs::write(self.path(name), noise(bytes.parse().unwrap())).is_ok()
            }
            ["lines", name, count] => {
                let count: usize = count.parse().unwrap();
                let lines: String = (0..count).map(|line| format!("line {line}\n")).collect();
                fs::write(self.path(name), lines).is_ok()
            }
            ["gzip", name, source] => {
                let file = File::create(self.path(name)).unwrap();
                let mut encoder = GzEncoder::new(file, Compression::default());
                encoder.write_all(&fs::read(self.path(source)).unwrap()).unwrap();
                encoder.finish().is_ok()
            }
            ["mkdir", name] => fs::create_dir(self.path(name)).is_ok(),
            ["read", name, text] => {
                fs::read(self.path(name)).is_ok_and(|found| found == unescape(text).as_bytes())
            }
            ["same", a, b] => match (fs::read(self.path(a)), fs::read(self.path(b))) {
                (Ok(a), Ok(b)) => a == b,
                _ => false,
            },
            ["absent", name] => !self.path(name).exists(),
            _ => panic!("no such action: {action}"),
        };
        (!holds).then(|| "  does not hold\n".to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.local.path().join(name)
    }

    fn fill_in(&self, text: &str) -> String {
        text.replace("{URI}", &self.uri)
            .replace("{LOCAL}", &self.local.path().display().to_string())
            .replace("{USAGE}\n", &self.usage)
    }

    fn pattern(&self, expected: &str) -> Regex {
        let placeholders = [
            ("{DATE}", r"20[2-9]\d-\d\d-\d\d \d\d:\d\d"),
            ("{TIME}", r"20[2-9]\d-\d\d-\d\d \d\d:\d\d:\d\d"),
            ("{*}", ".*"),
        ];
        let mut pattern = regex::escape(&self.fill_in(expected));
        for (name, expression) in placeholders {
            pattern = pattern.replace(&regex::escape(name), expression);
        }
        Regex::new(&format!("^{pattern}$")).unwrap()
    }
}

fn push_line(text: &mut String, rest: &str) {
    match rest.strip_prefix("| ") {
        Some(unfinished) => text.push_str(unfinished),
        None => {
            text.push_str(rest.strip_prefix(' ').unwrap_or(rest));
            text.push('\n');
        }
    }
}

/// Words between spaces; double quotes keep spaces and make an empty word possible.
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n")
}

/// Bytes without a pattern, always the same.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

//! One side of a comparison: a program, run to its end, with what it printed, what it cost and how
//! long it took.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::Sample;
use super::figure::{Figure, Printed};
use crate::processes::{CpuSpan, NamedProcess};
use crate::report::ProcessCpu;
use crate::{BenchError, REPORT_VARIABLE};

/// Of what a run prints, or writes as its report, which is read into memory.
const MOST_OUTPUT_BYTES: u64 = 64 << 20;

pub struct Side {
    pub name: &'static str,
    pub program: Program,
    pub figure: Figure,
    pub processes: Vec<NamedProcess>,
}

pub struct Program {
    words: Vec<OsString>,
}

impl Program {
    pub fn shell(command: &str) -> Self {
        Self { words: ["sh", "-c", command].map(OsString::from).to_vec() }
    }

    /// This very program's `bench`, with the cluster as its `--fs` in place of any that is there.
    pub fn bench(cluster: &str, arguments: &[OsString]) -> Result<Self, BenchError> {
        let this = std::env::current_exe().map_err(BenchError::Output)?;
        let mut words = vec![this.into_os_string(), "bench".into()];
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--fs" | "-fs") => drop(arguments.next()),
                Some(spelled) if spelled.starts_with("--fs=") => {}
                _ => words.push(argument.clone()),
            }
        }
        words.extend(["--fs".into(), cluster.into()]);
        Ok(Self { words })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> =
            self.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        match &words[..] {
            [sh, dash_c, command] if sh == "sh" && dash_c == "-c" => f.write_str(command),
            _ => f.write_str(&words.join(" ")),
        }
    }
}

impl Side {
    pub fn run(&self) -> Result<Sample, BenchError> {
        let fail = |why: String| {
            BenchError::Compare(format!("side {} ({}) {why}", self.name, self.program))
        };
        let cannot = |source: std::io::Error| fail(format!("cannot be run: {source}"));
        let directory = tempfile::tempdir().map_err(cannot)?;
        let report_path = directory.path().join("report.json");
        // Files, not pipes: what a command prints must not wait for us, nor grow in our memory.
        let (mut output, mut errors) = (
            tempfile::tempfile_in(directory.path()).map_err(cannot)?,
            tempfile::tempfile_in(directory.path()).map_err(cannot)?,
        );
        let mut command = Command::new(&self.program.words[0]);
        command
            .args(&self.program.words[1..])
            .env(REPORT_VARIABLE, &report_path)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(cannot)?)
            .stderr(errors.try_clone().map_err(cannot)?);
        let cpu = CpuSpan::start(&self.processes)?;
        let (of_children, started) = (cpu_of_ended_children(), Instant::now());
        let status = command.status().map_err(cannot)?;
        let elapsed = started.elapsed();
        let own_cpu = cpu_of_ended_children().saturating_sub(of_children);
        let of_servers = cpu.so_far()?;

        let errors = read_bounded(&mut errors).map_err(cannot)?;
        if !status.success() {
            let last = errors.trim_end().lines().last().unwrap_or("it printed no reason");
            return Err(fail(format!("ended with {status}: {last}")));
        }
        let printed = Printed {
            output: read_bounded(&mut output).map_err(cannot)? + "\n" + &errors,
            report: read_report(&report_path).map_err(cannot)?,
            elapsed,
        };
        let mut sample = self.figure.of(&printed).map_err(fail)?;
        add_cpu(&mut sample.run.cpu, own_cpu, of_servers);
        Ok(sample)
    }
}

/// A program that tells its processor time by process tells it over the span it measured: that
/// counts, and the whole command only where there is none.
fn add_cpu(told: &mut Vec<ProcessCpu>, own: Duration, of_servers: Vec<ProcessCpu>) {
    if told.is_empty() {
        told.push(ProcessCpu { process: "command".to_owned(), cpu_s: own.as_secs_f64() });
    }
    for server in of_servers {
        if !told.iter().any(|cpu| cpu.process == server.process) {
            told.push(server);
        }
    }
}

/// Of the children waited for, and of theirs: one command runs at a time.
fn cpu_of_ended_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("valid arguments");
    let duration = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

fn read_bounded(file: &mut File) -> std::io::Result<String> {
    let too_long =
        || std::io::Error::other(format!("more than {MOST_OUTPUT_BYTES} bytes of output"));
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MOST_OUTPUT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_OUTPUT_BYTES {
        return Err(too_long());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_report(path: &PathBuf) -> std::io::Result<Option<serde_json::Value>> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        file => Ok(Some(serde_json::from_str(&read_bounded(&mut file?)?)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::figure::Source;

    fn run(command: &str, source: Source) -> Result<Sample, BenchError> {
        let figure = Figure { source, scale: 1.0, of: None, measurement: None };
        Side { name: "A", program: Program::shell(command), figure, processes: Vec::new() }.run()
    }

    #[test]
    fn a_command_costs_what_its_own_children_cost() {
        let spin = "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; echo done";
        let sample = run(spin, Source::Elapsed).unwrap();
        assert_eq!(sample.run.cpu[0].process, "command");
        assert!(sample.run.cpu[0].cpu_s > 0.0 && sample.figure > 0.0);
        assert_eq!(sample.run.elapsed.as_secs_f64(), sample.figure);
    }

    #[test]
    fn a_failing_command_says_why() {
        let error =
            run("echo no such disk >&2; exit 7", Source::Elapsed).err().unwrap().to_string();
        assert!(error.contains("side A") && error.contains("no such disk"), "{error}");
        assert!(error.contains("exit status: 7"), "{error}");
        assert!(run("echo 'not json' > \"$RINGFS_BENCH_JSON\"", Source::ReportOrElapsed).is_err());
    }

    #[test]
    fn the_cluster_takes_the_place_of_any_other() {
        let words = ["dfsio", "--fs", "hdfs://x", "--mode", "read", "--fs=hdfs://y"];
        let program = Program::bench("hdfs://a:1", &words.map(OsString::from)).unwrap();
        let line = program.to_string();
        assert!(line.ends_with(" bench dfsio --mode read --fs hdfs://a:1"), "{line}");
    }

    #[test]
    fn what_a_report_tells_of_a_process_counts() {
        let cpu = |process: &str, cpu_s| ProcessCpu { process: process.to_owned(), cpu_s };
        let mut told = vec![cpu("client", 1.0), cpu("namenode", 2.0)];
        add_cpu(&mut told, Duration::from_secs(9), vec![cpu("namenode", 5.0), cpu("other", 3.0)]);
        let names: Vec<_> = told.iter().map(|cpu| (cpu.process.as_str(), cpu.cpu_s)).collect();
        assert_eq!(names, [("client", 1.0), ("namenode", 2.0), ("other", 3.0)]);
    }
}

//! A writer as a process of its own, so that it can be killed and stopped: our client, Hadoop's or
//! hdfs-native. It writes the sample bytes and is driven request by request.
//!
//! For the Rust clients the test program starts itself again with [`writer_process`] as its only test;
//! a request is a line on stdin, an answer a line on stdout that starts with [`ANSWER`].

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use ringfs_client::CreateOptions;
use ringfs_protocol::site_config::Configuration;

use crate::cluster::java::JavaShell;
use crate::cluster::processes::{self, Signal};
use crate::cluster::{TestCluster, sample};

/// Length of every file written: two blocks and a part, which ends within a chunk.
pub const FILE_LEN: usize = 2 * sample::BLOCK + 300_007;

/// A request that is not answered in this time never will be: Hadoop's client takes 16 s to notice a
/// silent first datanode of three, whatever is configured, and hdfs-native 60 s.
const HUNG: Duration = Duration::from_secs(100);

const ANSWER: &str = "writer says: ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Java,
    HdfsNative,
}

#[derive(Clone, Debug)]
pub enum Request {
    Create { path: String, replication: usize },
    Write { offset: usize, len: usize },
    Flush,
    Close,
}

pub struct Writer {
    process: Process,
}

enum Process {
    Rust { child: Child, requests: ChildStdin, answers: BufReader<ChildStdout> },
    Java { shell: JavaShell, bytes: PathBuf },
}

impl Writer {
    pub fn start(kind: Kind, cluster: &TestCluster) -> Self {
        let conf_dir = cluster.conf_dir();
        let process = match kind {
            Kind::Java => Process::Java {
                shell: JavaShell::start(&conf_dir, &[], None),
                bytes: cluster.write_scratch("sample", &sample::bytes(FILE_LEN)),
            },
            Kind::Ours => rust_process("ours", &conf_dir, &cluster.uri()),
            Kind::HdfsNative => rust_process("hdfs-native", &conf_dir, &cluster.uri()),
        };
        Self { process }
    }

    pub fn pid(&self) -> u32 {
        match &self.process {
            Process::Rust { child, .. } => child.id(),
            Process::Java { shell, .. } => shell.pid(),
        }
    }

    /// Asks without waiting for the answer, which [`Writer::answer`] then waits for.
    pub fn ask(&mut self, request: &Request) {
        match &mut self.process {
            Process::Rust { requests, .. } => {
                // A writer that is gone is told of by its missing answer.
                let _ = match request {
                    Request::Create { path, replication } => {
                        writeln!(requests, "create {path} {replication}")
                    }
                    Request::Write { offset, len } => writeln!(requests, "write {offset} {len}"),
                    Request::Flush => writeln!(requests, "flush"),
                    Request::Close => writeln!(requests, "close"),
                };
            }
            Process::Java { shell, bytes } => match request {
                Request::Create { path, replication } => {
                    shell.send(None, &["@create", path, &replication.to_string()]);
                }
                Request::Write { offset, len } => {
                    shell.send(Some(bytes), &["@write", &offset.to_string(), &len.to_string()]);
                }
                Request::Flush => shell.send(None, &["@flush", "-"]),
                Request::Close => shell.send(None, &["@close", "-"]),
            },
        }
    }

    pub fn answer(&mut self) -> Result<(), String> {
        let (done, wait) = mpsc::channel::<()>();
        let pid = self.pid();
        let watch = std::thread::spawn(move || {
            let hung = wait.recv_timeout(HUNG) == Err(mpsc::RecvTimeoutError::Timeout);
            if hung {
                processes::signal(pid, Signal::KILL);
            }
            hung
        });
        let answer = match &mut self.process {
            Process::Rust { answers, .. } => answer_of(answers),
            Process::Java { shell, .. } => shell.receive().and_then(|outcome| match outcome.exit {
                0 => Ok(()),
                _ => Err(outcome.err),
            }),
        };
        drop(done);
        match watch.join() {
            Ok(false) => answer,
            _ => Err(format!("HUNG for {HUNG:?}")),
        }
    }

    pub fn call(&mut self, request: &Request) -> Result<(), String> {
        self.ask(request);
        self.answer()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Process::Rust { child, .. } = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn rust_process(client: &str, conf_dir: &Path, uri: &str) -> Process {
    let arguments = [
        "failures::writer::writer_process",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env("RINGFS_TEST_WRITER", client)
        .env("RINGFS_TEST_WRITER_URI", uri)
        .env("HADOOP_CONF_DIR", conf_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let requests = child.stdin.take().unwrap();
    let answers = BufReader::new(child.stdout.take().unwrap());
    Process::Rust { child, requests, answers }
}

fn answer_of(answers: &mut BufReader<ChildStdout>) -> Result<(), String> {
    let mut line = String::new();
    while answers.read_line(&mut line).map_err(|error| error.to_string())? > 0 {
        if let Some((_, answer)) = line.split_once(ANSWER) {
            return if answer.trim() == "ok" { Ok(()) } else { Err(answer.trim().to_owned()) };
        }
        line.clear();
    }
    Err("the writer has ended".to_owned())
}

#[test]
#[ignore = "runs as a writer's process in other tests"]
fn writer_process() {
    let (Ok(client), Ok(uri)) =
        (std::env::var("RINGFS_TEST_WRITER"), std::env::var("RINGFS_TEST_WRITER_URI"))
    else {
        return;
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bytes = Bytes::from(sample::bytes(FILE_LEN));
    runtime.block_on(async {
        match client.as_str() {
            "ours" => write_with_ours(&uri, &bytes).await,
            _ => write_with_hdfs_native(&uri, &bytes).await,
        }
    });
    std::process::exit(0);
}

async fn write_with_ours(uri: &str, bytes: &Bytes) {
    let conf_dir = std::env::var("HADOOP_CONF_DIR").unwrap();
    let configuration = Configuration::load(Some(Path::new(&conf_dir)), &[]).unwrap();
    let client = ringfs_client::Client::connect(&configuration, Some(uri)).unwrap();
    let mut writer = None;
    while let Some(request) = next_request() {
        let result = match request {
            Request::Create { path, replication } => {
                let replication = Some(replication as u16);
                let options = CreateOptions { replication, ..CreateOptions::default() };
                client.create(&path, options).await.map(|created| writer = Some(created))
            }
            Request::Write { offset, len } => {
                writer.as_mut().unwrap().write(bytes.slice(offset..offset + len)).await
            }
            Request::Flush => writer.as_mut().unwrap().hflush().await,
            Request::Close => writer.take().unwrap().close().await,
        };
        say(result);
    }
}

async fn write_with_hdfs_native(uri: &str, bytes: &Bytes) {
    let client = hdfs_native::ClientBuilder::new()
        .with_url(uri)
        .with_config(HashMap::from(super::SETTINGS))
        .build()
        .unwrap();
    let mut writer = None;
    while let Some(request) = next_request() {
        let result = match request {
            Request::Create { path, replication } => {
                let options = hdfs_native::WriteOptions::default()
                    .block_size(sample::BLOCK as u64)
                    .replication(replication as u32);
                client.create(&path, options).await.map(|created| writer = Some(created))
            }
            Request::Write { offset, len } => {
                let data = bytes.slice(offset..offset + len);
                writer.as_mut().unwrap().write_bytes(data).await.map(drop)
            }
            Request::Flush => writer.as_mut().unwrap().hsync().await,
            Request::Close => writer.as_mut().unwrap().close().await,
        };
        say(result);
    }
}

fn next_request() -> Option<Request> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).ok()?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| fields[index].parse().unwrap();
    match *fields.first()? {
        "create" => Some(Request::Create { path: fields[1].to_owned(), replication: number(2) }),
        "write" => Some(Request::Write { offset: number(1), len: number(2) }),
        "flush" => Some(Request::Flush),
        _ => Some(Request::Close),
    }
}

fn say<E: std::fmt::Display>(result: Result<(), E>) {
    match result {
        Ok(()) => println!("{ANSWER}ok"),
        Err(error) => println!("{ANSWER}{}", error.to_string().replace('\n', " ")),
    }
}

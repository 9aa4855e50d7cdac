//! The cluster that cases run on one after the other, and one case on it.

use std::time::{Duration, Instant};

use super::SETTINGS;
use super::case::{Blow, Case, Stage, Victim};
use super::writer::{FILE_LEN, Kind, Request, Writer};
use crate::cluster::processes::{self, Signal};
use crate::cluster::{Library, TestCluster, sample, wait_for};

/// One more than the largest replication: a replacement for one that fails.
const DATANODES: usize = 4;

const FIRST_PART: usize = 412_345;
const FLUSHED_LEN: usize = sample::BLOCK + 270_001;

/// For which the namenode or the client is stopped: longer than datanodes wait for a packet.
const STOPPED: Duration = Duration::from_secs(3);

pub struct Site {
    cluster: TestCluster,
    client: Library,
    kind: Kind,
    writer: Option<Writer>,
    bytes: Vec<u8>,
    /// Files that are there, with their length and replication.
    files: Vec<(String, usize, usize)>,
}

/// How far a write is known to have come.
#[derive(Default)]
struct Progress {
    acknowledged: usize,
    closed: bool,
    error: Option<String>,
}

impl Site {
    pub fn start(kind: Kind) -> Self {
        let cluster = TestCluster::start_with(DATANODES, &SETTINGS);
        let library = cluster.connect();
        let bytes = sample::bytes(FILE_LEN);
        Self { cluster, client: library, kind, writer: None, bytes, files: Vec::new() }
    }

    /// How the write ended, or what is wrong about it.
    pub fn run(&mut self, case: &Case) -> Result<String, String> {
        let path = format!("/{}", case.to_string().replace('/', "-"));
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::start(self.kind, &self.cluster),
        };
        let progress = self.write(case, &path, &mut writer);
        self.make_whole();
        let survived = case.victim != Victim::Client && progress.error.is_none();
        self.writer = survived.then_some(writer);
        if let Some(error) = progress.error.as_ref().filter(|_| case.must_succeed()) {
            return Err(format!("the write failed: {error}"));
        }
        let len = self.read_back(&path, &progress)?;
        self.files.push((path, len, case.replication));
        Ok(match progress.error {
            Some(error) => format!("{len} bytes are there after {error:.100}"),
            None => "written".to_owned(),
        })
    }

    /// All of the write; ends at the first error.
    fn write(&mut self, case: &Case, path: &str, writer: &mut Writer) -> Progress {
        let mut progress = Progress::default();
        if let Err(error) = self.write_all(case, path, writer, &mut progress) {
            progress.error = Some(error);
        }
        progress
    }

    fn write_all(
        &mut self,
        case: &Case,
        path: &str,
        writer: &mut Writer,
        progress: &mut Progress,
    ) -> Result<(), String> {
        let create = Request::Create { path: path.to_owned(), replication: case.replication };
        writer.call(&create)?;
        let write = |from: usize, to: usize| Request::Write { offset: from, len: to - from };
        let position = match case.stage {
            Stage::Created => 0,
            Stage::MidBlock | Stage::Streaming => FIRST_PART,
            Stage::LastPacket => sample::BLOCK - 200_000,
            // A little more: clients end a block when they know of a byte of the next.
            Stage::BetweenBlocks => sample::BLOCK + 5_000,
            Stage::Flushed => FLUSHED_LEN,
            Stage::Closing => FILE_LEN,
        };
        if position > 0 {
            writer.call(&write(0, position))?;
        }
        if case.stage == Stage::Flushed {
            writer.call(&Request::Flush)?;
            progress.acknowledged = position;
        }
        let victims = self.victims(case, path, writer.pid());
        // What is under way when it happens.
        let meanwhile = match case.stage {
            Stage::Streaming => Some(write(position, FILE_LEN)),
            Stage::LastPacket => Some(write(position, sample::BLOCK)),
            Stage::Closing => Some(Request::Close),
            _ => None,
        };
        if let Some(request) = &meanwhile {
            writer.ask(request);
        }
        if case.stage == Stage::Streaming {
            std::thread::sleep(Duration::from_millis(3));
        }
        self.strike(case, &victims, writer.pid());
        if meanwhile.is_some() {
            writer.answer()?;
        }
        let position = match meanwhile {
            Some(Request::Write { offset, len }) => offset + len,
            _ => position,
        };
        if position < FILE_LEN {
            writer.call(&write(position, FILE_LEN))?;
        }
        if case.stage != Stage::Closing {
            writer.call(&Request::Close)?;
        }
        progress.closed = true;
        progress.acknowledged = FILE_LEN;
        Ok(())
    }

    /// Indices of the datanodes that are to fail.
    fn victims(&self, case: &Case, path: &str, writer: u32) -> Vec<usize> {
        let places = case.victim.places(case.replication);
        let nodes = match case.stage {
            Stage::Created => (0..DATANODES).collect(),
            // hdfs-native has the next block's pipeline by then.
            Stage::BetweenBlocks if self.kind != Kind::HdfsNative => {
                self.holders(path, case.replication)
            }
            _ => wait_for("the writer has its pipeline", Duration::from_secs(10), || {
                processes::pipeline(&self.cluster, writer, case.replication)
            }),
        };
        places.into_iter().filter_map(|place| nodes.get(place).copied()).collect()
    }

    fn strike(&mut self, case: &Case, victims: &[usize], writer: u32) {
        match (case.victim, case.blow) {
            (Victim::Namenode, Blow::Kill) => {
                self.cluster.kill_namenode();
                std::thread::sleep(Duration::from_millis(300));
                self.cluster.start_namenode().unwrap();
            }
            (Victim::Namenode, Blow::Stop) => {
                stop_for_a_while(self.cluster.namenode_pid().expect("it runs"));
            }
            (Victim::Client, Blow::Kill) => processes::signal(writer, Signal::KILL),
            (Victim::Client, Blow::Stop) => stop_for_a_while(writer),
            (_, Blow::Kill) => victims.iter().for_each(|index| self.cluster.kill_datanode(*index)),
            (_, Blow::Stop) => self.signal_datanodes(victims, Signal::STOP),
        }
    }

    fn signal_datanodes(&self, indices: &[usize], signal: Signal) {
        for pid in indices.iter().filter_map(|index| self.cluster.datanode_pid(*index)) {
            processes::signal(pid, signal);
        }
    }

    /// Everyone is there again.
    fn make_whole(&mut self) {
        self.signal_datanodes(&(0..DATANODES).collect::<Vec<_>>(), Signal::CONT);
        self.cluster.start_all().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Length of the file, once its writer is known to be gone, and its bytes are right.
    fn read_back(&self, path: &str, progress: &Progress) -> Result<usize, String> {
        if !progress.closed {
            wait_for(&format!("{path} closed"), Duration::from_secs(60), || {
                let closed = self.client.run(async |client| client.recover_lease(path).await);
                closed.unwrap_or(false).then_some(())
            });
        }
        let read = self.client.read(path).map_err(|error| format!("reading: {error}"))?;
        if read.len() < progress.acknowledged || (progress.closed && read.len() != FILE_LEN) {
            let acknowledged = progress.acknowledged;
            return Err(format!("LOST: {} bytes of {acknowledged} acknowledged", read.len()));
        }
        match read.iter().zip(&self.bytes).position(|(read, written)| read != written) {
            Some(offset) => Err(format!("WRONG byte at {offset}")),
            None => Ok(read.len()),
        }
    }

    /// The datanodes on which the file's first block is finished, once all of them have done so.
    fn holders(&self, path: &str, replication: usize) -> Vec<usize> {
        wait_for("the first block finalized", Duration::from_secs(20), || {
            let blocks =
                self.client.run(async |client| client.block_locations(path, 0, 1 << 60).await);
            let id = blocks.ok()?.first()?.block.block.id.0;
            let holders: Vec<usize> = (0..DATANODES)
                .filter(|index| self.cluster.finalized_blocks(*index).contains(&id))
                .collect();
            (holders.len() == replication).then_some(holders)
        })
    }

    /// Every file gets all of its replicas, the disks hold nothing else, and all of it is right.
    pub fn check_all_replicas(&mut self) -> Result<(), String> {
        self.make_whole();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.replicas_are_right() {
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                outcome => return outcome,
            }
        }
    }

    fn replicas_are_right(&self) -> Result<(), String> {
        let replicas = |(_, len, replication): &(String, usize, usize)| {
            len.div_ceil(sample::BLOCK) * replication
        };
        self.cluster.replicas_are_right(&self.bytes, self.files.iter().map(replicas).sum())
    }

    pub fn last_logs(&self) -> String {
        let mut text = String::new();
        for log in std::fs::read_dir(self.cluster.logs_dir()).into_iter().flatten().flatten() {
            let lines = std::fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = lines.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            text += &format!("--- {}\n{}\n", log.file_name().display(), last.join("\n"));
        }
        text
    }
}

/// The process goes on by itself after [`STOPPED`]: the write waits for it, and this does not.
fn stop_for_a_while(pid: u32) {
    processes::signal(pid, Signal::STOP);
    std::thread::spawn(move || {
        std::thread::sleep(STOPPED);
        processes::signal(pid, Signal::CONT);
    });
}

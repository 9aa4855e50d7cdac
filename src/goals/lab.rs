//! Where a goal is measured: our clusters, started when first asked for, the peer, and the turns that
//! the subjects of a goal take. Each has its run before any has its next, every other round in
//! reverse order: what drifts, the disk above all, drifts for all.

use std::path::{Path, PathBuf};

use ringfs::cluster::{Cluster, ClusterOptions};
use ringfs_bench::Session;
use ringfs_bench::file_system::FileSystemOptions;
use ringfs_bench::report::{Bound, Measurement, Run, Side, Verdict};
use ringfs_bench::statistics::median;
use ringfs_datanode::domain_socket::check_directories;
use ringfs_protocol::settings::{
    DFS_CLIENT_BLOCK_WRITE_LOCATE_FOLLOWING_BLOCK_INITIAL_DELAY_MS, DFS_CLIENT_READ_SHORTCIRCUIT,
    DFS_DOMAIN_SOCKET_PATH,
};

use super::GoalOptions;
use super::subjects::{Subject, Work};
use crate::error::CommandError;
use crate::mini::this_binary;

/// Of a run.
const BYTES: u64 = 2 << 30;

pub struct Lab<'a> {
    session: &'a mut Session,
    options: &'a GoalOptions,
    goal: &'static str,
    title: &'static str,
    directory: PathBuf,
    stored: Option<Cluster>,
    discarding: Option<Cluster>,
}

impl<'a> Lab<'a> {
    pub fn new(
        session: &'a mut Session,
        options: &'a GoalOptions,
        goal: &'static str,
        title: &'static str,
        directory: &Path,
    ) -> Self {
        let directory = directory.join(goal);
        Self { session, options, goal, title, directory, stored: None, discarding: None }
    }

    /// Bytes of a run.
    pub fn bytes(&self) -> u64 {
        self.bytes_or(BYTES)
    }

    pub fn bytes_or(&self, default: u64) -> u64 {
        self.options.bytes.unwrap_or(default)
    }

    pub fn runs(&self) -> u32 {
        self.session.options.runs
    }

    /// On the disk to measure.
    pub fn directory(&self) -> &Path {
        &self.options.directory
    }

    pub fn java_bench(&self) -> Result<&str, CommandError> {
        let missing = || CommandError::Usage(format!("{} needs --java-bench", self.goal));
        self.options.java_bench.as_deref().ok_or_else(missing)
    }

    /// Three datanodes that store.
    pub fn cluster(&mut self) -> Result<&mut Cluster, CommandError> {
        if self.stored.is_none() {
            self.stored = Some(self.start("stored", false)?);
        }
        Ok(self.stored.as_mut().expect("it has just been started"))
    }

    /// Three datanodes that throw the data of blocks away.
    pub fn discarding(&mut self) -> Result<&mut Cluster, CommandError> {
        if self.discarding.is_none() {
            self.discarding = Some(self.start("discarding", true)?);
        }
        Ok(self.discarding.as_mut().expect("it has just been started"))
    }

    pub fn ours(&mut self) -> Result<FileSystemOptions, CommandError> {
        let uri = self.cluster()?.uri();
        Ok(self.file_system(uri))
    }

    /// Ours, read from the replicas' files; `None` where the directory is not fit for the sockets.
    pub fn ours_short_circuit(&mut self) -> Result<Option<FileSystemOptions>, CommandError> {
        let mut ours = self.ours()?;
        let settings = self.short_circuit();
        if settings.is_empty() {
            self.progress("no short-circuit reads: its directory is not fit for their sockets");
            return Ok(None);
        }
        ours.definitions.extend(settings);
        Ok(Some(ours))
    }

    /// The settings of datanodes that pass files, and of clients that ask for them.
    fn short_circuit(&self) -> Vec<(String, String)> {
        let absolute = |directory: &Path| std::path::absolute(directory.join("dn._PORT"));
        let (Ok(outer), Ok(path)) = (absolute(&self.options.directory), absolute(&self.directory))
        else {
            return Vec::new();
        };
        // An address has room for 107 bytes.
        if check_directories(&outer).is_err() || path.as_os_str().len() > 107 {
            return Vec::new();
        }
        let path = path.display().to_string();
        vec![
            (DFS_CLIENT_READ_SHORTCIRCUIT.name.to_owned(), "true".to_owned()),
            (DFS_DOMAIN_SOCKET_PATH.name.to_owned(), path),
        ]
    }

    pub fn ours_discarding(&mut self) -> Result<FileSystemOptions, CommandError> {
        let uri = self.discarding()?.uri();
        Ok(self.file_system(uri))
    }

    pub fn peer(&self) -> Option<FileSystemOptions> {
        self.options.peer.clone().map(|uri| self.file_system(uri))
    }

    /// The client asks again soon when a block is not reported yet as its file is closed: with
    /// Hadoop's 400 ms, a peer that loses this race would be measured by that pause.
    fn file_system(&self, uri: String) -> FileSystemOptions {
        let pause = DFS_CLIENT_BLOCK_WRITE_LOCATE_FOLLOWING_BLOCK_INITIAL_DELAY_MS.name.to_owned();
        let settings = self.options.settings.iter().cloned();
        FileSystemOptions {
            fs: Some(uri),
            config: None,
            definitions: [(pause, "5ms".to_owned())].into_iter().chain(settings).collect(),
        }
    }

    fn start(&self, name: &str, discard_block_data: bool) -> Result<Cluster, CommandError> {
        self.session.progress(&format!("{}: starting a cluster", self.goal));
        let directory = self.directory.join(name);
        let options = ClusterOptions {
            settings: self.options.settings.iter().cloned().chain(self.short_circuit()).collect(),
            discard_block_data,
            ..ClusterOptions::new(&this_binary()?, &directory)
        };
        Ok(Cluster::start(options)?)
    }

    /// Takes as many runs of each subject as were asked for, in turns, after one that does not count;
    /// hands them in, and returns them in the order of the subjects.
    pub fn interleave(&mut self, subjects: Vec<Subject>) -> Result<Vec<Measurement>, CommandError> {
        let mut measured: Vec<(Measurement, Box<dyn Work>)> = subjects
            .into_iter()
            .map(|subject| (self.measurement(&subject.name, subject.side), subject.work))
            .collect();
        for round in 0..=self.runs() {
            let turns: Vec<_> = match round % 2 {
                0 => measured.iter_mut().collect(),
                _ => measured.iter_mut().rev().collect(),
            };
            for (measurement, work) in turns {
                let which = if round == 0 { "warming up".into() } else { format!("run {round}") };
                let what = format!("{}, {}: {which}", self.goal, measurement.name);
                self.session.progress(&what);
                settle(&self.options.directory)?;
                let run = work.run()?;
                self.session.progress(&format!("{what}: {}", outcome(&run)));
                if round > 0 {
                    measurement.runs.push(run);
                }
            }
        }
        let mut measurements = Vec::with_capacity(measured.len());
        for (measurement, work) in measured {
            work.finish()?;
            self.session.add(measurement.clone());
            measurements.push(measurement);
        }
        Ok(measurements)
    }

    /// Of this goal, without its runs.
    pub fn measurement(&self, name: &str, side: Side) -> Measurement {
        let (group, name) = (self.title.to_owned(), name.to_owned());
        Measurement { group, name, side, parameters: [].into(), runs: Vec::new() }
    }

    pub fn add(&mut self, measurement: Measurement) {
        self.session.add(measurement);
    }

    pub fn progress(&self, what: &str) {
        self.session.progress(&format!("{}: {what}", self.goal));
    }

    /// A sentence for the report.
    pub fn find(&mut self, sentence: String) {
        self.session.find(sentence);
    }

    pub fn judge(&mut self, what: &str, figure: f64, against: Option<f64>, bound: Bound) {
        self.session.judge(Verdict::new(self.goal, what, figure, against, bound));
    }

    /// Holds the median of one measurement's figure against that of another's.
    pub fn judge_medians(
        &mut self,
        what: &str,
        (ours, other): (&Measurement, &Measurement),
        figure: fn(&Run) -> f64,
        bound: Bound,
    ) {
        let (ours, other) = (median_of(ours, figure), median_of(other, figure));
        self.judge(what, ours, Some(other), bound);
    }
}

pub fn median_of(measurement: &Measurement, figure: fn(&Run) -> f64) -> f64 {
    median(&measurement.runs.iter().map(figure).collect::<Vec<_>>())
}

/// Has the file system finish what earlier runs left to it, the discards of deleted blocks above all.
pub fn settle(directory: &Path) -> Result<(), CommandError> {
    let opened = std::fs::File::open(directory).map_err(CommandError::file("open", directory))?;
    rustix::fs::syncfs(opened)
        .map_err(|errno| CommandError::file("synchronize", directory)(errno.into()))
}

fn outcome(run: &Run) -> String {
    let operations = match run.operations {
        0 => String::new(),
        _ => format!("{:.0} op/s, ", run.operations_per_s()),
    };
    format!("{operations}{:.3} GB/s, {:.3} cpu-s/GiB", run.gb_per_s(), run.cpu_s_per_gib(""))
}

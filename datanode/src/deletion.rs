//! Deletes files off the data threads: unlinking a full block takes some 20 ms.
//!
//! A replica's files leave their place at once, by a rename into `tmp/` under a name that no new
//! replica can have, and are unlinked by the volume's own thread. So a block may come back while its
//! old files wait, and what still waits when the process ends is deleted at the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use ringfs_protocol::block::Block;
use tracing::{debug, warn};

use crate::block_reports::{BlockChange, ReportQueue};
use crate::disk_threads::Progress;
use crate::error::{DatanodeError, Result};
use crate::ring;
use crate::volume::Volume;

/// How names in `tmp/` begin that wait for their unlink.
const RETIRED: &str = "deleted-";
/// How long a stop waits for the unlink under way: one of a full block takes some 20 ms.
const UNLINK_PATIENCE: Duration = Duration::from_secs(2);

/// The queue is bounded by what lies in `tmp/`, which is by the replicas that the volume held.
#[derive(Debug)]
pub struct Deleter {
    volume: Arc<Volume>,
    jobs: Sender<Job>,
    stopping: Arc<AtomicBool>,
    /// Disconnected when the thread has ended.
    ended: Option<Receiver<()>>,
    next_name: AtomicU64,
    /// In a simulated world, which has one thread: what a thread would be given.
    #[cfg(feature = "simulation")]
    inline: Option<(Receiver<Job>, Arc<ReportQueue>)>,
}

#[derive(Debug)]
struct Job {
    paths: Vec<PathBuf>,
    /// What the volume's `dfs_used` counts for these files.
    accounted_bytes: u64,
    /// The replica to report as deleted.
    report: Option<Block>,
}

impl Deleter {
    /// Starts the volume's thread.
    pub fn start(volume: Arc<Volume>, reports: Arc<ReportQueue>) -> Result<Self> {
        let (jobs, queue) = unbounded();
        let stopping = Arc::new(AtomicBool::new(false));
        #[cfg(feature = "simulation")]
        if ringfs_protocol::simulation::is_entered() {
            return Ok(Self {
                volume,
                jobs,
                stopping,
                ended: None,
                next_name: AtomicU64::new(0),
                inline: Some((queue, reports)),
            });
        }
        let (ends, ended) = unbounded();
        std::thread::Builder::new()
            .name("deletion".into())
            .spawn({
                let (volume, stopping) = (volume.clone(), stopping.clone());
                move || {
                    delete_all(&volume, &queue, &reports, &stopping);
                    drop((volume, ends));
                }
            })
            .map_err(DatanodeError::io("starting a deletion thread"))?;
        Ok(Self {
            volume,
            jobs,
            stopping,
            ended: Some(ended),
            next_name: AtomicU64::new(0),
            #[cfg(feature = "simulation")]
            inline: None,
        })
    }

    /// Takes `files` of a replica out of sight now and unlinks them later. A file that is missing
    /// is no error: that is how it should end.
    pub fn retire(
        &self,
        files: &[&Path],
        accounted_bytes: u64,
        report: Option<Block>,
    ) -> Result<()> {
        let mut paths = Vec::with_capacity(files.len());
        for file in files {
            let target = self.next_target();
            paths.extend(moved(file, target.clone(), fs::rename(file, target))?);
        }
        self.send(Job { paths, accounted_bytes, report });
        Ok(())
    }

    /// [`Deleter::retire`] on a data thread, which waits for no disk.
    pub async fn retire_on_ring(&self, files: &[&Path], accounted_bytes: u64) -> Result<()> {
        let mut paths = Vec::with_capacity(files.len());
        for file in files {
            let target = self.next_target();
            let renamed = ring::fs::rename(file, &target).await;
            paths.extend(moved(file, target, renamed)?);
        }
        self.send(Job { paths, accounted_bytes, report: None });
        Ok(())
    }

    /// Deletes files that are out of their place already.
    pub fn delete(&self, paths: Vec<PathBuf>) {
        if !paths.is_empty() {
            self.send(Job { paths, accounted_bytes: 0, report: None });
        }
    }

    fn send(&self, job: Job) {
        // A send fails only while stopping; the files are then deleted at the next start.
        let _ = self.jobs.send(job);
        #[cfg(feature = "simulation")]
        if let Some((queue, reports)) = &self.inline {
            queue.try_iter().for_each(|job| delete(&self.volume, job, reports));
        }
    }

    fn next_target(&self) -> PathBuf {
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        self.volume.tmp_dir().join(format!("{RETIRED}{}-{number}", std::process::id()))
    }
}

/// Where the file is now; a file that was missing is nowhere.
fn moved(file: &Path, target: PathBuf, renamed: io::Result<()>) -> Result<Option<PathBuf>> {
    match renamed {
        Ok(()) => Ok(Some(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            Err(DatanodeError::Io { what: format!("deleting {}", file.display()), source })
        }
    }
}

/// At start, before there are new replicas: everything that `tmp/` holds, under names that none of
/// them can have.
pub fn set_leftovers_aside(volume: &Volume, progress: &Progress) -> Result<Vec<PathBuf>> {
    let tmp = volume.tmp_dir();
    let reading = || DatanodeError::io(format!("reading {}", tmp.display()));
    let mut aside = Vec::new();
    for entry in fs::read_dir(&tmp).map_err(reading())? {
        progress.note();
        let entry = entry.map_err(reading())?;
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let (path, name) = (entry.path(), entry.file_name());
        if name.to_string_lossy().starts_with(RETIRED) {
            aside.push(path);
            continue;
        }
        let target = tmp.join(format!("{RETIRED}at-start-{}", aside.len()));
        let renamed = fs::rename(&path, &target);
        aside.extend(moved(&path, target, renamed)?);
    }
    Ok(aside)
}

impl Drop for Deleter {
    /// Finishes the unlink under way if the disk lets it, leaves the rest to the next start.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.jobs = unbounded().0;
        if let Some(ended) = self.ended.take() {
            // Nothing is sent: it resolves when the thread has dropped its end.
            let _ = ended.recv_timeout(UNLINK_PATIENCE);
        }
    }
}

fn delete_all(volume: &Volume, jobs: &Receiver<Job>, reports: &ReportQueue, stopping: &AtomicBool) {
    while let Ok(job) = jobs.recv() {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        delete(volume, job, reports);
    }
}

fn delete(volume: &Volume, job: Job, reports: &ReportQueue) {
    for path in &job.paths {
        if let Err(error) = fs::remove_file(path) {
            warn!(path = %path.display(), %error, "a deleted replica's file stays until restart");
        }
    }
    volume.account(job.accounted_bytes, 0);
    if let Some(block) = job.report {
        debug!(%block, bytes = block.num_bytes, "deleted");
        reports.push(volume.storage_id(), block, BlockChange::Deleted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::tests::volume;
    use ringfs_protocol::block::{BlockId, GenerationStamp, ReplicaState};
    use std::time::{Duration, Instant};

    fn until(mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !done() {
            assert!(Instant::now() < deadline, "timed out");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn retired_files_are_out_of_the_way_at_once_and_reported_when_gone() {
        let (volume, _temp) = volume();
        fs::write(volume.tmp_dir().join("blk_9"), "left by a crash").unwrap();
        let reports = Arc::new(ReportQueue::default());
        let deleter = Deleter::start(volume.clone(), reports.clone()).unwrap();
        deleter.delete(set_leftovers_aside(&volume, &Progress::default()).unwrap());
        let data = volume.replica_dir(ReplicaState::Rbw, BlockId(1)).join("blk_1");
        let meta = data.with_file_name("blk_1_1001.meta");
        fs::write(&data, [0; 100]).unwrap();
        volume.account(0, 107);
        let block =
            Block { id: BlockId(1), generation_stamp: GenerationStamp(1001), num_bytes: 100 };
        deleter.retire(&[&data, &meta], 107, Some(block)).unwrap();
        assert!(!data.exists(), "a new replica may take the place now");
        until(|| fs::read_dir(volume.tmp_dir()).unwrap().count() == 0);
        until(|| reports.pending_count() == 1);
        assert_eq!(volume.usage().dfs_used_bytes, 0);
        let taken = reports.take();
        assert_eq!(taken[0].changes[0].1, BlockChange::Deleted);
    }
}

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
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use ringfs_protocol::block::Block;
use tracing::{debug, warn};

use crate::block_reports::{BlockChange, ReportQueue};
use crate::error::{DatanodeError, Result};
use crate::volume::Volume;

/// The queue is bounded by what lies in `tmp/`, which is by the replicas that the volume held.
#[derive(Debug)]
pub struct Deleter {
    volume: Arc<Volume>,
    jobs: Sender<Job>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
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
                thread: None,
                next_name: AtomicU64::new(0),
                inline: Some((queue, reports)),
            });
        }
        let thread = std::thread::Builder::new()
            .name("deletion".into())
            .spawn({
                let (volume, stopping) = (volume.clone(), stopping.clone());
                move || delete_all(&volume, &queue, &reports, &stopping)
            })
            .map_err(DatanodeError::io("starting a deletion thread"))?;
        Ok(Self {
            volume,
            jobs,
            stopping,
            thread: Some(thread),
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
            if let Some(path) = self.move_aside(file)? {
                paths.push(path);
            }
        }
        // A send fails only while stopping; the files are then deleted at the next start.
        let _ = self.jobs.send(Job { paths, accounted_bytes, report });
        #[cfg(feature = "simulation")]
        if let Some((queue, reports)) = &self.inline {
            queue.try_iter().for_each(|job| delete(&self.volume, job, reports));
        }
        Ok(())
    }

    fn move_aside(&self, file: &Path) -> Result<Option<PathBuf>> {
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        let target = self.volume.tmp_dir().join(format!("deleted-{}-{number}", std::process::id()));
        match fs::rename(file, &target) {
            Ok(()) => Ok(Some(target)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                Err(DatanodeError::Io { what: format!("deleting {}", file.display()), source })
            }
        }
    }

    /// Deletes everything that `tmp/` holds.
    pub fn retire_leftovers(&self) -> Result<()> {
        let tmp = self.volume.tmp_dir();
        let entries =
            fs::read_dir(&tmp).map_err(DatanodeError::io(format!("reading {}", tmp.display())))?;
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                self.retire(&[&entry.path()], 0, None)?;
            }
        }
        Ok(())
    }
}

impl Drop for Deleter {
    /// Finishes the unlink under way, leaves the rest to the next start.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.jobs = unbounded().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
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
        deleter.retire_leftovers().unwrap();
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

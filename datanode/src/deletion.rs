//! Deletes files off the data threads: unlinking a full block takes some 20 ms.
//!
//! A replica's files leave their place at once, by a rename into `tmp/` under a name that no new
//! replica can have, and are unlinked by the volume's own thread, or a data file kept for the next
//! block (`spare_files`). So a block may come back while its old files wait, and what still waits when
//! the process ends is deleted at the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use ringfs_protocol::block::Block;
use tracing::{debug, warn};

use crate::block_reports::{BlockChange, ReportQueue};
use crate::disk_threads::Progress;
use crate::error::{DatanodeError, Result};
use crate::limits::SPARE_FILES_LOOK_INTERVAL;
use crate::replica::Replica;
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
    /// A data file that may be kept.
    spare: Option<PathBuf>,
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

    /// Takes the files of a replica out of sight now and unlinks or keeps them later. A file that is
    /// missing is no error: that is how it should end.
    pub fn retire(&self, replica: &Replica, report: bool) -> Result<()> {
        let files = replica.files();
        let data = self.set_aside(&files.data)?;
        let meta = self.set_aside(&files.meta)?;
        let report = report.then(|| replica.block());
        self.send(Job::of(replica, data, meta, report));
        Ok(())
    }

    /// [`Deleter::retire`] on a data thread, which waits for no disk; nothing is reported.
    pub async fn retire_on_ring(&self, replica: &Replica) -> Result<()> {
        let files = replica.files();
        let (data, meta) = (self.next_target(), self.next_target());
        let renamed = ring::fs::rename(&files.data, &data).await;
        let data = moved(&files.data, data, renamed)?;
        let renamed = ring::fs::rename(&files.meta, &meta).await;
        let meta = moved(&files.meta, meta, renamed)?;
        self.send(Job::of(replica, data, meta, None));
        Ok(())
    }

    /// The same for files that are nobody's replica; none is kept.
    pub fn retire_files(&self, files: &[&Path], accounted_bytes: u64) -> Result<()> {
        let aside = files.iter().map(|file| self.set_aside(file)).collect::<Result<Vec<_>>>()?;
        let paths = aside.into_iter().flatten().collect();
        self.send(Job { paths, spare: None, accounted_bytes, report: None });
        Ok(())
    }

    /// Deletes files that are out of their place already.
    pub fn delete(&self, paths: Vec<PathBuf>) {
        if !paths.is_empty() {
            self.send(Job { paths, spare: None, accounted_bytes: 0, report: None });
        }
    }

    /// Where the file is now; one that was missing is nowhere.
    fn set_aside(&self, file: &Path) -> Result<Option<PathBuf>> {
        let target = self.next_target();
        let renamed = fs::rename(file, &target);
        moved(file, target, renamed)
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

impl Job {
    /// Of a replica whose files are out of their place: who looks for it from now on to pass it to a
    /// client finds nothing.
    fn of(
        replica: &Replica,
        data: Option<PathBuf>,
        meta: Option<PathBuf>,
        report: Option<Block>,
    ) -> Self {
        let (spare, data) = if replica.may_be_kept() { (data, None) } else { (None, data) };
        let paths = data.into_iter().chain(meta).collect();
        Self { paths, spare, accounted_bytes: replica.accounted_bytes(), report }
    }
}

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
    loop {
        let job = match jobs.recv_timeout(SPARE_FILES_LOOK_INTERVAL) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        if let Some(job) = job {
            delete(volume, job, reports);
        }
        unlink(&volume.spare_files().release(volume.usage().remaining_bytes));
    }
}

fn unlink(paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = fs::remove_file(path) {
            warn!(path = %path.display(), %error, "a deleted replica's file stays until restart");
        }
    }
}

fn delete(volume: &Volume, job: Job, reports: &ReportQueue) {
    unlink(&job.paths);
    let room_bytes = volume.usage().remaining_bytes;
    if let Some(spare) = job.spare.filter(|path| !volume.spare_files().keep(path, room_bytes)) {
        unlink(&[spare]);
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
        fs::write(&meta, [0; 7]).unwrap();
        let block =
            Block { id: BlockId(1), generation_stamp: GenerationStamp(1001), num_bytes: 100 };
        let replica = Replica::new(volume.clone(), block, ReplicaState::Rbw, None);
        replica.account(107);
        deleter.retire(&replica, true).unwrap();
        assert!(!data.exists() && !meta.exists(), "a new replica may take the place now");
        until(|| fs::read_dir(volume.tmp_dir()).unwrap().count() == 0);
        until(|| reports.pending_count() == 1);
        assert_eq!(volume.usage().dfs_used_bytes, 0);
        let taken = reports.take();
        assert_eq!(taken[0].changes[0].1, BlockChange::Deleted);
    }
}

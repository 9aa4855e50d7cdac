//! What is known of a volume's health: whether it has failed, is under suspicion, or does not answer.
//!
//! | state | enters it | leaves it |
//! |---|---|---|
//! | good | opened | - |
//! | suspect | a file operation failed, writes stand still, or it is not where it was | its check passed |
//! | stalled | an operation of a stream was given up, or its watch has waited for the disk for [`STALLED_AFTER`] | the disk answers its watch, and its check passed |
//! | failed | its check failed or timed out, or writes fail again and again | never: a restart opens it anew |
//!
//! Streams only raise suspicion; the volume's own thread (`volume_watch`) checks, so that no data
//! thread waits for a sick disk. A suspect volume is the last choice for new replicas, a stalled or
//! failed one is none, and nothing else is begun there either (`Dataset::require_answering`). Opened files are never trusted again after a failed write or sync, whatever
//! the check says: see `transitions`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::error::DatanodeError;
use crate::limits::{FAILED_WRITES_MAX, STALLED_AFTER};
use crate::slow_volumes::WriteTimes;

/// Why a volume is out, as the namenode is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFailure {
    /// The configured directory.
    pub location: String,
    pub why: String,
    pub time_ms: u64,
    pub capacity_lost_bytes: u64,
}

impl VolumeFailure {
    pub fn now(location: String, why: &DatanodeError, capacity_lost_bytes: u64) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = since_epoch.as_millis() as u64;
        Self { location, why: why.to_string(), time_ms, capacity_lost_bytes }
    }
}

impl std::fmt::Display for VolumeFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "volume {} has failed: {}", self.location, self.why)
    }
}

#[derive(Debug)]
pub struct VolumeHealth {
    is_failed: AtomicBool,
    failure: Mutex<Option<VolumeFailure>>,
    is_suspect: AtomicBool,
    /// An operation of a stream was given up since the last check that passed.
    has_overdue: AtomicBool,
    /// Replicas whose write or sync failed.
    failed_writes: AtomicU32,
    check_requests: (Sender<()>, Receiver<()>),
    /// Since when the watch waits for the disk.
    busy_since: Mutex<Option<Instant>>,
    writes_begun: AtomicU64,
    writes_ended: AtomicU64,
    write_times: WriteTimes,
    progress: Mutex<Progress>,
}

/// When the writes were last seen to get on.
#[derive(Debug)]
struct Progress {
    ended: u64,
    seen: Instant,
}

/// The real time, or that of a simulated world.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Default for VolumeHealth {
    fn default() -> Self {
        Self {
            is_failed: AtomicBool::default(),
            failure: Mutex::default(),
            is_suspect: AtomicBool::default(),
            has_overdue: AtomicBool::default(),
            failed_writes: AtomicU32::default(),
            check_requests: bounded(1),
            busy_since: Mutex::default(),
            writes_begun: AtomicU64::default(),
            writes_ended: AtomicU64::default(),
            write_times: WriteTimes::default(),
            progress: Mutex::new(Progress { ended: 0, seen: now() }),
        }
    }
}

impl VolumeHealth {
    pub fn is_failed(&self) -> bool {
        self.is_failed.load(Ordering::SeqCst)
    }

    pub fn failure(&self) -> Option<VolumeFailure> {
        self.failure.lock().clone()
    }

    pub fn is_suspect(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed)
    }

    pub fn is_stalled(&self) -> bool {
        self.has_overdue.load(Ordering::Relaxed)
            || self.unanswered_since().is_some_and(|since| now() - since >= STALLED_AFTER)
    }

    /// Since when the watch waits for the disk, if it does.
    pub fn unanswered_since(&self) -> Option<Instant> {
        *self.busy_since.lock()
    }

    /// True for the first failure.
    pub(crate) fn fail(&self, failure: VolumeFailure) -> bool {
        let mut present = self.failure.lock();
        if present.is_some() {
            return false;
        }
        warn!(volume = failure.location, why = failure.why, "THE VOLUME HAS FAILED");
        *present = Some(failure);
        self.is_failed.store(true, Ordering::SeqCst);
        true
    }

    /// Has the volume checked, unless a check is waiting already.
    pub fn suspect(&self, location: &str, error: &DatanodeError) {
        if self.is_failed() {
            return;
        }
        if error.is_overdue() {
            self.has_overdue.store(true, Ordering::Relaxed);
        }
        if !self.is_suspect.swap(true, Ordering::Relaxed) {
            warn!(volume = location, %error, "the volume will be checked");
        }
        let _ = self.check_requests.0.try_send(());
    }

    pub(crate) fn count_failed_write(&self) {
        self.failed_writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether writes fail again and again, though checks pass.
    pub(crate) fn fails_too_often(&self) -> bool {
        self.failed_writes.load(Ordering::Relaxed) > FAILED_WRITES_MAX
    }

    pub(crate) fn cleared(&self, location: &str) {
        self.has_overdue.store(false, Ordering::Relaxed);
        if self.is_suspect.swap(false, Ordering::Relaxed) {
            info!(volume = location, "the volume has passed its check");
        }
    }

    pub(crate) fn check_requests(&self) -> Receiver<()> {
        self.check_requests.1.clone()
    }

    /// Notes that the watch waits for the disk while `work` runs.
    pub(crate) fn busy_while<T>(&self, work: impl FnOnce() -> T) -> T {
        self.wait_begins();
        let done = work();
        self.wait_ends();
        done
    }

    pub(crate) fn wait_begins(&self) {
        *self.busy_since.lock() = Some(now());
    }

    pub(crate) fn wait_ends(&self) {
        *self.busy_since.lock() = None;
    }

    pub(crate) fn write_times(&self) -> &WriteTimes {
        &self.write_times
    }

    /// To be followed by [`VolumeHealth::write_ends`], however the write ends.
    pub(crate) fn write_begins(&self) {
        self.writes_begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it was a slow one.
    pub(crate) fn write_ends(&self, time: Duration) -> bool {
        self.writes_ended.fetch_add(1, Ordering::Relaxed);
        self.write_times.note(time)
    }

    /// Whether writes are under way and none has ended for [`STALLED_AFTER`]; to be asked often.
    pub(crate) fn writes_stand_still(&self, now: Instant) -> bool {
        let ended = self.writes_ended.load(Ordering::Relaxed);
        let under_way = self.writes_begun.load(Ordering::Relaxed) > ended;
        let mut progress = self.progress.lock();
        if !under_way || progress.ended != ended {
            *progress = Progress { ended, seen: now };
        }
        now.duration_since(progress.seen) >= STALLED_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_get_on_are_no_stall_and_writes_that_do_not_are() {
        let health = VolumeHealth::default();
        let start = Instant::now();
        let later = start + STALLED_AFTER * 2;
        assert!(!health.writes_stand_still(later), "nothing is under way");
        health.write_begins();
        health.write_begins();
        assert!(!health.writes_stand_still(later));
        health.write_ends(Duration::ZERO);
        assert!(!health.writes_stand_still(later + STALLED_AFTER), "one has ended");
        assert!(health.writes_stand_still(later + STALLED_AFTER * 2));
        health.write_ends(Duration::ZERO);
        assert!(!health.writes_stand_still(later + STALLED_AFTER * 3));
    }

    #[test]
    fn the_first_failure_stays() {
        let health = VolumeHealth::default();
        let failure = |why: &str| {
            let why = DatanodeError::Host { why: why.into() };
            VolumeFailure::now("/d".into(), &why, 7)
        };
        assert!(health.fail(failure("first")) && !health.fail(failure("second")));
        assert_eq!(health.failure().unwrap().why, "first");
    }
}

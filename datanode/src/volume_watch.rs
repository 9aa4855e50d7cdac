//! The thread that watches over one volume, and the only one that waits for the disk to answer: it
//! looks every second how much room there is and whether the volume is where it was, and carries out
//! the checks that others ask for.
//!
//! A check writes a file, reads it back past the page cache and removes it, as Apache's
//! `DatasetVolumeChecker` does. A full disk passes, and so does one that could not be checked for want
//! of descriptors or memory: that is no fault of the disk. A check that takes longer than
//! `dfs.datanode.disk.check.timeout` is for `failed_volumes` to notice.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use tokio::sync::Notify;

use crate::error::{DatanodeError, Result};
use crate::volume::{DIRECT_IO_ALIGNMENT_BYTES, Volume};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Tries to check while the process is out of descriptors or memory, and the pause between two.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

const PROBE_FILE: &str = "disk-check-probe";

/// Watches until the volume is dropped; `failures` is told when it fails.
pub fn start(volume: &Arc<Volume>, failures: Arc<Notify>) -> Result<()> {
    let requests = volume.health().check_requests();
    #[cfg(feature = "simulation")]
    if let Some(world) = ringfs_protocol::simulation::network() {
        tokio::spawn(watch_in_world(Arc::downgrade(volume), requests, failures, world));
        return Ok(());
    }
    let volume = Arc::downgrade(volume);
    std::thread::Builder::new()
        .name("volume-watch".into())
        .spawn(move || watch(&volume, &requests, &failures))
        .map(drop)
        .map_err(DatanodeError::io("starting a volume's watch"))
}

fn watch(volume: &Weak<Volume>, requests: &Receiver<()>, failures: &Notify) {
    loop {
        let is_asked = match requests.recv_timeout(LOOK_INTERVAL) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(volume) = volume.upgrade() else { return };
        if volume.is_failed() {
            return;
        }
        let looked = volume.health().busy_while(|| look(&volume));
        if !is_asked && looked.is_ok() {
            continue;
        }
        let checked = volume.health().busy_while(|| check(&volume));
        if !passes(&volume, checked.and(looked)) {
            failures.notify_one();
            return;
        }
    }
}

/// Clears the volume, or marks it as failed.
fn passes(volume: &Volume, checked: Result<()>) -> bool {
    let outcome = match checked {
        Ok(()) if volume.health().fails_too_often() => Err(DatanodeError::Storage {
            path: volume.root().display().to_string(),
            why: "writes fail again and again, though its checks pass".into(),
        }),
        outcome => outcome,
    };
    match outcome {
        Ok(()) => volume.health().cleared(&volume.location()),
        Err(error) => volume.mark_failed(&error),
    }
    !volume.is_failed()
}

/// The same for a world, which has one thread, and no disk but the one that it answers for.
#[cfg(feature = "simulation")]
async fn watch_in_world(
    watched: Weak<Volume>,
    requests: Receiver<()>,
    failures: Arc<Notify>,
    world: Arc<dyn ringfs_protocol::simulation::Network>,
) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let checking = match watched.upgrade() {
            Some(volume) if volume.is_failed() => return,
            Some(_) if requests.try_recv().is_err() => continue,
            Some(volume) => {
                volume.health().wait_begins();
                world.check_disk(volume.root())
            }
            None => return,
        };
        let checked = checking.await.or_else(pass_full);
        let Some(volume) = watched.upgrade() else { return };
        volume.health().wait_ends();
        if !passes(&volume, checked.map_err(DatanodeError::io("checking in a world"))) {
            failures.notify_one();
            return;
        }
    }
}

/// Whether the volume's directory is on the device it was opened on, and how much room there is.
fn look(volume: &Volume) -> Result<()> {
    let dir = volume.rbw_dir();
    let device = fs::metadata(&dir)
        .map_err(DatanodeError::io(format!("looking for {}", dir.display())))?
        .dev();
    if device != volume.device() {
        return Err(DatanodeError::Storage {
            path: volume.root().display().to_string(),
            why: "is not on the device it was opened on: it was unmounted".into(),
        });
    }
    volume.measure_room()
}

/// Whether the volume takes and gives back bytes.
pub fn check(volume: &Volume) -> Result<()> {
    let path = volume.tmp_dir().join(PROBE_FILE);
    let failed =
        |source| DatanodeError::Io { what: format!("checking {}", path.display()), source };
    for _ in 1..TRIES {
        match probe(&path, volume.direct_io()) {
            Err(error) if is_want_of_resources(&error) => std::thread::sleep(PAUSE),
            outcome => return outcome.or_else(pass_full).map_err(failed),
        }
    }
    Ok(())
}

fn is_want_of_resources(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

fn pass_full(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Ok(()),
        _ => Err(error),
    }
}

fn probe(path: &Path, direct: bool) -> io::Result<()> {
    let mut page = memmap2::MmapMut::map_anon(DIRECT_IO_ALIGNMENT_BYTES)?;
    let pattern: [u8; 8] = rand::random();
    page.chunks_exact_mut(pattern.len()).for_each(|part| part.copy_from_slice(&pattern));
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(path)?;
    let tried = (|| {
        file.write_all_at(&page, 0)?;
        file.sync_data()?;
        let mut back = memmap2::MmapMut::map_anon(DIRECT_IO_ALIGNMENT_BYTES)?;
        file.read_exact_at(&mut back, 0)?;
        match back[..] == page[..] {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "reads back other bytes")),
        }
    })();
    let removed = fs::remove_file(path);
    tried.and(removed)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::volume::tests::volume;

    fn is_failed_soon(volume: &Volume) -> bool {
        let started = Instant::now();
        while !volume.is_failed() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        volume.is_failed()
    }

    #[test]
    fn a_good_volume_passes_and_loses_the_suspicion() {
        let (volume, _temp) = volume();
        let failures = Arc::<Notify>::default();
        start(&volume, failures).unwrap();
        let error = io::Error::from_raw_os_error(libc::EIO);
        volume.suspect(&DatanodeError::Io { what: "reading once".into(), source: error });
        assert!(volume.health().is_suspect());
        let started = Instant::now();
        while volume.health().is_suspect() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!volume.health().is_suspect() && !volume.is_failed());
        assert!(!volume.tmp_dir().join(PROBE_FILE).exists());
    }

    #[tokio::test]
    async fn a_volume_that_is_gone_fails_without_being_asked_for() {
        let (volume, temp) = volume();
        let failures = Arc::<Notify>::default();
        start(&volume, failures.clone()).unwrap();
        fs::rename(temp.path().join("d"), temp.path().join("elsewhere")).unwrap();
        assert!(is_failed_soon(&volume));
        failures.notified().await;
        let failure = volume.health().failure().unwrap();
        assert_eq!(failure.location, volume.location());
        assert!(failure.capacity_lost_bytes > 0);
    }

    #[test]
    fn writes_that_fail_again_and_again_fail_a_volume_that_passes() {
        let (volume, _temp) = volume();
        start(&volume, Arc::default()).unwrap();
        for _ in 0..=crate::limits::FAILED_WRITES_MAX {
            volume.health().count_failed_write();
        }
        let source = io::Error::from_raw_os_error(libc::EIO);
        volume.suspect(&DatanodeError::Io { what: "writing".into(), source });
        assert!(is_failed_soon(&volume));
    }

    #[test]
    fn full_disks_pass_and_others_do_not() {
        let of = io::Error::from_raw_os_error;
        assert!(pass_full(of(libc::ENOSPC)).is_ok());
        assert!(pass_full(of(libc::EROFS)).is_err());
        assert!(is_want_of_resources(&of(libc::EMFILE)) && !is_want_of_resources(&of(libc::EIO)));
    }
}

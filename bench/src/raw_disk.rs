//! Sequential O_DIRECT writes and reads of 1 MiB by a few threads: what the disk below a directory
//! gives when nothing else is asked of it. The file is preallocated, as the datanode's block files
//! are, and filled with bytes that do not compress. A file system without O_DIRECT is measured
//! buffered, with the sync inside the timed part, and the result says so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use memmap2::{Advice, MmapMut};
use rustix::fs::{FallocateFlags, OFlags};

use crate::{BenchError, Rate};

const REQUEST_BYTES: usize = 1 << 20;

/// Requests in flight: one thread each. Four saturate a single-queue virtio disk at 1 MiB.
const THREADS: usize = 4;

/// A temporary file of `bytes` on the disk to measure, unlinked at the end.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    bytes: u64,
    pub direct: bool,
    path: std::path::PathBuf,
}

impl RawDisk {
    /// `bytes` is rounded down to whole MiB.
    pub fn create(directory: &Path, bytes: u64) -> Result<Self, BenchError> {
        let path = directory.join(format!("raw-disk-{}", std::process::id()));
        let bytes = bytes - bytes % REQUEST_BYTES as u64;
        let open = |flags: OFlags| {
            let flags = i32::try_from(flags.bits()).expect("O_DIRECT is a small constant");
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(flags)
                .open(&path)
        };
        let (file, direct) = match open(OFlags::DIRECT) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                (open(OFlags::empty()).map_err(BenchError::file("create", &path))?, false)
            }
            opened => (opened.map_err(BenchError::file("create", &path))?, true),
        };
        let disk = Self { file, bytes, direct, path };
        rustix::fs::fallocate(&disk.file, FallocateFlags::empty(), 0, bytes)
            .map_err(|errno| BenchError::file("allocate", &disk.path)(errno.into()))?;
        Ok(disk)
    }

    pub fn write(&self) -> Result<Rate, BenchError> {
        self.timed("write", |file, buffer, offset| file.write_all_at(buffer, offset))
    }

    /// Reads what [`RawDisk::write`] wrote; call it after that.
    pub fn read(&self) -> Result<Rate, BenchError> {
        if !self.direct {
            rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)
                .map_err(|errno| BenchError::file("drop the cache of", &self.path)(errno.into()))?;
        }
        self.timed("read", |file, buffer, offset| file.read_exact_at(buffer, offset))
    }

    fn timed(
        &self,
        what: &'static str,
        request: impl Fn(&File, &mut [u8], u64) -> io::Result<()> + Sync,
    ) -> Result<Rate, BenchError> {
        let fail = |source| BenchError::File { what, path: self.path.clone(), source };
        let mut buffers = buffers().map_err(fail)?;
        let next_offset = AtomicU64::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = buffers
                .chunks_exact_mut(REQUEST_BYTES)
                .map(|buffer| {
                    let (next_offset, request) = (&next_offset, &request);
                    scope.spawn(move || {
                        loop {
                            let offset =
                                next_offset.fetch_add(REQUEST_BYTES as u64, Ordering::Relaxed);
                            if offset >= self.bytes {
                                return Ok(());
                            }
                            request(&self.file, buffer, offset)?;
                        }
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
        .map_err(fail)?;
        if !self.direct && what == "write" {
            self.file.sync_data().map_err(fail)?;
        }
        Ok(Rate { bytes: self.bytes, elapsed: started.elapsed() })
    }
}

impl Drop for RawDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Page-aligned, touched and filled before any clock runs: the first touch of memory costs more
/// than the disk write would.
fn buffers() -> io::Result<MmapMut> {
    let mut buffers = MmapMut::map_anon(THREADS * REQUEST_BYTES)?;
    // Huge pages save a fifth of the time; without them the measure still holds.
    let _ = buffers.advise(Advice::HugePage);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in buffers.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    Ok(buffers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_all_of_it_and_leaves_nothing() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = RawDisk::create(directory.path(), (5 << 20) + 17).unwrap();
        let written = disk.write().unwrap();
        let read = disk.read().unwrap();
        assert_eq!((written.bytes, read.bytes), (5 << 20, 5 << 20));
        assert!(written.gb_per_s() > 0.0 && read.gb_per_s() > 0.0);
        let mut last = vec![0; 8];
        File::open(&disk.path).unwrap().read_exact_at(&mut last, (5 << 20) - 8).unwrap();
        assert_ne!(last, vec![0; 8], "the last request was written");
        drop(disk);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

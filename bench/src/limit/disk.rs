//! O_DIRECT by size and depth through the raw ring: what the disk below a directory gives when
//! nothing else is asked of it. The file is preallocated, as the datanode's block files are, and
//! filled with bytes that do not compress. A file system without O_DIRECT is measured buffered, with
//! the sync inside the timed part, and the result says so.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use rustix::fs::{Advice, FallocateFlags, OFlags};

use super::ring::Ring;
use crate::BenchError;
use crate::processes::cpu_time_of_this_process;
use crate::report::{Measurement, ProcessCpu, Run, Side};

/// Memory for requests in flight, as one registered buffer may have.
pub const IN_FLIGHT_BYTES_MAX: usize = 1 << 30;
const CHUNK_BYTES: u32 = 512;

/// How the bytes are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    pub bytes: usize,
    /// In flight at a time.
    pub depth: usize,
}

impl Requests {
    /// 1 MiB, four at a time, saturate a single-queue virtio disk.
    pub const LARGE: Self = Self { bytes: 1 << 20, depth: 4 };

    /// `what` is "write" or "read".
    pub fn measurement(&self, what: &str) -> Measurement {
        let parameters = [("request_bytes", self.bytes), ("depth", self.depth)];
        Measurement {
            group: format!("O_DIRECT {what}"),
            name: format!("{} KiB, {} in flight", self.bytes >> 10, self.depth),
            side: Side::Limit,
            parameters: parameters.map(|(name, value)| (name.to_owned(), value.to_string())).into(),
            runs: Vec::new(),
        }
    }
}

/// What is done with the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing: what the disk and its driver give.
    AtNothing,
    /// CRC32C of each 512 bytes, as every reader of HDFS has to compute: where the host runs a virtual
    /// disk far from the processor's caches, looking costs more than reading.
    AtEachByte,
}

/// A temporary file of `bytes` on the disk to measure, unlinked at the end.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    bytes: u64,
    pub direct: bool,
    path: PathBuf,
}

impl RawDisk {
    /// `bytes` is rounded down to whole MiB.
    pub fn create(directory: &Path, bytes: u64) -> Result<Self, BenchError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("raw-disk-{}-{number}", std::process::id()));
        let bytes = bytes - bytes % (1 << 20);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let (file, direct) = open(&mut options, &path)?;
        let disk = Self { file, bytes, direct, path };
        rustix::fs::fallocate(&disk.file, FallocateFlags::empty(), 0, bytes)
            .map_err(|errno| BenchError::file("allocate", &disk.path)(errno.into()))?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub fn write(&self, requests: Requests) -> Result<Run, BenchError> {
        let fail = BenchError::file("write", &self.path);
        let mut transfer = Transfer::new(requests).map_err(BenchError::limit("set io_uring up"))?;
        let synced = |result: io::Result<u64>| {
            let bytes = result?;
            if !self.direct {
                self.file.sync_data()?;
            }
            Ok(bytes)
        };
        timed(|| synced(transfer.run(&self.file, self.bytes, true))).map_err(fail)
    }

    /// Reads what [`RawDisk::write`] wrote; call it after that.
    pub fn read(&self, requests: Requests) -> Result<Run, BenchError> {
        read_files(std::slice::from_ref(&self.path), requests, Look::AtNothing)
    }
}

impl Drop for RawDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The files one after the other, from the disk to nowhere: what a cold sequential read of the same
/// bytes is held against.
pub fn read_files(paths: &[PathBuf], requests: Requests, look: Look) -> Result<Run, BenchError> {
    let mut files = Vec::new();
    for path in paths {
        let (file, direct) = open(OpenOptions::new().read(true), path)?;
        if !direct {
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
                .map_err(|errno| BenchError::file("drop the cache of", path)(errno.into()))?;
        }
        let bytes = file.metadata().map_err(BenchError::file("look at", path))?.len();
        files.push((file, bytes));
    }
    let mut transfer = Transfer::new(requests).map_err(BenchError::limit("set io_uring up"))?;
    transfer.looks = look == Look::AtEachByte;
    timed(|| {
        files.iter().try_fold(0, |sum, (file, bytes)| Ok(sum + transfer.run(file, *bytes, false)?))
    })
    .map_err(BenchError::limit("read files directly"))
}

/// With O_DIRECT where the file system has it, which is the second of the pair.
fn open(options: &mut OpenOptions, path: &Path) -> Result<(File, bool), BenchError> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).expect("O_DIRECT is a small constant");
    match options.custom_flags(direct).open(path) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            let file =
                options.custom_flags(0).open(path).map_err(BenchError::file("open", path))?;
            Ok((file, false))
        }
        opened => Ok((opened.map_err(BenchError::file("open", path))?, true)),
    }
}

fn timed(transfer: impl FnOnce() -> io::Result<u64>) -> io::Result<Run> {
    let (started, cpu) = (Instant::now(), cpu_time_of_this_process());
    let bytes = transfer()?;
    let elapsed = started.elapsed();
    let cpu_s = (cpu_time_of_this_process() - cpu).as_secs_f64();
    let cpu = vec![ProcessCpu { process: "disk".to_owned(), cpu_s }];
    Ok(Run { bytes, elapsed, cpu, ..Run::default() })
}

/// Bytes that do not compress.
pub(super) fn fill_with_noise(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

fn checksum(bytes: &[u8]) {
    let checksum = DataChecksum { kind: ChecksumType::Crc32c, bytes_per_checksum: CHUNK_BYTES };
    for chunk in bytes.chunks(CHUNK_BYTES as usize) {
        black_box(checksum.crc(chunk));
    }
}

/// A ring with a buffer for each request that may be in flight.
struct Transfer {
    ring: Ring,
    requests: Requests,
    /// Whether what was read is checksummed.
    looks: bool,
}

impl Transfer {
    fn new(requests: Requests) -> io::Result<Self> {
        let mut ring = Ring::new(requests.bytes * requests.depth, 0)?;
        fill_with_noise(ring.bytes_mut(0..requests.bytes * requests.depth));
        Ok(Self { ring, requests, looks: false })
    }

    /// All of the file, in order. A token is the buffer's index.
    fn run(&mut self, file: &File, bytes: u64, write: bool) -> io::Result<u64> {
        let Requests { bytes: size, depth } = self.requests;
        let (mut next_offset, mut in_flight) = (0, vec![0; depth]);
        let mut free: Vec<usize> = (0..depth).collect();
        let mut completions = Vec::new();
        while next_offset < bytes || free.len() < depth {
            while next_offset < bytes
                && let Some(index) = free.pop()
            {
                let len = (bytes - next_offset).min(size as u64);
                let (range, token) = (index * size..index * size + len as usize, index as u64);
                in_flight[index] = len as usize;
                if write {
                    self.ring.write_at(file, range, next_offset, token)?;
                } else {
                    // Direct reads are of whole sectors, beyond a file's end too.
                    let range =
                        range.start..(range.end.next_multiple_of(4096)).min((index + 1) * size);
                    self.ring.read_at(file, range, next_offset, token)?;
                }
                next_offset += len;
            }
            self.ring.wait(&mut completions)?;
            for completion in &completions {
                let index = completion.token as usize;
                if completion.bytes()? != in_flight[index] {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if self.looks {
                    let start = index * size;
                    checksum(self.ring.bytes(start..start + in_flight[index]));
                }
                free.push(index);
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn writes_and_reads_all_of_it_and_leaves_nothing() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = RawDisk::create(directory.path(), (5 << 20) + 17).unwrap();
        for requests in [Requests::LARGE, Requests { bytes: 64 << 10, depth: 16 }] {
            let (written, read) = (disk.write(requests).unwrap(), disk.read(requests).unwrap());
            assert_eq!((written.bytes, read.bytes), (5 << 20, 5 << 20));
        }
        let mut last = vec![0; 8];
        File::open(&disk.path).unwrap().read_exact_at(&mut last, (5 << 20) - 8).unwrap();
        assert_ne!(last, vec![0; 8], "the last request was written");
        drop(disk);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn reads_files_of_any_length() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let lens = [1_usize, 4096, (1 << 20) + 5, 0];
        let paths: Vec<PathBuf> = lens
            .iter()
            .map(|len| {
                let path = directory.path().join(len.to_string());
                std::fs::write(&path, vec![7; *len]).unwrap();
                path
            })
            .collect();
        for look in [Look::AtNothing, Look::AtEachByte] {
            let run = read_files(&paths, Requests::LARGE, look).unwrap();
            assert_eq!(run.bytes, lens.iter().sum::<usize>() as u64);
        }
    }
}

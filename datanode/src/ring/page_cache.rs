//! What the page cache holds of a file: asked for, copied and sent without waiting for the disk.
//!
//! These are plain system calls on the data thread: they touch memory only, and io_uring would hand
//! a splice to a worker thread. A page may leave the cache between the question and the use; the
//! thread then waits for that one page.

#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::sendfile;
use rustix::io::{Errno, ReadWriteFlags, ioctl_fionbio, preadv2};
use rustix::net::{SendFlags, send};

use super::buffers::SECTOR_BYTES;
use super::descriptor::Descriptor;
use super::driver::Operation;
use super::file::{File, run};
use super::net::TcpStream;

/// cachestat(2), Linux 6.5; the number is the same on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct CachestatRange {
    offset: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    in_writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

impl File {
    /// Whether the page cache holds all of the range, which is not empty and within the file.
    pub fn is_cached(&self, offset: u64, len: u64) -> bool {
        let found = cached_pages(self.descriptor.as_fd(), offset, len);
        let page = SECTOR_BYTES as u64;
        let pages = (offset + len).div_ceil(page) - offset / page;
        // Pages that are still being read count as cached: the last one tells.
        let mut last = [0];
        found.is_ok_and(|found| found >= pages)
            && self.read_cached(&mut last, offset + len - 1) == 1
    }

    /// Copies what the page cache holds from `offset` on; 0 where it does not hold the first byte.
    pub fn read_cached(&self, buffer: &mut [u8], offset: u64) -> usize {
        let flags = ReadWriteFlags::NOWAIT;
        preadv2(&self.descriptor, &mut [IoSliceMut::new(buffer)], offset, flags).unwrap_or(0)
    }
}

/// Bytes of a file that the page cache holds, in whole pages.
pub fn cached_bytes(file: &std::fs::File) -> io::Result<u64> {
    // A length of 0 means up to the end.
    let pages = cached_pages(file.as_fd(), 0, 0)?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn cached_pages(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
    let range = CachestatRange { offset, len };
    let mut found = Cachestat::default();
    let fd = file.as_raw_fd();
    // SAFETY: both structures are laid out as the kernel's, and outlive the call.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, fd, &raw const range, &raw mut found, 0) };
    if result == 0 { Ok(found.cached) } else { Err(io::Error::last_os_error()) }
}

impl TcpStream {
    /// Sends `head`, then a range of a file out of the page cache, which no copy leaves.
    pub async fn send_cached(
        &self,
        mut head: &[u8],
        file: &File,
        mut offset: u64,
        len: u64,
    ) -> io::Result<()> {
        let socket = NonBlocking::new(&self.descriptor)?;
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        while !head.is_empty() {
            match send(socket.0, head, flags) {
                Ok(count) => head = &head[count..],
                Err(Errno::AGAIN) => self.writable().await?,
                Err(errno) => return Err(errno.into()),
            }
        }
        let end = offset + len;
        while offset < end {
            let rest = usize::try_from(end - offset).unwrap_or(usize::MAX);
            match sendfile(socket.0, &file.descriptor, Some(&mut offset), rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(Errno::AGAIN) => self.writable().await?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        run(Operation::AwaitWritable { fd: self.descriptor.clone() }).await
    }
}

/// A socket whose calls return at once; io_uring's receives and sends want it to block.
struct NonBlocking<'a>(&'a Descriptor);

impl<'a> NonBlocking<'a> {
    fn new(socket: &'a Descriptor) -> io::Result<Self> {
        ioctl_fionbio(socket, true)?;
        Ok(Self(socket))
    }
}

impl Drop for NonBlocking<'_> {
    fn drop(&mut self) {
        // What could be set can be unset.
        let _ = ioctl_fionbio(self.0, false);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::ring::{self, OpenOptions};

    #[test]
    fn a_file_in_the_page_cache_is_seen_copied_and_sent() {
        const LEN: usize = 5_000_001;
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("f");
        let content: Vec<u8> = (0..LEN).map(|i| (i / 7 + i / 4099) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = std::thread::spawn(move || {
            let mut all = Vec::new();
            let (mut stream, _) = listener.accept().unwrap();
            // Late, so that the sender meets a full socket.
            std::thread::sleep(std::time::Duration::from_millis(50));
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let sent = content.clone();
        ring::block_on(async move {
            let read = OpenOptions { read: true, ..OpenOptions::default() };
            let file = File::open(&path, read).await.unwrap();
            assert!(file.is_cached(0, LEN as u64) && file.is_cached(LEN as u64 - 1, 1));
            assert!(!file.is_cached(LEN as u64 - 1, 4097), "beyond the end");
            let mut part = [0; 1000];
            assert_eq!(file.read_cached(&mut part, 4_999_900), 101);
            assert_eq!(part[..101], sent[4_999_900..]);
            let stream = TcpStream::connect(address).await.unwrap();
            stream.send_cached(b"head", &file, 77, LEN as u64 - 77).await.unwrap();
            stream.close();
        })
        .unwrap();
        let received = receiver.join().unwrap();
        assert!(received == [&b"head"[..], &content[77..]].concat());
    }
}

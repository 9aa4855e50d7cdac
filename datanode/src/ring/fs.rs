//! Directory operations. The kernel carries them out on its worker threads: no data thread waits.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::driver::Operation;
use super::file::{File, OpenOptions, c_path, run};

pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    run(Operation::Rename { from: c_path(from)?, to: c_path(to)? }).await
}

/// Of small files only: freeing a block's worth of data takes milliseconds of disk time.
pub async fn unlink(path: &Path) -> io::Result<()> {
    run(Operation::Unlink { path: c_path(path)? }).await
}

pub async fn create_dir(path: &Path) -> io::Result<()> {
    run(Operation::CreateDir { path: c_path(path)?, mode: 0o755 }).await
}

/// Whether a file, open for writing here, is also open anywhere else on this host: then the kernel
/// grants no write lease on it (fcntl(2)). Who opens it during the call may wait for its end.
pub fn is_open_elsewhere(file: &std::fs::File) -> io::Result<bool> {
    /// asm-generic/fcntl.h, as on x86 and ARM.
    const F_SETSIG: i32 = 10;
    /// Told to who holds a lease when somebody opens the file; SIGIO, the usual one, would end the process.
    const IGNORED_SIGNAL: i32 = libc::SIGURG;
    fcntl(file, F_SETSIG, IGNORED_SIGNAL)?;
    match fcntl(file, libc::F_SETLEASE, libc::F_WRLCK) {
        Ok(()) => fcntl(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

fn fcntl(file: &std::fs::File, command: i32, argument: i32) -> io::Result<()> {
    // SAFETY: the commands that it is called with take a number, and no memory.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub async fn sync_dir(path: &Path) -> io::Result<()> {
    let options = OpenOptions { read: true, ..OpenOptions::default() };
    File::open(path, options).await?.sync_all().await
}

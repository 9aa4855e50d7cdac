//! Directory operations. The kernel carries them out on its worker threads: no data thread waits.

use std::io;
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

/// Makes the names in a directory durable.
pub async fn sync_dir(path: &Path) -> io::Result<()> {
    let options = OpenOptions { read: true, ..OpenOptions::default() };
    File::open(path, options).await?.sync_all().await
}

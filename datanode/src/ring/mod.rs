//! The file operations that the ring will carry, for the time being as plain system calls.

use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

pub mod fs {
    use std::io;
    use std::path::Path;

    pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    pub async fn create_dir(path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    pub async fn sync_dir(path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    pub read: bool,
    pub write: bool,
    pub create_new: bool,
    pub direct: bool,
}

/// An open file whose operations run on this thread's ring.
#[derive(Debug)]
pub struct File(std::fs::File);

impl File {
    pub async fn open(path: &Path, options: OpenOptions) -> io::Result<Self> {
        std::fs::OpenOptions::new()
            .read(options.read)
            .write(options.write)
            .create_new(options.create_new)
            .open(path)
            .map(Self)
    }

    pub async fn read_at(&self, mut buf: Vec<u8>, offset: u64) -> (io::Result<usize>, Vec<u8>) {
        (self.0.read_at(&mut buf, offset), buf)
    }

    pub async fn write_at(&self, buf: Vec<u8>, offset: u64) -> (io::Result<usize>, Vec<u8>) {
        (self.0.write_at(&buf, offset), buf)
    }

    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    pub async fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    pub async fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }
}

pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, ()> {
    tokio::time::timeout(duration, future).await.map_err(drop)
}

pub mod net {
    use std::io;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Debug)]
    pub struct TcpStream(tokio::net::TcpStream);

    impl TcpStream {
        pub async fn connect(address: SocketAddr) -> io::Result<Self> {
            tokio::net::TcpStream::connect(address).await.map(Self)
        }

        pub async fn send_all(&mut self, bytes: Vec<u8>) -> io::Result<()> {
            self.0.write_all(&bytes).await
        }

        pub async fn recv(&mut self, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
            (self.0.read(&mut buf).await, buf)
        }
    }
}

pub fn spawn_anywhere(job: crate::data_work::Job) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(job());
    });
}

//! Plain sendfile of cached files to a socket on loopback, whose other end reads and forgets: what a
//! hot sequential read is held against.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{connect_prepared, prepare_socket};
use crate::BenchError;
use crate::processes::cpu_time_of_this_thread;
use crate::report::{ProcessCpu, Run};

const READ_BYTES: usize = 1 << 20;

/// The files one after the other, after a read of them that brings them into the page cache.
pub fn run(paths: &[PathBuf]) -> Result<Run, BenchError> {
    let mut files = Vec::new();
    for path in paths {
        let mut file = File::open(path).map_err(BenchError::file("open", path))?;
        let read = io::copy(&mut file, &mut io::sink());
        files.push((file, read.map_err(BenchError::file("read", path))?));
    }
    send(&files).map_err(BenchError::limit("send files over loopback"))
}

fn send(files: &[(File, u64)]) -> io::Result<Run> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let sender = connect_prepared(listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    prepare_socket(&receiver)?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || receive(receiver));
        let cpu = cpu_time_of_this_thread();
        for (file, bytes) in files {
            let mut offset = 0;
            while offset < *bytes {
                let left = (*bytes - offset).min(1 << 30) as usize;
                if rustix::fs::sendfile(&sender, file, Some(&mut offset), left)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        let sender_cpu = cpu_time_of_this_thread() - cpu;
        drop(sender);
        let received = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (bytes, receiver_cpu) = received?;
        let of = |process: &str, cpu: Duration| ProcessCpu {
            process: process.to_owned(),
            cpu_s: cpu.as_secs_f64(),
        };
        let cpu = vec![of("sender", sender_cpu), of("receiver", receiver_cpu)];
        Ok(Run { bytes, elapsed: started.elapsed(), cpu, ..Run::default() })
    })
}

fn receive(mut socket: TcpStream) -> io::Result<(u64, Duration)> {
    let (mut buffer, mut bytes) = (vec![1; READ_BYTES], 0);
    let cpu = cpu_time_of_this_thread();
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok((bytes, cpu_time_of_this_thread() - cpu)),
            len => bytes += len as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_every_byte_of_every_file() {
        let directory = tempfile::tempdir().unwrap();
        let paths = [("a", 3_000_001), ("b", 0), ("c", 5)].map(|(name, len)| {
            let path = directory.path().join(name);
            std::fs::write(&path, vec![7; len]).unwrap();
            path
        });
        assert_eq!(run(&paths).unwrap().bytes, 3_000_006);
    }
}

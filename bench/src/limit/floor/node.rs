//! One process of the floor: tells its address, takes a connection from upstream for every stream,
//! connects each on to the next process, and has an engine move the bytes. At the end it says what
//! processor time that took from the moment it was connected.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::layout::{CHECKSUM, Layout};
use super::{AckKind, Space, files, threads, tokio_uring, uring};
use crate::BenchError;
use crate::limit::child;
use crate::limit::{Engine, connect_prepared, prepare_socket};
use crate::processes::cpu_time_of_this_process;

#[derive(Clone, Debug, Args)]
pub struct NodeOptions {
    #[arg(long, value_enum)]
    pub engine: Engine,
    #[arg(long, value_enum)]
    pub ack: AckKind,
    #[command(flatten)]
    pub layout: Layout,
    /// The next process; the last one has none, and verifies
    #[arg(long)]
    pub downstream: Option<SocketAddr>,
    /// Where to store the bytes [default: they are discarded]
    #[arg(long)]
    pub directory: Option<PathBuf>,
    #[arg(long, value_enum)]
    pub space: Space,
}

/// One stream through this process.
pub struct Link {
    pub upstream: TcpStream,
    pub downstream: Option<TcpStream>,
}

impl Link {
    /// Ends all that waits for its connections.
    pub fn shut_down(&self) {
        for socket in [Some(&self.upstream), self.downstream.as_ref()].into_iter().flatten() {
            // The other side may have ended it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct NodeReport {
    pub cpu_s: f64,
    pub counters: BTreeMap<String, f64>,
}

impl NodeOptions {
    /// As a process of its own, which ends with the one that started it.
    pub fn run(&self) -> Result<(), BenchError> {
        child::end_with_parent()?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(BenchError::limit("listen"))?;
        let address = listener.local_addr().map_err(BenchError::limit("listen"))?;
        let report = self.serve(&listener, || child::tell_parent(&address.to_string()))?;
        child::tell_parent(&serde_json::to_string(&report).expect("numbers become JSON"))
    }

    /// Calls `ready` once connections find everything prepared.
    pub fn serve(
        &self,
        listener: &TcpListener,
        ready: impl FnOnce() -> Result<(), BenchError>,
    ) -> Result<NodeReport, BenchError> {
        if let (Space::Kept, Some(directory)) = (self.space, &self.directory) {
            files::lay_out(&self.layout, directory)?;
        }
        let connected_at = Cell::new(Duration::ZERO);
        let links = || {
            ready()?;
            let links = self.links(listener).map_err(BenchError::limit("connect the floor"))?;
            connected_at.set(cpu_time_of_this_process());
            Ok(links)
        };
        let counters = match self.engine {
            Engine::Uring => uring::serve(self, links),
            Engine::TokioUring => tokio_uring::serve(self, links),
            Engine::Threads => threads::serve(self, links),
        }?;
        let cpu_s = (cpu_time_of_this_process() - connected_at.get()).as_secs_f64();
        Ok(NodeReport { cpu_s, counters })
    }

    /// In the order of streams.
    fn links(&self, listener: &TcpListener) -> io::Result<Vec<Link>> {
        let mut links: Vec<Option<Link>> = (0..self.layout.streams).map(|_| None).collect();
        for _ in 0..self.layout.streams {
            let (mut upstream, _) = listener.accept()?;
            prepare_socket(&upstream)?;
            let mut hello = [0; 8];
            upstream.read_exact(&mut hello)?;
            let stream = u64::from_le_bytes(hello) as usize;
            let downstream = self.downstream.map(|address| connect(address, stream)).transpose()?;
            match links.get_mut(stream) {
                Some(free @ None) => *free = Some(Link { upstream, downstream }),
                _ => return Err(io::Error::other(format!("stream {stream} is not expected"))),
            }
        }
        Ok(links.into_iter().flatten().collect())
    }
}

/// A connection for the stream of this number.
pub fn connect(address: SocketAddr, stream: usize) -> io::Result<TcpStream> {
    let mut socket = connect_prepared(address)?;
    socket.write_all(&(stream as u64).to_le_bytes())?;
    Ok(socket)
}

pub fn check_header(layout: &Layout, header: &[u8], packet: u64) -> io::Result<()> {
    if header == layout.header(packet) {
        Ok(())
    } else {
        Err(io::Error::other(format!("what should be packet {packet} has another header")))
    }
}

pub fn verify(data: &[u8], sums: &[u8]) -> io::Result<()> {
    CHECKSUM
        .verify(data, sums)
        .map_err(|mismatch| io::Error::other(format!("chunk {} is corrupt", mismatch.chunk_index)))
}

//! One process of the floor: tells its address, takes a connection from upstream for every stream,
//! connects each on to the next process, and has an engine move the bytes. At the end it says what
//! processor time that took from the moment it was connected.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::{AckKind, Store, uring};
use crate::BenchError;
use crate::limit::Engine;

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
}

/// One stream through this process.
pub struct Link {
    pub upstream: TcpStream,
    pub downstream: Option<TcpStream>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct NodeReport {
    pub cpu_s: f64,
    pub counters: BTreeMap<String, f64>,
}

impl NodeOptions {
    pub fn store(&self) -> Store {
        if self.directory.is_some() { Store::Disk } else { Store::Discard }
    }

    /// As a process of its own, which ends with the one that started it.
    pub fn run(&self) -> Result<(), BenchError> {
        let armed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        armed.map_err(|errno| BenchError::limit("end with the parent process")(errno.into()))?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(BenchError::limit("listen"))?;
        let address = listener.local_addr().map_err(BenchError::limit("listen"))?;
        let say = |line: String| {
            let mut output = io::stdout().lock();
            writeln!(output, "{line}")
                .and_then(|()| output.flush())
                .map_err(BenchError::limit("answer the parent process"))
        };
        let report = self.serve(&listener, || say(address.to_string()))?;
        say(serde_json::to_string(&report).expect("numbers become JSON"))
    }

    /// Calls `ready` once connections find everything prepared.
    pub fn serve(
        &self,
        listener: &TcpListener,
        ready: impl FnOnce() -> Result<(), BenchError>,
    ) -> Result<NodeReport, BenchError> {
        let connected_at = Cell::new(Duration::ZERO);
        let links = || {
            ready()?;
            let links = self.links(listener).map_err(BenchError::limit("connect the floor"))?;
            connected_at.set(process_cpu_time());
            Ok(links)
        };
        let counters = match self.engine {
            Engine::Uring => uring::serve(self, links),
        }?;
        let cpu_s = (process_cpu_time() - connected_at.get()).as_secs_f64();
        Ok(NodeReport { cpu_s, counters })
    }

    /// In the order of streams.
    fn links(&self, listener: &TcpListener) -> io::Result<Vec<Link>> {
        let mut links: Vec<Option<Link>> = (0..self.layout.streams).map(|_| None).collect();
        for _ in 0..self.layout.streams {
            let (mut upstream, _) = listener.accept()?;
            prepare(&upstream)?;
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
    let mut socket = TcpStream::connect(address)?;
    prepare(&socket)?;
    socket.write_all(&(stream as u64).to_le_bytes())?;
    Ok(socket)
}

/// Cubic as the datanode asks for on loopback, where BBR, the default of some hosts, halves it.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    // A kernel without cubic measures its own default.
    let _ = rustix::net::sockopt::set_tcp_congestion(socket, "cubic");
    socket.set_nodelay(true)
}

fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

//! `ringfs bench limit`: what this host can do, measured plainly and in the run that quotes it.
//!
//! Every file here is one measure, and a function that other commands call to interleave the limit
//! with what they measure: [`kernel`] (checksums, copy), [`hop`] (a TCP connection), [`disk`]
//! (O_DIRECT), [`paced_writes`] (the same at a fixed rate), [`send_file`] (page cache to socket), [`floor`] (the least write pipeline).

mod child;
pub mod disk;
pub mod floor;
pub mod hop;
pub mod kernel;
pub mod paced_writes;
mod ring;
pub mod send_file;

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use socket2::{Domain, Protocol, Socket, Type};

use self::disk::{RawDisk, Requests};
use self::floor::{AckKind, Floor, FloorOptions, Space, Store, WINDOW_PACKETS};
use self::hop::{HopOptions, MESSAGE_BYTES_MAX, Receiver};
use self::kernel::Kernel;
use crate::report::{Measurement, Run, Side};
use crate::{BenchError, Session};

/// Who moves the bytes of a hop and of the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// A raw io_uring loop: the reference
    Uring,
    /// The tokio-uring library
    TokioUring,
    /// Blocking calls in threads
    Threads,
}

impl Engine {
    pub const ALL: [Self; 3] = [Self::Uring, Self::TokioUring, Self::Threads];

    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::TokioUring => "tokio-uring",
            Self::Threads => "threads",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Checksums, copy and sum on one core
    Kernel,
    /// A TCP connection
    Hop,
    /// O_DIRECT writes and reads
    Disk,
    /// sendfile of a cached file to a socket
    SendFile,
    /// The least pipeline that moves, checks and stores
    Floor,
}

#[derive(Debug, Args)]
pub struct LimitCommand {
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "kernel,hop,disk,send-file,floor"
    )]
    only: Vec<What>,
    /// Who moves the bytes of the hop and the floor
    #[arg(long, value_enum, value_delimiter = ',', default_value = "uring")]
    engine: Vec<Engine>,
    /// Bytes of a run, such as 4g
    #[arg(long, default_value = "2g", value_parser = byte_size)]
    bytes: u64,
    /// Where files are made, on the disk to measure, and deleted again
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Receive the hops of another host's `--peer` on this address, until ended
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "only")]
    serve: Option<String>,
    /// Send the hop to the host that serves at this address
    #[arg(long, value_name = "HOST:PORT")]
    peer: Option<String>,
    /// Messages of the hop
    #[arg(long, value_delimiter = ',', default_value = "64k,256k,1m", value_parser = byte_size)]
    message_sizes: Vec<u64>,
    /// Requests to the disk
    #[arg(long, value_delimiter = ',', default_value = "64k,256k,1m,4m", value_parser = byte_size)]
    sizes: Vec<u64>,
    /// Requests to the disk in flight at a time
    #[arg(long, value_delimiter = ',', default_value = "1,4,16", value_parser = clap::value_parser!(u16).range(1..=256))]
    depths: Vec<u16>,
    /// Processes of the floor pipeline
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_parser = clap::value_parser!(u8).range(1..=16))]
    replication: Vec<u8>,
    /// What the floor does with the bytes
    #[arg(long, value_enum, value_delimiter = ',', default_value = "disk,discard")]
    store: Vec<Store>,
    /// When a process of the floor acknowledges a packet
    #[arg(long, value_enum, default_value = "written")]
    ack: AckKind,
    /// Streams through the floor at a time
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Data of a packet of the floor
    #[arg(long, default_value = "64k", value_parser = byte_size)]
    packet_size: u64,
    /// Data of a block of the floor
    #[arg(long, default_value = "128m", value_parser = byte_size)]
    block_size: u64,
    /// Packets that the floor's client sends ahead of their acks
    #[arg(long, value_name = "PACKETS", default_value_t = WINDOW_PACKETS)]
    window: u64,
    /// What the floor's files are written into
    #[arg(long, value_enum, default_value = "new")]
    space: Space,
    /// Begin a block of the floor when the last one is acknowledged whole, as HDFS's clients do
    #[arg(long)]
    drain_blocks: bool,
}

impl LimitCommand {
    pub fn run(self, session: &mut Session) -> Result<(), BenchError> {
        if let Some(address) = &self.serve {
            let listener = TcpListener::bind(address).map_err(BenchError::limit("listen"))?;
            let bound = listener.local_addr().map_err(BenchError::limit("listen"))?;
            eprintln!("receiving hops at {bound}");
            return hop::serve(&listener);
        }
        session.on_disk(&self.directory)?;
        for what in &self.only {
            match what {
                What::Kernel => kernels(session)?,
                What::Hop => self.hops(session)?,
                What::Disk => self.disk(session)?,
                What::SendFile => self.send_file(session)?,
                What::Floor => self.floors(session)?,
            }
        }
        Ok(())
    }

    fn hops(&self, session: &mut Session) -> Result<(), BenchError> {
        let child = if self.peer.is_none() { Some(Receiver::start()?) } else { None };
        let receiver = match (&self.peer, &child) {
            (Some(peer), _) => resolve(peer)?,
            (None, Some(child)) => child.address,
            (None, None) => unreachable!("without a peer there is a child"),
        };
        let mut hops = Vec::new();
        for &message_bytes in &self.message_sizes {
            let message_bytes = bounded(message_bytes, MESSAGE_BYTES_MAX, "a message")?;
            for &engine in &self.engine {
                let options = HopOptions { engine, message_bytes, bytes: self.bytes };
                hops.push((options.measurement(), options));
            }
        }
        interleave(session, hops, |options| options.run(receiver))
    }

    fn disk(&self, session: &mut Session) -> Result<(), BenchError> {
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        for &bytes in &self.sizes {
            for &depth in &self.depths {
                let depth = usize::from(depth);
                let bytes = bounded(bytes, disk::IN_FLIGHT_BYTES_MAX / depth, "a request")?;
                if !bytes.is_multiple_of(4096) {
                    let sentence = format!("a direct request of {bytes} bytes is not whole pages");
                    return Err(BenchError::Usage(sentence));
                }
                let requests = Requests { bytes, depth };
                writes.push((requests.measurement("write"), requests));
                reads.push((requests.measurement("read"), requests));
            }
        }
        interleave(session, writes, |requests| {
            RawDisk::create(&self.directory, self.bytes)?.write(*requests)
        })?;
        let file = RawDisk::create(&self.directory, self.bytes)?;
        file.write(Requests::LARGE)?;
        if !file.direct {
            session.find("The file system has no O_DIRECT: its writes were buffered and synced.");
        }
        interleave(session, reads, |requests| file.read(*requests))
    }

    fn send_file(&self, session: &mut Session) -> Result<(), BenchError> {
        let file = RawDisk::create(&self.directory, self.bytes)?;
        file.write(Requests::LARGE)?;
        let measurement = Measurement {
            group: "page cache to socket".to_owned(),
            name: "sendfile".to_owned(),
            side: Side::Limit,
            parameters: [].into(),
            runs: Vec::new(),
        };
        let paths = [file.path().to_owned()];
        interleave(session, vec![(measurement, paths)], |paths| send_file::run(paths))
    }

    fn floors(&self, session: &mut Session) -> Result<(), BenchError> {
        let mut floors = Vec::new();
        for &store in &self.store {
            for &replication in &self.replication {
                for &engine in &self.engine {
                    let options = FloorOptions {
                        engine,
                        store,
                        ack: self.ack,
                        replication: replication.into(),
                        streams: self.streams,
                        packet_bytes: self.packet_size,
                        block_bytes: self.block_size,
                        window_packets: self.window,
                        space: self.space,
                        bytes: self.bytes,
                        drain_blocks: self.drain_blocks,
                        directory: self.directory.clone(),
                    };
                    floors.push((options.measurement(), Floor::new(options)?));
                }
            }
        }
        interleave(session, floors, Floor::run)
    }
}

fn kernels(session: &mut Session) -> Result<(), BenchError> {
    let measurement = |kernel: Kernel| Measurement {
        group: "one core".to_owned(),
        name: kernel.name().to_owned(),
        side: Side::Limit,
        parameters: [].into(),
        runs: Vec::new(),
    };
    let kernels = Kernel::ALL.map(|kernel| (measurement(kernel), kernel)).into();
    interleave(session, kernels, |kernel| Ok(kernel.run()))
}

/// Runs each once before any is run again: what drifts, the disk above all, drifts for all.
fn interleave<T>(
    session: &mut Session,
    mut measurements: Vec<(Measurement, T)>,
    run: impl Fn(&T) -> Result<Run, BenchError>,
) -> Result<(), BenchError> {
    for repetition in 1..=session.options.runs {
        for (measurement, options) in &mut measurements {
            let what = format!("{}, {}, run {repetition}", measurement.group, measurement.name);
            session.progress(&what);
            let run = run(options)?;
            let (gb_per_s, cpu) = (run.gb_per_s(), run.cpu_s_per_gib(""));
            session.progress(&format!("{what}: {gb_per_s:.2} GB/s, {cpu:.3} cpu-s/GiB"));
            measurement.runs.push(run);
        }
    }
    measurements.into_iter().for_each(|(measurement, _)| session.add(measurement));
    Ok(())
}

fn resolve(peer: &str) -> Result<SocketAddr, BenchError> {
    let no_address = || BenchError::Usage(format!("{peer:?} is not an address such as host:7777"));
    peer.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(no_address)
}

fn bounded(bytes: u64, max: usize, what: &str) -> Result<usize, BenchError> {
    let within = usize::try_from(bytes).ok().filter(|bytes| (1..=max).contains(bytes));
    within.ok_or_else(|| {
        BenchError::Usage(format!("{what} of {bytes} bytes: at most {max} are possible"))
    })
}

/// Cubic as the datanode asks for on loopback, where BBR, the default of some hosts, halves it.
fn prepare_socket(socket: &TcpStream) -> std::io::Result<()> {
    // A kernel without cubic measures its own default.
    let _ = rustix::net::sockopt::set_tcp_congestion(socket, "cubic");
    socket.set_nodelay(true)
}

/// Prepared before it connects: a socket that was BBR's for a moment is paced for good.
fn connect_prepared(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    let _ = socket.set_tcp_congestion(b"cubic");
    socket.connect(&address.into())?;
    let socket = TcpStream::from(socket);
    prepare_socket(&socket)?;
    Ok(socket)
}

/// Sizes are spelled as in settings: `512m`, `1g`.
fn byte_size(text: &str) -> Result<u64, String> {
    use ringfs_protocol::settings::DFS_BLOCK_SIZE;
    let mut configuration = ringfs_protocol::site_config::Configuration::default();
    configuration.set(DFS_BLOCK_SIZE.name, text);
    match configuration.bytes(&DFS_BLOCK_SIZE) {
        Ok(0) | Err(_) => Err("expected a size such as 64k or 4g".to_owned()),
        Ok(bytes) => Ok(bytes),
    }
}

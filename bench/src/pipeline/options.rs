//! What is sent to datanodes, how fast, and how it is to be answered.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::limits::PACKET_MAX_BYTES;
use ringfs_protocol::packet::PACKET_PREFIX_MAX_BYTES;
use ringfs_protocol::site_config::parse_bytes;

use super::limits::{IDLE_WRITERS_MAX, STREAMS_MAX, WINDOW_PACKETS, WINDOW_PACKETS_MAX};
use crate::BenchError;
use crate::file_system::FileSystemOptions;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Write,
    Read,
}

/// What a writer asks of the datanodes beyond an ack of each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// Nothing: acks come as they come, up to a window of packets later
    Ack,
    /// Each packet is flushed: the next one waits for its ack
    Hflush,
    /// Each packet is flushed and synced to disk before its ack
    Hsync,
    /// The end of each block is synced to disk
    CloseSync,
}

/// One measurement of the data path.
#[derive(Clone, Debug, Args)]
pub struct PipelineOptions {
    #[command(flatten)]
    pub file_system: FileSystemOptions,
    /// Datanodes to use [default: all that the namenode has]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub datanodes: Vec<String>,
    /// Ask no namenode: send blocks that no file owns, of this block pool, to --datanodes. Their
    /// namenode has such blocks deleted, in the midst of writing if that takes longer than a heartbeat
    #[arg(long, value_name = "BLOCK_POOL_ID", requires = "datanodes")]
    pub pool: Option<String>,
    #[arg(long, value_enum, default_value = "write")]
    pub mode: Mode,
    /// Datanodes in a pipeline
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub replication: u16,
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub streams: usize,
    /// Threads of this process that the streams are spread over
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Data of a packet
    #[arg(long, default_value = "64k", value_parser = parse_bytes, value_name = "BYTES")]
    pub packet_size: u64,
    #[arg(long, default_value = "128m", value_parser = parse_bytes, value_name = "BYTES")]
    pub block_size: u64,
    /// Payload of each stream
    #[arg(long, default_value = "1g", value_parser = parse_bytes, value_name = "BYTES")]
    pub bytes: u64,
    #[arg(long, value_enum, default_value = "ack")]
    pub durability: Durability,
    /// Packets sent and not yet acked, at most [default: 80, and 1 for hflush and hsync]
    #[arg(long, value_name = "PACKETS")]
    pub window: Option<usize>,
    /// Open loop: send this much a second by all streams together, whether or not acks keep up.
    /// Latencies count from the planned time
    #[arg(long, value_parser = parse_rate, value_name = "BYTES")]
    pub rate: Option<u64>,
    /// Bytes of one READ_BLOCK [default: the whole block]
    #[arg(long, value_parser = parse_bytes, value_name = "BYTES")]
    pub read_size: Option<u64>,
    /// Do not check what is read against its checksums
    #[arg(long)]
    pub no_verify: bool,
    /// Writers that send one packet and stay open, beside the streams
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub idle_writers: usize,
    /// HTTP addresses of datanodes whose /metrics are read before and after
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub metrics: Vec<String>,
}

/// The command line's own defaults.
impl Default for PipelineOptions {
    fn default() -> Self {
        Self {
            file_system: FileSystemOptions::default(),
            datanodes: Vec::new(),
            pool: None,
            mode: Mode::Write,
            replication: 3,
            streams: 1,
            threads: 1,
            packet_size: 64 << 10,
            block_size: 128 << 20,
            bytes: 1 << 30,
            durability: Durability::Ack,
            window: None,
            rate: None,
            read_size: None,
            no_verify: false,
            idle_writers: 0,
            metrics: Vec::new(),
        }
    }
}

/// Chunks as every HDFS client makes them by default.
pub const CHECKSUM: DataChecksum =
    DataChecksum { kind: ChecksumType::Crc32c, bytes_per_checksum: 512 };

impl PipelineOptions {
    /// Refuses what cannot be meant, before anything is sent.
    pub fn check(&self) -> Result<(), BenchError> {
        let chunk = u64::from(CHECKSUM.bytes_per_checksum);
        let refuse = |why: String| Err(BenchError::Usage(why));
        if !(1..=STREAMS_MAX).contains(&self.streams) {
            return refuse(format!("--streams {} is not from 1 to {STREAMS_MAX}", self.streams));
        }
        if self.threads == 0 || self.threads > self.streams {
            return refuse(format!("--threads {} is not from 1 to --streams", self.threads));
        }
        let packet = self.packet_data_bytes() as u64;
        let on_wire = packet + CHECKSUM.checksums_len(packet) + PACKET_PREFIX_MAX_BYTES as u64;
        if on_wire > PACKET_MAX_BYTES as u64 {
            let most = "16m with its checksums";
            return refuse(format!("--packet-size {} is beyond {most}", self.packet_size));
        }
        if self.block_size == 0 || !self.block_size.is_multiple_of(chunk) {
            return refuse(format!("--block-size {} is no multiple of {chunk}", self.block_size));
        }
        if self.bytes == 0 {
            return refuse("--bytes 0: nothing to send".to_owned());
        }
        if !self.window.is_none_or(|window| (1..=WINDOW_PACKETS_MAX).contains(&window)) {
            return refuse(format!("--window is not from 1 to {WINDOW_PACKETS_MAX} packets"));
        }
        if self.idle_writers > IDLE_WRITERS_MAX {
            return refuse(format!("--idle-writers is beyond {IDLE_WRITERS_MAX}"));
        }
        match self.read_size {
            Some(_) if self.mode == Mode::Write => {
                refuse("--read-size goes with --mode read".into())
            }
            Some(size) if size == 0 || !size.is_multiple_of(chunk) => {
                refuse(format!("--read-size {size} is no multiple of {chunk}"))
            }
            _ => Ok(()),
        }
    }

    /// Data bytes of a full packet: whole chunks, at least one.
    pub fn packet_data_bytes(&self) -> usize {
        let chunk = CHECKSUM.bytes_per_checksum as usize;
        (self.packet_size as usize / chunk).max(1) * chunk
    }

    pub fn window_packets(&self) -> usize {
        self.window.unwrap_or(match self.durability {
            Durability::Ack | Durability::CloseSync => WINDOW_PACKETS,
            Durability::Hflush | Durability::Hsync => 1,
        })
    }

    /// Lengths of the blocks that a stream's bytes make.
    pub fn block_lengths(&self) -> impl Iterator<Item = u64> {
        let (block_size, bytes) = (self.block_size, self.bytes);
        (0..bytes.div_ceil(block_size)).map(move |block| block_size.min(bytes - block * block_size))
    }

    pub fn read_bytes(&self) -> u64 {
        self.read_size.unwrap_or(self.block_size)
    }
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

impl Durability {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Hflush => "hflush",
            Self::Hsync => "hsync",
            Self::CloseSync => "close-sync",
        }
    }
}

/// As sizes, and with `MB` and `GB` in powers of ten, as rates are mostly meant.
fn parse_rate(text: &str) -> Result<u64, String> {
    let decimal = |unit: &str, power: u64| {
        let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
        number.checked_mul(power)
    };
    let rate = decimal("MB", 1_000_000).or_else(|| decimal("GB", 1_000_000_000));
    match rate.map_or_else(|| parse_bytes(text), Ok)? {
        0 => Err("a rate of nothing".to_owned()),
        rate => Ok(rate),
    }
}

/// `host:port`, resolved; the first address counts.
pub fn resolve(address: &str) -> Result<SocketAddr, BenchError> {
    use std::net::ToSocketAddrs;
    let refuse = |why: String| BenchError::Usage(format!("{address:?}: {why}"));
    let mut resolved = address.to_socket_addrs().map_err(|error| refuse(error.to_string()))?;
    resolved.next().ok_or_else(|| refuse("no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: PipelineOptions,
    }

    #[test]
    fn defaults_are_those_of_the_command_line() {
        let parsed = Line::parse_from(["bench"]).options;
        let mut default = PipelineOptions::default();
        default.file_system.config.clone_from(&parsed.file_system.config);
        assert_eq!(format!("{parsed:?}"), format!("{default:?}"));
        parsed.check().unwrap();
    }

    #[test]
    fn packets_and_blocks_as_hdfs_cuts_them() {
        let mut options = PipelineOptions { bytes: (256 << 20) + 5, ..Default::default() };
        assert_eq!(options.packet_data_bytes(), 65_536);
        assert_eq!(options.block_lengths().collect::<Vec<_>>(), [128 << 20, 128 << 20, 5]);
        assert_eq!(options.window_packets(), 80);
        options.durability = Durability::Hsync;
        options.packet_size = 10;
        assert_eq!((options.window_packets(), options.packet_data_bytes()), (1, 512));
    }

    #[test]
    fn rates_in_both_powers() {
        assert_eq!(parse_rate("500MB"), Ok(500_000_000));
        assert_eq!(parse_rate("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_rate("64m"), Ok(64 << 20));
        assert!(
            parse_rate("0").is_err() && parse_rate("MB").is_err() && parse_rate("fast").is_err()
        );
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        let refused = |change: fn(&mut PipelineOptions)| {
            let mut options = PipelineOptions::default();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(refused(|options| options.streams = 0).contains("--streams"));
        assert!(refused(|options| options.threads = 2).contains("--threads"));
        assert!(refused(|options| options.block_size = 1000).contains("--block-size"));
        assert!(refused(|options| options.window = Some(0)).contains("--window"));
        assert!(refused(|options| options.read_size = Some(512)).contains("--mode read"));
    }
}

//! `ringfs bench limit`: what this host can do, measured plainly and in the run that quotes it.

pub mod floor;
mod ring;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use self::floor::{AckKind, FloorOptions, Store};
use crate::{BenchError, Session};

/// Who moves the bytes of a hop and of the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// A raw io_uring loop: the reference
    Uring,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
        }
    }
}

#[derive(Debug, Args)]
pub struct LimitCommand {
    /// Who moves the bytes of the hop and the floor
    #[arg(long, value_enum, value_delimiter = ',', default_value = "uring")]
    engine: Vec<Engine>,
    /// Bytes of a run, such as 4g
    #[arg(long, default_value = "2g", value_parser = byte_size)]
    bytes: u64,
    /// Where files are made, on the disk to measure, and deleted again
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Processes of the floor pipeline
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_parser = clap::value_parser!(u8).range(1..=16))]
    replication: Vec<u8>,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "disk,discard")]
    store: Vec<Store>,
    /// When a process of the floor acknowledges a packet
    #[arg(long, value_enum, default_value = "written")]
    ack: AckKind,
    /// Streams through the floor at a time
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Data of a packet
    #[arg(long, default_value = "64k", value_parser = byte_size)]
    packet_size: u64,
    #[arg(long, default_value = "128m", value_parser = byte_size)]
    block_size: u64,
    /// Begin a block of the floor when the last one is acknowledged whole, as HDFS's clients do
    #[arg(long)]
    drain_blocks: bool,
}

impl LimitCommand {
    pub fn run(self, session: &mut Session) -> Result<(), BenchError> {
        self.floor(session)
    }

    /// Every combination asked for, interleaved: each is run once before any is run again.
    fn floor(&self, session: &mut Session) -> Result<(), BenchError> {
        let mut measurements = Vec::new();
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
                        bytes: self.bytes,
                        drain_blocks: self.drain_blocks,
                        directory: self.directory.clone(),
                    };
                    measurements.push((options.measurement(), options));
                }
            }
        }
        for run in 1..=session.options.runs {
            for (measurement, options) in &mut measurements {
                let (group, name) = (&measurement.group, &measurement.name);
                session.progress(&format!("{group}, {name}: run {run}"));
                let run = floor::run(options)?;
                session.progress(&format!(
                    "{name}: {:.2} GB/s, cpu-s/GiB {:.3} client, {:.3} floor",
                    run.gb_per_s(),
                    run.cpu_s_per_gib("client"),
                    run.cpu_s_per_gib("floor"),
                ));
                measurement.runs.push(run);
            }
        }
        measurements.into_iter().for_each(|(measurement, _)| session.add(measurement));
        Ok(())
    }
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

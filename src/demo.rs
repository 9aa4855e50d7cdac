//! `ringfs demo`: a real file through a three-replica pipeline and back, compared byte for byte, and
//! held against what this machine's disk and loopback give in the same run.
//!
//! The client library runs in this process, so that the client's processor time is its own; reading
//! the source file counts as the client's, comparing does not. The source is in the page cache when
//! it is written to the cluster. Everything is on the disk of the current directory, in a directory
//! that is deleted at the end, also after a failure or Ctrl-C.

mod report;
mod source;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ringfs::cluster::ClusterOptions;
use ringfs_bench::limit::disk::{RawDisk, Requests};
use ringfs_bench::limit::hop;
use ringfs_client::Client;
use ringfs_protocol::settings::DFS_BLOCK_SIZE;
use ringfs_protocol::site_config::Configuration;
use ringfs_tuning::disk::DiskFacts;
use ringfs_tuning::host::{HostFacts, StealTime};

use crate::error::CommandError;
use crate::mini::{Running, setting, temporary_directory, this_binary};
use report::{Raw, Report};
use source::Source;

/// Enough to be beyond the start of a measurement, little beside the file of the demo.
const RAW_DISK_BYTES: u64 = 1 << 30;
const RAW_LOOPBACK_BYTES: u64 = 4 << 30;

/// Written and read before anything is timed: the first touch of buffers' memory costs more than
/// all the rest of a transfer on a virtual machine, and a server pays it once.
const WARM_UP_BYTES: u64 = 256 << 20;

const TARGET: &str = "/demo";

#[derive(Debug, Args)]
pub struct DemoCommand {
    /// The file to write [default: one is made of pseudo-random bytes]
    #[arg(long, conflicts_with = "size")]
    file: Option<PathBuf>,
    /// Size of the file to make, such as 4g
    #[arg(long, default_value = "1g", value_parser = size)]
    size: u64,
    /// Replicas of each block
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    replication: u16,
    /// Datanodes to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    datanodes: u16,
    /// A setting of all processes, such as dfs.blocksize=64m
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

impl DemoCommand {
    pub async fn run(self) -> Result<(), CommandError> {
        if self.replication > self.datanodes {
            let (replication, datanodes) = (self.replication, self.datanodes);
            return Err(CommandError::Usage(format!(
                "{replication} replicas need as many datanodes, not {datanodes}"
            )));
        }
        let temporary = Arc::new(temporary_directory("demo")?);
        let (host, disk) = (HostFacts::gather(), self.disk_with_space(&temporary)?);
        eprintln!("ringfs demo on {host}\ndisk: {disk}");

        let source = match &self.file {
            Some(path) => Source::open(path)?,
            None => {
                eprintln!("making a file of {:.2} GiB", gib(self.size));
                let (path, size) = (temporary.path().join("source"), self.size);
                blocking(move || Source::make(&path, size)).await?
            }
        };
        let steal = StealTime::now();
        let directory = temporary.path().to_owned();
        let raw_disk = blocking(move || Ok(RawDisk::create(&directory, RAW_DISK_BYTES)?)).await?;
        let raw_disk = Arc::new(raw_disk);

        let mut running =
            Running::start(self.cluster_options(&temporary)?, Some(temporary)).await?;
        let cluster = running.cluster();
        eprintln!("{} serves with {} datanodes", cluster.uri(), self.datanodes);
        let configuration = Configuration::load(Some(&cluster.conf_dir()), &[])?;
        let client = Client::connect(&configuration, None)?;

        let (warm_up, warm_up_target) = (source.start(WARM_UP_BYTES), "/warm-up");
        transfer::put(&client, cluster, &warm_up, warm_up_target, self.replication).await?;
        transfer::get_and_compare(&client, cluster, &warm_up, warm_up_target).await?;

        eprintln!("measuring the disk, then writing");
        let disk_of_write = Arc::clone(&raw_disk);
        let disk_write = blocking(move || Ok(disk_of_write.write(Requests::LARGE)?)).await?;
        let write = transfer::put(&client, cluster, &source, TARGET, self.replication).await?;
        eprintln!("measuring the disk and loopback, then reading and comparing");
        let disk_of_read = Arc::clone(&raw_disk);
        let disk_read = blocking(move || Ok(disk_of_read.read(Requests::LARGE)?)).await?;
        let loopback = blocking(|| Ok(hop::one_hop(RAW_LOOPBACK_BYTES)?)).await?;
        let read = transfer::get_and_compare(&client, cluster, &source, TARGET).await?;

        let blocks = client.block_locations(TARGET, 0, source.bytes).await?;
        let report = Report {
            file_bytes: source.bytes,
            warm_up_bytes: warm_up.bytes,
            blocks: blocks.len(),
            block_bytes: configuration.bytes(&DFS_BLOCK_SIZE)?,
            replicas: blocks.iter().map(|block| block.datanodes.len()).min().unwrap_or(0),
            replication: self.replication,
            write,
            read,
            raw: Raw {
                disk_write: disk_write.into(),
                disk_read: disk_read.into(),
                direct: raw_disk.direct,
                loopback: loopback.into(),
            },
            stolen: steal.zip(StealTime::now()).map(|(from, to)| to.share_since(&from)),
        };
        report.print().map_err(CommandError::Output)
    }

    fn disk_with_space(&self, temporary: &tempfile::TempDir) -> Result<DiskFacts, CommandError> {
        let directory = temporary.path();
        let disk =
            DiskFacts::of(directory).map_err(CommandError::file("see the disk of", directory))?;
        let (bytes, made) = match &self.file {
            Some(path) => (path.metadata().map_err(CommandError::file("read", path))?.len(), 0),
            None => (self.size, self.size),
        };
        let written = bytes + bytes.min(WARM_UP_BYTES);
        let wanted = written * u64::from(self.replication) + made + RAW_DISK_BYTES;
        if disk.available_bytes < wanted + wanted / 8 {
            return Err(CommandError::Usage(format!(
                "the demo needs {:.1} GiB in the current directory, which has {:.1}: choose a smaller --size, or another directory",
                gib(wanted + wanted / 8),
                gib(disk.available_bytes),
            )));
        }
        Ok(disk)
    }

    fn cluster_options(
        &self,
        temporary: &tempfile::TempDir,
    ) -> Result<ClusterOptions, CommandError> {
        let directory = temporary.path().join("cluster");
        let mut options = ClusterOptions::new(&this_binary()?, &directory);
        options.datanodes = self.datanodes.into();
        options.settings.clone_from(&self.settings);
        Ok(options)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    let running = tokio::task::spawn_blocking(work).await;
    running.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Sizes are spelled as in settings: `512m`, `1g`.
fn size(text: &str) -> Result<u64, String> {
    let mut configuration = Configuration::default();
    configuration.set(DFS_BLOCK_SIZE.name, text);
    match configuration.bytes(&DFS_BLOCK_SIZE) {
        Ok(0) | Err(_) => Err("expected a size such as 512m or 4g".to_owned()),
        Ok(bytes) => Ok(bytes),
    }
}

//! What takes turns in a goal: something that can be run again and again, and tidied up at the end.

use ringfs_bench::dfsio::{Dfsio, DfsioOptions, Mode};
use ringfs_bench::file_system::FileSystemOptions;
use ringfs_bench::limit::floor::{Floor, FloorOptions};
use ringfs_bench::limit::paced_writes::PacedWrites;
use ringfs_bench::pipeline::{self, PipelineOptions};
use ringfs_bench::report::{Run, Side};

use crate::error::CommandError;

pub struct Subject {
    pub name: String,
    pub side: Side,
    pub work: Box<dyn Work>,
}

pub trait Work {
    fn run(&mut self) -> Result<Run, CommandError>;

    fn finish(self: Box<Self>) -> Result<(), CommandError> {
        Ok(())
    }
}

impl<F: FnMut() -> Result<Run, CommandError>> Work for F {
    fn run(&mut self) -> Result<Run, CommandError> {
        self()
    }
}

/// Files of a cluster, through our client.
struct Files(Dfsio);

impl Work for Files {
    fn run(&mut self) -> Result<Run, CommandError> {
        Ok(self.0.run_once()?.run)
    }

    fn finish(self: Box<Self>) -> Result<(), CommandError> {
        Ok(self.0.finish()?)
    }
}

impl Subject {
    pub fn new(name: impl Into<String>, side: Side, work: impl Work + 'static) -> Self {
        Self { name: name.into(), side, work: Box::new(work) }
    }

    pub fn files(
        name: impl Into<String>,
        side: Side,
        options: &DfsioOptions,
    ) -> Result<Self, CommandError> {
        Ok(Self::new(name, side, Files(Dfsio::prepare(options)?)))
    }

    /// Blocks straight to or from a cluster's datanodes.
    pub fn pipeline(name: impl Into<String>, side: Side, options: PipelineOptions) -> Self {
        Self::new(name, side, move || Ok(pipeline::run_once(&options)?))
    }

    pub fn floor(name: impl Into<String>, options: FloorOptions) -> Result<Self, CommandError> {
        let floor = Floor::new(options)?;
        Ok(Self::new(name, Side::Limit, move || Ok(floor.run()?)))
    }

    pub fn paced_writes(name: impl Into<String>, writes: PacedWrites) -> Self {
        Self::new(name, Side::Limit, move || Ok(writes.run()?))
    }
}

/// One stream of `bytes`.
pub fn one_file(
    mode: Mode,
    file_system: FileSystemOptions,
    bytes: u64,
    replication: u16,
) -> DfsioOptions {
    let replication = Some(replication);
    DfsioOptions { file_size: bytes, replication, ..DfsioOptions::new(mode, file_system) }
}

/// One stream of `bytes`.
pub fn one_pipeline(
    file_system: FileSystemOptions,
    bytes: u64,
    replication: u16,
) -> PipelineOptions {
    PipelineOptions { file_system, bytes, replication, ..PipelineOptions::default() }
}

//! The operations of NNThroughputBenchmark, by its names: every one is the same call on a file or
//! directory of its own, thousands of times, by callers that each have an equal share. What they work
//! on is made before the clock runs.
//!
//! | operation | the call | made before |
//! |---|---|---|
//! | create | create, with overwrite and parents; with `-close` complete too | |
//! | open | getBlockLocations of the first block's range | empty closed files |
//! | fileStatus | getFileInfo | empty closed files |
//! | rename | rename to a new name in the same directory | empty closed files |
//! | delete | delete | empty closed files |
//! | mkdirs | mkdirs of a directory at a time | |

use std::sync::Arc;
use std::time::Instant;

use super::calls::{Calls, FileRules};
use super::driver::{Caller, Driver, Protocol, share};
use crate::BenchError;
use crate::report::{Latency, Run};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    CreateAndClose,
    Open,
    FileStatus,
    Mkdirs,
    Rename,
    Delete,
}

/// How much is done, and below which directory.
#[derive(Clone, Debug)]
pub struct Load {
    pub directory: String,
    pub callers: u32,
    /// All callers together.
    pub operations: u64,
    pub entries_per_directory: u64,
    pub rules: FileRules,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::Create | Self::CreateAndClose => "create",
            Self::Open => "open",
            Self::FileStatus => "fileStatus",
            Self::Mkdirs => "mkdirs",
            Self::Rename => "rename",
            Self::Delete => "delete",
        }
    }

    /// One run, in a directory that does not exist yet.
    pub fn run(self, driver: &Driver, load: &Load) -> Result<Run, BenchError> {
        let load = Arc::new(load.clone());
        if !matches!(self, Self::Create | Self::CreateAndClose | Self::Mkdirs) {
            driver.drive(Protocol::Client, "create", load.callers, |caller| {
                Self::CreateAndClose.repeat(caller, load.clone())
            })?;
        }
        driver.drive(Protocol::Client, self.name(), load.callers, |caller| {
            self.repeat(caller, load.clone())
        })
    }

    async fn repeat(self, mut caller: Caller, load: Arc<Load>) -> Result<Latency, BenchError> {
        let calls = load.calls(&caller);
        for index in 0..share(load.operations, caller.number, load.callers) {
            let path = load.path(caller.number, index);
            let started = Instant::now();
            self.perform(&calls, &path).await?;
            caller.done(started.elapsed());
        }
        Ok(caller.latency)
    }

    async fn perform(self, calls: &Calls, path: &str) -> Result<(), BenchError> {
        match self {
            Self::Create => calls.create(path).await.map(drop),
            Self::CreateAndClose => {
                let file_id = calls.create(path).await?;
                calls.complete(path, file_id, None).await
            }
            Self::Open => calls.locations(path).await,
            Self::FileStatus => calls.status(path).await,
            Self::Mkdirs => calls.mkdirs(path).await,
            Self::Rename => calls.rename(path, &format!("{path}.r")).await,
            Self::Delete => calls.delete(path).await,
        }
    }
}

impl Load {
    pub fn calls(&self, caller: &Caller) -> Calls {
        let holder = format!("ringfs_bench_{}_{}", std::process::id(), caller.number);
        Calls { rpc: caller.rpc.clone(), holder, rules: self.rules }
    }

    /// The caller's file or directory number `index`.
    pub fn path(&self, caller: u32, index: u64) -> String {
        let directory = index / self.entries_per_directory.max(1);
        format!("{}/caller_{caller}/dir_{directory}/entry_{index}", self.directory)
    }
}

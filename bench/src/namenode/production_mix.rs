//! What a production namenode is asked: the proportions that the HopsFS paper (Niazi et al., FAST
//! 2017, table 1) gives for Spotify's Hadoop cluster, a trace of 54,000 applications, in the finer
//! division of its load generator's "Spotify" profile (smkniazi/hammer-bench): 95 % only read.
//!
//! Files have one block on real datanodes, written before the clock runs, so that locations are looked
//! up and sorted as in production; all callers read all files, and change only their own. A file that
//! is created gets a block allotted by the next call, as by a writer, and no more: nothing is written.

use std::sync::Arc;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ringfs_client::{Client, CreateOptions};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::calls::Calls;
use super::driver::{Caller, Driver, Protocol, share};
use super::throughput::Load;
use crate::BenchError;
use crate::report::{Latency, Run};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MixedOperation {
    Open,
    FileStatus,
    DirectoryStatus,
    List,
    ListFile,
    /// create and addBlock by turns.
    Create,
    Rename,
    Delete,
    SetOwner,
    SetReplication,
    SetPermission,
    Mkdirs,
}

/// Hundredths of a percent.
const PROPORTIONS: [(MixedOperation, u32); 12] = [
    (MixedOperation::Open, 6873),
    (MixedOperation::FileStatus, 1304),
    (MixedOperation::DirectoryStatus, 396),
    (MixedOperation::List, 852),
    (MixedOperation::ListFile, 49),
    (MixedOperation::Create, 270),
    (MixedOperation::Rename, 130),
    (MixedOperation::Delete, 75),
    (MixedOperation::SetOwner, 32),
    (MixedOperation::SetReplication, 14),
    (MixedOperation::SetPermission, 3),
    (MixedOperation::Mkdirs, 2),
];
const PROPORTIONS_SUM: u32 = 10_000;

/// Files that are read: enough that no cache line is always the same one.
const FILES_READ_MAX: u64 = 1000;
const FILE_BYTES: usize = 1024;
/// Files written at once before the clock runs.
const WRITERS: u64 = 32;

/// One caller's part: the files that only it changes.
struct MixedCaller {
    caller: Caller,
    calls: Calls,
    load: Arc<Load>,
    files_read: u64,
    user: Arc<str>,
    random: SmallRng,
    /// Created in the run; the last one has no block yet when `awaits_block` says so.
    created: Vec<String>,
    awaits_block: Option<Option<u64>>,
    /// The name that [`Load::renamed_path`]'s file has now.
    renamed: String,
    made: u64,
}

/// `runtime` is the one that `client` lives on.
pub fn run(
    driver: &Driver,
    load: &Load,
    client: &Client,
    runtime: &Runtime,
) -> Result<Run, BenchError> {
    let files_read = load.operations.clamp(1, FILES_READ_MAX);
    let load = Arc::new(load.clone());
    runtime.block_on(write_files(client, &load, files_read))?;
    let user: Arc<str> = client.user().into();
    driver.drive(Protocol::Client, "mix", load.callers, |caller| {
        let mixed = MixedCaller {
            calls: load.calls(&caller),
            random: SmallRng::seed_from_u64(caller.number.into()),
            renamed: load.renamed_path(caller.number),
            caller,
            load: load.clone(),
            files_read,
            user: user.clone(),
            created: Vec::new(),
            awaits_block: None,
            made: 0,
        };
        mixed.repeat()
    })
}

async fn write_files(client: &Client, load: &Load, files_read: u64) -> Result<(), BenchError> {
    let options = CreateOptions {
        replication: u16::try_from(load.rules.replication).ok(),
        block_size: Some(load.rules.block_size),
        ..CreateOptions::default()
    };
    let read = (0..files_read).map(|file| load.shared_path(file));
    let renamed = (0..load.callers).map(|caller| load.renamed_path(caller));
    let mut paths = read.chain(renamed);
    let mut writing = JoinSet::new();
    loop {
        while (writing.len() as u64) < WRITERS
            && let Some(path) = paths.next()
        {
            let (client, options) = (client.clone(), options.clone());
            writing.spawn(async move {
                let mut writer = client.create(&path, options).await?;
                writer.write_slice(&[0x5a; FILE_BYTES]).await?;
                writer.close().await
            });
        }
        let Some(written) = writing.join_next().await else {
            return Ok(());
        };
        written.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    }
}

impl Load {
    /// A file that all callers read.
    fn shared_path(&self, file: u64) -> String {
        format!("{}/file_{file}", self.shared_directory(file))
    }

    /// The file that a caller renames back and forth.
    fn renamed_path(&self, caller: u32) -> String {
        format!("{}/caller_{caller}/renamed", self.directory)
    }

    fn shared_directory(&self, file: u64) -> String {
        format!("{}/shared/dir_{}", self.directory, file / self.entries_per_directory.max(1))
    }
}

impl MixedCaller {
    async fn repeat(mut self) -> Result<Latency, BenchError> {
        for _ in 0..share(self.load.operations, self.caller.number, self.load.callers) {
            let operation = drawn(self.random.random_range(0..PROPORTIONS_SUM));
            let file = self.random.random_range(0..self.files_read);
            let started = Instant::now();
            self.perform(operation, file).await?;
            self.caller.done(started.elapsed());
        }
        Ok(self.caller.latency)
    }

    async fn perform(&mut self, operation: MixedOperation, file: u64) -> Result<(), BenchError> {
        let calls = &self.calls;
        match operation {
            MixedOperation::Open => calls.locations(&self.load.shared_path(file)).await,
            MixedOperation::FileStatus => calls.status(&self.load.shared_path(file)).await,
            MixedOperation::ListFile => calls.list(&self.load.shared_path(file)).await,
            MixedOperation::DirectoryStatus => {
                calls.status(&self.load.shared_directory(file)).await
            }
            MixedOperation::List => calls.list(&self.load.shared_directory(file)).await,
            MixedOperation::Create => self.create_or_add_block().await,
            MixedOperation::Rename => {
                let to = match self.renamed.strip_suffix(".r") {
                    Some(name) => name.to_owned(),
                    None => format!("{}.r", self.renamed),
                };
                calls.rename(&self.renamed, &to).await?;
                self.renamed = to;
                Ok(())
            }
            // Nothing to delete yet: creates come almost twice as often, so this is rare.
            MixedOperation::Delete if self.created.is_empty() => self.create_or_add_block().await,
            MixedOperation::Delete => {
                self.awaits_block = None;
                let path = self.created.pop().unwrap_or_default();
                self.calls.delete(&path).await
            }
            MixedOperation::SetOwner => calls.set_owner(&self.renamed, &self.user).await,
            MixedOperation::SetReplication => calls.set_replication(&self.renamed).await,
            MixedOperation::SetPermission => calls.set_permission(&self.renamed).await,
            MixedOperation::Mkdirs => {
                self.made += 1;
                let path = self.load.path(self.caller.number, self.made);
                self.calls.mkdirs(&format!("{path}_made")).await
            }
        }
    }

    async fn create_or_add_block(&mut self) -> Result<(), BenchError> {
        if let (Some(file_id), Some(path)) = (self.awaits_block.take(), self.created.last()) {
            return self.calls.add_block(path, file_id, None, &[]).await.map(drop);
        }
        self.made += 1;
        let path = self.load.path(self.caller.number, self.made);
        self.awaits_block = Some(self.calls.create(&path).await?);
        self.created.push(path);
        Ok(())
    }
}

fn drawn(number: u32) -> MixedOperation {
    let mut below = 0;
    for (operation, proportion) in PROPORTIONS {
        below += proportion;
        if number < below {
            return operation;
        }
    }
    MixedOperation::Open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_share() {
        assert_eq!(PROPORTIONS.iter().map(|(_, share)| share).sum::<u32>(), PROPORTIONS_SUM);
        for (operation, proportion) in PROPORTIONS {
            let drawn = (0..PROPORTIONS_SUM).filter(|number| drawn(*number) == operation).count();
            assert_eq!(drawn, proportion as usize, "{operation:?}");
        }
    }
}

//! Writers with their oracle, and the reader that holds the files against it.
//!
//! A writer appends random bytes, flushes, syncs, closes, appends again, or dies with its file open;
//! another one then recovers the lease and goes on. The oracle knows what was written and how far it
//! was promised: an hflush that returned promises the bytes to every reader through every death of a
//! process, an hsync through the loss of power too.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use ringfs_client::{Client, ClientError, CreateOptions, FileWriter, SafeModeActionProto};
use ringfs_protocol::site_config::Configuration;

use crate::world::World;

const BLOCK_SIZES: [u64; 3] = [16 << 10, 64 << 10, 128 << 10];
const WRITE_MAX: usize = 24 << 10;
const FILE_MAX: usize = 300 << 10;
/// How often a writer tries to get its file back, and how long it waits in between.
const REOPEN_TRIES: u32 = 60;
const REOPEN_PAUSE: Duration = Duration::from_secs(5);

/// What one file must hold.
#[derive(Debug, Default)]
pub struct FileOracle {
    pub path: String,
    /// Everything written, the part that was given up excepted.
    pub content: Vec<u8>,
    pub flushed: usize,
    /// What an hsync reached: from the start of its block on, for blocks that were finished before
    /// are beyond it, as in HDFS.
    pub synced: Vec<Range<usize>>,
    pub block_size: usize,
    pub is_closed: bool,
    /// How often it was cut: what was read meanwhile says nothing.
    pub truncations: u64,
}

pub type Oracle = Arc<Mutex<Vec<FileOracle>>>;

/// How far the files are promised in a world of some kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    Flushed,
    Synced,
}

pub struct Writer {
    pub world: World,
    pub configuration: Configuration,
    pub oracle: Oracle,
    pub promise: Promise,
    pub host: String,
    pub rng: StdRng,
    pub is_busy: bool,
    /// No fault of this world is a reason for a write to fail.
    pub must_not_fail: bool,
    instance: u64,
}

impl Writer {
    pub fn new(
        world: World,
        configuration: Configuration,
        oracle: Oracle,
        promise: Promise,
        number: usize,
        seed: u64,
    ) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ (number as u64 + 1) << 32);
        let host = format!("client{number}");
        let (is_busy, must_not_fail) = (false, false);
        let instance = 0;
        Self { world, configuration, oracle, promise, host, rng, is_busy, must_not_fail, instance }
    }

    /// Writes `files` files, one after the other.
    pub async fn run(mut self, files: usize) {
        for file in 0..files {
            let index = {
                let mut oracle = self.oracle.lock();
                let path = format!("/{}-{file}", self.host);
                oracle.push(FileOracle { path, ..FileOracle::default() });
                oracle.len() - 1
            };
            self.write_file(index).await;
        }
    }

    fn client(&mut self) -> Client {
        self.instance += 1;
        Client::simulated(&self.configuration, &self.host, self.instance)
            .expect("the settings are valid")
    }

    async fn write_file(&mut self, index: usize) {
        let path = self.oracle.lock()[index].path.clone();
        let block_size = BLOCK_SIZES[self.rng.random_range(0..BLOCK_SIZES.len())];
        self.oracle.lock()[index].block_size = block_size as usize;
        let options = CreateOptions {
            block_size: Some(block_size),
            replication: Some(if self.rng.random_bool(0.8) { 3 } else { 2 }),
            overwrite: true,
            ..CreateOptions::default()
        };
        let mut sessions = self.rng.random_range(1..if self.is_busy { 8 } else { 5 });
        let mut client = self.client();
        self.rearrange(&client, index).await;
        let mut opened = client.create(&path, options).await.ok();
        while sessions > 0 {
            if opened.is_none() && self.rng.random_bool(0.15) {
                self.truncate(&client, index).await;
            }
            let writer = match opened.take() {
                Some(writer) => writer,
                None => match self.reopen(&mut client, index).await {
                    Some(writer) => writer,
                    None => return,
                },
            };
            sessions -= 1;
            if let Err(error) = self.session(writer, index).await {
                let host = &self.host;
                self.world.state().trace(|| format!("{host}: {path}: {error}"));
                if self.must_not_fail && !matches!(error, ClientError::Closed { .. }) {
                    let what = format!("writing {path} failed for one datanode's death: {error}");
                    self.world.state().violation(what);
                }
                client = self.client();
            }
        }
    }

    /// Cuts a closed file anywhere. Without an answer it is as long as it was, or cut.
    async fn truncate(&mut self, client: &Client, index: usize) {
        let (path, len) = {
            let mut oracle = self.oracle.lock();
            let file = &mut oracle[index];
            if !file.is_closed || file.content.len() < 2 {
                return;
            }
            let len = self.rng.random_range(1..file.content.len());
            file.truncations += 1;
            file.promise_at_most(len);
            file.is_closed = false;
            (file.path.clone(), len)
        };
        match client.truncate(&path, len as u64).await {
            Ok(_) => {
                self.world.state().event("truncated");
                self.world.state().trace(|| format!("{path} is cut to {len}"));
                self.oracle.lock()[index].content.truncate(len);
            }
            Err(error) => self.world.state().trace(|| format!("cutting {path}: {error}")),
        }
    }

    /// Changes of names that nobody else makes: an answer, however late, is that of the first try.
    async fn rearrange(&self, client: &Client, index: usize) {
        let (one, other) =
            (format!("/{}-{index}-one", self.host), format!("/{}-{index}-other", self.host));
        let answers = async {
            client.mkdirs(&one, 0o755, false).await?;
            for (from, to) in [(&one, &other), (&other, &one), (&one, &other)] {
                let renamed = client.rename(from, to).await?;
                self.expect(renamed, || format!("rename of {from}"));
            }
            let deleted = client.delete(&other, true).await?;
            self.expect(deleted, || format!("delete of {other}"));
            Ok::<_, ClientError>(())
        };
        if let Err(error) = answers.await {
            let host = &self.host;
            self.world.state().trace(|| format!("{host}: {error}"));
        }
    }

    fn expect(&self, was_done: bool, what: impl Fn() -> String) {
        if !was_done {
            self.world.state().violation(format!("{} was not done, says its answer", what()));
        }
    }

    /// Writes for a while, and ends well, badly, or by dying.
    async fn session(&mut self, mut writer: FileWriter, index: usize) -> Result<(), ClientError> {
        self.oracle.lock()[index].is_closed = false;
        let steps = self.rng.random_range(1..12);
        for _ in 0..steps {
            let len = match self.rng.random_range(0..4) {
                0 => self.rng.random_range(1..600),
                _ => self.rng.random_range(1..WRITE_MAX),
            };
            if writer.position() as usize + len > FILE_MAX {
                break;
            }
            let mut bytes = vec![0; len];
            self.rng.fill_bytes(&mut bytes);
            self.oracle.lock()[index].content.extend_from_slice(&bytes);
            writer.write(bytes).await?;
            match self.rng.random_range(0..6) {
                0 | 1 => {
                    writer.hflush().await?;
                    self.promised(index, writer.position(), false);
                }
                2 => {
                    writer.hsync().await?;
                    self.promised(index, writer.position(), true);
                }
                4 if self.is_busy => {
                    let pause = self.rng.random_range(1..6_000);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                3 => {
                    let pause = self.rng.random_range(1..3_000);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                _ => {}
            }
        }
        if self.rng.random_bool(0.2) {
            self.world.state().fault("client: died");
            return Err(ClientError::Closed { path: "by its own death".to_owned() });
        }
        let position = writer.position();
        let syncs = self.rng.random_bool(0.3);
        if syncs {
            writer.hsync().await?;
            self.promised(index, position, true);
        }
        writer.close().await?;
        self.promised(index, position, false);
        self.oracle.lock()[index].is_closed = true;
        Ok(())
    }

    fn promised(&self, index: usize, position: u64, synced: bool) {
        let mut oracle = self.oracle.lock();
        let file = &mut oracle[index];
        file.flushed = position as usize;
        if synced {
            let end = position as usize;
            let start = end.saturating_sub(1) / file.block_size * file.block_size;
            file.synced.push(start..end);
        }
        let (path, host) = (file.path.clone(), &self.host);
        let how = if synced { "synced" } else { "flushed" };
        self.world.state().trace(|| format!("{host}: {path} is {how} to {position}"));
        self.world.state().event(how);
        // A flush that power may take back may be taken back already.
        if synced || self.promise == Promise::Flushed {
            let watch = self.world.state().watch.clone();
            let content = &file.content[..position as usize];
            if let Some(wrong) = watch.acknowledged(&self.world, &path, content, synced) {
                self.world.state().violation(wrong);
            }
        }
    }

    /// Another process opens the file again, at whatever length it has now.
    async fn reopen(&mut self, client: &mut Client, index: usize) -> Option<FileWriter> {
        let (path, block_size) = {
            let oracle = self.oracle.lock();
            (oracle[index].path.clone(), oracle[index].block_size as u64)
        };
        for _ in 0..REOPEN_TRIES {
            match client.append(&path).await {
                Ok(writer) => {
                    if !self.oracle.lock()[index].is_closed {
                        self.world.state().recovery("lease taken over");
                    }
                    self.take_over(index, writer.position() as usize);
                    return Some(writer);
                }
                Err(error) => {
                    let host = &self.host;
                    self.world.state().trace(|| format!("{host}: append to {path}: {error}"));
                    if matches!(client.file_status(&path).await, Ok(None)) {
                        self.check_absent(index);
                        let options =
                            CreateOptions { block_size: Some(block_size), ..Default::default() };
                        let created = client.create(&path, options).await;
                        if let Ok(writer) = created {
                            return Some(writer);
                        }
                    }
                }
            }
            tokio::time::sleep(REOPEN_PAUSE).await;
            // An answer, or none: the next append says.
            let _ = client.recover_lease(&path).await;
            if self.rng.random_bool(0.3) {
                *client = self.client();
            }
        }
        None
    }

    fn take_over(&self, index: usize, len: usize) {
        let mut oracle = self.oracle.lock();
        let file = &mut oracle[index];
        let least = file.promised(self.promise);
        let (path, written) = (file.path.clone(), file.content.len());
        if len < least || len > written {
            self.world.state().violation(format!(
                "{path} is {len} bytes long at an append, of {written} written {least} promised"
            ));
        }
        file.content.truncate(len);
        file.promise_at_most(len);
        file.is_closed = false;
    }

    fn check_absent(&self, index: usize) {
        let oracle = self.oracle.lock();
        let file = &oracle[index];
        if file.promised(self.promise) > 0 || file.is_closed {
            self.world.state().violation(format!("{} is gone", file.path));
        }
    }
}

impl FileOracle {
    pub fn promised(&self, promise: Promise) -> usize {
        match promise {
            Promise::Flushed => self.flushed,
            Promise::Synced => self.synced.iter().map(|range| range.end).max().unwrap_or(0),
        }
    }

    fn promise_at_most(&mut self, len: usize) {
        self.flushed = self.flushed.min(len);
        self.synced.iter_mut().for_each(|range| range.end = range.end.min(len));
        self.synced.retain(|range| !range.is_empty());
    }

    /// Whether no byte that readers have seen may be lost: a sync leaves out the blocks before its own,
    /// and a flush whose answer was lost has given `recorded` to the namenode.
    fn is_all_promised(&self, promise: Promise, recorded: usize) -> bool {
        let mut ranges = self.promised_ranges(promise);
        ranges.sort_by_key(|range| range.start);
        let joined = |end: usize, range: &Range<usize>| match range.start <= end {
            true => end.max(range.end),
            false => end,
        };
        let seen = match promise {
            Promise::Flushed => self.flushed,
            Promise::Synced => self.flushed.max(recorded),
        };
        ranges.iter().fold(0, joined) >= seen
    }

    /// Nothing from `len` on is promised; what is being read says nothing.
    pub fn give_up_from(&mut self, len: usize) {
        self.truncations += 1;
        self.promise_at_most(len);
    }

    /// What must be read back, once nothing writes.
    pub fn promised_ranges(&self, promise: Promise) -> Vec<Range<usize>> {
        match promise {
            Promise::Flushed => std::iter::once(0..usize::MAX).collect(),
            Promise::Synced => self.synced.clone(),
        }
    }
}

/// Reads files while they are written, and says what is wrong with them.
pub struct Reader {
    pub world: World,
    pub configuration: Configuration,
    pub oracle: Oracle,
    pub promise: Promise,
    pub host: String,
}

impl Reader {
    fn client(&self, instance: u64) -> Client {
        Client::simulated(&self.configuration, &self.host, instance).expect("valid settings")
    }

    /// Reads one file after the other, for ever. That it cannot be read now is no fault.
    pub async fn run(self, mut rng: StdRng) {
        for instance in 0.. {
            let client = self.client(1_000_000 + instance);
            let pause = rng.random_range(100..4_000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let chosen = {
                let oracle = self.oracle.lock();
                let count = oracle.len();
                (count > 0).then(|| {
                    let file = &oracle[rng.random_range(0..count)];
                    (file.path.clone(), file.promised(self.promise), file.truncations)
                })
            };
            let Some((path, least, truncations)) = chosen else { continue };
            if let Ok((len, bytes)) = read_all(&client, &path).await {
                let oracle = self.oracle.lock();
                let file = oracle.iter().find(|file| file.path == path);
                if let Some(file) = file.filter(|file| file.truncations == truncations) {
                    self.compare(file, least, len, &bytes);
                }
            }
        }
    }

    fn compare(&self, file: &FileOracle, least: usize, len: usize, bytes: &[u8]) {
        let path = &file.path;
        if len < least {
            let what = format!("a reader sees {len} bytes of {path}, where {least} are promised");
            self.world.state().violation(what);
        }
        let same = least.min(bytes.len());
        if bytes[..same] != file.content[..same] {
            let at = (0..same).find(|at| bytes[*at] != file.content[*at]).unwrap_or(0);
            self.world.state().violation(format!("a reader gets a wrong byte {at} of {path}"));
        }
    }

    /// Everything that is promised is there, every file closed in the end.
    pub async fn verify(self) {
        if self.promise == Promise::Synced {
            // Whole blocks that were never synced may be gone: an operator decides to go on.
            let left = self.client(3_000_000).safe_mode(SafeModeActionProto::SafemodeLeave).await;
            if let Err(error) = left {
                let what = format!("the operator cannot end safe mode: {error}");
                self.world.state().violation(what);
            }
        }
        let count = self.oracle.lock().len();
        for number in 0..count {
            let (path, least, written, ranges) = {
                let oracle = self.oracle.lock();
                let file = &oracle[number];
                let ranges = file.promised_ranges(self.promise);
                (file.path.clone(), file.promised(self.promise), file.content.len(), ranges)
            };
            let client = self.client(2_000_000 + number as u64);
            if !self.until_closed(&client, &path, least, number % 2 == 0).await {
                continue;
            }
            for range in ranges {
                let mut outcome = read_range(&client, &path, range.clone()).await;
                for _ in 0..20 {
                    if outcome.is_ok() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    outcome = read_range(&client, &path, range.clone()).await;
                }
                let watch = self.world.state().watch.clone();
                if outcome.is_err() && least < range.end && watch.has_given_up_some_of(&path) {
                    outcome = read_range(&client, &path, range.start..least).await;
                }
                let wrong = match outcome {
                    Err(error) => format!("cannot be read: {error}"),
                    Ok((len, _)) if len < least || len > written => {
                        format!("is {len} bytes long, of {written} written {least} promised")
                    }
                    Ok((_, bytes)) => match self.first_wrong(number, range.start, &bytes) {
                        Some(at) => format!("has a wrong byte at {at}"),
                        None => continue,
                    },
                };
                let what = format!("{path} in {range:?} {wrong}");
                self.world.state().violation(what);
            }
        }
    }

    fn first_wrong(&self, number: usize, start: usize, bytes: &[u8]) -> Option<usize> {
        let oracle = self.oracle.lock();
        let content = &oracle[number].content[start..];
        (0..bytes.len()).find(|at| bytes[*at] != content[*at]).map(|at| start + at)
    }

    /// A lease ends by itself, or sooner when somebody asks for it; false if the file is not there.
    async fn until_closed(&self, client: &Client, path: &str, least: usize, asks: bool) -> bool {
        for attempt in 0..240 {
            match client.is_file_closed(path).await {
                Ok(true) if attempt > 0 && !asks => {
                    self.world.state().recovery("lease ended by itself");
                    return true;
                }
                Ok(true) => return true,
                Ok(false) if asks => drop(client.recover_lease(path).await),
                Ok(false) => {}
                Err(_) => {
                    if matches!(client.file_status(path).await, Ok(None)) {
                        if least > 0 {
                            self.world.state().violation(format!("{path} is gone"));
                        }
                        return false;
                    }
                }
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let watch = self.world.state().watch.clone();
        let recorded = watch.recorded_len(path);
        let may_be_lost = {
            let oracle = self.oracle.lock();
            let file = oracle.iter().find(|file| file.path == path);
            file.is_some_and(|file| !file.is_all_promised(self.promise, recorded))
        };
        // A block that was promised to readers, and that no datanode has since all lost power, is
        // waited for: nobody knows that it will never come back.
        if !may_be_lost {
            self.world.state().violation(format!("the lease of {path} does not end"));
        }
        false
    }
}

/// The file's length, and its bytes in `range`, as far as it has them.
async fn read_range(
    client: &Client,
    path: &str,
    range: Range<usize>,
) -> Result<(usize, Vec<u8>), ClientError> {
    if range.end == usize::MAX {
        return read_all(client, path).await;
    }
    let reader = client.open(path).await?;
    let len = reader.len() as usize;
    let mut bytes = vec![0; range.end.min(len).saturating_sub(range.start)];
    let mut read = 0;
    while read < bytes.len() {
        match reader.read_at((range.start + read) as u64, &mut bytes[read..]).await? {
            0 => break,
            count => read += count,
        }
    }
    bytes.truncate(read);
    Ok((len, bytes))
}

async fn read_all(client: &Client, path: &str) -> Result<(usize, Vec<u8>), ClientError> {
    let mut reader = client.open(path).await?;
    let len = reader.len() as usize;
    let mut bytes = Vec::with_capacity(len);
    while let Some(chunk) = reader.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok((len, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_of_the_last_block_promises_no_other() {
        let file = |synced: &[Range<usize>]| FileOracle {
            flushed: 300,
            synced: synced.to_vec(),
            ..FileOracle::default()
        };
        let (whole, last) = (vec![0..100, 100..300], vec![0..0, 200..300]);
        let all = |synced| file(synced).is_all_promised(Promise::Synced, 0);
        assert!(all(&[200..300, 0..100, 100..200]) && all(&whole));
        assert!(!all(&last) && !all(&[0..100, 200..300]) && !all(&[0..100, 100..299]) && !all(&[]));
        assert!(!file(&whole).is_all_promised(Promise::Synced, 301));
        assert!(file(&[]).is_all_promised(Promise::Flushed, 301));
    }
}

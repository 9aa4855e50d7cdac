//! The metadata store: redb below, one writer above it, a journal and group commit in between.
//!
//! Every change is an operation queued to the writer thread. The writer takes what has gathered, runs
//! the operations one after another in one transaction, makes it durable once, and only then lets the
//! replies go: many replies share one sync. An operation sees what its predecessors in the batch did.
//! One that fails is undone from a log of the values it replaced, so it leaves nothing. Work that must
//! not precede durability (telling datanodes to delete blocks) is queued with
//! [`Update::after_commit`] and runs between the commit and the replies.
//!
//! Durable is a batch by the journal: one write, where redb's own commit takes dozens and two syncs.
//! redb commits to memory then, so readers see nothing that is not durable. The batch that finds no
//! room in the journal is a checkpoint: a durable commit of redb, which voids the journal. Opening is
//! one too, after what the journal has is replayed, and so is closing, which leaves a database that
//! needs no journal.
//!
//! Reads use their own snapshot on the calling thread and never wait for the writer. Opening does not
//! read the namespace; after a crash redb's quick repair spares the walk through the file.
//!
//! When journal or redb fail, the batch fails as a whole, and every later change is refused: what was answered
//! stays durable, and nothing is answered that is not.

use std::cell::OnceCell;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use prost::Message;
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, WriteTransaction,
};
use ringfs_protocol::block::{BlockId, GenerationStamp};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::error::{NamenodeError, Result};
use crate::journal::{Changes, Journal, JournalFile};
use crate::limits::{CONFIRM_AFTER, COPY_BATCH_MAX, WRITE_BATCH_MAX, WRITE_QUEUE_MAX};
use crate::schema::{
    BlockPhase, BlockRecord, Counter, FileBlock, IDENTITY_KEY, IdentityRecord, InodeId,
    InodeRecord, STORE_VERSION, Space, decode, entry_key, file_block_key, lease_key, u64_key,
};

pub use crate::view::View;

type Bytes = &'static [u8];
type Definition = TableDefinition<'static, Bytes, Bytes>;

/// The epoch of the journal whose records the tables lack. Not there: they lack none.
const EPOCH: TableDefinition<'static, (), u64> = TableDefinition::new("journal_epoch");
/// The latest epoch there was, whether or not the store was closed since.
const LATEST_EPOCH: TableDefinition<'static, (), u64> = TableDefinition::new("latest_epoch");

pub(crate) fn definition(space: Space) -> Definition {
    TableDefinition::new(space.name())
}

pub struct Store {
    database: Arc<Database>,
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
    commits: Arc<AtomicU64>,
    identity: IdentityRecord,
    /// In a simulated world, which has one thread: the writer, called in its place.
    #[cfg(feature = "simulation")]
    inline: Option<parking_lot::Mutex<Writer>>,
}

impl Store {
    /// Starts the writer of a formatted database, once it has what the journal has. `place` and
    /// `journal_place` name them in errors.
    pub fn open(
        database: Database,
        place: &str,
        journal: Box<dyn JournalFile>,
        journal_place: &str,
    ) -> Result<Self> {
        let identity = read_identity(&database, place)?;
        let mut journal = Journal::new(journal, journal_place.to_owned());
        recover(&database, place, &mut journal)?;
        let database = Arc::new(database);
        let commits = Arc::new(AtomicU64::new(0));
        let (queue, jobs) = mpsc::channel(WRITE_QUEUE_MAX);
        let writer =
            Writer { database: database.clone(), journal, commits: commits.clone(), failed: None };
        #[cfg(feature = "simulation")]
        if ringfs_protocol::simulation::is_entered() {
            let inline = Some(parking_lot::Mutex::new(writer));
            return Ok(Self { database, queue: None, writer: None, commits, identity, inline });
        }
        let failed = |error| NamenodeError::system("starting the store's writer", error);
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let timer = timer.map_err(failed)?;
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(jobs, &timer))
            .map_err(failed)?;
        Ok(Self {
            database,
            queue: Some(queue),
            writer: Some(writer),
            commits,
            identity,
            #[cfg(feature = "simulation")]
            inline: None,
        })
    }

    pub fn identity(&self) -> &IdentityRecord {
        &self.identity
    }

    /// Transactions committed since the store was opened.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The state as of the last commit.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let transaction = self.database.begin_read()?;
        Ok(Snapshot { transaction, tables: Default::default() })
    }

    /// Copies one snapshot to an empty database; durable when it returns. Blocks.
    pub fn copy_to(&self, database: &Database) -> Result<()> {
        let snapshot = self.snapshot()?;
        for space in Space::ALL {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                let pairs = snapshot.scan(space, start, Bound::Unbounded, COPY_BATCH_MAX)?;
                let mut transaction = database.begin_write()?;
                transaction.set_durability(Durability::None).map_err(redb::Error::from)?;
                {
                    let mut table = transaction.open_table(definition(space))?;
                    for (key, value) in &pairs {
                        table.insert(key.as_slice(), value.as_slice())?;
                    }
                }
                transaction.commit()?;
                if pairs.len() < COPY_BATCH_MAX {
                    break;
                }
                after = pairs.into_iter().next_back().map(|(key, _)| key);
            }
        }
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        Ok(transaction.commit()?)
    }

    /// Runs `operation` in the writer's next transaction; returns once that is durable.
    pub async fn write<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Update) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Operation { run: Some(operation), result: None, reply: Some(reply) });
        #[cfg(feature = "simulation")]
        if let Some(writer) = &self.inline {
            writer.lock().carry_out(vec![job]);
            let lost = |_| NamenodeError::Store("the writer gave no answer".to_owned());
            return answer.await.map_err(lost)?;
        }
        let stopped = || NamenodeError::Store("the writer has stopped".to_owned());
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // The last handle may fall inside an after-commit action, on the writer itself.
            if writer.thread().id() != std::thread::current().id() {
                let _ = writer.join();
            }
        }
    }
}

/// Makes `database` an empty store with this identity and the records that `fill` puts.
pub fn format(
    database: &Database,
    identity: &IdentityRecord,
    fill: impl FnOnce(&mut Update) -> Result<()>,
) -> Result<()> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    for space in Space::ALL {
        transaction.delete_table(definition(space))?;
    }
    transaction.delete_table(EPOCH)?;
    transaction.open_table(LATEST_EPOCH)?.insert((), 0)?;
    {
        let mut update = Update::new(&transaction);
        for space in Space::ALL {
            update.table(space)?;
        }
        update.put(Space::Identity, IDENTITY_KEY, &identity.encode_to_vec())?;
        fill(&mut update)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Brings the tables to where the journal is, and lets it begin anew.
fn recover(database: &Database, place: &str, journal: &mut Journal) -> Result<()> {
    let mut transaction = database.begin_write()?;
    let latest = transaction.open_table(LATEST_EPOCH)?.get(())?.map(|epoch| epoch.value());
    let newest = journal.newest_epoch()?;
    // A store of before this table was kept says nothing.
    if latest.is_some_and(|latest| newest > latest) {
        return Err(NamenodeError::Format {
            path: place.to_owned(),
            why: "the metadata store is damaged: it is older than its journal; restore it from a \
                  backup"
                .to_owned(),
        });
    }
    let epoch = transaction.open_table(EPOCH)?.get(())?.map(|epoch| epoch.value());
    if let Some(epoch) = epoch {
        let mut update = Update::new(&transaction);
        let replayed = journal.replay(epoch, |space, key, value| update.set(space, key, value))?;
        drop(update);
        tracing::info!(
            batches = replayed,
            "the namespace was not closed: its journal was replayed"
        );
    }
    journal.prepare()?;
    journal.begin(begin_epoch(&mut transaction, newest)?);
    Ok(transaction.commit()?)
}

/// Makes the transaction a checkpoint: the epoch that follows it, and all up to `newest`.
fn begin_epoch(transaction: &mut WriteTransaction, newest: u64) -> Result<u64> {
    let mut latest = transaction.open_table(LATEST_EPOCH)?;
    let former = latest.get(())?.map_or(0, |epoch| epoch.value());
    // Not to be guessed, and 2^31 steps before the numbers end.
    let epoch = former.max(newest).saturating_add(1 + u64::from(rand::random::<u32>()));
    latest.insert((), epoch)?;
    drop(latest);
    transaction.open_table(EPOCH)?.insert((), epoch)?;
    transaction.set_quick_repair(true);
    Ok(epoch)
}

fn read_identity(database: &Database, place: &str) -> Result<IdentityRecord> {
    let refuse = |why: String| NamenodeError::Format { path: place.to_owned(), why };
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(definition(Space::Identity)) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => {
            return Err(refuse(
                "not formatted; run `ringfs namenode -format` once before the first start"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let value = table.get(IDENTITY_KEY)?.ok_or_else(|| refuse("holds no identity".to_owned()))?;
    let identity: IdentityRecord = decode(Space::Identity, value.value())?;
    if identity.store_version != STORE_VERSION {
        return Err(refuse(format!(
            "store version {} was written by another version of ringfs; this one reads version \
             {STORE_VERSION}",
            identity.store_version
        )));
    }
    Ok(identity)
}

pub struct Snapshot {
    transaction: ReadTransaction,
    /// Opened as they are asked for: most reads need two of them.
    tables: [OnceCell<ReadOnlyTable<Bytes, Bytes>>; Space::ALL.len()],
}

impl Snapshot {
    fn table(&self, space: Space) -> Result<&ReadOnlyTable<Bytes, Bytes>> {
        let cell = &self.tables[space as usize];
        if let Some(table) = cell.get() {
            return Ok(table);
        }
        let table = self.transaction.open_table(definition(space))?;
        Ok(cell.get_or_init(|| table))
    }
}

impl View for Snapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>> {
        get(self.table(space)?, key)
    }

    fn scan(
        &self,
        space: Space,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        scan(self.table(space)?, start, end, max)
    }
}

/// The writer's transaction as an operation sees it.
pub struct Update<'a> {
    transaction: &'a WriteTransaction,
    /// Opened as they are asked for: that takes longer than most of what is done with them.
    tables: [OnceCell<Table<'a, Bytes, Bytes>>; Space::ALL.len()],
    /// What the running operation replaced, oldest first.
    undo: Vec<(Space, Vec<u8>, Option<Vec<u8>>)>,
    changes: Changes,
    after_commit: Vec<Action>,
}

type Action = Box<dyn FnOnce() + Send>;

impl View for Update<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>> {
        get(self.table(space)?, key)
    }

    fn scan(
        &self,
        space: Space,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        scan(self.table(space)?, start, end, max)
    }
}

impl<'a> Update<'a> {
    fn new(transaction: &'a WriteTransaction) -> Self {
        let (tables, undo, changes, after_commit) = Default::default();
        Self { transaction, tables, undo, changes, after_commit }
    }

    fn table(&self, space: Space) -> Result<&Table<'a, Bytes, Bytes>> {
        let cell = &self.tables[space as usize];
        if let Some(table) = cell.get() {
            return Ok(table);
        }
        let table = self.transaction.open_table(definition(space))?;
        Ok(cell.get_or_init(|| table))
    }

    fn table_mut(&mut self, space: Space) -> Result<&mut Table<'a, Bytes, Bytes>> {
        self.table(space)?;
        Ok(self.tables[space as usize].get_mut().expect("it has just been opened"))
    }

    /// Puts the value, or removes the key, as a log says.
    fn set(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let table = self.table_mut(space)?;
        match value {
            Some(value) => table.insert(key, value)?,
            None => table.remove(key)?,
        };
        Ok(())
    }

    pub fn put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        let old = self.table_mut(space)?.insert(key, value)?.map(|old| old.value().to_vec());
        self.undo.push((space, key.to_vec(), old.clone()));
        self.changes.push(space, key, Some(value));
        Ok(old)
    }

    pub fn remove(&mut self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let old = self.table_mut(space)?.remove(key)?.map(|old| old.value().to_vec());
        if old.is_some() {
            self.undo.push((space, key.to_vec(), old.clone()));
            self.changes.push(space, key, None);
        }
        Ok(old)
    }

    /// Runs `action` once the transaction is durable, before any reply of it is sent; not at all
    /// when the operation or the transaction fails. It runs on the writer, so it must be short.
    pub fn after_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(action));
    }

    pub fn put_counter(&mut self, counter: Counter, value: u64) -> Result<()> {
        self.put(Space::Counters, counter.key(), &u64_key(value))?;
        Ok(())
    }

    /// Raises a counter by one and returns its new value.
    pub fn next(&mut self, counter: Counter) -> Result<u64> {
        let value = self.counter(counter)? + 1;
        self.put_counter(counter, value)?;
        Ok(value)
    }

    pub fn next_generation_stamp(&mut self) -> Result<GenerationStamp> {
        self.next(Counter::GenerationStamp).map(GenerationStamp)
    }

    pub fn put_inode(&mut self, id: InodeId, record: &InodeRecord) -> Result<()> {
        self.put(Space::Inodes, &u64_key(id), &record.encode_to_vec())?;
        Ok(())
    }

    pub fn remove_inode(&mut self, id: InodeId) -> Result<()> {
        self.remove(Space::Inodes, &u64_key(id))?;
        Ok(())
    }

    pub fn put_entry(&mut self, directory: InodeId, name: &[u8], inode: InodeId) -> Result<()> {
        self.put(Space::Entries, &entry_key(directory, name), &u64_key(inode))?;
        Ok(())
    }

    pub fn remove_entry(&mut self, directory: InodeId, name: &[u8]) -> Result<()> {
        self.remove(Space::Entries, &entry_key(directory, name))?;
        Ok(())
    }

    pub fn put_block(&mut self, block: &FileBlock) -> Result<()> {
        let old = self.put(Space::Blocks, &u64_key(block.id.0), &block.record.encode_to_vec())?;
        self.count_complete(old, i64::from(block.is_complete()))
    }

    pub fn remove_block(&mut self, id: BlockId) -> Result<()> {
        let old = self.remove(Space::Blocks, &u64_key(id.0))?;
        self.count_complete(old, 0)
    }

    /// Keeps the count of complete blocks when a record replaces `old`.
    fn count_complete(&mut self, old: Option<Vec<u8>>, now: i64) -> Result<()> {
        let was = match old {
            Some(value) => {
                let old: BlockRecord = decode(Space::Blocks, &value)?;
                i64::from(old.phase() == BlockPhase::Complete)
            }
            None => 0,
        };
        if was != now {
            let count = self.counter(Counter::CompleteBlocks)?;
            self.put_counter(Counter::CompleteBlocks, count.saturating_add_signed(now - was))?;
        }
        Ok(())
    }

    pub fn put_file_block(&mut self, inode: InodeId, index: u32, id: BlockId) -> Result<()> {
        self.put(Space::FileBlocks, &file_block_key(inode, index), &u64_key(id.0))?;
        Ok(())
    }

    pub fn remove_file_block(&mut self, inode: InodeId, index: u32) -> Result<()> {
        self.remove(Space::FileBlocks, &file_block_key(inode, index))?;
        Ok(())
    }

    pub fn put_lease(&mut self, holder: &str, inode: InodeId) -> Result<()> {
        self.put(Space::Leases, &lease_key(holder, inode), &[])?;
        Ok(())
    }

    pub fn remove_lease(&mut self, holder: &str, inode: InodeId) -> Result<()> {
        self.remove(Space::Leases, &lease_key(holder, inode))?;
        Ok(())
    }

    /// Ends one operation: keeps its changes, or takes them back.
    fn settle(&mut self, keep: bool, before: (usize, usize)) -> Result<()> {
        if keep {
            self.undo.clear();
            return Ok(());
        }
        self.changes.truncate(before.0);
        self.after_commit.truncate(before.1);
        while let Some((space, key, old)) = self.undo.pop() {
            self.set(space, &key, old.as_deref())?;
        }
        Ok(())
    }
}

fn get(table: &impl ReadableTable<Bytes, Bytes>, key: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<Bytes, Bytes>,
    start: Bound<&[u8]>,
    end: Bound<&[u8]>,
    max: usize,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut pairs = Vec::new();
    for pair in table.range::<&[u8]>((start, end))?.take(max) {
        let (key, value) = pair?;
        pairs.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(pairs)
}

/// An operation in the queue, its types erased.
trait Job: Send {
    /// Runs it; false when it failed.
    fn run(&mut self, update: &mut Update) -> bool;
    /// Sends the result; `Some` overrides it: the transaction did not become durable.
    fn reply(self: Box<Self>, failure: Option<&str>);
}

struct Operation<T, F> {
    run: Option<F>,
    result: Option<Result<T>>,
    reply: Option<oneshot::Sender<Result<T>>>,
}

impl<T, F> Job for Operation<T, F>
where
    T: Send,
    F: FnOnce(&mut Update) -> Result<T> + Send,
{
    fn run(&mut self, update: &mut Update) -> bool {
        let Some(run) = self.run.take() else { return false };
        let result = run(update);
        let succeeded = result.is_ok();
        self.result = Some(result);
        succeeded
    }

    fn reply(mut self: Box<Self>, failure: Option<&str>) {
        let result = match (failure, self.result.take()) {
            (None, Some(result)) => result,
            (why, _) => Err(NamenodeError::Store(why.unwrap_or("the batch failed").to_owned())),
        };
        if let Some(reply) = self.reply.take() {
            // The caller may have gone away; what it asked for stays done.
            let _ = reply.send(result);
        }
    }
}

struct Writer {
    database: Arc<Database>,
    journal: Journal,
    commits: Arc<AtomicU64>,
    failed: Option<String>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Job>>, timer: &Runtime) {
        while let Some(first) = self.next_job(&mut queue, timer) {
            let mut batch = vec![first];
            while batch.len() < WRITE_BATCH_MAX {
                match queue.try_recv() {
                    Ok(job) => batch.push(job),
                    Err(_) => break,
                }
            }
            self.carry_out(batch);
        }
        // After a failure the journal has what the database may lack.
        if self.failed.is_none()
            && let Err(error) = self.close()
        {
            tracing::warn!(%error, "the metadata store is left to the journal");
        }
    }

    /// `None` when the store is closed. The last changes are confirmed while there are no more.
    fn next_job(
        &mut self,
        queue: &mut mpsc::Receiver<Box<dyn Job>>,
        timer: &Runtime,
    ) -> Option<Box<dyn Job>> {
        if self.failed.is_none() && self.journal.wants_confirmation() {
            let next = async { tokio::time::timeout(CONFIRM_AFTER, queue.recv()).await };
            match timer.block_on(next) {
                Ok(job) => return job,
                Err(_) => {
                    let confirmed = self.journal.confirm();
                    self.note(confirmed);
                }
            }
        }
        queue.blocking_recv()
    }

    fn carry_out(&mut self, mut batch: Vec<Box<dyn Job>>) {
        if self.failed.is_none() {
            let applied = self.apply(&mut batch);
            self.note(applied);
        }
        for job in batch {
            job.reply(self.failed.as_deref());
        }
    }

    fn note(&mut self, outcome: Result<()>) {
        if let Err(error) = outcome {
            let why = error.to_string();
            tracing::error!("metadata can no longer be changed: {why}");
            self.failed = Some(why);
        }
    }

    fn apply(&mut self, batch: &mut [Box<dyn Job>]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        let (after_commit, changes) = {
            let mut update = Update::new(&transaction);
            for job in batch {
                let before = (update.changes.len(), update.after_commit.len());
                let succeeded = job.run(&mut update);
                update.settle(succeeded, before)?;
            }
            (update.after_commit, update.changes)
        };
        if changes.is_empty() {
            transaction.abort()?;
        } else {
            self.commit(transaction, &changes)?;
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        for action in after_commit {
            action();
        }
        Ok(())
    }

    fn commit(&mut self, mut transaction: WriteTransaction, changes: &Changes) -> Result<()> {
        if self.journal.has_room(changes.len()) {
            if !ringfs_protocol::mutant!("namenode: answer without the journal") {
                self.journal.append(changes)?;
            }
            transaction.set_durability(Durability::None).map_err(redb::Error::from)?;
            return Ok(transaction.commit()?);
        }
        let epoch = begin_epoch(&mut transaction, 0)?;
        transaction.commit()?;
        self.journal.begin(epoch);
        Ok(())
    }

    /// Leaves a database that needs no journal.
    fn close(&self) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.delete_table(EPOCH)?;
        transaction.set_quick_repair(true);
        Ok(transaction.commit()?)
    }
}

//! The metadata store: redb below, one writer above it, a journal, changes in memory and group commit
//! in between.
//!
//! Every change is an operation queued to the writer thread. The writer takes what has gathered, runs
//! the operations one after another, makes what they changed durable once, and only then lets the
//! replies go: many replies share one sync. An operation sees what its predecessors in the batch did.
//! One that fails is taken back, so it leaves nothing. Work that must not precede durability (telling
//! datanodes to delete blocks) is queued with [`Update::after_commit`] and runs between the commit and
//! the replies.
//!
//! | state of a change | where it is |
//! |---|---|
//! | not answered | in the batch |
//! | durable, answered, read | in the journal, by one write, and in the [`Overlay`](crate::overlay) |
//! | folded, some thousand together | in redb's memory, by a commit that is not durable, and in the journal |
//! | behind a checkpoint | in redb's file |
//!
//! redb's transactions cost more than what an operation does with them, and its durable commits dozens
//! of writes and two syncs. The batch that finds no room in the journal is a checkpoint: all is folded
//! by a durable commit, which voids the journal. Opening is one too, after what the journal has is
//! replayed, and so is closing, which leaves a database that needs no journal.
//!
//! Reads use a snapshot on the calling thread and never wait for the writer's disk. Opening does not
//! read the namespace; after a crash redb's quick repair spares the walk through the file.
//!
//! When journal or redb fail, the batch fails as a whole, and every later change is refused: what was answered
//! stays durable, and nothing is answered that is not.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use prost::Message;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::error::{NamenodeError, Result};
use crate::journal::{Changes, Journal, JournalFile};
use crate::limits::{
    CONFIRM_AFTER, COPY_BATCH_MAX, UNFOLDED_CHANGES_MAX, WRITE_BATCH_MAX, WRITE_QUEUE_MAX,
};
use crate::overlay::{Bytes, Overlay};
use crate::schema::{IDENTITY_KEY, IdentityRecord, STORE_VERSION, Space, decode};

pub(crate) use crate::overlay::definition;
pub use crate::overlay::{Snapshot, View};
pub use crate::store_update::Update;

/// The epoch of the journal whose records the tables lack. Not there: they lack none.
const EPOCH: TableDefinition<'static, (), u64> = TableDefinition::new("journal_epoch");
/// The latest epoch there was, whether or not the store was closed since.
const LATEST_EPOCH: TableDefinition<'static, (), u64> = TableDefinition::new("latest_epoch");

pub struct Store {
    committed: Arc<Mutex<Snapshot>>,
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
    commits: Arc<AtomicU64>,
    identity: IdentityRecord,
    /// In a simulated world, which has one thread: the writer, called in its place.
    #[cfg(feature = "simulation")]
    inline: Option<Mutex<Writer>>,
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
        let committed = Arc::new(Mutex::new(Snapshot::of(&database)?));
        let commits = Arc::new(AtomicU64::new(0));
        let (queue, jobs) = mpsc::channel(WRITE_QUEUE_MAX);
        let writer = Writer {
            database,
            journal,
            committed: committed.clone(),
            commits: commits.clone(),
            failed: None,
        };
        #[cfg(feature = "simulation")]
        if ringfs_protocol::simulation::is_entered() {
            let inline = Some(Mutex::new(writer));
            return Ok(Self { committed, queue: None, writer: None, commits, identity, inline });
        }
        let failed = |error| NamenodeError::system("starting the store's writer", error);
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let timer = timer.map_err(failed)?;
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(jobs, &timer))
            .map_err(failed)?;
        Ok(Self {
            committed,
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

    /// Batches committed since the store was opened.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The state as of the last commit.
    pub fn snapshot(&self) -> Snapshot {
        self.committed.lock().clone()
    }

    /// Copies one snapshot to an empty database; durable when it returns. Blocks.
    pub fn copy_to(&self, database: &Database) -> Result<()> {
        let snapshot = self.snapshot();
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

    /// Runs `operation` in the writer's next batch; returns once that is durable.
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
    for space in Space::ALL {
        transaction.open_table(definition(space))?;
    }
    transaction.set_durability(Durability::None).map_err(redb::Error::from)?;
    transaction.commit()?;
    let mut update = Update::new(Snapshot::of(database)?);
    update.put(Space::Identity, IDENTITY_KEY, &identity.encode_to_vec())?;
    fill(&mut update)?;
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    fold(&update.state.overlay, &transaction)?;
    Ok(transaction.commit()?)
}

/// Brings the changes to the database's tables.
fn fold(overlay: &Overlay, transaction: &WriteTransaction) -> Result<()> {
    let mut tables = WriteTables::new(transaction);
    for (space, key, value) in overlay.changes() {
        tables.set(space, key, value)?;
    }
    Ok(())
}

struct WriteTables<'a> {
    transaction: &'a WriteTransaction,
    /// Opened as they are asked for.
    opened: [Option<Table<'a, Bytes, Bytes>>; Space::ALL.len()],
}

impl<'a> WriteTables<'a> {
    fn new(transaction: &'a WriteTransaction) -> Self {
        Self { transaction, opened: Default::default() }
    }

    /// Puts the value, or removes the key.
    fn set(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let cell = &mut self.opened[space as usize];
        let table = match cell {
            Some(table) => table,
            None => cell.insert(self.transaction.open_table(definition(space))?),
        };
        match value {
            Some(value) => table.insert(key, value)?,
            None => table.remove(key)?,
        };
        Ok(())
    }
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
        let mut tables = WriteTables::new(&transaction);
        let replayed = journal.replay(epoch, |space, key, value| tables.set(space, key, value))?;
        drop(tables);
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

/// An operation in the queue, its types erased.
trait Job: Send {
    /// Runs it; false when it failed.
    fn run(&mut self, update: &mut Update) -> bool;
    /// Sends the result; `Some` overrides it: the batch did not become durable.
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
    database: Database,
    journal: Journal,
    committed: Arc<Mutex<Snapshot>>,
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
        if self.failed.is_none() && self.committed.lock().overlay.len() >= UNFOLDED_CHANGES_MAX {
            let folded = self.fold();
            self.note(folded);
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
        let mut update = Update::new(self.committed.lock().clone());
        for job in batch {
            let before = update.before();
            if !job.run(&mut update) {
                update.take_back(before);
            }
        }
        if !update.changes.is_empty() {
            self.commit(update.state, &update.changes)?;
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        for action in update.after_commit {
            action();
        }
        Ok(())
    }

    fn commit(&mut self, state: Snapshot, changes: &Changes) -> Result<()> {
        if !self.journal.has_room(changes.len()) {
            return self.checkpoint(&state.overlay);
        }
        if !ringfs_protocol::mutant!("namenode: answer without the journal") {
            self.journal.append(changes)?;
        }
        *self.committed.lock() = state;
        Ok(())
    }

    /// What is folded is durable by the journal.
    fn fold(&self) -> Result<()> {
        let overlay = self.committed.lock().overlay.clone();
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::None).map_err(redb::Error::from)?;
        fold(&overlay, &transaction)?;
        transaction.commit()?;
        *self.committed.lock() = Snapshot::of(&self.database)?;
        Ok(())
    }

    fn checkpoint(&mut self, overlay: &Overlay) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        fold(overlay, &transaction)?;
        let epoch = begin_epoch(&mut transaction, 0)?;
        transaction.commit()?;
        self.journal.begin(epoch);
        *self.committed.lock() = Snapshot::of(&self.database)?;
        Ok(())
    }

    /// Leaves a database that needs no journal.
    fn close(&self) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        fold(&self.committed.lock().overlay, &transaction)?;
        transaction.delete_table(EPOCH)?;
        transaction.set_quick_repair(true);
        Ok(transaction.commit()?)
    }
}

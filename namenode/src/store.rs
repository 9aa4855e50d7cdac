//! The metadata store: redb below, one writer above it, a journal, changes in memory and group commit
//! in between.
//!
//! Every change is an operation, carried out by one writer at a time (`store_writer`). It takes what has
//! gathered, runs the operations one after another, makes what they changed durable once, and only then
//! lets the replies go: many replies share one sync. An operation sees what its predecessors in the batch did.
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
use tokio::sync::mpsc;

use crate::error::{NamenodeError, Result};
use crate::journal::{Journal, JournalFile};
use crate::limits::{COPY_BATCH_MAX, WRITE_QUEUE_MAX};
use crate::overlay::{Bytes, Overlay};
use crate::schema::{IDENTITY_KEY, IdentityRecord, STORE_VERSION, Space, decode};

pub(crate) use crate::overlay::definition;
pub use crate::overlay::{Snapshot, View};
pub use crate::store_update::Update;

use crate::store_writer::{Operation, Queue, Writer, WriterSeat};

/// The epoch of the journal whose records the tables lack. Not there: they lack none.
pub(crate) const EPOCH: TableDefinition<'static, (), u64> = TableDefinition::new("journal_epoch");
/// The latest epoch there was, whether or not the store was closed since.
const LATEST_EPOCH: TableDefinition<'static, (), u64> = TableDefinition::new("latest_epoch");

pub struct Store {
    committed: Arc<Mutex<Snapshot>>,
    seat: Arc<WriterSeat>,
    /// To the thread; a simulated world has neither.
    queue: Option<Queue>,
    thread: Option<JoinHandle<()>>,
    commits: Arc<AtomicU64>,
    identity: IdentityRecord,
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
        let writer = Writer::new(database, journal, committed.clone(), commits.clone());
        let seat = Arc::new(WriterSeat::new(writer));
        #[cfg(feature = "simulation")]
        if ringfs_protocol::simulation::is_entered() {
            return Ok(Self { committed, seat, queue: None, thread: None, commits, identity });
        }
        let failed = |error| NamenodeError::system("starting the store's writer", error);
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let timer = timer.map_err(failed)?;
        let (queue, jobs) = mpsc::channel(WRITE_QUEUE_MAX);
        let served = seat.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || served.serve(jobs, &timer))
            .map_err(failed)?;
        let (queue, thread) = (Some(queue), Some(thread));
        Ok(Self { committed, seat, queue, thread, commits, identity })
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

    /// Runs `operation` by itself or in a batch with others'; returns once it is durable.
    pub async fn write<T, F>(&self, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Update) -> Result<T> + Send + 'static,
    {
        let (operation, answer) = Operation::new(operation);
        let job = Box::new(operation);
        let stopped = || NamenodeError::Store("the writer has stopped".to_owned());
        #[cfg(feature = "simulation")]
        if self.queue.is_none() {
            self.seat.carry_out(job);
            return answer.await.map_err(|_| stopped())?;
        }
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        if let Err(job) = self.seat.carry_out_alone(job, queue) {
            queue.send(job).await.map_err(|_| stopped())?;
        }
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // The last handle may fall inside an after-commit action, on the thread itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
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
pub(crate) fn fold(overlay: &Overlay, transaction: &WriteTransaction) -> Result<()> {
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
pub(crate) fn begin_epoch(transaction: &mut WriteTransaction, newest: u64) -> Result<u64> {
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

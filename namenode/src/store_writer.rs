//! Who writes to the store: the caller itself where nobody else writes, else a thread for all.
//!
//! The hand-off to a thread and back costs as much as a change does; a change by itself cannot share its
//! sync. So a caller that finds the writer free and nothing queued carries its operation out on the spot,
//! and every other one queues it. What gathers while somebody writes is the thread's next batch, and from
//! a batch of several on all queue, until there is one of a single job again: many callers share syncs.
//!
//! The thread also does what no caller should wait for: folding, and confirming the journal's last record
//! when no change came for a while. For that it looks every [`CONFIRM_AFTER`] while there is something to
//! confirm, and is told once when there is again.
//!
//! A caller that writes holds up its worker of the runtime, and for as long as a disk takes that does not
//! answer. There must be another one for what only reads, or all goes to the thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use redb::{Database, Durability};
use tokio::runtime::{Handle, Runtime, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot};

use crate::error::{NamenodeError, Result};
use crate::journal::{Changes, Journal};
use crate::limits::{CONFIRM_AFTER, UNFOLDED_CHANGES_MAX, WRITE_BATCH_MAX};
use crate::overlay::{Overlay, Snapshot};
use crate::store::{EPOCH, begin_epoch, fold};
use crate::store_update::Update;

pub type Queue = mpsc::Sender<Box<dyn Job>>;

/// The writer, for whoever may write next.
pub struct WriterSeat {
    writer: Mutex<Writer>,
    /// Whether all queue: the thread has jobs in its hands, or had those of several callers last.
    is_threads_turn: AtomicBool,
}

impl WriterSeat {
    pub fn new(writer: Writer) -> Self {
        Self { writer: Mutex::new(writer), is_threads_turn: AtomicBool::new(false) }
    }

    /// Carries the job out if nobody else writes or waits to; gives it back otherwise.
    pub fn carry_out_alone(
        &self,
        job: Box<dyn Job>,
        queue: &Queue,
    ) -> std::result::Result<(), Box<dyn Job>> {
        let is_queue_empty = queue.capacity() == queue.max_capacity();
        if !is_queue_empty || self.is_threads_turn.load(Ordering::Acquire) || !may_hold_worker() {
            return Err(job);
        }
        let Some(mut writer) = self.writer.try_lock() else { return Err(job) };
        writer.carry_out(vec![job]);
        if writer.needs_thread() {
            // A queue that is full wakes it up as well.
            let _ = queue.try_send(Box::new(Look));
        }
        Ok(())
    }

    /// In a simulated world, which has one thread.
    #[cfg(feature = "simulation")]
    pub fn carry_out(&self, job: Box<dyn Job>) {
        let mut writer = self.writer.lock();
        writer.carry_out(vec![job]);
        writer.fold_if_due();
    }

    /// The thread, until the store is closed.
    pub fn serve(&self, mut queue: mpsc::Receiver<Box<dyn Job>>, timer: &Runtime) {
        while let Some(first) = self.next_job(&mut queue, timer) {
            self.is_threads_turn.store(true, Ordering::Release);
            let mut writer = self.writer.lock();
            let mut batch = vec![first];
            while batch.len() < WRITE_BATCH_MAX {
                match queue.try_recv() {
                    Ok(job) => batch.push(job),
                    Err(_) => break,
                }
            }
            let is_shared = batch.len() > 1;
            writer.carry_out(batch);
            writer.fold_if_due();
            drop(writer);
            self.is_threads_turn.store(is_shared, Ordering::Release);
        }
        let writer = self.writer.lock();
        // After a failure the journal has what the database may lack.
        if writer.failed.is_none()
            && let Err(error) = writer.close()
        {
            tracing::warn!(%error, "the metadata store is left to the journal");
        }
    }

    /// `None` when the store is closed. The last changes are confirmed while there are no more.
    fn next_job(
        &self,
        queue: &mut mpsc::Receiver<Box<dyn Job>>,
        timer: &Runtime,
    ) -> Option<Box<dyn Job>> {
        let mut seen = self.writer.lock().watch();
        while let Some(record) = seen {
            let next = async { tokio::time::timeout(CONFIRM_AFTER, queue.recv()).await };
            if let Ok(job) = timer.block_on(next) {
                return job;
            }
            let mut writer = self.writer.lock();
            writer.confirm(record);
            seen = writer.watch();
        }
        queue.blocking_recv()
    }
}

/// Whether the runtime has a worker left when this one waits for a disk.
fn may_hold_worker() -> bool {
    Handle::try_current().is_ok_and(|runtime| {
        runtime.runtime_flavor() == RuntimeFlavor::MultiThread
            && runtime.metrics().num_workers() > 1
    })
}

/// An operation in the queue, its types erased.
pub trait Job: Send {
    /// Runs it; false when it failed.
    fn run(&mut self, update: &mut Update) -> bool;
    /// Sends the result; `Some` overrides it: the batch did not become durable.
    fn reply(self: Box<Self>, failure: Option<&str>);
}

pub struct Operation<T, F> {
    run: Option<F>,
    result: Option<Result<T>>,
    reply: Option<oneshot::Sender<Result<T>>>,
}

impl<T, F> Operation<T, F> {
    /// With where its result is to be had.
    pub fn new(operation: F) -> (Self, oneshot::Receiver<Result<T>>) {
        let (reply, answer) = oneshot::channel();
        (Self { run: Some(operation), result: None, reply: Some(reply) }, answer)
    }
}

/// Has the thread look after what no caller does.
struct Look;

impl Job for Look {
    fn run(&mut self, _: &mut Update) -> bool {
        true
    }

    fn reply(self: Box<Self>, _: Option<&str>) {}
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

pub struct Writer {
    database: Database,
    journal: Journal,
    committed: Arc<Mutex<Snapshot>>,
    commits: Arc<AtomicU64>,
    failed: Option<String>,
    /// Whether the thread looks for what to confirm.
    is_watched: bool,
}

impl Writer {
    pub fn new(
        database: Database,
        journal: Journal,
        committed: Arc<Mutex<Snapshot>>,
        commits: Arc<AtomicU64>,
    ) -> Self {
        Self { database, journal, committed, commits, failed: None, is_watched: false }
    }

    pub fn carry_out(&mut self, mut batch: Vec<Box<dyn Job>>) {
        if self.failed.is_none() {
            let applied = self.apply(&mut batch);
            self.note(applied);
        }
        for job in batch {
            job.reply(self.failed.as_deref());
        }
    }

    fn is_fold_due(&self) -> bool {
        self.failed.is_none() && self.committed.lock().overlay.len() >= UNFOLDED_CHANGES_MAX
    }

    fn fold_if_due(&mut self) {
        if self.is_fold_due() {
            let folded = self.fold();
            self.note(folded);
        }
    }

    /// Whether there is something for the thread that it does not know of.
    fn needs_thread(&self) -> bool {
        self.is_fold_due() || (!self.is_watched && self.wants_confirmation())
    }

    fn wants_confirmation(&self) -> bool {
        self.failed.is_none() && self.journal.wants_confirmation()
    }

    /// The record that is to be confirmed if none follows it, for the thread that sees to that.
    fn watch(&mut self) -> Option<u64> {
        self.is_watched = self.wants_confirmation();
        self.is_watched.then(|| self.journal.records())
    }

    /// If that is the last one still.
    fn confirm(&mut self, record: u64) {
        if self.wants_confirmation() && self.journal.records() == record {
            let confirmed = self.journal.confirm();
            self.note(confirmed);
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Condvar;
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::NamespaceConfig;
    use crate::format::{self, FormatOptions};
    use crate::journal::JournalFile;
    use crate::schema::Space;
    use crate::store::{Store, View};

    /// A journal's disk that can be stopped, and tells how many writes have begun and who did them.
    #[derive(Clone, Default)]
    struct Disk(Arc<(std::sync::Mutex<DiskState>, Condvar)>);

    #[derive(Default)]
    struct DiskState {
        bytes: Vec<u8>,
        is_stopped: bool,
        writers: Vec<Option<String>>,
    }

    impl Disk {
        fn set_stopped(&self, stopped: bool) {
            self.0.0.lock().unwrap().is_stopped = stopped;
            self.0.1.notify_all();
        }

        /// The threads that wrote since the last call.
        fn take_writers(&self) -> Vec<Option<String>> {
            std::mem::take(&mut self.0.0.lock().unwrap().writers)
        }
    }

    impl JournalFile for Disk {
        fn read(&mut self) -> io::Result<Vec<u8>> {
            Ok(self.0.0.lock().unwrap().bytes.clone())
        }

        fn write(&mut self, offset_bytes: u64, blocks: &[u8]) -> io::Result<()> {
            let mut state = self.0.0.lock().unwrap();
            state.writers.push(std::thread::current().name().map(str::to_owned));
            while state.is_stopped {
                state = self.0.1.wait(state).unwrap();
            }
            let (from, end) = (offset_bytes as usize, offset_bytes as usize + blocks.len());
            let len = state.bytes.len().max(end);
            state.bytes.resize(len, 0);
            state.bytes[from..end].copy_from_slice(blocks);
            Ok(())
        }

        fn len_bytes(&mut self) -> io::Result<u64> {
            Ok(self.0.0.lock().unwrap().bytes.len() as u64)
        }
    }

    fn open(directory: &tempfile::TempDir) -> (Arc<Store>, Disk) {
        let name = directory.path().join("name");
        let (config, clock) = (NamespaceConfig::for_tests(), ManualClock::new(5));
        format::format(&name, &config, &FormatOptions::default(), &clock).unwrap();
        let database = Database::open(format::store_file(&name)).unwrap();
        let disk = Disk::default();
        let store = Store::open(database, "store", Box::new(disk.clone()), "journal").unwrap();
        disk.take_writers();
        (Arc::new(store), disk)
    }

    async fn put(store: Arc<Store>, key: u32) {
        let put = move |update: &mut Update| {
            update.put(Space::Retries, &key.to_be_bytes(), &[1; 100]).map(drop)
        };
        store.write(put).await.unwrap();
    }

    fn keys(store: &Store) -> usize {
        store.snapshot().scan_prefix(Space::Retries, &[], usize::MAX).unwrap().len()
    }

    const THREAD: &str = "store-writer";

    fn by_thread(writers: &[Option<String>]) -> usize {
        writers.iter().filter(|writer| writer.as_deref() == Some(THREAD)).count()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lone_caller_writes_and_the_thread_confirms_and_folds() {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = open(&directory);
        put(store.clone(), 0).await;
        // The thread is told that there is something to confirm, and is in the way for a moment.
        tokio::time::sleep(CONFIRM_AFTER / 10).await;
        disk.take_writers();
        for key in 1..10 {
            put(store.clone(), key).await;
        }
        let writers = disk.take_writers();
        // One of them may meet the thread at its look.
        assert!(writers.len() == 9 && by_thread(&writers) <= 1, "{writers:?}");
        tokio::time::sleep(3 * CONFIRM_AFTER).await;
        assert_eq!(disk.take_writers(), [Some(THREAD.to_owned())], "the last record, once");
        put(store.clone(), 10).await;
        disk.take_writers();
        tokio::time::sleep(3 * CONFIRM_AFTER).await;
        assert_eq!(disk.take_writers(), [Some(THREAD.to_owned())], "and so after a pause");

        let many = UNFOLDED_CHANGES_MAX as u32 + 100;
        for key in 11..many {
            put(store.clone(), key).await;
        }
        let unfolded = || store.snapshot().overlay.len();
        for _ in 0..200 {
            if unfolded() <= 100 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(unfolded() <= 100, "{}", unfolded());
        assert_eq!(keys(&store), many as usize);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn those_who_come_while_one_writes_share_a_record() {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = open(&directory);
        disk.set_stopped(true);
        let callers: Vec<_> = (0..100).map(|key| tokio::spawn(put(store.clone(), key))).collect();
        // One worker waits for the disk: the other one serves who reads, and the timers.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let reads = store.clone();
        assert_eq!(tokio::spawn(async move { keys(&reads) }).await.unwrap(), 0);
        disk.set_stopped(false);
        for caller in callers {
            caller.await.unwrap();
        }
        let writers = disk.take_writers();
        assert!(writers.len() <= 3, "{writers:?}");
        assert_eq!((keys(&store), store.commits() as usize), (100, writers.len()));
    }

    /// There is nobody else to serve those who read.
    #[tokio::test]
    async fn the_only_worker_never_waits_for_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = open(&directory);
        for key in 0..10 {
            put(store.clone(), key).await;
        }
        let writers = disk.take_writers();
        assert_eq!((writers.len(), by_thread(&writers)), (10, 10));
    }
}

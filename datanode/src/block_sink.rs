//! Where the bytes of a block being written go: data to the block file in whole slabs, checksums to
//! the meta file behind it.
//!
//! ```text
//! receive -> pieces -> [job: data writes] -> meta write -> (sync) -> durable_end -> acks
//! ```
//!
//! Data gathers (`gathering`) until a slab is full; then it is a job. What has gathered is flushed as it
//! is when the socket has nothing more and the disk is idle: at once if the last packet is a short one
//! (its client flushes, and waits) or the last slab took longer than `SLAB_PATIENCE` to fill, or else
//! when the data has waited for [`GATHER_PATIENCE`]. So a fast writer gets writes of a slab, and a slow
//! one, or one that flushes, an ack without delay.
//!
//! A new block that is flushed within its first [`CACHED_WRITE_MAX_BYTES`], as small files are, has that
//! written through the page cache, data and checksums by one piece of work of the volume's threads; and
//! with its true length, so that nothing is cut off at the end. What follows goes the way above.
//!
//! A block that outgrows its first slab before anything was written gets a data file with all of its
//! space: the empty one is given that, or a spare file (`spare_files`) takes its place.
//!
//! Jobs with whole sectors run side by side; one that writes a sector again waits for the others.
//! They complete in order, and those that are done together have one write to the meta file. After a
//! failed write nothing more is written or acknowledged, and what is in the files already is not
//! trusted (`failed_writes`). A disk that does not answer in time is a failed write as well; its slabs
//! are then the kernel's, not the stream's (`ring::stuck`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::meta_file::META_HEADER_BYTES;
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use crate::counters::Counters;
use crate::error::{DatanodeError, Result};
use crate::gathering::Gathering;
use crate::limits::{GATHER_PATIENCE, TURN_BYTES};
use crate::replica::Replica;
use crate::ring::{
    self, Buffer, BufferMut, Either, File, FileWork, Recycler, SECTOR_BYTES, SendMessage, Signal,
};
use crate::transitions::ReplicaWriter;
use crate::volume::SpacePromise;
use crate::write_job::{RunningWork, WriteJob, Writes};

const SECTOR: u64 = SECTOR_BYTES as u64;

/// A stream's turn on a volume that few may write to at a time.
struct Turn {
    _permit: OwnedSemaphorePermit,
    left_bytes: u64,
}

pub struct BlockSink {
    replica: Arc<Replica>,
    /// A spare file takes the place of the first one.
    data: RefCell<File>,
    meta: File,
    counters: Arc<Counters>,
    promise: Arc<SpacePromise>,
    /// Whether the data file still goes through the page cache.
    through_cache: Cell<bool>,
    /// Whether the files' names are on the device, as a first sync must see to.
    names_synced: Cell<bool>,
    /// Where the meta file has the checksum of a last partial chunk whose bytes may be durable.
    durable_chunk: Cell<Option<u64>>,
    state: RefCell<Gathering>,
    /// Tells the disk's task of jobs, and of a receiver that waits.
    work: Signal,
    /// Tells those who send acks of progress.
    pub progress: Rc<Signal>,
    /// Tells a receiver that wants to give its memory back of progress.
    drained: Signal,
    durable_end: Cell<u64>,
    jobs_done: Cell<u64>,
    receiver_waits: Cell<bool>,
    closing: Cell<bool>,
    busy: Cell<bool>,
    /// Used by every write to the meta file.
    meta_message: Cell<Option<Box<SendMessage>>>,
}

impl BlockSink {
    /// Continues the writer's replica; reads back a last partial sector.
    pub async fn open(
        writer: &ReplicaWriter,
        last_chunk_checksum: Option<u32>,
        size_hint: u64,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        if !writer.replica.volume().direct_io() {
            counters.unaligned_fallbacks.add(1);
        }
        let end = writer.start_len;
        let start = end / SECTOR * SECTOR;
        let mut pieces = VecDeque::new();
        if start < end {
            let sector = BufferMut::zeroed(SECTOR_BYTES);
            let (read, mut sector) = writer.data.read_at(sector, start).await;
            let failed = || format!("reading the end of {}", writer.replica.block());
            let len = (end - start) as usize;
            if read.map_err(DatanodeError::io(failed()))? < len {
                let short = io::ErrorKind::UnexpectedEof.into();
                return Err(DatanodeError::Io { what: failed(), source: short });
            }
            sector.truncate(len);
            pieces.push_back(sector.freeze());
        }
        let state = Gathering {
            pieces,
            start,
            end,
            submitted_end: end,
            gathers_since: None,
            slab_since: None,
            fills_slabs: true,
            is_short: false,
            packet_len: 0,
            meta: VecDeque::new(),
            spare_meta: Vec::new(),
            sectors: Recycler::new(SECTOR_BYTES, 2),
            checksum: writer.checksum,
            last_chunk_checksum,
            jobs: VecDeque::new(),
            next_job: 1,
            file_len: writer.file_len,
            allocate_to: size_hint,
            may_cache: writer.through_cache,
        };
        Ok(Self {
            replica: writer.replica.clone(),
            data: RefCell::new(writer.data.clone()),
            meta: writer.meta.clone(),
            counters,
            promise: writer.promise.clone(),
            through_cache: Cell::new(writer.through_cache),
            names_synced: Cell::new(false),
            durable_chunk: Cell::new(place_of_partial_chunk(end, &writer.checksum)),
            state: RefCell::new(state),
            work: Signal::default(),
            progress: Rc::default(),
            drained: Signal::default(),
            durable_end: Cell::new(end),
            jobs_done: Cell::new(0),
            receiver_waits: Cell::new(false),
            closing: Cell::new(false),
            busy: Cell::new(false),
            meta_message: Cell::default(),
        })
    }

    pub fn durable_end(&self) -> u64 {
        self.durable_end.get()
    }

    pub fn jobs_done(&self) -> u64 {
        self.jobs_done.get()
    }

    /// Tells the writer, who takes over again, of the data file.
    pub fn hand_over(&self, writer: &mut ReplicaWriter) {
        let state = self.state.borrow();
        writer.data = self.data();
        writer.file_len = state.file_len;
        if state.allocate_to == 0 {
            self.replica.volume().spare_files().note_block(self.durable_end.get(), state.file_len);
        }
    }

    fn data(&self) -> File {
        self.data.borrow().clone()
    }

    /// Takes data that follows what is there, with the checksums of the chunks it touches, which
    /// start at chunk `first_chunk`, and that of a last chunk that is not full.
    pub fn push(
        &self,
        fresh: impl Iterator<Item = Buffer>,
        checksums: Buffer,
        first_chunk: u64,
        last_chunk_checksum: Option<u32>,
    ) {
        let mut state = self.state.borrow_mut();
        let start = state.end;
        for piece in fresh {
            state.end += piece.len() as u64;
            match state.pieces.back_mut() {
                Some(last) => {
                    if let Err(piece) = last.try_join(piece) {
                        state.pieces.push_back(piece);
                    }
                }
                None => state.pieces.push_back(piece),
            }
        }
        state.last_chunk_checksum = last_chunk_checksum;
        state.push_checksums(checksums, META_HEADER_BYTES as u64 + first_chunk * 4);
        let fresh_len = state.end - start;
        state.note_packet(fresh_len);
        if state.submit_full_slabs() {
            self.work.set();
        }
    }

    /// Puts all data in a job, synced to the device if asked; returns the number of the job that
    /// must be done for it.
    pub fn flush(&self, sync: bool) -> u64 {
        let number = self.state.borrow_mut().flush(sync, &self.counters);
        self.work.set();
        number
    }

    /// Whether the receiver has nothing to do until bytes arrive: then an idle disk flushes.
    pub fn set_receiver_waits(&self, waits: bool) {
        self.receiver_waits.set(waits);
        if waits {
            self.work.set();
        }
    }

    /// Resolves when everything received is on disk.
    pub async fn drained(&self) {
        while !self.is_drained() {
            self.drained.changed().await;
        }
    }

    /// Whether everything received is on disk.
    pub fn is_drained(&self) -> bool {
        let state = self.state.borrow();
        !self.busy.get() && state.jobs.is_empty() && state.submitted_end == state.end
    }

    /// Copies the last partial sector out of its slab, so that an idle stream holds none.
    pub fn leave_slab(&self) {
        let mut state = self.state.borrow_mut();
        if let Some(tail) = state.pieces.pop_front() {
            self.counters.sector_bytes_copied.add(tail.len() as u64);
            state.pieces.push_back(Buffer::from(tail.to_vec()));
        }
    }

    /// Copies a last partial sector to the front of the slab that will take what follows it;
    /// returns the slab's rest.
    pub fn enter_slab(&self, mut slab: BufferMut) -> BufferMut {
        let mut state = self.state.borrow_mut();
        let Some(tail) = state.pieces.pop_front() else { return slab };
        debug_assert!(state.pieces.is_empty() && tail.len() < SECTOR_BYTES);
        let mut front = slab.split_to(tail.len());
        front.copy_from_slice(&tail);
        self.counters.sector_bytes_copied.add(tail.len() as u64);
        state.pieces.push_back(front.freeze());
        slab
    }

    /// No more jobs are started; [`BlockSink::run`] ends when those in flight have.
    pub fn close(&self) {
        self.closing.set(true);
        self.work.set();
    }

    /// Waits for this stream's turn to write, where the volume gives turns and there is something to
    /// write; whatever else happens ends the wait.
    async fn take_turn(&self, turn: &mut Option<Turn>) {
        let Some(turns) = self.replica.volume().turns() else { return };
        if turn.is_some() || !self.wants_to_write() {
            return;
        }
        let acquired = turns.clone().acquire_owned();
        if let Either::First(Ok(permit)) = ring::race(acquired, self.closed()).await {
            *turn = Some(Turn { _permit: permit, left_bytes: TURN_BYTES });
        }
    }

    /// Resolves when the sink is closed.
    async fn closed(&self) {
        while !self.closing.get() {
            self.work.changed().await;
        }
    }

    fn wants_to_write(&self) -> bool {
        let state = self.state.borrow();
        !state.jobs.is_empty() || (self.receiver_waits.get() && state.is_flush_due())
    }

    /// Carries jobs out until the sink is closed or a write fails; no write is in flight afterwards but
    /// those that were given up.
    pub async fn run(&self) -> Result<()> {
        let mut in_flight: VecDeque<(WriteJob, Writes)> = VecDeque::new();
        let mut failure = None;
        let mut turn = None;
        loop {
            if in_flight.is_empty() {
                turn = None;
            }
            if failure.is_none() && !self.closing.get() {
                self.take_turn(&mut turn).await;
            }
            if failure.is_none() && !self.closing.get() {
                let started = self.start_jobs(&mut in_flight, &mut turn).await;
                failure = started.err().map(|error| self.failed(error));
            }
            self.busy.set(!in_flight.is_empty());
            self.drained.set();
            let Some((_, writes)) = in_flight.front_mut() else {
                match failure {
                    Some(error) => return Err(error),
                    None if self.closing.get() => return Ok(()),
                    None => self.work_or_patience().await,
                }
                continue;
            };
            let Either::First(written) = ring::race(writes, self.work.changed()).await else {
                continue;
            };
            let (mut job, writes) = in_flight.pop_front().expect("its front has just completed");
            if failure.is_none() {
                let done = match written {
                    Ok(()) => {
                        let joined = self.join_done(&mut job, &mut in_flight).await;
                        self.finish(job).await.and(joined)
                    }
                    Err(error) => Err(error),
                };
                failure = done.err().map(|error| self.failed(error));
            }
            self.note_end(&writes);
        }
    }

    /// Adds to a job those behind it whose data is written as well, up to the first that failed: one
    /// write to the meta file does for all.
    async fn join_done(
        &self,
        job: &mut WriteJob,
        in_flight: &mut VecDeque<(WriteJob, Writes)>,
    ) -> io::Result<()> {
        while let Some((next, writes)) = in_flight.front_mut()
            && job.can_take(next)
        {
            let look =
                |context: &mut Context<'_>| Poll::Ready(Pin::new(&mut *writes).poll(context));
            let Poll::Ready(written) = poll_fn(look).await else { break };
            let (next, writes) = in_flight.pop_front().expect("its front has just completed");
            self.note_end(&writes);
            written?;
            self.state.borrow_mut().spare_meta.push(job.take(next));
        }
        Ok(())
    }

    fn note_end(&self, writes: &Writes) {
        let time = ring::now().saturating_duration_since(writes.begun);
        if self.replica.volume().health().write_ends(time) {
            self.counters.slow_writes.add(1);
        }
    }

    /// Resolves when there may be work for an idle disk.
    async fn work_or_patience(&self) {
        let gathers_since = self.state.borrow().gathers_since;
        match gathers_since.filter(|_| self.receiver_waits.get()) {
            Some(since) => {
                ring::race(self.work.changed(), ring::sleep_until(since + GATHER_PATIENCE)).await;
            }
            None => self.work.changed().await,
        }
    }

    async fn start_jobs(
        &self,
        in_flight: &mut VecDeque<(WriteJob, Writes)>,
        turn: &mut Option<Turn>,
    ) -> io::Result<()> {
        let takes_turns = self.replica.volume().turns().is_some();
        loop {
            if takes_turns && turn.as_ref().is_none_or(|turn| turn.left_bytes == 0) {
                return Ok(());
            }
            let next = self.next_job(in_flight);
            let Some(mut job) = next else { return Ok(()) };
            if let Some(turn) = turn {
                let bytes = job.writes.iter().map(|(data, _)| data.len() as u64).sum();
                turn.left_bytes = turn.left_bytes.saturating_sub(bytes);
            }
            let is_first = in_flight.is_empty() && self.durable_end.get() == 0;
            self.reach(&job, is_first).await?;
            if !job.is_cached && !job.writes.is_empty() {
                self.pass_by_cache()?;
            }
            self.replica.volume().health().write_begins();
            let writes = match job.is_cached {
                true => Writes::of_work(self.write_cached(&mut job)),
                false => {
                    let data = self.data.borrow();
                    let parts = job.writes.iter();
                    let writes =
                        parts.map(|(buffer, offset)| data.write_all_at(buffer.clone(), *offset));
                    Writes::new(writes.collect())
                }
            };
            in_flight.push_back((job, writes));
        }
    }

    /// Data and, where no sync must come between them, the checksums.
    fn write_cached(&self, job: &mut WriteJob) -> RunningWork {
        let mut work = FileWork::default();
        let mut message = SendMessage::new();
        job.writes.iter().for_each(|(data, _)| message.push(data.clone()));
        self.counters.bytes_written_cached.add(message.remaining() as u64);
        work.write(&self.data.borrow(), message, 0);
        let from = job.meta.first().map(|(_, offset)| *offset);
        if let Some(from) = from.filter(|_| !job.sync) {
            let mut message = SendMessage::new();
            job.meta.drain(..).for_each(|(checksums, _)| message.push(checksums));
            work.write(&self.meta, message, from);
        }
        let workers = self.replica.volume().workers().clone();
        Box::pin(
            async move { work.run(&workers).await.failure.map_or(Ok(()), |(_, error)| Err(error)) },
        )
    }

    fn pass_by_cache(&self) -> io::Result<()> {
        if self.through_cache.replace(false) && self.replica.volume().passes_by_cache() {
            self.data.borrow().set_direct()?;
        }
        Ok(())
    }

    fn next_job(&self, in_flight: &VecDeque<(WriteJob, Writes)>) -> Option<WriteJob> {
        let mut state = self.state.borrow_mut();
        let is_idle = state.jobs.is_empty() && in_flight.is_empty();
        if is_idle && self.receiver_waits.get() && state.is_flush_due() {
            state.flush(false, &self.counters);
        }
        let job = state.jobs.front()?;
        let begins_at = job.writes.first().map_or(u64::MAX, |(_, offset)| *offset);
        let overlaps = in_flight.iter().any(|(other, _)| {
            let ends_at = other.writes.last().map_or(0, |(data, at)| at + data.len() as u64);
            // One through the page cache must be done before the file passes it by.
            other.is_cached || begins_at < ends_at
        });
        if overlaps || in_flight.len() >= self.replica.volume().profile().writes_in_flight_max {
            return None;
        }
        state.jobs.pop_front()
    }

    /// Allocates the whole block at once when it outgrows its first slab: writes that extend a file
    /// one by one are slower. What `is_first`, with no byte in the file, may go to a spare one instead.
    /// That there is no room is for the write itself to say.
    async fn reach(&self, job: &WriteJob, is_first: bool) -> io::Result<()> {
        let Some((last, at)) = job.writes.last() else { return Ok(()) };
        let end = at + last.len() as u64;
        let allocate_to = {
            let mut state = self.state.borrow_mut();
            state.file_len = state.file_len.max(end);
            std::mem::take(&mut state.allocate_to)
        };
        if end < ring::SLAB_BYTES as u64 || end >= allocate_to {
            self.state.borrow_mut().allocate_to = allocate_to;
            return Ok(());
        }
        if !is_first || !self.move_to_spare_file(allocate_to).await? {
            match self.data().allocate(0, allocate_to).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                Err(_) => return Ok(()),
                Ok(()) => {}
            }
        }
        let mut state = self.state.borrow_mut();
        state.file_len = state.file_len.max(allocate_to);
        self.promise.taken(allocate_to);
        Ok(())
    }

    /// Puts a spare file of up to `len` bytes, which it gets, in the place of the empty data file;
    /// `false` if there is none. Who has the empty one open has nothing to read in it.
    async fn move_to_spare_file(&self, len: u64) -> io::Result<bool> {
        let volume = self.replica.volume();
        let Some(spare) = volume.spare_files().take(len) else { return Ok(false) };
        let mut work = FileWork::default();
        let number = work.open(&spare.path)?;
        work.allocate_created(number, len);
        work.rename(&spare.path, &self.replica.files().data)?;
        let mut done = work.run(volume.workers()).await;
        match done.failure.take() {
            None => {
                *self.data.borrow_mut() = done.created.swap_remove(number);
                // The one that a sync may have seen to is another file's.
                self.names_synced.set(false);
                self.counters.spare_files_used.add(1);
                Ok(true)
            }
            Some((_, error)) if error.kind() == io::ErrorKind::TimedOut => Err(error),
            Some((_, error)) => {
                debug!(path = %spare.path.display(), %error, "a spare file cannot be used");
                volume.spare_files().reject(spare);
                Ok(false)
            }
        }
    }

    async fn finish(&self, mut job: WriteJob) -> io::Result<()> {
        let mut message = self.meta_message.take().unwrap_or_else(SendMessage::new);
        let mut at = job.meta.first().map_or(0, |(_, offset)| *offset);
        let from = at;
        for (checksums, offset) in job.meta.drain(..) {
            debug_assert_eq!(at, offset);
            at += checksums.len() as u64;
            message.push(checksums);
        }
        let orders = !ringfs_protocol::mutant!("datanode: checksum before its data");
        let chunk_grows = orders
            && self.durable_chunk.get().is_some_and(|at_chunk| (from..at).contains(&at_chunk));
        let skips = ringfs_protocol::mutant!("datanode: skip the sync of data");
        if (job.sync || chunk_grows) && !skips {
            // Behind its data: should power fail between the two, a checksum that fits a part of its
            // chunk still proves the durable bytes there; one that covers more than there is does not.
            // So each time that the chunk grows, until a sync has its checksum durable too.
            let synced = self.data().sync_data().await;
            if !ringfs_protocol::mutant!("datanode: trust a failed sync") {
                synced.inspect_err(|_| self.replica.note_failed_write())?;
            }
        }
        if message.parts() > 0 {
            let written;
            (written, message) = self.meta.write_all_gathered_at(message, from).await;
            written?;
        }
        self.meta_message.set(Some(message));
        self.state.borrow_mut().spare_meta.push(job.meta);
        if job.sync {
            // Whatever it is that a sync finds wrong, ENOSPC included, concerns what was written.
            self.sync_meta().await.inspect_err(|_| self.replica.note_failed_write())?;
            let checksum = &self.state.borrow().checksum;
            self.durable_chunk.set(place_of_partial_chunk(job.on_disk.len, checksum));
        }
        self.replica.set_on_disk(job.on_disk);
        self.durable_end.set(job.on_disk.len);
        debug_assert!(self.durable_end.get() <= self.replica.bytes_received());
        self.jobs_done.set(job.number);
        self.progress.set();
        Ok(())
    }

    async fn sync_meta(&self) -> io::Result<()> {
        if !ringfs_protocol::mutant!("datanode: skip the sync of checksums") {
            self.meta.sync_data().await?;
        }
        let skips = ringfs_protocol::mutant!("datanode: skip the sync of names");
        if !self.names_synced.replace(true) && !skips {
            let replica = &self.replica;
            let dir = replica.volume().replica_dir(replica.original_state(), replica.id());
            ring::fs::sync_dir(&dir).await?;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> DatanodeError {
        let path = self.replica.files().data;
        let error = DatanodeError::Io { what: format!("writing {}", path.display()), source };
        self.replica.note_write_failure(&error);
        error
    }
}

fn place_of_partial_chunk(len: u64, checksum: &DataChecksum) -> Option<u64> {
    let chunk = u64::from(checksum.bytes_per_checksum);
    (!len.is_multiple_of(chunk)).then(|| META_HEADER_BYTES as u64 + len / chunk * 4)
}

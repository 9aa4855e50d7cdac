//! Finalized replicas that are being read, kept open: a small read costs less than opening two files.
//!
//! Each data thread has its own. A replica is found only as long as it is the same one, finalized,
//! with the generation stamp and length that it was opened with: append, recovery and deletion end
//! that. A file that is deleted keeps its disk space while it is open, so a task closes what was
//! deleted, or not read, soon after; it ends when nothing is open. The last close of a deleted file
//! frees its space, which takes milliseconds: a thread of its own waits for that.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ringfs_protocol::block::{GenerationStamp, ReplicaState};
use ringfs_protocol::checksum::DataChecksum;

use crate::error::{DatanodeError, Result};
use crate::limits::{OPEN_REPLICA_LIFE, OPEN_REPLICA_SWEEP, OPEN_REPLICAS_MAX};
use crate::replica::Replica;
use crate::replica_files::{close_elsewhere, open_reader, read_checksum};
use crate::ring;

/// The files of a replica, open for reading.
pub struct OpenReplica {
    pub replica: Arc<Replica>,
    /// With O_DIRECT, where the volume can.
    pub data: ring::File,
    pub meta: ring::File,
    pub checksum: DataChecksum,
    /// Finalized when it was opened, and so of this stamp and length as long as it is found.
    finalized: Option<(GenerationStamp, u64)>,
    buffered: OnceCell<ring::File>,
}

/// Those of one data thread.
#[derive(Default)]
struct Open(RefCell<Vec<Place>>);

struct Place {
    open: Rc<OpenReplica>,
    used: Instant,
}

/// Opens a replica, or finds it open.
pub async fn open(replica: &Arc<Replica>) -> Result<Rc<OpenReplica>> {
    if let Some(open) = find(replica) {
        return Ok(open);
    }
    let before = finalized(replica);
    let (data, meta, meta_path) = open_reader(replica, replica.volume().direct_io()).await?;
    let checksum = read_checksum(&meta, &meta_path).await?;
    let opened = Rc::new(OpenReplica {
        replica: replica.clone(),
        data,
        meta,
        checksum,
        finalized: before.filter(|_| finalized(replica) == before),
        buffered: OnceCell::new(),
    });
    if opened.finalized.is_some() {
        keep(opened.clone());
    }
    Ok(opened)
}

impl OpenReplica {
    /// The length of a replica that nobody writes to.
    pub fn finalized_len(&self) -> Option<u64> {
        self.finalized.map(|(_, len)| len)
    }

    /// The data file through the page cache.
    pub async fn buffered(&self) -> Result<&ring::File> {
        if !self.replica.volume().direct_io() {
            return Ok(&self.data);
        }
        if let Some(file) = self.buffered.get() {
            return Ok(file);
        }
        let path = self.data.own_path();
        let options = ring::OpenOptions { read: true, ..Default::default() };
        let file = ring::File::open(&path, options).await.map_err(DatanodeError::io(format!(
            "opening {} through the page cache",
            self.replica.files().data.display()
        )))?;
        Ok(self.buffered.get_or_init(|| file))
    }

    fn is_current(&self) -> bool {
        finalized(&self.replica) == self.finalized && !self.replica.is_deleted()
    }
}

fn finalized(replica: &Replica) -> Option<(GenerationStamp, u64)> {
    let block = replica.block();
    (replica.state() == ReplicaState::Finalized)
        .then_some((block.generation_stamp, block.num_bytes))
}

fn find(replica: &Arc<Replica>) -> Option<Rc<OpenReplica>> {
    let open = ring::shared::<Open>();
    let mut places = open.0.borrow_mut();
    let place = places.iter_mut().find(|place| Arc::ptr_eq(&place.open.replica, replica))?;
    place.used = ring::now();
    place.open.is_current().then(|| place.open.clone())
}

fn keep(open: Rc<OpenReplica>) {
    let place = Place { open, used: ring::now() };
    let all = ring::shared::<Open>();
    let mut places = all.0.borrow_mut();
    let is_first = places.is_empty();
    places.retain(|other| !Arc::ptr_eq(&other.open.replica, &place.open.replica));
    if places.len() >= OPEN_REPLICAS_MAX
        && let Some((oldest, _)) = places.iter().enumerate().min_by_key(|(_, place)| place.used)
    {
        close(vec![places.swap_remove(oldest).open]);
    }
    places.push(place);
    drop(places);
    if is_first {
        drop(ring::spawn(sweep(all)));
    }
}

async fn sweep(all: Rc<Open>) {
    let all = CloseAll(all);
    while !all.0.0.borrow().is_empty() {
        ring::sleep(OPEN_REPLICA_SWEEP).await;
        let now = ring::now();
        let is_over = |place: &mut Place| {
            !place.open.is_current() || now.duration_since(place.used) >= OPEN_REPLICA_LIFE
        };
        let over: Vec<Place> = all.0.0.borrow_mut().extract_if(.., is_over).collect();
        close(over.into_iter().map(|place| place.open).collect());
    }
}

/// Closes what is open at the end of the executor's tasks.
struct CloseAll(Rc<Open>);

impl Drop for CloseAll {
    fn drop(&mut self) {
        drop(self.0.0.take());
    }
}

fn close(replicas: Vec<Rc<OpenReplica>>) {
    let is_slow_to_close = |open: &Rc<OpenReplica>| open.replica.is_deleted();
    let files = replicas
        .into_iter()
        .filter(is_slow_to_close)
        .filter_map(Rc::into_inner)
        .flat_map(|open| [Some(open.data), Some(open.meta), open.buffered.into_inner()]);
    close_elsewhere(files.flatten());
}

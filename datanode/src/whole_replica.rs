//! A replica whose bytes are all in memory before it exists: from nothing to FINALIZED by one piece of
//! work of the volume's threads, through the page cache.
//!
//! In the order of its steps, so that a crash leaves what a start knows: nothing, a replica in `rbw/`
//! that is as long as its checksums prove, or one with its meta file moved, or all of it. Until the work
//! is done the replica is RBW without a byte and its transition held: nobody else touches the files.
//! What fails leaves nothing, for nobody has been told of it.

use std::io;
use std::sync::Arc;

use ringfs_protocol::block::{Block, ReplicaState};
use ringfs_protocol::meta_file::encode_meta_header;

use crate::block_reports::BlockChange;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::replica::{Replica, ReplicaEvent};
use crate::replica_files::move_meta_first;
use crate::ring::{self, Buffer, FileWork, SendMessage};
use crate::transitions::CreateReplica;

/// Steps of the work before the files are moved: two to create, two to write.
const STEPS_BEFORE_MOVES: usize = 4;

/// What a whole replica's files hold.
pub struct WholeReplica {
    pub data: Vec<Buffer>,
    /// Of all chunks, in order.
    pub checksums: Vec<Buffer>,
}

impl Dataset {
    /// A new replica, FINALIZED with this content, `create.block.num_bytes` long. Not synced to the device,
    /// nor is the namenode told of it: that is for [`Dataset::tell_received`].
    pub async fn create_whole(
        &self,
        create: CreateReplica,
        content: WholeReplica,
    ) -> Result<Arc<Replica>> {
        self.require_pool(&create.block.pool_id)?;
        let block = create.block.block;
        let (volume, _promise) =
            self.choose_volume(block, create.storage_type, create.storage_id.as_deref())?;
        let empty = Block { num_bytes: 0, ..block };
        let replica = Arc::new(Replica::new(volume, empty, ReplicaState::Rbw, None));
        let held = replica.transition.lock().await;
        self.insert_new(&replica, &create.block, false).await?;
        if let Err(error) = store(&replica, &create, content).await {
            replica.note_write_failure(&error);
            // What is there of it goes; a failure to remove it adds nothing to the first one.
            let _ = self.discard(&replica, &held).await;
            return Err(error);
        }
        let (len, stamp) = (block.num_bytes, block.generation_stamp);
        self.settle_untold(&replica, ReplicaEvent::Finalize, stamp, len)?;
        drop(held);
        Ok(replica)
    }

    /// RECEIVED is queued for a replica that [`Dataset::create_whole`] made.
    pub fn tell_received(&self, replica: &Replica) {
        self.tell(replica, replica.block(), BlockChange::RECEIVED);
    }

    /// Takes back a replica that [`Dataset::create_whole`] made and that nobody was told of.
    pub async fn take_back(&self, replica: &Arc<Replica>) -> Result<()> {
        let held = self.hold_in_time(replica).await?;
        match replica.is_deleted() {
            true => Ok(()),
            false => self.discard(replica, &held).await,
        }
    }
}

async fn store(replica: &Replica, create: &CreateReplica, content: WholeReplica) -> Result<()> {
    let from = replica.files();
    let to = replica.files_of(ReplicaState::Finalized, create.block.block.generation_stamp);
    let failed = |source: io::Error| DatanodeError::Io {
        what: format!("writing {} at once", from.data.display()),
        source,
    };
    let (mut data, mut meta) = (SendMessage::new(), SendMessage::new());
    content.data.into_iter().for_each(|piece| data.push(piece));
    meta.push(encode_meta_header(create.checksum).to_vec().into());
    content.checksums.into_iter().for_each(|piece| meta.push(piece));
    let mut work = FileWork::default();
    let data_file = work.create(&from.data).map_err(failed)?;
    let meta_file = work.create(&from.meta).map_err(failed)?;
    work.write_created(data_file, data, 0);
    work.write_created(meta_file, meta, 0);
    work.rename(&from.meta, &to.meta).map_err(failed)?;
    work.rename(&from.data, &to.data).map_err(failed)?;
    let volume = replica.volume();
    let begun = ring::now();
    volume.health().write_begins();
    let done = work.run(volume.workers()).await;
    if volume.health().write_ends(ring::now().saturating_duration_since(begun)) {
        ring::counters().slow_writes.add(1);
    }
    match done.failure {
        None => Ok(()),
        // The directory is not there yet.
        Some((step, error))
            if step == STEPS_BEFORE_MOVES && error.kind() == io::ErrorKind::NotFound =>
        {
            move_meta_first(&from, &to).await
        }
        Some((_, error)) => Err(failed(error)),
    }
}

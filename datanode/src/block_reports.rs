//! What the namenode is told of replicas between full reports: the queue of changes (received, being
//! received, deleted) and of corrupt replicas.
//!
//! The queue holds the latest change of each block, so it is bounded by the blocks of this node.
//! RECEIVED wakes the sender at once, for a writer's `complete` waits for the first one, and who appends
//! next should be told of all; DELETED is gathered for [`DELETED_GATHER_TIME`]; RECEIVING goes along with
//! the next message. What could not be sent goes back, unless something newer was queued meanwhile.
//!
//! What is corrupt stays known until the replica changes or goes: a namenode that restarts has
//! forgotten it, and would count on it again.

use std::time::Duration;

use parking_lot::Mutex;
use ringfs_protocol::block::{Block, BlockId};
use ringfs_protocol::collections::HashMap;
use ringfs_protocol::messages::{
    BlockStatus, DatanodeStorageProto, ReceivedDeletedBlockInfoProto,
    StorageReceivedDeletedBlocksProto,
};
use tokio::sync::Notify;

/// A volume is freed of some 10 blocks in this time: one message for all of them.
pub const DELETED_GATHER_TIME: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockChange {
    Receiving,
    /// With the datanode whose replica may go instead, when a balancer moved the block.
    Received {
        delete_hint: Option<String>,
    },
    Deleted,
}

impl BlockChange {
    pub const RECEIVED: Self = Self::Received { delete_hint: None };

    fn urgency(&self) -> Urgency {
        match self {
            Self::Receiving => Urgency::Whenever,
            Self::Deleted => Urgency::Deleted,
            Self::Received { .. } => Urgency::AtOnce,
        }
    }
}

/// How soon what is queued should be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// With the next heartbeat.
    #[default]
    Whenever,
    /// After [`DELETED_GATHER_TIME`].
    Deleted,
    AtOnce,
}

/// The queued changes of one storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageChanges {
    pub storage_id: String,
    pub changes: Vec<(Block, BlockChange)>,
}

#[derive(Debug, Default)]
pub struct ReportQueue {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    storages: HashMap<String, HashMap<BlockId, (Block, BlockChange)>>,
    /// Replicas found corrupt, by the storage that holds them.
    bad: HashMap<BlockId, (String, Block)>,
    /// All that was found corrupt and is still there.
    corrupt: HashMap<BlockId, (String, Block)>,
    urgency: Urgency,
}

impl ReportQueue {
    pub fn push(&self, storage_id: &str, block: Block, change: BlockChange) {
        let mut pending = self.pending.lock();
        let urgency = change.urgency();
        let wakes = urgency > pending.urgency;
        pending.urgency = pending.urgency.max(urgency);
        pending.corrupt.remove(&block.id);
        match pending.storages.get_mut(storage_id) {
            Some(storage) => storage.insert(block.id, (block, change)),
            None => pending
                .storages
                .entry(storage_id.to_owned())
                .or_default()
                .insert(block.id, (block, change)),
        };
        drop(pending);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// A replica whose bytes do not match its checksums.
    pub fn push_bad(&self, storage_id: &str, block: Block) {
        let mut pending = self.pending.lock();
        pending.bad.insert(block.id, (storage_id.to_owned(), block));
        pending.corrupt.insert(block.id, (storage_id.to_owned(), block));
        pending.urgency = Urgency::AtOnce;
        drop(pending);
        self.wake.notify_one();
    }

    /// Whether the replica was found corrupt and has not changed since.
    pub fn is_corrupt(&self, block: &Block) -> bool {
        self.pending.lock().corrupt.get(&block.id).is_some_and(|(_, corrupt)| corrupt == block)
    }

    /// Queues all corrupt replicas once more, for a namenode that may know nothing of them.
    pub fn repeat_bad(&self) {
        let mut pending = self.pending.lock();
        let Pending { bad, corrupt, .. } = &mut *pending;
        bad.extend(corrupt.iter().map(|(id, replica)| (*id, replica.clone())));
    }

    pub fn take_bad(&self) -> Vec<(String, Block)> {
        std::mem::take(&mut self.pending.lock().bad).into_values().collect()
    }

    pub fn put_back_bad(&self, bad: Vec<(String, Block)>) {
        let mut pending = self.pending.lock();
        pending.bad.extend(bad.into_iter().map(|bad| (bad.1.id, bad)));
    }

    /// Everything queued but bad replicas, to be sent.
    pub fn take(&self) -> Vec<StorageChanges> {
        let mut pending = self.pending.lock();
        pending.urgency = Urgency::Whenever;
        std::mem::take(&mut pending.storages)
            .into_iter()
            .map(|(storage_id, changes)| StorageChanges {
                storage_id,
                changes: changes.into_values().collect(),
            })
            .collect()
    }

    /// What was taken and could not be sent.
    pub fn put_back(&self, storages: Vec<StorageChanges>) {
        let mut pending = self.pending.lock();
        for StorageChanges { storage_id, changes } in storages {
            let storage = pending.storages.entry(storage_id).or_default();
            for (block, change) in changes {
                storage.entry(block.id).or_insert((block, change));
            }
        }
    }

    /// Resolves when something queued should be sent before the next heartbeat.
    pub async fn due(&self) {
        loop {
            let urgency = self.pending.lock().urgency;
            let gather_time = match urgency {
                Urgency::AtOnce => return,
                Urgency::Deleted => DELETED_GATHER_TIME,
                Urgency::Whenever => Duration::MAX,
            };
            // What is more urgent cuts this short.
            if tokio::time::timeout(gather_time, self.exceeds(urgency)).await.is_err() {
                return;
            }
        }
    }

    async fn exceeds(&self, urgency: Urgency) {
        while self.pending.lock().urgency <= urgency {
            self.wake.notified().await;
        }
    }

    #[cfg(test)]
    pub fn pending_count(&self) -> usize {
        self.pending.lock().storages.values().map(HashMap::len).sum()
    }
}

impl StorageChanges {
    pub fn to_proto(&self, storage: DatanodeStorageProto) -> StorageReceivedDeletedBlocksProto {
        let blocks = self.changes.iter().map(|(block, change)| {
            let (status, delete_hint) = match change {
                BlockChange::Receiving => (BlockStatus::Receiving, None),
                BlockChange::Received { delete_hint } => {
                    (BlockStatus::Received, delete_hint.clone())
                }
                BlockChange::Deleted => (BlockStatus::Deleted, None),
            };
            ReceivedDeletedBlockInfoProto {
                block: (*block).into(),
                delete_hint,
                status: status as i32,
            }
        });
        StorageReceivedDeletedBlocksProto {
            storage_uuid: self.storage_id.clone(),
            blocks: blocks.collect(),
            storage: Some(storage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfs_protocol::block::GenerationStamp;

    fn block(id: u64, stamp: u64, len: u64) -> Block {
        Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), num_bytes: len }
    }

    #[test]
    fn the_latest_change_of_a_block_is_what_is_sent() {
        let queue = ReportQueue::default();
        queue.push("DS-1", block(1, 1001, 0), BlockChange::Receiving);
        queue.push("DS-1", block(1, 1001, 9), BlockChange::RECEIVED);
        queue.push("DS-2", block(2, 1001, 9), BlockChange::Deleted);
        let mut taken = queue.take();
        taken.sort_by(|a, b| a.storage_id.cmp(&b.storage_id));
        assert_eq!(taken[0].changes, [(block(1, 1001, 9), BlockChange::RECEIVED)]);
        assert_eq!(queue.pending_count(), 0);

        // While the message is lost, the block changes again: the newer change stays.
        queue.push("DS-1", block(1, 1001, 9), BlockChange::Deleted);
        queue.put_back(taken);
        let mut taken = queue.take();
        taken.sort_by(|a, b| a.storage_id.cmp(&b.storage_id));
        assert_eq!(taken[0].changes, [(block(1, 1001, 9), BlockChange::Deleted)]);
        assert_eq!(taken[1].changes, [(block(2, 1001, 9), BlockChange::Deleted)]);
    }

    #[test]
    fn a_corrupt_replica_is_told_of_again_until_it_changes() {
        let queue = ReportQueue::default();
        queue.push_bad("DS-1", block(1, 1001, 9));
        queue.push_bad("DS-1", block(2, 1001, 9));
        assert_eq!(queue.take_bad().len(), 2);
        assert!(queue.take_bad().is_empty());
        queue.push("DS-1", block(2, 1001, 9), BlockChange::Deleted);
        queue.repeat_bad();
        assert_eq!(queue.take_bad(), [("DS-1".to_owned(), block(1, 1001, 9))]);
        queue.push("DS-1", block(1, 1002, 9), BlockChange::Receiving);
        queue.repeat_bad();
        assert!(queue.take_bad().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn received_is_due_at_once_deleted_soon_receiving_never() {
        let queue = ReportQueue::default();
        let within = async |millis| {
            tokio::time::timeout(Duration::from_millis(millis), queue.due()).await.is_ok()
        };
        queue.push("DS-1", block(1, 1001, 0), BlockChange::Receiving);
        assert!(!within(10_000).await);
        queue.push("DS-1", block(2, 1001, 0), BlockChange::Deleted);
        assert!(!within(100).await);
        assert!(within(250).await);
        queue.push("DS-1", block(1, 1001, 0), BlockChange::RECEIVED);
        assert!(within(1).await);
    }
}

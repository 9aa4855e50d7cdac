//! What the namenode is told about replicas: full reports in both encodings, and the queue of
//! changes (received, being received, deleted) in between.
//!
//! The queue holds the latest change of each block, so it is bounded by the blocks of this node.
//! RECEIVED wakes the sender at once, for a writer's `complete` waits for it; DELETED is gathered for
//! [`DELETED_GATHER_TIME`]; RECEIVING goes along with the next message. What could not be sent goes
//! back, unless something newer was queued meanwhile.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use ringfs_protocol::block::{Block, BlockId, ReplicaState};
use ringfs_protocol::messages::{
    BlockStatus, DatanodeStorageProto, ReceivedDeletedBlockInfoProto,
    StorageReceivedDeletedBlocksProto,
};
use tokio::sync::Notify;

/// A volume is freed of some 10 blocks in this time: one message for all of them.
pub const DELETED_GATHER_TIME: Duration = Duration::from_millis(200);

/// Java's reader takes a report in pieces of this size; a varint may span two.
const BUFFER_BYTES: usize = 64 << 10;

const LENGTH_BITS: u32 = 48;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockChange {
    Receiving,
    /// With the datanode whose replica may go instead, when a balancer moved the block.
    Received {
        delete_hint: Option<String>,
    },
    Deleted,
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
    urgent: bool,
    gathering: bool,
}

impl ReportQueue {
    pub fn push(&self, storage_id: &str, block: Block, change: BlockChange) {
        let mut pending = self.pending.lock();
        match change {
            BlockChange::Received { .. } => pending.urgent = true,
            BlockChange::Deleted => pending.gathering = true,
            BlockChange::Receiving => {}
        }
        let wakes = change != BlockChange::Receiving;
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
        pending.urgent = true;
        drop(pending);
        self.wake.notify_one();
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
        pending.urgent = false;
        pending.gathering = false;
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
            let (urgent, gathering) = {
                let pending = self.pending.lock();
                (pending.urgent, pending.gathering)
            };
            if urgent {
                return;
            }
            if gathering {
                // A RECEIVED that arrives meanwhile cuts this short.
                let gathered = tokio::time::timeout(DELETED_GATHER_TIME, self.urgent()).await;
                drop(gathered);
                return;
            }
            self.wake.notified().await;
        }
    }

    async fn urgent(&self) {
        while !self.pending.lock().urgent {
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

/// A replica as a full report lists it.
pub type ReportedReplica = (Block, ReplicaState);

/// `blocksBuffers`: per replica id (zig-zag), length, generation stamp and state as varints, cut in
/// buffers of 64 KiB. Empty for an empty storage.
pub fn encode_buffers(replicas: &[ReportedReplica]) -> Vec<Vec<u8>> {
    let mut buffers = Vec::new();
    let mut buffer = Vec::with_capacity(BUFFER_BYTES.min(replicas.len() * 12));
    for (block, state) in replicas {
        let id = block.id.0 as i64;
        let zigzag = ((id << 1) ^ (id >> 63)) as u64;
        let len = block.num_bytes & ((1 << LENGTH_BITS) - 1);
        for value in [zigzag, len, block.generation_stamp.0, state_number(*state)] {
            prost::encoding::encode_varint(value, &mut buffer);
        }
        if buffer.len() >= BUFFER_BYTES {
            let rest = buffer.split_off(BUFFER_BYTES);
            buffers.push(std::mem::replace(&mut buffer, rest));
        }
    }
    if !buffer.is_empty() {
        buffers.push(buffer);
    }
    buffers
}

/// The encoding for namenodes without STORAGE_BLOCK_REPORT_BUFFERS: counts, finalized replicas in
/// threes, a delimiter of three -1, the others in fours.
pub fn encode_longs(replicas: &[ReportedReplica]) -> Vec<u64> {
    let (finalized, open): (Vec<_>, Vec<_>) =
        replicas.iter().partition(|(_, state)| *state == ReplicaState::Finalized);
    let mut longs = Vec::with_capacity(5 + 3 * finalized.len() + 4 * open.len());
    longs.extend([finalized.len() as u64, open.len() as u64]);
    for (block, _) in finalized {
        longs.extend([block.id.0, block.num_bytes, block.generation_stamp.0]);
    }
    longs.extend([u64::MAX; 3]);
    for (block, state) in open {
        let number = state_number(state);
        longs.extend([block.id.0, block.num_bytes, block.generation_stamp.0, number]);
    }
    longs
}

fn state_number(state: ReplicaState) -> u64 {
    match state {
        ReplicaState::Finalized => 0,
        ReplicaState::Rbw => 1,
        ReplicaState::Rwr => 2,
        ReplicaState::Rur => 3,
        ReplicaState::Temporary => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfs_protocol::block::GenerationStamp;

    fn block(id: u64, stamp: u64, len: u64) -> Block {
        Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), num_bytes: len }
    }

    fn received() -> BlockChange {
        BlockChange::Received { delete_hint: None }
    }

    #[test]
    fn buffers_have_the_bytes_that_java_reads() {
        let replicas = [
            (block(1_073_741_825, 1001, 134_217_728), ReplicaState::Finalized),
            (block(-2_i64 as u64, 1, 0), ReplicaState::Rwr),
        ];
        let expected: Vec<u8> = [
            &[0x82, 0x80, 0x80, 0x80, 0x08][..], // 2 * 1073741825
            &[0x80, 0x80, 0x80, 0x40],           // 134217728
            &[0xe9, 0x07, 0x00],                 // 1001, FINALIZED
            &[0x03, 0x00, 0x01, 0x02],           // -2, 0, 1, RWR
        ]
        .concat();
        assert_eq!(encode_buffers(&replicas), [expected]);
        assert!(encode_buffers(&[]).is_empty());
    }

    #[test]
    fn a_long_report_is_cut_in_buffers_of_64_kib() {
        let replicas: Vec<_> = (0..20_000)
            .map(|i| (block(1 << 30 | i, 1000 + i, 1 << 27), ReplicaState::Finalized))
            .collect();
        let buffers = encode_buffers(&replicas);
        assert!(buffers.len() > 1);
        let (last, full) = buffers.split_last().unwrap();
        assert!(full.iter().all(|buffer| buffer.len() == BUFFER_BYTES));
        assert!(last.len() <= BUFFER_BYTES);
        let bytes = buffers.concat();
        let mut rest = &bytes[..];
        for (block, _) in &replicas {
            let mut next = || prost::encoding::decode_varint(&mut rest).unwrap();
            assert_eq!(next() >> 1, block.id.0);
            assert_eq!(next(), block.num_bytes);
            assert_eq!(next(), block.generation_stamp.0);
            assert_eq!(next(), 0);
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn longs_list_open_replicas_behind_the_delimiter() {
        let replicas =
            [(block(7, 1001, 5), ReplicaState::Rbw), (block(8, 1002, 6), ReplicaState::Finalized)];
        let end = u64::MAX;
        assert_eq!(encode_longs(&replicas), [1, 1, 8, 6, 1002, end, end, end, 7, 5, 1001, 1]);
    }

    #[test]
    fn the_latest_change_of_a_block_is_what_is_sent() {
        let queue = ReportQueue::default();
        queue.push("DS-1", block(1, 1001, 0), BlockChange::Receiving);
        queue.push("DS-1", block(1, 1001, 9), received());
        queue.push("DS-2", block(2, 1001, 9), BlockChange::Deleted);
        let mut taken = queue.take();
        taken.sort_by(|a, b| a.storage_id.cmp(&b.storage_id));
        assert_eq!(taken[0].changes, [(block(1, 1001, 9), received())]);
        assert_eq!(queue.pending_count(), 0);

        // While the message is lost, the block changes again: the newer change stays.
        queue.push("DS-1", block(1, 1001, 9), BlockChange::Deleted);
        queue.put_back(taken);
        let mut taken = queue.take();
        taken.sort_by(|a, b| a.storage_id.cmp(&b.storage_id));
        assert_eq!(taken[0].changes, [(block(1, 1001, 9), BlockChange::Deleted)]);
        assert_eq!(taken[1].changes, [(block(2, 1001, 9), BlockChange::Deleted)]);
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
        queue.push("DS-1", block(1, 1001, 0), received());
        assert!(within(1).await);
    }
}

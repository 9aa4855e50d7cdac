//! What one datanode's incremental reports said of late.
//!
//! A full report is a picture taken some time after its lease was granted, and may be processed
//! later than changes that came after the picture. So an incremental change since the grant
//! outweighs the full report; and a replica just reported deleted does not come back by a report
//! that was delayed or repeated. Changes are remembered for one lease's life at least, and for two
//! at most.

use ringfs_protocol::block::{BlockId, GenerationStamp};
use ringfs_protocol::collections::HashMap;

use crate::datanodes::StorageIndex;
use crate::limits::BLOCK_REPORT_LEASE_MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub at_ms: u64,
    pub storage: StorageIndex,
    /// Of the replica that was deleted; `None` when it was received.
    pub deleted: Option<GenerationStamp>,
}

#[derive(Debug, Default)]
pub(crate) struct RecentChanges {
    young: HashMap<BlockId, Change>,
    old: HashMap<BlockId, Change>,
    young_since_ms: u64,
}

impl RecentChanges {
    pub fn record(&mut self, id: BlockId, change: Change) {
        self.expire(change.at_ms);
        self.young.insert(id, change);
    }

    pub fn expire(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.young_since_ms) >= BLOCK_REPORT_LEASE_MS {
            self.old = std::mem::take(&mut self.young);
            self.young_since_ms = now_ms;
        }
    }

    fn get(&self, id: BlockId) -> Option<&Change> {
        self.young.get(&id).or_else(|| self.old.get(&id))
    }

    /// Whether a full report made after `since_ms` may be older than what is known.
    pub fn outweighs_report(&self, id: BlockId, storage: StorageIndex, since_ms: u64) -> bool {
        self.get(id).is_some_and(|change| change.storage == storage && change.at_ms >= since_ms)
    }

    /// Whether a replica of `id` as new as `generation_stamp` was reported deleted last.
    pub fn was_deleted(&self, id: BlockId, generation_stamp: GenerationStamp) -> bool {
        let deleted = self.get(id).and_then(|change| change.deleted);
        deleted.is_some_and(|deleted| deleted >= generation_stamp)
    }
}

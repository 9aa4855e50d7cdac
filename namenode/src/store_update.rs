//! What an operation changes in the store, and how it sees its own changes.

use std::ops::Bound;

use prost::Message;
use ringfs_protocol::block::{BlockId, GenerationStamp};

use crate::error::Result;
use crate::journal::Changes;
use crate::overlay::{Overlay, Snapshot, View};
use crate::schema::{
    BlockPhase, BlockRecord, Counter, FileBlock, InodeId, InodeRecord, Space, decode, entry_key,
    file_block_key, lease_key, u64_key,
};

/// The state as a batch has made it so far. An operation sees what its predecessors did.
pub struct Update {
    pub(crate) state: Snapshot,
    pub(crate) changes: Changes,
    pub(crate) after_commit: Vec<Action>,
}

pub(crate) type Action = Box<dyn FnOnce() + Send>;

/// What an operation that fails is taken back to.
pub(crate) struct Before {
    overlay: Overlay,
    changes_bytes: usize,
    actions: usize,
}

impl View for Update {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.state.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.state.scan(space, start, end, max)
    }
}

impl Update {
    pub(crate) fn new(state: Snapshot) -> Self {
        Self { state, changes: Changes::default(), after_commit: Vec::new() }
    }

    pub(crate) fn before(&self) -> Before {
        Before {
            overlay: self.state.overlay.clone(),
            changes_bytes: self.changes.len(),
            actions: self.after_commit.len(),
        }
    }

    pub(crate) fn take_back(&mut self, before: Before) {
        self.state.overlay = before.overlay;
        self.changes.truncate(before.changes_bytes);
        self.after_commit.truncate(before.actions);
    }

    /// Returns the value that the key had.
    pub fn put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        let old = self.get(space, key)?;
        self.set(space, key, Some(value));
        Ok(old)
    }

    pub fn remove(&mut self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let old = self.get(space, key)?;
        if old.is_some() {
            self.set(space, key, None);
        }
        Ok(old)
    }

    fn set(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        self.state.overlay.set(space, key, value);
        self.changes.push(space, key, value);
    }

    /// Runs `action` once the batch is durable, before any reply of it is sent; not at all when the
    /// operation or the batch fails. It runs on the writer, so it must be short.
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
}

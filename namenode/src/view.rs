//! Reading the metadata store, by what it holds: from a snapshot or inside an operation.

use std::ops::Bound;

use ringfs_protocol::block::BlockId;

use crate::error::Result;
use crate::schema::{
    Counter, FileBlock, Inode, InodeId, Space, decode, decode_u64, entry_key, entry_name,
    file_block_key, lease_prefix, prefix_end, split_lease_key, u64_key,
};

/// Reading, from a snapshot or inside an operation.
pub trait View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The first `max` pairs between two bounds, in key order.
    fn scan(
        &self,
        space: Space,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    fn scan_prefix(
        &self,
        space: Space,
        prefix: &[u8],
        max: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let end = prefix_end(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.scan(space, Bound::Included(prefix), end, max)
    }

    fn counter(&self, counter: Counter) -> Result<u64> {
        match self.get(Space::Counters, counter.key())? {
            Some(value) => decode_u64(Space::Counters, &value),
            None => Ok(0),
        }
    }

    fn inode(&self, id: InodeId) -> Result<Option<Inode>> {
        let Some(value) = self.get(Space::Inodes, &u64_key(id))? else { return Ok(None) };
        Ok(Some(Inode { id, record: decode(Space::Inodes, &value)? }))
    }

    fn child(&self, directory: InodeId, name: &[u8]) -> Result<Option<InodeId>> {
        match self.get(Space::Entries, &entry_key(directory, name))? {
            Some(value) => decode_u64(Space::Entries, &value).map(Some),
            None => Ok(None),
        }
    }

    /// Names and inodes of a directory strictly after a name, in listing order.
    fn children(
        &self,
        directory: InodeId,
        after: &[u8],
        max: usize,
    ) -> Result<Vec<(Vec<u8>, InodeId)>> {
        let start = entry_key(directory, after);
        let end = prefix_end(&u64_key(directory));
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let pairs = self.scan(Space::Entries, Bound::Excluded(&start), end, max)?;
        pairs
            .into_iter()
            .map(|(key, value)| Ok((entry_name(&key), decode_u64(Space::Entries, &value)?)))
            .collect()
    }

    fn block(&self, id: BlockId) -> Result<Option<FileBlock>> {
        let Some(value) = self.get(Space::Blocks, &u64_key(id.0))? else { return Ok(None) };
        Ok(Some(FileBlock { id, record: decode(Space::Blocks, &value)? }))
    }

    /// Block `index` of a file.
    fn file_block(&self, inode: InodeId, index: u32) -> Result<Option<FileBlock>> {
        match self.get(Space::FileBlocks, &file_block_key(inode, index))? {
            Some(value) => self.block(BlockId(decode_u64(Space::FileBlocks, &value)?)),
            None => Ok(None),
        }
    }

    /// The blocks of a file in order.
    fn file_blocks(&self, inode: InodeId) -> Result<Vec<FileBlock>> {
        let mut blocks = Vec::new();
        for (_, value) in self.scan_prefix(Space::FileBlocks, &u64_key(inode), usize::MAX)? {
            blocks.extend(self.block(BlockId(decode_u64(Space::FileBlocks, &value)?))?);
        }
        Ok(blocks)
    }

    /// Up to `max` files open under `holder`.
    fn leased_files(&self, holder: &str, max: usize) -> Result<Vec<InodeId>> {
        let pairs = self.scan_prefix(Space::Leases, &lease_prefix(holder), max)?;
        Ok(pairs.iter().filter_map(|(key, _)| Some(split_lease_key(key)?.1)).collect())
    }
}

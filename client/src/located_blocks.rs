//! The blocks of a file that is read: which one holds a byte, and where its replicas are.
//!
//! Locations are fetched for some blocks at a time, and anew when replicas fail. A file may be
//! deleted and written again meanwhile: other blocks at the same offsets mean that it changed.

use std::sync::Arc;

use ringfs_protocol::messages::LocatedBlockProto;

use crate::ClientError;

#[derive(Debug)]
pub(crate) struct LocatedBlocks {
    path: String,
    len: u64,
    /// By offset; blocks not located yet are missing.
    blocks: Vec<Arc<LocatedBlockProto>>,
}

/// Part of one block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BlockRange {
    pub block: Arc<LocatedBlockProto>,
    pub offset_in_block: u64,
    pub len: u64,
}

impl LocatedBlocks {
    pub fn new(path: &str, len: u64) -> Self {
        Self { path: path.to_owned(), len, blocks: Vec::new() }
    }

    /// Length of the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The part of the block at `offset` that lies within `len` bytes; `None` when the block is not
    /// located. `offset` is within the file.
    pub fn range(&self, offset: u64, len: u64) -> Option<BlockRange> {
        let index = self.blocks.partition_point(|block| end(block) <= offset);
        let block = self.blocks.get(index).filter(|block| block.offset <= offset)?;
        let until = offset.saturating_add(len).min(end(block)).min(self.len);
        Some(BlockRange {
            block: block.clone(),
            offset_in_block: offset - block.offset,
            len: until - offset,
        })
    }

    /// Takes in what the namenode says now. A block known already keeps its length: that of a block
    /// under construction was asked from its datanodes, and the namenode's figure is older.
    pub fn merge(&mut self, located: Vec<LocatedBlockProto>) -> Result<(), ClientError> {
        for mut block in located {
            let index = self.blocks.partition_point(|known| known.offset < block.offset);
            match self.blocks.get_mut(index).filter(|known| known.offset == block.offset) {
                Some(known) if known.b.block_id != block.b.block_id => {
                    let (old, new) = (known.b.block_id as i64, block.b.block_id as i64);
                    let why = format!("at byte {} block {old} became {new}", block.offset);
                    return Err(ClientError::FileChanged { path: self.path.clone(), why });
                }
                Some(known) => {
                    block.b.num_bytes = known.b.num_bytes;
                    *known = Arc::new(block);
                }
                None if block.b.num_bytes() > 0 => self.blocks.insert(index, Arc::new(block)),
                None => {}
            }
        }
        Ok(())
    }
}

fn end(block: &LocatedBlockProto) -> u64 {
    block.offset.saturating_add(block.b.num_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(id: u64, offset: u64, len: u64) -> LocatedBlockProto {
        let mut block = LocatedBlockProto { offset, ..Default::default() };
        block.b.block_id = id;
        block.b.num_bytes = Some(len);
        block
    }

    #[test]
    fn finds_ranges_in_blocks() {
        let mut blocks = LocatedBlocks::new("/f", 25);
        blocks.merge(vec![block(1, 0, 10), block(3, 20, 5)]).unwrap();
        let range = |offset, len| {
            let range = blocks.range(offset, len)?;
            Some((range.block.b.block_id, range.offset_in_block, range.len))
        };
        assert_eq!(range(0, u64::MAX), Some((1, 0, 10)));
        assert_eq!(range(9, 5), Some((1, 9, 1)));
        assert_eq!(range(10, 5), None);
        assert_eq!(range(22, 2), Some((3, 2, 2)));
        assert_eq!(range(24, 9), Some((3, 4, 1)));
    }

    #[test]
    fn a_length_asked_from_datanodes_stays() {
        let mut blocks = LocatedBlocks::new("/f", 7);
        blocks.merge(vec![block(1, 0, 7)]).unwrap();
        blocks.merge(vec![block(1, 0, 0)]).unwrap();
        assert_eq!(blocks.range(6, 1).unwrap().len, 1);
        let error = blocks.merge(vec![block(2, 0, 7)]).unwrap_err();
        assert!(matches!(error, ClientError::FileChanged { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn ranges_cover_a_read_exactly(
            lens in prop::collection::vec(1u64..20, 1..8),
            from in 0u64..150,
            len in 1u64..150,
        ) {
            let total: u64 = lens.iter().sum();
            let mut blocks = LocatedBlocks::new("/f", total);
            let mut offset = 0;
            for (id, len) in lens.iter().enumerate() {
                blocks.merge(vec![block(id as u64, offset, *len)]).unwrap();
                offset += len;
            }
            let until = (from + len).min(total);
            let mut at = from;
            while at < until {
                let range = blocks.range(at, until - at).unwrap();
                prop_assert_eq!(range.block.offset + range.offset_in_block, at);
                prop_assert!(range.len > 0);
                prop_assert!(range.offset_in_block + range.len <= range.block.b.num_bytes());
                at += range.len;
            }
            prop_assert!(at == until || from >= total);
        }
    }
}

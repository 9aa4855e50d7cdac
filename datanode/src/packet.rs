//! A packet of a write stream as it was received: its head and data in the memory that they arrived in,
//! for the mirror, the disk and the checksums alike.

use ringfs_protocol::packet::PacketHeader;
use smallvec::SmallVec;

use crate::ring::Buffer;

/// A run of bytes in one or more ranges of memory; one, as a rule.
#[derive(Clone, Debug, Default)]
pub struct Pieces(SmallVec<[Buffer; 2]>);

#[derive(Debug)]
pub struct Packet {
    pub header: PacketHeader,
    /// Prefix and checksums as received.
    pub head: Buffer,
    pub prefix_len: usize,
    /// All data of the packet as received.
    pub data: Pieces,
    /// The data that was not received before, in its place in the block.
    pub fresh: Pieces,
}

impl Packet {
    pub fn checksums(&self) -> &[u8] {
        &self.head[self.prefix_len..]
    }

    pub fn checksums_buffer(&self) -> Buffer {
        self.head.slice(self.prefix_len..)
    }

    pub fn end(&self) -> u64 {
        self.header.offset_in_block + u64::from(self.header.data_len)
    }
}

impl Pieces {
    pub fn push(&mut self, buffer: Buffer) {
        self.0.push(buffer);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Buffer> {
        self.0.iter()
    }

    pub fn into_buffers(self) -> impl Iterator<Item = Buffer> {
        self.0.into_iter()
    }
}

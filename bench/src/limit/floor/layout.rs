//! How the floor cuts its bytes: streams into blocks, blocks into slabs and packets, and a packet on
//! the wire into header, checksums and data.

use std::ops::Range;
use std::sync::LazyLock;

use clap::Args;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};

use crate::BenchError;

/// Sequence number and length of the data, eight bytes each, little-endian.
pub const HEADER_BYTES: usize = 16;
/// Cumulative: the number of packets of the stream that are acknowledged, little-endian.
pub const ACK_BYTES: usize = 8;
pub const CHUNK_BYTES: usize = 512;
/// Bytes of a write to disk, and of the memory that packets are received into.
pub const SLAB_BYTES: usize = 1 << 20;
/// Packets that a client sends ahead of their acks, as Hadoop's do, unless more or fewer are asked for.
pub const WINDOW_PACKETS: u64 = 80;
/// Direct I/O writes whole pages; a packet is some of them.
const PAGE_BYTES: u64 = 4096;

/// Blocks hold whole packets, and every stream has the same bytes: the floor knows no tail.
#[derive(Clone, Copy, Debug, Args)]
pub struct Layout {
    #[arg(long)]
    pub streams: usize,
    #[arg(long)]
    pub packet_bytes: u64,
    #[arg(long)]
    pub block_bytes: u64,
    #[arg(long)]
    pub stream_bytes: u64,
    #[arg(long)]
    pub window_packets: u64,
}

impl Layout {
    /// `bytes` shared among the streams, rounded down to whole packets.
    pub fn new(
        bytes: u64,
        streams: usize,
        packet_bytes: u64,
        block_bytes: u64,
    ) -> Result<Self, BenchError> {
        let usage = |sentence: String| Err(BenchError::Usage(sentence));
        if packet_bytes == 0
            || !packet_bytes.is_multiple_of(PAGE_BYTES)
            || packet_bytes > SLAB_BYTES as u64
        {
            return usage(format!(
                "a packet of {packet_bytes} bytes is not a multiple of {PAGE_BYTES} up to {SLAB_BYTES}"
            ));
        }
        if block_bytes == 0 || !block_bytes.is_multiple_of(packet_bytes) {
            return usage(format!(
                "a block of {block_bytes} bytes does not hold whole packets of {packet_bytes}"
            ));
        }
        if !(1..=STREAMS_MAX).contains(&streams) {
            return usage(format!("{streams} streams: 1 to {STREAMS_MAX} are possible"));
        }
        let stream_bytes = bytes / streams as u64 / packet_bytes * packet_bytes;
        if stream_bytes == 0 {
            return usage(format!(
                "{bytes} bytes are not a packet of {packet_bytes} for each of {streams} streams"
            ));
        }
        let window_packets = WINDOW_PACKETS;
        Ok(Self { streams, packet_bytes, block_bytes, stream_bytes, window_packets })
    }

    /// With so many packets ahead of their acks.
    pub fn with_window(self, window_packets: u64) -> Result<Self, BenchError> {
        let layout = Self { window_packets, ..self };
        if !(WINDOW_PACKETS_MIN..=WINDOW_PACKETS_MAX).contains(&window_packets) {
            return Err(BenchError::Usage(format!(
                "a window of {window_packets} packets: {WINDOW_PACKETS_MIN} to {WINDOW_PACKETS_MAX} \
                 are possible"
            )));
        }
        if layout.slabs() > SLABS_MAX {
            return Err(BenchError::Usage(format!(
                "{} streams with {window_packets} packets of {} bytes ahead take {} MiB of each \
                 process: {SLABS_MAX} are possible",
                self.streams,
                self.packet_bytes,
                layout.slabs()
            )));
        }
        Ok(layout)
    }

    pub fn bytes(&self) -> u64 {
        self.stream_bytes * self.streams as u64
    }

    /// Of one stream.
    pub fn packets(&self) -> u64 {
        self.stream_bytes / self.packet_bytes
    }

    pub fn packets_per_block(&self) -> u64 {
        self.block_bytes / self.packet_bytes
    }

    pub fn blocks(&self) -> u64 {
        self.packets().div_ceil(self.packets_per_block())
    }

    /// Of one block of a stream: all are full but the last.
    pub fn bytes_of_block(&self, block: u64) -> u64 {
        self.block_bytes.min(self.stream_bytes - block * self.block_bytes)
    }

    /// The packet behind the last one of the block that holds `packet`.
    pub fn end_of_block(&self, packet: u64) -> u64 {
        ((packet / self.packets_per_block() + 1) * self.packets_per_block()).min(self.packets())
    }

    /// At most a quarter of the window: a client that waits for acks has filled slabs then, whose
    /// writes bring them.
    pub fn packets_per_slab(&self) -> u64 {
        (SLAB_BYTES as u64 / self.packet_bytes).min(self.window_packets / 4)
    }

    /// Packets of the slab that begins with `first`: slabs do not cross blocks.
    pub fn packets_of_slab(&self, first: u64) -> u64 {
        self.packets_per_slab().min(self.end_of_block(first) - first)
    }

    /// Of one packet.
    pub fn sums_bytes(&self) -> usize {
        self.packet_bytes as usize / CHUNK_BYTES * 4
    }

    /// Of one packet on the wire.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.sums_bytes() + self.packet_bytes as usize
    }

    pub fn header(&self, packet: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&packet.to_le_bytes());
        header[8..].copy_from_slice(&self.packet_bytes.to_le_bytes());
        header
    }

    /// Slabs that all streams together never exhaust while they keep to their windows and blocks
    /// hold whole slabs: a window, the one being filled, and one that the window begins in.
    pub fn slabs(&self) -> usize {
        (self.window_packets.div_ceil(self.packets_per_slab()) as usize + 2) * self.streams
    }
}

/// Beside a slab's data: 8 KiB of checksums, which is what a MiB has, then headers, of which small
/// packets have no more than a quarter of the window.
pub const SIDE_BYTES: usize = 12 << 10;
const SIDE_HEADERS: usize = 8 << 10;
const _: () = assert!(WINDOW_PACKETS_MAX as usize / 4 * HEADER_BYTES <= SIDE_BYTES - SIDE_HEADERS);

/// Where the parts of a slab's packets are in memory: the data of all one after the other, and so
/// their checksums, and their headers.
#[derive(Clone, Copy, Debug)]
pub struct SlabMap {
    data_start: usize,
    side_start: usize,
    packet_bytes: usize,
    sums_bytes: usize,
}

impl SlabMap {
    pub fn new(layout: &Layout, data_start: usize, side_start: usize) -> Self {
        let (packet_bytes, sums_bytes) = (layout.packet_bytes as usize, layout.sums_bytes());
        Self { data_start, side_start, packet_bytes, sums_bytes }
    }

    pub fn data(&self, packets: Range<usize>) -> Range<usize> {
        let (start, bytes) = (self.data_start, self.packet_bytes);
        start + packets.start * bytes..start + packets.end * bytes
    }

    pub fn sums(&self, packets: Range<usize>) -> Range<usize> {
        let (start, bytes) = (self.side_start, self.sums_bytes);
        start + packets.start * bytes..start + packets.end * bytes
    }

    pub fn header(&self, packet: usize) -> Range<usize> {
        let start = self.side_start + SIDE_HEADERS + packet * HEADER_BYTES;
        start..start + HEADER_BYTES
    }

    /// The memory of these bytes of the slab as they follow each other on the wire.
    pub fn on_wire(self, wire: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let wire_bytes = HEADER_BYTES + self.sums_bytes + self.packet_bytes;
        let packets = wire.start / wire_bytes..wire.end.div_ceil(wire_bytes);
        let parts = move |packet| {
            let parts =
                [self.header(packet), self.sums(packet..packet + 1), self.data(packet..packet + 1)];
            let mut end = packet * wire_bytes;
            parts.map(|part| {
                let start = end;
                end += part.len();
                let (from, to) = (wire.start.clamp(start, end), wire.end.clamp(start, end));
                part.start + (from - start)..part.start + (to - start)
            })
        };
        packets.flat_map(parts).filter(|part| !part.is_empty())
    }
}

/// Memory that every process touches beforehand: 900 MiB, seven for each of 128 streams with packets of
/// 64 KiB and Hadoop's window.
const SLABS_MAX: usize = 900;
const STREAMS_MAX: usize = 128;
/// A slab has a quarter of the window.
const WINDOW_PACKETS_MIN: u64 = 4;
const WINDOW_PACKETS_MAX: u64 = 1024;

pub static CHECKSUM: LazyLock<DataChecksum> = LazyLock::new(|| {
    DataChecksum::new(ChecksumType::Crc32c, CHUNK_BYTES as u32).expect("512 bytes are a chunk")
});

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn refuses_what_it_cannot_cut() {
        for (bytes, packet, block) in
            [(4 * MIB, 0, MIB), (4 * MIB, 1000, MIB), (4 * MIB, 4096, 4097), (100, 4096, MIB)]
        {
            assert!(Layout::new(bytes, 1, packet, block).is_err());
        }
        assert!(Layout::new(MIB, 0, 4096, MIB).is_err());
        assert!(Layout::new(MIB, usize::MAX, 4096, MIB).is_err());
    }

    #[test]
    fn windows_are_bounded_by_the_memory_they_take() {
        let layout = |streams| Layout::new(400 * MIB, streams, 64 << 10, MIB).unwrap();
        assert_eq!(layout(1).with_window(160).unwrap().slabs(), 12);
        assert_eq!(layout(1).with_window(4).unwrap().packets_per_slab(), 1);
        assert!(layout(1).with_window(3).is_err());
        assert!(layout(1).with_window(1025).is_err());
        assert!(layout(128).with_window(80).is_ok());
        assert!(layout(128).with_window(160).is_err());
    }

    #[test]
    fn any_cut_of_the_wire_names_the_same_memory() {
        let layout = Layout::new(4 * MIB, 1, 8192, MIB).unwrap();
        let map = SlabMap::new(&layout, 0, SLAB_BYTES);
        let packets = layout.packets_of_slab(0) as usize;
        let end = packets * layout.wire_bytes();
        let all: Vec<usize> = map.on_wire(0..end).flatten().collect();
        assert_eq!(all.len(), end);
        assert!(all.iter().all(|byte| *byte < SLAB_BYTES + SIDE_BYTES));
        for cut in [0, 1, HEADER_BYTES, HEADER_BYTES + 3, 8192, layout.wire_bytes(), end - 1, end] {
            let two: Vec<usize> =
                map.on_wire(0..cut).chain(map.on_wire(cut..end)).flatten().collect();
            assert!(two == all, "cut at {cut}");
        }
    }
}

//! Cuts a file's bytes into the packets of its blocks.
//!
//! Checksums cover chunks of `bytes_per_checksum` bytes counted from the start of the block, and a
//! packet begins at a chunk boundary. Two cases are not so simple:
//! * a flush inside a chunk sends the chunk's first bytes; the next packet begins at the same
//!   boundary and repeats them, so that its checksum covers the whole chunk;
//! * appending to a block that ends inside a chunk, whose first bytes are not known here, goes by
//!   packets of at most one chunk's rest, each under the checksum of its own bytes.
//!
//! A full packet's data is a slice of what the writer handed in; only what does not fill a packet
//! is copied, into `pending`. Checksums are computed as a packet is sent ([`Packet::encode_head`]): the
//! socket's copy then finds the data in the processor's cache.

use bytes::{Bytes, BytesMut};
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::limits::PACKET_MAX_BYTES;
use ringfs_protocol::packet::{
    HEARTBEAT_SEQNO, PACKET_PREFIX_MAX_BYTES, PacketHeader, encode_packet_prefix,
};

/// Goes over the wire as a head (lengths, header, checksums) and the data.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub seqno: i64,
    pub offset_in_block: u64,
    pub last_in_block: bool,
    pub sync: bool,
    pub data: Bytes,
}

impl Packet {
    /// Tells a silent pipeline that its writer lives.
    pub fn heartbeat() -> Self {
        Self {
            seqno: HEARTBEAT_SEQNO,
            offset_in_block: 0,
            last_in_block: false,
            sync: false,
            data: Bytes::new(),
        }
    }

    /// Appends the head to `out`.
    pub fn encode_head(&self, checksum: DataChecksum, out: &mut BytesMut) {
        let checksums_len = checksum.checksums_len(self.data.len() as u64) as usize;
        let header = PacketHeader {
            offset_in_block: self.offset_in_block,
            seqno: self.seqno,
            last_packet_in_block: self.last_in_block,
            data_len: self.data.len() as u32,
            sync_block: self.sync,
        };
        let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
        let prefix_len = encode_packet_prefix(&header, checksums_len, &mut prefix);
        out.extend_from_slice(&prefix[..prefix_len]);
        let checksums = out.len();
        out.resize(checksums + checksums_len, 0);
        checksum.fill(&self.data, &mut out[checksums..]);
    }

    /// Offset in the block after this packet's data.
    pub fn end(&self) -> u64 {
        self.offset_in_block + self.data.len() as u64
    }
}

#[derive(Debug)]
pub(crate) struct Packetizer {
    checksum: DataChecksum,
    /// Data bytes of a full packet: whole chunks.
    packet_data_len: usize,
    block_size: u64,
    next_seqno: i64,
    /// Where the next packet begins, in the block.
    packet_start: u64,
    /// Bytes from `packet_start` on; after a flush those of the unfinished chunk, sent already.
    pending: BytesMut,
    /// What the packets cut so far cover, in the block.
    cut_to: u64,
    /// Set by the first sync: from then on the ends of blocks are synced too, because a later sync
    /// cannot reach a finished block.
    syncs: bool,
    /// Length of the file.
    position: u64,
}

impl Packetizer {
    /// `packet_size` is of the data of a packet, in whole chunks: 64 KiB are whole pages, which datanodes
    /// receive where they write them from. (Hadoop's client has header and checksums in it, so its packets
    /// of 63 KiB end within pages.) `block_len` is the length of the last block when the file is appended
    /// to inside a block.
    pub fn new(
        checksum: DataChecksum,
        packet_size: usize,
        block_size: u64,
        position: u64,
        block_len: u64,
    ) -> Self {
        Self {
            checksum,
            packet_data_len: packet_data_len(checksum, packet_size),
            block_size,
            next_seqno: 0,
            packet_start: block_len,
            pending: BytesMut::new(),
            cut_to: block_len,
            syncs: false,
            position,
        }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// What was sent of the block being written; 0 between two blocks.
    pub fn cut_to(&self) -> u64 {
        self.cut_to
    }

    pub fn packet_data_len(&self) -> usize {
        self.packet_data_len
    }

    /// The last packet cut, -1 before the first.
    pub fn last_seqno(&self) -> i64 {
        self.next_seqno - 1
    }

    /// Takes from the front of `data` what makes the next packet; `None` when all of `data` was
    /// taken without filling one.
    pub fn next_packet(&mut self, data: &mut Bytes) -> Option<Packet> {
        if self.packet_start >= self.block_size {
            return Some(self.end_block());
        }
        let wanted = self.packet_room() - self.pending.len();
        let taken = data.split_to(wanted.min(data.len()));
        self.position += taken.len() as u64;
        if taken.len() < wanted {
            self.pending.extend_from_slice(&taken);
            return None;
        }
        let packet_data = if self.pending.is_empty() {
            taken
        } else {
            self.pending.extend_from_slice(&taken);
            self.pending.split().freeze()
        };
        let start = self.packet_start;
        self.packet_start += packet_data.len() as u64;
        Some(self.cut(start, packet_data, false, false))
    }

    /// The packet that makes everything written so far visible (and durable with `sync`), or `None`
    /// when earlier packets do.
    pub fn flush(&mut self, sync: bool) -> Option<Packet> {
        let sync = sync && !ringfs_protocol::mutant!("client: hsync without a sync");
        self.syncs |= sync;
        let start = self.packet_start;
        let end = start + self.pending.len() as u64;
        if end >= self.block_size {
            return Some(self.end_block());
        }
        if end == self.cut_to {
            return (sync && end > 0).then(|| self.cut(end, Bytes::new(), sync, false));
        }
        let chunk = u64::from(self.checksum.bytes_per_checksum);
        let flushed = self.pending.split().freeze();
        if start.is_multiple_of(chunk) {
            self.packet_start = end - end % chunk;
            let kept = flushed.len() - (end % chunk) as usize;
            self.pending.extend_from_slice(&flushed[kept..]);
        } else {
            self.packet_start = end;
        }
        Some(self.cut(start, flushed, sync, false))
    }

    /// The next packet of those that end the file: what is pending, then the end of the last block.
    pub fn finish(&mut self) -> Option<Packet> {
        let end = self.packet_start + self.pending.len() as u64;
        if end == 0 {
            return None;
        }
        if end == self.cut_to {
            self.packet_start = end;
            self.pending.clear();
            return Some(self.end_block());
        }
        let start = self.packet_start;
        let rest = self.pending.split().freeze();
        self.packet_start = end;
        Some(self.cut(start, rest, false, false))
    }

    /// Bytes that the packet at `packet_start` may have.
    fn packet_room(&self) -> usize {
        let chunk = u64::from(self.checksum.bytes_per_checksum);
        let in_packet = match self.packet_start % chunk {
            0 => self.packet_data_len as u64,
            partial => chunk - partial,
        };
        in_packet.min(self.block_size - self.packet_start) as usize
    }

    fn end_block(&mut self) -> Packet {
        let packet = self.cut(self.packet_start, Bytes::new(), self.syncs, true);
        self.packet_start = 0;
        self.cut_to = 0;
        packet
    }

    fn cut(&mut self, offset_in_block: u64, data: Bytes, sync: bool, last: bool) -> Packet {
        let seqno = self.next_seqno;
        self.next_seqno += 1;
        self.cut_to = offset_in_block + data.len() as u64;
        Packet { seqno, offset_in_block, last_in_block: last, sync, data }
    }
}

/// At least a chunk, and no more than a packet may have.
fn packet_data_len(checksum: DataChecksum, packet_size: usize) -> usize {
    let chunk = checksum.bytes_per_checksum as usize;
    let room = PACKET_MAX_BYTES - PACKET_PREFIX_MAX_BYTES;
    let chunks_max = room / (chunk + checksum.checksum_size());
    (packet_size / chunk).clamp(1, chunks_max.max(1)) * chunk
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringfs_protocol::checksum::ChecksumType;
    use ringfs_protocol::packet::decode_packet_prefix;

    use super::*;

    const CHUNK: usize = 512;
    const BLOCK: u64 = 4096;

    fn packetizer(block_size: u64, block_len: u64) -> Packetizer {
        let checksum = DataChecksum::new(ChecksumType::Crc32c, CHUNK as u32).unwrap();
        // Three chunks a packet.
        Packetizer::new(checksum, 3 * CHUNK + 1, block_size, block_len, block_len)
    }

    /// What a datanode's block ends up as; checks each packet as a datanode would.
    fn receive(block: &mut Vec<u8>, packet: &Packet) {
        let checksum = DataChecksum::new(ChecksumType::Crc32c, CHUNK as u32).unwrap();
        let mut head = BytesMut::new();
        packet.encode_head(checksum, &mut head);
        let frame = decode_packet_prefix(&head).unwrap().unwrap();
        assert_eq!(frame.prefix_len + frame.checksums_len, head.len());
        assert_eq!(frame.data_len, packet.data.len());
        assert_eq!(frame.header.seqno, packet.seqno);
        checksum.verify(&packet.data, &head[frame.prefix_len..]).unwrap();
        let start = packet.offset_in_block as usize;
        assert!(start <= block.len(), "a gap at {start} after {}", block.len());
        if !start.is_multiple_of(CHUNK) && !packet.data.is_empty() {
            assert_eq!(start, block.len(), "an unaligned packet repeats nothing");
            assert!(start / CHUNK == (packet.end() as usize - 1) / CHUNK, "one chunk only");
        }
        let overlap = (block.len() - start).min(packet.data.len());
        assert_eq!(block[start..start + overlap], packet.data[..overlap]);
        block.extend_from_slice(&packet.data[overlap..]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Flush(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0usize..3000).prop_map(Step::Write),
            1 => (0usize..700).prop_map(Step::Write),
            2 => any::<bool>().prop_map(Step::Flush),
        ]
    }

    proptest! {
        #[test]
        fn any_writes_and_flushes_make_the_same_file(
            appended_to in 0u64..BLOCK,
            steps in prop::collection::vec(step(), 0..20),
        ) {
            let mut packetizer = packetizer(BLOCK, appended_to);
            let mut expected = vec![7; appended_to as usize];
            let mut blocks = vec![expected.clone()];
            let mut seqno = 0;
            let mut take = |packet: Packet, blocks: &mut Vec<Vec<u8>>| {
                assert_eq!(packet.seqno, seqno);
                seqno += 1;
                receive(blocks.last_mut().unwrap(), &packet);
                if packet.last_in_block {
                    blocks.push(Vec::new());
                }
            };
            for step in steps {
                match step {
                    Step::Write(len) => {
                        let data: Vec<u8> = (0..len).map(|i| (i * 31 + expected.len()) as u8).collect();
                        expected.extend_from_slice(&data);
                        let mut data = Bytes::from(data);
                        while !data.is_empty() {
                            if let Some(packet) = packetizer.next_packet(&mut data) {
                                take(packet, &mut blocks);
                            }
                        }
                    }
                    Step::Flush(sync) => {
                        if let Some(packet) = packetizer.flush(sync) {
                            take(packet, &mut blocks);
                        }
                        prop_assert_eq!(blocks.concat(), &expected[..]);
                    }
                }
            }
            prop_assert_eq!(packetizer.position(), expected.len() as u64);
            while let Some(packet) = packetizer.finish() {
                take(packet, &mut blocks);
            }
            prop_assert_eq!(blocks.concat(), &expected[..]);
            prop_assert!(blocks.last().unwrap().is_empty());
            for block in &blocks[..blocks.len() - 1] {
                prop_assert!(block.len() as u64 <= BLOCK);
            }
        }
    }

    #[test]
    fn default_packets_hold_64_kib_and_borrow_the_writers_memory() {
        let checksum = DataChecksum::new(ChecksumType::Crc32c, 512).unwrap();
        let mut packetizer = Packetizer::new(checksum, 65536, 128 << 20, 0, 0);
        assert_eq!(packetizer.packet_data_len(), 65536);
        let mut data = Bytes::from(vec![1; 2 * 65536]);
        let start = data.as_ptr();
        let first = packetizer.next_packet(&mut data).unwrap();
        let second = packetizer.next_packet(&mut data).unwrap();
        assert_eq!(first.data.as_ptr(), start);
        assert_eq!(second.data.as_ptr(), start.wrapping_add(65536));
        assert_eq!((second.seqno, second.offset_in_block), (1, 65536));
        assert!(data.is_empty());
    }

    #[test]
    fn packets_are_of_a_chunk_at_least_and_not_beyond_what_a_datanode_takes() {
        let checksum = DataChecksum::new(ChecksumType::Crc32c, 512).unwrap();
        assert_eq!(packet_data_len(checksum, 0), 512);
        let most = packet_data_len(checksum, usize::MAX);
        let on_wire = most + checksum.checksums_len(most as u64) as usize + PACKET_PREFIX_MAX_BYTES;
        assert!((PACKET_MAX_BYTES - 516..=PACKET_MAX_BYTES).contains(&on_wire));
    }

    #[test]
    fn a_full_block_ends_before_the_next_byte() {
        let mut packetizer = packetizer(1024, 0);
        let mut data = Bytes::from(vec![1; 1025]);
        assert_eq!(packetizer.next_packet(&mut data).unwrap().end(), 1024);
        let last = packetizer.next_packet(&mut data).unwrap();
        assert!(last.last_in_block && last.end() == 1024);
        assert!(packetizer.next_packet(&mut data).is_none());
        assert_eq!(packetizer.finish().unwrap().end(), 1);
        assert!(packetizer.finish().unwrap().last_in_block);
        assert!(packetizer.finish().is_none());
    }

    #[test]
    fn sync_without_new_bytes_is_an_empty_packet() {
        let mut packetizer = packetizer(BLOCK, 0);
        assert!(packetizer.flush(true).is_none());
        let mut data = Bytes::from_static(b"abc");
        assert!(packetizer.next_packet(&mut data).is_none());
        assert_eq!(packetizer.flush(false).unwrap().data.len(), 3);
        assert!(packetizer.flush(false).is_none());
        let sync = packetizer.flush(true).unwrap();
        assert_eq!((sync.offset_in_block, sync.data.len()), (3, 0));
        assert!(sync.sync);
        let mut head = BytesMut::new();
        sync.encode_head(packetizer.checksum, &mut head);
        assert!(decode_packet_prefix(&head).unwrap().unwrap().header.sync_block);
    }
}

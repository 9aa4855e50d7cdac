//! The bytes that writers send, made before any clock runs: a ring of distinct packets with their
//! checksums, so that a writer costs little more than its socket.

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use super::limits::PAYLOAD_BYTES;
use super::options::CHECKSUM;

#[derive(Clone, Debug)]
pub struct PacketBody {
    pub checksums: Bytes,
    pub data: Bytes,
}

#[derive(Debug)]
pub struct Payload {
    packets: Vec<PacketBody>,
}

impl Payload {
    pub fn new(packet_data_bytes: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(0x9e37_79b9_7f4a_7c15);
        let count = (PAYLOAD_BYTES / packet_data_bytes).clamp(2, 1024);
        let packets = (0..count).map(|_| {
            let mut data = BytesMut::zeroed(packet_data_bytes);
            random.fill_bytes(&mut data);
            PacketBody::of(data.freeze())
        });
        Self { packets: packets.collect() }
    }

    /// The packet at `index` of a stream, cut down to its first `len` bytes.
    pub fn packet(&self, index: u64, len: usize) -> PacketBody {
        let whole = &self.packets[(index % self.packets.len() as u64) as usize];
        match len == whole.data.len() {
            true => whole.clone(),
            false => PacketBody::of(whole.data.slice(..len)),
        }
    }
}

impl PacketBody {
    fn of(data: Bytes) -> Self {
        let mut checksums = BytesMut::zeroed(CHECKSUM.checksums_len(data.len() as u64) as usize);
        CHECKSUM.fill(&data, &mut checksums);
        Self { checksums: checksums.freeze(), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_differ_and_match_their_checksums() {
        let payload = Payload::new(64_512);
        for (index, len) in [(0, 64_512), (1, 64_512), (1, 700), (130, 1)] {
            let packet = payload.packet(index, len);
            assert_eq!(packet.data.len(), len);
            CHECKSUM.verify(&packet.data, &packet.checksums).unwrap();
        }
        assert_ne!(payload.packet(0, 512).data, payload.packet(1, 512).data);
        assert_eq!(Payload::new(512).packets.len(), 1024);
        assert_eq!(Payload::new(16 << 20).packets.len(), 2);
    }
}

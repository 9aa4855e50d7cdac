//! The bytes of the measured files: made once, incompressible, and given by file and offset, so that
//! a reader can tell a byte in the wrong place. They are a ring whose length shares no factor with
//! any power of two, as block sizes are; what is written is sliced from it, never copied.

use bytes::Bytes;
use memmap2::{Advice, MmapMut};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

/// A prime number of pages, about 16 MiB: more than a processor's cache, as data that comes from
/// somewhere else is.
const RING_BYTES: usize = 4099 * PAGE_BYTES;
const PAGE_BYTES: usize = 4096;

/// The ring's start is repeated behind its end, so that a slice of this many bytes can begin anywhere.
pub const SLICE_MAX_BYTES: usize = 16 << 20;

#[derive(Clone, Debug)]
pub struct Pattern {
    ring: Bytes,
}

impl Pattern {
    pub fn new() -> Self {
        let mut ring = MmapMut::map_anon(RING_BYTES + SLICE_MAX_BYTES).expect("32 MiB of memory");
        // As the floor's packets are; without leave they are small pages.
        let _ = ring.advise(Advice::HugePage);
        let (once, again) = ring.split_at_mut(RING_BYTES);
        SmallRng::seed_from_u64(0x0072_696e_6766_7321).fill_bytes(once);
        again.copy_from_slice(&once[..SLICE_MAX_BYTES]);
        Self { ring: Bytes::from_owner(ring) }
    }

    /// `len` bytes of file number `file`, at most [`SLICE_MAX_BYTES`].
    pub fn slice(&self, file: u64, offset_bytes: u64, len: usize) -> Bytes {
        let start = Self::start(file, offset_bytes);
        self.ring.slice(start..start + len)
    }

    /// Offset in the file of the first byte that is not what [`Pattern::slice`] gives there.
    pub fn first_difference(&self, file: u64, offset_bytes: u64, found: &[u8]) -> Option<u64> {
        let mut at = offset_bytes;
        for part in found.chunks(SLICE_MAX_BYTES) {
            let start = Self::start(file, at);
            let expected = &self.ring[start..start + part.len()];
            if part != expected {
                let same = part.iter().zip(expected).take_while(|(a, b)| a == b).count();
                return Some(at + same as u64);
            }
            at += part.len() as u64;
        }
        None
    }

    /// Files begin a page apart.
    fn start(file: u64, offset_bytes: u64) -> usize {
        let ring = RING_BYTES as u64;
        ((offset_bytes % ring + file % ring * PAGE_BYTES as u64) % ring) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_byte_in_the_wrong_place() {
        let pattern = Pattern::new();
        let mut bytes = pattern.slice(3, 1 << 40, 70_000).to_vec();
        assert_eq!(pattern.first_difference(3, 1 << 40, &bytes), None);
        assert!(pattern.first_difference(4, 1 << 40, &bytes).is_some());
        for block in [1 << 20, 64 << 20, 128 << 20, 1 << 30] {
            assert!(pattern.first_difference(3, (1 << 40) + block, &bytes).is_some(), "{block}");
        }
        bytes[69_999] ^= 1;
        assert_eq!(pattern.first_difference(3, 1 << 40, &bytes), Some((1 << 40) + 69_999));
    }

    #[test]
    fn goes_on_over_the_rings_end() {
        let pattern = Pattern::new();
        let before = RING_BYTES as u64 - 100;
        let over = pattern.slice(0, before, 300);
        assert_eq!(over[100..], pattern.slice(0, 0, 200)[..]);
        assert_eq!(pattern.first_difference(0, before, &over), None);
    }
}

//! Checksums of HDFS: one CRC per chunk of `bytes_per_checksum` bytes, big-endian, the last one over
//! what is left. What whole blocks and files are summed up to is in [`crate::file_checksum`].
//!
//! CRC32C of chunks of 512 bytes, what HDFS has by default, is [`crate::folded_crc32c`]'s where the CPU
//! has AVX-512: 75 GB/s. Else crc-fast computes where the CPU multiplies without carry: 50 GB/s with
//! VPCLMULQDQ, beyond what the crc32c crate reaches with the CRC instruction (`benches/checksum.rs`).
//! Elsewhere crc-fast has tables only, and the crc32c crate computes CRC32C.

use crate::ProtocolError;
#[cfg(target_arch = "x86_64")]
use crate::folded_crc32c::{CHUNK_BYTES, FoldedCrc32c};
use crate::limits::BYTES_PER_CHECKSUM_MAX;
use crate::messages::{ChecksumProto, ChecksumTypeProto};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChecksumType {
    Null = 0,
    Crc32 = 1,
    Crc32c = 2,
}

/// A checksum type with its chunk size, as meta files, READ_BLOCK replies and WRITE_BLOCK name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataChecksum {
    pub kind: ChecksumType,
    pub bytes_per_checksum: u32,
}

/// The first chunk of a verified range whose CRC is not the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumMismatch {
    /// Index of the chunk from the start of the range.
    pub chunk_index: usize,
    pub expected: u32,
    pub computed: u32,
}

impl ChecksumType {
    /// The type by its number on the wire and in meta files.
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Null),
            1 => Some(Self::Crc32),
            2 => Some(Self::Crc32c),
            _ => None,
        }
    }

    /// The name that settings and checksum algorithms use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
        }
    }
}

impl From<ChecksumType> for ChecksumTypeProto {
    fn from(kind: ChecksumType) -> Self {
        match kind {
            ChecksumType::Null => Self::ChecksumNull,
            ChecksumType::Crc32 => Self::ChecksumCrc32,
            ChecksumType::Crc32c => Self::ChecksumCrc32c,
        }
    }
}

impl DataChecksum {
    /// Refuses a chunk size of 0 or beyond [`BYTES_PER_CHECKSUM_MAX`].
    pub fn new(kind: ChecksumType, bytes_per_checksum: u32) -> Result<Self, ProtocolError> {
        if bytes_per_checksum == 0 {
            return Err(ProtocolError::malformed("bytesPerChecksum", "0 bytes"));
        }
        if bytes_per_checksum > BYTES_PER_CHECKSUM_MAX {
            return Err(ProtocolError::TooLong {
                what: "bytesPerChecksum",
                len: u64::from(bytes_per_checksum),
                limit: u64::from(BYTES_PER_CHECKSUM_MAX),
            });
        }
        Ok(Self { kind, bytes_per_checksum })
    }

    pub fn from_proto(proto: &ChecksumProto) -> Result<Self, ProtocolError> {
        let kind = ChecksumType::from_number(proto.r#type).ok_or_else(|| {
            ProtocolError::malformed("checksum type", format!("unknown number {}", proto.r#type))
        })?;
        Self::new(kind, proto.bytes_per_checksum)
    }

    pub fn to_proto(self) -> ChecksumProto {
        ChecksumProto { r#type: self.kind as i32, bytes_per_checksum: self.bytes_per_checksum }
    }

    /// Bytes per checksum value: 4, or 0 for [`ChecksumType::Null`].
    pub fn checksum_size(self) -> usize {
        if self.kind == ChecksumType::Null { 0 } else { 4 }
    }

    /// Length in bytes of the checksums of `data_len` bytes that start at a chunk boundary.
    pub fn checksums_len(self, data_len: u64) -> u64 {
        data_len.div_ceil(u64::from(self.bytes_per_checksum)) * self.checksum_size() as u64
    }

    /// CRC of one run of bytes (0 for Null).
    pub fn crc(self, data: &[u8]) -> u32 {
        match self.kind {
            ChecksumType::Null => 0,
            ChecksumType::Crc32 => crc_fast::crc32_iso_hdlc(data),
            ChecksumType::Crc32c if carryless_multiply_present() => crc_fast::crc32_iscsi(data),
            ChecksumType::Crc32c => crc32c::crc32c(data),
        }
    }

    /// Continues a CRC over more bytes: `crc_append(crc(a), b) == crc(a ++ b)`.
    pub fn crc_append(self, crc: u32, data: &[u8]) -> u32 {
        let algorithm = match self.kind {
            ChecksumType::Null => return 0,
            ChecksumType::Crc32c => return crc32c::crc32c_append(crc, data),
            ChecksumType::Crc32 => crc_fast::CrcAlgorithm::Crc32IsoHdlc,
        };
        let mut digest = crc_fast::Digest::new_with_init_state(algorithm, u64::from(!crc));
        digest.update(data);
        digest.finalize() as u32
    }

    /// Writes the checksums of `data`'s chunks into `out`, whose length must be
    /// `checksums_len(data.len())`.
    pub fn fill(self, data: &[u8], out: &mut [u8]) {
        assert_eq!(out.len() as u64, self.checksums_len(data.len() as u64));
        match self.kind {
            ChecksumType::Null => {}
            ChecksumType::Crc32 => self.fill_with(data, out, crc_fast::crc32_iso_hdlc),
            #[cfg(target_arch = "x86_64")]
            ChecksumType::Crc32c if let Some(folded) = self.folded() => {
                let (chunks, rest) = data.as_chunks();
                let (out, out_of_rest) = out.split_at_mut(4 * chunks.len());
                folded.fill(chunks, out.as_chunks_mut().0);
                self.fill_with(rest, out_of_rest, crc_fast::crc32_iscsi)
            }
            ChecksumType::Crc32c if carryless_multiply_present() => {
                self.fill_with(data, out, crc_fast::crc32_iscsi)
            }
            ChecksumType::Crc32c => self.fill_with(data, out, crc32c::crc32c),
        }
    }

    /// Verifies `data` chunk by chunk against `checksums`. Panics only if the lengths do not belong
    /// together, which callers check when they decode the packet.
    pub fn verify(self, data: &[u8], checksums: &[u8]) -> Result<(), ChecksumMismatch> {
        assert_eq!(checksums.len() as u64, self.checksums_len(data.len() as u64));
        match self.kind {
            ChecksumType::Null => Ok(()),
            ChecksumType::Crc32 => self.verify_with(data, checksums, crc_fast::crc32_iso_hdlc),
            #[cfg(target_arch = "x86_64")]
            ChecksumType::Crc32c if let Some(folded) = self.folded() => {
                let chunks = data.as_chunks().0;
                // What is left, or the chunk that is wrong and all behind it.
                let rest = folded.first_mismatch(chunks, checksums.as_chunks().0);
                let rest = rest.unwrap_or(chunks.len());
                let (data, checksums) = (&data[rest * CHUNK_BYTES..], &checksums[4 * rest..]);
                self.verify_with(data, checksums, crc_fast::crc32_iscsi).map_err(|mismatch| {
                    ChecksumMismatch { chunk_index: rest + mismatch.chunk_index, ..mismatch }
                })
            }
            ChecksumType::Crc32c if carryless_multiply_present() => {
                self.verify_with(data, checksums, crc_fast::crc32_iscsi)
            }
            ChecksumType::Crc32c => self.verify_with(data, checksums, crc32c::crc32c),
        }
    }

    /// CRC of `a ++ b` from the two CRCs and the length of `b`, without the bytes
    /// (COMPOSITE_CRC of HDFS: `crc(a) * x^(8 |b|) mod P ^ crc(b)`).
    pub fn combine(self, crc_a: u32, crc_b: u32, len_b: u64) -> u32 {
        self.combine_shifted(crc_a, crc_b, self.shift_of(len_b))
    }

    /// [`Self::combine`] with the power of x taken from [`Self::shift_of`]: for many runs of one
    /// length.
    pub(crate) fn combine_shifted(self, crc_a: u32, crc_b: u32, shift: u32) -> u32 {
        multiply(crc_a, shift, self.polynomial()) ^ crc_b
    }

    /// `x^(8 len) mod P`, by squaring.
    pub(crate) fn shift_of(self, len: u64) -> u32 {
        let polynomial = self.polynomial();
        let mut result = ONE;
        let mut power = ONE >> 8;
        let mut rest = len;
        while rest != 0 {
            if rest & 1 != 0 {
                result = multiply(result, power, polynomial);
            }
            power = multiply(power, power, polynomial);
            rest >>= 1;
        }
        result
    }

    fn polynomial(self) -> u32 {
        match self.kind {
            ChecksumType::Null => 0,
            ChecksumType::Crc32 => 0xedb8_8320,
            ChecksumType::Crc32c => 0x82f6_3b78,
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn folded(self) -> Option<FoldedCrc32c> {
        (self.bytes_per_checksum as usize == CHUNK_BYTES).then(FoldedCrc32c::detect).flatten()
    }

    #[inline(always)]
    fn fill_with(self, data: &[u8], out: &mut [u8], crc: impl Fn(&[u8]) -> u32) {
        let chunks = data.chunks(self.bytes_per_checksum as usize);
        for (chunk, out) in chunks.zip(out.chunks_exact_mut(4)) {
            out.copy_from_slice(&crc(chunk).to_be_bytes());
        }
    }

    #[inline(always)]
    fn verify_with(
        self,
        data: &[u8],
        checksums: &[u8],
        crc: impl Fn(&[u8]) -> u32,
    ) -> Result<(), ChecksumMismatch> {
        let chunks = data.chunks(self.bytes_per_checksum as usize);
        for (chunk_index, (chunk, stored)) in chunks.zip(checksums.as_chunks().0).enumerate() {
            let expected = u32::from_be_bytes(*stored);
            let computed = crc(chunk);
            if computed != expected {
                return Err(ChecksumMismatch { chunk_index, expected, computed });
            }
        }
        Ok(())
    }
}

/// The polynomial 1: reflected, so the coefficient of x^0 is the highest bit.
const ONE: u32 = 1 << 31;

/// Product of two reflected polynomials modulo `polynomial`.
fn multiply(a: u32, b: u32, polynomial: u32) -> u32 {
    let mut product = 0;
    let mut shifted = b;
    for bit in (0..32).rev() {
        product ^= shifted & 0u32.wrapping_sub(a >> bit & 1);
        shifted = shifted >> 1 ^ polynomial & 0u32.wrapping_sub(shifted & 1);
    }
    product
}

/// Whether crc-fast has more than its tables here.
#[inline(always)]
fn carryless_multiply_present() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("sse4.2")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("crc")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [ChecksumType; 3] =
        [ChecksumType::Null, ChecksumType::Crc32, ChecksumType::Crc32c];

    fn checksum(kind: ChecksumType, bytes_per_checksum: u32) -> DataChecksum {
        DataChecksum::new(kind, bytes_per_checksum).unwrap()
    }

    #[test]
    fn the_catalogues_check_values_come_out() {
        assert_eq!(checksum(ChecksumType::Crc32, 512).crc(b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(ChecksumType::Crc32c, 512).crc(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(ChecksumType::Null, 512).crc(b"123456789"), 0);
    }

    #[test]
    fn impossible_chunk_sizes_and_types_are_refused() {
        assert!(DataChecksum::new(ChecksumType::Crc32c, 0).is_err());
        assert!(DataChecksum::new(ChecksumType::Crc32c, BYTES_PER_CHECKSUM_MAX + 1).is_err());
        let unknown = ChecksumProto { r#type: 3, bytes_per_checksum: 512 };
        assert!(DataChecksum::from_proto(&unknown).is_err());
    }

    #[test]
    fn a_mismatch_names_its_chunk_and_both_values() {
        let checksum = checksum(ChecksumType::Crc32c, 4);
        let mut crcs = vec![0; 12];
        checksum.fill(b"aaaabbbbcc", &mut crcs);
        assert_eq!(checksum.verify(b"aaaabbbbcc", &crcs), Ok(()));
        let mismatch = checksum.verify(b"aaaabbbbcd", &crcs).unwrap_err();
        assert_eq!(mismatch.chunk_index, 2);
        assert_eq!(mismatch.expected, checksum.crc(b"cc"));
        assert_eq!(mismatch.computed, checksum.crc(b"cd"));
    }

    proptest! {
        #[test]
        fn chunks_of_512_bytes_and_what_is_left_are_filled_and_verified(
            data in proptest::collection::vec(any::<u8>(), 1..3000),
            flip in any::<prop::sample::Index>(),
        ) {
            let checksum = checksum(ChecksumType::Crc32c, 512);
            let mut crcs = vec![0; checksum.checksums_len(data.len() as u64) as usize];
            checksum.fill(&data, &mut crcs);
            let expected = data.chunks(512).flat_map(|chunk| crc32c::crc32c(chunk).to_be_bytes());
            prop_assert_eq!(&crcs, &expected.collect::<Vec<_>>());
            prop_assert_eq!(checksum.verify(&data, &crcs), Ok(()));
            let mut damaged = data.clone();
            let at = flip.index(data.len());
            damaged[at] ^= 1;
            let mismatch = checksum.verify(&damaged, &crcs).unwrap_err();
            prop_assert_eq!(mismatch.chunk_index, at / 512);
            let chunk = damaged.chunks(512).nth(at / 512).unwrap();
            prop_assert_eq!(mismatch.computed, crc32c::crc32c(chunk));
        }

        #[test]
        fn both_libraries_agree(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(crc_fast::crc32_iscsi(&data), crc32c::crc32c(&data));
        }

        #[test]
        fn appending_and_combining_give_the_crc_of_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..3000),
            cut in any::<prop::sample::Index>(),
        ) {
            let (a, b) = data.split_at(cut.index(data.len() + 1));
            for kind in KINDS {
                let checksum = checksum(kind, 512);
                let whole = checksum.crc(&data);
                prop_assert_eq!(checksum.crc_append(checksum.crc(a), b), whole);
                let combined = checksum.combine(checksum.crc(a), checksum.crc(b), b.len() as u64);
                prop_assert_eq!(combined, whole);
            }
        }

        #[test]
        fn combining_agrees_with_crc_fast_at_any_length(a: u32, b: u32, len in 0..u64::MAX / 8) {
            let expected = crc_fast::checksum_combine(
                crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(a), u64::from(b), len);
            prop_assert_eq!(
                u64::from(checksum(ChecksumType::Crc32c, 512).combine(a, b, len)), expected);
        }

        #[test]
        fn what_was_filled_verifies_and_a_flipped_bit_does_not(
            data in proptest::collection::vec(any::<u8>(), 1..3000),
            bytes_per_checksum in 1u32..1200,
            flip in any::<prop::sample::Index>(),
        ) {
            for kind in [ChecksumType::Crc32, ChecksumType::Crc32c] {
                let checksum = checksum(kind, bytes_per_checksum);
                let mut crcs = vec![0; checksum.checksums_len(data.len() as u64) as usize];
                checksum.fill(&data, &mut crcs);
                prop_assert_eq!(checksum.verify(&data, &crcs), Ok(()));
                let mut damaged = data.clone();
                let at = flip.index(damaged.len());
                damaged[at] ^= 1;
                let mismatch = checksum.verify(&damaged, &crcs).unwrap_err();
                prop_assert_eq!(mismatch.chunk_index, at / bytes_per_checksum as usize);
            }
        }
    }
}

//! Checksums of HDFS: one CRC per chunk of `bytes_per_checksum` bytes, big-endian, and what whole
//! blocks and files are summed up to (MD5 of CRCs, composite CRC).

use crate::ProtocolError;
use crate::messages::ChecksumProto;

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

impl DataChecksum {
    /// Refuses a chunk size of 0 or beyond [`crate::limits::BYTES_PER_CHECKSUM_MAX`].
    pub fn new(kind: ChecksumType, bytes_per_checksum: u32) -> Result<Self, ProtocolError> {
        let _ = (kind, bytes_per_checksum);
        todo!()
    }

    pub fn from_proto(proto: &ChecksumProto) -> Result<Self, ProtocolError> {
        let _ = proto;
        todo!()
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
        let _ = data;
        todo!()
    }

    /// Continues a CRC over more bytes: `crc_append(crc(a), b) == crc(a ++ b)`.
    pub fn crc_append(self, crc: u32, data: &[u8]) -> u32 {
        let _ = (crc, data);
        todo!()
    }

    /// Writes the checksums of `data`'s chunks into `out`, whose length must be
    /// `checksums_len(data.len())`.
    pub fn fill(self, data: &[u8], out: &mut [u8]) {
        let _ = (data, out);
        todo!()
    }

    /// Verifies `data` chunk by chunk against `checksums`. Panics only if the lengths do not belong
    /// together, which callers check when they decode the packet.
    pub fn verify(self, data: &[u8], checksums: &[u8]) -> Result<(), ChecksumMismatch> {
        let _ = (data, checksums);
        todo!()
    }

    /// CRC of `a ++ b` from the two CRCs and the length of `b`, without the bytes
    /// (COMPOSITE_CRC of HDFS: `crc(a) * x^(8 |b|) mod P ^ crc(b)`).
    pub fn combine(self, crc_a: u32, crc_b: u32, len_b: u64) -> u32 {
        let _ = (crc_a, crc_b, len_b);
        todo!()
    }
}

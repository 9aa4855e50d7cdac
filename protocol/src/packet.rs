//! Data packets and pipeline acks of DataTransferProtocol.
//!
//! | bytes | field |
//! |---|---|
//! | 4, big-endian | PLEN = 4 + checksum bytes + data bytes |
//! | 2, big-endian | HLEN = length of the header |
//! | HLEN | `PacketHeaderProto`, not delimited: 25 bytes, 27 with `syncBlock` |
//! | n x 4 | checksums, one big-endian CRC per chunk |
//! | dataLen | data |

use bytes::BytesMut;

use crate::ProtocolError;
use crate::messages::Status;

/// PLEN and HLEN together.
pub const PACKET_LENGTHS_BYTES: usize = 6;
/// Lengths and header of a packet that we encode, at most (`syncBlock` set).
pub const PACKET_PREFIX_MAX_BYTES: usize = PACKET_LENGTHS_BYTES + 27;
/// `seqno` of a heartbeat packet and of its ack.
pub const HEARTBEAT_SEQNO: i64 = -1;
/// `seqno` of an out-of-band ack (`OOB_RESTART`).
pub const OOB_SEQNO: i64 = -2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHeader {
    pub offset_in_block: u64,
    pub seqno: i64,
    pub last_packet_in_block: bool,
    pub data_len: u32,
    pub sync_block: bool,
}

/// A packet's header with the lengths of its parts, in the order in which they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketFrame {
    pub header: PacketHeader,
    /// PLEN, HLEN and the header together.
    pub prefix_len: usize,
    pub checksums_len: usize,
    pub data_len: usize,
}

impl PacketFrame {
    /// Length of the whole packet on the wire.
    pub fn total_len(&self) -> usize {
        self.prefix_len + self.checksums_len + self.data_len
    }
}

/// Decodes lengths and header from the front of `buf`; `None` when more bytes are needed.
///
/// Refuses PLEN below 4, a packet beyond [`crate::limits::PACKET_MAX_BYTES`], negative offsets and
/// lengths, data longer than PLEN allows, data in a last packet.
pub fn decode_packet_prefix(buf: &[u8]) -> Result<Option<PacketFrame>, ProtocolError> {
    let _ = buf;
    todo!()
}

/// Encodes lengths and header into the front of `out`; returns how many bytes they took.
/// `syncBlock` is encoded only when set, as Java does, so the length is 31 or 33.
pub fn encode_packet_prefix(
    header: &PacketHeader,
    checksums_len: usize,
    out: &mut [u8; PACKET_PREFIX_MAX_BYTES],
) -> usize {
    let _ = (header, checksums_len, out);
    todo!()
}

/// The ack of one packet: `replies[0]` is the sender's own status, the rest its downstream nodes'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineAck {
    pub seqno: i64,
    pub replies: Vec<Status>,
    pub downstream_ack_time_nanos: u64,
}

/// Decodes one varint-delimited ack; `None` when more bytes are needed. A reply is taken from its
/// `flag` (bits 0-3) when flags are present. An unknown status decodes as [`Status::Error`].
pub fn decode_ack(buf: &[u8]) -> Result<Option<(PipelineAck, usize)>, ProtocolError> {
    let _ = buf;
    todo!()
}

/// Appends the varint-delimited ack with both replies and flags (ECN disabled).
pub fn encode_ack(
    seqno: i64,
    replies: &[Status],
    downstream_ack_time_nanos: u64,
    out: &mut BytesMut,
) {
    let _ = (seqno, replies, downstream_ack_time_nanos, out);
    todo!()
}

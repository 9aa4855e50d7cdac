//! Data packets of DataTransferProtocol, and the acks that answer them.
//!
//! | bytes | field |
//! |---|---|
//! | 4, big-endian | PLEN = 4 + checksum bytes + data bytes |
//! | 2, big-endian | HLEN = length of the header |
//! | HLEN | `PacketHeaderProto`, not delimited: 25 bytes, 27 with `syncBlock` |
//! | n x 4 | checksums, one big-endian CRC per chunk |
//! | dataLen | data |

mod ack;

pub use ack::{PipelineAck, Replies, decode_ack, encode_ack};

use crate::ProtocolError;
use crate::limits::{PACKET_HEADER_MAX_BYTES, PACKET_MAX_BYTES};
use crate::wire::{FieldValue, Fields};

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
    let Some(&[p0, p1, p2, p3, h0, h1]) = buf.first_chunk::<PACKET_LENGTHS_BYTES>() else {
        return Ok(None);
    };
    let payload_len = i32::from_be_bytes([p0, p1, p2, p3]);
    let header_len = usize::from(u16::from_be_bytes([h0, h1]));
    check_packet_lengths(payload_len, header_len)?;
    let prefix_len = PACKET_LENGTHS_BYTES + header_len;
    let Some(header_bytes) = buf.get(PACKET_LENGTHS_BYTES..prefix_len) else {
        return Ok(None);
    };
    let header =
        decode_usual_header(header_bytes).map_or_else(|| decode_header(header_bytes), Ok)?;
    let (Ok(offset_in_block), Ok(data_len)) =
        (u64::try_from(header.offset_in_block), usize::try_from(header.data_len))
    else {
        let why =
            format!("offset {} or data length {} below 0", header.offset_in_block, header.data_len);
        return Err(ProtocolError::malformed("packet", why));
    };
    // Not below 0: check_packet_lengths saw that the payload holds its own 4 bytes.
    let Some(checksums_len) = (payload_len as usize - 4).checked_sub(data_len) else {
        let why = format!("{data_len} bytes of data in a payload of {payload_len}");
        return Err(ProtocolError::malformed("packet", why));
    };
    if header.last_packet_in_block && data_len > 0 {
        let why = format!("the last packet of a block carries {data_len} bytes of data");
        return Err(ProtocolError::malformed("packet", why));
    }
    Ok(Some(PacketFrame {
        header: PacketHeader {
            offset_in_block,
            seqno: header.seqno,
            last_packet_in_block: header.last_packet_in_block,
            data_len: data_len as u32,
            sync_block: header.sync_block,
        },
        prefix_len,
        checksums_len,
        data_len,
    }))
}

/// Encodes lengths and header into the front of `out`; returns how many bytes they took.
/// `syncBlock` is encoded only when set, as Java does, so the length is 31 or 33.
pub fn encode_packet_prefix(
    header: &PacketHeader,
    checksums_len: usize,
    out: &mut [u8; PACKET_PREFIX_MAX_BYTES],
) -> usize {
    let payload_len = 4 + checksums_len as u32 + header.data_len;
    let header_len = if header.sync_block { HEADER_BYTES + 2 } else { HEADER_BYTES };
    out[0..4].copy_from_slice(&payload_len.to_be_bytes());
    out[4..6].copy_from_slice(&(header_len as u16).to_be_bytes());
    out[6] = TAG_OFFSET;
    out[7..15].copy_from_slice(&header.offset_in_block.to_le_bytes());
    out[15] = TAG_SEQNO;
    out[16..24].copy_from_slice(&header.seqno.to_le_bytes());
    out[24] = TAG_LAST;
    out[25] = u8::from(header.last_packet_in_block);
    out[26] = TAG_DATA_LEN;
    out[27..31].copy_from_slice(&header.data_len.to_le_bytes());
    if header.sync_block {
        out[31] = TAG_SYNC;
        out[32] = 1;
    }
    PACKET_LENGTHS_BYTES + header_len
}

const PACKET: &str = "packet header";

/// Length of `PacketHeaderProto` without `syncBlock`, and the keys of its fields.
const HEADER_BYTES: usize = 25;
const TAG_OFFSET: u8 = 1 << 3 | WIRE_FIXED64;
const TAG_SEQNO: u8 = 2 << 3 | WIRE_FIXED64;
const TAG_LAST: u8 = 3 << 3;
const TAG_DATA_LEN: u8 = 4 << 3 | WIRE_FIXED32;
const TAG_SYNC: u8 = 5 << 3;
const WIRE_FIXED64: u8 = 1;
const WIRE_FIXED32: u8 = 5;

/// `PacketHeaderProto` as its fields say, before anything is made of them.
struct RawHeader {
    offset_in_block: i64,
    seqno: i64,
    last_packet_in_block: bool,
    data_len: i32,
    sync_block: bool,
}

fn check_packet_lengths(payload_len: i32, header_len: usize) -> Result<(), ProtocolError> {
    if payload_len < 4 {
        return Err(ProtocolError::malformed("packet", format!("payload of {payload_len} bytes")));
    }
    if header_len > PACKET_HEADER_MAX_BYTES {
        let limit = PACKET_HEADER_MAX_BYTES as u64;
        return Err(ProtocolError::TooLong { what: PACKET, len: header_len as u64, limit });
    }
    let len = payload_len as u64 + header_len as u64;
    if len > PACKET_MAX_BYTES as u64 {
        let limit = PACKET_MAX_BYTES as u64;
        return Err(ProtocolError::TooLong { what: "packet", len, limit });
    }
    Ok(())
}

/// The header as every known client writes it: fields in order, each once.
fn decode_usual_header(bytes: &[u8]) -> Option<RawHeader> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let sync_block = match *rest {
        [] => false,
        [TAG_SYNC, sync @ 0..=1] => sync == 1,
        _ => return None,
    };
    let &[
        TAG_OFFSET,
        o0,
        o1,
        o2,
        o3,
        o4,
        o5,
        o6,
        o7,
        TAG_SEQNO,
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        TAG_LAST,
        last @ 0..=1,
        TAG_DATA_LEN,
        d0,
        d1,
        d2,
        d3,
    ] = header
    else {
        return None;
    };
    Some(RawHeader {
        offset_in_block: i64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
        seqno: i64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        last_packet_in_block: last == 1,
        data_len: i32::from_le_bytes([d0, d1, d2, d3]),
        sync_block,
    })
}

/// Any other order of fields, and fields of a later version, which are skipped.
fn decode_header(bytes: &[u8]) -> Result<RawHeader, ProtocolError> {
    let (mut offset, mut seqno, mut last, mut data_len, mut sync) = (None, None, None, None, false);
    let mut fields = Fields::new(PACKET, bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, FieldValue::Fixed64(bytes)) => offset = Some(i64::from_le_bytes(bytes)),
            (2, FieldValue::Fixed64(bytes)) => seqno = Some(i64::from_le_bytes(bytes)),
            (3, FieldValue::Varint(value)) => last = Some(value != 0),
            (4, FieldValue::Fixed32(bytes)) => data_len = Some(i32::from_le_bytes(bytes)),
            (5, FieldValue::Varint(value)) => sync = value != 0,
            _ => {}
        }
    }
    let missing = |field| ProtocolError::malformed(PACKET, format!("{field} is missing"));
    Ok(RawHeader {
        offset_in_block: offset.ok_or_else(|| missing("offsetInBlock"))?,
        seqno: seqno.ok_or_else(|| missing("seqno"))?,
        last_packet_in_block: last.ok_or_else(|| missing("lastPacketInBlock"))?,
        data_len: data_len.ok_or_else(|| missing("dataLen"))?,
        sync_block: sync,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::messages::PacketHeaderProto;

    const HEADER: PacketHeader = PacketHeader {
        offset_in_block: 0x0102,
        seqno: 3,
        last_packet_in_block: false,
        data_len: 1024,
        sync_block: false,
    };

    fn packet(proto: &PacketHeaderProto, payload_len: i32, unknown_fields: &[u8]) -> Vec<u8> {
        let header = [&proto.encode_to_vec()[..], unknown_fields].concat();
        let mut bytes = payload_len.to_be_bytes().to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&header);
        bytes
    }

    fn proto(header: &PacketHeader) -> PacketHeaderProto {
        PacketHeaderProto {
            offset_in_block: header.offset_in_block as i64,
            seqno: header.seqno,
            last_packet_in_block: header.last_packet_in_block,
            data_len: header.data_len as i32,
            sync_block: header.sync_block.then_some(true),
        }
    }

    #[test]
    fn a_packet_has_the_bytes_of_the_protocol() {
        let mut out = [0; PACKET_PREFIX_MAX_BYTES];
        let len = encode_packet_prefix(&HEADER, 8, &mut out);
        let golden = b"\x00\x00\x04\x0c\x00\x19\x09\x02\x01\0\0\0\0\0\0\x11\x03\0\0\0\0\0\0\0\x18\x00\x25\x00\x04\0\0";
        assert_eq!(&out[..len], golden);
        for end in 0..len {
            assert_eq!(decode_packet_prefix(&out[..end]), Ok(None), "{end} bytes");
        }
        let frame =
            PacketFrame { header: HEADER, prefix_len: 31, checksums_len: 8, data_len: 1024 };
        assert_eq!(decode_packet_prefix(&out[..len]), Ok(Some(frame)));
        assert_eq!(frame.total_len(), 31 + 8 + 1024);
    }

    #[test]
    fn packets_that_cannot_be_are_refused() {
        let cases: [(PacketHeaderProto, i32); 6] = [
            (proto(&HEADER), 3),
            (proto(&HEADER), -1),
            (proto(&HEADER), 1027),
            (proto(&HEADER), PACKET_MAX_BYTES as i32 - 24),
            (PacketHeaderProto { data_len: -1, ..proto(&HEADER) }, 1028),
            (PacketHeaderProto { last_packet_in_block: true, ..proto(&HEADER) }, 1028),
        ];
        for (proto, payload_len) in cases {
            let decoded = decode_packet_prefix(&packet(&proto, payload_len, &[]));
            assert!(decoded.is_err(), "{payload_len}: {decoded:?}");
        }
        let negative = PacketHeaderProto { offset_in_block: -1, ..proto(&HEADER) };
        assert!(decode_packet_prefix(&packet(&negative, 1028, &[])).is_err());
        assert!(decode_packet_prefix(&[0, 0, 0, 4, 0x04, 0x01]).is_err(), "header of 1025 bytes");
        assert!(decode_packet_prefix(&[0, 0, 0, 4, 0, 0]).is_err(), "header without fields");
    }

    proptest! {
        #[test]
        fn packet_headers_agree_with_prost(
            offset: i64, seqno: i64, last: bool, data_len: i32, sync: Option<bool>,
            checksums_len in 0..1000i32, has_unknown: bool,
        ) {
            let proto = PacketHeaderProto {
                offset_in_block: offset, seqno, last_packet_in_block: last, data_len,
                sync_block: sync,
            };
            let payload_len = data_len.saturating_add(4 + checksums_len);
            let unknown: &[u8] =
                if has_unknown { b"\x30\x96\x01\x3a\x02ab\x41\0\0\0\0\0\0\0\0\x4d\0\0\0\0" } else { b"" };
            match decode_packet_prefix(&packet(&proto, payload_len, unknown)) {
                Ok(decoded) => {
                    let frame = decoded.unwrap();
                    prop_assert_eq!(frame.header.offset_in_block as i64, offset);
                    prop_assert_eq!(frame.header.seqno, seqno);
                    prop_assert_eq!(frame.header.last_packet_in_block, last);
                    prop_assert_eq!(frame.header.data_len as i32, data_len);
                    prop_assert_eq!(frame.header.sync_block, sync.unwrap_or(false));
                    prop_assert_eq!(frame.checksums_len as i32, checksums_len);
                }
                Err(_) => prop_assert!(
                    offset < 0 || data_len < 0 || last && data_len > 0
                        || payload_len > PACKET_MAX_BYTES as i32 - 60
                ),
            }
        }

        #[test]
        fn packet_prefixes_round_trip(
            offset in 0..i64::MAX as u64, seqno: i64, last: bool, sync: bool,
            data_len in 0..1u32 << 20, checksums_len in 0..1usize << 16,
        ) {
            let header = PacketHeader {
                offset_in_block: offset, seqno, last_packet_in_block: last, sync_block: sync,
                data_len: if last { 0 } else { data_len },
            };
            let mut out = [0; PACKET_PREFIX_MAX_BYTES];
            let prefix_len = encode_packet_prefix(&header, checksums_len, &mut out);
            prop_assert_eq!(&out[6..prefix_len], &proto(&header).encode_to_vec()[..]);
            let data_len = header.data_len as usize;
            prop_assert_eq!(
                decode_packet_prefix(&out[..prefix_len]),
                Ok(Some(PacketFrame { header, prefix_len, checksums_len, data_len })));
        }

        #[test]
        fn fields_in_any_order_mean_the_same(seqno: i64, offset in 0..i64::MAX) {
            let usual = PacketHeaderProto {
                offset_in_block: offset, seqno, last_packet_in_block: true, data_len: 0,
                sync_block: Some(true),
            };
            let bytes = usual.encode_to_vec();
            let (mut swapped, last_fields) = (bytes[9..].to_vec(), &bytes[..9]);
            swapped.extend_from_slice(last_fields);
            let mut prefix = vec![0, 0, 0, 4, 0, 27];
            prefix.extend_from_slice(&swapped);
            prop_assert_eq!(
                decode_packet_prefix(&prefix), decode_packet_prefix(&packet(&usual, 4, &[])));
        }

        #[test]
        fn any_bytes_are_a_packet_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = decode_packet_prefix(&bytes);
            let mut plausible = vec![0, 0, 1, 0, 0, bytes.len() as u8];
            plausible.extend_from_slice(&bytes);
            if let Ok(Some(frame)) = decode_packet_prefix(&plausible) {
                prop_assert_eq!(frame.prefix_len, plausible.len());
                prop_assert_eq!(frame.checksums_len + frame.data_len, 0x100 - 4);
            }
        }

    }
}

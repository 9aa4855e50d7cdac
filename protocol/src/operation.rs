//! Operations of DataTransferProtocol version 28 and their replies.
//!
//! `uint16 version | uint8 opcode | varint-delimited operation message`; the reply is a
//! varint-delimited `BlockOpResponseProto`.

use bytes::{BufMut, BytesMut};
use prost::Message;

use crate::ProtocolError;
use crate::limits::OPERATION_MAX_BYTES;
use crate::messages::{
    BlockOpResponseProto, OpBlockChecksumProto, OpCopyBlockProto, OpReadBlockProto,
    OpReplaceBlockProto, OpRequestShortCircuitAccessProto, OpTransferBlockProto, OpWriteBlockProto,
    ReleaseShortCircuitAccessRequestProto, ShortCircuitShmRequestProto,
};
use crate::wire::{decode_delimited, encode_delimited};

pub const DATA_TRANSFER_VERSION: u16 = 28;
/// Version and opcode.
const OPERATION_PREFIX_BYTES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    WriteBlock = 80,
    ReadBlock = 81,
    ReadMetadata = 82,
    ReplaceBlock = 83,
    CopyBlock = 84,
    BlockChecksum = 85,
    TransferBlock = 86,
    RequestShortCircuitFds = 87,
    ReleaseShortCircuitFds = 88,
    RequestShortCircuitShm = 89,
    BlockGroupChecksum = 90,
    Custom = 127,
}

impl Opcode {
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            80 => Self::WriteBlock,
            81 => Self::ReadBlock,
            82 => Self::ReadMetadata,
            83 => Self::ReplaceBlock,
            84 => Self::CopyBlock,
            85 => Self::BlockChecksum,
            86 => Self::TransferBlock,
            87 => Self::RequestShortCircuitFds,
            88 => Self::ReleaseShortCircuitFds,
            89 => Self::RequestShortCircuitShm,
            90 => Self::BlockGroupChecksum,
            127 => Self::Custom,
            _ => return None,
        })
    }
}

/// A decoded operation request.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    WriteBlock(Box<OpWriteBlockProto>),
    ReadBlock(Box<OpReadBlockProto>),
    ReplaceBlock(Box<OpReplaceBlockProto>),
    CopyBlock(Box<OpCopyBlockProto>),
    BlockChecksum(Box<OpBlockChecksumProto>),
    TransferBlock(Box<OpTransferBlockProto>),
    RequestShortCircuitFds(Box<OpRequestShortCircuitAccessProto>),
    ReleaseShortCircuitFds(Box<ReleaseShortCircuitAccessRequestProto>),
    RequestShortCircuitShm(Box<ShortCircuitShmRequestProto>),
    /// Known to HDFS, not served here: the handler answers with the status the opcode calls for.
    Refused(Opcode),
}

/// Decodes one operation from the front of `buf`: the operation and the bytes it took, or `None`
/// when more are needed. A wrong version or an unknown opcode is an error as soon as it is seen.
pub fn decode_operation(buf: &[u8]) -> Result<Option<(Operation, usize)>, ProtocolError> {
    let Some(version) = buf.first_chunk::<2>() else {
        return Ok(None);
    };
    let received = u16::from_be_bytes(*version);
    if received != DATA_TRANSFER_VERSION {
        return Err(ProtocolError::VersionMismatch { expected: DATA_TRANSFER_VERSION, received });
    }
    let Some(&code) = buf.get(2) else {
        return Ok(None);
    };
    let opcode = Opcode::from_code(code).ok_or(ProtocolError::UnknownOperation { code })?;
    let decoded = decode_message(opcode, &buf[OPERATION_PREFIX_BYTES..])?;
    Ok(decoded.map(|(operation, len)| (operation, OPERATION_PREFIX_BYTES + len)))
}

/// Appends version, opcode and the delimited message.
pub fn encode_operation<M: Message>(opcode: Opcode, message: &M, out: &mut BytesMut) {
    out.put_u16(DATA_TRANSFER_VERSION);
    out.put_u8(opcode as u8);
    encode_delimited(message, out);
}

/// Decodes a varint-delimited reply; `None` when more bytes are needed.
pub fn decode_response(buf: &[u8]) -> Result<Option<(BlockOpResponseProto, usize)>, ProtocolError> {
    decode_delimited("BlockOpResponseProto", buf, OPERATION_MAX_BYTES)
}

fn decode_message(opcode: Opcode, buf: &[u8]) -> Result<Option<(Operation, usize)>, ProtocolError> {
    match opcode {
        Opcode::WriteBlock => message("OpWriteBlockProto", buf, Operation::WriteBlock),
        Opcode::ReadBlock => message("OpReadBlockProto", buf, Operation::ReadBlock),
        Opcode::ReplaceBlock => message("OpReplaceBlockProto", buf, Operation::ReplaceBlock),
        Opcode::CopyBlock => message("OpCopyBlockProto", buf, Operation::CopyBlock),
        Opcode::BlockChecksum => message("OpBlockChecksumProto", buf, Operation::BlockChecksum),
        Opcode::TransferBlock => message("OpTransferBlockProto", buf, Operation::TransferBlock),
        Opcode::RequestShortCircuitFds => {
            let what = "OpRequestShortCircuitAccessProto";
            message(what, buf, Operation::RequestShortCircuitFds)
        }
        Opcode::ReleaseShortCircuitFds => {
            let what = "ReleaseShortCircuitAccessRequestProto";
            message(what, buf, Operation::ReleaseShortCircuitFds)
        }
        Opcode::RequestShortCircuitShm => {
            message("ShortCircuitShmRequestProto", buf, Operation::RequestShortCircuitShm)
        }
        // No message is defined for it.
        Opcode::ReadMetadata => Ok(Some((Operation::Refused(opcode), 0))),
        Opcode::BlockGroupChecksum | Opcode::Custom => {
            // The empty message decodes from any fields: it only walks over them.
            let skipped = decode_delimited::<()>("operation message", buf, OPERATION_MAX_BYTES)?;
            Ok(skipped.map(|((), len)| (Operation::Refused(opcode), len)))
        }
    }
}

fn message<M: Message + Default>(
    what: &'static str,
    buf: &[u8],
    wrap: fn(Box<M>) -> Operation,
) -> Result<Option<(Operation, usize)>, ProtocolError> {
    let decoded = decode_delimited::<M>(what, buf, OPERATION_MAX_BYTES)?;
    Ok(decoded.map(|(message, len)| (wrap(Box::new(message)), len)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messages::{
        BaseHeaderProto, ClientOperationHeaderProto, ExtendedBlockProto, ReadOpChecksumInfoProto,
        Status,
    };

    fn read_block() -> OpReadBlockProto {
        OpReadBlockProto {
            header: ClientOperationHeaderProto {
                base_header: BaseHeaderProto {
                    block: ExtendedBlockProto {
                        pool_id: "BP-1".into(),
                        block_id: 7,
                        generation_stamp: 1001,
                        num_bytes: Some(5),
                    },
                    token: None,
                    trace_info: None,
                },
                client_name: "c".into(),
            },
            offset: 1,
            len: 4,
            send_checksums: Some(true),
            caching_strategy: None,
        }
    }

    #[test]
    fn a_read_request_has_the_bytes_of_the_protocol() {
        let mut out = BytesMut::new();
        encode_operation(Opcode::ReadBlock, &read_block(), &mut out);
        let golden = b"\x00\x1c\x51\x1c\x0a\x14\x0a\x0f\x0a\x0d\x0a\x04BP-1\x10\x07\x18\xe9\x07\x20\x05\x12\x01c\x10\x01\x18\x04\x20\x01";
        assert_eq!(&out[..], golden);
        for end in 0..out.len() {
            assert_eq!(decode_operation(&out[..end]), Ok(None), "{end} bytes");
        }
        out.extend_from_slice(b"next");
        let operation = Operation::ReadBlock(Box::new(read_block()));
        assert_eq!(decode_operation(&out), Ok(Some((operation, golden.len()))));
    }

    #[test]
    fn a_wrong_version_or_opcode_is_refused_before_more_is_read() {
        let version = decode_operation(&[0, 27]);
        assert_eq!(version, Err(ProtocolError::VersionMismatch { expected: 28, received: 27 }));
        let opcode = decode_operation(&[0, 28, 79]);
        assert_eq!(opcode, Err(ProtocolError::UnknownOperation { code: 79 }));
        let length = decode_operation(&[0, 28, 81, 0xff, 0xff, 0xff, 0x7f]);
        assert!(matches!(length, Err(ProtocolError::TooLong { .. })), "{length:?}");
    }

    #[test]
    fn every_opcode_is_found_by_its_code() {
        let known: Vec<u8> =
            (0..=u8::MAX).filter(|&code| Opcode::from_code(code).is_some()).collect();
        assert_eq!(known, [80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 127]);
        for code in known {
            assert_eq!(Opcode::from_code(code).map(|opcode| opcode as u8), Some(code));
        }
    }

    #[test]
    fn operations_not_served_are_walked_over() {
        let group_checksum = [0, 28, 90, 2, 0x10, 1, 0xaa];
        let refused = Operation::Refused(Opcode::BlockGroupChecksum);
        assert_eq!(decode_operation(&group_checksum), Ok(Some((refused, 6))));
        let metadata = decode_operation(&[0, 28, 82]);
        assert_eq!(metadata, Ok(Some((Operation::Refused(Opcode::ReadMetadata), 3))));
    }

    #[test]
    fn a_reply_round_trips() {
        let reply = BlockOpResponseProto {
            status: Status::Success as i32,
            read_op_checksum_info: Some(ReadOpChecksumInfoProto::default()),
            ..Default::default()
        };
        let mut out = BytesMut::new();
        encode_delimited(&reply, &mut out);
        assert_eq!(decode_response(&out), Ok(Some((reply, out.len()))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_operation_or_an_error(
            opcode: u8,
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            delimited: bool,
        ) {
            let mut request = vec![0, 28, opcode];
            if delimited {
                prost::encode_length_delimiter(bytes.len(), &mut request).unwrap();
            }
            request.extend_from_slice(&bytes);
            for buf in [&request[..], &bytes[..]] {
                if let Ok(Some((_, len))) = decode_operation(buf) {
                    prop_assert!(len <= buf.len());
                }
                let _ = decode_response(buf);
            }
        }
    }
}

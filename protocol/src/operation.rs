//! Operations of DataTransferProtocol version 28 and their replies.
//!
//! `uint16 version | uint8 opcode | varint-delimited operation message`; the reply is a
//! varint-delimited `BlockOpResponseProto`.

use bytes::BytesMut;
use prost::Message;

use crate::ProtocolError;
use crate::messages::{
    BlockOpResponseProto, OpBlockChecksumProto, OpCopyBlockProto, OpReadBlockProto,
    OpReplaceBlockProto, OpTransferBlockProto, OpWriteBlockProto,
};

pub const DATA_TRANSFER_VERSION: u16 = 28;

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

/// A decoded operation request.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    WriteBlock(Box<OpWriteBlockProto>),
    ReadBlock(Box<OpReadBlockProto>),
    ReplaceBlock(Box<OpReplaceBlockProto>),
    CopyBlock(Box<OpCopyBlockProto>),
    BlockChecksum(Box<OpBlockChecksumProto>),
    TransferBlock(Box<OpTransferBlockProto>),
    /// Known to HDFS, not served here: the handler answers with the status the opcode calls for.
    Refused(Opcode),
}

/// Decodes one operation from the front of `buf`: the operation and the bytes it took, or `None`
/// when more are needed. A wrong version or an unknown opcode is an error as soon as it is seen.
pub fn decode_operation(buf: &[u8]) -> Result<Option<(Operation, usize)>, ProtocolError> {
    let _ = buf;
    todo!()
}

/// Appends version, opcode and the delimited message.
pub fn encode_operation<M: Message>(opcode: Opcode, message: &M, out: &mut BytesMut) {
    let _ = (opcode, message, out);
    todo!()
}

/// Decodes a varint-delimited reply; `None` when more bytes are needed.
pub fn decode_response(buf: &[u8]) -> Result<Option<(BlockOpResponseProto, usize)>, ProtocolError> {
    crate::wire::decode_delimited("BlockOpResponseProto", buf, crate::limits::OPERATION_MAX_BYTES)
}

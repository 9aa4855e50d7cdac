//! Pipeline acks: one for each packet, from the last datanode of a pipeline up to the writer, each
//! node putting its own status in front of those it received.

use bytes::{BufMut, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};
use smallvec::SmallVec;

use crate::ProtocolError;
use crate::limits::{ACK_MAX_BYTES, PIPELINE_MAX_DATANODES};
use crate::messages::Status;
use crate::wire::{FieldValue, Fields, decode_varint, whole_varint};

/// One status for each datanode of a pipeline; as many as there are as a rule take no memory.
pub type Replies = SmallVec<[Status; 4]>;

/// The ack of one packet: `replies[0]` is the sender's own status, the rest its downstream nodes'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineAck {
    pub seqno: i64,
    pub replies: Replies,
    pub downstream_ack_time_nanos: u64,
}

/// Decodes one varint-delimited ack; `None` when more bytes are needed. A reply is taken from its
/// `flag` (bits 0-3) when flags are present. An unknown status decodes as [`Status::Error`].
pub fn decode_ack(buf: &[u8]) -> Result<Option<(PipelineAck, usize)>, ProtocolError> {
    let Some((len, prefix)) = decode_varint(ACK, buf)? else {
        return Ok(None);
    };
    if len > ACK_MAX_BYTES as u64 {
        return Err(ProtocolError::TooLong { what: ACK, len, limit: ACK_MAX_BYTES as u64 });
    }
    let end = prefix + len as usize;
    let Some(body) = buf.get(prefix..end) else {
        return Ok(None);
    };
    Ok(Some((decode_ack_body(body)?, end)))
}

/// Appends the varint-delimited ack with both replies and flags (ECN disabled).
pub fn encode_ack(
    seqno: i64,
    replies: &[Status],
    downstream_ack_time_nanos: u64,
    out: &mut BytesMut,
) {
    let seqno = zigzag(seqno);
    // A status is below 16, so its number is one byte of a varint and itself the flag.
    let mut len = 1 + encoded_len_varint(seqno) + 2 * replies.len();
    if downstream_ack_time_nanos != 0 {
        len += 1 + encoded_len_varint(downstream_ack_time_nanos);
    }
    if !replies.is_empty() {
        len += 1 + encoded_len_varint(replies.len() as u64) + replies.len();
    }
    out.reserve(len + 3);
    encode_varint(len as u64, out);
    out.put_u8(0x08);
    encode_varint(seqno, out);
    for &reply in replies {
        out.put_slice(&[0x10, reply as u8]);
    }
    if downstream_ack_time_nanos != 0 {
        out.put_u8(0x18);
        encode_varint(downstream_ack_time_nanos, out);
    }
    if !replies.is_empty() {
        out.put_u8(0x22);
        encode_varint(replies.len() as u64, out);
        out.extend(replies.iter().map(|&reply| reply as u8));
    }
}

const ACK: &str = "PipelineAckProto";

fn decode_ack_body(body: &[u8]) -> Result<PipelineAck, ProtocolError> {
    let mut seqno = None;
    let mut replies = Numbers::new();
    let mut flags = Numbers::new();
    let mut downstream_ack_time_nanos = 0;
    let mut fields = Fields::new(ACK, body);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, FieldValue::Varint(value)) => seqno = Some(unzigzag(value)),
            (2, value) => push_statuses(value, &mut replies)?,
            (3, FieldValue::Varint(value)) => downstream_ack_time_nanos = value,
            (4, value) => push_statuses(value, &mut flags)?,
            _ => {}
        }
    }
    let seqno = seqno.ok_or_else(|| ProtocolError::malformed(ACK, "seqno is missing"))?;
    if !flags.is_empty() && flags.len() != replies.len() {
        let why = format!("{} flags beside {} replies", flags.len(), replies.len());
        return Err(ProtocolError::malformed(ACK, why));
    }
    let statuses = if flags.is_empty() {
        replies
    } else {
        for flag in &mut flags {
            *flag &= FLAG_STATUS_MASK;
        }
        flags
    };
    Ok(PipelineAck {
        seqno,
        replies: statuses.into_iter().map(status).collect(),
        downstream_ack_time_nanos,
    })
}

/// A flag's low bits are a status; above it ECN and slowness, which nobody here acts upon.
const FLAG_STATUS_MASK: u64 = 0xf;

type Numbers = SmallVec<[u64; 4]>;

/// One number, or several packed: both encodings are legal for a repeated field.
fn push_statuses(value: FieldValue, statuses: &mut Numbers) -> Result<(), ProtocolError> {
    match value {
        FieldValue::Varint(number) => statuses.push(number),
        FieldValue::Bytes(mut packed) => {
            while !packed.is_empty() && statuses.len() <= PIPELINE_MAX_DATANODES {
                let (number, len) = whole_varint(ACK, packed)?;
                statuses.push(number);
                packed = &packed[len..];
            }
        }
        FieldValue::Fixed32(_) | FieldValue::Fixed64(_) => {}
    }
    if statuses.len() > PIPELINE_MAX_DATANODES {
        let why = format!("replies of more than {PIPELINE_MAX_DATANODES} datanodes");
        return Err(ProtocolError::malformed(ACK, why));
    }
    Ok(())
}

fn status(number: u64) -> Status {
    i32::try_from(number).ok().and_then(|n| Status::try_from(n).ok()).unwrap_or(Status::Error)
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::messages::PipelineAckProto;
    use crate::packet::OOB_SEQNO;
    use smallvec::smallvec;

    #[test]
    fn an_ack_has_the_bytes_of_the_protocol() {
        let mut out = BytesMut::new();
        encode_ack(1, &[Status::Success, Status::ErrorChecksum], 300, &mut out);
        let golden = b"\x0d\x08\x02\x10\x00\x10\x02\x18\xac\x02\x22\x02\x00\x02";
        assert_eq!(&out[..], golden);
        for end in 0..out.len() {
            assert_eq!(decode_ack(&out[..end]), Ok(None), "{end} bytes");
        }
        let ack = PipelineAck {
            seqno: 1,
            replies: smallvec![Status::Success, Status::ErrorChecksum],
            downstream_ack_time_nanos: 300,
        };
        assert_eq!(decode_ack(&out), Ok(Some((ack, out.len()))));
    }

    #[test]
    fn flags_count_before_replies_and_unknown_statuses_are_errors() {
        let mut bytes = Vec::new();
        let proto = PipelineAckProto {
            seqno: OOB_SEQNO,
            reply: vec![0, 0],
            downstream_ack_time_nanos: None,
            flag: vec![0x28, 0x1af],
        };
        proto.encode_length_delimited(&mut bytes).unwrap();
        let (ack, _) = decode_ack(&bytes).unwrap().unwrap();
        assert_eq!((ack.seqno, ack.replies), (-2, smallvec![Status::OobRestart, Status::Error]));
        let without_flags = decode_ack(&[4, 8, 1, 0x10, 99]).unwrap().unwrap().0;
        assert_eq!((without_flags.seqno, without_flags.replies), (-1, smallvec![Status::Error]));
    }

    #[test]
    fn an_ack_is_bounded() {
        assert!(matches!(decode_ack(&[0x81, 0x80, 0x01]), Err(ProtocolError::TooLong { .. })));
        let mut out = BytesMut::new();
        encode_ack(0, &[Status::Success; PIPELINE_MAX_DATANODES], 0, &mut out);
        assert!(decode_ack(&out).is_ok_and(|ack| ack.is_some()));
        out.clear();
        encode_ack(0, &[Status::Success; PIPELINE_MAX_DATANODES + 1], 0, &mut out);
        assert!(decode_ack(&out).is_err());
        assert!(decode_ack(&[2, 0x10, 0]).is_err(), "no seqno");
        assert!(decode_ack(&[5, 8, 0, 0x22, 1, 0]).is_err(), "a flag without a reply");
    }

    proptest! {
        #[test]
        fn acks_round_trip_and_agree_with_prost(
            seqno: i64, nanos: u64, numbers in proptest::collection::vec(0..14i32, 0..20),
        ) {
            let replies: Replies =
                numbers.iter().map(|&number| Status::try_from(number).unwrap()).collect();
            let mut out = BytesMut::new();
            encode_ack(seqno, &replies, nanos, &mut out);
            let oracle = PipelineAckProto::decode_length_delimited(&out[..]).unwrap();
            prop_assert_eq!(oracle.seqno, seqno);
            prop_assert_eq!(&oracle.reply, &numbers);
            prop_assert_eq!(oracle.downstream_ack_time_nanos.unwrap_or(0), nanos);
            prop_assert_eq!(oracle.flag, numbers.iter().map(|&n| n as u32).collect::<Vec<_>>());
            let ack = PipelineAck { seqno, replies, downstream_ack_time_nanos: nanos };
            prop_assert_eq!(decode_ack(&out), Ok(Some((ack, out.len()))));
        }

        #[test]
        fn any_bytes_are_an_ack_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = decode_ack(&bytes);
            let mut plausible = vec![bytes.len() as u8 + 2, 8, 1];
            plausible.extend_from_slice(&bytes);
            if let Ok(Some((_, len))) = decode_ack(&plausible) {
                prop_assert_eq!(len, plausible.len());
            }
        }
    }
}

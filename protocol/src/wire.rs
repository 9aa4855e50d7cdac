//! Varint-delimited protobuf messages in a byte buffer that may hold only part of one.

use bytes::BytesMut;
use prost::Message;

use crate::ProtocolError;

/// Decodes one varint-delimited message from the front of `buf`.
///
/// `Ok(None)` means that more bytes are needed; otherwise the message and how many bytes it took.
/// A length beyond `limit_bytes` is an error before anything is allocated.
pub fn decode_delimited<M: Message + Default>(
    what: &'static str,
    buf: &[u8],
    limit_bytes: usize,
) -> Result<Option<(M, usize)>, ProtocolError> {
    let Some((len, prefix)) = decode_varint(what, buf)? else {
        return Ok(None);
    };
    if len > limit_bytes as u64 {
        return Err(ProtocolError::TooLong { what, len, limit: limit_bytes as u64 });
    }
    let end = prefix + len as usize;
    let Some(body) = buf.get(prefix..end) else {
        return Ok(None);
    };
    let message =
        M::decode(body).map_err(|error| ProtocolError::malformed(what, error.to_string()))?;
    Ok(Some((message, end)))
}

/// Appends `message` with its varint length in front.
pub fn encode_delimited<M: Message>(message: &M, out: &mut BytesMut) {
    out.reserve(message.encoded_len() + prost::length_delimiter_len(message.encoded_len()));
    message.encode_length_delimited(out).expect("BytesMut grows as needed");
}

/// Decodes a base-128 varint of at most 64 bits: the value and its length in bytes, or `None` when
/// `buf` ends inside it.
pub fn decode_varint(
    what: &'static str,
    buf: &[u8],
) -> Result<Option<(u64, usize)>, ProtocolError> {
    let mut value = 0u64;
    for (index, &byte) in buf.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            break;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if buf.len() >= 10 {
        return Err(ProtocolError::malformed(what, "varint longer than 64 bits"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::ClientReadStatusProto;

    #[test]
    fn a_message_split_anywhere_is_incomplete_until_its_last_byte() {
        let mut out = BytesMut::new();
        encode_delimited(&ClientReadStatusProto { status: 6 }, &mut out);
        for end in 0..out.len() {
            let part = decode_delimited::<ClientReadStatusProto>("status", &out[..end], 64);
            assert_eq!(part, Ok(None), "{end} bytes");
        }
        let whole = decode_delimited::<ClientReadStatusProto>("status", &out, 64);
        assert_eq!(whole, Ok(Some((ClientReadStatusProto { status: 6 }, out.len()))));
    }

    #[test]
    fn an_announced_length_beyond_the_limit_is_refused_at_once() {
        let error = decode_delimited::<ClientReadStatusProto>("status", &[0xff, 0xff, 0x7f], 64);
        assert!(matches!(error, Err(ProtocolError::TooLong { limit: 64, .. })), "{error:?}");
    }

    #[test]
    fn an_endless_varint_is_refused() {
        assert!(decode_varint("length", &[0xff; 10]).is_err());
        assert_eq!(decode_varint("length", &[0xff; 9]), Ok(None));
    }
}

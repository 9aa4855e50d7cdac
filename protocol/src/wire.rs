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

/// The fields of a protobuf message in the order of their bytes, for the decoders written by hand.
pub(crate) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

pub(crate) enum FieldValue<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> Fields<'a> {
    pub(crate) fn new(what: &'static str, message: &'a [u8]) -> Self {
        Self { what, rest: message }
    }

    /// Number and value of the next field; groups are refused.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, FieldValue<'a>)>, ProtocolError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => FieldValue::Varint(self.varint()?),
            1 => FieldValue::Fixed64(self.fixed()?),
            2 => {
                let len = self.varint()?;
                let Some((bytes, rest)) =
                    usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len))
                else {
                    return Err(self.cut_short());
                };
                self.rest = rest;
                FieldValue::Bytes(bytes)
            }
            5 => FieldValue::Fixed32(self.fixed()?),
            wire_type => {
                let why = format!("field of unknown wire type {wire_type}");
                return Err(ProtocolError::malformed(self.what, why));
            }
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, ProtocolError> {
        let (value, len) = whole_varint(self.what, self.rest)?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.cut_short())?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn cut_short(&self) -> ProtocolError {
        ProtocolError::malformed(self.what, "a field is cut short")
    }
}

/// A varint that must be there whole.
pub(crate) fn whole_varint(what: &'static str, buf: &[u8]) -> Result<(u64, usize), ProtocolError> {
    decode_varint(what, buf)?.ok_or_else(|| ProtocolError::malformed(what, "a field is cut short"))
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

//! Framing of Hadoop IPC, sans-IO and for both ends: preamble, request frames, response frames.
//!
//! | frame | content after its 4-byte big-endian length |
//! |---|---|
//! | request | `RpcRequestHeaderProto`, then by call id: `RequestHeaderProto` and the request message (0 and above), `IpcConnectionContextProto` (-3), `RpcSaslProto` (-33), nothing (-4, ping) |
//! | response | `RpcResponseHeaderProto`, on success the response message |
//!
//! Every message is varint-delimited. Which frame may follow which is [`super::session`]'s matter.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::limits::RPC_FRAME_MAX_BYTES;
use crate::messages::{
    IpcConnectionContextProto, OperationProto, RequestHeaderProto, RpcErrorCodeProto, RpcKindProto,
    RpcRequestHeaderProto, RpcResponseHeaderProto, RpcStatusProto, UserInformationProto,
};
use crate::wire::{decode_delimited, decode_varint, encode_delimited};
use crate::{ProtocolError, RemoteError};

pub const IPC_VERSION: u8 = 9;
pub const CONNECTION_CONTEXT_CALL_ID: i32 = -3;
pub const PING_CALL_ID: i32 = -4;
pub const SASL_CALL_ID: i32 = -33;
/// The call id of a reply to bytes in which no call could be read.
pub const INVALID_CALL_ID: i32 = -1;

const MAGIC: [u8; 4] = *b"hrpc";
const PREAMBLE_BYTES: usize = 7;
const AUTH_NONE: u8 = 0x00;
const AUTH_SASL: u8 = 0xdf;
const LENGTH_BYTES: usize = 4;

/// How a client says that it will authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthProtocol {
    None,
    Sasl,
}

/// Why the first bytes of a connection cannot begin Hadoop IPC version 9 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPreamble {
    /// A web browser or a monitoring tool.
    Http,
    Magic([u8; 4]),
    Version(u8),
    Auth(u8),
}

/// What a reply repeats of its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallIdentity {
    pub call_id: i32,
    pub client_id: Vec<u8>,
    pub retry_count: i32,
}

/// A decoded response frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub call_id: i32,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The encoded response message.
    Success(Bytes),
    /// The call failed, the connection lives.
    Error(RemoteError),
    /// The connection is of no more use, and every call on it has failed.
    Fatal(RemoteError),
}

impl CallIdentity {
    /// For replies to bytes in which no call could be read.
    pub fn none() -> Self {
        Self { call_id: INVALID_CALL_ID, client_id: Vec::new(), retry_count: -1 }
    }
}

/// Decodes the 7 bytes that open a connection; `None` when more are needed.
pub fn decode_preamble(buf: &[u8]) -> Result<Option<AuthProtocol>, BadPreamble> {
    let Some(&magic) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    match &magic {
        b"GET " => return Err(BadPreamble::Http),
        &MAGIC => {}
        _ => return Err(BadPreamble::Magic(magic)),
    }
    match *buf {
        [_, _, _, _, version, ..] if version != IPC_VERSION => Err(BadPreamble::Version(version)),
        [_, _, _, _, _, _, AUTH_NONE, ..] => Ok(Some(AuthProtocol::None)),
        [_, _, _, _, _, _, AUTH_SASL, ..] => Ok(Some(AuthProtocol::Sasl)),
        [_, _, _, _, _, _, auth, ..] => Err(BadPreamble::Auth(auth)),
        _ => Ok(None),
    }
}

/// Bytes of the preamble, once [`decode_preamble`] found it whole.
pub const fn preamble_len() -> usize {
    PREAMBLE_BYTES
}

/// Length of the frame at the front of `buf`, without its length field; `None` when that is not
/// there yet. A negative length or one beyond `limit_bytes` is an error.
pub fn decode_frame_len(buf: &[u8], limit_bytes: usize) -> Result<Option<usize>, ProtocolError> {
    let Some(&len) = buf.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let len = i32::from_be_bytes(len);
    match usize::try_from(len) {
        Ok(len) if len <= limit_bytes => Ok(Some(len)),
        Ok(len) => {
            let limit = limit_bytes as u64;
            Err(ProtocolError::TooLong { what: "RPC frame", len: len as u64, limit })
        }
        Err(_) => Err(ProtocolError::malformed("RPC frame", format!("length {len}"))),
    }
}

/// Splits the frame of `len` bytes off the front of `buf`; `None` when it is not all there.
pub fn take_frame(buf: &mut BytesMut, len: usize) -> Option<Bytes> {
    if buf.len() < LENGTH_BYTES + len {
        return None;
    }
    let mut frame = buf.split_to(LENGTH_BYTES + len).freeze();
    Some(frame.split_off(LENGTH_BYTES))
}

/// Decodes a delimited message from the front of a whole frame.
pub fn take_message<M: Message + Default>(
    what: &'static str,
    frame: &mut Bytes,
) -> Result<M, ProtocolError> {
    let Some((message, len)) = decode_delimited::<M>(what, frame, frame.len())? else {
        return Err(ProtocolError::malformed(what, "longer than the frame it came in"));
    };
    let _ = frame.split_to(len);
    Ok(message)
}

/// Splits a delimited message off the front of a whole frame without decoding it.
pub fn take_body(what: &'static str, frame: &mut Bytes) -> Result<Bytes, ProtocolError> {
    let cut_short = || ProtocolError::malformed(what, "longer than the frame it came in");
    let (len, prefix) = decode_varint(what, frame)?.ok_or_else(cut_short)?;
    let mut body = frame.split_off(prefix);
    if len > body.len() as u64 {
        return Err(cut_short());
    }
    *frame = body.split_off(len as usize);
    Ok(body)
}

/// What a client sends before its first call: preamble and connection context.
pub fn encode_connection_start(protocol: &str, user: &str, client_id: &[u8]) -> Bytes {
    let header = request_header(CONNECTION_CONTEXT_CALL_ID, client_id, -1);
    let context = IpcConnectionContextProto {
        user_info: Some(UserInformationProto {
            effective_user: Some(user.to_owned()),
            real_user: None,
        }),
        protocol: Some(protocol.to_owned()),
    };
    let mut out = BytesMut::new();
    out.put_slice(&MAGIC);
    out.put_slice(&[IPC_VERSION, 0, AUTH_NONE]);
    encode_frame(&mut out, |out| {
        encode_delimited(&header, out);
        encode_delimited(&context, out);
    });
    out.freeze()
}

/// One call of `method`; too long a request is refused here instead of by the server.
pub fn encode_request<M: Message>(
    protocol: &str,
    method: &str,
    identity: &CallIdentity,
    request: &M,
) -> Result<Bytes, ProtocolError> {
    let header = request_header(identity.call_id, &identity.client_id, identity.retry_count);
    let method = RequestHeaderProto {
        method_name: method.to_owned(),
        declaring_class_protocol_name: protocol.to_owned(),
        client_protocol_version: 1,
    };
    let mut out = BytesMut::new();
    encode_frame(&mut out, |out| {
        encode_delimited(&header, out);
        encode_delimited(&method, out);
        encode_delimited(request, out);
    });
    if out.len() - LENGTH_BYTES > RPC_FRAME_MAX_BYTES {
        let (len, limit) = ((out.len() - LENGTH_BYTES) as u64, RPC_FRAME_MAX_BYTES as u64);
        return Err(ProtocolError::TooLong { what: "RPC request", len, limit });
    }
    Ok(out.freeze())
}

pub fn encode_ping(client_id: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    let header = request_header(PING_CALL_ID, client_id, -1);
    encode_frame(&mut out, |out| encode_delimited(&header, out));
    out.freeze()
}

/// The reply of a call that succeeded with the encoded message `body`. One too long for a frame
/// becomes an error reply.
pub fn encode_success(identity: &CallIdentity, body: &[u8]) -> Bytes {
    if body.len() > RPC_FRAME_MAX_BYTES - RESPONSE_HEADER_ROOM_BYTES {
        let message = format!("response of {} bytes exceeds {RPC_FRAME_MAX_BYTES}", body.len());
        let error = RemoteError::new(crate::error::java::IO, message);
        return encode_error(identity, RpcErrorCodeProto::ErrorSerializingResponse, &error);
    }
    let header = response_header(identity, RpcStatusProto::Success);
    let mut out = BytesMut::with_capacity(RESPONSE_HEADER_ROOM_BYTES + body.len());
    encode_frame(&mut out, |out| {
        encode_delimited(&header, out);
        prost::encoding::encode_varint(body.len() as u64, out);
        out.put_slice(body);
    });
    out.freeze()
}

/// An error reply; the code says whether it ends the connection.
pub fn encode_error(
    identity: &CallIdentity,
    code: RpcErrorCodeProto,
    error: &RemoteError,
) -> Bytes {
    let is_fatal = code >= RpcErrorCodeProto::FatalUnknown;
    let status = if is_fatal { RpcStatusProto::Fatal } else { RpcStatusProto::Error };
    let header = RpcResponseHeaderProto {
        exception_class_name: Some(error.class.clone()),
        error_msg: Some(error.message.clone()),
        error_detail: Some(code as i32),
        ..response_header(identity, status)
    };
    let mut out = BytesMut::new();
    encode_frame(&mut out, |out| encode_delimited(&header, out));
    out.freeze()
}

/// Decodes a whole response frame. Bytes left over are an error, as is another client's id.
pub fn decode_response(mut frame: Bytes, client_id: &[u8]) -> Result<Response, ProtocolError> {
    const WHAT: &str = "RPC response";
    let header: RpcResponseHeaderProto = take_message(WHAT, &mut frame)?;
    if header.client_id.as_ref().is_some_and(|id| !id.is_empty() && id != client_id) {
        return Err(ProtocolError::malformed(WHAT, "it names another client's id"));
    }
    let remote = RemoteError {
        class: header.exception_class_name.unwrap_or_default(),
        message: header.error_msg.unwrap_or_default(),
    };
    let outcome = match RpcStatusProto::try_from(header.status) {
        Ok(RpcStatusProto::Success) => Outcome::Success(take_body(WHAT, &mut frame)?),
        Ok(RpcStatusProto::Error) => Outcome::Error(remote),
        Ok(RpcStatusProto::Fatal) => Outcome::Fatal(remote),
        Err(_) => {
            let why = format!("unknown status {}", header.status);
            return Err(ProtocolError::malformed(WHAT, why));
        }
    };
    if !frame.is_empty() {
        let why = format!("{} bytes follow the message", frame.len());
        return Err(ProtocolError::malformed(WHAT, why));
    }
    // The wire type is unsigned; negative ids come as their two's complement.
    Ok(Response { call_id: header.call_id as i32, outcome })
}

/// Room for a success header: client id, call id, status, versions and their lengths.
const RESPONSE_HEADER_ROOM_BYTES: usize = 64;

fn encode_frame(out: &mut BytesMut, content: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    content(out);
    let len = (out.len() - start - LENGTH_BYTES) as u32;
    out[start..start + LENGTH_BYTES].copy_from_slice(&len.to_be_bytes());
}

fn request_header(call_id: i32, client_id: &[u8], retry_count: i32) -> RpcRequestHeaderProto {
    RpcRequestHeaderProto {
        rpc_kind: Some(RpcKindProto::RpcProtocolBuffer as i32),
        rpc_op: Some(OperationProto::RpcFinalPacket as i32),
        call_id,
        client_id: client_id.to_vec(),
        retry_count: Some(retry_count),
        ..Default::default()
    }
}

fn response_header(identity: &CallIdentity, status: RpcStatusProto) -> RpcResponseHeaderProto {
    RpcResponseHeaderProto {
        call_id: identity.call_id as u32,
        status: status as i32,
        server_ipc_version_num: Some(u32::from(IPC_VERSION)),
        client_id: Some(identity.client_id.clone()),
        retry_count: Some(identity.retry_count),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messages::GetFileInfoRequestProto;

    fn decode(bytes: &Bytes, client_id: &[u8]) -> Result<Response, ProtocolError> {
        let mut buf = BytesMut::from(&bytes[..]);
        let len = decode_frame_len(&buf, RPC_FRAME_MAX_BYTES)?.unwrap();
        let frame = take_frame(&mut buf, len).unwrap();
        assert!(buf.is_empty());
        decode_response(frame, client_id)
    }

    #[test]
    fn a_ping_has_the_bytes_of_the_protocol() {
        let golden = b"\0\0\0\x0d\x0c\x08\x02\x10\0\x18\x07\x22\x02ab\x28\x01";
        assert_eq!(&encode_ping(b"ab")[..], golden);
    }

    #[test]
    fn a_preamble_is_judged_as_soon_as_a_byte_is_wrong() {
        for (bytes, expected) in [
            (&b"hrp"[..], Ok(None)),
            (b"hrpc\x09\0", Ok(None)),
            (b"hrpc\x09\0\0more", Ok(Some(AuthProtocol::None))),
            (b"hrpc\x09\x07\xdf", Ok(Some(AuthProtocol::Sasl))),
            (b"GET ", Err(BadPreamble::Http)),
            (b"hrpd", Err(BadPreamble::Magic(*b"hrpd"))),
            (b"hrpc\x08", Err(BadPreamble::Version(8))),
            (b"hrpc\x09\0\x01", Err(BadPreamble::Auth(1))),
        ] {
            assert_eq!(decode_preamble(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_response_is_consumed_to_its_last_byte() {
        let whole = encode_success(&CallIdentity::none(), b"body").to_vec();
        let response = decode(&Bytes::from(whole.clone()), &[]).unwrap();
        assert_eq!(response.outcome, Outcome::Success(Bytes::from_static(b"body")));
        assert_eq!(response.call_id, INVALID_CALL_ID);
        let frame = |bytes: &[u8]| decode_response(Bytes::copy_from_slice(bytes), &[]);
        assert!(frame(&[&whole[4..], &[0][..]].concat()).is_err(), "a byte too many");
        assert!(frame(&whole[4..whole.len() - 1]).is_err(), "a byte short");
    }

    #[test]
    fn a_response_beyond_the_limit_becomes_an_error() {
        let reply = encode_success(&CallIdentity::none(), &vec![0; RPC_FRAME_MAX_BYTES]);
        assert!(matches!(decode(&reply, &[]).unwrap().outcome, Outcome::Error(_)));
    }

    proptest! {
        #[test]
        fn replies_round_trip(
            call_id: i32, retry_count: i32,
            client_id in proptest::collection::vec(any::<u8>(), 0..20),
            body in proptest::collection::vec(any::<u8>(), 0..300),
            class in "[a-zA-Z.$]{0,30}", message in ".{0,60}",
        ) {
            let identity = CallIdentity { call_id, client_id: client_id.clone(), retry_count };
            let success = decode(&encode_success(&identity, &body), &client_id).unwrap();
            prop_assert_eq!(success, Response { call_id, outcome: Outcome::Success(body.into()) });
            let error = RemoteError { class, message };
            let reply = encode_error(&identity, RpcErrorCodeProto::ErrorApplication, &error);
            let expected = Response { call_id, outcome: Outcome::Error(error.clone()) };
            prop_assert_eq!(decode(&reply, &client_id).unwrap(), expected);
            let reply = encode_error(&identity, RpcErrorCodeProto::FatalUnknown, &error);
            let expected = Response { call_id, outcome: Outcome::Fatal(error) };
            prop_assert_eq!(decode(&reply, &client_id).unwrap(), expected);
        }

        #[test]
        fn requests_round_trip(
            call_id in 0..i32::MAX, retry_count: i32, src in ".{0,40}", method in "[a-z]{0,20}",
            client_id in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let identity = CallIdentity { call_id, client_id, retry_count };
            let request = GetFileInfoRequestProto { src };
            let mut bytes = encode_request("protocol", &method, &identity, &request).unwrap();
            let mut frame = bytes.split_off(LENGTH_BYTES);
            let header: RpcRequestHeaderProto = take_message("header", &mut frame).unwrap();
            prop_assert_eq!((header.call_id, header.retry_count()), (call_id, retry_count));
            prop_assert_eq!(header.client_id, identity.client_id);
            let header: RequestHeaderProto = take_message("header", &mut frame).unwrap();
            prop_assert_eq!(header.method_name, method);
            let body = take_body("request", &mut frame).unwrap();
            prop_assert_eq!(GetFileInfoRequestProto::decode(body).unwrap(), request);
            prop_assert!(frame.is_empty());
        }

        #[test]
        fn any_frame_is_a_response_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let _ = decode_response(Bytes::copy_from_slice(&bytes), &[]);
            let mut plausible = BytesMut::new();
            encode_delimited(
                &response_header(&CallIdentity::none(), RpcStatusProto::Success), &mut plausible);
            plausible.put_slice(&bytes);
            if let Ok(response) = decode_response(plausible.freeze(), &[]) {
                let Outcome::Success(body) = response.outcome else { panic!("{response:?}") };
                prop_assert!(body.len() < bytes.len());
            }
        }
    }
}

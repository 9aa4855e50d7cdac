//! The server's side of one IPC connection as a state machine, sans-IO: which frame may follow
//! which, and the reply that each violation calls for.
//!
//! ```text
//! preamble --NONE--> awaiting context --context--> open --calls, pings-->
//!     \--SASL--> negotiating --NEGOTIATE, answered SUCCESS--/
//! ```
//!
//! Only SIMPLE authentication is offered: a client that asks to negotiate is told SUCCESS at once
//! and goes on as after NONE, and one that initiates SIMPLE unasked gets no reply, as in Hadoop.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::codec::{self, AuthProtocol, BadPreamble, CallIdentity};
use crate::error::java;
use crate::limits::{RPC_FRAME_BEFORE_CONTEXT_MAX_BYTES, RPC_FRAME_MAX_BYTES};
use crate::messages::{
    IpcConnectionContextProto, OperationProto, RequestHeaderProto, RpcErrorCodeProto, RpcKindProto,
    RpcRequestHeaderProto, RpcSaslProto, SaslAuth, SaslState,
};
use crate::{ProtocolError, RemoteError};

#[derive(Debug)]
pub struct Session {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Preamble,
    Negotiating,
    AwaitingContext { negotiated: bool },
    Open,
}

/// What the bytes received so far amount to.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// More bytes are needed; how many the frame has that they belong to, once that is known.
    NeedMore {
        frame_len: Option<usize>,
    },
    /// Something was understood that asks for nothing: the preamble, a ping.
    Nothing,
    /// Bytes to send to the client.
    Reply(Bytes),
    /// The connection's user is known.
    Context(Context),
    Call(Request),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub effective_user: String,
    pub real_user: Option<String>,
    /// What a refusal of this user replies to.
    pub identity: CallIdentity,
}

/// One call, its request message still encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub identity: CallIdentity,
    pub protocol: String,
    pub protocol_version: u64,
    pub method: String,
    pub body: Bytes,
}

/// The connection must be closed, after `reply` was sent if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{why}")]
pub struct Refusal {
    pub why: String,
    pub reply: Option<Bytes>,
}

impl Refusal {
    pub fn fatal(identity: &CallIdentity, code: RpcErrorCodeProto, error: &RemoteError) -> Self {
        let reply = Some(codec::encode_error(identity, code, error));
        Self { why: error.to_string(), reply }
    }

    /// Without a reply: the stream is out of step, or its end would not understand one.
    fn silent(why: String) -> Self {
        Self { why, reply: None }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self { state: State::Preamble }
    }
}

impl Session {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the client has introduced itself.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Takes the next step from the front of `buf`; what it understood is removed from there.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Refusal> {
        if self.state == State::Preamble {
            let Some(auth) = codec::decode_preamble(buf).map_err(refuse_preamble)? else {
                return Ok(Step::NeedMore { frame_len: None });
            };
            let _ = buf.split_to(codec::preamble_len());
            self.state = match auth {
                AuthProtocol::None => State::AwaitingContext { negotiated: false },
                AuthProtocol::Sasl => State::Negotiating,
            };
            return Ok(Step::Nothing);
        }
        let limit =
            if self.is_open() { RPC_FRAME_MAX_BYTES } else { RPC_FRAME_BEFORE_CONTEXT_MAX_BYTES };
        let frame_len = codec::decode_frame_len(buf, limit)
            .map_err(|error| Refusal::silent(error.to_string()))?;
        match frame_len.and_then(|len| codec::take_frame(buf, len)) {
            Some(frame) => self.frame(frame),
            None => Ok(Step::NeedMore { frame_len }),
        }
    }

    fn frame(&mut self, mut frame: Bytes) -> Result<Step, Refusal> {
        let header: RpcRequestHeaderProto =
            codec::take_message("RpcRequestHeaderProto", &mut frame)
                .map_err(|error| undecodable(&CallIdentity::none(), &error))?;
        let identity = CallIdentity {
            call_id: header.call_id,
            retry_count: header.retry_count(),
            client_id: header.client_id,
        };
        check_operation(&identity, header.rpc_op, header.rpc_kind)?;
        match identity.call_id {
            0.. => self.call(identity, frame),
            codec::PING_CALL_ID => Ok(Step::Nothing),
            codec::CONNECTION_CONTEXT_CALL_ID => self.context(identity, frame),
            codec::SASL_CALL_ID => self.sasl(&identity, frame),
            unknown => Err(bad_header(&identity, format!("call id {unknown} means nothing"))),
        }
    }

    fn call(&self, identity: CallIdentity, mut frame: Bytes) -> Result<Step, Refusal> {
        if !self.is_open() {
            return Err(bad_header(&identity, "a call came before the connection context"));
        }
        let header: RequestHeaderProto = codec::take_message("RequestHeaderProto", &mut frame)
            .map_err(|error| undecodable(&identity, &error))?;
        let body = codec::take_body("request message", &mut frame)
            .map_err(|error| undecodable(&identity, &error))?;
        Ok(Step::Call(Request {
            identity,
            protocol: header.declaring_class_protocol_name,
            protocol_version: header.client_protocol_version,
            method: header.method_name,
            body,
        }))
    }

    fn context(&mut self, identity: CallIdentity, mut frame: Bytes) -> Result<Step, Refusal> {
        match self.state {
            State::AwaitingContext { .. } => {}
            State::Open => return Err(bad_header(&identity, "a second connection context")),
            State::Preamble | State::Negotiating => {
                return Err(bad_header(&identity, "connection context before SASL has ended"));
            }
        }
        let context: IpcConnectionContextProto =
            codec::take_message("IpcConnectionContextProto", &mut frame)
                .map_err(|error| undecodable(&identity, &error))?;
        let user = context.user_info.unwrap_or_default();
        self.state = State::Open;
        Ok(Step::Context(Context {
            effective_user: user.effective_user.unwrap_or_default(),
            real_user: user.real_user,
            identity,
        }))
    }

    fn sasl(&mut self, identity: &CallIdentity, mut frame: Bytes) -> Result<Step, Refusal> {
        let is_negotiating = match self.state {
            State::Negotiating => true,
            State::AwaitingContext { negotiated: true } => false,
            _ => return Err(bad_header(identity, "SASL was not asked for in the preamble")),
        };
        let message: RpcSaslProto = codec::take_message("RpcSaslProto", &mut frame)
            .map_err(|error| undecodable(identity, &error))?;
        match SaslState::try_from(message.state) {
            Ok(SaslState::Negotiate) if is_negotiating => {
                self.state = State::AwaitingContext { negotiated: true };
                Ok(Step::Reply(sasl_reply(identity, SaslState::Success, Vec::new())))
            }
            Ok(SaslState::Initiate) if message.auths.iter().any(|a| a.method == SIMPLE) => {
                self.state = State::AwaitingContext { negotiated: true };
                Ok(Step::Nothing)
            }
            Ok(SaslState::Initiate) if is_negotiating => {
                let simple = SaslAuth { method: SIMPLE.to_owned(), ..Default::default() };
                Ok(Step::Reply(sasl_reply(identity, SaslState::Negotiate, vec![simple])))
            }
            _ => {
                let message = format!(
                    "only SIMPLE authentication is served; SASL state {} has no \
                    place here",
                    message.state
                );
                let error = RemoteError::new(java::ACCESS_CONTROL, message);
                Err(Refusal::fatal(identity, RpcErrorCodeProto::FatalUnauthorized, &error))
            }
        }
    }
}

const SIMPLE: &str = "SIMPLE";

fn sasl_reply(identity: &CallIdentity, state: SaslState, auths: Vec<SaslAuth>) -> Bytes {
    use prost::Message;
    let message = RpcSaslProto { version: None, state: state as i32, token: None, auths };
    codec::encode_success(identity, &message.encode_to_vec())
}

fn check_operation(
    identity: &CallIdentity,
    rpc_op: Option<i32>,
    rpc_kind: Option<i32>,
) -> Result<(), Refusal> {
    const FINAL_PACKET: i32 = OperationProto::RpcFinalPacket as i32;
    const PROTOCOL_BUFFER: i32 = RpcKindProto::RpcProtocolBuffer as i32;
    let why = match (rpc_op, rpc_kind) {
        (Some(FINAL_PACKET), Some(PROTOCOL_BUFFER)) => return Ok(()),
        (None, _) => "the header has no rpcOp".to_owned(),
        (Some(FINAL_PACKET), None) => "the header has no rpcKind".to_owned(),
        (Some(FINAL_PACKET), Some(kind)) => format!("rpcKind {kind} is not served"),
        (Some(op), _) => format!("rpcOp {op} is not served"),
    };
    Err(bad_header(identity, why))
}

fn bad_header(identity: &CallIdentity, why: impl Into<String>) -> Refusal {
    let error = RemoteError::new(java::RPC_SERVER_FATAL, why);
    Refusal::fatal(identity, RpcErrorCodeProto::FatalInvalidRpcHeader, &error)
}

fn undecodable(identity: &CallIdentity, error: &ProtocolError) -> Refusal {
    let error = RemoteError::new(java::RPC_SERVER_FATAL, error.to_string());
    Refusal::fatal(identity, RpcErrorCodeProto::FatalDeserializingRequest, &error)
}

fn refuse_preamble(bad: BadPreamble) -> Refusal {
    let fatal = |code, class, message| {
        Refusal::fatal(&CallIdentity::none(), code, &RemoteError::new(class, message))
    };
    let mismatch = |message| {
        fatal(RpcErrorCodeProto::FatalVersionMismatch, java::RPC_VERSION_MISMATCH, message)
    };
    match bad {
        BadPreamble::Http => Refusal {
            why: "an HTTP request on the IPC port".to_owned(),
            reply: Some(Bytes::from_static(HTTP_REPLY)),
        },
        BadPreamble::Magic(bytes) => mismatch(format!(
            "not Hadoop IPC: the connection starts with {:?}",
            bytes.escape_ascii().to_string()
        )),
        // They expect the reply of their own time.
        BadPreamble::Version(old) if old < codec::IPC_VERSION => {
            Refusal::silent(format!("IPC version {old} is from before Hadoop 2"))
        }
        BadPreamble::Version(version) => {
            mismatch(format!("IPC version {version} is not served, only {}", codec::IPC_VERSION))
        }
        BadPreamble::Auth(auth) => fatal(
            RpcErrorCodeProto::FatalUnauthorized,
            java::IPC,
            format!("unknown authentication protocol {auth:#04x}"),
        ),
    }
}

const HTTP_REPLY: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-type: text/plain\r\n\r\n\
    This is a Hadoop IPC port, not a web page.\r\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::messages::{GetFileInfoRequestProto, RpcStatusProto};
    use crate::wire::encode_delimited;

    /// All steps that `bytes` lead to, up to the last that needs more or the refusal.
    fn steps(session: &mut Session, buf: &mut BytesMut) -> (Vec<Step>, Option<Refusal>) {
        let mut steps = Vec::new();
        loop {
            match session.step(buf) {
                Ok(Step::NeedMore { .. }) => return (steps, None),
                Ok(step) => steps.push(step),
                Err(refusal) => return (steps, Some(refusal)),
            }
        }
    }

    fn sasl_frame(state: SaslState, method: Option<&str>) -> Vec<u8> {
        let header = RpcRequestHeaderProto {
            rpc_kind: Some(2),
            rpc_op: Some(0),
            call_id: codec::SASL_CALL_ID,
            ..Default::default()
        };
        let auth = |method: &str| SaslAuth { method: method.to_owned(), ..Default::default() };
        let auths = method.map(auth).into_iter().collect();
        let message = RpcSaslProto { version: None, state: state as i32, token: None, auths };
        let mut frame = BytesMut::from(&[0; 4][..]);
        encode_delimited(&header, &mut frame);
        encode_delimited(&message, &mut frame);
        let len = frame.len() as u32 - 4;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        frame.to_vec()
    }

    fn sasl_state(reply: &Bytes) -> SaslState {
        let response = codec::decode_response(reply.slice(4..), &[]).unwrap();
        assert_eq!(response.call_id, codec::SASL_CALL_ID);
        let codec::Outcome::Success(body) = response.outcome else { panic!("{response:?}") };
        RpcSaslProto::decode(body).unwrap().state()
    }

    fn after_sasl_preamble() -> Session {
        let mut session = Session::new();
        let mut preamble = BytesMut::from(&b"hrpc\x09\0\xdf"[..]);
        assert_eq!(session.step(&mut preamble), Ok(Step::Nothing));
        session
    }

    #[test]
    fn a_client_that_initiates_simple_gets_no_reply() {
        let mut session = after_sasl_preamble();
        let frame = sasl_frame(SaslState::Initiate, Some("SIMPLE"));
        assert_eq!(session.step(&mut BytesMut::from(&frame[..])), Ok(Step::Nothing));
        assert_eq!(session.state, State::AwaitingContext { negotiated: true });
    }

    #[test]
    fn a_client_that_initiates_another_method_is_told_what_there_is() {
        let mut session = after_sasl_preamble();
        let frame = sasl_frame(SaslState::Initiate, Some("TOKEN"));
        let step = session.step(&mut BytesMut::from(&frame[..])).unwrap();
        let Step::Reply(reply) = step else { panic!("{step:?}") };
        assert_eq!(sasl_state(&reply), SaslState::Negotiate);
        assert_eq!(session.state, State::Negotiating);
    }

    #[test]
    fn negotiating_twice_and_foreign_states_are_unauthorized() {
        for second in [SaslState::Negotiate, SaslState::Response, SaslState::Wrap] {
            let mut session = after_sasl_preamble();
            let first = sasl_frame(SaslState::Negotiate, None);
            let step = session.step(&mut BytesMut::from(&first[..])).unwrap();
            let Step::Reply(reply) = step else { panic!("{step:?}") };
            assert_eq!(sasl_state(&reply), SaslState::Success);
            let frame = sasl_frame(second, None);
            let refusal = session.step(&mut BytesMut::from(&frame[..])).unwrap_err();
            assert!(refusal.why.contains(java::ACCESS_CONTROL), "{refusal}");
        }
    }

    #[test]
    fn the_context_waits_for_sasl() {
        let mut session = after_sasl_preamble();
        let start = codec::encode_connection_start("p", "u", &[]);
        let refusal = session.step(&mut BytesMut::from(&start[7..])).unwrap_err();
        let reply = refusal.reply.unwrap();
        let header: crate::messages::RpcResponseHeaderProto =
            codec::take_message("header", &mut reply.slice(4..)).unwrap();
        assert_eq!(header.status(), RpcStatusProto::Fatal);
        assert_eq!(header.error_detail(), RpcErrorCodeProto::FatalInvalidRpcHeader);
    }

    proptest! {
        /// However the network cuts the bytes, the same steps come out.
        #[test]
        fn cuts_do_not_matter(
            cuts in proptest::collection::vec(1usize..40, 0..40),
            names in proptest::collection::vec("[a-z]{1,12}", 1..5),
        ) {
            let mut bytes = codec::encode_connection_start("p", "user", &[7; 16]).to_vec();
            for (call_id, name) in names.iter().enumerate() {
                let identity = CallIdentity {
                    call_id: call_id as i32, client_id: vec![7; 16], retry_count: 0,
                };
                let request = GetFileInfoRequestProto { src: name.clone() };
                bytes.extend(codec::encode_request("p", name, &identity, &request).unwrap());
                bytes.extend(codec::encode_ping(&[7; 16]));
            }
            let mut whole = BytesMut::from(&bytes[..]);
            let (expected, refusal) = steps(&mut Session::new(), &mut whole);
            prop_assert_eq!(refusal, None);
            prop_assert_eq!(expected.len(), 2 + 2 * names.len());
            prop_assert!(whole.is_empty());

            let mut session = Session::new();
            let mut buf = BytesMut::new();
            let mut taken = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (part, later) = rest.split_at(cut.min(rest.len()));
                buf.extend_from_slice(part);
                rest = later;
                let (more, refusal) = steps(&mut session, &mut buf);
                prop_assert_eq!(refusal, None);
                taken.extend(more);
            }
            prop_assert_eq!(taken, expected);
        }

        #[test]
        fn any_bytes_lead_to_steps_or_a_refusal(
            auth in prop::sample::select(vec![0u8, 0xdf]),
            frames in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..60), -40i32..4, any::<bool>()), 0..6),
            has_context: bool,
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut buf = BytesMut::from(&[b'h', b'r', b'p', b'c', 9, 0, auth][..]);
            if has_context {
                buf.extend_from_slice(&codec::encode_connection_start("p", "u", &[])[7..]);
            }
            for (content, call_id, has_header) in frames {
                let mut frame = BytesMut::new();
                if has_header {
                    let header = RpcRequestHeaderProto {
                        rpc_kind: Some(2), rpc_op: Some(0), call_id, ..Default::default()
                    };
                    encode_delimited(&header, &mut frame);
                }
                frame.extend_from_slice(&content);
                buf.extend_from_slice(&(frame.len() as u32).to_be_bytes());
                buf.extend_from_slice(&frame);
            }
            buf.extend_from_slice(&tail);
            steps(&mut Session::new(), &mut buf);
            steps(&mut Session::new(), &mut BytesMut::from(&tail[..]));
        }
    }
}

//! Hadoop IPC version 9: request and response headers, connection context, SASL negotiation,
//! `ProtocolMetaInfoPB` and `GetUserMappingsProtocol`.
//!
//! Field numbers and types are the interface facts of Hadoop 2.7 to 3.5; unknown fields are skipped.

use prost::{Enumeration, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum OperationProto {
    RpcFinalPacket = 0,
    RpcContinuationPacket = 1,
    RpcCloseConnection = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum RpcErrorCodeProto {
    ErrorApplication = 1,
    ErrorNoSuchMethod = 2,
    ErrorNoSuchProtocol = 3,
    ErrorRpcServer = 4,
    ErrorSerializingResponse = 5,
    ErrorRpcVersionMismatch = 6,
    FatalUnknown = 10,
    FatalUnsupportedSerialization = 11,
    FatalInvalidRpcHeader = 12,
    FatalDeserializingRequest = 13,
    FatalVersionMismatch = 14,
    FatalUnauthorized = 15,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum RpcKindProto {
    RpcBuiltin = 0,
    RpcWritable = 1,
    RpcProtocolBuffer = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum RpcStatusProto {
    Success = 0,
    Error = 1,
    Fatal = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum SaslState {
    Success = 0,
    Negotiate = 1,
    Initiate = 2,
    Challenge = 3,
    Response = 4,
    Wrap = 5,
}

#[derive(Clone, PartialEq, Message)]
pub struct RpcRequestHeaderProto {
    #[prost(enumeration = "RpcKindProto", optional, tag = "1")]
    pub rpc_kind: Option<i32>,
    #[prost(enumeration = "OperationProto", optional, tag = "2")]
    pub rpc_op: Option<i32>,
    #[prost(sint32, required, tag = "3")]
    pub call_id: i32,
    #[prost(bytes = "vec", required, tag = "4")]
    pub client_id: Vec<u8>,
    #[prost(sint32, optional, tag = "5", default = "-1")]
    pub retry_count: Option<i32>,
    #[prost(message, optional, tag = "6")]
    pub trace_info: Option<RPCTraceInfoProto>,
    #[prost(message, optional, tag = "7")]
    pub caller_context: Option<RPCCallerContextProto>,
    #[prost(int64, optional, tag = "8")]
    pub state_id: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub router_federated_state: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "10")]
    pub authorization_header: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RPCTraceInfoProto {
    #[prost(int64, optional, tag = "1")]
    pub trace_id: Option<i64>,
    #[prost(int64, optional, tag = "2")]
    pub parent_id: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub span_context: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RPCCallerContextProto {
    #[prost(string, required, tag = "1")]
    pub context: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub signature: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IpcConnectionContextProto {
    #[prost(message, optional, tag = "2")]
    pub user_info: Option<UserInformationProto>,
    #[prost(string, optional, tag = "3")]
    pub protocol: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct UserInformationProto {
    #[prost(string, optional, tag = "1")]
    pub effective_user: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub real_user: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RequestHeaderProto {
    #[prost(string, required, tag = "1")]
    pub method_name: String,
    #[prost(string, required, tag = "2")]
    pub declaring_class_protocol_name: String,
    #[prost(uint64, required, tag = "3")]
    pub client_protocol_version: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct RpcResponseHeaderProto {
    #[prost(uint32, required, tag = "1")]
    pub call_id: u32,
    #[prost(enumeration = "RpcStatusProto", required, tag = "2")]
    pub status: i32,
    #[prost(uint32, optional, tag = "3")]
    pub server_ipc_version_num: Option<u32>,
    #[prost(string, optional, tag = "4")]
    pub exception_class_name: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub error_msg: Option<String>,
    #[prost(enumeration = "RpcErrorCodeProto", optional, tag = "6")]
    pub error_detail: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "7")]
    pub client_id: Option<Vec<u8>>,
    #[prost(sint32, optional, tag = "8", default = "-1")]
    pub retry_count: Option<i32>,
    #[prost(int64, optional, tag = "9")]
    pub state_id: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "10")]
    pub router_federated_state: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RpcSaslProto {
    #[prost(uint32, optional, tag = "1")]
    pub version: Option<u32>,
    #[prost(enumeration = "SaslState", required, tag = "2")]
    pub state: i32,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub token: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "4")]
    pub auths: Vec<SaslAuth>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SaslAuth {
    #[prost(string, required, tag = "1")]
    pub method: String,
    #[prost(string, required, tag = "2")]
    pub mechanism: String,
    #[prost(string, optional, tag = "3")]
    pub protocol: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub server_id: Option<String>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub challenge: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetProtocolVersionsRequestProto {
    #[prost(string, required, tag = "1")]
    pub protocol: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetProtocolVersionsResponseProto {
    #[prost(message, repeated, tag = "1")]
    pub protocol_versions: Vec<ProtocolVersionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ProtocolVersionProto {
    #[prost(string, required, tag = "1")]
    pub rpc_kind: String,
    #[prost(uint64, repeated, packed = "false", tag = "2")]
    pub versions: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetProtocolSignatureRequestProto {
    #[prost(string, required, tag = "1")]
    pub protocol: String,
    #[prost(string, required, tag = "2")]
    pub rpc_kind: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetProtocolSignatureResponseProto {
    #[prost(message, repeated, tag = "1")]
    pub protocol_signature: Vec<ProtocolSignatureProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ProtocolSignatureProto {
    #[prost(uint64, required, tag = "1")]
    pub version: u64,
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub methods: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetGroupsForUserRequestProto {
    #[prost(string, required, tag = "1")]
    pub user: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetGroupsForUserResponseProto {
    #[prost(string, repeated, tag = "1")]
    pub groups: Vec<String>,
}

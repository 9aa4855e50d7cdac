//! What a server answers without its service: `ProtocolMetaInfoPB`, protocols that it does not
//! serve, versions that do not exist.

use bytes::Bytes;
use prost::Message;

use super::codec;
use super::connection::encode_call_error;
use super::protocol_name::PROTOCOL_META_INFO;
use super::server::CallError;
use super::session::Request;
use crate::RemoteError;
use crate::error::java;
use crate::messages::{
    GetProtocolSignatureRequestProto, GetProtocolSignatureResponseProto,
    GetProtocolVersionsRequestProto, GetProtocolVersionsResponseProto, ProtocolSignatureProto,
    ProtocolVersionProto, RpcErrorCodeProto,
};

/// The only version of every protocol of HDFS.
const PROTOCOL_VERSION: u64 = 1;
const RPC_KIND: &str = "RPC_PROTOCOL_BUFFER";

/// The reply frame, or `None` for a call that is the service's.
pub(super) fn answer(protocols: &[&str], request: &Request) -> Option<Bytes> {
    let is_meta_info = request.protocol == PROTOCOL_META_INFO;
    let is_known = is_meta_info || protocols.contains(&request.protocol.as_str());
    if !is_known {
        let error = CallError::NoSuchProtocol { protocol: request.protocol.clone() };
        return Some(encode_call_error(&request.identity, error));
    }
    if request.protocol_version != PROTOCOL_VERSION {
        let message = format!(
            "{} has version {PROTOCOL_VERSION} here, {} was asked for",
            request.protocol, request.protocol_version
        );
        let error = RemoteError::new(java::RPC_VERSION_MISMATCH, message);
        let code = RpcErrorCodeProto::ErrorRpcVersionMismatch;
        return Some(codec::encode_error(&request.identity, code, &error));
    }
    is_meta_info.then(|| match meta_info(protocols, request) {
        Ok(body) => codec::encode_success(&request.identity, &body),
        Err(error) => encode_call_error(&request.identity, error),
    })
}

fn meta_info(protocols: &[&str], request: &Request) -> Result<Vec<u8>, CallError> {
    match request.method.as_str() {
        "getProtocolVersions" => {
            let asked: GetProtocolVersionsRequestProto = decode(request)?;
            let protocol_versions = if protocols.contains(&asked.protocol.as_str()) {
                let versions = vec![PROTOCOL_VERSION];
                vec![ProtocolVersionProto { rpc_kind: RPC_KIND.to_owned(), versions }]
            } else {
                Vec::new()
            };
            Ok(GetProtocolVersionsResponseProto { protocol_versions }.encode_to_vec())
        }
        "getProtocolSignature" => {
            let asked: GetProtocolSignatureRequestProto = decode(request)?;
            // The hash codes of Java's method signatures are left out: a client that looks for one
            // concludes that an optional method is not there, and does without.
            let signature =
                ProtocolSignatureProto { version: PROTOCOL_VERSION, methods: Vec::new() };
            let is_served =
                protocols.contains(&asked.protocol.as_str()) && asked.rpc_kind == RPC_KIND;
            let protocol_signature = if is_served { vec![signature] } else { Vec::new() };
            Ok(GetProtocolSignatureResponseProto { protocol_signature }.encode_to_vec())
        }
        method => Err(CallError::NoSuchMethod {
            protocol: request.protocol.clone(),
            method: method.to_owned(),
        }),
    }
}

fn decode<M: Message + Default>(request: &Request) -> Result<M, CallError> {
    M::decode(request.body.clone()).map_err(|error| CallError::BadRequest {
        method: request.method.clone(),
        why: error.to_string(),
    })
}

//! A client connection to one IPC server, shared by concurrent calls.

use std::time::Duration;

use prost::Message;
use thiserror::Error;

use crate::{ProtocolError, RemoteError};

#[derive(Clone, Debug)]
pub struct RpcClientOptions {
    pub connect_timeout: Duration,
    /// Bound of one call; `None` waits for ever, with a ping each `ping_interval`.
    pub call_timeout: Option<Duration>,
    pub ping_interval: Duration,
}

#[derive(Debug, Error)]
pub enum RpcError {
    /// The server ran the call and threw.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The connection failed: the call may or may not have run.
    #[error("{address}: {source}")]
    Io { address: String, source: std::io::Error },
    #[error("{address}: {source}")]
    Protocol { address: String, source: ProtocolError },
    #[error("{address}: no reply to {method} within {timeout_ms} ms")]
    TimedOut { address: String, method: String, timeout_ms: u64 },
}

/// Calls to one server under one protocol as one user. Cheap to clone; connects at the first call,
/// and anew after a connection was lost. One 16-byte client id and one counter of call ids serve
/// for its whole life, so that a retried call keeps its identity ([`RpcClient::next_call_id`]).
#[derive(Clone, Debug)]
pub struct RpcClient {}

impl RpcClient {
    /// `address` is `host:port`; `protocol` one of [`super::protocol_name`].
    pub fn new(
        address: &str,
        protocol: &'static str,
        user: &str,
        options: RpcClientOptions,
    ) -> Self {
        let _ = (address, protocol, user, options);
        todo!()
    }

    pub async fn call<Req: Message, Resp: Message + Default>(
        &self,
        method: &str,
        request: &Req,
    ) -> Result<Resp, RpcError> {
        self.call_as(method, request, self.next_call_id(), 0).await
    }

    pub fn next_call_id(&self) -> i32 {
        todo!()
    }

    /// A call with a call id taken before: a retry of an at-most-once call sends the same id and a
    /// higher `retry_count`, so that the server's retry cache knows it.
    pub async fn call_as<Req: Message, Resp: Message + Default>(
        &self,
        method: &str,
        request: &Req,
        call_id: i32,
        retry_count: i32,
    ) -> Result<Resp, RpcError> {
        let _ = (method, request, call_id, retry_count);
        todo!()
    }
}

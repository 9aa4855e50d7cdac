//! An IPC server on tokio: accepts connections, reads frames, hands calls to an [`RpcService`].

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::RemoteError;

/// Who calls: `user` acts, `real_user` (a proxy) authenticated for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Short name: what precedes `/` or `@`.
    pub user: String,
    pub real_user: Option<String>,
    pub address: SocketAddr,
}

/// One call of one method, its request still encoded.
#[derive(Clone, Debug)]
pub struct Call {
    pub caller: Arc<Caller>,
    /// `declaringClassProtocolName` of the call, not of the connection.
    pub protocol: String,
    pub method: String,
    /// The 16-byte client id; `None` when the client sent another length (no retry cache then).
    pub client_id: Option<[u8; 16]>,
    pub call_id: i32,
    pub retry_count: i32,
    /// The request message, without its length prefix.
    pub request: Bytes,
}

/// What an RPC server serves. The reply is the encoded response message without length prefix.
pub trait RpcService: Send + Sync + 'static {
    fn call(&self, call: Call) -> impl Future<Output = Result<Bytes, CallError>> + Send;
}

/// How a call failed: which error code travels beside the Java class name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The method threw (`ERROR_APPLICATION`).
    Application(RemoteError),
    NoSuchMethod {
        protocol: String,
        method: String,
    },
    NoSuchProtocol {
        protocol: String,
    },
    /// The request message does not decode.
    BadRequest {
        method: String,
        why: String,
    },
}

impl From<RemoteError> for CallError {
    fn from(error: RemoteError) -> Self {
        Self::Application(error)
    }
}

#[derive(Clone, Debug)]
pub struct RpcServerOptions {
    /// Connections beyond this are closed at once.
    pub connections_max: usize,
    /// Calls of one connection that may run at a time; the reader waits beyond.
    pub calls_per_connection_max: usize,
    /// Calls running at a time over all connections (`dfs.namenode.handler.count` in spirit).
    pub calls_max: usize,
    /// A connection that has sent no complete frame, or takes longer inside one, is closed.
    pub frame_timeout: Duration,
}

/// Serves until `shutdown` resolves; then stops accepting, lets running calls answer, returns.
pub async fn serve<S: RpcService>(
    listener: tokio::net::TcpListener,
    service: Arc<S>,
    options: RpcServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let _ = (listener, service, options, shutdown);
    todo!()
}

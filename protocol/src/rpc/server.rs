//! An IPC server on tokio: accepts connections, reads frames, hands calls to an [`RpcService`].
//!
//! Each connection is a task (`connection.rs`), each call another. Replies leave in the
//! order in which calls finish. A call that panics is answered with `ERROR_RPC_SERVER`.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::{self, Activity};
use crate::RemoteError;
use crate::error::java;
use crate::limits::RPC_LARGE_FRAMES_MAX_KIB;
use crate::peer_timeout::PeerTimeout;

/// A connection may be replaced by a new one when it had no call for so long: twice the time after
/// which Hadoop's clients close idle connections themselves.
const IDLE_BEFORE_CULLED: Duration = Duration::from_secs(20);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    /// Names of the protocols served, all of version 1. Calls to others never reach the service;
    /// questions about these (`ProtocolMetaInfoPB`) are answered for it.
    fn protocols(&self) -> &'static [&'static str];

    /// Whether `caller` may use this server at all. Without a rule nobody may act for another user.
    fn authorize(&self, caller: &Caller) -> Result<(), RemoteError> {
        match &caller.real_user {
            None => Ok(()),
            Some(real_user) => {
                let message =
                    format!("User: {real_user} is not allowed to impersonate {}", caller.user);
                Err(RemoteError::new(java::AUTHORIZATION, message))
            }
        }
    }

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
    /// Beyond this a new connection replaces one that has long been idle, or is closed at once.
    pub connections_max: usize,
    /// Calls of one connection that may run at a time; the reader waits beyond.
    pub calls_per_connection_max: usize,
    /// Calls running at a time over all connections (`dfs.namenode.handler.count` in spirit).
    pub calls_max: usize,
    /// A connection that has sent no complete frame, or takes longer inside one, is closed; as is
    /// one that takes nothing of a reply for so long.
    pub frame_timeout: Duration,
    pub peer_timeout: PeerTimeout,
}

impl Default for RpcServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 8192,
            calls_per_connection_max: 128,
            calls_max: 4096,
            frame_timeout: Duration::from_secs(30),
            peer_timeout: PeerTimeout::default(),
        }
    }
}

/// Serves until `shutdown` resolves; then stops accepting, lets running calls answer, returns.
pub async fn serve<S: RpcService>(
    listener: TcpListener,
    service: Arc<S>,
    options: RpcServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let (stop, stopped) = watch::channel(());
    let shared = Arc::new(Shared {
        calls: Arc::new(Semaphore::new(options.calls_max)),
        large_frames: Arc::new(Semaphore::new(RPC_LARGE_FRAMES_MAX_KIB)),
        activities: Mutex::default(),
        service,
        options,
    });
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    if connections.len() >= shared.options.connections_max && !shared.cull_idle() {
                        tracing::warn!(%address, "connection closed: there are {} already",
                            connections.len());
                        continue;
                    }
                    let connection = connection::run(stream, address, shared.clone(), stopped.clone());
                    connections.spawn(connection);
                }
                Err(error) => {
                    // Out of descriptors, most likely: others will be closed before long.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    drop(stop);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// What the connections of one server have in common.
pub(super) struct Shared<S> {
    pub(super) service: Arc<S>,
    pub(super) options: RpcServerOptions,
    /// A permit for each running call.
    pub(super) calls: Arc<Semaphore>,
    /// A permit for each KiB of a large frame, from its first bytes until its call is answered.
    pub(super) large_frames: Arc<Semaphore>,
    pub(super) activities: Mutex<HashMap<SocketAddr, Arc<Activity>>>,
}

impl<S> Shared<S> {
    /// Ends the connection that has been idle longest, if it has been long enough.
    fn cull_idle(&self) -> bool {
        let mut activities = self.activities.lock();
        let longest = activities.iter().max_by_key(|(_, activity)| activity.idle_time());
        let Some((&address, activity)) = longest else {
            return false;
        };
        if activity.idle_time() < IDLE_BEFORE_CULLED {
            return false;
        }
        activity.end.notify_one();
        // So that it is not chosen again while it is ending.
        activities.remove(&address);
        true
    }
}

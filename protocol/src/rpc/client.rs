//! A client connection to one IPC server, shared by concurrent calls.
//!
//! One task owns the socket: it writes queued requests, reads responses and wakes the calls that
//! wait for them. When the connection is lost every waiting call fails, and the next call connects
//! anew; whether to repeat a call is for its caller to decide, who knows if it may run twice.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::codec::{self, CallIdentity, Outcome};
use crate::limits::{RPC_FRAME_MAX_BYTES, RPC_READ_AHEAD_MAX_BYTES};
use crate::peer_timeout::PeerTimeout;
use crate::settings::{IPC_CLIENT_CONNECT_TIMEOUT, IPC_CLIENT_RPC_TIMEOUT_MS, IPC_PING_INTERVAL};
use crate::site_config::{ConfigError, Configuration};
use crate::{ProtocolError, RemoteError};

/// Requests waiting to be written; a call beyond them waits.
const QUEUED_REQUESTS_MAX: usize = 64;

#[derive(Clone, Debug)]
pub struct RpcClientOptions {
    pub connect_timeout: Duration,
    /// Bound of one call; `None` waits for ever, with a ping each `ping_interval`.
    pub call_timeout: Option<Duration>,
    pub ping_interval: Duration,
    pub peer_timeout: PeerTimeout,
}

impl RpcClientOptions {
    pub fn from_configuration(configuration: &Configuration) -> Result<Self, ConfigError> {
        let call_timeout = configuration.duration(&IPC_CLIENT_RPC_TIMEOUT_MS)?;
        Ok(Self {
            connect_timeout: configuration.duration(&IPC_CLIENT_CONNECT_TIMEOUT)?,
            call_timeout: (!call_timeout.is_zero()).then_some(call_timeout),
            ping_interval: configuration.duration(&IPC_PING_INTERVAL)?,
            peer_timeout: PeerTimeout::from_configuration(configuration)?,
        })
    }
}

/// Hadoop's defaults.
impl Default for RpcClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(20),
            call_timeout: Some(Duration::from_secs(120)),
            ping_interval: Duration::from_secs(60),
            peer_timeout: PeerTimeout::default(),
        }
    }
}

#[derive(Debug, Error)]
pub enum RpcError {
    /// The server ran the call and threw.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The connection failed: the call may or may not have run.
    #[error("{address}: {source}")]
    Io { address: String, source: io::Error },
    #[error("{address}: {source}")]
    Protocol { address: String, source: ProtocolError },
    #[error("{address}: no reply to {method} within {timeout_ms} ms")]
    TimedOut { address: String, method: String, timeout_ms: u64 },
}

/// Calls to one server under one protocol as one user. Cheap to clone; connects at the first call,
/// and anew after a connection was lost. One 16-byte client id and one counter of call ids serve
/// for its whole life, so that a retried call keeps its identity ([`RpcClient::next_call_id`]).
#[derive(Clone, Debug)]
pub struct RpcClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    protocol: &'static str,
    user: String,
    options: RpcClientOptions,
    client_id: [u8; 16],
    call_ids: AtomicU32,
    /// Locked while connecting, so that calls made meanwhile share the connection.
    connection: tokio::sync::Mutex<Option<Connection>>,
}

/// A live connection's handles; the task that owns the socket ends when the last one is dropped.
#[derive(Clone, Debug)]
struct Connection {
    requests: mpsc::Sender<Bytes>,
    calls: Arc<Mutex<Calls>>,
}

/// The calls that wait for a response, by call id.
#[derive(Debug, Default)]
struct Calls {
    waiting: HashMap<i32, oneshot::Sender<Result<Bytes, CallFailure>>>,
    /// Why the connection is of no more use.
    lost: Option<CallFailure>,
}

#[derive(Clone, Debug)]
enum CallFailure {
    Remote(RemoteError),
    Io(io::ErrorKind, String),
    Protocol(ProtocolError),
}

impl RpcClient {
    /// `address` is `host:port`; `protocol` one of [`super::protocol_name`].
    pub fn new(
        address: &str,
        protocol: &'static str,
        user: &str,
        options: RpcClientOptions,
    ) -> Self {
        let shared = Shared {
            address: address.to_owned(),
            protocol,
            user: user.to_owned(),
            options,
            client_id: *uuid::Uuid::new_v4().as_bytes(),
            call_ids: AtomicU32::new(0),
            connection: tokio::sync::Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    pub async fn call<Req: Message, Resp: Message + Default>(
        &self,
        method: &str,
        request: &Req,
    ) -> Result<Resp, RpcError> {
        self.call_as(method, request, self.next_call_id(), 0).await
    }

    /// Ids count up from 0 and begin again after the largest positive number.
    pub fn next_call_id(&self) -> i32 {
        (self.shared.call_ids.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff) as i32
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
        let client_id = self.shared.client_id.to_vec();
        let identity = CallIdentity { call_id, client_id, retry_count };
        let frame = codec::encode_request(self.shared.protocol, method, &identity, request)
            .map_err(|source| self.shared.protocol_error(source))?;
        #[cfg(feature = "simulation")]
        let simulated = self.shared.simulate(method, &identity, request);
        let exchange = async {
            #[cfg(feature = "simulation")]
            if let Some(answering) = simulated {
                return self.shared.simulated_answer(answering.await);
            }
            self.shared.exchange(call_id, frame).await
        };
        let body = match self.shared.options.call_timeout {
            None => exchange.await?,
            Some(limit) => timeout(limit, exchange).await.map_err(|_| RpcError::TimedOut {
                address: self.shared.address.clone(),
                method: method.to_owned(),
                timeout_ms: limit.as_millis() as u64,
            })??,
        };
        Resp::decode(body).map_err(|error| {
            let why = format!("reply to {method}: {error}");
            self.shared.protocol_error(ProtocolError::malformed("RPC response", why))
        })
    }
}

impl Shared {
    async fn exchange(&self, call_id: i32, frame: Bytes) -> Result<Bytes, RpcError> {
        let connection = self.connected().await?;
        let (answer, answered) = oneshot::channel();
        let _waiting = connection.register(call_id, answer);
        // A failure to queue means that the connection is lost, which the answer tells.
        let _ = connection.requests.send(frame).await;
        let outcome = answered.await.unwrap_or_else(|_| Err(connection.calls.lock().reason()));
        outcome.map_err(|failure| self.failed(failure))
    }

    #[cfg(feature = "simulation")]
    fn simulate(
        &self,
        method: &str,
        identity: &CallIdentity,
        request: &impl Message,
    ) -> Option<crate::simulation::Answering> {
        use crate::rpc::server::{Call, Caller};
        let network = crate::simulation::network()?;
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let caller = Caller { user: self.user.clone(), real_user: None, address };
        let call = Call {
            caller: Arc::new(caller),
            protocol: self.protocol.to_owned(),
            method: method.to_owned(),
            client_id: Some(self.client_id),
            call_id: identity.call_id,
            retry_count: identity.retry_count,
            request: request.encode_to_vec().into(),
        };
        Some(network.call(&self.address, call))
    }

    #[cfg(feature = "simulation")]
    fn simulated_answer(
        &self,
        answer: io::Result<Result<Bytes, RemoteError>>,
    ) -> Result<Bytes, RpcError> {
        let address = self.address.clone();
        Ok(answer.map_err(|source| RpcError::Io { address, source })??)
    }

    async fn connected(&self) -> Result<Connection, RpcError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot
            && connection.calls.lock().lost.is_none()
        {
            return Ok(connection.clone());
        }
        let io_error = |source| RpcError::Io { address: self.address.clone(), source };
        let stream = timeout(self.options.connect_timeout, TcpStream::connect(&self.address))
            .await
            .unwrap_or_else(|elapsed| Err(elapsed.into()))
            .and_then(|stream| {
                stream.set_nodelay(true)?;
                self.options.peer_timeout.set(&stream)?;
                Ok(stream)
            })
            .map_err(io_error)?;
        let (requests, queue) = mpsc::channel(QUEUED_REQUESTS_MAX);
        let calls = Arc::new(Mutex::new(Calls::default()));
        let start = codec::encode_connection_start(self.protocol, &self.user, &self.client_id);
        let owner = Owner {
            client_id: self.client_id,
            ping_interval: self.options.ping_interval,
            calls: calls.clone(),
        };
        tokio::spawn(owner.run(stream, start, queue));
        Ok(slot.insert(Connection { requests, calls }).clone())
    }

    fn failed(&self, failure: CallFailure) -> RpcError {
        let address = self.address.clone();
        match failure {
            CallFailure::Remote(error) => RpcError::Remote(error),
            CallFailure::Io(kind, why) => {
                RpcError::Io { address, source: io::Error::new(kind, why) }
            }
            CallFailure::Protocol(source) => RpcError::Protocol { address, source },
        }
    }

    fn protocol_error(&self, source: ProtocolError) -> RpcError {
        RpcError::Protocol { address: self.address.clone(), source }
    }
}

impl Connection {
    /// Enters a call among the waiting until the guard is dropped. On a lost connection the answer
    /// is dropped at once.
    fn register(
        &self,
        call_id: i32,
        answer: oneshot::Sender<Result<Bytes, CallFailure>>,
    ) -> WaitingCall<'_> {
        let mut calls = self.calls.lock();
        if calls.lost.is_none() {
            calls.waiting.insert(call_id, answer);
        }
        WaitingCall { calls: &self.calls, call_id }
    }
}

/// Forgets a call when its future ends, answered, timed out or dropped.
struct WaitingCall<'a> {
    calls: &'a Mutex<Calls>,
    call_id: i32,
}

impl Drop for WaitingCall<'_> {
    fn drop(&mut self) {
        self.calls.lock().waiting.remove(&self.call_id);
    }
}

impl Calls {
    fn reason(&self) -> CallFailure {
        self.lost.clone().unwrap_or_else(|| {
            CallFailure::Io(io::ErrorKind::ConnectionAborted, "the call was replaced".to_owned())
        })
    }

    fn lose(&mut self, failure: CallFailure) {
        self.lost = Some(failure);
        // The waiting calls see their senders dropped and ask for the reason.
        self.waiting.clear();
    }
}

/// The task that owns a connection's socket.
struct Owner {
    client_id: [u8; 16],
    ping_interval: Duration,
    calls: Arc<Mutex<Calls>>,
}

impl Owner {
    async fn run(self, stream: TcpStream, start: Bytes, queue: mpsc::Receiver<Bytes>) {
        let (read_half, write_half) = stream.into_split();
        let failure = tokio::select! {
            failure = self.read_responses(read_half) => failure,
            written = self.write_requests(write_half, start, queue) => match written {
                Ok(()) => CallFailure::Io(io::ErrorKind::NotConnected, "closed".to_owned()),
                Err(error) => error.into(),
            },
        };
        self.calls.lock().lose(failure);
    }

    /// Ends when the last handle of the connection is gone.
    async fn write_requests(
        &self,
        mut stream: OwnedWriteHalf,
        start: Bytes,
        mut queue: mpsc::Receiver<Bytes>,
    ) -> io::Result<()> {
        let mut out = BytesMut::from(&start[..]);
        let ping = codec::encode_ping(&self.client_id);
        loop {
            match timeout(self.ping_interval, queue.recv()).await {
                Ok(None) => return stream.shutdown().await,
                Ok(Some(frame)) => out.extend_from_slice(&frame),
                Err(_) if self.calls.lock().waiting.is_empty() => continue,
                Err(_) => out.extend_from_slice(&ping),
            }
            while out.len() < RPC_READ_AHEAD_MAX_BYTES
                && let Ok(frame) = queue.try_recv()
            {
                out.extend_from_slice(&frame);
            }
            stream.write_all(&out).await?;
            out = BytesMut::new();
        }
    }

    async fn read_responses(&self, mut stream: OwnedReadHalf) -> CallFailure {
        let mut buf = BytesMut::new();
        loop {
            match self.take_responses(&mut buf) {
                Err(failure) => return failure,
                Ok(missing) => buf.reserve(missing.clamp(8 << 10, RPC_READ_AHEAD_MAX_BYTES)),
            }
            match stream.read_buf(&mut buf).await {
                Ok(0) => {
                    let why = "the server closed the connection".to_owned();
                    return CallFailure::Io(io::ErrorKind::UnexpectedEof, why);
                }
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    }

    /// Delivers the responses at the front of `buf`; returns how many bytes the next one lacks.
    fn take_responses(&self, buf: &mut BytesMut) -> Result<usize, CallFailure> {
        while let Some(len) = codec::decode_frame_len(buf, RPC_FRAME_MAX_BYTES)? {
            let Some(frame) = codec::take_frame(buf, len) else {
                return Ok(len.saturating_sub(buf.len()));
            };
            let response = codec::decode_response(frame, &self.client_id)?;
            let outcome = match response.outcome {
                Outcome::Success(body) => Ok(body),
                Outcome::Error(error) => Err(CallFailure::Remote(error)),
                Outcome::Fatal(error) => return Err(CallFailure::Remote(error)),
            };
            // Nobody waits any more for the reply to a call that timed out.
            if let Some(answer) = self.calls.lock().waiting.remove(&response.call_id) {
                let _ = answer.send(outcome);
            }
        }
        Ok(0)
    }
}

impl From<io::Error> for CallFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind(), error.to_string())
    }
}

impl From<ProtocolError> for CallFailure {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

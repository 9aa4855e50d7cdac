//! One connection of an IPC server: a reader and a writer in one task, and a task for each call.
//!
//! The queue of replies bounds the calls: each holds a slot of it from before it starts until its
//! reply is taken by the writer, so a client that does not read its replies stops being read.
//! The task ends when the client has closed and all its calls are answered, or at the first write
//! that fails; calls that still run then run on, and their replies are dropped.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::codec::{self, CallIdentity};
use super::meta_info;
use super::server::{Call, CallError, Caller, RpcService, Shared};
use super::session::{Context, Refusal, Request, Session, Step};
use crate::RemoteError;
use crate::error::java;
use crate::limits::{RPC_LARGE_FRAME_BYTES, RPC_READ_AHEAD_MAX_BYTES};
use crate::messages::RpcErrorCodeProto;

/// An empty receive buffer larger than this is given back.
const IDLE_BUFFER_BYTES: usize = 16 << 10;
/// Replies handed to the kernel in one call.
const WRITE_BATCH: usize = 64;
/// After a refusal the client's bytes are read and dropped for so long: closing with bytes unread
/// would reset the connection and might take the reply with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;

/// What the server knows of a connection when it looks for one to end.
pub(super) struct Activity {
    started: Instant,
    last_ms: AtomicU64,
    replies: mpsc::WeakSender<Bytes>,
    pub(super) end: Notify,
}

impl Activity {
    /// Time since the client last sent something; zero while a call runs.
    pub(super) fn idle_time(&self) -> Duration {
        let is_idle =
            self.replies.upgrade().is_some_and(|queue| queue.capacity() == queue.max_capacity());
        if !is_idle {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }

    fn touch(&self) {
        self.last_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

pub(super) async fn run<S: RpcService>(
    stream: TcpStream,
    address: SocketAddr,
    shared: Arc<Shared<S>>,
    stopped: watch::Receiver<()>,
) {
    let peer_timeout = shared.options.peer_timeout;
    if let Err(error) = stream.set_nodelay(true).and_then(|()| peer_timeout.set(&stream)) {
        tracing::debug!(%address, "connection was closed before it was served: {error}");
        return;
    }
    let (read_half, write_half) = stream.into_split();
    let (replies, queue) = mpsc::channel(shared.options.calls_per_connection_max);
    let activity = Arc::new(Activity {
        started: Instant::now(),
        last_ms: AtomicU64::new(0),
        replies: replies.downgrade(),
        end: Notify::new(),
    });
    shared.activities.lock().insert(address, activity.clone());
    let frame_timeout = shared.options.frame_timeout;
    let reader = Reader {
        stream: read_half,
        address,
        shared: shared.clone(),
        stopped,
        activity: activity.clone(),
        replies,
        session: Session::new(),
        buf: BytesMut::new(),
        deadline: Some(Instant::now() + frame_timeout),
        large_frame: None,
        caller: None,
    };
    let (refused, written) =
        tokio::join!(reader.run(), write_replies(write_half, queue, frame_timeout));
    if let Err(error) = written {
        tracing::debug!(%address, "cannot reply: {error}");
    } else if let Some(stream) = refused {
        let mut rest = stream.take(LINGER_BYTES);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
    let mut activities = shared.activities.lock();
    if activities.get(&address).is_some_and(|current| Arc::ptr_eq(current, &activity)) {
        activities.remove(&address);
    }
}

struct Reader<S> {
    stream: OwnedReadHalf,
    address: SocketAddr,
    shared: Arc<Shared<S>>,
    stopped: watch::Receiver<()>,
    activity: Arc<Activity>,
    replies: mpsc::Sender<Bytes>,
    session: Session,
    buf: BytesMut,
    /// When the introduction or the frame begun must be complete; none between frames.
    deadline: Option<Instant>,
    /// The budget that the large frame now arriving takes.
    large_frame: Option<OwnedSemaphorePermit>,
    /// Known once the session is open.
    caller: Option<Arc<Caller>>,
}

/// Why a connection is read no further.
enum End {
    /// Closed by the client, by a shutdown, or in favour of another connection.
    Closed,
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<S: RpcService> Reader<S> {
    /// Returns the stream if the connection was refused, so that it can be drained.
    async fn run(mut self) -> Option<OwnedReadHalf> {
        match self.read_frames().await {
            Ok(()) | Err(End::Closed) => None,
            Err(End::Refused(refusal)) => {
                tracing::info!(address = %self.address, "connection refused: {refusal}");
                if let Some(reply) = refusal.reply {
                    let _ = self.replies.send(reply).await;
                }
                Some(self.stream)
            }
        }
    }

    async fn read_frames(&mut self) -> Result<(), End> {
        loop {
            let step = self.session.step(&mut self.buf)?;
            if let Step::NeedMore { frame_len } = step {
                self.receive(frame_len).await?;
                continue;
            }
            if self.session.is_open() {
                self.deadline = None;
            }
            match step {
                Step::NeedMore { .. } | Step::Nothing => {}
                Step::Reply(reply) => self.reply(reply).await?,
                Step::Context(context) => self.introduce(context)?,
                Step::Call(request) => self.begin_call(request).await?,
            }
            self.large_frame = None;
        }
    }

    async fn receive(&mut self, frame_len: Option<usize>) -> Result<(), End> {
        if !self.buf.is_empty() && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + self.shared.options.frame_timeout);
        }
        if self.buf.is_empty() && self.buf.capacity() > IDLE_BUFFER_BYTES {
            self.buf = BytesMut::new();
        }
        self.budget(frame_len.unwrap_or(0)).await?;
        let missing = frame_len.unwrap_or(0).saturating_sub(self.buf.len());
        self.buf.reserve(missing.clamp(IDLE_BUFFER_BYTES / 2, RPC_READ_AHEAD_MAX_BYTES));
        let deadline = self.deadline;
        tokio::select! {
            read = self.stream.read_buf(&mut self.buf) => match read {
                Ok(0) => Err(End::Closed),
                Ok(_) => {
                    self.activity.touch();
                    Ok(())
                }
                Err(error) => {
                    tracing::debug!(address = %self.address, "cannot read: {error}");
                    Err(End::Closed)
                }
            },
            _ = self.stopped.changed() => Err(End::Closed),
            () = self.activity.end.notified() => Err(End::Closed),
            () = self.replies.closed() => Err(End::Closed),
            () = at(deadline) => Err(self.timed_out()),
        }
    }

    /// Waits until the large frame that has begun has room among the others.
    async fn budget(&mut self, frame_len: usize) -> Result<(), End> {
        if frame_len <= RPC_LARGE_FRAME_BYTES || self.large_frame.is_some() {
            return Ok(());
        }
        // At most RPC_FRAME_MAX_BYTES, which the budget covers.
        let permits = (frame_len >> 10) as u32;
        let acquire = self.shared.large_frames.clone().acquire_many_owned(permits);
        let deadline = self.deadline;
        tokio::select! {
            acquired = acquire => self.large_frame = acquired.ok(),
            _ = self.stopped.changed() => return Err(End::Closed),
            () = at(deadline) => return Err(self.timed_out()),
        }
        Ok(())
    }

    fn timed_out(&self) -> End {
        let timeout_ms = self.shared.options.frame_timeout.as_millis();
        let what = if self.session.is_open() { "a frame" } else { "the connection's start" };
        let why = format!("{what} did not arrive within {timeout_ms} ms");
        End::Refused(Refusal { why, reply: None })
    }

    fn introduce(&mut self, context: Context) -> Result<(), End> {
        let caller = Caller {
            user: short_name(&context.effective_user),
            real_user: context.real_user.as_deref().map(short_name),
            address: self.address,
        };
        self.shared.service.authorize(&caller).map_err(|error| {
            Refusal::fatal(&context.identity, RpcErrorCodeProto::FatalUnauthorized, &error)
        })?;
        self.caller = Some(Arc::new(caller));
        Ok(())
    }

    async fn reply(&self, reply: Bytes) -> Result<(), End> {
        self.replies.send(reply).await.map_err(|_| End::Closed)
    }

    async fn begin_call(&mut self, request: Request) -> Result<(), End> {
        let protocols = self.shared.service.protocols();
        if let Some(reply) = meta_info::answer(protocols, &request) {
            return self.reply(reply).await;
        }
        // The session gives calls only after the context.
        let Some(caller) = self.caller.clone() else {
            return Err(End::Closed);
        };
        let slot = self.replies.clone().reserve_owned().await.map_err(|_| End::Closed)?;
        let Ok(running) = self.shared.calls.clone().acquire_owned().await else {
            return Err(End::Closed);
        };
        let responder = Responder {
            slot: Some(slot),
            identity: request.identity.clone(),
            method: request.method.clone(),
        };
        let call = Call {
            caller,
            protocol: request.protocol,
            method: request.method,
            client_id: request.identity.client_id.try_into().ok(),
            call_id: request.identity.call_id,
            retry_count: request.identity.retry_count,
            request: request.body,
        };
        let large_frame = self.large_frame.take();
        let service = self.shared.service.clone();
        tokio::spawn(async move {
            let outcome = service.call(call).await;
            responder.answer(outcome);
            drop((running, large_frame));
        });
        Ok(())
    }
}

/// Sees to it that a call is answered exactly once, also when its task panics.
struct Responder {
    /// Taken by the answer.
    slot: Option<mpsc::OwnedPermit<Bytes>>,
    identity: CallIdentity,
    method: String,
}

impl Responder {
    fn answer(mut self, outcome: Result<Bytes, CallError>) {
        let reply = match outcome {
            Ok(body) => codec::encode_success(&self.identity, &body),
            Err(error) => encode_call_error(&self.identity, error),
        };
        if let Some(slot) = self.slot.take() {
            slot.send(reply);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else {
            return;
        };
        let message = format!("{} failed inside the server, whose log tells more", self.method);
        let error = RemoteError::new(java::RPC_SERVER, message);
        slot.send(codec::encode_error(&self.identity, RpcErrorCodeProto::ErrorRpcServer, &error));
    }
}

pub(super) fn encode_call_error(identity: &CallIdentity, error: CallError) -> Bytes {
    let (code, error) = match error {
        CallError::Application(error) => (RpcErrorCodeProto::ErrorApplication, error),
        CallError::NoSuchMethod { protocol, method } => (
            RpcErrorCodeProto::ErrorNoSuchMethod,
            RemoteError::new(
                java::RPC_NO_SUCH_METHOD,
                format!("Unknown method {method} called on {protocol} protocol."),
            ),
        ),
        CallError::NoSuchProtocol { protocol } => (
            RpcErrorCodeProto::ErrorNoSuchProtocol,
            RemoteError::new(java::RPC_NO_SUCH_PROTOCOL, format!("Unknown protocol: {protocol}")),
        ),
        CallError::BadRequest { method, why } => (
            RpcErrorCodeProto::ErrorApplication,
            RemoteError::new(java::IO, format!("{method}: the request does not decode: {why}")),
        ),
    };
    codec::encode_error(identity, code, &error)
}

async fn write_replies(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    stall: Duration,
) -> std::io::Result<()> {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    while queue.recv_many(&mut batch, WRITE_BATCH).await > 0 {
        let mut slices: Vec<IoSlice> = batch.iter().map(|reply| IoSlice::new(reply)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let written = timeout(stall, stream.write_vectored(rest)).await??;
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
        }
        batch.clear();
    }
    stream.shutdown().await
}

/// The name without host and realm; a connection that names nobody is nobody.
fn short_name(user: &str) -> String {
    match user.split(['/', '@']).next() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "anonymous".to_owned(),
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

//! Files of replicas on this host, passed by their datanode over `dfs.domain.socket.path` and kept open.
//!
//! A replica is found again only under the generation stamp that it was passed with, and while its file
//! has a name: append, recovery and deletion end that, and the datanode is asked anew. A file that is
//! deleted keeps its disk space while it is open, so a task closes what was deleted, or not read for
//! long, and ends with the last one. A socket that fails is left alone for a while; a replica that its
//! datanode does not pass, or that failed, for a few seconds. `None` always means: read over TCP.
//!
//! Protocol: `ringfs_protocol::domain_socket`. Slots in shared memory are not asked for.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::domain_socket::{BLOCK_FILES_VERSION, CONFIRM_RECEIPT, path_of};
use ringfs_protocol::messages::*;
use ringfs_protocol::meta_file::{META_HEADER_BYTES, decode_meta_header};
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use rustix::fs::OFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::debug;

use crate::config::ShortCircuitSettings;
use crate::limits::{
    LOCAL_REFUSAL_LIFE, LOCAL_REFUSALS_MAX, LOCAL_REPLICAS_SWEEP, REPLY_BUFFER_BYTES,
};
use crate::read_buffers::ReadBuffers;

/// Direct reads begin and end at multiples of this.
pub(crate) const SECTOR_BYTES: u64 = 4096;

#[derive(Debug)]
pub(crate) struct LocalReplicas {
    pub settings: ShortCircuitSettings,
    pub buffers: ReadBuffers,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// By block id.
    open: HashMap<u64, Kept>,
    /// Blocks that are read over TCP until then.
    refused: HashMap<u64, Instant>,
    /// Sockets that are not tried until then.
    disabled: HashMap<PathBuf, Instant>,
    /// Whether an address is this host's.
    own: HashMap<String, bool>,
    has_sweeper: bool,
}

#[derive(Debug)]
struct Kept {
    replica: Arc<LocalReplica>,
    used: Instant,
}

/// The files of a finalized replica.
#[derive(Debug)]
pub(crate) struct LocalReplica {
    pub data: File,
    /// The data file for O_DIRECT, where file system and permissions allow it.
    pub direct: Option<File>,
    pub meta: File,
    pub checksum: DataChecksum,
    pub len: u64,
    /// Up to here streams have read it: what comes before is read again.
    pub read_up_to: AtomicU64,
    pool_id: String,
    generation_stamp: u64,
}

/// Why the files were not passed.
enum Refusal {
    /// Something is wrong with the socket.
    Socket(String),
    Block(String),
}

impl LocalReplicas {
    pub fn new(settings: ShortCircuitSettings) -> Self {
        Self { settings, buffers: ReadBuffers::default(), state: Arc::default() }
    }

    /// The files of a block, if `datanode` is on this host and passes them.
    pub async fn open(
        &self,
        datanode: &DatanodeIDProto,
        block: &LocatedBlockProto,
        limit: Duration,
    ) -> Option<Arc<LocalReplica>> {
        if let Some(replica) = self.find(datanode, &block.b)? {
            return Some(replica);
        }
        let port = u16::try_from(datanode.xfer_port).ok()?;
        let path = path_of(&self.settings.socket_path, port);
        if lock(&self.state).disabled.get(&path).is_some_and(|until| *until > Instant::now()) {
            return None;
        }
        let asked = timeout(limit, request_files(&path, block));
        let files = match asked.await {
            Ok(Ok(files)) => files,
            Ok(Err(Refusal::Block(why))) => {
                debug!(block = block.b.block_id as i64, why, "not passed by its datanode");
                self.refuse(block.b.block_id);
                return None;
            }
            Ok(Err(Refusal::Socket(why))) => return self.disable(path, &why),
            Err(_) => return self.disable(path, "no answer"),
        };
        let located = block.b.clone();
        let opened = tokio::task::spawn_blocking(move || LocalReplica::new(files, &located)).await;
        match opened {
            Ok(Ok(replica)) => Some(self.keep(block.b.block_id, Arc::new(replica))),
            Ok(Err(error)) => {
                debug!(block = block.b.block_id as i64, %error, "its files are of no use");
                self.refuse(block.b.block_id);
                None
            }
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Has a block read over TCP for a while.
    pub fn refuse(&self, block_id: u64) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.open.remove(&block_id);
        if state.refused.len() >= LOCAL_REFUSALS_MAX {
            state.refused.retain(|_, until| *until > now);
        }
        if state.refused.len() < LOCAL_REFUSALS_MAX {
            state.refused.insert(block_id, now + LOCAL_REFUSAL_LIFE);
        }
    }

    /// `None`: to be read over TCP; `Some(None)`: to be asked for.
    fn find(
        &self,
        datanode: &DatanodeIDProto,
        block: &ExtendedBlockProto,
    ) -> Option<Option<Arc<LocalReplica>>> {
        let mut state = lock(&self.state);
        if !state.is_own(&datanode.ip_addr) {
            return None;
        }
        let now = Instant::now();
        if state.refused.get(&block.block_id).is_some_and(|until| *until > now) {
            return None;
        }
        let Some(kept) = state.open.get_mut(&block.block_id) else { return Some(None) };
        if !kept.replica.is_of(block) || kept.replica.is_deleted() {
            state.open.remove(&block.block_id);
            return Some(None);
        }
        kept.used = now;
        Some(Some(kept.replica.clone()))
    }

    fn keep(&self, block_id: u64, replica: Arc<LocalReplica>) -> Arc<LocalReplica> {
        if self.settings.replicas_max == 0 {
            return replica;
        }
        let mut state = lock(&self.state);
        if state.open.len() >= self.settings.replicas_max
            && let Some(oldest) =
                state.open.iter().min_by_key(|(_, kept)| kept.used).map(|(id, _)| *id)
        {
            state.open.remove(&oldest);
        }
        let kept = Kept { replica: replica.clone(), used: Instant::now() };
        state.open.insert(block_id, kept);
        if !std::mem::replace(&mut state.has_sweeper, true) {
            tokio::spawn(sweep(self.state.clone(), self.settings.expiry));
        }
        replica
    }

    fn disable(&self, path: PathBuf, why: &str) -> Option<Arc<LocalReplica>> {
        debug!(path = %path.display(), why, "short-circuit reads are disabled for a while");
        let until = Instant::now() + self.settings.disable_interval;
        lock(&self.state).disabled.insert(path, until);
        None
    }
}

impl State {
    /// An address is this host's if a socket can have it.
    fn is_own(&mut self, address: &str) -> bool {
        if let Some(own) = self.own.get(address) {
            return *own;
        }
        let own = address.parse().is_ok_and(|ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok());
        self.own.insert(address.to_owned(), own);
        own
    }
}

async fn sweep(state: Arc<Mutex<State>>, expiry: Duration) {
    loop {
        tokio::time::sleep(LOCAL_REPLICAS_SWEEP).await;
        let mut state = lock(&state);
        let is_wanted = |kept: &Kept| kept.used.elapsed() < expiry && !kept.replica.is_deleted();
        let over: Vec<_> = state.open.extract_if(|_, kept| !is_wanted(kept)).collect();
        if state.open.is_empty() {
            state.has_sweeper = false;
        }
        let is_last = !state.has_sweeper;
        drop(state);
        // The last close of a deleted file frees its space, which takes milliseconds.
        if !over.is_empty() {
            tokio::task::spawn_blocking(move || drop(over));
        }
        if is_last {
            return;
        }
    }
}

impl LocalReplica {
    fn new((data, meta): (OwnedFd, OwnedFd), block: &ExtendedBlockProto) -> io::Result<Self> {
        let (data, meta) = (File::from(data), File::from(meta));
        let mut header = [0; META_HEADER_BYTES];
        meta.read_exact_at(&mut header, 0)?;
        let checksum = decode_meta_header(&header).map_err(io::Error::other)?;
        let chunk_len = u64::from(checksum.bytes_per_checksum);
        if !SECTOR_BYTES.is_multiple_of(chunk_len) {
            return Err(io::Error::other(format!("chunks of {chunk_len} bytes")));
        }
        let len = block.num_bytes();
        if data.metadata()?.len() < len {
            return Err(io::Error::other("the data file is shorter than the block"));
        }
        let flags = OFlags::DIRECT.bits().cast_signed();
        let own_path = format!("/proc/self/fd/{}", data.as_raw_fd());
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(own_path);
        Ok(Self {
            direct: direct.ok(),
            data,
            meta,
            checksum,
            len,
            read_up_to: AtomicU64::new(0),
            pool_id: block.pool_id.clone(),
            generation_stamp: block.generation_stamp,
        })
    }

    fn is_of(&self, block: &ExtendedBlockProto) -> bool {
        self.generation_stamp == block.generation_stamp
            && self.len == block.num_bytes()
            && self.pool_id == block.pool_id
    }

    fn is_deleted(&self) -> bool {
        self.data.metadata().map_or(true, |status| status.nlink() == 0)
    }
}

/// Asks the datanode behind `path` for the data and the meta file of a block.
async fn request_files(
    path: &Path,
    block: &LocatedBlockProto,
) -> Result<(OwnedFd, OwnedFd), Refusal> {
    let broken = |error: io::Error| Refusal::Socket(error.to_string());
    let mut stream = UnixStream::connect(path).await.map_err(broken)?;
    let request = OpRequestShortCircuitAccessProto {
        header: BaseHeaderProto {
            block: block.b.clone(),
            token: Some(block.block_token.clone()),
            trace_info: None,
        },
        max_version: BLOCK_FILES_VERSION,
        slot_id: None,
        supports_receipt_verification: Some(true),
    };
    let mut bytes = BytesMut::new();
    encode_operation(Opcode::RequestShortCircuitFds, &request, &mut bytes);
    stream.write_all(&bytes).await.map_err(broken)?;
    let mut reply = Received::default();
    let (response, used) = loop {
        let decoded = decode_response(&reply.bytes);
        match decoded.map_err(|error| Refusal::Socket(error.to_string()))? {
            Some(decoded) => break decoded,
            None => reply.receive(&stream).await.map_err(broken)?,
        }
    };
    match response.status() {
        Status::Success => {}
        Status::ErrorUnsupported if response.short_circuit_access_version.is_none() => {
            return Err(Refusal::Socket(response.message().to_owned()));
        }
        status => return Err(Refusal::Block(format!("{status:?}: {}", response.message()))),
    }
    while reply.bytes.len() == used {
        reply.receive(&stream).await.map_err(broken)?;
    }
    let [data, meta] = <[OwnedFd; 2]>::try_from(reply.descriptors)
        .map_err(|passed| Refusal::Block(format!("{} descriptors instead of 2", passed.len())))?;
    if reply.bytes[used] == CONFIRM_RECEIPT {
        stream.write_all(&[0]).await.map_err(broken)?;
    }
    Ok((data, meta))
}

/// Bytes and descriptors in the order of their arrival.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Received {
    async fn receive(&mut self, stream: &UnixStream) -> io::Result<()> {
        let receive = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; REPLY_BUFFER_BYTES];
            let received = recvmsg(
                stream,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            self.bytes.extend_from_slice(&bytes[..received.bytes]);
            Ok(received.bytes)
        };
        match stream.async_io(Interest::READABLE, receive).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

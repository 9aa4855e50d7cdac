//! Short-circuit reads: descriptors of finalized replicas, passed to clients of this host over
//! `dfs.domain.socket.path`.
//!
//! Served by tasks of the control thread: a client asks once for each block. The files are opened anew
//! for each request, for reading only, so nothing that a client does to its descriptors reaches ours,
//! and a replica that is deleted or appended to later is still what it was passed as, up to its length.
//! What cannot be passed is refused in a way that lets the client go on over TCP: with the version of
//! the files' layout where it concerns the one block, without an answer to anything else than
//! short-circuit operations. There are no segments of shared memory, and clients are told so.
//!
//! Behaviour: Hadoop's DataXceiver.requestShortCircuitFds and DomainSocket's check of the path.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use prost::Message;
use ringfs_protocol::block::{ExtendedBlock, ReplicaState};
use ringfs_protocol::domain_socket::{BLOCK_FILES_VERSION, CONFIRM_RECEIPT, path_of};
use ringfs_protocol::messages::{
    BlockOpResponseProto, OpRequestShortCircuitAccessProto, ReleaseShortCircuitAccessResponseProto,
    ShortCircuitShmResponseProto, Status,
};
use ringfs_protocol::operation::{Operation, decode_operation};
use ringfs_protocol::wire::encode_delimited;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::error::{DatanodeError, Result};
use crate::limits::MESSAGE_READ_BYTES;
use crate::replica::Replica;
use crate::replica_files::require_stored;
use crate::server::TransferServer;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A replica moves at most twice between two looks: when it is finalized, and when appended to.
const OPEN_TRIES: u32 = 3;

/// Listens where the setting says; `None` when it says nothing.
pub fn bind(configured: &str, transfer_port: u16) -> Result<Option<UnixListener>> {
    if configured.is_empty() {
        return Ok(None);
    }
    let path = path_of(configured, transfer_port);
    check_directories(&path).map_err(|why| DatanodeError::Host {
        why: format!("dfs.domain.socket.path {}: {why}", path.display()),
    })?;
    let failed = || DatanodeError::io(format!("listening on {}", path.display()));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed())?;
    // Whoever may enter the directories may ask.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).map_err(failed())?;
    info!(path = %path.display(), "short-circuit reads are served");
    Ok(Some(listener))
}

/// No one but root and this user may be able to put another socket in the path's place.
pub fn check_directories(path: &Path) -> std::result::Result<(), String> {
    if !path.is_absolute() {
        return Err("not an absolute path".to_owned());
    }
    let own_uid = rustix::process::geteuid().as_raw();
    for directory in path.ancestors().skip(1) {
        let shown = directory.display();
        let status = directory.metadata().map_err(|error| format!("{shown}: {error}"))?;
        let (mode, uid, gid) = (status.mode() & 0o777, status.uid(), status.gid());
        let why = if mode & 0o002 != 0 {
            "is world-writable".to_owned()
        } else if mode & 0o020 != 0 && gid != 0 {
            format!("is writable by group {gid}, which is not root's")
        } else if mode & 0o200 != 0 && uid != 0 && uid != own_uid {
            format!("belongs to user {uid}, who is neither root nor this datanode's ({own_uid})")
        } else {
            continue;
        };
        return Err(format!("{shown} (mode {mode:03o}) {why}; mend that or take another path"));
    }
    Ok(())
}

/// Accepts for as long as the datanode lives.
pub async fn serve(server: Arc<TransferServer>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok(_) if server.activity.streams() >= server.streams_max => {
                server.counters.streams_refused.add(1);
            }
            Ok((stream, _)) => {
                let server = server.clone();
                let busy = server.activity.stream();
                tokio::spawn(async move {
                    let mut connection = Connection { stream, received: BytesMut::new() };
                    if let Err(error) = connection.serve(&server).await {
                        debug!(%error, "short-circuit connection closed");
                    }
                    drop(busy);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection to the domain socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    stream: UnixStream,
    /// Received and not decoded yet.
    received: BytesMut,
}

impl Connection {
    async fn serve(&mut self, server: &TransferServer) -> Result<()> {
        let mut patience = server.socket_timeout;
        while let Some(operation) = self.operation(patience).await? {
            match operation {
                Operation::RequestShortCircuitFds(request) => {
                    self.pass_replica(server, &request).await?;
                }
                Operation::RequestShortCircuitShm(_) => {
                    let error = Some("no shared memory segments are served here".to_owned());
                    let status = Status::ErrorUnsupported as i32;
                    let reply = ShortCircuitShmResponseProto { status, error, id: None };
                    self.send(&reply, patience).await?;
                }
                Operation::ReleaseShortCircuitFds(request) => {
                    let id = &request.slot_id.shm_id;
                    let error = format!("no shared memory segment {:x}{:016x} here", id.hi, id.lo);
                    let status = Status::ErrorInvalid as i32;
                    let reply =
                        ReleaseShortCircuitAccessResponseProto { status, error: Some(error) };
                    self.send(&reply, patience).await?;
                }
                _ => {
                    let why = "only short-circuit operations are served over the domain socket";
                    return self.send(&refusal(Status::ErrorUnsupported, why), patience).await;
                }
            }
            patience = server.keepalive;
        }
        Ok(())
    }

    async fn pass_replica(
        &mut self,
        server: &TransferServer,
        request: &OpRequestShortCircuitAccessProto,
    ) -> Result<()> {
        let patience = server.socket_timeout;
        let block = ExtendedBlock::from(&request.header.block);
        let (data, meta) = match open_replica(server, &block, request.max_version).await {
            Ok(files) => files,
            Err(reply) => {
                debug!(%block, why = reply.message(), "not passed to a client");
                return self.send(&*reply, patience).await;
            }
        };
        let reply = BlockOpResponseProto {
            status: Status::Success as i32,
            short_circuit_access_version: Some(BLOCK_FILES_VERSION),
            ..Default::default()
        };
        self.send(&reply, patience).await?;
        let confirmed = request.supports_receipt_verification();
        let byte = if confirmed { CONFIRM_RECEIPT } else { 0 };
        within(patience, self.send_descriptors(&data, &meta, byte)).await?;
        if confirmed && self.received.is_empty() && !self.receive(patience).await? {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        if confirmed {
            self.received.advance(1);
        }
        Ok(())
    }

    async fn send_descriptors(&self, data: &File, meta: &File, byte: u8) -> io::Result<()> {
        let descriptors = [data.as_fd(), meta.as_fd()];
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            let bytes = [IoSlice::new(std::slice::from_ref(&byte))];
            Ok(sendmsg(&self.stream, &bytes, &mut control, SendFlags::NOSIGNAL)?)
        };
        self.stream.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// The next operation; `None` when the client is done, or says nothing for so long.
    async fn operation(&mut self, patience: Duration) -> Result<Option<Operation>> {
        loop {
            if let Some((operation, used)) = decode_operation(&self.received)? {
                self.received.advance(used);
                return Ok(Some(operation));
            }
            if !self.receive(patience).await? {
                return Ok(None);
            }
        }
    }

    async fn receive(&mut self, patience: Duration) -> Result<bool> {
        self.received.reserve(MESSAGE_READ_BYTES);
        let count = within(patience, self.stream.read_buf(&mut self.received)).await?;
        Ok(count > 0)
    }

    async fn send(&mut self, reply: &impl Message, patience: Duration) -> Result<()> {
        let mut bytes = BytesMut::new();
        encode_delimited(reply, &mut bytes);
        within(patience, self.stream.write_all(&bytes)).await
    }
}

/// The data and the meta file, or the reply that refuses them.
async fn open_replica(
    server: &TransferServer,
    block: &ExtendedBlock,
    max_version: u32,
) -> std::result::Result<(File, File), Box<BlockOpResponseProto>> {
    // With the version, this refusal is taken to be of this block alone.
    let unsupported = |why: &str| {
        let version = Some(BLOCK_FILES_VERSION);
        let refused = refusal(Status::ErrorUnsupported, why);
        Box::new(BlockOpResponseProto { short_circuit_access_version: version, ..refused })
    };
    let erroneous = |error: DatanodeError| Box::new(refusal(error.status(), &error.to_string()));
    if max_version < BLOCK_FILES_VERSION {
        return Err(unsupported("the client is too old for the layout of block files"));
    }
    let replica = server.dataset.require_answering(block).map_err(erroneous)?;
    require_stored(&replica).map_err(|error| unsupported(&error.to_string()))?;
    let wanted = block.block.generation_stamp;
    let found = replica.generation_stamp();
    if found != wanted {
        return Err(erroneous(DatanodeError::UnexpectedReplica {
            block: replica.block(),
            why: format!("generation stamp {wanted} was asked for"),
        }));
    }
    let is_final = |replica: &Replica| {
        replica.state() == ReplicaState::Finalized && replica.generation_stamp() == wanted
    };
    replica.note_passed();
    let opening = replica.clone();
    let files = match tokio::task::spawn_blocking(move || open_files(&opening)).await {
        Ok(opened) => opened.map_err(erroneous)?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    match is_final(&replica) {
        true => Ok(files),
        false => Err(unsupported("the replica is not finalized")),
    }
}

fn open_files(replica: &Replica) -> Result<(File, File)> {
    let mut tries = 0;
    loop {
        let files = replica.files();
        let opened = File::open(&files.data).and_then(|data| Ok((data, File::open(&files.meta)?)));
        match opened {
            Ok(opened) => return Ok(opened),
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < OPEN_TRIES => {
                tries += 1;
            }
            Err(source) => {
                let what = format!("opening {} and its meta file", files.data.display());
                return Err(DatanodeError::Io { what, source });
            }
        }
    }
}

fn refusal(status: Status, why: &str) -> BlockOpResponseProto {
    let message = Some(why.to_owned());
    BlockOpResponseProto { status: status as i32, message, ..Default::default() }
}

async fn within<T>(patience: Duration, future: impl Future<Output = io::Result<T>>) -> Result<T> {
    match timeout(patience, future).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

fn failed(source: io::Error) -> DatanodeError {
    DatanodeError::Io { what: "a client of the domain socket".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_others_could_replace_is_refused() {
        // Not below the build directory, which may itself be one that others could replace.
        let base = tempfile::tempdir_in("/run").unwrap();
        let directory = base.path().join("run");
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("socket");
        let set = |mode| {
            std::fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).unwrap();
        };
        set(0o755);
        check_directories(&path).unwrap();
        set(0o757);
        let why = check_directories(&path).unwrap_err();
        assert!(why.contains("world-writable") && why.contains("run"), "{why}");
        assert!(check_directories(Path::new("run/socket")).is_err());
        assert!(check_directories(&directory.join("absent").join("socket")).is_err());
    }
}

//! The transfer port: accepts connections, reads operations, hands each to what serves it.
//!
//! One task accepts, and gives each connection to the data thread with the fewest tasks, where it
//! stays. A connection carries operations one after another only behind a READ_BLOCK that ended as
//! agreed, or such a WRITE_BLOCK whose sender asked for it; every other one closes it, as in HDFS. Streams beyond the limit are closed at once, which
//! clients take as a reason to try another datanode.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use ringfs_protocol::messages::{
    BlockOpResponseProto, OpBlockChecksumProto, OpCopyBlockProto, OpReplaceBlockProto,
    OpTransferBlockProto, Status,
};
use ringfs_protocol::operation::{Opcode, Operation, decode_operation};
use ringfs_protocol::wire::encode_delimited;
use tracing::{debug, info, warn};

use crate::activity::Activity;
use crate::block_checksum::block_checksum;
use crate::block_move::{BlockMoves, COPY_DONE};
use crate::block_reader;
use crate::block_transfer::Transfers;
use crate::connection::Connection;
use crate::counters::Counters;
use crate::data_work::DataWork;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::planned_restart::PlannedRestart;
use crate::read_history::ReadHistory;
use crate::ring::{self, Either, TcpListener, TcpStream};
use crate::write_pipeline;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the client of a REPLACE_BLOCK is told that it is under way.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What every stream of the process shares.
pub struct TransferServer {
    pub dataset: Arc<Dataset>,
    pub activity: Arc<Activity>,
    pub counters: Arc<Counters>,
    pub reads: ReadHistory,
    pub transfers: Transfers,
    pub moves: BlockMoves,
    pub socket_timeout: Duration,
    pub timeout_per_target: Duration,
    /// How long a connection waits for an operation after the first.
    pub keepalive: Duration,
    pub restart: Arc<PlannedRestart>,
    pub streams_max: u32,
}

impl TransferServer {
    /// Accepts on a data thread for as long as the data threads live.
    pub fn start(self: Arc<Self>, listener: impl Into<OwnedFd>, data_work: DataWork) {
        let (handing_out, listener) = (data_work.clone(), listener.into());
        data_work.start(move || self.accept(TcpListener::new(listener), handing_out));
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, data_work: DataWork) {
        loop {
            match listener.accept().await {
                Ok(_) if self.activity.streams() >= self.streams_max => {
                    self.counters.streams_refused.add(1);
                    warn!(
                        limit = self.streams_max,
                        "connection closed: as many streams as dfs.datanode.max.transfer.threads \
                         allows"
                    );
                }
                Ok(socket) => {
                    let server = self.clone();
                    // Counted from here, so that a burst of connections cannot pass the limit.
                    let busy = self.activity.stream();
                    data_work.start(move || async move {
                        server.serve_connection(socket).await;
                        drop(busy);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others will be closed before long.
                    warn!(%error, "cannot accept a connection");
                    ring::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve_connection(&self, socket: OwnedFd) {
        let stream = TcpStream::new(socket);
        if let Err(error) = stream.prepare() {
            debug!(%error, "connection was closed before it was served");
            return;
        }
        let mut connection = Connection::new(stream);
        let mut patience = self.socket_timeout;
        loop {
            let operation = match connection.read("operation", patience, decode_operation).await {
                Ok(Some(operation)) => operation,
                Ok(None) => return,
                Err(error) => {
                    // An idle connection that was kept for another operation just ends.
                    if patience == self.socket_timeout || !connection.received.is_empty() {
                        warn!(%error, peer = connection.peer, "connection closed");
                    }
                    return;
                }
            };
            let peer = connection.peer.clone();
            match self.serve_operation(&mut connection, operation).await {
                Ok(true) => patience = self.keepalive,
                Ok(false) => return,
                Err(error) => {
                    warn!(%error, peer, "operation failed");
                    if ringfs_protocol::mutant!("datanode: keep a broken connection") {
                        std::mem::forget(connection);
                    }
                    return;
                }
            }
        }
    }

    /// Returns whether the connection may carry another operation.
    async fn serve_operation(
        &self,
        connection: &mut Connection,
        operation: Operation,
    ) -> Result<bool> {
        match operation {
            Operation::ReadBlock(request) => {
                return block_reader::serve(self, connection, &request).await;
            }
            Operation::WriteBlock(request) => {
                return write_pipeline::serve(self, connection, *request).await;
            }
            Operation::BlockChecksum(request) => self.checksum(connection, &request).await?,
            Operation::TransferBlock(request) => self.transfer(connection, &request).await?,
            Operation::CopyBlock(request) => self.copy(connection, &request).await?,
            Operation::ReplaceBlock(request) => self.replace(connection, *request).await?,
            Operation::RequestShortCircuitFds(_) => {
                refuse(connection, Opcode::RequestShortCircuitFds).await?;
            }
            Operation::ReleaseShortCircuitFds(_) => {
                refuse(connection, Opcode::ReleaseShortCircuitFds).await?;
            }
            Operation::RequestShortCircuitShm(_) => {
                refuse(connection, Opcode::RequestShortCircuitShm).await?;
            }
            Operation::Refused(opcode) => refuse(connection, opcode).await?,
        }
        Ok(false)
    }

    async fn checksum(
        &self,
        connection: &mut Connection,
        request: &OpBlockChecksumProto,
    ) -> Result<()> {
        let reply = match block_checksum(&self.dataset, request).await {
            Ok(response) => delimited(&BlockOpResponseProto {
                status: Status::Success as i32,
                checksum_response: Some(response),
                ..Default::default()
            }),
            Err(error) => block_reader::error_reply(&error),
        };
        connection.send(reply).await
    }

    async fn transfer(
        &self,
        connection: &mut Connection,
        request: &OpTransferBlockProto,
    ) -> Result<()> {
        let reply = match self.transfers.transfer_for_client(request).await {
            Ok(()) => status_reply(Status::Success),
            Err(error) => {
                warn!(%error, peer = connection.peer, "transfer failed");
                block_reader::error_reply(&error)
            }
        };
        connection.send(reply).await
    }

    async fn copy(&self, connection: &mut Connection, request: &OpCopyBlockProto) -> Result<()> {
        let (reply, mut packets) = match self.moves.copy_block(request).await {
            Ok(copy) => copy,
            Err(error) => return connection.send(block_reader::error_reply(&error)).await,
        };
        connection.send(delimited(&reply)).await?;
        while let Some(run) = packets.next_run().await? {
            self.moves.bandwidth().take(run.len()).await;
            connection.send(run).await?;
        }
        connection.send(BytesMut::from(&COPY_DONE[..])).await
    }

    async fn replace(
        &self,
        connection: &mut Connection,
        request: OpReplaceBlockProto,
    ) -> Result<()> {
        let moves = self.moves.clone();
        // A task of its own, which goes on to a clean end when its client goes away.
        let moving = ring::spawn(async move { moves.replace_block(&request).await });
        let mut moving = std::pin::pin!(moving.join());
        let moved = loop {
            match ring::race(moving.as_mut(), ring::sleep(PROGRESS_INTERVAL)).await {
                Either::First(moved) => break moved,
                Either::Second(()) => connection.send(status_reply(Status::InProgress)).await?,
            }
        };
        let reply = match moved {
            Ok(_) => status_reply(Status::Success),
            Err(error) => {
                warn!(%error, peer = connection.peer, "move failed");
                block_reader::error_reply(&error)
            }
        };
        connection.send(reply).await
    }
}

async fn refuse(connection: &Connection, opcode: Opcode) -> Result<()> {
    info!(?opcode, peer = connection.peer, "operation refused");
    connection.send(refusal(opcode)).await
}

/// Short-circuit reads need a UNIX socket (`domain_socket`), erasure coding and custom operations are not served:
/// clients fall back to what is.
fn refusal(opcode: Opcode) -> BytesMut {
    let status = match opcode {
        Opcode::RequestShortCircuitFds | Opcode::ReleaseShortCircuitFds => Status::Error,
        Opcode::RequestShortCircuitShm => Status::ErrorInvalid,
        _ => Status::ErrorUnsupported,
    };
    delimited(&BlockOpResponseProto {
        status: status as i32,
        message: Some(format!("operation {} ({opcode:?}) is not supported", opcode as u8)),
        ..Default::default()
    })
}

fn status_reply(status: Status) -> BytesMut {
    delimited(&BlockOpResponseProto { status: status as i32, ..Default::default() })
}

fn delimited(message: &impl Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_delimited(message, &mut bytes);
    bytes
}

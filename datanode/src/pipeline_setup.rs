//! The beginning of a WRITE_BLOCK: what this datanode is in it, the replica it writes, the datanode
//! that comes next, and the reply that tells the client of both.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use ringfs_protocol::block::{ExtendedBlock, GenerationStamp};
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::messages::{
    BlockConstructionStage, BlockOpResponseProto, DatanodeInfoProto, OpWriteBlockProto, Status,
};
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use ringfs_protocol::wire::encode_delimited;
use tracing::{debug, warn};

use crate::connection::Connection;
use crate::error::{DatanodeError, Result};
use crate::idle_mirrors;
use crate::mirror::Mirror;
use crate::peer;
use crate::ring;
use crate::server::TransferServer;
use crate::transitions::{CreateReplica, ReplicaWriter};

use BlockConstructionStage as Stage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A client's pipeline, with acks.
    Pipeline(Stage),
    TransferRbw,
    TransferFinalized,
    Replication,
}

impl Role {
    pub fn of(request: &OpWriteBlockProto) -> Result<Self> {
        if request.header.client_name.is_empty() {
            return Ok(Self::Replication);
        }
        match request.stage() {
            Stage::TransferRbw => Ok(Self::TransferRbw),
            Stage::TransferFinalized => Ok(Self::TransferFinalized),
            stage @ (Stage::DataStreaming | Stage::PipelineClose) => {
                let why = format!("{stage:?} is no stage to begin with");
                Err(ringfs_protocol::ProtocolError::malformed("WRITE_BLOCK", why).into())
            }
            stage => Ok(Self::Pipeline(stage)),
        }
    }

    pub fn has_setup_reply(self) -> bool {
        matches!(self, Self::Pipeline(_))
    }
}

/// What [`set_up_mirror`] finds.
pub struct MirrorSetup {
    pub mirror: Option<Rc<Mirror>>,
    pub status: Status,
    /// As clients compare it byte for byte, `ip:port` of the datanode that failed.
    pub bad_link: String,
    /// Whether all datanodes from the mirror on say that they reopen finalized replicas.
    pub reopens_finalized: bool,
}

impl MirrorSetup {
    fn without(status: Status, bad_link: String) -> Self {
        let reopens_finalized = status == Status::Success;
        Self { mirror: None, status, bad_link, reopens_finalized }
    }
}

/// Opens the replica here and connects the next datanode. For a new block both at once, so that a
/// pipeline's set-up takes as long as its slowest datanode, not as all together; what a refusal here
/// leaves behind there is a replica without a byte, as when a client gives up. Replicas that exist
/// change in the order of the pipeline.
pub async fn set_up(
    server: &TransferServer,
    request: &OpWriteBlockProto,
    role: Role,
) -> (Result<Option<ReplicaWriter>>, MirrorSetup) {
    if role == Role::Pipeline(Stage::PipelineSetupCreate) {
        return ring::join(open(server, request, role), set_up_mirror(server, request, role)).await;
    }
    match open(server, request, role).await {
        Ok(writer) => (Ok(writer), set_up_mirror(server, request, role).await),
        Err(error) => (Err(error), MirrorSetup::without(Status::Error, String::new())),
    }
}

/// The replica to write to; `None` when there is nothing to write (CLOSE_RECOVERY).
async fn open(
    server: &TransferServer,
    request: &OpWriteBlockProto,
    role: Role,
) -> Result<Option<ReplicaWriter>> {
    let dataset = &server.dataset;
    let block = ExtendedBlock::from(&request.header.base_header.block);
    let new_stamp = GenerationStamp(request.latest_generation_stamp);
    let (min_bytes, max_bytes) = (request.min_bytes_rcvd, request.max_bytes_rcvd);
    let create = || -> Result<CreateReplica> {
        Ok(CreateReplica {
            block: block.clone(),
            checksum: DataChecksum::from_proto(&request.requested_checksum)?,
            storage_type: request.storage_type(),
            storage_id: request.storage_id.clone().filter(|id| !id.is_empty()),
        })
    };
    let writer = match role {
        Role::Replication => dataset.create_temporary(create()?, false).await?,
        Role::TransferRbw | Role::TransferFinalized => {
            dataset.create_temporary(create()?, true).await?
        }
        Role::Pipeline(Stage::PipelineSetupAppend) => {
            dataset.append(&block, new_stamp, min_bytes, request.pipeline_size <= 1).await?
        }
        Role::Pipeline(Stage::PipelineSetupAppendRecovery) => {
            dataset.recover_append(&block, new_stamp, min_bytes).await?
        }
        Role::Pipeline(Stage::PipelineSetupStreamingRecovery) => {
            dataset.recover_rbw(&block, new_stamp, min_bytes, max_bytes).await?
        }
        Role::Pipeline(Stage::PipelineCloseRecovery) => {
            dataset.recover_close(&block, new_stamp, min_bytes).await?;
            return Ok(None);
        }
        Role::Pipeline(_) => dataset.create_rbw(create()?).await?,
    };
    Ok(Some(writer))
}

/// Connects the next datanode, if there is one.
async fn set_up_mirror(
    server: &TransferServer,
    request: &OpWriteBlockProto,
    role: Role,
) -> MirrorSetup {
    let Some(target) = request.targets.first() else {
        return MirrorSetup::without(Status::Success, String::new());
    };
    let name = peer::name(&target.id);
    let patience = mirror_patience(server, request);
    match connect_mirror(target, request, role, patience).await {
        Ok((connection, reply)) => {
            let status = reply.as_ref().map_or(Status::Success, BlockOpResponseProto::status);
            let reopens_finalized = reply.as_ref().is_some_and(|reply| reply.reopens_finalized());
            let keeps_connection = reply.as_ref().is_some_and(|reply| reply.keeps_connection());
            let bad_link = reply.and_then(|reply| reply.first_bad_link).unwrap_or_default();
            // It names none where it is to blame itself, which only this node can tell the client.
            let is_itself = status != Status::Success && bad_link.is_empty();
            let bad_link = if is_itself { name } else { bad_link };
            let mirror = Some(Mirror::new(connection, patience, keeps_connection));
            MirrorSetup { mirror, status, bad_link, reopens_finalized }
        }
        Err(error) => {
            server.counters.mirror_errors.add(1);
            warn!(%error, target = name, "mirror cannot be set up");
            // A replication goes on for the sake of this node's own replica.
            let status = if role == Role::Replication { Status::Success } else { Status::Error };
            MirrorSetup::without(status, name)
        }
    }
}

async fn connect_mirror(
    target: &DatanodeInfoProto,
    request: &OpWriteBlockProto,
    role: Role,
    patience: Duration,
) -> Result<(Connection, Option<BlockOpResponseProto>)> {
    let name = peer::name(&target.id);
    let address = data_address(target)?;
    let mut next = next_request(request);
    next.keeps_connection = role.has_setup_reply().then_some(true);
    let mut bytes = BytesMut::new();
    encode_operation(Opcode::WriteBlock, &next, &mut bytes);
    if !role.has_setup_reply() {
        let connection = Connection::connect(address, patience).await?;
        connection.send(bytes).await?;
        return Ok((connection, None));
    }
    if let Some(mut connection) = idle_mirrors::take(address) {
        let begun = ring::now();
        match begin(&mut connection, bytes.clone(), patience).await {
            Ok(reply) => return Ok((connection, Some(reply))),
            // It was closed meanwhile, most likely, and the operation never read.
            Err(error) if ring::now().duration_since(begun) < patience => {
                debug!(%error, target = name, "a kept connection is of no more use");
            }
            Err(error) => return Err(error),
        }
    }
    let mut connection = Connection::connect(address, patience).await?;
    let reply = begin(&mut connection, bytes, patience).await?;
    Ok((connection, Some(reply)))
}

/// Where a datanode takes operations.
pub fn data_address(target: &DatanodeInfoProto) -> Result<SocketAddr> {
    let failed =
        |why: &str| DatanodeError::Peer { peer: peer::name(&target.id), why: why.to_owned() };
    let address: IpAddr = target.id.ip_addr.parse().map_err(|_| failed("not a numeric address"))?;
    let port = u16::try_from(target.id.xfer_port).map_err(|_| failed("no such port"))?;
    Ok(SocketAddr::new(address, port))
}

/// What the next datanode is asked, and nothing follows it yet.
pub fn next_request(request: &OpWriteBlockProto) -> OpWriteBlockProto {
    let mut next = request.clone();
    next.targets.remove(0);
    next.storage_type =
        take_first(&mut next.target_storage_types).or(Some(next.storage_type() as i32));
    next.storage_id = take_first(&mut next.target_storage_ids);
    next.pinning = take_first(&mut next.target_pinnings).or(next.pinning);
    next.following_bytes = None;
    next
}

/// How long the next datanode of a pipeline may take to answer.
pub fn mirror_patience(server: &TransferServer, request: &OpWriteBlockProto) -> Duration {
    server.socket_timeout + server.timeout_per_target * request.targets.len() as u32
}

async fn begin(
    connection: &mut Connection,
    operation: BytesMut,
    patience: Duration,
) -> Result<BlockOpResponseProto> {
    connection.send(operation).await?;
    connection.expect("reply to WRITE_BLOCK", patience, decode_response).await
}

fn take_first<T>(items: &mut Vec<T>) -> Option<T> {
    if items.is_empty() { None } else { Some(items.remove(0)) }
}

pub fn setup_reply(status: Status, first_bad_link: String, message: Option<String>) -> BytesMut {
    encode(&BlockOpResponseProto {
        status: status as i32,
        first_bad_link: Some(first_bad_link),
        message,
        ..Default::default()
    })
}

/// The reply of a pipeline that is set up.
pub fn success_reply(reopens_finalized: bool, keeps_connection: bool) -> BytesMut {
    encode(&BlockOpResponseProto {
        status: Status::Success as i32,
        first_bad_link: Some(String::new()),
        reopens_finalized: reopens_finalized.then_some(true),
        keeps_connection: keeps_connection.then_some(true),
        ..Default::default()
    })
}

fn encode(reply: &BlockOpResponseProto) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_delimited(reply, &mut bytes);
    bytes
}

//! What a datanode answers on its IPC port: ClientDatanodeProtocol for clients and operators,
//! InterDatanodeProtocol for the primary of a block recovery. Other methods do not exist here.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use ringfs_protocol::RemoteError;
use ringfs_protocol::block::{BlockId, ExtendedBlock, GenerationStamp};
use ringfs_protocol::error::java;
use ringfs_protocol::messages::{
    DatanodeLocalInfoProto, GetDatanodeInfoResponseProto, GetReplicaVisibleLengthRequestProto,
    GetReplicaVisibleLengthResponseProto, InitReplicaRecoveryRequestProto,
    ShutdownDatanodeRequestProto, ShutdownDatanodeResponseProto, TriggerBlockReportRequestProto,
    TriggerBlockReportResponseProto, UpdateReplicaUnderRecoveryRequestProto,
    UpdateReplicaUnderRecoveryResponseProto,
};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::rpc::server::{Call, CallError, RpcService};
use tokio::sync::Notify;
use tracing::info;

use crate::block_recovery::{answer_to, start_in_time};
use crate::data_work::DataWork;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::namenode_link::LinkRequests;
use crate::planned_restart::PlannedRestart;

pub struct IpcService {
    pub dataset: Arc<Dataset>,
    pub data_work: DataWork,
    pub link: Arc<LinkRequests>,
    /// Told when an operator asks this datanode to stop.
    pub shutdown: Arc<Notify>,
    /// Told before, when it is to come back.
    pub restart: Arc<PlannedRestart>,
    /// Who may do so: the user that runs it.
    pub owner: String,
    pub started: Instant,
}

impl RpcService for IpcService {
    fn protocols(&self) -> &'static [&'static str] {
        &[protocol_name::CLIENT_DATANODE, protocol_name::INTER_DATANODE]
    }

    async fn call(&self, call: Call) -> std::result::Result<Bytes, CallError> {
        match (call.protocol.as_str(), call.method.as_str()) {
            (protocol_name::CLIENT_DATANODE, "getReplicaVisibleLength") => {
                reply(self.visible_len(&decode(&call)?))
            }
            (protocol_name::CLIENT_DATANODE, "getDatanodeInfo") => reply(Ok(self.info())),
            (protocol_name::CLIENT_DATANODE, "triggerBlockReport") => {
                let request: TriggerBlockReportRequestProto = decode(&call)?;
                if request.incremental {
                    self.link.report_changes();
                } else {
                    self.link.report_all();
                }
                reply(Ok(TriggerBlockReportResponseProto {}))
            }
            (protocol_name::CLIENT_DATANODE, "shutdownDatanode") => {
                let request: ShutdownDatanodeRequestProto = decode(&call)?;
                self.require_owner(&call)?;
                info!(user = call.caller.user, for_upgrade = request.for_upgrade, "told to stop");
                if request.for_upgrade {
                    self.restart.announce(&self.dataset);
                }
                self.shutdown.notify_one();
                reply(Ok(ShutdownDatanodeResponseProto {}))
            }
            (protocol_name::INTER_DATANODE, "initReplicaRecovery") => {
                let request: InitReplicaRecoveryRequestProto = decode(&call)?;
                let block = ExtendedBlock::from(&request.block.block.b);
                let recovery_id = GenerationStamp(request.block.new_gen_stamp);
                let started = start_in_time(&self.dataset, &block, recovery_id).await;
                reply(started.map(answer_to))
            }
            (protocol_name::INTER_DATANODE, "updateReplicaUnderRecovery") => {
                let request: UpdateReplicaUnderRecoveryRequestProto = decode(&call)?;
                reply(self.update_replica(&request).await)
            }
            _ => Err(CallError::NoSuchMethod { protocol: call.protocol, method: call.method }),
        }
    }
}

impl IpcService {
    fn visible_len(
        &self,
        request: &GetReplicaVisibleLengthRequestProto,
    ) -> Result<GetReplicaVisibleLengthResponseProto> {
        let block = ExtendedBlock::from(&request.block);
        let replica = self.dataset.require(&block)?;
        if replica.generation_stamp() < block.block.generation_stamp {
            return Err(DatanodeError::UnexpectedReplica {
                block: replica.block(),
                why: format!("its generation stamp is below that of {block}"),
            });
        }
        // -1 for a replica that nobody may read.
        let length = replica.visible_len().unwrap_or(u64::MAX);
        Ok(GetReplicaVisibleLengthResponseProto { length })
    }

    fn info(&self) -> GetDatanodeInfoResponseProto {
        let version = env!("CARGO_PKG_VERSION");
        GetDatanodeInfoResponseProto {
            local_info: DatanodeLocalInfoProto {
                software_version: format!("ringfs-{version}"),
                config_version: format!("ringfs-{version}"),
                uptime: self.started.elapsed().as_secs(),
            },
        }
    }

    async fn update_replica(
        &self,
        request: &UpdateReplicaUnderRecoveryRequestProto,
    ) -> Result<UpdateReplicaUnderRecoveryResponseProto> {
        let old = ExtendedBlock::from(&request.block);
        let recovery_id = GenerationStamp(request.recovery_id);
        let new_id = Some(request.new_block_id()).filter(|id| *id != 0).map(BlockId);
        let (dataset, len) = (self.dataset.clone(), request.new_length);
        let storage =
            self.data_work
                .run(move || async move {
                    dataset.finish_recovery(&old, recovery_id, len, new_id).await
                })
                .await??;
        Ok(UpdateReplicaUnderRecoveryResponseProto { storage_uuid: Some(storage) })
    }

    fn require_owner(&self, call: &Call) -> std::result::Result<(), CallError> {
        if call.caller.user == self.owner {
            return Ok(());
        }
        let message =
            format!("User {} is not {}, who runs this datanode", call.caller.user, self.owner);
        Err(RemoteError::new(java::ACCESS_CONTROL, message).into())
    }
}

fn decode<M: Message + Default>(call: &Call) -> std::result::Result<M, CallError> {
    M::decode(call.request.clone()).map_err(|error| CallError::BadRequest {
        method: call.method.clone(),
        why: error.to_string(),
    })
}

fn reply<M: Message>(result: Result<M>) -> std::result::Result<Bytes, CallError> {
    match result {
        Ok(message) => Ok(message.encode_to_vec().into()),
        Err(error) => Err(error.to_remote().into()),
    }
}

//! DatanodeProtocol: registration, heartbeats, reports, and the end of a block recovery.
//!
//! A datanode is answered with errors that Java's act upon: `UnregisteredNodeException`,
//! `DisallowedDatanodeException` and `IncorrectVersionException` make it give this namenode up for
//! good; after any other it tries on. The address it is known by is the one it calls from.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use ringfs_protocol::blocking;
use ringfs_protocol::messages::*;
use ringfs_protocol::rpc::server::{Call, CallError};

use crate::client_protocol::{no_such_method, request};
use crate::datanodes::Registration;
use crate::error::{NamenodeError, Result};
use crate::heartbeats::{Heartbeat, HeartbeatReply, TransferOrder};
use crate::limits::REPORT_INLINE_REPLICAS;
use crate::namesystem::Namesystem;

/// What datanodes are told they talk to: a version that Java's of 2.7 to 3.5 all accept, and the
/// metadata layout that goes with it.
const SOFTWARE_VERSION: &str = "3.3.6";
const LAYOUT_VERSION: i32 = -66;
const BUILD_VERSION: &str = concat!("ringfs-", env!("CARGO_PKG_VERSION"));

/// Java's least version of a datanode (`dfs.namenode.min.supported.datanode.version`).
const LEAST_DATANODE_VERSION: (u32, u32) = (2, 1);

/// STORAGE_BLOCK_REPORT_BUFFERS.
const CAPABILITIES: u64 = 1;

/// There is one namenode, so its claim to be active is never outdone.
const ACTIVE_TXID: u64 = 1;

impl Namesystem {
    /// Serves a call of DatanodeProtocol.
    pub async fn datanode_call(
        self: &Arc<Self>,
        call: &Call,
    ) -> std::result::Result<Bytes, CallError> {
        let reply = match call.method.as_str() {
            "versionRequest" => {
                let _: VersionRequestProto = request(call)?;
                encode(VersionResponseProto { info: self.namespace_info() })
            }
            "registerDatanode" => {
                let r: RegisterDatanodeRequestProto = request(call)?;
                let registration = self.register_datanode(call, r.registration).await?;
                encode(RegisterDatanodeResponseProto { registration })
            }
            "sendHeartbeat" => encode(self.send_heartbeat(request(call)?)?),
            "blockReport" => {
                self.block_report(request(call)?).await?;
                encode(BlockReportResponseProto { cmd: None })
            }
            "cacheReport" => {
                let _: CacheReportRequestProto = request(call)?;
                encode(CacheReportResponseProto { cmd: None })
            }
            "blockReceivedAndDeleted" => {
                let r: BlockReceivedAndDeletedRequestProto = request(call)?;
                self.check_reporter(&r.registration, Some(&r.block_pool_id))?;
                self.blocks
                    .incremental_report(&r.registration.datanode_id.datanode_uuid, &r.blocks)?;
                encode(BlockReceivedAndDeletedResponseProto {})
            }
            "errorReport" => {
                self.error_report(&request(call)?)?;
                encode(ErrorReportResponseProto {})
            }
            "reportBadBlocks" => {
                self.report_bad_blocks(&request(call)?);
                encode(ReportBadBlocksResponseProto {})
            }
            "commitBlockSynchronization" => {
                self.commit_block_synchronization(request(call)?).await?;
                encode(CommitBlockSynchronizationResponseProto {})
            }
            _ => return Err(no_such_method(call)),
        };
        Ok(reply)
    }

    fn namespace_info(&self) -> NamespaceInfoProto {
        NamespaceInfoProto {
            build_version: BUILD_VERSION.to_owned(),
            unused: 0,
            block_pool_id: self.block_pool_id().to_owned(),
            storage_info: StorageInfoProto {
                layout_version: LAYOUT_VERSION as u32,
                namespace_id: self.identity().namespace_id,
                cluster_id: self.identity().cluster_id.clone(),
                c_time: self.identity().c_time,
            },
            software_version: SOFTWARE_VERSION.to_owned(),
            capabilities: Some(CAPABILITIES),
            state: Some(HaState::Active as i32),
        }
    }

    /// Returns the registration that the datanode shall use from now on.
    async fn register_datanode(
        &self,
        call: &Call,
        mut registration: DatanodeRegistrationProto,
    ) -> Result<DatanodeRegistrationProto> {
        self.check_reporter(&registration, None)?;
        let version = &registration.software_version;
        if major_minor(version).is_none_or(|version| version < LEAST_DATANODE_VERSION) {
            let (major, minor) = LEAST_DATANODE_VERSION;
            return Err(NamenodeError::IncorrectVersion(format!(
                "The reported DataNode version is too low to communicate with this NameNode. \
                 DataNode version: '{version}' Minimum DataNode version: '{major}.{minor}'"
            )));
        }
        let id = &mut registration.datanode_id;
        if id.datanode_uuid.is_empty() {
            let why = format!("datanode {} has no uuid", id.host_name);
            return Err(NamenodeError::DisallowedDatanode(why));
        }
        let ip = call.caller.address.ip().to_canonical();
        id.ip_addr = ip.to_string();
        let rack = self.topology.rack(ip, &id.host_name).await;
        self.blocks.register(Registration {
            uuid: id.datanode_uuid.clone(),
            ip,
            host_name: id.host_name.clone(),
            transfer_port: id.xfer_port,
            info_port: id.info_port,
            ipc_port: id.ipc_port,
            info_secure_port: id.info_secure_port,
            software_version: version.clone(),
            rack,
        })?;
        registration.keys = ExportedBlockKeysProto::default();
        Ok(registration)
    }

    fn send_heartbeat(&self, request: HeartbeatRequestProto) -> Result<HeartbeatResponseProto> {
        self.check_reporter(&request.registration, None)?;
        for disk in &request.slow_disks {
            tracing::warn!(
                uuid = request.registration.datanode_id.datanode_uuid,
                host = request.registration.datanode_id.host_name,
                volume = disk.base_path(),
                mean_write_ms = disk.mean_write_io_latency(),
                "a datanode reports a slow disk"
            );
        }
        let beat = Heartbeat {
            streams: request.xceiver_count(),
            transfers_running: request.xmits_in_progress(),
            wants_report_lease: request.request_full_block_report_lease(),
            failed_volumes: request.failed_volumes(),
            failed_locations: request
                .volume_failure_summary
                .map(|summary| summary.failed_storage_locations)
                .unwrap_or_default(),
            storages: request.reports,
        };
        let reply = self.blocks.heartbeat(&request.registration.datanode_id.datanode_uuid, &beat);
        Ok(HeartbeatResponseProto {
            full_block_report_lease_id: Some(reply.report_lease),
            cmds: self.commands(reply),
            ha_status: NNHAStatusHeartbeatProto {
                state: HaState::Active as i32,
                txid: ACTIVE_TXID,
            },
            rolling_upgrade_status: None,
            rolling_upgrade_status_v2: None,
            is_slownode: None,
        })
    }

    fn commands(&self, reply: HeartbeatReply) -> Vec<DatanodeCommandProto> {
        if reply.register {
            let register = Some(RegisterCommandProto {});
            return vec![DatanodeCommandProto {
                register_cmd: register,
                ..command(DatanodeCommandType::RegisterCommand)
            }];
        }
        let mut commands = Vec::new();
        if !reply.recoveries.is_empty() {
            let recovery = Some(BlockRecoveryCommandProto { blocks: reply.recoveries });
            commands.push(DatanodeCommandProto {
                recovery_cmd: recovery,
                ..command(DatanodeCommandType::BlockRecoveryCommand)
            });
        }
        if !reply.transfers.is_empty() {
            commands.push(block_command(self.transfer(reply.transfers)));
        }
        if !reply.invalidations.is_empty() {
            let blocks = reply.invalidations.into_iter().map(BlockProto::from).collect();
            commands.push(block_command(BlockCommandProto {
                action: BlockCommandAction::Invalidate as i32,
                block_pool_id: self.block_pool_id().to_owned(),
                blocks,
                targets: Vec::new(),
                target_storage_uuids: Vec::new(),
                target_storage_types: Vec::new(),
            }));
        }
        if let Some(bandwidth) = reply.balancer_bandwidth {
            commands.push(DatanodeCommandProto {
                balancer_cmd: Some(BalancerBandwidthCommandProto { bandwidth }),
                ..command(DatanodeCommandType::BalancerBandwidthCommand)
            });
        }
        commands
    }

    fn transfer(&self, orders: Vec<TransferOrder>) -> BlockCommandProto {
        let mut transfer = BlockCommandProto {
            action: BlockCommandAction::Transfer as i32,
            block_pool_id: self.block_pool_id().to_owned(),
            ..BlockCommandProto::default()
        };
        for TransferOrder { block, targets: (datanodes, storage_types, storage_uuids) } in orders {
            transfer.blocks.push(block.into());
            transfer.targets.push(DatanodeInfosProto { datanodes });
            transfer.target_storage_uuids.push(StorageUuidsProto { storage_uuids });
            transfer.target_storage_types.push(StorageTypesProto { storage_types });
        }
        transfer
    }

    async fn block_report(&self, request: BlockReportRequestProto) -> Result<()> {
        self.check_reporter(&request.registration, Some(&request.block_pool_id))?;
        let (lease, is_last) = match &request.context {
            Some(context) => (context.lease_id(), context.cur_rpc + 1 >= context.total_rpcs),
            None => (0, true),
        };
        let blocks = self.blocks.clone();
        if replicas_of(&request) <= REPORT_INLINE_REPLICAS {
            let uuid = &request.registration.datanode_id.datanode_uuid;
            return blocks.full_report(uuid, lease, is_last, &request.reports);
        }
        // A million replicas take seconds: not on a thread that serves others.
        let taken_in = blocking::run(move || {
            let uuid = &request.registration.datanode_id.datanode_uuid;
            blocks.full_report(uuid, lease, is_last, &request.reports)
        });
        taken_in.await.unwrap_or_else(|failed| {
            Err(NamenodeError::Io(format!("a full block report was not taken in: {failed}")))
        })
    }

    fn error_report(&self, request: &ErrorReportRequestProto) -> Result<()> {
        self.check_reporter(&request.registration, None)?;
        let id = &request.registration.datanode_id;
        tracing::warn!(
            uuid = id.datanode_uuid,
            host = id.host_name,
            code = request.error_code,
            "a datanode reports an error: {}",
            request.msg
        );
        if request.error_code == FATAL_DISK_ERROR {
            self.blocks.give_up_datanode(&id.datanode_uuid);
        }
        Ok(())
    }

    /// Refuses datanodes of another cluster.
    fn check_reporter(
        &self,
        registration: &DatanodeRegistrationProto,
        pool_id: Option<&str>,
    ) -> Result<()> {
        let (own, theirs) = (self.identity(), &registration.storage_info);
        let is_own = own.namespace_id == theirs.namespace_id
            && own.cluster_id == theirs.cluster_id
            && pool_id.is_none_or(|pool_id| pool_id == own.block_pool_id);
        if is_own {
            return Ok(());
        }
        Err(NamenodeError::UnregisteredNode(format!(
            "datanode {} belongs to namespace {} of cluster {}, this is namespace {} of {}",
            registration.datanode_id.datanode_uuid,
            theirs.namespace_id,
            theirs.cluster_id,
            own.namespace_id,
            own.cluster_id
        )))
    }
}

fn replicas_of(request: &BlockReportRequestProto) -> u64 {
    let of = |report: &StorageBlockReportProto| {
        // Three numbers each, where they come as such.
        report.number_of_blocks.unwrap_or(report.blocks.len() as u64 / 3)
    };
    request.reports.iter().map(of).sum()
}

fn encode(reply: impl Message) -> Bytes {
    reply.encode_to_vec().into()
}

fn command(cmd_type: DatanodeCommandType) -> DatanodeCommandProto {
    DatanodeCommandProto { cmd_type: cmd_type as i32, ..DatanodeCommandProto::default() }
}

fn block_command(blk_cmd: BlockCommandProto) -> DatanodeCommandProto {
    DatanodeCommandProto { blk_cmd: Some(blk_cmd), ..command(DatanodeCommandType::BlockCommand) }
}

/// The first two numbers of a version such as `3.3.6` or `2.7.3.2.6-SNAPSHOT`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

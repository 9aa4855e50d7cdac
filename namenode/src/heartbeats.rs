//! Registration and heartbeats: what a datanode tells about itself, and the commands it takes along.

use ringfs_protocol::block::Block;
use ringfs_protocol::messages::{
    DatanodeInfoProto, ExtendedBlockProto, LocatedBlockProto, RecoveringBlockProto,
    StorageReportProto, TokenProto,
};

use crate::block_manager::RecoveryRequest;
use crate::datanodes::{Node, NodeIndex, Registration, StorageIndex};
use crate::error::Result;
use crate::limits::{FAILED_VOLUMES_NAMED_MAX, RECOVERIES_PER_HEARTBEAT};
use crate::replicas::Replicas;

#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    pub storages: Vec<StorageReportProto>,
    pub streams: u32,
    pub transfers_running: u32,
    pub wants_report_lease: bool,
    pub failed_volumes: u32,
    /// Where they were, as far as it says.
    pub failed_locations: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct HeartbeatReply {
    /// The datanode is unknown, or was taken for dead: it shall register, nothing else.
    pub register: bool,
    pub recoveries: Vec<RecoveringBlockProto>,
    pub transfers: Vec<TransferOrder>,
    pub invalidations: Vec<Block>,
    /// Bytes a second for a balancer's moves, if the datanode does not know yet.
    pub balancer_bandwidth: Option<u64>,
    /// 0: none.
    pub report_lease: u64,
}

/// A block to copy to each of the targets.
#[derive(Clone, Debug)]
pub struct TransferOrder {
    pub block: Block,
    pub targets: Targets,
}

/// Storages as messages name them: datanodes, storage types and storage ids, an entry each.
pub type Targets = (Vec<DatanodeInfoProto>, Vec<i32>, Vec<String>);

impl Node {
    /// Its storages tell which replicas are lost; this tells an operator, also of a volume that failed
    /// before the datanode registered, which is none of its storages.
    fn note_failed_volumes(&mut self, beat: &Heartbeat) {
        let before = std::mem::replace(&mut self.failed_volumes, beat.failed_volumes);
        if before == beat.failed_volumes {
            return;
        }
        let named = beat.failed_locations.len().min(FAILED_VOLUMES_NAMED_MAX);
        let volumes = beat.failed_locations[..named].join(", ");
        let (uuid, host, failed) = (&self.uuid, &self.address.host_name, beat.failed_volumes);
        if failed > before {
            tracing::warn!(%uuid, host, failed, before, volumes, "a datanode has failed volumes");
        } else {
            tracing::info!(%uuid, host, failed, before, volumes, "volumes of a datanode are back");
        }
    }
}

impl Replicas {
    pub fn register(&mut self, registration: Registration, time_ms: u64) -> Result<()> {
        self.check_let_in(&registration)?;
        let (index, replaced) = self.nodes.register(registration, self.now_ms, time_ms)?;
        self.leases.end(index);
        self.follow_host_lists(index);
        if replaced {
            self.on_loss();
        }
        let node = self.nodes.node(index);
        tracing::info!(
            uuid = %node.uuid,
            address = %format_args!("{}:{}", node.address.ip, node.address.transfer_port),
            host = node.address.host_name,
            version = node.address.software_version,
            live = self.nodes.live().len(),
            "a datanode has registered"
        );
        Ok(())
    }

    pub fn give_up_datanode(&mut self, uuid: &str) {
        let alive = self.nodes.find(uuid).filter(|index| self.nodes.node(*index).alive);
        if let Some(index) = alive {
            self.nodes.put_out(index);
            self.on_loss();
        }
    }

    pub fn heartbeat(&mut self, uuid: &str, beat: &Heartbeat, time_ms: u64) -> HeartbeatReply {
        let known = self.nodes.find(uuid).filter(|index| self.nodes.node(*index).alive);
        let Some(index) = known else {
            return HeartbeatReply { register: true, ..HeartbeatReply::default() };
        };
        let node = self.nodes.node_mut(index);
        node.heartbeat_ms = self.now_ms;
        node.heartbeat_time_ms = time_ms;
        node.streams = beat.streams;
        node.transfers_running = beat.transfers_running;
        node.recent.expire(self.now_ms);
        node.note_failed_volumes(beat);
        if self.nodes.update_storages(index, &beat.storages) {
            self.on_loss();
        }
        let mut reply = self.commands(index);
        let wanted = self.balancer_bandwidth;
        let told = std::mem::replace(&mut self.nodes.node_mut(index).bandwidth_told, wanted);
        reply.balancer_bandwidth = wanted.filter(|_| told != wanted);
        if beat.wants_report_lease {
            reply.report_lease = self.leases.grant(index, self.now_ms, &mut self.rng);
        }
        reply
    }

    /// Recoveries alone if there are any; copies and deletions else; nothing in safe mode.
    fn commands(&mut self, index: NodeIndex) -> HeartbeatReply {
        let mut reply = HeartbeatReply::default();
        if self.safe_mode.is_on() {
            return reply;
        }
        let recoveries = &mut self.nodes.node_mut(index).recoveries;
        let taken = recoveries.len().min(RECOVERIES_PER_HEARTBEAT);
        let requests: Vec<RecoveryRequest> = recoveries.drain(..taken).collect();
        reply.recoveries =
            requests.iter().filter_map(|request| self.recovering_block(request)).collect();
        if !reply.recoveries.is_empty() {
            return reply;
        }
        for transfer in self.take_transfers(index) {
            let targets = self.locate(&transfer.targets);
            reply.transfers.push(TransferOrder { block: transfer.block, targets });
        }
        reply.invalidations = self.take_invalidations(index);
        reply
    }

    fn recovering_block(&self, request: &RecoveryRequest) -> Option<RecoveringBlockProto> {
        let expected = self.expected(request.block.id);
        let usable: Vec<StorageIndex> = self.usable(&expected).collect();
        let in_touch = |storage: &StorageIndex| {
            !self.nodes.is_stale(self.nodes.node_of(*storage), self.now_ms)
        };
        let fresh: Vec<StorageIndex> = usable.iter().copied().filter(in_touch).collect();
        // A datanode out of touch would only hold the recovery up, unless it is needed.
        let taking_part = if fresh.len() > 1 { fresh } else { usable };
        if taking_part.is_empty() {
            return None;
        }
        let (locs, storage_types, storage_ids) = self.locate(&taking_part);
        let block = LocatedBlockProto {
            b: ExtendedBlockProto {
                pool_id: self.config.pool_id.clone(),
                block_id: request.block.id.0,
                generation_stamp: request.block.generation_stamp.0,
                num_bytes: Some(request.block.num_bytes),
            },
            // Not part of a file here.
            offset: u64::MAX,
            locs,
            corrupt: false,
            block_token: TokenProto::default(),
            is_cached: Vec::new(),
            storage_types,
            storage_ids,
            block_indices: None,
            block_tokens: Vec::new(),
        };
        Some(RecoveringBlockProto {
            new_gen_stamp: request.recovery_id.0,
            block,
            truncate_block: request.truncate_to.map(Into::into),
        })
    }

    pub fn locate(&self, storages: &[StorageIndex]) -> Targets {
        let mut targets = Targets::default();
        for storage in storages {
            let described = self.nodes.storage(*storage);
            targets.0.push(self.nodes.info(described.node));
            targets.1.push(described.storage_type as i32);
            targets.2.push(described.id.to_string());
        }
        targets
    }
}

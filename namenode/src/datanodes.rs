//! The datanodes that have registered, their storages, and what waits to be sent to them.
//!
//! | state | enters it | leaves it |
//! |---|---|---|
//! | live | registerDatanode | silent for 2 x recheck + 10 x heartbeat intervals: dead |
//! | dead | the monitor noticed | registerDatanode (heartbeats are answered with REGISTER) |
//! | replaced | another uuid registered at its address | never: its slot stays behind |
//!
//! A live datanode silent for the stale interval is *stale*: last choice for readers and writers.
//! Datanodes and storages are named by their slots, four bytes each, wherever replicas are kept.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use ringfs_protocol::block::Block;
use ringfs_protocol::collections::HashMap;
use ringfs_protocol::messages::{
    DatanodeIDProto, DatanodeInfoProto, DatanodeStorageProto, DatanodeStorageReportProto,
    StorageReportProto, StorageState, StorageTypeProto,
};

use crate::block_manager::{RecoveryRequest, StorageTarget};
use crate::error::{NamenodeError, Result};
use crate::invalidations::Invalidations;
use crate::limits::{DATANODES_MAX, STORAGES_PER_DATANODE_MAX};
use crate::recent_changes::RecentChanges;
use crate::service_state::ServiceState;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeIndex(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StorageIndex(u32);

#[cfg(test)]
impl StorageIndex {
    pub fn for_test(index: u32) -> Self {
        Self(index)
    }
}

/// How a datanode introduces itself; `ip` is the address it called from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub uuid: String,
    pub ip: IpAddr,
    pub host_name: String,
    pub transfer_port: u32,
    pub info_port: u32,
    pub ipc_port: u32,
    pub info_secure_port: Option<u32>,
    pub software_version: String,
    /// `/default-rack` where the operator names none.
    pub rack: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub uuid: Arc<str>,
    pub address: Registration,
    pub alive: bool,
    pub service: ServiceState,
    /// Monotonic, for timeouts; and the time of day, for reports.
    pub heartbeat_ms: u64,
    pub heartbeat_time_ms: u64,
    pub block_report_ms: u64,
    pub block_report_time_ms: u64,
    /// Streams served, and re-replications being sent, as of the last heartbeat.
    pub streams: u32,
    pub transfers_running: u32,
    pub storages: Vec<StorageIndex>,
    pub transfers: VecDeque<Transfer>,
    pub recoveries: VecDeque<RecoveryRequest>,
    pub invalidations: Invalidations,
    pub recent: RecentChanges,
    /// The balancer's bandwidth it was told since it registered.
    pub bandwidth_told: Option<u64>,
    /// As its last heartbeat says.
    pub failed_volumes: u32,
    /// Blocks promised in the current and in the previous [`SCHEDULED_ROLL_MS`]; older promises are
    /// forgotten, for their blocks may never be reported.
    scheduled: [u32; 2],
}

#[derive(Debug)]
pub(crate) struct Storage {
    pub id: Arc<str>,
    pub node: NodeIndex,
    pub storage_type: StorageTypeProto,
    pub state: StorageState,
    /// Reported failed, or no longer reported at all.
    pub failed: bool,
    /// A full report has come since its datanode registered.
    pub reported: bool,
    pub capacity: u64,
    pub dfs_used: u64,
    pub remaining: u64,
    pub block_pool_used: u64,
    pub non_dfs_used: Option<u64>,
    pub replicas: u32,
}

/// A re-replication that a datanode shall carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub block: Block,
    pub targets: Vec<StorageIndex>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    pub stale_ms: u64,
    pub dead_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Datanodes {
    nodes: Vec<Node>,
    storages: Vec<Storage>,
    by_uuid: HashMap<Arc<str>, NodeIndex>,
    live: Vec<NodeIndex>,
    intervals: Intervals,
    scheduled_since_ms: u64,
    /// Re-replications that datanodes lost since were still to carry out.
    orphaned: Vec<Transfer>,
}

/// Half of the time after which a promise of space is forgotten.
const SCHEDULED_ROLL_MS: u64 = 300_000;

impl Datanodes {
    pub fn new(intervals: Intervals) -> Self {
        Self {
            nodes: Vec::new(),
            storages: Vec::new(),
            by_uuid: HashMap::default(),
            live: Vec::new(),
            intervals,
            scheduled_since_ms: 0,
            orphaned: Vec::new(),
        }
    }

    /// Adds a datanode or brings it back; the second value is whether another one was replaced,
    /// whose replicas are lost.
    pub fn register(
        &mut self,
        registration: Registration,
        now_ms: u64,
        time_ms: u64,
    ) -> Result<(NodeIndex, bool)> {
        let replaced = self.replace_at_address_of(&registration);
        if let Some(&index) = self.by_uuid.get(registration.uuid.as_str()) {
            let node = &mut self.nodes[index.0 as usize];
            node.address = registration;
            node.heartbeat_ms = now_ms;
            node.heartbeat_time_ms = time_ms;
            node.bandwidth_told = None;
            node.failed_volumes = 0;
            if !std::mem::replace(&mut node.alive, true) {
                self.live.push(index);
            }
            for storage in &node.storages {
                self.storages[storage.0 as usize].reported = false;
            }
            return Ok((index, replaced));
        }
        if self.nodes.len() >= DATANODES_MAX {
            let why = format!("{DATANODES_MAX} datanodes have registered already");
            return Err(NamenodeError::DisallowedDatanode(why));
        }
        let index = NodeIndex(self.nodes.len() as u32);
        let uuid: Arc<str> = registration.uuid.as_str().into();
        self.by_uuid.insert(uuid.clone(), index);
        self.live.push(index);
        self.nodes.push(Node::new(uuid, registration, now_ms, time_ms));
        Ok((index, replaced))
    }

    fn replace_at_address_of(&mut self, registration: &Registration) -> bool {
        let same_address = |node: &Node| {
            node.address.ip == registration.ip
                && node.address.transfer_port == registration.transfer_port
                && node.address.uuid != registration.uuid
        };
        let found = self.by_uuid.values().find(|index| same_address(self.node(**index))).copied();
        let Some(index) = found else {
            return false;
        };
        tracing::info!(
            uuid = registration.uuid,
            replaced = %self.node(index).uuid,
            "a new datanode at the address of another"
        );
        let uuid = self.node(index).uuid.clone();
        self.by_uuid.remove(&uuid);
        self.bury(index);
        true
    }

    /// Takes a heartbeat's storages; true when one of them has failed with replicas on it.
    pub fn update_storages(&mut self, index: NodeIndex, reports: &[StorageReportProto]) -> bool {
        let mut lost = false;
        for report in reports {
            let described = report.storage.clone().unwrap_or_else(|| DatanodeStorageProto {
                storage_uuid: report.storage_uuid.clone(),
                state: None,
                storage_type: None,
            });
            let Some(storage) = self.storage_or_new(index, &described) else {
                continue;
            };
            let storage = &mut self.storages[storage.0 as usize];
            lost |= report.failed() && !storage.failed;
            storage.failed = report.failed();
            storage.capacity = report.capacity();
            storage.dfs_used = report.dfs_used();
            storage.remaining = report.remaining();
            storage.block_pool_used = report.block_pool_used();
            storage.non_dfs_used = report.non_dfs_used;
        }
        if !reports.is_empty() {
            lost |= self.fail_unreported(index, reports);
        }
        lost
    }

    fn fail_unreported(&mut self, index: NodeIndex, reports: &[StorageReportProto]) -> bool {
        let mut lost = false;
        for storage in &self.nodes[index.0 as usize].storages {
            let storage = &mut self.storages[storage.0 as usize];
            let is_it = |report: &StorageReportProto| match &report.storage {
                Some(described) => *described.storage_uuid == *storage.id,
                None => *report.storage_uuid == *storage.id,
            };
            if !storage.failed && !reports.iter().any(is_it) {
                tracing::warn!(storage = %storage.id, "a datanode reports this storage no more");
                storage.failed = true;
                lost = true;
            }
        }
        lost
    }

    /// The storage as its datanode describes it; `None` when the datanode has too many.
    pub fn storage_or_new(
        &mut self,
        index: NodeIndex,
        described: &DatanodeStorageProto,
    ) -> Option<StorageIndex> {
        let (storage_type, state) = (described.storage_type(), described.state());
        if let Some(found) = self.find_storage(index, &described.storage_uuid) {
            let storage = &mut self.storages[found.0 as usize];
            (storage.storage_type, storage.state) = (storage_type, state);
            return Some(found);
        }
        let node = &mut self.nodes[index.0 as usize];
        if node.storages.len() >= STORAGES_PER_DATANODE_MAX {
            return None;
        }
        let found = StorageIndex(self.storages.len() as u32);
        node.storages.push(found);
        self.storages.push(Storage {
            id: described.storage_uuid.as_str().into(),
            node: index,
            storage_type,
            state,
            failed: false,
            reported: false,
            capacity: 0,
            dfs_used: 0,
            remaining: 0,
            block_pool_used: 0,
            non_dfs_used: None,
            replicas: 0,
        });
        Some(found)
    }

    pub fn find_storage(&self, index: NodeIndex, id: &str) -> Option<StorageIndex> {
        let mut storages = self.node(index).storages.iter().copied();
        storages.find(|storage| *self.storage(*storage).id == *id)
    }

    /// Marks the datanodes dead that have been silent too long; true when there are any.
    pub fn bury_silent(&mut self, now_ms: u64) -> bool {
        let silent = |index: &NodeIndex| {
            now_ms.saturating_sub(self.node(*index).heartbeat_ms) > self.intervals.dead_ms
        };
        let dead: Vec<NodeIndex> = self.live.iter().copied().filter(silent).collect();
        for index in &dead {
            let node = self.node(*index);
            let silent_ms = now_ms.saturating_sub(node.heartbeat_ms);
            tracing::warn!(uuid = %node.uuid, host = node.address.host_name, silent_ms,
                "a datanode is dead: its blocks will be replicated elsewhere");
            self.bury(*index);
        }
        !dead.is_empty()
    }

    /// Has nothing more to do with the datanode until it is let in again.
    pub fn put_out(&mut self, index: NodeIndex) {
        self.bury(index);
    }

    fn bury(&mut self, index: NodeIndex) {
        self.live.retain(|live| *live != index);
        let node = &mut self.nodes[index.0 as usize];
        node.alive = false;
        self.orphaned.extend(node.transfers.drain(..));
        node.recoveries.clear();
        node.invalidations = Invalidations::default();
        node.recent = RecentChanges::default();
        node.scheduled = [0; 2];
    }

    pub fn take_orphaned(&mut self) -> Vec<Transfer> {
        std::mem::take(&mut self.orphaned)
    }

    pub fn find(&self, uuid: &str) -> Option<NodeIndex> {
        self.by_uuid.get(uuid).copied()
    }

    pub fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index.0 as usize]
    }

    pub fn node_mut(&mut self, index: NodeIndex) -> &mut Node {
        &mut self.nodes[index.0 as usize]
    }

    pub fn storage(&self, index: StorageIndex) -> &Storage {
        &self.storages[index.0 as usize]
    }

    pub fn storage_mut(&mut self, index: StorageIndex) -> &mut Storage {
        &mut self.storages[index.0 as usize]
    }

    pub fn node_of(&self, index: StorageIndex) -> NodeIndex {
        self.storage(index).node
    }

    pub fn owner(&self, index: StorageIndex) -> &Node {
        self.node(self.node_of(index))
    }

    pub fn owner_mut(&mut self, index: StorageIndex) -> &mut Node {
        let node = self.node_of(index);
        self.node_mut(node)
    }

    /// Whether replicas on it count.
    pub fn is_usable(&self, index: StorageIndex) -> bool {
        !self.storage(index).failed && self.owner(index).alive
    }

    /// Whether replicas on it stay in the books: its datanode may be down for maintenance.
    pub fn is_kept(&self, index: StorageIndex) -> bool {
        let is_away = matches!(self.owner(index).service, ServiceState::InMaintenance { .. });
        self.is_usable(index) || (is_away && !self.storage(index).failed)
    }

    pub fn is_stale(&self, index: NodeIndex, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.node(index).heartbeat_ms) > self.intervals.stale_ms
    }

    pub fn live(&self) -> &[NodeIndex] {
        &self.live
    }

    /// All that are known, dead ones included.
    pub fn known(&self) -> impl Iterator<Item = NodeIndex> {
        self.by_uuid.values().copied()
    }

    /// Streams of an average live datanode.
    pub fn average_streams(&self) -> u32 {
        let sum: u64 = self.live.iter().map(|index| u64::from(self.node(*index).streams)).sum();
        (sum / self.live.len().max(1) as u64) as u32
    }

    /// Blocks promised to the datanode that it has not reported yet.
    pub fn scheduled(&self, index: NodeIndex) -> u64 {
        self.node(index).scheduled.iter().map(|count| u64::from(*count)).sum()
    }

    pub fn schedule(&mut self, index: NodeIndex) {
        self.node_mut(index).scheduled[0] += 1;
    }

    pub fn unschedule(&mut self, index: NodeIndex) {
        let [now, before] = &mut self.node_mut(index).scheduled;
        let oldest = if *before > 0 { before } else { now };
        *oldest = oldest.saturating_sub(1);
    }

    pub fn roll_schedules(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.scheduled_since_ms) < SCHEDULED_ROLL_MS {
            return;
        }
        self.scheduled_since_ms = now_ms;
        for node in &mut self.nodes {
            node.scheduled = [0, node.scheduled[0]];
        }
    }

    pub fn target(&self, index: StorageIndex) -> StorageTarget {
        let storage = self.storage(index);
        StorageTarget {
            datanode_uuid: self.owner(index).uuid.clone(),
            storage_id: storage.id.clone(),
            storage_type: storage.storage_type,
        }
    }

    pub fn find_target(&self, target: &StorageTarget) -> Option<StorageIndex> {
        self.find_storage(self.find(&target.datanode_uuid)?, &target.storage_id)
    }

    pub fn info(&self, index: NodeIndex) -> DatanodeInfoProto {
        let node = self.node(index);
        let sum = |field: fn(&Storage) -> u64| {
            let usable = node.storages.iter().map(|storage| self.storage(*storage));
            Some(saturating_sum(usable.filter(|storage| !storage.failed).map(field)))
        };
        DatanodeInfoProto {
            id: node.id(),
            capacity: sum(|storage| storage.capacity),
            dfs_used: sum(|storage| storage.dfs_used),
            remaining: sum(|storage| storage.remaining),
            block_pool_used: sum(|storage| storage.block_pool_used),
            last_update: Some(node.heartbeat_time_ms),
            xceiver_count: Some(node.streams),
            location: Some(node.address.rack.to_string()),
            non_dfs_used: sum(Storage::non_dfs_used),
            admin_state: Some(node.service.admin_state() as i32),
            cache_capacity: Some(0),
            cache_used: Some(0),
            last_update_monotonic: Some(node.heartbeat_ms),
            upgrade_domain: None,
            last_block_report_time: Some(node.block_report_time_ms),
            last_block_report_monotonic: Some(node.block_report_ms),
            num_blocks: Some(
                node.storages.iter().map(|storage| self.storage(*storage).replicas).sum(),
            ),
            software_version: Some(node.address.software_version.clone()),
        }
    }

    pub fn storage_report(&self, index: NodeIndex) -> DatanodeStorageReportProto {
        let storages = self.node(index).storages.iter().map(|storage| self.storage(*storage));
        DatanodeStorageReportProto {
            datanode_info: self.info(index),
            storage_reports: storages.map(Storage::report).collect(),
        }
    }
}

/// Sizes come from datanodes: whatever they claim, a sum is no overflow.
pub(crate) fn saturating_sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

impl Node {
    fn new(uuid: Arc<str>, address: Registration, now_ms: u64, time_ms: u64) -> Self {
        Self {
            uuid,
            address,
            alive: true,
            service: ServiceState::default(),
            heartbeat_ms: now_ms,
            heartbeat_time_ms: time_ms,
            block_report_ms: 0,
            block_report_time_ms: 0,
            streams: 0,
            transfers_running: 0,
            storages: Vec::new(),
            transfers: VecDeque::new(),
            recoveries: VecDeque::new(),
            invalidations: Invalidations::default(),
            recent: RecentChanges::default(),
            bandwidth_told: None,
            failed_volumes: 0,
            scheduled: [0; 2],
        }
    }

    pub fn id(&self) -> DatanodeIDProto {
        let address = &self.address;
        DatanodeIDProto {
            ip_addr: address.ip.to_string(),
            host_name: address.host_name.clone(),
            datanode_uuid: address.uuid.clone(),
            xfer_port: address.transfer_port,
            info_port: address.info_port,
            ipc_port: address.ipc_port,
            info_secure_port: address.info_secure_port,
        }
    }
}

impl Storage {
    fn non_dfs_used(&self) -> u64 {
        let rest = || self.capacity.saturating_sub(self.dfs_used.saturating_add(self.remaining));
        self.non_dfs_used.unwrap_or_else(rest)
    }

    fn report(&self) -> StorageReportProto {
        StorageReportProto {
            storage_uuid: self.id.to_string(),
            failed: Some(self.failed),
            capacity: Some(self.capacity),
            dfs_used: Some(self.dfs_used),
            remaining: Some(self.remaining),
            block_pool_used: Some(self.block_pool_used),
            storage: Some(DatanodeStorageProto {
                storage_uuid: self.id.to_string(),
                state: Some(self.state as i32),
                storage_type: Some(self.storage_type as i32),
            }),
            non_dfs_used: Some(self.non_dfs_used()),
            mount: None,
        }
    }
}

//! Where the replicas of the namespace's blocks are: the seam between the namespace, which stores
//! what blocks there are, and the datanodes, which report what replicas they hold.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use ringfs_protocol::block::{Block, BlockId, ExtendedBlock, GenerationStamp};
use ringfs_protocol::block_report::{self, ReportedReplica};
use ringfs_protocol::messages::{
    AdminState, DatanodeInfoProto, DatanodeReportTypeProto, DatanodeStorageProto,
    DatanodeStorageReportProto, ExtendedBlockProto, StorageBlockReportProto,
    StorageReceivedDeletedBlocksProto, StorageTypeProto,
};
use tokio::sync::Notify;

use crate::block_manager_config::BlockManagerConfig;
use crate::clock::Clock;
use crate::datanodes::{Datanodes, NodeIndex, Registration, StorageIndex, saturating_sum};
use crate::error::{NamenodeError, Result};
use crate::heartbeats::{Heartbeat, HeartbeatReply, Targets};
use crate::host_lists::HostLists;
use crate::limits::{REPORT_STEP, STORAGES_PER_DATANODE_MAX};
use crate::placement::{self, PlacementRequest};
use crate::replicas::Replicas;
use crate::safe_mode::SafeMode;

/// A block as the namespace stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    pub block: Block,
    pub state: BlockState,
    pub replication: u16,
    pub inode: u64,
    pub preferred_block_size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    UnderConstruction,
    UnderRecovery {
        recovery_id: GenerationStamp,
    },
    /// Length and generation stamp are final; too few replicas have been reported so far.
    Committed,
    Complete,
}

/// A block whose stamp and length are final, and the datanodes with good replicas.
#[cfg(feature = "simulation")]
#[derive(Clone, Debug)]
pub struct SettledBlock {
    pub block: Block,
    pub replication: usize,
    pub datanodes: Vec<Arc<str>>,
}

impl BlockState {
    /// Whether length and generation stamp are final.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Committed | Self::Complete)
    }
}

/// What the namespace tells about its blocks: reads of committed state, never waiting for a writer.
pub trait StoredBlocks: Send + Sync + 'static {
    fn stored_block(&self, id: BlockId) -> Option<StoredBlock>;
    /// At most `max` blocks with ids behind `after`, ascending.
    fn stored_blocks_after(&self, after: Option<BlockId>, max: usize) -> Vec<StoredBlock>;
    /// Blocks in state [`BlockState::Complete`]: the denominator of safe mode.
    fn complete_block_count(&self) -> u64;
    /// The highest generation stamp given out; replicas beyond it come from another history.
    fn last_generation_stamp(&self) -> GenerationStamp;
}

/// One storage of one datanode, as a place for a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageTarget {
    pub datanode_uuid: Arc<str>,
    pub storage_id: Arc<str>,
    pub storage_type: StorageTypeProto,
}

#[derive(Clone, Copy, Debug)]
pub struct TargetRequest<'a> {
    pub count: usize,
    pub block_size: u64,
    pub writer: IpAddr,
    /// Uuids of datanodes that must not be chosen.
    pub excluded: &'a [Arc<str>],
    /// Replicas that are there already: their datanodes are not chosen either.
    pub existing: &'a [StorageTarget],
    /// `host:port` of datanodes to choose first.
    pub favored: &'a [String],
    pub no_local_write: bool,
}

/// A block whose replicas one of its datanodes shall bring to one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryRequest {
    /// As stored: with the generation stamp that its replicas have now.
    pub block: Block,
    pub recovery_id: GenerationStamp,
    /// The block with its new length, when this is a truncate.
    pub truncate_to: Option<Block>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsStats {
    pub capacity: u64,
    pub used: u64,
    pub remaining: u64,
    pub under_replicated: u64,
    pub corrupt_blocks: u64,
    pub missing_blocks: u64,
    /// Those among `missing_blocks` that have a replication of one.
    pub missing_replication_one_blocks: u64,
    pub blocks_in_future: u64,
    pub pending_deletion_blocks: u64,
    /// Blocks with one replica left of several.
    pub highest_priority_low_redundancy_blocks: u64,
}

pub struct BlockManager {
    replicas: Mutex<Replicas>,
    safe_mode: Arc<SafeMode>,
    clock: Arc<dyn Clock>,
}

impl BlockManager {
    /// Chance (placement, order of locations, lease ids) comes from `seed`, time from `clock`.
    pub fn new(
        config: BlockManagerConfig,
        stored: Arc<dyn StoredBlocks>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Arc<Self> {
        let total_blocks = stored.complete_block_count();
        let safe_mode = Arc::new(SafeMode::new(config.safe_mode, total_blocks));
        let replicas = Mutex::new(Replicas::new(config, stored, safe_mode.clone(), seed));
        Arc::new(Self { replicas, safe_mode, clock })
    }

    /// Places for new replicas, the writer's own datanode first; may be fewer than asked for.
    pub fn choose_targets(&self, request: &TargetRequest<'_>) -> Vec<StorageTarget> {
        let mut replicas = self.lock();
        let find = |uuid: &Arc<str>| replicas.nodes.find(uuid);
        let existing = request.existing.iter().map(|target| &target.datanode_uuid);
        let holders: Vec<NodeIndex> = existing.filter_map(find).collect();
        let excluded: Vec<NodeIndex> = request.excluded.iter().filter_map(find).collect();
        let request = PlacementRequest {
            count: request.count,
            block_size: request.block_size,
            writer: Some(request.writer.to_canonical()),
            holders: &holders,
            excluded: &excluded,
            favored: request.favored,
            no_local_write: request.no_local_write,
        };
        let Replicas { nodes, rng, now_ms, .. } = &mut *replicas;
        let chosen = placement::choose(nodes, &request, *now_ms, rng);
        for storage in &chosen {
            nodes.schedule(nodes.node_of(*storage));
        }
        chosen.iter().map(|storage| nodes.target(*storage)).collect()
    }

    /// Live datanodes, and how many of `excluded` there are.
    pub fn live_and_excluded_counts(&self, excluded: &[Arc<str>]) -> (usize, usize) {
        let replicas = self.lock();
        let known = excluded.iter().filter(|uuid| replicas.nodes.find(uuid).is_some());
        (replicas.nodes.live().len(), known.count())
    }

    pub fn datanode_info(&self, uuid: &str) -> Option<DatanodeInfoProto> {
        let replicas = self.lock();
        replicas.nodes.find(uuid).map(|index| replicas.nodes.info(index))
    }

    /// `targets` as a located block names them: datanodes, storage types, storage ids. Datanodes
    /// that are no longer known are left out.
    pub fn located(&self, targets: &[StorageTarget]) -> Targets {
        let replicas = self.lock();
        let storages = targets.iter().filter_map(|target| replicas.nodes.find_target(target));
        replicas.locate(&storages.collect::<Vec<_>>())
    }

    /// Where a reader finds `block`: good replicas, nearest first; or the corrupt ones and `true`
    /// when there are no others.
    pub fn locations(&self, block: &StoredBlock, reader: IpAddr) -> (Vec<StorageTarget>, bool) {
        let mut replicas = self.lock();
        let (storages, corrupt) = replicas.locations(block.block.id, reader.to_canonical());
        (storages.iter().map(|storage| replicas.nodes.target(*storage)).collect(), corrupt)
    }

    /// Sets the pipeline of a block under construction.
    pub fn set_expected(&self, id: BlockId, targets: Vec<StorageTarget>) {
        let mut replicas = self.lock();
        let known = targets.iter().filter_map(|target| replicas.nodes.find_target(target));
        let pipeline = known.collect();
        replicas.set_expected(id, pipeline);
    }

    /// The pipeline of a block under construction; after a restart of the namenode the datanodes
    /// that reported replicas of it.
    pub fn expected(&self, id: BlockId) -> Vec<StorageTarget> {
        let replicas = self.lock();
        let expected = replicas.expected(id);
        expected.iter().map(|storage| replicas.nodes.target(*storage)).collect()
    }

    /// Notes that the writer of a block under construction was given a new generation stamp.
    pub fn offer_stamp(&self, id: BlockId, stamp: GenerationStamp) {
        self.lock().open_mut(id).offered_stamp = Some(stamp);
    }

    /// The newest generation stamp given to a block's writer since the block was opened, or since the
    /// namenode started.
    pub fn offered_stamp(&self, id: BlockId) -> Option<GenerationStamp> {
        self.lock().offered_stamp(id)
    }

    /// Live finalized replicas with the generation stamp and length of `block`.
    pub fn finalized_replicas(&self, block: &Block) -> usize {
        self.lock().finalized(block)
    }

    /// Waits until `block` has `min` of [`Self::finalized_replicas`]; false after `timeout`.
    pub async fn wait_finalized(&self, block: &Block, min: usize, timeout: Duration) -> bool {
        let waiting = Waiting { manager: self, id: block.id, notify: self.begin_waiting(block.id) };
        let reported = async {
            loop {
                let notified = waiting.notify.notified();
                tokio::pin!(notified);
                // From here on a report wakes it, even one between the check and the wait.
                notified.as_mut().enable();
                if self.finalized_replicas(block) >= min {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(timeout, reported).await.is_ok()
    }

    /// Waits until `block` has all finalized replicas that are on their way to it, or for `timeout`.
    pub async fn wait_for_pending(&self, block: &Block, timeout: Duration) {
        let pending = self.lock().pending.targets(block.id).len();
        if pending > 0 {
            let all = self.finalized_replicas(block) + pending;
            self.wait_finalized(block, all, timeout).await;
        }
    }

    fn begin_waiting(&self, id: BlockId) -> Arc<Notify> {
        self.lock().begin_waiting(id)
    }

    /// To be called after each transaction that brought `block` to COMMITTED or COMPLETE:
    /// re-replication or removal of excess replicas begins as needed.
    pub fn block_completed(&self, block: &StoredBlock) {
        self.lock().settle(block);
    }

    /// To be called after a transaction that changed the replication of a settled block.
    pub fn replication_changed(&self, block: &StoredBlock) {
        self.lock().set_replication(block.block.id, block.replication);
    }

    /// To be called after the transaction that deleted the blocks: forgets them, and has every
    /// replica deleted.
    pub fn remove_blocks(&self, ids: &[BlockId]) {
        for some in ids.chunks(REPORT_STEP) {
            let mut replicas = self.lock();
            for id in some {
                replicas.remove_block(*id);
            }
        }
    }

    /// To be called when a complete block goes back under construction: its good replicas become
    /// the expected ones.
    pub fn reopen_for_append(&self, block: &StoredBlock) -> Vec<StorageTarget> {
        let mut replicas = self.lock();
        let expected = replicas.reopen(block.block.id);
        expected.iter().map(|storage| replicas.nodes.target(*storage)).collect()
    }

    /// Has one of the datanodes of [`Self::expected`] recover the block, another at each call;
    /// false when none of them lives.
    pub fn queue_recovery(&self, request: &RecoveryRequest) -> bool {
        self.lock().queue_recovery(request)
    }

    /// A reader or a datanode found the bytes of a replica wrong; on which storage, who knows it.
    pub fn report_bad_replica(
        &self,
        block: &ExtendedBlockProto,
        datanode_uuid: &str,
        storage_id: Option<&str>,
    ) {
        let mut replicas = self.lock();
        if let Some(node) = replicas.nodes.find(datanode_uuid) {
            let storage = storage_id.and_then(|id| replicas.nodes.find_storage(node, id));
            replicas.report_corruption(&ExtendedBlock::from(block).block, node, storage);
        }
    }

    /// The outcome of a block recovery, after its transaction: `block` as it is stored now has
    /// replicas at `targets` and no good ones elsewhere.
    pub fn synchronized(&self, block: &StoredBlock, targets: Vec<StorageTarget>) {
        let mut replicas = self.lock();
        let known = targets.iter().filter_map(|target| replicas.nodes.find_target(target));
        let targets: Vec<StorageIndex> = known.collect();
        replicas.synchronize(block, &targets);
    }

    /// The storage `storage_id` of a registered datanode.
    pub fn target(&self, datanode_uuid: &str, storage_id: &str) -> Option<StorageTarget> {
        let nodes = &self.lock().nodes;
        let storage = nodes.find_storage(nodes.find(datanode_uuid)?, storage_id)?;
        Some(nodes.target(storage))
    }

    pub fn live_datanodes(&self) -> usize {
        self.lock().nodes.live().len()
    }

    pub fn fs_stats(&self) -> FsStats {
        let replicas = self.lock();
        let nodes = &replicas.nodes;
        let infos: Vec<DatanodeInfoProto> =
            nodes.live().iter().map(|index| nodes.info(*index)).collect();
        let sum = |field: fn(&DatanodeInfoProto) -> u64| saturating_sum(infos.iter().map(field));
        let condemned = nodes.live().iter().map(|index| nodes.node(*index).invalidations.len());
        FsStats {
            capacity: sum(DatanodeInfoProto::capacity),
            used: sum(DatanodeInfoProto::dfs_used),
            remaining: sum(DatanodeInfoProto::remaining),
            under_replicated: replicas.low.len() as u64,
            corrupt_blocks: replicas.map.bad.len() as u64,
            missing_blocks: replicas.low.missing() as u64,
            missing_replication_one_blocks: replicas.low.missing_single(),
            blocks_in_future: replicas.from_the_future.len() as u64,
            pending_deletion_blocks: condemned.sum::<usize>() as u64,
            highest_priority_low_redundancy_blocks: replicas.low.highest() as u64,
        }
    }

    pub fn datanode_report(&self, kind: DatanodeReportTypeProto) -> Vec<DatanodeInfoProto> {
        let nodes = &self.lock().nodes;
        self::of_kind(nodes, kind).into_iter().map(|index| nodes.info(index)).collect()
    }

    pub fn datanode_storage_report(
        &self,
        kind: DatanodeReportTypeProto,
    ) -> Vec<DatanodeStorageReportProto> {
        let nodes = &self.lock().nodes;
        self::of_kind(nodes, kind).into_iter().map(|index| nodes.storage_report(index)).collect()
    }

    /// Blocks without a good replica, ascending behind `after`.
    pub fn missing_blocks_after(&self, after: Option<BlockId>, max: usize) -> Vec<BlockId> {
        self.lock().low.missing_after(after, max)
    }

    pub fn safe_mode(&self) -> &SafeMode {
        &self.safe_mode
    }

    /// Lets datanodes in, has them leave, or puts them out, as the operator's lists say.
    pub fn set_host_lists(&self, lists: HostLists) {
        self.lock().set_host_lists(lists);
    }

    /// What a balancer's moves may take of each datanode, told with its next heartbeat.
    pub fn set_balancer_bandwidth(&self, bytes_per_second: u64) {
        self.lock().balancer_bandwidth = Some(bytes_per_second);
    }

    /// A datanode introduces itself.
    pub fn register(&self, registration: Registration) -> Result<()> {
        self.lock().register(registration, self.clock.now_ms())
    }

    pub fn heartbeat(&self, uuid: &str, beat: &Heartbeat) -> HeartbeatReply {
        self.lock().heartbeat(uuid, beat, self.clock.now_ms())
    }

    /// A datanode that says itself that it cannot go on is dead from now.
    pub fn give_up_datanode(&self, uuid: &str) {
        self.lock().give_up_datanode(uuid);
    }

    /// Replicas that the datanode received or deleted.
    pub fn incremental_report(
        &self,
        uuid: &str,
        storages: &[StorageReceivedDeletedBlocksProto],
    ) -> Result<()> {
        for storage in storages {
            let described = storage.storage.clone().unwrap_or_else(|| DatanodeStorageProto {
                storage_uuid: storage.storage_uuid.clone(),
                state: None,
                storage_type: None,
            });
            for changes in storage.blocks.chunks(REPORT_STEP) {
                let mut replicas = self.lock();
                let index = reporting_storage(&mut replicas.nodes, uuid, &described)?;
                for change in changes {
                    replicas.apply_change(index, change);
                }
            }
        }
        Ok(())
    }

    /// All replicas of some of the datanode's storages, in steps between which others get their
    /// turn. Nothing happens when `lease` is no longer valid. `is_last`: no other message belongs
    /// to this report.
    pub fn full_report(
        &self,
        uuid: &str,
        lease: u64,
        is_last: bool,
        storages: &[StorageBlockReportProto],
    ) -> Result<()> {
        for storage in storages {
            block_report::check(storage)?;
        }
        let Some(since_ms) = self.begin_full_report(uuid, lease)? else {
            return Ok(());
        };
        for storage in storages {
            self.storage_report(uuid, since_ms, storage)?;
        }
        let mut replicas = self.lock();
        let (now_ms, time_ms) = (replicas.now_ms, self.clock.now_ms());
        if let Some(index) = replicas.nodes.find(uuid) {
            let node = replicas.nodes.node_mut(index);
            (node.block_report_ms, node.block_report_time_ms) = (now_ms, time_ms);
            if is_last {
                replicas.leases.end(index);
            }
        }
        Ok(())
    }

    /// Since when the report is true; `None` when it is not to be listened to.
    fn begin_full_report(&self, uuid: &str, lease: u64) -> Result<Option<u64>> {
        let replicas = self.lock();
        let index = live_datanode(&replicas.nodes, uuid)?;
        if lease == 0 {
            return Ok(Some(replicas.now_ms));
        }
        let since_ms = replicas.leases.granted_ms(index, lease, replicas.now_ms);
        if since_ms.is_none() {
            tracing::warn!(uuid, lease, "a full block report without a valid lease is ignored");
        }
        Ok(since_ms)
    }

    fn storage_report(
        &self,
        uuid: &str,
        since_ms: u64,
        report: &StorageBlockReportProto,
    ) -> Result<()> {
        let mut reported: Vec<BlockId> = Vec::new();
        let mut rest = block_report::replicas(report);
        loop {
            let step: Vec<ReportedReplica> =
                rest.by_ref().take(REPORT_STEP).collect::<Result<_, _>>()?;
            let mut replicas = self.lock();
            let storage = reporting_storage(&mut replicas.nodes, uuid, &report.storage)?;
            replicas.apply_report(storage, &step, since_ms);
            drop(replicas);
            reported.extend(step.iter().map(|(block, _)| block.id));
            if step.len() < REPORT_STEP {
                break;
            }
        }
        reported.sort_unstable();
        let mut after = None;
        loop {
            let mut replicas = self.lock();
            let storage = reporting_storage(&mut replicas.nodes, uuid, &report.storage)?;
            after = replicas.retire_unreported(storage, &reported, since_ms, after);
            if after.is_none() {
                replicas.end_storage_report(storage, &reported, since_ms);
                let (blocks, storage) = (reported.len(), &report.storage.storage_uuid);
                tracing::info!(uuid, storage, blocks, "a full block report was taken in");
                return Ok(());
            }
        }
    }

    /// One step of the monitor: dead datanodes, safe mode, re-replication, removal of excess. True
    /// when it left work that need not wait for the next step.
    pub fn tick(&self) -> bool {
        self.lock().tick()
    }

    #[cfg(feature = "simulation")]
    pub fn settled_blocks(&self) -> Vec<SettledBlock> {
        let replicas = self.lock();
        let uuid = |storage| replicas.nodes.target(storage).datanode_uuid;
        let blocks = replicas.map.settled.iter().map(|(id, settled)| SettledBlock {
            block: settled.block(*id),
            replication: settled.replication.into(),
            datanodes: replicas.usable(&settled.good).map(uuid).collect(),
        });
        blocks.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Replicas> {
        let mut replicas = self.replicas.lock();
        replicas.now_ms = self.clock.monotonic_ms();
        replicas.time_ms = self.clock.now_ms();
        replicas
    }
}

/// Takes its waiter off the block when the wait ends, in whatever way.
struct Waiting<'a> {
    manager: &'a BlockManager,
    id: BlockId,
    notify: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.manager.lock().end_waiting(self.id);
    }
}

fn of_kind(nodes: &Datanodes, kind: DatanodeReportTypeProto) -> Vec<NodeIndex> {
    use DatanodeReportTypeProto::{
        All, Dead, Decommissioning, EnteringMaintenance, InMaintenance, Live,
    };
    let in_state = |state: AdminState| {
        let is_in = move |index: &NodeIndex| nodes.node(*index).service.admin_state() == state;
        nodes.known().filter(is_in).collect()
    };
    let mut found: Vec<NodeIndex> = match kind {
        All => nodes.known().collect(),
        Live => nodes.live().to_vec(),
        Dead => nodes.known().filter(|index| !nodes.node(*index).alive).collect(),
        Decommissioning => in_state(AdminState::DecommissionInprogress),
        EnteringMaintenance => in_state(AdminState::EnteringMaintenance),
        InMaintenance => in_state(AdminState::InMaintenance),
    };
    found.sort_unstable();
    found
}

fn live_datanode(nodes: &Datanodes, uuid: &str) -> Result<NodeIndex> {
    nodes.find(uuid).filter(|index| nodes.node(*index).alive).ok_or_else(|| {
        NamenodeError::Io(format!("ProcessReport from dead or unregistered node: {uuid}"))
    })
}

fn reporting_storage(
    nodes: &mut Datanodes,
    uuid: &str,
    described: &DatanodeStorageProto,
) -> Result<StorageIndex> {
    let index = live_datanode(nodes, uuid)?;
    nodes.storage_or_new(index, described).ok_or_else(|| {
        let why = format!("datanode {uuid} has more than {STORAGES_PER_DATANODE_MAX} storages");
        NamenodeError::Io(why)
    })
}

//! What is known of datanodes and replicas, and how each event changes it: the block manager's state
//! behind its lock. Sans-IO: the time is set by whoever takes the lock.
//!
//! The life of a block here: [`Replicas::set_expected`] opens it with its pipeline; reports add
//! replicas of any stamp and length; once the namespace has stored its final stamp and length it is
//! *settled*: replicas are judged good or bad, those still to be reported are pending, and from then
//! on each change weighs the good replicas against the file's replication (see
//! [`crate::redundancy`]). An append or a recovery opens it again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::collections::HashMap;
use tokio::sync::Notify;

use crate::block_manager::{RecoveryRequest, StoredBlock, StoredBlocks};
use crate::block_manager_config::BlockManagerConfig;
use crate::block_map::{BadReplica, BlockMap, Open, OpenReplica, Settled, Storages};
use crate::datanodes::{Datanodes, NodeIndex, StorageIndex};
use crate::host_lists::HostLists;
use crate::invalidations::{Condemned, Was};
use crate::low_redundancy::LowRedundancy;
use crate::pending_replicas::PendingReplicas;
use crate::redundancy::Monitor;
use crate::replica_verdict::{BadReason, Verdict, judge};
use crate::report_leases::ReportLeases;
use crate::safe_mode::SafeMode;
use crate::service_state::Leaving;

pub(crate) struct Replicas {
    pub(crate) config: BlockManagerConfig,
    pub(crate) stored: Arc<dyn StoredBlocks>,
    pub(crate) safe_mode: Arc<SafeMode>,
    pub(crate) nodes: Datanodes,
    pub(crate) map: BlockMap,
    pub(crate) low: LowRedundancy,
    pub(crate) pending: PendingReplicas,
    /// Blocks with excess replicas of which none can be spared for now.
    pub(crate) postponed: BTreeSet<BlockId>,
    pub(crate) leases: ReportLeases,
    pub(crate) monitor: Monitor,
    pub(crate) rng: StdRng,
    pub(crate) now_ms: u64,
    /// The time of day.
    pub(crate) time_ms: u64,
    pub(crate) host_lists: HostLists,
    pub(crate) leaving: Leaving,
    /// Bytes a second that the operator wants of every datanode, if he said so.
    pub(crate) balancer_bandwidth: Option<u64>,
    /// Blocks reported with stamps beyond the last one given out.
    pub(crate) from_the_future: BTreeSet<BlockId>,
    /// While a report is applied: the datanode from which a balancer moved the replica.
    pub(crate) delete_hint: Option<NodeIndex>,
    waiters: HashMap<BlockId, Waiters>,
}

#[derive(Debug)]
struct Waiters {
    notify: Arc<Notify>,
    count: usize,
}

impl Replicas {
    pub fn new(
        config: BlockManagerConfig,
        stored: Arc<dyn StoredBlocks>,
        safe_mode: Arc<SafeMode>,
        seed: u64,
    ) -> Self {
        Self {
            nodes: Datanodes::new(config.intervals),
            pending: PendingReplicas::new(config.pending_timeout_ms),
            config,
            stored,
            safe_mode,
            map: BlockMap::default(),
            low: LowRedundancy::default(),
            postponed: BTreeSet::new(),
            leases: ReportLeases::default(),
            monitor: Monitor::default(),
            rng: StdRng::seed_from_u64(seed),
            now_ms: 0,
            time_ms: 0,
            host_lists: HostLists::default(),
            leaving: Leaving::default(),
            balancer_bandwidth: None,
            from_the_future: BTreeSet::new(),
            delete_hint: None,
            waiters: HashMap::default(),
        }
    }

    pub fn set_expected(&mut self, id: BlockId, pipeline: Storages) {
        self.open_mut(id).expected = pipeline;
    }

    pub fn expected(&self, id: BlockId) -> Storages {
        self.map.open.get(&id).map(|open| open.expected.clone()).unwrap_or_default()
    }

    pub fn finalized(&self, block: &Block) -> usize {
        if let Some(settled) = self.map.settled.get(&block.id) {
            return if settled.is_version(block) { self.usable(&settled.good).count() } else { 0 };
        }
        let open = self.map.open.get(&block.id);
        let replicas = open.into_iter().flat_map(|open| &open.replicas);
        replicas
            .filter(|replica| replica.is_finalized(block) && self.nodes.is_usable(replica.storage))
            .count()
    }

    /// Brings the block to stored stamp and length: replicas reported so far are judged, those of
    /// the pipeline that are not reported yet become pending.
    pub fn settle(&mut self, stored: &StoredBlock) {
        let id = stored.block.id;
        let was_safe = self.is_safe(id);
        if self.map.settled.get(&id).is_some_and(|settled| !settled.is_version(&stored.block)) {
            self.reopen(id);
        }
        let open = self.map.open.remove(&id).unwrap_or_default();
        let settled = self.map.settled.entry(id).or_insert_with(|| Settled::new(stored));
        settled.replication = stored.replication;
        settled.is_complete = Settled::new(stored).is_complete;
        for replica in &open.replicas {
            self.judge_open(stored, replica);
        }
        let unreported: Vec<StorageIndex> = open
            .expected
            .iter()
            .copied()
            .filter(|storage| self.nodes.is_usable(*storage) && !self.holds(id, *storage))
            .collect();
        self.pending.add(id, &unreported, self.now_ms);
        self.changed(id, was_safe);
    }

    fn judge_open(&mut self, stored: &StoredBlock, replica: &OpenReplica) {
        let id = stored.block.id;
        let reported =
            Block { id, generation_stamp: replica.generation_stamp, num_bytes: replica.num_bytes };
        match judge(&reported, replica.state, Some(stored), || GenerationStamp(u64::MAX)) {
            Verdict::Good => self.place(id, replica.storage),
            Verdict::Bad(reason) => self.displace(id, replica.storage, &reported, reason),
            _ => {}
        }
    }

    /// The outcome of a recovery: good replicas are at `targets`, all others are out of date.
    pub fn synchronize(&mut self, stored: &StoredBlock, targets: &[StorageIndex]) {
        let id = stored.block.id;
        if !stored.state.is_settled() {
            let open = self.open_mut(id);
            open.expected = targets.iter().copied().collect();
            open.replicas.retain(|replica| targets.contains(&replica.storage));
            return;
        }
        let was_safe = self.is_safe(id);
        self.reopen(id);
        let open = self.map.open.remove(&id).unwrap_or_default();
        self.map.settled.insert(id, Settled::new(stored));
        let usable: Storages = self.usable(targets).collect();
        for target in usable {
            self.nodes.owner_mut(target).invalidations.forget(id);
            self.place(id, target);
        }
        for replica in open.replicas.iter().filter(|r| !targets.contains(&r.storage)) {
            self.judge_open(stored, replica);
        }
        self.changed(id, was_safe);
    }

    /// Opens a settled block again; its good replicas become the expected ones.
    pub fn reopen(&mut self, id: BlockId) -> Storages {
        let Some(settled) = self.map.settled.remove(&id) else {
            return self.expected(id);
        };
        self.low.remove(id);
        self.pending.remove(id);
        self.postponed.remove(&id);
        let open = self.map.open.entry(id).or_default();
        for storage in &settled.good {
            self.nodes.storage_mut(*storage).replicas -= 1;
            open.replicas.push(OpenReplica {
                storage: *storage,
                generation_stamp: settled.generation_stamp,
                num_bytes: settled.num_bytes,
                state: ReplicaState::Finalized,
            });
        }
        open.expected =
            settled.good.into_iter().filter(|storage| self.nodes.is_usable(*storage)).collect();
        open.expected.clone()
    }

    /// Forgets a deleted block and condemns its replicas. Those not reported yet are condemned when
    /// they are.
    pub fn remove_block(&mut self, id: BlockId) {
        let was_safe = self.is_safe(id);
        if let Some(settled) = self.map.settled.remove(&id) {
            for storage in &settled.good {
                self.nodes.storage_mut(*storage).replicas -= 1;
                self.condemn(*storage, id, settled.generation_stamp);
            }
        }
        if let Some(open) = self.map.open.remove(&id) {
            for replica in &open.replicas {
                self.condemn(replica.storage, id, replica.generation_stamp);
            }
        }
        for replica in self.map.bad.remove(&id).unwrap_or_default() {
            self.condemn(replica.storage, id, replica.generation_stamp);
        }
        self.low.remove(id);
        self.pending.remove(id);
        self.postponed.remove(&id);
        if was_safe {
            self.safe_mode.count(false);
        }
        self.notify(id);
    }

    pub fn set_replication(&mut self, id: BlockId, replication: u16) {
        if let Some(settled) = self.map.settled.get_mut(&id) {
            settled.replication = replication;
            self.check_redundancy(id);
        }
    }

    /// Somebody read wrong bytes from the replica of `block` on `node`.
    pub fn report_corruption(
        &mut self,
        block: &Block,
        node: NodeIndex,
        storage: Option<StorageIndex>,
    ) {
        let id = block.id;
        if ringfs_protocol::mutant!("namenode: ignore reports of rot") {
            return;
        }
        let on_node = |storage: &StorageIndex| self.nodes.node_of(*storage) == node;
        if let Some(settled) = self.map.settled.get(&id)
            && let Some(known) = settled.good.iter().copied().find(on_node)
        {
            if settled.generation_stamp == block.generation_stamp {
                let was_safe = self.is_safe(id);
                self.displace(id, known, block, BadReason::Corruption);
                self.changed(id, was_safe);
            }
            return;
        }
        if let Some(open) = self.map.open.get_mut(&id) {
            let is_it = |replica: &OpenReplica| {
                replica.generation_stamp == block.generation_stamp
                    && self.nodes.node_of(replica.storage) == node
            };
            // A recovery must find whom to ask, or its file stays open for ever.
            let is_other = |storage: &StorageIndex| {
                self.nodes.node_of(*storage) != node && self.nodes.is_usable(*storage)
            };
            if !open.expected.iter().any(is_other) {
                return;
            }
            if let Some(at) = open.replicas.iter().position(is_it) {
                let replica = open.replicas.remove(at);
                open.expected.retain(|storage| *storage != replica.storage);
                self.displace(id, replica.storage, block, BadReason::Corruption);
                return;
            }
        }
        self.expect_corrupt(block, node, storage);
    }

    /// Word of rot that comes ahead of its datanode's first full report, as after a restart of the
    /// namenode: the replica will be reported as if it were good, and must not be counted even once.
    fn expect_corrupt(&mut self, block: &Block, node: NodeIndex, storage: Option<StorageIndex>) {
        let id = block.id;
        let storage = storage.or_else(|| self.nodes.node(node).storages.first().copied());
        let awaited = storage.filter(|storage| !self.nodes.storage(*storage).reported);
        let stored = self.stored.stored_block(id).filter(|stored| stored.state.is_settled());
        if let (Some(storage), Some(stored)) = (awaited, stored)
            && stored.block.generation_stamp == block.generation_stamp
        {
            self.displace(id, storage, block, BadReason::Corruption);
        }
    }

    /// A replica is good: of stored stamp and length, and finalized.
    pub fn add_good(&mut self, id: BlockId, storage: StorageIndex) {
        let was_safe = self.is_safe(id);
        self.place(id, storage);
        self.changed(id, was_safe);
    }

    pub fn add_bad(&mut self, storage: StorageIndex, reported: &Block, reason: BadReason) {
        let was_safe = self.is_safe(reported.id);
        self.displace(reported.id, storage, reported, reason);
        self.changed(reported.id, was_safe);
    }

    /// The replica is gone: the one of stamp `deleted` or older, or any.
    pub fn remove_replica(
        &mut self,
        id: BlockId,
        storage: StorageIndex,
        deleted: Option<GenerationStamp>,
    ) {
        let is_it = |stamp: GenerationStamp| deleted.is_none_or(|deleted| deleted >= stamp);
        self.map.drop_bad(id, |bad| bad.storage == storage && is_it(bad.generation_stamp));
        if let Some(open) = self.map.open.get_mut(&id) {
            open.replicas
                .retain(|replica| replica.storage != storage || !is_it(replica.generation_stamp));
        }
        let settled = self.map.settled.get(&id);
        if settled.is_some_and(|s| is_it(s.generation_stamp) && s.good.contains(&storage)) {
            let was_safe = self.is_safe(id);
            self.unplace(id, storage);
            self.changed(id, was_safe);
        }
    }

    /// Good replicas, those on the reader's host first, then those on its rack if it has a
    /// datanode, else at random, stale datanodes and those that have left last; the bad ones and
    /// `true` when there are no good ones.
    pub fn locations(&mut self, id: BlockId, reader: IpAddr) -> (Vec<StorageIndex>, bool) {
        let known = match (self.map.settled.get(&id), self.map.open.get(&id)) {
            (Some(settled), _) => settled.good.clone(),
            (None, Some(open)) => open.expected.clone(),
            (None, None) => Storages::new(),
        };
        let mut locations: Vec<StorageIndex> = self.usable(&known).collect();
        let bad = self.map.bad_replicas(id).iter().map(|replica| replica.storage);
        let is_corrupt = locations.is_empty() && !self.map.bad_replicas(id).is_empty();
        if is_corrupt {
            locations = bad.filter(|storage| self.nodes.is_usable(*storage)).collect();
        }
        locations.shuffle(&mut self.rng);
        let rack = |storage: &StorageIndex| &self.nodes.owner(*storage).address.rack;
        let one_rack = locations.windows(2).all(|pair| rack(&pair[0]) == rack(&pair[1]));
        let of_reader = |index: &&NodeIndex| self.nodes.node(**index).address.ip == reader;
        // Looking for the reader among all datanodes is worth it only when racks differ.
        let near = if one_rack { None } else { self.nodes.live().iter().find(of_reader) };
        let near_rack = near.map(|index| &self.nodes.node(*index).address.rack);
        locations.sort_by_key(|storage| {
            let node = self.nodes.owner(*storage);
            let (address, rank) = (&node.address, node.service.reading_rank());
            let is_near = near_rack == Some(&address.rack);
            let is_stale = self.nodes.is_stale(self.nodes.node_of(*storage), self.now_ms);
            (rank, is_stale, address.ip != reader, !is_near)
        });
        (locations, is_corrupt)
    }

    /// Gives the recovery to the datanode of the pipeline heard from last that did not try yet.
    pub fn queue_recovery(&mut self, request: &RecoveryRequest) -> bool {
        let id = request.block.id;
        let Some(open) = self.map.open.get_mut(&id) else {
            return false;
        };
        let usable = |storage: &&StorageIndex| self.nodes.is_usable(**storage);
        let candidates: Vec<NodeIndex> =
            open.expected.iter().filter(usable).map(|s| self.nodes.node_of(*s)).collect();
        if candidates.iter().all(|node| open.recovery_tried.contains(node)) {
            open.recovery_tried.clear();
        }
        let untried = candidates.iter().filter(|node| !open.recovery_tried.contains(node));
        let Some(&primary) = untried.max_by_key(|node| self.nodes.node(**node).heartbeat_ms) else {
            return false;
        };
        open.recovery_tried.push(primary);
        for node in candidates {
            self.nodes.node_mut(node).recoveries.retain(|queued| queued.block.id != id);
        }
        self.nodes.node_mut(primary).recoveries.push_back(*request);
        true
    }

    pub fn usable<'a>(
        &'a self,
        storages: &'a [StorageIndex],
    ) -> impl Iterator<Item = StorageIndex> {
        storages.iter().copied().filter(|storage| self.nodes.is_usable(*storage))
    }

    pub fn offered_stamp(&self, id: BlockId) -> Option<GenerationStamp> {
        self.map.open.get(&id).and_then(|open| open.offered_stamp)
    }

    pub fn open_mut(&mut self, id: BlockId) -> &mut Open {
        if self.map.settled.contains_key(&id) {
            self.reopen(id);
        }
        self.map.open.entry(id).or_default()
    }

    pub fn condemn(&mut self, storage: StorageIndex, id: BlockId, stamp: GenerationStamp) {
        self.order_deletion(storage, id, Condemned { generation_stamp: stamp, was: Was::Useless });
    }

    pub(crate) fn order_deletion(
        &mut self,
        storage: StorageIndex,
        id: BlockId,
        condemned: Condemned,
    ) {
        let node = self.nodes.owner_mut(storage);
        // A dead datanode reports in full when it comes back.
        if node.alive {
            node.invalidations.condemn(id, condemned);
        }
    }

    /// Adds to the good replicas; the datanode's former ones of this block give way.
    fn place(&mut self, id: BlockId, storage: StorageIndex) {
        let node = self.nodes.node_of(storage);
        let nodes = &mut self.nodes;
        let Some(settled) = self.map.settled.get_mut(&id) else {
            return;
        };
        settled.good.retain(|known| {
            let stays = nodes.node_of(*known) != node;
            if !stays {
                nodes.storage_mut(*known).replicas -= 1;
            }
            stays
        });
        settled.good.push(storage);
        nodes.storage_mut(storage).replicas += 1;
        self.map.drop_bad(id, |bad| nodes.node_of(bad.storage) == node);
        self.pending.drop_targets(id, |target| nodes.node_of(target) == node);
    }

    pub(crate) fn unplace(&mut self, id: BlockId, storage: StorageIndex) {
        let Some(settled) = self.map.settled.get_mut(&id) else {
            return;
        };
        let before = settled.good.len();
        settled.good.retain(|known| *known != storage);
        if settled.good.len() < before {
            self.nodes.storage_mut(storage).replicas -= 1;
        }
    }

    fn displace(
        &mut self,
        id: BlockId,
        storage: StorageIndex,
        reported: &Block,
        reason: BadReason,
    ) {
        self.unplace(id, storage);
        self.pending.drop_targets(id, |target| target == storage);
        let generation_stamp = reported.generation_stamp;
        self.map.put_bad(id, BadReplica { storage, generation_stamp, reason });
        tracing::info!(
            block = %reported,
            ?reason,
            datanode = %self.nodes.owner(storage).uuid,
            "a bad replica"
        );
    }

    /// Whether a good or a bad replica is known on the datanode of `storage`. One with an older stamp
    /// says nothing: a datanode of the last pipeline is about to report it anew.
    fn holds(&self, id: BlockId, storage: StorageIndex) -> bool {
        let node = self.nodes.node_of(storage);
        let good = self.map.settled.get(&id).is_some_and(|settled| {
            settled.good.iter().any(|known| self.nodes.node_of(*known) == node)
        });
        let is_final = |replica: &&BadReplica| replica.reason != BadReason::GenerationStamp;
        let mut bad = self.map.bad_replicas(id).iter().filter(is_final);
        good || bad.any(|replica| self.nodes.node_of(replica.storage) == node)
    }

    pub(crate) fn is_safe(&self, id: BlockId) -> bool {
        self.map.settled.get(&id).is_some_and(|settled| {
            settled.is_complete && settled.good.len() >= self.config.min_replication
        })
    }

    /// To be called after each change to a settled block's replicas.
    pub(crate) fn changed(&mut self, id: BlockId, was_safe: bool) {
        let is_safe = self.is_safe(id);
        if is_safe != was_safe {
            self.safe_mode.count(is_safe);
        }
        self.notify(id);
        self.check_redundancy(id);
    }

    pub(crate) fn notify(&self, id: BlockId) {
        if let Some(waiters) = self.waiters.get(&id) {
            waiters.notify.notify_waiters();
        }
    }

    pub fn begin_waiting(&mut self, id: BlockId) -> Arc<Notify> {
        let new = || Waiters { notify: Arc::new(Notify::new()), count: 0 };
        let waiters = self.waiters.entry(id).or_insert_with(new);
        waiters.count += 1;
        waiters.notify.clone()
    }

    pub fn end_waiting(&mut self, id: BlockId) {
        if let Some(waiters) = self.waiters.get_mut(&id) {
            waiters.count -= 1;
            if waiters.count == 0 {
                self.waiters.remove(&id);
            }
        }
    }
}

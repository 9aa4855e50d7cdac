//! Keeping each settled block at its file's replication: the monitor's rounds.
//!
//! | good + pending replicas in service | what happens |
//! |---|---|
//! | none good, none pending | the block is missing: listed, nothing to copy from |
//! | fewer than the replication | queued by risk; each round orders some copies, which then are pending |
//! | more good ones | those that can be spared are condemned, the one on the fullest storage first |
//!
//! Bad replicas go once enough good ones exist. Each datanode carries out a bounded number of copies
//! at a time. A replica counts as spare only if as many as the replication remain on datanodes that
//! are in touch and have reported in full since they registered; else the block is postponed. It is
//! weighed once more when its datanode comes for the order.
//!
//! Two walks in bounded steps: the *sweep* over the replica map after a datanode or storage was
//! lost, and the *scan* over the stored blocks once start-up's safe mode is over, which finds the
//! blocks that nobody reported.

use std::ops::Bound;

use rand::seq::IndexedRandom;
use ringfs_protocol::block::{Block, BlockId, GenerationStamp};

use crate::block_map::BadReplica;
use crate::datanodes::{NodeIndex, StorageIndex, Transfer};
use crate::invalidations::{Condemned, Was};
use crate::limits::{NAMESPACE_SCAN_STEP, POSTPONED_PER_ROUND, SWEEP_STEP};
use crate::low_redundancy::Risk;
use crate::placement::{self, PlacementRequest};
use crate::replica_verdict::BadReason;
use crate::replicas::Replicas;
use crate::safe_mode::Progress;

/// How far the monitor is.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    /// Start-up is over: what nobody reported is missing.
    started: bool,
    round_at_ms: u64,
    sweep: Walk,
    /// Over all blocks, after a datanode began to leave or came back.
    reweigh: Walk,
    scan: Walk,
}

#[derive(Debug, Default)]
enum Walk {
    #[default]
    Idle,
    Behind(Option<BlockId>),
}

impl Replicas {
    /// One step of the monitor; true when it left work that need not wait for the next step.
    pub fn tick(&mut self) -> bool {
        self.nodes.roll_schedules(self.now_ms);
        if self.nodes.bury_silent(self.now_ms) {
            self.on_loss();
        }
        let total = self.stored.complete_block_count();
        let live = self.nodes.live().len();
        if self.safe_mode.progress(self.now_ms, total, live) == Progress::Started {
            self.monitor.started = true;
            // Datanodes that are about to report spare many copies.
            self.monitor.round_at_ms = self.now_ms + self.config.redundancy_interval_ms;
            self.monitor.scan = Walk::Behind(None);
        }
        self.sweep_step();
        self.scan_step();
        self.reweigh_step();
        if !self.safe_mode.is_on() && self.now_ms >= self.monitor.round_at_ms {
            self.monitor.round_at_ms = self.now_ms + self.config.redundancy_interval_ms;
            self.round();
        }
        let is_searching = self.monitor.started && self.leaving_step();
        let walks = [&self.monitor.sweep, &self.monitor.scan, &self.monitor.reweigh];
        is_searching || walks.iter().any(|walk| matches!(walk, Walk::Behind(_)))
    }

    /// To be called when replicas ceased to count: a datanode died, a storage failed.
    pub fn on_loss(&mut self) {
        for transfer in self.nodes.take_orphaned() {
            self.call_off(&transfer);
        }
        let nodes = &self.nodes;
        for id in self.pending.blocks_with(|target| !nodes.is_usable(target)) {
            let nodes = &self.nodes;
            self.pending.drop_targets(id, |target| !nodes.is_usable(target));
            self.check_redundancy(id);
        }
        for open in self.map.open.values_mut() {
            open.replicas.retain(|replica| self.nodes.is_usable(replica.storage));
        }
        let nodes = &self.nodes;
        self.map.bad.retain(|_, bad| {
            bad.retain(|replica| nodes.is_usable(replica.storage));
            !bad.is_empty()
        });
        // A walk under way has passed blocks already: once more from the start.
        self.monitor.sweep = Walk::Behind(None);
    }

    /// Weighs the block's replicas against its replication.
    pub fn check_redundancy(&mut self, id: BlockId) {
        if !self.monitor.started {
            return;
        }
        let Some(settled) = self.map.settled.get(&id) else {
            self.low.remove(id);
            return;
        };
        let replication = usize::from(settled.replication);
        let counted = self.count(&settled.good);
        let wanted = counted.wanted(replication, self.config.maintenance_min);
        let pending = self.pending.targets(id).len();
        if counted.in_service + pending < wanted && (counted.readable > 0 || pending == 0) {
            self.low.insert(id, counted.at_stake(), replication);
        } else {
            self.low.remove(id);
        }
        if counted.in_service > replication {
            self.remove_excess(id);
        } else {
            self.postponed.remove(&id);
        }
        self.condemn_bad(id);
    }

    fn remove_excess(&mut self, id: BlockId) {
        self.postponed.remove(&id);
        while let Some(settled) = self.map.settled.get(&id) {
            let deletes_more = ringfs_protocol::mutant!("namenode: delete a replica too many");
            let replication = usize::from(settled.replication) - usize::from(deletes_more);
            let stamp = settled.generation_stamp;
            let good: Vec<StorageIndex> =
                self.usable(&settled.good).filter(|storage| self.is_in_service(*storage)).collect();
            if good.len() <= replication {
                return;
            }
            let Some(victim) = self.spare_replica(&good, replication) else {
                self.postponed.insert(id);
                return;
            };
            self.unplace(id, victim);
            let condemned = Condemned { generation_stamp: stamp, was: Was::Spare(victim) };
            self.order_deletion(victim, id, condemned);
        }
    }

    /// Replicas that `node` shall delete now. Those that are not too many any more count again.
    pub fn take_invalidations(&mut self, index: NodeIndex) -> Vec<Block> {
        let (max, now_ms) = (self.config.invalidate_limit, self.now_ms);
        let taken = self.nodes.node_mut(index).invalidations.take(max, now_ms);
        let mut orders = Vec::with_capacity(taken.len());
        for (id, condemned) in taken {
            let generation_stamp = condemned.generation_stamp;
            match condemned.was {
                Was::Spare(storage) if self.needs_good(id, generation_stamp, storage) => {
                    self.nodes.node_mut(index).invalidations.forget(id);
                    self.add_good(id, storage);
                }
                Was::Bad(replica) if self.needs_bad(id, &replica) => {
                    self.nodes.node_mut(index).invalidations.forget(id);
                    self.map.put_bad(id, replica);
                }
                _ => orders.push(Block { id, generation_stamp, num_bytes: 0 }),
            }
        }
        orders
    }

    fn needs_good(&self, id: BlockId, stamp: GenerationStamp, storage: StorageIndex) -> bool {
        !ringfs_protocol::mutant!("namenode: delete a replica too many")
            && self.nodes.is_usable(storage)
            && self.map.settled.get(&id).is_some_and(|settled| {
                settled.generation_stamp == stamp
                    && self.count(&settled.good).in_service < usize::from(settled.replication)
            })
    }

    fn needs_bad(&self, id: BlockId, replica: &BadReplica) -> bool {
        let others = self.map.bad_replicas(id).len();
        self.nodes.is_usable(replica.storage)
            && self.map.settled.contains_key(&id)
            && !self.can_lose(id, replica, others + 1)
    }

    /// The replica to give up: one that shares its rack with another where there is such a one, as
    /// long as there is more than one rack; then the balancer's, then the one on the storage with
    /// the least space.
    fn spare_replica(&self, good: &[StorageIndex], replication: usize) -> Option<StorageIndex> {
        let is_trusted = |storage: StorageIndex| {
            let node = self.nodes.node_of(storage);
            self.nodes.storage(storage).reported && !self.nodes.is_stale(node, self.now_ms)
        };
        let trusted = good.iter().filter(|storage| is_trusted(**storage)).count();
        let spare = good
            .iter()
            .copied()
            .filter(|storage| trusted - usize::from(is_trusted(*storage)) >= replication);
        let rack = |storage: StorageIndex| &self.nodes.owner(storage).address.rack;
        spare.min_by_key(|storage| {
            let on_rack = good.iter().filter(|other| rack(**other) == rack(*storage)).count();
            let is_hint = self.delete_hint == Some(self.nodes.node_of(*storage));
            (on_rack == 1, !is_hint, self.nodes.storage(*storage).remaining, *storage)
        })
    }

    /// Condemns the block's bad replicas if it can do without them.
    fn condemn_bad(&mut self, id: BlockId) {
        loop {
            let bad = self.map.bad_replicas(id);
            let can_go = |replica: &&BadReplica| self.can_lose(id, replica, bad.len());
            let Some(replica) = bad.iter().find(can_go).copied() else {
                return;
            };
            self.map.drop_bad(id, |bad| bad.storage == replica.storage);
            let generation_stamp = replica.generation_stamp;
            let condemned = Condemned { generation_stamp, was: Was::Bad(replica) };
            self.order_deletion(replica.storage, id, condemned);
        }
    }

    /// Whether there is enough of the block without a bad replica, one of `bad`.
    fn can_lose(&self, id: BlockId, replica: &BadReplica, bad: usize) -> bool {
        let Some(settled) = self.map.settled.get(&id) else {
            return false;
        };
        let (good, stamp) = (self.count(&settled.good).in_service, settled.generation_stamp);
        // A datanode with a bad replica takes no good one: where every datanode holds one of either, a
        // bad one must make room for a copy, the next one when that is there. While there is but one good
        // one, a datanode that is away may yet come back with another.
        let is_everywhere = match good {
            0 => false,
            1 => good + bad >= self.nodes.known().count().max(usize::from(settled.replication) + 1),
            _ => good + bad >= self.nodes.live().len(),
        };
        let is_outdated =
            replica.reason == BadReason::GenerationStamp && replica.generation_stamp < stamp;
        let is_first = ringfs_protocol::mutant!("namenode: delete bad replicas first");
        good >= usize::from(settled.replication)
            || is_everywhere
            || is_first
            || (is_outdated && good >= self.config.min_replication.max(1))
    }

    fn round(&mut self) {
        for id in self.pending.take_expired(self.now_ms) {
            self.check_redundancy(id);
        }
        let postponed: Vec<BlockId> =
            self.postponed.iter().take(POSTPONED_PER_ROUND).copied().collect();
        for id in postponed {
            self.check_redundancy(id);
        }
        let max = self.nodes.live().len() * self.config.work_multiplier;
        for id in self.low.next(max) {
            self.order_copies(id);
        }
    }

    /// Orders the copies that the block lacks from one of its good replicas.
    fn order_copies(&mut self, id: BlockId) {
        let stored = self.stored.stored_block(id).filter(|stored| stored.state.is_settled());
        let (Some(stored), Some(settled)) = (stored, self.map.settled.get_mut(&id)) else {
            self.low.remove(id);
            return;
        };
        settled.replication = stored.replication;
        let block = settled.block(id);
        let good: Vec<StorageIndex> = {
            let good = settled.good.clone();
            self.usable(&good).collect()
        };
        let counted = self.count(&good);
        let wanted = counted.wanted(stored.replication.into(), self.config.maintenance_min);
        let there = counted.in_service + self.pending.targets(id).len();
        let lacking = wanted.saturating_sub(there);
        let risk = Risk::of(counted.at_stake(), stored.replication.into());
        let Some(source) = self.source(&good, risk) else {
            return;
        };
        let mut targets = self.copy_targets(&block, lacking, false);
        if targets.is_empty() {
            targets = self.copy_targets(&block, lacking, true);
        }
        if !targets.is_empty() && !ringfs_protocol::mutant!("namenode: copy nothing") {
            tracing::debug!(%block, from = %self.nodes.node(source).uuid, copies = targets.len(),
                "copies ordered");
            for target in &targets {
                let node = self.nodes.node_of(*target);
                self.nodes.node_mut(node).invalidations.forget(id);
                self.nodes.schedule(node);
            }
            self.pending.add(id, &targets, self.now_ms);
            self.nodes.node_mut(source).transfers.push_back(Transfer { block, targets });
        }
        self.check_redundancy(id);
    }

    /// A datanode with a good replica and streams to spare; one more each for a block at risk.
    fn source(&mut self, good: &[StorageIndex], risk: Risk) -> Option<NodeIndex> {
        let streams = self.config.max_streams * if risk == Risk::Highest { 2 } else { 1 };
        let is_free = |node: &NodeIndex| {
            let node = self.nodes.node(*node);
            node.transfers.len() + (node.transfers_running as usize) < streams
        };
        let holders = good.iter().map(|storage| self.nodes.node_of(*storage));
        let free: Vec<NodeIndex> = holders.filter(is_free).collect();
        let fresh = free.iter().filter(|node| !self.nodes.is_stale(**node, self.now_ms));
        let fresh: Vec<NodeIndex> = fresh.copied().collect();
        let from = if fresh.is_empty() { &free } else { &fresh };
        from.choose(&mut self.rng).copied()
    }

    /// Storages of datanodes that neither have nor await a replica, nor are about to delete one; if
    /// `trusting`, those will do that must have deleted theirs.
    fn copy_targets(&mut self, block: &Block, count: usize, trusting: bool) -> Vec<StorageIndex> {
        let id = block.id;
        let good = self.map.settled.get(&id).into_iter().flat_map(|settled| &settled.good);
        let bad = self.map.bad_replicas(id).iter().map(|replica| &replica.storage);
        let holding = good.chain(bad).chain(self.pending.targets(id));
        let condemned = self.nodes.live().iter().copied().filter(|node| {
            let invalidations = &self.nodes.node(*node).invalidations;
            invalidations.condemned(id).is_some()
                && !(trusting && invalidations.is_obeyed(id, self.now_ms))
        });
        let holders: Vec<NodeIndex> = holding.map(|storage| self.nodes.node_of(*storage)).collect();
        let excluded: Vec<NodeIndex> = condemned.collect();
        let request = PlacementRequest {
            count,
            block_size: block.num_bytes,
            writer: None,
            holders: &holders,
            excluded: &excluded,
            favored: &[],
            no_local_write: false,
        };
        placement::choose(&self.nodes, &request, self.now_ms, &mut self.rng)
    }

    /// Copies that `node` shall make now. Those that have become pointless are called off.
    pub fn take_transfers(&mut self, index: NodeIndex) -> Vec<Transfer> {
        let node = self.nodes.node(index);
        let mut free = self.config.max_streams.saturating_sub(node.transfers_running as usize);
        let mut taken = Vec::new();
        while free > 0
            && let Some(mut transfer) = self.nodes.node_mut(index).transfers.pop_front()
        {
            let settled = self.map.settled.get(&transfer.block.id);
            let is_good = settled.is_some_and(|settled| {
                settled.is_version(&transfer.block)
                    && settled.good.iter().any(|storage| self.nodes.node_of(*storage) == index)
            });
            if !is_good {
                self.call_off(&transfer);
                continue;
            }
            transfer.targets.retain(|target| self.nodes.is_usable(*target));
            if !transfer.targets.is_empty() {
                taken.push(transfer);
                free -= 1;
            }
        }
        taken
    }

    fn call_off(&mut self, transfer: &Transfer) {
        let id = transfer.block.id;
        self.pending.drop_targets(id, |target| transfer.targets.contains(&target));
        for target in &transfer.targets {
            self.nodes.unschedule(self.nodes.node_of(*target));
        }
        self.check_redundancy(id);
    }

    fn sweep_step(&mut self) {
        let Walk::Behind(after) = self.monitor.sweep else {
            return;
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut lost: Vec<(BlockId, StorageIndex)> = Vec::new();
        let (mut visited, mut last) = (0, None);
        for (id, settled) in self.map.settled.range((from, Bound::Unbounded)).take(SWEEP_STEP) {
            (visited, last) = (visited + 1, Some(*id));
            let gone = settled.good.iter().filter(|storage| !self.nodes.is_kept(**storage));
            lost.extend(gone.map(|storage| (*id, *storage)));
        }
        let is_over = visited < SWEEP_STEP;
        self.monitor.sweep = if is_over { Walk::Idle } else { Walk::Behind(last) };
        for (id, storage) in lost {
            self.remove_replica(id, storage, None);
        }
    }

    /// Weighs every settled block anew.
    pub fn reweigh(&mut self) {
        self.monitor.reweigh = Walk::Behind(None);
    }

    fn reweigh_step(&mut self) {
        let Walk::Behind(after) = self.monitor.reweigh else {
            return;
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let step = self.map.settled.range((from, Bound::Unbounded)).take(SWEEP_STEP);
        let ids: Vec<BlockId> = step.map(|(id, _)| *id).collect();
        let is_over = ids.len() < SWEEP_STEP;
        self.monitor.reweigh = if is_over { Walk::Idle } else { Walk::Behind(ids.last().copied()) };
        for id in ids {
            self.check_redundancy(id);
        }
    }

    fn scan_step(&mut self) {
        let Walk::Behind(after) = self.monitor.scan else {
            return;
        };
        let blocks = self.stored.stored_blocks_after(after, NAMESPACE_SCAN_STEP);
        let is_over = blocks.len() < NAMESPACE_SCAN_STEP;
        let last = blocks.last().map(|stored| stored.block.id);
        self.monitor.scan = if is_over { Walk::Idle } else { Walk::Behind(last) };
        for stored in blocks.iter().filter(|stored| stored.state.is_settled()) {
            let id = stored.block.id;
            let settled = self.map.settled.get(&id);
            if settled.is_some_and(|settled| settled.is_version(&stored.block)) {
                self.check_redundancy(id);
            } else {
                self.settle(stored);
            }
        }
        if is_over {
            tracing::info!(
                low_redundancy = self.low.len(),
                missing = self.low.missing(),
                "looked through all blocks"
            );
        }
    }
}

//! Datanodes that leave, for good (decommission) or for a while (maintenance), without anything lost.
//!
//! ```text
//!                 ┌────────────► DECOMMISSIONING ──nothing depends on it──► DECOMMISSIONED
//!  IN SERVICE ◄───┼───────────────── wanted back at any time ─────────────────────┐
//!                 └────────────► ENTERING MAINTENANCE ──enough elsewhere──► IN MAINTENANCE ─► time is over
//! ```
//!
//! Replicas on datanodes that leave are read and copied from, but for the redundancy of their blocks
//! only those in service count; replicas in maintenance count for what a file asks beyond
//! `dfs.namenode.maintenance.replication.min`, even while the datanode is down. No new replica goes
//! to a datanode that leaves. A walk over all blocks in bounded steps tells whether anything still
//! depends on it: a settled block without its copies, or an open one whose other replicas are fewer
//! than a write needs; such a block holds the datanode until its file is closed and copied.

use std::ops::Bound;

use ringfs_protocol::block::BlockId;
use ringfs_protocol::collections::HashMap;
use ringfs_protocol::messages::AdminState;

use crate::block_map::Open;
use crate::datanodes::{NodeIndex, Registration, StorageIndex};
use crate::error::{NamenodeError, Result};
use crate::host_lists::{HostLists, Wanted};
use crate::limits::SWEEP_STEP;
use crate::replicas::Replicas;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServiceState {
    #[default]
    InService,
    Decommissioning,
    Decommissioned,
    EnteringMaintenance {
        until_time_ms: u64,
    },
    InMaintenance {
        until_time_ms: u64,
    },
}

use ServiceState::{
    Decommissioned, Decommissioning, EnteringMaintenance, InMaintenance, InService,
};

impl ServiceState {
    pub fn admin_state(self) -> AdminState {
        match self {
            InService => AdminState::Normal,
            Decommissioning => AdminState::DecommissionInprogress,
            Decommissioned => AdminState::Decommissioned,
            EnteringMaintenance { .. } => AdminState::EnteringMaintenance,
            InMaintenance { .. } => AdminState::InMaintenance,
        }
    }

    /// Which of two good replicas a reader is sent to first.
    pub fn reading_rank(self) -> u8 {
        match self {
            InService | Decommissioning | EnteringMaintenance { .. } => 0,
            Decommissioned => 1,
            // About to be restarted or pulled out.
            InMaintenance { .. } => 2,
        }
    }

    fn is_leaving(self) -> bool {
        matches!(self, Decommissioning | EnteringMaintenance { .. })
    }

    fn turned(self, wanted: Wanted, time_ms: u64) -> Self {
        match (self, wanted) {
            (_, Wanted::InService) => InService,
            (Decommissioning | Decommissioned, Wanted::Decommissioned) => self,
            (_, Wanted::Decommissioned) => Decommissioning,
            (_, Wanted::InMaintenance { until_time_ms }) if until_time_ms <= time_ms => InService,
            (InMaintenance { .. }, Wanted::InMaintenance { until_time_ms }) => {
                InMaintenance { until_time_ms }
            }
            (_, Wanted::InMaintenance { until_time_ms }) => EnteringMaintenance { until_time_ms },
        }
    }
}

/// A block's good replicas by what their datanodes do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub in_service: usize,
    pub maintenance: usize,
    /// On live datanodes, in whatever state.
    pub readable: usize,
}

impl Counted {
    /// Replicas in service that make the block's redundancy complete.
    pub fn wanted(&self, replication: usize, maintenance_min: usize) -> usize {
        if self.maintenance == 0 {
            return replication;
        }
        replication.saturating_sub(self.maintenance).max(maintenance_min.min(replication))
    }

    /// Replicas as far as risk goes: one that is about to leave is the last one left.
    pub fn at_stake(&self) -> usize {
        self.in_service.max(self.readable.min(1))
    }
}

/// How far the search for what depends on leaving datanodes is.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    next_ms: u64,
    walk: Option<Search>,
}

#[derive(Debug, Default)]
struct Search {
    after: Option<BlockId>,
    /// Blocks that depend on each datanode.
    holding: HashMap<NodeIndex, usize>,
}

impl Replicas {
    /// Takes the operator's lists over: datanodes are called back, told to leave, or put out.
    pub fn set_host_lists(&mut self, lists: HostLists) {
        self.host_lists = lists;
        let known: Vec<NodeIndex> = self.nodes.known().collect();
        for index in known {
            let node = self.nodes.node(index);
            if node.alive && self.check_let_in(&node.address).is_err() {
                tracing::warn!(uuid = %node.uuid,
                    "a datanode is no longer let in: its blocks will be replicated elsewhere");
                self.nodes.put_out(index);
            }
            self.follow_host_lists(index);
        }
        self.on_loss();
        self.leaving.next_ms = self.now_ms;
    }

    pub fn check_let_in(&self, datanode: &Registration) -> Result<()> {
        if self.host_lists.wanted(datanode).is_some() {
            return Ok(());
        }
        Err(NamenodeError::DisallowedDatanode(format!(
            "Datanode denied communication with namenode because the host is not in the \
             include-list: {}:{} ({})",
            datanode.ip, datanode.transfer_port, datanode.host_name
        )))
    }

    /// Brings the datanode to the state that the lists want.
    pub fn follow_host_lists(&mut self, index: NodeIndex) {
        let node = self.nodes.node(index);
        if let Some(wanted) = self.host_lists.wanted(&node.address) {
            self.set_service(index, node.service.turned(wanted, self.time_ms));
        }
    }

    /// To be called with each tick: one step of the search, or its start when it is time.
    pub fn leaving_step(&mut self) -> bool {
        if self.leaving.walk.is_none() {
            if self.now_ms < self.leaving.next_ms || !self.is_somebody_away() {
                return false;
            }
            self.leaving.next_ms = self.now_ms + self.config.leaving_interval_ms;
            self.end_maintenance();
            self.leaving.walk = Some(Search::default());
        }
        let Some(mut search) = self.leaving.walk.take() else {
            return false;
        };
        if self.search_step(&mut search) {
            self.leaving.walk = Some(search);
            return true;
        }
        for open in self.map.open.values() {
            for node in self.held_by_open(open) {
                *search.holding.entry(node).or_default() += 1;
            }
        }
        self.let_go(&search.holding);
        false
    }

    /// Counts the good replicas of a settled block.
    pub fn count(&self, good: &[StorageIndex]) -> Counted {
        let mut counted = Counted::default();
        for storage in good.iter().filter(|storage| !self.nodes.storage(**storage).failed) {
            let node = self.nodes.owner(*storage);
            counted.readable += usize::from(node.alive);
            match node.service {
                InService => counted.in_service += usize::from(node.alive),
                EnteringMaintenance { .. } => counted.maintenance += usize::from(node.alive),
                InMaintenance { .. } => counted.maintenance += 1,
                Decommissioning | Decommissioned => {}
            }
        }
        counted
    }

    pub fn is_in_service(&self, storage: StorageIndex) -> bool {
        self.nodes.owner(storage).service == InService
    }

    fn is_somebody_away(&self) -> bool {
        self.nodes.known().any(|index| self.nodes.node(index).service != InService)
    }

    /// Calls back those whose time of maintenance is over.
    fn end_maintenance(&mut self) {
        let time_ms = self.time_ms;
        let is_over = |state| match state {
            EnteringMaintenance { until_time_ms } | InMaintenance { until_time_ms } => {
                until_time_ms <= time_ms
            }
            _ => false,
        };
        let known: Vec<NodeIndex> = self.nodes.known().collect();
        for index in known {
            if is_over(self.nodes.node(index).service) {
                self.set_service(index, InService);
            }
        }
    }

    /// True while there are more blocks to look at.
    fn search_step(&self, search: &mut Search) -> bool {
        let from = search.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut visited = 0;
        for (id, settled) in self.map.settled.range((from, Bound::Unbounded)).take(SWEEP_STEP) {
            visited += 1;
            search.after = Some(*id);
            let is_leaving =
                |storage: &&StorageIndex| self.nodes.owner(**storage).service.is_leaving();
            if !settled.good.iter().any(|storage| is_leaving(&storage)) {
                continue;
            }
            let counted = self.count(&settled.good);
            let wanted = counted.wanted(settled.replication.into(), self.config.maintenance_min);
            if counted.in_service < wanted {
                for storage in settled.good.iter().filter(is_leaving) {
                    *search.holding.entry(self.nodes.node_of(*storage)).or_default() += 1;
                }
            }
        }
        visited == SWEEP_STEP
    }

    /// Leaving datanodes that an open block cannot do without.
    fn held_by_open(&self, open: &Open) -> Vec<NodeIndex> {
        let known = open.expected.iter().copied().chain(open.replicas.iter().map(|r| r.storage));
        let mut nodes: Vec<NodeIndex> = known
            .filter(|storage| self.nodes.is_usable(*storage))
            .map(|storage| self.nodes.node_of(storage))
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        let (leaving, staying): (Vec<NodeIndex>, Vec<NodeIndex>) =
            nodes.into_iter().partition(|node| self.nodes.node(*node).service != InService);
        if staying.len() >= self.config.min_replication { Vec::new() } else { leaving }
    }

    fn let_go(&mut self, holding: &HashMap<NodeIndex, usize>) {
        // What a dead datanode held is no longer in the map: it may go once nothing waits for copies.
        let is_all_well = self.low.len() + self.low.missing() == 0;
        let known: Vec<NodeIndex> = self.nodes.known().collect();
        for index in known {
            let node = self.nodes.node(index);
            let blocks = holding.get(&index).copied().unwrap_or_default();
            if blocks > 0 {
                tracing::info!(uuid = %node.uuid, blocks, "blocks still depend on a leaving datanode");
                continue;
            }
            match node.service {
                Decommissioning if node.alive || is_all_well => {
                    self.set_service(index, Decommissioned);
                }
                EnteringMaintenance { until_time_ms } => {
                    self.set_service(index, InMaintenance { until_time_ms });
                }
                _ => {}
            }
        }
    }

    fn set_service(&mut self, index: NodeIndex, service: ServiceState) {
        let node = self.nodes.node_mut(index);
        if node.service == service {
            return;
        }
        tracing::info!(uuid = %node.uuid, from = ?node.service, to = ?service,
            "a datanode's service changes");
        node.service = service;
        self.leaving.next_ms = self.now_ms;
        if !node.alive {
            self.on_loss();
        }
        self.reweigh();
    }
}

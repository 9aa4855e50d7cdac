//! Leases of full block reports: how many datanodes report in full at a time, and which report is
//! still the one that was asked for. A report whose lease is unknown, expired or used up is ignored,
//! so a delayed or repeated one changes nothing. Lease 0 comes from datanodes that know no leases.

use rand::Rng;
use rand::rngs::StdRng;

use crate::datanodes::NodeIndex;
use crate::limits::{BLOCK_REPORT_LEASE_MS, BLOCK_REPORT_LEASES_MAX};
use ringfs_protocol::collections::HashMap;

#[derive(Debug, Default)]
pub(crate) struct ReportLeases {
    leases: HashMap<NodeIndex, Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: u64,
    granted_ms: u64,
}

impl ReportLeases {
    /// A new lease's id, never 0; 0 when too many are out.
    pub fn grant(&mut self, node: NodeIndex, now_ms: u64, rng: &mut StdRng) -> u64 {
        self.leases.remove(&node);
        self.leases.retain(|_, lease| !lease.is_over(now_ms));
        if self.leases.len() >= BLOCK_REPORT_LEASES_MAX {
            return 0;
        }
        let id = rng.random_range(1..=i64::MAX as u64);
        self.leases.insert(node, Lease { id, granted_ms: now_ms });
        id
    }

    /// When the lease was granted, if it is valid.
    pub fn granted_ms(&self, node: NodeIndex, id: u64, now_ms: u64) -> Option<u64> {
        let lease = self.leases.get(&node)?;
        (lease.id == id && !lease.is_over(now_ms)).then_some(lease.granted_ms)
    }

    pub fn end(&mut self, node: NodeIndex) {
        self.leases.remove(&node);
    }
}

impl Lease {
    fn is_over(self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.granted_ms) >= BLOCK_REPORT_LEASE_MS
    }
}

//! What the configuration says of blocks and of the datanodes that hold them.

use ringfs_protocol::settings::{self, Setting};
use ringfs_protocol::site_config::Configuration;

use crate::datanodes::Intervals;
use crate::error::Result;
use crate::safe_mode::SafeModeConfig;

#[derive(Clone, Debug)]
pub struct BlockManagerConfig {
    pub pool_id: String,
    /// Replicas that make a block safe, and a write complete.
    pub min_replication: usize,
    pub safe_mode: SafeModeConfig,
    pub(crate) intervals: Intervals,
    pub redundancy_interval_ms: u64,
    pub pending_timeout_ms: u64,
    /// Copies that a datanode makes at a time.
    pub max_streams: usize,
    /// Blocks for which one round orders copies, for each live datanode.
    pub work_multiplier: usize,
    /// Deletions sent with one heartbeat.
    pub invalidate_limit: usize,
    /// Time between two looks at what depends on datanodes that leave.
    pub leaving_interval_ms: u64,
    /// Replicas in service that a block keeps while others are in maintenance.
    pub maintenance_min: usize,
}

impl BlockManagerConfig {
    pub fn read(configuration: &Configuration, pool_id: String) -> Result<Self> {
        let millis = |setting: &Setting| -> Result<u64> {
            Ok(configuration.duration(setting)?.as_millis() as u64)
        };
        let count = |setting: &Setting| -> Result<usize> {
            let value = configuration.integer(setting)?;
            let refuse = |_| configuration.refuse(setting, &value.to_string(), "negative");
            Ok(usize::try_from(value).map_err(refuse)?)
        };
        let heartbeat_ms = millis(&settings::DFS_HEARTBEAT_INTERVAL)?;
        let recheck_ms = millis(&settings::DFS_NAMENODE_HEARTBEAT_RECHECK_INTERVAL)?;
        Ok(Self {
            pool_id,
            min_replication: count(&settings::DFS_NAMENODE_REPLICATION_MIN)?.max(1),
            safe_mode: SafeModeConfig::read(configuration)?,
            intervals: Intervals {
                // Less than three heartbeats would make datanodes stale that are well.
                stale_ms: millis(&settings::DFS_NAMENODE_STALE_DATANODE_INTERVAL)?
                    .max(3 * heartbeat_ms),
                dead_ms: 2 * recheck_ms + 10 * heartbeat_ms,
            },
            redundancy_interval_ms: millis(&settings::DFS_NAMENODE_REDUNDANCY_INTERVAL_SECONDS)?,
            pending_timeout_ms: millis(&settings::DFS_NAMENODE_RECONSTRUCTION_PENDING_TIMEOUT_SEC)?,
            max_streams: count(&settings::DFS_NAMENODE_REPLICATION_MAX_STREAMS)?.max(1),
            work_multiplier: count(
                &settings::DFS_NAMENODE_REPLICATION_WORK_MULTIPLIER_PER_ITERATION,
            )?
            .max(1),
            invalidate_limit: count(&settings::DFS_BLOCK_INVALIDATE_LIMIT)?.max(1),
            leaving_interval_ms: millis(&settings::DFS_NAMENODE_DECOMMISSION_INTERVAL)?,
            maintenance_min: count(&settings::DFS_NAMENODE_MAINTENANCE_REPLICATION_MIN)?,
        })
    }
}

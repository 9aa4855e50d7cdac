//! The settings of the namespace, read and checked once at start.

use std::collections::HashMap;
use std::time::Duration;

use ringfs_protocol::messages::ChecksumTypeProto;
use ringfs_protocol::settings::{self as s, Setting};
use ringfs_protocol::site_config::{ConfigError, Configuration};

use crate::host_lists::HostFiles;
use crate::limits::COMPLETE_WAIT;
use crate::topology::RackSource;

/// A recovery is ordered by heartbeat; HDFS gives it this many of them.
const RECOVERY_TIMEOUT_HEARTBEATS: u64 = 30;

#[derive(Clone, Debug)]
pub struct NamespaceConfig {
    pub block_size: u64,
    pub bytes_per_checksum: u32,
    pub checksum_type: ChecksumTypeProto,
    pub write_packet_size: u32,
    pub replication: u32,
    pub file_buffer_size: u32,
    pub trash_interval_minutes: u64,
    pub replication_min: u32,
    pub replication_max: u32,
    pub min_block_size: u64,
    pub max_blocks_per_file: u32,
    /// 0: unlimited.
    pub max_component_length: usize,
    pub max_directory_items: u64,
    pub lease_hard_limit_ms: u64,
    pub complete_wait: Duration,
    /// After this time a block recovery that nobody finished is started anew.
    pub recovery_timeout_ms: u64,
    pub access_time_precision_ms: u64,
    pub listing_limit: usize,
    pub retry_cache_expiry_ms: u64,
    pub permissions_enabled: bool,
    pub supergroup: String,
    /// The user that runs the namenode.
    pub superuser: String,
    /// Groups of users that are not asked of the system.
    pub group_overrides: HashMap<String, Vec<String>>,
    pub racks: RackSource,
    pub host_files: HostFiles,
}

impl NamespaceConfig {
    pub fn load(configuration: &Configuration, superuser: String) -> Result<Self, ConfigError> {
        let c = configuration;
        let number = |setting: &Setting, least: i64, most: i64| -> Result<i64, ConfigError> {
            let value = c.integer(setting)?;
            if (least..=most).contains(&value) {
                return Ok(value);
            }
            Err(c.refuse(setting, &value.to_string(), format!("must be {least} to {most}")))
        };
        let replication_max = number(&s::DFS_REPLICATION_MAX, 1, 512)?;
        let replication_min = number(&s::DFS_NAMENODE_REPLICATION_MIN, 1, replication_max)?;
        let u32_max = i64::from(u32::MAX);
        Ok(Self {
            block_size: c.bytes(&s::DFS_BLOCK_SIZE)?,
            bytes_per_checksum: number(&s::DFS_BYTES_PER_CHECKSUM, 1, u32_max)? as u32,
            checksum_type: checksum_type(c)?,
            write_packet_size: c.bytes(&s::DFS_CLIENT_WRITE_PACKET_SIZE)?.min(u32::MAX.into())
                as u32,
            replication: number(&s::DFS_REPLICATION, replication_min, replication_max)? as u32,
            file_buffer_size: c.bytes(&s::IO_FILE_BUFFER_SIZE)?.min(u32::MAX.into()) as u32,
            trash_interval_minutes: number(&s::FS_TRASH_INTERVAL, 0, i64::MAX)? as u64,
            replication_min: replication_min as u32,
            replication_max: replication_max as u32,
            min_block_size: c.bytes(&s::DFS_NAMENODE_FS_LIMITS_MIN_BLOCK_SIZE)?,
            max_blocks_per_file: number(&s::DFS_NAMENODE_FS_LIMITS_MAX_BLOCKS_PER_FILE, 1, u32_max)?
                as u32,
            max_component_length: number(
                &s::DFS_NAMENODE_FS_LIMITS_MAX_COMPONENT_LENGTH,
                0,
                u32_max,
            )? as usize,
            max_directory_items: number(&s::DFS_NAMENODE_FS_LIMITS_MAX_DIRECTORY_ITEMS, 1, u32_max)?
                as u64,
            lease_hard_limit_ms: c.duration(&s::DFS_NAMENODE_LEASE_HARD_LIMIT_SEC)?.as_millis()
                as u64,
            complete_wait: COMPLETE_WAIT,
            recovery_timeout_ms: c.duration(&s::DFS_HEARTBEAT_INTERVAL)?.as_millis() as u64
                * RECOVERY_TIMEOUT_HEARTBEATS,
            access_time_precision_ms: c.duration(&s::DFS_NAMENODE_ACCESSTIME_PRECISION)?.as_millis()
                as u64,
            listing_limit: number(&s::DFS_LS_LIMIT, 1, 1_000_000)? as usize,
            retry_cache_expiry_ms: c
                .duration(&s::DFS_NAMENODE_RETRYCACHE_EXPIRYTIME_MILLIS)?
                .as_millis() as u64,
            permissions_enabled: c.boolean(&s::DFS_PERMISSIONS_ENABLED)?,
            supergroup: c.text(&s::DFS_PERMISSIONS_SUPERUSERGROUP),
            superuser,
            group_overrides: group_overrides(
                &c.text(&s::HADOOP_USER_GROUP_STATIC_MAPPING_OVERRIDES),
            ),
            racks: RackSource::read(c)?,
            host_files: HostFiles::read(c)?,
        })
    }

    #[cfg(test)]
    pub fn for_tests() -> Self {
        let mut configuration = Configuration::default();
        configuration.set(
            s::HADOOP_USER_GROUP_STATIC_MAPPING_OVERRIDES.name,
            "super=supergroup;alice=staff;bob=staff,other;carol=",
        );
        configuration.set(s::DFS_NAMENODE_FS_LIMITS_MIN_BLOCK_SIZE.name, "512");
        Self::load(&configuration, "super".to_owned()).expect("the defaults are valid")
    }
}

fn checksum_type(configuration: &Configuration) -> Result<ChecksumTypeProto, ConfigError> {
    let setting = &s::DFS_CHECKSUM_TYPE;
    let value = configuration.text(setting);
    match value.as_str() {
        "CRC32C" => Ok(ChecksumTypeProto::ChecksumCrc32c),
        "CRC32" => Ok(ChecksumTypeProto::ChecksumCrc32),
        "NULL" => Ok(ChecksumTypeProto::ChecksumNull),
        _ => Err(configuration.refuse(setting, &value, "must be CRC32C, CRC32 or NULL")),
    }
}

/// `user1=group1,group2;user2=`
fn group_overrides(text: &str) -> HashMap<String, Vec<String>> {
    text.split(';')
        .filter_map(|entry| {
            let (user, groups) = entry.split_once('=')?;
            let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
            Some((user.trim().to_owned(), groups.map(str::to_owned).collect()))
        })
        .collect()
}

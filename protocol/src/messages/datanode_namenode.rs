//! `org.apache.hadoop.hdfs.server.protocol.DatanodeProtocol` version 1: registration, heartbeats,
//! block reports and the commands that ride on their replies.
//!
//! Field numbers and types are the interface facts of Hadoop 2.7 to 3.5; unknown fields are skipped.

use super::common::{
    BlockProto, DatanodeIDProto, DatanodeInfosProto, DatanodeStorageProto, ExtendedBlockProto,
    LocatedBlockProto, RecoveringBlockProto, StorageReportProto, StorageTypesProto,
    StorageUuidsProto,
};
use prost::{Enumeration, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BlockCommandAction {
    Transfer = 1,
    Invalidate = 2,
    Shutdown = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BlockIdCommandAction {
    Cache = 1,
    Uncache = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BlockStatus {
    Receiving = 1,
    Received = 2,
    Deleted = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DatanodeCommandType {
    BalancerBandwidthCommand = 0,
    BlockCommand = 1,
    BlockRecoveryCommand = 2,
    FinalizeCommand = 3,
    KeyUpdateCommand = 4,
    RegisterCommand = 5,
    UnusedUpgradeCommand = 6,
    NullDatanodeCommand = 7,
    BlockIdCommand = 8,
    BlockEcReconstructionCommand = 9,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum HaState {
    Active = 0,
    Standby = 1,
    Observer = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageInfoProto {
    #[prost(uint32, required, tag = "1")]
    pub layout_version: u32,
    #[prost(uint32, required, tag = "2")]
    pub namespace_id: u32,
    #[prost(string, required, tag = "3")]
    pub cluster_id: String,
    #[prost(uint64, required, tag = "4")]
    pub c_time: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockKeyProto {
    #[prost(uint32, required, tag = "1")]
    pub key_id: u32,
    #[prost(uint64, required, tag = "2")]
    pub expiry_date: u64,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub key_bytes: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExportedBlockKeysProto {
    #[prost(bool, required, tag = "1")]
    pub is_block_token_enabled: bool,
    #[prost(uint64, required, tag = "2")]
    pub key_update_interval: u64,
    #[prost(uint64, required, tag = "3")]
    pub token_life_time: u64,
    #[prost(message, required, tag = "4")]
    pub current_key: BlockKeyProto,
    #[prost(message, repeated, tag = "5")]
    pub all_keys: Vec<BlockKeyProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NamespaceInfoProto {
    #[prost(string, required, tag = "1")]
    pub build_version: String,
    #[prost(uint32, required, tag = "2")]
    pub unused: u32,
    #[prost(string, required, tag = "3")]
    pub block_pool_id: String,
    #[prost(message, required, tag = "4")]
    pub storage_info: StorageInfoProto,
    #[prost(string, required, tag = "5")]
    pub software_version: String,
    #[prost(uint64, optional, tag = "6")]
    pub capabilities: Option<u64>,
    #[prost(enumeration = "HaState", optional, tag = "7")]
    pub state: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct VersionRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct VersionResponseProto {
    #[prost(message, required, tag = "1")]
    pub info: NamespaceInfoProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct DatanodeRegistrationProto {
    #[prost(message, required, tag = "1")]
    pub datanode_id: DatanodeIDProto,
    #[prost(message, required, tag = "2")]
    pub storage_info: StorageInfoProto,
    #[prost(message, required, tag = "3")]
    pub keys: ExportedBlockKeysProto,
    #[prost(string, required, tag = "4")]
    pub software_version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct RegisterDatanodeRequestProto {
    #[prost(message, required, tag = "1")]
    pub registration: DatanodeRegistrationProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct RegisterDatanodeResponseProto {
    #[prost(message, required, tag = "1")]
    pub registration: DatanodeRegistrationProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct VolumeFailureSummaryProto {
    #[prost(string, repeated, tag = "1")]
    pub failed_storage_locations: Vec<String>,
    #[prost(uint64, required, tag = "2")]
    pub last_volume_failure_date: u64,
    #[prost(uint64, required, tag = "3")]
    pub estimated_capacity_lost_total: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeartbeatRequestProto {
    #[prost(message, required, tag = "1")]
    pub registration: DatanodeRegistrationProto,
    #[prost(message, repeated, tag = "2")]
    pub reports: Vec<StorageReportProto>,
    #[prost(uint32, optional, tag = "3")]
    pub xmits_in_progress: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub xceiver_count: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub failed_volumes: Option<u32>,
    #[prost(uint64, optional, tag = "6")]
    pub cache_capacity: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub cache_used: Option<u64>,
    #[prost(message, optional, tag = "8")]
    pub volume_failure_summary: Option<VolumeFailureSummaryProto>,
    #[prost(bool, optional, tag = "9")]
    pub request_full_block_report_lease: Option<bool>,
    #[prost(message, repeated, tag = "11")]
    pub slow_disks: Vec<SlowDiskReportProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SlowDiskReportProto {
    #[prost(string, optional, tag = "1")]
    pub base_path: Option<String>,
    #[prost(double, optional, tag = "2")]
    pub mean_metadata_op_latency: Option<f64>,
    #[prost(double, optional, tag = "3")]
    pub mean_read_io_latency: Option<f64>,
    #[prost(double, optional, tag = "4")]
    pub mean_write_io_latency: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeartbeatResponseProto {
    #[prost(message, repeated, tag = "1")]
    pub cmds: Vec<DatanodeCommandProto>,
    #[prost(message, required, tag = "2")]
    pub ha_status: NNHAStatusHeartbeatProto,
    #[prost(message, optional, tag = "3")]
    pub rolling_upgrade_status: Option<RollingUpgradeStatusProto>,
    #[prost(message, optional, tag = "4")]
    pub rolling_upgrade_status_v2: Option<RollingUpgradeStatusProto>,
    #[prost(uint64, optional, tag = "5")]
    pub full_block_report_lease_id: Option<u64>,
    #[prost(bool, optional, tag = "6")]
    pub is_slownode: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NNHAStatusHeartbeatProto {
    #[prost(enumeration = "HaState", required, tag = "1")]
    pub state: i32,
    #[prost(uint64, required, tag = "2")]
    pub txid: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockReportRequestProto {
    #[prost(message, required, tag = "1")]
    pub registration: DatanodeRegistrationProto,
    #[prost(string, required, tag = "2")]
    pub block_pool_id: String,
    #[prost(message, repeated, tag = "3")]
    pub reports: Vec<StorageBlockReportProto>,
    #[prost(message, optional, tag = "4")]
    pub context: Option<BlockReportContextProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockReportContextProto {
    #[prost(int32, required, tag = "1")]
    pub total_rpcs: i32,
    #[prost(int32, required, tag = "2")]
    pub cur_rpc: i32,
    #[prost(int64, required, tag = "3")]
    pub id: i64,
    #[prost(uint64, optional, tag = "4")]
    pub lease_id: Option<u64>,
    #[prost(bool, optional, tag = "5")]
    pub sorted: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageBlockReportProto {
    #[prost(message, required, tag = "1")]
    pub storage: DatanodeStorageProto,
    #[prost(uint64, repeated, packed = "true", tag = "2")]
    pub blocks: Vec<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub number_of_blocks: Option<u64>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub blocks_buffers: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockReportResponseProto {
    #[prost(message, optional, tag = "1")]
    pub cmd: Option<DatanodeCommandProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CacheReportRequestProto {
    #[prost(message, required, tag = "1")]
    pub registration: DatanodeRegistrationProto,
    #[prost(string, required, tag = "2")]
    pub block_pool_id: String,
    #[prost(uint64, repeated, packed = "true", tag = "3")]
    pub blocks: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CacheReportResponseProto {
    #[prost(message, optional, tag = "1")]
    pub cmd: Option<DatanodeCommandProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReceivedDeletedBlockInfoProto {
    #[prost(message, required, tag = "1")]
    pub block: BlockProto,
    #[prost(string, optional, tag = "2")]
    pub delete_hint: Option<String>,
    #[prost(enumeration = "BlockStatus", required, tag = "3")]
    pub status: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageReceivedDeletedBlocksProto {
    #[prost(string, required, tag = "1")]
    pub storage_uuid: String,
    #[prost(message, repeated, tag = "2")]
    pub blocks: Vec<ReceivedDeletedBlockInfoProto>,
    #[prost(message, optional, tag = "3")]
    pub storage: Option<DatanodeStorageProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockReceivedAndDeletedRequestProto {
    #[prost(message, required, tag = "1")]
    pub registration: DatanodeRegistrationProto,
    #[prost(string, required, tag = "2")]
    pub block_pool_id: String,
    #[prost(message, repeated, tag = "3")]
    pub blocks: Vec<StorageReceivedDeletedBlocksProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockReceivedAndDeletedResponseProto {}

/// `ErrorReportRequestProto.errorCode`: a volume failed, and others are left.
pub const DISK_ERROR: u32 = 1;
/// `ErrorReportRequestProto.errorCode`: the namenode takes the datanode for dead at once.
pub const FATAL_DISK_ERROR: u32 = 3;

#[derive(Clone, PartialEq, Message)]
pub struct ErrorReportRequestProto {
    #[prost(message, required, tag = "1")]
    pub registration: DatanodeRegistrationProto,
    #[prost(uint32, required, tag = "2")]
    pub error_code: u32,
    #[prost(string, required, tag = "3")]
    pub msg: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ErrorReportResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct ReportBadBlocksRequestProto {
    #[prost(message, repeated, tag = "1")]
    pub blocks: Vec<LocatedBlockProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReportBadBlocksResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct CommitBlockSynchronizationRequestProto {
    #[prost(message, required, tag = "1")]
    pub block: ExtendedBlockProto,
    #[prost(uint64, required, tag = "2")]
    pub new_gen_stamp: u64,
    #[prost(uint64, required, tag = "3")]
    pub new_length: u64,
    #[prost(bool, required, tag = "4")]
    pub close_file: bool,
    #[prost(bool, required, tag = "5")]
    pub delete_block: bool,
    #[prost(message, repeated, tag = "6")]
    pub new_targets: Vec<DatanodeIDProto>,
    #[prost(string, repeated, tag = "7")]
    pub new_target_storages: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CommitBlockSynchronizationResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct DatanodeCommandProto {
    #[prost(enumeration = "DatanodeCommandType", required, tag = "1")]
    pub cmd_type: i32,
    #[prost(message, optional, tag = "2")]
    pub balancer_cmd: Option<BalancerBandwidthCommandProto>,
    #[prost(message, optional, tag = "3")]
    pub blk_cmd: Option<BlockCommandProto>,
    #[prost(message, optional, tag = "4")]
    pub recovery_cmd: Option<BlockRecoveryCommandProto>,
    #[prost(message, optional, tag = "5")]
    pub finalize_cmd: Option<FinalizeCommandProto>,
    #[prost(message, optional, tag = "6")]
    pub key_update_cmd: Option<KeyUpdateCommandProto>,
    #[prost(message, optional, tag = "7")]
    pub register_cmd: Option<RegisterCommandProto>,
    #[prost(message, optional, tag = "8")]
    pub blk_id_cmd: Option<BlockIdCommandProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockCommandProto {
    #[prost(enumeration = "BlockCommandAction", required, tag = "1")]
    pub action: i32,
    #[prost(string, required, tag = "2")]
    pub block_pool_id: String,
    #[prost(message, repeated, tag = "3")]
    pub blocks: Vec<BlockProto>,
    #[prost(message, repeated, tag = "4")]
    pub targets: Vec<DatanodeInfosProto>,
    #[prost(message, repeated, tag = "5")]
    pub target_storage_uuids: Vec<StorageUuidsProto>,
    #[prost(message, repeated, tag = "6")]
    pub target_storage_types: Vec<StorageTypesProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockIdCommandProto {
    #[prost(enumeration = "BlockIdCommandAction", required, tag = "1")]
    pub action: i32,
    #[prost(string, required, tag = "2")]
    pub block_pool_id: String,
    #[prost(uint64, repeated, packed = "true", tag = "3")]
    pub block_ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockRecoveryCommandProto {
    #[prost(message, repeated, tag = "1")]
    pub blocks: Vec<RecoveringBlockProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FinalizeCommandProto {
    #[prost(string, required, tag = "1")]
    pub block_pool_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyUpdateCommandProto {
    #[prost(message, required, tag = "1")]
    pub keys: ExportedBlockKeysProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct RegisterCommandProto {}

#[derive(Clone, PartialEq, Message)]
pub struct BalancerBandwidthCommandProto {
    #[prost(uint64, required, tag = "1")]
    pub bandwidth: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct RollingUpgradeStatusProto {
    #[prost(string, required, tag = "1")]
    pub block_pool_id: String,
    #[prost(bool, optional, tag = "2")]
    pub finalized: Option<bool>,
}

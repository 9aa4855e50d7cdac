//! Messages and enums that more than one protocol uses (`hdfs.proto`, `acl.proto`,
//! `Security.proto`): blocks, datanodes, file status, located blocks.
//!
//! Field numbers and types are the interface facts of Hadoop 2.7 to 3.5; unknown fields are skipped.

use prost::{Enumeration, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AdminState {
    Normal = 0,
    DecommissionInprogress = 1,
    Decommissioned = 2,
    EnteringMaintenance = 3,
    InMaintenance = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BlockChecksumTypeProto {
    Md5crc = 1,
    CompositeCrc = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ChecksumTypeProto {
    ChecksumNull = 0,
    ChecksumCrc32 = 1,
    ChecksumCrc32c = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum FileType {
    IsDir = 1,
    IsFile = 2,
    IsSymlink = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum StorageState {
    Normal = 0,
    ReadOnlyShared = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum StorageTypeProto {
    Disk = 1,
    Ssd = 2,
    Archive = 3,
    RamDisk = 4,
    Provided = 5,
    Nvdimm = 6,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExtendedBlockProto {
    #[prost(string, required, tag = "1")]
    pub pool_id: String,
    #[prost(uint64, required, tag = "2")]
    pub block_id: u64,
    #[prost(uint64, required, tag = "3")]
    pub generation_stamp: u64,
    #[prost(uint64, optional, tag = "4")]
    pub num_bytes: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DatanodeIDProto {
    #[prost(string, required, tag = "1")]
    pub ip_addr: String,
    #[prost(string, required, tag = "2")]
    pub host_name: String,
    #[prost(string, required, tag = "3")]
    pub datanode_uuid: String,
    #[prost(uint32, required, tag = "4")]
    pub xfer_port: u32,
    #[prost(uint32, required, tag = "5")]
    pub info_port: u32,
    #[prost(uint32, required, tag = "6")]
    pub ipc_port: u32,
    #[prost(uint32, optional, tag = "7")]
    pub info_secure_port: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DatanodeLocalInfoProto {
    #[prost(string, required, tag = "1")]
    pub software_version: String,
    #[prost(string, required, tag = "2")]
    pub config_version: String,
    #[prost(uint64, required, tag = "3")]
    pub uptime: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct DatanodeInfosProto {
    #[prost(message, repeated, tag = "1")]
    pub datanodes: Vec<DatanodeInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DatanodeInfoProto {
    #[prost(message, required, tag = "1")]
    pub id: DatanodeIDProto,
    #[prost(uint64, optional, tag = "2")]
    pub capacity: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub dfs_used: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub remaining: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub block_pool_used: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub last_update: Option<u64>,
    #[prost(uint32, optional, tag = "7")]
    pub xceiver_count: Option<u32>,
    #[prost(string, optional, tag = "8")]
    pub location: Option<String>,
    #[prost(uint64, optional, tag = "9")]
    pub non_dfs_used: Option<u64>,
    #[prost(enumeration = "AdminState", optional, tag = "10", default = "Normal")]
    pub admin_state: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    pub cache_capacity: Option<u64>,
    #[prost(uint64, optional, tag = "12")]
    pub cache_used: Option<u64>,
    #[prost(uint64, optional, tag = "13")]
    pub last_update_monotonic: Option<u64>,
    #[prost(string, optional, tag = "14")]
    pub upgrade_domain: Option<String>,
    #[prost(uint64, optional, tag = "15")]
    pub last_block_report_time: Option<u64>,
    #[prost(uint64, optional, tag = "16")]
    pub last_block_report_monotonic: Option<u64>,
    #[prost(uint32, optional, tag = "17")]
    pub num_blocks: Option<u32>,
    #[prost(string, optional, tag = "18")]
    pub software_version: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DatanodeStorageProto {
    #[prost(string, required, tag = "1")]
    pub storage_uuid: String,
    #[prost(enumeration = "StorageState", optional, tag = "2", default = "Normal")]
    pub state: Option<i32>,
    #[prost(enumeration = "StorageTypeProto", optional, tag = "3", default = "Disk")]
    pub storage_type: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageReportProto {
    #[prost(string, required, tag = "1")]
    pub storage_uuid: String,
    #[prost(bool, optional, tag = "2")]
    pub failed: Option<bool>,
    #[prost(uint64, optional, tag = "3")]
    pub capacity: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub dfs_used: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub remaining: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub block_pool_used: Option<u64>,
    #[prost(message, optional, tag = "7")]
    pub storage: Option<DatanodeStorageProto>,
    #[prost(uint64, optional, tag = "8")]
    pub non_dfs_used: Option<u64>,
    #[prost(string, optional, tag = "9")]
    pub mount: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContentSummaryProto {
    #[prost(uint64, required, tag = "1")]
    pub length: u64,
    #[prost(uint64, required, tag = "2")]
    pub file_count: u64,
    #[prost(uint64, required, tag = "3")]
    pub directory_count: u64,
    #[prost(uint64, required, tag = "4")]
    pub quota: u64,
    #[prost(uint64, required, tag = "5")]
    pub space_consumed: u64,
    #[prost(uint64, required, tag = "6")]
    pub space_quota: u64,
    #[prost(message, optional, tag = "7")]
    pub type_quota_infos: Option<StorageTypeQuotaInfosProto>,
    #[prost(uint64, optional, tag = "8")]
    pub snapshot_length: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub snapshot_file_count: Option<u64>,
    #[prost(uint64, optional, tag = "10")]
    pub snapshot_directory_count: Option<u64>,
    #[prost(uint64, optional, tag = "11")]
    pub snapshot_space_consumed: Option<u64>,
    #[prost(string, optional, tag = "12")]
    pub erasure_coding_policy: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct QuotaUsageProto {
    #[prost(uint64, required, tag = "1")]
    pub file_and_directory_count: u64,
    #[prost(uint64, required, tag = "2")]
    pub quota: u64,
    #[prost(uint64, required, tag = "3")]
    pub space_consumed: u64,
    #[prost(uint64, required, tag = "4")]
    pub space_quota: u64,
    #[prost(message, optional, tag = "5")]
    pub type_quota_infos: Option<StorageTypeQuotaInfosProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageTypeQuotaInfosProto {
    #[prost(message, repeated, tag = "1")]
    pub type_quota_info: Vec<StorageTypeQuotaInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageTypeQuotaInfoProto {
    #[prost(enumeration = "StorageTypeProto", optional, tag = "1", default = "Disk")]
    pub r#type: Option<i32>,
    #[prost(uint64, required, tag = "2")]
    pub quota: u64,
    #[prost(uint64, required, tag = "3")]
    pub consumed: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct CorruptFileBlocksProto {
    #[prost(string, repeated, tag = "1")]
    pub files: Vec<String>,
    #[prost(string, required, tag = "2")]
    pub cookie: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageTypesProto {
    #[prost(enumeration = "StorageTypeProto", repeated, packed = "false", tag = "1")]
    pub storage_types: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockStoragePolicyProto {
    #[prost(uint32, required, tag = "1")]
    pub policy_id: u32,
    #[prost(string, required, tag = "2")]
    pub name: String,
    #[prost(message, required, tag = "3")]
    pub creation_policy: StorageTypesProto,
    #[prost(message, optional, tag = "4")]
    pub creation_fallback_policy: Option<StorageTypesProto>,
    #[prost(message, optional, tag = "5")]
    pub replication_fallback_policy: Option<StorageTypesProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LocatedBlockProto {
    #[prost(message, required, tag = "1")]
    pub b: ExtendedBlockProto,
    #[prost(uint64, required, tag = "2")]
    pub offset: u64,
    #[prost(message, repeated, tag = "3")]
    pub locs: Vec<DatanodeInfoProto>,
    #[prost(bool, required, tag = "4")]
    pub corrupt: bool,
    #[prost(message, required, tag = "5")]
    pub block_token: TokenProto,
    #[prost(bool, repeated, packed = "true", tag = "6")]
    pub is_cached: Vec<bool>,
    #[prost(enumeration = "StorageTypeProto", repeated, packed = "false", tag = "7")]
    pub storage_types: Vec<i32>,
    #[prost(string, repeated, tag = "8")]
    pub storage_ids: Vec<String>,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub block_indices: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "10")]
    pub block_tokens: Vec<TokenProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LocatedBlocksProto {
    #[prost(uint64, required, tag = "1")]
    pub file_length: u64,
    #[prost(message, repeated, tag = "2")]
    pub blocks: Vec<LocatedBlockProto>,
    #[prost(bool, required, tag = "3")]
    pub under_construction: bool,
    #[prost(message, optional, tag = "4")]
    pub last_block: Option<LocatedBlockProto>,
    #[prost(bool, required, tag = "5")]
    pub is_last_block_complete: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct HdfsFileStatusProto {
    #[prost(enumeration = "FileType", required, tag = "1")]
    pub file_type: i32,
    #[prost(bytes = "vec", required, tag = "2")]
    pub path: Vec<u8>,
    #[prost(uint64, required, tag = "3")]
    pub length: u64,
    #[prost(message, required, tag = "4")]
    pub permission: FsPermissionProto,
    #[prost(string, required, tag = "5")]
    pub owner: String,
    #[prost(string, required, tag = "6")]
    pub group: String,
    #[prost(uint64, required, tag = "7")]
    pub modification_time: u64,
    #[prost(uint64, required, tag = "8")]
    pub access_time: u64,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub symlink: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "10")]
    pub block_replication: Option<u32>,
    #[prost(uint64, optional, tag = "11")]
    pub blocksize: Option<u64>,
    #[prost(message, optional, tag = "12")]
    pub locations: Option<LocatedBlocksProto>,
    #[prost(uint64, optional, tag = "13")]
    pub file_id: Option<u64>,
    #[prost(int32, optional, tag = "14", default = "-1")]
    pub children_num: Option<i32>,
    #[prost(uint32, optional, tag = "16")]
    pub storage_policy: Option<u32>,
    #[prost(uint32, optional, tag = "18")]
    pub flags: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockChecksumOptionsProto {
    #[prost(enumeration = "BlockChecksumTypeProto", optional, tag = "1", default = "Md5crc")]
    pub block_checksum_type: Option<i32>,
    #[prost(uint64, optional, tag = "2")]
    pub stripe_length: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FsServerDefaultsProto {
    #[prost(uint64, required, tag = "1")]
    pub block_size: u64,
    #[prost(uint32, required, tag = "2")]
    pub bytes_per_checksum: u32,
    #[prost(uint32, required, tag = "3")]
    pub write_packet_size: u32,
    #[prost(uint32, required, tag = "4")]
    pub replication: u32,
    #[prost(uint32, required, tag = "5")]
    pub file_buffer_size: u32,
    #[prost(bool, optional, tag = "6")]
    pub encrypt_data_transfer: Option<bool>,
    #[prost(uint64, optional, tag = "7")]
    pub trash_interval: Option<u64>,
    #[prost(enumeration = "ChecksumTypeProto", optional, tag = "8", default = "ChecksumCrc32")]
    pub checksum_type: Option<i32>,
    #[prost(string, optional, tag = "9")]
    pub key_provider_uri: Option<String>,
    #[prost(uint32, optional, tag = "10")]
    pub policy_id: Option<u32>,
    #[prost(bool, optional, tag = "11")]
    pub snapshot_trash_root_enabled: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DirectoryListingProto {
    #[prost(message, repeated, tag = "1")]
    pub partial_listing: Vec<HdfsFileStatusProto>,
    #[prost(uint32, required, tag = "2")]
    pub remaining_entries: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockProto {
    #[prost(uint64, required, tag = "1")]
    pub block_id: u64,
    #[prost(uint64, required, tag = "2")]
    pub gen_stamp: u64,
    #[prost(uint64, optional, tag = "3")]
    pub num_bytes: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageUuidsProto {
    #[prost(string, repeated, tag = "1")]
    pub storage_uuids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FsPermissionProto {
    #[prost(uint32, required, tag = "1")]
    pub perm: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct TokenProto {
    #[prost(bytes = "vec", required, tag = "1")]
    pub identifier: Vec<u8>,
    #[prost(bytes = "vec", required, tag = "2")]
    pub password: Vec<u8>,
    #[prost(string, required, tag = "3")]
    pub kind: String,
    #[prost(string, required, tag = "4")]
    pub service: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DatanodeStorageReportProto {
    #[prost(message, required, tag = "1")]
    pub datanode_info: DatanodeInfoProto,
    #[prost(message, repeated, tag = "2")]
    pub storage_reports: Vec<StorageReportProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RecoveringBlockProto {
    #[prost(uint64, required, tag = "1")]
    pub new_gen_stamp: u64,
    #[prost(message, required, tag = "2")]
    pub block: LocatedBlockProto,
    #[prost(message, optional, tag = "3")]
    pub truncate_block: Option<BlockProto>,
}

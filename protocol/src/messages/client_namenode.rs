//! `org.apache.hadoop.hdfs.protocol.ClientProtocol` version 1: a request and a response for each
//! method, named as on the wire.
//!
//! Field numbers and types are the interface facts of Hadoop 2.7 to 3.5; unknown fields are skipped.

use super::common::{
    BlockStoragePolicyProto, ContentSummaryProto, CorruptFileBlocksProto, DatanodeIDProto,
    DatanodeInfoProto, DatanodeStorageReportProto, DirectoryListingProto, ExtendedBlockProto,
    FsPermissionProto, FsServerDefaultsProto, HdfsFileStatusProto, LocatedBlockProto,
    LocatedBlocksProto, QuotaUsageProto, TokenProto,
};
use prost::{Enumeration, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AddBlockFlagProto {
    NoLocalWrite = 1,
    IgnoreClientLocality = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum CreateFlagProto {
    Create = 1,
    Overwrite = 2,
    Append = 4,
    LazyPersist = 16,
    NewBlock = 32,
    ShouldReplicate = 128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum CryptoProtocolVersionProto {
    UnknownProtocolVersion = 1,
    EncryptionZones = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DatanodeReportTypeProto {
    All = 1,
    Live = 2,
    Dead = 3,
    Decommissioning = 4,
    EnteringMaintenance = 5,
    InMaintenance = 6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum FsActionProto {
    None = 0,
    Execute = 1,
    Write = 2,
    WriteExecute = 3,
    Read = 4,
    ReadExecute = 5,
    ReadWrite = 6,
    PermAll = 7,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum HAServiceStateProto {
    Initializing = 0,
    Active = 1,
    Standby = 2,
    Observer = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum SafeModeActionProto {
    SafemodeLeave = 1,
    SafemodeEnter = 2,
    SafemodeGet = 3,
    SafemodeForceExit = 4,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetBlockLocationsRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(uint64, required, tag = "2")]
    pub offset: u64,
    #[prost(uint64, required, tag = "3")]
    pub length: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetBlockLocationsResponseProto {
    #[prost(message, optional, tag = "1")]
    pub locations: Option<LocatedBlocksProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetServerDefaultsRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetServerDefaultsResponseProto {
    #[prost(message, required, tag = "1")]
    pub server_defaults: FsServerDefaultsProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(message, required, tag = "2")]
    pub masked: FsPermissionProto,
    #[prost(string, required, tag = "3")]
    pub client_name: String,
    #[prost(uint32, required, tag = "4")]
    pub create_flag: u32,
    #[prost(bool, required, tag = "5")]
    pub create_parent: bool,
    #[prost(uint32, required, tag = "6")]
    pub replication: u32,
    #[prost(uint64, required, tag = "7")]
    pub block_size: u64,
    #[prost(enumeration = "CryptoProtocolVersionProto", repeated, packed = "false", tag = "8")]
    pub crypto_protocol_version: Vec<i32>,
    #[prost(message, optional, tag = "9")]
    pub unmasked: Option<FsPermissionProto>,
    #[prost(string, optional, tag = "10")]
    pub ec_policy_name: Option<String>,
    #[prost(string, optional, tag = "11")]
    pub storage_policy: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateResponseProto {
    #[prost(message, optional, tag = "1")]
    pub fs: Option<HdfsFileStatusProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AppendRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, required, tag = "2")]
    pub client_name: String,
    #[prost(uint32, optional, tag = "3")]
    pub flag: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AppendResponseProto {
    #[prost(message, optional, tag = "1")]
    pub block: Option<LocatedBlockProto>,
    #[prost(message, optional, tag = "2")]
    pub stat: Option<HdfsFileStatusProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetReplicationRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(uint32, required, tag = "2")]
    pub replication: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetReplicationResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetPermissionRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(message, required, tag = "2")]
    pub permission: FsPermissionProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetPermissionResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct SetOwnerRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, optional, tag = "2")]
    pub username: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub groupname: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetOwnerResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct AbandonBlockRequestProto {
    #[prost(message, required, tag = "1")]
    pub b: ExtendedBlockProto,
    #[prost(string, required, tag = "2")]
    pub src: String,
    #[prost(string, required, tag = "3")]
    pub holder: String,
    #[prost(uint64, optional, tag = "4")]
    pub file_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AbandonBlockResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct AddBlockRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, required, tag = "2")]
    pub client_name: String,
    #[prost(message, optional, tag = "3")]
    pub previous: Option<ExtendedBlockProto>,
    #[prost(message, repeated, tag = "4")]
    pub exclude_nodes: Vec<DatanodeInfoProto>,
    #[prost(uint64, optional, tag = "5")]
    pub file_id: Option<u64>,
    #[prost(string, repeated, tag = "6")]
    pub favored_nodes: Vec<String>,
    #[prost(enumeration = "AddBlockFlagProto", repeated, packed = "false", tag = "7")]
    pub flags: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AddBlockResponseProto {
    #[prost(message, required, tag = "1")]
    pub block: LocatedBlockProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetAdditionalDatanodeRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(message, required, tag = "2")]
    pub blk: ExtendedBlockProto,
    #[prost(message, repeated, tag = "3")]
    pub existings: Vec<DatanodeInfoProto>,
    #[prost(message, repeated, tag = "4")]
    pub excludes: Vec<DatanodeInfoProto>,
    #[prost(uint32, required, tag = "5")]
    pub num_additional_nodes: u32,
    #[prost(string, required, tag = "6")]
    pub client_name: String,
    #[prost(string, repeated, tag = "7")]
    pub existing_storage_uuids: Vec<String>,
    #[prost(uint64, optional, tag = "8")]
    pub file_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetAdditionalDatanodeResponseProto {
    #[prost(message, required, tag = "1")]
    pub block: LocatedBlockProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct CompleteRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, required, tag = "2")]
    pub client_name: String,
    #[prost(message, optional, tag = "3")]
    pub last: Option<ExtendedBlockProto>,
    #[prost(uint64, optional, tag = "4")]
    pub file_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CompleteResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct ConcatRequestProto {
    #[prost(string, required, tag = "1")]
    pub trg: String,
    #[prost(string, repeated, tag = "2")]
    pub srcs: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ConcatResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct TruncateRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(uint64, required, tag = "2")]
    pub new_length: u64,
    #[prost(string, required, tag = "3")]
    pub client_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct TruncateResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct RenameRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, required, tag = "2")]
    pub dst: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct RenameResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Rename2RequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, required, tag = "2")]
    pub dst: String,
    #[prost(bool, required, tag = "3")]
    pub overwrite_dest: bool,
    #[prost(bool, optional, tag = "4")]
    pub move_to_trash: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Rename2ResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(bool, required, tag = "2")]
    pub recursive: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct MkdirsRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(message, required, tag = "2")]
    pub masked: FsPermissionProto,
    #[prost(bool, required, tag = "3")]
    pub create_parent: bool,
    #[prost(message, optional, tag = "4")]
    pub unmasked: Option<FsPermissionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct MkdirsResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetListingRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(bytes = "vec", required, tag = "2")]
    pub start_after: Vec<u8>,
    #[prost(bool, required, tag = "3")]
    pub need_location: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetListingResponseProto {
    #[prost(message, optional, tag = "1")]
    pub dir_list: Option<DirectoryListingProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RenewLeaseRequestProto {
    #[prost(string, required, tag = "1")]
    pub client_name: String,
    #[prost(string, repeated, tag = "2")]
    pub namespaces: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RenewLeaseResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct RecoverLeaseRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, required, tag = "2")]
    pub client_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct RecoverLeaseResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetSafeModeRequestProto {
    #[prost(enumeration = "SafeModeActionProto", required, tag = "1")]
    pub action: i32,
    #[prost(bool, optional, tag = "2")]
    pub checked: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetSafeModeResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetFileInfoRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetFileInfoResponseProto {
    #[prost(message, optional, tag = "1")]
    pub fs: Option<HdfsFileStatusProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetFileLinkInfoRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetFileLinkInfoResponseProto {
    #[prost(message, optional, tag = "1")]
    pub fs: Option<HdfsFileStatusProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetContentSummaryRequestProto {
    #[prost(string, required, tag = "1")]
    pub path: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetContentSummaryResponseProto {
    #[prost(message, required, tag = "1")]
    pub summary: ContentSummaryProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct FsyncRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, required, tag = "2")]
    pub client: String,
    #[prost(sint64, optional, tag = "3", default = "-1")]
    pub last_block_length: Option<i64>,
    #[prost(uint64, optional, tag = "4")]
    pub file_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FsyncResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct SetTimesRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(uint64, required, tag = "2")]
    pub mtime: u64,
    #[prost(uint64, required, tag = "3")]
    pub atime: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetTimesResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateBlockForPipelineRequestProto {
    #[prost(message, required, tag = "1")]
    pub block: ExtendedBlockProto,
    #[prost(string, required, tag = "2")]
    pub client_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateBlockForPipelineResponseProto {
    #[prost(message, required, tag = "1")]
    pub block: LocatedBlockProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdatePipelineRequestProto {
    #[prost(string, required, tag = "1")]
    pub client_name: String,
    #[prost(message, required, tag = "2")]
    pub old_block: ExtendedBlockProto,
    #[prost(message, required, tag = "3")]
    pub new_block: ExtendedBlockProto,
    #[prost(message, repeated, tag = "4")]
    pub new_nodes: Vec<DatanodeIDProto>,
    #[prost(string, repeated, tag = "5")]
    pub storage_ids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdatePipelineResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct IsFileClosedRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct IsFileClosedResponseProto {
    #[prost(bool, required, tag = "1")]
    pub result: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetStoragePoliciesRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetStoragePoliciesResponseProto {
    #[prost(message, repeated, tag = "1")]
    pub policies: Vec<BlockStoragePolicyProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetStoragePolicyRequestProto {
    #[prost(string, required, tag = "1")]
    pub path: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetStoragePolicyResponseProto {
    #[prost(message, required, tag = "1")]
    pub storage_policy: BlockStoragePolicyProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetStoragePolicyRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
    #[prost(string, required, tag = "2")]
    pub policy_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetStoragePolicyResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct UnsetStoragePolicyRequestProto {
    #[prost(string, required, tag = "1")]
    pub src: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct UnsetStoragePolicyResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetDatanodeReportRequestProto {
    #[prost(enumeration = "DatanodeReportTypeProto", required, tag = "1")]
    pub r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetDatanodeReportResponseProto {
    #[prost(message, repeated, tag = "1")]
    pub di: Vec<DatanodeInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetDatanodeStorageReportRequestProto {
    #[prost(enumeration = "DatanodeReportTypeProto", required, tag = "1")]
    pub r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetDatanodeStorageReportResponseProto {
    #[prost(message, repeated, tag = "1")]
    pub datanode_storage_reports: Vec<DatanodeStorageReportProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetPreferredBlockSizeRequestProto {
    #[prost(string, required, tag = "1")]
    pub filename: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetPreferredBlockSizeResponseProto {
    #[prost(uint64, required, tag = "1")]
    pub bsize: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetLocatedFileInfoRequestProto {
    #[prost(string, optional, tag = "1")]
    pub src: Option<String>,
    #[prost(bool, optional, tag = "2")]
    pub need_block_token: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetLocatedFileInfoResponseProto {
    #[prost(message, optional, tag = "1")]
    pub fs: Option<HdfsFileStatusProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CheckAccessRequestProto {
    #[prost(string, required, tag = "1")]
    pub path: String,
    #[prost(enumeration = "FsActionProto", required, tag = "2")]
    pub mode: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct CheckAccessResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetQuotaUsageRequestProto {
    #[prost(string, required, tag = "1")]
    pub path: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetQuotaUsageResponseProto {
    #[prost(message, required, tag = "1")]
    pub usage: QuotaUsageProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct MsyncRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct MsyncResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetDelegationTokenRequestProto {
    #[prost(string, required, tag = "1")]
    pub renewer: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetDelegationTokenResponseProto {
    #[prost(message, optional, tag = "1")]
    pub token: Option<TokenProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetFsReplicatedBlockStatsRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetFsReplicatedBlockStatsResponseProto {
    #[prost(uint64, required, tag = "1")]
    pub low_redundancy: u64,
    #[prost(uint64, required, tag = "2")]
    pub corrupt_blocks: u64,
    #[prost(uint64, required, tag = "3")]
    pub missing_blocks: u64,
    #[prost(uint64, required, tag = "4")]
    pub missing_repl_one_blocks: u64,
    #[prost(uint64, required, tag = "5")]
    pub blocks_in_future: u64,
    #[prost(uint64, required, tag = "6")]
    pub pending_deletion_blocks: u64,
    #[prost(uint64, optional, tag = "7")]
    pub highest_prio_low_redundancy_blocks: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub badly_distributed_blocks: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetFsECBlockGroupStatsRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetFsECBlockGroupStatsResponseProto {
    #[prost(uint64, required, tag = "1")]
    pub low_redundancy: u64,
    #[prost(uint64, required, tag = "2")]
    pub corrupt_blocks: u64,
    #[prost(uint64, required, tag = "3")]
    pub missing_blocks: u64,
    #[prost(uint64, required, tag = "4")]
    pub blocks_in_future: u64,
    #[prost(uint64, required, tag = "5")]
    pub pending_deletion_blocks: u64,
    #[prost(uint64, optional, tag = "6")]
    pub highest_prio_low_redundancy_blocks: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub badly_distributed_blocks: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListCorruptFileBlocksRequestProto {
    #[prost(string, required, tag = "1")]
    pub path: String,
    #[prost(string, optional, tag = "2")]
    pub cookie: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListCorruptFileBlocksResponseProto {
    #[prost(message, required, tag = "1")]
    pub corrupt: CorruptFileBlocksProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct RefreshNodesRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct RefreshNodesResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetFsStatusRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetFsStatsResponseProto {
    #[prost(uint64, required, tag = "1")]
    pub capacity: u64,
    #[prost(uint64, required, tag = "2")]
    pub used: u64,
    #[prost(uint64, required, tag = "3")]
    pub remaining: u64,
    #[prost(uint64, required, tag = "4")]
    pub under_replicated: u64,
    #[prost(uint64, required, tag = "5")]
    pub corrupt_blocks: u64,
    #[prost(uint64, required, tag = "6")]
    pub missing_blocks: u64,
    #[prost(uint64, optional, tag = "7")]
    pub missing_repl_one_blocks: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub blocks_in_future: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub pending_deletion_blocks: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HAServiceStateRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct HAServiceStateResponseProto {
    #[prost(enumeration = "HAServiceStateProto", required, tag = "1")]
    pub state: i32,
}

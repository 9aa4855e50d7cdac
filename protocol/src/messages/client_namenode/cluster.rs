//! The cluster: defaults, safe mode, datanodes, statistics, service state.

use prost::{Enumeration, Message};

use crate::messages::{
    CorruptFileBlocksProto, DatanodeInfoProto, DatanodeStorageReportProto, FsServerDefaultsProto,
    TokenProto,
};

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
pub struct GetServerDefaultsRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetServerDefaultsResponseProto {
    #[prost(message, required, tag = "1")]
    pub server_defaults: FsServerDefaultsProto,
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
pub struct SetBalancerBandwidthRequestProto {
    #[prost(int64, required, tag = "1")]
    pub bandwidth: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetBalancerBandwidthResponseProto {}

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

//! `ClientDatanodeProtocol` and `InterDatanodeProtocol`, served on a datanode's IPC port.
//!
//! Field numbers and types are the interface facts of Hadoop 2.7 to 3.5; unknown fields are skipped.

use super::common::{BlockProto, DatanodeLocalInfoProto, ExtendedBlockProto, RecoveringBlockProto};
use prost::{Enumeration, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ReplicaStateProto {
    Finalized = 0,
    Rbw = 1,
    Rwr = 2,
    Rur = 3,
    Temporary = 4,
}

#[derive(Clone, PartialEq, Message)]
pub struct InitReplicaRecoveryRequestProto {
    #[prost(message, required, tag = "1")]
    pub block: RecoveringBlockProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct InitReplicaRecoveryResponseProto {
    #[prost(bool, required, tag = "1")]
    pub replica_found: bool,
    #[prost(enumeration = "ReplicaStateProto", optional, tag = "2")]
    pub state: Option<i32>,
    #[prost(message, optional, tag = "3")]
    pub block: Option<BlockProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateReplicaUnderRecoveryRequestProto {
    #[prost(message, required, tag = "1")]
    pub block: ExtendedBlockProto,
    #[prost(uint64, required, tag = "2")]
    pub recovery_id: u64,
    #[prost(uint64, required, tag = "3")]
    pub new_length: u64,
    #[prost(uint64, optional, tag = "4")]
    pub new_block_id: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateReplicaUnderRecoveryResponseProto {
    #[prost(string, optional, tag = "1")]
    pub storage_uuid: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetReplicaVisibleLengthRequestProto {
    #[prost(message, required, tag = "1")]
    pub block: ExtendedBlockProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetReplicaVisibleLengthResponseProto {
    #[prost(uint64, required, tag = "1")]
    pub length: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetDatanodeInfoRequestProto {}

#[derive(Clone, PartialEq, Message)]
pub struct GetDatanodeInfoResponseProto {
    #[prost(message, required, tag = "1")]
    pub local_info: DatanodeLocalInfoProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct ShutdownDatanodeRequestProto {
    #[prost(bool, required, tag = "1")]
    pub for_upgrade: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct ShutdownDatanodeResponseProto {}

#[derive(Clone, PartialEq, Message)]
pub struct TriggerBlockReportRequestProto {
    #[prost(bool, required, tag = "1")]
    pub incremental: bool,
    #[prost(string, optional, tag = "2")]
    pub nn_address: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TriggerBlockReportResponseProto {}

//! DataTransferProtocol version 28: operation headers and replies. The packet header and the
//! pipeline ack are decoded by hand in [`crate::packet`]; their structs here serve as the oracle
//! of its tests.
//!
//! Field numbers and types are the interface facts of Hadoop 2.7 to 3.5; unknown fields are skipped.

use super::common::{
    BlockChecksumOptionsProto, ChecksumTypeProto, DatanodeInfoProto, ExtendedBlockProto,
    StorageTypeProto, TokenProto,
};
use prost::{Enumeration, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum BlockConstructionStage {
    PipelineSetupAppend = 0,
    PipelineSetupAppendRecovery = 1,
    DataStreaming = 2,
    PipelineSetupStreamingRecovery = 3,
    PipelineClose = 4,
    PipelineCloseRecovery = 5,
    PipelineSetupCreate = 6,
    TransferRbw = 7,
    TransferFinalized = 8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Status {
    Success = 0,
    Error = 1,
    ErrorChecksum = 2,
    ErrorInvalid = 3,
    ErrorExists = 4,
    ErrorAccessToken = 5,
    ChecksumOk = 6,
    ErrorUnsupported = 7,
    OobRestart = 8,
    OobReserved1 = 9,
    OobReserved2 = 10,
    OobReserved3 = 11,
    InProgress = 12,
    ErrorBlockPinned = 13,
}

#[derive(Clone, PartialEq, Message)]
pub struct BaseHeaderProto {
    #[prost(message, required, tag = "1")]
    pub block: ExtendedBlockProto,
    #[prost(message, optional, tag = "2")]
    pub token: Option<TokenProto>,
    #[prost(message, optional, tag = "3")]
    pub trace_info: Option<DataTransferTraceInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ClientOperationHeaderProto {
    #[prost(message, required, tag = "1")]
    pub base_header: BaseHeaderProto,
    #[prost(string, required, tag = "2")]
    pub client_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CachingStrategyProto {
    #[prost(bool, optional, tag = "1")]
    pub drop_behind: Option<bool>,
    #[prost(int64, optional, tag = "2")]
    pub readahead: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OpReadBlockProto {
    #[prost(message, required, tag = "1")]
    pub header: ClientOperationHeaderProto,
    #[prost(uint64, required, tag = "2")]
    pub offset: u64,
    #[prost(uint64, required, tag = "3")]
    pub len: u64,
    #[prost(bool, optional, tag = "4", default = "true")]
    pub send_checksums: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub caching_strategy: Option<CachingStrategyProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ChecksumProto {
    #[prost(enumeration = "ChecksumTypeProto", required, tag = "1")]
    pub r#type: i32,
    #[prost(uint32, required, tag = "2")]
    pub bytes_per_checksum: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct OpWriteBlockProto {
    #[prost(message, required, tag = "1")]
    pub header: ClientOperationHeaderProto,
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<DatanodeInfoProto>,
    #[prost(message, optional, tag = "3")]
    pub source: Option<DatanodeInfoProto>,
    #[prost(enumeration = "BlockConstructionStage", required, tag = "4")]
    pub stage: i32,
    #[prost(uint32, required, tag = "5")]
    pub pipeline_size: u32,
    #[prost(uint64, required, tag = "6")]
    pub min_bytes_rcvd: u64,
    #[prost(uint64, required, tag = "7")]
    pub max_bytes_rcvd: u64,
    #[prost(uint64, required, tag = "8")]
    pub latest_generation_stamp: u64,
    #[prost(message, required, tag = "9")]
    pub requested_checksum: ChecksumProto,
    #[prost(message, optional, tag = "10")]
    pub caching_strategy: Option<CachingStrategyProto>,
    #[prost(enumeration = "StorageTypeProto", optional, tag = "11", default = "Disk")]
    pub storage_type: Option<i32>,
    #[prost(enumeration = "StorageTypeProto", repeated, packed = "false", tag = "12")]
    pub target_storage_types: Vec<i32>,
    #[prost(bool, optional, tag = "13")]
    pub allow_lazy_persist: Option<bool>,
    #[prost(bool, optional, tag = "14")]
    pub pinning: Option<bool>,
    #[prost(bool, repeated, packed = "false", tag = "15")]
    pub target_pinnings: Vec<bool>,
    #[prost(string, optional, tag = "16")]
    pub storage_id: Option<String>,
    #[prost(string, repeated, tag = "17")]
    pub target_storage_ids: Vec<String>,
    /// Not of HDFS, whose datanodes pass over it: the sender may have another operation behind this
    /// block, and asks for the connection to be kept.
    #[prost(bool, optional, tag = "1001")]
    pub keeps_connection: Option<bool>,
    /// Not of HDFS: the packets of the whole block, its last one included, follow the operation at once,
    /// in so many bytes. The reply may come together with their acks. Whoever passes over it finds the
    /// packets where they belong, behind its reply.
    #[prost(uint32, optional, tag = "1002")]
    pub following_bytes: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OpTransferBlockProto {
    #[prost(message, required, tag = "1")]
    pub header: ClientOperationHeaderProto,
    #[prost(message, repeated, tag = "2")]
    pub targets: Vec<DatanodeInfoProto>,
    #[prost(enumeration = "StorageTypeProto", repeated, packed = "false", tag = "3")]
    pub target_storage_types: Vec<i32>,
    #[prost(string, repeated, tag = "4")]
    pub target_storage_ids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OpReplaceBlockProto {
    #[prost(message, required, tag = "1")]
    pub header: BaseHeaderProto,
    #[prost(string, required, tag = "2")]
    pub del_hint: String,
    #[prost(message, required, tag = "3")]
    pub source: DatanodeInfoProto,
    #[prost(enumeration = "StorageTypeProto", optional, tag = "4", default = "Disk")]
    pub storage_type: Option<i32>,
    #[prost(string, optional, tag = "5")]
    pub storage_id: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OpCopyBlockProto {
    #[prost(message, required, tag = "1")]
    pub header: BaseHeaderProto,
}

#[derive(Clone, PartialEq, Message)]
pub struct OpBlockChecksumProto {
    #[prost(message, required, tag = "1")]
    pub header: BaseHeaderProto,
    #[prost(message, optional, tag = "2")]
    pub block_checksum_options: Option<BlockChecksumOptionsProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PacketHeaderProto {
    #[prost(sfixed64, required, tag = "1")]
    pub offset_in_block: i64,
    #[prost(sfixed64, required, tag = "2")]
    pub seqno: i64,
    #[prost(bool, required, tag = "3")]
    pub last_packet_in_block: bool,
    #[prost(sfixed32, required, tag = "4")]
    pub data_len: i32,
    #[prost(bool, optional, tag = "5")]
    pub sync_block: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PipelineAckProto {
    #[prost(sint64, required, tag = "1")]
    pub seqno: i64,
    #[prost(enumeration = "Status", repeated, packed = "false", tag = "2")]
    pub reply: Vec<i32>,
    #[prost(uint64, optional, tag = "3")]
    pub downstream_ack_time_nanos: Option<u64>,
    #[prost(uint32, repeated, packed = "true", tag = "4")]
    pub flag: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReadOpChecksumInfoProto {
    #[prost(message, required, tag = "1")]
    pub checksum: ChecksumProto,
    #[prost(uint64, required, tag = "2")]
    pub chunk_offset: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct ClientReadStatusProto {
    #[prost(enumeration = "Status", required, tag = "1")]
    pub status: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct DNTransferAckProto {
    #[prost(enumeration = "Status", required, tag = "1")]
    pub status: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlockOpResponseProto {
    #[prost(enumeration = "Status", required, tag = "1")]
    pub status: i32,
    #[prost(string, optional, tag = "2")]
    pub first_bad_link: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub checksum_response: Option<OpBlockChecksumResponseProto>,
    #[prost(message, optional, tag = "4")]
    pub read_op_checksum_info: Option<ReadOpChecksumInfoProto>,
    #[prost(string, optional, tag = "5")]
    pub message: Option<String>,
    #[prost(uint32, optional, tag = "6")]
    pub short_circuit_access_version: Option<u32>,
    /// Not of HDFS, whose clients pass over it: all datanodes of the pipeline, by their own word, open
    /// a replica again that the block's last packet has finalized. So the last packet need not wait
    /// for the acks of those before.
    #[prost(bool, optional, tag = "1001")]
    pub reopens_finalized: Option<bool>,
    /// Not of HDFS: this datanode takes another operation on the connection of a WRITE_BLOCK that
    /// asked for it, once it has acknowledged the block's last packet.
    #[prost(bool, optional, tag = "1002")]
    pub keeps_connection: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OpBlockChecksumResponseProto {
    #[prost(uint32, required, tag = "1")]
    pub bytes_per_crc: u32,
    #[prost(uint64, required, tag = "2")]
    pub crc_per_block: u64,
    #[prost(bytes = "vec", required, tag = "3")]
    pub block_checksum: Vec<u8>,
    #[prost(enumeration = "ChecksumTypeProto", optional, tag = "4")]
    pub crc_type: Option<i32>,
    #[prost(message, optional, tag = "5")]
    pub block_checksum_options: Option<BlockChecksumOptionsProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DataTransferTraceInfoProto {
    #[prost(uint64, optional, tag = "1")]
    pub trace_id: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub parent_id: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub span_context: Option<Vec<u8>>,
}

/// Operation 87, over a UNIX domain socket only.
#[derive(Clone, PartialEq, Message)]
pub struct OpRequestShortCircuitAccessProto {
    #[prost(message, required, tag = "1")]
    pub header: BaseHeaderProto,
    /// The newest layout of block files that the client can read.
    #[prost(uint32, required, tag = "2")]
    pub max_version: u32,
    #[prost(message, optional, tag = "3")]
    pub slot_id: Option<ShortCircuitShmSlotProto>,
    #[prost(bool, optional, tag = "4")]
    pub supports_receipt_verification: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ShortCircuitShmIdProto {
    #[prost(int64, required, tag = "1")]
    pub hi: i64,
    #[prost(int64, required, tag = "2")]
    pub lo: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct ShortCircuitShmSlotProto {
    #[prost(message, required, tag = "1")]
    pub shm_id: ShortCircuitShmIdProto,
    #[prost(int32, required, tag = "2")]
    pub slot_idx: i32,
}

/// Operation 88.
#[derive(Clone, PartialEq, Message)]
pub struct ReleaseShortCircuitAccessRequestProto {
    #[prost(message, required, tag = "1")]
    pub slot_id: ShortCircuitShmSlotProto,
    #[prost(message, optional, tag = "2")]
    pub trace_info: Option<DataTransferTraceInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReleaseShortCircuitAccessResponseProto {
    #[prost(enumeration = "Status", required, tag = "1")]
    pub status: i32,
    #[prost(string, optional, tag = "2")]
    pub error: Option<String>,
}

/// Operation 89.
#[derive(Clone, PartialEq, Message)]
pub struct ShortCircuitShmRequestProto {
    #[prost(string, required, tag = "1")]
    pub client_name: String,
    #[prost(message, optional, tag = "2")]
    pub trace_info: Option<DataTransferTraceInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ShortCircuitShmResponseProto {
    #[prost(enumeration = "Status", required, tag = "1")]
    pub status: i32,
    #[prost(string, optional, tag = "2")]
    pub error: Option<String>,
    #[prost(message, optional, tag = "3")]
    pub id: Option<ShortCircuitShmIdProto>,
}

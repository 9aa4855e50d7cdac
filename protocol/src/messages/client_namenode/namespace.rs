//! The tree: names, attributes, listings, quotas, storage policies.

use prost::{Enumeration, Message};

use crate::messages::{
    BlockStoragePolicyProto, ContentSummaryProto, DirectoryListingProto, FsPermissionProto,
    HdfsFileStatusProto, QuotaUsageProto,
};

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

//! The calls of ClientProtocol that are measured, as one user's client makes them.

use std::time::Duration;

use prost::Message;
use ringfs_protocol::error::java;
use ringfs_protocol::messages::*;
use ringfs_protocol::rpc::client::{RpcClient, RpcError};

use crate::BenchError;

/// While the namenode has not taken in yet that a block was received it is asked again, for ten seconds.
const NOT_REPORTED_PAUSE: Duration = Duration::from_millis(2);
const NOT_REPORTED_TRIES: u32 = 5000;

/// What of a request is the same for all files of a run.
#[derive(Clone, Copy, Debug)]
pub struct FileRules {
    pub replication: u32,
    pub block_size: u64,
}

/// A connection, and who holds the leases of what is created over it.
#[derive(Clone, Debug)]
pub struct Calls {
    pub rpc: RpcClient,
    pub holder: String,
    pub rules: FileRules,
}

impl Calls {
    /// Returns the file's id where the namenode tells it.
    pub async fn create(&self, path: &str) -> Result<Option<u64>, BenchError> {
        let request = CreateRequestProto {
            src: path.to_owned(),
            masked: permission(0o644),
            client_name: self.holder.clone(),
            create_flag: CreateFlagProto::Create as u32 | CreateFlagProto::Overwrite as u32,
            create_parent: true,
            replication: self.rules.replication,
            block_size: self.rules.block_size,
            ..CreateRequestProto::default()
        };
        let reply: CreateResponseProto = self.call("create", &request).await?;
        Ok(reply.fs.and_then(|status| status.file_id))
    }

    /// The next block of a file, on none of the `excluded`.
    pub async fn add_block(
        &self,
        path: &str,
        file_id: Option<u64>,
        previous: Option<ExtendedBlockProto>,
        excluded: &[DatanodeInfoProto],
    ) -> Result<LocatedBlockProto, BenchError> {
        let request = AddBlockRequestProto {
            src: path.to_owned(),
            client_name: self.holder.clone(),
            previous,
            exclude_nodes: excluded.to_vec(),
            file_id,
            favored_nodes: Vec::new(),
            flags: Vec::new(),
        };
        let mut tries = 1;
        loop {
            match self.rpc.call::<_, AddBlockResponseProto>("addBlock", &request).await {
                Err(RpcError::Remote(remote))
                    if remote.class == java::NOT_REPLICATED_YET && tries < NOT_REPORTED_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(NOT_REPORTED_PAUSE).await;
                }
                reply => return Ok(reply?.block),
            }
        }
    }

    /// Closes a file; asks again until the namenode says that it is closed.
    pub async fn complete(
        &self,
        path: &str,
        file_id: Option<u64>,
        last: Option<ExtendedBlockProto>,
    ) -> Result<(), BenchError> {
        let request = CompleteRequestProto {
            src: path.to_owned(),
            client_name: self.holder.clone(),
            last,
            file_id,
        };
        for _ in 0..NOT_REPORTED_TRIES {
            if self.call::<_, CompleteResponseProto>("complete", &request).await?.result {
                return Ok(());
            }
            tokio::time::sleep(NOT_REPORTED_PAUSE).await;
        }
        require(false, "complete", path)
    }

    pub async fn locations(&self, path: &str) -> Result<(), BenchError> {
        let request = GetBlockLocationsRequestProto {
            src: path.to_owned(),
            offset: 0,
            length: self.rules.block_size,
        };
        let reply: GetBlockLocationsResponseProto =
            self.call("getBlockLocations", &request).await?;
        require(reply.locations.is_some(), "getBlockLocations", path)
    }

    pub async fn status(&self, path: &str) -> Result<(), BenchError> {
        let request = GetFileInfoRequestProto { src: path.to_owned() };
        let reply: GetFileInfoResponseProto = self.call("getFileInfo", &request).await?;
        require(reply.fs.is_some(), "getFileInfo", path)
    }

    /// The first page.
    pub async fn list(&self, path: &str) -> Result<(), BenchError> {
        let request = GetListingRequestProto {
            src: path.to_owned(),
            start_after: Vec::new(),
            need_location: false,
        };
        let reply: GetListingResponseProto = self.call("getListing", &request).await?;
        require(reply.dir_list.is_some(), "getListing", path)
    }

    pub async fn mkdirs(&self, path: &str) -> Result<(), BenchError> {
        let request = MkdirsRequestProto {
            src: path.to_owned(),
            masked: permission(0o755),
            create_parent: true,
            unmasked: None,
        };
        let reply: MkdirsResponseProto = self.call("mkdirs", &request).await?;
        require(reply.result, "mkdirs", path)
    }

    pub async fn rename(&self, from: &str, to: &str) -> Result<(), BenchError> {
        let request = RenameRequestProto { src: from.to_owned(), dst: to.to_owned() };
        let reply: RenameResponseProto = self.call("rename", &request).await?;
        require(reply.result, "rename", from)
    }

    pub async fn delete(&self, path: &str) -> Result<(), BenchError> {
        let request = DeleteRequestProto { src: path.to_owned(), recursive: false };
        let reply: DeleteResponseProto = self.call("delete", &request).await?;
        require(reply.result, "delete", path)
    }

    pub async fn set_permission(&self, path: &str) -> Result<(), BenchError> {
        let request =
            SetPermissionRequestProto { src: path.to_owned(), permission: permission(0o640) };
        self.call::<_, SetPermissionResponseProto>("setPermission", &request).await.map(drop)
    }

    /// To the owner that the path has.
    pub async fn set_owner(&self, path: &str, owner: &str) -> Result<(), BenchError> {
        let request = SetOwnerRequestProto {
            src: path.to_owned(),
            username: Some(owner.to_owned()),
            groupname: None,
        };
        self.call::<_, SetOwnerResponseProto>("setOwner", &request).await.map(drop)
    }

    pub async fn set_replication(&self, path: &str) -> Result<(), BenchError> {
        let request = SetReplicationRequestProto {
            src: path.to_owned(),
            replication: self.rules.replication,
        };
        self.call::<_, SetReplicationResponseProto>("setReplication", &request).await.map(drop)
    }

    async fn call<Req: Message, Resp: Message + Default>(
        &self,
        method: &str,
        request: &Req,
    ) -> Result<Resp, BenchError> {
        self.rpc.call(method, request).await.map_err(Into::into)
    }
}

fn require(done: bool, method: &'static str, path: &str) -> Result<(), BenchError> {
    match done {
        true => Ok(()),
        false => Err(BenchError::NotDone { method, path: path.to_owned() }),
    }
}

fn permission(perm: u32) -> FsPermissionProto {
    FsPermissionProto { perm }
}

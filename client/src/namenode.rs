//! Calls to the namenode that survive a lost connection.
//!
//! Every method of ClientProtocol is idempotent or remembered by the namenode's retry cache, so a
//! call whose reply was lost is sent again under the same call id with a higher retry count. A call
//! that timed out is not: it may still be running. RetriableException is waited out, and where a file
//! is being written SafeModeException too: a namenode that restarts fails no writer. Everything else
//! that the namenode throws is the caller's.

use std::time::Duration;

use prost::Message;
use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::error::java;
use ringfs_protocol::messages::*;
use ringfs_protocol::rpc::client::{RpcClient, RpcError};
use ringfs_protocol::rpc::protocol_name;
use tracing::{debug, warn};

use crate::ClientError;
use crate::config::ClientSettings;
use crate::limits::{
    FOLLOWING_BLOCK_PAUSE_MAX, RETRIABLE_ATTEMPTS_MAX, RETRIABLE_FIRST_PAUSE, RETRIABLE_PAUSE_MAX,
    SAFE_MODE_PAUSE, SAFE_MODE_WAITS_MAX,
};

#[derive(Clone, Debug)]
pub(crate) struct Namenode {
    rpc: RpcClient,
    address: String,
    connect_retries: u32,
    connect_retry_interval: Duration,
    following_block_retries: u32,
    following_block_first_pause: Duration,
}

/// A file open for writing, as the namenode knows it.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    pub path: String,
    pub file_id: u64,
    /// Whose lease it is.
    pub holder: String,
}

impl Namenode {
    pub fn new(address: &str, user: &str, settings: &ClientSettings) -> Self {
        Self {
            rpc: RpcClient::new(address, protocol_name::CLIENT, user, settings.rpc.clone()),
            address: address.to_owned(),
            connect_retries: settings.connect_retries,
            connect_retry_interval: settings.connect_retry_interval,
            following_block_retries: settings.following_block_retries,
            following_block_first_pause: settings.following_block_first_pause,
        }
    }

    pub async fn call<Req: Message, Resp: Message + Default>(
        &self,
        method: &str,
        request: &Req,
    ) -> Result<Resp, ClientError> {
        let mut losses = 0;
        let mut waits = 0;
        let mut call_id = self.rpc.next_call_id();
        let mut resent = 0;
        loop {
            match self.rpc.call_as(method, request, call_id, resent).await {
                Err(RpcError::Io { source, .. }) if losses < self.connect_retries => {
                    losses += 1;
                    resent += 1;
                    let (address, max) = (&self.address, self.connect_retries);
                    warn!("{address}: {source}; retry {losses} of {max}");
                    tokio::time::sleep(self.connect_retry_interval).await;
                }
                Err(RpcError::Remote(remote))
                    if remote.class == java::RETRIABLE && waits < RETRIABLE_ATTEMPTS_MAX =>
                {
                    debug!("{}: {method}: {remote}", self.address);
                    let pause = RETRIABLE_FIRST_PAUSE * 2u32.pow(waits);
                    tokio::time::sleep(pause.min(RETRIABLE_PAUSE_MAX)).await;
                    waits += 1;
                    call_id = self.rpc.next_call_id(); // It did run: this is another call.
                    resent = 0;
                }
                result => return Ok(result?),
            }
        }
    }

    /// A call on behalf of a file that is open for writing.
    async fn call_of_writer<Req: Message, Resp: Message + Default>(
        &self,
        method: &str,
        request: &Req,
    ) -> Result<Resp, ClientError> {
        let mut waits = 0;
        loop {
            match self.call(method, request).await {
                Err(error)
                    if error.class() == Some(java::SAFE_MODE) && waits < SAFE_MODE_WAITS_MAX =>
                {
                    debug!("{}: {method}: {error}", self.address);
                    tokio::time::sleep(SAFE_MODE_PAUSE).await;
                    waits += 1;
                }
                result => return result,
            }
        }
    }

    /// The next block of `file`; waits while the block before the last has no replica yet.
    pub async fn add_block(
        &self,
        file: &OpenFile,
        previous: Option<&ExtendedBlock>,
        excluded: Vec<DatanodeInfoProto>,
        favored: &[String],
    ) -> Result<LocatedBlockProto, ClientError> {
        let request = AddBlockRequestProto {
            src: file.path.clone(),
            client_name: file.holder.clone(),
            previous: previous.map(ExtendedBlockProto::from),
            exclude_nodes: excluded,
            file_id: Some(file.file_id),
            favored_nodes: favored.to_vec(),
            flags: Vec::new(),
        };
        let mut pauses = self.pauses();
        loop {
            match self.call_of_writer::<_, AddBlockResponseProto>("addBlock", &request).await {
                Err(error) if error.class() == Some(java::NOT_REPLICATED_YET) => {
                    let Some(pause) = pauses.next() else {
                        return Err(error);
                    };
                    tokio::time::sleep(pause).await;
                }
                result => return result.map(|response| response.block),
            }
        }
    }

    pub async fn abandon_block(
        &self,
        file: &OpenFile,
        block: &ExtendedBlock,
    ) -> Result<(), ClientError> {
        let request = AbandonBlockRequestProto {
            b: block.into(),
            src: file.path.clone(),
            holder: file.holder.clone(),
            file_id: Some(file.file_id),
        };
        self.call_of_writer::<_, AbandonBlockResponseProto>("abandonBlock", &request)
            .await
            .map(drop)
    }

    /// Closes `file`; waits while its last block has no replica yet.
    pub async fn complete(
        &self,
        file: &OpenFile,
        last: Option<&ExtendedBlock>,
    ) -> Result<(), ClientError> {
        let request = CompleteRequestProto {
            src: file.path.clone(),
            client_name: file.holder.clone(),
            last: last.map(ExtendedBlockProto::from),
            file_id: Some(file.file_id),
        };
        let mut pauses = self.pauses();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let reply: CompleteResponseProto = self.call_of_writer("complete", &request).await?;
            if reply.result {
                return Ok(());
            }
            let Some(pause) = pauses.next() else {
                return Err(ClientError::NotClosed { path: file.path.clone(), attempts });
            };
            debug!("{}: not complete yet, asking again in {pause:?}", file.path);
            tokio::time::sleep(pause).await;
        }
    }

    /// Has the namenode remember the last block of `file`, and that so much of it was promised.
    pub async fn fsync(&self, file: &OpenFile, last_block_len: u64) -> Result<(), ClientError> {
        let request = FsyncRequestProto {
            src: file.path.clone(),
            client: file.holder.clone(),
            last_block_length: (last_block_len > 0).then_some(last_block_len as i64),
            file_id: Some(file.file_id),
        };
        self.call_of_writer::<_, FsyncResponseProto>("fsync", &request).await.map(drop)
    }

    pub async fn update_block_for_pipeline(
        &self,
        file: &OpenFile,
        block: &ExtendedBlock,
    ) -> Result<LocatedBlockProto, ClientError> {
        let request = UpdateBlockForPipelineRequestProto {
            block: block.into(),
            client_name: file.holder.clone(),
        };
        let reply: UpdateBlockForPipelineResponseProto =
            self.call_of_writer("updateBlockForPipeline", &request).await?;
        Ok(reply.block)
    }

    pub async fn update_pipeline(
        &self,
        file: &OpenFile,
        old_block: &ExtendedBlock,
        new_block: &ExtendedBlock,
        new_nodes: Vec<DatanodeIDProto>,
        storage_ids: Vec<String>,
    ) -> Result<(), ClientError> {
        let request = UpdatePipelineRequestProto {
            client_name: file.holder.clone(),
            old_block: old_block.into(),
            new_block: new_block.into(),
            new_nodes,
            storage_ids,
        };
        self.call_of_writer::<_, UpdatePipelineResponseProto>("updatePipeline", &request)
            .await
            .map(drop)
    }

    /// `existing` and one more datanode for `block`, or only `existing` when there is none.
    pub async fn additional_datanode(
        &self,
        file: &OpenFile,
        block: &ExtendedBlock,
        existing: Vec<DatanodeInfoProto>,
        existing_storage_ids: Vec<String>,
        excluded: Vec<DatanodeInfoProto>,
    ) -> Result<LocatedBlockProto, ClientError> {
        let request = GetAdditionalDatanodeRequestProto {
            src: file.path.clone(),
            blk: block.into(),
            existings: existing,
            excludes: excluded,
            num_additional_nodes: 1,
            client_name: file.holder.clone(),
            existing_storage_uuids: existing_storage_ids,
            file_id: Some(file.file_id),
        };
        let reply: GetAdditionalDatanodeResponseProto =
            self.call_of_writer("getAdditionalDatanode", &request).await?;
        Ok(reply.block)
    }

    pub async fn block_locations(
        &self,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<LocatedBlocksProto, ClientError> {
        // Both are signed in Java.
        let most = i64::MAX as u64;
        let request = GetBlockLocationsRequestProto {
            src: path.to_owned(),
            offset: offset.min(most),
            length: length.min(most),
        };
        let reply: GetBlockLocationsResponseProto =
            self.call("getBlockLocations", &request).await?;
        reply.locations.ok_or_else(|| file_not_found(format!("File does not exist: {path}")))
    }

    /// Tells of a replica whose bytes do not match their checksums.
    pub async fn report_bad_replica(
        &self,
        block: &LocatedBlockProto,
        replica: usize,
    ) -> Result<(), ClientError> {
        let mut bad = block.clone();
        bad.locs = block.locs.get(replica).cloned().into_iter().collect();
        bad.storage_types = block.storage_types.get(replica).copied().into_iter().collect();
        bad.storage_ids = block.storage_ids.get(replica).cloned().into_iter().collect();
        bad.is_cached.clear();
        let request = ReportBadBlocksRequestProto { blocks: vec![bad] };
        self.call::<_, ReportBadBlocksResponseProto>("reportBadBlocks", &request).await.map(drop)
    }

    pub async fn renew_lease(&self, holder: &str) -> Result<(), ClientError> {
        let request =
            RenewLeaseRequestProto { client_name: holder.to_owned(), namespaces: Vec::new() };
        self.call::<_, RenewLeaseResponseProto>("renewLease", &request).await.map(drop)
    }

    fn pauses(&self) -> impl Iterator<Item = Duration> {
        let first = self.following_block_first_pause;
        (0..self.following_block_retries).map(move |retry| {
            first.saturating_mul(2u32.saturating_pow(retry)).min(FOLLOWING_BLOCK_PAUSE_MAX)
        })
    }
}

/// What Hadoop's client throws itself where the namenode answers with nothing.
pub(crate) fn file_not_found(message: String) -> ClientError {
    ringfs_protocol::RemoteError::new(java::FILE_NOT_FOUND, message).into()
}

#[cfg(test)]
mod tests {
    use ringfs_protocol::RemoteError;
    use tokio::net::TcpListener;

    use super::*;
    use crate::fake_cluster::{FakeNamenode, client};

    #[tokio::test]
    async fn a_call_whose_reply_was_lost_is_sent_again_as_the_same_call() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(listener.local_addr().unwrap());
        let asking = tokio::spawn(async move { client.server_defaults().await.cloned() });
        let (connection, _) = listener.accept().await.unwrap();
        connection.readable().await.unwrap();
        drop(connection);
        let namenode = FakeNamenode::start_on(listener);
        asking.await.unwrap().unwrap();
        assert_eq!(*namenode.calls.lock().unwrap(), [("getServerDefaults".to_owned(), 0, 1)]);
    }

    #[tokio::test]
    async fn a_writer_waits_for_the_end_of_safe_mode() {
        let (namenode, address) = FakeNamenode::start().await;
        let client = client(address);
        let safe_mode = RemoteError::new(java::SAFE_MODE, "Name node is in safe mode.");
        let later = RemoteError::new(java::LEASE_EXPIRED, "/f is not open");
        namenode.errors.lock().unwrap().extend([safe_mode, later]);
        let file = OpenFile { path: "/f".to_owned(), file_id: 1, holder: "h".to_owned() };
        let error = client.shared().namenode.fsync(&file, 0).await.unwrap_err();
        assert_eq!(error.class(), Some(java::LEASE_EXPIRED));
    }

    #[tokio::test]
    async fn retriable_exceptions_are_waited_out_and_others_surface() {
        let (namenode, address) = FakeNamenode::start().await;
        let client = client(address);
        let safe_mode = RemoteError::new(java::SAFE_MODE, "Name node is in safe mode.");
        let starting = RemoteError::new(java::RETRIABLE, "NameNode still not started");
        namenode.errors.lock().unwrap().extend([safe_mode, starting]);
        let error = client.server_defaults().await.unwrap_err();
        assert_eq!(error.class(), Some(java::SAFE_MODE));
        let calls = namenode.calls.lock().unwrap().clone();
        assert_eq!(
            calls.iter().map(|(_, id, retry)| (*id, *retry)).collect::<Vec<_>>(),
            [(0, 0), (1, 0)]
        );
    }
}

//! ClientProtocol: from the name of a method and its encoded request to the encoded reply.
//!
//! Each arm decodes, calls the operation of that name, and wraps its result; what is checked in which
//! order is the operations' business. A method without an arm does not exist here.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use ringfs_protocol::messages::*;
use ringfs_protocol::rpc::server::{Call, CallError};

use crate::error::{NamenodeError, Result};
use crate::host_lists::HostLists;
use crate::limits::CORRUPT_FILES_PAGE;
use crate::namespace;
use crate::namesystem::{ClientCall, Namesystem, RetryKey};
use crate::open_file::WriterClaim;
use crate::paths;
use crate::permissions::ALL;
use crate::storage_policies;
use crate::store::View;

type Reply = std::result::Result<Option<Bytes>, CallError>;

impl Namesystem {
    /// Serves a call of ClientProtocol.
    pub async fn client_call(
        self: &Arc<Self>,
        call: &Call,
    ) -> std::result::Result<Bytes, CallError> {
        let client = ClientCall {
            principal: Arc::new(self.principal(&call.caller.user).await),
            address: call.caller.address.ip().to_canonical(),
            retry_key: retry_key(call),
        };
        if let Some(reply) = self.reading_call(&client, call).await? {
            return Ok(reply);
        }
        if let Some(reply) = self.writing_call(&client, call).await? {
            return Ok(reply);
        }
        if let Some(reply) = self.naming_call(&client, call).await? {
            return Ok(reply);
        }
        if let Some(reply) = self.attribute_call(&client, call).await? {
            return Ok(reply);
        }
        if let Some(reply) = self.cluster_call(&client, call).await? {
            return Ok(reply);
        }
        Err(no_such_method(call))
    }

    /// Serves a call of GetUserMappingsProtocol.
    pub async fn user_mappings_call(&self, call: &Call) -> std::result::Result<Bytes, CallError> {
        if call.method != "getGroupsForUser" {
            return Err(no_such_method(call));
        }
        let r: GetGroupsForUserRequestProto = request(call)?;
        let groups = self.groups.groups(&r.user).await.to_vec();
        encode(GetGroupsForUserResponseProto { groups }).map(|reply| reply.unwrap_or_default())
    }

    /// What a reader asks.
    async fn reading_call(self: &Arc<Self>, client: &ClientCall, call: &Call) -> Reply {
        match call.method.as_str() {
            "getFileInfo" => {
                let r: GetFileInfoRequestProto = request(call)?;
                let fs = self.get_file_info(client, &r.src, false)?;
                encode(GetFileInfoResponseProto { fs })
            }
            "getFileLinkInfo" => {
                let r: GetFileLinkInfoRequestProto = request(call)?;
                let fs = self.get_file_info(client, &r.src, false)?;
                encode(GetFileLinkInfoResponseProto { fs })
            }
            "getLocatedFileInfo" => {
                let r: GetLocatedFileInfoRequestProto = request(call)?;
                let fs = self.get_file_info(client, r.src(), true)?;
                encode(GetLocatedFileInfoResponseProto { fs })
            }
            "getListing" => {
                let r: GetListingRequestProto = request(call)?;
                let dir_list = self.get_listing(client, &r.src, &r.start_after, r.need_location)?;
                encode(GetListingResponseProto { dir_list })
            }
            "getBlockLocations" => {
                let r: GetBlockLocationsRequestProto = request(call)?;
                let located = self.get_block_locations(client, &r.src, r.offset, r.length)?;
                encode(GetBlockLocationsResponseProto { locations: Some(located) })
            }
            "getContentSummary" => {
                let r: GetContentSummaryRequestProto = request(call)?;
                let summary = self.get_content_summary(client, r.path).await?;
                encode(GetContentSummaryResponseProto { summary })
            }
            "getQuotaUsage" => {
                let r: GetQuotaUsageRequestProto = request(call)?;
                let usage = self.get_quota_usage(client, r.path).await?;
                encode(GetQuotaUsageResponseProto { usage })
            }
            "getPreferredBlockSize" => {
                let r: GetPreferredBlockSizeRequestProto = request(call)?;
                let bsize = self.get_preferred_block_size(client, &r.filename)?;
                encode(GetPreferredBlockSizeResponseProto { bsize })
            }
            "isFileClosed" => {
                let r: IsFileClosedRequestProto = request(call)?;
                let result = self.is_file_closed(client, &r.src)?;
                encode(IsFileClosedResponseProto { result })
            }
            "checkAccess" => {
                let r: CheckAccessRequestProto = request(call)?;
                self.check_access(client, &r.path, r.mode as u32 & ALL)?;
                encode(CheckAccessResponseProto {})
            }
            _ => Ok(None),
        }
    }

    /// What a writer asks.
    async fn writing_call(self: &Arc<Self>, client: &ClientCall, call: &Call) -> Reply {
        match call.method.as_str() {
            "create" => encode(self.create(client, request(call)?).await?),
            "append" => encode(self.append(client, request(call)?).await?),
            "addBlock" => {
                let block = self.add_block(client, request(call)?).await?;
                encode(AddBlockResponseProto { block })
            }
            "getAdditionalDatanode" => {
                let block = self.get_additional_datanode(client, &request(call)?)?;
                encode(GetAdditionalDatanodeResponseProto { block })
            }
            "abandonBlock" => {
                let r: AbandonBlockRequestProto = request(call)?;
                let claim = claim(&r.src, r.file_id(), &r.holder);
                self.abandon_block(claim, r.b).await?;
                encode(AbandonBlockResponseProto {})
            }
            "complete" => {
                let r: CompleteRequestProto = request(call)?;
                let claim = claim(&r.src, r.file_id(), &r.client_name);
                let result = self.complete(claim, r.last).await?;
                encode(CompleteResponseProto { result })
            }
            "fsync" => {
                let r: FsyncRequestProto = request(call)?;
                let claim = claim(&r.src, r.file_id(), &r.client);
                let length = u64::try_from(r.last_block_length()).ok().filter(|length| *length > 0);
                self.fsync(client, claim, length).await?;
                encode(FsyncResponseProto {})
            }
            "updateBlockForPipeline" => {
                let r: UpdateBlockForPipelineRequestProto = request(call)?;
                let block = self.update_block_for_pipeline(r.block, r.client_name).await?;
                encode(UpdateBlockForPipelineResponseProto { block })
            }
            "updatePipeline" => encode(self.update_pipeline(client, request(call)?).await?),
            "truncate" => {
                let r: TruncateRequestProto = request(call)?;
                encode(self.truncate(client, r.src, r.new_length, r.client_name).await?)
            }
            "renewLease" => {
                let r: RenewLeaseRequestProto = request(call)?;
                self.renew_lease(&r.client_name)?;
                encode(RenewLeaseResponseProto {})
            }
            "recoverLease" => {
                let r: RecoverLeaseRequestProto = request(call)?;
                let result = self.recover_lease(client, r.src, r.client_name).await?;
                encode(RecoverLeaseResponseProto { result })
            }
            "reportBadBlocks" => {
                self.report_bad_blocks(&request(call)?);
                encode(ReportBadBlocksResponseProto {})
            }
            _ => Ok(None),
        }
    }

    /// Changes of the tree.
    async fn naming_call(self: &Arc<Self>, client: &ClientCall, call: &Call) -> Reply {
        match call.method.as_str() {
            "mkdirs" => {
                let r: MkdirsRequestProto = request(call)?;
                let result = self.mkdirs(client, r.src, r.masked.perm, r.create_parent).await?;
                encode(MkdirsResponseProto { result })
            }
            "delete" => {
                let r: DeleteRequestProto = request(call)?;
                encode(self.delete(client, r.src, r.recursive).await?)
            }
            "rename" => {
                let r: RenameRequestProto = request(call)?;
                encode(self.rename(client, r.src, r.dst).await?)
            }
            "rename2" => {
                let r: Rename2RequestProto = request(call)?;
                let to_trash = r.move_to_trash();
                encode(self.rename2(client, r.src, r.dst, r.overwrite_dest, to_trash).await?)
            }
            "concat" => encode(self.concat(client, request(call)?).await?),
            _ => Ok(None),
        }
    }

    /// Changes of an inode, and its storage policy.
    async fn attribute_call(self: &Arc<Self>, client: &ClientCall, call: &Call) -> Reply {
        match call.method.as_str() {
            "setPermission" => {
                let r: SetPermissionRequestProto = request(call)?;
                self.set_permission(client, r.src, r.permission.perm).await?;
                encode(SetPermissionResponseProto {})
            }
            "setOwner" => {
                let r: SetOwnerRequestProto = request(call)?;
                self.set_owner(client, r.src, r.username, r.groupname).await?;
                encode(SetOwnerResponseProto {})
            }
            "setTimes" => {
                let r: SetTimesRequestProto = request(call)?;
                self.set_times(client, r.src, r.mtime, r.atime).await?;
                encode(SetTimesResponseProto {})
            }
            "setReplication" => {
                let r: SetReplicationRequestProto = request(call)?;
                let result = self.set_replication(client, r.src, r.replication).await?;
                encode(SetReplicationResponseProto { result })
            }
            "setStoragePolicy" => {
                let r: SetStoragePolicyRequestProto = request(call)?;
                self.set_storage_policy(client, r.src, Some(r.policy_name)).await?;
                encode(SetStoragePolicyResponseProto {})
            }
            "unsetStoragePolicy" => {
                let r: UnsetStoragePolicyRequestProto = request(call)?;
                self.set_storage_policy(client, r.src, None).await?;
                encode(UnsetStoragePolicyResponseProto {})
            }
            "getStoragePolicy" => {
                let r: GetStoragePolicyRequestProto = request(call)?;
                let id = self.get_storage_policy(client, &r.path)?;
                let storage_policy = storage_policies::by_id(id);
                encode(GetStoragePolicyResponseProto { storage_policy })
            }
            "getStoragePolicies" => {
                encode(GetStoragePoliciesResponseProto { policies: storage_policies::all() })
            }
            _ => Ok(None),
        }
    }

    /// Questions about the cluster as a whole, and safe mode.
    async fn cluster_call(&self, client: &ClientCall, call: &Call) -> Reply {
        match call.method.as_str() {
            "getServerDefaults" => {
                encode(GetServerDefaultsResponseProto { server_defaults: self.server_defaults() })
            }
            "refreshNodes" => {
                let _: RefreshNodesRequestProto = request(call)?;
                self.refresh_nodes(client).await?;
                encode(RefreshNodesResponseProto {})
            }
            "setBalancerBandwidth" => {
                let r: SetBalancerBandwidthRequestProto = request(call)?;
                self.set_balancer_bandwidth(client, r.bandwidth)?;
                encode(SetBalancerBandwidthResponseProto {})
            }
            "getFsStats" => encode(self.fs_stats()),
            "getFsReplicatedBlockStats" => encode(self.replicated_block_stats()),
            "getFsECBlockGroupStats" => encode(GetFsECBlockGroupStatsResponseProto::default()),
            "getDatanodeReport" => {
                let r: GetDatanodeReportRequestProto = request(call)?;
                let di = self.blocks.datanode_report(r.r#type());
                encode(GetDatanodeReportResponseProto { di })
            }
            "getDatanodeStorageReport" => {
                let r: GetDatanodeStorageReportRequestProto = request(call)?;
                client.principal.check_superuser()?;
                let reports = self.blocks.datanode_storage_report(r.r#type());
                encode(GetDatanodeStorageReportResponseProto { datanode_storage_reports: reports })
            }
            "setSafeMode" => {
                let r: SetSafeModeRequestProto = request(call)?;
                let result = self.set_safe_mode(client, r.action())?;
                encode(SetSafeModeResponseProto { result })
            }
            "listCorruptFileBlocks" => {
                let r: ListCorruptFileBlocksRequestProto = request(call)?;
                let corrupt = self.list_corrupt_file_blocks(client, &r.path, r.cookie())?;
                encode(ListCorruptFileBlocksResponseProto { corrupt })
            }
            "getDelegationToken" => encode(GetDelegationTokenResponseProto { token: None }),
            "msync" => encode(MsyncResponseProto {}),
            "getHAServiceState" => {
                let state = HAServiceStateProto::Active as i32;
                encode(HAServiceStateResponseProto { state })
            }
            _ => Ok(None),
        }
    }

    fn server_defaults(&self) -> FsServerDefaultsProto {
        FsServerDefaultsProto {
            block_size: self.config.block_size,
            bytes_per_checksum: self.config.bytes_per_checksum,
            write_packet_size: self.config.write_packet_size,
            replication: self.config.replication,
            file_buffer_size: self.config.file_buffer_size,
            encrypt_data_transfer: Some(false),
            trash_interval: Some(self.config.trash_interval_minutes),
            checksum_type: Some(self.config.checksum_type as i32),
            // Absent, it would make clients look for a key provider in their own configuration.
            key_provider_uri: Some(String::new()),
            policy_id: Some(0),
            snapshot_trash_root_enabled: Some(false),
        }
    }

    fn fs_stats(&self) -> GetFsStatsResponseProto {
        let stats = self.blocks.fs_stats();
        GetFsStatsResponseProto {
            capacity: stats.capacity,
            used: stats.used,
            remaining: stats.remaining,
            under_replicated: stats.under_replicated,
            corrupt_blocks: stats.corrupt_blocks,
            missing_blocks: stats.missing_blocks,
            missing_repl_one_blocks: Some(stats.missing_replication_one_blocks),
            blocks_in_future: Some(stats.blocks_in_future),
            pending_deletion_blocks: Some(stats.pending_deletion_blocks),
        }
    }

    fn replicated_block_stats(&self) -> GetFsReplicatedBlockStatsResponseProto {
        let stats = self.blocks.fs_stats();
        GetFsReplicatedBlockStatsResponseProto {
            low_redundancy: stats.under_replicated,
            corrupt_blocks: stats.corrupt_blocks,
            missing_blocks: stats.missing_blocks,
            missing_repl_one_blocks: stats.missing_replication_one_blocks,
            blocks_in_future: stats.blocks_in_future,
            pending_deletion_blocks: stats.pending_deletion_blocks,
            highest_prio_low_redundancy_blocks: Some(stats.highest_priority_low_redundancy_blocks),
            badly_distributed_blocks: Some(0),
        }
    }

    /// Reads the operator's lists of hosts again; when one cannot be read nothing changes.
    async fn refresh_nodes(&self, client: &ClientCall) -> Result<()> {
        client.principal.check_superuser()?;
        let files = self.config.host_files.clone();
        let loading = tokio::task::spawn_blocking(move || HostLists::load(&files));
        let loaded = loading.await.map_err(|error| NamenodeError::Io(error.to_string()))?;
        self.blocks.set_host_lists(loaded?);
        Ok(())
    }

    /// For every datanode, those that register later too; until the namenode ends.
    fn set_balancer_bandwidth(&self, client: &ClientCall, bytes_per_second: i64) -> Result<()> {
        client.principal.check_superuser()?;
        let wanted = u64::try_from(bytes_per_second).ok().filter(|wanted| *wanted > 0);
        let wanted = wanted.ok_or_else(|| {
            let why = format!("a bandwidth of {bytes_per_second} bytes a second");
            NamenodeError::IllegalArgument(why)
        })?;
        self.blocks.set_balancer_bandwidth(wanted);
        Ok(())
    }

    /// Whether safe mode is on after the call.
    fn set_safe_mode(&self, client: &ClientCall, action: SafeModeActionProto) -> Result<bool> {
        let safe_mode = self.blocks.safe_mode();
        if action != SafeModeActionProto::SafemodeGet {
            client.principal.check_superuser()?;
        }
        match action {
            SafeModeActionProto::SafemodeGet => {}
            SafeModeActionProto::SafemodeEnter => safe_mode.enter(),
            SafeModeActionProto::SafemodeLeave | SafeModeActionProto::SafemodeForceExit => {
                safe_mode.leave();
            }
        }
        Ok(safe_mode.is_on())
    }

    pub(crate) fn report_bad_blocks(&self, request: &ReportBadBlocksRequestProto) {
        for block in &request.blocks {
            for (index, location) in block.locs.iter().enumerate() {
                let storage_id = block.storage_ids.get(index).map(String::as_str);
                let uuid = &location.id.datanode_uuid;
                self.blocks.report_bad_replica(&block.b, uuid, storage_id);
            }
        }
    }

    /// Files below `path` with a block that no datanode has. The cookie is the last block looked at.
    fn list_corrupt_file_blocks(
        &self,
        client: &ClientCall,
        path: &str,
        cookie: &str,
    ) -> Result<CorruptFileBlocksProto> {
        use ringfs_protocol::block::BlockId;
        client.principal.check_superuser()?;
        let mut after = match cookie {
            "" => None,
            cookie => Some(BlockId(cookie.parse().map_err(|_| {
                NamenodeError::IllegalArgument(format!("Unexpected cookie: {cookie}"))
            })?)),
        };
        let snapshot = self.snapshot();
        let top: Vec<String> = paths::components(path).map(str::to_owned).collect();
        let mut files = Vec::new();
        while files.len() < CORRUPT_FILES_PAGE {
            let ids = self.blocks.missing_blocks_after(after, CORRUPT_FILES_PAGE - files.len());
            let Some(last) = ids.last() else { break };
            after = Some(*last);
            for id in ids {
                let Some(block) = snapshot.block(id)? else { continue };
                if let Some(names) = namespace::names_of(&snapshot, block.inode)?
                    && names.starts_with(&top)
                {
                    files.push(paths::join(&names));
                }
            }
        }
        let cookie = after.map_or("0".to_owned(), |id| id.0.to_string());
        Ok(CorruptFileBlocksProto { files, cookie })
    }
}

pub(crate) fn request<M: Message + Default>(call: &Call) -> std::result::Result<M, CallError> {
    M::decode(call.request.clone()).map_err(|error| CallError::BadRequest {
        method: call.method.clone(),
        why: error.to_string(),
    })
}

fn encode(reply: impl Message) -> Reply {
    Ok(Some(reply.encode_to_vec().into()))
}

fn claim(path: &str, file_id: u64, holder: &str) -> WriterClaim {
    WriterClaim { path: path.to_owned(), file_id, holder: holder.to_owned() }
}

/// What a repetition of the call would carry again; `None` from clients that cannot repeat.
fn retry_key(call: &Call) -> Option<RetryKey> {
    let client_id = call.client_id.filter(|_| call.call_id >= 0)?;
    let mut key = [0; 20];
    key[..16].copy_from_slice(&client_id);
    key[16..].copy_from_slice(&call.call_id.to_be_bytes());
    Some(key)
}

pub(crate) fn no_such_method(call: &Call) -> CallError {
    CallError::NoSuchMethod { protocol: call.protocol.clone(), method: call.method.clone() }
}

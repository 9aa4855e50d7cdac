//! Operations on the namespace, and the opening of files.

use std::sync::Arc;

use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::file_checksum::FileChecksum;
use ringfs_protocol::limits::PACKET_MAX_BYTES;
use ringfs_protocol::messages::*;
use ringfs_protocol::site_config::{Configuration, user_name};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::config::{ClientSettings, namenode_address};
use crate::datanode_stream::{DatanodeConnector, is_local};
use crate::file_writer::WriterParts;
use crate::lease_renewal::LeaseRenewal;
use crate::local_replicas::LocalReplicas;
use crate::namenode::{Namenode, OpenFile, file_not_found};
use crate::streamer::{LastBlock, StreamerRules};
use crate::{BlockLocation, ClientError, FileReader, FileStatus, FileWriter};

/// A connection to one file system as one user; cheap to clone. Paths are absolute.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What all clones, readers and writers of a client have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub namenode: Namenode,
    pub connector: DatanodeConnector,
    /// Where short-circuit reads are configured.
    pub local_replicas: Option<LocalReplicas>,
    pub settings: ClientSettings,
    /// The holder of the leases.
    pub client_name: String,
    pub user: String,
    uri: String,
    leases: LeaseRenewal,
    server_defaults: OnceCell<FsServerDefaultsProto>,
}

/// How a file is created; what is `None` comes from the configuration, else from the namenode.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub overwrite: bool,
    pub replication: Option<u16>,
    pub block_size: Option<u64>,
    /// Before the umask is taken off.
    pub permission: u16,
    pub create_parent: bool,
    /// `host:port` of datanodes that the first replicas should go to.
    pub favored_nodes: Vec<String>,
    /// The file will have data, and soon: its first block is asked for with the file, which spares a call
    /// where the namenode is one of ours. A writer that closes without data has one more instead.
    pub expects_data: bool,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            overwrite: false,
            replication: None,
            block_size: None,
            permission: 0o666,
            create_parent: true,
            favored_nodes: Vec::new(),
            expects_data: true,
        }
    }
}

/// What sums a file up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CombineMode {
    /// MD5 of MD5s of CRCs: depends on block and chunk size.
    Md5Md5Crc,
    /// The CRC of the file's bytes.
    CompositeCrc,
}

impl Client {
    /// `uri` is `hdfs://host[:port]`, by default `fs.defaultFS`. The user is `HADOOP_USER_NAME`, else
    /// the login's. Nothing is sent until the first call.
    pub fn connect(config: &Configuration, uri: Option<&str>) -> Result<Self, ClientError> {
        Self::connect_as(config, uri, user_name(), Uuid::new_v4().simple())
    }

    /// A client on a host of a simulated world, where the user names the host; `instance` tells the
    /// clients there apart.
    #[cfg(feature = "simulation")]
    pub fn simulated(
        config: &Configuration,
        host: &str,
        instance: u64,
    ) -> Result<Self, ClientError> {
        Self::connect_as(config, None, host.to_owned(), format!("{host}_{instance}"))
    }

    fn connect_as(
        config: &Configuration,
        uri: Option<&str>,
        user: String,
        instance: impl std::fmt::Display,
    ) -> Result<Self, ClientError> {
        let settings = ClientSettings::from_configuration(config)?;
        let address = namenode_address(config, uri)?;
        let client_name = format!("ringfs_client_{instance}");
        let namenode = Namenode::new(&address, &user, &settings);
        let shared = Shared {
            leases: LeaseRenewal::new(namenode.clone(), client_name.clone()),
            connector: DatanodeConnector::new(&settings, &user),
            local_replicas: settings.short_circuit.clone().map(LocalReplicas::new),
            uri: format!("hdfs://{address}"),
            server_defaults: OnceCell::new(),
            namenode,
            settings,
            client_name,
            user,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub fn user(&self) -> &str {
        &self.shared.user
    }

    /// `hdfs://host:port`
    pub fn uri(&self) -> &str {
        &self.shared.uri
    }

    /// `/user/NAME`
    pub fn home_directory(&self) -> String {
        format!("{}/{}", self.shared.settings.home_prefix, self.shared.user)
    }

    /// `fs.permissions.umask-mode`
    pub fn umask(&self) -> u16 {
        self.shared.settings.umask
    }

    pub async fn file_status(&self, path: &str) -> Result<Option<FileStatus>, ClientError> {
        let request = GetFileInfoRequestProto { src: path.to_owned() };
        let reply: GetFileInfoResponseProto = self.call("getFileInfo", &request).await?;
        Ok(reply.fs.map(|status| FileStatus::of(path, status)))
    }

    pub async fn file_link_status(&self, path: &str) -> Result<Option<FileStatus>, ClientError> {
        let request = GetFileLinkInfoRequestProto { src: path.to_owned() };
        let reply: GetFileLinkInfoResponseProto = self.call("getFileLinkInfo", &request).await?;
        Ok(reply.fs.map(|status| FileStatus::of(path, status)))
    }

    /// All entries of a directory, or the file itself; FileNotFoundException when there is neither.
    pub async fn list(&self, path: &str) -> Result<Vec<FileStatus>, ClientError> {
        let mut pages = self.list_pages(path);
        let mut entries = Vec::new();
        while let Some(page) = pages.next_page().await? {
            entries.extend(page);
        }
        Ok(entries)
    }

    pub fn list_pages(&self, path: &str) -> ListPages {
        ListPages { client: self.clone(), path: path.to_owned(), next: Some(Vec::new()) }
    }

    /// `mode` before the umask is taken off (usually 0o777).
    pub async fn mkdirs(&self, path: &str, mode: u16, parents: bool) -> Result<(), ClientError> {
        let request = MkdirsRequestProto {
            src: path.to_owned(),
            masked: permission(mode & !self.umask()),
            create_parent: parents,
            unmasked: Some(permission(mode)),
        };
        self.call::<_, MkdirsResponseProto>("mkdirs", &request).await.map(drop)
    }

    /// False when there was nothing to delete.
    pub async fn delete(&self, path: &str, recursive: bool) -> Result<bool, ClientError> {
        let request = DeleteRequestProto { src: path.to_owned(), recursive };
        let reply: DeleteResponseProto = self.call("delete", &request).await?;
        Ok(reply.result)
    }

    /// AccessControlException when the user may not do that with the path.
    pub async fn check_access(&self, path: &str, action: FsActionProto) -> Result<(), ClientError> {
        let request = CheckAccessRequestProto { path: path.to_owned(), mode: action as i32 };
        self.call::<_, CheckAccessResponseProto>("checkAccess", &request).await.map(drop)
    }

    /// The old rename, into a directory that exists: false when it cannot be done.
    pub async fn rename(&self, src: &str, dst: &str) -> Result<bool, ClientError> {
        let request = RenameRequestProto { src: src.to_owned(), dst: dst.to_owned() };
        let reply: RenameResponseProto = self.call("rename", &request).await?;
        Ok(reply.result)
    }

    pub async fn rename2(
        &self,
        src: &str,
        dst: &str,
        overwrite: bool,
        to_trash: bool,
    ) -> Result<(), ClientError> {
        let request = Rename2RequestProto {
            src: src.to_owned(),
            dst: dst.to_owned(),
            overwrite_dest: overwrite,
            move_to_trash: Some(to_trash),
        };
        self.call::<_, Rename2ResponseProto>("rename2", &request).await.map(drop)
    }

    /// Sets exactly `mode`: no umask.
    pub async fn set_permission(&self, path: &str, mode: u16) -> Result<(), ClientError> {
        let request =
            SetPermissionRequestProto { src: path.to_owned(), permission: permission(mode) };
        self.call::<_, SetPermissionResponseProto>("setPermission", &request).await.map(drop)
    }

    pub async fn set_owner(
        &self,
        path: &str,
        owner: Option<&str>,
        group: Option<&str>,
    ) -> Result<(), ClientError> {
        let request = SetOwnerRequestProto {
            src: path.to_owned(),
            username: owner.map(str::to_owned),
            groupname: group.map(str::to_owned),
        };
        self.call::<_, SetOwnerResponseProto>("setOwner", &request).await.map(drop)
    }

    /// `None` leaves a time as it is.
    pub async fn set_times(
        &self,
        path: &str,
        mtime_ms: Option<u64>,
        atime_ms: Option<u64>,
    ) -> Result<(), ClientError> {
        const AS_IT_IS: u64 = u64::MAX; // -1 in Java
        let request = SetTimesRequestProto {
            src: path.to_owned(),
            mtime: mtime_ms.unwrap_or(AS_IT_IS),
            atime: atime_ms.unwrap_or(AS_IT_IS),
        };
        self.call::<_, SetTimesResponseProto>("setTimes", &request).await.map(drop)
    }

    /// False for a directory.
    pub async fn set_replication(&self, path: &str, replication: u16) -> Result<bool, ClientError> {
        let request =
            SetReplicationRequestProto { src: path.to_owned(), replication: replication.into() };
        let reply: SetReplicationResponseProto = self.call("setReplication", &request).await?;
        Ok(reply.result)
    }

    pub async fn content_summary(&self, path: &str) -> Result<ContentSummaryProto, ClientError> {
        let request = GetContentSummaryRequestProto { path: path.to_owned() };
        let reply: GetContentSummaryResponseProto =
            self.call("getContentSummary", &request).await?;
        Ok(reply.summary)
    }

    pub async fn fs_stats(&self) -> Result<GetFsStatsResponseProto, ClientError> {
        self.call("getFsStats", &GetFsStatusRequestProto {}).await
    }

    /// Asked once, then kept.
    pub async fn server_defaults(&self) -> Result<&FsServerDefaultsProto, ClientError> {
        let ask = || async {
            let request = GetServerDefaultsRequestProto {};
            let reply: GetServerDefaultsResponseProto =
                self.call("getServerDefaults", &request).await?;
            Ok(reply.server_defaults)
        };
        self.shared.server_defaults.get_or_try_init(ask).await
    }

    /// The blocks that overlap `len` bytes from `offset` on.
    pub async fn block_locations(
        &self,
        path: &str,
        offset: u64,
        len: u64,
    ) -> Result<Vec<BlockLocation>, ClientError> {
        let located = self.shared.namenode.block_locations(path, offset, len).await?;
        Ok(located.blocks.into_iter().map(BlockLocation::from).collect())
    }

    /// What `hdfs dfs -checksum` prints. The blocks' checksums are computed by their datanodes.
    pub async fn file_checksum(
        &self,
        path: &str,
        mode: CombineMode,
    ) -> Result<FileChecksum, ClientError> {
        self.shared.file_checksum(path, mode).await
    }

    /// True when done; false when the last block is still being cut by its datanodes.
    pub async fn truncate(&self, path: &str, new_len: u64) -> Result<bool, ClientError> {
        let request = TruncateRequestProto {
            src: path.to_owned(),
            new_length: new_len,
            client_name: self.shared.client_name.clone(),
        };
        let reply: TruncateResponseProto = self.call("truncate", &request).await?;
        Ok(reply.result)
    }

    /// Moves the blocks of `sources` to the end of `target`.
    pub async fn concat(&self, target: &str, sources: &[&str]) -> Result<(), ClientError> {
        let request = ConcatRequestProto {
            trg: target.to_owned(),
            srcs: sources.iter().map(|source| (*source).to_owned()).collect(),
        };
        self.call::<_, ConcatResponseProto>("concat", &request).await.map(drop)
    }

    /// True when the file is closed.
    pub async fn recover_lease(&self, path: &str) -> Result<bool, ClientError> {
        let request = RecoverLeaseRequestProto {
            src: path.to_owned(),
            client_name: self.shared.client_name.clone(),
        };
        let reply: RecoverLeaseResponseProto = self.call("recoverLease", &request).await?;
        Ok(reply.result)
    }

    pub async fn is_file_closed(&self, path: &str) -> Result<bool, ClientError> {
        let request = IsFileClosedRequestProto { src: path.to_owned() };
        let reply: IsFileClosedResponseProto = self.call("isFileClosed", &request).await?;
        Ok(reply.result)
    }

    pub async fn datanode_report(
        &self,
        kind: DatanodeReportTypeProto,
    ) -> Result<Vec<DatanodeInfoProto>, ClientError> {
        let request = GetDatanodeReportRequestProto { r#type: kind as i32 };
        let reply: GetDatanodeReportResponseProto =
            self.call("getDatanodeReport", &request).await?;
        Ok(reply.di)
    }

    /// Whether the namenode is in safe mode after `action`.
    pub async fn safe_mode(&self, action: SafeModeActionProto) -> Result<bool, ClientError> {
        let request = SetSafeModeRequestProto { action: action as i32, checked: Some(false) };
        let reply: SetSafeModeResponseProto = self.call("setSafeMode", &request).await?;
        Ok(reply.result)
    }

    pub async fn create(
        &self,
        path: &str,
        options: CreateOptions,
    ) -> Result<FileWriter, ClientError> {
        let shared = &self.shared;
        let defaults = self.server_defaults().await?;
        let replication = options.replication.or(shared.settings.replication);
        let block_size = options.block_size.or(shared.settings.block_size);
        let block_size = block_size.unwrap_or(defaults.block_size);
        let checksum = checksum_of(defaults, shared)?;
        if block_size == 0 || !block_size.is_multiple_of(u64::from(checksum.bytes_per_checksum)) {
            let what = format!("{path}: block size {block_size}");
            let why = format!("not a multiple of {} bytes", checksum.bytes_per_checksum);
            return Err(ClientError::Invalid { what, why });
        }
        let overwrite = if options.overwrite { CreateFlagProto::Overwrite as u32 } else { 0 };
        let request = CreateRequestProto {
            src: path.to_owned(),
            masked: permission(options.permission & !self.umask()),
            client_name: shared.client_name.clone(),
            create_flag: CreateFlagProto::Create as u32 | overwrite,
            create_parent: options.create_parent,
            replication: replication.map_or(defaults.replication, u32::from),
            block_size,
            crypto_protocol_version: Vec::new(),
            unmasked: Some(permission(options.permission)),
            ec_policy_name: None,
            storage_policy: None,
            wants_first_block: (options.expects_data && options.favored_nodes.is_empty())
                .then_some(true),
        };
        // Held from before the file exists, so that its lease is never without renewal.
        let lease = shared.leases.hold();
        let reply: CreateResponseProto = self.call("create", &request).await?;
        let status = self.created_status(path, reply.fs).await?;
        let replication = usize::from(status.replication);
        Ok(FileWriter::start(WriterParts {
            namenode: shared.namenode.clone(),
            connector: shared.connector.clone(),
            lease,
            file: self.open_file(path, &status),
            rules: self.streamer_rules(path, replication),
            checksum,
            packet_size: packet_size(defaults, shared),
            block_size: status.block_size,
            favored_nodes: options.favored_nodes,
            position: 0,
            last_block: reply
                .first_block
                .map_or(LastBlock::None, |block| LastBlock::Allocated(Box::new(block))),
        }))
    }

    /// Opens a file to write at its end.
    pub async fn append(&self, path: &str) -> Result<FileWriter, ClientError> {
        self.append_with(path, CreateFlagProto::Append as u32).await
    }

    /// As [`Client::append`], in a new block whatever room the last one has.
    pub async fn append_new_block(&self, path: &str) -> Result<FileWriter, ClientError> {
        let flags = CreateFlagProto::Append as u32 | CreateFlagProto::NewBlock as u32;
        self.append_with(path, flags).await
    }

    pub async fn open(&self, path: &str) -> Result<FileReader, ClientError> {
        FileReader::open(self.clone(), path).await
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    async fn call<Req: prost::Message, Resp: prost::Message + Default>(
        &self,
        method: &str,
        request: &Req,
    ) -> Result<Resp, ClientError> {
        self.shared.namenode.call(method, request).await
    }

    async fn append_with(&self, path: &str, flags: u32) -> Result<FileWriter, ClientError> {
        let shared = &self.shared;
        let defaults = self.server_defaults().await?;
        let request = AppendRequestProto {
            src: path.to_owned(),
            client_name: shared.client_name.clone(),
            flag: Some(flags),
        };
        let lease = shared.leases.hold();
        let reply: AppendResponseProto = self.call("append", &request).await?;
        let status = self.created_status(path, reply.stat).await?;
        let replication = usize::from(status.replication);
        let last_block = match reply.block {
            None => LastBlock::None,
            Some(block) if flags & CreateFlagProto::NewBlock as u32 != 0 => {
                LastBlock::Finished(ExtendedBlock::from(&block.b))
            }
            Some(block) => LastBlock::Appended(Box::new(block)),
        };
        Ok(FileWriter::start(WriterParts {
            namenode: shared.namenode.clone(),
            connector: shared.connector.clone(),
            lease,
            file: self.open_file(path, &status),
            rules: self.streamer_rules(path, replication),
            checksum: checksum_of(defaults, shared)?,
            packet_size: packet_size(defaults, shared),
            block_size: status.block_size,
            favored_nodes: Vec::new(),
            position: status.len,
            last_block,
        }))
    }

    /// The status in a reply, or asked for where an old namenode leaves it out.
    async fn created_status(
        &self,
        path: &str,
        status: Option<HdfsFileStatusProto>,
    ) -> Result<FileStatus, ClientError> {
        match status {
            Some(status) => Ok(FileStatus::of(path, status)),
            None => self
                .file_status(path)
                .await?
                .ok_or_else(|| file_not_found(format!("File does not exist: {path}"))),
        }
    }

    fn open_file(&self, path: &str, status: &FileStatus) -> OpenFile {
        OpenFile {
            path: path.to_owned(),
            file_id: status.file_id,
            holder: self.shared.client_name.clone(),
        }
    }

    fn streamer_rules(&self, path: &str, replication: usize) -> StreamerRules {
        let settings = &self.shared.settings;
        StreamerRules {
            path: path.to_owned(),
            replication,
            window: settings.packets_in_flight_max,
            block_write_retries: settings.block_write_retries,
            timeouts: settings.pipeline_timeouts(),
            exclusion: settings.exclusion,
            replacement: settings.replacement,
            replacement_best_effort: settings.replacement_best_effort,
            restart_timeout: settings.restart_timeout,
            is_local,
        }
    }
}

/// The entries of a directory, page by page.
#[derive(Debug)]
pub struct ListPages {
    client: Client,
    path: String,
    /// The name after which the next page starts; `None` after the last page.
    next: Option<Vec<u8>>,
}

impl ListPages {
    /// The next entries; `None` after the last.
    pub async fn next_page(&mut self) -> Result<Option<Vec<FileStatus>>, ClientError> {
        let Some(start_after) = self.next.take() else {
            return Ok(None);
        };
        let request =
            GetListingRequestProto { src: self.path.clone(), start_after, need_location: false };
        let reply: GetListingResponseProto = self.client.call("getListing", &request).await?;
        let listing = reply
            .dir_list
            .ok_or_else(|| file_not_found(format!("File {} does not exist.", self.path)))?;
        if listing.remaining_entries > 0 {
            self.next = listing.partial_listing.last().map(|entry| entry.path.clone());
        }
        let entries = listing.partial_listing.into_iter();
        Ok(Some(entries.map(|entry| FileStatus::of_entry(&self.path, entry)).collect()))
    }
}

fn permission(bits: u16) -> FsPermissionProto {
    FsPermissionProto { perm: bits.into() }
}

fn packet_size(defaults: &FsServerDefaultsProto, shared: &Shared) -> usize {
    let size = shared.settings.packet_size.unwrap_or(defaults.write_packet_size.into());
    size.min(PACKET_MAX_BYTES as u64) as usize
}

fn checksum_of(
    defaults: &FsServerDefaultsProto,
    shared: &Shared,
) -> Result<DataChecksum, ClientError> {
    let kind = match shared.settings.checksum_type {
        Some(kind) => kind,
        None => {
            let number = defaults.checksum_type.unwrap_or(ChecksumTypeProto::ChecksumCrc32 as i32);
            ChecksumType::from_number(number).ok_or_else(|| ClientError::Invalid {
                what: shared.uri.clone(),
                why: format!("its default checksum is of an unknown type, {number}"),
            })?
        }
    };
    let chunk_size = shared.settings.bytes_per_checksum.unwrap_or(defaults.bytes_per_checksum);
    DataChecksum::new(kind, chunk_size)
        .map_err(|source| ClientError::Protocol { peer: shared.uri.clone(), source })
}

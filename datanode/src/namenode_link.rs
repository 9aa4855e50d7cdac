//! This datanode's side of DatanodeProtocol: register, then heartbeats, reports of blocks, and the
//! commands that ride on the replies. One task on the control thread makes one call at a time, so
//! the namenode never sees an older state of a block after a newer one.
//!
//! | event | what follows |
//! |---|---|
//! | no connection | one warning, then a try every second for ever; queued changes wait |
//! | heartbeat answered with REGISTER (the namenode restarted) | versionRequest, register, full report |
//! | full report due | a heartbeat asks for a lease; with the lease the report is sent |
//! | registered | what is known to be corrupt is told first, so that our namenode never counts it; after each full report again, for Apache's takes no word of a replica not reported yet |
//! | a namenode that knows no leases (2.7, or none granted in [`LEASE_TRIES`]) | reported without |
//! | another cluster's namenode, or one that refuses this node | the datanode stops with the reason |

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use ringfs_protocol::block_report::{encode_buffers, encode_longs};
use ringfs_protocol::error::java;
use ringfs_protocol::messages::{
    BlockKeyProto, BlockReceivedAndDeletedRequestProto, BlockReceivedAndDeletedResponseProto,
    BlockReportContextProto, BlockReportRequestProto, BlockReportResponseProto,
    DatanodeCommandProto, DatanodeCommandType, DatanodeIDProto, DatanodeInfoProto,
    DatanodeRegistrationProto, DatanodeStorageProto, ErrorReportRequestProto,
    ErrorReportResponseProto, ExportedBlockKeysProto, HeartbeatRequestProto,
    HeartbeatResponseProto, LocatedBlockProto, NamespaceInfoProto, RegisterDatanodeRequestProto,
    RegisterDatanodeResponseProto, ReportBadBlocksRequestProto, ReportBadBlocksResponseProto,
    SlowDiskReportProto, StorageBlockReportProto, StorageInfoProto, StorageReportProto,
    StorageState, TokenProto, VersionRequestProto, VersionResponseProto, VolumeFailureSummaryProto,
};
use ringfs_protocol::meta_file::DatanodeLayout;
use ringfs_protocol::rpc::client::{RpcClient, RpcError};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::activity::Activity;
use crate::config::DatanodeConfig;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::slow_volumes::are_slow;
use crate::storage_directory::NamespaceIdentity;
use crate::volume::Volume;
use crate::volume_health::VolumeFailure;

/// Heartbeats that ask in vain for a lease before a full report goes without one.
const LEASE_TRIES: u32 = 10;
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// STORAGE_BLOCK_REPORT_BUFFERS of `NamespaceInfoProto::capabilities`.
const CAPABILITY_BUFFERS: u64 = 1;
/// What this node calls itself towards a namenode whose own version cannot be read.
const FALLBACK_VERSION: &str = "3.3.6";

/// How this datanode is known: fixed while the process runs.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    pub datanode_uuid: String,
    pub host_name: String,
    /// As bound, so that port 0 becomes the real one.
    pub transfer_address: std::net::SocketAddr,
    pub ipc_port: u16,
    pub http_port: u16,
    pub layout: DatanodeLayout,
}

impl NodeIdentity {
    pub fn to_proto(&self) -> DatanodeIDProto {
        DatanodeIDProto {
            // The namenode puts the address it sees the connection come from.
            ip_addr: self.transfer_address.ip().to_string(),
            host_name: self.host_name.clone(),
            datanode_uuid: self.datanode_uuid.clone(),
            xfer_port: self.transfer_address.port().into(),
            info_port: self.http_port.into(),
            ipc_port: self.ipc_port.into(),
            info_secure_port: Some(0),
        }
    }
}

/// Wishes from other parts of the datanode.
#[derive(Debug, Default)]
pub struct LinkRequests {
    full_report: Notify,
    changes: Notify,
    /// Error reports that wait to be sent: one for each volume that failed, at most.
    errors: Mutex<VecDeque<(u32, String)>>,
    errors_sent: Notify,
}

impl LinkRequests {
    pub fn report_all(&self) {
        self.full_report.notify_one();
    }

    pub fn report_changes(&self) {
        self.changes.notify_one();
    }

    /// Reports an error (`ErrorReportRequestProto.errorCode`) soon.
    pub fn report_error(&self, code: u32, message: String) {
        self.errors.lock().push_back((code, message));
        self.changes.notify_one();
    }

    /// Resolves when the errors have been reported.
    pub async fn errors_sent(&self) {
        while !self.errors.lock().is_empty() {
            self.errors_sent.notified().await;
        }
    }
}

pub struct NamenodeLink {
    pub rpc: RpcClient,
    pub config: Arc<DatanodeConfig>,
    pub dataset: Arc<Dataset>,
    pub identity: NodeIdentity,
    pub namespace: NamespaceInfoProto,
    pub activity: Arc<Activity>,
    pub requests: Arc<LinkRequests>,
    /// Where commands other than REGISTER go. The namenode limits what it sends with a heartbeat.
    pub commands: mpsc::UnboundedSender<DatanodeCommandProto>,
}

/// What lasts from one registration to the next.
struct Session {
    registration: DatanodeRegistrationProto,
    full_report_at: Instant,
    leases_asked_in_vain: u32,
    slow_disks_at: Instant,
    /// Since when calls fail, to warn once and to tell how long it took.
    failing_since: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Register,
}

/// Asks for the namespace until a namenode answers.
pub async fn namespace_info(rpc: &RpcClient, namenode: &str) -> Result<NamespaceInfoProto> {
    let mut pause = Duration::from_millis(100);
    let mut warned = false;
    loop {
        let reply: std::result::Result<VersionResponseProto, _> =
            rpc.call("versionRequest", &VersionRequestProto {}).await;
        match reply {
            Ok(reply) => return Ok(reply.info),
            Err(error) => {
                if let Some(refusal) = refusal(&error) {
                    return Err(refusal);
                }
                if !warned {
                    warn!(namenode, %error, "no answer from the namenode yet: trying on");
                    warned = true;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

impl NamenodeLink {
    /// Returns only with the reason why this datanode cannot serve its namenode.
    pub async fn run(mut self) -> Result<std::convert::Infallible> {
        let mut first = true;
        loop {
            if !first {
                self.meet_namenode_again().await?;
            }
            first = false;
            let mut session = self.register().await?;
            self.serve(&mut session).await?;
        }
    }

    async fn meet_namenode_again(&mut self) -> Result<()> {
        let info = namespace_info(&self.rpc, &self.config.namenode_address).await?;
        let (known, now) =
            (NamespaceIdentity::from(&self.namespace), NamespaceIdentity::from(&info));
        if known != now {
            return Err(DatanodeError::ForeignStorage {
                path: format!("the directories of {}", self.identity.datanode_uuid),
                key: "namespaces",
                namenode: format!("{now:?}"),
                found: format!("{known:?}"),
            });
        }
        self.namespace = info;
        Ok(())
    }

    async fn register(&self) -> Result<Session> {
        let request = RegisterDatanodeRequestProto { registration: self.registration() };
        let mut warned = false;
        loop {
            let reply: std::result::Result<RegisterDatanodeResponseProto, _> =
                self.rpc.call("registerDatanode", &request).await;
            match reply {
                Ok(reply) => {
                    self.dataset.reports().repeat_bad();
                    let id = &reply.registration.datanode_id;
                    info!(
                        namenode = self.config.namenode_address,
                        namenode_version = self.namespace.software_version,
                        pool = self.namespace.block_pool_id,
                        address = format!("{}:{}", id.ip_addr, id.xfer_port),
                        uuid = id.datanode_uuid,
                        "registered"
                    );
                    return Ok(Session {
                        registration: reply.registration,
                        full_report_at: Instant::now() + self.initial_report_delay(),
                        leases_asked_in_vain: 0,
                        slow_disks_at: Instant::now() + self.config.slow_disks_report_interval,
                        failing_since: None,
                    });
                }
                Err(error) => {
                    if let Some(refusal) = refusal(&error) {
                        return Err(refusal);
                    }
                    if !warned {
                        warn!(%error, "registration failed: trying on");
                        warned = true;
                    }
                }
            }
            tokio::time::sleep(RETRY_PAUSE_MAX).await;
        }
    }

    /// Heartbeats and reports until the namenode wants a registration.
    async fn serve(&self, session: &mut Session) -> Result<()> {
        let mut heartbeat_at = Instant::now();
        loop {
            let done = tokio::select! {
                biased;
                () = tokio::time::sleep_until(heartbeat_at) => {
                    heartbeat_at = Instant::now() + self.config.heartbeat_interval;
                    self.heartbeat(session).await
                }
                () = self.dataset.reports().due() => self.send_changes(session).await,
                () = self.requests.changes.notified() => self.send_changes(session).await,
                () = self.requests.full_report.notified() => {
                    session.full_report_at = Instant::now();
                    heartbeat_at = Instant::now();
                    continue;
                }
            };
            match done {
                Ok(Next::Register) => return Ok(()),
                Ok(Next::Continue) => {
                    if let Some(since) = session.failing_since.take() {
                        let seconds = since.elapsed().as_secs();
                        info!(seconds, "the namenode answers again");
                    }
                }
                Err(error) => {
                    if is_unregistered(&error) {
                        return Ok(());
                    }
                    if let Some(refusal) = refusal(&error) {
                        return Err(refusal);
                    }
                    if session.failing_since.is_none() {
                        warn!(%error, "a call to the namenode failed: trying on");
                        session.failing_since = Some(Instant::now());
                    }
                    let pause = self.config.heartbeat_interval.min(RETRY_PAUSE_MAX);
                    tokio::time::sleep(pause).await;
                    heartbeat_at = Instant::now();
                }
            }
        }
    }

    async fn heartbeat(&self, session: &mut Session) -> std::result::Result<Next, RpcError> {
        let report_due = Instant::now() >= session.full_report_at;
        let failures = self.dataset.failures();
        let request = HeartbeatRequestProto {
            registration: session.registration.clone(),
            reports: self.storage_reports(),
            xmits_in_progress: Some(self.activity.transfers()),
            xceiver_count: Some(self.activity.streams()),
            failed_volumes: Some(failures.len() as u32),
            cache_capacity: Some(0),
            cache_used: Some(0),
            volume_failure_summary: failure_summary(&failures),
            request_full_block_report_lease: Some(report_due),
            slow_disks: self.slow_disks(session),
        };
        let reply: HeartbeatResponseProto = self.rpc.call("sendHeartbeat", &request).await?;
        for command in reply.cmds {
            if command.cmd_type == DatanodeCommandType::RegisterCommand as i32 {
                info!("the namenode asks this datanode to register");
                return Ok(Next::Register);
            }
            self.pass_on(command);
        }
        if report_due {
            let lease = reply.full_block_report_lease_id.unwrap_or(0);
            if lease != 0 || self.may_report_without_lease(session) {
                self.send_full_report(session, lease).await?;
            }
        }
        self.send_changes(session).await
    }

    /// Namenodes before 2.8 know no leases; of a later one a few refusals mean "wait".
    fn may_report_without_lease(&self, session: &mut Session) -> bool {
        session.leases_asked_in_vain += 1;
        let version = &self.namespace.software_version;
        let knows_leases = major_minor(version).is_none_or(|version| version >= (2, 8));
        !knows_leases || session.leases_asked_in_vain >= LEASE_TRIES
    }

    async fn send_full_report(
        &self,
        session: &mut Session,
        lease: u64,
    ) -> std::result::Result<(), RpcError> {
        self.send_changes(session).await?;
        let started = Instant::now();
        let report = self.dataset.report();
        let blocks: usize = report.iter().map(Vec::len).sum();
        let with_buffers = self.namespace.capabilities() & CAPABILITY_BUFFERS != 0;
        let mut storages: Vec<StorageBlockReportProto> = Vec::with_capacity(report.len());
        for (volume, replicas) in self.dataset.volumes().iter().zip(&report) {
            if volume.is_failed() {
                continue;
            }
            let storage = storage_proto(volume);
            storages.push(if with_buffers {
                StorageBlockReportProto {
                    storage,
                    blocks: Vec::new(),
                    number_of_blocks: Some(replicas.len() as u64),
                    blocks_buffers: encode_buffers(replicas),
                }
            } else {
                StorageBlockReportProto {
                    storage,
                    blocks: encode_longs(replicas),
                    number_of_blocks: None,
                    blocks_buffers: Vec::new(),
                }
            });
        }
        let messages: Vec<Vec<StorageBlockReportProto>> =
            if (blocks as u64) < self.config.block_report_split_threshold {
                vec![storages]
            } else {
                storages.into_iter().map(|storage| vec![storage]).collect()
            };
        let (total_rpcs, id) = (messages.len() as i32, rand::random_range(1..i64::MAX));
        for (index, reports) in messages.into_iter().enumerate() {
            let request = BlockReportRequestProto {
                registration: session.registration.clone(),
                block_pool_id: self.dataset.pool_id().to_owned(),
                reports,
                context: Some(BlockReportContextProto {
                    total_rpcs,
                    cur_rpc: index as i32,
                    id,
                    lease_id: Some(lease),
                    sorted: None,
                }),
            };
            let reply: BlockReportResponseProto = self.rpc.call("blockReport", &request).await?;
            if let Some(command) = reply.cmd {
                self.pass_on(command);
            }
        }
        self.dataset.reports().repeat_bad();
        session.leases_asked_in_vain = 0;
        session.full_report_at = Instant::now() + self.config.block_report_interval;
        let millis = started.elapsed().as_millis() as u64;
        info!(blocks, messages = total_rpcs, lease, millis, "sent a full block report");
        Ok(())
    }

    /// Incremental report, corrupt replicas and errors.
    async fn send_changes(&self, session: &Session) -> std::result::Result<Next, RpcError> {
        self.send_errors(session).await?;
        self.send_bad_blocks(session).await?;
        let changes = self.dataset.reports().take();
        if changes.is_empty() {
            return Ok(Next::Continue);
        }
        let blocks = changes.iter().filter_map(|storage| {
            let volume = self.volume(&storage.storage_id)?;
            Some(storage.to_proto(storage_proto(volume)))
        });
        let request = BlockReceivedAndDeletedRequestProto {
            registration: session.registration.clone(),
            block_pool_id: self.dataset.pool_id().to_owned(),
            blocks: blocks.collect(),
        };
        let sent: std::result::Result<BlockReceivedAndDeletedResponseProto, _> =
            self.rpc.call("blockReceivedAndDeleted", &request).await;
        if let Err(error) = sent {
            self.dataset.reports().put_back(changes);
            return Err(error);
        }
        debug!(bytes = request.encoded_len(), "sent an incremental block report");
        Ok(Next::Continue)
    }

    async fn send_errors(&self, session: &Session) -> std::result::Result<(), RpcError> {
        loop {
            let Some((error_code, msg)) = self.requests.errors.lock().front().cloned() else {
                return Ok(());
            };
            let registration = session.registration.clone();
            let request = ErrorReportRequestProto { registration, error_code, msg };
            let _: ErrorReportResponseProto = self.rpc.call("errorReport", &request).await?;
            self.requests.errors.lock().pop_front();
            self.requests.errors_sent.notify_one();
        }
    }

    async fn send_bad_blocks(&self, session: &Session) -> std::result::Result<(), RpcError> {
        let bad = self.dataset.reports().take_bad();
        if bad.is_empty() {
            return Ok(());
        }
        let location = DatanodeInfoProto {
            id: session.registration.datanode_id.clone(),
            ..DatanodeInfoProto::default()
        };
        let blocks = bad.iter().map(|(storage_id, block)| LocatedBlockProto {
            b: ringfs_protocol::messages::ExtendedBlockProto {
                pool_id: self.dataset.pool_id().to_owned(),
                block_id: block.id.0,
                generation_stamp: block.generation_stamp.0,
                num_bytes: Some(block.num_bytes),
            },
            offset: 0,
            locs: vec![location.clone()],
            corrupt: false,
            block_token: TokenProto::default(),
            is_cached: vec![false],
            storage_types: self
                .volume(storage_id)
                .map(|v| v.storage_type() as i32)
                .into_iter()
                .collect(),
            storage_ids: vec![storage_id.clone()],
            block_indices: None,
            block_tokens: Vec::new(),
        });
        let request = ReportBadBlocksRequestProto { blocks: blocks.collect() };
        let sent: std::result::Result<ReportBadBlocksResponseProto, _> =
            self.rpc.call("reportBadBlocks", &request).await;
        if let Err(error) = sent {
            self.dataset.reports().put_back_bad(bad);
            return Err(error);
        }
        Ok(())
    }

    fn pass_on(&self, command: DatanodeCommandProto) {
        // The receiver is gone only while the datanode stops.
        let _ = self.commands.send(command);
    }

    fn registration(&self) -> DatanodeRegistrationProto {
        let identity = &self.identity;
        let namenode_version = &self.namespace.software_version;
        DatanodeRegistrationProto {
            datanode_id: identity.to_proto(),
            storage_info: StorageInfoProto {
                layout_version: identity.layout.version() as u32,
                ..self.namespace.storage_info.clone()
            },
            keys: ExportedBlockKeysProto {
                is_block_token_enabled: false,
                key_update_interval: 0,
                token_life_time: 0,
                current_key: BlockKeyProto { key_id: 0, expiry_date: 0, key_bytes: None },
                all_keys: Vec::new(),
            },
            // Namenodes are strict about datanodes of another version than their own.
            software_version: match major_minor(namenode_version) {
                Some(_) => namenode_version.clone(),
                None => FALLBACK_VERSION.to_owned(),
            },
        }
    }

    /// Without failed volumes: that is how namenodes learn that a storage is lost.
    fn storage_reports(&self) -> Vec<StorageReportProto> {
        let volumes = self.dataset.volumes().iter().filter(|volume| !volume.is_failed());
        volumes.map(|volume| storage_report(volume)).collect()
    }

    /// Those of the last interval, when it has just ended.
    fn slow_disks(&self, session: &mut Session) -> Vec<SlowDiskReportProto> {
        if Instant::now() < session.slow_disks_at {
            return Vec::new();
        }
        session.slow_disks_at = Instant::now() + self.config.slow_disks_report_interval;
        let volumes = self.dataset.volumes();
        let mean = |volume: &Arc<Volume>| volume.health().write_times().take_mean_ms();
        let means: Vec<Option<f64>> = volumes.iter().map(mean).collect();
        let slow = volumes.iter().zip(&means).zip(are_slow(&means)).filter(|(_, slow)| *slow);
        let report = |((volume, mean), _): ((&Arc<Volume>, &Option<f64>), bool)| {
            warn!(volume = %volume.root().display(), mean_write_ms = mean, "the volume is slow");
            SlowDiskReportProto {
                base_path: Some(volume.location()),
                mean_write_io_latency: *mean,
                ..SlowDiskReportProto::default()
            }
        };
        slow.map(report).collect()
    }

    fn volume(&self, storage_id: &str) -> Option<&Arc<Volume>> {
        let mut volumes = self.dataset.volumes().iter().filter(|volume| !volume.is_failed());
        volumes.find(|volume| volume.storage_id() == storage_id)
    }

    fn initial_report_delay(&self) -> Duration {
        let most = self.config.block_report_initial_delay;
        most.mul_f64(rand::random::<f64>())
    }
}

fn storage_report(volume: &Volume) -> StorageReportProto {
    let usage = volume.usage();
    StorageReportProto {
        storage_uuid: volume.storage_id().to_owned(),
        failed: Some(false),
        capacity: Some(usage.capacity_bytes),
        dfs_used: Some(usage.dfs_used_bytes),
        remaining: Some(usage.remaining_bytes),
        block_pool_used: Some(usage.dfs_used_bytes),
        storage: Some(storage_proto(volume)),
        non_dfs_used: Some(usage.non_dfs_used_bytes),
        mount: None,
    }
}

fn failure_summary(failures: &[VolumeFailure]) -> Option<VolumeFailureSummaryProto> {
    let last = failures.iter().map(|failure| failure.time_ms).max()?;
    Some(VolumeFailureSummaryProto {
        failed_storage_locations: failures.iter().map(|f| f.location.clone()).collect(),
        last_volume_failure_date: last,
        estimated_capacity_lost_total: failures.iter().map(|f| f.capacity_lost_bytes).sum(),
    })
}

fn storage_proto(volume: &Volume) -> DatanodeStorageProto {
    DatanodeStorageProto {
        storage_uuid: volume.storage_id().to_owned(),
        state: Some(StorageState::Normal as i32),
        storage_type: Some(volume.storage_type() as i32),
    }
}

/// The error that ends the datanode, when the namenode will never have it.
fn refusal(error: &RpcError) -> Option<DatanodeError> {
    match error {
        RpcError::Remote(remote)
            if [java::DISALLOWED_DATANODE, java::INCORRECT_VERSION]
                .contains(&remote.class.as_str()) =>
        {
            Some(DatanodeError::Refused(remote.clone()))
        }
        _ => None,
    }
}

fn is_unregistered(error: &RpcError) -> bool {
    matches!(error, RpcError::Remote(remote) if remote.class == java::UNREGISTERED_NODE)
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(major_minor("2.7.3"), Some((2, 7)));
        assert_eq!(major_minor("3.10.0-SNAPSHOT"), Some((3, 10)));
        assert!(major_minor("2.10.1") > Some((2, 8)));
        assert_eq!(major_minor("ringfs"), None);
    }
}

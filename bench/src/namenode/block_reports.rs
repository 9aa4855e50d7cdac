//! Full block reports, as NNThroughputBenchmark makes them: `datanodes` that exist only here register,
//! get blocks of real files, and then report them all, again and again, each one report at a time.
//!
//! ```text
//! registerDatanode, sendHeartbeat ─► create, addBlock (no other datanode allowed),
//!   blockReceivedAndDeleted, complete ─► the clock runs: blockReport × reports
//!   ─► sendHeartbeat of no room left, errorReport of a fatal disk error: dead for the namenode
//! ```
//!
//! What stays is an entry for each among the namenode's dead datanodes until it is restarted; they
//! have the same ids each time, and ports that nobody uses. While they are alive the namenode may
//! choose them for other writers: measure a cluster that nobody else writes to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::block_report::{ReportedReplica, encode_buffers, encode_longs};
use ringfs_protocol::messages::*;
use ringfs_protocol::meta_file::DatanodeLayout;
use ringfs_protocol::rpc::client::RpcClient;
use tokio::runtime::Runtime;

use super::calls::Calls;
use super::driver::{Caller, Driver, Protocol, share};
use super::throughput::Load;
use crate::BenchError;
use crate::dfsio::join_all;
use crate::file_system::FileSystem;
use crate::report::{Latency, Run};

/// STORAGE_BLOCK_REPORT_BUFFERS of `NamespaceInfoProto::capabilities`.
const CAPABILITY_BUFFERS: u64 = 1;

/// What a datanode says that it has room for, so that it is chosen.
const CAPACITY_BYTES: u64 = 1 << 40;

/// Of each block; nothing is stored.
const BLOCK_BYTES: u64 = 1024;

/// Often enough for a namenode that calls a datanode stale after two seconds.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
pub struct BlockReportLoad {
    pub datanodes: u32,
    /// All datanodes together.
    pub reports: u64,
    pub blocks_per_report: u64,
    pub blocks_per_file: u64,
}

/// A datanode in name only.
#[derive(Clone)]
struct NominalDatanode {
    rpc: RpcClient,
    registration: DatanodeRegistrationProto,
    storage: DatanodeStorageProto,
    pool_id: String,
    takes_buffers: bool,
}

/// `runtime` is the one that the file system's client lives on.
pub fn run(
    driver: &Driver,
    load: &Load,
    reports: BlockReportLoad,
    file_system: &FileSystem,
    runtime: &Runtime,
) -> Result<Run, BenchError> {
    let (datanodes, requests) = runtime.block_on(make_datanodes(load, reports, file_system))?;
    let beating = runtime.spawn(keep_alive(datanodes.clone()));
    let requests = Arc::new(requests);
    let outcome = driver.drive(Protocol::Datanode, "blockReport", reports.datanodes, |caller| {
        report(caller, reports, requests.clone())
    });
    beating.abort();
    runtime.block_on(async {
        // Waited for: a last heartbeat of the task's must not come behind what follows.
        let _ = beating.await;
        for datanode in &datanodes {
            datanode.sign_off().await?;
        }
        Ok::<_, BenchError>(())
    })?;
    outcome
}

/// Datanodes that have their blocks, and the report of each.
async fn make_datanodes(
    load: &Load,
    reports: BlockReportLoad,
    file_system: &FileSystem,
) -> Result<(Vec<NominalDatanode>, Vec<BlockReportRequestProto>), BenchError> {
    let namespace = file_system.namespace().await?;
    let rpc = file_system.datanode_service();
    let mut datanodes = Vec::new();
    for number in 0..reports.datanodes {
        datanodes.push(NominalDatanode::register(rpc.clone(), &namespace, number).await?);
    }
    for datanode in &datanodes {
        datanode.heartbeat(CAPACITY_BYTES).await?;
    }
    // A wait for the blocks of many files can outlast a namenode's patience.
    let beating = tokio::spawn(keep_alive(datanodes.clone()));
    let known = file_system.client.datanode_report(DatanodeReportTypeProto::All).await?;
    let namenode = file_system.namenode();
    let given = join_all(datanodes.iter().cloned().enumerate().map(|(number, datanode)| {
        let holder = format!("ringfs_bench_{}_{number}", std::process::id());
        let calls = Calls { rpc: namenode.clone(), holder, rules: load.rules };
        let own = datanode.registration.datanode_id.datanode_uuid.clone();
        let others = known.iter().filter(|other| other.id.datanode_uuid != own).cloned().collect();
        let directory = load.directory.clone();
        async move {
            let replicas = datanode.receive_blocks(&calls, &directory, others, reports).await?;
            Ok(datanode.report(&replicas))
        }
    }))
    .await;
    beating.abort();
    let _ = beating.await;
    Ok((datanodes, given?))
}

async fn report(
    mut caller: Caller,
    load: BlockReportLoad,
    requests: Arc<Vec<BlockReportRequestProto>>,
) -> Result<Latency, BenchError> {
    let request = &requests[caller.number as usize];
    for _ in 0..share(load.reports, caller.number, load.datanodes) {
        let started = Instant::now();
        let _: BlockReportResponseProto = caller.rpc.call("blockReport", request).await?;
        caller.done(started.elapsed());
    }
    Ok(caller.latency)
}

/// Until it is aborted; what a heartbeat fails with, the reports fail with too.
async fn keep_alive(datanodes: Vec<NominalDatanode>) {
    loop {
        for datanode in &datanodes {
            let _ = datanode.heartbeat(CAPACITY_BYTES).await;
        }
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}

impl NominalDatanode {
    async fn register(
        rpc: RpcClient,
        namespace: &NamespaceInfoProto,
        number: u32,
    ) -> Result<Self, BenchError> {
        let datanode_id = DatanodeIDProto {
            // The namenode puts the address that it sees the connection come from.
            ip_addr: "127.0.0.1".to_owned(),
            host_name: "localhost".to_owned(),
            datanode_uuid: format!("00000000-7269-6e67-6673-{number:012}"),
            // Ports below 1024 that no datanode has.
            xfer_port: number + 1,
            info_port: 0,
            ipc_port: 0,
            info_secure_port: Some(0),
        };
        let registration = DatanodeRegistrationProto {
            datanode_id,
            storage_info: StorageInfoProto {
                layout_version: DatanodeLayout::V56.version() as u32,
                ..namespace.storage_info.clone()
            },
            keys: ExportedBlockKeysProto::default(),
            software_version: namespace.software_version.clone(),
        };
        let request = RegisterDatanodeRequestProto { registration };
        let reply: RegisterDatanodeResponseProto = rpc.call("registerDatanode", &request).await?;
        Ok(Self {
            rpc,
            registration: reply.registration,
            storage: DatanodeStorageProto {
                storage_uuid: format!("DS-00000000-7269-6e67-6673-{number:012}"),
                state: Some(StorageState::Normal as i32),
                storage_type: Some(StorageTypeProto::Disk as i32),
            },
            pool_id: namespace.block_pool_id.clone(),
            takes_buffers: namespace.capabilities() & CAPABILITY_BUFFERS != 0,
        })
    }

    /// Commands that come with the reply have nothing here to act on.
    async fn heartbeat(&self, capacity_bytes: u64) -> Result<(), BenchError> {
        let request = HeartbeatRequestProto {
            registration: self.registration.clone(),
            reports: vec![StorageReportProto {
                storage_uuid: self.storage.storage_uuid.clone(),
                failed: Some(false),
                capacity: Some(capacity_bytes),
                dfs_used: Some(0),
                remaining: Some(capacity_bytes),
                block_pool_used: Some(0),
                storage: Some(self.storage.clone()),
                non_dfs_used: Some(0),
                mount: None,
            }],
            xmits_in_progress: Some(0),
            xceiver_count: Some(0),
            failed_volumes: Some(0),
            cache_capacity: Some(0),
            cache_used: Some(0),
            volume_failure_summary: None,
            request_full_block_report_lease: Some(false),
            slow_disks: Vec::new(),
        };
        self.rpc.call::<_, HeartbeatResponseProto>("sendHeartbeat", &request).await?;
        Ok(())
    }

    /// Makes files whose blocks are all here.
    async fn receive_blocks(
        &self,
        calls: &Calls,
        directory: &str,
        others: Vec<DatanodeInfoProto>,
        load: BlockReportLoad,
    ) -> Result<Vec<ReportedReplica>, BenchError> {
        let mut replicas = Vec::new();
        let per_file = load.blocks_per_file.max(1);
        while (replicas.len() as u64) < load.blocks_per_report {
            let first = replicas.len() as u64;
            let path = format!("{directory}/{}/file_{first}", calls.holder);
            let file_id = calls.create(&path).await?;
            let mut last = None;
            for _ in first..load.blocks_per_report.min(first + per_file) {
                let located = calls.add_block(&path, file_id, last.take(), &others).await?;
                let block = ExtendedBlockProto { num_bytes: Some(BLOCK_BYTES), ..located.b };
                self.received(&block).await?;
                replicas.push((replica(&block), ReplicaState::Finalized));
                last = Some(block);
            }
            calls.complete(&path, file_id, last).await?;
        }
        Ok(replicas)
    }

    async fn received(&self, block: &ExtendedBlockProto) -> Result<(), BenchError> {
        let received = ReceivedDeletedBlockInfoProto {
            block: BlockProto::from(replica(block)),
            status: BlockStatus::Received as i32,
            delete_hint: None,
        };
        let request = BlockReceivedAndDeletedRequestProto {
            registration: self.registration.clone(),
            block_pool_id: self.pool_id.clone(),
            blocks: vec![StorageReceivedDeletedBlocksProto {
                storage_uuid: self.storage.storage_uuid.clone(),
                blocks: vec![received],
                storage: Some(self.storage.clone()),
            }],
        };
        self.rpc
            .call::<_, BlockReceivedAndDeletedResponseProto>("blockReceivedAndDeleted", &request)
            .await?;
        Ok(())
    }

    /// There is no other way to leave at once. Alive but idle, it would spoil the namenode's idea of
    /// how busy a datanode is on average; dead but with room, Apache's would still choose it for writers
    /// of this host.
    async fn sign_off(&self) -> Result<(), BenchError> {
        self.heartbeat(0).await?;
        let request = ErrorReportRequestProto {
            registration: self.registration.clone(),
            error_code: FATAL_DISK_ERROR,
            msg: "the end of ringfs bench namenode -op blockReport".to_owned(),
        };
        self.rpc.call::<_, ErrorReportResponseProto>("errorReport", &request).await?;
        Ok(())
    }

    /// Without a lease, which every namenode takes as a report that was asked for.
    fn report(&self, replicas: &[ReportedReplica]) -> BlockReportRequestProto {
        let (blocks, number_of_blocks, blocks_buffers) = match self.takes_buffers {
            true => (Vec::new(), Some(replicas.len() as u64), encode_buffers(replicas)),
            false => (encode_longs(replicas), None, Vec::new()),
        };
        let storage = self.storage.clone();
        BlockReportRequestProto {
            registration: self.registration.clone(),
            block_pool_id: self.pool_id.clone(),
            reports: vec![StorageBlockReportProto {
                storage,
                blocks,
                number_of_blocks,
                blocks_buffers,
            }],
            context: Some(BlockReportContextProto {
                total_rpcs: 1,
                cur_rpc: 0,
                id: 1,
                lease_id: Some(0),
                sorted: None,
            }),
        }
    }
}

fn replica(block: &ExtendedBlockProto) -> Block {
    Block {
        id: BlockId(block.block_id),
        num_bytes: block.num_bytes(),
        generation_stamp: GenerationStamp(block.generation_stamp),
    }
}

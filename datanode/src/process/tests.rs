//! A datanode's whole life against namenodes that only listen.

use super::*;
use crate::dataset::tests::{extended, put, put_finalized};
use crate::fake_namenode::FakeNamenode;
use crate::storage_directory::tests::formatted_directory;
use crate::volume::tests::{POOL, volume_at};
use ringfs_protocol::block::ReplicaState;
use ringfs_protocol::block_report;
use ringfs_protocol::error::java;
use ringfs_protocol::messages::*;
use ringfs_protocol::rpc::client::{RpcClientOptions, RpcError};
use tokio::sync::oneshot;

struct Running {
    stop: oneshot::Sender<()>,
    outcome: tokio::task::JoinHandle<Result<()>>,
}

impl Running {
    async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        self.outcome.await.unwrap()
    }
}

fn start(namenode: &FakeNamenode, data_dirs: &str) -> Running {
    start_with(namenode, data_dirs, "0")
}

fn start_with(namenode: &FakeNamenode, data_dirs: &str, tolerated: &str) -> Running {
    let mut configuration = Configuration::default();
    for (name, value) in [
        ("fs.defaultFS", format!("hdfs://{}", namenode.address).as_str()),
        ("dfs.datanode.data.dir", data_dirs),
        ("dfs.datanode.failed.volumes.tolerated", tolerated),
        ("dfs.datanode.address", "127.0.0.1:0"),
        ("dfs.datanode.ipc.address", "127.0.0.1:0"),
        ("dfs.datanode.http.address", "127.0.0.1:0"),
        ("dfs.datanode.hostname", "dn.example"),
        ("dfs.heartbeat.interval", "50ms"),
        ("ringfs.datanode.direct-io", "false"),
    ] {
        configuration.set(name, value);
    }
    let config = DatanodeConfig::from_configuration(&configuration, BlockData::Stored);
    let config = Arc::new(config.unwrap());
    let (stop, stopped) = oneshot::channel();
    let outcome = tokio::spawn(serve(config, async move {
        let _ = stopped.await;
        "the test"
    }));
    Running { stop, outcome }
}

fn reported(request: &BlockReportRequestProto) -> Vec<block_report::ReportedReplica> {
    let reports = request.reports.iter();
    reports.flat_map(|report| block_report::replicas(report).map(|r| r.unwrap())).collect()
}

fn block_command(action: BlockCommandAction, blocks: &[(u64, u64)]) -> DatanodeCommandProto {
    let proto = |&(id, stamp): &(u64, u64)| extended(id, stamp, 0).block.into();
    DatanodeCommandProto {
        blk_cmd: Some(BlockCommandProto {
            action: action as i32,
            block_pool_id: POOL.into(),
            blocks: blocks.iter().map(proto).collect(),
            ..Default::default()
        }),
        ..command(DatanodeCommandType::BlockCommand)
    }
}

fn command(kind: DatanodeCommandType) -> DatanodeCommandProto {
    DatanodeCommandProto { cmd_type: kind as i32, ..Default::default() }
}

#[tokio::test]
async fn a_fresh_datanode_formats_registers_and_reports_its_empty_volumes() {
    let temp = tempfile::tempdir().unwrap();
    let namenode = FakeNamenode::start().await;
    let (one, two) = (temp.path().join("1"), temp.path().join("2"));
    let dirs = format!("{},[SSD]file://{}", one.display(), two.display());
    let datanode = start(&namenode, &dirs);
    let registration = namenode.next::<RegisterDatanodeRequestProto>("registerDatanode").await;
    let registration = registration.registration;
    let id = &registration.datanode_id;
    assert_eq!(id.host_name, "dn.example");
    assert!(id.xfer_port != 0 && id.ipc_port != 0, "the ports as bound");
    assert_eq!(registration.software_version, "3.3.6");
    assert_eq!(registration.storage_info.layout_version as i32, -57);
    let heartbeat = namenode.next::<HeartbeatRequestProto>("sendHeartbeat").await;
    assert_eq!(heartbeat.reports.len(), 2);
    assert_eq!(
        heartbeat.reports[1].storage.as_ref().unwrap().storage_type(),
        StorageTypeProto::Ssd
    );
    assert!(heartbeat.reports[0].capacity() > 0 && heartbeat.reports[0].remaining() > 0);
    let report = namenode.next::<BlockReportRequestProto>("blockReport").await;
    let context = report.context.as_ref().unwrap();
    assert_eq!((context.lease_id(), context.total_rpcs, context.cur_rpc), (77, 1, 0));
    assert_eq!(report.reports.len(), 2, "every storage reports, also an empty one");
    assert!(report.reports.iter().all(|storage| storage.number_of_blocks == Some(0)));
    datanode.stop().await.unwrap();
    assert!(!one.join("in_use.lock").exists() && !two.join("in_use.lock").exists());

    let again = start(&namenode, &dirs);
    let second = namenode.next::<RegisterDatanodeRequestProto>("registerDatanode").await;
    assert_eq!(second.registration.datanode_id.datanode_uuid, id.datanode_uuid);
    again.stop().await.unwrap();
}

/// A data directory of this namespace, filled before the datanode starts.
fn filled(root: &Path) {
    let volume = volume_at(root.to_owned());
    put_finalized(&volume, 1, 1001, &[1; 700]);
    put_finalized(&volume, 2, 1001, &[2; 700]);
    put(&volume, ReplicaState::Rbw, 3, 1003, &[3; 900]);
}

#[tokio::test]
async fn commands_are_carried_out_and_their_outcome_is_reported() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    let namenode = FakeNamenode::start().await;
    let datanode = start(&namenode, &temp.path().display().to_string());
    let report = namenode.next::<BlockReportRequestProto>("blockReport").await;
    let mut replicas = reported(&report);
    replicas.sort_by_key(|(block, _)| block.id);
    assert_eq!(replicas.len(), 3);
    assert_eq!(replicas[2], (extended(3, 1003, 900).block, ReplicaState::Rwr));

    namenode.command(block_command(BlockCommandAction::Invalidate, &[(1, 1001), (2, 999)]));
    let change =
        namenode.next::<BlockReceivedAndDeletedRequestProto>("blockReceivedAndDeleted").await;
    let deleted = &change.blocks[0].blocks;
    assert_eq!((deleted.len(), deleted[0].block.block_id), (1, 1), "2 has another stamp");
    assert_eq!(deleted[0].status, BlockStatus::Deleted as i32);

    for kind in [DatanodeCommandType::KeyUpdateCommand, DatanodeCommandType::FinalizeCommand] {
        namenode.command(command(kind));
    }
    namenode.command(DatanodeCommandProto { cmd_type: 99, ..Default::default() });
    namenode.command(command(DatanodeCommandType::RegisterCommand));
    namenode.next::<VersionRequestProto>("versionRequest").await;
    namenode.next::<VersionRequestProto>("versionRequest").await;
    let report = namenode.next::<BlockReportRequestProto>("blockReport").await;
    assert_eq!(reported(&report).len(), 2, "a full report follows a registration");
    datanode.stop().await.unwrap();
}

#[tokio::test]
async fn a_recovery_command_ends_in_a_finalized_block_and_a_commit() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    let namenode = FakeNamenode::start().await;
    let datanode = start(&namenode, &temp.path().display().to_string());
    let registration = namenode.next::<RegisterDatanodeRequestProto>("registerDatanode").await;
    let id = DatanodeIDProto {
        ip_addr: "127.0.0.1".into(),
        ..registration.registration.datanode_id.clone()
    };
    // The same node twice, the second time as a peer: that call finds the recovery under way.
    let recovering = |locs: Vec<DatanodeIDProto>, recovery_id| DatanodeCommandProto {
        recovery_cmd: Some(BlockRecoveryCommandProto {
            blocks: vec![RecoveringBlockProto {
                new_gen_stamp: recovery_id,
                block: LocatedBlockProto {
                    b: (&extended(3, 1003, 0)).into(),
                    locs: locs
                        .into_iter()
                        .map(|id| DatanodeInfoProto { id, ..Default::default() })
                        .collect(),
                    ..Default::default()
                },
                truncate_block: None,
            }],
        }),
        ..command(DatanodeCommandType::BlockRecoveryCommand)
    };
    let as_peer = DatanodeIDProto { datanode_uuid: "another".into(), ..id.clone() };
    namenode.command(recovering(vec![id.clone(), as_peer.clone()], 1005));
    namenode.command(recovering(vec![as_peer], 1006));
    let commit =
        namenode.next::<CommitBlockSynchronizationRequestProto>("commitBlockSynchronization").await;
    assert_eq!((commit.new_gen_stamp, commit.new_length), (1006, 900));
    assert!(commit.close_file && !commit.delete_block);
    assert_eq!(commit.new_targets[0].ipc_port, id.ipc_port);
    assert!(commit.new_target_storages[0].starts_with("DS-"));
    let change =
        namenode.next::<BlockReceivedAndDeletedRequestProto>("blockReceivedAndDeleted").await;
    let received = &change.blocks[0].blocks[0];
    assert_eq!((received.block.gen_stamp, received.block.num_bytes()), (1006, 900));
    datanode.stop().await.unwrap();
}

/// A namenode that restarts has forgotten what it was told of rot.
#[tokio::test]
async fn a_corrupt_replica_is_told_of_before_and_after_each_registrations_full_report() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    let namenode = FakeNamenode::start().await;
    let datanode = start(&namenode, temp.path().to_str().unwrap());
    namenode.next::<BlockReportRequestProto>("blockReport").await;
    // More bytes than there are: a copy cannot be made.
    let mut transfer = block_command(BlockCommandAction::Transfer, &[(1, 1001)]);
    let blocks = transfer.blk_cmd.as_mut().unwrap();
    blocks.blocks[0].num_bytes = Some(1 << 20);
    blocks.targets = vec![DatanodeInfosProto { datanodes: Vec::new() }];
    namenode.command(transfer);
    let bad = namenode.next::<ReportBadBlocksRequestProto>("reportBadBlocks").await;
    assert_eq!(bad.blocks[0].b.block_id, 1);
    namenode.command(command(DatanodeCommandType::RegisterCommand));
    namenode.next::<RegisterDatanodeRequestProto>("registerDatanode").await;
    namenode.next::<RegisterDatanodeRequestProto>("registerDatanode").await;
    for _ in 0..2 {
        let again = namenode.next::<ReportBadBlocksRequestProto>("reportBadBlocks").await;
        assert_eq!(again.blocks, bad.blocks);
    }
    datanode.stop().await.unwrap();
}

#[tokio::test]
async fn ipc_answers_clients_and_operators() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    let namenode = FakeNamenode::start().await;
    let datanode = start(&namenode, &temp.path().display().to_string());
    let registration = namenode.next::<RegisterDatanodeRequestProto>("registerDatanode").await;
    let port = registration.registration.datanode_id.ipc_port;
    let client = |user: &str| {
        let options = RpcClientOptions::default();
        let address = format!("127.0.0.1:{port}");
        RpcClient::new(&address, protocol_name::CLIENT_DATANODE, user, options)
    };
    let alice = client("alice");
    let visible = async |id, stamp| {
        let request =
            GetReplicaVisibleLengthRequestProto { block: (&extended(id, stamp, 0)).into() };
        let reply = alice.call("getReplicaVisibleLength", &request).await;
        reply.map(|reply: GetReplicaVisibleLengthResponseProto| reply.length)
    };
    assert_eq!(visible(1, 1001).await.unwrap(), 700);
    assert_eq!(visible(3, 1003).await.unwrap(), u64::MAX, "RWR is not readable");
    let class = |error: RpcError| match error {
        RpcError::Remote(remote) => remote.class,
        other => other.to_string(),
    };
    assert_eq!(class(visible(1, 1002).await.unwrap_err()), java::IO);
    assert_eq!(class(visible(9, 1001).await.unwrap_err()), java::REPLICA_NOT_FOUND);

    namenode.next::<BlockReportRequestProto>("blockReport").await;
    let trigger = TriggerBlockReportRequestProto { incremental: false, nn_address: None };
    let _: TriggerBlockReportResponseProto =
        alice.call("triggerBlockReport", &trigger).await.unwrap();
    let report = namenode.next::<BlockReportRequestProto>("blockReport").await;
    assert_eq!(reported(&report).len(), 3);

    let shutdown = ShutdownDatanodeRequestProto { for_upgrade: false };
    let refused: std::result::Result<ShutdownDatanodeResponseProto, _> =
        alice.call("shutdownDatanode", &shutdown).await;
    assert_eq!(class(refused.unwrap_err()), java::ACCESS_CONTROL);
    let unknown: std::result::Result<ShutdownDatanodeResponseProto, _> =
        alice.call("evictWriters", &shutdown).await;
    assert_eq!(class(unknown.unwrap_err()), java::RPC_NO_SUCH_METHOD);
    let _: ShutdownDatanodeResponseProto =
        client(&user_name()).call("shutdownDatanode", &shutdown).await.unwrap();
    datanode.outcome.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_namenode_that_knows_no_leases_gets_its_report_at_once() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    let namenode = FakeNamenode::start().await;
    *namenode.state.lease.lock() = 0;
    *namenode.state.version.lock() = "2.7.3".into();
    let datanode = start(&namenode, &temp.path().display().to_string());
    let report = namenode.next::<BlockReportRequestProto>("blockReport").await;
    assert_eq!(report.context.unwrap().lease_id(), 0);
    let heartbeats = namenode.methods().iter().filter(|m| *m == "sendHeartbeat").count();
    assert_eq!(heartbeats, 1);
    datanode.stop().await.unwrap();

    // A later version that grants none has ten tries.
    *namenode.state.version.lock() = "3.4.0".into();
    let datanode = start(&namenode, &temp.path().display().to_string());
    namenode.next::<BlockReportRequestProto>("blockReport").await;
    let heartbeats = namenode.methods().iter().filter(|m| *m == "sendHeartbeat").count();
    assert!(heartbeats > 10, "{heartbeats}");
    datanode.stop().await.unwrap();
}

#[tokio::test]
async fn a_volume_that_is_lost_is_told_of_and_the_others_serve_on() {
    let temp = tempfile::tempdir().unwrap();
    let (one, two) = (temp.path().join("1"), temp.path().join("2"));
    filled(&one);
    // A third one cannot even be opened.
    let blocked = temp.path().join("blocked");
    std::fs::write(&blocked, "no directory").unwrap();
    let namenode = FakeNamenode::start().await;
    let dirs = [&one, &two, &blocked].map(|dir| dir.display().to_string()).join(",");
    let datanode = start_with(&namenode, &dirs, "2");
    let heartbeat = namenode.next::<HeartbeatRequestProto>("sendHeartbeat").await;
    assert_eq!((heartbeat.reports.len(), heartbeat.failed_volumes()), (2, 1));
    let report = namenode.next::<BlockReportRequestProto>("blockReport").await;
    assert_eq!((report.reports.len(), reported(&report).len()), (2, 3));

    std::fs::rename(&one, temp.path().join("gone")).unwrap();
    let told = loop {
        let error = namenode.next::<ErrorReportRequestProto>("errorReport").await;
        assert_eq!(error.error_code, DISK_ERROR);
        if error.msg.contains(&one.display().to_string()) {
            break error.msg;
        }
    };
    assert!(told.contains(&blocked.display().to_string()), "{told}");
    let report = loop {
        let report = namenode.next::<BlockReportRequestProto>("blockReport").await;
        if report.reports.len() == 1 {
            break report;
        }
    };
    assert!(reported(&report).is_empty(), "the replicas went with their volume");
    let heartbeat = loop {
        let heartbeat = namenode.next::<HeartbeatRequestProto>("sendHeartbeat").await;
        if heartbeat.failed_volumes() == 2 {
            break heartbeat;
        }
    };
    assert_eq!(heartbeat.reports.len(), 1);
    let summary = heartbeat.volume_failure_summary.unwrap();
    assert!(summary.failed_storage_locations.contains(&one.display().to_string()));
    assert!(summary.estimated_capacity_lost_total > 0 && summary.last_volume_failure_date > 0);

    // The last one, whatever is tolerated, is the end.
    std::fs::rename(&two, temp.path().join("gone too")).unwrap();
    let last = loop {
        let error = namenode.next::<ErrorReportRequestProto>("errorReport").await;
        if error.error_code == FATAL_DISK_ERROR {
            break error.msg;
        }
    };
    assert!(last.contains(&two.display().to_string()), "{last}");
    let ended = tokio::time::timeout(Duration::from_secs(10), datanode.outcome).await;
    let error = ended.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("3 of 3") && error.contains("volumes.tolerated"), "{error}");
}

#[tokio::test]
async fn more_unusable_directories_than_are_tolerated_end_the_start() {
    let temp = tempfile::tempdir().unwrap();
    let blocked = temp.path().join("blocked");
    std::fs::write(&blocked, "no directory").unwrap();
    let namenode = FakeNamenode::start().await;
    let dirs = format!("{},{}", temp.path().join("1").display(), blocked.display());
    let ended = start(&namenode, &dirs).outcome;
    let error = tokio::time::timeout(Duration::from_secs(5), ended).await;
    let error = error.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("1 of 2") && error.contains("blocked"), "{error}");
}

#[tokio::test]
async fn a_foreign_clusters_directory_ends_the_start() {
    let temp = tempfile::tempdir().unwrap();
    drop(formatted_directory(temp.path(), StorageTypeProto::Disk));
    let namenode = FakeNamenode::start().await;
    *namenode.state.cluster_id.lock() = "CID-other".into();
    let datanode = start(&namenode, &temp.path().display().to_string());
    let ended = tokio::time::timeout(Duration::from_secs(5), datanode.outcome).await;
    let error = ended.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("CID-other") && error.contains("CID-test"), "{error}");
    assert!(!temp.path().join("in_use.lock").exists());
}

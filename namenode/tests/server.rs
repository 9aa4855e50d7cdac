//! A namenode in this process, spoken to over TCP as a datanode and a client do.

use std::net::SocketAddr;
use std::time::Duration;

use ringfs_namenode::clock::SystemClock;
use ringfs_namenode::config::NamespaceConfig;
use ringfs_namenode::format::{self, FormatOptions};
use ringfs_namenode::{NamenodeError, server};
use ringfs_protocol::block_report::encode_longs;
use ringfs_protocol::error::java;
use ringfs_protocol::messages::*;
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions, RpcError};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::site_config::Configuration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Namenode {
    directory: TempDir,
    configuration: Configuration,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), NamenodeError>>,
}

impl Namenode {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut configuration = Configuration::default();
        for (name, value) in [
            ("dfs.namenode.rpc-address", "127.0.0.1:0"),
            ("dfs.namenode.name.dir", directory.path().to_str().unwrap()),
            ("dfs.namenode.safemode.extension", "0"),
        ] {
            configuration.set(name, value);
        }
        let config = NamespaceConfig::load(&configuration, "hdfs".to_owned()).unwrap();
        let options = FormatOptions::default();
        format::format(directory.path(), &config, &options, &SystemClock::new()).unwrap();
        Self::start(directory, configuration).await
    }

    async fn start(directory: TempDir, configuration: Configuration) -> Self {
        let (tell, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let own = configuration.clone();
        let running = tokio::spawn(async move {
            let serving = |address| tell.send(address).unwrap();
            let shutdown = async {
                let _ = stopped.await;
            };
            server::run(&own, serving, shutdown).await
        });
        let address = told.await.unwrap();
        Self { directory, configuration, address, stop, running }
    }

    async fn restart(self) -> Self {
        let Self { directory, configuration, stop, running, .. } = self;
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
        Self::start(directory, configuration).await
    }

    fn client(&self, protocol: &'static str) -> RpcClient {
        let options = RpcClientOptions {
            connect_timeout: Duration::from_secs(5),
            call_timeout: Some(Duration::from_secs(5)),
            ..RpcClientOptions::default()
        };
        RpcClient::new(&self.address.to_string(), protocol, "hdfs", options)
    }
}

/// A datanode's registration with what the namenode says of itself.
async fn registration(rpc: &RpcClient) -> (DatanodeRegistrationProto, NamespaceInfoProto) {
    let reply: VersionResponseProto =
        rpc.call("versionRequest", &VersionRequestProto {}).await.unwrap();
    let info = reply.info;
    let registration = DatanodeRegistrationProto {
        datanode_id: DatanodeIDProto {
            ip_addr: "10.9.8.7".to_owned(),
            host_name: "datanode".to_owned(),
            datanode_uuid: "uuid-1".to_owned(),
            xfer_port: 9866,
            info_port: 9864,
            ipc_port: 9867,
            info_secure_port: None,
        },
        storage_info: StorageInfoProto { layout_version: 0, ..info.storage_info.clone() },
        keys: ExportedBlockKeysProto::default(),
        software_version: "3.3.6".to_owned(),
    };
    (registration, info)
}

async fn register(
    rpc: &RpcClient,
    registration: DatanodeRegistrationProto,
) -> Result<DatanodeRegistrationProto, RpcError> {
    let request = RegisterDatanodeRequestProto { registration };
    let reply: RegisterDatanodeResponseProto = rpc.call("registerDatanode", &request).await?;
    Ok(reply.registration)
}

async fn heartbeat(
    rpc: &RpcClient,
    registration: &DatanodeRegistrationProto,
) -> Result<HeartbeatResponseProto, RpcError> {
    let request = HeartbeatRequestProto {
        registration: registration.clone(),
        reports: vec![StorageReportProto {
            storage_uuid: "DS-1".to_owned(),
            capacity: Some(1000),
            remaining: Some(900),
            dfs_used: Some(100),
            ..StorageReportProto::default()
        }],
        request_full_block_report_lease: Some(true),
        slow_disks: Vec::new(),
        ..HeartbeatRequestProto::default()
    };
    rpc.call("sendHeartbeat", &request).await
}

async fn live_datanodes(namenode: &Namenode) -> Vec<DatanodeInfoProto> {
    let request = GetDatanodeReportRequestProto { r#type: DatanodeReportTypeProto::Live as i32 };
    let client = namenode.client(protocol_name::CLIENT);
    let reply: GetDatanodeReportResponseProto =
        client.call("getDatanodeReport", &request).await.unwrap();
    reply.di
}

fn class_of<T>(outcome: Result<T, RpcError>) -> String {
    match outcome {
        Err(RpcError::Remote(error)) => error.class,
        Err(error) => panic!("{error}"),
        Ok(_) => "no error".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datanode_registers_reports_and_registers_again_after_a_restart() {
    let namenode = Namenode::new().await;
    let rpc = namenode.client(protocol_name::DATANODE);
    let (mine, info) = registration(&rpc).await;
    assert_eq!(info.capabilities, Some(1));
    assert!(info.block_pool_id.starts_with("BP-"));

    let unknown = heartbeat(&rpc, &mine).await.unwrap();
    assert_eq!(unknown.cmds.len(), 1);
    assert_eq!(unknown.cmds[0].cmd_type(), DatanodeCommandType::RegisterCommand);
    assert_eq!(unknown.full_block_report_lease_id, Some(0));

    let registered = register(&rpc, mine.clone()).await.unwrap();
    assert_eq!(registered.datanode_id.ip_addr, "127.0.0.1", "as it called, not as it claims");
    let reply = heartbeat(&rpc, &registered).await.unwrap();
    let lease = reply.full_block_report_lease_id.unwrap();
    assert!(reply.cmds.is_empty() && lease != 0);
    assert_eq!(reply.ha_status.state(), HaState::Active);

    let storage =
        DatanodeStorageProto { storage_uuid: "DS-1".to_owned(), state: None, storage_type: None };
    let report = BlockReportRequestProto {
        registration: registered.clone(),
        block_pool_id: info.block_pool_id.clone(),
        reports: vec![StorageBlockReportProto {
            storage,
            blocks: encode_longs(&[]),
            number_of_blocks: None,
            blocks_buffers: Vec::new(),
        }],
        context: Some(BlockReportContextProto {
            total_rpcs: 1,
            cur_rpc: 0,
            id: 7,
            lease_id: Some(lease),
            sorted: None,
        }),
    };
    let _: BlockReportResponseProto = rpc.call("blockReport", &report).await.unwrap();
    let [live] = &live_datanodes(&namenode).await[..] else {
        panic!("one live datanode");
    };
    assert_eq!((live.capacity, live.remaining, live.dfs_used), (Some(1000), Some(900), Some(100)));
    assert!(live.last_block_report_time() > 0);

    let namenode = namenode.restart().await;
    let rpc = namenode.client(protocol_name::DATANODE);
    let reply = heartbeat(&rpc, &registered).await.unwrap();
    assert_eq!(reply.cmds[0].cmd_type(), DatanodeCommandType::RegisterCommand);
    let (_, again) = registration(&rpc).await;
    assert_eq!(again, info, "a restart changes nothing that a datanode compares");
}

#[tokio::test(flavor = "multi_thread")]
async fn datanodes_that_do_not_belong_here_get_the_class_that_stops_them() {
    let namenode = Namenode::new().await;
    let rpc = namenode.client(protocol_name::DATANODE);
    let (mine, _) = registration(&rpc).await;

    let mut foreign = mine.clone();
    foreign.storage_info.cluster_id = "CID-other".to_owned();
    assert_eq!(class_of(register(&rpc, foreign.clone()).await), java::UNREGISTERED_NODE);
    assert_eq!(class_of(heartbeat(&rpc, &foreign).await), java::UNREGISTERED_NODE);

    let old = DatanodeRegistrationProto { software_version: "1.2.1".to_owned(), ..mine.clone() };
    assert_eq!(class_of(register(&rpc, old).await), java::INCORRECT_VERSION);

    let mut nameless = mine.clone();
    nameless.datanode_id.datanode_uuid.clear();
    assert_eq!(class_of(register(&rpc, nameless).await), java::DISALLOWED_DATANODE);
    assert!(live_datanodes(&namenode).await.is_empty());

    let received = BlockReceivedAndDeletedRequestProto {
        block_pool_id: "BP-other".to_owned(),
        registration: mine,
        blocks: Vec::new(),
    };
    let outcome: Result<BlockReceivedAndDeletedResponseProto, _> =
        rpc.call("blockReceivedAndDeleted", &received).await;
    assert_eq!(class_of(outcome), java::UNREGISTERED_NODE);
}

#[tokio::test(flavor = "multi_thread")]
async fn protocols_and_methods_that_do_not_exist_are_named_so() {
    let namenode = Namenode::new().await;
    for (protocol, class) in [
        (protocol_name::DATANODE, java::RPC_NO_SUCH_METHOD),
        (protocol_name::CLIENT, java::RPC_NO_SUCH_METHOD),
        (protocol_name::INTER_DATANODE, java::RPC_NO_SUCH_PROTOCOL),
    ] {
        let client = namenode.client(protocol);
        let outcome: Result<VersionResponseProto, _> =
            client.call("noSuchMethod", &VersionRequestProto {}).await;
        assert_eq!(class_of(outcome), class, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_and_a_second_namenode_are_refused_with_the_reason() {
    let namenode = Namenode::new().await;
    let second = server::run(&namenode.configuration, |_| {}, std::future::pending()).await;
    let error = second.unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");

    let elsewhere = tempfile::tempdir().unwrap();
    let mut configuration = namenode.configuration.clone();
    configuration.set("dfs.namenode.name.dir", elsewhere.path().to_str().unwrap());
    configuration.set("dfs.namenode.rpc-address", &namenode.address.to_string());
    let config = NamespaceConfig::load(&configuration, "hdfs".to_owned()).unwrap();
    format::format(elsewhere.path(), &config, &FormatOptions::default(), &SystemClock::new())
        .unwrap();
    let error = server::run(&configuration, |_| {}, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains(&namenode.address.to_string()), "{error}");
}

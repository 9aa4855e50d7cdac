//! `hdfs dfsadmin -shutdownDatanode HOST:PORT upgrade` under a writer: its only datanode goes and comes
//! back, and the write goes on.

use std::time::Duration;

use ringfs_client::CreateOptions;
use ringfs_protocol::messages::{ShutdownDatanodeRequestProto, ShutdownDatanodeResponseProto};
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::site_config::user_name;

use crate::cluster::java::JavaShell;
use crate::cluster::{TestCluster, sample, wait_for};

const LEN: usize = sample::BLOCK + 200_003;
/// Within a chunk, and with less and more than a block behind it.
const FLUSHED: [usize; 2] = [300_007, sample::BLOCK + 100_001];

/// Has the only datanode end for a restart, and starts it again when it has.
fn restart_datanode(cluster: &mut TestCluster) {
    let address = cluster.datanode_ipc_address(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = RpcClientOptions::default();
        let datanode =
            RpcClient::new(&address, protocol_name::CLIENT_DATANODE, &user_name(), options);
        let request = ShutdownDatanodeRequestProto { for_upgrade: true };
        let _: ShutdownDatanodeResponseProto =
            datanode.call("shutdownDatanode", &request).await.unwrap();
    });
    wait_for("the datanode ended", Duration::from_secs(10), || {
        std::net::TcpStream::connect(&address).is_err().then_some(())
    });
    cluster.stop_datanode(0).unwrap();
    cluster.start_datanode(0).unwrap();
}

#[test]
fn our_writer_waits_for_its_only_datanode() {
    let mut cluster = TestCluster::start_with(1, &[]);
    let library = cluster.connect();
    let bytes = sample::bytes(LEN);
    for flushed in FLUSHED {
        let path = format!("/{flushed}");
        let mut writer = library.run(async |client| {
            let mut writer = client.create(&path, CreateOptions::default()).await.unwrap();
            writer.write_slice(&bytes[..flushed]).await.unwrap();
            writer.hflush().await.unwrap();
            writer
        });
        restart_datanode(&mut cluster);
        library.run(async |_| {
            writer.write_slice(&bytes[flushed..]).await.unwrap();
            writer.close().await.unwrap();
        });
        assert!(library.read(&path).unwrap() == bytes);
    }
}

#[test]
fn the_java_clients_writer_waits_for_its_only_datanode() {
    let mut cluster = TestCluster::start_with(1, &[]);
    let bytes = sample::bytes(LEN);
    let local = cluster.write_scratch("bytes", &bytes);
    let mut java = JavaShell::start(&cluster.conf_dir(), &[], None);
    for flushed in FLUSHED {
        let path = format!("/{flushed}");
        java.ok(&["@create", &path, "1"]);
        let write = |java: &mut JavaShell, from: usize, to: usize| {
            let range = [from.to_string(), (to - from).to_string()];
            java.run_with_stdin(Some(&local), &["@write", &range[0], &range[1]]).succeeded();
        };
        write(&mut java, 0, flushed);
        java.ok(&["@flush", "-"]);
        restart_datanode(&mut cluster);
        write(&mut java, flushed, LEN);
        java.ok(&["@close", "-"]);
        assert!(cluster.connect().read(&path).unwrap() == bytes);
    }
}

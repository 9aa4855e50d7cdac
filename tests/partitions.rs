//! Networks that lose packets in silence, between any two of client, namenode and datanodes: each is a
//! host of its own (`cluster/namespaces.rs`). The oracle is the sample: what an hflush or a close
//! acknowledged is read back, and in the end every replica on every disk is what was written.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ringfs_client::{Client, CreateOptions, FileWriter};
use ringfs_protocol::block::GenerationStamp;
use ringfs_protocol::messages::{
    DatanodeReportTypeProto, TriggerBlockReportRequestProto, TriggerBlockReportResponseProto,
};
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions};
use ringfs_protocol::rpc::protocol_name;

use crate::cluster::namespaces::{Network, Place};
use crate::cluster::{BINARY, Library, Outcome, TestCluster, processes, sample, wait_for};
use crate::failures;

const DATANODES: usize = 4;

/// Two blocks and a part.
const FILE_LEN: usize = 2 * sample::BLOCK + 300_007;

const BLOCKS: usize = 3;

/// A node that the namenode does not hear is dead after 4 s; after a cut, TCP may wait as long as the
/// cut lasted before it tries again. The rest is slack for a loaded machine.
const SOON: Duration = Duration::from_secs(40);

struct Site {
    cluster: TestCluster,
    client: Library,
    bytes: Vec<u8>,
    /// Dropped after those who are on its hosts.
    network: Network,
}

impl Site {
    fn start(settings: &[(&str, &str)]) -> Self {
        let network = Network::with_datanodes(DATANODES);
        let calls = [("ipc.client.rpc-timeout.ms", "2000"), ("ipc.client.connect.timeout", "1000")];
        let settings = [&failures::SETTINGS[..], &calls, settings].concat();
        let cluster = TestCluster::start_in(&network, DATANODES, &settings);
        let library = cluster.connect();
        Self { cluster, client: library, bytes: sample::bytes(FILE_LEN), network }
    }

    fn create(&self, path: &str, replication: u16) -> FileWriter {
        let options = CreateOptions { replication: Some(replication), ..CreateOptions::default() };
        self.client.run(async |client| client.create(path, options).await.unwrap())
    }

    #[track_caller]
    fn write_flushed(&self, writer: &mut FileWriter, from: usize, to: usize) {
        let written = self.client.run(async |_| {
            writer.write_slice(&self.bytes[from..to]).await?;
            writer.hflush().await
        });
        written.unwrap_or_else(|error| panic!("writing from {from} to {to}: {error}"));
    }

    #[track_caller]
    fn close(&self, writer: FileWriter) {
        self.client.run(async |_| writer.close().await).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The datanodes that this process writes through.
    fn pipeline(&self) -> Vec<Place> {
        let own = std::process::id();
        let found = wait_for("a pipeline of three", Duration::from_secs(10), || {
            processes::only_pipeline(&self.cluster, own, 3)
        });
        found.into_iter().map(Place::Datanode).collect()
    }

    /// Of the file's first block: each recovery of a pipeline gives it a new one.
    fn generation_stamp(&self, path: &str) -> GenerationStamp {
        let blocks = self.client.run(async |client| client.block_locations(path, 0, 1).await);
        blocks.unwrap()[0].block.block.generation_stamp
    }

    #[track_caller]
    fn assert_holds(&self, path: &str, bytes: &[u8]) {
        assert!(self.client.read(path).unwrap() == bytes, "{path}");
    }

    /// The disks come to hold as many replicas as there should be, all of them right. An order to delete
    /// one may have been lost with the heartbeat's reply that carried it: what tells then is the next
    /// full report, which is asked for here as an operator would.
    #[track_caller]
    fn await_replicas(&self, expected: usize) {
        let started = Instant::now();
        while let Err(why) = self.cluster.replicas_are_right(&self.bytes, expected) {
            assert!(started.elapsed() < SOON, "after {SOON:?}: {why}");
            std::thread::sleep(Duration::from_secs(1));
            self.ask_for_full_reports();
        }
    }

    fn ask_for_full_reports(&self) {
        let request = TriggerBlockReportRequestProto { incremental: false, nn_address: None };
        for index in 0..DATANODES {
            let address = self.cluster.datanode_ipc_address(index);
            let protocol = protocol_name::CLIENT_DATANODE;
            let datanode =
                RpcClient::new(&address, protocol, "operator", RpcClientOptions::default());
            let asked: Result<TriggerBlockReportResponseProto, _> =
                self.client.run(async |_| datanode.call("triggerBlockReport", &request).await);
            asked.unwrap_or_else(|error| panic!("{address}: {error}"));
        }
    }

    fn live_datanodes(&self) -> usize {
        let live = DatanodeReportTypeProto::Live;
        self.client.run(async |client| client.datanode_report(live).await).unwrap().len()
    }
}

/// One link after the other, in the middle of a block that is then gone on with.
#[test]
fn a_writer_goes_on_whatever_link_of_its_pipeline_fails() {
    type Failure = (&'static str, fn(&Network, &[Place]));
    let failures: [Failure; 6] = [
        ("client and first", |network, nodes| network.cut(Place::Tests, nodes[0])),
        ("first and second", |network, nodes| network.cut(nodes[0], nodes[1])),
        ("acks of the third", |network, nodes| network.lose(nodes[2], nodes[1])),
        ("data for the second", |network, nodes| network.lose(nodes[0], nodes[1])),
        ("acks for the client", |network, nodes| network.lose(nodes[0], Place::Tests)),
        ("the last one's cable", |network, nodes| network.unplug(nodes[2])),
    ];
    let mut site = Site::start(&[]);
    for (number, (name, fail)) in failures.into_iter().enumerate() {
        let started = Instant::now();
        let path = format!("/{number}");
        let mut writer = site.create(&path, 3);
        site.write_flushed(&mut writer, 0, 400_000);
        let nodes = site.pipeline();
        let before = site.generation_stamp(&path);
        fail(&site.network, &nodes);
        site.write_flushed(&mut writer, 400_000, 900_001);
        assert!(site.generation_stamp(&path) > before, "{name}: the pipeline was not recovered");
        site.write_flushed(&mut writer, 900_001, FILE_LEN);
        site.close(writer);
        site.assert_holds(&path, &site.bytes);
        site.network.heal();
        site.network.plug_in(nodes[2]);
        site.cluster.wait_until_serving(DATANODES).unwrap();
        site.await_replicas(3 * BLOCKS * (number + 1));
        site.assert_holds(&path, &site.bytes);
        eprintln!("{name}: {:.1} s", started.elapsed().as_secs_f64());
    }
}

/// It is dead to the namenode, which replaces its replicas, and alive to clients. Meanwhile files are
/// deleted, appended to and written. When it comes back, its report is old news.
#[test]
fn a_datanode_that_only_the_namenode_has_lost_comes_back_without_harm() {
    let mut site = Site::start(&[]);
    // Every datanode has a replica of /wide, so that it can be read from the lost one alone.
    for (path, replication, len) in [
        ("/wide", 4, FILE_LEN),
        ("/kept", 3, FILE_LEN),
        ("/doomed", 4, FILE_LEN),
        ("/grown", 4, 300_001),
    ] {
        let mut writer = site.create(path, replication);
        site.write_flushed(&mut writer, 0, len);
        site.close(writer);
    }
    let holds = |index: &usize| site.cluster.finalized_blocks(*index).len();
    let lost = (0..DATANODES).max_by_key(holds).unwrap();
    let mut reader = site.client.run(async |client| client.open("/wide").await).unwrap();
    site.network.cut(Place::Namenode, Place::Datanode(lost));
    wait_for("the datanode dead", SOON, || (site.live_datanodes() == 3).then_some(()));
    wait_for("its replicas of /kept replaced", SOON, || {
        site.client.replica_ports("/kept").iter().all(|ports| ports.len() == 3).then_some(())
    });

    let others = || (0..DATANODES).filter(|index| *index != lost).map(Place::Datanode);
    others().for_each(|other| site.network.cut(Place::Tests, other));
    let read = site.client.run(async |_| {
        let mut read = Vec::new();
        while let Some(chunk) = reader.next_chunk().await? {
            read.extend_from_slice(&chunk);
        }
        Ok::<_, ringfs_client::ClientError>(read)
    });
    assert!(read.unwrap() == site.bytes, "read from the lost one alone");
    site.network.heal();
    site.network.cut(Place::Namenode, Place::Datanode(lost));

    assert!(site.client.run(async |client| client.delete("/doomed", false).await).unwrap());
    let mut writer = site.client.run(async |client| client.append("/grown").await).unwrap();
    site.write_flushed(&mut writer, 300_001, 500_009);
    site.close(writer);
    let mut writer = site.create("/new", 3);
    site.write_flushed(&mut writer, 0, FILE_LEN);
    site.close(writer);

    site.network.heal();
    site.cluster.wait_until_serving(DATANODES).unwrap();
    site.await_replicas((4 + 3 + 3) * BLOCKS + 4);
    for path in ["/wide", "/kept", "/new"] {
        site.assert_holds(path, &site.bytes);
    }
    site.assert_holds("/grown", &site.bytes[..500_009]);
}

/// The writer still reaches its datanodes, and goes on, until the recovery of the block takes them from
/// it. Nothing acknowledged to it is lost, and nothing it writes afterwards gets in.
#[test]
fn a_writer_that_the_namenode_has_lost_is_followed_by_another() {
    let site = Site::start(&[("dfs.namenode.lease-hard-limit-sec", "4")]);
    let mut writer = site.create("/f", 3);
    site.write_flushed(&mut writer, 0, 400_000);
    site.network.cut(Place::Tests, Place::Namenode);
    let mut acknowledged = 400_000;
    let news = site.cluster.write_scratch("news", b"of another writer");
    std::thread::scope(|scope| {
        let lost = scope.spawn(|| {
            while acknowledged < FILE_LEN {
                let next = (acknowledged + 4_321).min(FILE_LEN);
                site.client.run(async |_| {
                    writer.write_slice(&site.bytes[acknowledged..next]).await?;
                    writer.hflush().await
                })?;
                acknowledged = next;
                std::thread::sleep(Duration::from_millis(100));
            }
            site.client.run(async |_| writer.close().await)
        });
        wait_for("an append by another writer", SOON, || {
            let mut append = site.network.command(Place::Elsewhere, BINARY.as_ref());
            append.args(["dfs", "-appendToFile"]).arg(&news).arg("/f");
            append.env("HADOOP_CONF_DIR", site.cluster.conf_dir());
            (Outcome::of(append.output().unwrap()).exit == 0).then_some(())
        });
        site.network.heal();
        assert!(lost.join().unwrap().is_err(), "it must learn that its lease has run out");
    });
    assert!(acknowledged > 400_000, "it went on without the namenode");
    let read = site.client.read("/f").unwrap();
    let old = read.strip_suffix(b"of another writer").expect("the other writer's end");
    assert!(old.len() >= acknowledged, "{} of {acknowledged} acknowledged", old.len());
    assert!(site.bytes.starts_with(old), "and nothing else");
}

/// To the namenode, all datanodes die at once, and come back.
#[test]
fn a_namenode_cut_off_from_all_datanodes_loses_nothing() {
    let mut site = Site::start(&[]);
    let mut old = site.create("/old", 3);
    site.write_flushed(&mut old, 0, FILE_LEN);
    site.close(old);
    let mut writer = site.create("/f", 3);
    site.write_flushed(&mut writer, 0, 400_000);
    let datanodes = || (0..DATANODES).map(Place::Datanode);
    datanodes().for_each(|datanode| site.network.cut(Place::Namenode, datanode));
    wait_for("all datanodes dead", SOON, || (site.live_datanodes() == 0).then_some(()));
    site.write_flushed(&mut writer, 400_000, 900_001);
    let missing = site.client.read("/old").unwrap_err().to_string();
    assert!(missing.contains("/old"), "{missing}");

    site.network.heal();
    site.cluster.wait_until_serving(DATANODES).unwrap();
    site.write_flushed(&mut writer, 900_001, FILE_LEN);
    site.close(writer);
    site.await_replicas(2 * 3 * BLOCKS);
    for path in ["/old", "/f"] {
        site.assert_holds(path, &site.bytes);
    }
}

/// Clients whose host vanished are no more connected to any server within `ringfs.rpc.peer.timeout`,
/// neither those that waited for nothing nor the one that was just answered. Some 12 s.
#[test]
fn servers_are_rid_of_clients_whose_host_has_vanished() {
    let site = Site::start(&[("ringfs.rpc.peer.timeout", "4s")]);
    let own = IpAddr::from(site.network.address(Place::Tests));
    let namenode = site.cluster.namenode_pid().unwrap();
    let datanode = site.cluster.datanode_pid(0).unwrap();
    let connected = |server: u32| {
        let remotes = processes::connections(server).into_iter();
        remotes.filter(|remote| remote.ip() == own).count()
    };
    let (idle, asking) = (site.cluster.connect(), &site.client);
    for library in [&idle, asking] {
        library.run(async |client| client.mkdirs("/d", 0o755, true).await).unwrap();
    }
    let before = connected(namenode);
    assert!(before >= 2, "{before} connections");
    let request = TriggerBlockReportRequestProto { incremental: true, nn_address: None };
    let address = site.cluster.datanode_ipc_address(0);
    let operator = RpcClient::new(
        &address,
        protocol_name::CLIENT_DATANODE,
        "operator",
        RpcClientOptions::default(),
    );
    let report = async |_: &Client| -> Result<TriggerBlockReportResponseProto, _> {
        operator.call("triggerBlockReport", &request).await
    };
    site.client.run(report).unwrap();
    assert_eq!(connected(datanode), 1);

    // Longer than the time in which a silent client is let go: its host answers for it.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!((connected(namenode), connected(datanode)), (before, 1));

    // The question still gets there. The answer does not, and nobody says that it came.
    site.network.lose(Place::Namenode, Place::Tests);
    site.network.cut(Place::Tests, Place::Datanode(0));
    asking.run(async |client| client.mkdirs("/e", 0o755, true).await).unwrap_err();
    site.network.lose(Place::Tests, Place::Namenode);
    wait_for("all of them gone", Duration::from_secs(15), || {
        (connected(namenode) + connected(datanode) == 0).then_some(())
    });
    let namenode_address = IpAddr::from(site.network.address(Place::Namenode));
    let leads_there = |remote: &SocketAddr| remote.ip() == namenode_address;
    let ours = || processes::connections(std::process::id());
    wait_for("the clients have let go too", Duration::from_secs(15), || {
        (!ours().iter().any(leads_there)).then_some(())
    });

    site.network.heal();
    for library in [&idle, asking] {
        library.run(async |client| client.mkdirs("/f", 0o755, true).await).unwrap();
    }
}

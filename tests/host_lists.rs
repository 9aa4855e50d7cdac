//! Datanodes sent away for good and for a while by the operator's list of hosts, as Java's client has it
//! read and reports on it: nothing is lost, files that are being written are honoured.

use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::java::JavaShell;
use crate::cluster::{Library, TestCluster, processes, sample, temporary_directory, wait_for};

const DATANODES: usize = 5;

const SOON: Duration = Duration::from_secs(40);

/// Three blocks.
const LEN: usize = 2 * sample::BLOCK + 300_007;

/// The wanted state of each datanode that is not wanted in service.
type Leaving<'a> = &'a [(usize, &'a str)];

struct Site {
    java: JavaShell,
    cluster: TestCluster,
    client: Library,
    list: PathBuf,
    _directory: tempfile::TempDir,
}

impl Site {
    fn start() -> Self {
        let directory = temporary_directory();
        let list = directory.path().join("hosts.json");
        std::fs::write(&list, "[]").unwrap();
        let provider = "org.apache.hadoop.hdfs.server.blockmanagement.CombinedHostFileManager";
        let settings = [
            ("dfs.namenode.hosts.provider.classname", provider),
            ("dfs.hosts", list.to_str().unwrap()),
            ("dfs.namenode.decommission.interval", "1"),
        ];
        let cluster = TestCluster::start_with(DATANODES, &settings);
        let java = JavaShell::start(&cluster.conf_dir(), &[], None);
        let library = cluster.connect();
        Self { java, cluster, client: library, list, _directory: directory }
    }

    fn port(&self, index: usize) -> u32 {
        self.cluster.datanode_address(index).rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// Writes the list, and has Java tell the namenode to read it.
    fn want(&mut self, leaving: Leaving) {
        let hosts: Vec<String> = (0..DATANODES)
            .map(|index| {
                let state = leaving.iter().find(|(leaver, _)| *leaver == index);
                let (port, state) = (self.port(index), state.map_or("NORMAL", |(_, state)| state));
                format!(r#"{{"hostName":"127.0.0.1","port":{port},"adminState":"{state}"}}"#)
            })
            .collect();
        std::fs::write(&self.list, format!("[{}]", hosts.join(","))).unwrap();
        self.java.ok(&["@refreshNodes", "-"]);
    }

    /// What `hdfs dfsadmin -report` says of it.
    fn status(&mut self, index: usize) -> String {
        let name = format!("Name: 127.0.0.1:{}", self.port(index));
        let report = self.java.ok(&["@report", "ALL"]);
        let about = report.split("Name: ").map(|about| format!("Name: {about}"));
        let mut about = about.filter(|about| about.starts_with(&name));
        let about = about.next().unwrap_or_else(|| panic!("{name} is not in {report}"));
        let status = about.lines().find_map(|line| line.strip_prefix("Decommission Status : "));
        status.unwrap_or_else(|| panic!("no status: {about}")).to_owned()
    }

    #[track_caller]
    fn await_status(&mut self, index: usize, wanted: &str) {
        wait_for(&format!("datanode {index} {wanted}"), SOON, || {
            (self.status(index) == wanted).then_some(())
        });
    }

    /// The port of `index` beside those of three others, on every block.
    fn await_three_others(&self, path: &str, index: usize) {
        let port = self.port(index);
        wait_for(&format!("three replicas of {path} elsewhere"), SOON, || {
            let replicas = self.client.replica_ports(path);
            let elsewhere = |ports: &Vec<u32>| ports.iter().filter(|other| **other != port).count();
            replicas.iter().all(|ports| elsewhere(ports) == 3).then_some(())
        });
    }
}

#[test]
fn a_decommissioned_datanode_goes_when_nothing_depends_on_it() {
    let mut site = Site::start();
    let bytes = sample::bytes(LEN);
    site.client.write("/closed", &bytes).unwrap();
    let local = site.cluster.write_scratch("sample", &bytes);
    // The only replica of a block that is being written.
    site.java.ok(&["@create", "/open", "1"]);
    site.java.run_with_stdin(Some(&local), &["@write", "0", "400000"]).succeeded();
    site.java.ok(&["@flush", "-"]);
    let writer = site.java.pid();
    let leaver = wait_for("the writer's datanode", SOON, || {
        Some(processes::pipeline(&site.cluster, writer, 1)?[0])
    });

    site.want(&[(leaver, "DECOMMISSIONED")]);
    site.await_three_others("/closed", leaver);
    // Three looks of the namenode at what depends on it.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(site.status(leaver), "Decommission in progress", "a block is written there");
    site.java.run_with_stdin(Some(&local), &["@write", "400000", "300001"]).succeeded();
    site.java.ok(&["@close", "-"]);
    site.await_status(leaver, "Decommissioned");

    site.cluster.stop_datanode(leaver).unwrap();
    assert!(site.client.read("/open").unwrap() == bytes[..700_001]);
    assert!(site.client.read("/closed").unwrap() == bytes);
    let mut java = JavaShell::start(&site.cluster.conf_dir(), &[], None);
    assert!(java.run(&["-cat", "/closed"]).succeeded().out == bytes);

    site.want(&[]);
    site.cluster.start_datanode(leaver).unwrap();
    site.await_status(leaver, "Normal");
}

#[test]
fn a_datanode_in_maintenance_is_gone_for_a_while_and_copied_no_more_than_needed() {
    let mut site = Site::start();
    let bytes = sample::bytes(LEN);
    site.client.write("/f", &bytes).unwrap();
    let holds = |index: &usize| site.cluster.finalized_blocks(*index).len();
    let leaver = (0..DATANODES).max_by_key(holds).unwrap();
    let stored = |site: &Site| -> usize {
        (0..DATANODES).map(|index| site.cluster.finalized_blocks(index).len()).sum()
    };
    site.want(&[(leaver, "IN_MAINTENANCE")]);
    site.await_status(leaver, "In maintenance");
    site.cluster.stop_datanode(leaver).unwrap();
    // A dead node is noticed after 4 s, and would be replaced at once.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(stored(&site), 9, "no replica was made for those that come back");
    assert!(site.client.read("/f").unwrap() == bytes);

    site.cluster.start_datanode(leaver).unwrap();
    site.want(&[]);
    site.await_status(leaver, "Normal");
    wait_for("all replicas", SOON, || {
        site.client.replica_ports("/f").iter().all(|ports| ports.len() == 3).then_some(())
    });
    assert_eq!(stored(&site), 9);
}

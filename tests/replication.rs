//! Replicas follow what the namespace and the living datanodes ask for.

use std::time::Duration;

use crate::cluster::{Library, TestCluster, sample, wait_for};

/// A dead node is noticed after 4 s with the tests' settings, and its blocks are copied at once;
/// the rest is slack for a loaded machine.
const RECOVERED: Duration = Duration::from_secs(30);

const LEN: usize = 6 * sample::BLOCK + 99;

#[test]
fn a_deleted_file_frees_its_space_on_every_datanode() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    let bytes = sample::bytes(LEN);
    library.write("/keep", &bytes[..1_000]).unwrap();
    let kept: Vec<u64> = (0..3).map(|index| cluster.stored_bytes(index)).collect();
    library.write("/f", &bytes).unwrap();
    for (index, kept) in kept.iter().enumerate() {
        assert!(cluster.stored_bytes(index) >= kept + LEN as u64);
    }
    cluster.dfs(&["-rm", "-skipTrash", "/f"]).succeeded();
    for (index, kept) in kept.into_iter().enumerate() {
        wait_for(&format!("datanode {index} has deleted its replicas"), RECOVERED, || {
            (cluster.stored_bytes(index) == kept).then_some(())
        });
    }
    assert!(library.read("/keep").unwrap() == bytes[..1_000]);
}

#[test]
fn the_blocks_of_a_killed_datanode_are_back_at_three_replicas() {
    let mut cluster = TestCluster::start_with(4, &[]);
    let library = cluster.connect();
    let bytes = sample::bytes(LEN);
    library.write("/f", &bytes).unwrap();
    wait_for_replicas(&library, &[]);
    let victim = (0..4).max_by_key(|index| cluster.finalized_blocks(*index).len()).unwrap();
    let lost = port(&cluster, victim);
    cluster.kill_datanode(victim);
    wait_for_replicas(&library, &[lost]);
    let others: Vec<usize> = (0..4).filter(|index| *index != victim).collect();
    for index in others {
        assert_eq!(cluster.finalized_blocks(index).len(), 7, "every other node has every block");
    }
    assert!(library.read("/f").unwrap() == bytes);

    // It comes back: what is too much now is deleted somewhere.
    cluster.start_datanode(victim).unwrap();
    wait_for("excess replicas deleted", RECOVERED, || {
        let all: usize = (0..4).map(|index| cluster.finalized_blocks(index).len()).sum();
        (all == 3 * 7).then_some(())
    });
    assert!(library.read("/f").unwrap() == bytes);
}

#[test]
fn a_fourth_datanode_that_starts_is_used() {
    let mut cluster = TestCluster::start();
    let library = cluster.connect();
    let bytes = sample::bytes(LEN);
    library.write("/f", &bytes).unwrap();
    let lost = port(&cluster, 1);
    cluster.kill_datanode(1);
    let fourth = cluster.add_datanode().unwrap();
    wait_for_replicas(&library, &[lost]);
    assert_eq!(cluster.finalized_blocks(fourth).len(), 7, "it holds what the dead one held");
    library.write("/new", &bytes).unwrap();
    // On its disk, as a replica is finalized before its last ack; the namenode may hear of it later.
    assert_eq!(cluster.finalized_blocks(fourth).len(), 14, "new blocks go there too");
}

#[test]
fn replication_follows_setrep() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    library.write("/f", &sample::bytes(LEN)).unwrap();
    for wanted in ["1", "2", "3"] {
        let said = cluster.dfs(&["-setrep", "-w", wanted, "/f"]).succeeded().text();
        assert!(said.starts_with(&format!("Replication {wanted} set: /f\n")), "{said}");
        wait_for(&format!("{wanted} replicas on disk"), RECOVERED, || {
            let all: usize = (0..3).map(|index| cluster.finalized_blocks(index).len()).sum();
            (all == 7 * wanted.parse::<usize>().unwrap()).then_some(())
        });
    }
}

fn port(cluster: &TestCluster, datanode: usize) -> u32 {
    let address = cluster.datanode_address(datanode);
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Waits until all blocks of `/f` have three replicas, none of them on the `lost` ports.
fn wait_for_replicas(library: &Library, lost: &[u32]) {
    wait_for("three live replicas of every block", RECOVERED, || {
        let replicas = library.replica_ports("/f");
        let good =
            |ports: &Vec<u32>| ports.len() == 3 && ports.iter().all(|port| !lost.contains(port));
        (replicas.len() == 7 && replicas.iter().all(good)).then_some(())
    });
}

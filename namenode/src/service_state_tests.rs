//! Datanodes that leave, against simulated ones.

use std::path::Path;

use ringfs_protocol::block::BlockId;
use ringfs_protocol::messages::{AdminState, DatanodeReportTypeProto};

use crate::block_manager::*;
use crate::host_lists::HostLists;
use crate::simulated_datanodes::{BLOCK_BYTES, Datanode, LOCALHOST, World, block, stored};

/// Lists of `(datanode, state as CombinedHostFileManager writes it)`; others stay as they are.
fn lists(world: &World, states: &[(usize, &str)]) -> HostLists {
    let state = |number: usize| {
        let found = states.iter().find(|(datanode, _)| *datanode == number);
        found.map_or("\"adminState\": \"NORMAL\"".to_owned(), |(_, state)| (*state).to_owned())
    };
    let host = |(number, datanode): (usize, &Datanode)| {
        format!("{{\"hostName\": \"127.0.0.1\", \"port\": {}, {}}}", datanode.port, state(number))
    };
    let listed =
        world.datanodes.iter().enumerate().filter(|(number, _)| state(*number) != UNLISTED);
    let hosts: Vec<String> = listed.map(host).collect();
    HostLists::from_json(Path::new("hosts"), &format!("[{}]", hosts.join(","))).unwrap()
}

const GONE: &str = "\"adminState\": \"DECOMMISSIONED\"";
const UNLISTED: &str = "";
const AWAY: &str = "\"adminState\": \"IN_MAINTENANCE\"";

fn state(world: &World, number: usize) -> AdminState {
    let infos = world.manager.datanode_report(DatanodeReportTypeProto::All);
    let port = world.datanodes[number].port;
    infos.iter().find(|info| info.id.xfer_port == port).unwrap().admin_state()
}

#[test]
fn a_decommissioned_datanode_has_its_blocks_copied_first_and_can_come_back() {
    let mut world = World::new(5, 3);
    let blocks: Vec<BlockId> =
        (0..30).map(|n| world.write(&[n % 5, (n + 1) % 5, (n + 2) % 5], 3)).collect();
    world.pass(2);
    world.manager.set_host_lists(lists(&world, &[(1, GONE)]));
    assert_eq!(state(&world, 1), AdminState::DecommissionInprogress);
    let mut seconds = 0;
    while state(&world, 1) != AdminState::Decommissioned {
        world.pass(1);
        seconds += 1;
        assert!(seconds < 200, "it never ends");
    }
    let elsewhere = |world: &World, id: BlockId| {
        (0..5).filter(|number| *number != 1 && world.is_good(*number, id)).count()
    };
    for id in &blocks {
        assert_eq!(elsewhere(&world, *id), 3, "{id}");
    }
    assert!(blocks.iter().any(|id| world.is_good(1, *id)), "nothing is deleted on it");
    let new = world.manager.choose_targets(&TargetRequest {
        count: 5,
        block_size: BLOCK_BYTES,
        writer: LOCALHOST,
        excluded: &[],
        existing: &[],
        favored: &[],
        no_local_write: false,
    });
    assert_eq!(new.len(), 4, "it takes no new replica");

    // Its death now costs nothing; called back, what is too much goes.
    world.manager.set_host_lists(lists(&world, &[]));
    world.pass(30);
    assert_eq!(state(&world, 1), AdminState::Normal);
    world.assert_healthy();
}

#[test]
fn the_only_replica_leaves_only_after_its_copy() {
    let mut world = World::new(2, 3);
    let id = world.write(&[0], 1);
    world.pass(2);
    world.manager.set_host_lists(lists(&world, &[(0, GONE)]));
    while state(&world, 0) != AdminState::Decommissioned {
        world.pass(1);
        assert!(world.good_replicas(id) == 2 || state(&world, 0) != AdminState::Decommissioned);
    }
    assert!(world.is_good(1, id));
}

#[test]
fn an_open_block_holds_its_datanode() {
    let mut world = World::new(3, 3);
    let open = block(900, 1, BLOCK_BYTES);
    let target = world.target(0);
    world.namespace.blocks.lock().insert(open.id, stored(open, BlockState::UnderConstruction, 1));
    world.manager.set_expected(open.id, vec![target]);
    world.datanodes[0].begin(open);
    world.manager.set_host_lists(lists(&world, &[(0, GONE)]));
    world.pass(60);
    assert_eq!(state(&world, 0), AdminState::DecommissionInprogress);

    world.datanodes[0].finalize(open);
    world.complete(open, 1);
    world.pass(60);
    assert_eq!(state(&world, 0), AdminState::Decommissioned);
    assert!((1..3).any(|number| world.is_good(number, open.id)));
}

#[test]
fn a_datanode_in_maintenance_may_be_down_without_its_blocks_being_copied() {
    let mut world = World::new(4, 3);
    let three = world.write(&[0, 1, 2], 3);
    let one = world.write(&[0], 1);
    world.pass(2);
    world.manager.set_host_lists(lists(&world, &[(0, AWAY)]));
    world.pass(40);
    assert_eq!(state(&world, 0), AdminState::InMaintenance);
    assert_eq!(world.good_replicas(one), 2, "the only replica was copied");
    world.kill(0);
    world.pass(60);
    assert_eq!(world.manager.live_datanodes(), 3);
    assert_eq!(world.good_replicas(three), 2, "two are enough meanwhile");
    assert_eq!(world.manager.fs_stats().under_replicated, 0);

    // Its time is over, and it is still down.
    let over = format!("{AWAY}, \"maintenanceExpireTimeInMS\": 1");
    world.manager.set_host_lists(lists(&world, &[(0, &over)]));
    world.pass(30);
    assert_eq!(state(&world, 0), AdminState::Normal);
    assert_eq!(world.good_replicas(three), 3);
}

#[test]
fn a_datanode_that_gives_up_is_dead_at_once_and_may_come_back() {
    let world = World::new(4, 3);
    world.manager.give_up_datanode(&world.datanodes[0].uuid);
    assert_eq!(world.manager.live_datanodes(), 3);
    assert!(world.beat(0, false).register);
    world.try_register(0).unwrap();
    assert_eq!(world.manager.live_datanodes(), 4);
}

#[test]
fn a_datanode_that_is_not_listed_is_put_out_and_refused() {
    let mut world = World::new(4, 3);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.manager.set_host_lists(lists(&world, &[(0, UNLISTED)]));
    assert_eq!(world.manager.live_datanodes(), 3);
    assert!(world.beat(0, false).register);
    let refused = world.try_register(0).unwrap_err().to_string();
    assert!(refused.contains("include-list"), "{refused}");
    world.datanodes[0].alive = false;
    world.pass(20);
    assert_eq!(world.good_replicas(id), 3);
}

#[test]
fn the_replica_that_is_spared_leaves_two_racks() {
    for seed in 0..20 {
        let mut world = World::new(0, seed);
        for rack in ["/a", "/a", "/b"] {
            world.add_datanode_on(rack);
        }
        world.pass(1);
        world.report_all();
        let id = world.write(&[0, 1, 2], 3);
        world.pass(2);
        world.set_replication(id, 2);
        world.pass(5);
        assert_eq!(world.good_replicas(id), 2);
        assert!(world.is_good(2, id), "the only replica on its rack");
    }
}

/// Once each; one that registers anew may have forgotten.
#[test]
fn the_balancers_bandwidth_is_told_to_every_datanode() {
    let world = World::new(2, 3);
    let told = |number: usize| world.beat(number, false).balancer_bandwidth;
    assert_eq!(told(0), None);
    world.manager.set_balancer_bandwidth(1_000);
    assert_eq!((told(0), told(0), told(1)), (Some(1_000), None, Some(1_000)));
    world.manager.set_balancer_bandwidth(2_000);
    assert_eq!((told(0), told(0)), (Some(2_000), None));
    world.register(0);
    assert_eq!((told(0), told(1)), (Some(2_000), Some(2_000)));
}

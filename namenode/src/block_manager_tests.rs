//! The block manager's decisions, one by one, against simulated datanodes.

use std::collections::BTreeSet;
use std::time::Duration;

use ringfs_protocol::block::{BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::messages::{
    BlockStatus, DatanodeReportTypeProto, ReceivedDeletedBlockInfoProto,
    StorageReceivedDeletedBlocksProto,
};

use crate::block_manager::*;
use crate::heartbeats::Heartbeat;
use crate::simulated_datanodes::{BLOCK_BYTES, LOCALHOST, Message, World, block, stored};

#[test]
fn a_dead_datanodes_blocks_are_copied_until_each_has_its_replicas_again() {
    let mut world = World::new(4, 1);
    for number in 0..20 {
        world.write(&[number % 4, (number + 1) % 4, (number + 2) % 4], 3);
    }
    world.pass(2);
    world.assert_healthy();
    world.kill(1);
    world.pass(13);
    assert_eq!(world.manager.live_datanodes(), 4);
    world.pass(2);
    assert_eq!(world.manager.live_datanodes(), 3);
    world.pass(10);
    world.assert_healthy();

    // It comes back with all it had: the copies too many are removed, again to three each.
    world.datanodes[1].alive = true;
    world.pass(15);
    world.assert_healthy();
    assert_eq!(world.manager.live_datanodes(), 4);
}

/// Of a deleted file as of replicas too many. Without a report they are given anew after 15 minutes.
#[test]
fn orders_to_delete_that_were_lost_are_given_anew_after_a_full_report() {
    let mut world = World::new(3, 1);
    let deleted = world.write(&[0, 1, 2], 3);
    let lowered = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.delete(deleted);
    world.set_replication(lowered, 1);
    world.clock.advance(1000);
    while world.manager.tick() {}
    let lost: usize = (0..3).map(|number| world.beat(number, false).invalidations.len()).sum();
    assert_eq!(lost, 3 + 2, "heartbeats whose replies do not arrive");
    world.pass(60);
    let on_disk = |world: &World, id| {
        let holds = |number: &usize| world.datanodes[*number].replicas.contains_key(&id);
        (0..3).filter(holds).count()
    };
    assert_eq!((on_disk(&world, deleted), on_disk(&world, lowered)), (3, 3));
    world.report_all();
    world.pass(2);
    assert_eq!((on_disk(&world, deleted), on_disk(&world, lowered)), (0, 1));
    world.assert_healthy();
}

/// As long as the order waits for a heartbeat.
#[test]
fn a_replica_too_many_counts_again_when_another_is_lost_before_it_is_deleted() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.set_replication(id, 2);
    let holders = world.known_locations(id);
    assert_eq!(holders.len(), 2, "one is condemned");
    let (lost, spare): (Vec<usize>, Vec<usize>) =
        (0..3).partition(|number| holders.contains(&world.datanodes[*number].uuid));
    world.rot(lost[0], id);
    assert!(world.beat(spare[0], false).invalidations.is_empty());
    assert_eq!(world.known_locations(id).len(), 2);
    world.pass(5);
    assert!(world.datanodes[spare[0]].replicas.contains_key(&id));
    world.assert_healthy();
}

#[test]
fn a_rotten_replica_stays_when_another_rots_before_it_is_deleted() {
    let mut world = World::new(5, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.rot(1, id);
    // The copy that replaces it is there, and the heartbeat that would take the order is not.
    world.copy(0, 3, &world.datanodes[0].replicas[&id].0.clone());
    world.deliver_all();
    assert_eq!(world.good_replicas(id), 3);
    world.rot(2, id);
    assert!(world.beat(1, false).invalidations.is_empty());
    assert!(world.datanodes[1].replicas.contains_key(&id));
}

#[test]
fn a_block_with_one_replica_left_is_copied_before_one_with_two() {
    let mut world = World::new(6, 1);
    let two = world.write(&[0, 2, 3], 3);
    let one = world.write(&[0, 1, 4], 3);
    world.pass(2);
    world.kill(0);
    world.kill(1);
    for _ in 0..20 {
        world.pass(1);
        if world.good_replicas(one) + world.good_replicas(two) > 3 {
            break;
        }
    }
    // One replica of each is on its way in the first round; had it room for one only, that of `one`.
    assert!(world.good_replicas(one) > 1);
    world.pass(20);
    world.assert_healthy();
}

#[test]
fn copies_are_ordered_at_a_bounded_rate() {
    let mut world = World::new(3, 1);
    for _ in 0..50 {
        world.write(&[0, 1], 2);
    }
    world.pass(2);
    world.kill(0);
    for _ in 0..20 {
        world.clock.advance(1000);
        while world.manager.tick() {}
        for number in [1, 2] {
            let sent = world.beat(number, false).transfers.len();
            // dfs.namenode.replication.max-streams
            assert!(sent <= 2, "{sent} copies with one heartbeat");
        }
    }
    // What was ordered counts as on its way, the rest waits at the highest risk.
    let stats = world.manager.fs_stats();
    assert!(stats.under_replicated > 0);
    assert_eq!(stats.highest_priority_low_redundancy_blocks, stats.under_replicated);
}

#[test]
fn an_order_that_nobody_carries_out_is_given_again_after_its_timeout() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1], 2);
    world.pass(2);
    world.kill(0);
    let mut orders = Vec::new();
    for second in 0..60 {
        world.clock.advance(1000);
        world.manager.tick();
        for number in [1, 2] {
            let transfers = world.beat(number, false).transfers;
            orders.extend(transfers.iter().map(|_| second));
        }
    }
    assert!(orders.len() >= 2, "{orders:?}");
    assert!(orders.windows(2).all(|pair| pair[1] - pair[0] >= 20), "{orders:?}");
    world.copy(1, 2, &block(id.0, 1001, BLOCK_BYTES));
    world.pass(2);
    world.assert_healthy();
}

#[test]
fn lowering_the_replication_deletes_the_replicas_with_the_least_space() {
    let mut world = World::new(4, 1);
    for _ in 0..10 {
        world.write(&[0], 1);
    }
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.set_replication(id, 2);
    world.pass(2);
    assert!(!world.is_good(0, id), "the fullest datanode keeps it");
    world.assert_healthy();
    world.set_replication(id, 4);
    world.pass(15);
    world.assert_healthy();
}

#[test]
fn a_balancers_hint_says_which_replica_goes() {
    let mut world = World::new(4, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    let replica = block(id.0, 1001, BLOCK_BYTES);
    world.datanodes[3].replicas.insert(id, (replica, ReplicaState::Finalized));
    let hint = Some(world.datanodes[2].uuid.clone());
    world.deliver(3, Message::Change(replica, BlockStatus::Received, hint));
    world.pass(1);
    assert!(!world.is_good(2, id));
    world.assert_healthy();
}

#[test]
fn a_corrupt_replica_goes_only_once_enough_good_ones_exist() {
    let mut world = World::new(4, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.rot(1, id);
    assert_eq!(world.manager.fs_stats().corrupt_blocks, 1);
    assert_eq!(world.known_locations(id).len(), 2);
    // Reporting it does not make it good.
    world.report_all();
    assert_eq!(world.known_locations(id).len(), 2);
    assert!(world.beat(1, false).invalidations.is_empty());
    world.pass(5);
    assert!(!world.datanodes[1].replicas.contains_key(&id));
    world.assert_healthy();

    // The last replicas are all bad: they are named, as corrupt, and stay.
    let single = world.write(&[0], 1);
    world.pass(2);
    world.rot(0, single);
    world.pass(5);
    let stored = world.namespace.stored_block(single).unwrap();
    let (targets, corrupt) = world.manager.locations(&stored, LOCALHOST);
    assert!(corrupt && targets.len() == 1);
    assert!(world.datanodes[0].replicas.contains_key(&single));
    assert_eq!(world.manager.fs_stats().missing_blocks, 1);
    assert_eq!(world.manager.fs_stats().missing_replication_one_blocks, 1);
    assert_eq!(world.manager.missing_blocks_after(None, 10), [single]);
}

/// A namenode that has restarted hears of rot before the replica is reported, as if it were good.
#[test]
fn rot_that_is_told_before_a_full_report_is_not_counted_after_it() {
    let full = block(1, 1001, BLOCK_BYTES);
    let mut world = World::starting(vec![stored(full, BlockState::Complete, 2)], 4, 1);
    for number in 0..3 {
        world.datanodes[number].replicas.insert(full.id, (full, ReplicaState::Finalized));
    }
    // The one that would stay.
    world.datanodes[0].replicas.extend((2..9).map(|id| {
        let other = block(id, 9000, BLOCK_BYTES);
        (other.id, (other, ReplicaState::Finalized))
    }));
    world.heartbeats();
    world.rot(2, full.id);
    world.report_all();
    world.manager.safe_mode().leave();
    world.pass(20);
    assert_eq!(world.good_replicas(full.id), 2);
    assert!(!world.datanodes[2].replicas.contains_key(&full.id), "it is deleted at last");
}

#[test]
fn on_as_many_datanodes_as_replicas_a_bad_one_makes_room_for_a_good_one() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.rot(2, id);
    world.pass(20);
    world.assert_healthy();
}

#[test]
fn bad_replicas_on_all_other_datanodes_make_room_for_copies_of_the_last_good_one() {
    let mut world = World::new(4, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    let (block, _) = world.datanodes[0].replicas[&id];
    world.rot(2, id);
    world.copy(0, 3, &block);
    world.deliver_all();
    world.rot(0, id);
    world.rot(1, id);
    assert_eq!(world.good_replicas(id), 1);
    world.pass(60);
    world.assert_healthy();
}

#[test]
fn replicas_of_deleted_and_of_unknown_blocks_are_deleted_but_not_those_from_the_future() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.delete(id);
    world.pass(2);
    assert!(world.datanodes.iter().all(|datanode| datanode.replicas.is_empty()));

    let unknown = block(900, 1001, 7);
    let future = block(901, 5001, 7);
    world.datanodes[0].replicas.insert(unknown.id, (unknown, ReplicaState::Finalized));
    world.datanodes[0].replicas.insert(future.id, (future, ReplicaState::Finalized));
    world.report_all();
    world.pass(2);
    assert_eq!(world.datanodes[0].replicas.keys().collect::<Vec<_>>(), [&future.id]);
    assert_eq!(world.manager.fs_stats().blocks_in_future, 1);
}

#[test]
fn outdated_replicas_go_as_soon_as_there_is_a_good_one() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.kill(2);
    let before = world.datanodes[2].replicas.clone();
    world.append(id);
    world.datanodes[2].replicas = before;
    world.datanodes[2].outbox.clear();
    world.pass(20);
    assert_eq!(world.good_replicas(id), 2);
    // It comes back with the replica of before the append.
    world.datanodes[2].alive = true;
    world.pass(15);
    world.assert_healthy();
}

#[test]
fn start_up_waits_for_reports_and_then_finds_what_is_missing() {
    let complete = |id| stored(block(id, 1001, BLOCK_BYTES), BlockState::Complete, 2);
    let blocks: Vec<StoredBlock> = (1..=10).map(complete).collect();
    let mut world = World::starting(blocks, 3, 1);
    world.next_block = 11;
    let give = |world: &mut World, number: usize, ids: std::ops::RangeInclusive<u64>| {
        for id in ids {
            let replica = block(id, 1001, BLOCK_BYTES);
            let replicas = &mut world.datanodes[number].replicas;
            replicas.insert(replica.id, (replica, ReplicaState::Finalized));
        }
    };
    give(&mut world, 0, 1..=8);
    give(&mut world, 0, 100..=100);
    give(&mut world, 1, 1..=9);
    world.pass(5);
    assert!(world.manager.safe_mode().is_on());
    world.send_full_report(0);
    world.pass(5);
    let tip = world.manager.safe_mode().status_text();
    assert!(tip.starts_with("The reported blocks 8 needs additional 1 blocks"), "{tip}");
    assert!(world.datanodes[0].replicas.contains_key(&BlockId(100)), "nothing is deleted yet");

    world.send_full_report(1);
    world.pass(2);
    assert!(world.manager.safe_mode().is_on(), "in its extension");
    world.pass(10);
    assert!(!world.manager.safe_mode().is_on());
    assert!(!world.datanodes[0].replicas.contains_key(&BlockId(100)));
    assert_eq!(world.good_replicas(BlockId(9)), 2);
    assert_eq!(world.manager.missing_blocks_after(None, 10), [BlockId(10)]);
}

#[test]
fn a_recovery_is_led_by_another_datanode_each_time_and_sent_alone() {
    let mut world = World::new(3, 1);
    let open = stored(block(50, 1001, 0), BlockState::UnderConstruction, 3);
    world.namespace.blocks.lock().insert(open.block.id, open);
    let request = RecoveryRequest {
        block: open.block,
        recovery_id: GenerationStamp(1002),
        truncate_to: None,
    };
    assert!(!world.manager.queue_recovery(&request), "nobody has it");
    let targets: Vec<StorageTarget> = (0..3).map(|number| world.target(number)).collect();
    world.manager.set_expected(open.block.id, targets);
    let other = world.write(&[0, 1, 2], 3);
    world.deliver_all();
    world.delete(other);

    let mut led_by = BTreeSet::new();
    for stamp in 1002..1005 {
        let request = RecoveryRequest { recovery_id: GenerationStamp(stamp), ..request };
        assert!(world.manager.queue_recovery(&request));
        for number in 0..3 {
            let reply = world.beat(number, false);
            if let [recovery] = &reply.recoveries[..] {
                assert!(reply.invalidations.is_empty());
                assert_eq!(recovery.new_gen_stamp, stamp);
                assert_eq!(recovery.block.locs.len(), 3);
                assert_eq!(recovery.block.storage_ids.len(), 3);
                led_by.insert(number);
            }
        }
    }
    assert_eq!(led_by.len(), 3);
}

#[test]
fn a_recoverys_outcome_replaces_what_was_known() {
    let mut world = World::new(3, 1);
    let open = stored(block(50, 1001, 0), BlockState::UnderConstruction, 3);
    world.namespace.blocks.lock().insert(open.block.id, open);
    world.manager.set_expected(open.block.id, (0..3).map(|number| world.target(number)).collect());
    for number in 0..3 {
        world.datanodes[number].begin(block(50, 1001, 40 + number as u64));
    }
    world.pass(1);
    let recovered = block(50, 1002, 40);
    for number in 0..2 {
        world.datanodes[number].replicas.insert(recovered.id, (recovered, ReplicaState::Finalized));
    }
    let complete = stored(recovered, BlockState::Complete, 2);
    world.namespace.blocks.lock().insert(recovered.id, complete);
    world.manager.synchronized(&complete, vec![world.target(0), world.target(1)]);
    assert_eq!(world.manager.finalized_replicas(&recovered), 2);
    // The third one's old replica is told when it reports next.
    world.report_all();
    world.pass(3);
    world.assert_healthy();
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_block_ends_with_its_report() {
    let mut world = World::new(1, 1);
    let id = BlockId(7);
    let full = block(7, 1001, BLOCK_BYTES);
    let committed = stored(full, BlockState::Committed, 1);
    world.namespace.blocks.lock().insert(id, committed);
    world.manager.set_expected(id, vec![world.target(0)]);
    assert!(!world.manager.wait_finalized(&full, 1, Duration::from_secs(2)).await);

    let manager = world.manager.clone();
    let waiting =
        tokio::spawn(async move { manager.wait_finalized(&full, 1, Duration::from_secs(2)).await });
    tokio::task::yield_now().await;
    let begun = tokio::time::Instant::now();
    world.datanodes[0].finalize(full);
    world.deliver_all();
    assert!(waiting.await.unwrap());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[test]
fn a_datanode_without_registration_is_asked_for_it_and_its_reports_are_refused() {
    let mut world = World::new(1, 1);
    world.write(&[0], 1);
    world.pass(1);
    let stranger = world.manager.heartbeat("stranger", &Heartbeat::default());
    assert!(stranger.register && stranger.report_lease == 0);
    let error = world.manager.incremental_report("stranger", &[]);
    assert!(error.is_ok(), "nothing to report");
    let report = StorageReceivedDeletedBlocksProto {
        storage_uuid: "DS-x".to_owned(),
        blocks: vec![ReceivedDeletedBlockInfoProto::default()],
        storage: None,
    };
    let error = world.manager.incremental_report("stranger", &[report]).unwrap_err().to_string();
    assert!(error.starts_with("ProcessReport from dead or unregistered node"), "{error}");
}

#[test]
fn another_datanode_at_the_same_address_replaces_the_first() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1], 2);
    world.pass(2);
    world.datanodes[0].uuid = "node-0-anew".to_owned();
    world.datanodes[0].replicas.clear();
    world.register(0);
    assert_eq!(world.manager.live_datanodes(), 3);
    assert_eq!(world.manager.datanode_report(DatanodeReportTypeProto::All).len(), 3);
    assert!(world.manager.datanode_info("node-0").is_none());
    assert_eq!(world.known_locations(id).len(), 1);
    world.send_full_report(0);
    world.pass(5);
    world.assert_healthy();
}

#[test]
fn a_late_report_does_not_bring_back_a_replica_that_a_full_report_no_longer_had() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.set_replication(id, 2);
    world.clock.advance(1000);
    world.heartbeats();
    let deleted_by = (0..3).find(|number| !world.is_good(*number, id)).unwrap();
    // Its confirmation is overtaken by a full report, and by a repetition of its first report.
    let confirmation = std::mem::take(&mut world.datanodes[deleted_by].outbox);
    world.clock.advance(1000);
    world.send_full_report(deleted_by);
    world.deliver_all();
    let received = block(id.0, 1001, BLOCK_BYTES);
    world.deliver(deleted_by, Message::Change(received, BlockStatus::Received, None));
    assert_eq!(world.known_locations(id).len(), 2);
    for message in confirmation {
        world.deliver(deleted_by, message);
    }
    world.pass(2);
    world.assert_healthy();
}

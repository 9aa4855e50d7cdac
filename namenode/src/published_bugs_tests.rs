//! Bugs that cost users of HDFS data, as its issue tracker has them: one test for each whose state is
//! the namenode's. ARCHITECTURE.md lists them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ringfs_protocol::block::ReplicaState;
use ringfs_protocol::messages::{
    AppendRequestProto, BlockStatus, DatanodeIDProto, LocatedBlockProto, UpdatePipelineRequestProto,
};

use crate::backup::copy;
use crate::block_manager::{BlockState, StoredBlock};
use crate::namesystem::ClientCall;
use crate::simulated_datanodes::{BLOCK_BYTES, LOCALHOST, Message, World, block, stored};
use crate::test_support::{BLOCK_SIZE, Fixture, HOLDER, block_of, claim, written};

/// A report of another length or generation stamp than the block has is of no good replica, and takes
/// the place of none.
#[test]
fn hdfs_5438_a_report_that_does_not_fit_costs_no_good_replica() {
    let mut world = World::new(4, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    for (stamp, len) in [(1001, BLOCK_BYTES - 1), (1000, BLOCK_BYTES), (1001, 0)] {
        let unfit = block(id.0, stamp, len);
        world.deliver(3, Message::Change(unfit, BlockStatus::Received, None));
        assert_eq!(world.known_locations(id).len(), 3, "{unfit}");
        // Late and twice, from one that has the block as it should be.
        world.deliver(0, Message::Change(block(id.0, stamp, len), BlockStatus::Receiving, None));
        world.report_all();
        world.pass(3);
        assert_eq!(world.good_replicas(id), 3, "{unfit}");
    }
}

/// The last packet's recovery raised the generation stamp: what the datanodes reported before it, and
/// what comes late, takes nothing from those that report after it.
#[test]
fn hdfs_5557_a_recovery_of_the_last_packet_rejects_no_valid_replica() {
    let mut world = World::new(3, 1);
    let id = world.next_block;
    world.next_block += 1;
    let open = stored(block(id, 1001, 0), BlockState::UnderConstruction, 3);
    world.namespace.blocks.lock().insert(open.block.id, open);
    let targets = |world: &World| (0..3).map(|number| world.target(number)).collect();
    world.manager.set_expected(open.block.id, targets(&world));
    let (before, after) = (block(id, 1001, BLOCK_BYTES), block(id, 1002, BLOCK_BYTES));
    for number in 0..3 {
        world.deliver(number, Message::Change(before, BlockStatus::Received, None));
    }
    world.manager.set_expected(open.block.id, targets(&world));
    for number in 0..3 {
        world.datanodes[number].replicas.insert(after.id, (after, ReplicaState::Finalized));
    }
    world.deliver(0, Message::Change(after, BlockStatus::Received, None));
    world.complete(after, 3);
    world.deliver(1, Message::Change(after, BlockStatus::Received, None));
    // Overtaken by the later one.
    world.deliver(1, Message::Change(before, BlockStatus::Received, None));
    world.deliver(2, Message::Change(after, BlockStatus::Received, None));
    world.pass(20);
    world.assert_healthy();
}

/// A pipeline recovers under a file that was deleted meanwhile.
#[tokio::test]
async fn hdfs_6647_a_deleted_files_pipeline_leaves_nothing_for_the_next_start() {
    let (fixture, root, located) = with_gone_being_written().await;
    let ns = &fixture.namesystem;
    let stamped = ns.update_block_for_pipeline(located.b.clone(), HOLDER.to_owned()).await.unwrap();
    assert!(ns.delete(&root, "/gone".to_owned(), false).await.unwrap().result);
    let update = UpdatePipelineRequestProto {
        client_name: HOLDER.to_owned(),
        old_block: located.b.clone(),
        new_block: stamped.b.clone(),
        new_nodes: vec![DatanodeIDProto { datanode_uuid: "dn1".to_owned(), ..Default::default() }],
        storage_ids: vec!["DS-dn1".to_owned()],
    };
    ns.update_pipeline(&root, update).await.unwrap_err();
    assert_only_kept(&fixture.restart(), &root);
}

/// A block is asked for, and the file completed, after the file was deleted.
#[tokio::test]
async fn hdfs_6527_a_deleted_file_gets_no_block() {
    let (fixture, root, located) = with_gone_being_written().await;
    let ns = &fixture.namesystem;
    assert!(ns.delete(&root, "/gone".to_owned(), false).await.unwrap().result);
    fixture.report("dn1", block_of(&written(&located, 10)));
    fixture.add_block(&root, "/gone", Some(written(&located, 10))).await.unwrap_err();
    ns.complete(claim("/gone"), Some(written(&located, 10))).await.unwrap_err();
    let fixture = fixture.restart();
    assert_only_kept(&fixture, &root);
    assert!(fixture.removed(block_of(&located.b).id));
}

/// An append is refused when it has half begun: the last block's only datanode has not reported since
/// the start.
#[tokio::test]
async fn hdfs_7587_a_refused_append_leaves_the_file_closed() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    fixture.write(&root, "/kept", &[BLOCK_SIZE, 10]).await;
    let fixture = fixture.restart();
    let append =
        AppendRequestProto { src: "/kept".to_owned(), client_name: HOLDER.to_owned(), flag: None };
    fixture.datanodes(&["dn1"]);
    let refused = fixture.namesystem.append(&root, append).await.unwrap_err();
    assert!(refused.to_string().contains("not sufficiently replicated"), "{refused}");
    assert_only_kept(&fixture.restart(), &root);
}

/// A closed file, and another with its first block under way.
async fn with_gone_being_written() -> (Fixture, ClientCall, LocatedBlockProto) {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    fixture.write(&root, "/kept", &[BLOCK_SIZE, 10]).await;
    fixture.create(&root, "/gone").await.unwrap();
    let located = fixture.add_block(&root, "/gone", None).await.unwrap();
    (fixture, root, located)
}

fn assert_only_kept(fixture: &Fixture, root: &ClientCall) {
    assert_eq!(fixture.names(root, "/"), ["kept"]);
    assert_eq!(fixture.length(root, "/kept"), BLOCK_SIZE + 10);
    assert!(fixture.namesystem.is_file_closed(root, "/kept").unwrap());
}

/// The namespace is saved (here: backed up) time and again while calls change it: each copy holds what was
/// answered before it was asked for, starts, and has of each file both names or none.
#[tokio::test(flavor = "multi_thread")]
async fn hdfs_988_a_namespace_saved_under_changes_is_whole() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    let answered = Arc::new(AtomicU32::new(0));
    let changes = tokio::spawn({
        let (ns, root, answered) = (fixture.namesystem.clone(), root.clone(), answered.clone());
        async move {
            for number in 0..200 {
                // One change of two directories: of `from` and `to` a half would be seen.
                let (from, to) = (format!("/from{number}/a"), format!("/to{number}"));
                assert!(ns.mkdirs(&root, from, 0o755, true).await.unwrap());
                let source = format!("/from{number}");
                assert!(ns.rename(&root, source, to).await.unwrap().result);
                answered.store(number + 1, Ordering::SeqCst);
            }
        }
    });
    loop {
        let (is_last, least) = (changes.is_finished(), answered.load(Ordering::SeqCst));
        let (source, target) = (fixture.namesystem.store.clone(), tempfile::tempdir().unwrap());
        let to = target.path().to_owned();
        tokio::task::spawn_blocking(move || copy(&source, &to)).await.unwrap().unwrap();
        let restored = fixture.beside(target);
        let names = restored.names(&root, "/");
        let moved = names.iter().filter(|name| name.starts_with("to")).count();
        assert!(moved >= least as usize, "{moved} of {least} answered changes");
        assert!(names.len() - moved <= 1, "{names:?}");
        for name in names {
            assert_eq!(restored.names(&root, &format!("/{name}")), ["a"]);
        }
        if is_last {
            assert_eq!(moved, 200);
            break;
        }
    }
    changes.await.unwrap();
}

/// A namenode that starts hears of the newest replica first, then late of the ones before an append.
#[test]
fn hdfs_16987_a_late_report_does_not_spoil_the_newest_replica() {
    let id = 1;
    let newest = block(id, 1003, BLOCK_BYTES + 2);
    let complete: Vec<StoredBlock> = vec![stored(newest, BlockState::Complete, 3)];
    let mut world = World::starting(complete, 4, 1);
    world.next_block = 2;
    let older = [block(id, 1001, BLOCK_BYTES), block(id, 1002, BLOCK_BYTES + 1)];
    world.datanodes[0].replicas.insert(newest.id, (newest, ReplicaState::Finalized));
    world.datanodes[1].replicas.insert(newest.id, (older[0], ReplicaState::Finalized));
    world.datanodes[2].replicas.insert(newest.id, (older[1], ReplicaState::Finalized));
    for number in 0..4 {
        world.register(number);
    }
    world.heartbeats();
    world.deliver(0, Message::Change(newest, BlockStatus::Received, None));
    // The datanode with the newest replica had the others before: their reports come late.
    for late in older {
        world.deliver(0, Message::Change(late, BlockStatus::Received, None));
    }
    world.report_all();
    let (targets, corrupt) =
        world.manager.locations(&stored(newest, BlockState::Complete, 3), LOCALHOST);
    assert!(!corrupt && targets.len() == 1, "{targets:?}");
    world.manager.safe_mode().leave();
    world.pass(40);
    world.assert_healthy();
}

/// A block of two replicas is closed with one: it is not whole until there are two again.
#[test]
fn hdfs_16968_a_block_closed_with_one_replica_gets_its_second() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1], 2);
    // The second datanode is lost before it reports.
    world.kill(1);
    world.datanodes[1].replicas.clear();
    world.deliver_all();
    world.pass(30);
    assert_eq!(world.good_replicas(id), 2);
}

/// Two of three replicas are found corrupt, and all datanodes report in every order: the good one stays,
/// and both others are replaced from it.
#[test]
fn hdfs_900_corrupt_replicas_are_tracked_through_reports_of_several_datanodes() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut world = World::new(4, 1);
        let id = world.write(&[0, 1, 2], 3);
        world.pass(2);
        for number in order {
            if number != 1 {
                world.rot(number, id);
            }
            world.send_full_report(number);
            world.deliver_all();
            assert!(world.is_good(1, id), "{order:?}");
        }
        assert!(world.known_locations(id).contains(&world.datanodes[1].uuid), "{order:?}");
        for _ in 0..20 {
            world.pass(1);
            assert!(world.good_replicas(id) >= 1, "{order:?}");
        }
        world.pass(20);
        world.assert_healthy();
    }
}

/// What is known to be corrupt stays so through reports, restarts and re-registrations, until good
/// replicas have taken its place.
#[test]
fn hdfs_4799_a_corrupt_replica_is_not_forgotten() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.rot(1, id);
    for _ in 0..3 {
        world.register(1);
        world.heartbeats();
        world.report_all();
        let received = block(id.0, 1001, BLOCK_BYTES);
        world.deliver(1, Message::Change(received, BlockStatus::Received, None));
        assert!(!world.known_locations(id).contains(&world.datanodes[1].uuid));
    }
    world.pass(20);
    world.assert_healthy();
}

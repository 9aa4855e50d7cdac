//! Files that are opened again: `append` and `truncate`.

use std::time::Duration;

use ringfs_protocol::block::Block;
use ringfs_protocol::messages::{DatanodeIDProto, ExtendedBlockProto, UpdatePipelineRequestProto};

use crate::error::NamenodeError as E;
use crate::namesystem::ClientCall;
use crate::test_support::{BLOCK_SIZE, Fixture, HOLDER, block_of, claim, written};

const OTHER: &str = "DFSClient_2";

#[tokio::test]
async fn append_waits_for_replicas_that_are_about_to_be_reported() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1", "dn2"]);
    let root = fixture.superuser().await;
    fixture.create(&root, "/f").await.unwrap();
    let located = fixture.add_block(&root, "/f", None).await.unwrap();
    let last = written(&located, 10);
    fixture.report("dn1", block_of(&last));
    assert!(fixture.namesystem.complete(claim("/f"), Some(last.clone())).await.unwrap());
    let append = |call: ClientCall| {
        let fixture = &fixture;
        async move { fixture.append(&call, "/f", HOLDER).await.unwrap().unwrap() }
    };
    let report_soon = |last: ExtendedBlockProto| {
        let fixture = &fixture;
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            fixture.report("dn2", block_of(&last));
        }
    };
    let (located, ()) = tokio::join!(append(root.clone()), report_soon(last));
    assert_eq!(located.locs.len(), 2, "of a new block");

    // And of one that was written on, of which older replicas are known.
    let ns = &fixture.namesystem;
    let stamped = ns.update_block_for_pipeline(located.b.clone(), HOLDER.to_owned()).await.unwrap();
    let node = |uuid: &str| DatanodeIDProto { datanode_uuid: uuid.into(), ..Default::default() };
    let update = UpdatePipelineRequestProto {
        client_name: HOLDER.to_owned(),
        old_block: located.b.clone(),
        new_block: stamped.b.clone(),
        new_nodes: vec![node("dn1"), node("dn2")],
        storage_ids: vec!["DS-dn1".to_owned(), "DS-dn2".to_owned()],
    };
    ns.update_pipeline(&root, update).await.unwrap();
    let last = written(&stamped, 20);
    fixture.report("dn1", block_of(&last));
    assert!(ns.complete(claim("/f"), Some(last.clone())).await.unwrap());
    let (located, ()) = tokio::join!(append(root), report_soon(last));
    assert_eq!(located.locs.len(), 2, "of a block that was written on");
}

#[tokio::test]
async fn append_reopens_the_last_block() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1", "dn2"]);
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    let blocks = fixture.write(&root, "/f", &[BLOCK_SIZE, 10]).await;
    let call = fixture.numbered("super", 9).await;
    let located = fixture.append(&call, "/f", HOLDER).await.unwrap().unwrap();
    assert_eq!(block_of(&located.b), blocks[1], "same id, generation stamp and length");
    assert_eq!((located.offset, located.locs.len()), (BLOCK_SIZE, 2));
    assert_eq!(fixture.append(&call, "/f", HOLDER).await.unwrap(), Some(located.clone()));
    let second = fixture.append(&root, "/f", OTHER).await.unwrap_err();
    assert!(second.to_string().starts_with("Failed to APPEND_FILE /f for DFSClient_2"));

    // As hdfs-native does: no new stamp, and complete with the old one.
    let longer = written(&located, 20);
    fixture.report("dn1", block_of(&longer));
    assert!(ns.complete(claim("/f"), Some(longer.clone())).await.unwrap());
    assert_eq!(fixture.length(&root, "/f"), BLOCK_SIZE + 20);

    // As Java does: a new stamp, and the pipeline brought to it.
    let located = fixture.append(&root, "/f", HOLDER).await.unwrap().unwrap();
    let stamped = ns.update_block_for_pipeline(located.b.clone(), HOLDER.to_owned()).await.unwrap();
    assert!(stamped.b.generation_stamp > located.b.generation_stamp);
    assert_eq!(stamped.offset, u64::MAX);
    let update = |new: ExtendedBlockProto| UpdatePipelineRequestProto {
        client_name: HOLDER.to_owned(),
        old_block: located.b.clone(),
        new_block: new,
        new_nodes: vec![DatanodeIDProto { datanode_uuid: "dn2".to_owned(), ..Default::default() }],
        storage_ids: vec!["DS-dn2".to_owned()],
    };
    let older = ns.update_pipeline(&root, update(located.b.clone())).await.unwrap_err();
    assert!(older.to_string().contains("to an older state"), "{older}");
    let thief =
        UpdatePipelineRequestProto { client_name: OTHER.to_owned(), ..update(stamped.b.clone()) };
    assert!(matches!(ns.update_pipeline(&root, thief).await, Err(E::LeaseExpired(_))));
    let call = fixture.numbered("super", 10).await;
    for _ in 0..2 {
        ns.update_pipeline(&call, update(stamped.b.clone())).await.unwrap();
    }
    let longer = written(&stamped, 30);
    let stale = ns.complete(claim("/f"), Some(written(&located, 30))).await.unwrap_err();
    assert!(stale.to_string().starts_with("Commit block with mismatching GS."), "{stale}");
    fixture.report("dn2", block_of(&longer));
    assert!(ns.complete(claim("/f"), Some(longer)).await.unwrap());

    // Behind a full block there is nothing to reopen: the client asks for the next one at once.
    fixture.write(&root, "/full", &[BLOCK_SIZE]).await;
    assert!(fixture.append(&root, "/full", HOLDER).await.unwrap().is_none());
    let next = fixture.add_block(&root, "/full", None).await.unwrap();
    assert_eq!(next.offset, BLOCK_SIZE);

    let directory = fixture.append(&root, "/", HOLDER).await;
    assert!(matches!(directory, Err(E::FileAlreadyExists(_))));
    assert!(matches!(fixture.append(&root, "/no", HOLDER).await, Err(E::FileNotFound(_))));
}

#[tokio::test]
async fn a_truncate_that_a_restart_cut_short_is_finished() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let block = fixture.write(&root, "/f", &[100]).await[0];
    let truncated = fixture.namesystem.truncate(&root, "/f".to_owned(), 7, HOLDER.to_owned()).await;
    assert!(!truncated.unwrap().result);
    let fixture = fixture.restart();
    let ns = &fixture.namesystem;
    fixture.datanodes(&["dn1"]);
    ns.check_leases().await.unwrap();
    assert!(fixture.recoveries(&["dn1"]).is_empty(), "nobody has reported a replica");
    fixture.report("dn1", block);
    ns.check_leases().await.unwrap();
    let request = &fixture.recoveries(&["dn1"])[0];
    assert_eq!(request.truncate_block.as_ref().unwrap().num_bytes, Some(7));
    let report = fixture.synchronization(block, request.new_gen_stamp, 7, &["dn1"]);
    ns.commit_block_synchronization(report).await.unwrap();
    assert!(fixture.is_closed(&root, "/f"));
    fixture.clock.advance(fixture.config.recovery_timeout_ms + 1);
    ns.check_leases().await.unwrap();
    assert!(fixture.recoveries(&["dn1"]).is_empty(), "it is done");
}

#[tokio::test]
async fn truncate_drops_blocks_and_has_the_last_one_cut() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    let blocks = fixture.write(&root, "/f", &[BLOCK_SIZE, BLOCK_SIZE, 100]).await;
    let truncate =
        async |length| ns.truncate(&root, "/f".to_owned(), length, HOLDER.to_owned()).await;
    let truncate = async |length| truncate(length).await.map(|reply| reply.result);
    let longer = truncate(5 * BLOCK_SIZE).await.unwrap_err();
    assert!(matches!(longer, E::HadoopIllegalArgument(_)));
    assert!(truncate(2 * BLOCK_SIZE + 100).await.unwrap());
    assert!(truncate(2 * BLOCK_SIZE).await.unwrap());
    assert!(fixture.removed(blocks[2].id));
    assert_eq!(fixture.length(&root, "/f"), 2 * BLOCK_SIZE);

    assert!(!truncate(BLOCK_SIZE + 7).await.unwrap());
    assert!(!truncate(BLOCK_SIZE + 7).await.unwrap(), "the same truncate is going on");
    let [request] = &fixture.recoveries(&["dn1"])[..] else { panic!("one recovery") };
    let cut = Block::from(request.truncate_block.as_ref().unwrap());
    assert_eq!((cut.id, cut.num_bytes), (blocks[1].id, 7));
    assert_eq!(cut.generation_stamp.0, request.new_gen_stamp);
    let busy = fixture.append(&root, "/f", OTHER).await.unwrap_err();
    assert!(matches!(busy, E::RecoveryInProgress(_)));
    let report = fixture.synchronization(blocks[1], request.new_gen_stamp, 7, &["dn1"]);
    ns.commit_block_synchronization(report).await.unwrap();
    assert!(fixture.is_closed(&root, "/f"));
    assert_eq!(fixture.length(&root, "/f"), BLOCK_SIZE + 7);
    assert!(truncate(0).await.unwrap());
    assert_eq!(fixture.length(&root, "/f"), 0);
}

#[tokio::test]
async fn hdfs_16322_a_truncate_that_is_repeated_cuts_once() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    fixture.write(&root, "/f", &[BLOCK_SIZE, BLOCK_SIZE]).await;
    let call = fixture.numbered("super", 1).await;
    let truncate = async |fixture: &Fixture| {
        let (path, holder) = ("/f".to_owned(), HOLDER.to_owned());
        fixture.namesystem.truncate(&call, path, BLOCK_SIZE, holder).await.unwrap().result
    };
    assert!(truncate(&fixture).await);
    fixture.namesystem.delete(&root, "/f".to_owned(), false).await.unwrap();
    fixture.write(&root, "/f", &[BLOCK_SIZE, BLOCK_SIZE]).await;
    assert!(truncate(&fixture).await);
    assert_eq!(fixture.length(&root, "/f"), 2 * BLOCK_SIZE);
    let fixture = fixture.restart();
    assert!(truncate(&fixture).await);
    assert_eq!(fixture.length(&root, "/f"), 2 * BLOCK_SIZE, "also after a restart");
}

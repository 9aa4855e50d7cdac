//! Files from `create` to the recovery of a lost writer's lease.

use std::time::Duration;

use ringfs_protocol::block::{Block, BlockId, ExtendedBlock};
use ringfs_protocol::messages::{
    AppendRequestProto, CommitBlockSynchronizationRequestProto, ConcatRequestProto,
    CreateRequestProto, DatanodeIDProto, DatanodeInfoProto, ExtendedBlockProto,
    GetAdditionalDatanodeRequestProto, LocatedBlockProto, UpdatePipelineRequestProto,
};

use crate::error::{NamenodeError as E, Result};
use crate::leases::NAMENODE_HOLDER;
use crate::limits::LEASE_SOFT_LIMIT_MS;
use crate::namesystem::ClientCall;
use crate::test_support::{BLOCK_SIZE, Fixture, HOLDER, block_of, claim, create_request, written};

const OTHER: &str = "DFSClient_2";

impl Fixture {
    pub(crate) async fn append(
        &self,
        call: &ClientCall,
        path: &str,
        holder: &str,
    ) -> Result<Option<LocatedBlockProto>> {
        let request =
            AppendRequestProto { src: path.to_owned(), client_name: holder.to_owned(), flag: None };
        let reply = self.namesystem.append(call, request).await?;
        assert!(reply.stat.is_some());
        Ok(reply.block)
    }

    async fn recover(&self, call: &ClientCall, path: &str) -> Result<bool> {
        self.namesystem.recover_lease(call, path.to_owned(), OTHER.to_owned()).await
    }

    pub(crate) fn is_closed(&self, call: &ClientCall, path: &str) -> bool {
        self.namesystem.is_file_closed(call, path).unwrap()
    }

    pub(crate) fn synchronization(
        &self,
        block: Block,
        recovery_id: u64,
        length: u64,
        nodes: &[&str],
    ) -> CommitBlockSynchronizationRequestProto {
        let pool_id = self.namesystem.block_pool_id().to_owned();
        let node = |uuid: &&str| DatanodeIDProto {
            datanode_uuid: (*uuid).to_owned(),
            ..DatanodeIDProto::default()
        };
        CommitBlockSynchronizationRequestProto {
            block: ExtendedBlockProto::from(&ExtendedBlock { pool_id, block }),
            new_gen_stamp: recovery_id,
            new_length: length,
            close_file: true,
            delete_block: false,
            new_targets: nodes.iter().map(node).collect(),
            new_target_storages: nodes.iter().map(|uuid| format!("DS-{uuid}")).collect(),
        }
    }
}

#[tokio::test]
async fn a_file_is_written_block_by_block() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1", "dn2", "dn3", "dn4"]);
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    let status = fixture.create(&root, "/d/f").await.unwrap();
    assert_eq!((status.blocksize(), status.block_replication()), (BLOCK_SIZE, 3));
    assert!(status.path.is_empty());

    let first = fixture.add_block(&root, "/d/f", None).await.unwrap();
    assert_eq!((first.b.block_id, first.b.generation_stamp), (1_073_741_825, 1001));
    assert_eq!((first.locs.len(), first.storage_ids.len(), first.storage_types.len()), (3, 3, 3));
    assert_eq!((first.offset, first.b.num_bytes()), (0, 0));
    // The reply was lost: the same block again.
    let again = fixture.add_block(&root, "/d/f", None).await.unwrap();
    assert_eq!(again, first);

    let full = written(&first, BLOCK_SIZE);
    fixture.report("dn1", block_of(&full));
    let second = fixture.add_block(&root, "/d/f", Some(full.clone())).await.unwrap();
    assert_eq!((second.offset, second.b.generation_stamp), (BLOCK_SIZE, 1002));
    assert_eq!(fixture.add_block(&root, "/d/f", Some(full.clone())).await.unwrap(), second);
    assert_eq!(fixture.length(&root, "/d/f"), BLOCK_SIZE);
    let stranger = ExtendedBlockProto { block_id: 5, ..full.clone() };
    let error = fixture.add_block(&root, "/d/f", Some(stranger)).await.unwrap_err();
    assert!(error.to_string().contains("does not match actual last block"), "{error}");
    let foreign = ExtendedBlockProto { pool_id: "BP-other".to_owned(), ..full.clone() };
    let error = fixture.add_block(&root, "/d/f", Some(foreign)).await.unwrap_err();
    assert!(error.to_string().starts_with("Unexpected BlockPoolId BP-other"), "{error}");

    // While it is written, readers see the complete part and the open block.
    let located = ns.get_block_locations(&root, "/d/f", 0, i64::MAX as u64).unwrap();
    assert_eq!((located.file_length, located.blocks.len()), (BLOCK_SIZE, 2));
    assert!(located.under_construction && !located.is_last_block_complete);
    assert_eq!(located.last_block.unwrap().locs.len(), 3);
    ns.fsync(&root, claim("/d/f"), Some(7)).await.unwrap();
    assert_eq!(fixture.length(&root, "/d/f"), BLOCK_SIZE + 7);

    let last = written(&second, 10);
    fixture.report("dn2", block_of(&last));
    assert!(ns.complete(claim("/d/f"), Some(last.clone())).await.unwrap());
    assert!(ns.complete(claim("/d/f"), Some(last)).await.unwrap(), "a repetition");
    assert_eq!(fixture.length(&root, "/d/f"), BLOCK_SIZE + 10);
    let closed = ns.complete(claim("/d/f"), Some(full)).await;
    assert!(matches!(closed, Err(E::LeaseExpired(_))));
    let tail = ns.get_block_locations(&root, "/d/f", BLOCK_SIZE + 1, 5).unwrap();
    assert_eq!((tail.blocks.len(), tail.blocks[0].offset), (1, BLOCK_SIZE));
    assert!(ns.get_block_locations(&root, "/d/f", BLOCK_SIZE + 10, 5).unwrap().blocks.is_empty());
    let negative = ns.get_block_locations(&root, "/d/f", u64::MAX, 5);
    assert!(matches!(negative, Err(E::IllegalArgument(_))));
    let summary = ns.get_content_summary(&root, "/".to_owned()).await.unwrap();
    assert_eq!((summary.file_count, summary.directory_count), (1, 2));
    assert_eq!((summary.length, summary.space_consumed), (BLOCK_SIZE + 10, 3 * (BLOCK_SIZE + 10)));
    use crate::block_manager::StoredBlocks;
    assert_eq!(ns.store.complete_block_count(), 2);
    let stored = ns.store.stored_blocks_after(Some(BlockId(1_073_741_825)), 9);
    assert_eq!((stored.len(), stored[0].replication), (1, 3));
}

#[tokio::test]
async fn create_checks_what_it_is_asked_for() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    fixture.mkdirs(&root, "/d").await;
    let create = async |path: &str, flags, adjust: &dyn Fn(&mut CreateRequestProto)| {
        let mut request = create_request(path, flags);
        adjust(&mut request);
        ns.create(&root, request).await.map(|_| ())
    };
    let on_directory = create("/d", 3, &|_| {}).await.unwrap_err();
    assert_eq!(on_directory.to_string(), "/d already exists as a directory");
    assert!(matches!(
        create("/no/f", 1, &|r| r.create_parent = false).await,
        Err(E::FileNotFound(_))
    ));
    let overwrite_only = create("/f", 2, &|_| {}).await.unwrap_err();
    assert!(overwrite_only.to_string().starts_with("Can't overwrite non-existent /f"));
    let many = create("/f", 1, &|r| r.replication = 513).await.unwrap_err().to_string();
    assert!(many.starts_with("Requested replication factor of 513 exceeds maximum of 512"));
    assert!(create("/f", 1, &|r| r.replication = 0).await.is_err());
    let small = create("/f", 1, &|r| r.block_size = 511).await.unwrap_err().to_string();
    assert!(small.contains("dfs.namenode.fs-limits.min-block-size"), "{small}");
    assert!(matches!(create("/a:b", 1, &|_| {}).await, Err(E::InvalidPath(_))));
    assert!(!fixture.exists(&root, "/f"));
    create("/x/y/f", 1, &|_| {}).await.unwrap();
    let owned = create("/x/y/f", 1, &|_| {}).await.unwrap_err();
    assert!(matches!(owned, E::AlreadyBeingCreated(_)));
    assert!(owned.to_string().ends_with("DFSClient_1 is already the current lease holder."));
    let other = create("/x/y/f", 1, &|r| r.client_name = OTHER.to_owned()).await.unwrap_err();
    assert_eq!(
        other.to_string(),
        "Failed to CREATE_FILE /x/y/f for DFSClient_2 on 127.0.0.1 because this file lease is \
         currently owned by DFSClient_1 on 127.0.0.1"
    );
    // Past the soft limit the empty file is closed on the way, and still not overwritten.
    fixture.clock.advance(LEASE_SOFT_LIMIT_MS + 1);
    let exists = create("/x/y/f", 1, &|r| r.client_name = OTHER.to_owned()).await.unwrap_err();
    assert!(matches!(exists, E::FileAlreadyExists(_)));
    assert!(fixture.is_closed(&root, "/x/y/f"));
}

#[tokio::test]
async fn overwriting_takes_the_file_from_its_writer() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let old = fixture.create(&root, "/f").await.unwrap();
    let block = fixture.add_block(&root, "/f", None).await.unwrap();
    let mut request = create_request("/f", 3);
    request.client_name = OTHER.to_owned();
    let new = fixture.namesystem.create(&root, request).await.unwrap().fs.unwrap();
    assert_ne!(old.file_id, new.file_id);
    assert!(fixture.removed(BlockId(block.b.block_id)));
    let mut writer = claim("/f");
    assert!(matches!(
        fixture.namesystem.complete(writer.clone(), None).await,
        Err(E::LeaseExpired(_))
    ));
    writer.file_id = old.file_id.unwrap();
    assert!(matches!(fixture.namesystem.complete(writer, None).await, Err(E::FileNotFound(_))));
}

#[tokio::test]
async fn too_few_datanodes_fail_the_block_with_numbers() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    fixture.create(&root, "/f").await.unwrap();
    let error = fixture.add_block(&root, "/f", None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "File /f could only be written to 0 of the 1 minReplication nodes. There are 0 datanode(s) \
         running and 0 node(s) are excluded in this operation."
    );
    assert!(fixture.namesystem.complete(claim("/f"), None).await.unwrap());
}

#[tokio::test]
async fn complete_waits_for_the_report_and_answers_false_without() {
    let fixture = Fixture::with(|config| config.complete_wait = Duration::from_millis(100));
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    fixture.create(&root, "/f").await.unwrap();
    let located = fixture.add_block(&root, "/f", None).await.unwrap();
    let last = written(&located, 5);
    assert!(!fixture.namesystem.complete(claim("/f"), Some(last.clone())).await.unwrap());
    assert!(!fixture.is_closed(&root, "/f"));
    // Committed: its length is fixed, and a new block is not yet given.
    assert_eq!(fixture.length(&root, "/f"), 5);
    let stamp = fixture.namesystem.update_block_for_pipeline(last.clone(), HOLDER.to_owned()).await;
    assert!(stamp.unwrap_err().to_string().contains("is COMMITTED but not UNDER_CONSTRUCTION"));
    let next = fixture.add_block(&root, "/f", Some(last.clone())).await.unwrap();
    let error = fixture.add_block(&root, "/f", Some(written(&next, 1))).await.unwrap_err();
    assert!(matches!(error, E::NotReplicatedYet(_)));
    fixture.namesystem.abandon_block(claim("/f"), next.b.clone()).await.unwrap();
    fixture.namesystem.abandon_block(claim("/f"), next.b).await.unwrap();

    let (ns, block) = (fixture.namesystem.clone(), last.clone());
    let completing = tokio::spawn(async move { ns.complete(claim("/f"), Some(block)).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    fixture.report("dn1", block_of(&last));
    assert!(completing.await.unwrap().unwrap());
}

/// The first block behind a full one, which the client of an append asks for without a previous one.
#[tokio::test]
async fn add_block_is_repeated_behind_a_full_block_and_after_a_restart() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    fixture.write(&root, "/f", &[BLOCK_SIZE]).await;
    fixture.append(&root, "/f", HOLDER).await.unwrap();
    let first = fixture.add_block(&root, "/f", None).await.unwrap();
    assert_eq!(fixture.add_block(&root, "/f", None).await.unwrap(), first);
    let fixture = fixture.restart();
    fixture.datanodes(&["dn1"]);
    let again = fixture.add_block(&root, "/f", None).await.unwrap();
    assert_eq!((again.b.block_id, again.offset), (first.b.block_id, BLOCK_SIZE));
    assert_eq!(again.locs.len(), 1, "its datanodes are chosen anew");
    assert!(again.b.generation_stamp > first.b.generation_stamp, "replicas of before are stale");
    assert_eq!(fixture.add_block(&root, "/f", None).await.unwrap().b, again.b);
}

/// A `complete` that lost its connection, was repeated, and came in the end: the writer had its file
/// closed and opened again meanwhile, and its replicas bear a new stamp already.
#[tokio::test]
async fn a_late_complete_does_not_close_a_block_whose_writer_has_a_newer_stamp() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1", "dn2"]);
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    fixture.write(&root, "/f", &[10]).await;
    let located = fixture.append(&root, "/f", HOLDER).await.unwrap().unwrap();
    let stamped = ns.update_block_for_pipeline(located.b.clone(), HOLDER.to_owned()).await.unwrap();

    let late = ns.complete(claim("/f"), Some(located.b.clone())).await.unwrap_err();
    assert!(late.to_string().starts_with("Commit block with mismatching GS."), "{late}");

    let update = UpdatePipelineRequestProto {
        client_name: HOLDER.to_owned(),
        old_block: located.b,
        new_block: stamped.b.clone(),
        new_nodes: vec![DatanodeIDProto { datanode_uuid: "dn1".to_owned(), ..Default::default() }],
        storage_ids: vec!["DS-dn1".to_owned()],
    };
    ns.update_pipeline(&root, update).await.unwrap();
    let longer = written(&stamped, 30);
    fixture.report("dn1", block_of(&longer));
    assert!(ns.complete(claim("/f"), Some(longer)).await.unwrap());
    assert_eq!(fixture.length(&root, "/f"), 30);
}

#[tokio::test]
async fn additional_datanodes_join_the_ones_that_are_left() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1", "dn2", "dn3", "dn4"]);
    let root = fixture.superuser().await;
    fixture.create(&root, "/f").await.unwrap();
    let located = fixture.add_block(&root, "/f", None).await.unwrap();
    let node = |uuid: &str| {
        let mut info = DatanodeInfoProto::default();
        info.id.datanode_uuid = uuid.to_owned();
        info
    };
    let reply = fixture.namesystem.get_additional_datanode(
        &root,
        &GetAdditionalDatanodeRequestProto {
            src: "/f".to_owned(),
            blk: located.b.clone(),
            existings: vec![node("dn1"), node("dn3")],
            excludes: vec![node("dn2")],
            num_additional_nodes: 1,
            client_name: HOLDER.to_owned(),
            existing_storage_uuids: vec!["DS-dn1".to_owned(), "DS-dn3".to_owned()],
            file_id: None,
        },
    );
    let uuids: Vec<_> = reply.unwrap().locs.into_iter().map(|node| node.id.datanode_uuid).collect();
    assert_eq!(uuids, ["dn1", "dn3", "dn4"]);
}

#[tokio::test]
async fn a_lost_writers_block_is_recovered_and_its_file_closed() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1", "dn2"]);
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    fixture.create(&root, "/f").await.unwrap();
    let located = fixture.add_block(&root, "/f", None).await.unwrap();
    let block = block_of(&located.b);

    assert!(!fixture.recover(&root, "/f").await.unwrap());
    assert!(!fixture.recover(&root, "/f").await.unwrap());
    let [request] = &fixture.recoveries(&["dn1", "dn2"])[..] else { panic!("one recovery") };
    assert_eq!((block_of(&request.block.b), &request.truncate_block), (block, &None));
    assert_eq!(request.block.locs.len(), 2);
    assert!(request.new_gen_stamp > block.generation_stamp.0);
    // The lease has passed on; the old writer is refused.
    let orphan = ns.complete(claim("/f"), Some(written(&located, 3))).await;
    assert!(matches!(orphan, Err(E::LeaseExpired(_))));

    // That primary died: after the timeout another recovery with a higher stamp replaces it.
    fixture.clock.advance(fixture.config.recovery_timeout_ms);
    assert!(!fixture.recover(&root, "/f").await.unwrap());
    let [second] = &fixture.recoveries(&["dn1", "dn2"])[..] else { panic!("a second recovery") };
    assert!(second.new_gen_stamp > request.new_gen_stamp);
    let late = fixture.synchronization(block, request.new_gen_stamp, 3, &["dn1"]);
    let error = ns.commit_block_synchronization(late).await.unwrap_err();
    assert!(error.to_string().contains("does not match current recovery id"), "{error}");

    let report = fixture.synchronization(block, second.new_gen_stamp, 3, &["dn1", "dn2"]);
    ns.commit_block_synchronization(report.clone()).await.unwrap();
    ns.commit_block_synchronization(report).await.unwrap();
    assert!(fixture.is_closed(&root, "/f"));
    assert!(fixture.recover(&root, "/f").await.unwrap());
    let located = ns.get_block_locations(&root, "/f", 0, 10).unwrap();
    assert_eq!((located.file_length, located.blocks[0].locs.len()), (3, 2));
    assert_eq!(located.blocks[0].b.generation_stamp, second.new_gen_stamp);
    assert!(located.is_last_block_complete);
}

#[tokio::test]
async fn recovery_that_finds_nothing_drops_the_block() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    fixture.create(&root, "/f").await.unwrap();
    let block = block_of(&fixture.add_block(&root, "/f", None).await.unwrap().b);
    assert!(!fixture.recover(&root, "/f").await.unwrap());
    let recovery_id = fixture.recoveries(&["dn1"])[0].new_gen_stamp;
    let mut report = fixture.synchronization(block, recovery_id, 0, &[]);
    report.delete_block = true;
    ns.commit_block_synchronization(report.clone()).await.unwrap();
    ns.commit_block_synchronization(report).await.unwrap();
    assert!(fixture.is_closed(&root, "/f") && fixture.length(&root, "/f") == 0);
    assert!(fixture.removed(block.id));
}

#[tokio::test]
async fn a_block_waits_for_the_datanodes_of_its_pipeline() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    fixture.create(&root, "/f").await.unwrap();
    fixture.add_block(&root, "/f", None).await.unwrap();
    // The whole cluster restarts: no datanode is there yet, so nothing is known to be lost.
    let fixture = fixture.restart();
    assert!(!fixture.recover(&root, "/f").await.unwrap());
    assert!(!fixture.is_closed(&root, "/f"));
    // Another datanode's report says nothing about it.
    fixture.datanodes(&["dn2"]);
    assert!(!fixture.recover(&root, "/f").await.unwrap());
    // The one that was to write it comes back without it: nobody ever wrote a byte.
    fixture.datanodes(&["dn1"]);
    assert!(fixture.recover(&root, "/f").await.unwrap());
    assert_eq!(fixture.length(&root, "/f"), 0);
}

#[tokio::test]
async fn the_monitor_recovers_leases_past_the_hard_limit() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    for path in ["/empty", "/written"] {
        fixture.create(&root, path).await.unwrap();
    }
    let block = block_of(&fixture.add_block(&root, "/written", None).await.unwrap().b);
    fixture.clock.advance(fixture.config.lease_hard_limit_ms - 1);
    ns.renew_lease(HOLDER).unwrap();
    ns.renew_lease("never heard of").unwrap();
    fixture.clock.advance(2);
    ns.check_leases().await.unwrap();
    assert!(!fixture.is_closed(&root, "/empty"), "renewed in time");

    fixture.clock.advance(fixture.config.lease_hard_limit_ms);
    ns.check_leases().await.unwrap();
    assert!(fixture.is_closed(&root, "/empty"));
    assert!(!fixture.is_closed(&root, "/written"));
    let recovery_id = fixture.recoveries(&["dn1"])[0].new_gen_stamp;
    let taken = ns.complete(claim("/written"), Some(written_block(&fixture, block))).await;
    assert!(taken.unwrap_err().to_string().contains(NAMENODE_HOLDER));
    // The namenode's own recovery is repeated when nothing comes of it.
    ns.check_leases().await.unwrap();
    assert!(fixture.recoveries(&["dn1"]).is_empty());
    fixture.clock.advance(fixture.config.recovery_timeout_ms);
    ns.check_leases().await.unwrap();
    let again = fixture.recoveries(&["dn1"])[0].new_gen_stamp;
    assert!(again > recovery_id);
    let report = fixture.synchronization(block, again, 8, &["dn1"]);
    ns.commit_block_synchronization(report).await.unwrap();
    assert!(fixture.is_closed(&root, "/written"));
    assert_eq!(fixture.length(&root, "/written"), 8);
}

fn written_block(fixture: &Fixture, block: Block) -> ExtendedBlockProto {
    let pool_id = fixture.namesystem.block_pool_id().to_owned();
    ExtendedBlockProto::from(&ExtendedBlock { pool_id, block })
}

#[tokio::test]
async fn leases_survive_a_restart_with_the_full_soft_limit() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    fixture.create(&root, "/f").await.unwrap();
    fixture.clock.advance(LEASE_SOFT_LIMIT_MS + 1);
    let fixture = fixture.restart();
    let early = fixture.append(&root, "/f", OTHER).await.unwrap_err();
    assert!(matches!(early, E::AlreadyBeingCreated(_)));
    fixture.clock.advance(LEASE_SOFT_LIMIT_MS + 1);
    fixture.append(&root, "/f", OTHER).await.unwrap();
}

#[tokio::test]
async fn a_takeover_that_must_wait_keeps_what_it_began() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    fixture.create(&root, "/f").await.unwrap();
    fixture.add_block(&root, "/f", None).await.unwrap();
    fixture.clock.advance(LEASE_SOFT_LIMIT_MS + 1);
    let refused = fixture.append(&root, "/f", OTHER).await.unwrap_err();
    assert!(matches!(refused, E::RecoveryInProgress(_)));
    assert_eq!(fixture.recoveries(&["dn1"]).len(), 1);
    fixture.namesystem.renew_lease(HOLDER).unwrap();
    let refused = fixture.append(&root, "/f", OTHER).await.unwrap_err();
    assert!(refused.to_string().contains("another recovery is in progress by DFSClient_1"));
}

/// A file is cut, the client never hears so, somebody writes the file anew, and the client's library
/// repeats the call: what was written meanwhile must stay.
/// A client repeats an fsync that got no answer, goes on to the next block, and then the first one comes.
#[tokio::test]
async fn a_late_fsync_of_the_block_before_leaves_the_new_one_empty() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let call = |number: u32| {
        let mut key = [7; 20];
        key[16..].copy_from_slice(&number.to_be_bytes());
        ClientCall { retry_key: Some(key), ..root.clone() }
    };
    let ns = &fixture.namesystem;
    fixture.create(&root, "/f").await.unwrap();
    let first = fixture.add_block(&call(1), "/f", None).await.unwrap();
    let full = written(&first, BLOCK_SIZE);
    fixture.report("dn1", block_of(&full));
    ns.fsync(&call(3), claim("/f"), Some(700)).await.unwrap();
    assert_eq!(fixture.length(&root, "/f"), 700);
    let second = fixture.add_block(&call(4), "/f", Some(full.clone())).await.unwrap();
    ns.fsync(&call(2), claim("/f"), Some(700)).await.unwrap();
    assert_eq!(fixture.length(&root, "/f"), BLOCK_SIZE);
    assert_eq!(fixture.add_block(&call(4), "/f", Some(full)).await.unwrap(), second);
    ns.fsync(&call(5), claim("/f"), Some(9)).await.unwrap();
    assert_eq!(fixture.length(&root, "/f"), BLOCK_SIZE + 9);
}

#[tokio::test]
async fn concat_moves_blocks_between_files_of_a_directory() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    fixture.write(&root, "/d/t", &[10]).await;
    fixture.write(&root, "/d/a", &[BLOCK_SIZE, 20]).await;
    fixture.write(&root, "/d/b", &[30]).await;
    fixture.write(&root, "/e", &[1]).await;
    fixture.create(&root, "/d/open").await.unwrap();
    let concat = async |sources: &[&str]| {
        let srcs = sources.iter().map(|source| (*source).to_owned()).collect();
        ns.concat(&root, ConcatRequestProto { trg: "/d/t".to_owned(), srcs }).await
    };
    assert!(matches!(concat(&[]).await, Err(E::IllegalArgument(_))));
    for bad in [&["/e"][..], &["/d/open"], &["/d/t"], &["/d/a", "/d/a"], &["/d"], &["/d/no"]] {
        let result = concat(bad).await;
        assert!(matches!(result, Err(E::HadoopIllegalArgument(_))), "{bad:?} {result:?}");
    }
    concat(&["/d/a", "/d/b"]).await.unwrap();
    assert_eq!(fixture.names(&root, "/d"), ["open", "t"]);
    let located = ns.get_block_locations(&root, "/d/t", 0, i64::MAX as u64).unwrap();
    assert_eq!(located.file_length, BLOCK_SIZE + 60);
    let offsets: Vec<_> = located.blocks.iter().map(|block| block.offset).collect();
    assert_eq!(offsets, [0, 10, BLOCK_SIZE + 10, BLOCK_SIZE + 30]);
    assert!(located.blocks.iter().all(|block| !fixture.removed(BlockId(block.b.block_id))));
    let status = ns.get_file_info(&root, "/d", false).unwrap().unwrap();
    assert_eq!(status.children_num, Some(2));
}

#[tokio::test]
async fn written_files_survive_a_restart() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let blocks = fixture.write(&root, "/f", &[BLOCK_SIZE, 5]).await;
    let fixture = fixture.restart();
    let located = fixture.namesystem.get_block_locations(&root, "/f", 0, 9).unwrap();
    assert_eq!(located.file_length, BLOCK_SIZE + 5);
    assert!(located.blocks[0].locs.is_empty(), "locations come from reports alone");
    use crate::block_manager::StoredBlocks;
    assert_eq!(fixture.namesystem.store.complete_block_count(), 2);
    fixture.datanodes(&["dn1"]);
    for block in &blocks {
        fixture.report("dn1", *block);
    }
    let next = fixture.write(&root, "/g", &[1]).await;
    assert_eq!(next[0].id.0, blocks[1].id.0 + 1, "ids go on where they stopped");
}

#[tokio::test]
async fn access_times_are_recorded_once_in_their_precision() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    fixture.write(&root, "/f", &[]).await;
    let atime =
        || fixture.namesystem.get_file_info(&root, "/f", false).unwrap().unwrap().access_time;
    let created_ms = atime();
    let read = || fixture.namesystem.get_block_locations(&root, "/f", 0, 1).unwrap();
    let commits = fixture.namesystem.store.commits();
    fixture.clock.advance(fixture.config.access_time_precision_ms);
    read();
    assert_eq!(fixture.namesystem.store.commits(), commits);
    fixture.clock.advance(1);
    read();
    for _ in 0..100 {
        if atime() > created_ms {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the access was not recorded");
}

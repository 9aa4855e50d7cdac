//! The tree: what its operations answer and refuse, and that restarts and failures leave no trace.

use crate::error::NamenodeError as E;
use crate::namesystem::ClientCall;
use crate::test_support::{Fixture, HOLDER, START_MS, claim};

#[tokio::test]
async fn mkdirs_makes_ancestors_and_inherits_the_group() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    assert!(ns.mkdirs(&root, "/a/b/c".to_owned(), 0o1040, true).await.unwrap());
    assert!(ns.mkdirs(&root, "/a/b/c".to_owned(), 0o700, true).await.unwrap());
    let status = |path| ns.get_file_info(&root, path, false).unwrap().unwrap();
    assert_eq!(status("/a/b").permission.perm, 0o1340);
    assert_eq!(status("/a/b/c").permission.perm, 0o1040);
    assert_eq!(status("/a/b/c").group, "supergroup");
    assert_eq!(status("/a").file_id, Some(16386));
    assert_eq!(status("/").file_id, Some(16385));
    assert_eq!(status("/a").children_num, Some(1));
    let by_id = status("/.reserved/.inodes/16387/c");
    assert_eq!(by_id.file_id, status("/a/b/c").file_id);
    assert!(ns.get_file_info(&root, "/.reserved/.inodes/99", false).unwrap().is_none());

    let missing = ns.mkdirs(&root, "/x/y".to_owned(), 0o755, false).await;
    assert!(matches!(missing, Err(E::FileNotFound(_))));
    fixture.create(&root, "/f").await.unwrap();
    let over_file = ns.mkdirs(&root, "/f".to_owned(), 0o755, true).await;
    assert!(matches!(over_file, Err(E::FileAlreadyExists(_))));
    let below_file = ns.mkdirs(&root, "/f/x".to_owned(), 0o755, true).await;
    let below_file = below_file.unwrap_err();
    assert!(matches!(below_file, E::ParentNotDirectory(_)));
    assert_eq!(below_file.to_string(), "Parent path is not a directory: /f/x");
    for bad in ["relative", "/a//b", "/a/..", "/a:b", "/.reserved"] {
        let result = ns.mkdirs(&root, bad.to_owned(), 0o755, true).await;
        assert!(matches!(result, Err(E::InvalidPath(_))), "{bad}");
    }
    let snapshot = ns.mkdirs(&root, "/a/.snapshot".to_owned(), 0o755, true).await;
    assert!(matches!(snapshot, Err(E::HadoopIllegalArgument(_))));
    let long = ns.mkdirs(&root, format!("/new/{}", "x".repeat(256)), 0o755, true).await;
    assert!(matches!(long, Err(E::PathComponentTooLong(_))));
    assert!(!fixture.exists(&root, "/new"), "a failing mkdirs leaves no ancestor");
}

#[tokio::test]
async fn directories_have_a_limit() {
    let fixture = Fixture::with(|config| config.max_directory_items = 2);
    let root = fixture.superuser().await;
    fixture.mkdirs(&root, "/d/1").await;
    fixture.mkdirs(&root, "/d/2").await;
    let third = fixture.namesystem.mkdirs(&root, "/d/3".to_owned(), 0o755, true).await;
    assert!(matches!(third, Err(E::MaxDirectoryItemsExceeded(_))));
    let create = fixture.create(&root, "/d/3").await;
    assert!(matches!(create, Err(E::MaxDirectoryItemsExceeded(_))));
}

#[tokio::test]
async fn a_path_through_a_file_is_denied_but_to_the_superuser_empty() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    let alice = fixture.call("alice").await;
    fixture.create(&root, "/f").await.unwrap();
    let ns = &fixture.namesystem;
    assert!(ns.get_file_info(&root, "/f/x", false).unwrap().is_none());
    let denied = ns.get_file_info(&alice, "/f/x", false).unwrap_err();
    assert!(matches!(denied, E::AccessControl(_)));
    assert_eq!(denied.to_string(), "/f (is not a directory)");
    assert!(ns.get_listing(&root, "/nothing", b"", false).unwrap().is_none());
}

#[tokio::test]
async fn listings_page_in_signed_byte_order() {
    let fixture = Fixture::with(|config| config.listing_limit = 2);
    let root = fixture.superuser().await;
    for name in ["b", "\u{e9}t\u{e9}", "a", "A", "z"] {
        fixture.mkdirs(&root, &format!("/d/{name}")).await;
    }
    let mut seen = Vec::new();
    let mut remaining = Vec::new();
    let mut after = Vec::new();
    loop {
        let page = fixture.namesystem.get_listing(&root, "/d", &after, true).unwrap().unwrap();
        remaining.push(page.remaining_entries);
        after.clone_from(&page.partial_listing.last().unwrap().path);
        let names = page.partial_listing.into_iter().map(|s| String::from_utf8(s.path).unwrap());
        seen.extend(names);
        if page.remaining_entries == 0 {
            break;
        }
    }
    assert_eq!(seen, ["\u{e9}t\u{e9}", "A", "a", "b", "z"]);
    assert_eq!(remaining, [3, 1, 0]);
    let file = fixture.create(&root, "/d/file").await.unwrap();
    let alone = fixture.namesystem.get_listing(&root, "/d/file", b"", false).unwrap().unwrap();
    assert_eq!(alone.partial_listing[0].path, b"");
    assert_eq!(alone.partial_listing[0].file_id, file.file_id);
    // A start that was deleted, and one given by inode.
    let from = fixture.namesystem.get_listing(&root, "/d", b"aa", false).unwrap().unwrap();
    assert_eq!(from.partial_listing[0].path, b"b");
    let id = format!("/.reserved/.inodes/{}", file.file_id.unwrap());
    let from = fixture.namesystem.get_listing(&root, "/d", id.as_bytes(), false).unwrap().unwrap();
    assert_eq!(from.partial_listing[0].path, b"z");
    assert_eq!(fixture.names(&root, "/.reserved"), [".inodes", "raw"]);
}

#[tokio::test]
async fn rename_answers_false_where_it_cannot() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    for directory in ["/d/sub", "/e"] {
        fixture.mkdirs(&root, directory).await;
    }
    let file = fixture.create(&root, "/f").await.unwrap();
    fixture.create(&root, "/e/f").await.unwrap();
    let rename = async |from: &str, to: &str| {
        fixture.namesystem.rename(&root, from.to_owned(), to.to_owned()).await.map(|r| r.result)
    };
    for (from, to) in [
        ("/missing", "/x"),
        ("/", "/x"),
        ("/d", "/d/sub/x"),
        ("/f", "/f/x"),
        ("/d", "/d"),
        ("/f", "/e"),
        ("/f", "/no/parent"),
        ("/d", "/f"),
    ] {
        assert!(!rename(from, to).await.unwrap(), "{from} {to}");
    }
    assert!(rename("/f", "/f").await.unwrap());
    assert!(rename("/e/f", "/e").await.unwrap());
    assert!(matches!(rename("/d", "/f/x").await, Err(E::ParentNotDirectory(_))));
    assert!(matches!(rename("/d", "/a//b").await, Err(E::InvalidPath(_))));
    assert!(rename("/f", "/d/sub").await.unwrap());
    let moved = fixture.namesystem.get_file_info(&root, "/d/sub/f", false).unwrap().unwrap();
    assert_eq!(moved.file_id, file.file_id);
    assert!(!fixture.exists(&root, "/f"));
    // The writer goes on under the id, whatever the path.
    let mut by_id = claim("/f");
    by_id.file_id = file.file_id.unwrap();
    assert!(fixture.namesystem.complete(by_id, None).await.unwrap());
}

#[tokio::test]
async fn rename2_throws_and_overwrites() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    for directory in ["/d/sub", "/empty", "/full/x"] {
        fixture.mkdirs(&root, directory).await;
    }
    for file in ["/f", "/g"] {
        fixture.create(&root, file).await.unwrap();
    }
    let rename = async |from: &str, to: &str, overwrite: bool| {
        let (from, to) = (from.to_owned(), to.to_owned());
        fixture.namesystem.rename2(&root, from, to, overwrite, false).await
    };
    assert!(matches!(rename("/missing", "/x", false).await, Err(E::FileNotFound(_))));
    assert!(matches!(rename("/", "/x", false).await, Err(E::Io(_))));
    assert!(matches!(rename("/f", "/f", true).await, Err(E::FileAlreadyExists(_))));
    assert!(matches!(rename("/d", "/d/sub/x", false).await, Err(E::Io(_))));
    assert!(matches!(rename("/f", "/", true).await, Err(E::Io(_))));
    assert!(matches!(rename("/f", "/g", false).await, Err(E::FileAlreadyExists(_))));
    assert!(matches!(rename("/f", "/empty", true).await, Err(E::Io(_))));
    assert!(matches!(rename("/d", "/full", true).await, Err(E::Io(_))));
    assert!(matches!(rename("/f", "/no/x", false).await, Err(E::FileNotFound(_))));
    assert!(matches!(rename("/f", "/g/x", false).await, Err(E::ParentNotDirectory(_))));
    rename("/f", "/g", true).await.unwrap();
    rename("/d", "/empty", true).await.unwrap();
    assert_eq!(fixture.names(&root, "/"), ["empty", "full", "g"]);
    assert_eq!(fixture.names(&root, "/empty"), ["sub"]);
    let status = fixture.namesystem.get_file_info(&root, "/", false).unwrap().unwrap();
    assert_eq!(status.children_num, Some(3));
}

#[tokio::test]
async fn a_deleted_tree_is_gone_at_once_and_reaped_later() {
    let fixture = Fixture::new();
    fixture.datanodes(&["dn1"]);
    let root = fixture.superuser().await;
    let ns = fixture.namesystem.clone();
    fixture.mkdirs(&root, "/d/a/b").await;
    let blocks = fixture.write(&root, "/d/a/b/f", &[1024, 10]).await;
    let open = fixture.create(&root, "/d/open").await.unwrap();
    for index in 0..2500 {
        fixture.mkdirs(&root, &format!("/d/many/{index}")).await;
    }
    let delete = async |path: &str, recursive| {
        ns.delete(&root, path.to_owned(), recursive).await.map(|reply| reply.result)
    };
    let error = delete("/d", false).await.unwrap_err();
    assert!(matches!(error, E::PathIsNotEmptyDirectory(_)));
    assert_eq!(error.to_string(), "/d is non empty");
    assert!(matches!(delete("/", false).await, Err(E::PathIsNotEmptyDirectory(_))));
    assert!(!delete("/", true).await.unwrap());
    assert!(!delete("/missing", true).await.unwrap());
    assert!(matches!(delete("/.reserved", true).await, Err(E::InvalidPath(_))));

    let commits = ns.store.commits();
    assert!(delete("/d", true).await.unwrap());
    assert_eq!(ns.store.commits(), commits + 1, "one transaction detaches the tree");
    assert!(fixture.names(&root, "/").is_empty());
    let id = format!("/.reserved/.inodes/{}", open.file_id.unwrap());
    assert!(!fixture.exists(&root, &id));
    let mut orphan = claim("/d/open");
    orphan.file_id = open.file_id.unwrap();
    let error = ns.complete(orphan, None).await.unwrap_err();
    assert!(error.to_string().starts_with("File is deleted: /d/open"), "{error}");
    assert!(!fixture.removed(blocks[0].id));
    drop(ns);

    let fixture = fixture.restart();
    fixture.namesystem.reap_all().await.unwrap();
    for block in blocks {
        assert!(fixture.removed(block.id));
    }
    use crate::schema::Space;
    use crate::store::View;
    let snapshot = fixture.namesystem.snapshot();
    for space in [Space::Entries, Space::Blocks, Space::FileBlocks, Space::Leases, Space::Reap] {
        assert!(snapshot.scan_prefix(space, &[], 9).unwrap().is_empty(), "{space:?}");
    }
    assert_eq!(snapshot.scan_prefix(Space::Inodes, &[], 9).unwrap().len(), 1);
}

#[tokio::test]
async fn permissions_guard_every_kind_of_change() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    let alice = fixture.call("alice").await;
    let bob = fixture.call("bob").await;
    let carol = fixture.call("carol").await;
    let ns = &fixture.namesystem;
    fixture.mkdirs(&root, "/home/alice").await;
    let owner = |user: &str, group: &str| (Some(user.to_owned()), Some(group.to_owned()));
    let (user, group) = owner("alice", "staff");
    ns.set_owner(&root, "/home/alice".to_owned(), user, group).await.unwrap();
    ns.set_permission(&root, "/home/alice".to_owned(), 0o750).await.unwrap();

    fixture.create(&alice, "/home/alice/f").await.unwrap();
    let denied = |result: Result<(), E>| matches!(result, Err(E::AccessControl(_)));
    // Bob is in staff: he reads the directory and may not write it. Carol sees nothing.
    assert_eq!(fixture.names(&bob, "/home/alice"), ["f"]);
    assert!(denied(fixture.create(&bob, "/home/alice/g").await.map(|_| ())));
    assert!(denied(ns.delete(&bob, "/home/alice/f".to_owned(), false).await.map(|_| ())));
    assert!(denied(ns.get_file_info(&carol, "/home/alice/f", false).map(|_| ())));
    assert!(denied(ns.get_listing(&carol, "/home/alice", b"", false).map(|_| ())));
    let summary = ns.get_content_summary(&carol, "/home".to_owned()).await;
    assert!(denied(summary.map(|_| ())));
    // Owners only.
    assert!(denied(ns.set_permission(&bob, "/home/alice/f".to_owned(), 0o777).await));
    ns.set_permission(&alice, "/home/alice/f".to_owned(), 0o600).await.unwrap();
    assert!(denied(ns.get_block_locations(&bob, "/home/alice/f", 0, 1).map(|_| ())));
    assert!(denied(ns.set_times(&bob, "/home/alice/f".to_owned(), 1, 1).await));
    let give = ns.set_owner(&alice, "/home/alice/f".to_owned(), Some("bob".to_owned()), None);
    assert!(denied(give.await));
    let group = Some("other".to_owned());
    assert!(denied(ns.set_owner(&alice, "/home/alice/f".to_owned(), None, group).await));
    assert!(denied(ns.mkdirs(&alice, "/new".to_owned(), 0o755, true).await.map(|_| ())));
    assert!(denied(
        ns.rename(&alice, "/home/alice/f".to_owned(), "/f".to_owned()).await.map(|_| ())
    ));

    // A sticky directory: entries of others stay.
    ns.mkdirs(&root, "/tmp".to_owned(), 0o1777, true).await.unwrap();
    fixture.create(&alice, "/tmp/mine").await.unwrap();
    assert!(denied(ns.delete(&bob, "/tmp/mine".to_owned(), false).await.map(|_| ())));
    let take = ns.rename2(&bob, "/tmp/mine".to_owned(), "/tmp/his".to_owned(), false, false);
    assert!(denied(take.await.map(|_| ())));
    assert!(ns.delete(&alice, "/tmp/mine".to_owned(), false).await.unwrap().result);

    // Deleting a tree needs everything on each non-empty directory in it.
    ns.mkdirs(&alice, "/tmp/t".to_owned(), 0o777, true).await.unwrap();
    ns.mkdirs(&alice, "/tmp/t/closed".to_owned(), 0o555, true).await.unwrap();
    ns.mkdirs(&root, "/tmp/t/closed/x".to_owned(), 0o755, true).await.unwrap();
    assert!(denied(ns.delete(&alice, "/tmp/t".to_owned(), true).await.map(|_| ())));
    let (from, to) = ("/tmp/t".to_owned(), "/home/alice/t".to_owned());
    assert!(denied(ns.rename2(&alice, from, to, false, true).await.map(|_| ())));
    ns.set_permission(&alice, "/tmp/t/closed".to_owned(), 0o755).await.unwrap();
    assert!(ns.delete(&alice, "/tmp/t".to_owned(), true).await.unwrap().result);
}

#[tokio::test]
async fn attributes_are_kept_and_checked() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    let ns = &fixture.namesystem;
    fixture.create(&root, "/f").await.unwrap();
    fixture.mkdirs(&root, "/d").await;
    ns.set_times(&root, "/f".to_owned(), 5, u64::MAX).await.unwrap();
    let status = ns.get_file_info(&root, "/f", false).unwrap().unwrap();
    assert_eq!((status.modification_time, status.access_time), (5, START_MS));
    assert!(ns.set_replication(&root, "/f".to_owned(), 2).await.unwrap());
    assert!(!ns.set_replication(&root, "/d".to_owned(), 2).await.unwrap());
    assert!(!ns.set_replication(&root, "/missing".to_owned(), 2).await.unwrap());
    let many = ns.set_replication(&root, "/f".to_owned(), 513).await.unwrap_err().to_string();
    assert_eq!(many, "Requested replication factor of 513 exceeds maximum of 512 for /f");
    assert!(matches!(
        ns.set_permission(&root, "/missing".to_owned(), 0o7).await,
        Err(E::FileNotFound(_))
    ));
    ns.set_storage_policy(&root, "/d".to_owned(), Some("COLD".to_owned())).await.unwrap();
    fixture.create(&root, "/d/f").await.unwrap();
    assert_eq!(ns.get_storage_policy(&root, "/d/f").unwrap(), 2);
    ns.set_storage_policy(&root, "/d".to_owned(), None).await.unwrap();
    assert_eq!(ns.get_storage_policy(&root, "/d/f").unwrap(), 0);
}

#[tokio::test]
async fn safe_mode_refuses_changes_and_lets_reads_pass() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    fixture.mkdirs(&root, "/d").await;
    fixture.namesystem.blocks.safe_mode().enter();
    let error = fixture.create(&root, "/x").await.unwrap_err();
    assert!(matches!(error, E::SafeMode(_)));
    assert!(error.to_string().starts_with("Cannot create file/x. Name node is in safe mode."));
    let delete = fixture.namesystem.delete(&root, "/d".to_owned(), true).await;
    assert!(matches!(delete, Err(E::SafeMode(_))));
    assert!(fixture.exists(&root, "/d"));
}

#[tokio::test]
async fn repeated_calls_get_the_first_reply_also_after_a_restart() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    fixture.mkdirs(&root, "/d").await;
    let create = fixture.numbered("super", 1).await;
    let rename = fixture.numbered("super", 2).await;
    let delete = fixture.numbered("super", 3).await;
    let refused = fixture.numbered("super", 4).await;
    let first = fixture.create(&create, "/f").await.unwrap();
    let do_rename = async |fixture: &Fixture, call: &ClientCall| {
        fixture.namesystem.rename(call, "/f".to_owned(), "/g".to_owned()).await.unwrap().result
    };
    let do_delete = async |fixture: &Fixture, call: &ClientCall| {
        fixture.namesystem.delete(call, "/d".to_owned(), true).await.unwrap().result
    };
    assert!(do_rename(&fixture, &rename).await);
    assert!(!do_rename(&fixture, &refused).await);
    assert!(do_delete(&fixture, &delete).await);
    let fixture = fixture.restart();
    assert_eq!(fixture.create(&create, "/f").await.unwrap(), first);
    assert!(do_rename(&fixture, &rename).await);
    assert!(do_delete(&fixture, &delete).await);
    assert!(!fixture.exists(&root, "/f"));
    // What answered false was not remembered: it runs again.
    fixture.create(&root, "/f").await.unwrap();
    fixture.namesystem.delete(&root, "/g".to_owned(), false).await.unwrap();
    assert!(do_rename(&fixture, &refused).await);
    // After the expiry nothing is remembered, and nothing is kept.
    fixture.clock.advance(fixture.config.retry_cache_expiry_ms + 1);
    fixture.namesystem.purge_expired_retries().await.unwrap();
    assert!(!do_delete(&fixture, &delete).await);
    use crate::schema::Space;
    use crate::store::View;
    let snapshot = fixture.namesystem.snapshot();
    for space in [Space::Retries, Space::RetryExpiry] {
        assert!(snapshot.scan_prefix(space, &[], 9).unwrap().is_empty());
    }
}

#[tokio::test]
async fn concurrent_changes_share_commits() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    let before = fixture.namesystem.store.commits();
    let tasks: Vec<_> = (0..64)
        .map(|index| {
            let (ns, call) = (fixture.namesystem.clone(), root.clone());
            tokio::spawn(async move { ns.mkdirs(&call, format!("/d{index}"), 0o755, true).await })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap().unwrap());
    }
    let commits = fixture.namesystem.store.commits() - before;
    assert!((1..=16).contains(&commits), "64 changes took {commits} commits");
    assert_eq!(fixture.names(&root, "/").len(), 64);
}

#[tokio::test]
async fn a_failing_operation_of_a_batch_leaves_nothing() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    let store = fixture.namesystem.store.clone();
    let failing = {
        let (ns, call) = (fixture.namesystem.clone(), root.clone());
        store.write(move |update| {
            // Creates /x and then fails, after the good operation before it in the same batch.
            let resolved = crate::namespace::resolve(update, "/x/y").unwrap();
            ns.make_ancestors(update, &call, &resolved, |mode| mode)?;
            update.after_commit(|| panic!("an action of a failed operation ran"));
            Err::<(), _>(E::Io("planted".to_owned()))
        })
    };
    let good = fixture.namesystem.mkdirs(&root, "/good".to_owned(), 0o755, true);
    let (good, failed) = tokio::join!(good, failing);
    assert!(good.unwrap());
    assert_eq!(failed.unwrap_err().to_string(), "planted");
    assert_eq!(fixture.names(&root, "/"), ["good"]);
    let next = fixture.create(&root, "/f").await.unwrap();
    let good = fixture.namesystem.get_file_info(&root, "/good", false).unwrap().unwrap();
    assert_eq!(next.file_id, good.file_id.map(|id| id + 1), "no inode id was lost");
}

#[tokio::test]
async fn a_holder_of_many_files_is_counted_in_refusals() {
    let fixture = Fixture::new();
    let root = fixture.superuser().await;
    fixture.create(&root, "/f").await.unwrap();
    let error = fixture.namesystem.complete(claim("/missing"), None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "File does not exist: /missing (inode 0) [Lease.  Holder: {HOLDER}, pending creates: 1]"
        )
    );
}

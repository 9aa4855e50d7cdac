//! What users do wrong, or what the cluster cannot do for them: the error that HDFS gives, nothing
//! half-made left behind, and the cluster as good as before. Bytes that no client sends are in
//! `bad_bytes.rs`.

use ringfs_client::{ClientError, CreateOptions};
use ringfs_protocol::error::java;

use crate::cluster::java::JavaShell;
use crate::cluster::{Library, Outcome, TestCluster, sample};

/// A failed command: exit code 1, one line on stderr that contains each of `words`.
#[track_caller]
fn refused(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.exit, 1, "{}{}", outcome.text(), outcome.err);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    for word in words {
        assert!(outcome.err.contains(word), "{word:?} is not in {:?}", outcome.err);
    }
}

#[track_caller]
fn class_and_message<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (String, String) {
    let error = result.unwrap_err();
    (error.class().unwrap_or("no class").to_owned(), error.to_string())
}

fn create(library: &Library, path: &str, options: CreateOptions) -> Result<(), ClientError> {
    library.run(async |client| client.create(path, options).await.map(drop))
}

#[test]
fn a_file_that_exists_is_not_replaced_unasked() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    let local = cluster.write_scratch("local", b"new").display().to_string();
    library.write("/f", b"old").unwrap();

    let (class, message) = class_and_message(create(&library, "/f", CreateOptions::default()));
    assert_eq!(class, java::FILE_ALREADY_EXISTS);
    assert!(message.contains("/f for client 127.0.0.1 already exists"), "{message}");
    refused(&cluster.dfs(&["-put", &local, "/f"]), &["put: `/f': File exists"]);
    library.run(async |client| client.mkdirs("/d", 0o755, true).await).unwrap();
    let options = CreateOptions { overwrite: true, ..CreateOptions::default() };
    let (class, message) = class_and_message(create(&library, "/d", options));
    assert_eq!(class, java::FILE_ALREADY_EXISTS);
    assert!(message.contains("/d already exists as a directory"), "{message}");
    assert_eq!(library.read("/f").unwrap(), b"old");
    cluster.dfs(&["-put", "-f", &local, "/f"]).succeeded();
    assert_eq!(library.read("/f").unwrap(), b"new");
}

#[test]
fn a_missing_parent_or_a_file_as_parent() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    let local = cluster.write_scratch("local", b"bytes").display().to_string();
    let options = CreateOptions { create_parent: false, ..CreateOptions::default() };
    let (class, message) = class_and_message(create(&library, "/no/f", options));
    assert_eq!(class, java::FILE_NOT_FOUND);
    assert!(message.contains("Parent directory doesn't exist: /no"), "{message}");
    refused(&cluster.dfs(&["-put", &local, "/no/f"]), &["put: `/no/f': No such file or directory"]);
    refused(
        &cluster.dfs(&["-mkdir", "/no/d"]),
        &["mkdir: `hdfs://127.0.0.1:", "/no': No such file or directory"],
    );
    library.write("/file", b"").unwrap();
    let (class, message) = class_and_message(create(&library, "/file/f", CreateOptions::default()));
    assert_eq!(class, java::PARENT_NOT_DIRECTORY);
    assert!(message.contains("/file (is not a directory)"), "{message}");
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).succeeded().text(), "/file\n");
}

#[test]
fn a_path_without_permission() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    let local = cluster.write_scratch("local", b"bytes").display().to_string();
    library.write("/private/f", b"secret").unwrap();
    for arguments in [&["-chmod", "700", "/private"][..], &["-chmod", "600", "/private/f"]] {
        cluster.dfs(arguments).succeeded();
    }
    let alice = |arguments: &[&str]| cluster.dfs_as(Some("alice"), arguments);
    refused(
        &alice(&["-put", &local, "/f"]),
        &[
            "put: Permission denied: user=alice, access=WRITE, inode=\"/\":",
            ":supergroup:drwxr-xr-x",
        ],
    );
    refused(
        &alice(&["-cat", "/private/f"]),
        &["cat: Permission denied: user=alice, access=EXECUTE, inode=\"/private\":", "drwx------"],
    );
    refused(
        &alice(&["-chmod", "777", "/private"]),
        &["chmod:", "Permission denied. user=alice is not the owner of inode=/private"],
    );
    let chown = alice(&["-chown", "alice", "/private"]);
    refused(
        &chown,
        &["chown:", "Permission denied. user=alice is not the owner of inode=/private"],
    );

    cluster.dfs(&["-mkdir", "/shared"]).succeeded();
    cluster.dfs(&["-chmod", "1777", "/shared"]).succeeded();
    alice(&["-put", &local, "/shared/alices"]).succeeded();
    let chown = alice(&["-chown", "bob", "/shared/alices"]);
    refused(&chown, &["chown:", "on-super user cannot change owner"]);
    let bob = cluster.dfs_as(Some("bob"), &["-rm", "-skipTrash", "/shared/alices"]);
    refused(&bob, &["Permission denied by sticky bit", "user=bob"]);
    assert_eq!(
        cluster.dfs(&["-ls", "-C", "/", "/shared"]).succeeded().text(),
        "/private\n/shared\n/shared/alices\n"
    );

    let mut java = JavaShell::start(&cluster.conf_dir(), &[], Some("alice"));
    let theirs = java.run(&["-put", &local, "/f"]);
    assert_eq!(theirs.err, alice(&["-put", &local, "/f"]).err, "Hadoop's client hears the same");
}

#[test]
fn more_replicas_than_live_datanodes() {
    let mut cluster = TestCluster::start_with(2, &[("dfs.namenode.replication.min", "1")]);
    let library = cluster.connect();
    let bytes = sample::bytes(70_000);
    let local = cluster.write_scratch("local", &bytes).display().to_string();
    // HDFS writes to those that there are; the namenode makes up for it later.
    cluster.dfs(&["-D", "dfs.replication=3", "-put", &local, "/f"]).succeeded();
    library.reported_replica_ports("/f", 2);
    assert!(library.read("/f").unwrap() == bytes);

    let most = CreateOptions { replication: Some(600), ..CreateOptions::default() };
    let (class, message) = class_and_message(create(&library, "/g", most));
    assert_eq!(class, java::IO);
    assert!(
        message.contains("Requested replication factor of 600 exceeds maximum of 512"),
        "{message}"
    );
    let third = cluster.add_datanode().unwrap();
    crate::cluster::wait_for("the third replica", std::time::Duration::from_secs(30), || {
        (cluster.finalized_blocks(third).len() == 1).then_some(())
    });
}

#[test]
fn no_datanode_and_full_volumes() {
    let mut cluster = TestCluster::start_with(2, &[("dfs.datanode.du.reserved", "1024t")]);
    let bytes = sample::bytes(70_000);
    let local = cluster.write_scratch("local", &bytes).display().to_string();
    let full = cluster.dfs(&["-put", &local, "/f"]);
    assert_eq!(full.exit, 1);
    let message = "File /f._COPYING_ could only be written to 0 of the 1 minReplication nodes. \
                   There are 2 datanode(s) running and ";
    assert!(full.err.contains(message), "{}", full.err);
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).succeeded().text(), "", "nothing half-made");

    cluster.restart_with(&[]);
    cluster.dfs(&["-put", &local, "/f"]).succeeded();
    assert!(cluster.connect().read("/f").unwrap() == bytes);

    for index in 0..2 {
        cluster.stop_datanode(index).unwrap();
    }
    crate::cluster::wait_for(
        "the namenode misses its datanodes",
        std::time::Duration::from_secs(30),
        || {
            let none = cluster.dfs(&["-put", "-f", &local, "/f"]);
            assert_eq!(none.exit, 1);
            none.err.contains("There are 0 datanode(s) running").then_some(())
        },
    );
    for index in 0..2 {
        cluster.start_datanode(index).unwrap();
    }
    crate::cluster::wait_for("writing works again", std::time::Duration::from_secs(30), || {
        (cluster.dfs(&["-put", "-f", &local, "/f"]).exit == 0).then_some(())
    });
    assert!(cluster.connect().read("/f").unwrap() == bytes);
}

#[test]
fn names_and_sizes_beyond_the_limits() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    let long = format!("/{}", "x".repeat(256));
    let (class, message) = class_and_message(create(&library, &long, CreateOptions::default()));
    assert_eq!(class, java::PATH_COMPONENT_TOO_LONG);
    assert!(message.contains("255"), "{message}");
    let deep = "/d".repeat(1_001);
    let (_, message) =
        class_and_message(library.run(async |client| client.mkdirs(&deep, 0o755, true).await));
    assert!(message.contains("1000"), "{message}");
    let small = CreateOptions { block_size: Some(1_024), ..CreateOptions::default() };
    let (class, message) = class_and_message(create(&library, "/f", small));
    assert_eq!(class, java::IO);
    assert!(message.contains("less than configured minimum value"), "{message}");
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).succeeded().text(), "");
}

#[test]
fn a_second_writer_of_an_open_file() {
    let cluster = TestCluster::start();
    let (first, second) = (cluster.connect(), cluster.connect());
    let mut writer =
        first.run(async |client| client.create("/f", CreateOptions::default()).await).unwrap();
    first.run(async |_| {
        writer.write_slice(b"first").await.unwrap();
        writer.hflush().await.unwrap();
    });
    let (class, message) =
        class_and_message(second.run(async |client| client.append("/f").await.map(drop)));
    assert_eq!(class, java::ALREADY_BEING_CREATED, "{message}");
    assert!(message.contains("/f"), "{message}");
    first.run(async |_| writer.close().await).unwrap();
    assert_eq!(second.read("/f").unwrap(), b"first");
}

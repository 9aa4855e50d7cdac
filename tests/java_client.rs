//! Hadoop 3.5's own Java client and shell on a cluster of ours. The same tests hold on Apache's
//! servers: `RINGFS_TESTS_CONF_DIR=DIR cargo test java_client` runs them against the cluster that
//! DIR's site files name (those that look into our datanodes excepted).

use std::path::PathBuf;

use crate::cluster::java::JavaShell;
use crate::cluster::sample::{self, GOLDEN, GOLDEN_DEFAULT_BLOCK, Golden};
use crate::cluster::{TestCluster, temporary_directory, wait_for};

/// A Java client, and a cluster of our own unless another was named.
struct Site {
    java: JavaShell,
    /// Dropped after the client.
    _cluster: Option<TestCluster>,
    scratch: tempfile::TempDir,
    is_ours: bool,
}

impl Site {
    fn start() -> Self {
        let named = std::env::var_os("RINGFS_TESTS_CONF_DIR").map(PathBuf::from);
        let cluster = named.is_none().then(TestCluster::start);
        let conf_dir =
            named.or_else(|| Some(cluster.as_ref()?.conf_dir())).expect("one of the two");
        let settings = [("dfs.replication", "3"), ("dfs.blocksize", "1m")];
        let java = JavaShell::start(&conf_dir, &settings, None);
        let is_ours = cluster.is_some();
        let mut site = Self { java, _cluster: cluster, scratch: temporary_directory(), is_ours };
        let _ = site.java.run(&["-rm", "-r", "-f", "-skipTrash", "/t"]);
        site.java.ok(&["-mkdir", "-p", "/t"]);
        site
    }

    /// A local file with `bytes`.
    fn local(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn local_path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    fn cat(&mut self, path: &str) -> Vec<u8> {
        self.java.run(&["-cat", path]).succeeded().out
    }
}

#[test]
fn files_of_every_size_come_back_with_apaches_checksums() {
    let mut site = Site::start();
    let bytes = sample::bytes(GOLDEN.last().unwrap().len);
    let mut locals = Vec::new();
    for golden in GOLDEN {
        locals.push(site.local(&format!("f{}", golden.len), &bytes[..golden.len]));
    }
    let mut put = vec!["-put"];
    put.extend(locals.iter().map(String::as_str));
    put.push("/t");
    site.java.ok(&put);
    for golden in GOLDEN {
        check(&mut site, golden, &bytes[..golden.len]);
    }
}

#[test]
fn a_file_over_a_block_of_default_size_comes_back() {
    let mut site = Site::start();
    let golden = &GOLDEN_DEFAULT_BLOCK;
    let bytes = sample::bytes(golden.len);
    let local = site.local(&format!("f{}", golden.len), &bytes);
    site.java.ok(&["-D", "dfs.blocksize=134217728", "-put", &local, "/t/"]);
    std::fs::remove_file(&local).unwrap();
    check(&mut site, golden, &bytes);
    let middle = (128 << 20) - 5;
    let read =
        site.java.run(&["@pread", &format!("/t/f{}", golden.len), &middle.to_string(), "10"]);
    assert_eq!(read.succeeded().out, bytes[middle..middle + 10], "across the blocks");
}

fn check(site: &mut Site, golden: &Golden, bytes: &[u8]) {
    let path = format!("/t/f{}", golden.len);
    let back = site.local_path("back");
    site.java.ok(&["-get", "-f", &path, &back]);
    assert!(std::fs::read(&back).unwrap() == bytes, "{path} differs");
    std::fs::remove_file(&back).unwrap();
    assert_eq!(site.java.ok(&["-checksum", &path]), format!("{path}\t{}\n", golden.md5));
    // Apache's datanodes know composite CRCs since 3.1.
    if site.is_ours && golden.len > 0 {
        let composite =
            site.java.ok(&["-D", "dfs.checksum.combine.mode=COMPOSITE_CRC", "-checksum", &path]);
        assert_eq!(composite, format!("{path}\tCOMPOSITE-CRC32C\t{}\n", golden.composite_crc));
    }
}

#[test]
fn the_shell_writes_and_reads() {
    let mut site = Site::start();
    let bytes = sample::bytes(200_000);
    let one = site.local("one", &bytes);
    let two = site.local("two", b"two\n");

    site.java.ok(&["-copyFromLocal", &one, &two, "/t"]);
    assert_eq!(site.cat("/t/one"), bytes);
    let exists = site.java.run(&["-put", &two, "/t/one"]);
    assert_eq!((exists.exit, exists.err.contains("File exists")), (1, true), "{}", exists.err);
    assert_eq!(site.cat("/t/one"), bytes, "untouched");
    site.java.ok(&["-put", "-f", &two, "/t/one"]);
    assert_eq!(site.cat("/t/one"), b"two\n");
    site.java.run_with_stdin(Some(one.as_ref()), &["-put", "-", "/t/stdin"]).succeeded();
    assert_eq!(site.cat("/t/stdin"), bytes);

    site.java.ok(&["-appendToFile", &two, &one, "/t/two"]);
    let appended = [b"two\ntwo\n".as_slice(), &bytes].concat();
    assert_eq!(site.cat("/t/two"), appended);
    site.java.run_with_stdin(Some(two.as_ref()), &["-appendToFile", "-", "/t/two"]).succeeded();
    assert_eq!(site.cat("/t/two"), [&appended, b"two\n".as_slice()].concat());

    site.java.ok(&["-cp", "/t/stdin", "/t/copy"]);
    site.java.ok(&["-mkdir", "-p", "/t/d/e/f"]);
    site.java.ok(&["-mv", "/t/copy", "/t/d/e"]);
    assert_eq!(site.cat("/t/d/e/copy"), bytes);
    let back = site.local_path("back");
    site.java.ok(&["-copyToLocal", "/t/d", &back]);
    assert_eq!(std::fs::read(format!("{back}/e/copy")).unwrap(), bytes);

    assert_eq!(site.java.run(&["-head", "/t/stdin"]).succeeded().out, bytes[..1024]);
    assert_eq!(site.java.run(&["-tail", "/t/stdin"]).succeeded().out, bytes[200_000 - 1024..]);
    site.java.ok(&["-touchz", "/t/empty"]);
    for (test, exit) in [("-e", 0), ("-f", 0), ("-z", 0), ("-s", 1), ("-d", 1)] {
        assert_eq!(site.java.run(&["-test", test, "/t/empty"]).exit, exit, "-test {test}");
    }
    assert_eq!(site.java.run(&["-test", "-d", "/t/d"]).exit, 0);
    assert_eq!(site.java.run(&["-test", "-e", "/t/nothing"]).exit, 1);

    site.java.ok(&["-rm", "/t/empty"]);
    let directory = site.java.run(&["-rm", "/t/d"]);
    assert_eq!((directory.exit, directory.err.contains("Is a directory")), (1, true));
    site.java.ok(&["-rm", "-r", "-skipTrash", "/t/d"]);
    site.java.ok(&["-rm", "-f", "/t/d"]);
    assert_eq!(site.java.ok(&["-ls", "-C", "/t"]), "/t/one\n/t/stdin\n/t/two\n");
}

#[test]
fn the_shell_lists_and_counts() {
    let mut site = Site::start();
    let me = site.java.ok(&["-stat", "%u", "/t"]).trim().to_owned();
    let small = site.local("small", &sample::bytes(10));
    let large = site.local("large", &sample::bytes(3_000));
    site.java.ok(&["-mkdir", "/t/d"]);
    site.java.ok(&["-put", &small, "/t/d/small"]);
    site.java.ok(&["-D", "dfs.replication=2", "-put", &large, "/t/large"]);

    let listing = site.java.ok(&["-ls", "/t"]);
    let lines: Vec<&str> = listing.lines().collect();
    assert_eq!(lines[0], "Found 2 items");
    assert!(
        lines[1].starts_with(&format!("drwxr-xr-x   - {me} supergroup          0 ")),
        "{listing}"
    );
    assert!(
        lines[2].starts_with(&format!("-rw-r--r--   2 {me} supergroup       3000 ")),
        "{listing}"
    );
    assert!(lines[1].ends_with(" /t/d") && lines[2].ends_with(" /t/large"), "{listing}");
    assert_eq!(site.java.ok(&["-ls", "-R", "-C", "/t"]), "/t/d\n/t/d/small\n/t/large\n");
    assert_eq!(site.java.ok(&["-ls", "-C", "-d", "/t"]), "/t\n");
    assert_eq!(site.java.ok(&["-ls", "-C", "-S", "/t"]), "/t/large\n/t/d\n");
    assert_eq!(site.java.ok(&["-ls", "-C", "-t", "/t"]), "/t/large\n/t/d\n");
    assert_eq!(site.java.ok(&["-ls", "-C", "-t", "-r", "/t"]), "/t/d\n/t/large\n");
    assert!(site.java.ok(&["-ls", "-h", "/t"]).contains(" 2.9 K "));
    assert_eq!(site.java.ok(&["-ls", "-C", "/t/{d/s*,l?rge}"]), "/t/d/small\n/t/large\n");

    assert_eq!(
        site.java.ok(&["-stat", "%b %F %n %o %r %u %g", "/t/large"]),
        format!("3000 regular file large 1048576 2 {me} supergroup\n")
    );
    assert_eq!(site.java.ok(&["-stat", "%F %a %A", "/t/d"]), "directory 755 rwxr-xr-x\n");
    assert_eq!(site.java.ok(&["-du", "/t"]), "10    30    /t/d\n3000  6000  /t/large\n");
    assert_eq!(site.java.ok(&["-du", "-s", "-h", "/t"]), "2.9 K  5.9 K  /t\n");
    let count = site.java.ok(&["-count", "/t"]);
    assert_eq!(count.split_whitespace().collect::<Vec<_>>(), ["2", "2", "3010", "/t"]);
    let free = site.java.ok(&["-df", "-h"]);
    assert!(free.starts_with("Filesystem") && free.contains("hdfs://127.0.0.1"), "{free}");
}

#[test]
fn the_shell_changes_attributes() {
    let mut site = Site::start();
    let local = site.local("f", &sample::bytes(5_000));
    site.java.ok(&["-put", &local, "/t/f"]);
    site.java.ok(&["-chmod", "640", "/t/f"]);
    assert_eq!(site.java.ok(&["-stat", "%a", "/t/f"]), "640\n");
    site.java.ok(&["-chmod", "u+x,o=r", "/t/f"]);
    assert_eq!(site.java.ok(&["-stat", "%a", "/t/f"]), "744\n");
    site.java.ok(&["-chown", "alice:staff", "/t/f"]);
    assert_eq!(site.java.ok(&["-stat", "%u %g", "/t/f"]), "alice staff\n");
    site.java.ok(&["-chgrp", "crew", "/t/f"]);
    assert_eq!(site.java.ok(&["-stat", "%u %g", "/t/f"]), "alice crew\n");
    site.java.ok(&["-chmod", "-R", "1777", "/t"]);
    assert_eq!(site.java.ok(&["-stat", "%a", "/t"]), "1777\n");
    assert_eq!(
        site.java.ok(&["-setrep", "-w", "2", "/t/f"]).lines().next(),
        Some("Replication 2 set: /t/f")
    );
    assert_eq!(site.java.ok(&["-stat", "%r", "/t/f"]), "2\n");
}

#[test]
fn the_library_appends_truncates_and_joins() {
    let mut site = Site::start();
    let bytes = sample::bytes(sample::BLOCK + 1_000);
    let local = site.local("f", &bytes);
    site.java.ok(&["-put", &local, "/t/f"]);
    for text in ["first", "second"] {
        site.java.ok(&["@append", "/t/f", text]);
    }
    let mut expected = [&bytes, b"firstsecond".as_slice()].concat();
    assert_eq!(site.cat("/t/f"), expected);

    // At a block's boundary it is done at once, within a block after its recovery.
    assert_eq!(site.java.ok(&["@truncate", "/t/f", &sample::BLOCK.to_string()]), "true\n");
    expected.truncate(sample::BLOCK);
    assert_eq!(site.cat("/t/f"), expected);
    assert_eq!(site.java.ok(&["@truncate", "/t/f", "700000"]), "false\n");
    wait_for("the truncated block recovered", std::time::Duration::from_secs(30), || {
        (site.java.ok(&["@recoverLease", "/t/f"]) == "true\n").then_some(())
    });
    expected.truncate(700_000);
    assert_eq!(site.cat("/t/f"), expected);

    let full = site.local("full", &bytes[..sample::BLOCK]);
    site.java.ok(&["-put", &full, "/t/a"]);
    site.java.ok(&["-put", &full, "/t/b"]);
    site.java.ok(&["@concat", "/t/a", "/t/b"]);
    assert_eq!(site.cat("/t/a"), bytes[..sample::BLOCK].repeat(2));
    assert_eq!(site.java.run(&["-test", "-e", "/t/b"]).exit, 1, "the source is a part of /t/a now");
}

#[test]
fn a_reader_sees_what_a_writer_has_flushed() {
    let mut site = Site::start();
    let bytes = sample::bytes(100_000);
    let local = site.local("f", &bytes);
    let written = ["@hflush", "/t/open", "100000"];
    site.java.run_with_stdin(Some(local.as_ref()), &written).succeeded();
    assert_eq!(site.cat("/t/open"), bytes);
    let second = ["@hsync", "/t/synced", "70001"];
    site.java.run_with_stdin(Some(local.as_ref()), &second).succeeded();
    assert_eq!(site.cat("/t/synced"), bytes[..70_001]);
}

#[test]
fn the_balancers_bandwidth_reaches_every_datanode_and_those_that_start_later() {
    let mut cluster = TestCluster::start_with(2, &[]);
    let mut java = JavaShell::start(&cluster.conf_dir(), &[], None);
    java.ok(&["@setBalancerBandwidth", "1234567"]);
    cluster.add_datanode().unwrap();
    for index in 0..3 {
        let log = cluster.logs_dir().join(format!("datanode{index}.log"));
        wait_for(&format!("datanode {index} knows"), std::time::Duration::from_secs(20), || {
            let said = std::fs::read_to_string(&log).unwrap();
            said.contains("new bandwidth of block moves bytes_per_second=1234567").then_some(())
        });
    }
    let refused = java.run(&["@setBalancerBandwidth", "-1"]);
    assert_eq!(refused.exit, -100, "{}", refused.err);
}

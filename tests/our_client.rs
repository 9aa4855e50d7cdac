//! Our own client, library and shell.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use ringfs_client::CreateOptions;

use crate::cluster::java::JavaShell;
use crate::cluster::sample::{self, GOLDEN, GOLDEN_DEFAULT_BLOCK};
use crate::cluster::{TestCluster, wait_for};

#[test]
fn files_of_every_size_come_back_with_apaches_checksums() {
    let cluster = TestCluster::start();
    let bytes = sample::bytes(GOLDEN.last().unwrap().len);
    cluster.dfs(&["-mkdir", "-p", "/t"]).succeeded();
    for golden in GOLDEN {
        let name = format!("f{}", golden.len);
        let local = cluster.write_scratch(&name, &bytes[..golden.len]).display().to_string();
        let path = format!("/t/{name}");
        cluster.dfs(&["-put", &local, "/t"]).succeeded();
        assert!(cluster.dfs(&["-cat", &path]).succeeded().out == bytes[..golden.len], "{path}");
        let back = format!("{local}.back");
        cluster.dfs(&["-get", &path, &back]).succeeded();
        assert!(std::fs::read(&back).unwrap() == bytes[..golden.len], "{path}");
        let checksum = cluster.dfs(&["-checksum", &path]).succeeded().text();
        assert_eq!(checksum, format!("{path}\t{}\n", golden.md5));
        if golden.len > 0 {
            let mode = "dfs.checksum.combine.mode=COMPOSITE_CRC";
            let checksum = cluster.dfs(&["-D", mode, "-checksum", &path]).succeeded().text();
            assert_eq!(checksum, format!("{path}\tCOMPOSITE-CRC32C\t{}\n", golden.composite_crc));
        }
    }
}

#[test]
fn a_file_over_a_block_of_default_size_comes_back() {
    let cluster = TestCluster::start_with(3, &[("dfs.blocksize", "128m")]);
    let golden = GOLDEN_DEFAULT_BLOCK;
    let bytes = sample::bytes(golden.len);
    let library = cluster.connect();
    library.write("/large", &bytes).unwrap();
    assert!(library.read("/large").unwrap() == bytes);
    assert_eq!(library.replica_ports("/large").len(), 2, "blocks");
    let checksum = cluster.dfs(&["-checksum", "/large"]).succeeded().text();
    assert_eq!(checksum, format!("/large\t{}\n", golden.md5));
}

#[test]
fn ranges_at_any_offset() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    let bytes = sample::bytes(2 * sample::BLOCK + 777);
    library.write("/f", &bytes).unwrap();
    library.run(async |client| {
        let mut reader = client.open("/f").await.unwrap();
        for (offset, len) in [
            (0, 1),
            (1, 511),
            (511, 2),
            (65_000, 2_000),
            (sample::BLOCK - 1, 2),
            (700_001, 1_200_000),
        ] {
            let mut range = vec![0; len];
            assert_eq!(reader.read_at(offset as u64, &mut range).await.unwrap(), len);
            assert!(range == bytes[offset..offset + len], "{len} bytes at {offset}");
        }
        let mut beyond = vec![0; 1_000];
        let from = bytes.len() as u64 - 10;
        assert_eq!(reader.read_at(from, &mut beyond).await.unwrap(), 10, "to the end");
        reader.seek(sample::BLOCK as u64 + 3).unwrap();
        let chunk = reader.next_chunk().await.unwrap().unwrap();
        assert_eq!(chunk, bytes[sample::BLOCK + 3..][..chunk.len()]);
        assert!(reader.seek(bytes.len() as u64 + 1).is_err());
    });
}

#[test]
fn a_reader_sees_flushed_bytes_while_the_file_is_written() {
    let cluster = TestCluster::start();
    let (writing, reading) = (cluster.connect(), cluster.connect());
    let bytes = sample::bytes(sample::BLOCK + 300_000);
    let mut writer =
        writing.run(async |client| client.create("/open", CreateOptions::default()).await).unwrap();
    let mut flushed = 0;
    for len in [1, 600, 70_000, sample::BLOCK, bytes.len()] {
        writing.run(async |_| {
            writer.write_slice(&bytes[flushed..len]).await.unwrap();
            writer.hflush().await.unwrap();
        });
        flushed = len;
        assert!(reading.read("/open").unwrap() == bytes[..len], "after flushing {len}");
    }
    writing.run(async |_| writer.close().await).unwrap();
    assert!(reading.read("/open").unwrap() == bytes);
}

#[test]
fn appends_continue_a_file() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    let steps = [5, 507, 1, 64_000, (1 << 20) - 64_513, 1, 100_000];
    let bytes = sample::bytes(steps.iter().sum());
    library.write("/a", &[]).unwrap();
    let mut len = 0;
    for step in steps {
        library.run(async |client| {
            let mut writer = client.append("/a").await.unwrap();
            writer.write_slice(&bytes[len..len + step]).await.unwrap();
            writer.close().await.unwrap();
        });
        len += step;
        assert!(library.read("/a").unwrap() == bytes[..len], "after appending {step}");
    }
}

/// One replica has a flipped bit: the reader goes on with another and tells the namenode, which
/// has the bad one replaced.
#[test]
fn a_reader_goes_round_a_corrupt_replica() {
    let cluster = TestCluster::start_with(4, &[]);
    let library = cluster.connect();
    let bytes = sample::bytes(900_000);
    library.write("/f", &bytes).unwrap();
    let ports = library.reported_replica_ports("/f", 3)[0].clone();
    let holder = (0..4)
        .find(|index| cluster.datanode_address(*index).ends_with(&ports[0].to_string()))
        .unwrap();
    let damage = || {
        let path = cluster.block_file(holder, cluster.finalized_blocks(holder)[0]);
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 500_000).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], 500_000).unwrap();
        file.sync_all().unwrap();
    };
    damage();
    // Readers start at any replica: in a few reads one starts at the bad one.
    wait_for("the bad replica found, three good ones", Duration::from_secs(60), || {
        assert!(library.read("/f").unwrap() == bytes);
        let now = library.replica_ports("/f")[0].clone();
        (now.len() == 3 && now != ports).then_some(())
    });
    assert!(library.read("/f").unwrap() == bytes);
}

#[test]
fn a_writer_goes_on_when_a_datanode_of_its_pipeline_is_killed() {
    let mut cluster = TestCluster::start_with(4, &[("dfs.blocksize", "8m")]);
    let library = cluster.connect();
    let bytes = sample::bytes(12 << 20);
    let mut writer =
        library.run(async |client| client.create("/f", CreateOptions::default()).await).unwrap();
    library.run(async |_| {
        writer.write_slice(&bytes[..3_000_000]).await.unwrap();
        writer.hflush().await.unwrap();
    });
    let in_pipeline = (0..4).find(|index| !cluster.stored_is_empty(*index)).unwrap();
    cluster.kill_datanode(in_pipeline);
    library.run(async |_| {
        writer.write_slice(&bytes[3_000_000..]).await.unwrap();
        writer.close().await.unwrap();
    });
    assert!(library.read("/f").unwrap() == bytes);
}

/// The same questions to Hadoop's shell and to ours, on the same files: the same answers.
#[test]
fn our_shell_says_what_hadoops_says() {
    let cluster = TestCluster::start();
    let mut java = JavaShell::start(&cluster.conf_dir(), &[], None);
    let bytes = sample::bytes(70_000);
    let local = cluster.write_scratch("local", &bytes).display().to_string();
    for arguments in [
        &["-mkdir", "-p", "/d/sub dir", "/d/empty"][..],
        &["-put", &local, "/d/file"],
        &["-put", &local, "/d/sub dir/other"],
        &["-touchz", "/d/zero"],
        &["-chmod", "1750", "/d/empty"],
        &["-chown", "alice:staff", "/d/file"],
        &["-setrep", "2", "/d/zero"],
    ] {
        cluster.dfs(arguments).succeeded();
    }
    for arguments in [
        &["-ls", "/"][..],
        &["-ls", "/d"],
        &["-ls", "-R", "/d"],
        &["-ls", "-R", "-C", "/d"],
        &["-ls", "-h", "/d/file"],
        &["-ls", "-d", "/d"],
        &["-ls", "-S", "-r", "/d"],
        &["-ls", "-t", "/d"],
        &["-ls", "/d/*"],
        &["-ls", "-C", "/d/{file,z*}", "/d/[a-f]*"],
        &["-ls", "/nothing"],
        &["-ls", "/d/no*"],
        &["-ls"],
        &["-du", "/d"],
        &["-du", "-s", "/d"],
        &["-du", "-h", "/d"],
        &["-du", "-s", "-h", "/d", "/d/file"],
        &["-count", "/d"],
        &["-count", "/", "/d/file"],
        &["-stat", "/d/file"],
        &["-stat", "%b %F %g %n %o %r %u %a %A", "/d/file", "/d/empty", "/d"],
        &["-stat", "%y", "/nothing"],
        &["-test", "-d", "/d"],
        &["-test", "-f", "/d"],
        &["-test", "-z", "/d/zero"],
        &["-test", "-s", "/d/file"],
        &["-test", "-e", "/nothing"],
        &["-cat", "/d/file"],
        &["-cat", "/d"],
        &["-cat", "/nothing"],
        &["-head", "/d/file"],
        &["-tail", "/d/file"],
        &["-checksum", "/d/file", "/d/zero"],
        &["-checksum", "/d"],
        &["-rm", "/d"],
        &["-rm", "/nothing"],
        &["-rm", "-f", "/nothing"],
        &["-mkdir", "/d"],
        &["-mkdir", "/no/parent"],
        &["-mkdir", "/d/file/sub"],
        &["-mv", "/nothing", "/d"],
        &["-cp", "/nothing", "/d"],
        &["-put", &local, "/d/file"],
        &["-put", "/no/such/file", "/d"],
        &["-put", &local, "/no/parent/file"],
        &["-get", "/nothing", "/no/where"],
        &["-get", "/d/file", &local],
        &["-chmod", "999", "/d"],
        &["-setrep", "0", "/d/file"],
        &["-touchz", "/d/file"],
        &["-touchz", "/d"],
        &["-appendToFile", &local, "/d"],
        &["-nonsense"],
        &["-ls", "-nonsense", "/"],
        &["-mkdir"],
    ] {
        let (theirs, ours) = (java.run(arguments), cluster.dfs(arguments));
        assert_eq!(ours.text(), theirs.text(), "stdout of {arguments:?}");
        // Wrong usage is followed by a list of all commands, which ours does not have all.
        let first_line = |text: &str| text.lines().next().map(str::to_owned);
        let usage = theirs.err.contains("Usage: hadoop fs");
        let (our_error, their_error) = if usage {
            (first_line(&ours.err), first_line(&theirs.err))
        } else {
            (Some(ours.err), Some(theirs.err))
        };
        assert_eq!(our_error, their_error, "stderr of {arguments:?}");
        // The shell's negative codes reach a parent process modulo 256.
        assert_eq!(ours.exit, theirs.exit & 0xff, "exit code of {arguments:?}");
    }
}

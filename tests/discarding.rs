//! Datanodes that throw the data of blocks away, as measurements without a disk use them.

use std::process::Command;
use std::time::Duration;

use crate::cluster::{
    BINARY, Outcome, TestCluster, block_files, sample, temporary_directory, wait_for,
};

#[test]
fn a_discarding_cluster_takes_files_keeps_no_byte_and_says_so() {
    let mut cluster = TestCluster::start_discarding();
    let library = cluster.connect();
    let bytes = sample::bytes(3 * sample::BLOCK + 4_321);
    library.write("/gone", &bytes).unwrap();
    let status = library.run(async |client| client.file_status("/gone").await).unwrap().unwrap();
    assert_eq!(status.len, bytes.len() as u64);
    assert_eq!(library.reported_replica_ports("/gone", 3).len(), 4);
    let files = block_files(&cluster.data_dir(0));
    assert_eq!(files.len(), 4 * 2, "{files:?}");
    for file in &files {
        assert_eq!(std::fs::metadata(file).unwrap().len(), 0, "{}", file.display());
    }
    library.read("/gone").unwrap_err();
    let log = std::fs::read_to_string(cluster.logs_dir().join("datanode0.log")).unwrap();
    assert!(log.contains("IS THROWN AWAY (--bench-discard-block-data)"));
    drop(library);

    cluster.stop_datanode(0).unwrap();
    cluster.start_datanode(0).unwrap();
    let refused = wait_for("its end", Duration::from_secs(10), || cluster.check_children().err());
    let refused = refused.to_string();
    assert!(refused.contains("is a block, so this directory is not for"), "{refused}");
}

#[test]
fn no_setting_makes_a_datanode_throw_blocks_away() {
    let directory = temporary_directory();
    let data_dir = format!("dfs.datanode.data.dir=discard://{}", directory.path().display());
    let arguments = ["datanode", "-D", "fs.defaultFS=hdfs://h:1", "-D", &data_dir];
    let outcome = Outcome::of(Command::new(BINARY).args(arguments).output().unwrap());
    assert_eq!(outcome.exit, 2, "{}", outcome.err);
    assert!(outcome.err.contains("--bench-discard-block-data"), "{}", outcome.err);
}

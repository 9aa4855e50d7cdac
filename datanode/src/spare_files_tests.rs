//! Blocks in the data files of deleted ones, from outside: over sockets, with files that are compared.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfs_protocol::block::{BlockId, ReplicaState};
use ringfs_protocol::messages::{OpWriteBlockProto, Status, StorageTypeProto};

use crate::bare_datanode::*;
use crate::dataset::tests::{extended, open};
use crate::limits::SPARE_FILE_BYTES_MIN;
use crate::replica::Replica;
use crate::storage_directory::tests::formatted_directory;
use crate::transitions::tests::assert_holds;
use crate::volume::Volume;
use crate::volume::tests::POOL;

const LEN: usize = SPARE_FILE_BYTES_MIN as usize;
const USUAL: usize = 64_512;

/// On the disk of the sources: one in memory zeroes no ranges.
fn datanode(spare_files: usize) -> Datanode {
    let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let directory = formatted_directory(&temp.path().join("d"), StorageTypeProto::Disk);
    let volume = Volume::open(directory, POOL, 0, true).unwrap().with_spare_files(spare_files);
    Datanode::start_on("127.0.0.1", vec![Arc::new(volume)], temp)
}

fn request(id: u64) -> OpWriteBlockProto {
    OpWriteBlockProto { header: header(id, 1001, LEN as u64), ..create(id, Vec::new()) }
}

/// A block of which packets come and go as fast as they can.
fn write(datanode: &Datanode, id: u64, content: &[u8]) {
    let mut client = Client::connect(datanode);
    assert_eq!(client.start_write(&request(id)).status(), Status::Success);
    send_evenly(&mut client, content, 0, USUAL);
    client.finish(content.len() as u64, 1, 0);
    datanode.assert_holds(id, content);
}

fn replica(datanode: &Datanode, id: u64) -> Arc<Replica> {
    datanode.node.dataset.replica(POOL, BlockId(id)).unwrap()
}

fn inode(datanode: &Datanode, id: u64) -> u64 {
    fs::metadata(replica(datanode, id).files().data).unwrap().ino()
}

/// Deletes a block, and waits until its file is kept or gone.
fn delete(datanode: &Datanode, id: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let block = extended(id, 1001, 0);
    runtime.block_on(datanode.node.dataset.delete(&block)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while datanode.node.volume.usage().dfs_used_bytes > used(datanode) {
        assert!(Instant::now() < deadline, "its files stay");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// By the replicas that there are.
fn used(datanode: &Datanode) -> u64 {
    let replicas = datanode.node.dataset.replicas_in(ReplicaState::Finalized);
    replicas.iter().map(|replica| replica.accounted_bytes()).sum()
}

fn spare(datanode: &Datanode) -> usize {
    datanode.node.volume.spare_files().count()
}

#[test]
fn blocks_of_every_length_are_written_into_files_of_deleted_ones() {
    let datanode = datanode(1);
    let content = bytes(LEN);
    let mut id = 0;
    for len in [LEN, LEN - 1, LEN - 4096, 3 << 20, (1 << 20) + 1] {
        let used_before = datanode.server.counters.spare_files_used.get();
        for tries in 1.. {
            write(&datanode, id, &[0xee; LEN]);
            let was = inode(&datanode, id);
            delete(&datanode, id);
            assert_eq!(spare(&datanode), 1, "{len}");
            write(&datanode, id + 1, &content[..len]);
            let used = datanode.server.counters.spare_files_used.get() - used_before;
            assert_eq!(inode(&datanode, id + 1) == was, used > 0, "{len}");
            id += 2;
            if used > 0 {
                break;
            }
            // A pause before the first slab was full: what there was then has gone to a file already.
            assert!(tries < 20, "{len}: never used");
            datanode.node.volume.spare_files().release(0);
        }
    }
    assert_eq!(datanode.held_slabs(), 0);
}

#[test]
fn a_small_block_takes_no_spare_file() {
    let datanode = datanode(2);
    write(&datanode, 1, &bytes(LEN));
    delete(&datanode, 1);
    write(&datanode, 2, &bytes(10_000));
    write(&datanode, 3, &bytes(500_000));
    assert_eq!((spare(&datanode), datanode.server.counters.spare_files_used.get()), (1, 0));
}

/// What was flushed stays readable, and is there after a restart, whatever the file was before.
#[test]
fn flushed_and_synced_bytes_are_found_again_in_a_spare_file() {
    let content = bytes(LEN);
    let len = 5_000_777;
    for tries in 1.. {
        let datanode = datanode(2);
        write(&datanode, 1, &vec![0xee; LEN]);
        delete(&datanode, 1);
        let mut client = Client::connect(&datanode);
        client.start_write(&request(2));
        client.send_packet(&[], 0, true, false);
        send_evenly(&mut client, &content[..len - 1000], 0, USUAL);
        client.expect_acks(0, 1);
        let start = (len - 1000) / 512 * 512;
        client.send_packet(&content[start..len], start as u64, true, false);
        client.ack().unwrap();
        let (_, read) = Client::connect(&datanode).read(2, 0, len as u64).unwrap();
        assert!(read == content[..len]);
        let again = open(vec![datanode.node.volume.clone()]);
        let replica = again.replica(POOL, BlockId(2)).unwrap();
        assert_eq!(replica.bytes_on_disk(), len as u64);
        assert_holds(&replica, &content[..len]);
        if datanode.server.counters.spare_files_used.get() > 0 {
            return;
        }
        assert!(tries < 20, "never used");
    }
}

#[test]
fn who_reads_a_deleted_block_goes_on_reading_it() {
    let datanode = datanode(2);
    let old = bytes(LEN);
    write(&datanode, 1, &old);
    let was = inode(&datanode, 1);
    let mut reader = Client::connect(&datanode);
    let reply = reader.start_read(1, 0, LEN as u64);
    assert_eq!(reply.status(), Status::Success);
    delete(&datanode, 1);
    assert_eq!(spare(&datanode), 0, "a reader has it open");
    write(&datanode, 2, &vec![0xee; LEN]);
    assert_ne!(inode(&datanode, 2), was);
    let data = reader.read_started(0);
    assert!(data == old);
}

#[test]
fn a_file_that_was_passed_to_a_client_or_not_made_here_is_not_kept() {
    let datanode = datanode(2);
    write(&datanode, 1, &bytes(LEN));
    replica(&datanode, 1).note_passed();
    delete(&datanode, 1);
    assert_eq!(spare(&datanode), 0);
    write(&datanode, 2, &bytes(LEN));
    replica(&datanode, 2).note_failed_write();
    delete(&datanode, 2);
    assert_eq!(spare(&datanode), 0);
    write(&datanode, 3, &bytes(LEN));
    assert!(replica(&datanode, 3).may_be_kept());
    let again = open(vec![datanode.node.volume.clone()]);
    assert!(!again.replica(POOL, BlockId(3)).unwrap().may_be_kept());
}

/// The file is gone, or its disk fails: the block is written nevertheless, and the file tried once.
#[test]
fn a_spare_file_that_cannot_be_used_harms_nothing() {
    let content = bytes(LEN);
    for tries in 1.. {
        let datanode = datanode(2);
        write(&datanode, 1, &content);
        delete(&datanode, 1);
        for entry in fs::read_dir(datanode.node.volume.tmp_dir()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        write(&datanode, 2, &content);
        assert_eq!(datanode.server.counters.spare_files_used.get(), 0);
        if datanode.node.volume.spare_files().take(LEN as u64).is_none() {
            return;
        }
        assert!(tries < 20, "never tried");
    }
}

#[test]
fn spare_files_count_as_room() {
    let datanode = datanode(2);
    let volume = &datanode.node.volume;
    write(&datanode, 1, &bytes(LEN));
    delete(&datanode, 1);
    assert_eq!(spare(&datanode), 1);
    let with = volume.usage();
    let path = volume.spare_files().take(LEN as u64).unwrap().path;
    let without = volume.usage();
    assert_eq!(with.remaining_bytes - without.remaining_bytes, LEN as u64);
    assert_eq!(without.non_dfs_used_bytes - with.non_dfs_used_bytes, LEN as u64);
    fs::remove_file(path).unwrap();
}

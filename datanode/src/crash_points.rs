//! Each transition of a replica is cut off after each of its changes to the disk; a start must then
//! find every acknowledged byte, under the old or the new generation stamp.

use std::future::Future;
use std::sync::Arc;

use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};

use crate::dataset::Dataset;
use crate::dataset::tests::{extended, open, put, put_finalized};
use crate::error::Result;
use crate::ring::failing::block_on_failing_after;
use crate::transitions::ReplicaWriter;
use crate::transitions::tests::{Node, assert_holds, fill, node, on_ring, request};
use crate::volume::tests::POOL;

const OLD: GenerationStamp = GenerationStamp(1001);
const NEW: GenerationStamp = GenerationStamp(1005);
/// Written; not a multiple of a chunk.
const LEN: usize = 1500;

fn bytes() -> Vec<u8> {
    (0..LEN).map(|i| (i * 29 + i / 256) as u8).collect()
}

fn block() -> ringfs_protocol::block::ExtendedBlock {
    extended(1, OLD.0, 0)
}

/// Runs `transition` on what `setup` made, dying after 0, 1, 2… changes until it gets through. After
/// each death a new start finds a replica, which `check` looks at. Returns how many deaths there were.
fn die_everywhere<S, F>(
    setup: impl Fn() -> (Node, S),
    transition: impl Fn(Arc<Dataset>, S) -> F,
    check: impl Fn(Block, ReplicaState),
) -> usize
where
    F: Future<Output = Result<()>> + 'static,
{
    for changes in 0.. {
        let (node, subject) = setup();
        let done = block_on_failing_after(changes, transition(node.dataset.clone(), subject));
        let again = open(vec![node.volume.clone()]);
        let replica = again.replica(POOL, BlockId(1)).unwrap_or_else(|| {
            panic!("the replica is lost after {changes} changes");
        });
        let found = replica.block();
        assert_holds(&replica, &bytes()[..found.num_bytes as usize]);
        check(found, replica.state());
        if done.is_ok() {
            return changes;
        }
    }
    unreachable!()
}

/// A replica being written, with preallocated room behind its bytes and `acked` of them acked.
fn being_written(acked: usize) -> (Node, ReplicaWriter) {
    let node = node();
    let (sender, receiver) = std::sync::mpsc::channel();
    let dataset = node.dataset.clone();
    on_ring(async move {
        let mut writer = dataset.create_rbw(request(1, OLD.0, 0)).await.unwrap();
        fill(&mut writer, &bytes(), 10_000).await;
        writer.replica.set_bytes_acked(acked as u64);
        sender.send(writer).unwrap();
    });
    (node, receiver.recv().unwrap())
}

fn on_disk(state: ReplicaState) -> (Node, ()) {
    let node = node();
    match state {
        ReplicaState::Finalized => put_finalized(&node.volume, 1, OLD.0, &bytes()),
        state => put(&node.volume, state, 1, OLD.0, &bytes()),
    }
    let dataset = Arc::new(open(vec![node.volume.clone()]));
    (Node { dataset, ..node }, ())
}

#[test]
fn finalize() {
    let deaths = die_everywhere(
        || being_written(LEN),
        |dataset, writer| async move { dataset.finalize(writer, true, None).await.map(drop) },
        |found, _| assert_eq!((found.num_bytes, found.generation_stamp), (LEN as u64, OLD)),
    );
    assert!(deaths >= 3, "truncate and two renames at least, not {deaths}");
}

#[test]
fn append() {
    let deaths = die_everywhere(
        || on_disk(ReplicaState::Finalized),
        |dataset, ()| async move { dataset.append(&block(), NEW, LEN as u64, false).await.map(drop) },
        |found, state| {
            assert_eq!(found.num_bytes, LEN as u64);
            let begun = state == ReplicaState::Rwr;
            assert_eq!(found.generation_stamp, if begun { NEW } else { OLD });
        },
    );
    assert!(deaths >= 2);
}

#[test]
fn streaming_recovery() {
    let acked = 700;
    let deaths = die_everywhere(
        || {
            let (node, writer) = being_written(acked);
            drop(writer);
            (node, ())
        },
        move |dataset, ()| async move {
            dataset.recover_rbw(&block(), NEW, acked as u64, LEN as u64).await.map(drop)
        },
        |found, state| {
            assert_eq!(state, ReplicaState::Rwr);
            assert!([acked, 1024, LEN].contains(&(found.num_bytes as usize)), "{found:?}");
            assert!([OLD, NEW].contains(&found.generation_stamp));
        },
    );
    assert!(deaths >= 4, "checksum, two truncates, a rename at least, not {deaths}");
}

#[test]
fn close_recovery() {
    let deaths = die_everywhere(
        || {
            let (node, writer) = being_written(LEN);
            drop(writer);
            (node, ())
        },
        |dataset, ()| async move { dataset.recover_close(&block(), NEW, LEN as u64).await.map(drop) },
        |found, state| {
            assert_eq!(found.num_bytes, LEN as u64);
            let done = state == ReplicaState::Finalized;
            assert_eq!(found.generation_stamp, if done { NEW } else { OLD });
        },
    );
    assert!(deaths >= 4);
}

#[test]
fn block_recovery() {
    let deaths = die_everywhere(
        || on_disk(ReplicaState::Rbw),
        |dataset, ()| async move {
            dataset.start_recovery(&block(), NEW).await?;
            let old = extended(1, OLD.0, LEN as u64);
            dataset.finish_recovery(&old, NEW, 700, None).await.map(drop)
        },
        |found, _| {
            assert!([700, 1024, LEN].contains(&(found.num_bytes as usize)), "{found:?}");
            assert!([OLD, NEW].contains(&found.generation_stamp));
        },
    );
    assert!(deaths >= 4);
}

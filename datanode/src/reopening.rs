//! Writers that take over a replica that is there already: appends, and pipelines that recover from
//! the loss of a datanode. The former writer, if any, is stopped first. On a data thread.
//!
//! The new generation stamp is durable before the pipeline is told of it: the namenode counts replicas
//! with an older one as stale, so one that power took back would take all durable bytes with it.
//!
//! | stage of WRITE_BLOCK | the replica must be | and becomes |
//! |---|---|---|
//! | APPEND | FINALIZED, of the block's generation stamp and the expected length | RBW |
//! | APPEND_RECOVERY | FINALIZED or RBW, of the expected length | RBW |
//! | STREAMING_RECOVERY | RBW, acked and received within the client's bounds | RBW, cut to what is acked |
//! | the same, where Apache refuses | FINALIZED, of a length within the client's bounds | RBW |
//! | CLOSE_RECOVERY | FINALIZED or RBW, of the expected length | FINALIZED |
//!
//! Replicas outside of a pipeline that recovers are stale from then on, so one that has rotted must not
//! stay in it: it is read first, and refused. (Apache goes on with it, and deletes the good ones.) So is
//! one that an append would go on with alone, after its client found nobody else to take a copy.
//!
//! A client that knows no CLOSE_RECOVERY (hdfs-native) loses a datanode at the block's last packet, which
//! the others have finished with: it resends that packet under STREAMING_RECOVERY, and is let to.

use std::io;
use std::sync::Arc;

use ringfs_protocol::block::{Block, ExtendedBlock, GenerationStamp, ReplicaState};
use tokio::sync::MutexGuard;

use crate::block_reports::BlockChange;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::replica::{OnDisk, Replica, ReplicaEvent};
use crate::replica_files::{
    break_hard_links, cut, move_data_first, move_meta_first, open_existing, read_checksum,
    rename_into, require_stored, sync_name, sync_replica,
};
use crate::replica_packets::verify;
use crate::transitions::ReplicaWriter;
use crate::volume::{BlockData, SpacePromise};

impl Dataset {
    /// Reopens a FINALIZED replica: PIPELINE_SETUP_APPEND. Where it is the only one of its pipeline, or
    /// something was found rotten in it, it is read first.
    pub async fn append(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        expected_len: u64,
        is_alone: bool,
    ) -> Result<ReplicaWriter> {
        let replica = self.require_answering(block)?;
        let held = self.hold_in_time(&replica).await?;
        replica.check(ReplicaEvent::Append)?;
        expect_stamp(&replica, block.block.generation_stamp, block.block.generation_stamp)?;
        if is_alone || self.reports().is_corrupt(&replica.block()) {
            expect_len(&replica, expected_len)?;
            self.expect_sound(&replica, expected_len).await?;
        }
        self.reopen_finalized(block, &replica, &held, new_stamp, expected_len).await
    }

    /// PIPELINE_SETUP_APPEND_RECOVERY.
    pub async fn recover_append(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        expected_len: u64,
    ) -> Result<ReplicaWriter> {
        let replica = self.require_answering(block)?;
        let held = self.hold_in_time(&replica).await?;
        replica.check(ReplicaEvent::RecoverAppend)?;
        expect_stamp(&replica, block.block.generation_stamp, new_stamp)?;
        self.expect_sound(&replica, expected_len).await?;
        if replica.state() == ReplicaState::Finalized {
            return self.reopen_finalized(block, &replica, &held, new_stamp, expected_len).await;
        }
        expect_len(&replica, expected_len)?;
        self.continue_rbw(block, &replica, &held, ReplicaEvent::RecoverAppend, new_stamp).await
    }

    /// PIPELINE_SETUP_STREAMING_RECOVERY: the replica is cut to its acked bytes.
    pub async fn recover_rbw(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        min_bytes: u64,
        max_bytes: u64,
    ) -> Result<ReplicaWriter> {
        let replica = self.require_answering(block)?;
        let held = self.hold_in_time(&replica).await?;
        replica.check(ReplicaEvent::RecoverStreaming)?;
        expect_stamp(&replica, block.block.generation_stamp, new_stamp)?;
        let is_finalized = replica.state() == ReplicaState::Finalized;
        let (acked, received) = match is_finalized {
            true => (replica.bytes_on_disk(), replica.bytes_on_disk()),
            false => (replica.bytes_acked(), replica.bytes_received()),
        };
        if acked < min_bytes || received > max_bytes {
            return Err(DatanodeError::UnexpectedReplica {
                block: replica.block(),
                why: format!(
                    "{acked} bytes are acked and {received} received, where at least {min_bytes} \
                     and at most {max_bytes} are expected"
                ),
            });
        }
        self.expect_sound(&replica, acked).await?;
        if is_finalized {
            return self.reopen_finalized(block, &replica, &held, new_stamp, acked).await;
        }
        self.continue_rbw(block, &replica, &held, ReplicaEvent::RecoverStreaming, new_stamp).await
    }

    /// PIPELINE_CLOSE_RECOVERY: FINALIZED under the new generation stamp, RECEIVED queued.
    pub async fn recover_close(
        &self,
        block: &ExtendedBlock,
        new_stamp: GenerationStamp,
        expected_len: u64,
    ) -> Result<Block> {
        let replica = self.require_answering(block)?;
        let held = self.hold_in_time(&replica).await?;
        replica.check(ReplicaEvent::RecoverClose)?;
        expect_stamp(&replica, block.block.generation_stamp, new_stamp)?;
        expect_len(&replica, expected_len)?;
        self.expect_sound(&replica, expected_len).await?;
        let from = replica.files();
        let to = replica.files_of(ReplicaState::Finalized, new_stamp);
        let moved = async {
            if replica.state() == ReplicaState::Rbw {
                cut(&from, expected_len).await?;
            }
            move_meta_first(&from, &to).await?;
            sync_replica(&to).await
        };
        if let Err(error) = moved.await {
            self.distrust(&replica, &held, &error).await;
            return Err(error);
        }
        let received = BlockChange::RECEIVED;
        self.settle(&replica, &held, ReplicaEvent::RecoverClose, new_stamp, expected_len, received)
    }

    /// The replica's first `len` bytes fit their checksums; reports it if they do not. At most one
    /// block is read, once for each failure of its pipeline or append to a pipeline of one.
    pub(crate) async fn expect_sound(&self, replica: &Arc<Replica>, len: u64) -> Result<()> {
        if replica.volume().block_data() == BlockData::Discarded {
            return Ok(());
        }
        let verified = verify(replica, len).await.map_err(|error| match error {
            // Power took the end of a file, or the header of one.
            DatanodeError::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                DatanodeError::Corrupt { block: replica.block(), source }
            }
            DatanodeError::Storage { why, .. } => DatanodeError::Corrupt {
                block: replica.block(),
                source: io::Error::new(io::ErrorKind::InvalidData, why),
            },
            error => error,
        });
        if let Err(DatanodeError::Corrupt { .. }) = verified {
            self.reports().push_bad(replica.volume().storage_id(), replica.block());
        }
        verified
    }

    async fn reopen_finalized(
        &self,
        block: &ExtendedBlock,
        replica: &Arc<Replica>,
        held: &MutexGuard<'_, ()>,
        new_stamp: GenerationStamp,
        expected_len: u64,
    ) -> Result<ReplicaWriter> {
        require_stored(replica)?;
        expect_len(replica, expected_len)?;
        if new_stamp < replica.generation_stamp() {
            return Err(DatanodeError::UnexpectedReplica {
                block: replica.block(),
                why: format!("an append under the older generation stamp {new_stamp} is asked for"),
            });
        }
        let promise = self.promise_growth(block, replica)?;
        let from = replica.files();
        let to = replica.files_of(ReplicaState::Rbw, new_stamp);
        break_hard_links(&from).await?;
        if let Err(error) = move_data_first(&from, &to).await {
            // Back to what it was, if the disk lets us: a start would do the same.
            match rename_into(&to.data, &from.data).await {
                // A rename that was given up may still take place.
                Ok(()) if !error.is_overdue() => self.note_failure(replica, &error),
                _ => self.distrust(replica, held, &error).await,
            }
            return Err(error);
        }
        if let Err(error) = sync_name(&to.meta).await {
            self.distrust(replica, held, &error).await;
            return Err(error);
        }
        replica.apply(ReplicaEvent::Append, new_stamp)?;
        self.open_writer(replica, held, promise).await
    }

    /// Takes an RBW replica over at its acked length, under a new generation stamp.
    async fn continue_rbw(
        &self,
        block: &ExtendedBlock,
        replica: &Arc<Replica>,
        held: &MutexGuard<'_, ()>,
        event: ReplicaEvent,
        new_stamp: GenerationStamp,
    ) -> Result<ReplicaWriter> {
        require_stored(replica)?;
        let promise = self.promise_growth(block, replica)?;
        let len = match event {
            ReplicaEvent::RecoverStreaming => replica.bytes_acked(),
            _ => replica.bytes_on_disk(),
        };
        let from = replica.files();
        let renamed = async {
            cut(&from, len).await?;
            replica.set_all_lengths(OnDisk { len, last_chunk_checksum: None });
            let to = replica.files_of(ReplicaState::Rbw, new_stamp).meta;
            rename_into(&from.meta, &to).await?;
            sync_name(&to).await
        };
        if let Err(error) = renamed.await {
            self.distrust(replica, held, &error).await;
            return Err(error);
        }
        replica.apply(event, new_stamp)?;
        self.open_writer(replica, held, promise).await
    }

    async fn open_writer(
        &self,
        replica: &Arc<Replica>,
        _held: &MutexGuard<'_, ()>,
        promise: SpacePromise,
    ) -> Result<ReplicaWriter> {
        let files = replica.files();
        let data = open_existing(&files.data, replica.volume().direct_io()).await?;
        let meta = open_existing(&files.meta, false).await?;
        let checksum = read_checksum(&meta, &files.meta).await?;
        self.tell(replica, replica.block(), BlockChange::Receiving);
        let len = replica.bytes_on_disk();
        Ok(ReplicaWriter {
            replica: replica.clone(),
            data,
            through_cache: false,
            meta,
            checksum,
            start_len: len,
            file_len: len,
            promise: Arc::new(promise),
            lease: replica.lease_to_writer(),
        })
    }

    fn promise_growth(&self, block: &ExtendedBlock, replica: &Replica) -> Result<SpacePromise> {
        let growth = block.block.num_bytes.saturating_sub(replica.bytes_on_disk());
        replica.volume().promise(growth).ok_or_else(|| DatanodeError::NoSpace {
            block: replica.block(),
            needed_bytes: growth,
            volumes: replica.volume().root().display().to_string(),
        })
    }
}

/// The replica's generation stamp must lie between the one that the client knows and the new one.
fn expect_stamp(replica: &Replica, known: GenerationStamp, newest: GenerationStamp) -> Result<()> {
    let stamp = replica.generation_stamp();
    let is_wrong = ringfs_protocol::mutant!("datanode: reopen under one stamp only");
    let newest = if is_wrong { known } else { newest };
    if (known..=newest).contains(&stamp) {
        return Ok(());
    }
    Err(DatanodeError::UnexpectedReplica {
        block: replica.block(),
        why: format!("a generation stamp from {known} to {newest} is expected"),
    })
}

fn expect_len(replica: &Replica, expected_len: u64) -> Result<()> {
    let len = replica.bytes_on_disk();
    if len == expected_len {
        return Ok(());
    }
    Err(DatanodeError::UnexpectedReplica {
        block: replica.block(),
        why: format!("its length is {len}, expected length is {expected_len}"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::dataset::tests::{extended, open, put, put_finalized};
    use crate::replica_length::DEFAULT_CHECKSUM;
    use crate::ring;
    use crate::transitions::tests::{
        assert_holds, changes, fill, node, on_ring, received, request,
    };
    use crate::volume::tests::POOL;
    use ringfs_protocol::block::BlockId;

    #[test]
    fn an_append_reopens_the_block_and_breaks_hard_links() {
        on_ring(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, &[1; 700]);
            let dataset = open(vec![node.volume.clone()]);
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            let previous = node.volume.root().join("previous-blk_1");
            fs::hard_link(replica.files().data, &previous).unwrap();

            let stamp = GenerationStamp(1002);
            let wrong = dataset.append(&extended(1, 1001, 0), stamp, 699, false).await.unwrap_err();
            assert!(wrong.to_string().contains("expected length is 699"), "{wrong}");
            let wrong = dataset.append(&extended(1, 1000, 0), stamp, 700, false).await.unwrap_err();
            assert!(matches!(wrong, DatanodeError::UnexpectedReplica { .. }), "{wrong}");

            let mut writer =
                dataset.append(&extended(1, 1001, 1 << 20), stamp, 700, false).await.unwrap();
            assert_eq!((writer.start_len, writer.checksum), (700, DEFAULT_CHECKSUM));
            assert_eq!((replica.state(), replica.generation_stamp()), (ReplicaState::Rbw, stamp));
            assert_eq!(replica.visible_len(), Some(700), "readers go on");
            assert_eq!(writer.data.read_exact_at(0, 700).await.unwrap(), [1; 700]);
            let block = extended(1, 1002, 0);
            let twice = dataset.append(&block, GenerationStamp(1003), 700, false);
            let twice = ring::timeout(Duration::from_millis(20), twice).await;
            assert!(twice.is_err() && writer.is_stopped(), "it waits for the writer to let go");

            drop(writer);
            let stamp = GenerationStamp(1003);
            writer = dataset.recover_append(&extended(1, 1002, 0), stamp, 700).await.unwrap();
            fill(&mut writer, &[2; 900], 4096).await;
            dataset.finalize(writer, false, None).await.unwrap();
            assert_holds(&replica, &[2; 900]);
            assert_eq!(fs::read(previous).unwrap(), [1; 700], "the link keeps the old bytes");
        });
    }

    #[test]
    fn streaming_recovery_cuts_to_the_acked_bytes() {
        on_ring(async {
            let node = node();
            let dataset = &node.dataset;
            let mut writer = dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
            fill(&mut writer, &[3; 1500], 10_000).await;
            let replica = writer.replica.clone();
            replica.set_bytes_acked(700);
            let (block, stamp) = (extended(1, 1001, 0), GenerationStamp(1002));
            let early = dataset.recover_rbw(&block, stamp, 800, 2000);
            assert!(
                ring::timeout(Duration::from_millis(20), early).await.is_err(),
                "not before the writer lets go"
            );
            drop(writer);
            for (min, max) in [(701, 2000), (700, 1499)] {
                let error = dataset.recover_rbw(&block, stamp, min, max).await.unwrap_err();
                assert!(matches!(error, DatanodeError::UnexpectedReplica { .. }), "{error}");
            }
            let writer = dataset.recover_rbw(&block, stamp, 700, 1500).await.unwrap();
            assert_eq!((writer.start_len, writer.file_len), (700, 700));
            assert_holds(&replica, &[3; 700]);
            assert!(replica.files().meta.ends_with("blk_1_1002.meta"));
            dataset.abandon(writer).await.unwrap();
            assert_eq!(replica.state(), ReplicaState::Rbw, "an abandoned RBW waits for recovery");
            let stale = dataset.recover_rbw(&block, GenerationStamp(1001), 700, 1500).await;
            assert!(stale.is_err(), "1002 is beyond 1001");
        });
    }

    #[test]
    fn streaming_recovery_reopens_what_the_last_packet_finalized() {
        on_ring(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, &[6; 1500]);
            let dataset = open(vec![node.volume.clone()]);
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            let (block, stamp) = (extended(1, 1001, 0), GenerationStamp(1002));
            for (min, max) in [(1501, 2000), (0, 1499)] {
                let error = dataset.recover_rbw(&block, stamp, min, max).await.unwrap_err();
                assert!(matches!(error, DatanodeError::UnexpectedReplica { .. }), "{error}");
            }
            let writer = dataset.recover_rbw(&block, stamp, 1500, 1500).await.unwrap();
            assert_eq!((writer.start_len, replica.state()), (1500, ReplicaState::Rbw));
            assert_eq!(replica.visible_len(), Some(1500), "readers go on");
            dataset.finalize(writer, false, None).await.unwrap();
            assert_eq!(replica.block(), extended(1, 1002, 1500).block);
            assert_holds(&replica, &[6; 1500]);
        });
    }

    #[test]
    fn no_pipeline_goes_on_with_what_has_rotted() {
        on_ring(async {
            let node = node();
            for id in 1..=3 {
                put_finalized(&node.volume, id, 1001, &[6; 1500]);
            }
            let dataset = open(vec![node.volume.clone()]);
            let new = GenerationStamp(1002);
            for id in 1..=3 {
                let replica = dataset.replica(POOL, BlockId(id)).unwrap();
                match id {
                    1 => fs::write(replica.files().meta, [0; 19]).unwrap(),
                    2 => fs::write(replica.files().data, [6; 1499]).unwrap(),
                    _ => fs::write(replica.files().data, [7; 1500]).unwrap(),
                }
                let block = extended(id, 1001, 0);
                let refused = match id {
                    1 => dataset.recover_append(&block, new, 1500).await.map(drop),
                    2 => dataset.recover_rbw(&block, new, 1500, 1500).await.map(drop),
                    _ => dataset.recover_close(&block, new, 1500).await.map(drop),
                };
                assert!(matches!(refused, Err(DatanodeError::Corrupt { .. })), "{refused:?}");
                assert_eq!(replica.block(), extended(id, 1001, 1500).block, "it is as it was");
            }
            let mut bad: Vec<Block> =
                dataset.reports().take_bad().into_iter().map(|b| b.1).collect();
            bad.sort_by_key(|block| block.id);
            assert_eq!(bad, [1, 2, 3].map(|id| extended(id, 1001, 1500).block));
        });
    }

    #[test]
    fn no_append_goes_on_alone_with_what_has_rotted() {
        on_ring(async {
            let node = node();
            for id in [1, 2] {
                put_finalized(&node.volume, id, 1001, &[6; 1500]);
            }
            let dataset = open(vec![node.volume.clone()]);
            let (new, block) = (GenerationStamp(1002), |id| extended(id, 1001, 0));
            drop(dataset.append(&block(2), new, 1500, true).await.unwrap());
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            fs::write(replica.files().data, [7; 1500]).unwrap();
            // The second time in company: it is known by then.
            for is_alone in [true, false] {
                let refused = dataset.append(&block(1), new, 1500, is_alone).await.map(drop);
                assert!(matches!(refused, Err(DatanodeError::Corrupt { .. })), "{refused:?}");
            }
            assert_eq!(replica.block(), extended(1, 1001, 1500).block, "it is as it was");
        });
    }

    #[test]
    fn close_recovery_finalizes_under_the_new_stamp_and_may_be_repeated() {
        on_ring(async {
            let node = node();
            let dataset = &node.dataset;
            let mut writer = dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
            fill(&mut writer, &[4; 1500], 10_000).await;
            let replica = writer.replica.clone();
            drop(writer);
            changes(&node);
            let block = extended(1, 1001, 0);
            let first = dataset.recover_close(&block, GenerationStamp(1002), 1500);
            assert_eq!(first.await.unwrap(), extended(1, 1002, 1500).block);
            assert_holds(&replica, &[4; 1500]);
            let again = dataset.recover_close(&block, GenerationStamp(1003), 1500);
            assert_eq!(again.await.unwrap(), extended(1, 1003, 1500).block);
            assert_holds(&replica, &[4; 1500]);
            assert_eq!(changes(&node), [(extended(1, 1003, 1500).block, received())]);
        });
    }

    #[test]
    fn replicas_that_wait_for_recovery_take_no_writer() {
        on_ring(async {
            let node = node();
            put(&node.volume, ReplicaState::Rbw, 1, 1001, &[1; 700]);
            let dataset = open(vec![node.volume.clone()]);
            let (block, stamp) = (extended(1, 1001, 0), GenerationStamp(1002));
            let errors = [
                dataset.append(&block, stamp, 700, false).await.unwrap_err(),
                dataset.recover_append(&block, stamp, 700).await.unwrap_err(),
                dataset.recover_rbw(&block, stamp, 0, 700).await.unwrap_err(),
                dataset.recover_close(&block, stamp, 700).await.unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(error, DatanodeError::IllegalTransition { .. }), "{error}");
            }
        });
    }
}

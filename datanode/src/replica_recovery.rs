//! A participant's part in block recovery: stop the writer and say what is here, then take on the
//! length and the generation stamp that the primary found.

use std::io;
use std::sync::Arc;

use ringfs_protocol::block::{Block, BlockId, ExtendedBlock, GenerationStamp, ReplicaState};
use tracing::warn;

use crate::block_reports::BlockChange;
use crate::dataset::{Dataset, account_whole};
use crate::error::{DatanodeError, Result};
use crate::limits::ROT_REFUSALS_MAX;
use crate::replica::{OnDisk, Replica, ReplicaEvent, ReplicaFiles};
use crate::replica_files::{
    break_hard_links, copy_replica, cut, cut_rotten, move_meta_first, sync_replica,
};
use crate::replica_packets::torn_at;

/// A replica that waits for the primary's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaUnderRecovery {
    /// The state it was in.
    pub original: ReplicaState,
    pub block: Block,
}

#[derive(Clone, Copy, Debug)]
enum Bytes {
    Sound,
    Rotten { known_len: u64 },
}

impl Bytes {
    async fn cut(self, files: &ReplicaFiles, len: u64) -> Result<()> {
        match self {
            Self::Sound => cut(files, len).await.map(drop),
            Self::Rotten { known_len } => cut_rotten(files, known_len, len).await,
        }
    }
}

impl Dataset {
    /// `initReplicaRecovery`: `None` when there is no replica (a TEMPORARY one does not exist for
    /// anybody yet). No file is touched. Callers bound the wait for a writer to stop.
    pub async fn start_recovery(
        &self,
        block: &ExtendedBlock,
        recovery_id: GenerationStamp,
    ) -> Result<Option<ReplicaUnderRecovery>> {
        self.require_pool(&block.pool_id)?;
        let Some(replica) = self.replica(&block.pool_id, block.block.id) else { return Ok(None) };
        if replica.state() == ReplicaState::Temporary {
            return Ok(None);
        }
        self.expect_answering(&replica)?;
        let _held = self.hold(&replica).await;
        replica.check(ReplicaEvent::StartRecovery)?;
        let found = replica.block();
        let unfit = |why| Err(DatanodeError::UnexpectedReplica { block: found, why });
        if found.generation_stamp < block.block.generation_stamp {
            return unfit(format!("older than {}, which is to be recovered", block.block));
        }
        if found.generation_stamp >= recovery_id {
            return unfit(format!("not older than recovery {recovery_id}"));
        }
        if replica.state() == ReplicaState::Rur && replica.recovery_id() >= recovery_id {
            return Err(DatanodeError::RecoveryInProgress {
                block: found,
                current_id: replica.recovery_id().0,
                asked_id: recovery_id.0,
            });
        }
        replica.apply(ReplicaEvent::StartRecovery, recovery_id)?;
        Ok(Some(ReplicaUnderRecovery { original: replica.original_state(), block: found }))
    }

    /// `updateReplicaUnderRecovery`: FINALIZED at `new_len` under the recovery's generation stamp;
    /// with `new_id` a copy of that length under a new block id, the old replica left as it was.
    /// Answers with the storage id. Runs on a data thread. Bytes that have rotted are refused a few
    /// times, for the replicas that take part make all others stale; then every lease must end.
    pub async fn finish_recovery(
        &self,
        old: &ExtendedBlock,
        recovery_id: GenerationStamp,
        new_len: u64,
        new_id: Option<BlockId>,
    ) -> Result<String> {
        let replica = self.require_answering(old)?;
        let held = self.hold_in_time(&replica).await?;
        replica.check(ReplicaEvent::FinishRecovery)?;
        expect_verdict_fits(&replica, old, recovery_id, new_len)?;
        let bytes = match self.expect_sound(&replica, new_len).await {
            Ok(()) => Bytes::Sound,
            Err(error) => {
                let is_rot = matches!(error, DatanodeError::Corrupt { .. });
                if !is_rot || replica.refuse_for_rot() <= ROT_REFUSALS_MAX {
                    return Err(error);
                }
                if self.forget_what_is_torn(&replica).await? {
                    return Err(error);
                }
                warn!(%error, "recovered all the same: nobody else has it");
                Bytes::Rotten { known_len: replica.on_disk().len }
            }
        };
        let storage_id = replica.volume().storage_id().to_owned();
        if let Some(id) = new_id.filter(|id| *id != replica.id()) {
            self.copy_on_truncate(&replica, id, recovery_id, new_len, bytes).await?;
            return Ok(storage_id);
        }
        let from = replica.files();
        let keeps = ringfs_protocol::mutant!("datanode: recover under the old stamp");
        let recovery_id = if keeps { replica.generation_stamp() } else { recovery_id };
        let to = replica.files_of(ReplicaState::Finalized, recovery_id);
        let moved = async {
            break_hard_links(&from).await?;
            if !ringfs_protocol::mutant!("datanode: recover without a cut") {
                bytes.cut(&from, new_len).await?;
            }
            move_meta_first(&from, &to).await?;
            // The namenode takes this length and stamp for final.
            sync_replica(&to).await
        };
        if let Err(error) = moved.await {
            self.distrust(&replica, &held, &error).await;
            return Err(error);
        }
        #[cfg(feature = "simulation")]
        if new_len < old.block.num_bytes {
            let cut = Block { id: old.block.id, generation_stamp: recovery_id, num_bytes: new_len };
            ringfs_protocol::simulation::see(ringfs_protocol::simulation::Sight::Cut(cut));
        }
        self.settle(
            &replica,
            &held,
            ReplicaEvent::FinishRecovery,
            recovery_id,
            new_len,
            BlockChange::RECEIVED,
        )?;
        Ok(storage_id)
    }

    /// What lies behind the last sync of an interrupted replica was never promised, and readers would
    /// not get the synced part of the chunk in which it ends: the next recovery is told of no more. The
    /// files are cut by that.
    async fn forget_what_is_torn(&self, replica: &Arc<Replica>) -> Result<bool> {
        if replica.original_state() != ReplicaState::Rwr {
            return Ok(false);
        }
        let torn_at = match torn_at(replica).await {
            Err(DatanodeError::Io { source, .. })
                if source.kind() == io::ErrorKind::UnexpectedEof =>
            {
                None
            }
            torn_at => torn_at?,
        };
        let Some(len) = torn_at else { return Ok(false) };
        warn!(block = %replica.block(), len, "torn there: what follows is given up");
        replica.set_all_lengths(OnDisk { len, last_chunk_checksum: None });
        account_whole(replica);
        Ok(true)
    }

    async fn copy_on_truncate(
        &self,
        replica: &Replica,
        id: BlockId,
        stamp: GenerationStamp,
        len: u64,
        bytes: Bytes,
    ) -> Result<()> {
        let block = Block { id, generation_stamp: stamp, num_bytes: len };
        let copy =
            Arc::new(Replica::new(replica.volume().clone(), block, ReplicaState::Finalized, None));
        let _held = copy.transition.lock().await;
        self.insert(copy.clone()).map_err(|present| DatanodeError::ReplicaExists {
            block: ExtendedBlock { pool_id: self.pool_id().to_owned(), block },
            state: present.state(),
            found_stamp: present.generation_stamp().0,
        })?;
        let copied = async {
            // All of a rotten one: whether the chunk that is cut fits has to be seen.
            let len_max = if matches!(bytes, Bytes::Sound) { len } else { u64::MAX };
            copy_replica(&replica.files(), &copy.files(), len_max).await?;
            bytes.cut(&copy.files(), len).await
        };
        if let Err(error) = copied.await {
            self.forget(&copy);
            return Err(error);
        }
        account_whole(&copy);
        self.tell(&copy, block, BlockChange::RECEIVED);
        Ok(())
    }
}

fn expect_verdict_fits(
    replica: &Replica,
    old: &ExtendedBlock,
    recovery_id: GenerationStamp,
    new_len: u64,
) -> Result<()> {
    let found = replica.block();
    let why = if replica.recovery_id() != recovery_id {
        format!("it is under recovery {}, not {recovery_id}", replica.recovery_id())
    } else if found.num_bytes != old.block.num_bytes {
        format!("its length is {}, not {}", found.num_bytes, old.block.num_bytes)
    } else if found.num_bytes < new_len {
        format!("its length is {}, below the new length {new_len}", found.num_bytes)
    } else {
        return Ok(());
    };
    Err(DatanodeError::UnexpectedReplica { block: found, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::tests::{extended, open, put, put_finalized};
    use crate::replica_length::DEFAULT_CHECKSUM;
    use crate::ring;
    use crate::transitions::tests::{assert_holds, fill, node, request};
    use crate::volume::tests::POOL;

    #[test]
    fn recovery_stops_the_writer_and_cuts_to_the_verdict() {
        ring::block_on(async {
            let node = node();
            let dataset = node.dataset.clone();
            let mut writer = dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
            fill(&mut writer, &[3; 1500], 10_000).await;
            let replica = writer.replica.clone();
            let recovery = GenerationStamp(1005);
            let started = {
                let dataset = dataset.clone();
                ring::spawn(
                    async move { dataset.start_recovery(&extended(1, 1001, 0), recovery).await },
                )
            };
            writer.stopped().await;
            drop(writer);
            let found = started.join().await.unwrap().expect("a replica");
            assert_eq!(found.original, ReplicaState::Rbw);
            assert_eq!(found.block, extended(1, 1001, 1500).block);
            assert!(dataset.create_rbw(request(1, 1006, 0)).await.is_err());

            for (id, old_len, new_len) in [(1004, 1500, 700), (1005, 1499, 700), (1005, 1500, 1501)]
            {
                let old = extended(1, 1001, old_len);
                let verdict =
                    dataset.finish_recovery(&old, GenerationStamp(id), new_len, None).await;
                assert!(matches!(verdict, Err(DatanodeError::UnexpectedReplica { .. })));
            }
            let old = extended(1, 1001, 1500);
            let storage = dataset.finish_recovery(&old, recovery, 700, None).await.unwrap();
            assert_eq!(storage, node.volume.storage_id());
            assert_eq!(replica.state(), ReplicaState::Finalized);
            assert_eq!(replica.block(), extended(1, 1005, 700).block);
            assert_holds(&replica, &[3; 700]);
            let again = dataset.finish_recovery(&old, recovery, 700, None).await;
            assert!(matches!(again, Err(DatanodeError::IllegalTransition { .. })));
        })
        .unwrap();
    }

    #[test]
    fn only_a_later_recovery_takes_over() {
        ring::block_on(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, &[1; 700]);
            put(&node.volume, ReplicaState::Rbw, 2, 1001, &[2; 600]);
            let dataset = open(vec![node.volume.clone()]);
            let start = async |id, stamp, recovery| {
                dataset.start_recovery(&extended(id, stamp, 0), GenerationStamp(recovery)).await
            };
            assert!(start(1, 1002, 1005).await.is_err(), "the replica is too old");
            assert!(start(1, 1001, 1001).await.is_err(), "the recovery is too old");
            assert_eq!(
                start(1, 1001, 1005).await.unwrap().unwrap().original,
                ReplicaState::Finalized
            );
            let same = start(1, 1001, 1005).await.unwrap_err();
            assert!(matches!(same, DatanodeError::RecoveryInProgress { .. }), "{same}");
            assert!(start(1, 1001, 1006).await.unwrap().is_some());
            assert_eq!(start(2, 1001, 1005).await.unwrap().unwrap().original, ReplicaState::Rwr);
            assert!(start(9, 1001, 1005).await.unwrap().is_none(), "no such replica");
            dataset
                .finish_recovery(&extended(2, 1001, 600), GenerationStamp(1005), 600, None)
                .await
                .unwrap();
            assert_holds(&dataset.replica(POOL, BlockId(2)).unwrap(), &[2; 600]);
        })
        .unwrap();
    }

    #[test]
    fn rot_stays_away_from_some_recoveries_and_not_for_ever() {
        ring::block_on(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, &[1; 1500]);
            let dataset = open(vec![node.volume.clone()]);
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            let mut rotten = [1; 1500];
            rotten[600] = 2;
            std::fs::write(replica.files().data, rotten).unwrap();
            let old = extended(1, 1001, 1500);
            let first_id = 1002;
            for id in first_id..=first_id + u64::from(ROT_REFUSALS_MAX) {
                let id = GenerationStamp(id);
                dataset.start_recovery(&old, id).await.unwrap();
                let finished = dataset.finish_recovery(&old, id, 1500, None).await;
                let is_last = id.0 == first_id + u64::from(ROT_REFUSALS_MAX);
                assert_eq!(finished.is_ok(), is_last, "{finished:?}");
            }
            assert_eq!(replica.state(), ReplicaState::Finalized);

            put_finalized(&node.volume, 2, 1001, &[1; 1500]);
            let dataset = open(vec![node.volume.clone()]);
            let replica = dataset.replica(POOL, BlockId(2)).unwrap();
            std::fs::write(replica.files().data, rotten).unwrap();
            let (old, id) = (extended(2, 1001, 1500), GenerationStamp(1005));
            dataset.start_recovery(&old, id).await.unwrap();
            dataset.finish_recovery(&old, id, 512, None).await.unwrap();
            assert_holds(&replica, &[1; 512]);
        })
        .unwrap();
    }

    async fn recover_rotten(dataset: &Dataset, replica: &Replica, len: u64) -> Result<String> {
        let old = ExtendedBlock { pool_id: POOL.to_owned(), block: replica.block() };
        for id in 2000.. {
            let id = GenerationStamp(id);
            dataset.start_recovery(&old, id).await.unwrap();
            let finished = dataset.finish_recovery(&old, id, len, None).await;
            if finished.is_ok() || id.0 == 2000 + u64::from(ROT_REFUSALS_MAX) {
                return finished;
            }
        }
        unreachable!()
    }

    #[test]
    fn a_replica_with_half_a_header_does_not_hold_up_a_lease_for_ever() {
        ring::block_on(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, &[1; 1500]);
            put_finalized(&node.volume, 2, 1001, &[1; 1500]);
            let dataset = open(vec![node.volume.clone()]);
            for (id, len) in [(1, 1500), (2, 700)] {
                let replica = dataset.replica(POOL, BlockId(id)).unwrap();
                std::fs::write(replica.files().meta, [0, 1, 2]).unwrap();
                recover_rotten(&dataset, &replica, len).await.unwrap();
                assert_eq!(replica.state(), ReplicaState::Finalized);
                assert_eq!(std::fs::metadata(replica.files().data).unwrap().len(), len);
                assert_eq!(std::fs::read(replica.files().meta).unwrap(), [0, 1, 2]);
            }
        })
        .unwrap();
    }

    /// A sync at 600 bytes, a write to 1,500 behind it, and a loss of power that took the page of the
    /// later checksums but for one behind.
    #[test]
    fn a_torn_replica_is_recovered_up_to_its_last_sync() {
        ring::block_on(async {
            let node = node();
            put(&node.volume, ReplicaState::Rbw, 1, 1001, &[1; 1500]);
            let meta = node.volume.rbw_dir().join("blk_1_1001.meta");
            let mut stored = std::fs::read(&meta).unwrap();
            stored[7 + 4..7 + 8].copy_from_slice(&DEFAULT_CHECKSUM.crc(&[1; 88]).to_be_bytes());
            std::fs::write(&meta, stored).unwrap();
            let dataset = open(vec![node.volume.clone()]);
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            assert_eq!(replica.block().num_bytes, 1500, "the last chunk proves itself");
            let refused = recover_rotten(&dataset, &replica, 1500).await;
            assert!(matches!(refused, Err(DatanodeError::Corrupt { .. })), "{refused:?}");
            let (old, id) = (extended(1, 1001, 600), GenerationStamp(3000));
            let found = dataset.start_recovery(&old, id).await.unwrap().expect("a replica");
            assert_eq!(found.block, extended(1, 1001, 600).block);
            assert_eq!(found.original, ReplicaState::Rwr);
            dataset.finish_recovery(&old, id, 600, None).await.unwrap();
            assert_holds(&replica, &[1; 600]);
        })
        .unwrap();
    }

    #[test]
    fn rot_does_not_look_sound_after_a_recovery() {
        ring::block_on(async {
            let node = node();
            // The chunk that is cut is rotten, or the one before it.
            let cases = [(1, 1100, 1500), (2, 1100, 1300), (3, 600, 1300)];
            for (id, _, _) in cases {
                put_finalized(&node.volume, id, 1001, &[1; 1500]);
            }
            let dataset = open(vec![node.volume.clone()]);
            for (id, rotten_at, len) in cases {
                let replica = dataset.replica(POOL, BlockId(id)).unwrap();
                let mut rotten = [1; 1500];
                rotten[rotten_at] = 2;
                std::fs::write(replica.files().data, rotten).unwrap();
                recover_rotten(&dataset, &replica, len).await.unwrap();
                assert_eq!(std::fs::read(replica.files().data).unwrap(), rotten[..len as usize]);
                let verified = dataset.expect_sound(&replica, len).await;
                assert!(matches!(verified, Err(DatanodeError::Corrupt { .. })), "{verified:?}");
                let last = std::fs::read(replica.files().meta).unwrap().split_off(7 + 8);
                let fits = last == DEFAULT_CHECKSUM.crc(&rotten[1024..len as usize]).to_be_bytes();
                assert_eq!(fits, rotten_at < 1024);
            }
        })
        .unwrap();
    }

    #[test]
    fn a_replica_on_its_way_here_does_not_take_part() {
        ring::block_on(async {
            let node = node();
            let writer = node.dataset.create_temporary(request(1, 1001, 0), false).await.unwrap();
            let found =
                node.dataset.start_recovery(&extended(1, 1001, 0), GenerationStamp(1005)).await;
            assert!(found.unwrap().is_none() && !writer.is_stopped());
        })
        .unwrap();
    }

    #[test]
    fn copy_on_truncate_makes_a_new_block_and_leaves_the_old_one() {
        ring::block_on(async {
            let node = node();
            put_finalized(&node.volume, 1, 1001, &[1; 1500]);
            let dataset = open(vec![node.volume.clone()]);
            let recovery = GenerationStamp(1005);
            dataset.start_recovery(&extended(1, 1001, 0), recovery).await.unwrap();
            let old = extended(1, 1001, 1500);
            dataset.finish_recovery(&old, recovery, 700, Some(BlockId(2))).await.unwrap();
            assert_holds(&dataset.replica(POOL, BlockId(1)).unwrap(), &[1; 1500]);
            let copy = dataset.replica(POOL, BlockId(2)).unwrap();
            assert_eq!(copy.block(), extended(2, 1005, 700).block);
            assert_holds(&copy, &[1; 700]);
        })
        .unwrap();
    }
}

//! Block recovery as the primary: ask every datanode that may hold the block for its replica, decide
//! on one length, have all participants take it, tell the namenode.
//!
//! | kept replicas (generation stamp not below the block's, not empty, FINALIZED, RBW or RWR) | verdict |
//! |---|---|
//! | none, and nobody had a candidate | the block is deleted from its file |
//! | some FINALIZED, all of one length | that length; they and RBWs of exactly that length take part |
//! | no FINALIZED, some RBW | the shortest RBW; only RBWs take part |
//! | only RWR | the shortest; all take part |
//!
//! A truncate's recovery that came to an end half-way left FINALIZED replicas of the length that was
//! asked for beside those of the length before: both take part in the next. (Apache refuses them as
//! inconsistent, for ever.)
//!
//! Participants whose bytes have rotted are left out; where none is left, the others decide.
//!
//! Any other failure gives up: the namenode starts another recovery with a higher id later.

use std::sync::Arc;
use std::time::Duration;

use ringfs_protocol::block::{Block, BlockId, ExtendedBlock, GenerationStamp, ReplicaState};
use ringfs_protocol::error::java;
use ringfs_protocol::messages::{
    CommitBlockSynchronizationRequestProto, CommitBlockSynchronizationResponseProto,
    DatanodeIDProto, InitReplicaRecoveryRequestProto, InitReplicaRecoveryResponseProto,
    RecoveringBlockProto, ReplicaStateProto, UpdateReplicaUnderRecoveryRequestProto,
    UpdateReplicaUnderRecoveryResponseProto,
};
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions, RpcError};
use ringfs_protocol::rpc::protocol_name;
use tracing::{info, warn};

use crate::data_work::DataWork;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::replica_recovery::ReplicaUnderRecovery;
use crate::transitions::WRITER_STOP_TIMEOUT;

/// A peer may wait [`WRITER_STOP_TIMEOUT`] for its own writer before it answers.
const PEER_CALL_TIMEOUT: Duration = Duration::from_secs(WRITER_STOP_TIMEOUT.as_secs() + 10);

pub struct BlockRecovery {
    pub dataset: Arc<Dataset>,
    pub data_work: DataWork,
    pub namenode: RpcClient,
    pub own_uuid: String,
    pub user: String,
    pub connect_timeout: Duration,
}

/// Who answered, and with what.
struct Participant {
    node: DatanodeIDProto,
    found: ReplicaUnderRecovery,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// No datanode has a byte of the block.
    Delete,
    /// Indices of the participants and the length that they take.
    Keep { participants: Vec<usize>, len: u64 },
}

impl BlockRecovery {
    /// Recovers one block; the outcome is logged and told to the namenode.
    pub async fn recover(&self, command: &RecoveringBlockProto) {
        let block = ExtendedBlock::from(&command.block.b);
        let recovery_id = command.new_gen_stamp;
        match self.try_recover(command, &block).await {
            Ok(outcome) => info!(%block, recovery_id, outcome, "recovered"),
            Err(error) => warn!(%block, recovery_id, %error, "block recovery failed"),
        }
    }

    async fn try_recover(
        &self,
        command: &RecoveringBlockProto,
        block: &ExtendedBlock,
    ) -> Result<String> {
        let recovery_id = GenerationStamp(command.new_gen_stamp);
        let truncate = command.truncate_block.as_ref().map(Block::from);
        let answers = self.ask_all(command, block, recovery_id).await?;
        let mut candidates: Vec<Participant> = answers
            .into_iter()
            .filter(|answer| {
                answer.found.block.generation_stamp >= block.block.generation_stamp
                    && answer.found.block.num_bytes > 0
            })
            .collect();
        let mut rotten = None;
        loop {
            let found: Vec<_> = candidates.iter().map(|candidate| candidate.found).collect();
            let verdict = decide(&found, truncate.map(|block| block.num_bytes))
                .map_err(|why| DatanodeError::UnexpectedReplica { block: block.block, why })?;
            let (participants, len) = match (verdict, rotten.take()) {
                (Verdict::Delete, Some(error)) => return Err(error),
                (Verdict::Delete, None) => {
                    self.commit(block, recovery_id, None, Vec::new()).await?;
                    return Ok("deleted: no datanode has a byte of it".into());
                }
                (Verdict::Keep { participants, len }, _) => (participants, len),
            };
            let new_id = truncate.map(|truncated| truncated.id);
            let mut targets = Vec::with_capacity(participants.len());
            for index in &participants {
                let candidate = &candidates[*index];
                match self.update(candidate, block, recovery_id, len, new_id).await {
                    Ok(storage) => targets.push((candidate.node.clone(), storage)),
                    Err(error) if is_rot(&error) => {
                        warn!(%block, node = peer_name(&candidate.node), %error, "left out");
                        rotten = Some(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            if !targets.is_empty() {
                let count = targets.len();
                self.commit(block, recovery_id, Some(len), targets).await?;
                return Ok(format!("{len} bytes on {count} datanodes"));
            }
            let mut index = 0..;
            candidates.retain(|_| !participants.contains(&index.next().expect("there is no end")));
        }
    }

    /// The replicas of all locations; those that cannot answer are left out, unless all are.
    async fn ask_all(
        &self,
        command: &RecoveringBlockProto,
        block: &ExtendedBlock,
        recovery_id: GenerationStamp,
    ) -> Result<Vec<Participant>> {
        let mut answers = Vec::new();
        let mut failure = None;
        let locations = &command.block.locs;
        let mut failures = 0;
        for location in locations {
            match self.ask(&location.id, command, block, recovery_id).await {
                Ok(Some(found)) => answers.push(Participant { node: location.id.clone(), found }),
                Ok(None) => {}
                Err(error) if is_other_recovery(&error) => return Err(error),
                Err(error) => {
                    warn!(%block, node = peer_name(&location.id), %error, "cannot take part");
                    failures += 1;
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if failures == locations.len() => Err(error),
            _ => Ok(answers),
        }
    }

    async fn ask(
        &self,
        node: &DatanodeIDProto,
        command: &RecoveringBlockProto,
        block: &ExtendedBlock,
        recovery_id: GenerationStamp,
    ) -> Result<Option<ReplicaUnderRecovery>> {
        if node.datanode_uuid == self.own_uuid {
            return start_in_time(&self.dataset, block, recovery_id).await;
        }
        let request = InitReplicaRecoveryRequestProto { block: command.clone() };
        let reply: InitReplicaRecoveryResponseProto =
            self.peer(node).call("initReplicaRecovery", &request).await?;
        Ok(answer_from(&reply))
    }

    async fn update(
        &self,
        participant: &Participant,
        block: &ExtendedBlock,
        recovery_id: GenerationStamp,
        len: u64,
        new_id: Option<BlockId>,
    ) -> Result<String> {
        let old = ExtendedBlock { block: participant.found.block, pool_id: block.pool_id.clone() };
        if participant.node.datanode_uuid == self.own_uuid {
            let dataset = self.dataset.clone();
            return self
                .data_work
                .run(move || async move {
                    dataset.finish_recovery(&old, recovery_id, len, new_id).await
                })
                .await?;
        }
        let request = UpdateReplicaUnderRecoveryRequestProto {
            block: (&old).into(),
            recovery_id: recovery_id.0,
            new_length: len,
            new_block_id: new_id.map(|id| id.0),
        };
        let reply: UpdateReplicaUnderRecoveryResponseProto =
            self.peer(&participant.node).call("updateReplicaUnderRecovery", &request).await?;
        Ok(reply.storage_uuid.unwrap_or_default())
    }

    /// `len` is `None` for a block that is to be deleted.
    async fn commit(
        &self,
        block: &ExtendedBlock,
        recovery_id: GenerationStamp,
        len: Option<u64>,
        targets: Vec<(DatanodeIDProto, String)>,
    ) -> Result<()> {
        let (new_targets, new_target_storages) = targets.into_iter().unzip();
        let request = CommitBlockSynchronizationRequestProto {
            block: block.into(),
            new_gen_stamp: recovery_id.0,
            new_length: len.unwrap_or(0),
            close_file: true,
            delete_block: len.is_none(),
            new_targets,
            new_target_storages,
        };
        let _: CommitBlockSynchronizationResponseProto =
            self.namenode.call("commitBlockSynchronization", &request).await?;
        Ok(())
    }

    fn peer(&self, node: &DatanodeIDProto) -> RpcClient {
        let options = RpcClientOptions {
            connect_timeout: self.connect_timeout,
            call_timeout: Some(PEER_CALL_TIMEOUT),
            ..RpcClientOptions::default()
        };
        RpcClient::new(&peer_name(node), protocol_name::INTER_DATANODE, &self.user, options)
    }
}

/// [`Dataset::start_recovery`] on the control thread, bounded.
pub async fn start_in_time(
    dataset: &Dataset,
    block: &ExtendedBlock,
    recovery_id: GenerationStamp,
) -> Result<Option<ReplicaUnderRecovery>> {
    let started = dataset.start_recovery(block, recovery_id);
    tokio::time::timeout(WRITER_STOP_TIMEOUT, started).await.unwrap_or_else(|_| {
        Err(DatanodeError::WriterStuck {
            block: block.block,
            timeout_ms: WRITER_STOP_TIMEOUT.as_millis() as u64,
        })
    })
}

pub fn answer_to(found: Option<ReplicaUnderRecovery>) -> InitReplicaRecoveryResponseProto {
    InitReplicaRecoveryResponseProto {
        replica_found: found.is_some(),
        state: found.map(|found| ReplicaStateProto::from(found.original) as i32),
        block: found.map(|found| found.block.into()),
    }
}

fn answer_from(reply: &InitReplicaRecoveryResponseProto) -> Option<ReplicaUnderRecovery> {
    let state = ReplicaStateProto::try_from(reply.state?).ok()?;
    let block = Block::from(reply.block.as_ref()?);
    reply.replica_found.then_some(ReplicaUnderRecovery { original: state.into(), block })
}

/// The table of the module's head. `truncate_to` is the length that a truncate of the file asked for.
fn decide(
    candidates: &[ReplicaUnderRecovery],
    truncate_to: Option<u64>,
) -> std::result::Result<Verdict, String> {
    let of = |state: ReplicaState| {
        candidates.iter().enumerate().filter(move |(_, found)| found.original == state)
    };
    if candidates.is_empty() {
        return Ok(Verdict::Delete);
    }
    let finalized = of(ReplicaState::Finalized).map(|(_, found)| found.block.num_bytes);
    let is_cut = |len: &u64| Some(*len) == truncate_to;
    let whole = finalized.clone().find(|len| !is_cut(len));
    let (participants, len): (Vec<usize>, u64) =
        if let Some(len) = whole.or_else(|| finalized.clone().next()) {
            let mut others = finalized.clone().filter(|other| *other != len && !is_cut(other));
            if let Some(other) = others.next() {
                return Err(format!("FINALIZED replicas of {len} and of {other} bytes"));
            }
            let as_long = of(ReplicaState::Rbw).filter(|(_, found)| found.block.num_bytes == len);
            (of(ReplicaState::Finalized).chain(as_long).map(|(index, _)| index).collect(), len)
        } else {
            let shortest_of = |state| {
                let len = of(state).map(|(_, found)| found.block.num_bytes).min()?;
                Some((of(state).map(|(index, _)| index).collect(), len))
            };
            shortest_of(ReplicaState::Rbw)
                .or_else(|| shortest_of(ReplicaState::Rwr))
                .ok_or("no replica is in a state to be recovered")?
        };
    Ok(Verdict::Keep { participants, len: truncate_to.unwrap_or(len) })
}

fn is_other_recovery(error: &DatanodeError) -> bool {
    match error {
        DatanodeError::RecoveryInProgress { .. } => true,
        DatanodeError::Rpc(RpcError::Remote(remote)) => remote.class == java::RECOVERY_IN_PROGRESS,
        _ => false,
    }
}

fn is_rot(error: &DatanodeError) -> bool {
    match error {
        DatanodeError::Corrupt { .. } => true,
        DatanodeError::Rpc(RpcError::Remote(remote)) => remote.class == java::CHECKSUM,
        _ => false,
    }
}

fn peer_name(node: &DatanodeIDProto) -> String {
    format!("{}:{}", node.ip_addr, node.ipc_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReplicaState::{Finalized, Rbw, Rur, Rwr};

    fn found(states: &[(ReplicaState, u64)]) -> Vec<ReplicaUnderRecovery> {
        let of = |&(original, num_bytes): &(ReplicaState, u64)| ReplicaUnderRecovery {
            original,
            block: Block { id: BlockId(1), generation_stamp: GenerationStamp(1001), num_bytes },
        };
        states.iter().map(of).collect()
    }

    fn keep(participants: &[usize], len: u64) -> std::result::Result<Verdict, String> {
        Ok(Verdict::Keep { participants: participants.to_vec(), len })
    }

    #[test]
    fn the_verdict_follows_the_best_state() {
        let verdict = |states: &[(ReplicaState, u64)]| decide(&found(states), None);
        assert_eq!(verdict(&[]), Ok(Verdict::Delete));
        assert_eq!(verdict(&[(Finalized, 9), (Finalized, 9), (Rwr, 9)]), keep(&[0, 1], 9));
        assert_eq!(verdict(&[(Rbw, 9), (Finalized, 9), (Rbw, 8), (Rwr, 9)]), keep(&[1, 0], 9));
        assert_eq!(verdict(&[(Rwr, 3), (Rbw, 9), (Rbw, 8)]), keep(&[1, 2], 8));
        assert_eq!(verdict(&[(Rwr, 3), (Rwr, 9)]), keep(&[0, 1], 3));
        assert!(verdict(&[(Finalized, 9), (Finalized, 8)]).is_err());
        assert!(verdict(&[(Rur, 9)]).is_err());
        assert_eq!(decide(&found(&[(Finalized, 9)]), Some(4)), keep(&[0], 4));
    }

    #[test]
    fn a_truncate_that_was_cut_short_is_taken_up_again() {
        let verdict = |states: &[(ReplicaState, u64)]| decide(&found(states), Some(4));
        assert_eq!(verdict(&[(Finalized, 9), (Finalized, 4), (Finalized, 9)]), keep(&[0, 1, 2], 4));
        assert_eq!(verdict(&[(Finalized, 4), (Finalized, 9)]), keep(&[0, 1], 4));
        assert_eq!(verdict(&[(Finalized, 4), (Finalized, 4)]), keep(&[0, 1], 4));
        assert!(verdict(&[(Finalized, 4), (Finalized, 9), (Finalized, 8)]).is_err());
    }

    #[test]
    fn an_answer_survives_the_wire() {
        let answer = found(&[(Rwr, 77)])[0];
        assert_eq!(answer_from(&answer_to(Some(answer))), Some(answer));
        assert_eq!(answer_from(&answer_to(None)), None);
    }
}

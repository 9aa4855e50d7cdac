//! Carries out what the namenode asks for on its heartbeat replies. Commands come from the link in
//! order; what takes long runs beside it.

use std::fs;
use std::io;
use std::sync::Arc;

use ringfs_protocol::block::{Block, ExtendedBlock};
use ringfs_protocol::blocking;
use ringfs_protocol::collections::HashMap;
use ringfs_protocol::messages::{
    BlockCommandAction, BlockCommandProto, BlockRecoveryCommandProto, DatanodeCommandProto,
    DatanodeCommandType,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::block_recovery::BlockRecovery;
use crate::block_transfer::Transfers;
use crate::data_work::DataWork;
use crate::dataset::Dataset;
use crate::error::DatanodeError;
use crate::move_bandwidth::MoveBandwidth;
use crate::transitions::WRITER_STOP_TIMEOUT;
use crate::volume::Volume;

pub struct Commands {
    pub dataset: Arc<Dataset>,
    pub data_work: DataWork,
    pub transfers: Transfers,
    pub move_bandwidth: Arc<MoveBandwidth>,
    pub recovery: Arc<BlockRecovery>,
}

impl Commands {
    /// Runs until the link is gone. What it has begun ends with it.
    pub async fn run(self, mut commands: mpsc::UnboundedReceiver<DatanodeCommandProto>) {
        let mut begun = JoinSet::new();
        while let Some(command) = commands.recv().await {
            while begun.try_join_next().is_some() {}
            self.execute(command, &mut begun);
        }
    }

    fn execute(&self, command: DatanodeCommandProto, begun: &mut JoinSet<()>) {
        // A type that a later namenode may know is not known here: nothing to do.
        let Ok(kind) = DatanodeCommandType::try_from(command.cmd_type) else { return };
        match kind {
            DatanodeCommandType::BlockCommand => {
                if let Some(command) = command.blk_cmd {
                    self.block_command(command, begun);
                }
            }
            DatanodeCommandType::BlockRecoveryCommand => {
                if let Some(command) = command.recovery_cmd {
                    self.recover(command, begun);
                }
            }
            DatanodeCommandType::FinalizeCommand => self.finalize_upgrade(),
            DatanodeCommandType::BalancerBandwidthCommand => {
                if let Some(command) = command.balancer_cmd {
                    self.set_move_bandwidth(command.bandwidth);
                }
            }
            // No block tokens, no caching, no striped blocks here; REGISTER is
            // the link's own.
            DatanodeCommandType::KeyUpdateCommand
            | DatanodeCommandType::BlockIdCommand
            | DatanodeCommandType::BlockEcReconstructionCommand
            | DatanodeCommandType::NullDatanodeCommand
            | DatanodeCommandType::UnusedUpgradeCommand
            | DatanodeCommandType::RegisterCommand => debug!(?kind, "nothing to do"),
        }
    }

    fn block_command(&self, command: BlockCommandProto, begun: &mut JoinSet<()>) {
        match BlockCommandAction::try_from(command.action) {
            Ok(BlockCommandAction::Invalidate) => {
                begun.spawn(delete_all(self.dataset.clone(), command));
            }
            Ok(BlockCommandAction::Transfer) => self.transfers.start_all(&command, &self.data_work),
            // Apache's datanodes refuse it as well.
            Ok(BlockCommandAction::Shutdown) | Err(_) => debug!(command.action, "ignored"),
        }
    }

    /// 0 is no wish, as to Apache's datanodes.
    fn set_move_bandwidth(&self, bytes_per_second: u64) {
        if bytes_per_second > 0 {
            info!(bytes_per_second, "new bandwidth of block moves");
            self.move_bandwidth.set(bytes_per_second);
        }
    }

    fn recover(&self, command: BlockRecoveryCommandProto, begun: &mut JoinSet<()>) {
        let recovery = self.recovery.clone();
        begun.spawn(async move {
            for block in &command.blocks {
                recovery.recover(block).await;
            }
        });
    }

    /// An upgrade that is final needs no way back: `previous` goes. Nearly always there is none.
    fn finalize_upgrade(&self) {
        for volume in self.dataset.volumes() {
            for previous in volume.previous_dirs() {
                tokio::task::spawn_blocking(move || match fs::remove_dir_all(&previous) {
                    Ok(()) => info!(dir = %previous.display(), "upgrade finalized"),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => warn!(dir = %previous.display(), %error, "stays behind"),
                });
            }
        }
    }
}

/// Each volume's deletions run on a thread of their own, one command at a time: they wait for its
/// disk.
async fn delete_all(dataset: Arc<Dataset>, command: BlockCommandProto) {
    let mut by_volume: HashMap<String, (Arc<Volume>, Vec<ExtendedBlock>)> = HashMap::default();
    for block in &command.blocks {
        let block =
            ExtendedBlock { pool_id: command.block_pool_id.clone(), block: Block::from(block) };
        // The namenode may ask twice.
        let Some(replica) = dataset.replica(&block.pool_id, block.block.id) else { continue };
        let volume = replica.volume();
        let of_volume = by_volume
            .entry(volume.storage_id().to_owned())
            .or_insert_with(|| (volume.clone(), Vec::new()));
        of_volume.1.push(block);
    }
    for (volume, blocks) in by_volume.into_values() {
        let dataset = dataset.clone();
        tokio::spawn(async move {
            let _turn = volume.deletions_turn().lock().await;
            let deleting = async move { delete_each(&dataset, &blocks).await };
            // It is not cancelled, and a panic was told of where it happened.
            let _ = blocking::drive(deleting).await;
        });
    }
}

async fn delete_each(dataset: &Dataset, blocks: &[ExtendedBlock]) {
    let mut deleted = 0;
    for block in blocks {
        match tokio::time::timeout(WRITER_STOP_TIMEOUT, dataset.delete(block)).await {
            Ok(Ok(())) => deleted += 1,
            Ok(Err(DatanodeError::ReplicaNotFound { .. })) => {}
            Ok(Err(error)) => warn!(%block, %error, "not deleted"),
            Err(_) => warn!(%block, "not deleted: its writer does not stop"),
        }
    }
    info!(asked = blocks.len(), deleted, "blocks invalidated");
}

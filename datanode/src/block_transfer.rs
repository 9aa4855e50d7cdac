//! Copies of replicas to other datanodes: TRANSFER_BLOCK (a client repairs its pipeline) and the
//! namenode's TRANSFER command (re-replication, through a chain of targets).
//!
//! Both send WRITE_BLOCK and the replica's packets. On behalf of a client the receiver answers once,
//! at the end; a re-replication gets no answers: the receiver reports the block to the namenode.

use std::sync::Arc;
use std::time::Duration;

use ringfs_protocol::block::{Block, ExtendedBlock, ReplicaState};
use ringfs_protocol::messages::{
    BaseHeaderProto, BlockCommandProto, BlockConstructionStage, ClientOperationHeaderProto,
    DNTransferAckProto, DatanodeIDProto, DatanodeInfoProto, OpTransferBlockProto,
    OpWriteBlockProto, Status, StorageTypeProto, TokenProto,
};
use ringfs_protocol::operation::Opcode;
use tracing::{info, warn};

use crate::activity::Activity;
use crate::data_work::DataWork;
use crate::dataset::Dataset;
use crate::error::{DatanodeError, Result};
use crate::peer::{self, Peer};
use crate::replica::Replica;
use crate::replica_packets::ReplicaPackets;
use crate::ring;

#[derive(Clone)]
pub struct Transfers {
    pub dataset: Arc<Dataset>,
    pub activity: Arc<Activity>,
    /// Bound of connecting, and of each send and receive; a target adds `timeout_per_target`.
    pub timeout: Duration,
    pub timeout_per_target: Duration,
    pub own_id: DatanodeIDProto,
}

/// Where a block goes: the first target and what it has to pass on.
struct Destination {
    targets: Vec<DatanodeInfoProto>,
    storage_types: Vec<i32>,
    storage_ids: Vec<String>,
}

impl Transfers {
    /// The namenode's TRANSFER command: each block is sent by a task of its own.
    pub fn start_all(&self, command: &BlockCommandProto, data_work: &DataWork) {
        for (index, block) in command.blocks.iter().enumerate() {
            let block =
                ExtendedBlock { pool_id: command.block_pool_id.clone(), block: Block::from(block) };
            let targets = command.targets.get(index).map(|targets| targets.datanodes.clone());
            let types = command.target_storage_types.get(index);
            let ids = command.target_storage_uuids.get(index);
            let destination = Destination {
                targets: targets.unwrap_or_default(),
                storage_types: types.map(|types| types.storage_types.clone()).unwrap_or_default(),
                storage_ids: ids.map(|ids| ids.storage_uuids.clone()).unwrap_or_default(),
            };
            let transfers = self.clone();
            data_work.start(move || async move { transfers.replicate(block, destination).await });
        }
    }

    async fn replicate(&self, block: ExtendedBlock, destination: Destination) {
        let target =
            destination.targets.first().map(|target| peer::name(&target.id)).unwrap_or_default();
        let sent = async {
            let replica = self.dataset.require_answering(&block)?;
            self.expect_whole(&replica, &block)?;
            let whole = ExtendedBlock { block: replica.block(), ..block.clone() };
            let stage = BlockConstructionStage::PipelineSetupCreate;
            self.send(&whole, replica, "", stage, &destination).await.map(drop)
        };
        match sent.await {
            Ok(()) => {
                ring::counters().blocks_replicated.add(1);
                info!(%block, target, "copied");
            }
            Err(error) => warn!(%block, target, %error, "copy failed"),
        }
    }

    /// TRANSFER_BLOCK: brings the client's new datanode up to what its pipeline has acknowledged.
    pub async fn transfer_for_client(&self, request: &OpTransferBlockProto) -> Result<()> {
        let asked = ExtendedBlock::from(&request.header.base_header.block);
        let replica = self.dataset.require_answering(&asked)?;
        let found = replica.block();
        let unfit = |why: &str| DatanodeError::UnexpectedReplica { block: found, why: why.into() };
        if found.generation_stamp < asked.block.generation_stamp {
            return Err(unfit("its generation stamp is below the one asked for"));
        }
        let stage = match replica.original_state() {
            ReplicaState::Rbw => BlockConstructionStage::TransferRbw,
            ReplicaState::Finalized => BlockConstructionStage::TransferFinalized,
            _ => return Err(unfit("it is neither RBW nor FINALIZED")),
        };
        let visible = replica.visible_len().ok_or_else(|| unfit("it is not readable"))?;
        let block = ExtendedBlock { block: Block { num_bytes: visible, ..found }, ..asked };
        let destination = Destination {
            targets: request.targets.clone(),
            storage_types: request.target_storage_types.clone(),
            storage_ids: request.target_storage_ids.clone(),
        };
        let client = &request.header.client_name;
        let mut peer = self.send(&block, replica, client, stage, &destination).await?;
        let ack: DNTransferAckProto = peer.message("DNTransferAckProto").await?;
        if ack.status != Status::Success as i32 {
            return Err(peer.failed(format!("it could not store {block}: status {}", ack.status)));
        }
        info!(%block, target = peer.name(), client, "transferred");
        Ok(())
    }

    /// A replica shorter than the namenode believes is as bad as a corrupt one.
    fn expect_whole(&self, replica: &Replica, block: &ExtendedBlock) -> Result<()> {
        let found = replica.block();
        if replica.state() != ReplicaState::Finalized {
            let why =
                format!("it is {:?}, and only FINALIZED replicas are copied", replica.state());
            return Err(DatanodeError::UnexpectedReplica { block: found, why });
        }
        if found.num_bytes < block.block.num_bytes {
            self.dataset.reports().push_bad(replica.volume().storage_id(), block.block);
            let why = format!("shorter than the {} bytes of the namenode", block.block.num_bytes);
            return Err(DatanodeError::UnexpectedReplica { block: found, why });
        }
        Ok(())
    }

    async fn send(
        &self,
        block: &ExtendedBlock,
        replica: Arc<Replica>,
        client: &str,
        stage: BlockConstructionStage,
        destination: &Destination,
    ) -> Result<Peer> {
        let _busy = self.activity.transfer();
        let mut packets = ReplicaPackets::open(replica.clone(), block.block.num_bytes).await?;
        let patience = self.timeout + self.timeout_per_target * destination.targets.len() as u32;
        let target =
            destination.targets.first().ok_or_else(|| DatanodeError::UnexpectedReplica {
                block: block.block,
                why: "no target is named for its copy".into(),
            })?;
        let mut peer = Peer::connect(target, patience).await?;
        let request = self.write_request(block, &packets, client, stage, destination);
        peer.send_operation(Opcode::WriteBlock, &request).await?;
        loop {
            match packets.next_run().await {
                Ok(Some(run)) => peer.send(run).await?,
                Ok(None) => return Ok(peer),
                Err(error) => {
                    if matches!(error, DatanodeError::Corrupt { .. }) {
                        let storage = replica.volume().storage_id();
                        self.dataset.reports().push_bad(storage, replica.block());
                    }
                    self.dataset.note_failure(&replica, &error);
                    return Err(error);
                }
            }
        }
    }

    fn write_request(
        &self,
        block: &ExtendedBlock,
        packets: &ReplicaPackets,
        client: &str,
        stage: BlockConstructionStage,
        destination: &Destination,
    ) -> OpWriteBlockProto {
        let first_type = destination.storage_types.first().copied();
        OpWriteBlockProto {
            header: ClientOperationHeaderProto {
                base_header: BaseHeaderProto {
                    block: block.into(),
                    token: Some(TokenProto::default()),
                    trace_info: None,
                },
                client_name: client.to_owned(),
            },
            targets: destination.targets.iter().skip(1).cloned().collect(),
            source: Some(DatanodeInfoProto { id: self.own_id.clone(), ..Default::default() }),
            stage: stage as i32,
            pipeline_size: destination.targets.len() as u32,
            min_bytes_rcvd: 0,
            max_bytes_rcvd: 0,
            latest_generation_stamp: 0,
            requested_checksum: packets.checksum().to_proto(),
            caching_strategy: None,
            storage_type: Some(first_type.unwrap_or(StorageTypeProto::Disk as i32)),
            target_storage_types: destination.storage_types.iter().skip(1).copied().collect(),
            allow_lazy_persist: None,
            pinning: None,
            target_pinnings: Vec::new(),
            storage_id: destination.storage_ids.first().cloned(),
            target_storage_ids: destination.storage_ids.iter().skip(1).cloned().collect(),
            keeps_connection: None,
            following_bytes: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::tests::{extended, open, put_finalized};
    use crate::fake_peer::FakePeer;
    use crate::replica_length::DEFAULT_CHECKSUM;
    use crate::transitions::tests::{Node, fill, node, on_ring, request};
    use crate::volume::tests::POOL;
    use ringfs_protocol::block::BlockId;
    use ringfs_protocol::operation::Operation;

    fn transfers(dataset: Arc<Dataset>) -> Transfers {
        Transfers {
            dataset,
            activity: Arc::default(),
            timeout: Duration::from_secs(5),
            timeout_per_target: Duration::from_secs(5),
            own_id: DatanodeIDProto { datanode_uuid: "me".into(), ..Default::default() },
        }
    }

    fn transfer_request(id: u64, stamp: u64, target: DatanodeInfoProto) -> OpTransferBlockProto {
        OpTransferBlockProto {
            header: ClientOperationHeaderProto {
                base_header: BaseHeaderProto {
                    block: (&extended(id, stamp, 0)).into(),
                    token: None,
                    trace_info: None,
                },
                client_name: "DFSClient_1".into(),
            },
            targets: vec![target],
            target_storage_types: vec![StorageTypeProto::Ssd as i32],
            target_storage_ids: vec!["DS-target".into()],
        }
    }

    /// A peer that takes a block and answers with `status`: the request and the data.
    fn receiver(status: Status) -> FakePeer<(OpWriteBlockProto, Option<Vec<u8>>)> {
        FakePeer::start(move |mut conversation| {
            let Operation::WriteBlock(request) = conversation.operation() else {
                panic!("WRITE_BLOCK expected");
            };
            let data = conversation.packets();
            if !request.header.client_name.is_empty() && data.is_some() {
                conversation.reply(&DNTransferAckProto { status: status as i32 });
            }
            (*request, data)
        })
    }

    fn finalized(bytes: &[u8]) -> (Node, Arc<Dataset>) {
        let node = node();
        put_finalized(&node.volume, 1, 1001, bytes);
        let dataset = Arc::new(open(vec![node.volume.clone()]));
        (node, dataset)
    }

    #[test]
    fn a_clients_transfer_sends_what_is_acked_and_waits_for_the_answer() {
        on_ring(async {
            let node = node();
            let mut writer = node.dataset.create_rbw(request(1, 1001, 0)).await.unwrap();
            fill(&mut writer, &[3; 1500], 0).await;
            writer.replica.set_bytes_acked(700);
            let peer = receiver(Status::Success);
            let request = transfer_request(1, 1001, peer.info.clone());
            let transfers = transfers(node.dataset.clone());
            transfers.transfer_for_client(&request).await.unwrap();
            let (write, data) = peer.outcome();
            assert_eq!(data.unwrap(), [3; 700]);
            assert_eq!(write.stage(), BlockConstructionStage::TransferRbw);
            assert_eq!(write.header.client_name, "DFSClient_1");
            assert_eq!(write.header.base_header.block.num_bytes(), 700);
            assert_eq!(write.storage_id.as_deref(), Some("DS-target"));
            assert_eq!(write.storage_type(), StorageTypeProto::Ssd);
            assert!(write.targets.is_empty());
            assert_eq!(write.source.unwrap().id.datanode_uuid, "me");
            assert_eq!(transfers.activity.transfers(), 0);
        });
    }

    #[test]
    fn a_transfer_that_the_target_refuses_has_failed() {
        on_ring(async {
            let (_node, dataset) = finalized(&[1; 900]);
            let peer = receiver(Status::Error);
            let request = transfer_request(1, 1001, peer.info.clone());
            let error = transfers(dataset.clone()).transfer_for_client(&request).await.unwrap_err();
            assert!(matches!(&error, DatanodeError::Peer { .. }), "{error}");
            assert_eq!(peer.outcome().0.stage(), BlockConstructionStage::TransferFinalized);

            let too_new = transfer_request(1, 1002, DatanodeInfoProto::default());
            assert!(transfers(dataset).transfer_for_client(&too_new).await.is_err());
        });
    }

    #[test]
    fn a_replication_goes_down_the_chain_without_an_answer() {
        on_ring(async {
            let (_node, dataset) = finalized(&[5; 70_000]);
            let peer = receiver(Status::Success);
            let second = DatanodeInfoProto {
                id: DatanodeIDProto { datanode_uuid: "second".into(), ..Default::default() },
                ..Default::default()
            };
            let destination = Destination {
                targets: vec![peer.info.clone(), second],
                storage_types: vec![StorageTypeProto::Disk as i32, StorageTypeProto::Ssd as i32],
                storage_ids: vec!["DS-1".into(), "DS-2".into()],
            };
            transfers(dataset).replicate(extended(1, 1001, 70_000), destination).await;
            let (write, data) = peer.outcome();
            assert!(data.unwrap() == [5; 70_000]);
            assert_eq!(write.header.client_name, "");
            assert_eq!(write.stage(), BlockConstructionStage::PipelineSetupCreate);
            assert_eq!(write.targets[0].id.datanode_uuid, "second");
            assert_eq!(write.target_storage_ids, ["DS-2"]);
            assert_eq!(write.requested_checksum, DEFAULT_CHECKSUM.to_proto());
        });
    }

    #[test]
    fn corrupt_and_short_replicas_are_reported_and_not_copied() {
        on_ring(async {
            let (_node, dataset) = finalized(&[5; 900]);
            let replica = dataset.replica(POOL, BlockId(1)).unwrap();
            let destination = |peer: &DatanodeInfoProto| Destination {
                targets: vec![peer.clone()],
                storage_types: Vec::new(),
                storage_ids: Vec::new(),
            };
            let nowhere = destination(&DatanodeInfoProto::default());
            let transfers = transfers(dataset.clone());
            transfers.replicate(extended(1, 1001, 901), nowhere).await;
            assert_eq!(dataset.reports().take_bad().len(), 1, "901 bytes are not here");

            std::fs::write(replica.files().data, [6; 900]).unwrap();
            let peer = receiver(Status::Success);
            transfers.replicate(extended(1, 1001, 900), destination(&peer.info)).await;
            assert_eq!(peer.outcome().1, None, "the stream ends without a last packet");
            assert_eq!(dataset.reports().take_bad()[0].1, extended(1, 1001, 900).block);
        });
    }
}

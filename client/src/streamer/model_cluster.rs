//! For tests: a small cluster that keeps the reference's rules of replicas, checks every request of a
//! streamer against them and breaks pipelines at chosen or random points.

mod tests;

use std::collections::HashMap;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ringfs_protocol::block::{Block, BlockId};
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};

use super::*;
use crate::packetizer::Packetizer;

const BLOCK_SIZE: u64 = 4096;

#[derive(Clone, Debug)]
struct Replica {
    stamp: u64,
    data: Vec<u8>,
    finalized: bool,
}

/// What breaks, in units of acks and of pipeline setups.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The ack that is due blames this datanode.
    BadAck(usize),
    Lost,
    /// The setup that is asked for fails and blames this datanode, or nobody.
    BadSetup(Option<usize>),
}

/// Given the number of datanodes, and whether a setup or an ack is due.
type Faults = dyn FnMut(&mut SmallRng, usize, bool) -> Option<Fault>;

struct Cluster {
    streamer: Streamer,
    rng: SmallRng,
    now_ms: u64,
    next_stamp: u64,
    replicas: HashMap<(String, u64), Replica>,
    /// The namenode's view: blocks in order, with stamp and length once they are known.
    blocks: Vec<ExtendedBlock>,
    pipeline: Option<(u64, Vec<String>)>,
    /// Sent over the open pipeline and not answered; a datanode holds at least what is answered.
    in_flight: VecDeque<Packet>,
    acknowledged: i64,
    faults: Box<Faults>,
    spares: usize,
    reopens_finalized: bool,
    /// Whether a small block is sent with its set-up, and how many were.
    takes_whole: bool,
    whole_blocks: u32,
    failure: Option<ClientError>,
    recoveries: usize,
}

fn rules(window: usize, replacement: ReplacementPolicy) -> StreamerRules {
    StreamerRules {
        path: "/f".to_owned(),
        replication: 3,
        window,
        block_write_retries: 3,
        timeouts: PipelineTimeouts {
            socket: Duration::from_secs(60),
            per_datanode: Duration::from_secs(5),
        },
        exclusion: Duration::from_secs(600),
        replacement,
        replacement_best_effort: true,
        restart_timeout: Duration::from_secs(30),
        is_local: |_| false,
    }
}

fn datanode(index: usize) -> DatanodeInfoProto {
    let mut info = DatanodeInfoProto::default();
    info.id.ip_addr = format!("10.0.0.{index}");
    info.id.xfer_port = 9866;
    info.id.datanode_uuid = format!("uuid-{index}");
    info
}

impl Cluster {
    fn new(
        rules: StreamerRules,
        last_block: LastBlock,
        faults: impl FnMut(&mut SmallRng, usize, bool) -> Option<Fault> + 'static,
    ) -> Self {
        Self {
            streamer: Streamer::new(rules, last_block),
            rng: SmallRng::seed_from_u64(1),
            now_ms: 0,
            next_stamp: 1001,
            replicas: HashMap::new(),
            blocks: Vec::new(),
            pipeline: None,
            in_flight: VecDeque::new(),
            acknowledged: -1,
            faults: Box::new(faults),
            spares: 0,
            reopens_finalized: false,
            takes_whole: false,
            whole_blocks: 0,
            failure: None,
            recoveries: 0,
        }
    }

    /// Of a file whose first block came with it.
    fn with_first_block(
        rules: StreamerRules,
        faults: impl FnMut(&mut SmallRng, usize, bool) -> Option<Fault> + 'static,
    ) -> Self {
        let located = located_block(500, 1000, 0, (0..3).map(datanode).collect());
        let first = ExtendedBlock::from(&located.b);
        let mut cluster = Self::new(rules, LastBlock::Allocated(Box::new(located)), faults);
        cluster.blocks.push(first);
        cluster
    }

    fn tell(&mut self, event: Event) {
        self.now_ms += 1;
        self.streamer.on_event(self.now_ms, event);
        while let Some(action) = self.streamer.next_action() {
            if let Some(answer) = self.perform(action) {
                self.now_ms += 1;
                self.streamer.on_event(self.now_ms, answer);
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::AllocateBlock { previous, excluded } => {
                assert!(self.pipeline.is_none());
                assert_eq!(previous.as_ref(), self.blocks.last());
                let nodes = (0..8).map(datanode).filter(|node| !excluded.contains(node));
                let id = 1 + self.blocks.len() as u64 + self.next_stamp;
                self.next_stamp += 1;
                let located = located_block(id, self.next_stamp, 0, nodes.take(3).collect());
                self.blocks.push(ExtendedBlock::from(&located.b));
                Some(Event::BlockAllocated(Ok(Box::new(located))))
            }
            Action::TakeAllocated(located) => Some(Event::BlockAllocated(Ok(located))),
            Action::AbandonBlock(block) => {
                assert_eq!(self.blocks.pop(), Some(block));
                None
            }
            Action::OpenPipeline { setup, whole_block } => {
                let opened = self.open(&setup);
                let has_block = self.takes_whole && opened.is_ok() && !whole_block.is_empty();
                if has_block {
                    self.whole_blocks += 1;
                    self.in_flight.extend(whole_block);
                }
                Some(Event::PipelineOpened(
                    opened.map(|opened| OpenedPipeline { has_block, ..opened }),
                ))
            }
            Action::ClosePipeline => {
                self.pipeline = None;
                self.in_flight.clear();
                None
            }
            Action::Send(packet) => {
                assert!(self.pipeline.is_some(), "a packet without a pipeline");
                let is_ahead = packet.last_in_block && !self.in_flight.is_empty();
                assert!(!is_ahead || self.reopens_finalized);
                self.in_flight.push_back(packet);
                None
            }
            Action::SendHeartbeat => None,
            Action::FindReplacement { block, existing, excluded } => {
                let mut nodes: Vec<_> = existing.into_iter().map(|node| node.datanode).collect();
                let taken =
                    |node: &DatanodeInfoProto| nodes.contains(node) || excluded.contains(node);
                let spare = (0..3 + self.spares).map(datanode).find(|node| !taken(node));
                nodes.extend(spare);
                let located =
                    located_block(block.block.id.0, block.block.generation_stamp.0, 0, nodes);
                Some(Event::ReplacementFound(Ok(Box::new(located))))
            }
            Action::TransferReplica { block, source, target, .. } => {
                let id = block.block.id.0;
                let mut replica =
                    self.replicas[&(source.datanode.id.datanode_uuid.clone(), id)].clone();
                assert!(replica.data.len() as u64 >= block.block.num_bytes);
                assert!(replica.stamp >= block.block.generation_stamp.0);
                replica.data.truncate(block.block.num_bytes as usize);
                self.replicas.insert((target.datanode.id.datanode_uuid.clone(), id), replica);
                Some(Event::ReplicaTransferred(Ok(())))
            }
            Action::RaiseGenerationStamp(block) => {
                assert_eq!(self.blocks.last().map(|b| b.block.id), Some(block.block.id));
                self.next_stamp += 1;
                let located = located_block(block.block.id.0, self.next_stamp, 0, Vec::new());
                Some(Event::GenerationStampRaised(Ok(Box::new(located))))
            }
            Action::UpdatePipeline { old_block, new_block, nodes } => {
                self.recoveries += 1;
                let known = self.blocks.last_mut().unwrap();
                assert_eq!(known.block.generation_stamp, old_block.block.generation_stamp);
                assert!(new_block.block.generation_stamp > old_block.block.generation_stamp);
                assert!(new_block.block.num_bytes >= known.block.num_bytes);
                known.block = new_block.block;
                assert_eq!(nodes.len(), self.pipeline.as_ref().unwrap().1.len());
                Some(Event::PipelineUpdated(Ok(())))
            }
            Action::Acknowledged(seqno) => {
                assert_eq!(seqno, self.acknowledged + 1);
                self.acknowledged = seqno;
                None
            }
            Action::Failed(error) => {
                self.failure = Some(error);
                None
            }
        }
    }

    /// WRITE_BLOCK on every datanode of the pipeline.
    fn open(&mut self, setup: &PipelineSetup) -> Result<OpenedPipeline, SetupFailure> {
        if let Some(Fault::BadSetup(bad)) = (self.faults)(&mut self.rng, setup.nodes.len(), true) {
            let bad_link = bad.map(|index| setup.nodes[index].address());
            return Err(SetupFailure { bad_link, why: "test".to_owned() });
        }
        let (id, stamp) = (setup.block.block.id.0, setup.block.block.generation_stamp.0);
        let (min, max) = (setup.min_bytes as usize, setup.max_bytes as usize);
        let uuids: Vec<_> =
            setup.nodes.iter().map(|node| node.datanode.id.datanode_uuid.clone()).collect();
        for uuid in &uuids {
            let key = (uuid.clone(), id);
            if setup.stage == BlockConstructionStage::PipelineSetupCreate {
                let replica = Replica { stamp, data: Vec::new(), finalized: false };
                self.replicas.insert(key, replica); // A failed setup may have left one.
                continue;
            }
            let replica = self.replicas.get_mut(&key).expect("a replica to recover");
            assert!((stamp..=setup.latest_generation_stamp).contains(&replica.stamp));
            match setup.stage {
                BlockConstructionStage::PipelineSetupAppend => {
                    assert!(replica.finalized && replica.data.len() == min);
                }
                BlockConstructionStage::PipelineSetupAppendRecovery
                | BlockConstructionStage::PipelineCloseRecovery => {
                    assert_eq!(replica.data.len(), min);
                }
                BlockConstructionStage::PipelineSetupStreamingRecovery => {
                    assert!(!replica.finalized || self.reopens_finalized);
                    assert!((min..=max).contains(&replica.data.len()));
                    let kept = self.rng.random_range(min..=replica.data.len());
                    replica.data.truncate(kept);
                }
                stage => panic!("{stage:?} is no setup"),
            }
            replica.stamp = setup.latest_generation_stamp;
            replica.finalized = setup.stage == BlockConstructionStage::PipelineCloseRecovery;
        }
        self.pipeline = Some((id, uuids));
        Ok(OpenedPipeline { reopens_finalized: self.reopens_finalized, has_block: false })
    }

    /// The pipeline answers its oldest packet, or breaks; false when there is nothing to answer.
    fn answer(&mut self) -> bool {
        let Some((id, uuids)) = self.pipeline.clone() else {
            return false;
        };
        if self.in_flight.is_empty() {
            return false;
        }
        let fault = (self.faults)(&mut self.rng, uuids.len(), false);
        for uuid in &uuids {
            // Beyond what all of them must have, each has got some way.
            let received = match fault {
                None => 1,
                Some(_) => self.rng.random_range(0..=self.in_flight.len()),
            };
            let replica = self.replicas.get_mut(&(uuid.clone(), id)).unwrap();
            for packet in self.in_flight.iter().take(received) {
                apply(replica, packet);
            }
        }
        let packet = self.in_flight.front().unwrap();
        let mut replies = vec![Status::Success; uuids.len()];
        match fault {
            None => {
                let ack = PipelineAck {
                    seqno: packet.seqno,
                    replies: replies.into(),
                    downstream_ack_time_nanos: 0,
                };
                let last = packet.last_in_block;
                let end = packet.end();
                self.in_flight.pop_front();
                if last {
                    let known = self.blocks.last_mut().unwrap();
                    known.block.num_bytes = end;
                }
                self.tell(Event::Acknowledged(ack));
            }
            Some(Fault::BadAck(bad)) => {
                replies[bad] = Status::Error;
                replies.truncate(bad + 1);
                let seqno = packet.seqno;
                self.tell(Event::Acknowledged(PipelineAck {
                    seqno,
                    replies: replies.into(),
                    downstream_ack_time_nanos: 0,
                }));
            }
            Some(_) => self.tell(Event::PipelineLost("is lost".to_owned())),
        }
        true
    }

    /// Writes `lens` bytes one after the other and closes; the bytes of all of them.
    fn write(&mut self, packetizer: &mut Packetizer, lens: &[usize]) -> Vec<u8> {
        let mut written = Vec::new();
        for len in lens {
            let bytes: Vec<u8> = (0..*len).map(|i| (written.len() + i * 7) as u8).collect();
            written.extend_from_slice(&bytes);
            let mut bytes = Bytes::from(bytes);
            while !bytes.is_empty() {
                if let Some(packet) = packetizer.next_packet(&mut bytes) {
                    self.enqueue(packet);
                }
            }
            if self.rng.random_bool(0.3)
                && let Some(packet) = packetizer.flush(false)
            {
                self.enqueue(packet);
            }
        }
        while let Some(packet) = packetizer.finish() {
            self.enqueue(packet);
        }
        self.tell(Event::Ended);
        while self.failure.is_none() && self.answer() {}
        written
    }

    fn enqueue(&mut self, packet: Packet) {
        while !self.streamer.has_room() && self.failure.is_none() {
            assert!(self.answer(), "the window is full and nothing is in flight");
        }
        if self.failure.is_none() {
            self.tell(Event::Enqueued(packet));
        }
        while self.rng.random_bool(0.4) && self.answer() {}
    }

    /// The bytes of the file, from replicas of the stamps that the namenode knows: at least one of
    /// each block, all of them equal and finished.
    fn file(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for block in &self.blocks {
            let (id, stamp) = (block.block.id.0, block.block.generation_stamp.0);
            let mut good = self
                .replicas
                .iter()
                .filter(|((_, replica_id), replica)| *replica_id == id && replica.stamp == stamp)
                .map(|(_, replica)| replica);
            let first = good.next().expect("a replica of the block's stamp");
            assert!(first.finalized);
            assert!(good.all(|other| other.finalized && other.data == first.data));
            bytes.extend_from_slice(&first.data);
        }
        bytes
    }
}

fn apply(replica: &mut Replica, packet: &Packet) {
    let start = packet.offset_in_block as usize;
    assert!(start <= replica.data.len(), "a gap before {start}");
    let overlap = (replica.data.len() - start).min(packet.data.len());
    assert_eq!(replica.data[start..start + overlap], packet.data[..overlap]);
    replica.data.extend_from_slice(&packet.data[overlap..]);
    if packet.last_in_block {
        assert_eq!(start, replica.data.len());
        replica.finalized = true;
    }
}

fn located_block(
    id: u64,
    stamp: u64,
    len: u64,
    datanodes: Vec<DatanodeInfoProto>,
) -> LocatedBlockProto {
    let block = ExtendedBlock {
        pool_id: "pool".to_owned(),
        block: Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), num_bytes: len },
    };
    LocatedBlockProto { b: (&block).into(), locs: datanodes, ..Default::default() }
}

fn packetizer(block_len: u64) -> Packetizer {
    let checksum = DataChecksum::new(ChecksumType::Crc32c, 512).unwrap();
    Packetizer::new(checksum, 33 + 2 * 516, BLOCK_SIZE, block_len, block_len)
}

/// One fault at the `at`-th occasion of its kind.
fn once(at: usize, fault: Fault) -> impl FnMut(&mut SmallRng, usize, bool) -> Option<Fault> {
    let is_setup = matches!(fault, Fault::BadSetup(_));
    let mut occasion = 0;
    move |_, _, setup| {
        occasion += usize::from(setup == is_setup);
        (setup == is_setup && occasion == at + 1).then_some(fault)
    }
}

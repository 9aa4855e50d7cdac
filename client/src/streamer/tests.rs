//! The streamer against a small cluster that keeps the reference's rules of replicas, checks every
//! request against them and breaks pipelines at chosen or random points.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;
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
            failure: None,
            recoveries: 0,
        }
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
            Action::AbandonBlock(block) => {
                assert_eq!(self.blocks.pop(), Some(block));
                None
            }
            Action::OpenPipeline(setup) => Some(Event::PipelineOpened(self.open(&setup))),
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
        Ok(OpenedPipeline { reopens_finalized: self.reopens_finalized })
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

#[test]
fn every_fault_at_every_ack_is_survived() {
    // Two blocks: 4 packets and an end, 2 packets and an end.
    let lens = [4096, 1500];
    for at in 0..8 {
        for fault in [Fault::BadAck(0), Fault::BadAck(1), Fault::BadAck(2), Fault::Lost] {
            for (window, reopens) in [(1, false), (2, false), (80, false), (2, true), (80, true)] {
                let rules = rules(window, ReplacementPolicy::Never);
                let mut cluster = Cluster::new(rules, LastBlock::None, once(at, fault));
                cluster.reopens_finalized = reopens;
                let written = cluster.write(&mut packetizer(0), &lens);
                assert!(cluster.failure.is_none(), "{at} {fault:?}: {:?}", cluster.failure);
                assert_eq!(cluster.recoveries, 1, "{at} {fault:?} {window}");
                assert_eq!(cluster.file(), written);
            }
        }
    }
}

#[test]
fn the_last_packet_waits_for_nothing_where_finalized_replicas_are_reopened() {
    for reopens in [false, true] {
        let rules = rules(80, ReplacementPolicy::Never);
        let mut cluster = Cluster::new(rules, LastBlock::None, |_: &mut SmallRng, _, _| None);
        cluster.reopens_finalized = reopens;
        let mut packetizer = packetizer(0);
        let mut bytes = Bytes::from_static(&[1; 700]);
        assert!(packetizer.next_packet(&mut bytes).is_none());
        let packets: Vec<_> = std::iter::from_fn(|| packetizer.finish()).collect();
        packets.into_iter().for_each(|packet| cluster.tell(Event::Enqueued(packet)));
        assert_eq!(cluster.in_flight.len(), if reopens { 2 } else { 1 });
        while cluster.answer() {}
        assert_eq!(cluster.file(), [1; 700]);
    }
}

#[test]
fn a_new_block_avoids_the_datanode_that_failed_its_setup() {
    for bad in [None, Some(0), Some(1), Some(2)] {
        let rules = rules(80, ReplacementPolicy::Default);
        let mut cluster = Cluster::new(rules, LastBlock::None, once(1, Fault::BadSetup(bad)));
        let written = cluster.write(&mut packetizer(0), &[9000]);
        assert_eq!(cluster.file(), written);
        assert_eq!(cluster.recoveries, 0);
        let excluded = datanode(bad.unwrap_or(0)).id.datanode_uuid;
        let last = cluster.blocks.last().unwrap().block.id.0;
        assert!(!cluster.replicas.contains_key(&(excluded, last)));
    }
}

#[test]
fn setups_that_keep_failing_end_the_writer() {
    let rules = rules(80, ReplacementPolicy::Default);
    let faults = |_: &mut SmallRng, _, setup: bool| setup.then_some(Fault::BadSetup(None));
    let mut cluster = Cluster::new(rules, LastBlock::None, faults);
    cluster.write(&mut packetizer(0), &[100]);
    assert!(matches!(cluster.failure, Some(ClientError::Pipeline { .. })));
    assert!(cluster.blocks.is_empty(), "an abandoned block is left");
}

#[test]
fn the_last_datanode_that_fails_ends_the_writer() {
    let rules = rules(80, ReplacementPolicy::Never);
    let faults = |_: &mut SmallRng, _, setup: bool| (!setup).then_some(Fault::Lost);
    let mut cluster = Cluster::new(rules, LastBlock::None, faults);
    cluster.write(&mut packetizer(0), &[100]);
    let failure = cluster.failure.unwrap().to_string();
    assert!(failure.contains("all datanodes of"), "{failure}");
}

/// A datanode of this host announces its restart, and is back at the third attempt to reach it.
#[test]
fn a_datanode_that_restarts_is_waited_for() {
    for (is_back, survivors) in [(true, 3), (false, 2)] {
        let mut rules = rules(80, ReplacementPolicy::Never);
        rules.is_local = |_| true;
        let mut setups = 0;
        let faults = move |_: &mut SmallRng, nodes, setup: bool| {
            setups += u32::from(setup);
            let fails = setup && setups > 1 && (setups < 4 || !is_back && nodes == 3);
            fails.then_some(Fault::BadSetup(Some(1)))
        };
        let mut cluster = Cluster::new(rules, LastBlock::None, faults);
        let mut packetizer = packetizer(0);
        let mut data = Bytes::from(vec![7; 100]);
        assert!(packetizer.next_packet(&mut data).is_none());
        cluster.tell(Event::Enqueued(packetizer.flush(false).unwrap()));
        let oob = PipelineAck {
            seqno: ringfs_protocol::packet::OOB_SEQNO,
            replies: [Status::Success, Status::OobRestart].into_iter().collect(),
            downstream_ack_time_nanos: 0,
        };
        cluster.tell(Event::Acknowledged(oob));
        for _ in 0..40 {
            let Some(deadline_ms) = cluster.streamer.deadline_ms() else { break };
            if cluster.pipeline.is_some() {
                break;
            }
            cluster.now_ms = deadline_ms;
            cluster.tell(Event::TimePassed);
        }
        assert!(cluster.failure.is_none(), "{:?}", cluster.failure);
        assert_eq!(cluster.pipeline.as_ref().unwrap().1.len(), survivors);
        let waited_s = cluster.now_ms / 1_000;
        assert!(if is_back { waited_s == 3 } else { waited_s >= 30 }, "{waited_s} s");
    }
}

#[test]
fn replacements_without_progress_end_the_writer() {
    let rules = rules(80, ReplacementPolicy::Always);
    let faults = |_: &mut SmallRng, _, setup: bool| (!setup).then_some(Fault::BadAck(0));
    let mut cluster = Cluster::new(rules, LastBlock::None, faults);
    cluster.spares = 20;
    cluster.write(&mut packetizer(0), &[100]);
    let failure = cluster.failure.unwrap().to_string();
    assert!(failure.contains("5 recoveries"), "{failure}");
}

#[test]
fn a_flushed_file_gets_its_third_replica_back() {
    let rules = rules(80, ReplacementPolicy::Default);
    let mut cluster = Cluster::new(rules, LastBlock::None, once(2, Fault::BadAck(1)));
    cluster.spares = 1;
    cluster.streamer.on_event(0, Event::Flushed);
    let written = cluster.write(&mut packetizer(0), &[3000]);
    assert_eq!(cluster.file(), written);
    let block = cluster.blocks[0].block;
    let stamp = block.generation_stamp.0;
    assert_eq!(cluster.replicas.values().filter(|replica| replica.stamp == stamp).count(), 3);
}

#[test]
fn an_append_reopens_its_block_under_a_new_stamp() {
    for fault in [None, Some(Fault::BadSetup(Some(1))), Some(Fault::BadAck(2))] {
        let located = located_block(7, 1000, 700, (0..3).map(datanode).collect());
        let mut faults = fault.map(|fault| once(0, fault));
        let mut cluster = Cluster::new(
            rules(80, ReplacementPolicy::Default),
            LastBlock::Appended(Box::new(located.clone())),
            move |rng, nodes, setup| faults.as_mut().and_then(|fault| fault(rng, nodes, setup)),
        );
        let old = Replica { stamp: 1000, data: vec![9; 700], finalized: true };
        for index in 0..3 {
            cluster.replicas.insert((format!("uuid-{index}"), 7), old.clone());
        }
        cluster.blocks.push(ExtendedBlock::from(&located.b));
        let written = cluster.write(&mut packetizer(700), &[100, 5000]);
        assert!(cluster.failure.is_none(), "{fault:?}: {:?}", cluster.failure);
        assert_eq!(cluster.file(), [old.data, written].concat());
        assert!(cluster.blocks[0].block.generation_stamp.0 > 1000);
    }
}

#[test]
fn a_block_without_datanodes_is_not_appended_to() {
    let located = located_block(7, 1000, 700, Vec::new());
    let rules = rules(80, ReplacementPolicy::Always);
    let last_block = LastBlock::Appended(Box::new(located));
    let mut cluster = Cluster::new(rules, last_block, |_: &mut SmallRng, _, _| None);
    cluster.write(&mut packetizer(700), &[100]);
    let failure = cluster.failure.unwrap().to_string();
    assert!(failure.contains("no datanode has"), "{failure}");
}

#[test]
fn silence_brings_heartbeats_and_then_blame() {
    let rules = rules(80, ReplacementPolicy::Never);
    let mut cluster = Cluster::new(rules, LastBlock::None, |_: &mut SmallRng, _, _| None);
    let mut bytes = Bytes::from_static(&[1; 1024]);
    let packet = packetizer(0).next_packet(&mut bytes).unwrap();
    cluster.tell(Event::Enqueued(packet));
    let streamer = &mut cluster.streamer;
    let first = streamer.deadline_ms().unwrap();
    streamer.on_event(first - 1, Event::TimePassed);
    assert!(streamer.next_action().is_none());
    streamer.on_event(first, Event::TimePassed);
    assert!(matches!(streamer.next_action(), Some(Action::SendHeartbeat)));
    streamer.on_event(first + 30_000, Event::TimePassed);
    assert!(matches!(streamer.next_action(), Some(Action::SendHeartbeat)));
    // 60 s and 5 s for each of three datanodes.
    streamer.on_event(first + 45_000, Event::TimePassed);
    assert!(matches!(streamer.next_action(), Some(Action::ClosePipeline)));
    assert!(matches!(streamer.next_action(), Some(Action::RaiseGenerationStamp(_))));
}

proptest! {
    #[test]
    fn random_faults_lose_nothing(
        seed: u64,
        reopens: bool,
        window in 1usize..20,
        spares in 0usize..3,
        lens in prop::collection::vec(1usize..6000, 1..6),
    ) {
        let policy = if spares > 0 { ReplacementPolicy::Always } else { ReplacementPolicy::Never };
        let faults = |rng: &mut SmallRng, nodes: usize, setup: bool| {
            if nodes == 1 || !rng.random_bool(0.12) {
                return None;
            }
            Some(match (setup, rng.random_bool(0.5)) {
                (true, named) => Fault::BadSetup(named.then(|| rng.random_range(0..nodes))),
                (false, true) => Fault::BadAck(rng.random_range(0..nodes)),
                (false, false) => Fault::Lost,
            })
        };
        let mut cluster = Cluster::new(rules(window, policy), LastBlock::None, faults);
        cluster.rng = SmallRng::seed_from_u64(seed);
        cluster.spares = spares;
        cluster.reopens_finalized = reopens;
        let mut packetizer = packetizer(0);
        let written = cluster.write(&mut packetizer, &lens);
        match &cluster.failure {
            // Several in a row may exhaust the tries.
            Some(error) => prop_assert!(error.to_string().starts_with("/f: "), "{}", error),
            None => {
                prop_assert_eq!(cluster.acknowledged, packetizer.last_seqno());
                prop_assert_eq!(cluster.streamer.last_block(), cluster.blocks.last());
                prop_assert_eq!(cluster.file(), written);
            }
        }
    }
}

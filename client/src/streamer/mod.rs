//! The streamer of one file: which packets go to which pipeline, and what to do when it breaks.
//!
//! A state machine without I/O. [`Streamer::on_event`] takes what happened and when,
//! [`Streamer::next_action`] gives what is to be done; the driver ([`crate::stream_driver`]) does it
//! and reports back. At most one action at a time awaits an answer.
//!
//! ```text
//! Idle -> Allocating -> Creating -> Streaming -> Closing -> Idle -> ...
//!             ^            |            |           |
//!             +- abandon --+            +-----+-----+
//!                                             v
//!                        Recovering (see `recovery`) -> Streaming, or Idle after Closing
//! ```
//!
//! Packets wait in the data queue until they are sent and in the ack queue until every datanode of
//! the pipeline acknowledged them; after a failure the ack queue goes back in front of the data
//! queue, so no byte is given up before it is acknowledged. A block's last packet is sent once all
//! others are acknowledged: whatever fails afterwards, the block's bytes are known to be there. (Sooner
//! where replicas are reopened, and with a small block: see [`OpenedPipeline`] and `whole_block`.)
//! This is Hadoop's DataStreamer, with its two queues and its rules of blame.

mod recovery;
mod whole_block;

use std::collections::VecDeque;
use std::time::Duration;

use ringfs_protocol::block::{ExtendedBlock, GenerationStamp};
use ringfs_protocol::messages::{
    BlockConstructionStage, DatanodeIDProto, DatanodeInfoProto, LocatedBlockProto, Status,
    StorageTypeProto, TokenProto,
};
use ringfs_protocol::packet::{HEARTBEAT_SEQNO, PipelineAck};

use crate::ClientError;
use crate::config::{PipelineTimeouts, ReplacementPolicy};
use crate::limits::FIRST_BLOCK_GOOD_FOR;
use crate::packetizer::Packet;
use recovery::{Purpose, Recovery};

/// What a streamer goes by.
#[derive(Clone, Debug)]
pub(crate) struct StreamerRules {
    pub path: String,
    pub replication: usize,
    /// Packets queued or unacknowledged.
    pub window: usize,
    pub block_write_retries: u32,
    pub timeouts: PipelineTimeouts,
    /// Time for which a datanode that failed a new block is not asked for again.
    pub exclusion: Duration,
    pub replacement: ReplacementPolicy,
    pub replacement_best_effort: bool,
    pub restart_timeout: Duration,
    /// Whether an address is of this host.
    pub is_local: fn(&str) -> bool,
}

/// The last block of a file when it is opened for writing.
#[derive(Clone, Debug)]
pub(crate) enum LastBlock {
    /// There is none, or it is full.
    None,
    /// It has no byte yet, nor a pipeline: the namenode gave it along with the file.
    Allocated(Box<LocatedBlockProto>),
    /// It stays as it is; the next block names it as the previous one.
    Finished(ExtendedBlock),
    /// It has room: the first packet reopens it.
    Appended(Box<LocatedBlockProto>),
}

impl LastBlock {
    pub fn len_to_append_to(&self) -> u64 {
        match self {
            Self::Appended(located) => located.b.num_bytes(),
            Self::None | Self::Allocated(_) | Self::Finished(_) => 0,
        }
    }
}

/// A datanode of a pipeline and the storage that takes the replica there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PipelineNode {
    pub datanode: DatanodeInfoProto,
    pub storage_type: i32,
    /// Empty when the namenode names none.
    pub storage_id: String,
}

/// A WRITE_BLOCK operation to the first of `nodes`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PipelineSetup {
    pub block: ExtendedBlock,
    pub token: TokenProto,
    pub nodes: Vec<PipelineNode>,
    pub stage: BlockConstructionStage,
    pub min_bytes: u64,
    pub max_bytes: u64,
    /// The generation stamp that the replicas shall have; 0 for a new block.
    pub latest_generation_stamp: u64,
}

/// Why a pipeline could not be set up, and whom the datanodes blame.
#[derive(Clone, Debug)]
pub(crate) struct SetupFailure {
    /// `ip:port`; `None` when the first datanode itself did not answer.
    pub bad_link: Option<String>,
    pub why: String,
}

/// What the datanodes of a pipeline can do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpenedPipeline {
    /// A replica that the block's last packet has finalized can be written to again: so that packet
    /// is sent right behind the others. Should the pipeline break then, all that is unacknowledged is
    /// sent once more. Apache's datanodes cannot, and get the last packet when all else is
    /// acknowledged, as Hadoop's client does it.
    pub reopens_finalized: bool,
    /// The set-up took the whole block with it.
    pub has_block: bool,
}

/// Small, as there are two for each packet; so is [`Action`].
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet of the writer, in order of sequence numbers.
    Enqueued(Packet),
    /// The writer flushed: what is acknowledged is promised to readers.
    Flushed,
    /// There are no more packets.
    Ended,
    BlockAllocated(Result<Box<LocatedBlockProto>, ClientError>),
    PipelineOpened(Result<OpenedPipeline, SetupFailure>),
    Acknowledged(PipelineAck),
    /// The connection to the first datanode broke.
    PipelineLost(String),
    ReplacementFound(Result<Box<LocatedBlockProto>, ClientError>),
    ReplicaTransferred(Result<(), ClientError>),
    GenerationStampRaised(Result<Box<LocatedBlockProto>, ClientError>),
    PipelineUpdated(Result<(), ClientError>),
    /// Nothing happened until [`Streamer::deadline_ms`].
    TimePassed,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// The answer to AllocateBlock is here already; packets that come together are all queued before.
    TakeAllocated(Box<LocatedBlockProto>),
    AllocateBlock {
        previous: Option<ExtendedBlock>,
        excluded: Vec<DatanodeInfoProto>,
    },
    AbandonBlock(ExtendedBlock),
    /// With the packets of a small block, which may be sent at once.
    OpenPipeline {
        setup: Box<PipelineSetup>,
        whole_block: Vec<Packet>,
    },
    ClosePipeline,
    Send(Packet),
    SendHeartbeat,
    FindReplacement {
        block: ExtendedBlock,
        existing: Vec<PipelineNode>,
        excluded: Vec<DatanodeInfoProto>,
    },
    TransferReplica {
        block: ExtendedBlock,
        token: Box<TokenProto>,
        source: Box<PipelineNode>,
        target: Box<PipelineNode>,
    },
    RaiseGenerationStamp(ExtendedBlock),
    UpdatePipeline {
        old_block: ExtendedBlock,
        new_block: ExtendedBlock,
        nodes: Vec<PipelineNode>,
    },
    /// Packets up to this sequence number are on every datanode of their pipeline.
    Acknowledged(i64),
    Failed(ClientError),
}

#[derive(Debug)]
pub(crate) struct Streamer {
    rules: StreamerRules,
    state: State,
    pipeline: OpenedPipeline,
    data_queue: VecDeque<Packet>,
    ack_queue: VecDeque<Packet>,
    block: Option<OpenBlock>,
    /// The first block, before anything is written to it.
    allocated: Option<Box<LocatedBlockProto>>,
    /// The last block that was finished.
    finished: Option<ExtendedBlock>,
    excluded: Vec<(DatanodeInfoProto, u64)>,
    flushed: bool,
    /// Recoveries since the last ack.
    recoveries: u32,
    last_sent_ms: u64,
    last_heard_ms: u64,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum State {
    /// No pipeline; the next packet opens one.
    Idle,
    Allocating {
        attempt: u32,
    },
    Creating {
        attempt: u32,
    },
    Streaming,
    /// The block's last packet is sent. Where the datanodes reopen finalized replicas, packets before
    /// it may be unacknowledged too.
    Closing,
    Recovering(Recovery),
    Failed,
}

/// The block being written; `block.num_bytes` is what is acknowledged.
#[derive(Debug)]
struct OpenBlock {
    block: ExtendedBlock,
    token: TokenProto,
    nodes: Vec<PipelineNode>,
    /// Datanodes that failed in this block's pipelines.
    failed: Vec<DatanodeInfoProto>,
    bytes_sent: u64,
    appended: bool,
}

impl Streamer {
    pub fn new(rules: StreamerRules, last_block: LastBlock) -> Self {
        let mut allocated = None;
        let (block, finished) = match last_block {
            LastBlock::None => (None, None),
            LastBlock::Allocated(located) => {
                allocated = Some(located);
                (None, None)
            }
            LastBlock::Finished(block) => (None, Some(block)),
            LastBlock::Appended(located) => {
                let mut open = OpenBlock::new(&located);
                open.bytes_sent = open.block.block.num_bytes;
                open.appended = true;
                (Some(open), None)
            }
        };
        Self {
            rules,
            state: State::Idle,
            pipeline: OpenedPipeline::default(),
            data_queue: VecDeque::new(),
            ack_queue: VecDeque::new(),
            block,
            allocated,
            finished,
            excluded: Vec::new(),
            flushed: false,
            recoveries: 0,
            last_sent_ms: 0,
            last_heard_ms: 0,
            actions: VecDeque::new(),
        }
    }

    /// Whether another packet may be enqueued.
    pub fn has_room(&self) -> bool {
        self.data_queue.len() + self.ack_queue.len() < self.rules.window
            && !matches!(self.state, State::Failed)
    }

    /// The file's last block as the namenode must learn it when the file is completed.
    pub fn last_block(&self) -> Option<&ExtendedBlock> {
        self.block.as_ref().map(|open| &open.block).or(self.finished.as_ref())
    }

    /// When [`Event::TimePassed`] is due: the next heartbeat, or the end of patience for an ack.
    pub fn deadline_ms(&self) -> Option<u64> {
        if let State::Recovering(recovery) = &self.state {
            return recovery.resumes_ms();
        }
        if !matches!(self.state, State::Streaming | State::Closing) {
            return None;
        }
        let heartbeat = self.last_sent_ms + self.heartbeat_interval_ms();
        Some(heartbeat.min(self.ack_deadline_ms().unwrap_or(heartbeat)))
    }

    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn on_event(&mut self, now_ms: u64, event: Event) {
        if matches!(self.state, State::Failed) {
            return;
        }
        match event {
            Event::Enqueued(packet) => self.data_queue.push_back(packet),
            Event::Flushed => self.flushed = true,
            Event::Ended => self.give_back_allocated(),
            Event::BlockAllocated(allocated) => self.block_allocated(allocated),
            Event::PipelineOpened(opened) => self.pipeline_opened(now_ms, opened),
            Event::Acknowledged(ack) => self.acknowledged(now_ms, ack),
            Event::PipelineLost(why) => self.pipeline_broke(now_ms, 0, why),
            Event::ReplacementFound(found) => self.replacement_found(found),
            Event::ReplicaTransferred(done) => self.replica_transferred(done),
            Event::GenerationStampRaised(raised) => self.generation_stamp_raised(raised),
            Event::PipelineUpdated(done) => self.pipeline_updated(now_ms, done),
            Event::TimePassed => self.time_passed(now_ms),
        }
        self.advance(now_ms);
    }

    fn advance(&mut self, now_ms: u64) {
        match self.state {
            State::Idle if self.data_queue.is_empty() => {}
            State::Idle if self.block.is_some() => self.recover(Purpose::Append, None),
            State::Idle => self.allocate(0, now_ms),
            State::Streaming => self.send_packets(now_ms),
            _ => {}
        }
    }

    fn allocate(&mut self, attempt: u32, now_ms: u64) {
        self.excluded.retain(|(_, until_ms)| *until_ms > now_ms);
        self.state = State::Allocating { attempt };
        if u128::from(now_ms) > FIRST_BLOCK_GOOD_FOR.as_millis() {
            self.give_back_allocated();
        }
        if let Some(located) = self.allocated.take() {
            return self.actions.push_back(Action::TakeAllocated(located));
        }
        self.actions.push_back(Action::AllocateBlock {
            previous: self.finished.clone(),
            excluded: self.excluded.iter().map(|(datanode, _)| datanode.clone()).collect(),
        });
    }

    fn give_back_allocated(&mut self) {
        let unused = self.allocated.take().map(|located| ExtendedBlock::from(&located.b));
        self.actions.extend(unused.map(Action::AbandonBlock));
    }

    fn block_allocated(&mut self, allocated: Result<Box<LocatedBlockProto>, ClientError>) {
        let State::Allocating { attempt } = self.state else {
            return;
        };
        let located = match allocated {
            Ok(located) => located,
            Err(error) => return self.fail(error),
        };
        if located.locs.is_empty() {
            let block = ExtendedBlock::from(&located.b);
            return self.give_up(format!("the namenode gives no datanode for {block}"));
        }
        let open = OpenBlock::new(&located);
        let setup = open.setup(BlockConstructionStage::PipelineSetupCreate, 0, None);
        let whole_block = self.whole_block();
        self.actions.push_back(Action::OpenPipeline { setup: Box::new(setup), whole_block });
        self.block = Some(open);
        self.state = State::Creating { attempt };
    }

    fn pipeline_opened(&mut self, now_ms: u64, opened: Result<OpenedPipeline, SetupFailure>) {
        match (&self.state, opened) {
            (State::Creating { .. }, Ok(pipeline)) => {
                self.pipeline = pipeline;
                match pipeline.has_block {
                    true => self.whole_block_sent(now_ms),
                    false => self.stream(now_ms),
                }
            }
            (State::Creating { attempt }, Err(failure)) => {
                let attempt = *attempt;
                self.creation_failed(attempt, failure, now_ms);
            }
            (State::Recovering(_), opened) => self.recovered_pipeline_opened(now_ms, opened),
            _ => {}
        }
    }

    /// A block that no pipeline wrote to is given back, and the next one avoids the bad datanode.
    fn creation_failed(&mut self, attempt: u32, failure: SetupFailure, now_ms: u64) {
        let Some(open) = self.block.take() else {
            return;
        };
        let bad = open.blamed(failure.bad_link.as_deref());
        let until_ms = now_ms + self.rules.exclusion.as_millis() as u64;
        self.excluded.push((open.nodes[bad].datanode.clone(), until_ms));
        self.actions.push_back(Action::ClosePipeline);
        self.actions.push_back(Action::AbandonBlock(open.block.clone()));
        if attempt >= self.rules.block_write_retries {
            let tries = attempt + 1;
            return self
                .give_up(format!("no block could be begun in {tries} tries: {}", failure.why));
        }
        self.allocate(attempt + 1, now_ms);
    }

    fn stream(&mut self, now_ms: u64) {
        self.state = State::Streaming;
        self.last_sent_ms = now_ms;
        self.last_heard_ms = now_ms;
    }

    fn send_packets(&mut self, now_ms: u64) {
        let Some(open) = &mut self.block else {
            return;
        };
        while let Some(packet) = self.data_queue.front() {
            let last = packet.last_in_block;
            if last && !self.ack_queue.is_empty() && !self.pipeline.reopens_finalized {
                return;
            }
            if self.ack_queue.is_empty() {
                self.last_heard_ms = now_ms;
            }
            self.last_sent_ms = now_ms;
            open.bytes_sent = open.bytes_sent.max(packet.end());
            self.actions.push_back(Action::Send(packet.clone()));
            self.ack_queue.extend(self.data_queue.pop_front());
            if last {
                self.state = State::Closing;
                return;
            }
        }
    }

    fn acknowledged(&mut self, now_ms: u64, ack: PipelineAck) {
        if !matches!(self.state, State::Streaming | State::Closing) {
            return;
        }
        self.last_heard_ms = now_ms;
        if let Some(restarting) = ack.replies.iter().position(|reply| *reply == Status::OobRestart)
        {
            return self.datanode_restarts(now_ms, restarting);
        }
        // Datanodes behind a bad one did not get to answer: the last bad one is the nearest cause.
        if let Some(bad) = ack.replies.iter().rposition(|status| *status != Status::Success) {
            let why = format!("answers {:?} to a packet", ack.replies[bad]);
            return self.pipeline_broke(now_ms, bad, why);
        }
        if ack.seqno == HEARTBEAT_SEQNO {
            return;
        }
        let Some(packet) = self.ack_queue.pop_front_if(|first| first.seqno == ack.seqno) else {
            let first = self.ack_queue.front().map(|packet| packet.seqno);
            let why = format!("acknowledges packet {} where {first:?} is due", ack.seqno);
            return self.pipeline_broke(now_ms, 0, why);
        };
        if let Some(open) = &mut self.block {
            let acked = &mut open.block.block.num_bytes;
            *acked = packet.end().max(*acked);
        }
        self.recoveries = 0;
        self.actions.push_back(Action::Acknowledged(packet.seqno));
        if packet.last_in_block {
            self.actions.push_back(Action::ClosePipeline);
            self.finish_block();
        }
    }

    fn finish_block(&mut self) {
        self.finished = self.block.take().map(|open| open.block);
        self.state = State::Idle;
    }

    fn pipeline_broke(&mut self, now_ms: u64, bad: usize, why: String) {
        if self.is_sealed_early() {
            return self.begin_block_anew(bad, why, now_ms);
        }
        if matches!(self.state, State::Streaming | State::Closing) {
            self.recover(self.purpose(), Some((bad, why)));
        }
    }

    /// A datanode announces its restart: the only one, or one of this host, is waited for.
    fn datanode_restarts(&mut self, now_ms: u64, index: usize) {
        let Some(node) = self.block.as_ref().and_then(|open| open.nodes.get(index)) else {
            return self.pipeline_broke(now_ms, index, "restarts".to_owned());
        };
        let is_only = self.block.as_ref().is_some_and(|open| open.nodes.len() == 1);
        let patience_ms = self.rules.restart_timeout.as_millis() as u64;
        let is_waited_for = is_only || (self.rules.is_local)(&node.datanode.id.ip_addr);
        if patience_ms == 0 || !is_waited_for || self.is_sealed_early() {
            return self.pipeline_broke(now_ms, index, "restarts".to_owned());
        }
        let address = node.address();
        self.await_restart(self.purpose(), address, now_ms, now_ms + patience_ms);
    }

    /// Of a recovery that becomes necessary now.
    fn purpose(&self) -> Purpose {
        match (&self.state, self.ack_queue.front()) {
            (State::Closing, Some(oldest)) if oldest.last_in_block => Purpose::Close,
            _ => Purpose::Streaming,
        }
    }

    fn time_passed(&mut self, now_ms: u64) {
        if let State::Recovering(_) = self.state {
            return self.try_restarted(now_ms);
        }
        if !matches!(self.state, State::Streaming | State::Closing) {
            return;
        }
        if self.ack_deadline_ms().is_some_and(|deadline_ms| now_ms >= deadline_ms) {
            let silence = now_ms - self.last_heard_ms;
            return self.pipeline_broke(now_ms, 0, format!("no ack for {silence} ms"));
        }
        if now_ms >= self.last_sent_ms + self.heartbeat_interval_ms() {
            self.last_sent_ms = now_ms;
            self.actions.push_back(Action::SendHeartbeat);
        }
    }

    /// Half the time after which a datanode hangs up on a silent writer.
    fn heartbeat_interval_ms(&self) -> u64 {
        (self.rules.timeouts.socket / 2).as_millis() as u64
    }

    fn ack_deadline_ms(&self) -> Option<u64> {
        let nodes = self.block.as_ref()?.nodes.len();
        (!self.ack_queue.is_empty())
            .then(|| self.last_heard_ms + self.rules.timeouts.of_reply(nodes).as_millis() as u64)
    }

    fn give_up(&mut self, why: String) {
        self.fail(ClientError::Pipeline { path: self.rules.path.clone(), why });
    }

    fn fail(&mut self, error: ClientError) {
        self.state = State::Failed;
        self.data_queue.clear();
        self.ack_queue.clear();
        self.actions.push_back(Action::ClosePipeline);
        self.actions.push_back(Action::Failed(error));
    }
}

impl OpenBlock {
    fn new(located: &LocatedBlockProto) -> Self {
        Self {
            block: ExtendedBlock::from(&located.b),
            token: located.block_token.clone(),
            nodes: pipeline_nodes(located),
            failed: Vec::new(),
            bytes_sent: 0,
            appended: false,
        }
    }

    fn setup(
        &self,
        stage: BlockConstructionStage,
        latest_generation_stamp: u64,
        token: Option<&TokenProto>,
    ) -> PipelineSetup {
        PipelineSetup {
            block: self.block.clone(),
            token: token.unwrap_or(&self.token).clone(),
            nodes: self.nodes.clone(),
            stage,
            min_bytes: self.block.block.num_bytes,
            max_bytes: self.bytes_sent,
            latest_generation_stamp,
        }
    }

    /// The datanode at fault: the one named, else the first, whom we talk to.
    fn blamed(&self, bad_link: Option<&str>) -> usize {
        let named = |link| self.nodes.iter().position(|node| node.address() == link);
        bad_link.and_then(named).unwrap_or(0)
    }
}

impl PipelineNode {
    /// `ip:port` of its data port, as datanodes name each other in `firstBadLink`.
    pub fn address(&self) -> String {
        transfer_address(&self.datanode.id)
    }
}

pub(crate) fn transfer_address(id: &DatanodeIDProto) -> String {
    format!("{}:{}", id.ip_addr, id.xfer_port)
}

fn pipeline_nodes(located: &LocatedBlockProto) -> Vec<PipelineNode> {
    let node = |(index, datanode): (usize, &DatanodeInfoProto)| PipelineNode {
        datanode: datanode.clone(),
        storage_type: *located.storage_types.get(index).unwrap_or(&(StorageTypeProto::Disk as i32)),
        storage_id: located.storage_ids.get(index).cloned().unwrap_or_default(),
    };
    located.locs.iter().enumerate().map(node).collect()
}

#[cfg(test)]
mod model_cluster;

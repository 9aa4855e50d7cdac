//! Does what a file's streamer wants done: one task per open file.
//!
//! The task owns the streamer, the pipeline's connection and the callers that wait for acks. It
//! takes packets from the writer's channel only while the streamer has room, which is the writer's
//! back-pressure. An action that needs an answer is waited for on the spot: the streamer has no
//! pipeline open meanwhile, so nothing is left undone. The task ends when the writer is gone, when it
//! has closed the file, or at the first error that no recovery helps, which later calls are told.

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringfs_protocol::block::ExtendedBlock;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::ClientError;
use crate::datanode_stream::DatanodeConnector;
use crate::limits::COMMANDS_QUEUED_MAX;
use crate::namenode::{Namenode, OpenFile};
use crate::packetizer::Packet;
use crate::streamer::{Action, Event, OpenedPipeline, PipelineNode, Streamer};
use crate::write_pipeline::{WriteOptions, WritePipeline, transfer_replica};

/// What the writer asks of its driver.
#[derive(Debug)]
pub(crate) enum Command {
    Send(Vec<Packet>),
    /// Answer when the packet is acknowledged; what is acknowledged is promised to readers from now on.
    Flush {
        seqno: i64,
        done: oneshot::Sender<()>,
    },
    /// Answer with the last block when the packet is acknowledged, and end.
    Finish {
        seqno: i64,
        done: oneshot::Sender<Option<ExtendedBlock>>,
    },
    Abort,
}

/// What the driver tells the writer beside its answers.
#[derive(Debug, Default)]
pub(crate) struct DriverReport {
    /// Why the driver ended.
    pub failure: OnceLock<ClientError>,
    /// A block was begun that the namenode has not been asked to remember.
    pub has_new_block: AtomicBool,
}

pub(crate) struct StreamDriver {
    streamer: Streamer,
    namenode: Namenode,
    connector: DatanodeConnector,
    file: OpenFile,
    options: WriteOptions,
    favored_nodes: Vec<String>,
    report: Arc<DriverReport>,
    commands: mpsc::Receiver<Command>,
    pipeline: Option<WritePipeline>,
    acknowledged: i64,
    flushes: Vec<(i64, oneshot::Sender<()>)>,
    finish: Option<(i64, oneshot::Sender<Option<ExtendedBlock>>)>,
    started: Instant,
}

/// Whether the driver goes on.
enum Flow {
    GoOn,
    End,
}

impl StreamDriver {
    pub fn new(
        streamer: Streamer,
        namenode: Namenode,
        connector: DatanodeConnector,
        file: OpenFile,
        options: WriteOptions,
        favored_nodes: Vec<String>,
    ) -> (Self, mpsc::Sender<Command>, Arc<DriverReport>) {
        let (sender, commands) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let report = Arc::<DriverReport>::default();
        let driver = Self {
            streamer,
            namenode,
            connector,
            file,
            options,
            favored_nodes,
            report: report.clone(),
            commands,
            pipeline: None,
            acknowledged: -1,
            flushes: Vec::new(),
            finish: None,
            started: Instant::now(),
        };
        (driver, sender, report)
    }

    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(COMMANDS_QUEUED_MAX);
        loop {
            while let Some(action) = self.streamer.next_action() {
                if let Some(action) = self.perform_at_once(action)
                    && let Some(event) = self.perform(action).await
                {
                    self.tell(event);
                    // Acks of a whole block come with the reply to its set-up.
                    self.receive();
                }
            }
            if self.report.failure.get().is_some() || self.answer_waiting() {
                return;
            }
            let deadline =
                self.streamer.deadline_ms().map(|ms| self.started + Duration::from_millis(ms));
            let pipeline = self.pipeline.as_ref();
            // In this order, so that what is queued leaves before more is taken.
            tokio::select! {
                biased;
                () = writable(pipeline) => self.send(),
                () = readable(pipeline) => self.receive(),
                count = self.commands.recv_many(&mut batch, COMMANDS_QUEUED_MAX),
                    if self.streamer.has_room() =>
                {
                    if count == 0 {
                        warn!("{}: dropped without being closed", self.file.path);
                        return;
                    }
                    for command in batch.drain(..) {
                        if let Flow::End = self.obey(command) {
                            return;
                        }
                    }
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)),
                    if deadline.is_some() => self.tell(Event::TimePassed),
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        self.streamer.on_event(now_ms, event);
    }

    fn obey(&mut self, command: Command) -> Flow {
        match command {
            Command::Send(packets) => {
                packets.into_iter().for_each(|packet| self.tell(Event::Enqueued(packet)));
            }
            Command::Flush { seqno, done } => {
                self.tell(Event::Flushed);
                self.flushes.push((seqno, done));
            }
            Command::Finish { seqno, done } => {
                self.tell(Event::Ended);
                self.finish = Some((seqno, done));
            }
            Command::Abort => return Flow::End,
        }
        Flow::GoOn
    }

    /// Answers those whose packets are acknowledged; true when that was the last answer due.
    fn answer_waiting(&mut self) -> bool {
        let at_once = ringfs_protocol::mutant!("client: flush without an ack");
        let acknowledged = if at_once { i64::MAX } else { self.acknowledged };
        for (_, done) in self.flushes.extract_if(.., |(seqno, _)| *seqno <= acknowledged) {
            let _ = done.send(()); // A flush that was given up waits no more.
        }
        match self.finish.take_if(|(seqno, _)| *seqno <= acknowledged) {
            Some((_, done)) => {
                let _ = done.send(self.streamer.last_block().cloned());
                true
            }
            None => false,
        }
    }

    /// Does what waits for nothing, as what each packet needs; gives back any other action.
    fn perform_at_once(&mut self, action: Action) -> Option<Action> {
        match action {
            Action::Send(packet) => self.push(packet),
            Action::SendHeartbeat => self.push(Packet::heartbeat()),
            Action::Acknowledged(seqno) => self.acknowledged = seqno,
            Action::ClosePipeline => self.close_pipeline(),
            other => return Some(other),
        }
        None
    }

    fn close_pipeline(&mut self) {
        if let Some(pipeline) = self.pipeline.take() {
            pipeline.close(&self.connector.idle_connections);
        }
    }

    fn push(&mut self, packet: Packet) {
        if let Some(pipeline) = &mut self.pipeline {
            pipeline.push(packet);
        }
    }

    /// The event that answers `action`, if one does.
    async fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::OpenPipeline { setup, whole_block } => {
                let (connector, options) = (&self.connector, &self.options);
                let opened = WritePipeline::open(connector, options, &setup, whole_block).await;
                Some(Event::PipelineOpened(opened.map(|pipeline| {
                    let reopens_finalized = pipeline.reopens_finalized;
                    let has_block = pipeline.has_block();
                    self.pipeline = Some(pipeline);
                    OpenedPipeline { reopens_finalized, has_block }
                })))
            }
            Action::TakeAllocated(located) => {
                self.report.has_new_block.store(true, Ordering::Relaxed);
                Some(Event::BlockAllocated(Ok(located)))
            }
            Action::AllocateBlock { previous, excluded } => {
                let favored = &self.favored_nodes;
                let previous = previous.as_ref();
                let block = self.namenode.add_block(&self.file, previous, excluded, favored).await;
                self.report.has_new_block.store(true, Ordering::Relaxed);
                Some(Event::BlockAllocated(block.map(Box::new)))
            }
            Action::AbandonBlock(block) => {
                // It is the last block of the file: should it stay, addBlock refuses the next one.
                if let Err(error) = self.namenode.abandon_block(&self.file, &block).await {
                    warn!("{}: could not abandon {block}: {error}", self.file.path);
                }
                None
            }
            Action::Failed(error) => {
                debug!("{}: {error}", self.file.path);
                let _ = self.report.failure.set(error);
                None
            }
            recovery => self.perform_recovery(recovery).await,
        }
    }

    async fn perform_recovery(&mut self, action: Action) -> Option<Event> {
        let (namenode, file) = (&self.namenode, &self.file);
        match action {
            Action::FindReplacement { block, existing, excluded } => {
                let (nodes, storage_ids) = datanodes_and_storages(existing);
                let found =
                    namenode.additional_datanode(file, &block, nodes, storage_ids, excluded).await;
                Some(Event::ReplacementFound(found.map(Box::new)))
            }
            Action::TransferReplica { block, token, source, target } => {
                let name = &self.options.client_name;
                let done =
                    transfer_replica(&self.connector, name, &block, *token, &source, *target).await;
                Some(Event::ReplicaTransferred(done))
            }
            Action::RaiseGenerationStamp(block) => {
                let raised = namenode.update_block_for_pipeline(file, &block).await;
                Some(Event::GenerationStampRaised(raised.map(Box::new)))
            }
            Action::UpdatePipeline { old_block, new_block, nodes } => {
                let (nodes, storage_ids) = datanodes_and_storages(nodes);
                let ids = nodes.into_iter().map(|node| node.id).collect();
                let done =
                    namenode.update_pipeline(file, &old_block, &new_block, ids, storage_ids).await;
                Some(Event::PipelineUpdated(done))
            }
            _ => None,
        }
    }

    /// A write fails when the first datanode is gone or hung up. It may have told before whom it
    /// blames, so the loss is taken from the reading side, which comes to it after the acks.
    fn send(&mut self) {
        if let Some(pipeline) = &mut self.pipeline
            && let Err(error) = pipeline.send()
        {
            debug!("{}: the pipeline takes no more packets: {error}", self.file.path);
            pipeline.discard_outgoing();
        }
    }

    fn receive(&mut self) {
        let lost = |what: &str, error: &dyn std::fmt::Display| {
            Event::PipelineLost(format!("{what}: {error}"))
        };
        loop {
            let Some(pipeline) = &mut self.pipeline else {
                return;
            };
            match pipeline.next_ack() {
                Ok(Some(ack)) => {
                    self.tell(Event::Acknowledged(ack));
                    continue;
                }
                Ok(None) => {}
                Err(error) => return self.tell(lost("sends no ack", &error)),
            }
            match pipeline.receive() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.tell(lost("hung up", &error));
                }
                Err(error) => return self.tell(lost("is lost", &error)),
            }
        }
    }
}

/// An error shows when the socket is used.
async fn writable(pipeline: Option<&WritePipeline>) {
    match pipeline {
        Some(pipeline) if pipeline.has_outgoing() => drop(pipeline.writable().await),
        _ => pending().await,
    }
}

async fn readable(pipeline: Option<&WritePipeline>) {
    match pipeline {
        Some(pipeline) => drop(pipeline.readable().await),
        None => pending().await,
    }
}

fn datanodes_and_storages(
    nodes: Vec<PipelineNode>,
) -> (Vec<ringfs_protocol::messages::DatanodeInfoProto>, Vec<String>) {
    nodes.into_iter().map(|node| (node.datanode, node.storage_id)).unzip()
}

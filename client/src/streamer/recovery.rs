//! Recovery of a broken pipeline, and the reopening of a block for append, which goes the same way.
//!
//! ```text
//! drop the bad datanode -> [Replacing -> Transferring] -> Stamping -> Opening -> Updating
//!        ^                                                              |
//!        +--------------------- another one is bad ---------------------+
//! ```
//!
//! The new generation stamp shuts out the dropped datanode: its replica, whatever it holds, is stale
//! from then on. `min_bytes` (acknowledged) and `max_bytes` (sent) tell the others what their
//! replicas may be. A datanode that announced its restart is not dropped: Opening is tried until it is
//! back, or its time is over. After Updating the unacknowledged packets are sent again.

use super::*;
use crate::limits::{RECOVERIES_PER_PACKET_MAX, REPLACEMENTS_TRIED_MAX, RESTART_PAUSE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// First pipeline of an appended block.
    Append,
    Streaming,
    /// All bytes are acknowledged, only the end of the block is not.
    Close,
}

#[derive(Debug)]
pub(super) struct Recovery {
    purpose: Purpose,
    /// Whether a datanode failed: the first attempt of an append is no recovery.
    failed: bool,
    /// The address of a datanode that announced its restart, and until when it may be out of reach.
    restarting: Option<(String, u64)>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// A datanode restarts.
    Waiting {
        until_ms: u64,
    },
    Replacing {
        tried: u32,
    },
    Transferring {
        tried: u32,
        nodes: Vec<PipelineNode>,
        target: usize,
    },
    Stamping,
    Opening {
        stamp: GenerationStamp,
        token: TokenProto,
    },
    Updating {
        stamp: GenerationStamp,
        token: TokenProto,
    },
}

impl Recovery {
    /// When it goes on by itself.
    pub(super) fn resumes_ms(&self) -> Option<u64> {
        match self.step {
            Step::Waiting { until_ms } => Some(until_ms),
            _ => None,
        }
    }
}

impl Streamer {
    /// `bad`: the datanode at fault, and what it did.
    pub(super) fn recover(&mut self, purpose: Purpose, bad: Option<(usize, String)>) {
        self.begin_recovery(purpose, None, Step::Stamping);
        let Some((index, why)) = bad else {
            let open = self.block.as_ref().filter(|open| open.nodes.is_empty());
            return match open.map(|open| open.block.clone()) {
                Some(block) => self.give_up(format!("no datanode has {block}, to append to it")),
                None => self.replace_or_stamp(),
            };
        };
        self.actions.push_back(Action::ClosePipeline);
        self.recoveries += 1;
        if self.recoveries > RECOVERIES_PER_PACKET_MAX {
            return self.give_up(format!(
                "no packet was acknowledged in {RECOVERIES_PER_PACKET_MAX} recoveries of the \
                 pipeline; at last its datanode {why}"
            ));
        }
        self.drop_datanode(index, why);
    }

    fn begin_recovery(&mut self, purpose: Purpose, restarting: Option<(String, u64)>, step: Step) {
        if ringfs_protocol::mutant!("client: forget unacknowledged packets") {
            self.ack_queue.clear();
        }
        while let Some(packet) = self.ack_queue.pop_back() {
            self.data_queue.push_front(packet);
        }
        let recovery = Recovery { purpose, failed: false, restarting, step };
        self.state = State::Recovering(recovery);
    }

    /// Leaves the pipeline's members as they are, and tries to reach them anew until `until_ms`.
    pub(super) fn await_restart(
        &mut self,
        purpose: Purpose,
        node: String,
        now_ms: u64,
        until_ms: u64,
    ) {
        tracing::info!("{}: datanode {node} restarts: it is waited for", self.rules.path);
        let next_ms = now_ms + RESTART_PAUSE.as_millis() as u64;
        self.begin_recovery(purpose, Some((node, until_ms)), Step::Waiting { until_ms: next_ms });
        self.actions.push_back(Action::ClosePipeline);
    }

    pub(super) fn try_restarted(&mut self, now_ms: u64) {
        if let Some(Step::Waiting { until_ms }) = self.step()
            && *until_ms <= now_ms
        {
            self.raise_generation_stamp();
        }
    }

    fn drop_datanode(&mut self, index: usize, why: String) {
        let (Some(open), State::Recovering(recovery)) = (&mut self.block, &mut self.state) else {
            return;
        };
        recovery.failed = true;
        // An ack may name more datanodes than there are; the last is then the culprit.
        let kept =
            ringfs_protocol::mutant!("client: keep the bad datanode") && open.nodes.len() > 1;
        let index = if kept { (index + 1) % open.nodes.len() } else { index };
        let bad = open.nodes.remove(index.min(open.nodes.len() - 1));
        tracing::warn!(
            "{}: {}: datanode {} {why}; going on with {} others",
            self.rules.path,
            open.block,
            bad.address(),
            open.nodes.len()
        );
        if open.nodes.is_empty() {
            let (address, block) = (bad.address(), open.block.clone());
            return self.give_up(format!(
                "all datanodes of {block} are bad, the last one, {address}, {why}"
            ));
        }
        open.failed.push(bad.datanode);
        self.replace_or_stamp();
    }

    fn replace_or_stamp(&mut self) {
        let (Some(open), State::Recovering(recovery)) = (&self.block, &self.state) else {
            return;
        };
        let promised = open.appended || self.flushed;
        let policy = self.rules.replacement;
        if recovery.purpose != Purpose::Close
            && policy.replaces(self.rules.replication, open.nodes.len(), promised)
        {
            return self.find_replacement(0);
        }
        self.raise_generation_stamp();
    }

    fn find_replacement(&mut self, tried: u32) {
        let Some(open) = &self.block else {
            return;
        };
        self.actions.push_back(Action::FindReplacement {
            block: open.block.clone(),
            existing: open.nodes.clone(),
            excluded: open.failed.clone(),
        });
        self.set_step(Step::Replacing { tried });
    }

    pub(super) fn replacement_found(&mut self, found: Result<Box<LocatedBlockProto>, ClientError>) {
        let (Some(open), Some(Step::Replacing { tried })) = (&self.block, self.step()) else {
            return;
        };
        let tried = *tried;
        let located = match found {
            Ok(located) => located,
            Err(error) => return self.no_replacement(error.to_string()),
        };
        let nodes = pipeline_nodes(&located);
        let known = |node: &PipelineNode| {
            let uuid = &node.datanode.id.datanode_uuid;
            open.nodes.iter().any(|old| old.datanode.id.datanode_uuid == *uuid)
        };
        let target = nodes.iter().position(|node| !known(node));
        let Some(target) = target.filter(|_| nodes.len() == open.nodes.len() + 1) else {
            return self.no_replacement("there is no other datanode to take its place".to_owned());
        };
        self.actions.push_back(Action::TransferReplica {
            block: open.block.clone(),
            token: Box::new(located.block_token.clone()),
            source: Box::new(open.nodes[tried as usize % open.nodes.len()].clone()),
            target: Box::new(nodes[target].clone()),
        });
        self.set_step(Step::Transferring { tried, nodes, target });
    }

    pub(super) fn replica_transferred(&mut self, done: Result<(), ClientError>) {
        let State::Recovering(recovery) = &mut self.state else {
            return;
        };
        let Step::Transferring { tried, nodes, target } =
            std::mem::replace(&mut recovery.step, Step::Stamping)
        else {
            return;
        };
        let Some(open) = &mut self.block else {
            return;
        };
        match done {
            Ok(()) => {
                open.nodes = nodes;
                self.raise_generation_stamp();
            }
            Err(error) => {
                open.failed.push(nodes[target].datanode.clone());
                if tried + 1 < REPLACEMENTS_TRIED_MAX {
                    self.find_replacement(tried + 1);
                } else {
                    self.no_replacement(error.to_string());
                }
            }
        }
    }

    fn no_replacement(&mut self, why: String) {
        if self.rules.replacement_best_effort {
            tracing::warn!("{}: no replacement for a bad datanode: {why}", self.rules.path);
            return self.raise_generation_stamp();
        }
        self.give_up(format!(
            "failed to replace a bad datanode in the pipeline: {why} \
             (dfs.client.block.write.replace-datanode-on-failure.policy says when one is needed, \
             .best-effort to go on without)"
        ));
    }

    fn raise_generation_stamp(&mut self) {
        if let Some(open) = &self.block {
            self.actions.push_back(Action::RaiseGenerationStamp(open.block.clone()));
            self.set_step(Step::Stamping);
        }
    }

    pub(super) fn generation_stamp_raised(
        &mut self,
        raised: Result<Box<LocatedBlockProto>, ClientError>,
    ) {
        let (Some(open), State::Recovering(recovery)) = (&self.block, &mut self.state) else {
            return;
        };
        let located = match raised {
            Ok(located) => located,
            Err(error) => return self.fail(error),
        };
        let stage = match (recovery.purpose, recovery.failed) {
            (Purpose::Append, false) => BlockConstructionStage::PipelineSetupAppend,
            (Purpose::Append, true) => BlockConstructionStage::PipelineSetupAppendRecovery,
            (Purpose::Streaming, _) => BlockConstructionStage::PipelineSetupStreamingRecovery,
            (Purpose::Close, _) => BlockConstructionStage::PipelineCloseRecovery,
        };
        let stamp = GenerationStamp(located.b.generation_stamp);
        let token = located.block_token;
        let setup = open.setup(stage, stamp.0, Some(&token));
        let (setup, whole_block) = (Box::new(setup), Vec::new());
        self.actions.push_back(Action::OpenPipeline { setup, whole_block });
        recovery.step = Step::Opening { stamp, token };
    }

    pub(super) fn recovered_pipeline_opened(
        &mut self,
        now_ms: u64,
        opened: Result<OpenedPipeline, SetupFailure>,
    ) {
        let (Some(open), State::Recovering(recovery)) = (&self.block, &mut self.state) else {
            return;
        };
        let Step::Opening { stamp, token } = &recovery.step else {
            return;
        };
        if let Err(failure) = &opened {
            let bad = open.blamed(failure.bad_link.as_deref());
            let address = open.nodes[bad].address();
            let may_return =
                |(node, until_ms): &(String, u64)| *node == address && now_ms < *until_ms;
            if recovery.restarting.as_ref().is_some_and(may_return) {
                let until_ms = now_ms + RESTART_PAUSE.as_millis() as u64;
                recovery.step = Step::Waiting { until_ms };
                return;
            }
            return self.drop_datanode(bad, failure.why.clone());
        }
        let mut new_block = open.block.clone();
        new_block.block.generation_stamp = *stamp;
        self.actions.push_back(Action::UpdatePipeline {
            old_block: open.block.clone(),
            new_block,
            nodes: open.nodes.clone(),
        });
        recovery.step = Step::Updating { stamp: *stamp, token: token.clone() };
        self.pipeline = opened.unwrap_or_default();
    }

    pub(super) fn pipeline_updated(&mut self, now_ms: u64, done: Result<(), ClientError>) {
        let (Some(open), State::Recovering(recovery)) = (&mut self.block, &mut self.state) else {
            return;
        };
        let Step::Updating { stamp, token } = &recovery.step else {
            return;
        };
        if let Err(error) = done {
            return self.fail(error);
        }
        open.block.block.generation_stamp = *stamp;
        open.token = token.clone();
        if recovery.purpose != Purpose::Close {
            return self.stream(now_ms);
        }
        // The datanodes finished their replicas when they set the pipeline up: the block's last
        // packet, the first of the queue, has nothing more to say.
        self.actions.push_back(Action::ClosePipeline);
        if let Some(last) = self.data_queue.pop_front_if(|packet| packet.last_in_block) {
            self.actions.push_back(Action::Acknowledged(last.seqno));
        }
        self.finish_block();
    }

    fn step(&self) -> Option<&Step> {
        match &self.state {
            State::Recovering(recovery) => Some(&recovery.step),
            _ => None,
        }
    }

    fn set_step(&mut self, step: Step) {
        if let State::Recovering(recovery) = &mut self.state {
            recovery.step = step;
        }
    }
}

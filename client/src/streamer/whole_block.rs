//! A small block that is sent with the set-up of its pipeline, all packets at once.
//!
//! That happens where the connection was kept behind a block before, so that its datanode knows of it
//! (`following_bytes` of WRITE_BLOCK). Should the set-up fail, the packets are in the data queue still, and
//! go with the next attempt. Should the pipeline break afterwards, while packets before the last one are
//! unacknowledged, some datanodes may have finalized their replicas: where these are not reopened, the
//! block is given up as one whose set-up failed, for nothing of it was promised to anybody.

use ringfs_protocol::limits::{WHOLE_BLOCK_MAX_BYTES, WHOLE_BLOCK_PACKETS_MAX};

use super::*;

impl Streamer {
    /// The packets of the block that begins now, if they are all here and few enough; else none.
    pub(super) fn whole_block(&self) -> Vec<Packet> {
        let mut bytes = 0;
        for (index, packet) in self.data_queue.iter().enumerate() {
            bytes += packet.data.len();
            if packet.sync || bytes > WHOLE_BLOCK_MAX_BYTES || index == WHOLE_BLOCK_PACKETS_MAX {
                break;
            }
            if packet.last_in_block {
                return self.data_queue.range(..=index).cloned().collect();
            }
        }
        Vec::new()
    }

    /// The set-up took the block's packets with it.
    pub(super) fn whole_block_sent(&mut self, now_ms: u64) {
        self.stream(now_ms);
        while let Some(packet) = self.data_queue.pop_front() {
            if let Some(open) = &mut self.block {
                open.bytes_sent = open.bytes_sent.max(packet.end());
            }
            let last = packet.last_in_block;
            self.ack_queue.push_back(packet);
            if last {
                break;
            }
        }
        self.state = State::Closing;
    }

    /// Whether a broken pipeline cannot be gone on with: replicas may be finalized though there are
    /// packets to send once more, and are not reopened.
    pub(super) fn is_sealed_early(&self) -> bool {
        matches!(self.state, State::Closing)
            && !self.pipeline.reopens_finalized
            && self.ack_queue.front().is_some_and(|oldest| !oldest.last_in_block)
    }

    /// Gives the block up, and sends its packets to another one.
    pub(super) fn begin_block_anew(&mut self, bad: usize, why: String, now_ms: u64) {
        while let Some(packet) = self.ack_queue.pop_back() {
            self.data_queue.push_front(packet);
        }
        let node = self.block.as_ref().and_then(|open| open.nodes.get(bad));
        let failure = SetupFailure { bad_link: node.map(PipelineNode::address), why };
        self.recoveries += 1;
        self.creation_failed(self.recoveries - 1, failure, now_ms);
    }
}

//! A writer of blocks, one after the other: WRITE_BLOCK, packets out and acks in, the closing packet.
//!
//! A packet's latency runs from the moment it was due: by the plan of an open loop, else when the
//! window had room for it. A planned packet that the window or the change of blocks holds up is sent
//! late and counts from its planned time all the same.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringfs_protocol::messages::*;
use ringfs_protocol::operation::Opcode;
use ringfs_protocol::packet::{
    HEARTBEAT_SEQNO, PACKET_PREFIX_MAX_BYTES, PacketHeader, PipelineAck, decode_ack,
    encode_packet_prefix,
};

use super::block_source::{PipelineBlock, PipelineNode, client_name};
use super::connection::{Connection, Received};
use super::event_loop::Stream;
use super::limits::ACK_RECEIVE_BYTES;
use super::options::{CHECKSUM, Durability, PipelineOptions};
use super::payload::Payload;
use super::progress::{Plan, Progress};
use crate::BenchError;
use crate::report::Latency;

/// What all writers of a run have in common.
#[derive(Debug)]
pub struct WriteRules {
    pub payload: Payload,
    pub packet_data_bytes: usize,
    pub window_packets: usize,
    pub block_size: u64,
    pub sync_packets: bool,
    pub sync_close: bool,
    pub client_name: String,
}

#[derive(Debug)]
pub struct WriteStream {
    index: usize,
    rules: Arc<WriteRules>,
    progress: Arc<Progress>,
    plan: Option<Plan>,
    block: PipelineBlock,
    further_blocks: VecDeque<PipelineBlock>,
    connection: Connection,
    connections: usize,
    /// WRITE_BLOCK was answered.
    is_set_up: bool,
    started: Option<Instant>,
    /// Sends no closing packet yet.
    is_held_open: bool,
    is_closing: bool,
    is_done: bool,
    /// Data cut into packets, in the block and in all.
    offset: u64,
    stream_offset: u64,
    next_seqno: i64,
    in_flight: VecDeque<InFlight>,
    pub latency: Latency,
    /// From the WRITE_BLOCK to its reply, and from the closing packet to its ack.
    pub opening: Duration,
    pub closing: Duration,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    seqno: i64,
    due: Instant,
    data_len: u64,
}

impl WriteRules {
    pub fn new(options: &PipelineOptions) -> Self {
        let packet_data_bytes = options.packet_data_bytes();
        Self {
            payload: Payload::new(packet_data_bytes),
            packet_data_bytes,
            window_packets: options.window_packets(),
            block_size: options.block_size,
            sync_packets: options.durability == Durability::Hsync,
            sync_close: matches!(options.durability, Durability::Hsync | Durability::CloseSync),
            client_name: client_name(),
        }
    }
}

impl WriteStream {
    /// Begins to connect for the first of `blocks`; no packet goes out before [`Self::start`].
    pub fn open(
        index: usize,
        rules: &Arc<WriteRules>,
        progress: &Arc<Progress>,
        plan: Option<Plan>,
        blocks: impl IntoIterator<Item = PipelineBlock>,
    ) -> Result<Self, BenchError> {
        let mut further_blocks: VecDeque<_> = blocks.into_iter().collect();
        let block = further_blocks.pop_front().expect("a stream has at least a byte");
        let connection = connect(rules, &block)?;
        Ok(Self {
            index,
            rules: rules.clone(),
            progress: progress.clone(),
            plan,
            block,
            further_blocks,
            connection,
            connections: 1,
            is_set_up: false,
            started: None,
            is_held_open: false,
            is_closing: false,
            is_done: false,
            offset: 0,
            stream_offset: 0,
            next_seqno: 0,
            in_flight: VecDeque::new(),
            latency: Latency::new("packet ack"),
            opening: Duration::ZERO,
            closing: Duration::ZERO,
            since: Instant::now(),
        })
    }

    pub fn start(&mut self, at: Instant) {
        self.started = Some(at);
    }

    pub fn is_set_up(&self) -> bool {
        self.is_set_up
    }

    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Keeps the block open behind its data, as a writer does that waits for more.
    pub fn hold_open(&mut self) {
        self.is_held_open = true;
    }

    /// Ends what [`Self::hold_open`] began.
    pub fn release(&mut self) {
        self.is_held_open = false;
    }

    /// All data is acked and the block held open.
    pub fn is_idle(&self) -> bool {
        self.is_held_open && self.offset == self.block.len && self.in_flight.is_empty()
    }

    /// Keeps the datanodes from giving the writer up.
    pub fn send_heartbeat(&mut self) -> Result<(), BenchError> {
        let prefix = packet_prefix(0, HEARTBEAT_SEQNO, false, 0, false);
        self.connection.push(prefix);
        self.connection.send()
    }

    fn take_acks(&mut self) -> Result<(), BenchError> {
        let now = Instant::now();
        loop {
            let decoded = decode_ack(self.connection.unread())
                .map_err(|source| self.connection.malformed(source))?;
            let Some((ack, len)) = decoded else { return Ok(()) };
            self.connection.consume(len);
            if ack.seqno != HEARTBEAT_SEQNO {
                self.take_ack(&ack, now)?;
            }
        }
    }

    fn take_ack(&mut self, ack: &PipelineAck, now: Instant) -> Result<(), BenchError> {
        let due = self.in_flight.front().map(|packet| packet.seqno);
        if due != Some(ack.seqno) || ack.replies.iter().any(|reply| *reply != Status::Success) {
            let why = format!("ack {} with {:?} where {due:?} is due", ack.seqno, ack.replies);
            return Err(self.connection.refused("a packet", &self.block.block, why));
        }
        let Some(packet) = self.in_flight.pop_front() else { return Ok(()) };
        if packet.data_len > 0 {
            self.latency.record(now.saturating_duration_since(packet.due));
            self.progress.add(self.index, packet.data_len, 1);
        } else {
            self.closing += now - packet.due;
        }
        Ok(())
    }

    fn block_is_done(&self) -> bool {
        self.is_closing && self.in_flight.is_empty()
    }

    fn next_block(&mut self) -> Result<(), BenchError> {
        let Some(block) = self.further_blocks.pop_front() else {
            self.is_done = true;
            self.progress.ended();
            return Ok(());
        };
        self.connection = connect(&self.rules, &block)?;
        self.block = block;
        self.connections += 1;
        self.since = Instant::now();
        (self.is_set_up, self.is_closing) = (false, false);
        (self.offset, self.next_seqno) = (0, 0);
        Ok(())
    }

    /// Queues what is due and fits the window.
    fn cut_packets(&mut self) {
        let now = Instant::now();
        while self.has_room() && self.offset < self.block.len {
            let Some(due) = self.next_due(now) else { return };
            let len = (self.block.len - self.offset).min(self.rules.packet_data_bytes as u64);
            self.cut(due, len as usize, false);
        }
        if self.has_room() && !self.is_held_open && self.offset == self.block.len {
            self.cut(now, 0, true);
            self.is_closing = true;
        }
    }

    fn has_room(&self) -> bool {
        self.started.is_some()
            && self.is_set_up
            && !self.is_closing
            && self.in_flight.len() < self.rules.window_packets
    }

    /// When the next packet was due, if that is not later than `now`.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        match (self.plan, self.started) {
            (Some(plan), Some(started)) => {
                Some(plan.due(started, self.stream_offset)).filter(|due| *due <= now)
            }
            _ => Some(now),
        }
    }

    fn cut(&mut self, due: Instant, data_len: usize, last: bool) {
        let seqno = self.next_seqno;
        let index = (seqno as u64).wrapping_add(7 * self.index as u64);
        let sync = if last { self.rules.sync_close } else { self.rules.sync_packets };
        self.connection.push(packet_prefix(self.offset, seqno, last, data_len, sync));
        if data_len > 0 {
            let body = self.rules.payload.packet(index, data_len);
            self.connection.push(body.checksums);
            self.connection.push(body.data);
        }
        let data_len = data_len as u64;
        self.in_flight.push_back(InFlight { seqno, due, data_len });
        self.next_seqno += 1;
        self.offset += data_len;
        self.stream_offset += data_len;
    }
}

impl Stream for WriteStream {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn connections(&self) -> usize {
        self.connections
    }

    fn advance(&mut self) -> Result<bool, BenchError> {
        if self.is_done {
            return Ok(false);
        }
        self.connection.send()?;
        let mut received = Received::MayHaveMore;
        while received == Received::MayHaveMore {
            received = self.connection.receive(ACK_RECEIVE_BYTES)?;
            if !self.is_set_up {
                let reply = self.connection.reply("WRITE_BLOCK", &self.block.block)?;
                self.is_set_up = reply.is_some();
                self.opening += if self.is_set_up { self.since.elapsed() } else { Duration::ZERO };
            }
            if self.is_set_up {
                self.take_acks()?;
            }
            if self.block_is_done() {
                self.next_block()?;
                return Ok(false);
            }
        }
        self.cut_packets();
        self.connection.send()?;
        Ok(false)
    }

    fn due(&self) -> Option<Instant> {
        let waits = self.has_room() && self.offset < self.block.len;
        waits.then(|| Some(self.plan?.due(self.started?, self.stream_offset)))?
    }
}

fn connect(rules: &WriteRules, block: &PipelineBlock) -> Result<Connection, BenchError> {
    let mut connection = Connection::open(block.nodes[0].address)?;
    connection.push_operation(Opcode::WriteBlock, &write_operation(rules, block));
    Ok(connection)
}

fn write_operation(rules: &WriteRules, block: &PipelineBlock) -> OpWriteBlockProto {
    let (first, rest) = (&block.nodes[0], &block.nodes[1..]);
    let mut extended = block.block.clone();
    // A hint of the space that the block may need.
    extended.num_bytes = Some(rules.block_size);
    OpWriteBlockProto {
        header: operation_header(&rules.client_name, extended, block.token.clone()),
        targets: rest.iter().map(|node| node.datanode.clone()).collect(),
        source: None,
        stage: BlockConstructionStage::PipelineSetupCreate as i32,
        pipeline_size: block.nodes.len() as u32,
        min_bytes_rcvd: 0,
        max_bytes_rcvd: 0,
        latest_generation_stamp: 0,
        requested_checksum: CHECKSUM.to_proto(),
        caching_strategy: Some(CachingStrategyProto { drop_behind: None, readahead: None }),
        storage_type: Some(first.storage_type),
        target_storage_types: rest.iter().map(|node| node.storage_type).collect(),
        allow_lazy_persist: None,
        pinning: Some(false),
        target_pinnings: vec![false; rest.len()],
        storage_id: storage_ids(std::slice::from_ref(first)).pop(),
        target_storage_ids: storage_ids(rest),
        keeps_connection: None,
        following_bytes: None,
    }
}

pub fn operation_header(
    client_name: &str,
    block: ExtendedBlockProto,
    token: TokenProto,
) -> ClientOperationHeaderProto {
    ClientOperationHeaderProto {
        base_header: BaseHeaderProto { block, token: Some(token), trace_info: None },
        client_name: client_name.to_owned(),
    }
}

/// All ids, or none where the namenode named none.
fn storage_ids(nodes: &[PipelineNode]) -> Vec<String> {
    let ids: Vec<_> = nodes.iter().map(|node| node.storage_id.clone()).collect();
    if ids.iter().any(String::is_empty) { Vec::new() } else { ids }
}

fn packet_prefix(offset: u64, seqno: i64, last: bool, data_len: usize, sync: bool) -> Bytes {
    let header = PacketHeader {
        offset_in_block: offset,
        seqno,
        last_packet_in_block: last,
        data_len: data_len as u32,
        sync_block: sync,
    };
    let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
    let checksums_len = CHECKSUM.checksums_len(data_len as u64) as usize;
    let len = encode_packet_prefix(&header, checksums_len, &mut prefix);
    Bytes::copy_from_slice(&prefix[..len])
}

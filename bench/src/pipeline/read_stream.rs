//! A reader of blocks: READ_BLOCK of one range after the other on one connection, packets in and
//! checked against their checksums, the closing status out.
//!
//! An operation is one READ_BLOCK. Its latency runs from the moment it was due, by the plan of an
//! open loop or when the one before it ended, until its last byte is there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use ringfs_protocol::ProtocolError;
use ringfs_protocol::checksum::{ChecksumType, DataChecksum};
use ringfs_protocol::messages::*;
use ringfs_protocol::operation::Opcode;
use ringfs_protocol::packet::{PacketFrame, decode_packet_prefix};
use ringfs_protocol::wire::encode_delimited;

use super::block_source::{PipelineBlock, client_name};
use super::connection::{Connection, Received};
use super::event_loop::Stream;
use super::limits::DATA_RECEIVE_BYTES;
use super::progress::{Plan, Progress};
use super::write_stream::operation_header;
use crate::BenchError;
use crate::report::Latency;

/// What all readers of a run have in common.
#[derive(Debug)]
pub struct ReadRules {
    pub read_bytes: u64,
    pub verify: bool,
    pub client_name: String,
}

#[derive(Debug)]
pub struct ReadStream {
    index: usize,
    rules: Arc<ReadRules>,
    progress: Arc<Progress>,
    plan: Option<Plan>,
    block: PipelineBlock,
    further_blocks: VecDeque<PipelineBlock>,
    /// The replica that is read, of each block.
    replica: usize,
    connection: Connection,
    connections: usize,
    started: Option<Instant>,
    request: Option<Request>,
    is_done: bool,
    /// Where the next request begins, in the block and in all.
    offset: u64,
    stream_offset: u64,
    pub latency: Latency,
}

/// A READ_BLOCK that was sent.
#[derive(Clone, Copy, Debug)]
struct Request {
    due: Instant,
    /// Known from the reply on.
    checksum: Option<DataChecksum>,
    received_to: u64,
    end: u64,
    next_seqno: i64,
}

impl ReadRules {
    pub fn new(read_bytes: u64, verify: bool) -> Self {
        Self { read_bytes, verify, client_name: client_name() }
    }
}

impl ReadStream {
    /// Begins to connect; no request goes out before [`Self::start`].
    pub fn open(
        index: usize,
        rules: &Arc<ReadRules>,
        progress: &Arc<Progress>,
        plan: Option<Plan>,
        blocks: impl IntoIterator<Item = PipelineBlock>,
    ) -> Result<Self, BenchError> {
        let mut further_blocks: VecDeque<_> = blocks.into_iter().collect();
        let block = further_blocks.pop_front().expect("a stream has at least a byte");
        let replica = index % block.nodes.len();
        Ok(Self {
            index,
            rules: rules.clone(),
            progress: progress.clone(),
            plan,
            connection: Connection::open(block.nodes[replica].address)?,
            block,
            further_blocks,
            replica,
            connections: 1,
            started: None,
            request: None,
            is_done: false,
            offset: 0,
            stream_offset: 0,
            latency: Latency::new("block read"),
        })
    }

    pub fn start(&mut self, at: Instant) {
        self.started = Some(at);
    }

    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Sends the next READ_BLOCK if it is due.
    fn ask(&mut self) -> Result<(), BenchError> {
        let (None, Some(started)) = (self.request, self.started) else { return Ok(()) };
        if self.offset == self.block.len && !self.next_block()? {
            return Ok(());
        }
        let now = Instant::now();
        let due = self.plan.map_or(now, |plan| plan.due(started, self.stream_offset));
        if due > now {
            return Ok(());
        }
        let len = (self.block.len - self.offset).min(self.rules.read_bytes);
        let (block, token) = (self.block.block.clone(), self.block.token.clone());
        let operation = OpReadBlockProto {
            header: operation_header(&self.rules.client_name, block, token),
            offset: self.offset,
            len,
            send_checksums: Some(self.rules.verify),
            caching_strategy: Some(CachingStrategyProto { drop_behind: None, readahead: None }),
        };
        self.connection.push_operation(Opcode::ReadBlock, &operation);
        let end = self.offset + len;
        let received_to = self.offset;
        self.request = Some(Request { due, checksum: None, received_to, end, next_seqno: 0 });
        self.offset = end;
        self.stream_offset += len;
        self.connection.send()
    }

    /// False at the end of the stream.
    fn next_block(&mut self) -> Result<bool, BenchError> {
        let Some(block) = self.further_blocks.pop_front() else {
            self.is_done = true;
            self.progress.ended();
            return Ok(false);
        };
        let address = block.nodes[self.replica].address;
        if address != self.connection.address {
            self.connection = Connection::open(address)?;
            self.connections += 1;
        }
        self.block = block;
        self.offset = 0;
        Ok(true)
    }

    /// Takes what has been received whole.
    fn take(&mut self) -> Result<(), BenchError> {
        while let Some(mut request) = self.request {
            let Some(checksum) = request.checksum else {
                let reply = self.connection.reply("READ_BLOCK", &self.block.block)?;
                let Some(reply) = reply else { return Ok(()) };
                request.checksum = Some(self.checksum(&reply, request.received_to)?);
                self.request = Some(request);
                continue;
            };
            let decoded = decode_packet_prefix(self.connection.unread())
                .map_err(|source| self.connection.malformed(source))?;
            let Some(frame) = decoded else { return Ok(()) };
            if frame.total_len() > self.connection.unread().len() {
                return Ok(());
            }
            self.check(&frame, &request, checksum)?;
            self.connection.consume(frame.total_len());
            request.received_to += frame.data_len as u64;
            request.next_seqno += 1;
            self.request = Some(request);
            let ends = u64::from(frame.header.last_packet_in_block);
            self.progress.add(self.index, frame.data_len as u64, ends);
            if ends == 1 {
                self.finish(&request)?;
            }
        }
        Ok(())
    }

    /// Ranges begin at a chunk's boundary, so no byte before them is sent.
    fn checksum(
        &self,
        reply: &BlockOpResponseProto,
        offset: u64,
    ) -> Result<DataChecksum, BenchError> {
        let malformed = |why: String| {
            self.connection.malformed(ProtocolError::malformed("READ_BLOCK's reply", why))
        };
        let info = reply.read_op_checksum_info.as_ref();
        let info = info.ok_or_else(|| malformed("no readOpChecksumInfo".to_owned()))?;
        if info.chunk_offset != offset {
            let first = info.chunk_offset;
            return Err(malformed(format!("data from {first} on where {offset} was asked for")));
        }
        DataChecksum::from_proto(&info.checksum).map_err(|source| self.connection.malformed(source))
    }

    fn check(
        &self,
        frame: &PacketFrame,
        request: &Request,
        checksum: DataChecksum,
    ) -> Result<(), BenchError> {
        let header = &frame.header;
        let refuse =
            |why: String| Err(self.connection.refused("READ_BLOCK", &self.block.block, why));
        let received_to = request.received_to;
        if header.seqno != request.next_seqno || header.offset_in_block != received_to {
            return refuse(format!("{header:?} where byte {received_to} is due"));
        }
        if header.last_packet_in_block && received_to < request.end {
            return refuse(format!("ends at {received_to}, {} was asked for", request.end));
        }
        if !self.rules.verify || checksum.kind == ChecksumType::Null {
            return Ok(());
        }
        let (len, expected) = (frame.checksums_len, checksum.checksums_len(frame.data_len as u64));
        if len as u64 != expected {
            return refuse(format!("{len} bytes of checksums for {} of data", frame.data_len));
        }
        let packet = &self.connection.unread()[frame.prefix_len..frame.total_len()];
        let (checksums, data) = packet.split_at(frame.checksums_len);
        match checksum.verify(data, checksums) {
            Ok(()) => Ok(()),
            Err(mismatch) => refuse(format!("{mismatch:?} in the packet at {received_to}")),
        }
    }

    fn finish(&mut self, request: &Request) -> Result<(), BenchError> {
        self.latency.record(Instant::now().saturating_duration_since(request.due));
        self.request = None;
        let status = if self.rules.verify { Status::ChecksumOk } else { Status::Success };
        let mut bytes = BytesMut::new();
        encode_delimited(&ClientReadStatusProto { status: status as i32 }, &mut bytes);
        self.connection.push(bytes.freeze());
        self.ask()?;
        self.connection.send()
    }
}

impl Stream for ReadStream {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn connections(&self) -> usize {
        self.connections
    }

    /// Receives once: a stream that always has more lets the others go on in between.
    fn advance(&mut self) -> Result<bool, BenchError> {
        if self.is_done {
            return Ok(false);
        }
        self.ask()?;
        self.connection.send()?;
        if self.request.is_none() {
            return Ok(false);
        }
        let received = self.connection.receive(DATA_RECEIVE_BYTES)?;
        self.take()?;
        Ok(received == Received::MayHaveMore)
    }

    fn due(&self) -> Option<Instant> {
        match self.request {
            Some(_) => None,
            None if self.is_done => None,
            None => Some(self.plan?.due(self.started?, self.stream_offset)),
        }
    }
}

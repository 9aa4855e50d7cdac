//! The floor's reference engine: all streams of a process on one raw ring.
//!
//! A slab is a MiB of the ring's arena with room for its packets' headers and checksums aside, so
//! that data lands contiguous and aligned and checksums contiguous, in the very memory they are
//! forwarded and written from:
//!
//! ```text
//! RECVMSG -> filling slab -> SENDMSG of whole packets (but the tail, which verifies them)
//!                 \-> full -> checksums to page cache, WRITE_FIXED -> written
//! written and forwarded -> free;   written and acked by downstream -> acked upstream
//! ```
//!
//! A stream has at most one receive, one forward, one ack out and one receive of acks in flight.
//! Without a free slab it stops receiving until one comes back, and TCP holds upstream. Any failure
//! ends the process, whose neighbours see their connections break.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use super::AckKind;
use super::files::{BlockFile, BlockFiles};
use super::layout::{ACK_BYTES, Layout, SIDE_BYTES, SLAB_BYTES, SlabMap};
use super::node::{Link, NodeOptions, check_header, verify};
use super::progress::Progress;
use crate::BenchError;
use crate::limit::ring::{Completion, Ring};

/// Of a stream: acks that come in, then the one that goes out.
const ACKS_BYTES: usize = 4096;
const ACKS_OUT: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Receive,
    Forward,
    Write,
    ReceiveAcks,
    SendAck,
}

impl Operation {
    fn what(self) -> &'static str {
        match self {
            Self::Receive => "receive packets",
            Self::Forward => "forward packets",
            Self::Write => "write a slab",
            Self::ReceiveAcks => "receive acks",
            Self::SendAck => "send an ack",
        }
    }
}

/// A slab in use: full or filling.
struct Held {
    slab: usize,
    first_packet: u64,
    packets: u64,
    /// Bytes on the wire, of this slab.
    received: usize,
    forwarded: usize,
    /// Whole packets that were received, and verified where this is the tail.
    complete: u64,
    file: Option<Rc<BlockFile>>,
    written: bool,
}

struct Stream {
    link: Link,
    /// Oldest first; only the last may be filling.
    held: VecDeque<Held>,
    progress: Progress,
    file: Option<Rc<BlockFile>>,
    forwarding: bool,
    /// Bytes of an ack that has come in part.
    partial_ack: usize,
    ack_sent: u64,
    sending_ack: bool,
}

struct Node<'a> {
    layout: &'a Layout,
    ack: AckKind,
    ring: Ring,
    streams: Vec<Stream>,
    /// The one used last is taken first, for it may still be in the processor's cache.
    free: Vec<usize>,
    starved: Vec<usize>,
    files: Option<BlockFiles>,
    receives: u64,
}

pub fn serve(
    options: &NodeOptions,
    links: impl FnOnce() -> Result<Vec<Link>, BenchError>,
) -> Result<BTreeMap<String, f64>, BenchError> {
    let layout = &options.layout;
    let (slabs, streams) = (layout.slabs(), layout.streams);
    let arena_bytes = slabs * (SLAB_BYTES + SIDE_BYTES) + streams * ACKS_BYTES;
    let ring = Ring::new(arena_bytes, 2 * streams).map_err(BenchError::limit("set io_uring up"))?;
    let directory = options.directory.as_deref();
    let files = directory.map(|directory| BlockFiles::new(*layout, directory));
    let stream = |link| Stream {
        link,
        held: VecDeque::new(),
        progress: Progress::new(options.downstream.is_none()),
        file: None,
        forwarding: false,
        partial_ack: 0,
        ack_sent: 0,
        sending_ack: false,
    };
    let mut node = Node {
        layout,
        ack: options.ack,
        ring,
        streams: links()?.into_iter().map(stream).collect(),
        free: (0..slabs).rev().collect(),
        starved: Vec::new(),
        files,
        receives: 0,
    };
    node.run()?;
    Ok(BTreeMap::from([
        ("io_uring_enters".to_owned(), node.ring.enters as f64),
        ("completions".to_owned(), node.ring.completions as f64),
        ("receives".to_owned(), node.receives as f64),
    ]))
}

impl Node<'_> {
    fn run(&mut self) -> Result<(), BenchError> {
        for stream in 0..self.streams.len() {
            self.receive(stream).map_err(BenchError::limit("receive"))?;
            self.receive_acks(stream).map_err(BenchError::limit("receive acks"))?;
        }
        let mut completions = Vec::new();
        let mut unfinished = self.streams.len();
        while unfinished > 0 {
            self.ring.wait(&mut completions).map_err(BenchError::limit("drive the ring"))?;
            for completion in &completions {
                let (operation, stream, slab) = from_token(completion.token);
                self.complete(operation, stream, slab, completion)
                    .map_err(BenchError::limit(operation.what()))?;
                unfinished -= usize::from(self.finished(stream, operation));
            }
        }
        Ok(())
    }

    fn complete(
        &mut self,
        operation: Operation,
        stream: usize,
        slab: usize,
        completion: &Completion,
    ) -> io::Result<()> {
        let bytes = completion.bytes()?;
        match operation {
            Operation::Receive => self.received(stream, bytes),
            Operation::Forward => self.forwarded(stream, slab, bytes),
            Operation::Write => self.written(stream, slab, bytes),
            Operation::ReceiveAcks => self.received_acks(stream, bytes),
            Operation::SendAck => {
                self.streams[stream].sending_ack = false;
                self.send_ack(stream)
            }
        }
    }

    /// The last ack has gone out: nothing of this stream is in flight any more.
    fn finished(&self, stream: usize, operation: Operation) -> bool {
        let state = &self.streams[stream];
        operation == Operation::SendAck
            && !state.sending_ack
            && state.ack_sent == self.layout.packets()
    }

    fn receive(&mut self, stream: usize) -> io::Result<()> {
        let state = &mut self.streams[stream];
        if state.progress.received == self.layout.packets() {
            return Ok(());
        }
        if state.held.back().is_none_or(|held| held.complete == held.packets) {
            let Some(slab) = self.free.pop() else {
                self.starved.push(stream);
                return Ok(());
            };
            let first_packet = state.progress.received;
            state.progress.begin_slab(first_packet);
            if let Some(files) = &self.files
                && first_packet.is_multiple_of(self.layout.packets_per_block())
            {
                let block = first_packet / self.layout.packets_per_block();
                state.file = Some(Rc::new(files.take(stream, block).map_err(io::Error::other)?));
            }
            state.held.push_back(Held {
                slab,
                first_packet,
                packets: self.layout.packets_of_slab(first_packet),
                received: 0,
                forwarded: 0,
                complete: 0,
                file: state.file.clone(),
                written: false,
            });
        }
        let held = state.held.back().expect("one is filling");
        let wire = held.received..held.packets as usize * self.layout.wire_bytes();
        let parts = slab_map(self.layout, held.slab).on_wire(wire);
        let token = to_token(Operation::Receive, stream, held.slab);
        self.receives += 1;
        self.ring.receive_message(2 * stream, &state.link.upstream, parts, token)
    }

    fn received(&mut self, stream: usize, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let layout = self.layout;
        let state = &mut self.streams[stream];
        let is_tail = state.link.downstream.is_none();
        let held = state.held.back_mut().expect("it was received into");
        let map = slab_map(layout, held.slab);
        held.received += bytes;
        let newly = held.complete as usize..held.received / layout.wire_bytes();
        for packet in newly.clone() {
            let header = self.ring.bytes(map.header(packet));
            check_header(layout, header, held.first_packet + packet as u64)?;
        }
        if is_tail && !newly.is_empty() {
            let data = self.ring.bytes(map.data(newly.clone()));
            verify(data, self.ring.bytes(map.sums(newly.clone())))?;
        }
        held.complete = newly.end as u64;
        state.progress.received += newly.len() as u64;
        if held.complete == held.packets {
            self.store(stream)?;
        }
        self.forward(stream)?;
        self.receive(stream)?;
        self.send_ack(stream)
    }

    /// The slab that has just filled.
    fn store(&mut self, stream: usize) -> io::Result<()> {
        let layout = self.layout;
        let state = &mut self.streams[stream];
        let held = state.held.back_mut().expect("it has just filled");
        let Some(file) = held.file.take() else {
            held.written = true;
            state.progress.slab_written(held.first_packet);
            self.free_slabs(stream);
            return Ok(());
        };
        let (map, all) = (slab_map(layout, held.slab), 0..held.packets as usize);
        let sums = self.ring.bytes(map.sums(all.clone()));
        file.write_sums(layout, held.first_packet, sums)?;
        let token = to_token(Operation::Write, stream, held.slab);
        let offset_bytes = BlockFile::data_offset(layout, held.first_packet);
        self.ring.write_at(&file.data, map.data(all), offset_bytes, token)?;
        held.file = Some(file);
        Ok(())
    }

    fn written(&mut self, stream: usize, slab: usize, bytes: usize) -> io::Result<()> {
        let state = &mut self.streams[stream];
        let held = state.held.iter_mut().find(|held| held.slab == slab);
        let held = held.expect("it is held until it is written");
        if bytes as u64 != held.packets * self.layout.packet_bytes {
            return Err(io::ErrorKind::WriteZero.into());
        }
        held.written = true;
        held.file = None;
        state.progress.slab_written(held.first_packet);
        self.send_ack(stream)?;
        self.free_slabs(stream);
        self.feed_starved()
    }

    fn forward(&mut self, stream: usize) -> io::Result<()> {
        let state = &mut self.streams[stream];
        let Some(downstream) = &state.link.downstream else { return Ok(()) };
        if state.forwarding {
            return Ok(());
        }
        let wire_bytes = self.layout.wire_bytes();
        let unsent = |held: &&Held| held.forwarded < held.complete as usize * wire_bytes;
        let Some(held) = state.held.iter().find(unsent) else { return Ok(()) };
        let wire = held.forwarded..held.complete as usize * wire_bytes;
        let parts = slab_map(self.layout, held.slab).on_wire(wire);
        let token = to_token(Operation::Forward, stream, held.slab);
        state.forwarding = true;
        self.ring.send_message(2 * stream + 1, downstream, parts, token)
    }

    fn forwarded(&mut self, stream: usize, slab: usize, bytes: usize) -> io::Result<()> {
        let state = &mut self.streams[stream];
        state.forwarding = false;
        let held = state.held.iter_mut().find(|held| held.slab == slab);
        held.expect("it is held until it is forwarded").forwarded += bytes;
        self.forward(stream)?;
        self.free_slabs(stream);
        self.feed_starved()
    }

    fn free_slabs(&mut self, stream: usize) {
        let state = &mut self.streams[stream];
        let forwards = state.link.downstream.is_some();
        let wire_bytes = self.layout.wire_bytes();
        let done = |held: &mut Held| {
            let forwarded = !forwards || held.forwarded == held.packets as usize * wire_bytes;
            held.written && forwarded
        };
        while let Some(held) = state.held.pop_front_if(done) {
            self.free.push(held.slab);
        }
    }

    fn feed_starved(&mut self) -> io::Result<()> {
        while !self.free.is_empty()
            && let Some(stream) = self.starved.pop()
        {
            self.receive(stream)?;
        }
        Ok(())
    }

    fn receive_acks(&mut self, stream: usize) -> io::Result<()> {
        let state = &self.streams[stream];
        let Some(downstream) = &state.link.downstream else { return Ok(()) };
        if state.progress.downstream == Some(self.layout.packets()) {
            return Ok(());
        }
        let start = acks_start(self.layout, stream);
        let range = start + state.partial_ack..start + ACKS_OUT;
        let token = to_token(Operation::ReceiveAcks, stream, 0);
        self.ring.receive(downstream, range, token)
    }

    fn received_acks(&mut self, stream: usize, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = acks_start(self.layout, stream);
        let state = &mut self.streams[stream];
        let len = state.partial_ack + bytes;
        let received = self.ring.bytes_mut(start..start + len);
        let whole = len / ACK_BYTES * ACK_BYTES;
        if let Some(last) = received[..whole].last_chunk::<ACK_BYTES>() {
            state.progress.downstream = Some(u64::from_le_bytes(*last));
        }
        received.copy_within(whole.., 0);
        state.partial_ack = len - whole;
        self.receive_acks(stream)?;
        self.send_ack(stream)
    }

    fn send_ack(&mut self, stream: usize) -> io::Result<()> {
        let state = &mut self.streams[stream];
        let acknowledged = state.progress.acknowledged(self.layout, self.ack);
        if state.sending_ack || acknowledged <= state.ack_sent {
            return Ok(());
        }
        let start = acks_start(self.layout, stream) + ACKS_OUT;
        let range = start..start + ACK_BYTES;
        self.ring.bytes_mut(range.clone()).copy_from_slice(&acknowledged.to_le_bytes());
        state.ack_sent = acknowledged;
        state.sending_ack = true;
        self.ring.send(&state.link.upstream, range, to_token(Operation::SendAck, stream, 0))
    }
}

fn acks_start(layout: &Layout, stream: usize) -> usize {
    layout.slabs() * (SLAB_BYTES + SIDE_BYTES) + stream * ACKS_BYTES
}

/// All data first, page by page, then what is beside it.
fn slab_map(layout: &Layout, slab: usize) -> SlabMap {
    SlabMap::new(layout, slab * SLAB_BYTES, layout.slabs() * SLAB_BYTES + slab * SIDE_BYTES)
}

fn to_token(operation: Operation, stream: usize, slab: usize) -> u64 {
    (operation as u64) << 56 | (stream as u64) << 32 | slab as u64
}

fn from_token(token: u64) -> (Operation, usize, usize) {
    let operation = match token >> 56 {
        0 => Operation::Receive,
        1 => Operation::Forward,
        2 => Operation::Write,
        3 => Operation::ReceiveAcks,
        _ => Operation::SendAck,
    };
    (operation, (token >> 32 & 0xff_ffff) as usize, (token & 0xffff_ffff) as usize)
}

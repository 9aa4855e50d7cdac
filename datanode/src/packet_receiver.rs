//! Turns the bytes of a write stream into packets without moving them: a sans-IO state machine.
//!
//! The receiver owns memory: a side area for prefixes and checksums, and room for data, which
//! continues the block's bytes without a gap. [`PacketReceiver::plan`] predicts the next packets
//! from the last one and lays ranges of both out for one scattered receive, so that what arrives as
//! predicted lies where it belongs: checksums in the side area, the block's data contiguous.
//! [`PacketReceiver::received`] parses afterwards. A packet of which only a part has arrived may be
//! the short one at a file's end: its prefix is looked at in the socket first
//! ([`PacketReceiver::foresee`]). What arrives otherwise than predicted (a change of packet size in
//! the middle, data that was sent before) is collected and put in place byte by byte; those bytes are
//! counted.
//!
//! ```text
//! wire    | prefix crcs | data        | prefix crcs | data        | prefix cr...
//! side    | prefix crcs | prefix crcs | ...
//! room    | data        | data        | ...            (a slab's rest, then the next slab)
//! ```
//!
//! A packet whose data begins below the bytes received so far (a client repeats the start of a
//! chunk after hflush, or everything unacknowledged after a recovery) keeps its data in memory of
//! its own, whole, for its checksums and the mirror; only what is new goes to the room. Data that
//! begins above is an error.

use std::collections::VecDeque;

use ringfs_protocol::ProtocolError;
use ringfs_protocol::checksum::DataChecksum;
use ringfs_protocol::packet::{
    PACKET_LENGTHS_BYTES, PACKET_PREFIX_MAX_BYTES, PacketFrame, decode_packet_prefix,
};

use crate::data_room::DataRoom;
use crate::limits::{
    PACKET_HEAD_MAX_BYTES, RECEIVE_BYTES_MAX, RECEIVE_PACKETS_MAX, SIDE_BYTES, SIDES_KEPT_MAX,
};
use crate::packet::{Packet, Pieces};
use crate::ring::{Buffer, BufferMut, ReceiveMessage, Recycler};

/// The shortest prefix that clients send: lengths and a header of 25 bytes.
const SHORTEST_PREFIX_BYTES: usize = PACKET_LENGTHS_BYTES + 25;

pub struct PacketReceiver {
    side: BufferMut,
    sides: Recycler,
    room: DataRoom,
    /// What is there of the packet under way.
    current: Current,
    /// Bytes that arrived and have no place yet.
    backlog: Vec<u8>,
    /// End of the data received so far: the block offset of the room's first byte.
    end: u64,
    /// Where the client's block ends, as far as it said.
    expected_end: u64,
    checksum: DataChecksum,
    shape: Option<Shape>,
    plan: Vec<Planned>,
    foresight: Foresight,
    copied_bytes: u64,
}

/// The packet under way: its head lies at the front of the side area, its data at the front of the
/// room, or in `repeated`.
#[derive(Default)]
struct Current {
    head_filled: usize,
    frame: Option<PacketFrame>,
    data_filled: usize,
    /// Data of a packet that begins below `end`.
    repeated: Option<Vec<u8>>,
}

/// What the next packets are expected to be like.
#[derive(Clone, Copy)]
struct Shape {
    prefix_len: usize,
    has_checksums: bool,
    data_len: usize,
}

/// How far the next plan goes, and the shape of its last packet where that is known.
#[derive(Clone, Copy)]
struct Foresight {
    packets: usize,
    /// Lengths of head and data.
    last: Option<(usize, usize)>,
}

impl Foresight {
    const NONE: Self = Self { packets: RECEIVE_PACKETS_MAX, last: None };
}

/// One packet of a plan, and which part of it the plan receives.
struct Planned {
    head_len: usize,
    data_len: usize,
    head_bytes: usize,
    data_bytes: usize,
}

impl PacketReceiver {
    /// For a block of which `len` bytes are there, and whose client announced `expected_end`.
    pub fn new(len: u64, expected_end: u64, checksum: DataChecksum) -> Self {
        Self {
            side: BufferMut::from(Vec::new()),
            sides: Recycler::new(SIDE_BYTES, SIDES_KEPT_MAX),
            room: DataRoom::default(),
            current: Current::default(),
            backlog: Vec::new(),
            end: len,
            expected_end,
            checksum,
            shape: None,
            plan: Vec::new(),
            foresight: Foresight::NONE,
            copied_bytes: 0,
        }
    }

    /// Takes bytes that were received by other means, ahead of all others.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.backlog.extend_from_slice(bytes);
    }

    /// Adds memory that continues the room, the first time at the place of byte `end`.
    pub fn add_room(&mut self, room: BufferMut) {
        self.room.push(room);
    }

    pub fn room_len(&self) -> usize {
        self.room.len()
    }

    /// Room without which nothing more can be received.
    pub fn room_needed(&self) -> usize {
        let Some(frame) = &self.current.frame else { return 1 };
        match &self.current.repeated {
            Some(_) => (frame.header.offset_in_block + frame.data_len as u64)
                .saturating_sub(self.end) as usize,
            None => frame.data_len.min(self.current.data_filled + 1),
        }
        .max(1)
    }

    /// Whether bytes that are here wait for room.
    pub fn is_unsettled(&self) -> bool {
        let repeated = self.current.repeated.as_ref().zip(self.current.frame.as_ref());
        !self.backlog.is_empty()
            || repeated.is_some_and(|(repeated, frame)| repeated.len() == frame.data_len)
    }

    pub fn is_inside_packet(&self) -> bool {
        self.current.head_filled > 0
    }

    /// Whether nothing was received behind the last packet.
    pub fn is_between_packets(&self) -> bool {
        self.backlog.is_empty() && self.current.head_filled == 0
    }

    pub fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    /// Payload moved since the last call.
    pub fn take_copied_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.copied_bytes)
    }

    /// Gives all memory back; what it held of a packet waits in the backlog.
    pub fn release(&mut self) {
        let mut kept = self.side[..self.current.head_filled].to_vec();
        match self.current.repeated.take() {
            Some(repeated) => kept.extend_from_slice(&repeated),
            None => self.room.copy_to(0..self.current.data_filled, &mut kept),
        }
        kept.append(&mut self.backlog);
        self.backlog = kept;
        self.current = Current::default();
        self.side = BufferMut::from(Vec::new());
        self.sides.release();
        self.room.clear();
    }

    /// Ends the next plan with the packet that `available` bytes in the socket reach into, and finds
    /// out its true shape: `peek` reads what lies so many bytes ahead in the socket.
    pub fn foresee(&mut self, available: usize, mut peek: impl FnMut(usize, &mut [u8]) -> usize) {
        self.foresight = Foresight::NONE;
        let (mut at, mut offset) = (0, self.end);
        for packets in 1..=RECEIVE_PACKETS_MAX {
            let is_first = packets == 1;
            let filled = if is_first { self.current.head_filled } else { 0 };
            let (head_len, data_len) = match &self.current.frame {
                Some(frame) if is_first => (frame.prefix_len + frame.checksums_len, frame.data_len),
                _ => self.shape_at(offset, filled),
            };
            let data_filled = match &self.current.repeated {
                _ if !is_first => 0,
                Some(repeated) => repeated.len(),
                None => self.current.data_filled,
            };
            let rest = head_len - filled + data_len - data_filled;
            let is_known = is_first && self.current.frame.is_some();
            // A short packet and the empty one behind it may fill the place of a full one.
            let is_guess = self.shape.is_none() && !is_known;
            if is_guess || at + rest + SHORTEST_PREFIX_BYTES > available {
                let last = (!is_known).then(|| {
                    let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
                    let seen = if filled == 0 { peek(at, &mut prefix) } else { 0 };
                    match decode_packet_prefix(&prefix[..seen]) {
                        Ok(Some(frame)) => (frame.prefix_len + frame.checksums_len, frame.data_len),
                        _ if is_first => (self.head_len_known(), 0),
                        _ => (SHORTEST_PREFIX_BYTES, 0),
                    }
                });
                self.foresight = Foresight { packets, last };
                return;
            }
            at += rest;
            offset += data_len as u64;
        }
    }

    /// Lays out the next receive; the memory travels with the message until `received`. The backlog,
    /// which comes before it, must be settled.
    pub fn plan(&mut self, message: &mut ReceiveMessage) {
        debug_assert!(self.backlog.is_empty());
        let foresight = std::mem::replace(&mut self.foresight, Foresight::NONE);
        // Read off the side area, which then travels with the message.
        let first = match &self.current.frame {
            Some(frame) => (frame.prefix_len + frame.checksums_len, frame.data_len),
            None => foresight
                .last
                .filter(|_| foresight.packets == 1)
                .unwrap_or_else(|| self.shape_at(self.end, self.current.head_filled)),
        };
        self.make_side(first.0);
        self.plan.clear();
        let nothing = self.side.split_to(0);
        let side = message.push_buffer(std::mem::replace(&mut self.side, nothing));
        let mut room = self.room.leave(message);
        let (mut side_at, mut offset, mut total) = (0, self.end, 0);
        let mut current = Some((self.current.head_filled, self.current.data_filled));
        while self.plan.len() < RECEIVE_PACKETS_MAX && total < RECEIVE_BYTES_MAX {
            let is_current = current.is_some();
            let (head_done, data_done) = current.take().unwrap_or((0, 0));
            let is_last = self.plan.len() + 1 == foresight.packets;
            let (head_len, data_len) = match foresight.last {
                _ if is_current => first,
                Some(last) if is_last => last,
                _ => self.shape_at(offset, 0),
            };
            if side_at + head_len > message.buffer_len(side) {
                break;
            }
            message.push_range(side, side_at + head_done..side_at + head_len);
            side_at += head_len;
            let repeated = self.current.repeated.as_ref().filter(|_| is_current);
            let data_done = repeated.map_or(data_done, Vec::len);
            if repeated.is_none() {
                room.skip(data_done);
            }
            let data_bytes = room.push_ranges(message, data_len - data_done);
            let head_bytes = head_len - head_done;
            total += head_bytes + data_bytes;
            offset += data_len as u64;
            self.plan.push(Planned { head_len, data_len, head_bytes, data_bytes });
            let is_open_end = is_last
                || data_done + data_bytes < data_len
                || repeated.is_some()
                || (self.shape.is_none() && !(is_current && self.current.frame.is_some()));
            if is_open_end {
                break;
            }
        }
        self.room.reuse(room);
    }

    /// Takes the memory of a plan back, `count` bytes of it filled, and appends the packets that
    /// are complete now.
    pub fn received(
        &mut self,
        message: &mut ReceiveMessage,
        count: usize,
        packets: &mut VecDeque<Packet>,
    ) -> Result<(), ProtocolError> {
        let mut buffers = message.drain();
        if let Some(side) = buffers.next() {
            self.side = side;
        }
        self.room.come_back(buffers);
        let plan = std::mem::take(&mut self.plan);
        let outcome = self.parse(&plan, count, packets);
        self.plan = plan;
        outcome?;
        self.settle(packets)
    }

    /// Puts the backlog in place as far as there is memory for it.
    pub fn settle(&mut self, packets: &mut VecDeque<Packet>) -> Result<(), ProtocolError> {
        let backlog = std::mem::take(&mut self.backlog);
        let mut rest = &backlog[..];
        let mut placed = Ok(true);
        while let Ok(true) = placed {
            placed = self.place(&mut rest, packets);
        }
        if rest.len() == backlog.len() {
            self.backlog = backlog;
        } else {
            self.backlog = rest.to_vec();
        }
        placed.map(drop)
    }

    fn parse(
        &mut self,
        plan: &[Planned],
        mut count: usize,
        packets: &mut VecDeque<Packet>,
    ) -> Result<(), ProtocolError> {
        for (index, planned) in plan.iter().enumerate() {
            if count == 0 {
                return Ok(());
            }
            let head_bytes = planned.head_bytes.min(count);
            let data_bytes = planned.data_bytes.min(count - head_bytes);
            if let Some(repeated) = &mut self.current.repeated {
                // Received into the room only to be moved: a plan ends with such a packet.
                self.current.head_filled += head_bytes;
                let mut from_room = std::mem::take(repeated);
                self.room.copy_to(0..data_bytes, &mut from_room);
                self.copied_bytes += data_bytes as u64;
                self.current.repeated = Some(from_room);
                return self.finish_if_complete(packets).map(drop);
            }
            let head_filled = self.current.head_filled + head_bytes;
            if self.current.frame.is_none() {
                let frame = decode_packet_prefix(&self.side[..head_filled])?;
                if !self.is_as_planned(frame.as_ref(), planned, data_bytes) {
                    self.collect(&plan[index..], count);
                    return Ok(());
                }
                self.current.frame = frame;
            }
            self.current.head_filled = head_filled;
            self.current.data_filled += data_bytes;
            count -= head_bytes + data_bytes;
            self.finish_if_complete(packets)?;
        }
        Ok(())
    }

    /// Whether what arrived for a planned packet lies where it belongs.
    fn is_as_planned(
        &self,
        frame: Option<&PacketFrame>,
        planned: &Planned,
        data_bytes: usize,
    ) -> bool {
        match frame {
            None => data_bytes == 0,
            Some(frame) => {
                let is_in_place = frame.data_len == 0 || frame.header.offset_in_block == self.end;
                let has_shape = frame.prefix_len + frame.checksums_len == planned.head_len
                    && frame.data_len == planned.data_len;
                // A prefix received alone fits any packet.
                let is_prefix = planned.data_len == 0
                    && frame.prefix_len + frame.checksums_len >= planned.head_len;
                is_in_place && (has_shape || is_prefix)
            }
        }
    }

    /// Moves what arrived for these planned packets into the backlog, in the order of the wire.
    fn collect(&mut self, plan: &[Planned], mut count: usize) {
        let mut collected = Vec::with_capacity(count + self.current.head_filled);
        let (mut side_at, mut room_at) = (0, 0);
        let mut head_done = self.current.head_filled;
        for planned in plan {
            let head_bytes = planned.head_bytes.min(count);
            count -= head_bytes;
            let head_end = side_at + head_done + head_bytes;
            collected.extend_from_slice(&self.side[side_at..head_end]);
            let data_bytes = planned.data_bytes.min(count);
            count -= data_bytes;
            self.room.copy_to(room_at..room_at + data_bytes, &mut collected);
            side_at += planned.head_len;
            room_at += planned.data_bytes;
            head_done = 0;
        }
        self.current = Current::default();
        collected.append(&mut self.backlog);
        self.backlog = collected;
    }

    /// Takes some bytes to where they belong; `false` when it needs more bytes or more memory.
    fn place(
        &mut self,
        bytes: &mut &[u8],
        packets: &mut VecDeque<Packet>,
    ) -> Result<bool, ProtocolError> {
        let head_len = self.head_len_known();
        if self.current.frame.is_none() || self.current.head_filled < head_len {
            if bytes.is_empty() {
                return Ok(false);
            }
            self.make_side(head_len);
            let filled = self.current.head_filled;
            let count = bytes.len().min(head_len - filled);
            self.side[filled..filled + count].copy_from_slice(take(bytes, count));
            self.current.head_filled += count;
            if self.current.frame.is_none() {
                let prefix = &self.side[..self.current.head_filled];
                self.current.frame = decode_packet_prefix(prefix)?;
            }
        } else if let Some(repeated) = &mut self.current.repeated {
            let data_len = self.current.frame.map_or(0, |frame| frame.data_len);
            let count = bytes.len().min(data_len - repeated.len());
            repeated.extend_from_slice(take(bytes, count));
            self.copied_bytes += count as u64;
            if count == 0 && repeated.len() < data_len {
                return Ok(false);
            }
        } else {
            let data_len = self.current.frame.map_or(0, |frame| frame.data_len);
            let wanted = bytes.len().min(data_len - self.current.data_filled);
            let count = wanted.min(self.room_len() - self.current.data_filled);
            self.room.fill(self.current.data_filled, take(bytes, count));
            self.current.data_filled += count;
            self.copied_bytes += count as u64;
            if count == 0 && self.current.data_filled < data_len {
                return Ok(false);
            }
        }
        let finished = self.finish_if_complete(packets)?;
        Ok(finished || self.makes_progress(bytes))
    }

    fn makes_progress(&self, bytes: &[u8]) -> bool {
        let waits_for_room = self.current.repeated.as_ref().is_some_and(|repeated| {
            self.current.frame.is_some_and(|frame| repeated.len() == frame.data_len)
        });
        !bytes.is_empty() && !waits_for_room
    }

    /// Checks the frame of the packet under way, and hands the packet out once all of it is there.
    fn finish_if_complete(
        &mut self,
        packets: &mut VecDeque<Packet>,
    ) -> Result<bool, ProtocolError> {
        let Some(frame) = self.current.frame else { return Ok(false) };
        let head_len = frame.prefix_len + frame.checksums_len;
        self.check(&frame)?;
        let offset = frame.header.offset_in_block;
        if frame.data_len > 0 && offset < self.end && self.current.repeated.is_none() {
            self.current.repeated = Some(Vec::new());
        }
        if self.current.head_filled < head_len {
            return Ok(false);
        }
        let (data, fresh) = match &mut self.current.repeated {
            None if self.current.data_filled < frame.data_len => return Ok(false),
            None => {
                let data = self.room.take(frame.data_len);
                (data.clone(), data)
            }
            Some(repeated) if repeated.len() < frame.data_len => return Ok(false),
            Some(repeated) => {
                let known = ((self.end - offset) as usize).min(frame.data_len);
                let fresh_len = frame.data_len - known;
                if self.room.len() < fresh_len {
                    return Ok(false);
                }
                let data = Buffer::from(std::mem::take(repeated));
                self.room.fill(0, &data[known..]);
                let fresh = self.room.take(fresh_len);
                let mut whole = Pieces::default();
                whole.push(data);
                (whole, fresh)
            }
        };
        self.end = self.end.max(offset + frame.data_len as u64);
        if frame.data_len > 0 && offset % u64::from(self.checksum.bytes_per_checksum) == 0 {
            self.shape = Some(Shape {
                prefix_len: frame.prefix_len,
                has_checksums: frame.checksums_len > 0,
                data_len: frame.data_len,
            });
        }
        let head = self.side.split_to(head_len).freeze();
        packets.push_back(Packet {
            header: frame.header,
            head,
            prefix_len: frame.prefix_len,
            data,
            fresh,
        });
        self.current = Current::default();
        Ok(true)
    }

    fn check(&self, frame: &PacketFrame) -> Result<(), ProtocolError> {
        let head_len = frame.prefix_len + frame.checksums_len;
        if head_len > PACKET_HEAD_MAX_BYTES {
            return Err(ProtocolError::TooLong {
                what: "checksums of a packet",
                len: head_len as u64,
                limit: PACKET_HEAD_MAX_BYTES as u64,
            });
        }
        if frame.header.offset_in_block > self.end && frame.header.seqno >= 0 {
            let why = format!(
                "it begins at {} in the block, of which {} bytes are here",
                frame.header.offset_in_block, self.end
            );
            return Err(ProtocolError::malformed("packet", why));
        }
        Ok(())
    }

    /// Head and data length of the packet expected at `offset`, of whose head `head_done` bytes
    /// are there.
    fn shape_at(&self, offset: u64, head_done: usize) -> (usize, usize) {
        let Some(shape) = &self.shape else { return (self.head_len_known(), 0) };
        let data_len = match self.expected_end.saturating_sub(offset) {
            0 if offset == self.expected_end => 0,
            0 => shape.data_len,
            rest => shape.data_len.min(usize::try_from(rest).unwrap_or(usize::MAX)),
        };
        let checksums_len = match shape.has_checksums {
            true => self.checksum.checksums_len(data_len as u64) as usize,
            false => 0,
        };
        let head_len = shape.prefix_len + checksums_len;
        if head_len <= head_done { (self.head_len_known(), 0) } else { (head_len, data_len) }
    }

    /// Length of the head of the packet under way as far as its bytes tell.
    fn head_len_known(&self) -> usize {
        if let Some(frame) = &self.current.frame {
            return frame.prefix_len + frame.checksums_len;
        }
        match self.side.get(4..self.current.head_filled) {
            Some(&[high, low, ..]) => {
                PACKET_LENGTHS_BYTES + usize::from(u16::from_be_bytes([high, low]))
            }
            _ => SHORTEST_PREFIX_BYTES,
        }
    }

    /// Makes the side area hold a head of `len` bytes.
    fn make_side(&mut self, len: usize) {
        if self.side.len() >= len {
            return;
        }
        let filled = self.current.head_filled;
        let mut side = if len <= SIDE_BYTES { self.sides.take() } else { BufferMut::zeroed(len) };
        side[..filled].copy_from_slice(&self.side[..filled]);
        self.side = side;
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, rest) = bytes.split_at(count);
    *bytes = rest;
    front
}

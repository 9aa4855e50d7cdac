//! Memory for a block's data to come: a slab's rest, then further slabs, one after the other. It
//! travels with the message of a receive, and comes back filled from the front.

use std::collections::VecDeque;
use std::ops::Range;

use crate::packet::Pieces;
use crate::ring::{BufferMut, ReceiveMessage};

#[derive(Default)]
pub struct DataRoom {
    parts: VecDeque<BufferMut>,
    /// Memory for every [`RoomCursor`].
    places: VecDeque<(usize, usize)>,
}

/// Lays data ranges over the parts of the room, in order.
pub struct RoomCursor {
    /// Index in the message and length of each part that is not laid out in full.
    places: VecDeque<(usize, usize)>,
    at: usize,
}

impl DataRoom {
    pub fn push(&mut self, part: BufferMut) {
        self.parts.push_back(part);
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    pub fn clear(&mut self) {
        self.parts.clear();
    }

    /// Moves all of the memory to a message; [`DataRoom::come_back`] ends that.
    pub fn leave(&mut self, message: &mut ReceiveMessage) -> RoomCursor {
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        places.extend(self.parts.drain(..).map(|part| {
            let len = part.len();
            (message.push_buffer(part), len)
        }));
        RoomCursor { places, at: 0 }
    }

    /// Once all is laid out.
    pub fn reuse(&mut self, cursor: RoomCursor) {
        self.places = cursor.places;
    }

    pub fn come_back(&mut self, parts: impl Iterator<Item = BufferMut>) {
        self.parts.extend(parts);
    }

    pub fn copy_to(&self, range: Range<usize>, out: &mut Vec<u8>) {
        let (mut skip, mut count) = (range.start, range.len());
        for part in &self.parts {
            let skipped = skip.min(part.len());
            skip -= skipped;
            let part = &part[skipped..];
            let taken = count.min(part.len());
            out.extend_from_slice(&part[..taken]);
            count -= taken;
        }
    }

    pub fn fill(&mut self, mut at: usize, mut bytes: &[u8]) {
        for part in &mut self.parts {
            if at >= part.len() {
                at -= part.len();
                continue;
            }
            let count = bytes.len().min(part.len() - at);
            let (front, rest) = bytes.split_at(count);
            part[at..at + count].copy_from_slice(front);
            bytes = rest;
            at = 0;
        }
    }

    /// The first `len` bytes, which are filled.
    pub fn take(&mut self, mut len: usize) -> Pieces {
        let mut pieces = Pieces::default();
        while len > 0 {
            let Some(part) = self.parts.front_mut() else { break };
            let count = len.min(part.len());
            if count > 0 {
                pieces.push(part.split_to(count).freeze());
            }
            if part.is_empty() {
                self.parts.pop_front();
            }
            len -= count;
        }
        pieces
    }
}

impl RoomCursor {
    pub fn skip(&mut self, mut count: usize) {
        while let Some((_, len)) = self.places.front()
            && count > 0
        {
            let step = count.min(len - self.at);
            count -= step;
            self.step(step);
        }
    }

    /// Appends ranges for up to `count` bytes; returns how many there was room for.
    pub fn push_ranges(&mut self, message: &mut ReceiveMessage, count: usize) -> usize {
        let mut left = count;
        while let Some((index, len)) = self.places.front().copied()
            && left > 0
        {
            let step = left.min(len - self.at);
            message.push_range(index, self.at..self.at + step);
            left -= step;
            self.step(step);
        }
        count - left
    }

    fn step(&mut self, count: usize) {
        self.at += count;
        if self.places.front().is_some_and(|(_, len)| self.at == *len) {
            self.places.pop_front();
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_over_the_ends_of_parts() {
        let mut room = DataRoom::default();
        for len in [3, 0, 5] {
            room.push(BufferMut::zeroed(len));
        }
        room.fill(1, b"abcdef");
        let mut copied = Vec::new();
        room.copy_to(2..7, &mut copied);
        assert_eq!((room.len(), copied.as_slice()), (8, b"bcdef".as_slice()));
        assert_eq!(room.take(4).iter().map(|piece| piece.len()).collect::<Vec<_>>(), [3, 1]);
        copied.clear();
        room.copy_to(0..4, &mut copied);
        assert_eq!((room.len(), copied.as_slice()), (4, b"def\0".as_slice()));
    }
}

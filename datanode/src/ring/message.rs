//! Scattered receives and gathered sends: lists of buffer ranges in the form the kernel wants them.
//! A message is filled, submitted, handed back and filled again, so a stream allocates it once.

#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::ops::Range;

use socket2::SockAddr;

use super::buffers::{Buffer, BufferMut};

/// A `msghdr` over iovecs: plain data, whose pointers are set when it is submitted.
struct Vectors {
    header: libc::msghdr,
    iovecs: Vec<libc::iovec>,
}

/// Buffers to receive into, and the ranges of them to fill, in order.
pub struct ReceiveMessage {
    vectors: Vectors,
    buffers: Vec<BufferMut>,
}

/// Buffers to send or write, in order.
pub struct SendMessage {
    vectors: Vectors,
    buffers: Vec<Buffer>,
    /// Buffers that are sent in whole.
    sent: usize,
}

pub struct SocketAddress(pub(super) SockAddr);

impl ReceiveMessage {
    pub fn new() -> Box<Self> {
        Box::new(Self { vectors: Vectors::new(), buffers: Vec::new() })
    }

    /// Adds a buffer whose ranges `push_range` may name by the index returned.
    pub fn push_buffer(&mut self, buffer: BufferMut) -> usize {
        self.buffers.push(buffer);
        self.buffers.len() - 1
    }

    /// Appends a range of a buffer, which must not overlap those appended before.
    pub fn push_range(&mut self, buffer: usize, range: Range<usize>) {
        let target = &mut self.buffers[buffer];
        assert!(range.end <= target.len(), "{range:?} of {} bytes", target.len());
        // SAFETY: the range lies within the buffer.
        let iov_base = unsafe { target.as_mut_ptr().add(range.start) }.cast();
        self.vectors.iovecs.push(libc::iovec { iov_base, iov_len: range.len() });
    }

    pub fn buffer_len(&self, buffer: usize) -> usize {
        self.buffers[buffer].len()
    }

    /// Receives from memory, as much as there are ranges for.
    #[cfg(test)]
    pub fn fill(&mut self, mut bytes: &[u8]) -> usize {
        let mut count = 0;
        for part in &self.vectors.iovecs {
            let (front, rest) = bytes.split_at(bytes.len().min(part.iov_len));
            // SAFETY: the range is as long, and lies in a buffer that this message holds.
            unsafe { part.iov_base.cast::<u8>().copy_from(front.as_ptr(), front.len()) };
            count += front.len();
            bytes = rest;
        }
        count
    }

    /// Takes the buffers out again, in the order in which they were pushed.
    pub fn drain(&mut self) -> impl Iterator<Item = BufferMut> {
        self.vectors.iovecs.clear();
        self.buffers.drain(..)
    }

    pub(super) fn header(&mut self) -> *mut libc::msghdr {
        self.vectors.header()
    }

    #[cfg(feature = "simulation")]
    pub(super) fn iovecs(&self) -> &[libc::iovec] {
        &self.vectors.iovecs
    }
}

impl SendMessage {
    pub fn new() -> Box<Self> {
        Box::new(Self { vectors: Vectors::new(), buffers: Vec::new(), sent: 0 })
    }

    pub fn push(&mut self, buffer: Buffer) {
        if buffer.is_empty() {
            return;
        }
        let iov_base = buffer.as_ptr().cast_mut().cast();
        self.vectors.iovecs.push(libc::iovec { iov_base, iov_len: buffer.len() });
        self.buffers.push(buffer);
    }

    pub fn clear(&mut self) {
        self.vectors.iovecs.clear();
        self.buffers.clear();
        self.sent = 0;
    }

    /// What is not sent yet, copied.
    #[cfg(feature = "simulation")]
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in self.iovecs() {
            // SAFETY: the range lies in a buffer that this message holds.
            let part = unsafe { std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len) };
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// Ranges that are not sent yet.
    pub fn parts(&self) -> usize {
        self.buffers.len() - self.sent
    }

    pub fn remaining(&self) -> usize {
        self.vectors.iovecs[self.sent..].iter().map(|part| part.iov_len).sum()
    }

    /// The slabs that its buffers lie in, by their addresses.
    pub(super) fn slabs(&self) -> impl Iterator<Item = usize> {
        self.buffers.iter().filter_map(Buffer::slab)
    }

    /// Marks the next `count` bytes as sent.
    pub fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let part = &mut self.vectors.iovecs[self.sent];
            if count < part.iov_len {
                part.iov_len -= count;
                // SAFETY: count is below the part's length.
                part.iov_base = unsafe { part.iov_base.byte_add(count) };
                return;
            }
            count -= part.iov_len;
            self.sent += 1;
        }
    }

    pub(super) fn header(&mut self) -> *mut libc::msghdr {
        let sent = self.sent;
        let header = self.vectors.header();
        self.vectors.header.msg_iov = self.vectors.iovecs[sent..].as_mut_ptr();
        self.vectors.header.msg_iovlen = self.vectors.iovecs.len() - sent;
        header
    }

    /// Handles on what is not sent yet, for as long as the kernel may read it.
    pub(super) fn unsent(&self) -> Vec<Buffer> {
        self.buffers[self.sent..].to_vec()
    }

    pub(super) fn iovecs(&self) -> &[libc::iovec] {
        &self.vectors.iovecs[self.sent..]
    }
}

impl SocketAddress {
    pub fn new(address: SocketAddr) -> Box<Self> {
        Box::new(Self(address.into()))
    }
}

impl Vectors {
    fn new() -> Self {
        // SAFETY: all zeroes is a msghdr without name, vectors and control data.
        let header = unsafe { std::mem::zeroed() };
        Self { header, iovecs: Vec::new() }
    }

    fn header(&mut self) -> *mut libc::msghdr {
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len();
        &raw mut self.header
    }
}

impl std::fmt::Debug for ReceiveMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReceiveMessage({} ranges)", self.vectors.iovecs.len())
    }
}

impl std::fmt::Debug for SendMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SendMessage({} parts)", self.parts())
    }
}

impl std::fmt::Debug for SocketAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.as_socket())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_send_goes_on_where_it_ended() {
        let mut message = SendMessage::new();
        for part in [vec![1; 10], Vec::new(), vec![2; 20], vec![3; 5]] {
            message.push(part.into());
        }
        assert_eq!((message.parts(), message.remaining()), (3, 35));
        message.advance(4);
        assert_eq!((message.parts(), message.remaining()), (3, 31));
        message.advance(6);
        assert_eq!((message.parts(), message.remaining()), (2, 25));
        message.advance(21);
        assert_eq!((message.parts(), message.remaining()), (1, 4));
        assert_eq!(message.iovecs()[0].iov_len, 4);
        message.advance(4);
        assert_eq!((message.parts(), message.remaining()), (0, 0));
    }
}

//! A connection to a datanode that never blocks: what waits to be sent, and what has been received
//! and not yet consumed. Whoever has it calls again when epoll says that the socket changed.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use ringfs_protocol::ProtocolError;
use ringfs_protocol::messages::{BlockOpResponseProto, ExtendedBlockProto, Status};
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::limits::SEND_SLICES_MAX;
use crate::BenchError;

#[derive(Debug)]
pub struct Connection {
    pub socket: TcpStream,
    pub address: SocketAddr,
    outgoing: VecDeque<Bytes>,
    received: Vec<u8>,
    /// Of `received`, from its start.
    consumed: usize,
}

/// What a receive has left in the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Nothing,
    All,
    MayHaveMore,
}

impl Connection {
    /// Begins to connect.
    pub fn open(address: SocketAddr) -> Result<Self, BenchError> {
        let socket = connecting_socket(address).map_err(|source| BenchError::Datanode {
            address,
            what: "connect to",
            source,
        })?;
        let (outgoing, received) = (VecDeque::new(), Vec::new());
        Ok(Self { socket, address, outgoing, received, consumed: 0 })
    }

    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.outgoing.push_back(bytes);
        }
    }

    pub fn push_operation<M: Message>(&mut self, opcode: Opcode, message: &M) {
        let mut bytes = BytesMut::new();
        encode_operation(opcode, message, &mut bytes);
        self.push(bytes.freeze());
    }

    /// Sends until all is sent or the socket takes no more.
    pub fn send(&mut self) -> Result<(), BenchError> {
        while !self.outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SEND_SLICES_MAX];
            let count = self.outgoing.len().min(SEND_SLICES_MAX);
            for (slice, bytes) in slices.iter_mut().zip(&self.outgoing) {
                *slice = IoSlice::new(bytes);
            }
            match (&self.socket).write_vectored(&slices[..count]) {
                Ok(sent) => self.sent(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("send to", error)),
            }
        }
        Ok(())
    }

    /// Receives what there is, into at least `room` bytes.
    pub fn receive(&mut self, room: usize) -> Result<Received, BenchError> {
        if self.consumed > 0 && self.received.capacity() - self.received.len() < room {
            self.received.drain(..self.consumed);
            self.consumed = 0;
        }
        self.received.reserve(room);
        match rustix::io::read(&self.socket, spare_capacity(&mut self.received)) {
            Ok(0) => Err(self.failed("read from", io::ErrorKind::UnexpectedEof.into())),
            Ok(_) if self.received.len() == self.received.capacity() => Ok(Received::MayHaveMore),
            Ok(_) => Ok(Received::All),
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(Errno::INTR) => Ok(Received::MayHaveMore),
            Err(errno) => Err(self.failed("read from", errno.into())),
        }
    }

    pub fn unread(&self) -> &[u8] {
        &self.received[self.consumed..]
    }

    pub fn consume(&mut self, len: usize) {
        self.consumed += len;
        if self.consumed == self.received.len() {
            self.received.clear();
            self.consumed = 0;
        }
    }

    /// The reply to `operation`, once it is here; an error unless it says SUCCESS.
    pub fn reply(
        &mut self,
        operation: &'static str,
        block: &ExtendedBlockProto,
    ) -> Result<Option<BlockOpResponseProto>, BenchError> {
        let decoded = decode_response(self.unread()).map_err(|source| self.malformed(source))?;
        let Some((reply, len)) = decoded else { return Ok(None) };
        self.consume(len);
        if reply.status == Status::Success as i32 {
            return Ok(Some(reply));
        }
        let status = Status::try_from(reply.status).unwrap_or(Status::Error);
        let bad_link = reply.first_bad_link().to_owned();
        let why = match bad_link.is_empty() {
            true => reply.message().to_owned(),
            false => format!("bad link to {bad_link}; {}", reply.message()),
        };
        Err(self.refused(operation, block, format!("{status:?}: {why}")))
    }

    pub fn refused(
        &self,
        operation: &'static str,
        block: &ExtendedBlockProto,
        why: String,
    ) -> BenchError {
        let block = ringfs_protocol::block::ExtendedBlock::from(block).to_string();
        BenchError::Refused { address: self.address, operation, block, why }
    }

    pub fn malformed(&self, source: ProtocolError) -> BenchError {
        BenchError::Malformed { address: self.address, source }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> BenchError {
        BenchError::Datanode { address: self.address, what, source }
    }

    fn sent(&mut self, mut len: usize) {
        while let Some(first) = self.outgoing.front_mut() {
            if len < first.len() {
                first.advance(len);
                return;
            }
            len -= first.len();
            self.outgoing.pop_front();
        }
    }
}

/// Cubic between processes of one host, as the client and the datanode have it: some hosts' default
/// paces and halves the speed of loopback.
fn connecting_socket(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if address.ip().is_loopback() {
        let _ = socket.set_tcp_congestion(b"cubic");
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

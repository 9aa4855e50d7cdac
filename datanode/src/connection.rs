//! One data-transfer connection: messages in and out over a socket, with the bytes that arrived
//! beyond the last message.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use ringfs_protocol::ProtocolError;

use crate::error::{DatanodeError, Result};
use crate::limits::{DROPPED_READ_BYTES, MESSAGE_READ_BYTES, SEND_TIMEOUT};
use crate::ring::{self, Buffer, SendMessage, TcpStream};

#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    /// Received and not decoded yet.
    pub received: BytesMut,
    /// The peer's address, for messages.
    pub peer: String,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        let peer = stream
            .peer_address()
            .map_or_else(|_| "a peer that is gone".to_owned(), |address| address.to_string());
        Self { stream, received: BytesMut::new(), peer }
    }

    pub async fn connect(address: SocketAddr, patience: Duration) -> Result<Self> {
        let failed = |why| DatanodeError::Peer { peer: address.to_string(), why };
        let stream = ring::timeout(patience, TcpStream::connect(address))
            .await
            .map_err(|_| failed(format!("no connection within {} s", patience.as_secs())))?
            .map_err(|error| failed(format!("connecting: {error}")))?;
        Ok(Self { stream, received: BytesMut::new(), peer: address.to_string() })
    }

    /// Reads until `decode` makes something of the bytes; `None` if the peer closes before the first
    /// one. The first may take as long as `patience`, and all others together as long again: a peer
    /// that lets a message trickle in holds no stream.
    pub async fn read<T>(
        &mut self,
        what: &str,
        patience: Duration,
        decode: impl Fn(&[u8]) -> std::result::Result<Option<(T, usize)>, ProtocolError>,
    ) -> Result<Option<T>> {
        if let Some(message) = self.take(&decode)? {
            return Ok(Some(message));
        }
        if self.receive(what, patience).await? == 0 {
            return match self.received.is_empty() {
                true => Ok(None),
                false => Err(self.failed(format!("closed in the middle of {what}"))),
            };
        }
        if let Some(message) = self.take(&decode)? {
            return Ok(Some(message));
        }
        let rest = async {
            loop {
                if self.receive(what, patience).await? == 0 {
                    return Err(self.failed(format!("closed in the middle of {what}")));
                }
                if let Some(message) = self.take(&decode)? {
                    return Ok(Some(message));
                }
            }
        };
        match ring::timeout(patience, rest).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.failed(format!("no {what} within {} s", patience.as_secs()))),
        }
    }

    fn take<T>(
        &mut self,
        decode: impl Fn(&[u8]) -> std::result::Result<Option<(T, usize)>, ProtocolError>,
    ) -> Result<Option<T>> {
        Ok(decode(&self.received)?.map(|(message, used)| {
            self.received.advance(used);
            message
        }))
    }

    /// Like [`Connection::read`], where the peer owes a message.
    pub async fn expect<T>(
        &mut self,
        what: &str,
        patience: Duration,
        decode: impl Fn(&[u8]) -> std::result::Result<Option<(T, usize)>, ProtocolError>,
    ) -> Result<T> {
        let message = self.read(what, patience, decode).await?;
        message.ok_or_else(|| self.failed(format!("closed before {what}")))
    }

    /// Takes the `len` bytes behind the last message, in the memory that they arrive in: in one piece where
    /// all came with it, else in two.
    pub async fn take_behind(
        &mut self,
        what: &str,
        len: usize,
        patience: Duration,
    ) -> Result<Vec<Buffer>> {
        let first = self.received.split_to(len.min(self.received.len())).freeze();
        let missing = len - first.len();
        let mut rest = BytesMut::with_capacity(missing);
        let stream = self.stream.clone();
        let receiving = async {
            while rest.len() < missing {
                let received;
                (received, rest) = stream.receive(rest).await;
                if received? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
            }
            // More than was asked for, if the allocator gave more room.
            self.received.unsplit(rest.split_off(missing));
            Ok(rest.freeze())
        };
        match ring::timeout(patience, receiving).await {
            Ok(Ok(rest)) => {
                let pieces = [first, rest].into_iter().filter(|piece| !piece.is_empty());
                Ok(pieces.map(Buffer::from).collect())
            }
            Ok(Err(error)) => Err(self.failed(format!("receiving {what}: {error}"))),
            Err(_) => Err(self.failed(format!("no {what} within {} s", patience.as_secs()))),
        }
    }

    pub async fn send(&self, bytes: BytesMut) -> Result<()> {
        match ring::timeout(SEND_TIMEOUT, self.stream.send_all(bytes)).await {
            Ok((sent, _)) => sent.map_err(|error| self.failed(format!("sending: {error}"))),
            Err(_) => Err(self.took_nothing()),
        }
    }

    /// Sends all of a message, which comes back emptied.
    pub async fn send_message(&self, message: Box<SendMessage>) -> Result<Box<SendMessage>> {
        match ring::timeout(SEND_TIMEOUT, self.stream.send_message(message)).await {
            Ok((Ok(()), message)) => Ok(message),
            Ok((Err(error), _)) => Err(self.failed(format!("sending: {error}"))),
            Err(_) => Err(self.took_nothing()),
        }
    }

    /// Sends `head`, then a range of a file out of the page cache.
    pub async fn send_cached(
        &self,
        head: &[u8],
        file: &ring::File,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        let sending = self.stream.send_cached(head, file, offset, len);
        match ring::timeout(SEND_TIMEOUT, sending).await {
            Ok(sent) => sent.map_err(|error| self.failed(format!("sending: {error}"))),
            Err(_) => Err(self.took_nothing()),
        }
    }

    /// Takes and drops what still comes until the peer closes, or for as long as `patience`: to close over
    /// unread bytes resets the connection, and a peer whose sending fails may not read what it was told.
    pub async fn drop_rest(&mut self, patience: Duration) {
        let stream = self.stream.clone();
        let until_closed = async {
            let mut dropped = std::mem::take(&mut self.received);
            loop {
                dropped.clear();
                dropped.reserve(DROPPED_READ_BYTES);
                let received;
                (received, dropped) = stream.receive(dropped).await;
                if !matches!(received, Ok(1..)) {
                    return;
                }
            }
        };
        // Whichever it is, the connection is closed now.
        let _ = ring::timeout(patience, until_closed).await;
    }

    fn took_nothing(&self) -> DatanodeError {
        self.failed(format!("took nothing for {} s", SEND_TIMEOUT.as_secs()))
    }

    pub fn failed(&self, why: String) -> DatanodeError {
        DatanodeError::Peer { peer: self.peer.clone(), why }
    }

    async fn receive(&mut self, what: &str, patience: Duration) -> Result<usize> {
        let mut buffer = std::mem::take(&mut self.received);
        buffer.reserve(MESSAGE_READ_BYTES);
        let stream = self.stream.clone();
        let receiving = async {
            let (received, buffer) = stream.receive(buffer).await;
            self.received = buffer;
            received
        };
        match ring::timeout(patience, receiving).await {
            Ok(received) => received.map_err(|error| self.failed(format!("receiving: {error}"))),
            Err(_) => Err(self.failed(format!("no {what} within {} s", patience.as_secs()))),
        }
    }
}

//! A connection to another datanode's transfer port, as the side that sends the operation.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use prost::Message;
use ringfs_protocol::limits::OPERATION_MAX_BYTES;
use ringfs_protocol::messages::{DatanodeIDProto, DatanodeInfoProto};
use ringfs_protocol::operation::{Opcode, encode_operation};
use ringfs_protocol::wire::decode_delimited;

use crate::error::{DatanodeError, Result};
use crate::ring::{self, TcpStream};

const RECV_BYTES: usize = 256 << 10;

/// A connection to another datanode's transfer port.
pub struct Peer {
    stream: TcpStream,
    received: BytesMut,
    name: String,
    patience: Duration,
}

impl Peer {
    /// `patience` bounds the connecting, and each send and receive.
    pub async fn connect(target: &DatanodeInfoProto, patience: Duration) -> Result<Self> {
        let name = name(&target.id);
        let failed = |why: String| DatanodeError::Peer { peer: name.clone(), why };
        let address: IpAddr =
            target.id.ip_addr.parse().map_err(|_| failed("not a numeric address".into()))?;
        let port = u16::try_from(target.id.xfer_port).map_err(|_| failed("no such port".into()))?;
        let connecting = TcpStream::connect(SocketAddr::new(address, port));
        let stream = ring::timeout(patience, connecting)
            .await
            .map_err(|_| failed(format!("no connection within {} s", patience.as_secs())))?
            .map_err(|error| failed(format!("connecting: {error}")))?;
        Ok(Self { stream, received: BytesMut::new(), name, patience })
    }

    pub async fn send(&mut self, bytes: BytesMut) -> Result<()> {
        match ring::timeout(self.patience, self.stream.send_all(bytes)).await {
            Ok((Ok(()), _)) => Ok(()),
            Ok((Err(error), _)) => Err(self.failed(format!("sending: {error}"))),
            Err(ring::TimedOut) => Err(self.failed("takes nothing".into())),
        }
    }

    pub async fn send_operation<M: Message>(&mut self, opcode: Opcode, request: &M) -> Result<()> {
        let mut bytes = BytesMut::new();
        encode_operation(opcode, request, &mut bytes);
        self.send(bytes).await
    }

    /// Reads one delimited message.
    pub async fn message<M: Message + Default>(&mut self, what: &'static str) -> Result<M> {
        loop {
            if let Some((message, used)) =
                decode_delimited(what, &self.received, OPERATION_MAX_BYTES)?
            {
                self.received.advance(used);
                return Ok(message);
            }
            self.receive(what).await?;
        }
    }

    /// What was received and not consumed yet.
    pub fn received(&mut self) -> &mut BytesMut {
        &mut self.received
    }

    /// Waits for more bytes; that there are none is an error.
    pub async fn receive(&mut self, awaited: &'static str) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.received);
        buffer.reserve(RECV_BYTES);
        match ring::timeout(self.patience, self.stream.receive(buffer)).await {
            Ok((received, buffer)) => {
                self.received = buffer;
                match received {
                    Ok(0) => Err(self.failed(format!("closed before {awaited}"))),
                    Ok(_) => Ok(()),
                    Err(error) => Err(self.failed(format!("receiving: {error}"))),
                }
            }
            Err(ring::TimedOut) => Err(self.failed(format!("silent before {awaited}"))),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn failed(&self, why: String) -> DatanodeError {
        DatanodeError::Peer { peer: self.name.clone(), why }
    }
}

pub fn name(id: &DatanodeIDProto) -> String {
    format!("{}:{}", id.ip_addr, id.xfer_port)
}

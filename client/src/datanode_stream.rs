//! A connection to a datanode's data port: operations out, replies and packets in.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use prost::Message;
use ringfs_protocol::ProtocolError;
use ringfs_protocol::block::ExtendedBlock;
use ringfs_protocol::messages::{BlockOpResponseProto, DatanodeIDProto, Status};
use ringfs_protocol::operation::{Opcode, decode_response, encode_operation};
use tokio::time::timeout;

use crate::ClientError;
use crate::config::{ClientSettings, PipelineTimeouts};
use crate::idle_connections::IdleConnections;
use crate::limits::REPLY_BUFFER_BYTES;
use crate::socket::{Socket, is_own};
use crate::streamer::transfer_address;

/// How datanodes are reached.
#[derive(Clone, Debug)]
pub(crate) struct DatanodeConnector {
    /// Where we are, in a simulated world.
    #[cfg_attr(not(feature = "simulation"), allow(dead_code, reason = "nobody asks"))]
    pub host: String,
    pub timeouts: PipelineTimeouts,
    pub use_hostname: bool,
    pub idle_connections: IdleConnections,
}

const HALF_PAGE_BYTES: usize = 2 << 10;
const LARGE_BUFFER_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct DatanodeStream {
    pub tcp: Socket,
    /// Bytes received and not yet consumed.
    pub received: BytesMut,
    /// What precedes the next operation: the status of the read before it.
    pub owed: BytesMut,
    /// `ip:port`, which names the datanode in messages and among idle connections.
    pub address: String,
    /// Whether the datanode takes a block right behind its WRITE_BLOCK: one that keeps connections of
    /// writers does. (Those of readers are kept by Apache's too.)
    pub takes_whole_blocks: bool,
}

impl DatanodeConnector {
    pub fn new(settings: &ClientSettings, user: &str) -> Self {
        Self {
            host: user.to_owned(),
            timeouts: settings.pipeline_timeouts(),
            use_hostname: settings.use_datanode_hostname,
            idle_connections: IdleConnections::default(),
        }
    }

    pub async fn connect(&self, id: &DatanodeIDProto) -> Result<DatanodeStream, ClientError> {
        let address = transfer_address(id);
        let host = if self.use_hostname { &id.host_name } else { &id.ip_addr };
        let port = id.xfer_port as u16;
        let what = || format!("connecting to datanode {address}");
        let tcp =
            within(self.timeouts.socket, what, Socket::connect(&self.host, host, port)).await?;
        let (received, owed) = (BytesMut::new(), BytesMut::new());
        Ok(DatanodeStream { tcp, received, owed, address, takes_whole_blocks: false })
    }
}

impl DatanodeStream {
    pub async fn send_operation<M: Message>(
        &mut self,
        opcode: Opcode,
        message: &M,
        limit: Duration,
    ) -> Result<(), ClientError> {
        let bytes = self.operation(opcode, message);
        let what = || format!("sending {opcode:?} to datanode {}", self.address);
        within(limit, what, self.tcp.write_all(&bytes)).await
    }

    /// An operation as it is sent, behind what is owed.
    pub fn operation<M: Message>(&mut self, opcode: Opcode, message: &M) -> BytesMut {
        let mut bytes = std::mem::take(&mut self.owed);
        encode_operation(opcode, message, &mut bytes);
        bytes
    }

    pub async fn read_response(
        &mut self,
        limit: Duration,
    ) -> Result<BlockOpResponseProto, ClientError> {
        loop {
            if let Some((response, len)) =
                decode_response(&self.received).map_err(|source| self.malformed(source))?
            {
                let _ = self.received.split_to(len);
                return Ok(response);
            }
            self.receive(REPLY_BUFFER_BYTES, limit).await?;
        }
    }

    /// Reads what there is, at least one byte and at most `most`, behind what is already in
    /// `received`.
    pub async fn receive(&mut self, most: usize, limit: Duration) -> Result<usize, ClientError> {
        self.make_room(most);
        let address = &self.address;
        let what = || format!("reading from datanode {address}");
        let mut room = (&mut self.received).limit(most);
        match within(limit, what, self.tcp.read_buf(&mut room)).await? {
            0 => Err(ClientError::io(what(), io::ErrorKind::UnexpectedEof.into())),
            count => Ok(count),
        }
    }

    /// A large buffer is filled from the middle of a page on. What a datanode sends from its page cache
    /// lies at the start of pages, and an AMD processor copies more slowly to what is a little further
    /// into its page than the source: a hot stream took 0.26 CPU-s/GiB here, and takes 0.17 to 0.19.
    fn make_room(&mut self, most: usize) {
        let has_room = self.received.capacity() - self.received.len() >= most;
        if has_room || !self.received.is_empty() || most < LARGE_BUFFER_BYTES {
            return self.received.reserve(most);
        }
        self.received.reserve(HALF_PAGE_BYTES + most);
        self.received.put_bytes(0, HALF_PAGE_BYTES);
        self.received.advance(HALF_PAGE_BYTES);
    }

    pub fn malformed(&self, source: ProtocolError) -> ClientError {
        ClientError::Protocol { peer: format!("datanode {}", self.address), source }
    }

    /// An error unless `response` says SUCCESS.
    pub fn check(
        &self,
        operation: &'static str,
        block: &ExtendedBlock,
        response: &BlockOpResponseProto,
    ) -> Result<(), ClientError> {
        if response.status == Status::Success as i32 {
            return Ok(());
        }
        Err(ClientError::Refused {
            datanode: self.address.clone(),
            operation,
            block: block.clone(),
            status: Status::try_from(response.status).unwrap_or(Status::Error),
            message: response.message().to_owned(),
        })
    }

    /// Whether an idle connection can take another operation: open, and nothing left to read.
    pub fn is_reusable(&self) -> bool {
        let mut byte = [0];
        let silent = self.tcp.try_read(&mut byte);
        self.received.is_empty()
            && silent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for DatanodeStream {
    /// A datanode that waits for a status gets it, if there is room for a few bytes, with the end.
    fn drop(&mut self) {
        if !self.owed.is_empty() {
            let _ = self.tcp.try_write(&self.owed);
        }
    }
}

/// `future` bounded by `limit`; `what` names it in the error.
pub(crate) async fn within<T>(
    limit: Duration,
    what: impl Fn() -> String,
    future: impl Future<Output = io::Result<T>>,
) -> Result<T, ClientError> {
    match timeout(limit, future).await {
        Ok(result) => result.map_err(|source| ClientError::io(what(), source)),
        Err(_) => Err(ClientError::TimedOut { what: what(), timeout_ms: limit.as_millis() as u64 }),
    }
}

/// Whether an address is one of this host's.
pub(crate) fn is_local(address: &str) -> bool {
    address.parse().is_ok_and(is_own)
}

//! Reading a range of one replica by the shortest way: from its files where they can be had, else from
//! its datanode over TCP.
//!
//! Whatever goes wrong with the files is no failure of the replica: the rest of the range is read over
//! TCP, where a wrong byte shows again and is reported.

use bytes::Bytes;
use tracing::{debug, info};

use crate::block_reader::BlockReader;
use crate::client::Shared;
use crate::local_block_reader::LocalBlockReader;
use crate::located_blocks::BlockRange;
use crate::streamer::transfer_address;
use crate::{Client, ClientError};

#[derive(Debug)]
pub(crate) enum ReplicaReader {
    Remote(Box<BlockReader>),
    Local(Box<LocalRead>),
}

/// A read of a replica's files, and what it takes to go on over TCP.
#[derive(Debug)]
pub(crate) struct LocalRead {
    reader: LocalBlockReader,
    client: Client,
    range: BlockRange,
    replica: usize,
    verify: bool,
}

impl ReplicaReader {
    /// Starts reading `range` from one replica.
    pub async fn open(
        client: &Client,
        range: &BlockRange,
        replica: usize,
        verify: bool,
    ) -> Result<Self, ClientError> {
        let shared = client.shared();
        if let Some(replicas) = &shared.local_replicas {
            let datanode = &range.block.locs[replica].id;
            let limit = shared.settings.socket_timeout;
            if let Some(files) = replicas.open(datanode, &range.block, limit).await {
                let checked = verify && !replicas.settings.skip_checksum;
                let reader = LocalBlockReader::new(files, replicas.buffers.clone(), range, checked);
                let (client, range) = (client.clone(), range.clone());
                let local = LocalRead { reader, client, range, replica, verify };
                return Ok(Self::Local(Box::new(local)));
            }
        }
        Self::open_remote(shared, range, replica, verify).await
    }

    /// Over an idle connection if there is a good one.
    async fn open_remote(
        shared: &Shared,
        range: &BlockRange,
        replica: usize,
        verify: bool,
    ) -> Result<Self, ClientError> {
        let id = &range.block.locs[replica].id;
        let (name, limit) = (&shared.client_name, shared.settings.socket_timeout);
        if let Some(stream) = shared.connector.idle_connections.take(&transfer_address(id)) {
            match BlockReader::open(stream, name, range, verify, limit).await {
                Err(error @ ClientError::Io { .. }) => debug!("idle connection: {error}"),
                result => return result.map(|reader| Self::Remote(Box::new(reader))),
            }
        }
        let stream = shared.connector.connect(id).await?;
        let reader = BlockReader::open(stream, name, range, verify, limit).await?;
        Ok(Self::Remote(Box::new(reader)))
    }

    /// The next bytes of the range; `None` after the last.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        let local = match self {
            Self::Remote(reader) => return reader.next_chunk().await,
            Self::Local(local) => local,
        };
        let error = match local.reader.next_chunk().await {
            Ok(chunk) => return Ok(chunk),
            Err(error) => error,
        };
        let mut rest = local.range.clone();
        rest.len = local.reader.remaining();
        rest.offset_in_block += local.range.len - rest.len;
        info!(block = rest.block.b.block_id as i64, %error, "reading on over TCP");
        if let Some(replicas) = &local.client.shared().local_replicas {
            replicas.refuse(rest.block.b.block_id);
        }
        let (replica, verify) = (local.replica, local.verify);
        let client = local.client.clone();
        *self = Self::open_remote(client.shared(), &rest, replica, verify).await?;
        match self {
            Self::Remote(reader) => reader.next_chunk().await,
            Self::Local(_) => unreachable!("opened as a remote one"),
        }
    }

    /// Bytes still to be handed out.
    pub fn remaining(&self) -> u64 {
        match self {
            Self::Remote(reader) => reader.remaining(),
            Self::Local(local) => local.reader.remaining(),
        }
    }

    pub fn is_at_end(&self) -> bool {
        self.remaining() == 0
    }

    /// Keeps the connection for the next read, when the whole range was read and its end agreed on.
    pub fn keep_idle(self, client: &Client) {
        if let Self::Remote(reader) = self
            && let Some(stream) = reader.into_stream()
        {
            client.shared().connector.idle_connections.keep(stream);
        }
    }
}

//! Writing a file: the caller's half, which cuts packets; the other half is [`crate::stream_driver`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ringfs_protocol::checksum::DataChecksum;
use tokio::sync::{mpsc, oneshot};

use crate::ClientError;
use crate::datanode_stream::DatanodeConnector;
use crate::lease_renewal::Lease;
use crate::limits::{PACKETS_HANDED_OVER_MAX, WRITE_LEN_HINT_BYTES};
use crate::namenode::{Namenode, OpenFile};
use crate::packetizer::{Packet, Packetizer};
use crate::stream_driver::{Command, DriverReport, StreamDriver};
use crate::streamer::{LastBlock, Streamer, StreamerRules};
use crate::write_pipeline::WriteOptions;

/// A file open for writing. [`FileWriter::close`] it: a writer that is dropped leaves its file
/// without the last bytes, and open until its lease expires.
#[derive(Debug)]
pub struct FileWriter {
    packetizer: Packetizer,
    commands: mpsc::Sender<Command>,
    report: Arc<DriverReport>,
    namenode: Namenode,
    file: OpenFile,
    _lease: Lease,
}

/// What opening a file for writing determines.
pub(crate) struct WriterParts {
    pub namenode: Namenode,
    pub connector: DatanodeConnector,
    pub lease: Lease,
    pub file: OpenFile,
    pub rules: StreamerRules,
    pub checksum: DataChecksum,
    pub packet_size: usize,
    pub block_size: u64,
    pub favored_nodes: Vec<String>,
    /// Length of the file so far.
    pub position: u64,
    pub last_block: LastBlock,
}

impl FileWriter {
    pub(crate) fn start(parts: WriterParts) -> Self {
        let block_len = parts.last_block.len_to_append_to();
        let packetizer = Packetizer::new(
            parts.checksum,
            parts.packet_size,
            parts.block_size,
            parts.position,
            block_len,
        );
        let options = WriteOptions {
            client_name: parts.file.holder.clone(),
            checksum: parts.checksum,
            block_size: parts.block_size,
        };
        let (driver, commands, report) = StreamDriver::new(
            Streamer::new(parts.rules, parts.last_block),
            parts.namenode.clone(),
            parts.connector,
            parts.file.clone(),
            options,
            parts.favored_nodes,
        );
        tokio::spawn(driver.run());
        Self {
            packetizer,
            commands,
            report,
            namenode: parts.namenode,
            file: parts.file,
            _lease: parts.lease,
        }
    }

    /// Appends `data`; waits while the window of unacknowledged packets is full. Whole packets are
    /// sent from `data`'s own memory: writes of [`FileWriter::write_len_hint`] bytes copy nothing.
    pub async fn write(&mut self, data: impl Into<Bytes>) -> Result<(), ClientError> {
        let mut data = data.into();
        while !data.is_empty() {
            // Handed over together: the driver is woken once, and sends them in one call.
            let mut packets = Vec::new();
            while packets.len() < PACKETS_HANDED_OVER_MAX && !data.is_empty() {
                packets.extend(self.packetizer.next_packet(&mut data));
            }
            if !packets.is_empty() {
                self.send(packets).await?;
            }
        }
        Ok(())
    }

    /// [`FileWriter::write`] of borrowed bytes, which are copied once.
    pub async fn write_slice(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.write(Bytes::copy_from_slice(data)).await
    }

    /// A length for writes, about 1 MiB, that divides into whole packets.
    pub fn write_len_hint(&self) -> usize {
        let packet = self.packetizer.packet_data_len();
        (WRITE_LEN_HINT_BYTES / packet).max(1) * packet
    }

    /// Returns when every datanode of the pipeline has what was written, and readers can see it.
    pub async fn hflush(&mut self) -> Result<(), ClientError> {
        self.flush(false).await
    }

    /// [`FileWriter::hflush`], and it is on the datanodes' disks.
    pub async fn hsync(&mut self) -> Result<(), ClientError> {
        self.flush(true).await
    }

    /// Length of the file, with what is written but not yet sent.
    pub fn position(&self) -> u64 {
        self.packetizer.position()
    }

    /// Sends the rest, waits for its acks and closes the file at the namenode.
    pub async fn close(mut self) -> Result<(), ClientError> {
        // Together: the block's last packet may leave with its data.
        let packets: Vec<_> = std::iter::from_fn(|| self.packetizer.finish()).collect();
        if !packets.is_empty() {
            self.send(packets).await?;
        }
        let (done, finished) = oneshot::channel();
        let seqno = self.packetizer.last_seqno();
        self.command(Command::Finish { seqno, done }).await?;
        let last_block = finished.await.map_err(|_| self.failure())?;
        self.namenode.complete(&self.file, last_block.as_ref()).await
    }

    /// Gives up: closes the pipeline and leaves the file to lease recovery, or to its deletion.
    pub async fn abort(self) {
        // Without its driver it is given up already.
        let _ = self.commands.send(Command::Abort).await;
    }

    async fn flush(&mut self, sync: bool) -> Result<(), ClientError> {
        if let Some(packet) = self.packetizer.flush(sync) {
            self.send(vec![packet]).await?;
        }
        let (done, flushed) = oneshot::channel();
        let seqno = self.packetizer.last_seqno();
        self.command(Command::Flush { seqno, done }).await?;
        flushed.await.map_err(|_| self.failure())?;
        // A namenode that restarts must still know of the block whose bytes were promised, and that
        // there are some: a reader that comes before the datanodes' reports must wait for them.
        if self.report.has_new_block.swap(false, Ordering::Relaxed)
            && let Err(error) = self.namenode.fsync(&self.file, self.packetizer.cut_to()).await
        {
            self.report.has_new_block.store(true, Ordering::Relaxed);
            return Err(error);
        }
        Ok(())
    }

    async fn send(&self, packets: Vec<Packet>) -> Result<(), ClientError> {
        self.command(Command::Send(packets)).await
    }

    async fn command(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).await.map_err(|_| self.failure())
    }

    fn failure(&self) -> ClientError {
        let closed = || ClientError::Closed { path: self.file.path.clone() };
        self.report.failure.get().cloned().unwrap_or_else(closed)
    }
}

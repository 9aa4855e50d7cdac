//! Writing a file.

use bytes::Bytes;

use crate::ClientError;

/// A file open for writing. [`FileWriter::close`] it: a writer that is dropped leaves its file
/// without the last bytes, and open until its lease expires.
#[derive(Debug)]
pub struct FileWriter {}

impl FileWriter {
    /// Appends `data`; waits while the window of unacknowledged packets is full. Whole packets are
    /// sent from `data`'s own memory: writes of [`FileWriter::write_len_hint`] bytes copy nothing.
    pub async fn write(&mut self, data: impl Into<Bytes>) -> Result<(), ClientError> {
        let _ = data.into();
        todo!()
    }

    /// [`FileWriter::write`] of borrowed bytes, which are copied once.
    pub async fn write_slice(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.write(Bytes::copy_from_slice(data)).await
    }

    /// A length for writes, about 1 MiB, that divides into whole packets.
    pub fn write_len_hint(&self) -> usize {
        todo!()
    }

    /// Returns when every datanode of the pipeline has what was written, and readers can see it.
    pub async fn hflush(&mut self) -> Result<(), ClientError> {
        todo!()
    }

    /// [`FileWriter::hflush`], and it is on the datanodes' disks.
    pub async fn hsync(&mut self) -> Result<(), ClientError> {
        todo!()
    }

    /// Length of the file, with what is written but not yet sent.
    pub fn position(&self) -> u64 {
        todo!()
    }

    /// Sends the rest, waits for its acks and closes the file at the namenode.
    pub async fn close(self) -> Result<(), ClientError> {
        todo!()
    }

    /// Gives up: closes the pipeline and leaves the file to lease recovery, or to its deletion.
    pub async fn abort(self) {
        todo!()
    }
}

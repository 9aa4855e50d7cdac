//! Reading a file.

use bytes::Bytes;

use crate::ClientError;

/// A file open for reading, of the length that it had when it was opened.
#[derive(Debug)]
pub struct FileReader {}

impl FileReader {
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        todo!()
    }

    pub fn position(&self) -> u64 {
        todo!()
    }

    /// Whether what is read is compared with its checksums, which it is unless switched off.
    pub fn verify_checksums(&mut self, verify: bool) {
        let _ = verify;
        todo!()
    }

    /// Where the next [`FileReader::read`] or [`FileReader::next_chunk`] starts; beyond the end of
    /// the file is an error.
    pub fn seek(&mut self, position: u64) -> Result<(), ClientError> {
        let _ = position;
        todo!()
    }

    /// Fills `buf` from the position on, as far as the next bytes are at hand: at least one byte,
    /// 0 only at the end of the file.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<usize, ClientError> {
        let _ = buf;
        todo!()
    }

    /// The next bytes (up to a packet's 64 KiB) without a copy; `None` at the end of the file.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        todo!()
    }

    /// Fills `buf` from `offset` on; less only at the end of the file. Does not move the position.
    pub async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, ClientError> {
        let _ = (offset, buf);
        todo!()
    }
}

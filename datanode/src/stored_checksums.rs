//! The checksums of a replica's meta file, read as its data is sent.

use std::rc::Rc;

use ringfs_protocol::meta_file::META_HEADER_BYTES;

use crate::error::{DatanodeError, Result};
use crate::limits::CHECKSUMS_PIECE_BYTES;
use crate::open_replicas::OpenReplica;
use crate::replica::OnDisk;

/// The checksums of the meta file, a piece at a time.
pub struct StoredChecksums {
    open: Rc<OpenReplica>,
    on_disk: OnDisk,
    /// End of the data that will be asked for.
    end: u64,
    /// Index of the first chunk in `piece`.
    first_chunk: u64,
    piece: Vec<u8>,
}

impl StoredChecksums {
    pub fn new(open: Rc<OpenReplica>, on_disk: OnDisk, end: u64) -> Self {
        Self { open, on_disk, end, first_chunk: 0, piece: Vec::new() }
    }

    /// The checksums of `len` bytes from `offset`, which starts a chunk.
    pub async fn of(&mut self, offset: u64, len: u64) -> Result<&[u8]> {
        let chunk_len = u64::from(self.open.checksum.bytes_per_checksum);
        let (first, count) = (offset / chunk_len, len.div_ceil(chunk_len));
        let held = self.piece.len() as u64 / 4;
        if first < self.first_chunk || first + count > self.first_chunk + held {
            let last = self.end.div_ceil(chunk_len);
            let wanted = (last - first).min((CHECKSUMS_PIECE_BYTES / 4).max(count));
            let at = META_HEADER_BYTES as u64 + first * 4;
            self.piece = self.read(at, wanted as usize * 4).await?;
            self.first_chunk = first;
            self.put_last_chunk(chunk_len);
        }
        let from = (first - self.first_chunk) as usize * 4;
        Ok(&self.piece[from..from + count as usize * 4])
    }

    /// As a rule the page cache holds the meta file, which was written through it.
    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        if self.open.meta.read_cached(&mut bytes, offset) < len {
            let block = self.open.replica.block();
            bytes = self
                .open
                .meta
                .read_exact_at(offset, len)
                .await
                .map_err(DatanodeError::io(format!("reading the checksums of {block}")))?;
        }
        Ok(bytes)
    }

    /// The meta file's value for a last chunk that is being written may belong to a longer chunk
    /// than is sent.
    fn put_last_chunk(&mut self, chunk_len: u64) {
        let Some(crc) = self.on_disk.last_chunk_checksum else { return };
        if self.on_disk.len.is_multiple_of(chunk_len) {
            return;
        }
        let chunk = self.on_disk.len / chunk_len;
        let Some(index) = chunk.checked_sub(self.first_chunk) else { return };
        if let Some(slot) = self.piece.chunks_exact_mut(4).nth(index as usize) {
            slot.copy_from_slice(&crc.to_be_bytes());
        }
    }
}

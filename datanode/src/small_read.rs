//! A read of a few chunks: reply, packet and end in one message.
//!
//! The data goes into memory of its own size: a slab would be taken from streams for little. What was
//! read of late comes through the page cache, as in `read_stream`, from memory if it is there.

use crate::block_reader::{ReadRange, put_prefix, read_filled};
use crate::error::Result;
use crate::read_history::ReadHistory;
use crate::ring::{self, BufferMut, SECTOR_BYTES, SendMessage};
use crate::stored_checksums::StoredChecksums;

const SECTOR: u64 = SECTOR_BYTES as u64;

pub async fn message(range: &ReadRange, history: &ReadHistory) -> Result<Box<SendMessage>> {
    let mut message = SendMessage::new();
    let mut head = Vec::from(range.reply());
    let (start, end) = (range.start, range.end);
    let len = end - start;
    let mut end_seqno = 0;
    if len > 0 {
        let data = read(range, history).await?;
        let mut stored = StoredChecksums::new(range.open.clone(), range.on_disk, end);
        let checksums = match range.with_checksums {
            true => stored.of(start, len).await?,
            false => &[],
        };
        put_prefix(&mut head, 0, start, checksums.len(), len);
        head.extend_from_slice(checksums);
        message.push(head.into());
        let skip = (start % SECTOR) as usize;
        message.push(data.freeze().slice(skip..skip + len as usize));
        head = Vec::new();
        end_seqno = 1;
    }
    put_prefix(&mut head, end_seqno, end, 0, 0);
    message.push(head.into());
    Ok(message)
}

/// Reads from the sector that holds the range's start on.
async fn read(range: &ReadRange, history: &ReadHistory) -> Result<BufferMut> {
    let open = &range.open;
    let offset = range.start / SECTOR * SECTOR;
    let wanted = (range.end - offset) as usize;
    let mut buffer = BufferMut::zeroed(wanted.next_multiple_of(SECTOR_BYTES));
    let is_again = range.may_come_again()
        && history
            .note(open.replica.id(), range.on_disk.len, range.start, range.end)
            .contains(range.start);
    let file = if is_again { open.buffered().await? } else { &open.data };
    if is_again && file.read_cached(&mut buffer, offset) >= wanted {
        ring::counters().bytes_read_cached.add(range.end - range.start);
        return Ok(buffer);
    }
    let read = read_filled(file.clone(), buffer, offset, wanted).await;
    read.map_err(|error| range.failed(error))
}

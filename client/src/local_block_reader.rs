//! Reading a range of a replica of this host from its files, comparing it with the meta file's checksums.
//!
//! | what | is read |
//! |---|---|
//! | a small range | at once through the page cache: in place if it is there, else on a blocking thread |
//! | a stream's first pass | with O_DIRECT, several pieces ahead, by a few blocking threads |
//! | what a stream has passed before | likewise, through the page cache, which that fills |
//!
//! Any error is for the caller to read on over TCP: a replica that is appended to meanwhile has another
//! checksum for its last chunk, which is no rot.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use ringfs_protocol::meta_file::META_HEADER_BYTES;
use rustix::io::ReadWriteFlags;
use tokio::sync::oneshot;

use crate::limits::{
    LOCAL_PIECE_BYTES, LOCAL_PIECES_AHEAD_MAX, LOCAL_READS_IN_FLIGHT_MAX, LOCAL_SMALL_READ_BYTES,
};
use crate::local_replicas::{LocalReplica, SECTOR_BYTES};
use crate::located_blocks::BlockRange;
use crate::read_buffers::ReadBuffers;

#[derive(Debug)]
pub(crate) struct LocalBlockReader {
    replica: Arc<LocalReplica>,
    verify: bool,
    /// What is still to be handed out.
    offset: u64,
    end: u64,
    ahead: Arc<Ahead>,
}

/// Pieces of a stream that are read ahead, by a few blocking tasks: each reads one after the other, so
/// that the disk need not wait for the reader, and ends when enough is ahead.
#[derive(Debug)]
struct Ahead {
    replica: Arc<LocalReplica>,
    buffers: ReadBuffers,
    verify: bool,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// Where the next piece starts, and the last one ends.
    next: u64,
    end: u64,
    /// Begun and not handed out yet, in order.
    pieces: VecDeque<oneshot::Receiver<io::Result<Piece>>>,
    /// Tasks that read.
    tasks: usize,
}

/// A piece to read, and where it is waited for.
struct Assignment {
    wanted: Range<u64>,
    done: oneshot::Sender<io::Result<Piece>>,
}

/// What was read of the file, and its checksums.
#[derive(Debug)]
struct Piece {
    data: Bytes,
    checksums: Vec<u8>,
    /// The part of the data that is wanted.
    wanted: Range<usize>,
}

impl LocalBlockReader {
    pub fn new(
        replica: Arc<LocalReplica>,
        buffers: ReadBuffers,
        range: &BlockRange,
        verify: bool,
    ) -> Self {
        let offset = range.offset_in_block;
        let end = offset + range.len;
        let queue = Queue { next: offset, end, pieces: VecDeque::new(), tasks: 0 };
        let queue = Mutex::new(queue);
        let ahead = Arc::new(Ahead { replica: replica.clone(), buffers, verify, queue });
        Self { replica, verify, offset, end, ahead }
    }

    /// Bytes still to be handed out.
    pub fn remaining(&self) -> u64 {
        self.end - self.offset
    }

    /// The next bytes of the range; `None` after the last.
    pub async fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.offset == self.end {
            return Ok(None);
        }
        let is_small = self.remaining() <= LOCAL_SMALL_READ_BYTES && !self.ahead.has_begun();
        let chunk = match is_small {
            true => self.read_small().await?,
            false => self.next_piece().await?,
        };
        self.offset += chunk.len() as u64;
        Ok(Some(chunk))
    }

    async fn read_small(&self) -> io::Result<Bytes> {
        let read = SmallRead::new(&self.replica, self.offset..self.end, self.verify);
        let data = match read.run(ReadWriteFlags::NOWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                blocking(move || read.run(ReadWriteFlags::empty())).await?
            }
            data => data,
        }?;
        let skip = (self.offset - chunk_start(&self.replica, self.offset)) as usize;
        Ok(Bytes::from(data).slice(skip..skip + (self.end - self.offset) as usize))
    }

    async fn next_piece(&mut self) -> io::Result<Bytes> {
        let piece = self.ahead.oldest().await.map_err(io::Error::other)??;
        if self.verify {
            verify(&self.replica, &piece.data, &piece.checksums)?;
        }
        Ok(piece.data.slice(piece.wanted))
    }
}

impl Drop for LocalBlockReader {
    fn drop(&mut self) {
        let mut queue = self.ahead.queue();
        queue.end = queue.next;
        queue.pieces.clear();
    }
}

impl Ahead {
    fn has_begun(&self) -> bool {
        !self.queue().pieces.is_empty()
    }

    /// The oldest piece, with as many tasks at work on the next ones as there may be.
    fn oldest(self: &Arc<Self>) -> oneshot::Receiver<io::Result<Piece>> {
        let mut queue = self.queue();
        while (queue.tasks < LOCAL_READS_IN_FLIGHT_MAX || queue.pieces.is_empty())
            && let Some(first) = queue.assign()
        {
            queue.tasks += 1;
            let ahead = self.clone();
            tokio::task::spawn_blocking(move || ahead.read_from(first));
        }
        queue.pieces.pop_front().expect("one was begun, as the range is not at its end")
    }

    fn read_from(&self, first: Assignment) {
        let mut next = Some(first);
        while let Some(Assignment { wanted, done }) = next {
            // A reader that is gone takes nothing.
            let _ = done.send(self.read(wanted));
            let mut queue = self.queue();
            next = queue.assign();
            if next.is_none() {
                queue.tasks -= 1;
            }
        }
    }

    fn read(&self, wanted: Range<u64>) -> io::Result<Piece> {
        let replica = &self.replica;
        let again = replica.read_up_to.fetch_max(wanted.end, Ordering::Relaxed) >= wanted.end;
        let file = replica.direct.as_ref().filter(|_| !again).unwrap_or(&replica.data);
        let start = wanted.start / SECTOR_BYTES * SECTOR_BYTES;
        let end = chunk_end(replica, wanted.end);
        let len = (end - start) as usize;
        let room = len.next_multiple_of(SECTOR_BYTES as usize);
        let mut buffer = self.buffers.take()?;
        let mut filled = 0;
        while filled < len {
            match file.read_at(&mut buffer.bytes_mut()[filled..room], start + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let checksums = match self.verify {
            true => checksums(replica, start..end, ReadWriteFlags::empty())?,
            false => Vec::new(),
        };
        let data = buffer.into_bytes().slice(..len);
        let wanted = (wanted.start - start) as usize..(wanted.end - start) as usize;
        Ok(Piece { data, checksums, wanted })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Queue {
    /// The next piece, up to a multiple of the pieces' size; `None` when enough is ahead.
    fn assign(&mut self) -> Option<Assignment> {
        if self.next == self.end || self.pieces.len() >= LOCAL_PIECES_AHEAD_MAX {
            return None;
        }
        let end = (self.next + 1).next_multiple_of(LOCAL_PIECE_BYTES as u64).min(self.end);
        let wanted = self.next..end;
        self.next = end;
        let (done, piece) = oneshot::channel();
        self.pieces.push_back(piece);
        Some(Assignment { wanted, done })
    }
}

/// Whole chunks that hold a small range.
struct SmallRead {
    replica: Arc<LocalReplica>,
    chunks: Range<u64>,
    verify: bool,
}

impl SmallRead {
    fn new(replica: &Arc<LocalReplica>, wanted: Range<u64>, verify: bool) -> Self {
        let chunks = chunk_start(replica, wanted.start)..chunk_end(replica, wanted.end);
        Self { replica: replica.clone(), chunks, verify }
    }

    fn run(&self, flags: ReadWriteFlags) -> io::Result<Vec<u8>> {
        let mut data = vec![0; (self.chunks.end - self.chunks.start) as usize];
        read_exact(&self.replica.data, &mut data, self.chunks.start, flags)?;
        if self.verify {
            let checksums = checksums(&self.replica, self.chunks.clone(), flags)?;
            verify(&self.replica, &data, &checksums)?;
        }
        Ok(data)
    }
}

fn chunk_start(replica: &LocalReplica, offset: u64) -> u64 {
    let chunk_len = u64::from(replica.checksum.bytes_per_checksum);
    offset / chunk_len * chunk_len
}

fn chunk_end(replica: &LocalReplica, offset: u64) -> u64 {
    offset.next_multiple_of(u64::from(replica.checksum.bytes_per_checksum)).min(replica.len)
}

/// The stored checksums of a range that starts with a chunk.
fn checksums(
    replica: &LocalReplica,
    chunks: Range<u64>,
    flags: ReadWriteFlags,
) -> io::Result<Vec<u8>> {
    let before = replica.checksum.checksums_len(chunks.start);
    let mut checksums = vec![0; replica.checksum.checksums_len(chunks.end - chunks.start) as usize];
    read_exact(&replica.meta, &mut checksums, META_HEADER_BYTES as u64 + before, flags)?;
    Ok(checksums)
}

fn verify(replica: &LocalReplica, data: &[u8], checksums: &[u8]) -> io::Result<()> {
    replica.checksum.verify(data, checksums).map_err(|mismatch| {
        let why = format!("chunk {} of what was read is wrong", mismatch.chunk_index);
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

fn read_exact(
    file: &std::fs::File,
    mut bytes: &mut [u8],
    mut offset: u64,
    flags: ReadWriteFlags,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(bytes)], offset, flags)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

//! The files of a floor process: one of data and one of checksums a block, as a datanode has them.
//!
//! Data is allocated ahead (fallocate mode 0, so that no write extends the file) and written with
//! O_DIRECT. Checksums, 1/128 of the bytes, are written through the page cache, with one pwrite a
//! slab and before the slab's acks: direct writes of 8 KiB between those of 1 MiB cost more of the
//! disk's time than the kernel's copy of them costs.
//!
//! The files may be there already, written once and emptied again ([`lay_out`]): a file's first write
//! then meets space that what lies below the file system has given out before.
//!
//! A thread opens and allocates the files of the next block while this one is written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, OFlags};

use super::layout::{Layout, SLAB_BYTES};
use crate::BenchError;

#[derive(Debug)]
pub struct BlockFile {
    pub data: File,
    sums: File,
}

impl BlockFile {
    /// Of the slab that begins with `first_packet`; to be done before its data is written, at
    /// [`BlockFile::data_offset`].
    pub fn write_sums(&self, layout: &Layout, first_packet: u64, sums: &[u8]) -> io::Result<()> {
        let packet_of_block = first_packet % layout.packets_per_block();
        self.sums.write_all_at(sums, packet_of_block * layout.sums_bytes() as u64)
    }

    pub fn data_offset(layout: &Layout, first_packet: u64) -> u64 {
        first_packet % layout.packets_per_block() * layout.packet_bytes
    }
}

pub struct BlockFiles {
    layout: Layout,
    /// Stream and block to prepare.
    wanted: Sender<(usize, u64)>,
    /// In the order of blocks, by stream.
    prepared: Vec<Receiver<Result<BlockFile, BenchError>>>,
}

/// Blocks of a stream that are prepared before they are taken.
const AHEAD: u64 = 2;

impl BlockFiles {
    pub fn new(layout: Layout, directory: &Path) -> Self {
        let (wanted, wishes) = channel();
        let (senders, prepared): (Vec<_>, Vec<_>) = (0..layout.streams).map(|_| channel()).unzip();
        for block in 0..AHEAD.min(layout.blocks()) {
            (0..layout.streams).for_each(|stream| {
                let _ = wanted.send((stream, block));
            });
        }
        let directory = directory.to_owned();
        std::thread::spawn(move || {
            for (stream, block) in wishes {
                let file = prepare(&layout, &directory, stream, block);
                // Nobody waits for it any more once the node has failed.
                let _: Result<(), _> = senders[stream].send(file);
            }
        });
        Self { layout, wanted, prepared }
    }

    /// The files of the block that follows the last one taken of this stream.
    pub fn take(&self, stream: usize, block: u64) -> Result<BlockFile, BenchError> {
        if block + AHEAD < self.layout.blocks() {
            let _ = self.wanted.send((stream, block + AHEAD));
        }
        self.prepared[stream].recv().unwrap_or_else(|_| {
            Err(BenchError::Usage(format!("block {block} of stream {stream} was never asked for")))
        })
    }
}

pub fn data_path(directory: &Path, stream: usize, block: u64) -> PathBuf {
    directory.join(format!("stream{stream}-block{block}"))
}

pub fn sums_path(directory: &Path, stream: usize, block: u64) -> PathBuf {
    directory.join(format!("stream{stream}-block{block}.meta"))
}

/// Makes the data files of all blocks, writes them full, unless an earlier run did so, and empties them;
/// their space stays.
pub fn lay_out(layout: &Layout, directory: &Path) -> Result<(), BenchError> {
    let mut filler = MmapMut::map_anon(SLAB_BYTES).map_err(BenchError::limit("map memory"))?;
    filler.fill(0xff);
    for stream in 0..layout.streams {
        for block in 0..layout.blocks() {
            let path = data_path(directory, stream, block);
            let (data, len) = (open(&path)?, layout.bytes_of_block(block));
            let writing = BenchError::file("lay out", &path);
            let emptied = data.metadata().and_then(|found| {
                for at in (found.len()..len).step_by(SLAB_BYTES) {
                    let rest = (len - at).min(SLAB_BYTES as u64) as usize;
                    data.write_all_at(&filler[..rest], at)?;
                }
                Ok(rustix::fs::fallocate(&data, FallocateFlags::ZERO_RANGE, 0, len)?)
            });
            emptied.map_err(writing)?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, BenchError> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).expect("O_DIRECT is a small constant");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(direct);
    options.open(path).map_err(BenchError::file("open for direct writes", path))
}

fn prepare(
    layout: &Layout,
    directory: &Path,
    stream: usize,
    block: u64,
) -> Result<BlockFile, BenchError> {
    let (data_path, sums_path) =
        (data_path(directory, stream, block), sums_path(directory, stream, block));
    let data = open(&data_path)?;
    rustix::fs::fallocate(&data, FallocateFlags::empty(), 0, layout.bytes_of_block(block))
        .map_err(|errno| BenchError::file("allocate", &data_path)(errno.into()))?;
    let sums = File::create(&sums_path).map_err(BenchError::file("create", &sums_path))?;
    Ok(BlockFile { data, sums })
}

//! The floor's engine on tokio-uring, with the ring and the buffers that it has by default. A stream
//! is three tasks of one thread: one receives, checks and forwards packet by packet, one sends acks,
//! one takes those from downstream; each write of a full slab is one more. The library has no
//! receive of several parts: header with checksums, and data, are two reads.
//!
//! A buffer moves into each operation and comes back from it. Any failure shuts all connections
//! down: the runtime ends only when nothing is in flight any more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use tokio::sync::{Notify, mpsc};
use tokio_uring::buf::{BoundedBuf, Slice};
use tokio_uring::fs::File;
use tokio_uring::net::TcpStream;

use super::files::{BlockFile, BlockFiles};
use super::layout::{ACK_BYTES, HEADER_BYTES, SLAB_BYTES};
use super::node::{Link, NodeOptions, check_header, verify};
use super::progress::Progress;
use crate::BenchError;

const PAGE_BYTES: usize = 4096;

/// Data from the first page boundary of a vector on, checksums beside it.
struct Slab {
    data: Vec<u8>,
    sums: Vec<u8>,
}

struct Stream {
    index: usize,
    options: NodeOptions,
    files: Option<Rc<BlockFiles>>,
    upstream: TcpStream,
    downstream: Option<TcpStream>,
    progress: RefCell<Progress>,
    /// Something may be acknowledged.
    advanced: Notify,
    failures: mpsc::UnboundedSender<io::Error>,
    free: mpsc::UnboundedSender<Slab>,
}

pub fn serve(
    options: &NodeOptions,
    links: impl FnOnce() -> Result<Vec<Link>, BenchError>,
) -> Result<BTreeMap<String, f64>, BenchError> {
    let layout = &options.layout;
    let slabs: Vec<Slab> = (0..layout.slabs()).map(|_| Slab::new()).collect();
    let directory = options.directory.as_deref();
    let files = directory.map(|directory| Rc::new(BlockFiles::new(*layout, directory)));
    let links = links()?;
    let moved = tokio_uring::start(move_all(options, files, &links, slabs));
    moved.map_err(BenchError::limit("move a stream"))?;
    Ok(BTreeMap::new())
}

async fn move_all(
    options: &NodeOptions,
    files: Option<Rc<BlockFiles>>,
    links: &[Link],
    mut slabs: Vec<Slab>,
) -> io::Result<()> {
    let (failures, mut failed) = mpsc::unbounded_channel();
    let per_stream = slabs.len() / links.len();
    for (index, link) in links.iter().enumerate() {
        let (free, free_slabs) = mpsc::unbounded_channel();
        for slab in slabs.drain(..per_stream) {
            let _ = free.send(slab);
        }
        let downstream = link.downstream.as_ref().map(|socket| socket.try_clone()).transpose()?;
        let stream = Rc::new(Stream {
            index,
            options: options.clone(),
            files: files.clone(),
            upstream: TcpStream::from_std(link.upstream.try_clone()?),
            downstream: downstream.map(TcpStream::from_std),
            progress: RefCell::new(Progress::new(link.downstream.is_none())),
            advanced: Notify::new(),
            failures: failures.clone(),
            free,
        });
        let (sender, taker) = (stream.clone(), stream.clone());
        tokio_uring::spawn(async move { stream.or_tell(stream.receive(free_slabs).await) });
        tokio_uring::spawn(async move { sender.or_tell(sender.send_acks().await) });
        tokio_uring::spawn(async move { taker.or_tell(taker.take_acks().await) });
    }
    drop(failures);
    // Ends when all tasks have, or one has failed.
    match failed.recv().await {
        None => Ok(()),
        Some(error) => {
            links.iter().for_each(Link::shut_down);
            Err(error)
        }
    }
}

impl Stream {
    fn or_tell(&self, result: io::Result<()>) {
        if let Err(error) = result {
            // Only the first failure is waited for.
            let _ = self.failures.send(error);
        }
    }

    async fn receive(
        self: &Rc<Self>,
        mut free_slabs: mpsc::UnboundedReceiver<Slab>,
    ) -> io::Result<()> {
        let layout = self.options.layout;
        let (mut first_packet, mut file) = (0, None);
        let mut prefix = vec![0; HEADER_BYTES + layout.sums_bytes()];
        while first_packet < layout.packets() {
            let mut slab = free_slabs.recv().await.expect("a sender is here");
            let packets = layout.packets_of_slab(first_packet) as usize;
            slab.sums.clear();
            if let Some(files) = &self.files
                && first_packet.is_multiple_of(layout.packets_per_block())
            {
                let block = first_packet / layout.packets_per_block();
                file = Some(Rc::new(files.take(self.index, block).map_err(io::Error::other)?));
            }
            self.progress.borrow_mut().begin_slab(first_packet);
            for packet in 0..packets {
                let number = first_packet + packet as u64;
                prefix = self.receive_packet(&mut slab, prefix, packet, number).await?;
                self.progress.borrow_mut().received += 1;
                self.advanced.notify_one();
            }
            match file.clone() {
                Some(file) => {
                    let stream = self.clone();
                    tokio_uring::spawn(async move {
                        let written = stream.write(slab, &file, first_packet, packets).await;
                        stream.or_tell(written);
                    });
                }
                None => {
                    drop(self.free.send(slab));
                    self.progress.borrow_mut().slab_written(first_packet);
                    self.advanced.notify_one();
                }
            }
            first_packet += packets as u64;
        }
        Ok(())
    }

    /// Takes and returns the memory for header and checksums.
    async fn receive_packet(
        &self,
        slab: &mut Slab,
        prefix: Vec<u8>,
        packet: usize,
        number: u64,
    ) -> io::Result<Vec<u8>> {
        let layout = &self.options.layout;
        let len = prefix.len();
        let prefix = read_exact(&self.upstream, prefix, 0..len).await?;
        let start = slab.data_start() + packet * layout.packet_bytes as usize;
        let range = start..start + layout.packet_bytes as usize;
        let data = std::mem::take(&mut slab.data);
        slab.data = read_exact(&self.upstream, data, range.clone()).await?;
        let (header, sums) = prefix.split_at(HEADER_BYTES);
        check_header(layout, header, number)?;
        slab.sums.extend_from_slice(sums);
        let Some(downstream) = &self.downstream else {
            verify(&slab.data[range], sums)?;
            return Ok(prefix);
        };
        let (sent, prefix) = downstream.write_all(prefix).await;
        sent?;
        let (sent, data) = downstream.write_all(std::mem::take(&mut slab.data).slice(range)).await;
        slab.data = data.into_inner();
        sent?;
        Ok(prefix)
    }

    async fn write(
        &self,
        mut slab: Slab,
        file: &BlockFile,
        first_packet: u64,
        packets: usize,
    ) -> io::Result<()> {
        let layout = &self.options.layout;
        let start = slab.data_start();
        let range = start..start + packets * layout.packet_bytes as usize;
        file.write_sums(layout, first_packet, &slab.sums)?;
        let offset = BlockFile::data_offset(layout, first_packet);
        let file = File::from_std(file.data.try_clone()?);
        let (written, data) = file.write_all_at(slab.data.slice(range), offset).await;
        slab.data = data.into_inner();
        written?;
        // The receiver may be through.
        let _ = self.free.send(slab);
        self.progress.borrow_mut().slab_written(first_packet);
        self.advanced.notify_one();
        file.close().await
    }

    async fn take_acks(&self) -> io::Result<()> {
        let Some(downstream) = &self.downstream else { return Ok(()) };
        let (mut ack, mut acknowledged) = (vec![0; ACK_BYTES], 0);
        while acknowledged < self.options.layout.packets() {
            ack = read_exact(downstream, ack, 0..ACK_BYTES).await?;
            acknowledged = u64::from_le_bytes(*ack.first_chunk().expect("it has eight bytes"));
            self.progress.borrow_mut().downstream = Some(acknowledged);
            self.advanced.notify_one();
        }
        Ok(())
    }

    async fn send_acks(&self) -> io::Result<()> {
        let (layout, kind) = (&self.options.layout, self.options.ack);
        let (mut ack, mut sent) = (vec![0; ACK_BYTES], 0);
        while sent < layout.packets() {
            let acknowledged = self.progress.borrow().acknowledged(layout, kind);
            if acknowledged == sent {
                self.advanced.notified().await;
                continue;
            }
            ack.copy_from_slice(&acknowledged.to_le_bytes());
            let (result, returned) = self.upstream.write_all(ack).await;
            result?;
            (ack, sent) = (returned, acknowledged);
        }
        Ok(())
    }
}

impl Slab {
    fn new() -> Self {
        Self { data: vec![1; SLAB_BYTES + PAGE_BYTES], sums: Vec::with_capacity(8 << 10) }
    }

    fn data_start(&self) -> usize {
        self.data.as_ptr().align_offset(PAGE_BYTES)
    }
}

async fn read_exact(
    socket: &TcpStream,
    mut buffer: Vec<u8>,
    range: std::ops::Range<usize>,
) -> io::Result<Vec<u8>> {
    let mut start = range.start;
    while start < range.end {
        let (len, slice): (_, Slice<Vec<u8>>) = socket.read(buffer.slice(start..range.end)).await;
        buffer = slice.into_inner();
        match len? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => start += len,
        }
    }
    Ok(buffer)
}

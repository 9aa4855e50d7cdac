//! The floor's engine of blocking calls. For each stream a thread receives, checks and forwards
//! packet by packet into a slab, four write full slabs, and one takes acks from downstream; whoever
//! brings a stream forward sends the ack. A slab belongs to the receiver, then to a writer, and goes
//! back through a channel. Who fails shuts the stream's connections down, which ends the others.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use memmap2::{Advice, MmapMut};

use super::client::write_all_vectored;
use super::files::{BlockFile, BlockFiles};
use super::layout::{ACK_BYTES, Layout, SIDE_BYTES, SLAB_BYTES, SlabMap};
use super::node::{Link, NodeOptions, check_header, verify};
use super::progress::Progress;
use crate::BenchError;

/// Enough to keep a disk busy with requests of 1 MiB.
const WRITERS: usize = 4;

/// A slab that waits to be written.
struct Full {
    slab: MmapMut,
    file: Arc<BlockFile>,
    first_packet: u64,
    packets: usize,
}

struct Stream<'a> {
    index: usize,
    options: &'a NodeOptions,
    files: Option<&'a Mutex<BlockFiles>>,
    link: Link,
    /// And the ack that was sent last.
    progress: Mutex<(Progress, u64)>,
}

pub fn serve(
    options: &NodeOptions,
    links: impl FnOnce() -> Result<Vec<Link>, BenchError>,
) -> Result<BTreeMap<String, f64>, BenchError> {
    let layout = &options.layout;
    let slabs_of_stream = || (0..layout.slabs() / layout.streams).map(|_| new_slab()).collect();
    let slabs: Result<Vec<Vec<MmapMut>>, _> =
        (0..layout.streams).map(|_| slabs_of_stream()).collect();
    let slabs = slabs.map_err(BenchError::limit("get memory"))?;
    let directory = options.directory.as_deref();
    let files = directory.map(|directory| Mutex::new(BlockFiles::new(*layout, directory)));
    let links = links()?;
    std::thread::scope(|scope| {
        let streams: Vec<_> = (links.into_iter().zip(slabs).enumerate())
            .map(|(index, (link, slabs))| {
                let progress = Mutex::new((Progress::new(link.downstream.is_none()), 0));
                let files = files.as_ref();
                let stream = Stream { index, options, files, link, progress };
                scope.spawn(move || stream.run(slabs))
            })
            .collect();
        streams.into_iter().try_for_each(|stream| {
            stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
    .map_err(BenchError::limit("move a stream"))?;
    Ok(BTreeMap::new())
}

fn new_slab() -> io::Result<MmapMut> {
    let mut slab = MmapMut::map_anon((SLAB_BYTES + SIDE_BYTES).next_multiple_of(2 << 20))?;
    let _ = slab.advise(Advice::HugePage);
    slab.fill(1);
    Ok(slab)
}

impl Stream<'_> {
    fn run(&self, slabs: Vec<MmapMut>) -> io::Result<()> {
        let (free, free_slabs) = channel();
        slabs.into_iter().for_each(|slab| free.send(slab).expect("its receiver is below"));
        let (full, full_slabs) = channel();
        let full_slabs = Mutex::new(full_slabs);
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            if self.files.is_some() {
                for _ in 0..WRITERS {
                    let (free, full_slabs) = (free.clone(), &full_slabs);
                    workers.push(scope.spawn(|| self.or_shut_down(self.write(full_slabs, free))));
                }
            }
            workers.push(scope.spawn(|| self.or_shut_down(self.take_acks())));
            let mut result = self.or_shut_down(self.receive(&free_slabs, free, full));
            for worker in workers {
                let ended = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(ended);
            }
            result
        })
    }

    fn or_shut_down(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|_| self.link.shut_down())
    }

    fn receive(
        &self,
        free_slabs: &Receiver<MmapMut>,
        free: Sender<MmapMut>,
        full: Sender<Full>,
    ) -> io::Result<()> {
        let layout = &self.options.layout;
        let (mut first_packet, mut file) = (0, None);
        while first_packet < layout.packets() {
            let mut slab = free_slabs.recv().expect("a sender is here");
            let packets = layout.packets_of_slab(first_packet) as usize;
            if let Some(files) = self.files
                && first_packet.is_multiple_of(layout.packets_per_block())
            {
                let files = files.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let block = first_packet / layout.packets_per_block();
                file = Some(Arc::new(files.take(self.index, block).map_err(io::Error::other)?));
            }
            self.advance(|progress| progress.begin_slab(first_packet))?;
            for packet in 0..packets {
                self.receive_packet(layout, &mut slab, first_packet, packet)?;
                self.advance(|progress| progress.received += 1)?;
            }
            match file.clone() {
                // Their receivers are there until this thread is through.
                Some(file) => drop(full.send(Full { slab, file, first_packet, packets })),
                None => {
                    drop(free.send(slab));
                    self.advance(|progress| progress.slab_written(first_packet))?;
                }
            }
            first_packet += packets as u64;
        }
        Ok(())
    }

    fn receive_packet(
        &self,
        layout: &Layout,
        slab: &mut MmapMut,
        first_packet: u64,
        packet: usize,
    ) -> io::Result<()> {
        let map = SlabMap::new(layout, 0, SLAB_BYTES);
        let (data, side) = slab.split_at_mut(SLAB_BYTES);
        let data = &mut data[map.data(packet..packet + 1)];
        let (sums, headers) = side.split_at_mut(map.header(0).start - SLAB_BYTES);
        let in_side = |range: std::ops::Range<usize>, start| range.start - start..range.end - start;
        let sums = &mut sums[in_side(map.sums(packet..packet + 1), SLAB_BYTES)];
        let header = &mut headers[in_side(map.header(packet), map.header(0).start)];
        let mut parts = [IoSliceMut::new(header), IoSliceMut::new(sums), IoSliceMut::new(data)];
        read_all_vectored(&self.link.upstream, &mut parts)?;
        check_header(layout, header, first_packet + packet as u64)?;
        match &self.link.downstream {
            None => verify(data, sums),
            Some(downstream) => {
                let mut parts = [IoSlice::new(header), IoSlice::new(sums), IoSlice::new(data)];
                write_all_vectored(downstream, &mut parts)
            }
        }
    }

    fn write(&self, full_slabs: &Mutex<Receiver<Full>>, free: Sender<MmapMut>) -> io::Result<()> {
        let map = SlabMap::new(&self.options.layout, 0, SLAB_BYTES);
        loop {
            let next = full_slabs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
            let Ok(Full { slab, file, first_packet, packets }) = next else { return Ok(()) };
            let layout = &self.options.layout;
            let offset = BlockFile::data_offset(layout, first_packet);
            let written = file
                .write_sums(layout, first_packet, &slab[map.sums(0..packets)])
                .and_then(|()| file.data.write_all_at(&slab[map.data(0..packets)], offset));
            // The receiver may wait for it, also after a failure, and may have ended.
            let _ = free.send(slab);
            written?;
            self.advance(|progress| progress.slab_written(first_packet))?;
        }
    }

    fn take_acks(&self) -> io::Result<()> {
        let Some(mut downstream) = self.link.downstream.as_ref() else { return Ok(()) };
        let (mut ack, mut acknowledged) = ([0; ACK_BYTES], 0);
        while acknowledged < self.options.layout.packets() {
            downstream.read_exact(&mut ack)?;
            acknowledged = u64::from_le_bytes(ack);
            self.advance(|progress| progress.downstream = Some(acknowledged))?;
        }
        Ok(())
    }

    /// Sends the ack that a step has made possible.
    fn advance(&self, step: impl FnOnce(&mut Progress)) -> io::Result<()> {
        let mut locked = self.progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (progress, sent) = &mut *locked;
        step(progress);
        let acknowledged = progress.acknowledged(&self.options.layout, self.options.ack);
        if acknowledged > *sent {
            *sent = acknowledged;
            (&self.link.upstream).write_all(&acknowledged.to_le_bytes())?;
        }
        Ok(())
    }
}

fn read_all_vectored(mut socket: impl Read, mut parts: &mut [IoSliceMut<'_>]) -> io::Result<()> {
    while !parts.is_empty() {
        match socket.read_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => IoSliceMut::advance_slices(&mut parts, len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

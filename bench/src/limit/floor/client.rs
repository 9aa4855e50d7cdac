//! The floor's client: one blocking thread a stream computes the checksums of some packets, sends
//! them with one writev, and takes what acks there are; it waits for acks only with a full window.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use rustix::net::RecvFlags;

use super::layout::{ACK_BYTES, CHECKSUM, HEADER_BYTES, Layout};
use crate::processes::cpu_time_of_this_thread;
use crate::report::Latency;

/// Packets whose checksums are computed and which are sent at a time: half a MiB at 64 KiB each.
const BATCH_PACKETS: u64 = 8;
/// A prime number: no slab and no block begins with the same packet as the one before.
const SOURCE_PACKETS: u64 = 31;

/// What the streams carry: pseudo-random packets, over and over.
pub struct Source {
    bytes: MmapMut,
    packet_bytes: usize,
}

/// What one stream's thread did.
pub struct Driven {
    pub cpu: Duration,
    /// When the last ack had come.
    pub finished: Instant,
    pub latency: Latency,
}

pub struct Stream<'a> {
    pub index: usize,
    pub layout: &'a Layout,
    pub source: &'a Source,
    /// The next block begins when the last one is acknowledged, as with HDFS's clients.
    pub drain_blocks: bool,
    /// Bytes acknowledged of all streams.
    pub progress: &'a AtomicU64,
}

impl Source {
    pub fn new(layout: &Layout) -> io::Result<Self> {
        let mut bytes = MmapMut::map_anon((SOURCE_PACKETS * layout.packet_bytes) as usize)?;
        let _ = bytes.advise(Advice::HugePage);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in bytes.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        Ok(Self { bytes, packet_bytes: layout.packet_bytes as usize })
    }

    pub fn packet(&self, stream: usize, packet: u64) -> &[u8] {
        let start = ((packet + stream as u64) % SOURCE_PACKETS) as usize * self.packet_bytes;
        &self.bytes[start..start + self.packet_bytes]
    }
}

impl Stream<'_> {
    /// Connects, waits for all other streams, and moves this one's bytes.
    pub fn drive(&self, address: SocketAddr, start: &Barrier) -> io::Result<Driven> {
        let connected = super::node::connect(address, self.index);
        start.wait();
        let (socket, cpu) = (connected?, cpu_time_of_this_thread());
        let mut acks = Acks {
            packets: 0,
            sent_at: VecDeque::with_capacity(self.layout.window_packets as usize),
            latency: Latency::new("packet ack"),
            partial: Vec::with_capacity(ACK_BYTES),
        };
        let mut prefixes = vec![0; BATCH_PACKETS as usize * self.prefix_bytes()];
        let mut sent = 0;
        while acks.packets < self.layout.packets() {
            while let batch @ 1.. = self.sendable(sent, acks.packets) {
                acks.sent_at.extend((0..batch).map(|_| Instant::now()));
                self.send(&socket, sent..sent + batch, &mut prefixes)?;
                sent += batch;
                self.take_acks(&socket, &mut acks, RecvFlags::DONTWAIT)?;
            }
            // The last ack may have come already, and behind it only the end of the stream.
            if acks.packets < self.layout.packets() {
                self.take_acks(&socket, &mut acks, RecvFlags::empty())?;
            }
        }
        let cpu = cpu_time_of_this_thread() - cpu;
        Ok(Driven { cpu, finished: Instant::now(), latency: acks.latency })
    }

    fn prefix_bytes(&self) -> usize {
        HEADER_BYTES + self.layout.sums_bytes()
    }

    fn sendable(&self, sent: u64, acknowledged: u64) -> u64 {
        let end = if self.drain_blocks {
            self.layout.end_of_block(acknowledged)
        } else {
            self.layout.packets()
        };
        let window = self.layout.window_packets;
        BATCH_PACKETS.min(end.saturating_sub(sent)).min(window - (sent - acknowledged))
    }

    fn send(&self, socket: &TcpStream, packets: Range<u64>, prefixes: &mut [u8]) -> io::Result<()> {
        let mut parts = Vec::with_capacity(2 * BATCH_PACKETS as usize);
        for (packet, prefix) in packets.zip(prefixes.chunks_exact_mut(self.prefix_bytes())) {
            let data = self.source.packet(self.index, packet);
            let (header, sums) = prefix.split_at_mut(HEADER_BYTES);
            header.copy_from_slice(&self.layout.header(packet));
            CHECKSUM.fill(data, sums);
            parts.push(IoSlice::new(prefix));
            parts.push(IoSlice::new(data));
        }
        write_all_vectored(socket, &mut parts)
    }

    fn take_acks(&self, socket: &TcpStream, acks: &mut Acks, flags: RecvFlags) -> io::Result<()> {
        let mut received = [0_u8; 512];
        let len = match rustix::net::recv(socket, &mut received, flags) {
            Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, len)) => len,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let newly = acks.take(&received[..len])?;
        self.progress.fetch_add(newly * self.layout.packet_bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// What came back, and when what has not come back yet was sent.
struct Acks {
    packets: u64,
    sent_at: VecDeque<Instant>,
    latency: Latency,
    partial: Vec<u8>,
}

impl Acks {
    /// Returns the number of packets that are acknowledged now and were not before.
    fn take(&mut self, received: &[u8]) -> io::Result<u64> {
        self.partial.extend_from_slice(received);
        let whole = self.partial.len() / ACK_BYTES * ACK_BYTES;
        let Some(last) = self.partial[..whole].last_chunk::<ACK_BYTES>() else { return Ok(0) };
        let packets = u64::from_le_bytes(*last);
        let newly = packets.saturating_sub(self.packets);
        if newly > self.sent_at.len() as u64 {
            return Err(io::Error::other(format!(
                "packet {packets} acknowledged before it was sent"
            )));
        }
        let now = Instant::now();
        for sent_at in self.sent_at.drain(..newly as usize) {
            self.latency.record(now - sent_at);
        }
        self.partial.drain(..whole);
        self.packets += newly;
        Ok(newly)
    }
}

pub fn write_all_vectored(mut socket: &TcpStream, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !parts.is_empty() {
        match socket.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => IoSlice::advance_slices(&mut parts, len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

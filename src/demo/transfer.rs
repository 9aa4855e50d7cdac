//! The two timed transfers: local file to cluster, cluster back to a comparison with the file.
//!
//! A thread of its own reads the source, or compares with it; the client's tasks never wait for the
//! local disk. Buffers of the source go round: the writer's acks free them.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ringfs::cluster::Cluster;
use ringfs_bench::processes::{cpu_time, cpu_time_of_this_thread};
use ringfs_bench::{BenchError, Rate};
use ringfs_client::{Client, CreateOptions};
use tokio::sync::mpsc;

use super::blocking;
use super::source::Source;
use crate::error::CommandError;

/// Pieces of the source that are read ahead of the writer.
const READ_AHEAD: usize = 4;
/// Chunks that were received and wait to be compared, 64 KiB each.
const COMPARE_QUEUE: usize = 64;

#[derive(Clone, Debug)]
pub struct Transfer {
    pub rate: Rate,
    pub cpu: CpuTimes,
}

/// Processor time by process.
#[derive(Clone, Debug)]
pub struct CpuTimes {
    pub client: Duration,
    pub namenode: Duration,
    pub datanodes: Vec<Duration>,
}

pub async fn put(
    client: &Client,
    cluster: &Cluster,
    source: &Source,
    target: &str,
    replication: u16,
) -> Result<Transfer, CommandError> {
    let before = CpuTimes::now(cluster)?;
    let started = Instant::now();
    let options = CreateOptions { replication: Some(replication), ..CreateOptions::default() };
    let mut writer = client.create(target, options).await?;
    let (pieces, mut queue) = mpsc::channel(READ_AHEAD);
    let (source_read, piece_len) = (source.clone(), writer.write_len_hint());
    let reading =
        tokio::task::spawn_blocking(move || read_pieces(&source_read, piece_len, &pieces));
    while let Some(piece) = queue.recv().await {
        writer.write(piece).await?;
    }
    reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    writer.close().await?;
    let rate = Rate { bytes: source.bytes, elapsed: started.elapsed() };
    Ok(Transfer { rate, cpu: CpuTimes::now(cluster)?.since(&before) })
}

pub async fn get_and_compare(
    client: &Client,
    cluster: &Cluster,
    source: &Source,
    target: &str,
) -> Result<Transfer, CommandError> {
    let before = CpuTimes::now(cluster)?;
    let started = Instant::now();
    let mut reader = client.open(target).await?;
    let (chunks, queue) = mpsc::channel(COMPARE_QUEUE);
    let expected = source.clone();
    let comparing = tokio::spawn(blocking(move || compare(&expected, queue)));
    while let Some(chunk) = reader.next_chunk().await? {
        if chunks.send(chunk).await.is_err() {
            // The comparison ended early: it has found a difference, or cannot read the source.
            break;
        }
    }
    drop(chunks);
    let compared = comparing.await;
    let comparison_cpu =
        compared.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let rate = Rate { bytes: source.bytes, elapsed: started.elapsed() };
    let mut cpu = CpuTimes::now(cluster)?.since(&before);
    cpu.client = cpu.client.saturating_sub(comparison_cpu);
    Ok(Transfer { rate, cpu })
}

impl CpuTimes {
    fn now(cluster: &Cluster) -> Result<Self, BenchError> {
        // A server that is gone between two transfers has failed the transfer already.
        let of = |pid: Option<u32>| pid.map_or(Ok(Duration::ZERO), cpu_time);
        Ok(Self {
            client: cpu_time(std::process::id())?,
            namenode: of(cluster.namenode_pid())?,
            datanodes: (0..cluster.datanode_count())
                .map(|index| of(cluster.datanode_pid(index)))
                .collect::<Result<_, _>>()?,
        })
    }

    fn since(&self, earlier: &Self) -> Self {
        let nodes = self.datanodes.iter().zip(&earlier.datanodes);
        Self {
            client: self.client.saturating_sub(earlier.client),
            namenode: self.namenode.saturating_sub(earlier.namenode),
            datanodes: nodes.map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    pub fn sum(&self) -> Duration {
        self.client + self.namenode + self.datanodes.iter().sum::<Duration>()
    }
}

/// Sends the source in pieces of `piece_len`, the last one shorter.
fn read_pieces(
    source: &Source,
    piece_len: usize,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<(), CommandError> {
    let fail = || CommandError::file("read", &source.path);
    let file = File::open(&source.path).map_err(fail())?;
    let mut lent: VecDeque<Bytes> = VecDeque::new();
    let mut offset = 0;
    while offset < source.bytes {
        let mut piece = take_back(&mut lent, piece_len);
        let left = usize::try_from(source.bytes - offset).unwrap_or(piece_len);
        let wanted = piece_len.min(left);
        file.read_exact_at(&mut piece[..wanted], offset).map_err(fail())?;
        let piece = piece.freeze();
        if pieces.blocking_send(piece.slice(..wanted)).is_err() {
            // The writer failed, and has the better error.
            return Ok(());
        }
        lent.push_back(piece);
        offset += wanted as u64;
    }
    Ok(())
}

/// The oldest lent buffer when nobody else holds it any more, else a new one.
fn take_back(lent: &mut VecDeque<Bytes>, len: usize) -> BytesMut {
    match lent.pop_front().map(Bytes::try_into_mut) {
        Some(Ok(free)) => free,
        Some(Err(in_use)) => {
            lent.push_front(in_use);
            BytesMut::zeroed(len)
        }
        None => BytesMut::zeroed(len),
    }
}

/// Compares what comes through `chunks` with the source; the processor time that this took.
fn compare(source: &Source, mut chunks: mpsc::Receiver<Bytes>) -> Result<Duration, CommandError> {
    let started = cpu_time_of_this_thread();
    let Source { path, bytes } = source;
    let bytes = *bytes;
    let file = File::open(path).map_err(CommandError::file("read", path))?;
    let mut expected = Vec::new();
    let mut offset = 0_u64;
    let differs = |offset_bytes, expected: String, found: String| CommandError::Differs {
        file: path.display().to_string(),
        offset_bytes,
        expected,
        found,
    };
    while let Some(chunk) = chunks.blocking_recv() {
        if offset + chunk.len() as u64 > bytes {
            return Err(differs(bytes, "the end".to_owned(), "more bytes".to_owned()));
        }
        expected.resize(chunk.len(), 0);
        let read = file.read_exact_at(&mut expected, offset);
        read.map_err(CommandError::file("read", path))?;
        if expected != chunk {
            let pairs = expected.iter().zip(&chunk).enumerate();
            let (at, pair) =
                pairs.into_iter().find(|(_, (want, got))| want != got).expect("they differ");
            let (want, got) = (format!("{:#04x}", pair.0), format!("{:#04x}", pair.1));
            return Err(differs(offset + at as u64, want, got));
        }
        offset += chunk.len() as u64;
    }
    if offset < bytes {
        return Err(differs(
            offset,
            format!("{} more bytes", bytes - offset),
            "the end".to_owned(),
        ));
    }
    Ok(cpu_time_of_this_thread().saturating_sub(started))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(file: &[u8], chunks: &[&'static [u8]]) -> Result<Duration, CommandError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("source");
        std::fs::write(&path, file).unwrap();
        let (sender, queue) = mpsc::channel(8);
        for chunk in chunks {
            sender.blocking_send(Bytes::from_static(chunk)).unwrap();
        }
        drop(sender);
        compare(&Source::open(&path).unwrap(), queue)
    }

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        compared(b"abcdef", &[b"abc", b"def"]).unwrap();
        let offset_of = |file: &[u8], chunks: &[&'static [u8]]| match compared(file, chunks) {
            Err(CommandError::Differs { offset_bytes, .. }) => offset_bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(offset_of(b"abcdef", &[b"abc", b"dXf"]), 4);
        assert_eq!(offset_of(b"abcdef", &[b"abc"]), 3);
        assert_eq!(offset_of(b"abc", &[b"abc", b"d"]), 3);
    }

    #[test]
    fn pieces_make_the_whole_file_and_buffers_go_round() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("source");
        let file: Vec<u8> = (0..=u8::MAX).cycle().take(1000).collect();
        std::fs::write(&path, &file).unwrap();
        let (pieces, mut queue) = mpsc::channel(100);
        let source = Source { path, bytes: 999 };
        let reader = std::thread::spawn(move || read_pieces(&source, 64, &pieces));
        let mut read = Vec::new();
        while let Some(piece) = queue.blocking_recv() {
            read.extend_from_slice(&piece);
        }
        reader.join().unwrap().unwrap();
        assert_eq!(read, file[..999]);

        let mut lent = VecDeque::from([Bytes::from(vec![7; 64])]);
        assert_eq!(take_back(&mut lent, 64)[0], 7, "reused");
        let kept = Bytes::from(vec![7; 64]);
        lent.push_back(kept.clone());
        assert_eq!(take_back(&mut lent, 64)[0], 0, "new while {} holds it", kept.len());
    }
}

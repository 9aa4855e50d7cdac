//! What a data thread pays for going through its ring: a task started and joined, two tasks that
//! wake each other, a job from another thread and its answer, an operation that does nothing, and a
//! small read of cached bytes, one at a time and eight at once.

use std::future::Future;
use std::io::Write;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use ringfs_datanode::limits::DISK_OPERATION_TIMEOUT;
use ringfs_datanode::ring::{self, BufferMut, File, OpenOptions, SECTOR_BYTES, Signal};

const SLABS: usize = 4;
const READS_AT_ONCE: usize = 8;

/// Has `repeat` do its work so many times on a ring of this thread, and say how long that took.
fn on_a_ring<F, Fut>(bench: &mut Bencher, repeat: F)
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Duration> + 'static,
{
    bench.iter_custom(|times| ring::block_on(repeat(times)).expect("a kernel with io_uring"));
}

fn tasks(criterion: &mut Criterion) {
    criterion.bench_function("spawn a task and join it", |bench| {
        on_a_ring(bench, async |times| {
            let started = Instant::now();
            for _ in 0..times {
                ring::spawn(async {}).join().await;
            }
            started.elapsed()
        });
    });
    criterion.bench_function("wake a task and be woken by it", |bench| {
        on_a_ring(bench, async |times| {
            let (ping, pong) = (Rc::new(Signal::default()), Rc::new(Signal::default()));
            let (pinged, answer) = (ping.clone(), pong.clone());
            let other = ring::spawn(async move {
                for _ in 0..times {
                    pinged.changed().await;
                    answer.set();
                }
            });
            let started = Instant::now();
            for _ in 0..times {
                ping.set();
                pong.changed().await;
            }
            let elapsed = started.elapsed();
            other.join().await;
            elapsed
        });
    });
    criterion.bench_function("have a job done by a sleeping data thread", job_from_elsewhere);
}

fn job_from_elsewhere(bench: &mut Bencher) {
    let (remote_sender, remote) = mpsc::channel();
    let (answers, answered) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let data_thread = std::thread::spawn(move || {
        let executor = ring::new_executor(SLABS, DISK_OPERATION_TIMEOUT, Arc::default())
            .expect("a kernel with io_uring");
        remote_sender.send(executor.remote()).expect("the bench waits for it");
        executor.run(async move {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                ring::sleep(Duration::from_millis(20)).await;
            }
        });
    });
    let remote = remote.recv().expect("the data thread sends it");
    bench.iter(|| {
        let answers = answers.clone();
        remote.spawn(Box::new(move || {
            Box::pin(async move { answers.send(()).expect("the bench waits for it") })
        }));
        answered.recv().expect("the job answers")
    });
    drop(stop);
    data_thread.join().expect("the data thread ends");
}

fn operations(criterion: &mut Criterion) {
    criterion.bench_function("an operation that does nothing", |bench| {
        on_a_ring(bench, async |times| {
            let null = File::discarding().await.expect("/dev/null");
            let mut buffer = BufferMut::zeroed(SECTOR_BYTES);
            let started = Instant::now();
            for _ in 0..times {
                buffer = null.read_at(buffer, 0).await.1;
            }
            started.elapsed()
        });
    });
    let mut cached = tempfile::NamedTempFile::new().expect("a temporary file");
    cached.write_all(&[1; SECTOR_BYTES * READS_AT_ONCE]).expect("a small file");
    let path = cached.path();
    for at_once in [1, READS_AT_ONCE] {
        let name = format!("read 4 KiB of cached bytes, {at_once} at once");
        criterion.bench_function(&name, |bench| {
            on_a_ring(bench, |times| read_cached(path.to_owned(), times, at_once))
        });
    }
}

/// Rounds of `at_once` reads each, submitted together.
async fn read_cached(path: std::path::PathBuf, times: u64, at_once: usize) -> Duration {
    let options = OpenOptions { read: true, ..OpenOptions::default() };
    let file = File::open(&path, options).await.expect("the file is there");
    let mut buffers: Vec<_> = (0..at_once).map(|_| BufferMut::zeroed(SECTOR_BYTES)).collect();
    let started = Instant::now();
    for _ in 0..times {
        let offsets = (0..).step_by(SECTOR_BYTES);
        let reads = buffers.drain(..).zip(offsets);
        let reads: Vec<_> = reads.map(|(buffer, offset)| file.read_at(buffer, offset)).collect();
        for read in reads {
            let (len, buffer) = read.await;
            assert_eq!(len.expect("the page cache does not fail"), SECTOR_BYTES);
            buffers.push(buffer);
        }
    }
    started.elapsed()
}

criterion_group!(benches, tasks, operations);
criterion_main!(benches);

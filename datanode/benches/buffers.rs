//! What a stream pays for its memory: a slab taken and given back, alone and after waiting in line,
//! and cut into packets as a receive does it.

use std::future::poll_fn;
use std::hint::black_box;
use std::task::Poll;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ringfs_datanode::ring::{self, Buffer, SLAB_BYTES};

const PACKET_DATA_BYTES: usize = 64_512;

fn slabs(criterion: &mut Criterion) {
    for count in [1, 6] {
        criterion.bench_function(
            &format!("take slabs and give them back, {count} at a time"),
            |bench| {
                bench.iter_custom(|times| {
                    on_a_ring(async move {
                        let share = ring::pool().share(count, 0);
                        drop(share.try_take(count));
                        let started = Instant::now();
                        for _ in 0..times {
                            black_box(share.try_take(count).expect("nobody else takes any"));
                        }
                        started.elapsed()
                    })
                });
            },
        );
    }
    criterion.bench_function("wait in line for a slab that another task gives back", |bench| {
        bench.iter_custom(|times| on_a_ring(hand_over(times)))
    });
}

/// Two tasks over a pool of which each wants all, in turn.
async fn hand_over(times: u64) -> Duration {
    let started = Instant::now();
    let other = ring::spawn(take_and_give(times.div_ceil(2)));
    take_and_give(times / 2).await;
    other.join().await;
    started.elapsed()
}

async fn take_and_give(times: u64) {
    let all = ring::pool().total();
    let share = ring::pool().share(all, 0);
    for _ in 0..times {
        let slabs = share.take(all).await;
        let_others_run().await;
        drop(black_box(slabs));
    }
}

async fn let_others_run() {
    let mut had_their_turn = false;
    poll_fn(|context| {
        if had_their_turn {
            return Poll::Ready(());
        }
        had_their_turn = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn packets(criterion: &mut Criterion) {
    criterion.bench_function("cut a slab into packets and join them for a write", |bench| {
        bench.iter_custom(|times| {
            on_a_ring(async move {
                let share = ring::pool().share(1, 0);
                drop(share.try_take(1));
                let started = Instant::now();
                for _ in 0..times {
                    let mut slab = share.take(1).await.remove(0);
                    let mut joined: Option<Buffer> = None;
                    while slab.len() >= PACKET_DATA_BYTES {
                        let packet = slab.split_to(PACKET_DATA_BYTES).freeze();
                        match &mut joined {
                            Some(joined) => joined.try_join(packet).expect("it follows"),
                            None => joined = Some(packet),
                        }
                    }
                    let len = joined.as_ref().map_or(0, |joined| joined.len());
                    assert_eq!(len, SLAB_BYTES / PACKET_DATA_BYTES * PACKET_DATA_BYTES);
                    black_box(joined);
                }
                started.elapsed()
            })
        });
    });
}

fn on_a_ring(repeat: impl Future<Output = Duration> + 'static) -> Duration {
    ring::block_on(repeat).expect("a kernel with io_uring")
}

criterion_group!(benches, slabs, packets);
criterion_main!(benches);

//! Goals of writing blocks: throughput against the floor, processor time, latency of acks, many
//! writers and idle ones.

use ringfs_bench::dfsio::Mode;
use ringfs_bench::limit::floor::{FloorOptions, Space, Store};
use ringfs_bench::limit::paced_writes::PacedWrites;
use ringfs_bench::pipeline::PipelineOptions;
use ringfs_bench::report::Bound::{AtLeast, AtMost};
use ringfs_bench::report::{Measurement, Run, Side};

use super::lab::{Lab, median_of};
use super::subjects::{Subject, one_file, one_pipeline};
use crate::error::CommandError;

const WRITERS: u64 = 64;
/// A block of the length that the one writer's have, for each: neither side changes blocks more often, nor
/// writes into space that was kept of blocks of another length (`ringfs.datanode.spare.files`).
const WRITERS_BYTES: u64 = WRITERS * (128 << 20);
const IDLE_WRITERS: usize = 1000;
const IDLE_BLOCK_BYTES: u64 = 16 << 20;
const IDLE_WRITER_KIB_MAX: f64 = 64.0;

pub fn three_replicas(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    against_the_floor(lab, 3, Store::Disk, 0.95)
}

pub fn one_replica(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    against_the_floor(lab, 1, Store::Disk, 0.90)
}

pub fn discarded(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    against_the_floor(lab, 3, Store::Discard, 0.85)
}

/// The datanodes alone, sent to by the bench, are what the goal is of; our client beside them, against a
/// floor with as many packets ahead of their acks as it has.
fn against_the_floor(
    lab: &mut Lab<'_>,
    replication: u16,
    store: Store,
    least: f64,
) -> Result<(), CommandError> {
    let file_system = match store {
        Store::Disk => lab.ours()?,
        Store::Discard => lab.ours_discarding()?,
    };
    let bytes = lab.bytes();
    let floor = FloorOptions { store, ..floor(lab, replication) };
    let window_packets = file_system.write_window_packets()?;
    let long_floor = FloorOptions { window_packets, ..floor.clone() };
    let pipeline = one_pipeline(file_system.clone(), bytes, replication);
    let file = one_file(Mode::Write, file_system, bytes, replication);
    let measured = lab.interleave(vec![
        Subject::floor("floor", floor)?,
        Subject::pipeline("datanodes", Side::Ours, pipeline),
        Subject::floor(format!("floor, {window_packets} packets ahead"), long_floor)?,
        Subject::files("datanodes and client", Side::Ours, &file)?,
    ])?;
    let [floor, datanodes, long_floor, with_client] = &measured[..] else {
        unreachable!("four subjects")
    };
    let bound = AtLeast(least);
    lab.judge_medians("datanodes to floor, GB/s", (datanodes, floor), Run::gb_per_s, bound);
    let what = "datanodes and our client to floor, GB/s";
    lab.judge_medians(what, (with_client, long_floor), Run::gb_per_s, bound);
    Ok(())
}

pub fn processor_time(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let ours = one_pipeline(lab.ours()?, bytes, 3);
    let mut subjects = vec![
        Subject::floor("floor", floor(lab, 3))?,
        Subject::pipeline("ringfs", Side::Ours, ours),
    ];
    if let Some(peer) = lab.peer() {
        subjects.push(Subject::pipeline("peer", Side::Peer, one_pipeline(peer, bytes, 3)));
    }
    let measured = lab.interleave(subjects)?;
    let of_datanodes = |run: &Run| run.cpu_s_per_gib("datanode");
    let ours = median_of(&measured[1], of_datanodes);
    let floor = median_of(&measured[0], |run| run.cpu_s_per_gib("floor"));
    lab.judge("datanodes to floor, CPU-s/GiB", ours, Some(floor), AtMost(1.15));
    if let Some(peer) = measured.get(2) {
        let peer = median_of(peer, of_datanodes);
        lab.judge("datanodes to peer's, CPU-s/GiB", ours, Some(peer), AtMost(0.25));
    }
    Ok(())
}

/// Each side at half of the most that it took itself, in closed loop; and ours at the peer's half, for
/// the two are far apart.
pub fn ack_latency(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let ours = one_pipeline(lab.ours()?, bytes, 3);
    let peer = lab.peer().expect("this goal is refused without a peer");
    let peer = one_pipeline(peer, bytes, 3);
    let without_disk = one_pipeline(lab.ours_discarding()?, bytes, 3);
    let peaks = lab.interleave(vec![
        Subject::pipeline("ringfs, as fast as it goes", Side::Ours, ours.clone()),
        Subject::pipeline("peer, as fast as it goes", Side::Peer, peer.clone()),
    ])?;
    let halves: Vec<f64> = peaks.iter().map(|peak| median_of(peak, Run::gb_per_s) / 2.0).collect();
    let planned = |name: &str, side, options: &PipelineOptions, gb_per_s: f64| {
        let options = PipelineOptions { rate: Some((gb_per_s * 1e9) as u64), ..options.clone() };
        Subject::pipeline(format!("{name}, {gb_per_s:.3} GB/s planned"), side, options)
    };
    let measured = lab.interleave(vec![
        planned("ringfs", Side::Ours, &ours, halves[0]),
        planned("ringfs", Side::Ours, &ours, halves[1]),
        planned("peer", Side::Peer, &peer, halves[1]),
        disk_alone(lab, halves[0]),
        disk_alone(lab, halves[1]),
        page_cache_alone(lab, halves[1]),
        planned("ringfs that keeps no data", Side::Limit, &without_disk, halves[1]),
    ])?;
    let [at_its_own, at_the_peers, peer, disks @ .., page_cache, without_disk] = &measured[..]
    else {
        unreachable!("seven subjects")
    };
    let bound = AtMost(0.25);
    let what = "p99 of an ack, each at half of its own peak, us";
    lab.judge_medians(what, (at_its_own, peer), p99_us, bound);
    let what = "p99 of an ack, both at half of the peer's peak, us";
    lab.judge_medians(what, (at_the_peers, peer), p99_us, bound);
    let peer = median_of(peer, p99_us);
    let disks: Vec<String> =
        disks.iter().map(|disk| format!("{:.2}", median_of(disk, p99_us) / peer)).collect();
    lab.find(format!(
        "No ack that waits for the disk comes before its write: the p99 of writes of the disk alone \
         was {} times the p99 of the peer's acks at these rates; that of writes to the page cache, at \
         the peer's rate, {:.2} times; and that of acks of our datanodes when they keep no data, at the \
         same rate, {:.2} times.",
        disks.join(" and "),
        median_of(page_cache, p99_us) / peer,
        median_of(without_disk, p99_us) / peer
    ));
    Ok(())
}

pub fn many_writers(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes_or(WRITERS_BYTES);
    let one = one_pipeline(lab.ours()?, bytes, 3);
    let each = (bytes / WRITERS).max(1);
    let many = PipelineOptions {
        streams: WRITERS as usize,
        bytes: each,
        // No more is reserved on the disk than is written.
        block_size: each.next_multiple_of(1 << 20),
        ..one.clone()
    };
    let measured = lab.interleave(vec![
        Subject::pipeline("1 writer", Side::Ours, one),
        Subject::pipeline("64 writers", Side::Ours, many),
    ])?;
    let [one, many] = &measured[..] else { unreachable!("two subjects") };
    lab.judge_medians("64 writers to one, GB/s", (many, one), Run::gb_per_s, AtLeast(0.95));
    let evenness = median_of(many, |run| counter(run, "slowest_stream_to_mean"));
    lab.judge("slowest of 64 writers to their mean", evenness, None, AtLeast(0.5));
    Ok(())
}

pub fn idle_writers(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let file_system = lab.ours()?;
    let datanodes = vec![lab.cluster()?.datanode_address(0)];
    // The namenode promises an open block all of its size: the idle ones must fit on the disk.
    let block_size = IDLE_BLOCK_BYTES;
    let alone = PipelineOptions { datanodes, block_size, ..one_pipeline(file_system, bytes, 1) };
    let beside = PipelineOptions { idle_writers: IDLE_WRITERS, ..alone.clone() };
    let measured = lab.interleave(vec![
        Subject::pipeline("1 writer", Side::Ours, alone),
        Subject::pipeline("1 writer beside 1,000 idle", Side::Ours, beside),
    ])?;
    let [alone, beside] = &measured[..] else { unreachable!("two subjects") };
    let what = "a writer beside 1,000 idle ones to one alone, GB/s";
    lab.judge_medians(what, (beside, alone), Run::gb_per_s, AtLeast(0.95));
    // The first one: what was resident once is, for the next.
    let first = |name| beside.runs.first().map_or(f64::NAN, |run| counter(run, name));
    let (threads, kib) = (first("idle_writers_new_threads"), most(beside));
    lab.judge("threads for 1,000 idle writers", threads, None, AtMost(0.0));
    lab.judge("KiB resident for an idle writer", kib, None, AtMost(IDLE_WRITER_KIB_MAX));
    Ok(())
}

fn most(beside: &Measurement) -> f64 {
    let kib = beside.runs.iter().map(|run| counter(run, "idle_writer_resident_kib"));
    kib.fold(f64::NAN, f64::max)
}

/// Datanodes write into what the blocks of earlier runs have left (`ringfs.datanode.spare.files`): so
/// does this.
fn floor(lab: &Lab<'_>, replication: u16) -> FloorOptions {
    let floor = FloorOptions::new(lab.directory(), lab.bytes());
    FloorOptions { replication: replication.into(), space: Space::Kept, ..floor }
}

/// What a pipeline of three writes to this one disk at this rate.
fn disk_alone(lab: &Lab<'_>, gb_per_s: f64) -> Subject {
    let name = format!("disk alone, three copies at {gb_per_s:.3} GB/s");
    Subject::paced_writes(name, three_copies(lab, gb_per_s))
}

/// The same, to memory only: what acks before the disk has the data could hope for.
fn page_cache_alone(lab: &Lab<'_>, gb_per_s: f64) -> Subject {
    let writes = PacedWrites { through_cache: true, ..three_copies(lab, gb_per_s) };
    Subject::paced_writes(format!("page cache alone, three copies at {gb_per_s:.3} GB/s"), writes)
}

fn three_copies(lab: &Lab<'_>, gb_per_s: f64) -> PacedWrites {
    PacedWrites {
        directory: lab.directory().to_owned(),
        copies: 3,
        packet_bytes: 64 << 10,
        bytes_per_s: (gb_per_s * 1e9) as u64,
        bytes: lab.bytes(),
        through_cache: false,
    }
}

fn counter(run: &Run, name: &str) -> f64 {
    run.counters.get(name).copied().unwrap_or(f64::NAN)
}

fn p99_us(run: &Run) -> f64 {
    let p99 =
        |latency: &ringfs_bench::report::Latency| latency.histogram_us.value_at_quantile(0.99);
    run.latency.as_ref().map_or(f64::NAN, |latency| p99(latency) as f64)
}

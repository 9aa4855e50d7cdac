//! Goals of what the datanodes leave to the rest of the machine: page cache, memory.

use std::fs::File;

use ringfs_bench::dfsio::{Dfsio, DfsioOptions, Mode};
use ringfs_bench::pipeline::{self, PipelineOptions};
use ringfs_bench::processes::ProcessSize;
use ringfs_bench::report::Bound::AtMost;
use ringfs_bench::report::Side;
use ringfs_datanode::ring::cached_bytes;
use ringfs_protocol::settings::RINGFS_DATANODE_BUFFER_POOL;
use ringfs_protocol::site_config::Configuration;

use super::lab::Lab;
use super::reading::collect_files;
use super::subjects::{one_file, one_pipeline};
use crate::error::CommandError;

const WRITTEN_BYTES: u64 = 8 << 30;

/// What a datanode may take beyond its pool.
const BESIDE_POOL_BYTES: u64 = 64 << 20;

const STREAMS: u64 = 64;

/// One replica, so that as many bytes reach the disk as are written; block and meta files count.
pub fn page_cache(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes_or(WRITTEN_BYTES);
    let options = DfsioOptions { keep: true, ..one_file(Mode::Write, lab.ours()?, bytes, 1) };
    let mut measurement = lab.measurement("ringfs, 1 replica", Side::Ours);
    lab.progress("writing");
    let file = Dfsio::prepare(&options)?;
    let mut run = file.run_once()?.run;
    file.finish()?;
    let mut files = Vec::new();
    let cluster = lab.cluster()?;
    for index in 0..cluster.datanode_count() {
        collect_files(&cluster.data_dir(index), &mut files)?;
    }
    let mut cached = 0;
    for path in &files {
        let opened = File::open(path).map_err(CommandError::file("open", path))?;
        cached +=
            cached_bytes(&opened).map_err(CommandError::file("look at the cache of", path))?;
    }
    run.counters.insert("page_cache_bytes".to_owned(), cached as f64);
    measurement.runs.push(run);
    lab.add(measurement);
    let what = "bytes in the page cache to bytes written";
    lab.judge(what, cached as f64, Some(bytes as f64), AtMost(0.01));
    Ok(())
}

/// The most that any datanode ever had, after one writer, 64 at a time and readers.
pub fn resident_memory(lab: &mut Lab<'_>) -> Result<(), CommandError> {
    let bytes = lab.bytes();
    let file_system = lab.ours()?;
    let one = one_pipeline(file_system.clone(), bytes, 3);
    let each = (bytes / STREAMS).max(1);
    let many = PipelineOptions {
        streams: STREAMS as usize,
        bytes: each,
        block_size: each.next_multiple_of(1 << 20),
        ..one.clone()
    };
    let read = DfsioOptions {
        files: 16,
        file_size: bytes / 16,
        ..one_file(Mode::Read, file_system, bytes, 1)
    };
    lab.progress("one writer");
    let mut measurement = lab.measurement("one writer", Side::Ours);
    measurement.runs.push(pipeline::run_once(&one)?);
    lab.add(measurement);
    lab.progress("64 writers");
    let mut measurement = lab.measurement("64 writers", Side::Ours);
    measurement.runs.push(pipeline::run_once(&many)?);
    lab.add(measurement);
    lab.progress("16 readers");
    let mut measurement = lab.measurement("16 readers", Side::Ours);
    measurement.runs.push(ringfs_bench::dfsio::run_once(&read)?);
    lab.add(measurement);

    let cluster = lab.cluster()?;
    let configuration = Configuration::load(Some(&cluster.conf_dir()), &[])?;
    let pool = configuration.bytes(&RINGFS_DATANODE_BUFFER_POOL)?;
    let mut most = 0;
    for pid in (0..cluster.datanode_count()).filter_map(|index| cluster.datanode_pid(index)) {
        most = most.max(ProcessSize::of(pid)?.resident_peak_bytes);
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let what = "most MiB resident to the pool and 64 MiB";
    lab.judge(what, mib(most), Some(mib(pool + BESIDE_POOL_BYTES)), AtMost(1.0));
    Ok(())
}

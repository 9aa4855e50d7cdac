//! Whole files from start to end: one task and one file a stream, all of them at once.

use std::time::Instant;

use ringfs_client::FileWriter;

use super::classic::StreamTime;
use super::pattern::SLICE_MAX_BYTES;
use super::workload::{Workload, join_all};
use crate::BenchError;

/// Length of the files that are appended to: enough for a last block, and a last chunk that is not
/// whole, as after most writes.
const APPEND_BASE_BYTES: u64 = (1 << 20) + 100;

pub async fn write(workload: Workload) -> Result<Vec<StreamTime>, BenchError> {
    join_all((0..workload.options.files).map(|file| {
        let workload = workload.clone();
        async move {
            let path = workload.path(file);
            let writer = workload.client.create(&path, workload.create_options()).await?;
            fill(&workload, writer, file, 0, workload.options.file_size).await
        }
    }))
    .await
}

/// The files for [`append`]: not counted.
pub async fn write_bases(workload: Workload) -> Result<(), BenchError> {
    let uncounted = Workload { meter: Default::default(), ..workload };
    join_all((0..uncounted.options.files).map(|file| {
        let workload = uncounted.clone();
        async move {
            let path = workload.path(file);
            let writer = workload.client.create(&path, workload.create_options()).await?;
            fill(&workload, writer, file, 0, APPEND_BASE_BYTES).await
        }
    }))
    .await
    .map(drop)
}

pub async fn append(workload: Workload) -> Result<Vec<StreamTime>, BenchError> {
    join_all((0..workload.options.files).map(|file| {
        let workload = workload.clone();
        async move {
            let writer = workload.client.append(&workload.path(file)).await?;
            let to = APPEND_BASE_BYTES + workload.options.file_size;
            fill(&workload, writer, file, APPEND_BASE_BYTES, to).await
        }
    }))
    .await
}

pub async fn read(workload: Workload) -> Result<Vec<StreamTime>, BenchError> {
    join_all((0..workload.options.files).map(|file| read_file(workload.clone(), file))).await
}

/// Writes a file from byte `from` to byte `to` and closes it.
async fn fill(
    workload: &Workload,
    mut writer: FileWriter,
    file: u64,
    from: u64,
    to: u64,
) -> Result<StreamTime, BenchError> {
    let started = Instant::now();
    let buffer = workload.options.buffer.map_or(writer.write_len_hint(), |bytes| bytes as usize);
    let buffer = buffer.min(SLICE_MAX_BYTES) as u64;
    let mut offset = from;
    while offset < to {
        let len = buffer.min(to - offset);
        writer.write(workload.pattern.slice(file, offset, len as usize)).await?;
        workload.meter.add(len, 0);
        offset += len;
    }
    writer.close().await?;
    Ok(StreamTime { bytes: to - from, elapsed: started.elapsed() })
}

async fn read_file(workload: Workload, file: u64) -> Result<StreamTime, BenchError> {
    let path = workload.path(file);
    let mut reader = workload.client.open(&path).await?;
    let started = Instant::now();
    let mut read_bytes = 0;
    while let Some(chunk) = reader.next_chunk().await? {
        workload.verify(file, read_bytes, &chunk)?;
        workload.meter.add(chunk.len() as u64, 0);
        read_bytes += chunk.len() as u64;
    }
    let expected_bytes = workload.options.file_size;
    if read_bytes != expected_bytes {
        return Err(BenchError::WrongLength { file: path, expected_bytes, read_bytes });
    }
    Ok(StreamTime { bytes: read_bytes, elapsed: started.elapsed() })
}

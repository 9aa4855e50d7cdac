//! Positional reads at random offsets, a closed loop of each caller: HBase's way of reading.

use std::sync::Arc;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ringfs_client::FileReader;

use super::workload::{Budget, Workload, join_all};
use crate::BenchError;
use crate::report::Latency;

/// A reader for each caller, on one file after the other.
pub async fn open(workload: &Workload) -> Result<Vec<FileReader>, BenchError> {
    let mut readers = Vec::new();
    for caller in 0..u64::from(workload.options.clients) {
        let path = workload.path(caller % workload.options.files);
        readers.push(workload.client.open(&path).await?);
    }
    Ok(readers)
}

pub async fn read(
    workload: Workload,
    readers: Vec<FileReader>,
    budget: Arc<Budget>,
) -> Result<Latency, BenchError> {
    let callers = readers.into_iter().enumerate().map(|(caller, reader)| {
        read_at_random(workload.clone(), reader, caller as u64, budget.clone())
    });
    let mut latency = Latency::new("pread");
    for of_caller in join_all(callers).await? {
        latency.histogram_us += &of_caller.histogram_us;
    }
    Ok(latency)
}

async fn read_at_random(
    workload: Workload,
    reader: FileReader,
    caller: u64,
    budget: Arc<Budget>,
) -> Result<Latency, BenchError> {
    let file = caller % workload.options.files;
    let len = workload.options.operation_bytes();
    let mut buf = vec![0; len as usize];
    let mut random = SmallRng::seed_from_u64(caller);
    let mut latency = Latency::new("pread");
    while budget.take().is_some() {
        let offset = random.random_range(0..=reader.len().saturating_sub(len));
        let started = Instant::now();
        let read = reader.read_at(offset, &mut buf).await?;
        latency.record(started.elapsed());
        if read as u64 != len {
            return Err(BenchError::WrongLength {
                file: format!("{} at byte {offset}", workload.path(file)),
                expected_bytes: len,
                read_bytes: read as u64,
            });
        }
        workload.verify(file, offset, &buf)?;
        workload.meter.add(len, 1);
    }
    Ok(latency)
}

//! Small files: create, write, close, a closed loop of each caller, in a directory of its own.

use std::sync::Arc;
use std::time::Instant;

use super::workload::{Budget, Workload, join_all};
use crate::BenchError;
use crate::report::Latency;

pub async fn write(workload: Workload, budget: Arc<Budget>) -> Result<Latency, BenchError> {
    let callers = 0..workload.options.clients;
    let callers = callers.map(|caller| write_one_by_one(workload.clone(), caller, budget.clone()));
    let mut latency = Latency::new("create, write and close");
    for of_caller in join_all(callers).await? {
        latency.histogram_us += &of_caller.histogram_us;
    }
    Ok(latency)
}

async fn write_one_by_one(
    workload: Workload,
    caller: u32,
    budget: Arc<Budget>,
) -> Result<Latency, BenchError> {
    let len = workload.options.operation_bytes();
    let mut latency = Latency::new("create, write and close");
    while let Some(file) = budget.take() {
        let path = format!("{}/caller_{caller}/test_io_{file}", workload.directory);
        let started = Instant::now();
        let mut writer = workload.client.create(&path, workload.create_options()).await?;
        writer.write(workload.pattern.slice(file, 0, len as usize)).await?;
        writer.close().await?;
        latency.record(started.elapsed());
        workload.meter.add(len, 1);
    }
    Ok(latency)
}

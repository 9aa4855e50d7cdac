//! What the streams and callers of a run share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringfs_client::{Client, CreateOptions};
use tokio::task::JoinSet;

use super::pattern::Pattern;
use super::{DfsioOptions, Mode};
use crate::BenchError;
use crate::meter::Meter;

#[derive(Clone)]
pub struct Workload {
    pub client: Client,
    pub options: Arc<DfsioOptions>,
    pub directory: String,
    pub pattern: Pattern,
    pub meter: Arc<Meter>,
}

/// How many operations are left, or how much time.
pub struct Budget {
    operations_max: u64,
    started: AtomicU64,
    deadline: Option<Instant>,
}

impl Workload {
    /// TestDFSIO's name for its file number `file`.
    pub fn path(&self, file: u64) -> String {
        format!("{}/test_io_{file}", self.directory)
    }

    pub fn create_options(&self) -> CreateOptions {
        CreateOptions {
            overwrite: self.options.mode != Mode::Small,
            replication: self.options.replication,
            block_size: self.options.block_size,
            ..CreateOptions::default()
        }
    }

    /// Fails at the first byte of `found` that was not written so.
    pub fn verify(&self, file: u64, offset_bytes: u64, found: &[u8]) -> Result<(), BenchError> {
        if !self.options.verify {
            return Ok(());
        }
        match self.pattern.first_difference(file, offset_bytes, found) {
            None => Ok(()),
            Some(offset_bytes) => Err(BenchError::Differs { file: self.path(file), offset_bytes }),
        }
    }
}

impl Budget {
    pub fn new(operations: Option<u64>, seconds: u64) -> Arc<Self> {
        let deadline = match operations {
            Some(_) => None,
            None => Some(Instant::now() + Duration::from_secs(seconds)),
        };
        let operations_max = operations.unwrap_or(u64::MAX);
        Arc::new(Self { operations_max, started: AtomicU64::new(0), deadline })
    }

    /// The number of an operation that may start now.
    pub fn take(&self) -> Option<u64> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        (number < self.operations_max).then_some(number)
    }
}

/// The results of all tasks in the order of their numbers; the first failure ends the others.
pub async fn join_all<T, F>(tasks: impl Iterator<Item = F>) -> Result<Vec<T>, BenchError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, BenchError>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for (number, task) in tasks.enumerate() {
        running.spawn(async move { task.await.map(|result| (number, result)) });
    }
    let mut results = Vec::with_capacity(running.len());
    while let Some(joined) = running.join_next().await {
        results.push(joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?);
    }
    results.sort_unstable_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_of_operations_ends_after_them() {
        let budget = Budget::new(Some(2), 0);
        assert_eq!((budget.take(), budget.take(), budget.take()), (Some(0), Some(1), None));
        assert_eq!(Budget::new(None, 0).take(), None);
    }

    #[tokio::test]
    async fn results_come_in_order_and_a_failure_surfaces() {
        let delays = [30, 0, 10];
        let tasks = delays.into_iter().map(|delay| async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            Ok(delay)
        });
        assert_eq!(join_all(tasks).await.unwrap(), delays);
        let tasks = [true, false].into_iter().map(|fails| async move {
            match fails {
                true => Err(BenchError::Usage("no".to_owned())),
                false => std::future::pending().await,
            }
        });
        let failed: Result<Vec<()>, _> = join_all(tasks).await;
        assert!(matches!(failed, Err(BenchError::Usage(_))));
    }
}

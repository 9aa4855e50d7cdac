//! How the control thread has file work done: as a task on a data thread, whose result it awaits.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::{DatanodeError, Result};
use crate::ring::Job;

#[derive(Clone)]
pub struct DataWork {
    spawn: Arc<dyn Fn(Job) + Send + Sync>,
}

impl DataWork {
    /// `spawn` starts a job on any data thread.
    pub fn new(spawn: impl Fn(Job) + Send + Sync + 'static) -> Self {
        Self { spawn: Arc::new(spawn) }
    }

    pub fn start<F>(&self, work: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        (self.spawn)(Box::new(move || Box::pin(work())));
    }

    /// An error only when the data threads are gone.
    pub async fn run<F, T>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        self.start(move || async move {
            // The one who asked may have given up.
            let _ = sender.send(work().await);
        });
        result.await.map_err(|_| DatanodeError::Stopping)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ring;

    /// Each job on a thread of its own.
    pub fn threads() -> DataWork {
        DataWork::new(|job| {
            std::thread::spawn(move || {
                ring::block_on(async { job().await }).unwrap();
            });
        })
    }

    #[tokio::test]
    async fn work_is_done_elsewhere_and_its_result_comes_back() {
        let here = std::thread::current().id();
        let there = threads().run(|| async { std::thread::current().id() }).await.unwrap();
        assert_ne!(here, there);
        let gone = DataWork::new(drop).run(|| async { 1 }).await;
        assert!(matches!(gone, Err(DatanodeError::Stopping)));
    }
}

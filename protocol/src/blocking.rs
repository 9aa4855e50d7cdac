//! Work that waits for a disk or takes long, beside the async threads. In a simulated world, which
//! has one thread and whose clock stands still meanwhile, it is done at once.

use tokio::task::JoinError;

/// Fails where `work` panics, or the runtime ends before it began.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(feature = "simulation")]
    if crate::simulation::is_entered() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// Drives `work`, which blocks between its awaits, to its end.
pub async fn drive<F>(work: F) -> Result<F::Output, JoinError>
where
    F: Future<Output: Send> + Send + 'static,
{
    #[cfg(feature = "simulation")]
    if crate::simulation::is_entered() {
        return Ok(work.await);
    }
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(work)).await
}

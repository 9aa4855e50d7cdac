//! The data threads: one for each core, each with an io_uring, an executor and a pool of slabs of
//! its own. Nothing is shared between them but the dataset; a stream stays on its thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::watch;

use crate::counters::Counters;
use crate::error::{DatanodeError, Result};
use crate::ring::{self, Job, LEAST_KERNEL, LocalTask, Remote};

/// How long a stop waits for a thread, which gives its operations 5 s.
const STOP_PATIENCE: Duration = Duration::from_secs(8);

/// Stops and joins the threads when dropped; tasks that still run are dropped with their thread. One
/// that has operations in the hands of a disk that does not answer is not waited for.
pub struct DataThreads {
    shared: Arc<[DataThread]>,
    stop: watch::Sender<bool>,
    running: Vec<Running>,
}

struct Running {
    join: JoinHandle<()>,
    /// Told at the end whether the kernel is done with all of the thread's operations.
    ended: mpsc::Receiver<bool>,
}

struct DataThread {
    remote: Arc<Remote>,
    /// Tasks given to this thread and not done.
    load: Arc<AtomicUsize>,
}

/// Starts tasks on the data thread that has the fewest.
#[derive(Clone)]
pub struct Spawner(Arc<[DataThread]>);

impl DataThreads {
    /// `pool_bytes` is shared out among the threads. Pinned, each keeps to one of the cores that the
    /// process may use; its ring and the slabs, which it is the first to touch, are then on that
    /// core's memory node.
    pub fn start(
        count: usize,
        pool_bytes: u64,
        pin: bool,
        disk_timeout: Duration,
        counters: &Arc<Counters>,
    ) -> Result<Self> {
        let cores = if pin { allowed_cores()? } else { Vec::new() };
        let (stop, stopped) = watch::channel(false);
        let slabs = pool_bytes as usize / ring::SLAB_BYTES / count;
        let (mut threads, mut running) = (Vec::new(), Vec::new());
        for index in 0..count {
            let (sender, started) = mpsc::channel();
            let (ends, ended) = mpsc::channel();
            let (mut stopped, counters) = (stopped.clone(), counters.clone());
            let core = (!cores.is_empty()).then(|| cores[index % cores.len()]);
            let main = move || {
                if let Err(error) = core.map_or(Ok(()), keep_to) {
                    return drop(sender.send(Err(error)));
                }
                let executor = match ring::new_executor(slabs, disk_timeout, counters) {
                    Ok(executor) => executor,
                    Err(error) => return drop(sender.send(Err(error))),
                };
                let _ = sender.send(Ok(executor.remote()));
                executor.run(async move { drop(stopped.wait_for(|stop| *stop).await) });
                let _ = ends.send(!executor.left_operations());
            };
            let join = std::thread::Builder::new()
                .name(format!("data-{index}"))
                .spawn(main)
                .map_err(DatanodeError::io("starting a data thread"))?;
            running.push(Running { join, ended });
            let remote = started
                .recv()
                .map_err(|_| DatanodeError::Stopping)?
                .map_err(|error| DatanodeError::Host { why: io_uring_remedy(&error) })?;
            threads.push(DataThread { remote, load: Arc::default() });
        }
        Ok(Self { shared: threads.into(), stop, running })
    }

    pub fn spawner(&self) -> Spawner {
        Spawner(self.shared.clone())
    }
}

impl Spawner {
    pub fn spawn(&self, job: Job) {
        let thread = self
            .0
            .iter()
            .min_by_key(|thread| thread.load.load(Ordering::Relaxed))
            .expect("at least one data thread was started");
        let load = Load::new(&thread.load);
        thread.remote.spawn(Box::new(move || counted(job(), load)));
    }
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for Running { join, ended } in self.running.drain(..) {
            match ended.recv_timeout(STOP_PATIENCE) {
                // The kernel lets a thread end only with its operations, which a disk may hold for ever.
                Ok(false) | Err(mpsc::RecvTimeoutError::Timeout) => {
                    tracing::error!("a data thread is left behind: a disk does not answer");
                }
                Ok(true) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                    if join.join().is_err() {
                        tracing::error!("a data thread panicked");
                    }
                }
            }
        }
    }
}

/// One task in a thread's load, until dropped.
struct Load(Arc<AtomicUsize>);

impl Load {
    fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(load.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn counted(task: LocalTask, load: Load) -> LocalTask {
    Box::pin(async move {
        task.await;
        drop(load);
    })
}

/// The cores that this process may run on.
fn allowed_cores() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)
        .map_err(|errno| DatanodeError::io("reading the cores of this process")(errno.into()))?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect())
}

/// The calling thread runs on this core only, from now on.
fn keep_to(core: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

/// What the operator can do about a ring that cannot be made.
fn io_uring_remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => format!(
            "this kernel or container has no io_uring: ringfs datanodes need Linux {LEAST_KERNEL} \
             or newer, and a seccomp profile that allows the io_uring system calls"
        ),
        Some(libc::EPERM | libc::EACCES) => "io_uring is forbidden here: set \
             kernel.io_uring_disabled=0 (sysctl), and in a container use a seccomp profile that \
             allows the io_uring system calls"
            .to_owned(),
        Some(libc::ENOMEM) => "io_uring gets no locked memory: raise the limit \
             (LimitMEMLOCK=infinity in the service, ulimit -l unlimited in a shell)"
            .to_owned(),
        Some(libc::EINVAL) => too_old(),
        _ if error.kind() == io::ErrorKind::Unsupported => too_old(),
        _ => format!("io_uring cannot be used: {error}"),
    }
}

fn too_old() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    format!("Linux {release} is too old for the datanode: {LEAST_KERNEL} or newer is needed")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::limits::DISK_OPERATION_TIMEOUT;

    fn started(pin: bool) -> DataThreads {
        DataThreads::start(2, 8 << 20, pin, DISK_OPERATION_TIMEOUT, &Arc::default()).unwrap()
    }

    #[test]
    fn tasks_are_spread_over_the_threads_and_dropped_with_them() {
        let threads = started(false);
        let (sender, receiver) = mpsc::channel();
        for _ in 0..4 {
            let sender = sender.clone();
            threads.spawner().spawn(Box::new(move || {
                Box::pin(async move {
                    sender.send(std::thread::current().id()).unwrap();
                    std::future::pending::<()>().await;
                    drop(sender);
                })
            }));
        }
        drop(sender);
        let ids: HashSet<_> = (0..4).map(|_| receiver.recv().unwrap()).collect();
        assert_eq!(ids.len(), 2);
        assert!(threads.shared.iter().all(|thread| thread.load.load(Ordering::Relaxed) == 2));
        drop(threads);
        assert!(receiver.recv().is_err(), "all tasks are gone");
    }

    #[test]
    fn a_pinned_thread_keeps_to_one_core() {
        let threads = started(true);
        let (sender, receiver) = mpsc::channel();
        for _ in 0..2 {
            let sender = sender.clone();
            threads.spawner().spawn(Box::new(move || {
                Box::pin(async move {
                    sender.send(sched_getaffinity(None).unwrap()).unwrap();
                    std::future::pending::<()>().await;
                })
            }));
        }
        let cores = [receiver.recv().unwrap(), receiver.recv().unwrap()];
        assert!(cores.iter().all(|set| set.count() == 1));
        let shared = allowed_cores().unwrap().len() == 1;
        assert!(shared || cores[0] != cores[1], "a core each");
    }

    #[test]
    fn every_refusal_of_io_uring_names_a_remedy() {
        let refused = |errno| io_uring_remedy(&io::Error::from_raw_os_error(errno));
        assert!(refused(libc::EPERM).contains("kernel.io_uring_disabled=0"));
        assert!(refused(libc::ENOMEM).contains("LimitMEMLOCK"));
        assert!(refused(libc::EINVAL).contains(LEAST_KERNEL));
        assert!(refused(libc::ENOSYS).contains(LEAST_KERNEL));
    }
}

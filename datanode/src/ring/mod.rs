//! Input and output of a data thread: one io_uring, one single-threaded executor, and the memory
//! that operations work on. All of the project's `unsafe` is below this module.
//!
//! | module | noun |
//! |---|---|
//! | `driver` | the operations and the seam at which a simulated kernel takes the place of `uring` |
//! | `executor` | tasks, and the table of operations |
//! | `in_flight`, `timers` | waiting for an operation, for a time |
//! | `stuck` | operations whose disk does not answer |
//! | `descriptor` | open files and sockets, and their close |
//! | `buffers` | ranges of counted memory |
//! | `slab_pool` | the slabs that a thread's streams share, and the line for them |
//! | `message` | lists of ranges for scattered receives and gathered sends |
//! | `simulated` | a driver on a model of kernel, disks and network, for tests |
//! | `file_work` | several operations on files as one, done by a thread of their volume |
//! | `file`, `fs`, `net`, `page_cache` | what protocol code calls |
//! | `zero_copy` | which connections send from memory in place |
//! | `zero_copy_receive` | which network cards could receive in place |

mod buffers;
mod descriptor;
mod driver;
mod executor;
#[cfg(test)]
pub mod failing;
mod file;
mod file_work;
pub mod fs;
mod future;
mod in_flight;
mod message;
mod net;
mod page_cache;
#[cfg(feature = "simulation")]
pub mod simulated;
mod slab_pool;
mod stuck;
mod table;
mod timers;
mod uring;
mod zero_copy;
mod zero_copy_receive;

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::counters::Counters;
use crate::limits::DISK_OPERATION_TIMEOUT;

pub use buffers::{Buffer, BufferMut, Recycler, SECTOR_BYTES, SLAB_BYTES};
pub use executor::{
    Executor, Job, LocalTask, Remote, TaskHandle, counters, executor_id, now, pool, shared, spawn,
};
pub use file::{File, OpenOptions, WriteAll, use_workers_below};
pub use file_work::{FileWork, FileWorkDone, FileWorkers};
pub use future::{Either, Signal, TimedOut, join, race, timeout, yield_now};
pub use message::{ReceiveMessage, SendMessage};
pub use net::{Sockets, TcpListener, TcpStream};
pub use page_cache::cached_bytes;
pub use slab_pool::{SlabPool, SlabShare};
pub use timers::{sleep, sleep_until};
pub use uring::LEAST_KERNEL;
pub use zero_copy_receive::{ZeroCopyReceive, of_network_cards};

use uring::UringDriver;

/// An executor on an io_uring of this thread, with a pool of `slabs` slabs; a file operation that takes
/// `disk_timeout` is given up.
pub fn new_executor(
    slabs: usize,
    disk_timeout: Duration,
    counters: Arc<Counters>,
) -> io::Result<Rc<Executor>> {
    let (driver, wake_up) = UringDriver::new(slabs, counters.clone())?;
    let executor = Executor::new(Box::new(driver), move || wake_up.wake(), counters);
    executor.give_up_on_disks_after(disk_timeout);
    executor.make_pool(slabs)?;
    Ok(executor)
}

/// Runs a future on an executor of its own on this thread, with a small pool.
pub fn block_on<F>(main: F) -> io::Result<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    const SLABS: usize = 32;
    Ok(new_executor(SLABS, DISK_OPERATION_TIMEOUT, Arc::default())?.run(main))
}

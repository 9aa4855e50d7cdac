//! A single-threaded executor over a [`Driver`]: tasks, and the table of operations in
//! flight.
//!
//! Wakers may be called from any thread: on the executor's own they queue the task directly, from
//! another one through a queue and the driver's wake-up. A task that panics is dropped with its
//! message logged; the others go on.
//!
//! An operation lives in the table from submission to completion. A future that is dropped before
//! leaves it there (and asks for its cancellation when it waits for a peer), and so does one that gives
//! up on a disk (`stuck`): memory in the kernel's hands is never freed.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;

use crate::counters::Counters;

use super::descriptor::Descriptor;
use super::driver::{Completion, Driver, Notice, Operation, Outcome, Patience};
use super::future::Signal;
use super::in_flight::{InFlight, Overdue};
use super::slab_pool::SlabPool;
use super::stuck::DiskLooks;
use super::table::Table;
use super::timers::Timers;

/// How long a stopping executor waits for the kernel to let go of operations.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

pub type LocalTask = Pin<Box<dyn Future<Output = ()>>>;
/// Makes a task on the thread that is to run it.
pub type Job = Box<dyn FnOnce() -> LocalTask + Send>;

thread_local! {
    pub(super) static CURRENT: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
}

pub struct Executor {
    pub(super) driver: RefCell<Box<dyn Driver>>,
    pub(super) operations: RefCell<Table<Slot>>,
    pub(super) disk_looks: DiskLooks,
    tasks: RefCell<Table<Task>>,
    ready: RefCell<VecDeque<usize>>,
    pub(super) timers: RefCell<Timers>,
    /// Used by every turn.
    completions: RefCell<Vec<Completion>>,
    remote: Arc<Remote>,
    pub(super) pool: RefCell<Option<SlabPool>>,
    left_operations: Cell<bool>,
    /// When the driver was last asked for completions.
    turned_at: Cell<Instant>,
    pub(super) counters: Arc<Counters>,
    /// What its tasks share, one of each type.
    shared: RefCell<Vec<Rc<dyn Any>>>,
}

/// What other threads reach of an executor.
pub struct Remote {
    woken: SegQueue<usize>,
    jobs: SegQueue<Job>,
    is_asleep: AtomicBool,
    wake_up: Box<dyn Fn() + Send + Sync>,
}

struct Task {
    /// Out while it is polled.
    future: Option<LocalTask>,
    waker: Waker,
    handle: Arc<TaskWaker>,
}

struct TaskWaker {
    task: usize,
    is_queued: AtomicBool,
    remote: Arc<Remote>,
}

pub(super) struct Slot {
    pub(super) operation: Operation,
    pub(super) state: SlotState,
    /// The number of looks before it was submitted, where it is an operation on a disk.
    pub(super) submitted_at_look: u32,
    /// The kernel still reads the operation's memory, after its result.
    pub(super) notice_due: bool,
}

pub(super) enum SlotState {
    Waiting(Option<Waker>),
    Done(Outcome),
    /// The disk takes too long: whoever waits is told so, unless it answers before.
    Overdue,
    /// Nobody waits any more: the operation is kept for the kernel only.
    Abandoned,
}

impl Executor {
    /// `wake_up` ends the driver's wait and may be called from any thread.
    pub fn new(
        driver: Box<dyn Driver>,
        wake_up: impl Fn() + Send + Sync + 'static,
        counters: Arc<Counters>,
    ) -> Rc<Self> {
        let remote = Remote {
            woken: SegQueue::new(),
            jobs: SegQueue::new(),
            is_asleep: AtomicBool::new(false),
            wake_up: Box::new(wake_up),
        };
        let turned_at = Cell::new(driver.now());
        Rc::new(Self {
            driver: RefCell::new(driver),
            disk_looks: DiskLooks::default(),
            left_operations: Cell::default(),
            turned_at,
            operations: RefCell::default(),
            tasks: RefCell::default(),
            ready: RefCell::default(),
            timers: RefCell::default(),
            completions: RefCell::default(),
            remote: Arc::new(remote),
            pool: RefCell::default(),
            counters,
            shared: RefCell::default(),
        })
    }

    /// Gives the executor its pool, `slabs` slabs of memory known to the driver.
    pub fn make_pool(self: &Rc<Self>, slabs: usize) -> std::io::Result<()> {
        let executor = Rc::downgrade(self);
        let pool = SlabPool::new(slabs, self.counters.clone(), move |index, base, len| {
            let executor = executor.upgrade()?;
            // SAFETY: every slab and the executor's pool hold the mapping, and `shut_down` ends
            // all operations before either goes.
            unsafe { executor.driver.borrow_mut().register(index, base, len) }
        })?;
        *self.pool.borrow_mut() = Some(pool);
        Ok(())
    }

    pub fn remote(&self) -> Arc<Remote> {
        self.remote.clone()
    }

    /// Runs all tasks until `main` is done, then drops the others and ends their operations.
    pub fn run<F: Future + 'static>(self: &Rc<Self>, main: F) -> F::Output
    where
        F::Output: 'static,
    {
        let former = CURRENT.replace(Some(self.clone()));
        assert!(former.is_none(), "an executor runs on this thread already");
        let result = Rc::new(RefCell::new(None));
        let place = result.clone();
        let main_task = self.spawn(Box::pin(async move {
            let output = main.await;
            *place.borrow_mut() = Some(output);
        }));
        let output = loop {
            self.take_remote();
            self.run_ready();
            if let Some(output) = result.borrow_mut().take() {
                break output;
            }
            assert!(self.tasks.borrow().contains(main_task), "the main task panicked");
            self.turn(self.patience());
        };
        self.shut_down();
        CURRENT.replace(None);
        output
    }

    pub(super) fn spawn(&self, future: LocalTask) -> usize {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks.next_index();
        let remote = self.remote.clone();
        let handle = Arc::new(TaskWaker { task, is_queued: AtomicBool::new(true), remote });
        tasks.insert(Task { future: Some(future), waker: handle.clone().into(), handle });
        self.ready.borrow_mut().push_back(task);
        task
    }

    /// Submits at once; the returned future waits for the completion.
    pub(super) fn submit(self: &Rc<Self>, operation: Operation) -> InFlight {
        let token = self.start(operation, SlotState::Waiting(None));
        InFlight { executor: self.clone(), token: Some(token) }
    }

    /// Closes a file's descriptor, which is nobody's any more.
    pub(super) fn close(&self, fd: RawFd) {
        self.start(Operation::Close { fd }, SlotState::Abandoned);
    }

    fn start(&self, operation: Operation, state: SlotState) -> usize {
        let mut operations = self.operations.borrow_mut();
        let submitted_at_look = self.disk_looks.note(&operation, self.turned_at.get());
        let (token, slot) =
            operations.insert(Slot { operation, state, submitted_at_look, notice_due: false });
        // SAFETY: the operation stays in the table until its completion; what the kernel sees of
        // it lies behind pointers, so the table may move it.
        unsafe { self.driver.borrow_mut().submit(token as u64, &mut slot.operation) };
        token
    }

    /// Carries the operation out at once where nothing has to be waited for, else as `submit` does: a
    /// system call costs less than a turn of the ring and of the tasks.
    pub(super) async fn carry_out(
        self: Rc<Self>,
        mut operation: Operation,
    ) -> Result<(Operation, Outcome), Overdue> {
        let attempted = self.driver.borrow_mut().attempt(&mut operation);
        match attempted {
            Some(result) => Ok((operation, Outcome::of(result))),
            None => self.submit(operation).await,
        }
    }

    /// An operation that has ended already.
    pub(super) fn ended(self: &Rc<Self>, operation: Operation, count: u32) -> InFlight {
        let state = SlotState::Done(Outcome::of(Ok(count)));
        let slot = Slot { operation, state, submitted_at_look: 0, notice_due: false };
        let (token, _) = self.operations.borrow_mut().insert(slot);
        InFlight { executor: self.clone(), token: Some(token) }
    }

    pub(super) fn with_driver<T>(&self, ask: impl FnOnce(&dyn Driver) -> T) -> T {
        ask(&**self.driver.borrow())
    }

    pub(super) fn set_direct(&self, file: &Descriptor) -> std::io::Result<()> {
        self.driver.borrow_mut().set_direct(file)
    }

    fn take_remote(self: &Rc<Self>) {
        while let Some(job) = self.remote.jobs.pop() {
            self.spawn(job());
        }
        let mut ready = self.ready.borrow_mut();
        while let Some(task) = self.remote.woken.pop() {
            ready.push_back(task);
        }
    }

    /// Polls the tasks that are ready now; those that they make ready wait for the next round, so
    /// that completions are collected in between.
    fn run_ready(&self) {
        let count = self.ready.borrow().len();
        for _ in 0..count {
            let Some(key) = self.ready.borrow_mut().pop_front() else { return };
            self.poll_task(key);
        }
    }

    fn poll_task(&self, key: usize) {
        let taken = self.tasks.borrow_mut().get_mut(key).and_then(|task| {
            task.handle.is_queued.store(false, Ordering::Release);
            Some((task.future.take()?, task.waker.clone()))
        });
        let Some((mut future, waker)) = taken else { return };
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        match polled {
            Ok(Poll::Pending) => {
                if let Some(task) = self.tasks.borrow_mut().get_mut(key) {
                    task.future = Some(future);
                }
            }
            Ok(Poll::Ready(())) => drop(self.tasks.borrow_mut().remove(key)),
            Err(_) => {
                tracing::error!("a task panicked and was dropped; the panic's message is above");
                drop(self.tasks.borrow_mut().remove(key));
            }
        }
    }

    fn patience(&self) -> Patience {
        if !self.ready.borrow().is_empty() {
            return Patience::None;
        }
        self.remote.is_asleep.store(true, Ordering::SeqCst);
        if !self.remote.is_empty() {
            return Patience::None;
        }
        Patience::Until(self.next_deadline())
    }

    /// When there is something to do without a completion.
    fn next_deadline(&self) -> Instant {
        let timer = self.timers.borrow().next_deadline();
        self.disk_looks.next().map_or(timer, |look| look.min(timer))
    }

    fn turn(&self, patience: Patience) {
        let mut completions = self.completions.take();
        let turned = self.driver.borrow_mut().turn(patience, &mut completions);
        self.remote.is_asleep.store(false, Ordering::SeqCst);
        if let Err(error) = turned {
            tracing::error!(%error, "waiting for completions failed");
        }
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        *self.completions.borrow_mut() = completions;
        let now = self.driver.borrow().now();
        self.turned_at.set(now);
        self.timers.borrow_mut().expire(now);
        if self.disk_looks.next().is_some_and(|look| look <= now) {
            self.look_at_disks(now);
        }
    }

    fn complete(&self, completion: Completion) {
        let mut operations = self.operations.borrow_mut();
        let token = completion.token as usize;
        let Some(slot) = operations.get_mut(token) else {
            unreachable!("one completion for each operation");
        };
        match completion.outcome.notice {
            Notice::None => {}
            Notice::Due => slot.notice_due = true,
            Notice::Arrived { copied } => {
                slot.notice_due = false;
                slot.operation.note_usage(copied, &self.counters);
                if matches!(slot.state, SlotState::Abandoned) {
                    let abandoned = operations.remove(token);
                    drop(operations);
                    drop(abandoned);
                }
                return;
            }
        }
        if slot.notice_due && matches!(slot.state, SlotState::Abandoned) {
            return;
        }
        match std::mem::replace(&mut slot.state, SlotState::Done(completion.outcome)) {
            SlotState::Waiting(Some(waker)) => waker.wake(),
            SlotState::Waiting(None) | SlotState::Done(_) | SlotState::Overdue => {}
            SlotState::Abandoned => {
                let abandoned = operations.remove(token);
                // What it owns may free a slab and wake whoever waits for one.
                drop(operations);
                self.discard(abandoned);
            }
        }
    }

    /// Drops what nobody waits for, with the descriptor that it may have brought.
    pub(super) fn discard(&self, slot: Option<Slot>) {
        let Some(Slot { operation, state: SlotState::Done(outcome), .. }) = slot else { return };
        let Some(fd) = operation.descriptor_of(&outcome) else { return };
        if matches!(operation, Operation::Open { .. }) && self.driver.borrow().closes_files() {
            self.close(fd);
        } else {
            // SAFETY: the kernel opened it for this operation, and nobody was told its number.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }

    /// Whether the kernel has kept operations beyond the end.
    pub fn left_operations(&self) -> bool {
        self.left_operations.get()
    }

    fn shut_down(&self) {
        self.ready.borrow_mut().clear();
        let tasks = self.tasks.take();
        drop(tasks);
        for token in self.operations.borrow().indices() {
            self.driver.borrow_mut().cancel(token as u64);
        }
        let deadline = self.driver.borrow().now() + SHUTDOWN_PATIENCE;
        while !self.operations.borrow().is_empty() && self.driver.borrow().now() < deadline {
            self.turn(Patience::Until(deadline));
        }
        let held_by_kernel = self.operations.take();
        if !held_by_kernel.is_empty() {
            tracing::error!("operations are still in flight; their memory is given up");
            std::mem::forget(held_by_kernel);
            self.left_operations.set(true);
        }
    }
}

/// For a world that owns the time, and runs several executors on one thread by turns.
#[cfg(feature = "simulation")]
impl Executor {
    /// Runs what is ready until nothing is, or for `rounds`, without waiting; whether there was
    /// anything.
    pub fn step(self: &Rc<Self>, rounds: u32) -> bool {
        self.on_this_thread(|| {
            let mut has_run = false;
            for _ in 0..rounds {
                self.take_remote();
                if self.ready.borrow().is_empty() {
                    self.turn(Patience::None);
                    self.remote.is_asleep.store(true, Ordering::SeqCst);
                    self.take_remote();
                    if self.ready.borrow().is_empty() {
                        return has_run;
                    }
                }
                has_run = true;
                self.run_ready();
            }
            has_run
        })
    }

    /// When [`Executor::step`] has something to do by itself.
    pub fn next_timer(&self) -> Option<Instant> {
        Some(self.next_deadline())
    }

    /// Drops all tasks, as the end of a process does, and ends their operations.
    pub fn stop(self: &Rc<Self>) {
        self.on_this_thread(|| {
            while let Some(job) = self.remote.jobs.pop() {
                drop(job);
            }
            self.shut_down();
            *self.pool.borrow_mut() = None;
        });
    }

    pub fn operations_in_flight(&self) -> usize {
        self.operations.borrow().indices().count()
    }

    pub fn tasks(&self) -> usize {
        self.tasks.borrow().indices().count()
    }

    /// Slabs that are handed out.
    pub fn slabs_in_use(&self) -> usize {
        self.pool.borrow().as_ref().map_or(0, |pool| pool.total() - pool.free())
    }

    fn on_this_thread<T>(self: &Rc<Self>, run: impl FnOnce() -> T) -> T {
        let former = CURRENT.replace(Some(self.clone()));
        assert!(former.is_none(), "an executor runs on this thread already");
        let result = run();
        CURRENT.replace(None);
        result
    }
}

impl Remote {
    /// Has a task started on the executor's thread.
    pub fn spawn(&self, job: Job) {
        self.jobs.push(job);
        self.notify();
    }

    fn notify(&self) {
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            (self.wake_up)();
        }
    }

    fn is_empty(&self) -> bool {
        self.woken.is_empty() && self.jobs.is_empty()
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let is_local = CURRENT
            .try_with(|current| match &*current.borrow() {
                Some(executor) if Arc::ptr_eq(&executor.remote, &self.remote) => {
                    executor.ready.borrow_mut().push_back(self.task);
                    true
                }
                _ => false,
            })
            .unwrap_or(false);
        if !is_local {
            self.remote.woken.push(self.task);
            self.remote.notify();
        }
    }
}

/// The executor of this thread, where it can close a file by an operation just now.
pub(super) fn closing_files() -> Option<Rc<Executor>> {
    let executor = CURRENT.try_with(|current| current.try_borrow().ok()?.clone()).ok()??;
    let can = executor.operations.try_borrow_mut().is_ok()
        && executor.driver.try_borrow_mut().is_ok_and(|driver| driver.closes_files());
    can.then_some(executor)
}

/// The executor of this thread.
///
/// # Panics
///
/// Outside of one: data-thread code is called from data threads only.
pub(super) fn current() -> Rc<Executor> {
    CURRENT.with(|current| current.borrow().clone()).expect("runs on a data thread")
}

/// Starts a task on this thread; it goes on when the handle is dropped.
pub fn spawn<F>(future: F) -> TaskHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let shared = Rc::new(TaskResult { output: RefCell::new(None), done: Signal::default() });
    let result = shared.clone();
    let mut future = Box::pin(future);
    current().spawn(Box::pin(async move {
        let output = future.as_mut().await;
        *result.output.borrow_mut() = Some(output);
        result.done.set();
    }));
    TaskHandle(shared)
}

/// The result of a task, to be awaited once.
pub struct TaskHandle<T>(Rc<TaskResult<T>>);

struct TaskResult<T> {
    output: RefCell<Option<T>>,
    done: Signal,
}

impl<T> TaskHandle<T> {
    pub async fn join(self) -> T {
        loop {
            if let Some(output) = self.0.output.borrow_mut().take() {
                return output;
            }
            self.0.done.changed().await;
        }
    }
}

/// Tells the executors of one thread apart.
pub fn executor_id() -> usize {
    Rc::as_ptr(&current()).addr()
}

pub fn now() -> Instant {
    let executor = current();
    executor.driver.borrow().now()
}

/// This thread's slabs.
pub fn pool() -> SlabPool {
    let executor = current();
    let pool = executor.pool.borrow().clone();
    pool.expect("a data thread makes its pool before it runs tasks")
}

/// What the tasks of this thread share under this type, made by the first that asks.
pub fn shared<T: Default + 'static>() -> Rc<T> {
    let executor = current();
    let mut shared = executor.shared.borrow_mut();
    if let Some(there) = shared.iter().find_map(|value| value.clone().downcast().ok()) {
        return there;
    }
    let new = Rc::<T>::default();
    shared.push(new.clone());
    new
}

/// What this thread and its fellows have done.
pub fn counters() -> Arc<Counters> {
    current().counters.clone()
}

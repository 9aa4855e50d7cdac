//! The pool of slabs that a data thread's streams share, and the line in which they wait for them.
//!
//! The pool reserves address space at start and touches (and registers with the ring) a slab only
//! when it is first needed: fresh memory costs seconds per GiB on virtual machines. Slabs that were
//! used last are handed out first. Handles count on one [`Memory`] for each slab, made once: neither
//! taking a slab nor giving it back asks the allocator for anything.
//!
//! While nobody waits, a stream takes slabs up to its share's bound. When the pool runs out, the line
//! ([`Rank`]) decides: who holds less than a fair part of the pool comes before who holds more,
//! then who leaves fewer slabs to others, then who came first. Fairness comes first, or the streams
//! that end their pipelines here, which leave nothing to others, would take each slab that comes
//! back, and those that begin theirs would stand still for seconds. What a stream must leave to others
//! ([`SlabPool::share`]) holds in any place. Nobody waits forever: who holds too much gets it written
//! and sent, then holds less, and has its place anew.
//!
//! A slab whose operation is stuck in a disk stays with the kernel until the disk answers, however
//! long: it is parked. The pool hands out another in its place ([`SlabPool::set_parked`]), at most as
//! many as it has slabs; when more are parked, streams wait.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use memmap2::{Advice, MmapMut, MmapOptions};

use super::buffers::{BufferMut, Memory, SLAB_BYTES};
use crate::counters::Counters;
use crate::limits::{RESERVE_DIVISOR, RESERVE_LEVELS_MAX};

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The slabs of one data thread.
#[derive(Clone)]
pub struct SlabPool {
    core: Rc<PoolCore>,
}

struct PoolCore {
    /// The first slab, at a huge page's boundary: two slabs make a huge page.
    first: NonNull<u8>,
    slabs: usize,
    /// Slabs in the kernel's hands for longer than anyone waits for, for which others are handed out.
    parked: Cell<usize>,
    /// Keeps the memory mapped; every slab handed out holds the pool.
    _map: MmapMut,
    free: RefCell<Vec<Rc<Memory>>>,
    /// Slabs below this have been handed out before.
    touched: Cell<usize>,
    register: Box<dyn Fn(usize, *mut u8, usize) -> Option<u16>>,
    /// By rank.
    line: RefCell<VecDeque<Waiter>>,
    next_ticket: Cell<u64>,
    /// Shares that hold slabs or wait for some.
    active: Cell<usize>,
    /// The most slabs that were in use at a time.
    high_water: Cell<usize>,
    counters: Arc<Counters>,
}

/// What one stream may take of the pool at a time.
pub struct SlabShare {
    pool: SlabPool,
    core: Rc<ShareCore>,
    max: usize,
    /// Slabs that it leaves to others.
    reserve: usize,
}

#[derive(Default)]
struct ShareCore {
    held: Cell<usize>,
    /// Stands in line.
    waits: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

/// Where a slab goes back to.
pub(super) struct Lease {
    pool: Rc<PoolCore>,
    share: Rc<ShareCore>,
}

struct Waiter {
    rank: Rank,
    waker: Waker,
}

/// A place in line: the least is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    holds_its_part: bool,
    reserve: usize,
    ticket: u64,
}

impl SlabPool {
    /// `register` makes a slab known to the kernel when it is first used, and returns its index
    /// there, or `None` where the locked-memory limit forbids it.
    pub(super) fn new(
        slabs: usize,
        counters: Arc<Counters>,
        register: impl Fn(usize, *mut u8, usize) -> Option<u16> + 'static,
    ) -> io::Result<Self> {
        // Twice the slabs of address space: as many may take the place of parked ones.
        let mut map = MmapOptions::new()
            .len(2 * slabs * SLAB_BYTES + HUGE_PAGE_BYTES)
            .no_reserve_swap()
            .map_anon()?;
        // Without huge pages all works, with a fifth less throughput.
        let _ = map.advise(Advice::HugePage);
        let base = map.as_mut_ptr();
        // SAFETY: the offset is below a huge page's size, by which the map exceeds its slabs.
        let first = unsafe { NonNull::new_unchecked(base.add(base.align_offset(HUGE_PAGE_BYTES))) };
        counters.slabs_total.add(slabs as u64);
        let core = PoolCore {
            first,
            slabs,
            parked: Cell::new(0),
            _map: map,
            free: RefCell::new(Vec::with_capacity(slabs)),
            touched: Cell::new(0),
            register: Box::new(register),
            line: RefCell::default(),
            next_ticket: Cell::new(0),
            active: Cell::new(0),
            high_water: Cell::new(0),
            counters,
        };
        Ok(Self { core: Rc::new(core) })
    }

    /// A share of the pool for one stream: `max` slabs at a time, and none of the last `reserve`.
    pub fn share(&self, max: usize, reserve: usize) -> SlabShare {
        let reserve = reserve.min(self.core.slabs.saturating_sub(1));
        let max = max.min(self.core.slabs - reserve);
        SlabShare { pool: self.clone(), core: Rc::default(), max, reserve }
    }

    /// Slabs that are not handed out.
    pub fn free(&self) -> usize {
        self.core.free_count()
    }

    pub fn total(&self) -> usize {
        self.core.slabs
    }

    /// So many of its slabs are parked from now on.
    pub(super) fn set_parked(&self, slabs: usize) {
        let core = &self.core;
        let slabs = slabs.min(core.slabs);
        let former = core.parked.replace(slabs);
        core.counters.slabs_parked.add(slabs as u64);
        core.counters.slabs_parked.sub(former as u64);
        core.wake_first();
    }
}

impl SlabShare {
    /// Slabs held now, by handles or by operations in flight.
    pub fn held(&self) -> usize {
        self.core.held.get()
    }

    /// A slab, as [`SlabShare::try_take`] gives them.
    pub fn try_take_one(&self) -> Option<BufferMut> {
        self.may_take(1).then(|| self.hand_out())
    }

    /// A slab, as [`SlabShare::take`] gives them.
    pub async fn take_one(&self) -> BufferMut {
        self.wait_for_share(1).await;
        if let Some(slab) = self.try_take_one() {
            return slab;
        }
        let place = self.wait_for_pool(1).await;
        let slab = self.hand_out();
        drop(place);
        slab
    }

    /// `count` slabs, if the share allows them and nobody before us waits for them.
    pub fn try_take(&self, count: usize) -> Option<Vec<BufferMut>> {
        self.may_take(count).then(|| self.hand_out_many(count))
    }

    fn may_take(&self, count: usize) -> bool {
        let pool = &self.pool.core;
        self.held() + count <= self.max
            && pool.free_count() >= count + self.reserve
            && pool.line.borrow().front().is_none_or(|first| self.rank(u64::MAX) < first.rank)
    }

    /// `count` slabs (or the whole share, if that is less), waiting in line for them. To stay free
    /// of deadlock, a caller that waits here for the pool holds no slab whose release depends on
    /// what it waits for.
    pub async fn take(&self, count: usize) -> Vec<BufferMut> {
        let count = count.min(self.max);
        self.wait_for_share(count).await;
        if let Some(slabs) = self.try_take(count) {
            return slabs;
        }
        let place = self.wait_for_pool(count).await;
        let slabs = self.hand_out_many(count);
        drop(place);
        slabs
    }

    /// Waits in line until the pool has `count` slabs, which are the caller's while it keeps its
    /// place.
    async fn wait_for_pool(&self, count: usize) -> Place<'_> {
        let pool = &self.pool.core;
        let mut place = Place::at_the_end(self);
        poll_fn(|context| match place.is_first(context) {
            true if pool.free_count() >= count + self.reserve => Poll::Ready(()),
            _ => Poll::Pending,
        })
        .await;
        place
    }

    /// Resolves when the share itself, whatever the pool has, allows `count` slabs.
    pub async fn wait_for_share(&self, count: usize) {
        let count = count.min(self.max);
        poll_fn(|context| {
            if self.held() + count <= self.max {
                return Poll::Ready(());
            }
            self.core.wake_at_release(context);
            Poll::Pending
        })
        .await;
    }

    fn rank(&self, ticket: u64) -> Rank {
        let holds_its_part = self.held() >= self.pool.core.fair_part();
        Rank { holds_its_part, reserve: self.reserve, ticket }
    }

    fn hand_out(&self) -> BufferMut {
        self.pool.core.hand_out(&self.core)
    }

    fn hand_out_many(&self, count: usize) -> Vec<BufferMut> {
        (0..count).map(|_| self.hand_out()).collect()
    }
}

impl ShareCore {
    fn is_active(&self) -> bool {
        self.waits.get() || self.held.get() > 0
    }

    /// Wakes the task when a slab goes back.
    fn wake_at_release(&self, context: &Context<'_>) {
        *self.waiter.borrow_mut() = Some(context.waker().clone());
    }

    fn wake(&self) {
        if let Some(waker) = self.waiter.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Lease {
    pub(super) fn give_back(self, slab: Rc<Memory>) {
        let Self { pool, share } = self;
        pool.change(&share, |share| share.held.set(share.held.get() - 1));
        share.wake();
        pool.take_back(slab);
        pool.wake_first();
    }
}

/// A place in the line for slabs, left by dropping it.
struct Place<'a> {
    share: &'a SlabShare,
    rank: Rank,
}

impl<'a> Place<'a> {
    fn at_the_end(share: &'a SlabShare) -> Self {
        let pool = &share.pool.core;
        let ticket = pool.next_ticket.get();
        pool.next_ticket.set(ticket + 1);
        pool.change(&share.core, |share| share.waits.set(true));
        Self { share, rank: share.rank(ticket) }
    }

    /// Whether nobody is before us; wakes the task when that may have changed.
    fn is_first(&mut self, context: &Context<'_>) -> bool {
        let pool = &self.share.pool.core;
        self.share.core.wake_at_release(context);
        let rank = self.share.rank(self.rank.ticket);
        let has_moved = rank != self.rank && pool.leave(self.rank);
        self.rank = rank;
        pool.stand(rank, context.waker());
        let is_first = pool.line.borrow().front().is_some_and(|first| first.rank == rank);
        if has_moved && !is_first {
            pool.wake_first();
        }
        is_first
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let pool = &self.share.pool.core;
        pool.leave(self.rank);
        pool.change(&self.share.core, |share| share.waits.set(false));
        pool.wake_first();
    }
}

impl PoolCore {
    fn free_count(&self) -> usize {
        // Slabs whose operation has ended may be in use for a while when they do not count as parked
        // any more.
        (self.slabs + self.parked.get()).saturating_sub(self.in_use())
    }

    fn in_use(&self) -> usize {
        self.touched.get() - self.free.borrow().len()
    }

    /// What each active share may hold without coming last. With all at that, those that must leave most
    /// to others still find slabs.
    fn fair_part(&self) -> usize {
        let reserved = self.slabs / RESERVE_DIVISOR * RESERVE_LEVELS_MAX;
        ((self.slabs - reserved) / self.active.get().max(1)).max(1)
    }

    /// Changes a share and the count of those that are active with it.
    fn change(&self, share: &ShareCore, change: impl FnOnce(&ShareCore)) {
        let was_active = share.is_active();
        change(share);
        let active = self.active.get() + usize::from(share.is_active());
        self.active.set(active - usize::from(was_active));
    }

    fn stand(&self, rank: Rank, waker: &Waker) {
        let mut line = self.line.borrow_mut();
        match line.binary_search_by_key(&rank, |waiter| waiter.rank) {
            Ok(mine) => line[mine].waker.clone_from(waker),
            Err(index) => line.insert(index, Waiter { rank, waker: waker.clone() }),
        }
    }

    /// Whether somebody stood there.
    fn leave(&self, rank: Rank) -> bool {
        let mut line = self.line.borrow_mut();
        let mine = line.binary_search_by_key(&rank, |waiter| waiter.rank);
        mine.is_ok_and(|mine| line.remove(mine).is_some())
    }

    fn wake_first(&self) {
        if let Some(first) = self.line.borrow().front() {
            first.waker.wake_by_ref();
        }
    }

    fn take_back(&self, slab: Rc<Memory>) {
        self.free.borrow_mut().push(slab);
        self.counters.slabs_in_use.sub(1);
    }

    fn count_out(&self) {
        self.counters.slabs_in_use.add(1);
        let in_use = self.in_use();
        if in_use > self.high_water.replace(in_use.max(self.high_water.get())) {
            self.counters.slabs_high_water.add(1);
        }
    }

    /// A free slab, which the caller has made sure of.
    fn hand_out(self: &Rc<Self>, share: &Rc<ShareCore>) -> BufferMut {
        let used = self.free.borrow_mut().pop();
        let slab = used.unwrap_or_else(|| Rc::new(self.touch_next()));
        self.count_out();
        self.change(share, |share| share.held.set(share.held.get() + 1));
        slab.lend(Lease { pool: self.clone(), share: share.clone() })
    }

    fn touch_next(&self) -> Memory {
        let slab = self.touched.get();
        self.touched.set(slab + 1);
        let base = self.base(slab);
        Memory::slab(base, (self.register)(slab, base.as_ptr(), SLAB_BYTES))
    }

    fn base(&self, slab: usize) -> NonNull<u8> {
        assert!(slab < 2 * self.slabs, "slab {slab} of {}", 2 * self.slabs);
        // SAFETY: within the map, which holds twice `slabs` slabs from `first` on.
        unsafe { self.first.add(slab * SLAB_BYTES) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};

    use super::*;

    const SLABS: usize = 16;
    /// What a stream that begins a pipeline of three leaves to others.
    const RESERVE: usize = 4;

    fn pool() -> SlabPool {
        SlabPool::new(SLABS, Arc::default(), |_, _, _| None).unwrap()
    }

    fn poll<F: Future>(future: &mut Pin<&mut F>) -> Option<F::Output> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_stream_alone_takes_all_that_its_share_allows() {
        let pool = pool();
        let first = pool.share(18, RESERVE);
        let held = first.try_take(SLABS - RESERVE).unwrap();
        assert!(first.try_take_one().is_none(), "the rest is for others");
        let last = pool.share(18, 0).try_take(RESERVE).unwrap();
        assert_eq!((pool.free(), held.len() + last.len()), (0, SLABS));
    }

    #[test]
    fn who_holds_its_part_leaves_what_comes_back_to_who_waits_with_less() {
        let pool = pool();
        let (tail, head) = (pool.share(18, 0), pool.share(18, RESERVE));
        let mut held = tail.try_take(SLABS - RESERVE).unwrap();
        let mut wait = pin!(head.take_one());
        assert!(poll(&mut wait).is_none(), "what is left is not for it");
        assert!(tail.try_take_one().is_none(), "somebody waits who holds less");
        held.pop();
        assert!(poll(&mut wait).is_some());
        assert!(tail.try_take_one().is_some(), "nobody waits any more");
    }

    #[test]
    fn who_ends_a_pipeline_and_holds_less_than_its_part_never_waits_for_who_begins_one() {
        let pool = pool();
        let (other, tail, head) = (pool.share(18, 0), pool.share(18, 0), pool.share(18, RESERVE));
        let (_held, mut held) = (other.try_take(10).unwrap(), tail.try_take(5).unwrap());
        let mut first = pin!(head.take_one());
        assert!(poll(&mut first).is_none());
        let mut second = pin!(tail.take_one());
        assert!(poll(&mut second).is_none(), "a third of 12 is 4");
        held.truncate(3);
        assert!(poll(&mut first).is_none(), "what is left is not for it");
        assert!(poll(&mut second).is_some(), "though the other came first");
    }

    #[test]
    fn equals_are_served_in_the_order_in_which_they_came() {
        let pool = pool();
        let shares: Vec<_> = (0..3).map(|_| pool.share(18, 0)).collect();
        let mut held = pool.share(18, 0).try_take(SLABS).unwrap();
        let mut waits: Vec<_> = shares.iter().map(|share| Box::pin(share.take_one())).collect();
        assert!(waits.iter_mut().all(|wait| poll(&mut wait.as_mut()).is_none()));
        for served in 0..waits.len() {
            held.pop();
            let last = waits.len() - 1;
            assert!(served == last || poll(&mut waits[last].as_mut()).is_none());
            let slab = poll(&mut waits[served].as_mut());
            std::mem::forget(slab.expect("it is first"));
        }
    }

    #[test]
    fn who_gives_up_waiting_leaves_the_line_to_the_next() {
        let pool = pool();
        let (first, second) = (pool.share(18, 0), pool.share(18, 0));
        let held = pool.share(18, 0).try_take(SLABS).unwrap();
        let mut waits = Box::pin(first.take_one());
        assert!(poll(&mut waits.as_mut()).is_none());
        drop(waits);
        drop(held);
        assert!(second.try_take_one().is_some());
        assert_eq!((pool.free(), pool.core.active.get()), (SLABS, 0));
    }
}

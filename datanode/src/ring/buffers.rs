//! Memory that the kernel reads and writes: ranges of reference-counted regions, and the pool of
//! slabs that a data thread's streams share.
//!
//! Who owns a byte: a [`BufferMut`] is the only handle on its range and may be written, by us or by
//! the kernel; [`Buffer`]s may overlap each other and are read only. `split_to` and `freeze` turn
//! the front of the one into the other, so a received byte passes from the socket through checksum,
//! mirror and disk without a copy, and its slab returns to the pool when the last handle is gone,
//! an operation in the kernel's hands being one of them.
//!
//! The pool reserves address space at start and touches (and registers with the ring) a slab only
//! when it is first needed: fresh memory costs seconds per GiB on virtual machines. Slabs that were
//! used last are handed out first. Handles count on one [`Memory`] for each slab, made once: neither
//! taking a slab nor giving it back asks the allocator for anything.
//!
//! A slab whose operation is stuck in a disk stays with the kernel until the disk answers, however
//! long: it is parked. The pool hands out another in its place ([`SlabPool::set_parked`]), at most as
//! many as it has slabs; when more are parked, streams wait.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use memmap2::{Advice, MmapMut, MmapOptions};

use crate::counters::Counters;

/// Bytes of a slab: half a huge page, and the size of write at which one stream fills a disk.
pub const SLAB_BYTES: usize = 1 << 20;
/// Direct I/O wants memory, offsets and lengths in multiples of this.
pub const SECTOR_BYTES: usize = 4096;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A range of memory that only this handle reaches.
pub struct BufferMut {
    range: Range,
}

/// A range of memory that is read only until its last handle is gone.
#[derive(Clone)]
pub struct Buffer {
    range: Range,
}

#[derive(Clone)]
struct Range {
    memory: Rc<Memory>,
    start: usize,
    end: usize,
}

struct Memory {
    base: NonNull<u8>,
    len: usize,
    owner: Owner,
}

enum Owner {
    /// Zeroed and sector-aligned.
    Heap(Layout),
    Vec(#[allow(dead_code, reason = "keeps the bytes alive")] Vec<u8>),
    /// Read only.
    Bytes(#[allow(dead_code, reason = "keeps them alive")] Bytes),
    Slab {
        registered: Option<u16>,
        /// Set while the slab is handed out.
        lease: RefCell<Option<Lease>>,
    },
}

/// Where a slab goes back to.
struct Lease {
    pool: Rc<PoolCore>,
    share: Rc<ShareCore>,
}

/// Memory outside of any pool that is used again and again: what was handed out before is handed out
/// anew once its last handle is gone.
pub struct Recycler {
    len: usize,
    /// How many are kept; beyond that they are allocated and freed.
    max: usize,
    kept: Vec<Rc<Memory>>,
}

impl BufferMut {
    /// Zeroed memory outside of any pool, aligned for direct I/O.
    pub fn zeroed(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), SECTOR_BYTES)
            .expect("a buffer is far smaller than the address space");
        // SAFETY: the layout's size is at least 1.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })
            .unwrap_or_else(|| handle_alloc_error(layout));
        Self::whole(Rc::new(Memory { base, len, owner: Owner::Heap(layout) }))
    }

    fn whole(memory: Rc<Memory>) -> Self {
        let end = memory.len;
        Self { range: Range { memory, start: 0, end } }
    }

    /// Takes the first `len` bytes off, as a handle of their own.
    pub fn split_to(&mut self, len: usize) -> Self {
        assert!(len <= self.len(), "split of {len} bytes off {}", self.len());
        let middle = self.range.start + len;
        let front = self.range.part(self.range.start, middle);
        self.range.start = middle;
        Self { range: front }
    }

    /// Cuts the handle down to its first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.range.end = self.range.end.min(self.range.start + len);
    }

    pub fn freeze(self) -> Buffer {
        Buffer { range: self.range }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.range.ptr()
    }

    pub(super) fn registered(&self) -> Option<u16> {
        self.range.registered()
    }

    /// The slab that it lies in, by its address.
    pub(super) fn slab(&self) -> Option<usize> {
        self.range.slab()
    }
}

impl Buffer {
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let (start, end) = bounds(range, self.len());
        let base = self.range.start;
        Self { range: self.range.part(base + start, base + end) }
    }

    /// Drops the first `len` bytes of the range.
    pub fn advance(&mut self, len: usize) {
        assert!(len <= self.len(), "advance by {len} of {}", self.len());
        self.range.start += len;
    }

    /// Grows this range by `next` if that follows it in the same memory, else gives it back.
    pub fn try_join(&mut self, next: Self) -> Result<(), Self> {
        let adjacent = Rc::ptr_eq(&self.range.memory, &next.range.memory)
            && self.range.end == next.range.start;
        if !adjacent {
            return Err(next);
        }
        self.range.end = next.range.end;
        Ok(())
    }

    /// Whether the range reaches the end of its memory: nothing can follow it there.
    pub fn ends_memory(&self) -> bool {
        self.range.end == self.range.memory.len
    }

    pub(super) fn registered(&self) -> Option<u16> {
        self.range.registered()
    }

    /// The slab that it lies in, by its address.
    pub(super) fn slab(&self) -> Option<usize> {
        self.range.slab()
    }
}

impl Range {
    fn part(&self, start: usize, end: usize) -> Self {
        Self { memory: self.memory.clone(), start, end }
    }

    fn ptr(&self) -> *mut u8 {
        // SAFETY: start <= end <= len of the memory.
        unsafe { self.memory.base.as_ptr().add(self.start) }
    }

    fn slab(&self) -> Option<usize> {
        let is_slab = matches!(self.memory.owner, Owner::Slab { .. });
        is_slab.then(|| self.memory.base.as_ptr().addr())
    }

    fn registered(&self) -> Option<u16> {
        match self.memory.owner {
            Owner::Slab { registered, .. } => registered,
            _ => None,
        }
    }
}

impl Deref for BufferMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is initialised memory (zeroed, or written before), and no other handle
        // reaches it; the kernel writes to it only while an operation owns the handle.
        unsafe { std::slice::from_raw_parts(self.range.ptr(), self.range.end - self.range.start) }
    }
}

impl DerefMut for BufferMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and this handle is borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(self.range.ptr(), self.range.end - self.range.start)
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised memory that nobody writes: it was frozen by its only writer.
        unsafe { std::slice::from_raw_parts(self.range.ptr(), self.range.end - self.range.start) }
    }
}

impl From<Vec<u8>> for BufferMut {
    fn from(mut bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        let base = NonNull::from(bytes.as_mut_slice()).cast();
        Self::whole(Rc::new(Memory { base, len, owner: Owner::Vec(bytes) }))
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        BufferMut::from(bytes).freeze()
    }
}

impl From<Bytes> for Buffer {
    fn from(bytes: Bytes) -> Self {
        let (base, len) = (NonNull::from(&bytes[..]).cast(), bytes.len());
        BufferMut::whole(Rc::new(Memory { base, len, owner: Owner::Bytes(bytes) })).freeze()
    }
}

impl From<BufferMut> for Buffer {
    fn from(buffer: BufferMut) -> Self {
        buffer.freeze()
    }
}

impl std::fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufferMut({} bytes)", self.len())
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if Rc::strong_count(&self.memory) == 1
            && let Owner::Slab { lease, .. } = &self.memory.owner
            && let Some(Lease { pool, share }) = lease.take()
        {
            share.held.set(share.held.get() - 1);
            share.wake();
            pool.take_back(self.memory.clone());
            pool.wake_first();
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = &self.owner {
            // SAFETY: allocated in `zeroed` with this layout; the last handle is gone.
            unsafe { dealloc(self.base.as_ptr(), *layout) };
        }
    }
}

impl Recycler {
    pub fn new(len: usize, max: usize) -> Self {
        Self { len, max, kept: Vec::new() }
    }

    /// Memory of the recycler's length, with whatever was in it.
    pub fn take(&mut self) -> BufferMut {
        if let Some(free) = self.kept.iter().find(|memory| Rc::strong_count(memory) == 1) {
            return BufferMut::whole(free.clone());
        }
        let fresh = BufferMut::zeroed(self.len);
        if self.kept.len() < self.max {
            self.kept.push(fresh.range.memory.clone());
        }
        fresh
    }

    /// Forgets what it keeps, which is freed with its last handle.
    pub fn release(&mut self) {
        self.kept.clear();
    }
}

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
    waiters: RefCell<VecDeque<Waiter>>,
    next_ticket: Cell<u64>,
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

/// One who waits for slabs. Those who leave less to others come first, then those who came first.
struct Waiter {
    place: (usize, u64),
    waker: Waker,
}

#[derive(Default)]
struct ShareCore {
    held: Cell<usize>,
    waiter: RefCell<Option<Waker>>,
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
            waiters: RefCell::default(),
            next_ticket: Cell::new(0),
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
        self.may_take(1).then(|| self.pool.core.hand_out(&self.core))
    }

    /// A slab, as [`SlabShare::take`] gives them.
    pub async fn take_one(&self) -> BufferMut {
        self.wait_for_share(1).await;
        if let Some(slab) = self.try_take_one() {
            return slab;
        }
        let place = self.wait_for_pool(1).await;
        let slab = self.pool.core.hand_out(&self.core);
        drop(place);
        slab
    }

    /// `count` slabs, if the share allows them and nobody before us waits for them.
    pub fn try_take(&self, count: usize) -> Option<Vec<BufferMut>> {
        self.may_take(count).then(|| self.hand_out(count))
    }

    fn may_take(&self, count: usize) -> bool {
        let pool = &self.pool.core;
        self.held() + count <= self.max
            && pool.free_count() >= count + self.reserve
            && pool.waiters.borrow().front().is_none_or(|first| first.place.0 > self.reserve)
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
        let slabs = self.hand_out(count);
        drop(place);
        slabs
    }

    /// Waits in line until the pool has `count` slabs, which are the caller's while it keeps its
    /// place.
    async fn wait_for_pool(&self, count: usize) -> Place<'_> {
        let pool = &self.pool.core;
        let place = pool.queue(self.reserve);
        poll_fn(|context| {
            let is_first = place.is_first(context.waker());
            match is_first && pool.free_count() >= count + self.reserve {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
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
            *self.core.waiter.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn hand_out(&self, count: usize) -> Vec<BufferMut> {
        (0..count).map(|_| self.pool.core.hand_out(&self.core)).collect()
    }
}

impl ShareCore {
    fn wake(&self) {
        if let Some(waker) = self.waiter.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A place in the line for slabs, left by dropping it.
struct Place<'a> {
    pool: &'a PoolCore,
    place: (usize, u64),
}

impl Place<'_> {
    fn is_first(&self, waker: &Waker) -> bool {
        let mut waiters = self.pool.waiters.borrow_mut();
        match waiters.binary_search_by_key(&self.place, |waiter| waiter.place) {
            Ok(mine) => waiters[mine].waker.clone_from(waker),
            Err(index) => waiters.insert(index, Waiter { place: self.place, waker: waker.clone() }),
        }
        waiters.front().is_some_and(|first| first.place == self.place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.waiters.borrow_mut().retain(|waiter| waiter.place != self.place);
        self.pool.wake_first();
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

    fn queue(&self, reserve: usize) -> Place<'_> {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        Place { pool: self, place: (reserve, ticket) }
    }

    fn wake_first(&self) {
        if let Some(first) = self.waiters.borrow().front() {
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
        share.held.set(share.held.get() + 1);
        if let Owner::Slab { lease, .. } = &slab.owner {
            *lease.borrow_mut() = Some(Lease { pool: self.clone(), share: share.clone() });
        }
        BufferMut::whole(slab)
    }

    fn touch_next(&self) -> Memory {
        let slab = self.touched.get();
        self.touched.set(slab + 1);
        let base = self.base(slab);
        let registered = (self.register)(slab, base.as_ptr(), SLAB_BYTES);
        let owner = Owner::Slab { registered, lease: RefCell::default() };
        Memory { base, len: SLAB_BYTES, owner }
    }

    fn base(&self, slab: usize) -> NonNull<u8> {
        assert!(slab < 2 * self.slabs, "slab {slab} of {}", 2 * self.slabs);
        // SAFETY: within the map, which holds twice `slabs` slabs from `first` on.
        unsafe { self.first.add(slab * SLAB_BYTES) }
    }
}

fn bounds(range: impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let start = match range.start_bound() {
        Included(&start) => start,
        Excluded(&start) => start + 1,
        Unbounded => 0,
    };
    let end = match range.end_bound() {
        Included(&end) => end + 1,
        Excluded(&end) => end,
        Unbounded => len,
    };
    assert!(start <= end && end <= len, "range {start}..{end} of {len}");
    (start, end)
}

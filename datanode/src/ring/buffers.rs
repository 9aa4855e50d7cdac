//! Memory that the kernel reads and writes: ranges of reference-counted regions.
//!
//! Who owns a byte: a [`BufferMut`] is the only handle on its range and may be written, by us or by
//! the kernel; [`Buffer`]s may overlap each other and are read only. `split_to` and `freeze` turn
//! the front of the one into the other, so a received byte passes from the socket through checksum,
//! mirror and disk without a copy, and its slab returns to the pool when the last handle is gone,
//! an operation in the kernel's hands being one of them.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;
use std::rc::Rc;

use bytes::Bytes;

use super::slab_pool::Lease;

/// Bytes of a slab: half a huge page, and the size of write at which one stream fills a disk.
pub const SLAB_BYTES: usize = 1 << 20;
/// Direct I/O wants memory, offsets and lengths in multiples of this.
pub const SECTOR_BYTES: usize = 4096;

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

pub(super) struct Memory {
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
            && let Some(lease) = lease.take()
        {
            lease.give_back(self.memory.clone());
        }
    }
}

impl Memory {
    /// A slab of a pool, which keeps it mapped as long as it is handed out.
    pub(super) fn slab(base: NonNull<u8>, registered: Option<u16>) -> Self {
        let owner = Owner::Slab { registered, lease: RefCell::default() };
        Self { base, len: SLAB_BYTES, owner }
    }

    /// A handle on all of a slab that nobody has a handle on; it goes back by `lease`.
    pub(super) fn lend(self: Rc<Self>, lease: Lease) -> BufferMut {
        if let Owner::Slab { lease: place, .. } = &self.owner {
            *place.borrow_mut() = Some(lease);
        }
        BufferMut::whole(self)
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

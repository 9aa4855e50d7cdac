//! Memory that a disk reads into: huge pages, aligned for O_DIRECT, used again and again.
//!
//! A [`ReadBuffer`] is written by one read; then it becomes [`Bytes`], and is back among the free ones
//! when the last handle on them is gone.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

use crate::limits::{LOCAL_BUFFERS_KEPT_MAX, LOCAL_PIECE_BYTES};

const HUGE_PAGE_BYTES: usize = 2 << 20;
const _: () = assert!(LOCAL_PIECE_BYTES <= HUGE_PAGE_BYTES);

#[derive(Clone, Debug, Default)]
pub(crate) struct ReadBuffers {
    free: Arc<Mutex<Vec<Memory>>>,
}

/// One piece's memory.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    /// There until it is dropped.
    memory: Option<Memory>,
    buffers: ReadBuffers,
}

#[derive(Debug)]
struct Memory {
    map: MmapMut,
    /// Where its first huge page starts.
    start: usize,
}

impl ReadBuffers {
    pub fn take(&self) -> io::Result<ReadBuffer> {
        let free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        let memory = match free {
            Some(memory) => memory,
            None => Memory::new()?,
        };
        Ok(ReadBuffer { memory: Some(memory), buffers: self.clone() })
    }
}

impl ReadBuffer {
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let Memory { map, start } = self.memory.as_mut().expect("there until it is dropped");
        &mut map[*start..*start + LOCAL_PIECE_BYTES]
    }

    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        let Memory { map, start } = self.memory.as_ref().expect("there until it is dropped");
        &map[*start..*start + LOCAL_PIECE_BYTES]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let mut free = self.buffers.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if free.len() < LOCAL_BUFFERS_KEPT_MAX {
            free.extend(self.memory.take());
        }
    }
}

impl Memory {
    fn new() -> io::Result<Self> {
        // Address space only, but for the huge page that is read into.
        let map = MmapMut::map_anon(2 * HUGE_PAGE_BYTES)?;
        // Without huge pages all works, with a fifth less throughput.
        let _ = map.advise(Advice::HugePage);
        let start = map.as_ptr().align_offset(HUGE_PAGE_BYTES);
        Ok(Self { map, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_its_last_handle_is_gone() {
        let buffers = ReadBuffers::default();
        let mut buffer = buffers.take().unwrap();
        let place = buffer.bytes_mut().as_ptr();
        assert_eq!(place.align_offset(HUGE_PAGE_BYTES), 0);
        buffer.bytes_mut()[7] = 9;
        let slice = buffer.into_bytes().slice(7..8);
        assert_ne!(buffers.take().unwrap().bytes_mut().as_ptr(), place);
        assert_eq!(slice[..], [9]);
        drop(slice);
        let again: Vec<_> = (0..2).map(|_| buffers.take().unwrap()).collect();
        assert!(again.iter().any(|buffer| buffer.as_ref().as_ptr() == place));
    }
}

//! An open descriptor, closed when its last handle and the last operation on it are gone.
//!
//! The last close of a file may wait for its file system (FUSE and NFS flush at it), so on a data
//! thread that of a file is an operation like any other; a socket's waits for nothing.

#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use super::executor;

/// An operation holds one of these, so that the number is not reused meanwhile.
pub type Descriptor = Rc<OpenDescriptor>;

#[derive(Debug)]
pub struct OpenDescriptor {
    /// Taken by `drop` and `into_owned` only.
    fd: ManuallyDrop<OwnedFd>,
    is_file: bool,
    /// Reads and writes wait where they are begun, so the kernel's workers begin them.
    waits: bool,
}

impl OpenDescriptor {
    pub fn file(fd: OwnedFd, waits: bool) -> Descriptor {
        Rc::new(Self { fd: ManuallyDrop::new(fd), is_file: true, waits })
    }

    pub fn socket(fd: OwnedFd) -> Descriptor {
        Rc::new(Self { fd: ManuallyDrop::new(fd), is_file: false, waits: false })
    }

    pub fn waits(&self) -> bool {
        self.waits
    }

    pub fn into_owned(self) -> OwnedFd {
        let mut kept = ManuallyDrop::new(self);
        // SAFETY: `kept` is never dropped nor used again, so the descriptor is taken once.
        unsafe { ManuallyDrop::take(&mut kept.fd) }
    }
}

impl Drop for OpenDescriptor {
    fn drop(&mut self) {
        // SAFETY: nobody uses the field after this drop.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        if !self.is_file {
            return;
        }
        if let Some(executor) = executor::closing_files() {
            executor.close(fd.into_raw_fd());
        }
    }
}

impl Deref for OpenDescriptor {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.fd
    }
}

impl AsRawFd for OpenDescriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for OpenDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

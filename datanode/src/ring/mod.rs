//! The only io_uring code.

/// An open file whose operations run on this thread's ring.
#[derive(Debug)]
pub struct File {}

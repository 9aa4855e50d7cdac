//! The namenode: namespace, blocks, leases, datanodes.

pub mod clock;
pub mod error;
pub mod limits;

pub use error::{NamenodeError, Result};

//! The namenode: namespace, blocks, leases, datanodes.

pub mod block_manager;
pub mod clock;
pub mod error;
pub mod limits;
pub mod safe_mode;

pub use error::{NamenodeError, Result};

//! The namenode: namespace, blocks, leases, datanodes.

pub mod clock;
pub mod config;
pub mod error;
pub mod format;
pub mod limits;
pub mod paths;
pub mod schema;
pub mod store;
pub mod user_groups;

pub use error::{NamenodeError, Result};

//! The parts of the `ringfs` binary that its own tests use as well.

pub mod cluster;

//! What a host gives a datanode, and what to change where it gives too little.
//!
//! [`host`] reads facts about the machine, [`disk`] about the disk below a path; [`checks`] judges
//! them, each finding with a remedy of one line. Nothing here changes the host.

pub mod checks;
pub mod disk;
pub mod host;

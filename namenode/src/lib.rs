//! The namenode: namespace, blocks, leases, datanodes.

mod append;
mod attributes;
mod backup;
pub mod block_locations;
pub mod block_manager;
mod block_manager_config;
mod block_map;
mod block_recovery;
mod client_protocol;
pub mod clock;
mod command;
mod concat;
pub mod config;
mod datanode_protocol;
pub mod datanodes;
mod deletion;
pub mod error;
mod file_write;
mod first_block;
pub mod format;
pub mod heartbeats;
pub mod host_lists;
mod invalidations;
pub mod journal;
mod journal_file;
pub mod leases;
pub mod limits;
mod listing;
mod low_redundancy;
pub mod namespace;
pub mod namesystem;
mod open_file;
mod overlay;
pub mod paths;
mod pending_replicas;
pub mod permissions;
mod pipeline;
mod placement;
mod recent_changes;
mod redundancy;
mod rename;
mod replica_reports;
mod replica_verdict;
mod replicas;
mod report_leases;
mod retry_cache;
pub mod safe_mode;
pub mod schema;
pub mod server;
mod service_state;
#[cfg(feature = "simulation")]
pub mod simulation;
mod storage_policies;
pub mod store;
mod store_check;
mod store_update;
mod store_writer;
mod stored_blocks;
pub mod topology;
pub mod user_groups;
pub mod view;

pub use command::NamenodeCommand;
pub use error::{NamenodeError, Result};

#[cfg(test)]
mod append_tests;
#[cfg(test)]
mod block_manager_tests;
#[cfg(test)]
mod file_write_tests;
#[cfg(test)]
mod namespace_model_tests;
#[cfg(test)]
mod namespace_tests;
#[cfg(test)]
mod published_bugs_tests;
#[cfg(test)]
mod report_order_tests;
#[cfg(test)]
mod service_state_tests;
#[cfg(test)]
mod simulated_datanodes;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod test_support;

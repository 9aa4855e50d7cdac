//! The datanode: stores replicas of blocks, serves and receives them, obeys its namenode.

pub mod activity;
#[cfg(test)]
mod bare_datanode;
pub mod block_checksum;
pub mod block_move;
pub mod block_reader;
mod block_recovery;
pub mod block_reports;
mod block_sink;
pub mod block_transfer;
mod chunk_checksums;
mod command;
mod commands;
pub mod config;
mod connection;
pub mod counters;
#[cfg(test)]
mod crash_points;
#[cfg(test)]
mod data_path_tests;
mod data_room;
pub mod data_work;
pub mod dataset;
mod deletion;
mod disk_threads;
pub mod domain_socket;
pub mod error;
mod failed_volumes;
mod failed_writes;
#[cfg(test)]
mod fake_namenode;
#[cfg(test)]
mod fake_peer;
mod gathering;
mod http_server;
mod idle_mirrors;
mod ipc_server;
mod java_properties;
#[cfg(test)]
mod kept_connections_tests;
pub mod limits;
mod metrics;
mod mirror;
mod move_bandwidth;
mod namenode_link;
mod open_replicas;
mod packet;
mod packet_receiver;
#[cfg(test)]
mod packet_receiver_tests;
mod peer;
mod pipeline_acks;
mod pipeline_setup;
pub mod planned_restart;
mod process;
#[cfg(test)]
mod published_bugs_tests;
pub mod read_history;
mod read_stream;
mod readmission;
mod reopening;
pub mod replica;
mod replica_files;
mod replica_length;
mod replica_packets;
pub mod replica_recovery;
pub mod ring;
pub mod runtime;
mod scrub_cursor;
mod scrubber;
pub mod server;
#[cfg(feature = "simulation")]
pub mod simulation;
mod slow_volumes;
#[cfg(test)]
mod small_pool_tests;
mod small_read;
mod spare_files;
#[cfg(test)]
mod spare_files_tests;
mod start_scan;
pub mod storage_directory;
mod stored_checksums;
pub mod transitions;
pub mod volume;
pub mod volume_health;
pub mod volume_profile;
mod volume_watch;
#[cfg(test)]
mod volumes_tests;
mod whole_block;
#[cfg(test)]
mod whole_block_tests;
mod whole_replica;
mod write_job;
pub mod write_pipeline;
#[cfg(test)]
mod zero_copy_tests;

pub use command::DatanodeCommand;
pub use error::DatanodeError;

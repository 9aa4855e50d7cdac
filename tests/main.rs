//! The whole of ringfs from outside: the real binary as a namenode and datanodes, driven by our own
//! client and by clients that others wrote. `tests/run` sets up what these need (a JDK, a Python
//! environment); a test that misses something fails and says so.

mod cluster;

mod bad_bytes;
mod bad_input;
mod bench_goals;
mod bench_on_cluster;
mod bench_pipeline;
mod cli;
mod compare;
mod discarding;
mod disk_faults;
mod failures;
mod hdfs_native;
mod host_lists;
mod hostile_peers;
mod java_client;
mod metrics;
mod namenode_kills;
mod our_client;
mod partitions;
mod planned_restart;
mod python_clients;
mod replication;
mod restart;
mod retried_calls;
mod shell_golden;
mod short_circuit;
mod stalled_disks;

//! The datanode's counters as Prometheus text: first under the names that Hadoop's
//! PrometheusMetricsSink makes of its records `datanode` and `FSDatasetState` (words joined by
//! underscores, lower case), with its labels; then our own, `ringfs_…`.

use std::fmt::Write;
use std::sync::Arc;

use crate::activity::Activity;
use crate::counters::{Counter, Counters};
use crate::dataset::Dataset;
use crate::server::TransferServer;
use crate::volume::VolumeUsage;

pub struct Metrics {
    counters: Arc<Counters>,
    activity: Arc<Activity>,
    dataset: Arc<Dataset>,
    host_name: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, help }
}

type Counted = (Metric, fn(&Counters) -> &Counter);

const OF_HADOOP: [Counted; 7] = [
    (counter("datanode_bytes_written", "Block data received"), |all| &all.bytes_written),
    (counter("datanode_bytes_read", "Block data sent to readers"), |all| &all.bytes_read),
    (counter("datanode_blocks_written", "Blocks received to their end"), |all| &all.blocks_written),
    (counter("datanode_blocks_read", "Ranges sent to their end"), |all| &all.blocks_read),
    (counter("datanode_blocks_replicated", "Blocks copied to other datanodes"), |all| {
        &all.blocks_replicated
    }),
    (counter("datanode_blocks_verified", "Replicas scrubbed and found good"), |all| {
        &all.blocks_verified
    }),
    (counter("datanode_block_verification_failures", "Replicas found rotten"), |all| {
        &all.block_verification_failures
    }),
];

const OWN: [Counted; 23] = [
    (
        counter(
            "ringfs_payload_bytes_copied_total",
            "Block data copied in user space: 0 for writes and direct reads; copies to other \
             datanodes for the namenode and the balancer are counted",
        ),
        |all| &all.payload_bytes_copied,
    ),
    (
        counter("ringfs_sector_bytes_copied_total", "Last sectors padded: below 4096 a flush"),
        |all| &all.sector_bytes_copied,
    ),
    (
        counter("ringfs_zero_copy_sends_total", "Sends handed to the kernel to be sent in place"),
        |all| &all.zero_copy_sends,
    ),
    (
        counter("ringfs_zero_copy_sends_copied_total", "Of these, those that it copied after all"),
        |all| &all.zero_copy_sends_copied,
    ),
    (counter("ringfs_uring_enters_total", "Calls of io_uring_enter"), |all| &all.uring_enters),
    (counter("ringfs_uring_completions_total", "Completions taken from the rings"), |all| {
        &all.uring_completions
    }),
    (gauge("ringfs_slabs_in_use", "Slabs of 1 MiB held by streams"), |all| &all.slabs_in_use),
    (gauge("ringfs_slabs_parked", "Of those, held by disks that do not answer"), |all| {
        &all.slabs_parked
    }),
    (
        gauge("ringfs_disk_operations_stuck", "Operations that disks have not answered for 2 s"),
        |all| &all.operations_stuck,
    ),
    (
        counter(
            "ringfs_disk_operations_given_up_total",
            "Operations beyond ringfs.datanode.disk.operation.timeout",
        ),
        |all| &all.operations_given_up,
    ),
    (gauge("ringfs_slabs_high_water", "The most held at a time, by each data thread"), |all| {
        &all.slabs_high_water
    }),
    (gauge("ringfs_slabs_total", "Slabs there are"), |all| &all.slabs_total),
    (counter("ringfs_short_reads_total", "Reads that gave less than was there"), |all| {
        &all.short_reads
    }),
    (
        counter("ringfs_unaligned_fallbacks_total", "Block files written through the page cache"),
        |all| &all.unaligned_fallbacks,
    ),
    (counter("ringfs_bytes_read_cached_total", "Block data sent from the page cache"), |all| {
        &all.bytes_read_cached
    }),
    (counter("ringfs_bytes_written_buffered_total", "Block data received for such files"), |all| {
        &all.bytes_written_buffered
    }),
    (
        counter(
            "ringfs_bytes_written_cached_total",
            "Small blocks, written through the page cache",
        ),
        |all| &all.bytes_written_cached,
    ),
    (counter("ringfs_checksum_errors_total", "Packets that arrived corrupt"), |all| {
        &all.checksum_errors
    }),
    (counter("ringfs_bytes_scrubbed_total", "Block data read by scrubbers"), |all| {
        &all.bytes_scrubbed
    }),
    (
        counter("ringfs_spare_files_used_total", "Blocks written into files of deleted ones"),
        |all| &all.spare_files_used,
    ),
    (counter("ringfs_slow_writes_total", "Writes to disks that took 300 ms or more"), |all| {
        &all.slow_writes
    }),
    (counter("ringfs_mirror_errors_total", "Pipelines that could not be set up"), |all| {
        &all.mirror_errors
    }),
    (
        counter(
            "ringfs_streams_refused_total",
            "Connections beyond dfs.datanode.max.transfer.threads",
        ),
        |all| &all.streams_refused,
    ),
];

impl Metrics {
    pub fn new(server: &TransferServer, host_name: String) -> Self {
        Self {
            counters: server.counters.clone(),
            activity: server.activity.clone(),
            dataset: server.dataset.clone(),
            host_name,
        }
    }

    pub fn render(&self) -> String {
        let host_name = escape(&self.host_name);
        let of_hadoop = format!(
            r#"{{context="dfs",hostname="{host_name}",processname="DataNode",sessionid="null"}}"#
        );
        let own = format!(r#"{{hostname="{host_name}"}}"#);
        let mut text = String::with_capacity(8 << 10);
        for (metric, of) in &OF_HADOOP {
            metric.write(&mut text, &of_hadoop, of(&self.counters).get());
        }
        let streams = u64::from(self.activity.streams());
        gauge("datanode_data_node_active_xceivers_count", "Operations being served")
            .write(&mut text, &of_hadoop, streams);
        self.write_dataset(&mut text, &of_hadoop);
        for (metric, of) in &OWN {
            metric.write(&mut text, &own, of(&self.counters).get());
        }
        gauge("ringfs_streams_active", "Operations being served").write(&mut text, &own, streams);
        gauge("ringfs_transfers_active", "Blocks being copied to other datanodes").write(
            &mut text,
            &own,
            self.activity.transfers().into(),
        );
        let volumes = || self.dataset.volumes().iter().filter(|volume| !volume.is_failed());
        let suspect = volumes().filter(|volume| volume.health().is_suspect()).count();
        let stalled = volumes().filter(|volume| volume.health().is_stalled()).count();
        let spare = volumes().map(|volume| volume.spare_files().count()).sum();
        for (metric, count) in [
            (gauge("ringfs_volumes_suspect", "Volumes that are being checked"), suspect),
            (gauge("ringfs_volumes_stalled", "Volumes that do not answer"), stalled),
            (gauge("ringfs_spare_files", "Files of deleted blocks, kept for new ones"), spare),
        ] {
            metric.write(&mut text, &own, count as u64);
        }
        text
    }

    fn write_dataset(&self, text: &mut String, labels: &str) {
        let volumes = self.dataset.volumes();
        let usages: Vec<VolumeUsage> =
            volumes.iter().filter(|v| !v.is_failed()).map(|v| v.usage()).collect();
        let sum = |of: fn(&VolumeUsage) -> u64| usages.iter().map(of).sum();
        let failed = self.dataset.failures().len() as u64;
        for (metric, value) in [
            (counter("datanode_volume_failures", "Volumes that failed since start"), failed),
            (
                gauge("fs_dataset_state_capacity", "Bytes of all volumes, less what is reserved"),
                sum(|usage| usage.capacity_bytes),
            ),
            (
                gauge("fs_dataset_state_dfs_used", "Bytes that replicas take"),
                sum(|usage| usage.dfs_used_bytes),
            ),
            (
                gauge("fs_dataset_state_remaining", "Bytes that new replicas may take"),
                sum(|usage| usage.remaining_bytes),
            ),
            (gauge("fs_dataset_state_num_failed_volumes", "Volumes that failed"), failed),
        ] {
            metric.write(text, labels, value);
        }
    }
}

impl Metric {
    fn write(&self, text: &mut String, labels: &str, value: u64) {
        let Self { name, help, kind } = self;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}")
            .expect("writing to a String cannot fail");
    }
}

/// A label's value, as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

//! Every setting that ringfs reads, by Hadoop's own name where Hadoop has one, `ringfs.*` else:
//! name, default and meaning in one table, which `ringfs settings` prints.
//!
//! A constant's name is the setting's in capitals, `.` and `-` as `_`.

/// How a value is written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Float,
    Boolean,
    /// `128m`, `1g`, or plain bytes.
    Bytes,
    /// A number without suffix is in milliseconds; `30s`, `10m`, `500ms` also accepted.
    Millis,
    /// A number without suffix is in seconds.
    Seconds,
}

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub kind: Kind,
    pub meaning: &'static str,
    /// Older names that Hadoop still accepts for it.
    pub deprecated_names: &'static [&'static str],
}

/// Defines each setting as a constant and lists them all in [`ALL`]:
/// `CONSTANT: Kind, "name" = "default", "meaning" [, was "deprecated name"]*;`
macro_rules! settings {
    ($($constant:ident: $kind:ident, $name:literal = $default:literal, $meaning:literal
        $(, was $deprecated:literal)*;)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: Setting = Setting {
                name: $name,
                default: $default,
                kind: Kind::$kind,
                meaning: $meaning,
                deprecated_names: &[$($deprecated),*],
            };
        )*

        /// All settings, grouped as in this file.
        pub const ALL: &[Setting] = &[$($constant),*];
    };
}

settings! {
    // Read by everybody.
    FS_DEFAULT_FS: Text, "fs.defaultFS" = "file:///",
        "The file system of paths without scheme: hdfs://host:port of the namenode",
        was "fs.default.name";
    HADOOP_TMP_DIR: Text, "hadoop.tmp.dir" = "/tmp/hadoop-${user.name}",
        "Base of the directories that are not set one by one";
    DFS_BLOCK_SIZE: Bytes, "dfs.blocksize" = "134217728",
        "Block size of new files (128m)", was "dfs.block.size";
    DFS_REPLICATION: Integer, "dfs.replication" = "3",
        "Replicas of a new file's blocks";
    DFS_BYTES_PER_CHECKSUM: Integer, "dfs.bytes-per-checksum" = "512",
        "Bytes of data that one checksum covers", was "io.bytes.per.checksum";
    DFS_CHECKSUM_TYPE: Text, "dfs.checksum.type" = "CRC32C",
        "Checksum of new files: CRC32C, CRC32 or NULL";
    DFS_CLIENT_WRITE_PACKET_SIZE: Bytes, "dfs.client-write-packet-size" = "65536",
        "Size of the packets that a writer sends", was "dfs.write.packet.size";
    IO_FILE_BUFFER_SIZE: Bytes, "io.file.buffer.size" = "4096",
        "Buffer size that the namenode advises its clients to use";
    FS_TRASH_INTERVAL: Integer, "fs.trash.interval" = "0",
        "Minutes after which a trash checkpoint is deleted; 0: no trash";
    FS_PERMISSIONS_UMASK_MODE: Text, "fs.permissions.umask-mode" = "022",
        "Permission bits withheld from new files and directories (octal or symbolic)",
        was "dfs.umaskmode";
    IPC_CLIENT_CONNECT_TIMEOUT: Millis, "ipc.client.connect.timeout" = "20000",
        "Time for one attempt to connect to a server's RPC port";
    IPC_CLIENT_CONNECT_MAX_RETRIES: Integer, "ipc.client.connect.max.retries" = "10",
        "Times that a client tries again when a server's RPC port cannot be reached or hangs up";
    IPC_CLIENT_CONNECT_RETRY_INTERVAL: Millis, "ipc.client.connect.retry.interval" = "1000",
        "Pause before each of these attempts";
    IPC_CLIENT_RPC_TIMEOUT_MS: Millis, "ipc.client.rpc-timeout.ms" = "120000",
        "Time after which a remote call without reply fails; 0: never";
    IPC_PING_INTERVAL: Millis, "ipc.ping.interval" = "60000",
        "Time between pings while a call waits for its reply";
    RINGFS_RPC_PEER_TIMEOUT: Millis, "ringfs.rpc.peer.timeout" = "120s",
        "An RPC connection whose other host does not answer TCP for so long is closed (2 s to 12 h)";
    DFS_HEARTBEAT_INTERVAL: Seconds, "dfs.heartbeat.interval" = "3",
        "Time between a datanode's heartbeats";

    // The namenode.
    DFS_NAMENODE_RPC_ADDRESS: Text, "dfs.namenode.rpc-address" = "",
        "host:port that the namenode serves; empty: as in fs.defaultFS";
    DFS_NAMENODE_RPC_BIND_HOST: Text, "dfs.namenode.rpc-bind-host" = "",
        "Address to listen on instead of the host in dfs.namenode.rpc-address, such as 0.0.0.0";
    DFS_NAMENODE_SERVICERPC_ADDRESS: Text, "dfs.namenode.servicerpc-address" = "",
        "host:port that datanodes call instead of dfs.namenode.rpc-address, when set";
    DFS_NAMENODE_NAME_DIR: Text, "dfs.namenode.name.dir" = "file://${hadoop.tmp.dir}/dfs/name",
        "Directory of the namenode's metadata", was "dfs.name.dir";
    DFS_NAMENODE_HANDLER_COUNT: Integer, "dfs.namenode.handler.count" = "10",
        "Remote calls that run at a time, in units of 100: here a waiting call holds no thread";
    DFS_REPLICATION_MAX: Integer, "dfs.replication.max" = "512",
        "Most replicas that a file may ask for";
    DFS_NAMENODE_REPLICATION_MIN: Integer, "dfs.namenode.replication.min" = "1",
        "Replicas that must be reported before a block counts as written", was "dfs.replication.min";
    DFS_NAMENODE_FS_LIMITS_MIN_BLOCK_SIZE: Bytes,
        "dfs.namenode.fs-limits.min-block-size" = "1048576", "Least block size of a new file";
    DFS_NAMENODE_FS_LIMITS_MAX_BLOCKS_PER_FILE: Integer,
        "dfs.namenode.fs-limits.max-blocks-per-file" = "10000", "Most blocks of one file";
    DFS_NAMENODE_FS_LIMITS_MAX_COMPONENT_LENGTH: Integer,
        "dfs.namenode.fs-limits.max-component-length" = "255",
        "Most bytes of one path component; 0: no limit";
    DFS_NAMENODE_FS_LIMITS_MAX_DIRECTORY_ITEMS: Integer,
        "dfs.namenode.fs-limits.max-directory-items" = "1048576", "Most entries of one directory";
    DFS_NAMENODE_HEARTBEAT_RECHECK_INTERVAL: Millis,
        "dfs.namenode.heartbeat.recheck-interval" = "300000",
        "A datanode is dead after twice this and ten heartbeat intervals of silence",
        was "heartbeat.recheck.interval";
    DFS_NAMENODE_STALE_DATANODE_INTERVAL: Millis, "dfs.namenode.stale.datanode.interval" = "30000",
        "A datanode silent for so long is named last to readers and avoided for writes";
    DFS_NAMENODE_REDUNDANCY_INTERVAL_SECONDS: Seconds,
        "dfs.namenode.redundancy.interval.seconds" = "3",
        "Time between two rounds of scheduling re-replication and deletion",
        was "dfs.namenode.replication.interval", was "dfs.replication.interval";
    DFS_NAMENODE_REPLICATION_MAX_STREAMS: Integer, "dfs.namenode.replication.max-streams" = "2",
        "Re-replications that one datanode is asked to send at a time", was "dfs.max-repl-streams";
    DFS_NAMENODE_REPLICATION_WORK_MULTIPLIER_PER_ITERATION: Integer,
        "dfs.namenode.replication.work.multiplier.per.iteration" = "2",
        "Blocks re-replicated in one round for each live datanode";
    DFS_NAMENODE_RECONSTRUCTION_PENDING_TIMEOUT_SEC: Seconds,
        "dfs.namenode.reconstruction.pending.timeout-sec" = "300",
        "Time after which a scheduled re-replication that nobody reported is scheduled anew",
        was "dfs.namenode.replication.pending.timeout-sec",
        was "dfs.replication.pending.timeout.sec";
    DFS_BLOCK_INVALIDATE_LIMIT: Integer, "dfs.block.invalidate.limit" = "1000",
        "Deletions sent to a datanode with one heartbeat";
    DFS_NAMENODE_SAFEMODE_THRESHOLD_PCT: Float, "dfs.namenode.safemode.threshold-pct" = "0.999",
        "Share of blocks to be reported before safe mode ends", was "dfs.safemode.threshold.pct";
    DFS_NAMENODE_SAFEMODE_MIN_DATANODES: Integer, "dfs.namenode.safemode.min.datanodes" = "0",
        "Live datanodes needed before safe mode ends", was "dfs.safemode.min.datanodes";
    DFS_NAMENODE_SAFEMODE_EXTENSION: Millis, "dfs.namenode.safemode.extension" = "30000",
        "Time that safe mode lasts on after its threshold was reached", was "dfs.safemode.extension";
    DFS_NAMENODE_LEASE_HARD_LIMIT_SEC: Seconds, "dfs.namenode.lease-hard-limit-sec" = "1200",
        "Time after which the file of a silent writer is closed by the namenode";
    NET_TOPOLOGY_NODE_SWITCH_MAPPING_IMPL: Text, "net.topology.node.switch.mapping.impl" =
        "org.apache.hadoop.net.ScriptBasedMapping",
        "Where racks of datanodes come from: this, or org.apache.hadoop.net.TableMapping",
        was "topology.node.switch.mapping.impl";
    NET_TOPOLOGY_SCRIPT_FILE_NAME: Text, "net.topology.script.file.name" = "",
        "Program that prints the rack of the address it is given",
        was "topology.script.file.name";
    NET_TOPOLOGY_TABLE_FILE_NAME: Text, "net.topology.table.file.name" = "",
        "File of lines 'address rack', read when there is no script or TableMapping is asked for";
    DFS_HOSTS: Text, "dfs.hosts" = "",
        "File of the datanodes that are let in, host or host:port; empty: all",
        was "dfs.namenode.hosts";
    DFS_HOSTS_EXCLUDE: Text, "dfs.hosts.exclude" = "",
        "File of the datanodes that are to be decommissioned",
        was "dfs.namenode.hosts.exclude";
    DFS_NAMENODE_HOSTS_PROVIDER_CLASSNAME: Text, "dfs.namenode.hosts.provider.classname" =
        "org.apache.hadoop.hdfs.server.blockmanagement.HostFileManager",
        "This, or ...CombinedHostFileManager: dfs.hosts is JSON with the state of each datanode";
    DFS_NAMENODE_DECOMMISSION_INTERVAL: Seconds, "dfs.namenode.decommission.interval" = "30",
        "Time between two looks at what still depends on datanodes that leave";
    DFS_NAMENODE_MAINTENANCE_REPLICATION_MIN: Integer,
        "dfs.namenode.maintenance.replication.min" = "1",
        "Replicas that a block keeps in service while others are in maintenance";
    DFS_PERMISSIONS_ENABLED: Boolean, "dfs.permissions.enabled" = "true",
        "Whether permissions are checked", was "dfs.permissions";
    DFS_PERMISSIONS_SUPERUSERGROUP: Text, "dfs.permissions.superusergroup" = "supergroup",
        "Members of this group are superusers", was "dfs.permissions.supergroup";
    HADOOP_USER_GROUP_STATIC_MAPPING_OVERRIDES: Text,
        "hadoop.user.group.static.mapping.overrides" = "dr.who=;",
        "Groups of users that the system is not asked for: user1=group1,group2;user2=";
    DFS_NAMENODE_ACCESSTIME_PRECISION: Millis, "dfs.namenode.accesstime.precision" = "3600000",
        "Access times are updated once in this time; 0: never", was "dfs.access.time.precision";
    DFS_LS_LIMIT: Integer, "dfs.ls.limit" = "1000",
        "Directory entries in one reply to a listing";
    DFS_NAMENODE_RETRYCACHE_EXPIRYTIME_MILLIS: Millis,
        "dfs.namenode.retrycache.expirytime.millis" = "600000",
        "Time for which the reply to a call that must not run twice is kept";

    // Datanodes.
    DFS_DATANODE_DATA_DIR: Text, "dfs.datanode.data.dir" = "file://${hadoop.tmp.dir}/dfs/data",
        "Directories of the blocks, one a volume, comma-separated", was "dfs.data.dir";
    DFS_DATANODE_DATA_DIR_PERM: Text, "dfs.datanode.data.dir.perm" = "700",
        "Permissions of the data directories (octal)";
    DFS_DATANODE_ADDRESS: Text, "dfs.datanode.address" = "0.0.0.0:9866",
        "Address that serves blocks";
    DFS_DATANODE_IPC_ADDRESS: Text, "dfs.datanode.ipc.address" = "0.0.0.0:9867",
        "Address of the datanode's RPC";
    DFS_DATANODE_HTTP_ADDRESS: Text, "dfs.datanode.http.address" = "0.0.0.0:9864",
        "Address that serves the datanode's /metrics over HTTP";
    DFS_DATANODE_HOSTNAME: Text, "dfs.datanode.hostname" = "",
        "Host name to register with; empty: this host's", was "slave.host.name";
    DFS_DATANODE_DU_RESERVED: Bytes, "dfs.datanode.du.reserved" = "0",
        "Bytes of each volume to leave to others";
    DFS_DATANODE_FAILED_VOLUMES_TOLERATED: Integer,
        "dfs.datanode.failed.volumes.tolerated" = "0",
        "Failed volumes that a datanode goes on with; -1: as long as one is left";
    DFS_DATANODE_DISK_CHECK_TIMEOUT: Millis, "dfs.datanode.disk.check.timeout" = "10m",
        "A volume whose disk does not answer a check for so long has failed";
    RINGFS_DATANODE_DISK_OPERATION_TIMEOUT: Millis,
        "ringfs.datanode.disk.operation.timeout" = "30s",
        "An operation on a disk that takes so long fails: well below dfs.client.socket-timeout";
    DFS_DATANODE_OUTLIERS_REPORT_INTERVAL: Millis, "dfs.datanode.outliers.report.interval" = "30m",
        "How often a datanode tells the namenode which of its volumes are slow";
    DFS_DATANODE_SCAN_PERIOD_HOURS: Integer, "dfs.datanode.scan.period.hours" = "504",
        "Time in which a datanode reads and verifies all of its blocks once; below 0: never";
    DFS_BLOCK_SCANNER_VOLUME_BYTES_PER_SECOND: Bytes,
        "dfs.block.scanner.volume.bytes.per.second" = "1048576",
        "Most that it reads of each volume for that; 0: nothing";
    DFS_DATANODE_BALANCE_BANDWIDTH_PER_SEC: Bytes,
        "dfs.datanode.balance.bandwidthPerSec" = "104857600",
        "Most bytes a second that a balancer's moves take of a datanode, both ways together",
        was "dfs.balance.bandwidthPerSec";
    DFS_DATANODE_MAX_TRANSFER_THREADS: Integer, "dfs.datanode.max.transfer.threads" = "4096",
        "Most block streams at a time", was "dfs.datanode.max.xcievers";
    DFS_DATANODE_SYNCONCLOSE: Boolean, "dfs.datanode.synconclose" = "false",
        "Whether a block is synced to its device when it is finalized";
    DFS_DATANODE_DUPLICATE_REPLICA_DELETION: Boolean,
        "dfs.datanode.duplicate.replica.deletion" = "true",
        "Whether the lesser of two replicas of a block found at start is deleted";
    RINGFS_DATANODE_DIRECT_IO: Boolean, "ringfs.datanode.direct-io" = "true",
        "Whether block files are written and read with O_DIRECT where the volume can";
    RINGFS_DATANODE_SPARE_FILES: Integer, "ringfs.datanode.spare.files" = "16",
        "Files of deleted blocks that each volume keeps, as free space, for new ones; 0: none";
    RINGFS_DATANODE_READ_CACHE: Text, "ringfs.datanode.read.cache" = "auto",
        "auto: what is read again goes through the page cache; off: every read is O_DIRECT";
    RINGFS_DATANODE_BUFFER_POOL: Bytes, "ringfs.datanode.buffer.pool" = "256m",
        "Memory for blocks on their way between network and disk, of all streams together";
    RINGFS_DATANODE_DATA_THREADS: Integer, "ringfs.datanode.data.threads" = "0",
        "Threads that carry block streams; 0 for one per core";
    RINGFS_DATANODE_DATA_THREADS_PIN: Boolean, "ringfs.datanode.data.threads.pin" = "false",
        "Whether each of these threads keeps to a core of its own, with its memory on that core's node";
    RINGFS_DATANODE_VOLUME_MEDIUM: Text, "ringfs.datanode.volume.medium" = "auto",
        "How volumes are written to: ssd, rotational (few streams at a time, in long runs), or auto, as each device says";
    DFS_DATANODE_SOCKET_REUSE_KEEPALIVE: Millis, "dfs.datanode.socket.reuse.keepalive" = "4000",
        "Time for which a connection waits for its next operation";
    DFS_BLOCKREPORT_INTERVAL_MSEC: Millis, "dfs.blockreport.intervalMsec" = "21600000",
        "Time between full block reports";
    DFS_BLOCKREPORT_INITIAL_DELAY: Seconds, "dfs.blockreport.initialDelay" = "0",
        "The first full block report comes at random within this time";
    DFS_BLOCKREPORT_SPLIT_THRESHOLD: Integer, "dfs.blockreport.split.threshold" = "1000000",
        "Blocks beyond which each volume is reported in a message of its own";

    // Clients, and datanodes as clients of each other.
    DFS_USER_HOME_DIR_PREFIX: Text, "dfs.user.home.dir.prefix" = "/user",
        "Relative paths are below this directory and the user's name";
    DFS_CLIENT_SOCKET_TIMEOUT: Millis, "dfs.client.socket-timeout" = "60000",
        "Time without a byte after which a block transfer fails", was "dfs.socket.timeout";
    RINGFS_PIPELINE_TIMEOUT_PER_DATANODE: Millis, "ringfs.pipeline.timeout.per-datanode" = "5000",
        "Added to dfs.client.socket-timeout for each datanode that a pipeline's reply passes: the one next to a silent datanode notices first";
    DFS_CLIENT_USE_DATANODE_HOSTNAME: Boolean, "dfs.client.use.datanode.hostname" = "false",
        "Whether datanodes are reached by host name instead of address";
    DFS_CLIENT_MAX_BLOCK_ACQUIRE_FAILURES: Integer,
        "dfs.client.max.block.acquire.failures" = "3",
        "Times that a reader asks for a block's locations anew after all of them failed";
    DFS_CLIENT_RETRY_WINDOW_BASE: Millis, "dfs.client.retry.window.base" = "3000",
        "A reader waits up to this long, and longer each time, before it asks for locations anew";
    DFS_DOMAIN_SOCKET_PATH: Text, "dfs.domain.socket.path" = "",
        "UNIX socket over which a datanode passes its files to clients of its host; _PORT in it \
         becomes the datanode's transfer port";
    DFS_CLIENT_READ_SHORTCIRCUIT: Boolean, "dfs.client.read.shortcircuit" = "false",
        "Whether replicas of this host are read from their files, passed over dfs.domain.socket.path";
    DFS_CLIENT_READ_SHORTCIRCUIT_SKIP_CHECKSUM: Boolean,
        "dfs.client.read.shortcircuit.skip.checksum" = "false",
        "Whether such reads go without comparing data with its checksums";
    DFS_CLIENT_READ_SHORTCIRCUIT_STREAMS_CACHE_SIZE: Integer,
        "dfs.client.read.shortcircuit.streams.cache.size" = "256",
        "Replicas of this host that a client keeps open";
    DFS_CLIENT_READ_SHORTCIRCUIT_STREAMS_CACHE_EXPIRY_MS: Millis,
        "dfs.client.read.shortcircuit.streams.cache.expiry.ms" = "300000",
        "Time for which it keeps one that is not read";
    DFS_DOMAIN_SOCKET_DISABLE_INTERVAL_SECONDS: Seconds,
        "dfs.domain.socket.disable.interval.seconds" = "600",
        "Time for which a domain socket that failed is not tried again";
    RINGFS_CLIENT_READ_VERIFY_CHECKSUM: Boolean, "ringfs.client.read.verify-checksum" = "true",
        "Whether a reader compares data with its checksums";
    DFS_CLIENT_BLOCK_WRITE_RETRIES: Integer, "dfs.client.block.write.retries" = "3",
        "New blocks tried when a write pipeline cannot be set up";
    DFS_CLIENT_BLOCK_WRITE_LOCATE_FOLLOWING_BLOCK_RETRIES: Integer,
        "dfs.client.block.write.locateFollowingBlock.retries" = "5",
        "Times that a writer asks again for its next block, or to complete its file";
    DFS_CLIENT_BLOCK_WRITE_LOCATE_FOLLOWING_BLOCK_INITIAL_DELAY_MS: Millis,
        "dfs.client.block.write.locateFollowingBlock.initial.delay.ms" = "400",
        "First pause before asking again; doubled each time";
    DFS_CLIENT_WRITE_MAX_PACKETS_IN_FLIGHT: Integer,
        "dfs.client.write.max-packets-in-flight" = "160",
        "Packets of one file waiting to be sent or acknowledged; twice as many as Hadoop's, for a disk's sake";
    DFS_CLIENT_WRITE_EXCLUDE_NODES_CACHE_EXPIRY_INTERVAL_MILLIS: Millis,
        "dfs.client.write.exclude.nodes.cache.expiry.interval.millis" = "600000",
        "Time for which a writer avoids a datanode that failed it";
    DFS_CLIENT_BLOCK_WRITE_REPLACE_DATANODE_ON_FAILURE_ENABLE: Boolean,
        "dfs.client.block.write.replace-datanode-on-failure.enable" = "true",
        "Whether a failed datanode of a pipeline is replaced";
    DFS_CLIENT_BLOCK_WRITE_REPLACE_DATANODE_ON_FAILURE_POLICY: Text,
        "dfs.client.block.write.replace-datanode-on-failure.policy" = "DEFAULT",
        "When it is replaced: ALWAYS, NEVER or DEFAULT (at three replicas, when half are lost or the file was flushed or appended to)";
    DFS_CLIENT_BLOCK_WRITE_REPLACE_DATANODE_ON_FAILURE_BEST_EFFORT: Boolean,
        "dfs.client.block.write.replace-datanode-on-failure.best-effort" = "false",
        "Whether a writer goes on with fewer datanodes when no replacement is found";
    DFS_CLIENT_DATANODE_RESTART_TIMEOUT: Seconds, "dfs.client.datanode-restart.timeout" = "30",
        "Time for which a writer waits for a datanode that announced its restart, its only one or one of its host";
    DFS_CHECKSUM_COMBINE_MODE: Text, "dfs.checksum.combine.mode" = "MD5MD5CRC",
        "What -checksum prints: MD5MD5CRC or COMPOSITE_CRC";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::site_config::Configuration;

    #[test]
    fn names_are_unique_and_told() {
        let mut seen = HashSet::new();
        for setting in ALL {
            assert!(!setting.meaning.is_empty(), "{}", setting.name);
            for name in setting.deprecated_names.iter().chain([&setting.name]) {
                assert!(seen.insert(*name), "{name} is listed twice");
            }
        }
    }

    #[test]
    fn every_default_is_of_its_kind() {
        let configuration = Configuration::default();
        for setting in ALL {
            let read = match setting.kind {
                Kind::Text => Ok(()),
                Kind::Integer => configuration.integer(setting).map(drop),
                Kind::Float => configuration.float(setting).map(drop),
                Kind::Boolean => configuration.boolean(setting).map(drop),
                Kind::Bytes => configuration.bytes(setting).map(drop),
                Kind::Millis | Kind::Seconds => configuration.duration(setting).map(drop),
            };
            read.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

//! The datanode's settings, read once at start and checked where a typo would do harm.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use ringfs_protocol::messages::StorageTypeProto;
use ringfs_protocol::rpc::client::RpcClientOptions;
use ringfs_protocol::settings::{self, Setting};
use ringfs_protocol::site_config::{Configuration, StorageDirectory as StorageLocation};

use crate::error::Result;
use crate::failed_volumes::Tolerated;
use crate::limits::SPARE_FILES_MAX;
use crate::scrubber::ScrubPace;
use crate::storage_directory::host_name;
use crate::volume::BlockData;
use crate::volume_profile::Medium;

const NAMENODE_DEFAULT_PORT: u16 = 8020;
/// Of a directory whose blocks' data is thrown away.
const DISCARD_SCHEME: &str = "discard://";

#[derive(Clone, Debug)]
pub struct DatanodeConfig {
    /// `host:port` of the namenode.
    pub namenode_address: String,
    pub data_dirs: Vec<StorageLocation>,
    pub block_data: BlockData,
    pub data_dir_mode: u32,
    pub transfer_address: SocketAddr,
    pub ipc_address: SocketAddr,
    pub http_address: SocketAddr,
    /// Where short-circuit reads are served; empty: nowhere.
    pub domain_socket_path: String,
    pub host_name: String,
    pub reserved_bytes: u64,
    pub failed_volumes_tolerated: Tolerated,
    pub disk_check_timeout: Duration,
    /// An operation on a disk that takes so long fails.
    pub disk_operation_timeout: Duration,
    pub slow_disks_report_interval: Duration,
    /// `None`: nothing is scrubbed.
    pub scrub: Option<ScrubPace>,
    pub direct_io: bool,
    /// Data files of deleted blocks that each volume keeps for new ones.
    pub spare_files_max: usize,
    /// Whether what is read again goes through the page cache.
    pub read_cache: bool,
    pub delete_duplicate_replicas: bool,
    pub sync_on_close: bool,
    /// Threads that carry streams and file work.
    pub data_threads: usize,
    /// Whether each keeps to a core.
    pub pin_data_threads: bool,
    /// `None`: as each device says.
    pub medium: Option<Medium>,
    /// Memory that streams receive into and send from, of all data threads together.
    pub buffer_pool_bytes: u64,
    pub transfers_max: usize,
    pub socket_timeout: Duration,
    pub move_bytes_per_second: u64,
    /// What each downstream datanode adds to the time of waiting for the next one.
    pub timeout_per_target: Duration,
    pub keepalive: Duration,
    pub heartbeat_interval: Duration,
    pub block_report_interval: Duration,
    pub block_report_initial_delay: Duration,
    pub block_report_split_threshold: u64,
    pub rpc: RpcClientOptions,
}

impl DatanodeConfig {
    pub fn from_configuration(
        configuration: &Configuration,
        block_data: BlockData,
    ) -> Result<Self> {
        let configured = configuration;
        let data_dirs = data_dirs(configured, block_data)?;
        Ok(Self {
            failed_volumes_tolerated: Tolerated::from_configuration(configured, data_dirs.len())?,
            disk_check_timeout: interval(configured, &settings::DFS_DATANODE_DISK_CHECK_TIMEOUT)?,
            disk_operation_timeout: interval(
                configured,
                &settings::RINGFS_DATANODE_DISK_OPERATION_TIMEOUT,
            )?,
            namenode_address: namenode_address(configured)?,
            slow_disks_report_interval: interval(
                configured,
                &settings::DFS_DATANODE_OUTLIERS_REPORT_INTERVAL,
            )?,
            scrub: ScrubPace::from_configuration(configured)?,
            data_dirs,
            block_data,
            data_dir_mode: data_dir_mode(configured)?,
            transfer_address: socket_address(configured, &settings::DFS_DATANODE_ADDRESS)?,
            ipc_address: socket_address(configured, &settings::DFS_DATANODE_IPC_ADDRESS)?,
            http_address: socket_address(configured, &settings::DFS_DATANODE_HTTP_ADDRESS)?,
            domain_socket_path: match configured.boolean(&settings::DFS_CLIENT_READ_SHORTCIRCUIT)? {
                true => configured.text(&settings::DFS_DOMAIN_SOCKET_PATH),
                false => String::new(),
            },
            host_name: Some(configured.text(&settings::DFS_DATANODE_HOSTNAME))
                .filter(|name| !name.is_empty())
                .unwrap_or_else(host_name),
            reserved_bytes: configured.bytes(&settings::DFS_DATANODE_DU_RESERVED)?,
            direct_io: configured.boolean(&settings::RINGFS_DATANODE_DIRECT_IO)?,
            spare_files_max: spare_files_max(configured)?,
            read_cache: read_cache(configured)?,
            delete_duplicate_replicas: configured
                .boolean(&settings::DFS_DATANODE_DUPLICATE_REPLICA_DELETION)?,
            sync_on_close: configured.boolean(&settings::DFS_DATANODE_SYNCONCLOSE)?,
            data_threads: data_threads(configured)?,
            pin_data_threads: configured.boolean(&settings::RINGFS_DATANODE_DATA_THREADS_PIN)?,
            medium: medium(configured)?,
            buffer_pool_bytes: configured.bytes(&settings::RINGFS_DATANODE_BUFFER_POOL)?,
            transfers_max: count(configured, &settings::DFS_DATANODE_MAX_TRANSFER_THREADS)?
                as usize,
            move_bytes_per_second: configured
                .bytes(&settings::DFS_DATANODE_BALANCE_BANDWIDTH_PER_SEC)?,
            socket_timeout: configured.duration(&settings::DFS_CLIENT_SOCKET_TIMEOUT)?,
            timeout_per_target: configured
                .duration(&settings::RINGFS_PIPELINE_TIMEOUT_PER_DATANODE)?,
            keepalive: configured.duration(&settings::DFS_DATANODE_SOCKET_REUSE_KEEPALIVE)?,
            heartbeat_interval: interval(configured, &settings::DFS_HEARTBEAT_INTERVAL)?,
            block_report_interval: interval(configured, &settings::DFS_BLOCKREPORT_INTERVAL_MSEC)?,
            block_report_initial_delay: configured
                .duration(&settings::DFS_BLOCKREPORT_INITIAL_DELAY)?,
            block_report_split_threshold: count(
                configured,
                &settings::DFS_BLOCKREPORT_SPLIT_THRESHOLD,
            )?,
            rpc: RpcClientOptions::from_configuration(configured)?,
        })
    }
}

/// The namenode's service address, its RPC address, or the authority of `fs.defaultFS`.
fn namenode_address(configuration: &Configuration) -> Result<String> {
    let explicit =
        [&settings::DFS_NAMENODE_SERVICERPC_ADDRESS, &settings::DFS_NAMENODE_RPC_ADDRESS]
            .map(|setting| configuration.text(setting));
    let default_fs = configuration.text(&settings::FS_DEFAULT_FS);
    let authority = match explicit.into_iter().find(|address| !address.is_empty()) {
        Some(address) => address,
        None => default_fs
            .strip_prefix("hdfs://")
            .map(|rest| rest.split('/').next().unwrap_or(rest).to_owned())
            .filter(|authority| !authority.is_empty())
            .ok_or_else(|| {
                configuration.refuse(
                    &settings::FS_DEFAULT_FS,
                    &default_fs,
                    "name the namenode: set it to hdfs://host:port, or dfs.namenode.rpc-address \
                     to host:port",
                )
            })?,
    };
    let with_port = if authority.contains(':') {
        authority
    } else {
        format!("{authority}:{NAMENODE_DEFAULT_PORT}")
    };
    Ok(with_port)
}

fn data_dirs(configuration: &Configuration, block_data: BlockData) -> Result<Vec<StorageLocation>> {
    let setting = &settings::DFS_DATANODE_DATA_DIR;
    let mut locations = match block_data {
        BlockData::Stored => stored_data_dirs(configuration)?,
        BlockData::Discarded => discarding_data_dirs(configuration)?,
    };
    for index in 0..locations.len() {
        // As components, so that a trailing slash makes no second name of a directory.
        locations[index].path = locations[index].path.components().collect();
        let path = &locations[index].path;
        if locations[..index].iter().any(|earlier| earlier.path == *path) {
            let path = path.display().to_string();
            return Err(configuration.refuse(setting, &path, "is named twice").into());
        }
    }
    if locations.is_empty() {
        return Err(configuration.refuse(setting, "", "at least one directory is needed").into());
    }
    Ok(locations)
}

fn stored_data_dirs(configuration: &Configuration) -> Result<Vec<StorageLocation>> {
    let setting = &settings::DFS_DATANODE_DATA_DIR;
    match configuration.list(setting).into_iter().find(|entry| entry.contains(DISCARD_SCHEME)) {
        None => Ok(configuration.directories(setting)?),
        Some(entry) => {
            let why = "throws its blocks' data away: only a measurement wants that, and starts the \
                       datanode with --bench-discard-block-data";
            Err(configuration.refuse(setting, &entry, why).into())
        }
    }
}

fn discarding_data_dirs(configuration: &Configuration) -> Result<Vec<StorageLocation>> {
    let setting = &settings::DFS_DATANODE_DATA_DIR;
    let location = |entry: &String| match entry.strip_prefix(DISCARD_SCHEME) {
        Some(path) if path.starts_with('/') => {
            Ok(StorageLocation { storage_type: StorageTypeProto::Disk, path: path.into() })
        }
        _ => {
            let why = "--bench-discard-block-data takes discard:///PATH directories and no others";
            Err(configuration.refuse(setting, entry, why).into())
        }
    };
    configuration.list(setting).iter().map(location).collect()
}

fn data_dir_mode(configuration: &Configuration) -> Result<u32> {
    let setting = &settings::DFS_DATANODE_DATA_DIR_PERM;
    let text = configuration.text(setting);
    u32::from_str_radix(&text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777 && mode & 0o700 == 0o700)
        .ok_or_else(|| {
            configuration.refuse(setting, &text, "an octal mode such as 700 is needed").into()
        })
}

fn socket_address(configuration: &Configuration, setting: &Setting) -> Result<SocketAddr> {
    let text = configuration.text(setting);
    let resolved = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    resolved
        .ok_or_else(|| configuration.refuse(setting, &text, "not a host:port of this host").into())
}

fn count(configuration: &Configuration, setting: &Setting) -> Result<u64> {
    let value = configuration.integer(setting)?;
    u64::try_from(value)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| configuration.refuse(setting, &value.to_string(), "must be above 0").into())
}

fn spare_files_max(configuration: &Configuration) -> Result<usize> {
    let setting = &settings::RINGFS_DATANODE_SPARE_FILES;
    let value = configuration.integer(setting)?;
    usize::try_from(value).ok().filter(|count| *count <= SPARE_FILES_MAX).ok_or_else(|| {
        let rule = format!("must be from 0 to {SPARE_FILES_MAX}");
        configuration.refuse(setting, &value.to_string(), &rule).into()
    })
}

/// As many as the machine has cores, unless configured.
fn data_threads(configuration: &Configuration) -> Result<usize> {
    let setting = &settings::RINGFS_DATANODE_DATA_THREADS;
    match configuration.integer(setting)? {
        0 => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        count => usize::try_from(count).map_err(|_| {
            configuration.refuse(setting, &count.to_string(), "must not be below 0").into()
        }),
    }
}

fn read_cache(configuration: &Configuration) -> Result<bool> {
    let setting = &settings::RINGFS_DATANODE_READ_CACHE;
    match configuration.text(setting).as_str() {
        "auto" => Ok(true),
        "off" => Ok(false),
        other => Err(configuration.refuse(setting, other, "must be auto or off").into()),
    }
}

fn medium(configuration: &Configuration) -> Result<Option<Medium>> {
    let setting = &settings::RINGFS_DATANODE_VOLUME_MEDIUM;
    match configuration.text(setting).as_str() {
        "auto" => Ok(None),
        "ssd" => Ok(Some(Medium::SolidState)),
        "rotational" => Ok(Some(Medium::Rotational)),
        other => Err(configuration.refuse(setting, other, "not auto, ssd or rotational").into()),
    }
}

fn interval(configuration: &Configuration, setting: &Setting) -> Result<Duration> {
    let value = configuration.duration(setting)?;
    if value.is_zero() {
        return Err(configuration.refuse(setting, "0", "must be above 0").into());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(pairs: &[(&str, &str)]) -> Configuration {
        let mut configuration = Configuration::default();
        configuration.set("fs.defaultFS", "hdfs://nn.example:9000/");
        for (name, value) in pairs {
            configuration.set(name, value);
        }
        configuration
    }

    #[test]
    fn block_data_is_thrown_away_only_where_flag_and_directory_say_so() {
        let dirs = |dirs, block_data| {
            data_dirs(&configuration(&[("dfs.datanode.data.dir", dirs)]), block_data)
        };
        let discarding = dirs("discard:///d/1", BlockData::Discarded).unwrap();
        assert_eq!(discarding[0].path, std::path::Path::new("/d/1"));
        for slip in ["discard:///d/1", "/d/2,discard:///d/1", "[SSD]discard:///d/1"] {
            let error = dirs(slip, BlockData::Stored).unwrap_err().to_string();
            assert!(error.contains("--bench-discard-block-data"), "{error}");
        }
        for slip in ["/d/1", "file:///d/1", "discard:///d/1,/d/2", "discard://d"] {
            let error = dirs(slip, BlockData::Discarded).unwrap_err().to_string();
            assert!(error.contains("discard:///PATH directories and no others"), "{error}");
        }
    }

    #[test]
    fn a_directory_named_twice_is_refused() {
        let data_dirs = |configuration: &_| data_dirs(configuration, BlockData::Stored);
        let twice = configuration(&[("dfs.datanode.data.dir", "/d/1,[SSD]file:///d/1/")]);
        assert!(data_dirs(&twice).unwrap_err().to_string().contains("twice"));
        let none = configuration(&[("dfs.datanode.data.dir", " , ")]);
        assert!(data_dirs(&none).is_err());
        let two = configuration(&[("dfs.datanode.data.dir", "/d/1/, [SSD]/d/2")]);
        let paths: Vec<_> = data_dirs(&two).unwrap().into_iter().map(|dir| dir.path).collect();
        assert_eq!(paths, [std::path::Path::new("/d/1"), std::path::Path::new("/d/2")]);
    }

    #[test]
    fn the_namenode_is_found_in_hadoops_order() {
        let of = |pairs: &[(&str, &str)]| namenode_address(&configuration(pairs)).unwrap();
        assert_eq!(of(&[]), "nn.example:9000");
        assert_eq!(of(&[("fs.defaultFS", "hdfs://nn")]), "nn:8020");
        assert_eq!(of(&[("dfs.namenode.rpc-address", "a:1")]), "a:1");
        assert_eq!(
            of(&[("dfs.namenode.rpc-address", "a:1"), ("dfs.namenode.servicerpc-address", "b:2")]),
            "b:2"
        );
        let none = configuration(&[("fs.defaultFS", "file:///")]);
        assert!(namenode_address(&none).unwrap_err().to_string().contains("hdfs://host:port"));
    }

    #[test]
    fn a_medium_is_one_of_three() {
        let of = |text| medium(&configuration(&[("ringfs.datanode.volume.medium", text)]));
        assert_eq!(medium(&configuration(&[])).unwrap(), None);
        assert_eq!(of("rotational").unwrap(), Some(Medium::Rotational));
        assert_eq!(of("ssd").unwrap(), Some(Medium::SolidState));
        assert!(of("tape").unwrap_err().to_string().contains("auto, ssd or rotational"));
    }

    #[test]
    fn a_mode_that_locks_the_datanode_out_is_refused() {
        assert_eq!(data_dir_mode(&configuration(&[])).unwrap(), 0o700);
        assert!(data_dir_mode(&configuration(&[("dfs.datanode.data.dir.perm", "077")])).is_err());
    }
}

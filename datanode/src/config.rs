//! The datanode's settings, read once at start and checked where a typo would do harm.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use ringfs_protocol::messages::StorageTypeProto;
use ringfs_protocol::settings::{self, Setting};
use ringfs_protocol::site_config::{ConfigError, Configuration};

use crate::error::Result;
use crate::storage_directory::host_name;

const NAMENODE_DEFAULT_PORT: u16 = 8020;

/// One entry of `dfs.datanode.data.dir`: `[SSD]file:///path`, `file:///path` or `/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageLocation {
    pub path: PathBuf,
    pub storage_type: StorageTypeProto,
}

#[derive(Clone, Debug)]
pub struct DatanodeConfig {
    /// `host:port` of the namenode.
    pub namenode_address: String,
    pub data_dirs: Vec<StorageLocation>,
    pub data_dir_mode: u32,
    pub transfer_address: SocketAddr,
    pub ipc_address: SocketAddr,
    /// Reported at registration only: this datanode serves no HTTP.
    pub http_port: u16,
    pub host_name: String,
    pub reserved_bytes: u64,
    pub direct_io: bool,
    pub delete_duplicate_replicas: bool,
    pub sync_on_close: bool,
    pub transfers_max: usize,
    pub socket_timeout: Duration,
    pub keepalive: Duration,
    pub heartbeat_interval: Duration,
    pub block_report_interval: Duration,
    pub block_report_initial_delay: Duration,
    pub block_report_split_threshold: u64,
    pub rpc_connect_timeout: Duration,
    pub rpc_call_timeout: Duration,
    pub rpc_ping_interval: Duration,
}

impl DatanodeConfig {
    pub fn from_configuration(configuration: &Configuration) -> Result<Self> {
        let configured = configuration;
        Ok(Self {
            namenode_address: namenode_address(configured)?,
            data_dirs: data_dirs(configured)?,
            data_dir_mode: data_dir_mode(configured)?,
            transfer_address: socket_address(configured, &settings::DFS_DATANODE_ADDRESS)?,
            ipc_address: socket_address(configured, &settings::DFS_DATANODE_IPC_ADDRESS)?,
            http_port: socket_address(configured, &settings::DFS_DATANODE_HTTP_ADDRESS)?.port(),
            host_name: Some(configured.text(&settings::DFS_DATANODE_HOSTNAME))
                .filter(|name| !name.is_empty())
                .unwrap_or_else(host_name),
            reserved_bytes: configured.bytes(&settings::DFS_DATANODE_DU_RESERVED)?,
            direct_io: configured.boolean(&settings::RINGFS_DATANODE_DIRECT_IO)?,
            delete_duplicate_replicas: configured
                .boolean(&settings::DFS_DATANODE_DUPLICATE_REPLICA_DELETION)?,
            sync_on_close: configured.boolean(&settings::DFS_DATANODE_SYNCONCLOSE)?,
            transfers_max: count(configured, &settings::DFS_DATANODE_MAX_TRANSFER_THREADS)?
                as usize,
            socket_timeout: configured.duration(&settings::DFS_CLIENT_SOCKET_TIMEOUT)?,
            keepalive: configured.duration(&settings::DFS_DATANODE_SOCKET_REUSE_KEEPALIVE)?,
            heartbeat_interval: interval(configured, &settings::DFS_HEARTBEAT_INTERVAL)?,
            block_report_interval: interval(configured, &settings::DFS_BLOCKREPORT_INTERVAL_MSEC)?,
            block_report_initial_delay: configured
                .duration(&settings::DFS_BLOCKREPORT_INITIAL_DELAY)?,
            block_report_split_threshold: count(
                configured,
                &settings::DFS_BLOCKREPORT_SPLIT_THRESHOLD,
            )?,
            rpc_connect_timeout: configured.duration(&settings::IPC_CLIENT_CONNECT_TIMEOUT)?,
            rpc_call_timeout: interval(configured, &settings::IPC_CLIENT_RPC_TIMEOUT_MS)?,
            rpc_ping_interval: interval(configured, &settings::IPC_PING_INTERVAL)?,
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
                invalid(
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

fn data_dirs(configuration: &Configuration) -> Result<Vec<StorageLocation>> {
    let setting = &settings::DFS_DATANODE_DATA_DIR;
    let entries = configuration.list(setting);
    let mut locations: Vec<StorageLocation> = Vec::with_capacity(entries.len());
    for entry in &entries {
        let location = parse_location(entry).map_err(|why| invalid(setting, entry, why))?;
        if locations.iter().any(|earlier| earlier.path == location.path) {
            return Err(invalid(setting, entry, "the same directory is named twice").into());
        }
        locations.push(location);
    }
    if locations.is_empty() {
        return Err(invalid(setting, "", "at least one directory is needed").into());
    }
    Ok(locations)
}

fn parse_location(entry: &str) -> std::result::Result<StorageLocation, &'static str> {
    let (storage_type, uri) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, uri)) => {
            let storage_type = match name.to_ascii_uppercase().as_str() {
                "DISK" => StorageTypeProto::Disk,
                "SSD" => StorageTypeProto::Ssd,
                "ARCHIVE" => StorageTypeProto::Archive,
                "RAM_DISK" => StorageTypeProto::RamDisk,
                "NVDIMM" => StorageTypeProto::Nvdimm,
                _ => {
                    return Err("the storage type is none of DISK, SSD, ARCHIVE, RAM_DISK, NVDIMM");
                }
            };
            (storage_type, uri.trim())
        }
        None => (StorageTypeProto::Disk, entry),
    };
    let path = match uri.strip_prefix("file:") {
        // file:///path, file://localhost/path and file:/path alike name /path.
        Some(rest) => match rest.strip_prefix("//") {
            Some(authority) => &authority[authority.find('/').unwrap_or(authority.len())..],
            None => rest,
        },
        None => uri,
    };
    if !path.starts_with('/') {
        return Err("not an absolute path or file: URI");
    }
    // Components, so that a trailing slash makes no second name of a directory.
    Ok(StorageLocation { path: PathBuf::from(path).components().collect(), storage_type })
}

fn data_dir_mode(configuration: &Configuration) -> Result<u32> {
    let setting = &settings::DFS_DATANODE_DATA_DIR_PERM;
    let text = configuration.text(setting);
    u32::from_str_radix(&text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777 && mode & 0o700 == 0o700)
        .ok_or_else(|| invalid(setting, &text, "an octal mode such as 700 is needed").into())
}

fn socket_address(configuration: &Configuration, setting: &Setting) -> Result<SocketAddr> {
    let text = configuration.text(setting);
    let resolved = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    resolved.ok_or_else(|| invalid(setting, &text, "not a host:port of this host").into())
}

fn count(configuration: &Configuration, setting: &Setting) -> Result<u64> {
    let value = configuration.integer(setting)?;
    u64::try_from(value)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| invalid(setting, &value.to_string(), "must be above 0").into())
}

fn interval(configuration: &Configuration, setting: &Setting) -> Result<Duration> {
    let value = configuration.duration(setting)?;
    if value.is_zero() {
        return Err(invalid(setting, "0", "must be above 0").into());
    }
    Ok(value)
}

fn invalid(setting: &Setting, value: &str, why: &str) -> ConfigError {
    ConfigError::Value {
        name: setting.name.to_owned(),
        value: value.to_owned(),
        why: why.to_owned(),
    }
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
    fn data_directories_carry_their_storage_type() {
        let parsed = |entry: &str| parse_location(entry).map(|l| (l.storage_type, l.path));
        let at = |storage_type, path: &str| Ok((storage_type, PathBuf::from(path)));
        assert_eq!(parsed("[SSD]file:///data/1"), at(StorageTypeProto::Ssd, "/data/1"));
        assert_eq!(parsed("file:///data/1/"), at(StorageTypeProto::Disk, "/data/1"));
        assert_eq!(parsed("file:/data/1"), at(StorageTypeProto::Disk, "/data/1"));
        assert_eq!(parsed("[archive]/data/1"), at(StorageTypeProto::Archive, "/data/1"));
        assert!(parsed("[FLOPPY]/data/1").is_err());
        assert!(parsed("data/1").is_err());
        let twice = configuration(&[("dfs.datanode.data.dir", "/d/1,[SSD]file:///d/1/")]);
        assert!(data_dirs(&twice).unwrap_err().to_string().contains("twice"));
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
    fn a_mode_that_locks_the_datanode_out_is_refused() {
        assert_eq!(data_dir_mode(&configuration(&[])).unwrap(), 0o700);
        assert!(data_dir_mode(&configuration(&[("dfs.datanode.data.dir.perm", "077")])).is_err());
    }
}

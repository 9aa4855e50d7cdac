//! The settings that the client reads, checked once.

use std::time::Duration;

use ringfs_protocol::checksum::ChecksumType;
use ringfs_protocol::rpc::client::RpcClientOptions;
use ringfs_protocol::settings::*;
use ringfs_protocol::site_config::{ConfigError, Configuration};

use crate::ClientError;

#[derive(Clone, Debug)]
pub(crate) struct ClientSettings {
    /// `None` where the configuration is silent: then the namenode's defaults hold.
    pub replication: Option<u16>,
    pub block_size: Option<u64>,
    pub checksum_type: Option<ChecksumType>,
    pub bytes_per_checksum: Option<u32>,
    pub packet_size: Option<u64>,
    pub umask: u16,
    pub home_prefix: String,
    pub rpc: RpcClientOptions,
    pub connect_retries: u32,
    pub connect_retry_interval: Duration,
    /// Time without a byte after which a datanode counts as failed.
    pub socket_timeout: Duration,
    pub timeout_per_datanode: Duration,
    pub use_datanode_hostname: bool,
    pub verify_checksums: bool,
    /// `None`: replicas of this host are read over TCP like any other.
    pub short_circuit: Option<ShortCircuitSettings>,
    pub acquire_failures_max: u32,
    pub retry_window: Duration,
    pub packets_in_flight_max: usize,
    pub block_write_retries: u32,
    pub following_block_retries: u32,
    pub following_block_first_pause: Duration,
    pub exclusion: Duration,
    pub replacement: ReplacementPolicy,
    pub replacement_best_effort: bool,
    /// For which a datanode that announced its restart is waited for.
    pub restart_timeout: Duration,
}

/// How replicas of this host are read from their files.
#[derive(Clone, Debug)]
pub(crate) struct ShortCircuitSettings {
    /// `dfs.domain.socket.path`, as it is configured.
    pub socket_path: String,
    pub skip_checksum: bool,
    pub replicas_max: usize,
    pub expiry: Duration,
    /// How long a socket that failed is not tried again.
    pub disable_interval: Duration,
}

/// How long datanodes may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipelineTimeouts {
    /// Without a byte, on one connection.
    pub socket: Duration,
    /// More for each datanode that a reply passes: whoever is next to a silent one notices first.
    pub per_datanode: Duration,
}

impl PipelineTimeouts {
    /// How long a reply that passes `datanodes` may take.
    pub fn of_reply(&self, datanodes: usize) -> Duration {
        self.socket + self.per_datanode * datanodes as u32
    }
}

/// When a datanode that failed in a pipeline is replaced instead of going on with fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplacementPolicy {
    Never,
    /// At three replicas or more: when half of them are lost, or readers were promised the bytes.
    Default,
    Always,
}

impl ReplacementPolicy {
    /// `promised`: the file was flushed or is appended to, so acked bytes must stay replicated.
    pub fn replaces(self, replication: usize, remaining: usize, promised: bool) -> bool {
        if remaining == 0 || remaining >= replication {
            return false;
        }
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Default => replication >= 3 && (remaining <= replication / 2 || promised),
        }
    }
}

impl ClientSettings {
    pub fn pipeline_timeouts(&self) -> PipelineTimeouts {
        PipelineTimeouts { socket: self.socket_timeout, per_datanode: self.timeout_per_datanode }
    }

    pub fn from_configuration(config: &Configuration) -> Result<Self, ConfigError> {
        let set = |setting: &Setting| config.get(setting.name).is_some();
        Ok(Self {
            replication: match set(&DFS_REPLICATION) {
                true => Some(integer(config, &DFS_REPLICATION, 1)?),
                false => None,
            },
            block_size: match set(&DFS_BLOCK_SIZE) {
                true => Some(config.bytes(&DFS_BLOCK_SIZE)?),
                false => None,
            },
            checksum_type: match set(&DFS_CHECKSUM_TYPE) {
                true => Some(checksum_type(config)?),
                false => None,
            },
            bytes_per_checksum: match set(&DFS_BYTES_PER_CHECKSUM) {
                true => Some(integer(config, &DFS_BYTES_PER_CHECKSUM, 1)?),
                false => None,
            },
            packet_size: match set(&DFS_CLIENT_WRITE_PACKET_SIZE) {
                true => Some(config.bytes(&DFS_CLIENT_WRITE_PACKET_SIZE)?),
                false => None,
            },
            umask: umask(config)?,
            home_prefix: config.text(&DFS_USER_HOME_DIR_PREFIX),
            rpc: RpcClientOptions::from_configuration(config)?,
            connect_retries: integer(config, &IPC_CLIENT_CONNECT_MAX_RETRIES, 0)?,
            connect_retry_interval: config.duration(&IPC_CLIENT_CONNECT_RETRY_INTERVAL)?,
            socket_timeout: config.duration(&DFS_CLIENT_SOCKET_TIMEOUT)?,
            timeout_per_datanode: config.duration(&RINGFS_PIPELINE_TIMEOUT_PER_DATANODE)?,
            use_datanode_hostname: config.boolean(&DFS_CLIENT_USE_DATANODE_HOSTNAME)?,
            verify_checksums: config.boolean(&RINGFS_CLIENT_READ_VERIFY_CHECKSUM)?,
            short_circuit: short_circuit(config)?,
            acquire_failures_max: integer(config, &DFS_CLIENT_MAX_BLOCK_ACQUIRE_FAILURES, 0)?,
            retry_window: config.duration(&DFS_CLIENT_RETRY_WINDOW_BASE)?,
            packets_in_flight_max: integer(config, &DFS_CLIENT_WRITE_MAX_PACKETS_IN_FLIGHT, 1)?,
            block_write_retries: integer(config, &DFS_CLIENT_BLOCK_WRITE_RETRIES, 0)?,
            following_block_retries: integer(
                config,
                &DFS_CLIENT_BLOCK_WRITE_LOCATE_FOLLOWING_BLOCK_RETRIES,
                0,
            )?,
            following_block_first_pause: config
                .duration(&DFS_CLIENT_BLOCK_WRITE_LOCATE_FOLLOWING_BLOCK_INITIAL_DELAY_MS)?,
            exclusion: config
                .duration(&DFS_CLIENT_WRITE_EXCLUDE_NODES_CACHE_EXPIRY_INTERVAL_MILLIS)?,
            replacement: replacement(config)?,
            replacement_best_effort: config
                .boolean(&DFS_CLIENT_BLOCK_WRITE_REPLACE_DATANODE_ON_FAILURE_BEST_EFFORT)?,
            restart_timeout: config.duration(&DFS_CLIENT_DATANODE_RESTART_TIMEOUT)?,
        })
    }
}

fn short_circuit(config: &Configuration) -> Result<Option<ShortCircuitSettings>, ConfigError> {
    let socket_path = config.text(&DFS_DOMAIN_SOCKET_PATH);
    if !config.boolean(&DFS_CLIENT_READ_SHORTCIRCUIT)? || socket_path.is_empty() {
        return Ok(None);
    }
    Ok(Some(ShortCircuitSettings {
        socket_path,
        skip_checksum: config.boolean(&DFS_CLIENT_READ_SHORTCIRCUIT_SKIP_CHECKSUM)?,
        replicas_max: integer(config, &DFS_CLIENT_READ_SHORTCIRCUIT_STREAMS_CACHE_SIZE, 0)?,
        expiry: config.duration(&DFS_CLIENT_READ_SHORTCIRCUIT_STREAMS_CACHE_EXPIRY_MS)?,
        disable_interval: config.duration(&DFS_DOMAIN_SOCKET_DISABLE_INTERVAL_SECONDS)?,
    }))
}

fn checksum_type(config: &Configuration) -> Result<ChecksumType, ConfigError> {
    let name = config.text(&DFS_CHECKSUM_TYPE);
    [ChecksumType::Null, ChecksumType::Crc32, ChecksumType::Crc32c]
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| config.refuse(&DFS_CHECKSUM_TYPE, &name, "not CRC32C, CRC32 or NULL"))
}

fn integer<T: TryFrom<i64>>(
    config: &Configuration,
    setting: &Setting,
    least: i64,
) -> Result<T, ConfigError> {
    let number = config.integer(setting)?;
    let fits = T::try_from(number).ok().filter(|_| number >= least);
    fits.ok_or_else(|| {
        config.refuse(setting, &number.to_string(), format!("below {least} or too large"))
    })
}

fn replacement(config: &Configuration) -> Result<ReplacementPolicy, ConfigError> {
    if !config.boolean(&DFS_CLIENT_BLOCK_WRITE_REPLACE_DATANODE_ON_FAILURE_ENABLE)? {
        return Ok(ReplacementPolicy::Never);
    }
    let setting = &DFS_CLIENT_BLOCK_WRITE_REPLACE_DATANODE_ON_FAILURE_POLICY;
    let text = config.text(setting);
    match text.to_ascii_uppercase().as_str() {
        "NEVER" => Ok(ReplacementPolicy::Never),
        "DEFAULT" => Ok(ReplacementPolicy::Default),
        "ALWAYS" => Ok(ReplacementPolicy::Always),
        _ => Err(config.refuse(setting, &text, "not ALWAYS, NEVER or DEFAULT")),
    }
}

fn umask(config: &Configuration) -> Result<u16, ConfigError> {
    let text = config.text(&FS_PERMISSIONS_UMASK_MODE);
    let mask = match text.as_bytes().first() {
        Some(b'0'..=b'7') => u16::from_str_radix(&text, 8).ok().filter(|mask| *mask <= 0o777),
        _ => symbolic_umask(&text),
    };
    mask.ok_or_else(|| {
        let why = "neither octal such as 022 nor symbolic such as u=rwx,g=rx,o=rx";
        config.refuse(&FS_PERMISSIONS_UMASK_MODE, &text, why)
    })
}

/// `u=rwx,g=rx,o=`: what is granted; classes that are not named grant everything.
fn symbolic_umask(text: &str) -> Option<u16> {
    let mut granted = 0o777;
    for clause in text.split(',') {
        let (who, bits) = clause.trim().split_once('=')?;
        let mut class = 0;
        for letter in who.chars() {
            class |= match letter {
                'u' => 0o700,
                'g' => 0o070,
                'o' => 0o007,
                'a' => 0o777,
                _ => return None,
            };
        }
        let mut mode = 0;
        for letter in bits.chars() {
            mode |= match letter {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                _ => return None,
            };
        }
        let class = if who.is_empty() { 0o777 } else { class };
        granted = granted & !class | class & mode;
    }
    Some(!granted & 0o777)
}

/// Where the namenode listens: from `hdfs://host[:port]`, by default `fs.defaultFS`.
pub(crate) fn namenode_address(
    config: &Configuration,
    uri: Option<&str>,
) -> Result<String, ClientError> {
    const DEFAULT_PORT: u16 = 8020;
    let uri = uri.map_or_else(|| config.text(&FS_DEFAULT_FS), str::to_owned);
    let refuse = |why: &str| ClientError::Invalid { what: uri.clone(), why: why.to_owned() };
    let rest = uri.strip_prefix("hdfs://").ok_or_else(|| refuse("not an hdfs://host:port URI"))?;
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.is_empty() {
        return Err(refuse("no host in the URI"));
    }
    let port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().ok(),
        _ => return Ok(format!("{authority}:{DEFAULT_PORT}")),
    };
    port.filter(|port| *port > 0)
        .map(|_| authority.to_owned())
        .ok_or_else(|| refuse("the port is not a number from 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Configuration {
        let mut config = Configuration::default();
        for (name, value) in pairs {
            config.set(name, value);
        }
        config
    }

    #[test]
    fn defaults_and_silence() {
        let settings = ClientSettings::from_configuration(&config(&[])).unwrap();
        assert_eq!((settings.replication, settings.block_size), (None, None));
        assert_eq!(settings.umask, 0o022);
        assert_eq!(settings.packets_in_flight_max, 160);
        assert_eq!(settings.replacement, ReplacementPolicy::Default);
        let set = config(&[("dfs.replication", "2"), ("dfs.blocksize", "64m")]);
        let settings = ClientSettings::from_configuration(&set).unwrap();
        assert_eq!((settings.replication, settings.block_size), (Some(2), Some(64 << 20)));
    }

    #[test]
    fn umask_octal_and_symbolic() {
        let mask = |text| umask(&config(&[("fs.permissions.umask-mode", text)])).ok();
        assert_eq!(mask("022"), Some(0o022));
        assert_eq!(mask("077"), Some(0o077));
        assert_eq!(mask("u=rwx,g=rx,o=rx"), Some(0o022));
        assert_eq!(mask("u=rwx,go="), Some(0o077));
        assert_eq!(mask("1777"), None);
        assert_eq!(mask("u+x"), None);
    }

    #[test]
    fn addresses() {
        let of = |uri| namenode_address(&config(&[("fs.defaultFS", "hdfs://nn:9000")]), uri).ok();
        assert_eq!(of(None).as_deref(), Some("nn:9000"));
        assert_eq!(of(Some("hdfs://h")).as_deref(), Some("h:8020"));
        assert_eq!(of(Some("hdfs://h:1/dir")).as_deref(), Some("h:1"));
        assert_eq!(of(Some("hdfs://[::1]:9")).as_deref(), Some("[::1]:9"));
        assert_eq!(of(Some("hdfs://[::1]")).as_deref(), Some("[::1]:8020"));
        assert_eq!(of(Some("hdfs:///x")), None);
        assert_eq!(of(Some("hdfs://h:0")), None);
        assert_eq!(of(Some("file:///x")), None);
    }

    #[test]
    fn replacement_policy() {
        use ReplacementPolicy::{Always, Default, Never};
        assert!(!Default.replaces(3, 2, false));
        assert!(Default.replaces(3, 2, true));
        assert!(Default.replaces(3, 1, false));
        assert!(!Default.replaces(2, 1, true));
        assert!(!Default.replaces(3, 3, true));
        assert!(!Default.replaces(3, 0, true));
        assert!(Always.replaces(2, 1, false));
        assert!(!Never.replaces(3, 1, true));
    }
}

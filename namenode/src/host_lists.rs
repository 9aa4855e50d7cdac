//! Which datanodes the operator lets in, and which shall leave: the files of `dfs.hosts` and
//! `dfs.hosts.exclude`, read at start and at each `refreshNodes`.
//!
//! | files | in service | to be decommissioned | to go into maintenance | refused |
//! |---|---|---|---|---|
//! | two lists of `host` or `host:port` | included, or no include list | excluded too | never | neither |
//! | one JSON list (CombinedHostFileManager) | `NORMAL` | `DECOMMISSIONED` | `IN_MAINTENANCE` | not listed, in a list that is not empty |
//!
//! A host is an IP address, a name that resolves to one, or the name that the datanode gives itself.
//! A file that cannot be read refuses the start, or the refresh, which then changes nothing.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use ringfs_protocol::settings as s;
use ringfs_protocol::site_config::{ConfigError, Configuration};
use serde::Deserialize;

use crate::datanodes::Registration;
use crate::error::{NamenodeError, Result};

/// Where the lists are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFiles {
    include: Option<PathBuf>,
    exclude: Option<PathBuf>,
    is_combined: bool,
}

/// What the operator wants of a datanode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    InService,
    Decommissioned,
    /// Until this time of day, milliseconds since the epoch.
    InMaintenance {
        until_time_ms: u64,
    },
}

#[derive(Clone, Debug, Default)]
pub struct HostLists {
    /// Empty: every datanode is welcome.
    included: Vec<Entry>,
    leaving: Vec<(Entry, Wanted)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    host: String,
    addresses: Vec<IpAddr>,
    port: Option<u32>,
}

impl HostFiles {
    pub fn read(configuration: &Configuration) -> std::result::Result<Self, ConfigError> {
        let path = |setting| {
            Some(configuration.text(setting)).filter(|path| !path.is_empty()).map(PathBuf::from)
        };
        let setting = &s::DFS_NAMENODE_HOSTS_PROVIDER_CLASSNAME;
        let provider = configuration.text(setting);
        let is_combined = match provider.rsplit('.').next() {
            Some("CombinedHostFileManager") => true,
            Some("HostFileManager") => false,
            _ => {
                let why = "must be HostFileManager or CombinedHostFileManager of \
                           org.apache.hadoop.hdfs.server.blockmanagement";
                return Err(configuration.refuse(setting, &provider, why));
            }
        };
        Ok(Self { include: path(&s::DFS_HOSTS), exclude: path(&s::DFS_HOSTS_EXCLUDE), is_combined })
    }
}

impl HostLists {
    /// Reads the files and resolves the names in them: blocks.
    pub fn load(files: &HostFiles) -> Result<Self> {
        let text = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        let (include, exclude) = (text(&files.include)?, text(&files.exclude)?);
        match (&files.include, files.is_combined) {
            (Some(path), true) => Self::from_json(path, &include.unwrap_or_default()),
            (None, true) => Ok(Self::default()),
            (_, false) => {
                let excluded = entries(&exclude.unwrap_or_default()).into_iter();
                let leaving = excluded.map(|entry| (entry, Wanted::Decommissioned)).collect();
                Ok(Self { included: entries(&include.unwrap_or_default()), leaving })
            }
        }
    }

    /// What shall become of the datanode; `None`: it is not let in.
    pub fn wanted(&self, datanode: &Registration) -> Option<Wanted> {
        let is_included =
            self.included.is_empty() || self.included.iter().any(|e| e.names(datanode));
        let leaving = self.leaving.iter().find(|(entry, _)| entry.names(datanode));
        is_included.then(|| leaving.map_or(Wanted::InService, |(_, wanted)| *wanted))
    }

    pub(crate) fn from_json(path: &Path, text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Host {
            host_name: String,
            port: Option<u32>,
            #[serde(default)]
            admin_state: AdminState,
            #[serde(rename = "maintenanceExpireTimeInMS")]
            maintenance_expire_time_ms: Option<u64>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        enum AdminState {
            #[default]
            Normal,
            Decommissioned,
            InMaintenance,
        }
        let bad = |error: serde_json::Error| {
            NamenodeError::Io(format!("{} is no list of hosts: {error}", path.display()))
        };
        let text = text.trim();
        // Hadoop's first format had one object after another.
        let hosts: Vec<Host> = if text.starts_with('[') {
            serde_json::from_str(text).map_err(bad)?
        } else {
            let objects = serde_json::Deserializer::from_str(text).into_iter();
            objects.collect::<std::result::Result<_, _>>().map_err(bad)?
        };
        let mut lists = Self::default();
        for host in hosts {
            let entry = Entry::new(&host.host_name, host.port.filter(|port| *port != 0));
            let wanted = match host.admin_state {
                AdminState::Normal => None,
                AdminState::Decommissioned => Some(Wanted::Decommissioned),
                AdminState::InMaintenance => Some(Wanted::InMaintenance {
                    until_time_ms: host.maintenance_expire_time_ms.unwrap_or(u64::MAX),
                }),
            };
            lists.leaving.extend(wanted.map(|wanted| (entry.clone(), wanted)));
            lists.included.push(entry);
        }
        Ok(lists)
    }
}

impl Entry {
    fn new(host: &str, port: Option<u32>) -> Self {
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            // A name that does not resolve may still be the one a datanode gives itself.
            Err(_) => (host, 0).to_socket_addrs().into_iter().flatten().map(|a| a.ip()).collect(),
        };
        Self { host: host.to_owned(), addresses, port }
    }

    fn names(&self, datanode: &Registration) -> bool {
        let is_host = self.host.eq_ignore_ascii_case(&datanode.host_name)
            || self.addresses.contains(&datanode.ip);
        is_host && self.port.is_none_or(|port| port == datanode.transfer_port)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| NamenodeError::Io(format!("cannot read {}: {error}", path.display())))
}

/// Words of the file, up to a `#` in each line.
fn entries(text: &str) -> Vec<Entry> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let words = lines.flat_map(str::split_whitespace);
    let entry = |word: &str| match word.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) if !host.contains(':') => Entry::new(host, Some(port)),
        _ => Entry::new(word, None),
    };
    words.map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datanode(ip: &str, host_name: &str, transfer_port: u32) -> Registration {
        Registration {
            uuid: String::new(),
            ip: ip.parse().unwrap(),
            host_name: host_name.to_owned(),
            transfer_port,
            info_port: 0,
            ipc_port: 0,
            info_secure_port: None,
            software_version: String::new(),
            rack: crate::topology::DEFAULT_RACK.into(),
        }
    }

    fn lists(include: Option<&str>, exclude: Option<&str>, is_combined: bool) -> Result<HostLists> {
        let directory = tempfile::tempdir().unwrap();
        let write = |name, text: Option<&str>| {
            text.map(|text| {
                let path = directory.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            })
        };
        let (include, exclude) = (write("include", include), write("exclude", exclude));
        HostLists::load(&HostFiles { include, exclude, is_combined })
    }

    #[test]
    fn an_include_list_lets_in_and_an_exclude_list_sends_away() {
        let include = "10.0.0.1 # first\n10.0.0.2:9866\nHost-3\n\n10.0.0.4";
        let lists = lists(Some(include), Some("10.0.0.4:9866\n10.0.0.9"), false).unwrap();
        let service = Some(Wanted::InService);
        for (ip, host, port, wanted) in [
            ("10.0.0.1", "x", 1, service),
            ("10.0.0.2", "x", 9866, service),
            ("10.0.0.2", "x", 9867, None),
            ("10.0.0.3", "host-3", 1, service),
            ("10.0.0.4", "x", 9866, Some(Wanted::Decommissioned)),
            ("10.0.0.4", "x", 9867, service),
            ("10.0.0.9", "x", 9866, None),
        ] {
            assert_eq!(lists.wanted(&datanode(ip, host, port)), wanted, "{ip}:{port}");
        }
        let open = self::lists(None, None, false).unwrap();
        assert_eq!(open.wanted(&datanode("10.0.0.9", "x", 1)), service);
        let empty = self::lists(Some(" \n# nobody yet\n"), None, false).unwrap();
        assert_eq!(empty.wanted(&datanode("10.0.0.9", "x", 1)), service, "as in HDFS");
    }

    #[test]
    fn a_combined_list_names_each_datanodes_state() {
        let array = r#"[{"hostName": "10.0.0.1"}, {"hostName": "10.0.0.2", "port": 7,
            "adminState": "DECOMMISSIONED"}, {"hostName": "10.0.0.3", "adminState": "IN_MAINTENANCE",
            "maintenanceExpireTimeInMS": 99, "upgradeDomain": "a"}]"#;
        let lines = array.trim_matches(['[', ']']).replace("}, {", "}\n{");
        for text in [array, &lines] {
            let lists = lists(Some(text), None, true).unwrap();
            let wanted = |ip, port| lists.wanted(&datanode(ip, "x", port));
            assert_eq!(wanted("10.0.0.1", 1), Some(Wanted::InService));
            assert_eq!(wanted("10.0.0.2", 7), Some(Wanted::Decommissioned));
            assert_eq!(wanted("10.0.0.2", 8), None);
            assert_eq!(wanted("10.0.0.3", 1), Some(Wanted::InMaintenance { until_time_ms: 99 }));
            assert_eq!(wanted("10.0.0.4", 1), None);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = lists(Some("[{\"host\": 1}]"), None, true).unwrap_err().to_string();
        assert!(error.contains("include") && error.contains("hostName"), "{error}");
        let files = HostFiles { include: Some("/no/such/file".into()), ..HostFiles::default() };
        let error = HostLists::load(&files).unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }
}

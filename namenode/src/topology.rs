//! Which rack a datanode stands in: what a table file or a script of the operator says of its
//! address, as Hadoop's TableMapping and ScriptBasedMapping do; `/default-rack` otherwise.
//!
//! Asked at each registration, which is rare, so nothing is remembered and a changed table holds from
//! the next one on. A datanode whose rack cannot be told is served all the same, on the default
//! rack, with a warning: a broken script must not take a cluster down.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use ringfs_protocol::settings as s;
use ringfs_protocol::site_config::{ConfigError, Configuration};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::limits::{RACK_NAME_MAX_BYTES, RACK_SCRIPT_TIMEOUT, RACK_SCRIPTS_MAX};

pub const DEFAULT_RACK: &str = "/default-rack";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RackSource {
    #[default]
    OneRack,
    /// Lines of `address rack`; an address is an IP address or a host name.
    Table(PathBuf),
    /// Run with the IP address as its argument; prints the rack.
    Script(PathBuf),
}

#[derive(Debug)]
pub struct Topology {
    source: RackSource,
    scripts: Semaphore,
}

impl RackSource {
    /// The script has precedence, unless `net.topology.node.switch.mapping.impl` asks for the table.
    pub fn read(configuration: &Configuration) -> Result<Self, ConfigError> {
        let path = |setting| Some(configuration.text(setting)).filter(|path| !path.is_empty());
        let script = path(&s::NET_TOPOLOGY_SCRIPT_FILE_NAME).map(|path| Self::Script(path.into()));
        let table = path(&s::NET_TOPOLOGY_TABLE_FILE_NAME).map(|path| Self::Table(path.into()));
        let mapping = configuration.text(&s::NET_TOPOLOGY_NODE_SWITCH_MAPPING_IMPL);
        let (first, second) = match mapping.rsplit('.').next() {
            Some("TableMapping") => (table, None),
            Some("ScriptBasedMapping") | None => (script, table),
            Some(_) => {
                let why = "must be ScriptBasedMapping or TableMapping of org.apache.hadoop.net";
                let setting = &s::NET_TOPOLOGY_NODE_SWITCH_MAPPING_IMPL;
                return Err(configuration.refuse(setting, &mapping, why));
            }
        };
        Ok(first.or(second).unwrap_or_default())
    }
}

impl Topology {
    pub fn new(source: RackSource) -> Self {
        Self { source, scripts: Semaphore::new(RACK_SCRIPTS_MAX) }
    }

    /// The rack of the datanode at `ip` that calls itself `host_name`.
    pub async fn rack(&self, ip: IpAddr, host_name: &str) -> Arc<str> {
        let found = match &self.source {
            RackSource::OneRack => return DEFAULT_RACK.into(),
            RackSource::Table(path) => look_up(path, ip, host_name).await,
            RackSource::Script(path) => self.ask_script(path, ip).await,
        };
        match found.and_then(|rack| normalized(&rack)) {
            Ok(rack) => rack,
            Err(why) => {
                tracing::warn!(%ip, host_name, why, "no rack is known for a datanode: {DEFAULT_RACK}");
                DEFAULT_RACK.into()
            }
        }
    }

    async fn ask_script(&self, path: &Path, ip: IpAddr) -> Result<String, String> {
        let _permit = self.scripts.acquire().await.map_err(|error| error.to_string())?;
        let run = async {
            let mut child = Command::new(path)
                .arg(ip.to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()?;
            let mut printed = Vec::new();
            if let Some(stdout) = child.stdout.take() {
                stdout.take(RACK_NAME_MAX_BYTES).read_to_end(&mut printed).await?;
            }
            Ok::<_, std::io::Error>((child.wait().await?, printed))
        };
        let script = path.display();
        match tokio::time::timeout(RACK_SCRIPT_TIMEOUT, run).await {
            Err(_) => Err(format!("{script} took more than {} s", RACK_SCRIPT_TIMEOUT.as_secs())),
            Ok(Err(error)) => Err(format!("cannot run {script}: {error}")),
            Ok(Ok((status, _))) if !status.success() => Err(format!("{script}: {status}")),
            Ok(Ok((_, printed))) => {
                let printed = String::from_utf8_lossy(&printed);
                let rack = printed.split_whitespace().next();
                rack.map(str::to_owned).ok_or_else(|| format!("{script} printed nothing"))
            }
        }
    }
}

async fn look_up(path: &Path, ip: IpAddr, host_name: &str) -> Result<String, String> {
    let table = tokio::fs::read_to_string(path);
    let table = table.await.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let ip = ip.to_string();
    let rack_of = |address: &str| {
        let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut lines = columns.filter(|line| line.len() == 2 && !line[0].starts_with('#'));
        lines.find(|line| line[0] == address).map(|line| line[1].to_owned())
    };
    rack_of(&ip)
        .or_else(|| rack_of(host_name))
        .ok_or_else(|| format!("{} has no line for it", path.display()))
}

/// `/rack`, `/room/rack`: one slash before each part, none at the end.
fn normalized(rack: &str) -> Result<Arc<str>, String> {
    let parts: Vec<&str> = rack.split('/').filter(|part| !part.is_empty()).collect();
    if !rack.starts_with('/') || parts.is_empty() || rack.len() as u64 >= RACK_NAME_MAX_BYTES {
        return Err(format!("{rack:?} is no rack, which looks like /rack or /room/rack"));
    }
    Ok(format!("/{}", parts.join("/")).into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_table_names_racks_by_address_then_by_host() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let lines = "# racks\n10.0.0.1 /a\nhost-2\t/room//b/\n10.0.0.3 nonsense\n10.0.0.4\n";
        std::fs::write(&path, lines).unwrap();
        let topology = Topology::new(RackSource::Table(path));
        for (address, host, rack) in [
            ("10.0.0.1", "host-2", "/a"),
            ("10.0.0.2", "host-2", "/room/b"),
            ("10.0.0.3", "host-3", DEFAULT_RACK),
            ("10.0.0.4", "host-4", DEFAULT_RACK),
        ] {
            assert_eq!(&*topology.rack(ip(address), host).await, rack, "{address}");
        }
    }

    #[tokio::test]
    async fn a_script_is_asked_and_its_failures_are_survived() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rack.sh");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).mode(0o755).open(&path).unwrap();
        file.write_all(b"#!/bin/sh\ncase $1 in *.1) echo /one;; *.2) exit 3;; *.3) ;; esac\n")
            .unwrap();
        drop(file);
        let topology = Topology::new(RackSource::Script(path));
        assert_eq!(&*topology.rack(ip("10.0.0.1"), "h").await, "/one");
        for failing in ["10.0.0.2", "10.0.0.3"] {
            assert_eq!(&*topology.rack(ip(failing), "h").await, DEFAULT_RACK);
        }
        let gone = Topology::new(RackSource::Script(directory.path().join("none")));
        assert_eq!(&*gone.rack(ip("10.0.0.1"), "h").await, DEFAULT_RACK);
    }

    #[test]
    fn the_settings_choose_the_source() {
        let source = |values: &[(&str, &str)]| {
            let mut configuration = Configuration::default();
            for (name, value) in values {
                configuration.set(name, value);
            }
            RackSource::read(&configuration).ok()
        };
        let (table, script) = ("net.topology.table.file.name", "net.topology.script.file.name");
        let mapping = "net.topology.node.switch.mapping.impl";
        assert_eq!(source(&[]), Some(RackSource::OneRack));
        assert_eq!(source(&[(table, "/t")]), Some(RackSource::Table("/t".into())));
        assert_eq!(source(&[(table, "/t"), (script, "/s")]), Some(RackSource::Script("/s".into())));
        let asked =
            [(mapping, "org.apache.hadoop.net.TableMapping"), (table, "/t"), (script, "/s")];
        assert_eq!(source(&asked), Some(RackSource::Table("/t".into())));
        assert_eq!(source(&[(mapping, "com.example.Racks")]), None);
    }
}

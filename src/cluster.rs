//! A cluster on this machine: a namenode and datanodes as child processes of the `ringfs` binary,
//! everything they keep below one directory.
//!
//! ```text
//! DIR/conf/core-site.xml  hdfs-site.xml    what a client of the cluster reads
//! DIR/logs/NAME.log                        what each process said
//! DIR/name  DIR/data0  DIR/data1 …         metadata and blocks
//! ```
//!
//! A directory that holds a namespace already is served again, not formatted. No child outlives this
//! process, however it ends: each asks the kernel to be killed with its parent ([`die_with_parent`]),
//! and [`Cluster`] kills on drop what was not stopped. Calls block; none may run on an async thread.

mod child;
mod ports;
mod site;
mod status;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use child::Server;
pub use child::die_with_parent;
use ports::{DatanodePorts, free_port};

/// Time for a server to end after SIGTERM: it closes its files within a fraction of that.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum ClusterError {
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot start {name} ({binary}): {source}")]
    Spawn { name: String, binary: PathBuf, source: std::io::Error },
    #[error("{name} ended with {status}; the last lines of {log}:\n{tail}")]
    Died { name: String, status: String, log: PathBuf, tail: String },
    #[error("the cluster does not serve after {waited_s} s: {state}; see {logs}")]
    NotServing { waited_s: u64, state: String, logs: PathBuf },
    #[error("{name} did not end within {waited_s} s of SIGTERM and was killed; see {log}")]
    NotStopping { name: String, waited_s: u64, log: PathBuf },
    #[error("no free TCP port on 127.0.0.1 from {first} to {last}")]
    NoPort { first: u16, last: u16 },
}

impl ClusterError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// Where a server runs: this machine, or a part of it that has a network of its own.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: IpAddr,
    /// The command that runs another one there; nothing for this machine as it is.
    pub enter: Vec<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), enter: Vec::new() }
    }
}

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The `ringfs` executable.
    pub binary: PathBuf,
    pub directory: PathBuf,
    pub datanodes: usize,
    /// RPC port of the namenode; `None`: the directory's last one while it is free, else any.
    pub namenode_port: Option<u16>,
    /// Settings of every process and of the clients, over the cluster's own.
    pub settings: Vec<(String, String)>,
    /// Time for all of it to serve.
    pub start_timeout: Duration,
    /// The directories of the first datanodes, where they are not to be `DIR/dataN`.
    pub data_dirs: Vec<Vec<PathBuf>>,
    /// Datanodes that throw the data of blocks away, to measure without a disk.
    pub discard_block_data: bool,
    /// Who the servers run as, the superuser; `None`: whoever runs this process.
    pub user: Option<String>,
    pub namenode_host: Host,
    /// The hosts of the first datanodes, where they are not to be this machine.
    pub datanode_hosts: Vec<Host>,
}

impl ClusterOptions {
    pub fn new(binary: &Path, directory: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            datanodes: 3,
            namenode_port: None,
            settings: Vec::new(),
            start_timeout: Duration::from_secs(60),
            data_dirs: Vec::new(),
            discard_block_data: false,
            user: None,
            namenode_host: Host::default(),
            datanode_hosts: Vec::new(),
        }
    }
}

#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    namenode_port: u16,
    namenode: Option<Server>,
    datanodes: Vec<Datanode>,
}

#[derive(Debug)]
struct Datanode {
    ports: DatanodePorts,
    server: Option<Server>,
}

impl Cluster {
    /// Formats the directory unless it was before, starts all processes and returns once a client
    /// can read and write: safe mode is off and every datanode has registered and reported.
    pub fn start(mut options: ClusterOptions) -> Result<Self, ClusterError> {
        let directory = &mut options.directory;
        for sub in ["conf", "logs"] {
            let path = directory.join(sub);
            std::fs::create_dir_all(&path).map_err(ClusterError::file("create", &path))?;
        }
        *directory = directory.canonicalize().map_err(ClusterError::file("resolve", directory))?;
        let namenode_port = match options.namenode_port.or_else(|| site::last_port(directory)) {
            Some(port) if options.namenode_port.is_some() || ports::is_free(port) => port,
            _ => free_port()?,
        };
        let datanodes = (0..options.datanodes)
            .map(|_| Ok(Datanode { ports: DatanodePorts::choose()?, server: None }))
            .collect::<Result<_, ClusterError>>()?;
        let mut cluster = Self { options, namenode_port, namenode: None, datanodes };
        site::write(&cluster.conf_dir(), &cluster.site_settings())?;
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Starts whatever does not run, and waits until the cluster serves.
    pub fn start_all(&mut self) -> Result<(), ClusterError> {
        self.start_namenode()?;
        for index in 0..self.datanodes.len() {
            self.start_datanode(index)?;
        }
        self.wait_until_serving(self.datanodes.len())
    }

    pub fn start_namenode(&mut self) -> Result<(), ClusterError> {
        if self.namenode.is_some() {
            return Ok(());
        }
        if !self.name_dir().exists() {
            let arguments = ["namenode", "-format", "-nonInteractive"].map(str::to_owned);
            Server::spawn(
                "format",
                &self.options,
                &self.options.namenode_host,
                &[&arguments[..], &self.namenode_arguments()].concat(),
            )?
            .wait_for_success()?;
        }
        let arguments = ["namenode".to_owned()].into_iter().chain(self.namenode_arguments());
        let arguments: Vec<String> = arguments.collect();
        self.namenode = Some(Server::spawn(
            "namenode",
            &self.options,
            &self.options.namenode_host,
            &arguments,
        )?);
        Ok(())
    }

    /// Starts the datanode, again if it was stopped or killed, on its directory and ports of before.
    pub fn start_datanode(&mut self, index: usize) -> Result<(), ClusterError> {
        if self.datanodes[index].server.is_some() {
            return Ok(());
        }
        let arguments = self.datanode_arguments(index);
        let host = self.datanode_host(index);
        let name = format!("datanode{index}");
        let server = Server::spawn(&name, &self.options, &host, &arguments)?;
        self.datanodes[index].server = Some(server);
        Ok(())
    }

    /// Starts one datanode more and returns its index.
    pub fn add_datanode(&mut self) -> Result<usize, ClusterError> {
        self.datanodes.push(Datanode { ports: DatanodePorts::choose()?, server: None });
        let index = self.datanodes.len() - 1;
        self.start_datanode(index)?;
        Ok(index)
    }

    pub fn kill_namenode(&mut self) {
        self.namenode = None;
    }

    /// SIGKILL, as a power failure of one node would look to the others.
    pub fn kill_datanode(&mut self, index: usize) {
        self.datanodes[index].server = None;
    }

    /// SIGKILL to every datanode before any is waited for.
    pub fn kill_all_datanodes(&mut self) {
        for server in self.datanodes.iter_mut().filter_map(|datanode| datanode.server.as_mut()) {
            server.kill();
        }
        for datanode in &mut self.datanodes {
            datanode.server = None;
        }
    }

    pub fn stop_namenode(&mut self) -> Result<(), ClusterError> {
        self.namenode.take().map_or(Ok(()), |server| server.stop(STOP_TIMEOUT))
    }

    pub fn stop_datanode(&mut self, index: usize) -> Result<(), ClusterError> {
        self.datanodes[index].server.take().map_or(Ok(()), |server| server.stop(STOP_TIMEOUT))
    }

    /// SIGTERM to the datanodes, together, then to the namenode. All are gone afterwards, those that
    /// did not end in time by SIGKILL; the first of these is the error.
    pub fn stop(&mut self) -> Result<(), ClusterError> {
        for server in self.datanodes.iter().filter_map(|datanode| datanode.server.as_ref()) {
            server.terminate();
        }
        let mut outcome = Ok(());
        for index in 0..self.datanodes.len() {
            outcome = outcome.and(self.stop_datanode(index));
        }
        outcome.and(self.stop_namenode())
    }

    /// The error that names a child which ended by itself, if one did.
    pub fn check_children(&mut self) -> Result<(), ClusterError> {
        let datanodes = self.datanodes.iter_mut().filter_map(|datanode| datanode.server.as_mut());
        self.namenode.iter_mut().chain(datanodes).try_for_each(Server::check)
    }

    /// Waits until safe mode is off and `datanodes` live ones have sent a full block report.
    pub fn wait_until_serving(&mut self, datanodes: usize) -> Result<(), ClusterError> {
        let timeout = self.options.start_timeout;
        let started = Instant::now();
        let mut probe = status::Probe::new(&self.namenode_address());
        loop {
            self.check_children()?;
            let state = match probe.ask() {
                Ok(status) if status.serves(datanodes) => return Ok(()),
                Ok(status) => status.to_string(),
                Err(error) => error,
            };
            if started.elapsed() > timeout {
                return Err(ClusterError::NotServing {
                    waited_s: timeout.as_secs(),
                    state,
                    logs: self.logs_dir(),
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `fs.defaultFS` of the cluster.
    pub fn uri(&self) -> String {
        format!("hdfs://{}", self.namenode_address())
    }

    pub fn namenode_address(&self) -> String {
        format!("{}:{}", self.options.namenode_host.address, self.namenode_port)
    }

    /// The address that serves a datanode's blocks.
    pub fn datanode_address(&self, index: usize) -> String {
        self.at_datanode(index, self.datanodes[index].ports.transfer)
    }

    /// The address of a datanode's RPC.
    pub fn datanode_ipc_address(&self, index: usize) -> String {
        self.at_datanode(index, self.datanodes[index].ports.ipc)
    }

    /// The address that serves a datanode's `/metrics`.
    pub fn datanode_http_address(&self, index: usize) -> String {
        self.at_datanode(index, self.datanodes[index].ports.http)
    }

    pub fn datanode_count(&self) -> usize {
        self.datanodes.len()
    }

    /// A directory that serves as `HADOOP_CONF_DIR`.
    pub fn conf_dir(&self) -> PathBuf {
        self.options.directory.join("conf")
    }

    pub fn logs_dir(&self) -> PathBuf {
        self.options.directory.join("logs")
    }

    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.options.directory.join(format!("data{index}"))
    }

    pub fn namenode_pid(&self) -> Option<u32> {
        self.namenode.as_ref().map(Server::pid)
    }

    pub fn datanode_pid(&self, index: usize) -> Option<u32> {
        self.datanodes[index].server.as_ref().map(Server::pid)
    }

    fn datanode_host(&self, index: usize) -> Host {
        self.options.datanode_hosts.get(index).cloned().unwrap_or_default()
    }

    fn at_datanode(&self, index: usize, port: u16) -> String {
        format!("{}:{port}", self.datanode_host(index).address)
    }

    fn name_dir(&self) -> PathBuf {
        self.options.directory.join("name")
    }

    fn site_settings(&self) -> Vec<(String, String)> {
        let own = [
            ("fs.defaultFS", self.uri()),
            ("dfs.replication", self.options.datanodes.clamp(1, 3).to_string()),
            ("dfs.namenode.safemode.extension", "0".to_owned()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        own.into_iter().chain(self.options.settings.iter().cloned()).collect()
    }

    fn namenode_arguments(&self) -> Vec<String> {
        self.definitions([
            ("dfs.namenode.rpc-address", self.namenode_address()),
            ("dfs.namenode.name.dir", format!("file://{}", self.name_dir().display())),
        ])
    }

    fn datanode_arguments(&self, index: usize) -> Vec<String> {
        let ports = self.datanodes[index].ports;
        let discards = self.options.discard_block_data;
        let scheme = if discards { "discard" } else { "file" };
        let own = [self.data_dir(index)];
        let dirs = self.options.data_dirs.get(index).map_or(&own[..], Vec::as_slice);
        let dirs: Vec<String> =
            dirs.iter().map(|dir| format!("{scheme}://{}", dir.display())).collect();
        let definitions = self.definitions([
            ("dfs.datanode.data.dir", dirs.join(",")),
            ("dfs.datanode.address", self.at_datanode(index, ports.transfer)),
            ("dfs.datanode.ipc.address", self.at_datanode(index, ports.ipc)),
            ("dfs.datanode.http.address", self.at_datanode(index, ports.http)),
            ("dfs.datanode.hostname", self.datanode_host(index).address.to_string()),
        ]);
        let flag = discards.then(|| "--bench-discard-block-data".to_owned());
        ["datanode".to_owned()].into_iter().chain(definitions).chain(flag).collect()
    }

    /// `-D` arguments; the cluster's caller has the last word.
    fn definitions<const N: usize>(&self, own: [(&str, String); N]) -> Vec<String> {
        let own = own.into_iter().map(|(name, value)| format!("{name}={value}"));
        let given = self.options.settings.iter().map(|(name, value)| format!("{name}={value}"));
        own.chain(given).flat_map(|definition| ["-D".to_owned(), definition]).collect()
    }
}

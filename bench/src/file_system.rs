//! The file system that a command measures: any `hdfs://` namenode, found as every HDFS command finds
//! it, and whose it is.

use std::net::{ToSocketAddrs, UdpSocket};
use std::path::PathBuf;

use clap::Args;
use ringfs_client::{Client, DatanodeReportTypeProto};
use ringfs_protocol::messages::{NamespaceInfoProto, VersionRequestProto, VersionResponseProto};
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::settings::{
    DFS_CLIENT_BLOCK_WRITE_LOCATE_FOLLOWING_BLOCK_INITIAL_DELAY_MS,
    DFS_CLIENT_WRITE_MAX_PACKETS_IN_FLIGHT,
};
use ringfs_protocol::site_config::Configuration;

use crate::BenchError;
use crate::processes::NamedProcess;
use crate::report::Side;

/// How our namenode's build version begins.
const OUR_BUILD: &str = "ringfs-";

#[derive(Clone, Debug, Default, Args)]
pub struct FileSystemOptions {
    /// The namenode [default: fs.defaultFS]
    #[arg(long, value_name = "hdfs://HOST:PORT")]
    pub fs: Option<String>,
    /// Directory of core-site.xml and hdfs-site.xml
    #[arg(long, alias = "conf", value_name = "DIR", env = "HADOOP_CONF_DIR")]
    pub config: Option<PathBuf>,
    /// Set a property of the client, over what the files say
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = definition)]
    pub definitions: Vec<(String, String)>,
}

/// A namenode, and what it takes to call it.
#[derive(Clone, Debug)]
pub struct FileSystem {
    pub client: Client,
    /// `host:port` of the namenode's RPC server.
    pub address: String,
    configuration: Configuration,
    rpc_options: RpcClientOptions,
}

impl FileSystemOptions {
    /// Packets that our client sends ahead of their acks.
    pub fn write_window_packets(&self) -> Result<u64, BenchError> {
        let window = self.configuration()?.integer(&DFS_CLIENT_WRITE_MAX_PACKETS_IN_FLIGHT)?;
        // Below 0 is refused where the window is used.
        Ok(window.try_into().unwrap_or(0))
    }

    fn configuration(&self) -> Result<Configuration, BenchError> {
        Ok(Configuration::load(self.config.as_deref(), &self.definitions)?)
    }

    /// Sends nothing yet.
    pub fn connect(&self) -> Result<FileSystem, BenchError> {
        let configuration = self.configuration()?;
        let client = Client::connect(&configuration, self.fs.as_deref())?;
        let address = client.uri().trim_start_matches("hdfs://").to_owned();
        let rpc_options = RpcClientOptions::from_configuration(&configuration)?;
        Ok(FileSystem { client, address, configuration, rpc_options })
    }
}

impl FileSystem {
    /// A client that makes files for a measurement, unmeasured. Where a file's last block is not
    /// reported yet when it is closed, it asks again at once and not after Hadoop's 400 ms: Apache's
    /// datanodes lose that race against our client more often than not.
    pub fn preparing_client(&self) -> Result<Client, BenchError> {
        let mut configuration = self.configuration.clone();
        let pause = &DFS_CLIENT_BLOCK_WRITE_LOCATE_FOLLOWING_BLOCK_INITIAL_DELAY_MS;
        configuration.set(pause.name, "5ms");
        Ok(Client::connect(&configuration, Some(self.client.uri()))?)
    }

    /// A connection of its own for calls of ClientProtocol.
    pub fn namenode(&self) -> RpcClient {
        self.rpc(protocol_name::CLIENT)
    }

    /// A connection of its own for calls of DatanodeProtocol.
    pub fn datanode_service(&self) -> RpcClient {
        self.rpc(protocol_name::DATANODE)
    }

    /// What the namenode tells datanodes of itself.
    pub async fn namespace(&self) -> Result<NamespaceInfoProto, BenchError> {
        let reply: VersionResponseProto =
            self.datanode_service().call("versionRequest", &VersionRequestProto {}).await?;
        Ok(reply.info)
    }

    pub async fn side(&self) -> Result<Side, BenchError> {
        let is_ours = self.namespace().await?.build_version.starts_with(OUR_BUILD);
        Ok(if is_ours { Side::Ours } else { Side::Peer })
    }

    /// This process as `client`, and those of the cluster's servers that run on this machine and that
    /// we may look into: `namenode`, `datanode0`, `datanode1`, … in the order of their addresses.
    pub async fn processes(&self) -> Result<Vec<NamedProcess>, BenchError> {
        let mut processes = vec![NamedProcess::this("client")];
        processes.extend(local_listener("namenode".to_owned(), &self.address));
        let live = self.client.datanode_report(DatanodeReportTypeProto::Live).await?;
        let mut addresses: Vec<String> = live
            .iter()
            .map(|datanode| format!("{}:{}", datanode.id.ip_addr, datanode.id.xfer_port))
            .collect();
        addresses.sort_unstable();
        let mut found = 0;
        for address in addresses {
            if let Some(datanode) = local_listener(format!("datanode{found}"), &address) {
                processes.push(datanode);
                found += 1;
            }
        }
        Ok(processes)
    }

    fn rpc(&self, protocol: &'static str) -> RpcClient {
        RpcClient::new(&self.address, protocol, self.client.user(), self.rpc_options.clone())
    }
}

/// `None` for an address of another machine: somebody here may listen on the same port of all of ours.
pub(crate) fn local_listener(name: String, address: &str) -> Option<NamedProcess> {
    let ip = address.to_socket_addrs().ok()?.next()?.ip();
    UdpSocket::bind((ip, 0)).ok()?;
    NamedProcess::listening(name, address).ok()
}

fn definition(argument: &str) -> Result<(String, String), String> {
    match argument.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_here_is_not_taken_for_one_elsewhere() {
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let found = |host: &str| local_listener("namenode".to_owned(), &format!("{host}:{port}"));
        assert_eq!(found("127.0.0.1"), Some(NamedProcess::this("namenode")));
        assert_eq!(found("192.0.2.1"), None);
    }
}

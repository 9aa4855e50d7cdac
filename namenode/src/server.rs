//! The namenode's process: one RPC port (and a second for datanodes alone, if one is set) that
//! serves ClientProtocol and DatanodeProtocol, the monitor of blocks, and the namespace's background
//! work, from start to stop.
//!
//! A namenode that lost one of its background tasks must not go on as if nothing had happened: it
//! stops with the reason. Stopping lets running calls answer; what was answered is durable anyway.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ringfs_protocol::peer_timeout::PeerTimeout;
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::rpc::server::{self, Call, CallError, RpcServerOptions, RpcService};
use ringfs_protocol::settings;
use ringfs_protocol::site_config::{Configuration, user_name};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::backup;
use crate::block_manager::BlockManager;
use crate::block_manager_config::BlockManagerConfig;
use crate::clock::{Clock, SystemClock};
use crate::config::NamespaceConfig;
use crate::error::{NamenodeError, Result};
use crate::format;
use crate::host_lists::HostLists;
use crate::limits::MONITOR_INTERVAL;
use crate::namesystem::Namesystem;

/// Port of an `hdfs://` URI that names none.
const DEFAULT_PORT: u16 = 8020;

/// Serves the namespace that `configuration` names until `shutdown` resolves. `serving` is told the
/// address of the RPC port, which is a free one when the configured port is 0.
pub async fn run(
    configuration: &Configuration,
    serving: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let started = Instant::now();
    let options = server_options(configuration)?;
    let (host, port) = rpc_address(configuration)?;
    let namesystem = open(configuration)?;
    let listener = listen(configuration, &host, port).await?;
    let address = local_address(&listener)?;
    let (stop, stopped) = watch::channel(());

    let service = Arc::new(NamenodeService { namesystem: namesystem.clone() });
    let mut tasks = JoinSet::new();
    let mut listeners = vec![listener];
    let datanode_address = configuration.text(&settings::DFS_NAMENODE_SERVICERPC_ADDRESS);
    if !datanode_address.is_empty() {
        let (host, port) = host_and_port(configuration, &datanode_address)?;
        listeners.push(listen(configuration, &host, port).await?);
    }
    for listener in listeners {
        let ended = wait_for(stopped.clone());
        let serve = server::serve(listener, service.clone(), options.clone(), ended);
        tasks.spawn(async { serve.await.map_err(|error| NamenodeError::system("serving", error)) });
    }
    let background = namesystem.clone().run_background();
    tasks.spawn(until(stopped.clone(), background));
    let backups = backup::serve(format::name_directory(configuration)?, namesystem.store.clone());
    tasks.spawn(until(stopped.clone(), backups));
    tasks.spawn(until(stopped, monitor(namesystem.block_manager().clone())));

    tracing::info!(
        uri = format!("hdfs://{address}"),
        pool = namesystem.block_pool_id(),
        safe_mode = namesystem.block_manager().safe_mode().is_on(),
        started_ms = started.elapsed().as_millis() as u64,
        "the namenode serves"
    );
    serving(address);
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        ended = tasks.join_next() => outcome_of(ended),
    };
    drop(stop);
    while let Some(ended) = tasks.join_next().await {
        outcome_of(Some(ended))?;
    }
    tracing::info!("the namenode has stopped");
    outcome
}

/// Opens the store and assembles what serves it.
fn open(configuration: &Configuration) -> Result<Arc<Namesystem>> {
    let config = NamespaceConfig::load(configuration, user_name())?;
    let store = Arc::new(format::open(&format::name_directory(configuration)?)?);
    let pool_id = store.identity().block_pool_id.clone();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let blocks = BlockManager::new(
        BlockManagerConfig::read(configuration, pool_id)?,
        store.clone(),
        clock.clone(),
        rand::random(),
    );
    blocks.set_host_lists(HostLists::load(&config.host_files)?);
    Namesystem::new(store, config, blocks, clock)
}

/// The calls of all protocols.
pub(crate) struct NamenodeService {
    pub(crate) namesystem: Arc<Namesystem>,
}

impl RpcService for NamenodeService {
    fn protocols(&self) -> &'static [&'static str] {
        &[protocol_name::CLIENT, protocol_name::DATANODE, protocol_name::GET_USER_MAPPINGS]
    }

    async fn call(&self, call: Call) -> std::result::Result<Bytes, CallError> {
        match call.protocol.as_str() {
            protocol_name::CLIENT => self.namesystem.client_call(&call).await,
            protocol_name::DATANODE => self.namesystem.datanode_call(&call).await,
            protocol_name::GET_USER_MAPPINGS => self.namesystem.user_mappings_call(&call).await,
            _ => Err(CallError::NoSuchProtocol { protocol: call.protocol }),
        }
    }
}

/// Ticks, at once again while there is work in hand.
pub(crate) async fn monitor(blocks: Arc<BlockManager>) {
    loop {
        if blocks.tick() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(MONITOR_INTERVAL).await;
        }
    }
}

/// Runs `work`, which does not end by itself, until the namenode stops.
async fn until(stopped: watch::Receiver<()>, work: impl Future<Output = ()>) -> Result<()> {
    tokio::select! {
        () = work => Err(NamenodeError::Io("a background task ended by itself".to_owned())),
        () = wait_for(stopped) => Ok(()),
    }
}

async fn wait_for(mut stopped: watch::Receiver<()>) {
    // The sender sends nothing: it is dropped.
    while stopped.changed().await.is_ok() {}
}

fn outcome_of(
    ended: Option<std::result::Result<Result<()>, tokio::task::JoinError>>,
) -> Result<()> {
    match ended {
        Some(Err(panicked)) => Err(NamenodeError::Io(format!("a task failed: {panicked}"))),
        Some(Ok(outcome)) => outcome,
        None => Ok(()),
    }
}

fn server_options(configuration: &Configuration) -> Result<RpcServerOptions> {
    let setting = &settings::DFS_NAMENODE_HANDLER_COUNT;
    let hundreds = configuration.integer(setting)?;
    let refuse = |why: &str| configuration.refuse(setting, &hundreds.to_string(), why);
    let calls = usize::try_from(hundreds).ok().filter(|hundreds| *hundreds > 0);
    let calls = calls.and_then(|hundreds| hundreds.checked_mul(100));
    let calls_max = calls.filter(|calls| *calls <= 100_000);
    Ok(RpcServerOptions {
        calls_max: calls_max.ok_or_else(|| refuse("must be 1 to 1000"))?,
        peer_timeout: PeerTimeout::from_configuration(configuration)?,
        ..RpcServerOptions::default()
    })
}

/// Host and port of `dfs.namenode.rpc-address`, or of `fs.defaultFS`.
fn rpc_address(configuration: &Configuration) -> Result<(String, u16)> {
    let address = configuration.text(&settings::DFS_NAMENODE_RPC_ADDRESS);
    if !address.is_empty() {
        return host_and_port(configuration, &address);
    }
    let uri = configuration.text(&settings::FS_DEFAULT_FS);
    match uri.strip_prefix("hdfs://") {
        Some(rest) => {
            let authority = rest.split('/').next().unwrap_or(rest);
            host_and_port(configuration, authority)
        }
        None => {
            let why = "where to serve is unknown: set it to hdfs://host:port, or \
                       dfs.namenode.rpc-address to host:port";
            Err(configuration.refuse(&settings::FS_DEFAULT_FS, &uri, why).into())
        }
    }
}

fn host_and_port(configuration: &Configuration, address: &str) -> Result<(String, u16)> {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (address, Some(DEFAULT_PORT)),
    };
    match port {
        Some(port) if !host.is_empty() => Ok((host.trim_matches(['[', ']']).to_owned(), port)),
        _ => {
            let setting = &settings::DFS_NAMENODE_RPC_ADDRESS;
            Err(configuration.refuse(setting, address, "not host:port").into())
        }
    }
}

async fn listen(configuration: &Configuration, host: &str, port: u16) -> Result<TcpListener> {
    let bind_host = configuration.text(&settings::DFS_NAMENODE_RPC_BIND_HOST);
    let host = if bind_host.is_empty() { host } else { &bind_host };
    TcpListener::bind((host, port)).await.map_err(|error| {
        NamenodeError::system(format!("listening on {host}:{port} (is it in use?)"), error)
    })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| NamenodeError::system("the RPC port's address", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(values: &[(&str, &str)]) -> Configuration {
        let mut configuration = Configuration::default();
        for (name, value) in values {
            configuration.set(name, value);
        }
        configuration
    }

    #[test]
    fn the_rpc_address_comes_from_its_setting_or_from_the_default_file_system() {
        let table: [(&[(&str, &str)], _); 6] = [
            (&[("fs.defaultFS", "hdfs://nn:9000")], Some(("nn", 9000))),
            (&[("fs.defaultFS", "hdfs://nn/user")], Some(("nn", 8020))),
            (
                &[("fs.defaultFS", "hdfs://x"), ("dfs.namenode.rpc-address", "127.0.0.1:0")],
                Some(("127.0.0.1", 0)),
            ),
            (&[("dfs.namenode.rpc-address", "[::1]:8020")], Some(("::1", 8020))),
            (&[("dfs.namenode.rpc-address", "nn:port")], None),
            (&[], None),
        ];
        for (values, expected) in table {
            let address = rpc_address(&configuration(values)).ok();
            let expected = expected.map(|(host, port): (&str, u16)| (host.to_owned(), port));
            assert_eq!(address, expected, "{values:?}");
        }
    }
}

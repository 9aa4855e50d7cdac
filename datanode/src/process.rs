//! One datanode process from start to stop.
//!
//! Start: lock the directories and read who they belong to, start the data threads, bind the ports,
//! wait for the namenode, join its namespace, scan the volumes, serve. The control thread runs all
//! of this on a tokio runtime of its own; file work and streams run on the data threads.
//!
//! Stop (a signal, an operator's shutdownDatanode, or a namenode that will not have this node): no
//! new streams, running ones are cut, the lock files go. What was acknowledged is on disk by then,
//! as always. Neither start nor stop waits for a disk that does not answer: at start it counts as a
//! failed one (`disk_threads`), at stop its threads are left to the kernel, which lets the process go
//! when the disk answers.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfs_protocol::messages::{DatanodeCommandProto, NamespaceInfoProto};
use ringfs_protocol::meta_file::DatanodeLayout;
use ringfs_protocol::rpc::client::RpcClient;
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::rpc::server::{self as rpc_server, RpcServerOptions};
use ringfs_protocol::site_config::{Configuration, StorageDirectory as StorageLocation, user_name};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use crate::activity::Activity;
use crate::block_move::BlockMoves;
use crate::block_recovery::BlockRecovery;
use crate::block_transfer::Transfers;
use crate::commands::Commands;
use crate::config::DatanodeConfig;
use crate::counters::Counters;
use crate::data_work::DataWork;
use crate::dataset::Dataset;
use crate::disk_threads::{DiskWork, run_in_time};
use crate::domain_socket;
use crate::error::{DatanodeError, Result};
use crate::failed_volumes::FailedVolumes;
use crate::http_server;
use crate::ipc_server::IpcService;
use crate::limits::{BIND_PATIENCE, BIND_PAUSE};
use crate::metrics::Metrics;
use crate::namenode_link::{LinkRequests, NamenodeLink, NodeIdentity, namespace_info};
use crate::planned_restart::{ANNOUNCEMENT_TIME, PlannedRestart};
use crate::read_history::ReadHistory;
use crate::ring;
use crate::runtime::DataThreads;
use crate::scrubber;
use crate::server::TransferServer;
use crate::storage_directory::{LockedDirectory, NamespaceIdentity, StorageDirectory};
use crate::volume::{BlockData, Volume};
use crate::volume_health::VolumeFailure;

/// Other datanodes and operators: far fewer than a namenode's callers.
const IPC_CONNECTIONS_MAX: usize = 512;

const IPC_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The directories, locked, and what their VERSION files say of this datanode.
pub(crate) struct Storage {
    directories: Vec<LockedDirectory>,
    /// Directories that could not be opened.
    failed: Vec<VolumeFailure>,
    pub(crate) datanode_uuid: String,
    pub(crate) layout: DatanodeLayout,
}

pub fn run(configuration: &Configuration, block_data: BlockData) -> Result<()> {
    let config = Arc::new(DatanodeConfig::from_configuration(configuration, block_data)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DatanodeError::io("starting the control thread's runtime"))?;
    let outcome = runtime.block_on(async {
        let stop = stop_signal()?;
        serve(config, stop).await
    });
    // What waits for a disk in a thread of the runtime may do so for ever.
    runtime.shutdown_background();
    outcome
}

/// Serves until `stop` resolves, or an operator says so.
async fn serve(
    config: Arc<DatanodeConfig>,
    stop: impl Future<Output = &'static str>,
) -> Result<()> {
    let storage = Storage::lock(&config)?;
    // First of all: a host that cannot run them should say so at once, not when a namenode comes.
    let counters = Arc::<Counters>::default();
    let data_threads = DataThreads::start(
        config.data_threads,
        config.buffer_pool_bytes,
        config.pin_data_threads,
        config.disk_operation_timeout,
        &counters,
    )?;
    let transfer_listener = bind(config.transfer_address).await?;
    let ipc_listener = bind(config.ipc_address).await?;
    let http_listener = bind(config.http_address).await?;
    let transfer_port = local_address(&transfer_listener)?.port();
    let domain_socket = domain_socket::bind(&config.domain_socket_path, transfer_port)?;
    let identity = NodeIdentity {
        datanode_uuid: storage.datanode_uuid.clone(),
        host_name: config.host_name.clone(),
        transfer_address: local_address(&transfer_listener)?,
        ipc_port: local_address(&ipc_listener)?.port(),
        http_port: local_address(&http_listener)?.port(),
        layout: storage.layout,
    };
    info!(
        transfer = %identity.transfer_address, ipc_port = identity.ipc_port,
        http_port = identity.http_port, data_threads = config.data_threads, pinned = config.pin_data_threads,
        connections = "handed to the data thread with the fewest",
        zero_copy_receive = %zero_copy_receive(), uuid = identity.datanode_uuid, namenode = config.namenode_address, "listening"
    );
    let namenode = RpcClient::new(
        &config.namenode_address,
        protocol_name::DATANODE,
        &user_name(),
        config.rpc.clone(),
    );
    tokio::pin!(stop);
    let namespace = tokio::select! {
        namespace = namespace_info(&namenode, &config.namenode_address) => namespace?,
        why = &mut stop => {
            info!(why, "stopped before the namenode answered");
            return Ok(());
        }
    };
    let dataset = Arc::new(storage.join(&config, &namespace)?);
    let directories = dataset.clone();
    if let (Some(pace), BlockData::Stored) = (config.scrub, config.block_data) {
        scrubber::start(&dataset, &counters, pace)?;
    }
    let spawner = data_threads.spawner();
    let data_work = DataWork::new(move |job| spawner.spawn(job));
    let host_name = config.host_name.clone();
    let membership = Membership { identity, namenode, namespace, dataset };
    let parts =
        Parts::assemble(config, user_name(), membership, data_work.clone(), counters.clone());
    let metrics = Arc::new(Metrics::new(&parts.server, host_name));
    let http = tokio::spawn(http_server::serve(tokio_listener(http_listener)?, metrics));
    let short_circuit = domain_socket
        .map(|socket| tokio::spawn(domain_socket::serve(parts.server.clone(), socket)));
    parts.server.clone().start(transfer_listener, data_work);
    let outcome = parts.run(ipc_listener, stop).await;
    http.abort();
    if let Some(short_circuit) = short_circuit {
        short_circuit.abort();
    }
    drop(data_threads);
    // Not when the last handle on each volume goes: a thread may hold one in a disk's hands.
    directories.unlock_directories();
    info!(?counters, "stopped");
    outcome
}

impl Storage {
    pub(crate) fn lock(config: &DatanodeConfig) -> Result<Self> {
        let lock = |location: &StorageLocation| -> DiskWork<Result<LockedDirectory>> {
            let (location, mode) = (location.clone(), config.data_dir_mode);
            Box::new(move |_| LockedDirectory::open(&location, mode))
        };
        let locks = config.data_dirs.iter().map(lock).collect();
        let roots = config.data_dirs.iter().map(|location| location.path.clone()).collect();
        let (directories, failed) = opened(roots, locks, config.disk_operation_timeout)?;
        config.failed_volumes_tolerated.check(&failed, config.data_dirs.len())?;
        let version = directories.iter().find_map(LockedDirectory::version);
        let (datanode_uuid, layout) = match version {
            Some(version) => (version.datanode_uuid.clone(), version.layout),
            None => (uuid::Uuid::new_v4().to_string(), DatanodeLayout::V57),
        };
        Ok(Self { directories, failed, datanode_uuid, layout })
    }

    pub(crate) fn join(
        mut self,
        config: &Arc<DatanodeConfig>,
        namespace: &NamespaceInfoProto,
    ) -> Result<Dataset> {
        let identity = NamespaceIdentity::from(namespace);
        let open = |directory: LockedDirectory| -> DiskWork<Result<Arc<Volume>>> {
            let (config, identity) = (config.clone(), identity.clone());
            let (uuid, layout) = (self.datanode_uuid.clone(), self.layout);
            Box::new(move |_| {
                let directory = directory.join_namespace(&identity, &uuid, layout)?;
                open_volume(directory, &identity.pool_id, &config).map(Arc::new)
            })
        };
        let roots = self.directories.iter().map(|directory| directory.root().to_owned()).collect();
        let volumes = self.directories.into_iter().map(open).collect();
        let (volumes, failed) = opened(roots, volumes, config.disk_operation_timeout)?;
        self.failed.extend(failed);
        let dataset = Dataset::open(
            &identity.pool_id,
            volumes,
            self.failed,
            config.delete_duplicate_replicas,
            config.sync_on_close,
            config.disk_operation_timeout,
        )?;
        config.failed_volumes_tolerated.check(&dataset.failures(), dataset.configured_volumes())?;
        Ok(dataset)
    }
}

fn open_volume(
    directory: StorageDirectory,
    pool_id: &str,
    config: &DatanodeConfig,
) -> Result<Volume> {
    let mut volume = Volume::open(directory, pool_id, config.reserved_bytes, config.direct_io)?
        .with_spare_files(config.spare_files_max);
    if let Some(medium) = config.medium {
        volume = volume.with_medium(medium);
    }
    info!(volume = %volume.root().display(), medium = %volume.profile().medium, "opened");
    match config.block_data {
        BlockData::Stored => Ok(volume),
        BlockData::Discarded => volume.discarding_block_data(),
    }
}

/// What could be opened, and which directories could not, within `patience`.
fn opened<T: Send + 'static>(
    roots: Vec<PathBuf>,
    work: Vec<DiskWork<Result<T>>>,
    patience: Duration,
) -> Result<(Vec<T>, Vec<VolumeFailure>)> {
    let (mut opened, mut failed) = (Vec::new(), Vec::new());
    for (root, done) in roots.iter().zip(run_in_time(work, patience)?) {
        let no_answer = || DatanodeError::no_answer(format!("opening {}", root.display()));
        match done.unwrap_or_else(|| Err(no_answer())) {
            Ok(value) => opened.push(value),
            Err(error) => failed.push(failed_at_start(root, error)?),
        }
    }
    Ok((opened, failed))
}

/// A directory whose disk fails does not keep the others from being served; one that is not ours
/// to write to does.
fn failed_at_start(root: &Path, error: DatanodeError) -> Result<VolumeFailure> {
    if !error.is_of_files() {
        return Err(error);
    }
    let location = root.display().to_string();
    warn!(volume = location, %error, "the volume cannot be opened");
    Ok(VolumeFailure::now(location, &error, 0))
}

/// A datanode that has joined a namespace.
pub(crate) struct Membership {
    pub(crate) identity: NodeIdentity,
    pub(crate) namenode: RpcClient,
    pub(crate) namespace: NamespaceInfoProto,
    pub(crate) dataset: Arc<Dataset>,
}

/// What runs on the control thread.
pub(crate) struct Parts {
    pub(crate) link: NamenodeLink,
    pub(crate) commands: Commands,
    pub(crate) command_queue: mpsc::UnboundedReceiver<DatanodeCommandProto>,
    pub(crate) ipc: Arc<IpcService>,
    pub(crate) server: Arc<TransferServer>,
    shutdown: Arc<Notify>,
    restart: Arc<PlannedRestart>,
    pub(crate) failed_volumes: FailedVolumes,
}

impl Parts {
    pub(crate) fn assemble(
        config: Arc<DatanodeConfig>,
        user: String,
        membership: Membership,
        data_work: DataWork,
        counters: Arc<Counters>,
    ) -> Self {
        let Membership { identity, namenode, namespace, dataset } = membership;
        let (activity, requests) = (Arc::<Activity>::default(), Arc::<LinkRequests>::default());
        let (shutdown, restart) = (Arc::new(Notify::new()), Arc::<PlannedRestart>::default());
        let (command_sender, command_queue) = mpsc::unbounded_channel();
        let transfers = Transfers {
            dataset: dataset.clone(),
            activity: activity.clone(),
            timeout: config.socket_timeout,
            timeout_per_target: config.timeout_per_target,
            own_id: identity.to_proto(),
        };
        let moves =
            BlockMoves::new(dataset.clone(), config.socket_timeout, config.move_bytes_per_second);
        let move_bandwidth = moves.bandwidth().clone();
        let server = Arc::new(TransferServer {
            dataset: dataset.clone(),
            activity: activity.clone(),
            counters: counters.clone(),
            reads: match config.read_cache {
                true => ReadHistory::of_this_machine(),
                false => ReadHistory::new(0),
            },
            transfers: transfers.clone(),
            moves,
            socket_timeout: config.socket_timeout,
            timeout_per_target: config.timeout_per_target,
            keepalive: config.keepalive,
            restart: restart.clone(),
            streams_max: u32::try_from(config.transfers_max).unwrap_or(u32::MAX),
        });
        let commands = Commands {
            dataset: dataset.clone(),
            data_work: data_work.clone(),
            transfers,
            move_bandwidth,
            recovery: Arc::new(BlockRecovery {
                dataset: dataset.clone(),
                data_work: data_work.clone(),
                namenode: namenode.clone(),
                own_uuid: identity.datanode_uuid.clone(),
                user: user.clone(),
                connect_timeout: config.rpc.connect_timeout,
            }),
        };
        let ipc = Arc::new(IpcService {
            dataset: dataset.clone(),
            data_work,
            link: requests.clone(),
            shutdown: shutdown.clone(),
            restart: restart.clone(),
            owner: user,
            started: Instant::now(),
        });
        let failed_volumes = FailedVolumes {
            dataset: dataset.clone(),
            requests: requests.clone(),
            counters: counters.clone(),
            tolerated: config.failed_volumes_tolerated,
            check_timeout: config.disk_check_timeout,
        };
        let link = NamenodeLink {
            rpc: namenode,
            config,
            dataset,
            identity,
            namespace,
            activity,
            requests,
            commands: command_sender,
        };
        Self { link, commands, command_queue, ipc, server, shutdown, restart, failed_volumes }
    }

    /// Until `stop` resolves, an operator wants it, or the namenode refuses this datanode.
    async fn run(
        self,
        ipc_listener: TcpListener,
        stop: impl Future<Output = &'static str>,
    ) -> Result<()> {
        let ipc_listener = tokio_listener(ipc_listener)?;
        let options = RpcServerOptions {
            connections_max: IPC_CONNECTIONS_MAX,
            peer_timeout: self.link.config.rpc.peer_timeout,
            ..RpcServerOptions::default()
        };
        let ipc_stop = Arc::new(Notify::new());
        let mut serving_ipc = {
            let stop = ipc_stop.clone();
            let stopped = async move { stop.notified().await };
            tokio::spawn(rpc_server::serve(ipc_listener, self.ipc, options, stopped))
        };
        let obeying = tokio::spawn(self.commands.run(self.command_queue));
        let outcome = tokio::select! {
            refused = self.link.run() => match refused {
                Ok(never) => match never {},
                Err(error) => Err(error),
            },
            served = &mut serving_ipc => match served {
                Ok(served) => served.map_err(DatanodeError::io("serving IPC")),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            },
            too_many = self.failed_volumes.run() => Err(too_many),
            () = self.shutdown.notified() => {
                info!("stopping: an operator asked for it");
                if self.restart.is_announced() {
                    tokio::time::sleep(ANNOUNCEMENT_TIME).await;
                }
                Ok(())
            }
            why = stop => {
                info!(why, "stopping");
                Ok(())
            }
        };
        obeying.abort();
        // Calls under way, such as the one that stops this node, still get their answers.
        ipc_stop.notify_one();
        if !serving_ipc.is_finished() {
            let _ = tokio::time::timeout(IPC_STOP_TIMEOUT, serving_ipc).await;
        }
        outcome
    }
}

/// Listens on `address`, for which a datanode that was here before may still hold the port: the kernel
/// closes what a killed process's ring accepts on a little after the process is gone.
async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(BIND_PAUSE).await;
            }
            outcome => {
                return outcome.map_err(DatanodeError::io(format!("listening on {address}")));
            }
        }
    }
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(DatanodeError::io("reading the address of a listener"))
}

fn tokio_listener(listener: TcpListener) -> Result<tokio::net::TcpListener> {
    listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(listener))
        .map_err(DatanodeError::io("registering a listener"))
}

/// The network cards' answers, for the start-up line.
fn zero_copy_receive() -> String {
    let cards = ring::of_network_cards();
    let cards = cards.iter().map(|(card, answer)| format!("{card} {answer}"));
    cards.reduce(|all, card| all + ", " + &card).unwrap_or_else(|| "no network card".to_owned())
}

/// Resolves with the name of the signal that came.
fn stop_signal() -> Result<impl Future<Output = &'static str>> {
    let listen = |kind| signal(kind).map_err(DatanodeError::io("listening for signals"));
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}

#[cfg(test)]
mod tests;

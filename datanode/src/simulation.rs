//! A datanode process of a simulated world: all that a real one consists of but its threads, its
//! HTTP server and its sockets. Data tasks run on an executor that the world steps; the control
//! side is one future, and dropping it, with [`ring::Executor::stop`], is the process's death.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use ringfs_protocol::rpc::client::RpcClient;
use ringfs_protocol::rpc::protocol_name;

pub use crate::config::DatanodeConfig;
use crate::counters::Counters;
use crate::data_work::DataWork;
use crate::dataset::Dataset;
use crate::error::Result;
pub use crate::ipc_server::IpcService;
use crate::namenode_link::{NodeIdentity, namespace_info};
use crate::process::{Membership, Parts, Storage};
use crate::ring::Remote;
pub use crate::scrubber::{scrub_all as scrub, scrub_suspects};

/// What the world keeps of a process.
pub struct Serving {
    /// Answers calls to the IPC port.
    pub ipc: Arc<IpcService>,
    /// Gone when nothing of the process is left.
    pub dataset: Weak<Dataset>,
}

/// The control side of a process on `host`, from its start. `serving` is told when the volumes are
/// scanned; the outcome is the reason why it gave up.
pub async fn run(
    config: Arc<DatanodeConfig>,
    host: String,
    data_thread: Arc<Remote>,
    listener: OwnedFd,
    counters: Arc<Counters>,
    serving: impl FnOnce(Serving),
) -> Result<()> {
    let storage = Storage::lock(&config)?;
    let identity = NodeIdentity {
        datanode_uuid: storage.datanode_uuid.clone(),
        host_name: config.host_name.clone(),
        transfer_address: config.transfer_address,
        ipc_port: config.ipc_address.port(),
        http_port: config.http_address.port(),
        layout: storage.layout,
    };
    let address = &config.namenode_address;
    let rpc = RpcClient::new(address, protocol_name::DATANODE, &host, config.rpc.clone());
    let namespace = namespace_info(&rpc, address).await?;
    let dataset = Arc::new(storage.join(&config, &namespace)?);
    let data_work = DataWork::new(move |job| data_thread.spawn(job));
    let work = data_work.clone();
    let membership = Membership { identity, namenode: rpc, namespace, dataset: dataset.clone() };
    let parts = Parts::assemble(config, host, membership, work, counters);
    serving(Serving { ipc: parts.ipc.clone(), dataset: Arc::downgrade(&dataset) });
    drop(dataset);
    let Parts { link, commands, command_queue, server, failed_volumes, .. } = parts;
    server.start(listener, data_work);
    tokio::select! {
        biased;
        refused = link.run() => refused.map(|never| match never {}),
        () = commands.run(command_queue) => Ok(()),
        too_many = failed_volumes.run() => Err(too_many),
    }
}

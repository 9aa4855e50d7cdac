//! A namenode process of a simulated world: all that a real one consists of but its sockets, its
//! threads and its file. The store's backend, the clock and the seed of its choices are handed in;
//! the background is one future, and dropping it and the service is the process's death.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use redb::Database;
use ringfs_protocol::messages::LocatedBlocksProto;
use ringfs_protocol::rpc::server::RpcService;
use ringfs_protocol::site_config::Configuration;

use crate::block_manager::BlockManager;
pub use crate::block_manager::SettledBlock;
use crate::block_manager_config::BlockManagerConfig;
use crate::clock::Clock;
use crate::config::NamespaceConfig;
use crate::error::Result;
use crate::format::create_root;
use crate::host_lists::HostLists;
pub use crate::journal::JournalFile;
use crate::namesystem::{ClientCall, Namesystem};
use crate::permissions::Principal;
use crate::schema::{IdentityRecord, STORE_VERSION};
use crate::server::{NamenodeService, monitor};
use crate::store::{self, Store};

const SUPERUSER: &str = "simulation";
pub const POOL_ID: &str = "BP-1-127.0.0.1-1";
pub const CLUSTER_ID: &str = "CID-simulation";
pub const NAMESPACE_ID: u32 = 1;

/// Makes `database` an empty namespace, always with the same identity.
pub fn format(database: &Database, configuration: &Configuration, now_ms: u64) -> Result<()> {
    let config = NamespaceConfig::load(configuration, SUPERUSER.to_owned())?;
    let identity = IdentityRecord {
        store_version: STORE_VERSION,
        cluster_id: CLUSTER_ID.to_owned(),
        namespace_id: NAMESPACE_ID,
        block_pool_id: POOL_ID.to_owned(),
        c_time: now_ms,
    };
    store::format(database, &identity, |update| create_root(update, &config, now_ms))
}

/// Opens the namespace, as a process does at its start.
pub fn open(
    database: Database,
    journal: Box<dyn JournalFile>,
    configuration: &Configuration,
    clock: Arc<dyn Clock>,
    seed: u64,
) -> Result<Arc<Namesystem>> {
    let config = NamespaceConfig::load(configuration, SUPERUSER.to_owned())?;
    let store = Arc::new(Store::open(database, "the store", journal, "the journal")?);
    let blocks = BlockManager::new(
        BlockManagerConfig::read(configuration, POOL_ID.to_owned())?,
        store.clone(),
        clock.clone(),
        seed,
    );
    blocks.set_host_lists(HostLists::load(&config.host_files)?);
    Namesystem::new(store, config, blocks, clock)
}

/// What answers calls.
pub fn service(namesystem: Arc<Namesystem>) -> Arc<impl RpcService> {
    Arc::new(NamenodeService { namesystem })
}

/// What runs beside calls, until dropped.
pub async fn run_background(namesystem: Arc<Namesystem>) {
    let monitored = monitor(namesystem.block_manager().clone());
    tokio::join!(namesystem.run_background(), monitored);
}

/// Where the namenode takes the file's blocks to be; `None` if it knows no such file.
pub fn located(namesystem: &Arc<Namesystem>, path: &str) -> Option<LocatedBlocksProto> {
    let principal = Principal {
        user: SUPERUSER.to_owned(),
        groups: Vec::new(),
        is_superuser: true,
        checked: false,
    };
    let call = ClientCall {
        principal: Arc::new(principal),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        retry_key: None,
    };
    namesystem.get_block_locations(&call, path, 0, i64::MAX as u64).ok()
}

/// What the namenode takes for the good replicas of every block whose stamp and length are final.
pub fn settled_blocks(namesystem: &Namesystem) -> Vec<SettledBlock> {
    namesystem.block_manager().settled_blocks()
}

//! The namesystem: one namespace in its store, and what serves calls on it.
//!
//! The operations are in the files named after them (`namespace`, `rename`, `deletion`, `listing`,
//! `attributes`, `file_write`, `append`, `pipeline`, `leases`, `block_recovery`,
//! `block_locations`), each an `impl Namesystem`. A change runs as one operation of the store's
//! writer, in the order of checks that HDFS keeps: path length, retry cache, safe mode, traversal,
//! permission, state. A read uses a snapshot on the calling thread.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::block_manager::BlockManager;
use crate::clock::Clock;
use crate::config::NamespaceConfig;
use crate::error::Result;
use crate::leases::Leases;
use crate::permissions::Principal;
use crate::schema::IdentityRecord;
use crate::store::{Snapshot, Store, Update};
use crate::topology::Topology;
use crate::user_groups::UserGroups;

pub struct Namesystem {
    pub(crate) store: Arc<Store>,
    pub(crate) config: NamespaceConfig,
    pub(crate) blocks: Arc<BlockManager>,
    pub(crate) leases: Leases,
    pub(crate) groups: UserGroups,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) reaper: Notify,
    pub(crate) topology: Topology,
}

/// Who calls, from where, and under which name a repetition of the call would come.
#[derive(Clone, Debug)]
pub struct ClientCall {
    pub principal: Arc<Principal>,
    pub address: IpAddr,
    pub retry_key: Option<RetryKey>,
}

/// Client id and call id.
pub type RetryKey = [u8; 20];

impl Namesystem {
    pub fn new(
        store: Arc<Store>,
        config: NamespaceConfig,
        blocks: Arc<BlockManager>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let leases = Leases::load(&store.snapshot(), clock.monotonic_ms())?;
        let groups = UserGroups::new(&config.group_overrides, clock.clone());
        let topology = Topology::new(config.racks.clone());
        let reaper = Notify::new();
        Ok(Arc::new(Self { store, config, blocks, leases, groups, clock, reaper, topology }))
    }

    pub fn identity(&self) -> &IdentityRecord {
        self.store.identity()
    }

    pub fn block_pool_id(&self) -> &str {
        &self.store.identity().block_pool_id
    }

    pub fn block_manager(&self) -> &Arc<BlockManager> {
        &self.blocks
    }

    /// What the server knows of `user`.
    pub async fn principal(&self, user: &str) -> Principal {
        let groups = self.groups.groups(user).await;
        Principal {
            is_superuser: user == self.config.superuser || groups.contains(&self.config.supergroup),
            user: user.to_owned(),
            groups: groups.to_vec(),
            checked: self.config.permissions_enabled,
        }
    }

    /// Runs what the namespace needs beside calls, until cancelled: the lease monitor, the removal
    /// of deleted subtrees and of forgotten calls.
    pub async fn run_background(self: Arc<Self>) {
        tokio::join!(self.monitor_leases(), self.reap_deleted(), self.purge_retries());
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.store.snapshot()
    }

    /// Refuses a change in safe mode; `what` is the text of the refusal: `Cannot create file/x`.
    pub(crate) fn check_safe_mode(&self, what: &str) -> Result<()> {
        self.blocks.safe_mode().check(what)
    }

    /// One change that a client may safely repeat.
    pub(crate) async fn change<T, F>(self: &Arc<Self>, what: String, operation: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Self>, &mut Update) -> Result<T> + Send + 'static,
    {
        let namesystem = self.clone();
        self.store
            .write(move |update| {
                namesystem.check_safe_mode(&what)?;
                operation(&namesystem, update)
            })
            .await
    }
}

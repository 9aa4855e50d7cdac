//! Datanodes that exist only in tests, and a namespace beside them: each knows its true replicas,
//! sends reports and obeys commands, in order or in any other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::block_report::{ReportedReplica, encode_buffers};
use ringfs_protocol::messages::{
    BlockStatus, DatanodeStorageProto, ExtendedBlockProto, ReceivedDeletedBlockInfoProto,
    StorageBlockReportProto, StorageReceivedDeletedBlocksProto, StorageReportProto,
};
use ringfs_protocol::site_config::Configuration;

use crate::block_manager::*;
use crate::block_manager_config::BlockManagerConfig;
use crate::clock::ManualClock;
use crate::datanodes::Registration;
use crate::heartbeats::{Heartbeat, HeartbeatReply};
use crate::topology::DEFAULT_RACK;

pub const BLOCK_BYTES: u64 = 100;
pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The namespace's side: blocks in a map.
#[derive(Default)]
pub struct Namespace {
    pub blocks: Mutex<BTreeMap<BlockId, StoredBlock>>,
}

impl StoredBlocks for Namespace {
    fn stored_block(&self, id: BlockId) -> Option<StoredBlock> {
        self.blocks.lock().get(&id).copied()
    }

    fn stored_blocks_after(&self, after: Option<BlockId>, max: usize) -> Vec<StoredBlock> {
        let blocks = self.blocks.lock();
        let behind = blocks.values().filter(|stored| after.is_none_or(|id| stored.block.id > id));
        behind.take(max).copied().collect()
    }

    fn complete_block_count(&self) -> u64 {
        let blocks = self.blocks.lock();
        blocks.values().filter(|stored| stored.state == BlockState::Complete).count() as u64
    }

    fn last_generation_stamp(&self) -> GenerationStamp {
        GenerationStamp(5000)
    }
}

/// A datanode with one storage.
#[derive(Debug)]
pub struct Datanode {
    pub uuid: String,
    pub port: u32,
    pub rack: &'static str,
    pub alive: bool,
    pub replicas: BTreeMap<BlockId, (Block, ReplicaState)>,
    /// Blocks whose bytes are wrong on this datanode, which it does not know.
    pub rotten: BTreeSet<BlockId>,
    pub outbox: Vec<Message>,
}

#[derive(Clone, Debug)]
pub enum Message {
    Change(Block, BlockStatus, Option<String>),
    Full { lease: u64, replicas: Vec<ReportedReplica> },
}

pub struct World {
    pub manager: Arc<BlockManager>,
    pub namespace: Arc<Namespace>,
    pub clock: Arc<ManualClock>,
    pub datanodes: Vec<Datanode>,
    pub next_block: u64,
}

pub fn block(id: u64, stamp: u64, num_bytes: u64) -> Block {
    Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), num_bytes }
}

pub fn stored(block: Block, state: BlockState, replication: u16) -> StoredBlock {
    StoredBlock { block, state, replication, inode: 17, preferred_block_size: BLOCK_BYTES }
}

/// Heartbeats each second, dead after 14 s, a round each second, copies time out after 20 s.
fn configuration() -> Configuration {
    let mut configuration = Configuration::default();
    for (name, value) in [
        ("dfs.heartbeat.interval", "1s"),
        ("dfs.namenode.heartbeat.recheck-interval", "2s"),
        ("dfs.namenode.redundancy.interval.seconds", "1s"),
        ("dfs.namenode.reconstruction.pending.timeout-sec", "20s"),
        ("dfs.namenode.safemode.extension", "3s"),
    ] {
        configuration.set(name, value);
    }
    configuration
}

impl World {
    /// `datanodes` that have registered and reported that they are empty.
    pub fn new(datanodes: usize, seed: u64) -> Self {
        let mut world = Self::starting(Vec::new(), datanodes, seed);
        world.manager.tick();
        world.heartbeats();
        world.report_all();
        world
    }

    /// A namenode that starts with `blocks` in its namespace, and datanodes it has not met.
    pub fn starting(blocks: Vec<StoredBlock>, datanodes: usize, seed: u64) -> Self {
        let namespace = Arc::new(Namespace::default());
        let by_id = blocks.iter().map(|stored| (stored.block.id, *stored));
        namespace.blocks.lock().extend(by_id);
        let clock = Arc::new(ManualClock::new(1_000_000));
        let config = BlockManagerConfig::read(&configuration(), "BP-1".to_owned()).unwrap();
        let manager = BlockManager::new(config, namespace.clone(), clock.clone(), seed);
        let mut world = Self { manager, namespace, clock, datanodes: Vec::new(), next_block: 1 };
        for _ in 0..datanodes {
            world.add_datanode();
        }
        world
    }

    pub fn add_datanode(&mut self) -> usize {
        self.add_datanode_on(DEFAULT_RACK)
    }

    pub fn add_datanode_on(&mut self, rack: &'static str) -> usize {
        let number = self.datanodes.len();
        self.datanodes.push(Datanode {
            uuid: format!("node-{number}"),
            port: 9000 + number as u32,
            rack,
            alive: true,
            replicas: BTreeMap::new(),
            rotten: BTreeSet::new(),
            outbox: Vec::new(),
        });
        self.register(number);
        number
    }

    pub fn register(&self, number: usize) {
        self.try_register(number).unwrap();
    }

    pub fn try_register(&self, number: usize) -> crate::error::Result<()> {
        let registration = Registration {
            uuid: self.datanodes[number].uuid.clone(),
            ip: LOCALHOST,
            host_name: "localhost".to_owned(),
            transfer_port: self.datanodes[number].port,
            info_port: 0,
            ipc_port: 0,
            info_secure_port: None,
            software_version: "3.3.6".to_owned(),
            rack: self.datanodes[number].rack.into(),
        };
        self.manager.register(registration)
    }

    pub fn beat(&self, number: usize, wants_report_lease: bool) -> HeartbeatReply {
        let datanode = &self.datanodes[number];
        let report = StorageReportProto {
            storage_uuid: datanode.storage().storage_uuid,
            capacity: Some(1 << 40),
            remaining: Some((1 << 30) - datanode.replicas.len() as u64),
            storage: Some(datanode.storage()),
            ..StorageReportProto::default()
        };
        let beat = Heartbeat { storages: vec![report], wants_report_lease, ..Heartbeat::default() };
        self.manager.heartbeat(&datanode.uuid, &beat)
    }

    pub fn heartbeat(&mut self, number: usize) {
        let reply = self.beat(number, false);
        self.obey(number, reply);
    }

    /// Carries out a heartbeat's commands at once.
    pub fn obey(&mut self, number: usize, reply: HeartbeatReply) {
        if reply.register {
            self.register(number);
            self.send_full_report(number);
        }
        for order in &reply.invalidations {
            self.delete_replica(number, order);
        }
        for order in reply.transfers {
            for target in &order.targets.0 {
                let port = target.id.xfer_port;
                let to = self.datanodes.iter().position(|datanode| datanode.port == port).unwrap();
                self.copy(number, to, &order.block);
            }
        }
    }

    pub fn copy(&mut self, from: usize, to: usize, block: &Block) {
        let source = self.datanodes[from].replicas.get(&block.id).copied();
        let fits = source == Some((*block, ReplicaState::Finalized))
            && !self.datanodes[from].rotten.contains(&block.id);
        let target = &mut self.datanodes[to];
        if fits && target.alive && !target.replicas.contains_key(&block.id) {
            target.finalize(*block);
        }
    }

    /// A datanode deletes what has the very generation stamp of the order; never what is needed.
    pub fn delete_replica(&mut self, number: usize, order: &Block) {
        let datanode = &mut self.datanodes[number];
        let held = datanode.replicas.get(&order.id).copied();
        let Some((held, _)) =
            held.filter(|(held, _)| held.generation_stamp == order.generation_stamp)
        else {
            return;
        };
        let was_good = self.is_good(number, order.id);
        let datanode = &mut self.datanodes[number];
        datanode.replicas.remove(&order.id);
        datanode.rotten.remove(&order.id);
        datanode.outbox.push(Message::Change(held, BlockStatus::Deleted, None));
        if was_good && let Some(stored) = self.namespace.stored_block(order.id) {
            let left = self.good_replicas(order.id);
            assert!(
                left >= usize::from(stored.replication),
                "{} was ordered to delete {order}: {left} good replicas are left",
                self.datanodes[number].uuid
            );
        }
    }

    pub fn is_good(&self, number: usize, id: BlockId) -> bool {
        if self.datanodes[number].rotten.contains(&id) {
            return false;
        }
        let stored = self.namespace.stored_block(id);
        let held = self.datanodes[number].replicas.get(&id);
        match (stored, held) {
            (Some(stored), Some((held, state))) if stored.state.is_settled() => {
                *held == stored.block && *state == ReplicaState::Finalized
            }
            _ => false,
        }
    }

    /// True replicas, whatever the namenode knows.
    pub fn good_replicas(&self, id: BlockId) -> usize {
        let alive = (0..self.datanodes.len()).filter(|number| self.datanodes[*number].alive);
        alive.filter(|number| self.is_good(*number, id)).count()
    }

    pub fn heartbeats(&mut self) {
        for number in 0..self.datanodes.len() {
            if self.datanodes[number].alive {
                self.heartbeat(number);
            }
        }
    }

    /// Seconds in which every datanode beats and every report arrives.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(1000);
            self.heartbeats();
            self.deliver_all();
            while self.manager.tick() {}
        }
    }

    pub fn send_full_report(&mut self, number: usize) {
        let reply = self.beat(number, true);
        let lease = reply.report_lease;
        self.obey(number, reply);
        let datanode = &mut self.datanodes[number];
        let replicas = datanode.replicas.values().copied().collect();
        datanode.outbox.push(Message::Full { lease, replicas });
    }

    pub fn report_all(&mut self) {
        for number in 0..self.datanodes.len() {
            self.send_full_report(number);
            self.deliver_all();
        }
    }

    pub fn deliver(&self, number: usize, message: Message) {
        let datanode = &self.datanodes[number];
        let storage = datanode.storage();
        match message {
            Message::Change(block, status, delete_hint) => {
                let change = ReceivedDeletedBlockInfoProto {
                    block: block.into(),
                    delete_hint,
                    status: status as i32,
                };
                let changes = StorageReceivedDeletedBlocksProto {
                    storage_uuid: storage.storage_uuid.clone(),
                    blocks: vec![change],
                    storage: Some(storage),
                };
                let _ = self.manager.incremental_report(&datanode.uuid, &[changes]);
            }
            Message::Full { lease, replicas } => {
                let report = StorageBlockReportProto {
                    storage,
                    blocks: Vec::new(),
                    number_of_blocks: Some(replicas.len() as u64),
                    blocks_buffers: encode_buffers(&replicas),
                };
                // Without a lease a datanode of today does not report.
                if lease != 0 {
                    let _ = self.manager.full_report(&datanode.uuid, lease, true, &[report]);
                }
            }
        }
    }

    pub fn deliver_all(&mut self) {
        for number in 0..self.datanodes.len() {
            for message in std::mem::take(&mut self.datanodes[number].outbox) {
                self.deliver(number, message);
            }
        }
    }

    /// A complete block with replicas on `holders`, reported by all of them once delivered.
    pub fn write(&mut self, holders: &[usize], replication: u16) -> BlockId {
        let id = self.next_block;
        self.next_block += 1;
        let open = stored(block(id, 1001, 0), BlockState::UnderConstruction, replication);
        self.namespace.blocks.lock().insert(open.block.id, open);
        let targets = holders.iter().map(|number| self.target(*number)).collect();
        self.manager.set_expected(open.block.id, targets);
        let full = block(id, 1001, BLOCK_BYTES);
        for number in holders {
            self.datanodes[*number].begin(full);
            self.datanodes[*number].finalize(full);
        }
        self.complete(full, replication);
        full.id
    }

    pub fn complete(&self, block: Block, replication: u16) {
        let complete = stored(block, BlockState::Complete, replication);
        self.namespace.blocks.lock().insert(block.id, complete);
        self.manager.block_completed(&complete);
    }

    /// Appends to a block wherever it is held: a new generation stamp and one byte more.
    pub fn append(&mut self, id: BlockId) {
        let Some(before) = self.namespace.stored_block(id) else {
            return;
        };
        let open = StoredBlock { state: BlockState::UnderConstruction, ..before };
        self.namespace.blocks.lock().insert(id, open);
        self.manager.reopen_for_append(&before);
        let Block { generation_stamp: GenerationStamp(stamp), num_bytes, .. } = before.block;
        let after = block(id.0, stamp + 1, num_bytes + 1);
        for number in 0..self.datanodes.len() {
            if self.datanodes[number].replicas.get(&id).is_some_and(|held| held.0 == before.block) {
                self.datanodes[number].begin(after);
                self.datanodes[number].finalize(after);
            }
        }
        self.complete(after, before.replication);
    }

    pub fn delete(&mut self, id: BlockId) {
        self.namespace.blocks.lock().remove(&id);
        self.manager.remove_blocks(&[id]);
    }

    pub fn set_replication(&mut self, id: BlockId, replication: u16) {
        let mut blocks = self.namespace.blocks.lock();
        let Some(stored) = blocks.get_mut(&id) else {
            return;
        };
        stored.replication = replication;
        let stored = *stored;
        drop(blocks);
        self.manager.replication_changed(&stored);
    }

    /// Spoils a replica, which a reader notices and reports.
    pub fn rot(&mut self, number: usize, id: BlockId) {
        self.datanodes[number].rotten.insert(id);
        let (Block { generation_stamp, .. }, _) = self.datanodes[number].replicas[&id];
        let block = ExtendedBlockProto {
            pool_id: "BP-1".to_owned(),
            block_id: id.0,
            generation_stamp: generation_stamp.0,
            num_bytes: None,
        };
        self.manager.report_bad_replica(&block, &self.datanodes[number].uuid, None);
    }

    pub fn target(&self, number: usize) -> StorageTarget {
        let storage = self.datanodes[number].storage().storage_uuid;
        self.manager.target(&self.datanodes[number].uuid, &storage).unwrap()
    }

    pub fn kill(&mut self, number: usize) {
        self.datanodes[number].alive = false;
        self.datanodes[number].outbox.clear();
    }

    pub fn known_locations(&self, id: BlockId) -> BTreeSet<String> {
        let stored = self.namespace.stored_block(id).unwrap();
        let (targets, corrupt) = self.manager.locations(&stored, LOCALHOST);
        assert!(!corrupt);
        targets.iter().map(|target| target.datanode_uuid.to_string()).collect()
    }

    /// What the namenode believes is true, and every block has as many replicas as it asks for.
    pub fn assert_healthy(&self) {
        let blocks = self.namespace.blocks.lock().clone();
        for stored in blocks.values() {
            let id = stored.block.id;
            assert_eq!(self.good_replicas(id), usize::from(stored.replication), "{id}");
            let holders: BTreeSet<String> = (0..self.datanodes.len())
                .filter(|number| self.datanodes[*number].alive && self.is_good(*number, id))
                .map(|number| self.datanodes[number].uuid.clone())
                .collect();
            assert_eq!(self.known_locations(id), holders, "{id}");
        }
        let ids: BTreeSet<BlockId> = self.namespace.blocks.lock().keys().copied().collect();
        for datanode in self.datanodes.iter().filter(|datanode| datanode.alive) {
            for id in datanode.replicas.keys() {
                assert!(ids.contains(id), "{} still has {id}", datanode.uuid);
            }
        }
        let stats = self.manager.fs_stats();
        assert_eq!((stats.under_replicated, stats.missing_blocks, stats.corrupt_blocks), (0, 0, 0));
        assert_eq!(stats.pending_deletion_blocks, 0);
    }
}

impl Datanode {
    pub fn storage(&self) -> DatanodeStorageProto {
        DatanodeStorageProto {
            storage_uuid: format!("DS-{}", self.port),
            state: None,
            storage_type: None,
        }
    }

    pub fn begin(&mut self, block: Block) {
        self.replicas.insert(block.id, (block, ReplicaState::Rbw));
        self.outbox.push(Message::Change(block, BlockStatus::Receiving, None));
    }

    pub fn finalize(&mut self, block: Block) {
        self.replicas.insert(block.id, (block, ReplicaState::Finalized));
        self.outbox.push(Message::Change(block, BlockStatus::Received, None));
    }
}

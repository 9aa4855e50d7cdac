//! The block manager against datanodes that exist only here: each knows its true replicas, sends
//! reports and obeys commands, in order or in any other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use ringfs_protocol::block::{Block, BlockId, GenerationStamp, ReplicaState};
use ringfs_protocol::block_report::{ReportedReplica, encode_buffers};
use ringfs_protocol::messages::{
    BlockStatus, DatanodeReportTypeProto, DatanodeStorageProto, ExtendedBlockProto,
    ReceivedDeletedBlockInfoProto, StorageBlockReportProto, StorageReceivedDeletedBlocksProto,
    StorageReportProto,
};
use ringfs_protocol::site_config::Configuration;

use crate::block_manager::*;
use crate::clock::ManualClock;
use crate::datanodes::Registration;
use crate::heartbeats::{Heartbeat, HeartbeatReply};

const BLOCK_BYTES: u64 = 100;
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The namespace's side: blocks in a map.
#[derive(Default)]
struct Namespace {
    blocks: Mutex<BTreeMap<BlockId, StoredBlock>>,
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
struct Datanode {
    uuid: String,
    port: u32,
    alive: bool,
    replicas: BTreeMap<BlockId, (Block, ReplicaState)>,
    /// Blocks whose bytes are wrong on this datanode, which it does not know.
    rotten: BTreeSet<BlockId>,
    outbox: Vec<Message>,
}

#[derive(Clone, Debug)]
enum Message {
    Change(Block, BlockStatus, Option<String>),
    Full { lease: u64, replicas: Vec<ReportedReplica> },
}

struct World {
    manager: Arc<BlockManager>,
    namespace: Arc<Namespace>,
    clock: Arc<ManualClock>,
    datanodes: Vec<Datanode>,
    next_block: u64,
}

fn block(id: u64, stamp: u64, num_bytes: u64) -> Block {
    Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), num_bytes }
}

fn stored(block: Block, state: BlockState, replication: u16) -> StoredBlock {
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
    fn new(datanodes: usize, seed: u64) -> Self {
        let mut world = Self::starting(Vec::new(), datanodes, seed);
        world.manager.tick();
        world.heartbeats();
        world.report_all();
        world
    }

    /// A namenode that starts with `blocks` in its namespace, and datanodes it has not met.
    fn starting(blocks: Vec<StoredBlock>, datanodes: usize, seed: u64) -> Self {
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

    fn add_datanode(&mut self) -> usize {
        let number = self.datanodes.len();
        self.datanodes.push(Datanode {
            uuid: format!("node-{number}"),
            port: 9000 + number as u32,
            alive: true,
            replicas: BTreeMap::new(),
            rotten: BTreeSet::new(),
            outbox: Vec::new(),
        });
        self.register(number);
        number
    }

    fn register(&self, number: usize) {
        let registration = Registration {
            uuid: self.datanodes[number].uuid.clone(),
            ip: LOCALHOST,
            host_name: "localhost".to_owned(),
            transfer_port: self.datanodes[number].port,
            info_port: 0,
            ipc_port: 0,
            info_secure_port: None,
            software_version: "3.3.6".to_owned(),
        };
        self.manager.register(registration).unwrap();
    }

    fn beat(&self, number: usize, wants_report_lease: bool) -> HeartbeatReply {
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

    fn heartbeat(&mut self, number: usize) {
        let reply = self.beat(number, false);
        self.obey(number, reply);
    }

    /// Carries out a heartbeat's commands at once.
    fn obey(&mut self, number: usize, reply: HeartbeatReply) {
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

    fn copy(&mut self, from: usize, to: usize, block: &Block) {
        let source = self.datanodes[from].replicas.get(&block.id).copied();
        let fits = source == Some((*block, ReplicaState::Finalized))
            && !self.datanodes[from].rotten.contains(&block.id);
        let target = &mut self.datanodes[to];
        if fits && target.alive && !target.replicas.contains_key(&block.id) {
            target.finalize(*block);
        }
    }

    /// A datanode deletes what has the very generation stamp of the order; never what is needed.
    fn delete_replica(&mut self, number: usize, order: &Block) {
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

    fn is_good(&self, number: usize, id: BlockId) -> bool {
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
    fn good_replicas(&self, id: BlockId) -> usize {
        let alive = (0..self.datanodes.len()).filter(|number| self.datanodes[*number].alive);
        alive.filter(|number| self.is_good(*number, id)).count()
    }

    fn heartbeats(&mut self) {
        for number in 0..self.datanodes.len() {
            if self.datanodes[number].alive {
                self.heartbeat(number);
            }
        }
    }

    /// Seconds in which every datanode beats and every report arrives.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(1000);
            self.heartbeats();
            self.deliver_all();
            while self.manager.tick() {}
        }
    }

    fn send_full_report(&mut self, number: usize) {
        let reply = self.beat(number, true);
        let lease = reply.report_lease;
        self.obey(number, reply);
        let datanode = &mut self.datanodes[number];
        let replicas = datanode.replicas.values().copied().collect();
        datanode.outbox.push(Message::Full { lease, replicas });
    }

    fn report_all(&mut self) {
        for number in 0..self.datanodes.len() {
            self.send_full_report(number);
            self.deliver_all();
        }
    }

    fn deliver(&self, number: usize, message: Message) {
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

    fn deliver_all(&mut self) {
        for number in 0..self.datanodes.len() {
            for message in std::mem::take(&mut self.datanodes[number].outbox) {
                self.deliver(number, message);
            }
        }
    }

    /// A complete block with replicas on `holders`, reported by all of them once delivered.
    fn write(&mut self, holders: &[usize], replication: u16) -> BlockId {
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

    fn complete(&self, block: Block, replication: u16) {
        let complete = stored(block, BlockState::Complete, replication);
        self.namespace.blocks.lock().insert(block.id, complete);
        self.manager.block_completed(&complete);
    }

    /// Appends to a block wherever it is held: a new generation stamp and one byte more.
    fn append(&mut self, id: BlockId) {
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

    fn delete(&mut self, id: BlockId) {
        self.namespace.blocks.lock().remove(&id);
        self.manager.remove_blocks(&[id]);
    }

    fn set_replication(&mut self, id: BlockId, replication: u16) {
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
    fn rot(&mut self, number: usize, id: BlockId) {
        self.datanodes[number].rotten.insert(id);
        let (Block { generation_stamp, .. }, _) = self.datanodes[number].replicas[&id];
        let block = ExtendedBlockProto {
            pool_id: "BP-1".to_owned(),
            block_id: id.0,
            generation_stamp: generation_stamp.0,
            num_bytes: None,
        };
        self.manager.report_bad_replica(&block, &self.datanodes[number].uuid);
    }

    fn target(&self, number: usize) -> StorageTarget {
        let storage = self.datanodes[number].storage().storage_uuid;
        self.manager.target(&self.datanodes[number].uuid, &storage).unwrap()
    }

    fn kill(&mut self, number: usize) {
        self.datanodes[number].alive = false;
        self.datanodes[number].outbox.clear();
    }

    fn known_locations(&self, id: BlockId) -> BTreeSet<String> {
        let stored = self.namespace.stored_block(id).unwrap();
        let (targets, corrupt) = self.manager.locations(&stored, LOCALHOST);
        assert!(!corrupt);
        targets.iter().map(|target| target.datanode_uuid.to_string()).collect()
    }

    /// What the namenode believes is true, and every block has as many replicas as it asks for.
    fn assert_healthy(&self) {
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
    fn storage(&self) -> DatanodeStorageProto {
        DatanodeStorageProto {
            storage_uuid: format!("DS-{}", self.port),
            state: None,
            storage_type: None,
        }
    }

    fn begin(&mut self, block: Block) {
        self.replicas.insert(block.id, (block, ReplicaState::Rbw));
        self.outbox.push(Message::Change(block, BlockStatus::Receiving, None));
    }

    fn finalize(&mut self, block: Block) {
        self.replicas.insert(block.id, (block, ReplicaState::Finalized));
        self.outbox.push(Message::Change(block, BlockStatus::Received, None));
    }
}

#[test]
fn a_dead_datanodes_blocks_are_copied_until_each_has_its_replicas_again() {
    let mut world = World::new(4, 1);
    for number in 0..20 {
        world.write(&[number % 4, (number + 1) % 4, (number + 2) % 4], 3);
    }
    world.pass(2);
    world.assert_healthy();
    world.kill(1);
    world.pass(13);
    assert_eq!(world.manager.live_datanodes(), 4);
    world.pass(2);
    assert_eq!(world.manager.live_datanodes(), 3);
    world.pass(10);
    world.assert_healthy();

    // It comes back with all it had: the copies too many are removed, again to three each.
    world.datanodes[1].alive = true;
    world.pass(15);
    world.assert_healthy();
    assert_eq!(world.manager.live_datanodes(), 4);
}

#[test]
fn a_block_with_one_replica_left_is_copied_before_one_with_two() {
    let mut world = World::new(6, 1);
    let two = world.write(&[0, 2, 3], 3);
    let one = world.write(&[0, 1, 4], 3);
    world.pass(2);
    world.kill(0);
    world.kill(1);
    for _ in 0..20 {
        world.pass(1);
        if world.good_replicas(one) + world.good_replicas(two) > 3 {
            break;
        }
    }
    // One replica of each is on its way in the first round; had it room for one only, that of `one`.
    assert!(world.good_replicas(one) > 1);
    world.pass(20);
    world.assert_healthy();
}

#[test]
fn copies_are_ordered_at_a_bounded_rate() {
    let mut world = World::new(3, 1);
    for _ in 0..50 {
        world.write(&[0, 1], 2);
    }
    world.pass(2);
    world.kill(0);
    for _ in 0..20 {
        world.clock.advance(1000);
        while world.manager.tick() {}
        for number in [1, 2] {
            let sent = world.beat(number, false).transfers.len();
            // dfs.namenode.replication.max-streams
            assert!(sent <= 2, "{sent} copies with one heartbeat");
        }
    }
    // What was ordered counts as on its way, the rest waits at the highest risk.
    let stats = world.manager.fs_stats();
    assert!(stats.under_replicated > 0);
    assert_eq!(stats.highest_priority_low_redundancy_blocks, stats.under_replicated);
}

#[test]
fn an_order_that_nobody_carries_out_is_given_again_after_its_timeout() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1], 2);
    world.pass(2);
    world.kill(0);
    let mut orders = Vec::new();
    for second in 0..60 {
        world.clock.advance(1000);
        world.manager.tick();
        for number in [1, 2] {
            let transfers = world.beat(number, false).transfers;
            orders.extend(transfers.iter().map(|_| second));
        }
    }
    assert!(orders.len() >= 2, "{orders:?}");
    assert!(orders.windows(2).all(|pair| pair[1] - pair[0] >= 20), "{orders:?}");
    world.copy(1, 2, &block(id.0, 1001, BLOCK_BYTES));
    world.pass(2);
    world.assert_healthy();
}

#[test]
fn lowering_the_replication_deletes_the_replicas_with_the_least_space() {
    let mut world = World::new(4, 1);
    for _ in 0..10 {
        world.write(&[0], 1);
    }
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.set_replication(id, 2);
    world.pass(2);
    assert!(!world.is_good(0, id), "the fullest datanode keeps it");
    world.assert_healthy();
    world.set_replication(id, 4);
    world.pass(15);
    world.assert_healthy();
}

#[test]
fn a_balancers_hint_says_which_replica_goes() {
    let mut world = World::new(4, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    let replica = block(id.0, 1001, BLOCK_BYTES);
    world.datanodes[3].replicas.insert(id, (replica, ReplicaState::Finalized));
    let hint = Some(world.datanodes[2].uuid.clone());
    world.deliver(3, Message::Change(replica, BlockStatus::Received, hint));
    world.pass(1);
    assert!(!world.is_good(2, id));
    world.assert_healthy();
}

#[test]
fn a_corrupt_replica_goes_only_once_enough_good_ones_exist() {
    let mut world = World::new(4, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.rot(1, id);
    assert_eq!(world.manager.fs_stats().corrupt_blocks, 1);
    assert_eq!(world.known_locations(id).len(), 2);
    // Reporting it does not make it good.
    world.report_all();
    assert_eq!(world.known_locations(id).len(), 2);
    assert!(world.beat(1, false).invalidations.is_empty());
    world.pass(5);
    assert!(!world.datanodes[1].replicas.contains_key(&id));
    world.assert_healthy();

    // The last replicas are all bad: they are named, as corrupt, and stay.
    let single = world.write(&[0], 1);
    world.pass(2);
    world.rot(0, single);
    world.pass(5);
    let stored = world.namespace.stored_block(single).unwrap();
    let (targets, corrupt) = world.manager.locations(&stored, LOCALHOST);
    assert!(corrupt && targets.len() == 1);
    assert!(world.datanodes[0].replicas.contains_key(&single));
    assert_eq!(world.manager.fs_stats().missing_blocks, 1);
    assert_eq!(world.manager.fs_stats().missing_replication_one_blocks, 1);
    assert_eq!(world.manager.missing_blocks_after(None, 10), [single]);
}

#[test]
fn on_as_many_datanodes_as_replicas_a_bad_one_makes_room_for_a_good_one() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.rot(2, id);
    world.pass(20);
    world.assert_healthy();
}

#[test]
fn replicas_of_deleted_and_of_unknown_blocks_are_deleted_but_not_those_from_the_future() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.delete(id);
    world.pass(2);
    assert!(world.datanodes.iter().all(|datanode| datanode.replicas.is_empty()));

    let unknown = block(900, 1001, 7);
    let future = block(901, 5001, 7);
    world.datanodes[0].replicas.insert(unknown.id, (unknown, ReplicaState::Finalized));
    world.datanodes[0].replicas.insert(future.id, (future, ReplicaState::Finalized));
    world.report_all();
    world.pass(2);
    assert_eq!(world.datanodes[0].replicas.keys().collect::<Vec<_>>(), [&future.id]);
    assert_eq!(world.manager.fs_stats().blocks_in_future, 1);
}

#[test]
fn outdated_replicas_go_as_soon_as_there_is_a_good_one() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.kill(2);
    let before = world.datanodes[2].replicas.clone();
    world.append(id);
    world.datanodes[2].replicas = before;
    world.datanodes[2].outbox.clear();
    world.pass(20);
    assert_eq!(world.good_replicas(id), 2);
    // It comes back with the replica of before the append.
    world.datanodes[2].alive = true;
    world.pass(15);
    world.assert_healthy();
}

#[test]
fn start_up_waits_for_reports_and_then_finds_what_is_missing() {
    let complete = |id| stored(block(id, 1001, BLOCK_BYTES), BlockState::Complete, 2);
    let blocks: Vec<StoredBlock> = (1..=10).map(complete).collect();
    let mut world = World::starting(blocks, 3, 1);
    world.next_block = 11;
    let give = |world: &mut World, number: usize, ids: std::ops::RangeInclusive<u64>| {
        for id in ids {
            let replica = block(id, 1001, BLOCK_BYTES);
            let replicas = &mut world.datanodes[number].replicas;
            replicas.insert(replica.id, (replica, ReplicaState::Finalized));
        }
    };
    give(&mut world, 0, 1..=8);
    give(&mut world, 0, 100..=100);
    give(&mut world, 1, 1..=9);
    world.pass(5);
    assert!(world.manager.safe_mode().is_on());
    world.send_full_report(0);
    world.pass(5);
    let tip = world.manager.safe_mode().status_text();
    assert!(tip.starts_with("The reported blocks 8 needs additional 1 blocks"), "{tip}");
    assert!(world.datanodes[0].replicas.contains_key(&BlockId(100)), "nothing is deleted yet");

    world.send_full_report(1);
    world.pass(2);
    assert!(world.manager.safe_mode().is_on(), "in its extension");
    world.pass(10);
    assert!(!world.manager.safe_mode().is_on());
    assert!(!world.datanodes[0].replicas.contains_key(&BlockId(100)));
    assert_eq!(world.good_replicas(BlockId(9)), 2);
    assert_eq!(world.manager.missing_blocks_after(None, 10), [BlockId(10)]);
}

#[test]
fn a_recovery_is_led_by_another_datanode_each_time_and_sent_alone() {
    let mut world = World::new(3, 1);
    let open = stored(block(50, 1001, 0), BlockState::UnderConstruction, 3);
    world.namespace.blocks.lock().insert(open.block.id, open);
    let request = RecoveryRequest {
        block: open.block,
        recovery_id: GenerationStamp(1002),
        truncate_to: None,
    };
    assert!(!world.manager.queue_recovery(&request), "nobody has it");
    let targets: Vec<StorageTarget> = (0..3).map(|number| world.target(number)).collect();
    world.manager.set_expected(open.block.id, targets);
    let other = world.write(&[0, 1, 2], 3);
    world.deliver_all();
    world.delete(other);

    let mut led_by = BTreeSet::new();
    for stamp in 1002..1005 {
        let request = RecoveryRequest { recovery_id: GenerationStamp(stamp), ..request };
        assert!(world.manager.queue_recovery(&request));
        for number in 0..3 {
            let reply = world.beat(number, false);
            if let [recovery] = &reply.recoveries[..] {
                assert!(reply.invalidations.is_empty());
                assert_eq!(recovery.new_gen_stamp, stamp);
                assert_eq!(recovery.block.locs.len(), 3);
                assert_eq!(recovery.block.storage_ids.len(), 3);
                led_by.insert(number);
            }
        }
    }
    assert_eq!(led_by.len(), 3);
}

#[test]
fn a_recoverys_outcome_replaces_what_was_known() {
    let mut world = World::new(3, 1);
    let open = stored(block(50, 1001, 0), BlockState::UnderConstruction, 3);
    world.namespace.blocks.lock().insert(open.block.id, open);
    world.manager.set_expected(open.block.id, (0..3).map(|number| world.target(number)).collect());
    for number in 0..3 {
        world.datanodes[number].begin(block(50, 1001, 40 + number as u64));
    }
    world.pass(1);
    let recovered = block(50, 1002, 40);
    for number in 0..2 {
        world.datanodes[number].replicas.insert(recovered.id, (recovered, ReplicaState::Finalized));
    }
    let complete = stored(recovered, BlockState::Complete, 2);
    world.namespace.blocks.lock().insert(recovered.id, complete);
    world.manager.synchronized(&complete, vec![world.target(0), world.target(1)]);
    assert_eq!(world.manager.finalized_replicas(&recovered), 2);
    // The third one's old replica is told when it reports next.
    world.report_all();
    world.pass(3);
    world.assert_healthy();
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_block_ends_with_its_report() {
    let mut world = World::new(1, 1);
    let id = BlockId(7);
    let full = block(7, 1001, BLOCK_BYTES);
    let committed = stored(full, BlockState::Committed, 1);
    world.namespace.blocks.lock().insert(id, committed);
    world.manager.set_expected(id, vec![world.target(0)]);
    assert!(!world.manager.wait_finalized(&full, 1, Duration::from_secs(2)).await);

    let manager = world.manager.clone();
    let waiting =
        tokio::spawn(async move { manager.wait_finalized(&full, 1, Duration::from_secs(2)).await });
    tokio::task::yield_now().await;
    let begun = tokio::time::Instant::now();
    world.datanodes[0].finalize(full);
    world.deliver_all();
    assert!(waiting.await.unwrap());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[test]
fn a_datanode_without_registration_is_asked_for_it_and_its_reports_are_refused() {
    let mut world = World::new(1, 1);
    world.write(&[0], 1);
    world.pass(1);
    let stranger = world.manager.heartbeat("stranger", &Heartbeat::default());
    assert!(stranger.register && stranger.report_lease == 0);
    let error = world.manager.incremental_report("stranger", &[]);
    assert!(error.is_ok(), "nothing to report");
    let report = StorageReceivedDeletedBlocksProto {
        storage_uuid: "DS-x".to_owned(),
        blocks: vec![ReceivedDeletedBlockInfoProto::default()],
        storage: None,
    };
    let error = world.manager.incremental_report("stranger", &[report]).unwrap_err().to_string();
    assert!(error.starts_with("ProcessReport from dead or unregistered node"), "{error}");
}

#[test]
fn another_datanode_at_the_same_address_replaces_the_first() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1], 2);
    world.pass(2);
    world.datanodes[0].uuid = "node-0-anew".to_owned();
    world.datanodes[0].replicas.clear();
    world.register(0);
    assert_eq!(world.manager.live_datanodes(), 3);
    assert_eq!(world.manager.datanode_report(DatanodeReportTypeProto::All).len(), 3);
    assert!(world.manager.datanode_info("node-0").is_none());
    assert_eq!(world.known_locations(id).len(), 1);
    world.send_full_report(0);
    world.pass(5);
    world.assert_healthy();
}

#[test]
fn a_late_report_does_not_bring_back_a_replica_that_a_full_report_no_longer_had() {
    let mut world = World::new(3, 1);
    let id = world.write(&[0, 1, 2], 3);
    world.pass(2);
    world.set_replication(id, 2);
    world.clock.advance(1000);
    world.heartbeats();
    let deleted_by = (0..3).find(|number| !world.is_good(*number, id)).unwrap();
    // Its confirmation is overtaken by a full report, and by a repetition of its first report.
    let confirmation = std::mem::take(&mut world.datanodes[deleted_by].outbox);
    world.clock.advance(1000);
    world.send_full_report(deleted_by);
    world.deliver_all();
    let received = block(id.0, 1001, BLOCK_BYTES);
    world.deliver(deleted_by, Message::Change(received, BlockStatus::Received, None));
    assert_eq!(world.known_locations(id).len(), 2);
    for message in confirmation {
        world.deliver(deleted_by, message);
    }
    world.pass(2);
    world.assert_healthy();
}

/// What may happen to a cluster whose reports do not keep their order.
#[derive(Clone, Debug)]
enum Event {
    Write(usize),
    Append(usize),
    Delete(usize),
    LowerReplication(usize),
    FullReport(usize),
    Restart(usize),
    Heartbeat(usize),
    /// The message at this place of a datanode's outbox arrives, and perhaps stays to arrive again.
    Arrive {
        datanode: usize,
        place: usize,
        again: bool,
    },
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any::<usize>().prop_map(Event::Write),
        2 => any::<usize>().prop_map(Event::Append),
        1 => any::<usize>().prop_map(Event::Delete),
        2 => any::<usize>().prop_map(Event::LowerReplication),
        2 => (0usize..5).prop_map(Event::FullReport),
        1 => (0usize..5).prop_map(Event::Restart),
        6 => (0usize..5).prop_map(Event::Heartbeat),
        14 => (0usize..5, any::<usize>(), prop::bool::weighted(0.3))
            .prop_map(|(datanode, place, again)| Event::Arrive { datanode, place, again }),
        3 => (1u64..4).prop_map(Event::Pass),
    ]
}

impl World {
    fn pick(&self, number: usize) -> Option<BlockId> {
        let blocks = self.namespace.blocks.lock();
        blocks.keys().nth(number % blocks.len().max(1)).copied()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write(number) => {
                let holders: Vec<usize> = (0..3).map(|index| (number % 5 + index) % 5).collect();
                self.write(&holders, 3);
            }
            Event::Append(number) => {
                if let Some(id) = self.pick(number) {
                    self.append(id);
                }
            }
            Event::Delete(number) => {
                if let Some(id) = self.pick(number) {
                    self.delete(id);
                }
            }
            Event::LowerReplication(number) => {
                if let Some(id) = self.pick(number) {
                    let replication = self.namespace.stored_block(id).unwrap().replication;
                    self.set_replication(id, (replication - 1).max(1));
                }
            }
            Event::FullReport(number) => self.send_full_report(number),
            Event::Restart(number) => {
                self.register(number);
                self.send_full_report(number);
            }
            Event::Heartbeat(number) => self.heartbeat(number),
            Event::Arrive { datanode, place, again } => {
                let outbox = &mut self.datanodes[datanode].outbox;
                if outbox.is_empty() {
                    return;
                }
                let place = place % outbox.len();
                let message = if again { outbox[place].clone() } else { outbox.remove(place) };
                self.deliver(datanode, message);
            }
            Event::Pass(seconds) => {
                for _ in 0..seconds {
                    self.clock.advance(1000);
                    while self.manager.tick() {}
                }
                // Nobody dies of what is not tested here.
                for number in 0..self.datanodes.len() {
                    self.heartbeat(number);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// [`World::delete_replica`] watches over every deletion.
    #[test]
    fn reports_in_any_order_never_cost_a_replica_that_is_needed(
        seed in any::<u64>(), events in vec(event(), 1..120),
    ) {
        let mut world = World::new(5, seed);
        for event in events {
            world.happen(event);
        }
        // All that is still on its way arrives, then everybody reports in full: what is believed is
        // true in the end, and every block is healthy.
        world.deliver_all();
        world.pass(25);
        world.report_all();
        world.pass(45);
        world.assert_healthy();
    }
}

//! What must hold at every step, looked at from above: the namenode's books against what lies on the
//! disks of all machines, running or not.
//!
//! | when | what |
//! |---|---|
//! | an hflush or hsync returns | each datanode of the pipeline has the bytes, under the block's stamp or that of a recovery since, with their checksums; after an hsync a loss of power would leave them |
//! | every few seconds | a replica with the promised bytes of each block lies somewhere |
//! | a reader was given bytes | nobody was ever given others for that block, stamp and offset |
//! | a datanode has deleted a replica | there are still as many good ones as is safe |
//! | at the end, in peace | what the namenode counts for a good replica is one; no block lacks any; no file is open |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ringfs_namenode::namesystem::Namesystem;
use ringfs_namenode::simulation::{self as namenode, SettledBlock};
use ringfs_protocol::block::{Block, BlockId, ExtendedBlock, GenerationStamp};
use ringfs_protocol::messages::LocatedBlockProto;
use ringfs_protocol::messages::ReportBadBlocksRequestProto;
use ringfs_protocol::meta_file::{self, DatanodeLayout, META_HEADER_BYTES, ReplicaFile};

use crate::disk::Disk;
use crate::kernel::DESCRIPTORS;
use crate::workload::{Oracle, Promise};
use crate::world::{self, Host, World};

/// How deep deletions by the namenode may bring the number of good replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Floor {
    /// Disks keep what they have: never below the block's replication.
    #[default]
    Replication,
    /// Disks lose what the namenode still counts on: one must be left.
    One,
}

#[derive(Default)]
pub struct Watch {
    pub root: PathBuf,
    pub floor: Mutex<Floor>,
    pub namesystem: Mutex<Weak<Namesystem>>,
    /// Blocks of which the replica on that machine has rotted.
    rotten: Mutex<BTreeSet<(BlockId, String)>>,
    /// Rot that a datanode's process has told of: from then on no namenode counts on that replica, for
    /// the process tells each one before it reports.
    told: Mutex<BTreeSet<(BlockId, GenerationStamp, Host)>>,
    served: Mutex<BTreeMap<(BlockId, GenerationStamp), Served>>,
    /// Blocks that lay only on a disk when it failed.
    given_up: Mutex<BTreeSet<BlockId>>,
    /// Blocks that were cut, and the stamp that they have had since.
    cut: Mutex<BTreeMap<BlockId, GenerationStamp>>,
}

/// Each byte of a block that somebody was given.
type Served = Vec<Option<u8>>;

/// A replica by its files.
struct Found {
    machine: String,
    stamp: GenerationStamp,
    is_finalized: bool,
    data: PathBuf,
    meta: PathBuf,
}

impl Watch {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }

    fn namenode(&self) -> Option<Arc<Namesystem>> {
        self.namesystem.lock().upgrade()
    }

    /// A recovery cut a replica. Who knows the block by an older stamp is served what is there under
    /// newer ones, and where it grew again after a truncate that differs.
    pub fn cut(&self, block: Block) {
        self.cut.lock().insert(block.id, block.generation_stamp);
    }

    /// A reader was given `bytes`: what is wrong with that.
    pub fn served(&self, block: Block, offset_bytes: u64, bytes: &[u8]) -> Option<String> {
        if self.cut.lock().get(&block.id).is_some_and(|stamp| block.generation_stamp < *stamp) {
            return None;
        }
        let mut served = self.served.lock();
        let known = served.entry((block.id, block.generation_stamp)).or_default();
        let start = offset_bytes as usize;
        known.resize(known.len().max(start + bytes.len()), None);
        let differs = |(known, byte): (&Option<u8>, &u8)| known.is_some_and(|known| known != *byte);
        let at = known[start..].iter().zip(bytes).position(differs);
        for (known, byte) in known[start..].iter_mut().zip(bytes) {
            known.get_or_insert(*byte);
        }
        at.map(|at| format!("two different bytes were served for {block} at {}", start + at))
    }

    fn machines(&self) -> usize {
        let names = fs::read_dir(&self.root).into_iter().flatten().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with("dn")).count()
    }

    /// A datanode has deleted a replica: whether too few are left.
    pub fn deleted(&self, deleted: Block) -> Option<String> {
        let settled = namenode::settled_blocks(&*self.namenode()?);
        let settled = settled.into_iter().find(|settled| settled.block.id == deleted.id)?;
        let block = settled.block;
        if block.generation_stamp != deleted.generation_stamp {
            return None;
        }
        let floor = *self.floor.lock();
        // Where power is lost, what nobody synced may be torn everywhere.
        let good = match floor {
            Floor::Replication => self.good_replicas(block),
            Floor::One => self.whole_replicas(block),
        };
        let left = good.len();
        let counted: Vec<String> = settled.datanodes.iter().map(|uuid| machine_of(uuid)).collect();
        // What no namenode can know: rot that the datanode has not found and told of yet.
        let whole = self.whole_replicas(block);
        let is_hidden = |machine: &&String| {
            whole.contains(machine)
                && !good.contains(machine)
                && self.is_rotten(block.id, machine)
                && !self.is_told(block, machine)
        };
        let hidden = counted.iter().filter(is_hidden).count();
        let has_rotted = self.rotten.lock().iter().any(|(id, _)| *id == block.id);
        let was_good = block.num_bytes == deleted.num_bytes && !has_rotted;
        // Where every other datanode has a rotten one, one of these has to make room for a copy.
        let is_everywhere = !was_good && self.replicas_of(block.id).len() + 1 >= self.machines();
        let safe = match (floor, was_good) {
            (Floor::Replication, true) => settled.replication,
            (Floor::Replication, false) if is_everywhere => 1,
            (Floor::Replication, false) => settled.replication.min(2),
            (Floor::One, _) => 1,
        };
        (left + hidden < safe || left == 0).then(|| {
            format!(
                "a deletion leaves {left} good replicas of {block}, not {safe}: at {good:?}, the \
                 namenode counts on {counted:?}"
            )
        })
    }

    /// A bit of the block's replica on `machine` has changed.
    pub fn rotted(&self, id: BlockId, machine: &str) {
        self.rotten.lock().insert((id, machine.to_owned()));
        self.told.lock().retain(|(told, _, host)| (*told, world::machine(host)) != (id, machine));
    }

    fn is_rotten(&self, id: BlockId, machine: &str) -> bool {
        self.rotten.lock().contains(&(id, machine.to_owned()))
    }

    /// The namenode has answered `host` that it knows of rot in these replicas.
    pub fn told_of_rot(&self, host: &str, request: &ReportBadBlocksRequestProto) {
        let told = request.blocks.iter().map(|replica| ExtendedBlock::from(&replica.b).block);
        let told = told.map(|block| (block.id, block.generation_stamp, host.to_owned()));
        self.told.lock().extend(told);
    }

    /// With it goes what it knew.
    pub fn process_ended(&self, process: &str) {
        self.told.lock().retain(|(.., host)| host != process);
    }

    fn is_told(&self, block: Block, machine: &str) -> bool {
        let is_it = |(id, stamp, host): &(BlockId, GenerationStamp, Host)| {
            (*id, *stamp) == (block.id, block.generation_stamp) && world::machine(host) == machine
        };
        self.told.lock().iter().any(is_it)
    }

    /// Bytes of `path` up to `end` are acknowledged, and durable if `synced`: who lacks them.
    pub fn acknowledged(
        &self,
        world: &World,
        path: &str,
        content: &[u8],
        synced: bool,
    ) -> Option<String> {
        let located = namenode::located(&self.namenode()?, path)?;
        let open = located.last_block.filter(|_| !located.is_last_block_complete)?;
        let block = ExtendedBlock::from(&open.b).block;
        let acked = content.get(open.offset as usize..).filter(|acked| !acked.is_empty())?;
        let state = world.state();
        for datanode in &open.locs {
            let machine = machine_of(&datanode.id.datanode_uuid);
            if self.is_rotten(block.id, &machine) {
                continue;
            }
            let found = self.replicas_of(block.id);
            let found = found
                .iter()
                .find(|found| found.machine == machine && found.stamp >= block.generation_stamp);
            let Some(found) = found else {
                return Some(format!("{machine} has no replica of {block} at an ack for {path}"));
            };
            let lacks = match (synced, state.disks.get(&machine)) {
                (true, Some(disk)) => found.lacks_durably(disk, block.generation_stamp, acked),
                _ => found.lacks(acked),
            };
            if let Some(what) = lacks {
                let how = if synced { "synced" } else { "flushed" };
                return Some(format!("{machine}: {what} of {block}, {how} for {path}"));
            }
        }
        None
    }

    /// What is promised of the files, and lies on no disk.
    pub fn lost(&self, oracle: &Oracle, promise: Promise) -> Option<String> {
        let namesystem = self.namenode()?;
        for file in oracle.lock().iter() {
            let least = file.promised(promise);
            let Some(located) = namenode::located(&namesystem, &file.path) else { continue };
            for block in &located.blocks {
                let (id, start) = (ExtendedBlock::from(&block.b).block.id, block.offset as usize);
                let is_last = located.last_block.as_ref().is_some_and(|last| last.b == block.b);
                let len = if is_last { file.block_size } else { block.b.num_bytes() as usize };
                for range in file.promised_ranges(promise) {
                    let within = range.start.max(start)..range.end.min(least).min(start + len);
                    if within.is_empty() {
                        continue;
                    }
                    let bytes = &file.content[within.clone()];
                    let at = within.start - start..within.end - start;
                    let replicas = self.replicas_of(id);
                    if !replicas.iter().any(|found| found.has(at.clone(), bytes)) {
                        return Some(format!("no disk has {} in {within:?} any more", file.path));
                    }
                }
            }
        }
        None
    }

    /// The disk of `machine` fails. Where a pipeline had lost all others and no copy was made yet, it
    /// has the only replica: nothing from there on is promised any longer. `false` without a namenode to
    /// ask.
    pub fn give_up_what_is_only_at(&self, machine: &str, oracle: &Oracle) -> bool {
        let Some(namesystem) = self.namenode() else { return false };
        for file in oracle.lock().iter_mut() {
            let located = namenode::located(&namesystem, &file.path);
            let blocks = located.map(|located| located.blocks).unwrap_or_default();
            let is_only_there = |block: &&LocatedBlockProto| {
                let wanted = block_of(block);
                let mut replicas = self.replicas_of(wanted.id);
                replicas.retain(|found| found.stamp >= wanted.generation_stamp);
                !replicas.is_empty() && replicas.iter().all(|found| found.machine == machine)
            };
            let given_up: Vec<&LocatedBlockProto> = blocks.iter().filter(is_only_there).collect();
            if let Some(first) = given_up.first() {
                file.give_up_from(first.offset as usize);
            }
            self.given_up.lock().extend(given_up.into_iter().map(|block| block_of(block).id));
        }
        true
    }

    /// Whether some of the file lay only on a disk when it failed, so that it may end in rot.
    pub fn has_given_up_some_of(&self, path: &str) -> bool {
        let located = self.namenode().and_then(|namesystem| namenode::located(&namesystem, path));
        let blocks = located.map(|located| located.blocks).unwrap_or_default();
        let given_up = self.given_up.lock();
        blocks.iter().any(|block| given_up.contains(&block_of(block).id))
    }

    /// As far as the namenode knows the file to be written.
    pub fn recorded_len(&self, path: &str) -> usize {
        let located = self.namenode().and_then(|namesystem| namenode::located(&namesystem, path));
        let blocks = located.map(|located| located.blocks).unwrap_or_default();
        blocks.iter().map(|block| block.b.num_bytes() as usize).sum()
    }

    /// After faults have long ended: what is not as the namenode takes it to be.
    pub fn at_peace(&self, promise: Promise, datanodes: usize) -> Vec<String> {
        let Some(namesystem) = self.namenode() else {
            return vec!["the namenode does not run".to_owned()];
        };
        let mut wrong = Vec::new();
        for SettledBlock { block, replication, datanodes: holders } in
            namenode::settled_blocks(&namesystem)
        {
            let good = self.good_replicas(block);
            for uuid in &holders {
                let machine = machine_of(uuid);
                if !good.contains(&machine) {
                    wrong.push(format!("the namenode counts on {block} at {machine} in vain"));
                }
            }
            // What nobody synced may be gone with the power, or with its only disk.
            let is_given_up = self.given_up.lock().contains(&block.id);
            let may_be_gone = holders.is_empty() && (promise == Promise::Synced || is_given_up);
            if holders.len() < replication.min(datanodes) && !may_be_gone {
                let count = holders.len();
                wrong.push(format!("{block} has {count} replicas of {replication} in the end"));
            }
        }
        wrong
    }

    /// Descriptors of this process on files of datanode `number`, its lock apart.
    pub fn open_files(&self, number: usize) -> usize {
        let root = self.root.join(format!("dn{number}"));
        let _alone = DESCRIPTORS.lock();
        let descriptors = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        files.filter(|file| file.starts_with(&root) && !file.ends_with("in_use.lock")).count()
    }

    /// Machines with a finalized replica of this stamp and length whose checksums are right.
    pub fn good_replicas(&self, block: Block) -> Vec<String> {
        let is_good = |found: &Found| {
            found.is_finalized
                && found.stamp == block.generation_stamp
                && found.is_verified(block.num_bytes)
        };
        let replicas = self.replicas_of(block.id).into_iter().filter(is_good);
        replicas.map(|found| found.machine).collect()
    }

    /// Machines with a finalized replica of this stamp and length.
    fn whole_replicas(&self, block: Block) -> Vec<String> {
        let is_whole = |found: &Found| {
            let len = fs::metadata(&found.data).map_or(0, |data| data.len());
            found.is_finalized && found.stamp == block.generation_stamp && len == block.num_bytes
        };
        let replicas = self.replicas_of(block.id).into_iter().filter(is_whole);
        replicas.map(|found| found.machine).collect()
    }

    /// The data file of a finalized replica, to be spoilt.
    pub fn data_file(&self, block: Block, machine: &str) -> Option<PathBuf> {
        let mut replicas = self.replicas_of(block.id).into_iter();
        let held = replicas.find(|found| found.machine == machine && found.is_finalized);
        held.map(|found| found.data)
    }

    /// Blocks whose stamp and length are final, as far as the namenode runs.
    pub fn settled(&self) -> Vec<SettledBlock> {
        self.namenode().map_or_else(Vec::new, |namesystem| namenode::settled_blocks(&namesystem))
    }

    fn replicas_of(&self, id: BlockId) -> Vec<Found> {
        let mut found = Vec::new();
        for number in 0.. {
            let machine = format!("dn{number}");
            let pool = self.root.join(&machine).join("current").join(namenode::POOL_ID);
            if !self.root.join(&machine).exists() {
                return found;
            }
            let blocks = pool.join("current");
            let finalized = blocks.join("finalized").join(DatanodeLayout::V57.block_dir(id));
            let rbw = blocks.join("rbw");
            for (directory, other) in [(&finalized, &rbw), (&rbw, &finalized)] {
                let data = directory.join(meta_file::block_file_name(id));
                if !data.exists() {
                    continue;
                }
                // Who dies between two renames leaves a half-moved replica, which its next start mends.
                let (own, half_moved) = (meta_in(directory, id), meta_in(other, id));
                let is_finalized = own.is_some() && *directory == finalized;
                if let Some((stamp, meta)) = own.or(half_moved) {
                    let machine = machine.clone();
                    found.push(Found { machine, stamp, is_finalized, data, meta });
                }
            }
        }
        unreachable!("a search without an end")
    }
}

impl Found {
    fn has(&self, range: Range<usize>, bytes: &[u8]) -> bool {
        fs::read(&self.data).is_ok_and(|data| data.get(range) == Some(bytes))
    }

    fn is_verified(&self, len: u64) -> bool {
        let (Ok(data), Ok(meta)) = (fs::read(&self.data), fs::read(&self.meta)) else {
            return false;
        };
        data.len() as u64 == len && checksums_fit(&data, &meta)
    }

    /// What is missing of `acked` for a reader.
    fn lacks(&self, acked: &[u8]) -> Option<&'static str> {
        let (Ok(data), Ok(meta)) = (fs::read(&self.data), fs::read(&self.meta)) else {
            return Some("the files");
        };
        lacks(&data, &meta, acked)
    }

    /// As long as the namenode knows of no newer one, the stamp of before a recovery will do.
    fn lacks_durably(
        &self,
        disk: &Disk,
        stamp: GenerationStamp,
        acked: &[u8],
    ) -> Option<&'static str> {
        match (disk.durable(&self.data), disk.durable(&self.meta)) {
            (Ok(Some((_, data))), Ok(Some((name, meta)))) if stamp_of(&name) >= Some(stamp) => {
                lacks(&data, &meta, acked)
            }
            (Ok(_), Ok(_)) => Some("a durable name"),
            _ => Some("the files"),
        }
    }
}

fn lacks(data: &[u8], meta: &[u8], acked: &[u8]) -> Option<&'static str> {
    if data.get(..acked.len()) != Some(acked) {
        return Some("bytes are missing");
    }
    (!checksums_fit(&data[..acked.len()], meta)).then_some("checksums are missing")
}

/// Whether `meta` begins with the checksums of exactly `data`.
fn checksums_fit(data: &[u8], meta: &[u8]) -> bool {
    let Some((header, checksums)) = meta.split_first_chunk::<META_HEADER_BYTES>() else {
        return false;
    };
    let Ok(checksum) = meta_file::decode_meta_header(header) else { return false };
    let checksums = checksums.get(..checksum.checksums_len(data.len() as u64) as usize);
    checksums.is_some_and(|checksums| checksum.verify(data, checksums).is_ok())
}

fn meta_in(directory: &Path, id: BlockId) -> Option<(GenerationStamp, PathBuf)> {
    let mut newest: BTreeMap<GenerationStamp, PathBuf> = BTreeMap::new();
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let name = entry.file_name();
        if let Some(ReplicaFile::Meta(found, stamp)) =
            name.to_str().and_then(meta_file::parse_replica_file_name)
            && found == id
        {
            newest.insert(stamp, entry.path());
        }
    }
    newest.pop_last()
}

/// Of a meta file.
fn stamp_of(path: &Path) -> Option<GenerationStamp> {
    match meta_file::parse_replica_file_name(path.file_name()?.to_str()?) {
        Some(ReplicaFile::Meta(_, stamp)) => Some(stamp),
        _ => None,
    }
}

fn block_of(located: &LocatedBlockProto) -> Block {
    ExtendedBlock::from(&located.b).block
}

/// `uuid-3` is `dn3`.
fn machine_of(uuid: &str) -> String {
    uuid.replace("uuid-", "dn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_for_the_same_place_are_noticed() {
        let watch = Watch::default();
        let block = Block { id: BlockId(7), generation_stamp: GenerationStamp(1), num_bytes: 9 };
        assert_eq!(watch.served(block, 2, b"abc"), None);
        assert_eq!(watch.served(block, 4, b"cd"), None);
        let other = Block { generation_stamp: GenerationStamp(2), ..block };
        assert_eq!(watch.served(other, 2, b"xyz"), None);
        let wrong = watch.served(block, 0, b"..abX").unwrap();
        assert!(wrong.ends_with("at 4"), "{wrong}");
    }
}

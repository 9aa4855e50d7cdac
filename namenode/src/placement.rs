//! Where new replicas go.
//!
//! Live datanodes in service with room for a block, never two replicas of a block on one of them. Stale and
//! overloaded datanodes come last; before all others the ones that the client favours, and for the
//! first replica one on the writer's own host. Among equals racks decide, as in HDFS: the second
//! replica on another rack than the first, the third on the second's rack, further ones on no rack
//! that has its share already. Within a datanode a storage is drawn by its free space. All chance
//! comes from the generator handed in.

use std::net::IpAddr;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use ringfs_protocol::collections::HashSet;
use ringfs_protocol::messages::{StorageState, StorageTypeProto};

use crate::datanodes::{Datanodes, NodeIndex, Storage, StorageIndex, saturating_sum};
use crate::limits::OVERLOADED_STREAMS_MIN;
use crate::service_state::ServiceState;

#[derive(Clone, Copy, Debug)]
pub(crate) struct PlacementRequest<'a> {
    pub count: usize,
    pub block_size: u64,
    /// Where the writer runs; `None` when locality is of no interest.
    pub writer: Option<IpAddr>,
    /// Datanodes that hold a replica, or will: not chosen again, and their racks count.
    pub holders: &'a [NodeIndex],
    /// Other datanodes that must not be chosen.
    pub excluded: &'a [NodeIndex],
    /// `host:port` of datanodes to choose first.
    pub favored: &'a [String],
    pub no_local_write: bool,
}

/// At most `count` storages on as many datanodes; fewer when there are no more with room.
pub(crate) fn choose(
    datanodes: &Datanodes,
    request: &PlacementRequest<'_>,
    now_ms: u64,
    rng: &mut StdRng,
) -> Vec<StorageIndex> {
    let mut candidates = ranked(datanodes, request, now_ms, rng);
    let mut spread = Spread::new(datanodes, request);
    let mut chosen = Vec::with_capacity(request.count.min(candidates.len()));
    while chosen.len() < request.count && !candidates.is_empty() {
        let misfit = |candidate: &Candidate| (candidate.rank, spread.misfit(candidate.index));
        let best = (0..candidates.len()).min_by_key(|at| misfit(&candidates[*at]));
        let index = candidates.remove(best.unwrap_or(0)).index;
        spread.placed.push(rack(datanodes, index));
        chosen.push(draw_storage(datanodes, index, request.block_size, rng));
    }
    chosen
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    index: NodeIndex,
    /// Lowest first; racks decide between equal ones.
    rank: (bool, bool, bool),
}

/// The racks of the replicas placed so far, in their order.
struct Spread<'a> {
    datanodes: &'a Datanodes,
    placed: Vec<&'a str>,
    /// HDFS's bound: (replicas - 1) / racks + 2.
    per_rack_max: usize,
}

impl<'a> Spread<'a> {
    fn new(datanodes: &'a Datanodes, request: &PlacementRequest<'_>) -> Self {
        let placed: Vec<&str> =
            request.holders.iter().map(|index| rack(datanodes, *index)).collect();
        let racks: HashSet<&str> =
            datanodes.live().iter().map(|index| rack(datanodes, *index)).collect();
        let replicas = placed.len() + request.count;
        let per_rack_max = replicas.saturating_sub(1) / racks.len().max(1) + 2;
        Self { datanodes, placed, per_rack_max }
    }

    /// How badly the next replica would lie on this datanode's rack; 0: as it should.
    fn misfit(&self, index: NodeIndex) -> u8 {
        let rack = rack(self.datanodes, index);
        match self.placed.as_slice() {
            [] => 0,
            [first] => u8::from(rack == *first),
            [first, second] if first == second => u8::from(rack == *first),
            [first, second] => u8::from(rack != *second) + u8::from(rack == *first),
            placed => {
                let there = placed.iter().filter(|placed| **placed == rack).count();
                u8::from(there >= self.per_rack_max)
            }
        }
    }
}

fn rack(datanodes: &Datanodes, index: NodeIndex) -> &str {
    &datanodes.node(index).address.rack
}

/// All datanodes that may be chosen, best first.
fn ranked(
    datanodes: &Datanodes,
    request: &PlacementRequest<'_>,
    now_ms: u64,
    rng: &mut StdRng,
) -> Vec<Candidate> {
    let may_be_chosen = |index: &NodeIndex| {
        !request.holders.contains(index)
            && !request.excluded.contains(index)
            && datanodes.node(*index).service == ServiceState::InService
            && has_room(datanodes, *index, request.block_size)
    };
    let mut candidates: Vec<NodeIndex> =
        datanodes.live().iter().copied().filter(may_be_chosen).collect();
    candidates.shuffle(rng);
    let overloaded_from =
        OVERLOADED_STREAMS_MIN.max(datanodes.average_streams().saturating_mul(2).saturating_add(1));
    let is_last = |index: NodeIndex| {
        datanodes.is_stale(index, now_ms) || datanodes.node(index).streams >= overloaded_from
    };
    let is_local = |index: NodeIndex| request.writer == Some(datanodes.node(index).address.ip);
    // Stable: random within a rank.
    let rank = |index: NodeIndex| {
        let is_favored = is_favored(datanodes, index, request.favored);
        (is_last(index), !is_favored, request.no_local_write && is_local(index))
    };
    let mut candidates: Vec<Candidate> =
        candidates.into_iter().map(|index| Candidate { index, rank: rank(index) }).collect();
    candidates.sort_by_key(|candidate| candidate.rank);
    // One local replica is enough: others on the same host would be lost with it.
    let wants_local = !request.no_local_write && request.favored.is_empty();
    let local = candidates.iter().position(|c| is_local(c.index) && !is_last(c.index));
    if let Some(at) = local.filter(|_| wants_local) {
        candidates[..=at].rotate_right(1);
    }
    candidates
}

fn is_favored(datanodes: &Datanodes, index: NodeIndex, favored: &[String]) -> bool {
    let address = &datanodes.node(index).address;
    let is_it = |name: &String| {
        let Some((host, port)) = name.rsplit_once(':') else {
            return false;
        };
        let is_host = host == address.host_name || host.parse() == Ok(address.ip);
        is_host && port.parse() == Ok(address.transfer_port)
    };
    favored.iter().any(is_it)
}

/// Whether some storage has room for a block beside those promised to the datanode, which may come
/// to any of its storages.
fn has_room(datanodes: &Datanodes, index: NodeIndex, block_size: u64) -> bool {
    let promised = datanodes.scheduled(index).saturating_mul(block_size);
    let room = saturating_sum(usable(datanodes, index).map(|(_, storage)| storage.remaining));
    room >= promised.saturating_add(block_size)
        && usable(datanodes, index).any(|(_, storage)| storage.remaining >= block_size)
}

/// A storage with room, a disk if there is one, drawn in proportion to free space.
fn draw_storage(
    datanodes: &Datanodes,
    index: NodeIndex,
    block_size: u64,
    rng: &mut StdRng,
) -> StorageIndex {
    let fitting = usable(datanodes, index).filter(|(_, storage)| storage.remaining >= block_size);
    let (disks, others): (Vec<_>, Vec<_>) =
        fitting.partition(|(_, storage)| storage.storage_type == StorageTypeProto::Disk);
    let storages = if disks.is_empty() { others } else { disks };
    let total = saturating_sum(storages.iter().map(|(_, storage)| storage.remaining));
    let mut drawn = rng.random_range(0..total.max(1));
    for (index, storage) in &storages {
        if drawn < storage.remaining {
            return *index;
        }
        drawn -= storage.remaining;
    }
    // Only blocks of no size, on storages without any space.
    storages[0].0
}

/// Storages that take new replicas.
fn usable(
    datanodes: &Datanodes,
    index: NodeIndex,
) -> impl Iterator<Item = (StorageIndex, &Storage)> {
    let storages = datanodes.node(index).storages.iter();
    storages.map(|index| (*index, datanodes.storage(*index))).filter(|(_, storage)| {
        !storage.failed
            && storage.state == StorageState::Normal
            && storage.storage_type != StorageTypeProto::RamDisk
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use ringfs_protocol::messages::StorageReportProto;

    use super::*;
    use crate::datanodes::{Intervals, Registration};

    const BLOCK: u64 = 100;
    const NOW_MS: u64 = 40_000;

    #[derive(Clone, Debug)]
    struct Host {
        ip_last: u8,
        free: Vec<u64>,
        is_stale: bool,
        streams: u32,
    }

    fn host() -> impl Strategy<Value = Host> {
        let free = vec(prop_oneof![0..BLOCK, BLOCK..10 * BLOCK], 0..4);
        (1u8..4, free, any::<bool>(), 0u32..60).prop_map(|(ip_last, free, is_stale, streams)| {
            Host { ip_last, free, is_stale, streams }
        })
    }

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn cluster(hosts: &[Host]) -> (Datanodes, Vec<NodeIndex>) {
        let mut datanodes = Datanodes::new(Intervals { stale_ms: 30_000, dead_ms: 600_000 });
        let mut indices = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let registration = Registration {
                uuid: format!("node-{number}"),
                ip: ip(host.ip_last),
                host_name: format!("host-{number}"),
                transfer_port: 9000 + number as u32,
                info_port: 0,
                ipc_port: 0,
                info_secure_port: None,
                software_version: "3.3.6".to_owned(),
                rack: crate::topology::DEFAULT_RACK.into(),
            };
            let (index, _) = datanodes.register(registration, NOW_MS, 0).unwrap();
            let reports: Vec<StorageReportProto> = (host.free.iter().enumerate())
                .map(|(disk, free)| StorageReportProto {
                    storage_uuid: format!("DS-{number}-{disk}"),
                    remaining: Some(*free),
                    ..Default::default()
                })
                .collect();
            datanodes.update_storages(index, &reports);
            let node = datanodes.node_mut(index);
            node.streams = host.streams;
            node.heartbeat_ms = if host.is_stale { 0 } else { NOW_MS };
            indices.push(index);
        }
        (datanodes, indices)
    }

    fn request(count: usize) -> PlacementRequest<'static> {
        PlacementRequest {
            count,
            block_size: BLOCK,
            writer: None,
            holders: &[],
            excluded: &[],
            favored: &[],
            no_local_write: false,
        }
    }

    fn fits(host: &Host) -> bool {
        host.free.iter().any(|free| *free >= BLOCK)
    }

    proptest! {
        #[test]
        fn targets_are_distinct_allowed_and_as_many_as_there_can_be(
            hosts in vec(host(), 0..8), count in 0usize..6, taken in vec(0usize..8, 0..3),
            seed in any::<u64>(), local in 1u8..5, no_local_write in any::<bool>(),
        ) {
            let (datanodes, indices) = cluster(&hosts);
            let taken: Vec<NodeIndex> =
                taken.iter().filter_map(|number| indices.get(*number).copied()).collect();
            let request = PlacementRequest {
                writer: Some(ip(local)), excluded: &taken, no_local_write, ..request(count)
            };
            let mut rng = StdRng::seed_from_u64(seed);
            let targets = choose(&datanodes, &request, NOW_MS, &mut rng);

            let mut nodes: Vec<NodeIndex> =
                targets.iter().map(|target| datanodes.node_of(*target)).collect();
            for target in &targets {
                prop_assert!(datanodes.storage(*target).remaining >= BLOCK);
            }
            let is_possible = |number: &usize| {
                fits(&hosts[*number]) && !taken.contains(&indices[*number])
            };
            let possible: Vec<usize> = (0..hosts.len()).filter(is_possible).collect();
            prop_assert_eq!(targets.len(), count.min(possible.len()));
            prop_assert!(nodes.iter().all(|node| !taken.contains(node)));
            let again = choose(&datanodes, &request, NOW_MS, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(&again, &targets, "the same seed gives the same targets");

            let average = hosts.iter().map(|host| host.streams).sum::<u32>() / hosts.len().max(1) as u32;
            let is_good_local = |number: &usize| {
                let host = &hosts[*number];
                let overloaded = host.streams >= OVERLOADED_STREAMS_MIN.max(2 * average + 1);
                host.ip_last == local && !host.is_stale && !overloaded
            };
            if !no_local_write && possible.iter().any(is_good_local) && let Some(first) = nodes.first() {
                let number = indices.iter().position(|index| index == first).unwrap();
                prop_assert!(is_good_local(&number), "{} is not local", number);
            }
            nodes.sort();
            nodes.dedup();
            prop_assert_eq!(nodes.len(), targets.len(), "one replica a datanode");
        }
    }

    fn plain(ip_last: u8) -> Host {
        Host { ip_last, free: vec![500], is_stale: false, streams: 0 }
    }

    #[test]
    fn several_datanodes_on_the_writers_host_share_its_blocks() {
        let (datanodes, _) = cluster(&[plain(1), plain(1), plain(2), plain(3)]);
        let mut first = [0u32; 4];
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..100 {
            let request = PlacementRequest { writer: Some(ip(1)), ..request(1) };
            let target = choose(&datanodes, &request, NOW_MS, &mut rng)[0];
            let port = datanodes.owner(target).address.transfer_port;
            first[port as usize - 9000] += 1;
        }
        assert!(first[0] > 25 && first[1] > 25, "{first:?}");
        assert_eq!(first[2..], [0, 0]);
    }

    #[test]
    fn stale_and_overloaded_datanodes_come_last() {
        let stale = Host { is_stale: true, ..plain(1) };
        let busy = Host { streams: 90, ..plain(2) };
        let (datanodes, indices) = cluster(&[stale, busy, plain(3), plain(4)]);
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let targets = choose(&datanodes, &request(2), NOW_MS, &mut rng);
            let mut nodes: Vec<_> = targets.iter().map(|t| datanodes.node_of(*t)).collect();
            nodes.sort();
            assert_eq!(nodes, indices[2..]);
            assert_eq!(choose(&datanodes, &request(4), NOW_MS, &mut rng).len(), 4);
        }
    }

    #[test]
    fn favored_datanodes_come_first_by_name_or_address() {
        let (datanodes, indices) = cluster(&[plain(1), plain(2), plain(3), plain(4)]);
        let favored = ["host-2:9002".to_owned(), "10.0.0.2:9001".to_owned(), "nonsense".to_owned()];
        let request = PlacementRequest { favored: &favored, writer: Some(ip(1)), ..request(2) };
        let targets = choose(&datanodes, &request, NOW_MS, &mut StdRng::seed_from_u64(3));
        let mut nodes: Vec<_> = targets.iter().map(|t| datanodes.node_of(*t)).collect();
        nodes.sort();
        assert_eq!(nodes, indices[1..3]);
    }

    /// Datanodes with room on racks "a", "b" and so on.
    fn on_racks(racks: &str) -> (Datanodes, Vec<NodeIndex>) {
        let hosts: Vec<Host> = racks.chars().zip(1..).map(|(_, last)| plain(last)).collect();
        let (mut datanodes, indices) = cluster(&hosts);
        for (index, rack) in indices.iter().zip(racks.chars()) {
            datanodes.node_mut(*index).address.rack = format!("/{rack}").into();
        }
        (datanodes, indices)
    }

    fn racks_of(datanodes: &Datanodes, targets: &[StorageIndex]) -> String {
        let racks = targets.iter().map(|target| datanodes.owner(*target).address.rack.clone());
        racks.map(|rack| rack.trim_start_matches('/').to_owned()).collect()
    }

    #[test]
    fn replicas_go_to_two_racks_the_writers_own_first() {
        let (datanodes, _) = on_racks("aaaabbbbcccc");
        for seed in 0..100 {
            let request = PlacementRequest { writer: Some(ip(2)), ..request(3) };
            let mut rng = StdRng::seed_from_u64(seed);
            let targets = choose(&datanodes, &request, NOW_MS, &mut rng);
            let racks = racks_of(&datanodes, &targets);
            assert!(racks == "abb" || racks == "acc", "{racks}");
            assert_eq!(datanodes.owner(targets[0]).address.ip, ip(2));
            let ten = PlacementRequest { count: 10, ..request };
            let racks = racks_of(&datanodes, &choose(&datanodes, &ten, NOW_MS, &mut rng));
            let most = "abc".chars().map(|rack| racks.matches(rack).count()).max();
            assert!(racks.len() == 10 && most <= Some(4), "{racks}");
        }
    }

    #[test]
    fn new_replicas_mend_the_spread_of_those_that_are_there() {
        let (datanodes, indices) = on_racks("aaabbc");
        for (holders, expected) in
            [(&indices[..1], ["b", "c"]), (&indices[..2], ["b", "c"]), (&indices[2..4], ["b", "b"])]
        {
            for seed in 0..50 {
                let request = PlacementRequest { holders, ..request(1) };
                let mut rng = StdRng::seed_from_u64(seed);
                let racks = racks_of(&datanodes, &choose(&datanodes, &request, NOW_MS, &mut rng));
                assert!(expected.contains(&racks.as_str()), "{holders:?}: {racks}");
            }
        }
    }

    #[test]
    fn racks_yield_to_room_and_health() {
        let (mut datanodes, indices) = on_racks("aab");
        datanodes.node_mut(indices[2]).heartbeat_ms = 0;
        let mut rng = StdRng::seed_from_u64(1);
        let two = choose(&datanodes, &request(2), NOW_MS, &mut rng);
        assert_eq!(racks_of(&datanodes, &two), "aa", "the third is stale");
        let three = choose(&datanodes, &request(3), NOW_MS, &mut rng);
        assert_eq!(racks_of(&datanodes, &three), "aab");
    }

    #[test]
    fn promised_blocks_take_room_until_they_are_reported_or_forgotten() {
        let (mut datanodes, indices) = cluster(&[plain(1)]);
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..5 {
            assert_eq!(choose(&datanodes, &request(1), NOW_MS, &mut rng).len(), 1);
            datanodes.schedule(indices[0]);
        }
        assert!(choose(&datanodes, &request(1), NOW_MS, &mut rng).is_empty());
        datanodes.unschedule(indices[0]);
        assert_eq!(choose(&datanodes, &request(1), NOW_MS, &mut rng).len(), 1);
        datanodes.schedule(indices[0]);
        for now_ms in [400_000, 800_000] {
            datanodes.roll_schedules(now_ms);
        }
        assert_eq!(choose(&datanodes, &request(1), NOW_MS, &mut rng).len(), 1);
    }
}

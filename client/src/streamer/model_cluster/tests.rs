//! The streamer against the model cluster.

use proptest::prelude::*;
use rand::Rng;

use super::*;

#[test]
fn every_fault_at_every_ack_is_survived() {
    // Two blocks: 4 packets and an end, 2 packets and an end.
    let lens = [4096, 1500];
    for at in 0..8 {
        for fault in [Fault::BadAck(0), Fault::BadAck(1), Fault::BadAck(2), Fault::Lost] {
            for (window, reopens) in [(1, false), (2, false), (80, false), (2, true), (80, true)] {
                let rules = rules(window, ReplacementPolicy::Never);
                let mut cluster = Cluster::new(rules, LastBlock::None, once(at, fault));
                cluster.reopens_finalized = reopens;
                let written = cluster.write(&mut packetizer(0), &lens);
                assert!(cluster.failure.is_none(), "{at} {fault:?}: {:?}", cluster.failure);
                assert_eq!(cluster.recoveries, 1, "{at} {fault:?} {window}");
                assert_eq!(cluster.file(), written);
            }
        }
    }
}

#[test]
fn the_last_packet_waits_for_nothing_where_finalized_replicas_are_reopened() {
    for reopens in [false, true] {
        let rules = rules(80, ReplacementPolicy::Never);
        let mut cluster = Cluster::new(rules, LastBlock::None, |_: &mut SmallRng, _, _| None);
        cluster.reopens_finalized = reopens;
        let mut packetizer = packetizer(0);
        let mut bytes = Bytes::from_static(&[1; 700]);
        assert!(packetizer.next_packet(&mut bytes).is_none());
        let packets: Vec<_> = std::iter::from_fn(|| packetizer.finish()).collect();
        packets.into_iter().for_each(|packet| cluster.tell(Event::Enqueued(packet)));
        assert_eq!(cluster.in_flight.len(), if reopens { 2 } else { 1 });
        while cluster.answer() {}
        assert_eq!(cluster.file(), [1; 700]);
    }
}

/// Where finalized replicas are reopened it is recovered, else it is given up and written anew.
#[test]
fn a_whole_block_whose_pipeline_breaks_is_not_lost() {
    for reopens in [false, true] {
        for (at, fault) in [
            (None, Fault::Lost),
            (Some(0), Fault::BadAck(1)),
            (Some(0), Fault::Lost),
            (Some(1), Fault::BadAck(2)),
            (Some(1), Fault::Lost),
        ] {
            let rules = rules(80, ReplacementPolicy::Never);
            let mut faults = at.map(|at| once(at, fault));
            let faults = move |rng: &mut SmallRng, nodes, setup| {
                faults.as_mut().and_then(|faults| faults(rng, nodes, setup))
            };
            let mut cluster = Cluster::new(rules, LastBlock::None, faults);
            (cluster.reopens_finalized, cluster.takes_whole) = (reopens, true);
            let mut packetizer = packetizer(0);
            assert!(packetizer.next_packet(&mut Bytes::from_static(&[1; 700])).is_none());
            let packets: Vec<_> = std::iter::from_fn(|| packetizer.finish()).collect();
            packets
                .into_iter()
                .for_each(|packet| cluster.streamer.on_event(0, Event::Enqueued(packet)));
            cluster.tell(Event::Flushed);
            while cluster.answer() {}
            assert!(cluster.failure.is_none(), "{at:?} {fault:?}: {:?}", cluster.failure);
            assert_eq!(cluster.file(), [1; 700], "{at:?} {fault:?}");
            // Once the data is acknowledged only the end of the block is left to recover.
            let is_anew = at == Some(0) && !reopens;
            assert_eq!(cluster.whole_blocks, if is_anew { 2 } else { 1 }, "{at:?} {fault:?}");
            assert_eq!(cluster.recoveries, usize::from(at.is_some() && !is_anew));
        }
    }
}

#[test]
fn the_first_block_that_came_with_the_file_is_written_first() {
    let bad = Fault::BadSetup(Some(1));
    for (late_ms, fault, is_used) in
        [(0, None, true), (0, Some(bad), false), (29_000, None, true), (40_000, None, false)]
    {
        let mut faults = fault.map(|fault| once(0, fault));
        let mut cluster = Cluster::with_first_block(
            rules(80, ReplacementPolicy::Never),
            move |rng, nodes, setup| faults.as_mut().and_then(|faults| faults(rng, nodes, setup)),
        );
        cluster.now_ms = late_ms;
        let written = cluster.write(&mut packetizer(0), &[5000]);
        assert!(cluster.failure.is_none(), "{:?}", cluster.failure);
        assert_eq!(cluster.file(), written);
        assert_eq!(cluster.blocks.len(), 2);
        assert_eq!(cluster.blocks[0].block.id.0 == 500, is_used, "{late_ms} {fault:?}");
    }
}

#[test]
fn a_first_block_without_a_byte_goes_back() {
    let rules = rules(80, ReplacementPolicy::Never);
    let mut cluster = Cluster::with_first_block(rules, |_: &mut SmallRng, _, _| None);
    cluster.write(&mut packetizer(0), &[]);
    assert_eq!((cluster.blocks.len(), cluster.streamer.last_block()), (0, None));
}

/// All its packets are there before the set-up, which takes them with it.
#[test]
fn a_small_file_goes_whole_to_the_block_that_came_with_it() {
    let rules = rules(80, ReplacementPolicy::Never);
    let mut cluster = Cluster::with_first_block(rules, |_: &mut SmallRng, _, _| None);
    cluster.takes_whole = true;
    let mut packetizer = packetizer(0);
    assert!(packetizer.next_packet(&mut Bytes::from_static(&[1; 700])).is_none());
    let packets: Vec<_> = std::iter::from_fn(|| packetizer.finish()).collect();
    packets.into_iter().for_each(|packet| cluster.streamer.on_event(0, Event::Enqueued(packet)));
    cluster.tell(Event::Ended);
    while cluster.answer() {}
    assert_eq!((cluster.file(), cluster.whole_blocks), (vec![1; 700], 1));
    assert_eq!(cluster.blocks[0].block.id.0, 500);
}

#[test]
fn a_new_block_avoids_the_datanode_that_failed_its_setup() {
    for bad in [None, Some(0), Some(1), Some(2)] {
        let rules = rules(80, ReplacementPolicy::Default);
        let mut cluster = Cluster::new(rules, LastBlock::None, once(1, Fault::BadSetup(bad)));
        let written = cluster.write(&mut packetizer(0), &[9000]);
        assert_eq!(cluster.file(), written);
        assert_eq!(cluster.recoveries, 0);
        let excluded = datanode(bad.unwrap_or(0)).id.datanode_uuid;
        let last = cluster.blocks.last().unwrap().block.id.0;
        assert!(!cluster.replicas.contains_key(&(excluded, last)));
    }
}

#[test]
fn setups_that_keep_failing_end_the_writer() {
    let rules = rules(80, ReplacementPolicy::Default);
    let faults = |_: &mut SmallRng, _, setup: bool| setup.then_some(Fault::BadSetup(None));
    let mut cluster = Cluster::new(rules, LastBlock::None, faults);
    cluster.write(&mut packetizer(0), &[100]);
    assert!(matches!(cluster.failure, Some(ClientError::Pipeline { .. })));
    assert!(cluster.blocks.is_empty(), "an abandoned block is left");
}

#[test]
fn the_last_datanode_that_fails_ends_the_writer() {
    let rules = rules(80, ReplacementPolicy::Never);
    let faults = |_: &mut SmallRng, _, setup: bool| (!setup).then_some(Fault::Lost);
    let mut cluster = Cluster::new(rules, LastBlock::None, faults);
    cluster.write(&mut packetizer(0), &[100]);
    let failure = cluster.failure.unwrap().to_string();
    assert!(failure.contains("all datanodes of"), "{failure}");
}

/// A datanode of this host announces its restart, and is back at the third attempt to reach it.
#[test]
fn a_datanode_that_restarts_is_waited_for() {
    for (is_back, survivors) in [(true, 3), (false, 2)] {
        let mut rules = rules(80, ReplacementPolicy::Never);
        rules.is_local = |_| true;
        let mut setups = 0;
        let faults = move |_: &mut SmallRng, nodes, setup: bool| {
            setups += u32::from(setup);
            let fails = setup && setups > 1 && (setups < 4 || !is_back && nodes == 3);
            fails.then_some(Fault::BadSetup(Some(1)))
        };
        let mut cluster = Cluster::new(rules, LastBlock::None, faults);
        let mut packetizer = packetizer(0);
        let mut data = Bytes::from(vec![7; 100]);
        assert!(packetizer.next_packet(&mut data).is_none());
        cluster.tell(Event::Enqueued(packetizer.flush(false).unwrap()));
        let oob = PipelineAck {
            seqno: ringfs_protocol::packet::OOB_SEQNO,
            replies: [Status::Success, Status::OobRestart].into_iter().collect(),
            downstream_ack_time_nanos: 0,
        };
        cluster.tell(Event::Acknowledged(oob));
        for _ in 0..40 {
            let Some(deadline_ms) = cluster.streamer.deadline_ms() else { break };
            if cluster.pipeline.is_some() {
                break;
            }
            cluster.now_ms = deadline_ms;
            cluster.tell(Event::TimePassed);
        }
        assert!(cluster.failure.is_none(), "{:?}", cluster.failure);
        assert_eq!(cluster.pipeline.as_ref().unwrap().1.len(), survivors);
        let waited_s = cluster.now_ms / 1_000;
        assert!(if is_back { waited_s == 3 } else { waited_s >= 30 }, "{waited_s} s");
    }
}

#[test]
fn replacements_without_progress_end_the_writer() {
    let rules = rules(80, ReplacementPolicy::Always);
    let faults = |_: &mut SmallRng, _, setup: bool| (!setup).then_some(Fault::BadAck(0));
    let mut cluster = Cluster::new(rules, LastBlock::None, faults);
    cluster.spares = 20;
    cluster.write(&mut packetizer(0), &[100]);
    let failure = cluster.failure.unwrap().to_string();
    assert!(failure.contains("5 recoveries"), "{failure}");
}

#[test]
fn a_flushed_file_gets_its_third_replica_back() {
    let rules = rules(80, ReplacementPolicy::Default);
    let mut cluster = Cluster::new(rules, LastBlock::None, once(2, Fault::BadAck(1)));
    cluster.spares = 1;
    cluster.streamer.on_event(0, Event::Flushed);
    let written = cluster.write(&mut packetizer(0), &[3000]);
    assert_eq!(cluster.file(), written);
    let block = cluster.blocks[0].block;
    let stamp = block.generation_stamp.0;
    assert_eq!(cluster.replicas.values().filter(|replica| replica.stamp == stamp).count(), 3);
}

#[test]
fn an_append_reopens_its_block_under_a_new_stamp() {
    for fault in [None, Some(Fault::BadSetup(Some(1))), Some(Fault::BadAck(2))] {
        let located = located_block(7, 1000, 700, (0..3).map(datanode).collect());
        let mut faults = fault.map(|fault| once(0, fault));
        let mut cluster = Cluster::new(
            rules(80, ReplacementPolicy::Default),
            LastBlock::Appended(Box::new(located.clone())),
            move |rng, nodes, setup| faults.as_mut().and_then(|fault| fault(rng, nodes, setup)),
        );
        let old = Replica { stamp: 1000, data: vec![9; 700], finalized: true };
        for index in 0..3 {
            cluster.replicas.insert((format!("uuid-{index}"), 7), old.clone());
        }
        cluster.blocks.push(ExtendedBlock::from(&located.b));
        let written = cluster.write(&mut packetizer(700), &[100, 5000]);
        assert!(cluster.failure.is_none(), "{fault:?}: {:?}", cluster.failure);
        assert_eq!(cluster.file(), [old.data, written].concat());
        assert!(cluster.blocks[0].block.generation_stamp.0 > 1000);
    }
}

#[test]
fn a_block_without_datanodes_is_not_appended_to() {
    let located = located_block(7, 1000, 700, Vec::new());
    let rules = rules(80, ReplacementPolicy::Always);
    let last_block = LastBlock::Appended(Box::new(located));
    let mut cluster = Cluster::new(rules, last_block, |_: &mut SmallRng, _, _| None);
    cluster.write(&mut packetizer(700), &[100]);
    let failure = cluster.failure.unwrap().to_string();
    assert!(failure.contains("no datanode has"), "{failure}");
}

#[test]
fn silence_brings_heartbeats_and_then_blame() {
    let rules = rules(80, ReplacementPolicy::Never);
    let mut cluster = Cluster::new(rules, LastBlock::None, |_: &mut SmallRng, _, _| None);
    let mut bytes = Bytes::from_static(&[1; 1024]);
    let packet = packetizer(0).next_packet(&mut bytes).unwrap();
    cluster.tell(Event::Enqueued(packet));
    let streamer = &mut cluster.streamer;
    let first = streamer.deadline_ms().unwrap();
    streamer.on_event(first - 1, Event::TimePassed);
    assert!(streamer.next_action().is_none());
    streamer.on_event(first, Event::TimePassed);
    assert!(matches!(streamer.next_action(), Some(Action::SendHeartbeat)));
    streamer.on_event(first + 30_000, Event::TimePassed);
    assert!(matches!(streamer.next_action(), Some(Action::SendHeartbeat)));
    // 60 s and 5 s for each of three datanodes.
    streamer.on_event(first + 45_000, Event::TimePassed);
    assert!(matches!(streamer.next_action(), Some(Action::ClosePipeline)));
    assert!(matches!(streamer.next_action(), Some(Action::RaiseGenerationStamp(_))));
}

proptest! {
    #[test]
    fn random_faults_lose_nothing(
        seed: u64,
        reopens: bool,
        takes_whole: bool,
        has_first_block: bool,
        window in 1usize..20,
        spares in 0usize..3,
        lens in prop::collection::vec(1usize..6000, 1..6),
    ) {
        let policy = if spares > 0 { ReplacementPolicy::Always } else { ReplacementPolicy::Never };
        let faults = |rng: &mut SmallRng, nodes: usize, setup: bool| {
            if nodes == 1 || !rng.random_bool(0.12) {
                return None;
            }
            Some(match (setup, rng.random_bool(0.5)) {
                (true, named) => Fault::BadSetup(named.then(|| rng.random_range(0..nodes))),
                (false, true) => Fault::BadAck(rng.random_range(0..nodes)),
                (false, false) => Fault::Lost,
            })
        };
        let rules = rules(window, policy);
        let mut cluster = match has_first_block {
            true => Cluster::with_first_block(rules, faults),
            false => Cluster::new(rules, LastBlock::None, faults),
        };
        cluster.rng = SmallRng::seed_from_u64(seed);
        cluster.spares = spares;
        cluster.reopens_finalized = reopens;
        cluster.takes_whole = takes_whole;
        let mut packetizer = packetizer(0);
        let written = cluster.write(&mut packetizer, &lens);
        match &cluster.failure {
            // Several in a row may exhaust the tries.
            Some(error) => prop_assert!(error.to_string().starts_with("/f: "), "{}", error),
            None => {
                prop_assert_eq!(cluster.acknowledged, packetizer.last_seqno());
                prop_assert_eq!(cluster.streamer.last_block(), cluster.blocks.last());
                prop_assert_eq!(cluster.file(), written);
            }
        }
    }
}

//! [`PacketReceiver`] against what was sent, whatever the pieces it arrives in.

use std::collections::VecDeque;

use proptest::prelude::*;
use ringfs_protocol::packet::{PACKET_PREFIX_MAX_BYTES, PacketHeader, encode_packet_prefix};

use crate::packet::Packet;
use crate::packet_receiver::PacketReceiver;
use crate::replica_length::DEFAULT_CHECKSUM;
use crate::ring::{BufferMut, ReceiveMessage};

const ROOM_BYTES: usize = 8192;

fn block_bytes(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

/// One packet of the block's bytes as a client sends it.
fn packet(range: std::ops::Range<u64>, seqno: i64, is_last: bool) -> Vec<u8> {
    let data = block_bytes(range.clone());
    let mut checksums = vec![0; DEFAULT_CHECKSUM.checksums_len(data.len() as u64) as usize];
    DEFAULT_CHECKSUM.fill(&data, &mut checksums);
    let header = PacketHeader {
        offset_in_block: range.start,
        seqno,
        last_packet_in_block: is_last,
        data_len: data.len() as u32,
        sync_block: seqno % 3 == 2,
    };
    let mut prefix = [0; PACKET_PREFIX_MAX_BYTES];
    let len = encode_packet_prefix(&header, checksums.len(), &mut prefix);
    [&prefix[..len], &checksums, &data].concat()
}

/// Receives a stream in pieces of these sizes, as the write pipeline does; releases all memory
/// where `releases` says so.
fn receive(
    start: u64,
    wire: &[u8],
    cuts: &[usize],
    releases: &[bool],
    foresees: bool,
) -> (Vec<Packet>, u64) {
    let mut receiver = PacketReceiver::new(start, 1 << 20, DEFAULT_CHECKSUM);
    let mut message = ReceiveMessage::new();
    let (mut packets, mut out) = (VecDeque::new(), Vec::new());
    let (mut rest, mut turn, mut idle) = (wire, 0, 0);
    loop {
        while receiver.room_len() < receiver.room_needed().max(ROOM_BYTES) {
            receiver.add_room(BufferMut::zeroed(ROOM_BYTES));
        }
        receiver.settle(&mut packets).unwrap();
        out.extend(packets.drain(..));
        if receiver.is_unsettled() {
            continue;
        }
        if rest.is_empty() {
            return (out, receiver.take_copied_bytes());
        }
        if releases[turn % releases.len()] {
            receiver.release();
            turn += 1;
            continue;
        }
        let cut = cuts[turn % cuts.len()].min(rest.len());
        if foresees {
            receiver.foresee(cut, |at, prefix| {
                let seen = &rest[at.min(cut)..cut];
                let count = seen.len().min(prefix.len());
                prefix[..count].copy_from_slice(&seen[..count]);
                count
            });
        }
        receiver.plan(&mut message);
        let count = message.fill(&rest[..cut]);
        assert!(count > 0, "a plan receives something, {} bytes are left", rest.len());
        rest = &rest[count..];
        receiver.received(&mut message, count, &mut packets).unwrap();
        turn += 1;
        idle += 1;
        assert!(idle < 1_000_000, "the stream makes progress");
    }
}

fn check(start: u64, sent: &[(u64, u64)], cuts: &[usize], releases: &[bool]) {
    let wire: Vec<u8> = sent
        .iter()
        .enumerate()
        .flat_map(|(seqno, (from, to))| packet(*from..*to, seqno as i64, false))
        .collect();
    for foresees in [false, true] {
        let (packets, _) = receive(start, &wire, cuts, releases, foresees);
        check_packets(start, sent, packets);
    }
}

fn check_packets(start: u64, sent: &[(u64, u64)], packets: Vec<Packet>) {
    assert_eq!(packets.len(), sent.len());
    let mut end = start;
    for (seqno, (packet, (from, to))) in packets.iter().zip(sent).enumerate() {
        let whole: Vec<u8> = packet.data.iter().flat_map(|piece| piece.to_vec()).collect();
        let fresh: Vec<u8> = packet.fresh.iter().flat_map(|piece| piece.to_vec()).collect();
        assert_eq!((packet.header.seqno, packet.header.offset_in_block), (seqno as i64, *from));
        assert_eq!(whole, block_bytes(*from..*to));
        assert_eq!(fresh, block_bytes(end.min(*to)..*to), "what was not received before");
        DEFAULT_CHECKSUM.verify(&whole, packet.checksums()).unwrap();
        end = end.max(*to);
    }
}

#[test]
fn a_resent_chunk_keeps_its_data_and_only_the_rest_is_fresh() {
    check(3_000_000, &[(2_999_808, 3_064_320), (3_064_320, 3_128_832)], &[usize::MAX], &[false]);
    check(700, &[(512, 700), (512, 2048)], &[100], &[false]);
}

proptest! {
    /// A file of full packets, a short one and the empty one at its end, in any pieces.
    #[test]
    fn what_is_foreseen_is_not_moved(
        full in 1u64..20,
        short in 1u64..4096,
        cuts in proptest::collection::vec(1usize..30_000, 1..8),
    ) {
        let end = full * 4096 + short;
        // Their numbers are multiples of 3: none asks for a sync, which would make it longer.
        let number = |index| index as i64 * 3;
        let mut wire: Vec<u8> = (0..full)
            .flat_map(|at| packet(at * 4096..(at + 1) * 4096, number(at), false))
            .collect();
        wire.extend(packet(full * 4096..end, number(full), false));
        wire.extend(packet(end..end, number(full + 1), true));
        let (packets, copied) = receive(0, &wire, &cuts, &[false], true);
        prop_assert_eq!(packets.len() as u64, full + 2);
        prop_assert_eq!(copied, 0);
    }

    /// Streams of packets that follow each other, resend the start of a chunk, or resend more;
    /// received in any pieces, with the memory taken away at any time.
    #[test]
    fn packets_come_out_as_they_were_sent(
        start in 0u64..3000,
        steps in proptest::collection::vec((0u64..3, 1u64..5000), 1..12),
        cuts in proptest::collection::vec(1usize..9000, 1..8),
        releases in proptest::collection::vec(proptest::bool::weighted(0.2), 1..8),
    ) {
        let mut releases = releases;
        releases.push(false);
        let (mut end, mut sent) = (start, Vec::new());
        for (back, len) in steps {
            let from = match back {
                0 => end,
                1 => end / 512 * 512,
                _ => (end / 512 * 512).saturating_sub(1024),
            };
            sent.push((from, from + len));
            end = end.max(from + len);
        }
        check(start, &sent, &cuts, &releases);
    }
}

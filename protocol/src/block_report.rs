//! The replicas of one storage as a full block report carries them, in both encodings.
//!
//! | encoding | when | layout |
//! |---|---|---|
//! | buffers | the namenode has STORAGE_BLOCK_REPORT_BUFFERS | for each replica four varints: id (zig-zag), length, generation stamp, state; cut into buffers anywhere, even inside a varint |
//! | longs | older namenodes | finalized count, open count, (id, length, stamp) of each finalized, three times -1, (id, length, stamp, state) of each open replica |
//!
//! A report of a million replicas is read where it lies: [`replicas`] allocates nothing, whatever
//! counts the report announces.

use crate::ProtocolError;
use crate::block::{Block, BlockId, GenerationStamp, ReplicaState};
use crate::messages::StorageBlockReportProto;

/// Java's reader takes a report in pieces of this size.
const BUFFER_BYTES: usize = 64 << 10;

/// The upper bits of a length are reserved.
const LENGTH_MASK: u64 = (1 << 48) - 1;
const STATE_MASK: u64 = 0xf;
const DELIMITER: u64 = u64::MAX;

const WHAT: &str = "block report";

pub type ReportedReplica = (Block, ReplicaState);

pub fn encode_buffers(replicas: &[ReportedReplica]) -> Vec<Vec<u8>> {
    let mut buffers = Vec::new();
    let mut buffer = Vec::with_capacity(BUFFER_BYTES.min(replicas.len() * 12));
    for (block, state) in replicas {
        let id = block.id.0 as i64;
        let zigzag = ((id << 1) ^ (id >> 63)) as u64;
        let len = block.num_bytes & LENGTH_MASK;
        for value in [zigzag, len, block.generation_stamp.0, state_number(*state)] {
            prost::encoding::encode_varint(value, &mut buffer);
        }
        if buffer.len() >= BUFFER_BYTES {
            let rest = buffer.split_off(BUFFER_BYTES);
            buffers.push(std::mem::replace(&mut buffer, rest));
        }
    }
    if !buffer.is_empty() {
        buffers.push(buffer);
    }
    buffers
}

pub fn encode_longs(replicas: &[ReportedReplica]) -> Vec<u64> {
    let (finalized, open): (Vec<ReportedReplica>, Vec<ReportedReplica>) =
        replicas.iter().partition(|(_, state)| *state == ReplicaState::Finalized);
    let mut longs = Vec::with_capacity(5 + 3 * finalized.len() + 4 * open.len());
    longs.extend([finalized.len() as u64, open.len() as u64]);
    for (block, _) in finalized {
        longs.extend([block.id.0, block.num_bytes, block.generation_stamp.0]);
    }
    longs.extend([DELIMITER; 3]);
    for (block, state) in open {
        let number = state_number(state);
        longs.extend([block.id.0, block.num_bytes, block.generation_stamp.0, number]);
    }
    longs
}

/// The replicas of `report`: in buffers when it says how many there are, in longs otherwise. Stops
/// behind the first error.
pub fn replicas(report: &StorageBlockReportProto) -> Replicas<'_> {
    let source = match report.number_of_blocks {
        Some(count) => {
            Source::Buffers { bytes: Bytes { buffers: &report.blocks_buffers, at: 0 }, left: count }
        }
        None => Source::Longs(Longs::new(&report.blocks)),
    };
    Replicas { source, failed: false }
}

/// Whether all of `report` decodes, so that it can be acted upon while it is read.
pub fn check(report: &StorageBlockReportProto) -> Result<(), ProtocolError> {
    replicas(report).find_map(Result::err).map_or(Ok(()), Err)
}

#[derive(Clone, Debug)]
pub struct Replicas<'a> {
    source: Source<'a>,
    failed: bool,
}

#[derive(Clone, Debug)]
enum Source<'a> {
    Buffers { bytes: Bytes<'a>, left: u64 },
    Longs(Longs<'a>),
}

impl Iterator for Replicas<'_> {
    type Item = Result<ReportedReplica, ProtocolError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = match &mut self.source {
            Source::Buffers { bytes, left } => {
                *left = left.checked_sub(1)?;
                Some(bytes.replica())
            }
            Source::Longs(longs) => longs.replica(),
        };
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// Buffers read as one run of bytes.
#[derive(Clone, Debug)]
struct Bytes<'a> {
    buffers: &'a [Vec<u8>],
    at: usize,
}

impl Bytes<'_> {
    fn replica(&mut self) -> Result<ReportedReplica, ProtocolError> {
        let zigzag = self.varint()?;
        let id = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        let num_bytes = self.varint()? & LENGTH_MASK;
        let generation_stamp = GenerationStamp(self.varint()?);
        let state = state_of(self.varint()? & STATE_MASK)?;
        Ok((Block { id: BlockId(id), generation_stamp, num_bytes }, state))
    }

    fn varint(&mut self) -> Result<u64, ProtocolError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtocolError::malformed(WHAT, "varint longer than 64 bits"))
    }

    fn byte(&mut self) -> Result<u8, ProtocolError> {
        while let Some((first, rest)) = self.buffers.split_first() {
            if let Some(&byte) = first.get(self.at) {
                self.at += 1;
                return Ok(byte);
            }
            (self.buffers, self.at) = (rest, 0);
        }
        Err(ProtocolError::malformed(WHAT, "fewer replicas than announced"))
    }
}

#[derive(Clone, Debug)]
struct Longs<'a> {
    rest: &'a [u64],
    finalized_left: u64,
    open_left: u64,
}

impl<'a> Longs<'a> {
    fn new(longs: &'a [u64]) -> Self {
        match longs {
            [finalized, open, rest @ ..] => {
                Self { rest, finalized_left: *finalized, open_left: *open }
            }
            // No counts: no replicas.
            _ => Self { rest: &[], finalized_left: 0, open_left: 0 },
        }
    }

    fn replica(&mut self) -> Option<Result<ReportedReplica, ProtocolError>> {
        if self.finalized_left > 0 {
            self.finalized_left -= 1;
            return Some(
                self.take::<3>()
                    .map(|[id, len, stamp]| (block_of(id, len, stamp), ReplicaState::Finalized)),
            );
        }
        if self.open_left == 0 {
            return None;
        }
        if let [DELIMITER, DELIMITER, DELIMITER, rest @ ..] = self.rest {
            self.rest = rest;
        }
        self.open_left -= 1;
        let replica = self
            .take::<4>()
            .and_then(|[id, len, stamp, state]| Ok((block_of(id, len, stamp), state_of(state)?)));
        Some(replica)
    }

    fn take<const N: usize>(&mut self) -> Result<[u64; N], ProtocolError> {
        let Some((fields, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(ProtocolError::malformed(WHAT, "fewer replicas than announced"));
        };
        self.rest = rest;
        Ok(*fields)
    }
}

fn block_of(id: u64, num_bytes: u64, stamp: u64) -> Block {
    Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), num_bytes }
}

fn state_number(state: ReplicaState) -> u64 {
    match state {
        ReplicaState::Finalized => 0,
        ReplicaState::Rbw => 1,
        ReplicaState::Rwr => 2,
        ReplicaState::Rur => 3,
        ReplicaState::Temporary => 4,
    }
}

fn state_of(number: u64) -> Result<ReplicaState, ProtocolError> {
    Ok(match number {
        0 => ReplicaState::Finalized,
        1 => ReplicaState::Rbw,
        2 => ReplicaState::Rwr,
        3 => ReplicaState::Rur,
        4 => ReplicaState::Temporary,
        _ => return Err(ProtocolError::malformed(WHAT, format!("replica state {number}"))),
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::messages::DatanodeStorageProto;

    fn report(buffers: Option<(u64, Vec<Vec<u8>>)>, longs: Vec<u64>) -> StorageBlockReportProto {
        let storage = DatanodeStorageProto {
            storage_uuid: "DS-1".to_owned(),
            state: None,
            storage_type: None,
        };
        let (number_of_blocks, blocks_buffers) =
            buffers.map_or((None, Vec::new()), |(n, bytes)| (Some(n), bytes));
        StorageBlockReportProto { storage, blocks: longs, number_of_blocks, blocks_buffers }
    }

    fn replica() -> impl Strategy<Value = ReportedReplica> {
        let id = prop_oneof![any::<u64>(), 1_073_741_825u64..1_073_741_999];
        (id, any::<u64>(), 0..=LENGTH_MASK, 0u64..5).prop_map(|(id, stamp, len, state)| {
            (block_of(id, len, stamp), state_of(state).unwrap())
        })
    }

    fn decode(report: &StorageBlockReportProto) -> Result<Vec<ReportedReplica>, ProtocolError> {
        replicas(report).collect()
    }

    proptest! {
        #[test]
        fn buffers_cut_anywhere_carry_every_replica(
            reported in vec(replica(), 0..50), cut in 1usize..9,
        ) {
            let whole = encode_buffers(&reported).concat();
            let pieces = whole.chunks(cut).map(<[u8]>::to_vec).collect();
            let report = report(Some((reported.len() as u64, pieces)), Vec::new());
            prop_assert_eq!(decode(&report), Ok(reported));
        }

        #[test]
        fn longs_carry_every_replica_finalized_first(reported in vec(replica(), 0..50)) {
            let report = report(None, encode_longs(&reported));
            let mut expected = reported;
            expected.sort_by_key(|(_, state)| *state != ReplicaState::Finalized);
            prop_assert_eq!(decode(&report), Ok(expected));
        }

        #[test]
        fn any_bytes_give_replicas_or_an_error(
            count in any::<Option<u64>>(), buffers in vec(vec(any::<u8>(), 0..40), 0..4),
            longs in vec(prop_oneof![any::<u64>(), 0u64..4, Just(DELIMITER)], 0..20),
        ) {
            let report = report(count.map(|count| (count, buffers)), longs);
            let read = replicas(&report).count();
            prop_assert!(read <= 41);
            let checked = check(&report);
            prop_assert_eq!(checked.is_ok(), replicas(&report).all(|replica| replica.is_ok()));
        }
    }

    #[test]
    fn an_empty_storage_reports_nothing_in_either_encoding() {
        assert_eq!(decode(&report(Some((0, Vec::new())), Vec::new())), Ok(Vec::new()));
        assert_eq!(decode(&report(None, encode_longs(&[]))), Ok(Vec::new()));
        assert_eq!(decode(&report(None, Vec::new())), Ok(Vec::new()));
    }

    #[test]
    fn large_reports_are_cut_into_full_buffers() {
        let many: Vec<_> = (0..20_000)
            .map(|id| (block_of(id, 134_217_728, 1001), ReplicaState::Finalized))
            .collect();
        let buffers = encode_buffers(&many);
        let (last, full) = buffers.split_last().unwrap();
        assert!(full.iter().all(|buffer| buffer.len() == BUFFER_BYTES));
        assert!(!full.is_empty() && last.len() <= BUFFER_BYTES);
        assert_eq!(decode(&report(Some((20_000, buffers)), Vec::new())), Ok(many));
    }
}

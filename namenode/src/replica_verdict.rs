//! What a reported replica is worth, given the block that the namespace stores.
//!
//! | reported | unknown block | stored under construction or recovery | stored COMMITTED or COMPLETE |
//! |---|---|---|---|
//! | FINALIZED | delete; leave it if its stamp lies in the future | older stamp: bad; else recorded | other stamp or length: bad; else good |
//! | RBW | the same | older stamp: bad; else recorded, its datanode joins the pipeline's | other stamp: bad; else late, ignored |
//! | RWR | the same | the same | bad |
//! | RUR, TEMPORARY | ignored | ignored | ignored |

use ringfs_protocol::block::{Block, GenerationStamp, ReplicaState};

use crate::block_manager::StoredBlock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    /// A replica of a block that is being written or recovered.
    Open,
    Bad(BadReason),
    Ignored,
    /// Its block was deleted.
    Unknown,
    /// Newer than all that this namespace has given out: not ours to judge.
    FromTheFuture,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadReason {
    GenerationStamp,
    Length,
    /// Waits for a recovery that will never come: the block was completed without it.
    State,
    /// A reader or the datanode itself found its bytes wrong.
    Corruption,
}

pub(crate) fn judge(
    reported: &Block,
    state: ReplicaState,
    stored: Option<&StoredBlock>,
    last_generation_stamp: impl FnOnce() -> GenerationStamp,
) -> Verdict {
    if matches!(state, ReplicaState::Rur | ReplicaState::Temporary) {
        return Verdict::Ignored;
    }
    let Some(stored) = stored else {
        return if reported.generation_stamp > last_generation_stamp() {
            Verdict::FromTheFuture
        } else {
            Verdict::Unknown
        };
    };
    if !stored.state.is_settled() {
        return if reported.generation_stamp < stored.block.generation_stamp {
            Verdict::Bad(BadReason::GenerationStamp)
        } else {
            Verdict::Open
        };
    }
    let stale_is_good = ringfs_protocol::mutant!("namenode: count stale replicas");
    if reported.generation_stamp != stored.block.generation_stamp && !stale_is_good {
        return Verdict::Bad(BadReason::GenerationStamp);
    }
    match state {
        ReplicaState::Finalized
            if reported.num_bytes == stored.block.num_bytes
                || ringfs_protocol::mutant!("namenode: count short replicas") =>
        {
            Verdict::Good
        }
        ReplicaState::Finalized => Verdict::Bad(BadReason::Length),
        ReplicaState::Rwr => Verdict::Bad(BadReason::State),
        _ => Verdict::Ignored,
    }
}

#[cfg(test)]
mod tests {
    use ringfs_protocol::block::BlockId;

    use super::*;
    use crate::block_manager::BlockState;

    const STORED: Block =
        Block { id: BlockId(7), generation_stamp: GenerationStamp(1005), num_bytes: 100 };
    const RECOVERY: BlockState = BlockState::UnderRecovery { recovery_id: GenerationStamp(1009) };

    #[test]
    fn every_reported_state_against_every_stored_state() {
        use BadReason::{GenerationStamp as Stamp, Length, State};
        use BlockState::{Committed, Complete, UnderConstruction};
        use ReplicaState::{Finalized, Rbw, Rur, Rwr, Temporary};
        use Verdict::{Bad, FromTheFuture, Good, Ignored, Open, Unknown};

        let (open, settled) = ([UnderConstruction, RECOVERY], [Committed, Complete]);
        // Reported state, stamp and length; the verdict if stored open, and if stored settled.
        let table = [
            (Finalized, 1005, 100, Open, Good),
            (Finalized, 1005, 60, Open, Bad(Length)),
            (Finalized, 1004, 100, Bad(Stamp), Bad(Stamp)),
            (Finalized, 1006, 100, Open, Bad(Stamp)),
            (Rbw, 1005, 60, Open, Ignored),
            (Rbw, 1004, 60, Bad(Stamp), Bad(Stamp)),
            (Rbw, 1006, 60, Open, Bad(Stamp)),
            (Rwr, 1005, 60, Open, Bad(State)),
            (Rwr, 1004, 60, Bad(Stamp), Bad(Stamp)),
            (Rur, 1005, 100, Ignored, Ignored),
            (Temporary, 1005, 100, Ignored, Ignored),
        ];
        for (state, stamp, num_bytes, if_open, if_settled) in table {
            let reported = Block { generation_stamp: GenerationStamp(stamp), num_bytes, ..STORED };
            let verdict = |stored_state| {
                let stored = StoredBlock {
                    block: STORED,
                    state: stored_state,
                    replication: 3,
                    inode: 1,
                    preferred_block_size: 100,
                };
                judge(&reported, state, Some(&stored), || GenerationStamp(1010))
            };
            for stored in open {
                assert_eq!(verdict(stored), if_open, "{state:?} {stamp} {num_bytes} {stored:?}");
            }
            for stored in settled {
                assert_eq!(verdict(stored), if_settled, "{state:?} {stamp} {num_bytes} {stored:?}");
            }
        }
        for (stamp, verdict) in [(1010, Unknown), (1011, FromTheFuture)] {
            let reported = Block { generation_stamp: GenerationStamp(stamp), ..STORED };
            for state in [Finalized, Rbw, Rwr] {
                assert_eq!(judge(&reported, state, None, || GenerationStamp(1010)), verdict);
            }
            assert_eq!(judge(&reported, Temporary, None, || GenerationStamp(1010)), Ignored);
        }
    }
}

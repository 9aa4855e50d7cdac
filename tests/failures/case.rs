//! The cases: what fails when, and whether the write must survive it.

use std::collections::HashSet;
use std::fmt;

use super::writer::Kind;

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The file is created, nothing is written.
    Created,
    /// In the middle of the first block.
    MidBlock,
    /// Packets are on their way.
    Streaming,
    /// The first block's last packets are on their way.
    LastPacket,
    /// The first block is finished, the second is not begun.
    BetweenBlocks,
    /// A part of the second block is flushed.
    Flushed,
    /// The file is being closed.
    Closing,
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Victim {
    First,
    Middle,
    Last,
    /// The first and the last datanode.
    Two,
    Namenode,
    Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blow {
    Kill,
    /// SIGSTOP, undone after the write or, for namenode and client, after three seconds.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub kind: Kind,
    pub replication: usize,
    pub stage: Stage,
    pub victim: Victim,
    pub blow: Blow,
}

impl Stage {
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::MidBlock,
        Self::Streaming,
        Self::LastPacket,
        Self::BetweenBlocks,
        Self::Flushed,
        Self::Closing,
    ];

    /// No datanode has a part in the write at that moment.
    pub fn is_without_pipeline(self) -> bool {
        matches!(self, Self::Created | Self::BetweenBlocks)
    }
}

impl Victim {
    pub const ALL: [Self; 6] =
        [Self::First, Self::Middle, Self::Last, Self::Two, Self::Namenode, Self::Client];

    /// Places in a pipeline of `replication` datanodes.
    pub fn places(self, replication: usize) -> Vec<usize> {
        match self {
            Self::First => vec![0],
            Self::Middle => vec![1],
            Self::Last => vec![replication - 1],
            Self::Two => vec![0, replication - 1],
            Self::Namenode | Self::Client => Vec::new(),
        }
    }

    /// Whether it is not the same as another victim at this replication.
    fn is_distinct(self, replication: usize) -> bool {
        match self {
            Self::Middle => replication == 3,
            Self::Last | Self::Two => replication > 1,
            _ => true,
        }
    }
}

impl Case {
    /// Whether the write itself must succeed. What was acknowledged is there in any case.
    pub fn must_succeed(&self) -> bool {
        if self.victim == Victim::Client {
            // A stopped client comes back to datanodes that gave it up, and drops the first one.
            return self.blow == Blow::Stop && self.replication > 1 && self.kind == Kind::Ours;
        }
        let survivors = self.replication - self.victim.places(self.replication).len();
        match self.kind {
            Kind::Ours | Kind::Java => survivors > 0 || self.stage.is_without_pipeline(),
            // It takes no other block when a pipeline cannot be set up, so that it fails once it
            // begins one, and does not repeat a lost call to the namenode. Of a recovered pipeline
            // it does not read which datanode was bad (`setup_pipeline` in its block writer), and
            // drops the first: the survivor of two others.
            Kind::HdfsNative => {
                survivors > 0
                    && self.stage == Stage::Closing
                    && !matches!(self.victim, Victim::Namenode | Victim::Two)
            }
        }
    }

    /// hdfs-native waits so long for an ack, whatever is configured (`ACK_READ_TIMEOUT` in its block
    /// writer), before it drops the first datanode.
    fn takes_a_minute(&self) -> bool {
        self.kind == Kind::HdfsNative
            && self.blow == Blow::Stop
            && matches!(self.victim, Victim::First | Victim::Two)
    }

    /// What a case is chosen by: each pair of two of these occurs.
    fn properties(&self) -> [(u8, usize); 5] {
        let place = |index: Option<usize>| index.unwrap_or_default();
        [
            (0, self.kind as usize),
            (1, self.replication),
            (2, place(Stage::ALL.iter().position(|stage| *stage == self.stage))),
            (3, place(Victim::ALL.iter().position(|victim| *victim == self.victim))),
            (4, self.blow as usize),
        ]
    }

    fn pairs(&self) -> impl Iterator<Item = [(u8, usize); 2]> {
        let properties = self.properties();
        (0..5).flat_map(move |one| (0..one).map(move |two| [properties[one], properties[two]]))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, replication, stage, victim, blow } = self;
        write!(f, "{kind:?}/{replication}/{stage:?}/{victim:?}/{blow:?}")
    }
}

pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Kind::Ours, Kind::Java, Kind::HdfsNative] {
        for replication in 1..=3 {
            for stage in Stage::ALL {
                for victim in Victim::ALL {
                    for blow in [Blow::Kill, Blow::Stop] {
                        cases.push(Case { kind, replication, stage, victim, blow });
                    }
                }
            }
        }
    }
    cases.retain(|case| case.victim.is_distinct(case.replication));
    cases
}

/// A small set in which each pair occurs that occurs at all: always the case with most new pairs. Those
/// that take a minute are left to the full run.
pub fn chosen() -> Vec<Case> {
    let mut left = all();
    left.retain(|case| !case.takes_a_minute());
    let mut wanted: HashSet<_> = left.iter().flat_map(Case::pairs).collect();
    let mut chosen = Vec::new();
    while !wanted.is_empty() {
        let news = |case: &Case| case.pairs().filter(|pair| wanted.contains(pair)).count();
        // The first of several: max_by_key would take the last.
        let best = (0..left.len()).rev().max_by_key(|index| news(&left[*index]));
        let case = left.swap_remove(best.expect("every pair is of a case"));
        wanted.retain(|pair| !case.pairs().any(|covered| covered == *pair));
        chosen.push(case);
    }
    chosen
}

//! What a process has of a stream, and so what it may acknowledge upstream.

use std::collections::BTreeSet;

use super::AckKind;
use super::layout::Layout;

#[derive(Debug, Default)]
pub struct Progress {
    /// Packets received whole (and verified, at the tail).
    pub received: u64,
    /// First packets of slabs that are not written yet, or not thrown away where bytes are
    /// discarded; the one that is filling included.
    unwritten: BTreeSet<u64>,
    /// Packets that downstream has acknowledged; `None` at the tail.
    pub downstream: Option<u64>,
}

impl Progress {
    pub fn new(is_tail: bool) -> Self {
        Self { downstream: (!is_tail).then_some(0), ..Self::default() }
    }

    pub fn begin_slab(&mut self, first_packet: u64) {
        self.unwritten.insert(first_packet);
    }

    pub fn slab_written(&mut self, first_packet: u64) {
        self.unwritten.remove(&first_packet);
    }

    /// The number of packets that are here and downstream, as the kind of ack asks.
    pub fn acknowledged(&self, layout: &Layout, kind: AckKind) -> u64 {
        let here = match (self.unwritten.first(), kind) {
            (None, _) => self.received,
            (Some(first), AckKind::Written) => *first,
            // The last packet of a block waits for all of the block.
            (Some(first), AckKind::Received) => self.received.min(layout.end_of_block(*first) - 1),
        };
        self.downstream.map_or(here, |downstream| here.min(downstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledges_what_is_written_here_and_acknowledged_downstream() {
        let layout = Layout::new(64 << 20, 1, 64 << 10, 2 << 20).unwrap();
        let mut progress = Progress::new(false);
        progress.begin_slab(0);
        progress.received = 20;
        progress.begin_slab(16);
        progress.downstream = Some(18);
        assert_eq!(progress.acknowledged(&layout, AckKind::Written), 0);
        assert_eq!(progress.acknowledged(&layout, AckKind::Received), 18);
        progress.slab_written(0);
        assert_eq!(progress.acknowledged(&layout, AckKind::Written), 16);
        progress.slab_written(16);
        progress.downstream = Some(20);
        assert_eq!(progress.acknowledged(&layout, AckKind::Written), 20);
    }

    #[test]
    fn the_last_packet_of_a_block_waits_for_the_writes_of_the_block() {
        let layout = Layout::new(64 << 20, 1, 64 << 10, 2 << 20).unwrap();
        let mut progress = Progress::new(true);
        progress.begin_slab(0);
        progress.begin_slab(16);
        progress.received = 40;
        assert_eq!(progress.acknowledged(&layout, AckKind::Received), 31);
        progress.slab_written(0);
        assert_eq!(progress.acknowledged(&layout, AckKind::Received), 31);
        progress.slab_written(16);
        assert_eq!(progress.acknowledged(&layout, AckKind::Received), 40);
    }
}

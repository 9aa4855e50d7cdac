//! Which connections send from memory in place.
//!
//! A connection to another host starts with zero-copy sends. With every one the kernel reports, once
//! it has let go of the memory, whether it copied after all: a card without scatter-gather, a tunnel,
//! or a peer that is on this host makes it. After a few such reports the connection sends plainly for
//! the rest of its life. To this host's own address plain sends are used from the start: there the
//! kernel always copies, at twice the price of a plain send.

use std::cell::Cell;

use crate::counters::Counters;

use super::driver::Operation;

/// Below this pinning pages costs more than copying them.
const LEAST_BYTES: usize = 16 << 10;
/// Reports of copies after which a connection gives up.
const COPIES_MAX: u32 = 8;

#[derive(Debug, Default)]
pub struct ZeroCopyUsage {
    is_chosen: Cell<bool>,
    copies: Cell<u32>,
}

impl ZeroCopyUsage {
    pub fn allow(&self) {
        self.is_chosen.set(true);
    }

    /// Whether to send so many bytes in place.
    pub fn pays(&self, bytes: usize) -> bool {
        self.is_chosen.get() && bytes >= LEAST_BYTES
    }

    fn report(&self, copied: bool) {
        if !copied {
            self.copies.set(0);
            return;
        }
        self.copies.set(self.copies.get() + 1);
        if self.copies.get() >= COPIES_MAX {
            self.is_chosen.set(false);
        }
    }
}

impl Operation {
    /// What must stay when the result of a zero-copy send is handed out before its notice.
    pub(super) fn awaiting_notice(&self) -> Self {
        match self {
            Self::SendMessageZeroCopy { message, usage, .. } => {
                Self::AwaitNotice { buffers: message.unsent(), usage: usage.clone() }
            }
            other => unreachable!("only zero-copy sends have a notice: {other:?}"),
        }
    }

    /// The notice of a zero-copy send.
    pub(super) fn note_usage(&self, copied: bool, counters: &Counters) {
        let (Self::SendMessageZeroCopy { usage, .. } | Self::AwaitNotice { usage, .. }) = self
        else {
            unreachable!("only zero-copy sends have a notice: {self:?}");
        };
        usage.report(copied);
        counters.zero_copy_sends.add(1);
        counters.zero_copy_sends_copied.add(copied.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_copied_for_goes_back_to_plain_sends() {
        let usage = ZeroCopyUsage::default();
        assert!(!usage.pays(1 << 20), "not before it is allowed");
        usage.allow();
        assert!(usage.pays(LEAST_BYTES) && !usage.pays(LEAST_BYTES - 1));
        for _ in 1..COPIES_MAX {
            usage.report(true);
        }
        usage.report(false);
        for _ in 1..COPIES_MAX {
            usage.report(true);
        }
        assert!(usage.pays(1 << 20), "never so many in a row");
        usage.report(true);
        assert!(!usage.pays(1 << 20));
    }
}

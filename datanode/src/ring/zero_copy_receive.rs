//! Whether a network card can receive into io_uring's memory in place (zcrx): it must split headers
//! from data and let its queues' memory be provided.
//!
//! The kernel is asked to set it up for a queue that no card has: a card without the feature is
//! refused as such, one with it for the queue's number. So nothing of the card is touched.

#![allow(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;

use io_uring::types::{
    IORING_MEM_REGION_TYPE_USER, io_uring_region_desc, io_uring_zcrx_area_reg,
    io_uring_zcrx_ifq_reg,
};
use io_uring::{IoUring, cqueue, squeue};
use memmap2::MmapMut;

const NO_QUEUE: u32 = u32::MAX - 1;
const PAGE_BYTES: usize = 4096;
const REFILL_ENTRIES: u32 = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZeroCopyReceive {
    Offered,
    Absent { why: String },
}

/// The cards of this host (not its virtual links), each with its answer.
pub fn of_network_cards() -> Vec<(String, ZeroCopyReceive)> {
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let cards = links.filter(|link| link.path().join("device").exists());
    let mut found: Vec<_> = cards
        .filter_map(|link| {
            let index =
                fs::read_to_string(link.path().join("ifindex")).ok()?.trim().parse().ok()?;
            Some((link.file_name().to_string_lossy().into_owned(), of_card(index)))
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

fn of_card(interface_index: u32) -> ZeroCopyReceive {
    match register(interface_index) {
        // The queue's number is all that the card objects to.
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => ZeroCopyReceive::Offered,
        Ok(()) => ZeroCopyReceive::Offered,
        Err(error) => {
            let why = match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => "neither card nor driver has it".to_owned(),
                Some(libc::EPERM) => "asking takes CAP_NET_ADMIN".to_owned(),
                Some(libc::EINVAL) => "the kernel is without it".to_owned(),
                _ => error.to_string(),
            };
            ZeroCopyReceive::Absent { why }
        }
    }
}

fn register(interface_index: u32) -> io::Result<()> {
    let ring: IoUring<squeue::Entry, cqueue::Entry32> =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8)?;
    let mut area = MmapMut::map_anon(16 * PAGE_BYTES)?;
    let mut refill = MmapMut::map_anon(2 * PAGE_BYTES)?;
    // SAFETY: these are structures of integers, for which all zeroes is a value.
    let (mut area_request, mut region, mut request) = unsafe {
        (
            std::mem::zeroed::<io_uring_zcrx_area_reg>(),
            std::mem::zeroed::<io_uring_region_desc>(),
            std::mem::zeroed::<io_uring_zcrx_ifq_reg>(),
        )
    };
    area_request.addr = area.as_mut_ptr() as u64;
    area_request.len = area.len() as u64;
    region.user_addr = refill.as_mut_ptr() as u64;
    region.size = refill.len() as u64;
    region.flags = IORING_MEM_REGION_TYPE_USER;
    request.if_idx = interface_index;
    request.if_rxq = NO_QUEUE;
    request.rq_entries = REFILL_ENTRIES;
    request.area_ptr = &raw mut area_request as u64;
    request.region_ptr = &raw mut region as u64;
    // The ring goes before the memory does.
    let registered = ring.submitter().register_ifq(&request);
    drop(ring);
    registered
}

impl fmt::Display for ZeroCopyReceive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offered => f.write_str("offered"),
            Self::Absent { why } => write!(f, "absent ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_no_card_has_it_not() {
        let index =
            fs::read_to_string("/sys/class/net/lo/ifindex").unwrap().trim().parse().unwrap();
        assert!(matches!(of_card(index), ZeroCopyReceive::Absent { .. }));
        let gone = of_card(u32::MAX / 2);
        assert!(matches!(gone, ZeroCopyReceive::Absent { .. }), "{gone}");
        for (name, answer) in of_network_cards() {
            assert!(name != "lo" && !answer.to_string().is_empty());
        }
    }
}

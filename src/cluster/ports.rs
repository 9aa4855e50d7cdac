//! Free ports on 127.0.0.1, chosen below the range that the kernel gives to outgoing connections
//! (32768 and up): a port stays free between its choice here and its bind by a child.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use super::ClusterError;

const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

#[derive(Clone, Copy, Debug)]
pub struct DatanodePorts {
    pub transfer: u16,
    pub ipc: u16,
    pub http: u16,
}

impl DatanodePorts {
    pub fn choose() -> Result<Self, ClusterError> {
        Ok(Self { transfer: free_port()?, ipc: free_port()?, http: free_port()? })
    }
}

/// No two calls of one process give the same port before all were given; processes start at
/// different places.
pub fn free_port() -> Result<u16, ClusterError> {
    static CHOSEN: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(LAST - FIRST) + 1;
    let start = std::process::id().wrapping_mul(997);
    for _ in 0..count {
        let step = start.wrapping_add(CHOSEN.fetch_add(1, Ordering::Relaxed)) % count;
        let port = FIRST + u16::try_from(step).expect("below LAST - FIRST + 1");
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(ClusterError::NoPort { first: FIRST, last: LAST })
}

pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_port_once_and_no_taken_one() {
        let first = free_port().unwrap();
        let second = free_port().unwrap();
        assert!(first != second && (FIRST..=LAST).contains(&first));
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, second)).unwrap();
        assert!(!is_free(second));
    }
}

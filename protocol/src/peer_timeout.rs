//! When the kernel ends a TCP connection whose other end has vanished: a host that lost its power or
//! its network sends no reset, and who only waits to be asked would wait for ever.
//!
//! After half of the time without a word the kernel asks the other host, and ends the connection when
//! that has not answered until the time is over (keepalive); or when bytes, such as a reply, are not
//! taken for so long. A process that is busy, stopped or idle loses nothing by that: its kernel answers
//! for it, as long as there is room for what it is sent. Whoever reads or writes the socket gets an error.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

use crate::limits::{PEER_PROBES, PEER_TIMEOUT, PEER_TIMEOUT_MAX, PEER_TIMEOUT_MIN};
use crate::settings::RINGFS_RPC_PEER_TIMEOUT;
use crate::site_config::{ConfigError, Configuration};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTimeout(Duration);

impl Default for PeerTimeout {
    fn default() -> Self {
        Self(PEER_TIMEOUT)
    }
}

impl PeerTimeout {
    pub fn from_configuration(configuration: &Configuration) -> Result<Self, ConfigError> {
        let timeout = configuration.duration(&RINGFS_RPC_PEER_TIMEOUT)?;
        if (PEER_TIMEOUT_MIN..=PEER_TIMEOUT_MAX).contains(&timeout) {
            return Ok(Self(timeout));
        }
        let why = format!("must be {PEER_TIMEOUT_MIN:?} to {PEER_TIMEOUT_MAX:?}");
        Err(configuration.refuse(&RINGFS_RPC_PEER_TIMEOUT, &format!("{timeout:?}"), why))
    }

    /// For a connection on which someone always waits for the other end or will ask it something.
    pub fn set(self, socket: impl AsFd) -> io::Result<()> {
        self.set_for_idle(&socket)?;
        sockopt::set_tcp_user_timeout(socket, self.0.as_millis() as u32)?;
        Ok(())
    }

    /// For a connection whose other end may take its time with what it is sent: a reader of a block,
    /// whose sender has a bound of its own.
    pub fn set_for_idle(self, socket: impl AsFd) -> io::Result<()> {
        // The kernel counts in whole seconds.
        let at_least_one = |part: Duration| Duration::from_secs(part.as_secs().max(1));
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, at_least_one(self.0 / 2))?;
        sockopt::set_tcp_keepintvl(&socket, at_least_one(self.0 / 2 / PEER_PROBES))?;
        sockopt::set_tcp_keepcnt(&socket, PEER_PROBES)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_silent_peer_is_asked_after_half_of_its_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        PeerTimeout::default().set(&socket).unwrap();
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        let idle = sockopt::tcp_keepidle(&socket).unwrap();
        let probing = sockopt::tcp_keepintvl(&socket).unwrap() * PEER_PROBES;
        assert_eq!((idle, idle + probing), (PEER_TIMEOUT / 2, PEER_TIMEOUT));
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), PEER_TIMEOUT.as_millis() as u32);
    }

    #[test]
    fn a_time_that_the_kernel_cannot_count_is_refused() {
        let of = |text| {
            let mut configuration = Configuration::default();
            configuration.set(RINGFS_RPC_PEER_TIMEOUT.name, text);
            PeerTimeout::from_configuration(&configuration)
        };
        assert_eq!(of("4s").unwrap(), PeerTimeout(Duration::from_secs(4)));
        for wrong in ["0", "900ms", "2d"] {
            let why = of(wrong).unwrap_err().to_string();
            assert!(why.contains("ringfs.rpc.peer.timeout"), "{why}");
        }
    }
}

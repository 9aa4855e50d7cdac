//! The socket of a data connection: a TCP stream, or what stands for one in a simulated world.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(feature = "simulation")]
    Simulated(Box<dyn ringfs_protocol::simulation::Stream>),
}

#[cfg(feature = "simulation")]
use std::future::poll_fn;

impl Socket {
    /// `own_host` matters in a simulated world only.
    pub async fn connect(
        #[cfg_attr(not(feature = "simulation"), allow(unused_variables))] own_host: &str,
        host: &str,
        port: u16,
    ) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if let Some(network) = ringfs_protocol::simulation::network() {
            let address = format!("{host}:{port}");
            return network.connect(own_host, &address).await.map(Self::Simulated);
        }
        let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in lookup_host((host, port)).await? {
            outcome = connect_tcp(address).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome.map(Self::Tcp)
    }

    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.readable().await,
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => {
                poll_fn(|context| stream.poll_readable(context)).await;
                Ok(())
            }
        }
    }

    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.writable().await,
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => {
                poll_fn(|context| stream.poll_writable(context)).await;
                Ok(())
            }
        }
    }

    pub fn try_read(&self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => drained(tcp, Interest::READABLE, out.len(), || {
                Ok(rustix::io::read(tcp, &mut *out)?)
            }),
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.try_read(out),
        }
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => stream.try_write(bytes),
        }
    }

    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => {
                let len = slices.iter().map(|slice| slice.len()).sum();
                drained(tcp, Interest::WRITABLE, len, || Ok(rustix::io::writev(tcp, slices)?))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => {
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                stream.try_write(&all)
            }
        }
    }

    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.write_all(bytes).await,
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    self.writable().await?;
                    match self.try_write(rest) {
                        Ok(count) => rest = &rest[count..],
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }

    pub async fn read_buf(&mut self, out: &mut impl BufMut) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read_buf(out).await,
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => loop {
                self.readable().await?;
                let mut bytes = vec![0; out.remaining_mut().min(64 << 10)];
                match self.try_read(&mut bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => {
                        let count = result?;
                        out.put_slice(&bytes[..count]);
                        return Ok(count);
                    }
                }
            },
        }
    }
}

/// Reads or writes up to `len` bytes. What comes short of that has emptied the socket's buffer, or filled
/// it: the next attempt waits for its event, and costs no system call before.
fn drained(
    tcp: &TcpStream,
    interest: Interest,
    len: usize,
    transfer: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut short = None;
    let whole = tcp.try_io(interest, || match transfer()? {
        count if count == 0 || count == len => Ok(count),
        count => {
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        }
    });
    short.map_or(whole, Ok)
}

/// Small messages must not wait for more; and between two processes of one host the default
/// congestion control may be one that paces (BBR), at half the speed of those that do not, and a
/// socket that has connected under it is paced for good. Failing either costs speed only.
async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let _ = socket.set_nodelay(true);
    if is_own(address.ip()) {
        let _ = socket2::SockRef::from(&socket).set_tcp_congestion(b"cubic");
    }
    socket.connect(address).await
}

/// Whether an address is one of this host's: nothing else can be bound to.
pub(crate) fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

//! TCP sockets on this thread's ring.

#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::LazyLock;

use bytes::BytesMut;
use ringfs_protocol::peer_timeout::PeerTimeout;
use rustix::net::sockopt::{set_tcp_congestion, set_tcp_nodelay, tcp_congestion};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket, socket_with};
use rustix::net::{RecvFlags, Shutdown, getpeername, getsockname, recv, shutdown};

use super::descriptor::{Descriptor, OpenDescriptor};
use super::driver::Operation;
use super::executor::current;
use super::file::{count, run, submit};
use super::in_flight::Overdue;
use super::message::{ReceiveMessage, SendMessage, SocketAddress};
use super::zero_copy::ZeroCopyUsage;

/// The congestion control of sockets whose peer is on this host: BBR, the default of many hosts,
/// paces loopback to less than half of what cubic moves. A socket that was BBR's for a moment is
/// paced for good, timers and all: it is set before a socket connects, and before one is accepted.
const LOCAL_CONGESTION_CONTROL: &str = "cubic";

pub struct TcpListener {
    descriptor: Descriptor,
}

/// A connected socket. Clones are handles on the same socket.
#[derive(Clone, Debug)]
pub struct TcpStream {
    pub(super) descriptor: Descriptor,
    zero_copy: Rc<ZeroCopyUsage>,
}

impl TcpListener {
    /// Its connections have the congestion control for peers on this host until they are prepared.
    pub fn new(listener: impl Into<OwnedFd>) -> Self {
        let listener = listener.into();
        let _ = set_tcp_congestion(&listener, LOCAL_CONGESTION_CONTROL);
        Self { descriptor: OpenDescriptor::socket(listener) }
    }

    /// A connection as a plain descriptor, to be served by any thread.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        let accept = Operation::Accept { fd: self.descriptor.clone() };
        let (_, outcome) = answered(submit(accept).await);
        let number = outcome.result?;
        // SAFETY: the kernel has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
    }
}

impl TcpStream {
    pub fn new(socket: OwnedFd) -> Self {
        Self { descriptor: OpenDescriptor::socket(socket), zero_copy: Rc::default() }
    }

    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = with_sockets(|sockets| sockets.open(address))?;
        let stream = Self::new(socket);
        let address = SocketAddress::new(address);
        run(Operation::Connect { fd: stream.descriptor.clone(), address }).await?;
        stream.prepare()?;
        Ok(stream)
    }

    /// Sets the options of a data-transfer socket, connected or accepted.
    pub fn prepare(&self) -> io::Result<()> {
        if with_sockets(|sockets| sockets.prepare(&self.descriptor))? {
            self.zero_copy.allow();
        }
        Ok(())
    }

    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        with_sockets(|sockets| sockets.peer_address(&self.descriptor))
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        with_sockets(|sockets| sockets.local_address(&self.descriptor))
    }

    /// Bytes that have arrived and were not received.
    pub fn available(&self) -> io::Result<usize> {
        with_sockets(|sockets| sockets.available(&self.descriptor))
    }

    /// Copies what lies `at` bytes ahead in the socket, as much as is there; 0 where it cannot be
    /// told.
    pub fn peek(&self, at: usize, out: &mut [u8]) -> usize {
        with_sockets(|sockets| sockets.peek(&self.descriptor, at, out))
    }

    /// Appends what arrives to the buffer's spare capacity.
    pub async fn receive(&self, buffer: BytesMut) -> (io::Result<usize>, BytesMut) {
        let fd = self.descriptor.clone();
        match answered(submit(Operation::Receive { fd, buffer }).await) {
            (Operation::Receive { mut buffer, .. }, outcome) => {
                let received = count(outcome.result);
                if let Ok(count) = received {
                    assert!(count <= buffer.capacity() - buffer.len());
                    // SAFETY: the kernel has filled that much of the spare capacity.
                    unsafe { buffer.set_len(buffer.len() + count) };
                }
                (received, buffer)
            }
            _ => unreachable!("an operation comes back as it was submitted"),
        }
    }

    /// 0 bytes at the end of the stream.
    pub async fn receive_message(
        &self,
        message: Box<ReceiveMessage>,
    ) -> (io::Result<usize>, Box<ReceiveMessage>) {
        let fd = self.descriptor.clone();
        let operation = Operation::ReceiveMessage { fd, message };
        match answered(current().carry_out(operation).await) {
            (Operation::ReceiveMessage { message, .. }, outcome) => {
                (count(outcome.result), message)
            }
            _ => unreachable!("an operation comes back as it was submitted"),
        }
    }

    /// Resolves when bytes, the stream's end or an error can be received.
    pub async fn readable(&self) -> io::Result<()> {
        run(Operation::AwaitReadable { fd: self.descriptor.clone() }).await
    }

    /// Sends all of the buffer, which comes back emptied.
    pub async fn send_all(&self, mut buffer: BytesMut) -> (io::Result<()>, BytesMut) {
        let mut from = 0;
        while from < buffer.len() {
            let fd = self.descriptor.clone();
            let operation = Operation::Send { fd, buffer, from };
            let (operation, outcome) = answered(current().carry_out(operation).await);
            let Operation::Send { buffer: returned, .. } = operation else {
                unreachable!("an operation comes back as it was submitted");
            };
            buffer = returned;
            match outcome.result {
                Ok(count) => from += count as usize,
                Err(error) => return (Err(error), buffer),
            }
        }
        buffer.clear();
        (Ok(()), buffer)
    }

    /// Sends all of a message, which comes back emptied.
    pub async fn send_message(
        &self,
        mut message: Box<SendMessage>,
    ) -> (io::Result<()>, Box<SendMessage>) {
        let mut sent = Ok(());
        while sent.is_ok() && message.parts() > 0 {
            let fd = self.descriptor.clone();
            let operation = if self.zero_copy.pays(message.remaining()) {
                let usage = self.zero_copy.clone();
                Operation::SendMessageZeroCopy { fd, message, usage }
            } else {
                Operation::SendMessage { fd, message }
            };
            let (operation, outcome) = answered(current().carry_out(operation).await);
            let (Operation::SendMessage { message: returned, .. }
            | Operation::SendMessageZeroCopy { message: returned, .. }) = operation
            else {
                unreachable!("an operation comes back as it was submitted");
            };
            message = returned;
            sent = outcome.result.map(|count| message.advance(count as usize));
        }
        message.clear();
        (sent, message)
    }

    /// Ends the connection in both directions, for every handle on it.
    pub fn close(&self) {
        with_sockets(|sockets| sockets.shut_down(&self.descriptor));
    }
}

/// What is asked of sockets, and answered without waiting.
pub trait Sockets {
    /// A socket to connect to `address`.
    fn open(&self, address: SocketAddr) -> io::Result<OwnedFd>;
    /// Sets its options; whether its peer is on another host.
    fn prepare(&self, socket: &OwnedFd) -> io::Result<bool>;
    fn peer_address(&self, socket: &OwnedFd) -> io::Result<SocketAddr>;
    fn local_address(&self, socket: &OwnedFd) -> io::Result<SocketAddr>;
    fn available(&self, socket: &OwnedFd) -> io::Result<usize>;
    fn peek(&self, socket: &OwnedFd, at: usize, out: &mut [u8]) -> usize;
    /// In both directions; a socket that is not connected any more is what was wanted.
    fn shut_down(&self, socket: &OwnedFd);
}

fn answered<T>(finished: Result<T, Overdue>) -> T {
    finished.unwrap_or_else(|_| unreachable!("the executor gives up on disks only"))
}

fn with_sockets<T>(ask: impl FnOnce(&dyn Sockets) -> T) -> T {
    current().with_driver(|driver| ask(driver.sockets()))
}

/// What the host's sockets have by themselves.
static DEFAULT_CONGESTION_CONTROL: LazyLock<Option<String>> = LazyLock::new(|| {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    tcp_congestion(socket).ok()
});

/// Whether an address is one of this host's: nothing else can be bound to.
fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// The sockets of the kernel that we run on.
pub struct KernelSockets;

impl Sockets for KernelSockets {
    fn open(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if is_own(address.ip()) {
            // A kernel without it keeps its default, which is only slower.
            let _ = set_tcp_congestion(&socket, LOCAL_CONGESTION_CONTROL);
        }
        Ok(socket)
    }

    fn prepare(&self, socket: &OwnedFd) -> io::Result<bool> {
        set_tcp_nodelay(socket, true)?;
        // Each stream has a bound for what its peer takes (SEND_TIMEOUT), longer than this.
        PeerTimeout::default().set_for_idle(socket)?;
        let is_remote = self.peer_address(socket)?.ip() != self.local_address(socket)?.ip();
        match (is_remote, &*DEFAULT_CONGESTION_CONTROL) {
            (true, Some(default)) => set_tcp_congestion(socket, default)?,
            (true, None) => {}
            (false, _) => {
                let _ = set_tcp_congestion(socket, LOCAL_CONGESTION_CONTROL);
            }
        }
        Ok(is_remote)
    }

    fn peer_address(&self, socket: &OwnedFd) -> io::Result<SocketAddr> {
        let address = getpeername(socket)?.ok_or(io::ErrorKind::NotConnected)?;
        Ok(SocketAddr::try_from(address)?)
    }

    fn local_address(&self, socket: &OwnedFd) -> io::Result<SocketAddr> {
        Ok(SocketAddr::try_from(getsockname(socket)?)?)
    }

    fn available(&self, socket: &OwnedFd) -> io::Result<usize> {
        Ok(rustix::io::ioctl_fionread(socket)? as usize)
    }

    fn peek(&self, socket: &OwnedFd, at: usize, out: &mut [u8]) -> usize {
        let Ok(at) = i32::try_from(at) else { return 0 };
        // SAFETY: the option's value is an int, and lives through the call.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEEK_OFF,
                (&raw const at).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if set != 0 {
            return 0;
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(socket, out, flags).map_or(0, |(count, _)| count)
    }

    fn shut_down(&self, socket: &OwnedFd) {
        let _ = shutdown(socket, Shutdown::Both);
    }
}

impl From<StdStream> for TcpStream {
    fn from(stream: StdStream) -> Self {
        Self::new(stream.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener as StdListener};

    use super::*;

    /// What a socket has when its connection is established decides whether it is paced.
    #[test]
    fn local_sockets_have_their_congestion_control_before_they_are_connected() {
        let offered =
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
        if !offered.is_ok_and(|offered| offered.contains(LOCAL_CONGESTION_CONTROL)) {
            eprintln!("not run: this kernel has no {LOCAL_CONGESTION_CONTROL}");
            return;
        }
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let _same = TcpListener::new(listener.try_clone().unwrap());
        let connecting = KernelSockets.open(address).unwrap();
        assert_eq!(tcp_congestion(&connecting).unwrap(), LOCAL_CONGESTION_CONTROL);
        rustix::net::connect(&connecting, &address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(tcp_congestion(&accepted).unwrap(), LOCAL_CONGESTION_CONTROL);
        let elsewhere = KernelSockets.open("192.0.2.1:9".parse().unwrap()).unwrap();
        assert_eq!(tcp_congestion(&elsewhere).ok(), *DEFAULT_CONGESTION_CONTROL);
    }
}

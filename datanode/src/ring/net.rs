//! TCP sockets on this thread's ring.

#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use bytes::BytesMut;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_congestion, set_tcp_nodelay};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::net::{RecvFlags, Shutdown, getpeername, getsockname, recv, shutdown};

use super::driver::{Descriptor, Operation};
use super::executor::current;
use super::file::{count, run, submit};
use super::message::{ReceiveMessage, SendMessage, SocketAddress};
use super::zero_copy::ZeroCopyUsage;

/// The congestion control of sockets whose peer is on this host: BBR, the default of many hosts,
/// paces loopback to less than half of what cubic moves.
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

/// What a receive has brought.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// 0 at the end of the stream.
    pub count: usize,
    pub more_in_socket: bool,
}

impl TcpListener {
    pub fn new(listener: impl Into<OwnedFd>) -> Self {
        Self { descriptor: Rc::new(listener.into()) }
    }

    /// A connection as a plain descriptor, to be served by any thread.
    pub async fn accept(&self) -> io::Result<OwnedFd> {
        let (_, outcome) = submit(Operation::Accept { fd: self.descriptor.clone() }).await;
        let number = outcome.result?;
        // SAFETY: the kernel has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
    }
}

impl TcpStream {
    pub fn new(socket: OwnedFd) -> Self {
        Self { descriptor: Rc::new(socket), zero_copy: Rc::default() }
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
        match submit(Operation::Receive { fd, buffer }).await {
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

    pub async fn receive_message(
        &self,
        message: Box<ReceiveMessage>,
    ) -> (io::Result<Received>, Box<ReceiveMessage>) {
        let fd = self.descriptor.clone();
        match submit(Operation::ReceiveMessage { fd, message }).await {
            (Operation::ReceiveMessage { message, .. }, outcome) => {
                let more_in_socket = outcome.more_in_socket;
                (count(outcome.result).map(|count| Received { count, more_in_socket }), message)
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
            let (operation, outcome) = submit(Operation::Send { fd, buffer, from }).await;
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
            let (operation, outcome) = submit(operation).await;
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

fn with_sockets<T>(ask: impl FnOnce(&dyn Sockets) -> T) -> T {
    current().with_driver(|driver| ask(driver.sockets()))
}

/// The sockets of the kernel that we run on.
pub struct KernelSockets;

impl Sockets for KernelSockets {
    fn open(&self, address: SocketAddr) -> io::Result<OwnedFd> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
    }

    fn prepare(&self, socket: &OwnedFd) -> io::Result<bool> {
        set_tcp_nodelay(socket, true)?;
        set_socket_keepalive(socket, true)?;
        let is_remote = self.peer_address(socket)?.ip() != self.local_address(socket)?.ip();
        if !is_remote {
            // A kernel without it keeps its default, which is only slower.
            let _ = set_tcp_congestion(socket, LOCAL_CONGESTION_CONTROL);
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

//! TCP sockets on this thread's ring.

#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use bytes::BytesMut;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_congestion, set_tcp_nodelay};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::net::{RecvFlags, Shutdown, getpeername, getsockname, recv, shutdown};

use super::driver::{Descriptor, Operation};
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
    pub fn new(listener: StdListener) -> Self {
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
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let stream = Self::new(socket);
        let address = SocketAddress::new(address);
        run(Operation::Connect { fd: stream.descriptor.clone(), address }).await?;
        stream.prepare()?;
        Ok(stream)
    }

    /// Sets the options of a data-transfer socket, connected or accepted.
    pub fn prepare(&self) -> io::Result<()> {
        set_tcp_nodelay(&*self.descriptor, true)?;
        set_socket_keepalive(&*self.descriptor, true)?;
        if self.peer_address()?.ip() != self.local_address()?.ip() {
            self.zero_copy.allow();
        } else {
            // A kernel without it keeps its default, which is only slower.
            let _ = set_tcp_congestion(&*self.descriptor, LOCAL_CONGESTION_CONTROL);
        }
        Ok(())
    }

    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        let address = getpeername(&*self.descriptor)?.ok_or(io::ErrorKind::NotConnected)?;
        Ok(SocketAddr::try_from(address)?)
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::try_from(getsockname(&*self.descriptor)?)?)
    }

    /// Bytes that have arrived and were not received.
    pub fn available(&self) -> io::Result<usize> {
        Ok(rustix::io::ioctl_fionread(&*self.descriptor)? as usize)
    }

    /// Copies what lies `at` bytes ahead in the socket, as much as is there; 0 where it cannot be
    /// told.
    pub fn peek(&self, at: usize, out: &mut [u8]) -> usize {
        let Ok(at) = i32::try_from(at) else { return 0 };
        // SAFETY: the option's value is an int, and lives through the call.
        let set = unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
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
        recv(&*self.descriptor, out, flags).map_or(0, |(count, _)| count)
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
        // A socket that is not connected any more is what was wanted.
        let _ = shutdown(&*self.descriptor, Shutdown::Both);
    }
}

impl From<StdStream> for TcpStream {
    fn from(stream: StdStream) -> Self {
        Self::new(stream.into())
    }
}

//! The network: connections as pairs of byte streams, each in order, with delays of their own. A
//! partition holds bytes back in one direction or both until it heals, as retransmission does. A
//! reset takes what has not arrived with it, in the middle of whatever it is.
//!
//! A host that lost power says nothing to its peers: they learn when they send to it after its
//! return, or by their own patience. A process that was killed has its connections closed for it.

mod faults;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Waker;

use rand::Rng;
use ringfs_datanode::ring::simulated::Answer;
use tokio::time::Instant;

use crate::file_work::FileWork;
use crate::kernel::DiskOperation;
use crate::world::{Host, State, machine};

/// Bytes on their way and arrived that a sender may be ahead of its receiver.
const WINDOW: usize = 96 << 10;

/// A host and the token of its executor's operation.
type OperationId = (Host, u64);

#[derive(Default)]
pub struct Network {
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    pub sockets: BTreeMap<Host, BTreeMap<i32, Socket>>,
    next_socket: u64,
    /// By address: who listens, and on which socket.
    listeners: BTreeMap<SocketAddr, (Host, i32)>,
    /// Directions that let nothing through.
    pub blocked: BTreeSet<(Host, Host)>,
    pub addresses: BTreeMap<Host, SocketAddr>,
    pub disk_operations: BTreeMap<OperationId, (String, DiskOperation)>,
    pub file_works: BTreeMap<OperationId, FileWork>,
    next_port: u16,
    posted: u64,
    /// The last posted of the parcels that have arrived.
    last_arrived: u64,
    /// Parcels left until one arrives by half, and its connection is reset.
    pub reset_in: Option<u64>,
    /// Parcels left, and for how long the datanode that the last one reaches is then down.
    pub ambush: Option<(u64, std::time::Duration)>,
    pub ambushed: Option<(Host, std::time::Duration)>,
}

pub struct Socket {
    /// Hangs up when the last handle on the socket is closed.
    pub hang_up: OwnedFd,
    /// Descriptors' numbers are the real process's, and differ from run to run: where sockets are
    /// taken in turn, it is by these.
    pub number: u64,
    role: Role,
}

enum Role {
    Fresh,
    Listening { backlog: VecDeque<EndId>, accepting: Option<u64> },
    Connected(EndId),
}

/// A connection's number and its side: 0 connected, 1 accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndId(u64, usize);

struct Connection {
    ends: [End; 2],
}

pub struct End {
    host: Host,
    address: SocketAddr,
    pub arrived: VecDeque<u8>,
    /// Sent by the peer, not arrived.
    on_the_way: usize,
    /// When the last of that arrives.
    last_arrival: Instant,
    /// What a partition holds back, in order.
    held_back: VecDeque<Parcel>,
    pub at_end: bool,
    pub is_reset: bool,
    pub is_closed: bool,
    receiving: Option<(u64, usize)>,
    sending: Option<(u64, Vec<u8>, usize)>,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

enum Parcel {
    Bytes(Vec<u8>),
    End,
    Reset,
}

impl EndId {
    pub fn peer(self) -> Self {
        Self(self.0, 1 - self.1)
    }
}

impl Network {
    pub fn end(&mut self, id: EndId) -> Option<&mut End> {
        self.connections.get_mut(&id.0).map(|connection| &mut connection.ends[id.1])
    }

    fn end_of(&self, host: &str, socket: i32) -> Option<EndId> {
        match self.sockets.get(host)?.get(&socket)?.role {
            Role::Connected(id) => Some(id),
            _ => None,
        }
    }

    pub fn machine_at(&self, address: SocketAddr) -> Option<Host> {
        let is_it = |(_, at): &(&Host, &SocketAddr)| at.ip() == address.ip();
        self.addresses.iter().find(is_it).map(|(host, _)| host.clone())
    }

    pub fn is_blocked(&self, from: &str, to: &str) -> bool {
        self.blocked.contains(&(machine(from).to_owned(), machine(to).to_owned()))
    }

    /// Forgets a socket operation that waits; whether there was one.
    pub fn forget(&mut self, id: &OperationId) -> bool {
        let (host, token) = id;
        for connection in self.connections.values_mut() {
            for end in connection.ends.iter_mut().filter(|end| end.host == *host) {
                if end.receiving.as_ref().is_some_and(|(waiting, _)| waiting == token) {
                    end.receiving = None;
                    return true;
                }
                if end.sending.as_ref().is_some_and(|(waiting, ..)| waiting == token) {
                    end.sending = None;
                    return true;
                }
            }
        }
        for socket in self.sockets.get_mut(host).into_iter().flat_map(BTreeMap::values_mut) {
            if let Role::Listening { accepting, .. } = &mut socket.role
                && *accepting == Some(*token)
            {
                *accepting = None;
                return true;
            }
        }
        false
    }

    /// Connections that are open at both ends.
    pub fn open_connections(&self) -> usize {
        let is_open = |connection: &&Connection| {
            connection.ends.iter().all(|end| !end.is_closed && !end.is_reset)
        };
        self.connections.values().filter(is_open).count()
    }
}

pub fn take_front(from: &mut VecDeque<u8>, to: &mut [u8]) {
    let (front, behind) = from.as_slices();
    let cut = front.len().min(to.len());
    to[..cut].copy_from_slice(&front[..cut]);
    let rest = to.len() - cut;
    to[cut..].copy_from_slice(&behind[..rest]);
    from.drain(..to.len());
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNREFUSED)
}

pub fn reset() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNRESET)
}

fn number(result: io::Result<u32>) -> Answer {
    Answer { result, bytes: Vec::new(), len: 0, created: Vec::new() }
}

/// Sockets of executors.
impl State {
    /// Under no descriptor of a socket that is closed, which the world has not seen yet: that it was
    /// closed would never be seen then.
    pub fn new_socket(&mut self, host: &str) -> io::Result<OwnedFd> {
        let sockets = self.network.sockets.entry(host.to_owned()).or_default();
        let mut passed_over = Vec::new();
        let (hang_up, socket) = loop {
            let (hang_up, socket) = rustix::pipe::pipe()?;
            if !sockets.contains_key(&socket.as_raw_fd()) {
                break (hang_up, socket);
            }
            passed_over.push((hang_up, socket));
        };
        self.network.next_socket += 1;
        let entry = Socket { hang_up, number: self.network.next_socket, role: Role::Fresh };
        sockets.insert(socket.as_raw_fd(), entry);
        Ok(socket)
    }

    pub fn listen(&mut self, host: &str, address: SocketAddr) -> io::Result<OwnedFd> {
        let socket = self.new_socket(host)?;
        let entry =
            self.network.sockets.get_mut(host).and_then(|all| all.get_mut(&socket.as_raw_fd()));
        if let Some(entry) = entry {
            entry.role = Role::Listening { backlog: VecDeque::new(), accepting: None };
        }
        self.network.listeners.insert(address, (host.to_owned(), socket.as_raw_fd()));
        Ok(socket)
    }

    pub fn accept(&mut self, host: &str, socket: i32, token: u64) {
        let sockets = self.network.sockets.get_mut(host);
        let Some(entry) = sockets.and_then(|all| all.get_mut(&socket)) else { return };
        let Role::Listening { backlog, accepting } = &mut entry.role else { return };
        match backlog.pop_front() {
            Some(end) => self.accepted(host, token, end),
            None => *accepting = Some(token),
        }
    }

    fn accepted(&mut self, host: &str, token: u64, end: EndId) {
        let result = self.new_socket(host).map(|socket| {
            let number = socket.into_raw_fd();
            self.be_connected(host, number, end);
            number as u32
        });
        self.end(host, token, number(result));
    }

    fn be_connected(&mut self, host: &str, socket: i32, end: EndId) {
        let entry = self.network.sockets.get_mut(host).and_then(|all| all.get_mut(&socket));
        if let Some(entry) = entry {
            entry.role = Role::Connected(end);
        }
    }

    pub fn connect(&mut self, host: &str, socket: i32, token: u64, address: SocketAddr) {
        let delay = self.millis(0..4);
        let (from, id) = (host.to_owned(), (host.to_owned(), token));
        let waits: DiskOperation = Box::new(|_| Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)));
        self.network.disk_operations.insert(id.clone(), ("connect".to_owned(), waits));
        self.schedule(delay, move |state| {
            if !state.network.disk_operations.contains_key(&id) {
                return;
            }
            match state.reach(&from, address) {
                // A packet that is never answered.
                None => {}
                Some(Err(error)) => {
                    state.network.disk_operations.remove(&id);
                    state.end(&from, token, number(Err(error)));
                }
                Some(Ok(end)) => {
                    state.network.disk_operations.remove(&id);
                    state.be_connected(&from, socket, end);
                    state.end(&from, token, number(Ok(0)));
                }
            }
        });
    }

    /// Sets a connection up; `None` when the address does not answer at all.
    pub fn reach(&mut self, from: &str, address: SocketAddr) -> Option<io::Result<EndId>> {
        let Some(to) = self.network.machine_at(address) else { return Some(Err(refused())) };
        if self.network.is_blocked(from, &to) || self.network.is_blocked(&to, from) {
            self.fault("network: no answer to a connect");
            return None;
        }
        let Some((to, listening)) = self.network.listeners.get(&address).cloned() else {
            return Some(Err(refused()));
        };
        self.network.next_port = self.network.next_port.wrapping_add(1);
        let mut own = self.network.addresses[machine(from)];
        own.set_port(20_000 + self.network.next_port % 40_000);
        let end = |host: &str, address| End {
            host: host.to_owned(),
            address,
            arrived: VecDeque::new(),
            on_the_way: 0,
            last_arrival: Instant::now(),
            held_back: VecDeque::new(),
            at_end: false,
            is_reset: false,
            is_closed: false,
            receiving: None,
            sending: None,
            reader: None,
            writer: None,
        };
        self.network.next_connection += 1;
        let id = self.network.next_connection;
        let connection = Connection { ends: [end(from, own), end(&to, address)] };
        self.network.connections.insert(id, connection);
        self.trace(|| format!("{from} is connected to {to}: {id}"));
        let accepted = EndId(id, 1);
        let entry = self.network.sockets.get_mut(&to).and_then(|all| all.get_mut(&listening));
        if let Some(Socket { role: Role::Listening { backlog, accepting }, .. }) = entry {
            match accepting.take() {
                Some(token) => self.accepted(&to, token, accepted),
                None => backlog.push_back(accepted),
            }
        }
        Some(Ok(EndId(id, 0)))
    }

    pub fn socket_addresses(
        &mut self,
        host: &str,
        socket: i32,
    ) -> io::Result<(SocketAddr, SocketAddr)> {
        let id = self.network.end_of(host, socket).ok_or(io::ErrorKind::NotConnected)?;
        let connection = &self.network.connections[&id.0];
        if connection.ends[id.1].is_reset {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok((connection.ends[id.1].address, connection.ends[1 - id.1].address))
    }

    pub fn arrived(&mut self, host: &str, socket: i32, from: usize) -> Vec<u8> {
        let end = self.network.end_of(host, socket).and_then(|id| self.network.end(id));
        end.map_or(Vec::new(), |end| end.arrived.iter().skip(from).copied().collect())
    }

    /// A length of 0 only waits until there is something.
    pub fn receive(&mut self, host: &str, socket: i32, token: u64, len: usize) {
        let Some(id) = self.network.end_of(host, socket) else {
            return self.end(host, token, number(Err(io::ErrorKind::NotConnected.into())));
        };
        if let Some(end) = self.network.end(id) {
            end.receiving = Some((token, len));
        }
        self.progress(id);
    }

    pub fn send(&mut self, host: &str, socket: i32, token: u64, bytes: Vec<u8>) {
        let Some(id) = self.network.end_of(host, socket) else {
            return self.end(host, token, number(Err(io::ErrorKind::NotConnected.into())));
        };
        if let Some(end) = self.network.end(id) {
            end.sending = Some((token, bytes, 0));
        }
        self.progress(id);
    }

    /// Sends a part of what there is room for, or nothing, as the seed has it.
    pub fn send_at_once(
        &mut self,
        host: &str,
        socket: i32,
        bytes: &[u8],
    ) -> Option<io::Result<u32>> {
        let Some(id) = self.network.end_of(host, socket) else {
            return Some(Err(io::ErrorKind::NotConnected.into()));
        };
        let end = self.network.end(id)?;
        if end.is_reset || end.is_closed {
            return Some(Err(io::Error::from_raw_os_error(libc::EPIPE)));
        }
        let mut count = self.room(id).min(bytes.len());
        if count == 0 || self.chance(0.2) {
            self.count("network: a send would wait");
            return None;
        }
        if self.chance(0.1) {
            count = self.rng.random_range(1..=count);
        }
        if count < bytes.len() {
            self.count("network: a part is sent at once");
        }
        self.dispatch(id, bytes[..count].to_vec());
        Some(Ok(count as u32))
    }

    pub fn receive_at_once(
        &mut self,
        host: &str,
        socket: i32,
        len: usize,
    ) -> Option<io::Result<Vec<u8>>> {
        let Some(id) = self.network.end_of(host, socket) else {
            return Some(Err(io::ErrorKind::NotConnected.into()));
        };
        let (waits, fewer) = (self.chance(0.2), self.rng.random_range(1..=64 << 10));
        let end = self.network.end(id)?;
        if end.arrived.is_empty() {
            return match (end.is_reset, end.at_end || end.is_closed) {
                (true, _) => Some(Err(reset())),
                (false, true) => Some(Ok(Vec::new())),
                (false, false) => None,
            };
        }
        if waits {
            self.count("network: a receive would wait");
            return None;
        }
        let mut bytes = vec![0; end.arrived.len().min(len).min(fewer)];
        take_front(&mut end.arrived, &mut bytes);
        self.progress_send(id.peer());
        self.wake_writer(id.peer());
        Some(Ok(bytes))
    }

    pub fn shut_down(&mut self, host: &str, socket: i32) {
        if let Some(id) = self.network.end_of(host, socket) {
            self.close(id);
        }
    }

    pub fn close_socket(&mut self, host: &str, socket: i32) {
        let removed = self.network.sockets.get_mut(host).and_then(|all| all.remove(&socket));
        match removed.map(|socket| socket.role) {
            Some(Role::Connected(id)) => self.close(id),
            Some(Role::Listening { backlog, .. }) => {
                self.network.listeners.retain(|_, (owner, fd)| owner != host || *fd != socket);
                backlog.into_iter().for_each(|id| self.close(id));
            }
            _ => {}
        }
    }
}

/// Connections.
impl State {
    /// Answers what waits at an end, as far as it can be.
    fn progress(&mut self, id: EndId) {
        self.progress_receive(id);
        self.progress_send(id);
    }

    fn progress_receive(&mut self, id: EndId) {
        let fewer = self.rng.random_range(1..=64 << 10);
        let Some(end) = self.network.end(id) else { return };
        let host = end.host.clone();
        let ready = !end.arrived.is_empty() || end.at_end || end.is_reset || end.is_closed;
        if !ready {
            return;
        }
        if let Some(waker) = end.reader.take() {
            waker.wake();
        }
        let Some((token, len)) = end.receiving.take() else { return };
        let answer = if end.is_reset && end.arrived.is_empty() {
            number(Err(reset()))
        } else if len == 0 {
            number(Ok(1))
        } else {
            let count = end.arrived.len().min(len).min(fewer);
            let mut bytes = vec![0; count];
            take_front(&mut end.arrived, &mut bytes);
            Answer { bytes, ..number(Ok(count as u32)) }
        };
        self.end(&host, token, answer);
        self.progress_send(id.peer());
        self.wake_writer(id.peer());
    }

    pub fn progress_send(&mut self, id: EndId) {
        let Some(end) = self.network.end(id) else { return };
        let host = end.host.clone();
        let Some((token, bytes, sent)) = end.sending.take() else { return };
        if end.is_reset || end.is_closed {
            let error = io::Error::from_raw_os_error(libc::EPIPE);
            return self.end(&host, token, number(Err(error)));
        }
        let room = self.room(id).min(bytes.len() - sent);
        if room > 0 {
            self.dispatch(id, bytes[sent..sent + room].to_vec());
        }
        let sent = sent + room;
        if sent == bytes.len() {
            return self.end(&host, token, number(Ok(sent as u32)));
        }
        if let Some(end) = self.network.end(id) {
            end.sending = Some((token, bytes, sent));
        }
    }

    pub fn wake_writer(&mut self, id: EndId) {
        if self.room(id) > 0
            && let Some(waker) = self.network.end(id).and_then(|end| end.writer.take())
        {
            waker.wake();
        }
    }

    /// Bytes that may be sent from this end.
    pub fn room(&mut self, id: EndId) -> usize {
        let Some(peer) = self.network.end(id.peer()) else { return 0 };
        WINDOW.saturating_sub(peer.arrived.len() + peer.on_the_way)
    }

    pub fn dispatch(&mut self, from: EndId, bytes: Vec<u8>) {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let cut = match self.rng.random_bool(0.3) {
                true => self.rng.random_range(1..=rest.len()),
                false => rest.len(),
            };
            let (front, behind) = rest.split_at(cut);
            self.post(from, Parcel::Bytes(front.to_vec()));
            rest = behind;
        }
    }

    fn post(&mut self, from: EndId, parcel: Parcel) {
        let slow = self.chance(0.02);
        let delay = self.millis(if slow { 5..80 } else { 0..3 });
        let to = from.peer();
        let Some(end) = self.network.end(to) else { return };
        if let Parcel::Bytes(bytes) = &parcel {
            end.on_the_way += bytes.len();
        }
        let at = (Instant::now() + delay).max(end.last_arrival);
        end.last_arrival = at;
        if slow {
            self.count("network: delay");
        }
        self.network.posted += 1;
        let number = self.network.posted;
        self.schedule_at(at, move |state| {
            // On one connection they never do.
            if number < state.network.last_arrived {
                state.count("network: one connection overtakes another");
            }
            state.network.last_arrived = state.network.last_arrived.max(number);
            state.arrive(to, parcel);
        });
    }

    fn arrive(&mut self, to: EndId, parcel: Parcel) {
        let Some(sender) = self.network.end(to.peer()).map(|end| end.host.clone()) else { return };
        let Some(receiver) = self.network.end(to).map(|end| end.host.clone()) else { return };
        let is_blocked = self.network.is_blocked(&sender, &receiver);
        let Some(end) = self.network.end(to) else { return };
        if is_blocked || !end.held_back.is_empty() {
            end.held_back.push_back(parcel);
            if is_blocked {
                self.fault("network: held back");
            }
            return;
        }
        if let (Parcel::Bytes(_), true, Some((left, down))) =
            (&parcel, receiver.starts_with("dn"), self.network.ambush)
        {
            self.network.ambush = (left > 1).then_some((left - 1, down));
            if left <= 1 {
                self.network.ambushed = Some((machine(&receiver).to_owned(), down));
            }
        }
        match (parcel, self.network.reset_in) {
            (Parcel::Bytes(mut bytes), Some(left)) if bytes.len() > 1 => {
                self.network.reset_in = left.checked_sub(1);
                if left > 0 {
                    return self.take_in(to, Parcel::Bytes(bytes));
                }
                let half = bytes.len() / 2;
                if let Some(end) = self.network.end(to) {
                    end.on_the_way -= bytes.len() - half;
                }
                bytes.truncate(half);
                self.take_in(to, Parcel::Bytes(bytes));
                self.fault("network: reset in a packet");
                self.reset(to.0);
            }
            (parcel, _) => self.take_in(to, parcel),
        }
    }

    fn take_in(&mut self, to: EndId, parcel: Parcel) {
        let Some(end) = self.network.end(to) else { return };
        match parcel {
            Parcel::Bytes(bytes) => {
                end.on_the_way -= bytes.len();
                if end.is_closed || end.is_reset {
                    // Nobody is there to take it: the sender learns that.
                    self.post(to, Parcel::Reset);
                    return;
                }
                end.arrived.extend(bytes);
            }
            Parcel::End => end.at_end = true,
            Parcel::Reset => {
                end.is_reset = true;
                if let Some(waker) = end.writer.take() {
                    waker.wake();
                }
            }
        }
        self.progress(to);
    }

    pub fn close(&mut self, id: EndId) {
        let Some(end) = self.network.end(id) else { return };
        if std::mem::replace(&mut end.is_closed, true) {
            return;
        }
        // Unread bytes make it a reset, as in TCP.
        let unread = !end.arrived.is_empty();
        self.progress(id);
        self.post(id, if unread { Parcel::Reset } else { Parcel::End });
    }
}

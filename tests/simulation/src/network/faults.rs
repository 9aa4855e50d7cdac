//! What befalls the network, and what becomes of the connections of a process or a host that ends.

use rand::Rng;

use super::{EndId, Role, Socket};
use crate::world::State;

impl State {
    /// Ends a connection between two hosts, with what it carries.
    pub fn reset_some(&mut self) {
        let open: Vec<u64> = self
            .network
            .connections
            .iter()
            .filter(|(_, connection)| {
                connection.ends.iter().all(|end| !end.is_closed && !end.is_reset)
            })
            .map(|(id, _)| *id)
            .collect();
        if open.is_empty() {
            return;
        }
        let id = open[self.rng.random_range(0..open.len())];
        self.fault("network: reset");
        self.reset(id);
    }

    pub(super) fn reset(&mut self, id: u64) {
        for side in [0, 1] {
            let lost = EndId(id, side);
            if let Some(end) = self.network.end(lost) {
                end.arrived.clear();
                end.is_reset = true;
                if let Some(waker) = end.writer.take() {
                    waker.wake();
                }
            }
            self.progress(lost);
        }
    }

    /// Lets through what was held back where nothing blocks any more.
    pub fn heal(&mut self) {
        self.network.blocked.clear();
        let all: Vec<u64> = self.network.connections.keys().copied().collect();
        for end in all.into_iter().flat_map(|id| [EndId(id, 0), EndId(id, 1)]) {
            while let Some(parcel) = self.network.end(end).and_then(|end| end.held_back.pop_front())
            {
                self.take_in(end, parcel);
            }
        }
    }

    /// The process's end: its sockets are closed for it, or, without power, just gone.
    pub fn lose_sockets(&mut self, host: &str, silently: bool) {
        self.network.listeners.retain(|_, (owner, _)| owner != host);
        let sockets = self.network.sockets.remove(host).unwrap_or_default();
        let mut sockets: Vec<Socket> = sockets.into_values().collect();
        sockets.sort_by_key(|socket| socket.number);
        for socket in sockets {
            let ends = match socket.role {
                Role::Connected(id) => vec![id],
                Role::Listening { backlog, .. } => backlog.into(),
                Role::Fresh => Vec::new(),
            };
            for id in ends {
                match self.network.end(id) {
                    Some(end) if silently => end.is_closed = true,
                    _ => self.close(id),
                }
            }
        }
    }

    /// After its executor has stopped.
    pub fn forget_process(&mut self, host: &str) {
        self.ended.remove(host);
        self.network.disk_operations.retain(|(owner, _), _| owner != host);
        self.network.file_works.retain(|(owner, _), _| owner != host);
    }
}

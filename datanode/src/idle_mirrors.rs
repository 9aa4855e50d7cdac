//! Connections to the next datanodes of pipelines that have ended, kept for the next blocks: to connect
//! costs more than to write a small block, and wakes threads on both sides.
//!
//! Each executor has its own, for sockets stay with the ring that they were used on. Only a connection
//! whose datanode said that it takes another operation, and that acknowledged the last packet of its
//! block, comes here. The other end may close it at any moment: who takes it connects anew then. A task
//! closes what has waited too long; it ends when nothing is left, or with the executor.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::limits::{IDLE_MIRROR_LIFE, IDLE_MIRRORS_MAX};
use crate::ring;

thread_local! {
    /// By executor: a simulated world has many in one thread.
    static IDLE: RefCell<BTreeMap<usize, VecDeque<IdleMirror>>> = const { RefCell::new(BTreeMap::new()) };
}

struct IdleMirror {
    connection: Connection,
    since: Instant,
}

/// The one that was used last, so that those which are not needed expire.
pub fn take(address: SocketAddr) -> Option<Connection> {
    let peer = address.to_string();
    IDLE.with_borrow_mut(|idle| {
        let idle = idle.get_mut(&ring::executor_id())?;
        let index = idle.iter().rposition(|mirror| mirror.connection.peer == peer)?;
        idle.remove(index).map(|mirror| mirror.connection)
    })
}

/// Keeps a connection that carries nothing.
pub fn keep(connection: Connection) {
    let mirror = IdleMirror { connection, since: ring::now() };
    let executor = ring::executor_id();
    let is_first = IDLE.with_borrow_mut(|all| {
        let is_first = !all.contains_key(&executor);
        let idle = all.entry(executor).or_default();
        if idle.len() >= IDLE_MIRRORS_MAX {
            idle.pop_front();
        }
        idle.push_back(mirror);
        is_first
    });
    if is_first {
        drop(ring::spawn(close_in_time(executor)));
    }
}

async fn close_in_time(executor: usize) {
    let _ends_with_this_task = CloseAll { executor };
    while let Some(left) = close_expired(executor) {
        ring::sleep(left).await;
    }
}

/// Returns after what time the next one expires.
fn close_expired(executor: usize) -> Option<Duration> {
    let now = ring::now();
    IDLE.with_borrow_mut(|all| {
        let idle = all.get_mut(&executor)?;
        let over = idle.partition_point(|mirror| now - mirror.since >= IDLE_MIRROR_LIFE);
        idle.drain(..over);
        idle.front().map(|oldest| IDLE_MIRROR_LIFE - (now - oldest.since))
    })
}

struct CloseAll {
    executor: usize,
}

impl Drop for CloseAll {
    fn drop(&mut self) {
        let _ = IDLE.try_with(|all| all.borrow_mut().remove(&self.executor));
    }
}

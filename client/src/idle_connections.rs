//! Connections to datanodes that finished a read, or a block, and wait for the next one.
//!
//! A task closes them when they waited too long, and ends with the last one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::datanode_stream::DatanodeStream;
use crate::limits::{IDLE_CONNECTION_LIFE, IDLE_CONNECTIONS_MAX};

#[derive(Clone, Debug, Default)]
pub(crate) struct IdleConnections {
    idle: Arc<Mutex<Idle>>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The longest idle first.
    streams: VecDeque<(DatanodeStream, Instant)>,
    has_closer: bool,
}

impl IdleConnections {
    pub fn take(&self, address: &str) -> Option<DatanodeStream> {
        let mut idle = lock(&self.idle);
        idle.close_expired();
        let streams = &mut idle.streams;
        let index = streams.iter().rposition(|(stream, _)| stream.address == address)?;
        let (stream, _) = streams.remove(index)?;
        stream.is_reusable().then_some(stream)
    }

    pub fn keep(&self, stream: DatanodeStream) {
        let mut idle = lock(&self.idle);
        if idle.streams.len() >= IDLE_CONNECTIONS_MAX {
            idle.streams.pop_front();
        }
        idle.streams.push_back((stream, Instant::now()));
        if !std::mem::replace(&mut idle.has_closer, true) {
            tokio::spawn(close_in_time(self.idle.clone()));
        }
    }
}

async fn close_in_time(idle: Arc<Mutex<Idle>>) {
    let mut pause = IDLE_CONNECTION_LIFE;
    loop {
        tokio::time::sleep(pause).await;
        let mut idle = lock(&idle);
        match idle.close_expired() {
            Some(next) => pause = next,
            None => {
                idle.has_closer = false;
                return;
            }
        }
    }
}

impl Idle {
    /// Returns after what time the next one expires.
    fn close_expired(&mut self) -> Option<Duration> {
        let now = Instant::now();
        // None left at all is over, or the closer would sleep for no time again and again.
        let left = |since: Instant| {
            let left = IDLE_CONNECTION_LIFE.checked_sub(now.duration_since(since));
            left.filter(|left| !left.is_zero())
        };
        self.streams.retain(|(_, since)| left(*since).is_some());
        self.streams.front().and_then(|(_, since)| left(*since))
    }
}

fn lock(idle: &Mutex<Idle>) -> std::sync::MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

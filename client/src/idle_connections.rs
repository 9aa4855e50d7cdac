//! Connections to datanodes that finished a read and wait for the next one.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

use crate::datanode_stream::DatanodeStream;
use crate::limits::{IDLE_CONNECTION_LIFE, IDLE_CONNECTIONS_MAX};

#[derive(Debug, Default)]
pub(crate) struct IdleConnections {
    /// The longest idle first.
    streams: Mutex<VecDeque<(DatanodeStream, Instant)>>,
}

impl IdleConnections {
    pub fn take(&self, address: &str) -> Option<DatanodeStream> {
        let mut streams = self.lock();
        let now = Instant::now();
        streams.retain(|(_, since)| now.duration_since(*since) < IDLE_CONNECTION_LIFE);
        let index = streams.iter().rposition(|(stream, _)| stream.address == address)?;
        let (stream, _) = streams.remove(index)?;
        stream.is_reusable().then_some(stream)
    }

    pub fn keep(&self, stream: DatanodeStream) {
        let mut streams = self.lock();
        if streams.len() >= IDLE_CONNECTIONS_MAX {
            streams.pop_front();
        }
        streams.push_back((stream, Instant::now()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(DatanodeStream, Instant)>> {
        self.streams.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

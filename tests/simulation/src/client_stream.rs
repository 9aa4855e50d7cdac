//! A connection's end in the hands of a client, which runs on tokio and not on a datanode's executor.

use std::io;
use std::task::{Context, Poll};

use ringfs_protocol::simulation::Stream;

use crate::network::{EndId, reset, take_front};
use crate::world::World;

pub struct ClientStream {
    world: World,
    id: EndId,
}

impl std::fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientStream({:?})", self.id)
    }
}

impl ClientStream {
    pub fn new(world: World, id: EndId) -> Self {
        Self { world, id }
    }
}

impl Stream for ClientStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.world.state();
        let Some(end) = state.network.end(self.id) else { return Poll::Ready(()) };
        if !end.arrived.is_empty() || end.at_end || end.is_reset || end.is_closed {
            return Poll::Ready(());
        }
        end.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.world.state();
        if state.room(self.id) > 0 {
            return Poll::Ready(());
        }
        let Some(end) = state.network.end(self.id) else { return Poll::Ready(()) };
        if end.is_reset || end.is_closed {
            return Poll::Ready(());
        }
        end.writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn try_read(&self, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.world.state();
        let Some(end) = state.network.end(self.id) else { return Err(reset()) };
        if end.arrived.is_empty() {
            return match (end.is_reset, end.at_end || end.is_closed) {
                (true, _) => Err(reset()),
                (_, true) => Ok(0),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let count = end.arrived.len().min(out.len());
        take_front(&mut end.arrived, &mut out[..count]);
        state.progress_send(self.id.peer());
        state.wake_writer(self.id.peer());
        drop(state);
        self.world.touch();
        Ok(count)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.world.state();
        let Some(end) = state.network.end(self.id) else { return Err(reset()) };
        if end.is_reset || end.is_closed {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        let count = state.room(self.id).min(bytes.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.dispatch(self.id, bytes[..count].to_vec());
        drop(state);
        self.world.touch();
        Ok(count)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.world.state().close(self.id);
        self.world.touch();
    }
}

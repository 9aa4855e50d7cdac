//! One thread that carries many streams: it waits for any of their sockets or planned times and lets
//! the stream go on. A stream never blocks, so one that is slow holds up nobody.
//!
//! Sockets are watched edge-triggered: a stream that is called goes on until its socket gives and
//! takes no more, or asks to be called again.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::connection::Connection;
use super::limits::SILENCE_MAX;
use crate::BenchError;

const EVENTS_AT_A_TIME: usize = 256;

pub trait Stream {
    fn connection(&self) -> &Connection;
    /// Counts the connections that the stream has made.
    fn connections(&self) -> usize;
    /// Does all that can be done now; true when it is to be called again without an event.
    fn advance(&mut self) -> Result<bool, BenchError>;
    /// When something is planned for which no event of the socket will come.
    fn due(&self) -> Option<Instant>;
}

#[derive(Debug)]
pub struct EventLoop<S> {
    epoll: OwnedFd,
    pub streams: Vec<S>,
    /// The connection of each stream that epoll knows, by its number.
    registered: Vec<usize>,
}

impl<S: Stream> EventLoop<S> {
    pub fn new(streams: Vec<S>) -> Result<Self, BenchError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let registered = vec![0; streams.len()];
        Ok(Self { epoll, registered, streams })
    }

    /// Carries all streams until each has `reached` what is waited for.
    pub fn run_until(&mut self, reached: impl Fn(&S) -> bool) -> Result<(), BenchError> {
        // The default of 50 us would show in every latency. Without leave it stays.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut is_there = vec![false; self.streams.len()];
        let mut missing = self.streams.len();
        let mut ready: VecDeque<usize> = (0..self.streams.len()).collect();
        let mut events = Vec::with_capacity(EVENTS_AT_A_TIME);
        let mut last_event = Instant::now();
        loop {
            for _ in 0..ready.len() {
                let Some(index) = ready.pop_front() else { break };
                if self.advance(index)? {
                    ready.push_back(index);
                }
                if !is_there[index] && reached(&self.streams[index]) {
                    is_there[index] = true;
                    missing -= 1;
                }
            }
            if missing == 0 {
                return Ok(());
            }
            let due = self.streams.iter().filter_map(Stream::due).min();
            self.wait(if ready.is_empty() { due } else { Some(last_event) }, &mut events)?;
            let now = Instant::now();
            if !events.is_empty() || !ready.is_empty() {
                last_event = now;
            } else if now > last_event + SILENCE_MAX {
                return Err(self.silence(&is_there));
            }
            ready.extend(events.drain(..).map(|event| event.data.u64() as usize));
            if due.is_some_and(|due| due <= now) {
                let streams = self.streams.iter().enumerate();
                let due = streams.filter(|(_, stream)| stream.due().is_some_and(|due| due <= now));
                ready.extend(due.map(|(index, _)| index));
            }
        }
    }

    fn advance(&mut self, index: usize) -> Result<bool, BenchError> {
        let stream = &mut self.streams[index];
        let again = stream.advance()?;
        if stream.connections() != self.registered[index] {
            self.registered[index] = stream.connections();
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            let data = EventData::new_u64(index as u64);
            epoll::add(&self.epoll, &stream.connection().socket, data, flags).map_err(failed)?;
        }
        Ok(again)
    }

    /// Collects events; returns at `until` at the latest, and after a second.
    fn wait(
        &self,
        until: Option<Instant>,
        events: &mut Vec<epoll::Event>,
    ) -> Result<(), BenchError> {
        const LONGEST: Duration = Duration::from_secs(1);
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let waits = match timeout {
            None => timespec(LONGEST),
            // epoll waits in milliseconds, which is far too coarse for a plan; poll does not.
            Some(timeout) => {
                if !timeout.is_zero() {
                    let mut epoll = [PollFd::new(&self.epoll, PollFlags::IN)];
                    let timeout = timespec(timeout.min(LONGEST));
                    ignore_interrupt(rustix::event::poll(&mut epoll, Some(&timeout)))?;
                }
                timespec(Duration::ZERO)
            }
        };
        ignore_interrupt(epoll::wait(&self.epoll, spare_capacity(events), Some(&waits)))
    }

    fn silence(&self, is_there: &[bool]) -> BenchError {
        let silent = is_there.iter().position(|is_there| !is_there).unwrap_or_default();
        let address = self.streams[silent].connection().address;
        BenchError::Datanode { address, what: "hear from", source: io::ErrorKind::TimedOut.into() }
    }
}

fn ignore_interrupt(result: Result<usize, Errno>) -> Result<(), BenchError> {
    match result {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

fn failed(errno: Errno) -> BenchError {
    BenchError::EventLoop(errno.into())
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

//! The next datanode of a pipeline: packets to it from the memory they were received into, its acks
//! back.
//!
//! Packets queue here while one gathered send is under way; the next takes all that have gathered.
//! Their slabs bound the queue: a mirror that takes nothing stops the receiver. Once it has failed,
//! the queue is dropped and the stream goes on without it; acks that came before still count. Behind a
//! block that it acknowledged to the end, its connection is kept for the next one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ringfs_protocol::messages::Status;
use ringfs_protocol::packet::{OOB_SEQNO, PacketHeader, PipelineAck, decode_ack};
use tracing::warn;

use crate::connection::Connection;
use crate::error::Result;
use crate::idle_mirrors;
use crate::limits::{GATHERED_PARTS_MAX, SEND_TIMEOUT};
use crate::ring::{self, Buffer, SendMessage, Signal, TcpStream};

pub struct Mirror {
    /// Until the mirror runs.
    connection: RefCell<Option<Connection>>,
    /// Behind a block that it acknowledged to the end, where it takes another operation.
    idle: RefCell<Option<Connection>>,
    stream: TcpStream,
    name: String,
    /// How long an ack may take while one is owed.
    patience: Duration,
    queue: RefCell<VecDeque<Buffer>>,
    queued: Signal,
    is_sending: Cell<bool>,
    acks: RefCell<VecDeque<PipelineAck>>,
    /// The block's last packet, once it is queued: behind its ack the mirror closes, as it should.
    last_seqno: Cell<Option<i64>>,
    has_failed: Cell<bool>,
    /// Whether the mirror takes another operation behind the block.
    keeps_connection: bool,
}

impl Mirror {
    pub fn new(connection: Connection, patience: Duration, keeps_connection: bool) -> Rc<Self> {
        Rc::new(Self {
            stream: connection.stream.clone(),
            name: connection.peer.clone(),
            connection: RefCell::new(Some(connection)),
            idle: RefCell::default(),
            patience,
            queue: RefCell::default(),
            queued: Signal::default(),
            is_sending: Cell::new(false),
            acks: RefCell::default(),
            last_seqno: Cell::new(None),
            has_failed: Cell::new(false),
            keeps_connection,
        })
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    /// Queues the parts of a packet.
    pub fn push(&self, header: &PacketHeader, parts: impl Iterator<Item = Buffer>) {
        if !self.has_failed() {
            if header.last_packet_in_block {
                self.last_seqno.set(Some(header.seqno));
            }
            self.queue.borrow_mut().extend(parts);
            self.queued.set();
        }
    }

    /// Whether everything queued is in the kernel's hands, or never will be.
    pub fn is_drained(&self) -> bool {
        self.has_failed() || (!self.is_sending.get() && self.queue.borrow().is_empty())
    }

    /// The next ack, when it is an out-of-band one.
    pub fn next_oob(&self) -> Option<PipelineAck> {
        self.acks.borrow_mut().pop_front_if(|ack| ack.seqno == OOB_SEQNO)
    }

    pub fn next_ack(&self) -> Option<PipelineAck> {
        self.acks.borrow_mut().pop_front()
    }

    pub fn fail(&self, why: &str) {
        if !self.has_failed.replace(true) {
            warn!(mirror = self.name, why, "mirror failed: the stream goes on without it");
        }
        self.queue.borrow_mut().clear();
    }

    /// Keeps the connection for another block if this one ended as agreed, else closes it.
    pub fn end(&self) {
        match self.idle.take() {
            Some(connection) => idle_mirrors::keep(connection),
            None => self.stream.close(),
        }
    }

    /// Sends and, for a pipeline, reads acks until the mirror fails; tells `progress` of both.
    pub async fn run(&self, with_acks: bool, progress: &Signal) {
        let Some(connection) = self.connection.borrow_mut().take() else { return };
        let outcome = if with_acks {
            match ring::race(self.send_all(progress), self.read_acks(connection, progress)).await {
                ring::Either::First(outcome) | ring::Either::Second(outcome) => outcome,
            }
        } else {
            self.send_all(progress).await
        };
        if let Err(error) = outcome {
            self.fail(&error.to_string());
        }
        self.is_sending.set(false);
        progress.set();
    }

    async fn send_all(&self, progress: &Signal) -> Result<()> {
        let mut message = SendMessage::new();
        loop {
            {
                let mut queue = self.queue.borrow_mut();
                let count = queue.len().min(GATHERED_PARTS_MAX);
                queue.drain(..count).for_each(|part| message.push(part));
            }
            if message.parts() == 0 {
                self.is_sending.set(false);
                progress.set();
                self.queued.changed().await;
                continue;
            }
            self.is_sending.set(true);
            let sending = ring::timeout(SEND_TIMEOUT, self.stream.send_message(message));
            let failed = |why| crate::DatanodeError::Peer { peer: self.name.clone(), why };
            let (sent, returned) = sending
                .await
                .map_err(|_| failed(format!("took nothing for {} s", SEND_TIMEOUT.as_secs())))?;
            sent.map_err(|error| failed(format!("sending: {error}")))?;
            message = returned;
        }
    }

    async fn read_acks(&self, mut connection: Connection, progress: &Signal) -> Result<()> {
        loop {
            let ack = connection.expect("pipeline ack", self.patience, decode_ack).await?;
            let is_last = self.last_seqno.get() == Some(ack.seqno);
            let is_good = ack.replies.iter().all(|status| *status == Status::Success);
            self.acks.borrow_mut().push_back(ack);
            progress.set();
            if is_last {
                if is_good && self.keeps_connection && connection.received.is_empty() {
                    self.idle.replace(Some(connection));
                }
                return Ok(());
            }
        }
    }
}

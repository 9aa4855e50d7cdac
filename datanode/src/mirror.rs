//! The next datanode of a pipeline: packets to it from the memory they were received into, its acks
//! back.
//!
//! Packets queue here while one gathered send is under way; the next takes all that have gathered.
//! Their slabs bound the queue: a mirror that takes nothing stops the receiver. Once it has failed,
//! the queue is dropped and the stream goes on without it; acks that came before still count.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ringfs_protocol::packet::{OOB_SEQNO, PacketHeader, PipelineAck, decode_ack};
use tracing::warn;

use crate::connection::Connection;
use crate::error::Result;
use crate::limits::{GATHERED_PARTS_MAX, SEND_TIMEOUT};
use crate::ring::{self, Buffer, SendMessage, Signal, TcpStream};

pub struct Mirror {
    connection: RefCell<Option<Connection>>,
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
}

impl Mirror {
    pub fn new(connection: Connection, patience: Duration) -> Rc<Self> {
        Rc::new(Self {
            stream: connection.stream.clone(),
            name: connection.peer.clone(),
            connection: RefCell::new(Some(connection)),
            patience,
            queue: RefCell::default(),
            queued: Signal::default(),
            is_sending: Cell::new(false),
            acks: RefCell::default(),
            last_seqno: Cell::new(None),
            has_failed: Cell::new(false),
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

    pub fn close(&self) {
        self.stream.close();
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
            self.acks.borrow_mut().push_back(ack);
            progress.set();
            if is_last {
                return Ok(());
            }
        }
    }
}

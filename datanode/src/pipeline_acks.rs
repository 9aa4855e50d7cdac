//! The end of every packet: its ack, once it is stored here and below, in the order of arrival; and
//! with the last one the end of the block.

use std::cell::RefCell;
use std::pin::Pin;

use bytes::BytesMut;
use ringfs_protocol::block::Block;
use ringfs_protocol::messages::Status;
use ringfs_protocol::packet::{OOB_SEQNO, Replies, encode_ack};
use smallvec::smallvec;
use tracing::debug;

use crate::error::{DatanodeError, Result};
use crate::pipeline_setup::{Role, setup_reply};
use crate::ring::{self, Either, TaskHandle, TcpStream};
use crate::server::TransferServer;
use crate::transitions::ReplicaWriter;
use crate::write_pipeline::BlockStream;

/// A packet that waits for its ack.
#[derive(Clone, Copy, Debug)]
pub struct Awaiting {
    pub seqno: i64,
    pub end: u64,
    /// The sink's job that must be done for it, beyond `end` being durable.
    pub job: u64,
    pub is_last: bool,
    pub status: Status,
}

struct Done {
    seqno: i64,
    end: u64,
    is_last: bool,
    status: Status,
    replies: Replies,
}

impl BlockStream {
    pub(crate) fn await_ack(&self, awaiting: Awaiting) {
        self.awaiting.borrow_mut().push_back(awaiting);
        self.sink.progress.set();
    }

    /// Acknowledges packets as they are done, or waits for the last one where nobody wants acks.
    pub(crate) async fn finish_all(
        &self,
        server: &TransferServer,
        upstream: &TcpStream,
        writer: &RefCell<Option<ReplicaWriter>>,
    ) -> Result<()> {
        let mut out = BytesMut::new();
        let mut completion = None;
        let mut restart = Some(Box::pin(server.restart.announced()));
        loop {
            let mut last = None;
            if completion.is_none() && self.may_complete() {
                completion = self.begin_completion(server, writer);
            }
            while let Some(done) = self.next_done(&mut out)? {
                if done.is_last {
                    if done.status == Status::Success {
                        let begun = completion.take();
                        self.complete(begun.or_else(|| self.begin_completion(server, writer)))
                            .await?;
                    }
                    last = Some((done.status, done.seqno));
                }
                self.acknowledge(&done, &mut out);
                if last.is_some() {
                    break;
                }
            }
            if !out.is_empty() {
                let (sent, returned) = upstream.send_all(out).await;
                sent.map_err(DatanodeError::io("sending acks"))?;
                out = returned;
            }
            match last {
                Some((Status::Success, _)) => return Ok(()),
                Some((_, seqno)) => {
                    return Err(DatanodeError::CorruptPacket { block: self.block, seqno });
                }
                None => self.await_progress(&mut restart, &mut out).await,
            }
        }
    }

    /// Waits for the next packet to be done. A restart that is announced meanwhile goes to `out`, once.
    async fn await_progress(
        &self,
        restart: &mut Option<Pin<Box<impl Future<Output = ()>>>>,
        out: &mut BytesMut,
    ) {
        let Some(announced) = restart.as_mut().filter(|_| self.role.has_setup_reply()) else {
            return self.sink.progress.changed().await;
        };
        if let Either::First(()) = ring::race(announced, self.sink.progress.changed()).await {
            *restart = None;
            encode_ack(OOB_SEQNO, &[Status::OobRestart], 0, out);
        }
    }

    /// The next packet that is done here and below. An out-of-band ack from below goes straight to
    /// `out`.
    fn next_done(&self, out: &mut BytesMut) -> Result<Option<Done>> {
        let mut queue = self.awaiting.borrow_mut();
        // It may come while no packet is under way.
        while let Some(ack) = self.mirror.as_ref().and_then(|mirror| mirror.next_oob()) {
            encode_ack(ack.seqno, &with_own(Status::Success, &ack.replies), 0, out);
        }
        let Some(front) = queue.front() else { return Ok(None) };
        if !self.is_stored(front) && front.status == Status::Success {
            return Ok(None);
        }
        let below = match &self.mirror {
            Some(_) if front.status != Status::Success => Replies::new(),
            Some(mirror) if !self.role.has_setup_reply() => {
                if front.is_last && !mirror.is_drained() {
                    return Ok(None);
                }
                Replies::new()
            }
            Some(mirror) => match mirror.next_ack() {
                None if mirror.has_failed() => smallvec![Status::Error],
                None => return Ok(None),
                Some(ack) if ack.seqno != front.seqno => {
                    mirror.fail("an ack out of order");
                    smallvec![Status::Error]
                }
                Some(ack) => ack.replies,
            },
            None => Replies::new(),
        };
        if below.first() == Some(&Status::ErrorChecksum) {
            // What was sent from here did not arrive as it was: let the client blame this node.
            return Err(DatanodeError::CorruptBelow { block: self.block, seqno: front.seqno });
        }
        let front = *front;
        queue.pop_front();
        let Awaiting { seqno, end, is_last, status, .. } = front;
        Ok(Some(Done { seqno, end, is_last, status, replies: with_own(status, &below) }))
    }

    /// Readers may count on what every datanode has, from the moment that the client may know it.
    fn acknowledge(&self, done: &Done, out: &mut BytesMut) {
        if done.replies.iter().all(|status| *status == Status::Success)
            && done.end > self.replica.bytes_acked()
        {
            self.replica.set_bytes_acked(done.end);
        }
        if self.role.has_setup_reply() {
            encode_ack(done.seqno, &done.replies, 0, out);
        } else if done.is_last && self.role != Role::Replication {
            out.extend_from_slice(&setup_reply(done.status, String::new(), None));
        }
    }

    /// Whether only the end of the block is left, and every datanode has acknowledged all of its data:
    /// then none waits for the ones below to begin with it.
    fn may_complete(&self) -> bool {
        self.awaiting.borrow().front().is_some_and(|front| {
            front.is_last
                && front.end <= self.replica.bytes_acked()
                && front.status == Status::Success
                && self.is_stored(front)
        })
    }

    fn is_stored(&self, packet: &Awaiting) -> bool {
        if ringfs_protocol::mutant!("datanode: ack before the disk") {
            return true;
        }
        packet.end <= self.sink.durable_end() && packet.job <= self.sink.jobs_done()
    }

    /// The block is all here: FINALIZED, or RBW again for a pipeline that goes on.
    fn begin_completion(
        &self,
        server: &TransferServer,
        writer: &RefCell<Option<ReplicaWriter>>,
    ) -> Option<TaskHandle<Result<Block>>> {
        let mut writer = writer.borrow_mut().take()?;
        self.sink.hand_over(&mut writer);
        // A copy of a replica may be all that is left of it, and what it has was durable there.
        let is_copy = !self.role.has_setup_reply();
        let synced = self.synced.get() || is_copy;
        let dataset = server.dataset.clone();
        let is_transfer_rbw = self.role == Role::TransferRbw;
        // A task of its own: a stop of this stream must not cut a transition off half-way.
        Some(ring::spawn(async move {
            match is_transfer_rbw {
                true => dataset.convert_temporary_to_rbw(writer).await,
                false => dataset.finalize(writer, synced, None).await,
            }
        }))
    }

    async fn complete(&self, begun: Option<TaskHandle<Result<Block>>>) -> Result<()> {
        if let Some(completion) = begun {
            let block = completion.join().await?;
            debug!(%block, "written");
        }
        Ok(())
    }

    /// A disk that failed is told of with the oldest packet that waits for it.
    pub(crate) async fn tell_of_failure(&self, upstream: &TcpStream) {
        let Some(front) = self.awaiting.borrow().front().copied() else { return };
        if self.role.has_setup_reply() {
            let mut out = BytesMut::new();
            encode_ack(front.seqno, &[Status::Error], 0, &mut out);
            // Nothing more can be done for a client that is gone.
            let _ = upstream.send_all(out).await;
        }
    }
}

fn with_own(own: Status, below: &[Status]) -> Replies {
    std::iter::once(own).chain(below.iter().copied()).collect()
}

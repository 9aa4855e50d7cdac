//! The other datanode of a copy, for tests: a thread that speaks the transfer protocol by hand.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use prost::Message;
use ringfs_protocol::messages::{DatanodeIDProto, DatanodeInfoProto, Status};
use ringfs_protocol::operation::{Operation, decode_operation};
use ringfs_protocol::packet::{decode_packet_prefix, encode_ack};
use ringfs_protocol::wire::encode_delimited;

pub struct FakePeer<T> {
    pub info: DatanodeInfoProto,
    thread: JoinHandle<T>,
}

pub struct Conversation {
    stream: TcpStream,
    received: BytesMut,
}

impl<T: Send + 'static> FakePeer<T> {
    /// Answers one connection with `script`.
    pub fn start(script: impl FnOnce(Conversation) -> T + Send + 'static) -> Self {
        Self::listen(|listener| script(Conversation::accept(&listener)))
    }

    fn listen(serve: impl FnOnce(TcpListener) -> T + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let id = DatanodeIDProto {
            ip_addr: "127.0.0.1".into(),
            datanode_uuid: "peer".into(),
            xfer_port: listener.local_addr().unwrap().port().into(),
            ..Default::default()
        };
        let thread = std::thread::spawn(move || serve(listener));
        Self { info: DatanodeInfoProto { id, ..Default::default() }, thread }
    }

    /// What the script came to.
    pub fn outcome(self) -> T {
        self.thread.join().unwrap()
    }
}

impl<T: Send + 'static> FakePeer<Vec<T>> {
    /// Answers so many connections, one after another.
    pub fn start_each(
        connections: usize,
        mut script: impl FnMut(Conversation) -> T + Send + 'static,
    ) -> Self {
        Self::listen(move |listener| {
            (0..connections).map(|_| script(Conversation::accept(&listener))).collect()
        })
    }
}

impl Conversation {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        Self { stream, received: BytesMut::new() }
    }

    pub fn operation(&mut self) -> Operation {
        loop {
            if let Some((operation, used)) = decode_operation(&self.received).unwrap() {
                self.received.advance(used);
                return operation;
            }
            assert!(self.receive(), "closed inside an operation");
        }
    }

    /// Whether nothing has come behind the operation, and nothing comes for 20 ms.
    pub fn is_silent_for_a_moment(&mut self) -> bool {
        let set = |timeout| self.stream.set_read_timeout(timeout).unwrap();
        set(Some(Duration::from_millis(20)));
        let is_silent = self.received.is_empty() && self.stream.peek(&mut [0]).is_err();
        set(None);
        is_silent
    }

    /// The data of all packets up to the last one; `None` when the stream ends before.
    pub fn packets(&mut self) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let frame = decode_packet_prefix(&self.received).unwrap();
            let Some(frame) = frame.filter(|frame| self.received.len() >= frame.total_len()) else {
                if !self.receive() {
                    return None;
                }
                continue;
            };
            assert_eq!(frame.header.offset_in_block, data.len() as u64);
            self.received.advance(frame.prefix_len + frame.checksums_len);
            data.extend_from_slice(&self.received.split_to(frame.data_len));
            if frame.header.last_packet_in_block {
                return Some(data);
            }
        }
    }

    pub fn reply<M: Message>(&mut self, message: &M) {
        let mut bytes = BytesMut::new();
        encode_delimited(message, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Acks of the packets from 0 on, as the only datanode's.
    pub fn acknowledge(&mut self, packets: i64) {
        let mut acks = BytesMut::new();
        (0..packets).for_each(|seqno| encode_ack(seqno, &[Status::Success], 0, &mut acks));
        self.send(&acks);
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// `false` at the end of the stream.
    fn receive(&mut self) -> bool {
        let mut piece = [0; 4096];
        let count = self.stream.read(&mut piece).unwrap();
        self.received.extend_from_slice(&piece[..count]);
        count > 0
    }
}

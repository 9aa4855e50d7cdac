//! Peers that mean no good, or are half dead: a server gets rid of them, and of those beyond its limit,
//! and serves the others.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringfs_protocol::messages::GetListingRequestProto;
use ringfs_protocol::rpc::codec::{self, CallIdentity};
use ringfs_protocol::rpc::protocol_name;

use crate::cluster::java::JavaShell;
use crate::cluster::{TestCluster, sample};
use crate::metrics;

/// Bytes of an operation, one by one, of which there are always more to come: a length of 1 MiB.
#[test]
fn an_operation_that_trickles_in_is_given_up() {
    let cluster = TestCluster::start_with(1, &[("dfs.client.socket-timeout", "1000")]);
    let mut peer = TcpStream::connect(cluster.datanode_address(0)).unwrap();
    peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    peer.write_all(&[0, 28, 81, 0x80, 0x80, 0x40]).unwrap();
    let started = Instant::now();
    let mut end = [0];
    loop {
        match peer.read(&mut end) {
            Ok(0) => break,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            _ => {}
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it is still served");
        let _ = peer.write_all(&[0]);
    }
    cluster.connect().write("/f", b"others are served").unwrap();
}

/// Connections that do nothing hold all streams of a datanode: it closes further ones, and clients
/// write to the other datanode.
#[test]
fn clients_leave_a_datanode_that_is_at_its_stream_limit() {
    let settings = [("dfs.datanode.max.transfer.threads", "6"), ("dfs.replication", "1")];
    let cluster = TestCluster::start_with(2, &settings);
    let idle: Vec<TcpStream> =
        (0..6).map(|_| TcpStream::connect(cluster.datanode_address(0)).unwrap()).collect();
    let library = cluster.connect();
    let bytes = sample::bytes(300_000);
    let local = cluster.write_scratch("bytes", &bytes).display().to_string();
    let mut java = JavaShell::start(&cluster.conf_dir(), &[], None);
    for number in 0..4 {
        library.write(&format!("/ours{number}"), &bytes).unwrap();
        java.ok(&["-put", &local, &format!("/java{number}")]);
    }
    for number in 0..4 {
        assert!(library.read(&format!("/ours{number}")).unwrap() == bytes);
        assert!(library.read(&format!("/java{number}")).unwrap() == bytes);
    }
    assert!(cluster.stored_is_empty(0), "the datanode at its limit took no block");
    drop(idle);
}

/// A server gives a peer 30 s for the start of a connection, a frame, or room for a reply.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// What trickles comes so often: a connection's start would take longer than it may.
const PAUSE: Duration = Duration::from_millis(400);

/// More than the 64 connections that the HTTP port serves at a time.
const HTTP_PEERS: usize = 80;

/// All of them at once, so that the test takes no longer than one (about 35 s, mostly of waiting).
#[test]
fn servers_are_rid_of_peers_that_say_nothing_trickle_or_do_not_listen() {
    let cluster = TestCluster::start_with(1, &[]);
    let library = cluster.connect();
    // A listing of 100 KiB: some dozens of them are more than sockets hold.
    for number in 0..400 {
        let path = format!("/listed/{number:0200}");
        library.run(async |client| client.mkdirs(&path, 0o755, true).await).unwrap();
    }
    let rpc = [
        ("the namenode", cluster.namenode_address(), protocol_name::CLIENT),
        ("the datanode's IPC", cluster.datanode_ipc_address(0), protocol_name::CLIENT_DATANODE),
    ];
    let mut peers = Vec::new();
    for (server, address, protocol) in &rpc {
        let start = codec::encode_connection_start(protocol, "peer", &CLIENT_ID);
        let never = vec![0];
        peers.push(Peer::new(&format!("silent at {server}"), address, &[], Talk::Nothing));
        let halfway = Talk::Trickle(start.to_vec());
        peers.push(Peer::new(&format!("introducing itself to {server}"), address, &[], halfway));
        let in_frame = [&start[..], &[0, 1, 0, 0]].concat();
        let trickle = Talk::Trickle(never);
        peers.push(Peer::new(&format!("within a frame to {server}"), address, &in_frame, trickle));
    }
    let (_, namenode, protocol) = &rpc[0];
    let start = codec::encode_connection_start(protocol, "peer", &CLIENT_ID);
    peers.push(Peer::new("not listening", namenode, &start, Talk::Flood(listing_request())));
    let http = cluster.datanode_http_address(0);
    for number in 0..HTTP_PEERS {
        peers.push(Peer::new(&format!("silent {number} at HTTP"), &http, &[], Talk::Nothing));
    }
    let head = Talk::Trickle(b"a".to_vec());
    peers.push(Peer::new("a header to HTTP", &http, b"GET /metrics HTTP/1.1\r\nA: ", head));

    let started = Instant::now();
    let mut longest = Duration::ZERO;
    while !peers.is_empty() {
        peers.retain_mut(|peer| !peer.is_gone());
        let served = Instant::now();
        library.run(async |client| client.list("/listed").await).unwrap();
        library.write(&format!("/f{}", started.elapsed().as_millis()), b"served").unwrap();
        longest = longest.max(served.elapsed());
        let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        assert!(started.elapsed() < GIVEN_UP, "after {GIVEN_UP:?} still served: {names:?}");
        std::thread::sleep(PAUSE);
    }
    assert!(longest < GIVEN_UP / 4, "others waited {longest:?}");
    assert!(metrics::scrape(&http)["datanode_blocks_written"] > 0);
}

const CLIENT_ID: [u8; 16] = [7; 16];

enum Talk {
    Nothing,
    /// A byte now and then, from the start again at the end.
    Trickle(Vec<u8>),
    /// As much as goes, on and on, without taking an answer.
    Flood(Vec<u8>),
}

/// One that is connected to a server.
struct Peer {
    name: String,
    socket: TcpStream,
    talk: Talk,
    said: usize,
}

impl Peer {
    fn new(name: &str, address: &str, first: &[u8], talk: Talk) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(first).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { name: name.to_owned(), socket, talk, said: 0 }
    }

    /// Says what it has to say, and whether the server has closed the connection.
    fn is_gone(&mut self) -> bool {
        let is_end = |outcome: std::io::Result<usize>, end: Option<usize>| match outcome {
            Ok(len) => Some(len) == end,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        match &self.talk {
            Talk::Nothing => {}
            Talk::Trickle(bytes) => {
                let next = bytes[self.said % bytes.len()];
                self.said += 1;
                if is_end(self.socket.write(&[next]), None) {
                    return true;
                }
            }
            Talk::Flood(bytes) => loop {
                match self.socket.write(&bytes[self.said % bytes.len()..]) {
                    Ok(len) => self.said += len,
                    error => return is_end(error, None),
                }
            },
        }
        is_end(self.socket.read(&mut [0; 64]), Some(0))
    }
}

fn listing_request() -> Vec<u8> {
    let request = GetListingRequestProto {
        src: "/listed".to_owned(),
        start_after: Vec::new(),
        need_location: false,
    };
    let identity = CallIdentity { call_id: 1, client_id: CLIENT_ID.to_vec(), retry_count: 0 };
    codec::encode_request(protocol_name::CLIENT, "getListing", &identity, &request)
        .unwrap()
        .to_vec()
}

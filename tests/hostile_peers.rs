//! Peers that mean no good, or are half dead: a datanode gets rid of them, and of those beyond its
//! limit, and serves the others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::cluster::java::JavaShell;
use crate::cluster::{TestCluster, sample};

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
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            _ => {}
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it is still served");
        let _ = peer.write_all(&[0]);
    }
    cluster.library().write("/f", b"others are served").unwrap();
}

/// Connections that do nothing hold all streams of a datanode: it closes further ones, and clients
/// write to the other datanode.
#[test]
fn clients_leave_a_datanode_that_is_at_its_stream_limit() {
    let settings = [("dfs.datanode.max.transfer.threads", "6"), ("dfs.replication", "1")];
    let cluster = TestCluster::start_with(2, &settings);
    let idle: Vec<TcpStream> =
        (0..6).map(|_| TcpStream::connect(cluster.datanode_address(0)).unwrap()).collect();
    let library = cluster.library();
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

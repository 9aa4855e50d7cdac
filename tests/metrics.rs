//! What datanodes say of themselves at `/metrics`, after real writes and reads: no payload was copied
//! in user space, and every slab is back in its pool.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ::hdfs_native::{ClientBuilder, WriteOptions};
use bytes::Bytes;

use crate::cluster::{TestCluster, sample, wait_for};

/// A whole response to a request without a body.
fn http(address: &str, request: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(socket, "{request} HTTP/1.1\r\nHost: datanode\r\n\r\n").unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).unwrap();
    response
}

/// Values by name; every line must be as the text format wants it.
pub fn scrape(address: &str) -> HashMap<String, u64> {
    let response = http(address, "GET /metrics");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let mut values = HashMap::new();
    let mut lines = body.lines();
    while let Some(help) = lines.next() {
        let name = help.strip_prefix("# HELP ").unwrap().split(' ').next().unwrap();
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert!(matches!(kind, "counter" | "gauge"), "{kind}");
        let value = lines.next().unwrap().strip_prefix(&format!("{name}{{")).unwrap();
        let (labels, value) = value.split_once("} ").unwrap();
        assert!(labels.contains("hostname=\"127.0.0.1\""), "{labels}");
        let former = values.insert(name.to_owned(), value.parse().unwrap());
        assert_eq!(former, None, "{name} twice");
    }
    values
}

/// The sum of a metric over all datanodes.
fn sum(cluster: &TestCluster, name: &str) -> u64 {
    let addresses = (0..cluster.datanode_count()).map(|index| cluster.datanode_http_address(index));
    addresses.map(|address| scrape(&address)[name]).sum()
}

#[track_caller]
fn assert_nothing_copied_nor_held(cluster: &TestCluster) {
    wait_for("the end of all streams", Duration::from_secs(10), || {
        (sum(cluster, "ringfs_slabs_in_use") == 0).then_some(())
    });
    assert_eq!(sum(cluster, "ringfs_payload_bytes_copied_total"), 0);
    assert_eq!(sum(cluster, "ringfs_unaligned_fallbacks_total"), 0);
}

#[test]
fn a_write_by_our_client_copies_no_payload_and_neither_does_a_read() {
    let cluster = TestCluster::start();
    let library = cluster.connect();
    let bytes = sample::bytes(3 * sample::BLOCK + 300_007);
    library.write("/f", &bytes).unwrap();
    assert_eq!(sum(&cluster, "datanode_bytes_written"), 3 * bytes.len() as u64);
    assert_eq!(sum(&cluster, "datanode_blocks_written"), 3 * 4);
    assert_eq!(sum(&cluster, "ringfs_bytes_written_buffered_total"), 0);
    assert_nothing_copied_nor_held(&cluster);
    for gauge in ["ringfs_slabs_high_water", "ringfs_slabs_total", "fs_dataset_state_remaining"] {
        assert!(sum(&cluster, gauge) > 0, "{gauge}");
    }

    assert!(library.read("/f").unwrap() == bytes);
    wait_for("the count of what was read", Duration::from_secs(10), || {
        (sum(&cluster, "datanode_bytes_read") >= bytes.len() as u64).then_some(())
    });
    assert_eq!(sum(&cluster, "ringfs_short_reads_total"), 0);
    assert_nothing_copied_nor_held(&cluster);
    let enters = sum(&cluster, "ringfs_uring_enters_total");
    assert!(enters > 0 && sum(&cluster, "ringfs_uring_completions_total") > 0);
}

#[test]
fn a_write_by_the_hdfs_native_crate_copies_no_payload() {
    let cluster = TestCluster::start();
    let bytes = sample::bytes(2 * sample::BLOCK + 70_001);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let client = ClientBuilder::new().with_url(cluster.uri()).build().unwrap();
    runtime.block_on(async {
        let options = WriteOptions::default().block_size(1 << 20).replication(3);
        let mut writer = client.create("/f", options).await.unwrap();
        for piece in bytes.chunks(150_001) {
            writer.write_bytes(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        writer.close().await.unwrap();
    });
    assert_eq!(sum(&cluster, "datanode_bytes_written"), 3 * bytes.len() as u64);
    assert_nothing_copied_nor_held(&cluster);
}

#[test]
fn other_requests_are_refused_and_bounded() {
    let cluster = TestCluster::start_with(1, &[]);
    let address = cluster.datanode_http_address(0);
    assert!(http(&address, "GET /prom").starts_with("HTTP/1.1 200"));
    assert!(http(&address, "GET /").starts_with("HTTP/1.1 404"));
    assert!(http(&address, "POST /metrics").starts_with("HTTP/1.1 405"));
    let long = format!("GET /{}", "x".repeat(100_000));
    let mut socket = TcpStream::connect(&address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may close before it has taken all of it.
    let _ = socket.write_all(long.as_bytes());
    let mut response = Vec::new();
    let _ = socket.read_to_end(&mut response);
    assert!(response.is_empty() || response.starts_with(b"HTTP/1.1 4"), "{response:?}");
    assert_eq!(scrape(&address)["ringfs_streams_active"], 0);
}

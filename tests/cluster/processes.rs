//! Signals, and who is connected to whom.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};

use rustix::process::Pid;
pub use rustix::process::Signal;

use super::TestCluster;

/// Fails only for a process that is gone.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("not 0");
    let _ = rustix::process::kill_process(pid, signal);
}

/// Ports at the other ends of a process's established TCP connections.
pub fn connected_ports(pid: u32) -> HashSet<u16> {
    connections(pid).into_iter().map(|remote| remote.port()).collect()
}

/// Other ends of a process's established TCP connections.
pub fn connections(pid: u32) -> Vec<SocketAddr> {
    let sockets: HashSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter_map(|target| {
            let target = target.to_string_lossy().into_owned();
            Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let established = "01";
    // Java's sockets are of IPv6 also where the address is of IPv4.
    let tables = ["tcp", "tcp6"].map(|table| {
        std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default()
    });
    tables
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (remote, state, inode) = (fields.get(2)?, fields.get(3)?, fields.get(9)?);
            (*state == established && sockets.contains(*inode)).then(|| remote_address(remote))?
        })
        .collect()
}

/// `0A00020F:1F90`, or with 32 digits, whose last 8 are an IPv4 address that was mapped: the kernel
/// prints the address as a number of this machine's byte order.
fn remote_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let ipv4 = u32::from_str_radix(&address[address.len().checked_sub(8)?..], 16).ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((Ipv4Addr::from(ipv4.to_ne_bytes()), port).into())
}

/// A way of `len` datanodes from the writer over the connections that there are. One of an earlier block
/// may still be there, kept for another: of ways that end somewhere, the first is taken.
pub fn pipeline(cluster: &TestCluster, writer: u32, len: usize) -> Option<Vec<usize>> {
    pipelines(cluster, writer, len).into_iter().next()
}

/// The only such way: a writer that rests for a few seconds has no other.
pub fn only_pipeline(cluster: &TestCluster, writer: u32, len: usize) -> Option<Vec<usize>> {
    <[_; 1]>::try_from(pipelines(cluster, writer, len)).ok().map(|[way]| way)
}

fn pipelines(cluster: &TestCluster, writer: u32, len: usize) -> Vec<Vec<usize>> {
    let datanodes = 0..cluster.datanode_count();
    let pids = datanodes.clone().map(|index| cluster.datanode_pid(index));
    let connections: Vec<HashSet<u16>> =
        pids.map(|pid| pid.map(connected_ports).unwrap_or_default()).collect();
    let mut ways = vec![(connected_ports(writer), Vec::new())];
    let mut found = Vec::new();
    while let Some((ports, way)) = ways.pop() {
        if way.len() == len {
            found.push(way);
            continue;
        }
        for next in datanodes.clone().filter(|index| !way.contains(index)) {
            let address = cluster.datanode_address(next);
            let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
            if port.is_some_and(|port| ports.contains(&port)) {
                let way = way.iter().copied().chain([next]).collect();
                ways.push((connections[next].clone(), way));
            }
        }
    }
    found
}

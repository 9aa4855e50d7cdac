//! Zero-copy sends between two hosts: this one and a network namespace behind a veth pair, with a
//! datanode on either side. Making one takes root.

use std::process::Command;

use ringfs_protocol::messages::Status;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bare_datanode::{Client, Datanode, bytes, create, send_evenly};
use crate::limits::READ_PACKET_BYTES;

const BLOCK: usize = 8 << 20;
const PACKET: usize = 64_512;

/// A namespace with a link to this one; both go with the value.
struct OtherHost {
    name: String,
    here: String,
    there: String,
}

impl OtherHost {
    fn make() -> Self {
        let number = std::process::id();
        let net = format!("10.{}.{}", 200 + number % 50, number / 50 % 250);
        let (name, link) = (format!("ringfs-{number}"), format!("rz{number}"));
        let (here, there) = (format!("{net}.1"), format!("{net}.2"));
        let host = Self { name, here, there };
        let Self { name, here, there } = &host;
        ip(&format!("netns add {name}"));
        ip(&format!("link add {link} type veth peer name {link}p"));
        ip(&format!("link set {link}p netns {name}"));
        ip(&format!("addr add {here}/24 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {name} addr add {there}/24 dev {link}p"));
        ip(&format!("-n {name} link set {link}p up"));
        ip(&format!("-n {name} link set lo up"));
        host
    }

    /// Runs `work` on a thread over there; threads that it starts are there too.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
                work()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        // Takes its end of the link along, and thereby the other one.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn blocks_cross_to_another_host_in_place_and_every_slab_comes_back() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: a network namespace takes root");
        return;
    }
    let host = OtherHost::make();
    let near = Datanode::start_at(&host.here, true);
    let far = host.run(|| Datanode::start_at(&host.there, true));
    let content = bytes(BLOCK);
    for id in 0..3 {
        let mut client = Client::connect_to(near.address);
        let reply = client.start_write(&create(id, vec![far.info()]));
        assert_eq!(reply.status(), Status::Success);
        send_evenly(&mut client, &content, 0, PACKET);
        client.finish(BLOCK as u64, 2, 0);
        near.assert_holds(id, &content);
        far.assert_holds(id, &content);
    }
    let sends = || near.server.counters.zero_copy_sends.get();
    let of_writes = sends();
    assert!(of_writes > 0, "the mirror is on another host");
    for id in 0..3 {
        let (_, read) =
            host.run(|| Client::connect_to(near.address).read(id, 0, BLOCK as u64)).unwrap();
        assert!(read == content);
    }
    assert_eq!((near.held_slabs(), far.held_slabs()), (0, 0));
    assert!(sends() > of_writes, "and so is the reader");
    // A veth pair hands packets to a socket of the same kernel, which copies them: every one of the
    // six connections found out, and sent the rest plainly.
    assert_eq!(near.server.counters.zero_copy_sends_copied.get(), sends());
    // How many are under way when the kernel's first reports come is a matter of timing.
    let all = 3 * (BLOCK.div_ceil(PACKET) + BLOCK.div_ceil(READ_PACKET_BYTES as usize)) as u64;
    assert!(sends() <= all / 2, "{} of {all} sends in place", sends());
    assert_eq!(far.server.counters.zero_copy_sends.get(), 0, "it sends nothing large to others");
}
